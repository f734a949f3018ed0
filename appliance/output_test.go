package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

// TestUnknownOutputIsRefusedFirst: no verb does anything for a format it cannot print.
func TestUnknownOutputIsRefusedFirst(t *testing.T) {
	n := 0
	everyCommand(commands(), "", func(name string, c *cli.Command) {
		prints := false
		for _, f := range c.Flags {
			prints = prints || f.Names()[0] == "output"
		}
		if !prints {
			return
		}
		n++
		var stdout, stderr bytes.Buffer
		args := append([]string{"redoubt"}, strings.Fields(name)...)
		code := cmdline.Execute(t.Context(), newApp(&stdout, &stderr), append(args, "-o", "yaml"))
		if code != cmdline.ExitUsage || stdout.Len() > 0 || !strings.Contains(stderr.String(), `-o "yaml": want text or json`) {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q", name, code, stdout.String(), stderr.String())
		}
	})
	if n < 25 {
		t.Errorf("only %d verbs print a result", n)
	}
}
