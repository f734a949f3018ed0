package cmdline

import (
	"errors"
	"fmt"
	"io"
)

// Exit codes of every verb. verify and mirror add their own numbers (10 and above), carried by coded errors.
const (
	ExitOK          = 0
	ExitLocal       = 1  // something on this machine: a file, a key, the configuration
	ExitUsage       = 2  // the command line itself
	ExitUnavailable = 3  // a remote or a served part does not answer
	ExitWarnings    = 4  // doctor --strict: nothing fails, something is warned of
	ExitPanic       = 70 // an internal error; no verdict was printed
)

// Error is an error that knows its exit code and, where there is one, the next thing to do.
type Error struct {
	Code int
	Hint string
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Usage is a mistake in the command line.
func Usage(format string, args ...any) error {
	return &Error{Code: ExitUsage, Err: fmt.Errorf(format, args...)}
}

// Unavailable is a peer that does not answer.
func Unavailable(err error) error { return &Error{Code: ExitUnavailable, Err: err} }

// Hinted adds the next command or file to look at, keeping the code the error already has.
func Hinted(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &Error{Code: ExitCode(err), Hint: fmt.Sprintf(format, args...), Err: err}
}

// WithCode gives err an exit code of a verb's own table.
func WithCode(code int, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Code: code, Err: err}
}

// ExitCode is the exit code of a verb that ended with err.
func ExitCode(err error) int {
	var c *Error
	var own interface{ ExitCode() int }
	switch {
	case err == nil:
		return ExitOK
	case errors.As(err, &c):
		return c.Code
	case errors.As(err, &own):
		return own.ExitCode()
	default:
		return ExitLocal
	}
}

// Report prints err and its hint to stderr and returns the exit code.
func Report(stderr io.Writer, err error) int {
	if err == nil {
		return ExitOK
	}
	if text := err.Error(); text != "" {
		fmt.Fprintf(stderr, "redoubt: %s\n", text)
	}
	var c *Error
	for e := err; errors.As(e, &c); e = c.Err {
		if c.Hint != "" {
			fmt.Fprintf(stderr, "hint: %s\n", c.Hint)
			break
		}
	}
	return ExitCode(err)
}
