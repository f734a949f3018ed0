package main

import (
	"encoding/json"

	"github.com/rogpeppe/go-internal/testscript"
)

// seconddisk DIR PATH WHENLOST has the server of DIR keep a second disk at PATH.
func secondDiskOf(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "seconddisk DIR PATH WHENLOST")
	ts.Setenv("SECOND", args[1])
	reconfigure(ts, args[0], func(c *Config) { c.Log.Second = &SecondDisk{Dir: ts.MkAbs(args[1]), WhenLost: args[2]} })
}

// kept FILE demands that the report of `log resubmit -o json` in FILE has every bundle's entry where it was.
func kept(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "kept FILE")
	var results []resubmitted
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &results))
	for _, r := range results {
		if r.Reason != "" || r.To != "" || r.Index >= r.Size {
			ts.Fatalf("%+v", r)
		}
	}
	if len(results) == 0 {
		ts.Fatalf("no bundle")
	}
	ts.Logf("%d bundles, each where it was", len(results))
}
