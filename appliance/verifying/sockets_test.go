package verifying

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestDenySockets opens sockets of every kind in a child before and after they are refused, from many threads and from a program it starts.
func TestDenySockets(t *testing.T) {
	switch os.Getenv("SOCKETLESS") {
	case "program":
		if err := opened(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)); err != nil {
			t.Fatal(err)
		}
		return
	case "":
		child := exec.Command(os.Args[0], "-test.run=^TestDenySockets$", "-test.v")
		child.Env = append(os.Environ(), "SOCKETLESS=1")
		out, err := child.CombinedOutput()
		if err != nil || !strings.Contains(string(out), "all refused") {
			t.Fatalf("%v\n%s", err, out)
		}
		return
	}
	attempts := map[string]func() error{
		"inet":    func() error { return opened(unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)) },
		"unix":    func() error { return opened(unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)) },
		"netlink": func() error { return opened(unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, 0)) },
		"pair": func() error {
			pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				unix.Close(pair[0])
				unix.Close(pair[1])
			}
			return err
		},
		"listen": func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				l.Close()
			}
			return err
		},
		"another program": func() error {
			program := exec.Command(os.Args[0], "-test.run=^TestDenySockets$")
			program.Env = append(os.Environ(), "SOCKETLESS=program")
			return program.Run()
		},
	}
	for name, try := range attempts {
		if err := try(); err != nil {
			t.Fatalf("%s, before: %v", name, err)
		}
	}
	threads := make(chan error, 64)
	start := make(chan struct{})
	for range cap(threads) {
		go func() { <-start; threads <- attempts["inet"]() }()
	}
	if err := denySockets(); err != nil {
		t.Fatal(err)
	}
	close(start)
	for range cap(threads) {
		if err := <-threads; !errors.Is(err, unix.EACCES) {
			t.Errorf("in another thread: %v", err)
		}
	}
	for name, try := range attempts {
		if err := try(); err == nil {
			t.Errorf("%s: a socket was opened", name)
		}
	}
	t.Log("all refused")
}

func opened(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}
