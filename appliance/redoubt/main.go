// Package main is redoubt as it is called: it verifies, and hands every other verb to the appliance beside it.
//
// It guarantees that a verdict is the one that redoubt-appliance gives: the verb is the same package. It links nothing that only the appliance
// needs, so that it starts in a third of the time (docs/adr/0080-a-verifier-that-starts-fast.md), and no C library: the one file verifies on any
// machine. Verifications that need an instance, to sign a receipt or to read what its mirror knows, are handed over like other verbs.
package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
)

// version is set by the build of a release (-ldflags -X main.version=...).
var version = "dev"

// appliance is the program for everything else. It stands in the folder of this one.
const appliance = "redoubt-appliance"

func main() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(400) // a verification allocates some 5 MB and ends: it need not be collected at 4
	}
	os.Exit(run(os.Args, os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	if cmdline.VerbOf(args) != verifying.Verb {
		return cmdline.Report(stderr, handOver(args))
	}
	command := verifying.Command(verifying.Appliance{})
	alone := command.Action
	command.Action = func(c *cli.Context) error {
		if needsInstance(c) {
			return handOver(args)
		}
		return alone(c)
	}
	return cmdline.Run(cmdline.New(version, cmdline.Uniform([]*cli.Command{command}), stdout, stderr), args)
}

// needsInstance tells whether a verification takes more than files: a receipt, or the mirror of an instance on this machine.
func needsInstance(c *cli.Context) bool {
	if c.String("receipt") != "" {
		return true
	}
	_, err := os.Stat(cmdline.ConfigPath(c))
	return err == nil && c.String("mirror-state") == ""
}

// handOver has the appliance run the command line in the place of this process. It returns only where that failed.
func handOver(args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("looking for %s: %w", appliance, err)
	}
	path := filepath.Join(filepath.Dir(self), appliance)
	err = syscall.Exec(path, args, os.Environ())
	if errors.Is(err, fs.ErrNotExist) {
		return cmdline.Hinted(fmt.Errorf("this is the verifier alone: %s, which does everything but verify, is not there", path),
			"`redoubt verify` works without it; a bundle's install.sh and the packages install both")
	}
	return fmt.Errorf("running %s: %w", path, err)
}
