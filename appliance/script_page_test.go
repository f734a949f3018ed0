package main

import (
	"os"
	"regexp"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"
)

var shellBlock = regexp.MustCompile("(?ms)^```sh\n(.*?)^```$")

// page FILE runs the shell blocks of a page of docs/ in their order, as one shell would. A server they start is $server, and ends with it.
func page(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "page FILE")
	text, err := os.ReadFile("../docs/" + args[0])
	ts.Check(err)
	script := "set -eux\ntrap 'status=$?; [ -z \"${server:-}\" ] || kill $server || :; exit $status' EXIT\n"
	blocks := shellBlock.FindAllStringSubmatch(string(text), -1)
	if len(blocks) == 0 {
		ts.Fatalf("docs/%s holds no shell block", args[0])
	}
	for _, b := range blocks {
		script += b[1]
	}
	ts.Check(ts.Exec("sh", "-c", script))
}

// follow STEP types the shell blocks of a step of docs/runbook.md as they are printed, and stops at the first command that fails. Where
// the page lets systemd start the service, the server of $DIR is started instead.
func follow(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, false, args, 1, "follow STEP")
	text, err := os.ReadFile("../docs/runbook.md")
	ts.Check(err)
	_, step, found := strings.Cut(string(text), "\n## "+args[0]+". ")
	if !found {
		ts.Fatalf("the runbook has no step %s", args[0])
	}
	step, _, _ = strings.Cut(step, "\n## ")
	script := "set -eu\n"
	for _, b := range shellBlock.FindAllStringSubmatch(step, -1) {
		for line := range strings.Lines(b[1]) {
			if strings.HasPrefix(line, "systemctl start ") {
				start(ts, false, []string{ts.Getenv("DIR")})
				continue
			}
			script += line
		}
	}
	if err := ts.Exec("sh", "-c", script); neg != (err != nil) {
		ts.Fatalf("step %s of the runbook: %v", args[0], err)
	}
}
