package main

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

// everyCommand calls fn with each command of the table that does something, and its full name.
func everyCommand(table []*cli.Command, prefix string, fn func(name string, c *cli.Command)) {
	for _, c := range table {
		name := strings.TrimSpace(prefix + " " + c.Name)
		if len(c.Subcommands) > 0 {
			everyCommand(c.Subcommands, name, fn)
			continue
		}
		fn(name, c)
	}
}

// TestEveryFlagHasItsVariable: whatever can be said by a flag can be said by REDOUBT_ and its name.
func TestEveryFlagHasItsVariable(t *testing.T) {
	check := func(where string, flags []cli.Flag) {
		for _, f := range flags {
			name := f.Names()[0]
			want := "REDOUBT_" + strings.ToUpper(strings.ReplaceAll(name, "-", "_"))
			if env, ok := f.(interface{ GetEnvVars() []string }); !ok || !slices.ContainsFunc(env.GetEnvVars(), func(v string) bool {
				return v == want || strings.HasPrefix(v, "REDOUBT_") && strings.HasSuffix(v, want[len("REDOUBT"):])
			}) {
				t.Errorf("%s --%s has no %s", where, name, want)
			}
		}
	}
	check("redoubt", cmdline.GlobalFlags())
	everyCommand(commands(), "", func(name string, c *cli.Command) { check(name, c.Flags) })
}

// TestEveryCommandExplainsItself: a usage line for each, and an Action.
func TestEveryCommandExplainsItself(t *testing.T) {
	n := 0
	everyCommand(commands(), "", func(name string, c *cli.Command) {
		n++
		if c.Usage == "" || c.Action == nil {
			t.Errorf("%s: usage %q", name, c.Usage)
		}
		for _, f := range c.Flags {
			if d, ok := f.(cli.DocGenerationFlag); !ok || d.GetUsage() == "" {
				t.Errorf("%s --%s says nothing", name, f.Names()[0])
			}
		}
	})
	if n < 40 {
		t.Errorf("only %d commands", n)
	}
}

// TestPanicEndsWith70: no verdict, its own code, the stack on stderr.
func TestPanicEndsWith70(t *testing.T) {
	var stdout, stderr bytes.Buffer
	app := newApp(&stdout, &stderr)
	app.Commands = []*cli.Command{{Name: "verify", Action: func(*cli.Context) error { panic("at the wrong moment") }}}
	if code := cmdline.Execute(context.Background(), app, []string{"redoubt", "verify"}); code != cmdline.ExitPanic {
		t.Errorf("exit code %d", code)
	}
	if stdout.Len() > 0 || !strings.Contains(stderr.String(), "at the wrong moment") {
		t.Errorf("stdout %q, stderr %q", stdout.String(), stderr.String())
	}
}

func TestPermute(t *testing.T) {
	app := newApp(io.Discard, io.Discard)
	for _, c := range [][2]string{
		{"redoubt verify FILE --bundle B", "redoubt verify --bundle B -- FILE"},
		{"redoubt --dir D log get 7 -o json", "redoubt --dir D log get -o json -- 7"},
		{"redoubt log proof --from 3", "redoubt log proof --from 3"},
		{"redoubt verify --prove-offline FILE --bundle=B", "redoubt verify --prove-offline --bundle=B -- FILE"},
		{"redoubt verify -- --bundle", "redoubt verify -- --bundle"},
		{"redoubt sign - --nosuch", "redoubt sign --nosuch -- -"},
		{"redoubt log info --quiet --dir D --log-level debug", "redoubt --quiet --log-level debug log info --dir D"},
		{"redoubt version -q x", "redoubt -q version -- x"},
		{"redoubt verify --nosuch FILE", "redoubt verify --nosuch -- FILE"},
		{"redoubt nosuch --dir D", "redoubt --dir D -- nosuch"},
		{"redoubt", "redoubt"},
	} {
		if got := strings.Join(cmdline.Permute(app.Flags, app.Commands, strings.Fields(c[0])), " "); got != c[1] {
			t.Errorf("%s\n got %s\nwant %s", c[0], got, c[1])
		}
	}
}

// FuzzPermute: whatever the command line, no argument is lost and none is made up but one "--".
func FuzzPermute(f *testing.F) {
	f.Add("verify FILE --bundle B --prove-offline -- x -y")
	f.Add("--dir log get -o")
	app := newApp(io.Discard, io.Discard)
	f.Fuzz(func(t *testing.T, line string) {
		args := append([]string{"redoubt"}, strings.Fields(line)...)
		got := cmdline.Permute(app.Flags, app.Commands, slices.Clone(args))
		without := func(s []string) []string {
			s = slices.DeleteFunc(slices.Clone(s), func(a string) bool { return a == "--" })
			slices.Sort(s)
			return s
		}
		if !slices.Equal(without(args), without(got)) {
			t.Errorf("%q became %q", args, got)
		}
	})
}

// FuzzConfig: no file makes the decoder crash, and what is accepted is accepted again after it was written.
func FuzzConfig(f *testing.F) {
	f.Add([]byte("domain: corp.internal\nprofile: dev\nkeys: {token: 'soft:', roles: {root: 'soft:root'}}\nlog: {artifact: [{name: rekor, tree-id: 7, serves: [v1, v2]}]}\n"))
	f.Add([]byte("define: [&a {x: *a}]\n"))
	f.Add([]byte("<<: {domain: x}\ndomain: y\n"))
	f.Add([]byte("oidc-issuers: {https://x: {jwks: {keys: []}}}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		cfg, err := parseConfig(data)
		if err != nil {
			return
		}
		text, err := yamlText(cfg)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := parseConfig(text); err != nil {
			t.Errorf("written as\n%s\nand refused: %v", text, err)
		}
	})
}

// TestUnitsCallWhatExists: what the systemd units start are verbs and flags of this table.
func TestUnitsCallWhatExists(t *testing.T) {
	units, err := filepath.Glob("../installer/files/systemd/*.service")
	if err != nil || len(units) < 2 {
		t.Fatalf("%v %v", units, err)
	}
	for _, unit := range units {
		text, err := os.ReadFile(unit)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for line := range strings.Lines(string(text)) {
			command, ok := strings.CutPrefix(strings.TrimSpace(line), "ExecStart=/usr/bin/")
			if !ok {
				continue
			}
			found = true
			app := newApp(io.Discard, io.Discard)
			everyCommand(app.Commands, "", func(_ string, c *cli.Command) { c.Action = func(*cli.Context) error { return nil } })
			if code := cmdline.Execute(t.Context(), app, strings.Fields(command)); code != cmdline.ExitOK {
				t.Errorf("%s: %s: exit code %d", unit, command, code)
			}
		}
		if !found {
			t.Errorf("%s starts nothing of ours", unit)
		}
	}
}
