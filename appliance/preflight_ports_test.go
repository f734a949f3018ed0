package main

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPortsOfARunningServer: ports that are taken are a finding, unless a role of this directory's server is what has them: an upgrade
// begins while it runs.
func TestPortsOfARunningServer(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer taken.Close()
	dir, err := os.MkdirTemp("/tmp", "ports") // a socket's path is short
	must(t, err)
	defer os.RemoveAll(dir)
	a := preflightArgs{Dir: dir, Address: "127.0.0.1", FirstPort: taken.Addr().(*net.TCPAddr).Port}
	if c := portChecks(t.Context(), a); c[0].OK || !strings.Contains(c[0].Reason, "in use") {
		t.Errorf("a port that is taken: %+v", c)
	}
	must(t, os.MkdirAll(layout{dir}.run(partFront), 0o755))
	role, err := net.Listen("unix", filepath.Join(layout{dir}.run(partFront), socketName))
	must(t, err)
	defer role.Close()
	if c := portChecks(t.Context(), a); !c[0].OK {
		t.Errorf("while front runs: %+v", c)
	}
}
