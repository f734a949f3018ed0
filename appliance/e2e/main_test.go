//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// binaryVariable tells the process inside the namespace where the product's binary stands; outside it is not set.
const binaryVariable = "REDOUBT_E2E_BINARY"

func TestMain(m *testing.M) {
	if text := os.Getenv(roleVariable); text != "" {
		play(text)
	}
	if os.Getenv(binaryVariable) == "" {
		os.Exit(enterNamespace())
	}
	if err := errors.Join(raiseLoopback(), nameHosts()); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// enterNamespace builds the binary while there still is a network to fetch modules from, then runs this same test program again
// in a network and a mount namespace of its own (and a user namespace, when not root). It returns that program's exit code.
func enterNamespace() int {
	dir, err := os.MkdirTemp("", "redoubt-e2e-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary := filepath.Join(dir, "redoubt")
	for file, source := range map[string]string{binary: "redoubt.internal/appliance/redoubt", binary + "-appliance": "redoubt.internal/appliance"} {
		build := exec.Command("go", "build", "-trimpath", "-o", file, source)
		build.Stdout, build.Stderr = os.Stderr, os.Stderr
		if err := build.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "e2e: building redoubt:", err)
			return 1
		}
	}

	inner := exec.Command("/proc/self/exe", os.Args[1:]...)
	inner.Env = append(os.Environ(), binaryVariable+"="+binary)
	inner.Stdin, inner.Stdout, inner.Stderr = nil, os.Stdout, os.Stderr
	inner.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS}
	if os.Geteuid() != 0 {
		inner.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		inner.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		inner.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	err = inner.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	default:
		fmt.Fprintln(os.Stderr, "e2e: entering a network namespace (it takes root or unprivileged user namespaces):", err)
		return 1
	}
}

// raiseLoopback brings up lo, the only device of the namespace.
func raiseLoopback() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening a socket: %w", err)
	}
	defer unix.Close(socket)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("bringing up lo: %w", err)
	}
	return nil
}

// nameHosts gives the site's host names loopback addresses, by an /etc/hosts that only this mount namespace sees.
func nameHosts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keeping mounts to ourselves: %w", err)
	}
	file := filepath.Join(filepath.Dir(os.Getenv(binaryVariable)), "hosts")
	if err := os.WriteFile(file, []byte("127.0.0.1 localhost "+strings.Join(hosts, " ")+"\n"), 0o644); err != nil {
		return err
	}
	if err := unix.Mount(file, "/etc/hosts", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("naming the hosts: %w", err)
	}
	return nil
}

// TestNothingButLoopback is what makes the rest a proof: there is no way out to fall back on.
func TestNothingButLoopback(t *testing.T) {
	devices, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, device := range devices {
		if device.Flags&net.FlagLoopback == 0 && device.Flags&net.FlagUp != 0 {
			t.Errorf("device %s is up beside lo", device.Name)
		}
	}
	for _, address := range []string{"192.0.2.1:443", "[2001:db8::1]:443"} {
		conn, err := net.DialTimeout("tcp", address, 2*time.Second)
		if err == nil {
			conn.Close()
			t.Errorf("reached %s", address)
		} else if !errors.Is(err, syscall.ENETUNREACH) && !errors.Is(err, syscall.EADDRNOTAVAIL) {
			t.Errorf("dialling %s: %v, want network unreachable", address, err)
		}
	}
	if _, err := net.LookupHost("rekor.sigstore.dev"); err == nil {
		t.Error("a public host name resolved")
	}
}
