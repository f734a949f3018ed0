// Command tally runs tests and checks and counts what happened, for people and for the last line of .ci/run.
//
//	tally go   -o FILE [-stage NAME] -- go test ARGS...   runs go test with -json, prints failures in full, adds the counts to FILE
//	tally skip -o FILE -name NAME -reason WHY             records something that was not run, and why
//	tally sum  FILE                                       prints every failure and skip, then "N passed, N failed, N skipped"
//
// FILE holds one JSON record a line and is appended to. Exit status is 1 when anything failed. Only the leaves of a test tree are
// counted: a test with subtests counts as its subtests, a fuzz target with its seeds counts once. A skip for want of the public log
// data is listed apart from the others, because it says something about the machine and not about the product.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// dataAbsent is how a test's skip message begins when ../shared/public-log-data or its equivalent is not there.
const dataAbsent = "public log data absent"

// A record is one counted outcome: Outcome is "pass", "fail" or "skip".
type record struct {
	Stage   string `json:"stage"`
	Name    string `json:"name"`
	Outcome string `json:"outcome"`
	Reason  string `json:"reason,omitempty"`
}

func main() {
	if len(os.Args) < 2 {
		fatalf("usage: tally go|skip|sum ...")
	}
	verb := os.Args[1]
	flags := flag.NewFlagSet("tally "+verb, flag.ExitOnError)
	out := flags.String("o", "", "append the counts to `FILE`")
	stage := flags.String("stage", "test", "what this run is called in the summary")
	name := flags.String("name", "", "what was not run")
	reason := flags.String("reason", "", "why it was skipped")
	flags.Parse(os.Args[2:])

	var records []record
	switch verb {
	case "go":
		records = runGoTest(*stage, flags.Args(), os.Stdout)
	case "skip":
		records = []record{{Stage: *stage, Name: *name, Outcome: "skip", Reason: *reason}}
	case "sum":
		for _, file := range flags.Args() {
			records = append(records, read(file)...)
		}
		os.Exit(printSum(os.Stdout, records))
	default:
		fatalf("unknown verb %q", verb)
	}
	if *out != "" {
		write(*out, records)
		os.Exit(exitStatus(records))
	}
	os.Exit(printSum(os.Stdout, records))
}

// runGoTest runs "go test" with -json added and counts its events.
func runGoTest(stage string, args []string, w io.Writer) []record {
	if len(args) < 2 || filepath.Base(args[0]) != "go" || args[1] != "test" {
		fatalf("tally go: the command must begin with: go test")
	}
	cmd := exec.Command(args[0], append([]string{"test", "-json"}, args[2:]...)...)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		fatalf("tally go: %v", err)
	}
	if err := cmd.Start(); err != nil {
		fatalf("tally go: %v", err)
	}
	c := newCounter(stage, w)
	c.readAll(stdout)
	runErr := cmd.Wait()
	records := c.finish()
	if runErr != nil && exitStatus(records) == 0 {
		records = append(records, record{Stage: stage, Name: strings.Join(args, " "), Outcome: "fail", Reason: runErr.Error()})
	}
	return records
}

func read(file string) []record {
	f, err := os.Open(file)
	if os.IsNotExist(err) {
		return []record{{Stage: "tally", Name: file, Outcome: "fail", Reason: "no counts were written"}}
	}
	if err != nil {
		fatalf("tally: %v", err)
	}
	defer f.Close()
	var records []record
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var r record
		if err := json.Unmarshal(scanner.Bytes(), &r); err != nil {
			fatalf("tally: reading %s: %v", file, err)
		}
		records = append(records, r)
	}
	if err := scanner.Err(); err != nil {
		fatalf("tally: reading %s: %v", file, err)
	}
	return records
}

func write(file string, records []record) {
	f, err := os.OpenFile(file, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		fatalf("tally: %v", err)
	}
	enc := json.NewEncoder(f)
	for _, r := range records {
		if err := enc.Encode(r); err != nil {
			fatalf("tally: writing %s: %v", file, err)
		}
	}
	if err := f.Close(); err != nil {
		fatalf("tally: writing %s: %v", file, err)
	}
}

func exitStatus(records []record) int {
	for _, r := range records {
		if r.Outcome == "fail" {
			return 1
		}
	}
	return 0
}

// printSum lists skips and failures with their reasons and ends with the one line other programs read.
func printSum(w io.Writer, records []record) int {
	var passed, failed, skipped, data int
	for _, r := range records {
		switch {
		case r.Outcome == "pass":
			passed++
		case r.Outcome == "fail":
			failed++
		case strings.HasPrefix(r.Reason, dataAbsent):
			skipped++
			data++
		default:
			skipped++
		}
	}
	for _, r := range records {
		if r.Outcome == "skip" {
			fmt.Fprintf(w, "skipped: %s: %s: %s\n", r.Stage, r.Name, r.Reason)
		}
	}
	for _, r := range records {
		if r.Outcome == "fail" {
			fmt.Fprintf(w, "failed: %s: %s %s\n", r.Stage, r.Name, r.Reason)
		}
	}
	if data > 0 {
		fmt.Fprintf(w, "%d of the skipped want the public log data (REDOUBT_PUBLIC_LOG_DATA)\n", data)
	}
	if passed == 0 && failed == 0 {
		fmt.Fprintln(w, "failed: nothing was run")
		failed = 1
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	return min(failed, 1)
}

func fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	os.Exit(2)
}
