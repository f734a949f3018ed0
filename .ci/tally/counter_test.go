package main

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// count feeds lines of "go test -json" to a counter and returns its records and what it printed.
func count(t *testing.T, lines ...string) ([]string, string) {
	t.Helper()
	var printed bytes.Buffer
	c := newCounter("test", &printed)
	c.readAll(strings.NewReader(strings.Join(lines, "\n") + "\n"))
	var got []string
	for _, r := range c.finish() {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s %s", r.Outcome, r.Name, r.Reason)))
	}
	return got, printed.String()
}

func TestCounter(t *testing.T) {
	tests := []struct {
		name  string
		lines []string
		want  []string
	}{
		{"leaves only", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"run","Package":"p","Test":"TestA/one"}`, `{"Action":"run","Package":"p","Test":"TestA/two"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/one"}`, `{"Action":"pass","Package":"p","Test":"TestA/two"}`, `{"Action":"pass","Package":"p","Test":"TestA"}`,
			`{"Action":"pass","Package":"p"}`,
		}, []string{"pass p TestA/one", "pass p TestA/two"}},
		{"a parent that fails by itself", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"run","Package":"p","Test":"TestA/one"}`,
			`{"Action":"pass","Package":"p","Test":"TestA/one"}`, `{"Action":"fail","Package":"p","Test":"TestA"}`, `{"Action":"fail","Package":"p"}`,
		}, []string{"fail p TestA", "pass p TestA/one"}},
		{"a failed child is counted once", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"run","Package":"p","Test":"TestA/one"}`,
			`{"Action":"fail","Package":"p","Test":"TestA/one"}`, `{"Action":"fail","Package":"p","Test":"TestA"}`, `{"Action":"fail","Package":"p"}`,
		}, []string{"fail p TestA/one"}},
		{"a panic leaves a test unfinished", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"output","Package":"p","Test":"TestA","Output":"panic: no\n"}`, `{"Action":"fail","Package":"p"}`,
		}, []string{"fail p TestA did not finish"}},
		{"the go command is killed", []string{`{"Action":"run","Package":"p","Test":"TestA"}`}, []string{"fail p TestA did not finish"}},
		{"does not build", []string{
			`{"ImportPath":"p","Action":"build-output","Output":"p.go:1: no\n"}`, `{"ImportPath":"p","Action":"build-fail"}`,
			`{"Action":"fail","Package":"p","FailedBuild":"p"}`,
		}, []string{"fail p did not build"}},
		{"exits outside its tests", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"fail","Package":"p"}`,
		}, []string{"pass p TestA", "fail p the package failed outside its tests"}},
		{"a fuzz target counts once", []string{
			`{"Action":"run","Package":"p","Test":"FuzzA"}`, `{"Action":"run","Package":"p","Test":"FuzzA/seed#0"}`, `{"Action":"pass","Package":"p","Test":"FuzzA/seed#0"}`,
			`{"Action":"pass","Package":"p","Test":"FuzzA"}`, `{"Action":"pass","Package":"p"}`,
		}, []string{"pass p FuzzA"}},
		{"a skip says why", []string{
			`{"Action":"run","Package":"p","Test":"TestA"}`, `{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:12: public log data absent: set it\n"}`,
			`{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}`, `{"Action":"skip","Package":"p","Test":"TestA"}`, `{"Action":"pass","Package":"p"}`,
		}, []string{"skip p TestA public log data absent: set it"}},
		{"no test files", []string{`{"Action":"start","Package":"p"}`, `{"Action":"skip","Package":"p"}`}, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got, printed := count(t, test.lines...)
			if !slices.Equal(got, test.want) {
				t.Errorf("got %q\nwant %q", got, test.want)
			}
			if strings.Contains(strings.Join(test.want, " "), "fail") && printed == "" {
				t.Error("a failure was counted and not shown")
			}
		})
	}
}

func TestSum(t *testing.T) {
	var out bytes.Buffer
	status := printSum(&out, []record{
		{"test", "p TestA", "pass", ""}, {"test", "p TestB", "skip", "public log data absent: nowhere"}, {"e2e", "x", "skip", "not ready"}, {"check", "tidy", "fail", ""},
	})
	if status != 1 {
		t.Errorf("exit status %d with a failure", status)
	}
	for _, want := range []string{"skipped: e2e: x: not ready\n", "failed: check: tidy", "1 of the skipped want the public log data", "\n1 passed, 1 failed, 2 skipped\n"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, out.String())
		}
	}
	if printSum(&out, nil) != 1 {
		t.Error("a run of nothing passed")
	}
}
