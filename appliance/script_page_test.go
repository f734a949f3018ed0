package main

import (
	"os"
	"regexp"

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
