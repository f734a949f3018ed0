package main

import (
	"errors"
	"fmt"
	"io"
)

// Exit codes of every verb. verify and mirror add their own numbers (10 and above), carried by coded errors.
const (
	exitOK          = 0
	exitLocal       = 1  // something on this machine: a file, a key, the configuration
	exitUsage       = 2  // the command line itself
	exitUnavailable = 3  // a remote or a served part does not answer
	exitWarnings    = 4  // doctor --strict: nothing fails, something is warned of
	exitPanic       = 70 // an internal error; no verdict was printed
)

// coded is an error that knows its exit code and, where there is one, the next thing to do.
type coded struct {
	code int
	hint string
	err  error
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

// usage is a mistake in the command line.
func usage(format string, args ...any) error {
	return &coded{code: exitUsage, err: fmt.Errorf(format, args...)}
}

// unavailable is a peer that does not answer.
func unavailable(err error) error { return &coded{code: exitUnavailable, err: err} }

// hinted adds the next command or file to look at, keeping the code the error already has.
func hinted(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &coded{code: exitCode(err), hint: fmt.Sprintf(format, args...), err: err}
}

// withCode gives err an exit code of a verb's own table.
func withCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &coded{code: code, err: err}
}

func exitCode(err error) int {
	var c *coded
	var own interface{ ExitCode() int }
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &c):
		return c.code
	case errors.As(err, &own):
		return own.ExitCode()
	default:
		return exitLocal
	}
}

// report prints err and its hint to stderr and returns the exit code.
func report(stderr io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "redoubt: %s\n", text)
	}
	var c *coded
	for e := err; errors.As(e, &c); e = c.err {
		if c.hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", c.hint)
			break
		}
	}
	return exitCode(err)
}
