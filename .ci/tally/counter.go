package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
)

// An event is one line of "go test -json" (go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// A counter turns the events of one go test run into records.
type counter struct {
	stage   string
	w       io.Writer
	results map[[2]string]string   // {package, test} -> run, pass, fail, skip
	output  map[[2]string][]string // what a test printed; test "" is the package's own output
	records []record
}

func newCounter(stage string, w io.Writer) *counter {
	return &counter{stage: stage, w: w, results: map[[2]string]string{}, output: map[[2]string][]string{}}
}

func (c *counter) readAll(r io.Reader) {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprintf(c.w, "%s", line) // not an event: a message of the go command itself
			} else {
				c.add(e)
			}
		}
		if err != nil {
			return
		}
	}
}

func (c *counter) add(e event) {
	switch e.Action {
	case "build-output":
		fmt.Fprint(c.w, e.Output)
		return
	case "build-fail", "start", "pause", "cont", "bench":
		return
	}
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "run":
		c.results[key] = "run"
	case "output":
		c.output[key] = append(c.output[key], e.Output)
	case "pass", "fail", "skip":
		if e.Test == "" {
			c.endPackage(e)
			return
		}
		c.results[key] = e.Action
		if e.Action == "fail" {
			fmt.Fprintf(c.w, "--- FAIL: %s %s (%.1fs)\n%s", e.Package, e.Test, e.Elapsed, strings.Join(c.output[key], ""))
		}
	}
}

// endPackage counts the leaves of one package's tests. A test that began and never ended was cut off by a panic or a timeout.
func (c *counter) endPackage(e event) {
	parents := map[string]bool{}
	var names []string
	for key := range c.results {
		if key[0] == e.Package {
			names = append(names, key[1])
			for i, r := range key[1] {
				if r == '/' {
					parents[key[1][:i]] = true
				}
			}
		}
	}
	sort.Strings(names)
	failed := 0
	for _, name := range names {
		key := [2]string{e.Package, name}
		result := c.results[key]
		if strings.HasPrefix(name, "Fuzz") && strings.Contains(name, "/") && result != "fail" {
			continue
		}
		if parents[name] && !strings.HasPrefix(name, "Fuzz") && (result != "fail" || c.hasFailedChild(e.Package, name)) {
			continue
		}
		r := record{Stage: c.stage, Name: e.Package + " " + name, Outcome: result}
		switch result {
		case "run":
			r.Outcome, r.Reason = "fail", "did not finish"
			fmt.Fprintf(c.w, "--- UNFINISHED: %s %s\n%s", e.Package, name, strings.Join(c.output[key], ""))
		case "skip":
			r.Reason = skipReason(c.output[key])
		}
		if r.Outcome == "fail" {
			failed++
		}
		c.records = append(c.records, r)
	}
	if e.Action == "fail" {
		fmt.Fprintf(c.w, "%s", strings.Join(c.output[[2]string{e.Package, ""}], ""))
		if failed == 0 {
			reason := "the package failed outside its tests"
			if e.FailedBuild != "" {
				reason = "did not build"
			}
			c.records = append(c.records, record{Stage: c.stage, Name: e.Package, Outcome: "fail", Reason: reason})
		}
	}
	if len(names) > 0 || e.Action == "fail" {
		fmt.Fprintf(c.w, "%-4s %s %.1fs (%d tests)\n", e.Action, e.Package, e.Elapsed, len(names))
	}
	for _, name := range names {
		delete(c.results, [2]string{e.Package, name})
		delete(c.output, [2]string{e.Package, name})
	}
}

func (c *counter) hasFailedChild(pkg, name string) bool {
	for key, result := range c.results {
		if key[0] == pkg && strings.HasPrefix(key[1], name+"/") && (result == "fail" || result == "run") {
			return true
		}
	}
	return false
}

// finish counts what no package event closed: the go command was killed.
func (c *counter) finish() []record {
	packages := map[string]bool{}
	for key := range c.results {
		packages[key[0]] = true
	}
	for pkg := range packages {
		c.endPackage(event{Action: "fail", Package: pkg})
	}
	return c.records
}

var fileLine = regexp.MustCompile(`^\s*\S+\.go:\d+: `)

// skipReason takes the last message a skipped test printed.
func skipReason(output []string) string {
	reason := "no reason given"
	for _, line := range output {
		if loc := fileLine.FindStringIndex(line); loc != nil {
			reason = strings.TrimSpace(line[loc[1]:])
		}
	}
	return reason
}
