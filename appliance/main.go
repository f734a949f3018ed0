// Package main is redoubt-appliance, what the small program in redoubt/ hands everything over to but verify: one command table, one configuration,
// one process that serves everything.
//
// It guarantees that every verb ends with an exit code of the documented table (package cmdline), that results go to stdout and
// everything else to stderr, and that a panic ends with 70 and no verdict. It does not hold the meaning of any verb: a file
// verb_X.go turns flags into a call of the room that owns the matter. Verbs that need state go through call.go: the same
// function runs inside the serving process, reached over DIR/run/redoubt.sock, or here under the directory's lock.
//
// Start at commands() for the verbs, at config.go for the configuration, at open.go for how the rooms are wired together.
package main

import (
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
)

func main() {
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

// run is main without the exit.
func run(args []string, stdout, stderr io.Writer) int {
	return cmdline.Run(newApp(stdout, stderr), args)
}

func newApp(stdout, stderr io.Writer) *cli.App {
	return cmdline.New(versionString(), commands(), stdout, stderr)
}
