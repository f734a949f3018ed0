package worker

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// ChildConn makes this process fit to be a worker and returns its end of the
// pipe: descriptors that came along uninvited are closed, and the signals that
// end a service are ignored, because a service that ends still wants to sign; the
// end of the pipe ends the worker.
func ChildConn() (net.Conn, error) {
	kind, err := unix.GetsockoptInt(descriptor, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil || kind != unix.SOCK_STREAM {
		return nil, errors.New("this command is started by redoubt itself, with a pipe as descriptor 3")
	}
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	if err := closeInherited(); err != nil {
		return nil, err
	}
	// The PIN is in this memory: no core dump, no debugger of the same user. A service manager may have taken setrlimit away.
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("forbidding core dumps: %w", err)
	}
	f := os.NewFile(descriptor, "worker")
	defer f.Close()
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("opening the worker's pipe: %w", err)
	}
	return conn, nil
}

// closeInherited closes every descriptor above the pipe that survived the exec.
// What this process opened itself does not survive one, and is left alone.
func closeInherited() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("listing descriptors: %w", err)
	}
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= descriptor {
			continue
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && flags&unix.FD_CLOEXEC == 0 {
			_ = unix.Close(fd)
		}
	}
	return nil
}
