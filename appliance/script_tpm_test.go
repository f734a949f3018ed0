package main

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// swtpms are the running TPMs by directory.
var swtpms sync.Map

// swtpm start|kill DIR runs a TPM whose storage is DIR and whose socket is DIR/s, or ends it as a power cut would.
func swtpm(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "swtpm start|kill DIR")
	dir := ts.MkAbs(args[1])
	socket := filepath.Join(dir, "s")
	switch args[0] {
	case "start":
		os.Remove(socket)
		os.Remove(socket + ".ctrl")
		command := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+dir, "--server", "type=unixio,path="+socket,
			"--ctrl", "type=unixio,path="+socket+".ctrl", "--pid", "file="+filepath.Join(dir, "pid"), "--flags", "startup-clear,not-need-init")
		command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		ts.Check(command.Start())
		go command.Wait()
		swtpms.Store(dir, command)
		ts.Defer(func() { command.Process.Kill() })
		for range 500 {
			if conn, err := net.Dial("unix", socket); err == nil {
				conn.Close()
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		ts.Fatalf("swtpm did not come up")
	case "kill":
		command, ok := swtpms.LoadAndDelete(dir)
		if !ok {
			ts.Fatalf("no swtpm runs in %s", dir)
		}
		ts.Check(command.(*exec.Cmd).Process.Kill())
	default:
		ts.Fatalf("usage: swtpm start|kill DIR")
	}
}
