package verifying

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verify"
)

// offlineMark tells the second process that it was started in the empty namespace.
const offlineMark = "REDOUBT_IN_EMPTY_NETWORK"

var errNotOffline = errors.New("the network namespace is not empty")

// reexecOffline runs this very command line in a new network namespace, where the only interface is a loopback that is down:
// whatever verifies there needed no network. Without root it takes a user namespace along.
func reexecOffline(c *cli.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.CommandContext(c.Context, self, os.Args[1:]...)
	child.Args[0] = os.Args[0]
	child.Env = append(os.Environ(), offlineMark+"=1")
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, c.App.Writer, c.App.ErrWriter
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		child.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		child.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: uid, HostID: uid, Size: 1}}
		child.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: gid, HostID: gid, Size: 1}}
	}
	err = child.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return cmdline.WithCode(exit.ExitCode(), silentError{})
	default:
		return cmdline.Hinted(fmt.Errorf("starting in an empty network namespace: %w", err), "the kernel must allow it: run as root, or allow user namespaces")
	}
}

// silentError ends a process whose child has said everything.
type silentError struct{}

func (silentError) Error() string { return "" }

// checkOffline refuses a namespace with an interface that is up.
func checkOffline() error {
	interfaces, err := net.Interfaces()
	if err != nil {
		return fmt.Errorf("looking at the network: %w", err)
	}
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			return fmt.Errorf("%w: %s is up", errNotOffline, i.Name)
		}
	}
	return nil
}

// goOffline makes sure that no socket can be opened from here on, and keeps how that was proven for the verdict.
func goOffline(c *cli.Context) error {
	if err := checkOffline(); err != nil {
		return err
	}
	if err := denySockets(); err != nil {
		return err
	}
	for _, family := range []int{unix.AF_INET, unix.AF_INET6, unix.AF_UNIX} {
		if fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); !errors.Is(err, unix.EACCES) {
			if err == nil {
				unix.Close(fd)
			}
			return fmt.Errorf("%w: the kernel does not refuse a socket of family %d: %w", errNotOffline, family, err)
		}
	}
	if c.App.Metadata == nil {
		c.App.Metadata = map[string]any{}
	}
	c.App.Metadata[offlineMark] = &verify.Offline{Sockets: 0, ProvenBy: []string{"network namespace", "seccomp"}}
	return nil
}

// provenOffline is how this verification was proven to open no socket, nil where that was not asked for.
func provenOffline(c *cli.Context) *verify.Offline {
	proof, _ := c.App.Metadata[offlineMark].(*verify.Offline)
	return proof
}
