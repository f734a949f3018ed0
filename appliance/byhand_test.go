package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// byHand OUTPUT runs the commands the demo printed at its end, as somebody does who pastes them into a shell, and demands that
// each succeeds. What is started in the background is ended with the shell.
func byHand(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "byhand OUTPUT")
	_, text, ok := strings.Cut(ts.ReadFile(args[0]), "Go on by hand:\n")
	if !ok {
		ts.Fatalf("the demo printed no commands")
	}
	script := "set -eu\ntrap 'kill %1; wait' EXIT\n"
	commands := 0
	for line := range strings.Lines(text) {
		if line = strings.ReplaceAll(strings.TrimSpace(line), "        ", "; "); strings.HasPrefix(line, "cosign") {
			break
		}
		if strings.HasPrefix(line, "redoubt") {
			commands++
		}
		script += line + "\n"
	}
	if commands < 5 {
		ts.Fatalf("only %d commands:\n%s", commands, script)
	}
	work := ts.Getenv("WORK")
	ts.Check(os.WriteFile(filepath.Join(work, "FILE"), []byte("mine\n"), 0o644))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	shell := exec.CommandContext(ctx, "bash", "-c", script)
	shell.Dir = work
	out, err := shell.CombinedOutput()
	ts.Logf("%s%s", script, out)
	ts.Check(err)
	if !strings.Contains(string(out), "verified: FILE") {
		ts.Fatalf("nothing was verified")
	}
}
