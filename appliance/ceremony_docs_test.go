package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/urfave/cli/v2"
)

// TestCeremonyScript holds the script operators print to the verbs there are: every verb and every flag it names exists.
func TestCeremonyScript(t *testing.T) {
	text, err := os.ReadFile("../docs/ceremony.md")
	if err != nil {
		t.Fatal(err)
	}
	verbs, flags := map[string]bool{}, map[string]bool{"init": true}
	var walk func(c *cli.Command, path string)
	walk = func(c *cli.Command, path string) {
		verbs[path] = true
		for _, f := range c.Flags {
			for _, name := range f.Names() {
				flags["--"+name] = true
			}
		}
		for _, sub := range c.Subcommands {
			walk(sub, path+" "+sub.Name)
		}
	}
	walk(ceremonyCommand(), "ceremony")
	walk(initCommand(), "init")
	named := regexp.MustCompile(`redoubt (ceremony [a-z]+(?: (?:new|show)\b)?)`).FindAllStringSubmatch(string(text), -1)
	if len(named) < 15 {
		t.Errorf("only %d verbs found", len(named))
	}
	for _, m := range named {
		if !verbs[m[1]] {
			t.Errorf("the script names `redoubt %s`, which is no verb", m[1])
		}
	}
	for _, flag := range regexp.MustCompile(`--[a-z][a-z-]*`).FindAllString(string(text), -1) {
		if !flags[strings.TrimSuffix(flag, "-")] {
			t.Errorf("the script names %s, which no verb of it has", flag)
		}
	}
	for verb := range verbs {
		if name, ok := strings.CutPrefix(verb, "ceremony "); ok && !slices.Contains([]string{"operator"}, name) && !strings.Contains(string(text), name) {
			t.Errorf("the script does not name `redoubt %s`", verb)
		}
	}
}
