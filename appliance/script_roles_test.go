package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"redoubt.internal/installer/backup"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

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

const (
	rolesGroup = 61000
	firstUser  = 61001
)

// apartState are the processes of the roles of a state directory.
var apartState sync.Map

// roles users VARIABLE sets what `redoubt roles apart` takes for the users of the script; roles start DIR [ROLE...] runs each role of a state
// directory, or these, as its user and waits until it is ready; roles crash DIR ROLE... kills some, roles halt DIR ends all, each drained.
func rolesOfState(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "roles users VARIABLE | roles start|crash|halt DIR [ROLE...]")
	if args[0] == "users" {
		flags := fmt.Sprintf("--role-group %d", rolesGroup)
		for i, part := range partNames {
			flags += fmt.Sprintf(" --role-user %s=%d", part, firstUser+i)
		}
		ts.Setenv(args[1], flags)
		return
	}
	kept, _ := apartState.LoadOrStore(ts.MkAbs(args[1]), map[string]*exec.Cmd{})
	running, names := kept.(map[string]*exec.Cmd), args[2:]
	switch args[0] {
	case "start":
		if len(names) == 0 {
			names = slices.DeleteFunc(slices.Clone(partNames), func(part string) bool { return part == partAdmission })
		}
		for _, part := range names {
			running[part] = startRole(ts, args[1], part)
		}
	case "crash":
		for _, part := range names {
			running[part].Process.Kill()
			running[part].Wait()
			delete(running, part)
		}
	case "halt":
		for part, command := range running {
			ts.Check(command.Process.Signal(syscall.SIGTERM))
			if err := command.Wait(); err != nil {
				ts.Fatalf("%s did not drain: %v\n%s", part, err, ts.ReadFile(args[1]+"."+part+".log"))
			}
			delete(running, part)
		}
	}
}

func startRole(ts *testscript.TestScript, dir, part string) *exec.Cmd {
	uid := firstUser + slices.Index(partNames, part)
	work := ts.Getenv("WORK")
	for _, path := range []string{work, filepath.Dir(work)} { // the users pass through
		ts.Check(os.Chmod(path, 0o755))
	}
	ready := filepath.Join(ts.MkAbs(dir+".ready-"+part), "ready.json")
	ts.Check(os.RemoveAll(filepath.Dir(ready)))
	ts.Check(os.Mkdir(filepath.Dir(ready), 0o700))
	ts.Check(os.Chown(filepath.Dir(ready), uid, rolesGroup))
	path, err := exec.LookPath("redoubt")
	ts.Check(err)
	binary, err := os.Open(path)
	ts.Check(err)
	defer binary.Close()
	log, err := os.OpenFile(ts.MkAbs(dir+"."+part+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	ts.Check(err)
	defer log.Close()
	command := &exec.Cmd{Path: "/proc/self/fd/3", Args: []string{"redoubt", "serve", "--dir", ts.MkAbs(dir), "--roles", part, "--ready-file", ready}, Dir: "/",
		ExtraFiles: []*os.File{binary}, Stdout: log, Stderr: log, Env: []string{"PATH=/usr/bin", "GODEBUG=" + ts.Getenv("GODEBUG")},
		SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: rolesGroup}}}
	ts.Check(command.Start())
	ts.Defer(func() { command.Process.Kill(); command.Wait() })
	for range 2400 {
		if _, err := os.Stat(ready); err == nil {
			return command
		}
		if err := syscall.Kill(command.Process.Pid, 0); err != nil || ended(command.Process.Pid) {
			break
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("%s did not become ready:\n%s", part, ts.ReadFile(dir+"."+part+".log"))
	return nil
}

// ended reports whether a process is one that only waits to be waited for.
func ended(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err != nil || strings.Contains(string(stat), ") Z ")
}

// stands FILE demands of the report in FILE (`backup create|restore -o json`) that no artifact log has an entry whose certificate the
// certificate log lacks: each client of load signs with a certificate of its own.
func stands(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "stands FILE")
	var report backup.Report
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &report))
	var certificates, signatures uint64
	for _, l := range report.Logs {
		switch keyPart(l.Name) {
		case partLog:
			signatures += l.Entries
		case partCA:
			if l.Name == roleCT {
				certificates = l.Entries
			}
		}
	}
	ts.Logf("%d entries, %d certificates", signatures, certificates)
	if signatures == 0 || certificates < signatures {
		ts.Fatalf("%d entries stand on %d certificates", signatures, certificates)
	}
}
