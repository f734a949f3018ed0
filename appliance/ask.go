package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"redoubt.internal/appliance/cmdline"
)

// asker puts questions to a person at a terminal, on stderr; stdout is for results. Every question is a flag too.
type asker struct {
	in  *bufio.Reader
	out io.Writer
}

// newAsker is nil where nobody is there to be asked.
func newAsker(c *cli.Context) *asker {
	if c.Bool("non-interactive") || c.Bool("quiet") {
		return nil
	}
	in, ok := c.App.Reader.(*os.File)
	if !ok || !cmdline.IsTerminal(c.App.ErrWriter) {
		return nil
	}
	if _, err := unix.IoctlGetTermios(int(in.Fd()), unix.TCGETS); err != nil {
		return nil
	}
	return &asker{bufio.NewReader(io.LimitReader(in, 1<<16)), c.App.ErrWriter}
}

// ask asks until check is content; an empty answer is def. Whoever closes the terminal has given none.
func (a *asker) ask(question, def string, check func(string) error) (string, error) {
	for range 20 {
		fmt.Fprintf(a.out, "%s", question)
		if def != "" {
			fmt.Fprintf(a.out, " [%s]", def)
		}
		fmt.Fprint(a.out, ": ")
		line, err := a.in.ReadString('\n')
		if err != nil {
			return "", fmt.Errorf("waiting for an answer: %w", err)
		}
		answer := orDefault(strings.TrimSpace(line), def)
		if err := check(answer); err != nil {
			fmt.Fprintf(a.out, "  %v\n", err)
			continue
		}
		return answer, nil
	}
	return "", cmdline.Usage("no answer to: %s", question)
}

// yes asks for a yes; everything else is a no.
func (a *asker) yes(question string) bool {
	answer, err := a.ask(question+" (yes or no)", "no", func(string) error { return nil })
	return err == nil && (answer == "yes" || answer == "y")
}

// confirmed asks where somebody can be asked.
func confirmed(c *cli.Context, question string) bool {
	a := newAsker(c)
	return a != nil && a.yes(question)
}
