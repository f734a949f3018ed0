package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/rogpeppe/go-internal/testscript"
)

// people DIR NAME=ROLE,ROLE=UID... sets who may do what, and a socket for all users of the machine, $PEOPLE.
func people(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "people DIR NAME=ROLE,ROLE=UID...")
	folder := ts.Getenv("PEOPLE")
	if folder == "" {
		made, err := os.MkdirTemp("/tmp", "redoubt-people-")
		ts.Check(err)
		ts.Defer(func() { os.RemoveAll(made) })
		ts.Check(os.Chmod(made, 0o755))
		ts.Setenv("PEOPLE", filepath.Join(made, "people.sock"))
	}
	p := &People{Socket: ts.Getenv("PEOPLE")}
	for _, arg := range args[1:] {
		part := strings.Split(arg, "=")
		m := Person{Name: part[0], Unix: []string{part[2]}}
		for r := range strings.SplitSeq(part[1], ",") {
			m.Roles = append(m.Roles, duty(r))
		}
		p.Members = append(p.Members, m)
	}
	reconfigure(ts, args[0], func(c *Config) { c.People = p })
}

// as UID CODE redoubt ARGS... runs redoubt as another user of this machine, who asks at $PEOPLE, and demands this exit code. Without root
// there is no other user to be: the script ends there, and says so.
func as(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "as UID CODE redoubt ARGS...")
	if os.Getuid() != 0 {
		ts.Logf("SKIPPED FROM HERE: only root can be several users")
		return
	}
	uid, err := strconv.Atoi(args[0])
	ts.Check(err)
	path, err := exec.LookPath("redoubt")
	ts.Check(err)
	binary, err := os.Open(path) // the folders above it are not for that user
	ts.Check(err)
	defer binary.Close()
	command := &exec.Cmd{Path: "/proc/self/fd/3", Args: args[2:], Dir: "/", ExtraFiles: []*os.File{binary}, Stdout: ts.Stdout(), Stderr: ts.Stderr(),
		Env:         []string{"REDOUBT_SOCKET=" + ts.Getenv("PEOPLE"), "PATH=/usr/bin", "GODEBUG=" + ts.Getenv("GODEBUG")},
		SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(uid)}}}
	err, code := command.Run(), 0
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if strconv.Itoa(code) != args[1] {
		ts.Fatalf("exit code %d, want %s", code, args[1])
	}
}

// says DIR TEXT demands that the log of the server of DIR says TEXT.
func says(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "says DIR TEXT")
	text, err := os.ReadFile(ts.MkAbs(args[0]) + ".log")
	ts.Check(err)
	if !strings.Contains(string(text), args[1]) {
		ts.Fatalf("the server's log does not say %q:\n%s", args[1], text)
	}
}
