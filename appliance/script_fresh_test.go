package main

import (
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// clockVariable says by how much the clock of a redoubt that is this test binary is ahead. The program itself has no such switch.
const clockVariable = "REDOUBT_TEST_CLOCK_AHEAD"

// laterBy is a clock that is ahead; of what is no duration it is the machine's.
func laterBy(text string) func() time.Time {
	ahead, err := time.ParseDuration(text)
	if err != nil {
		return time.Now
	}
	return func() time.Time { return time.Now().Add(ahead) }
}

// limits DIR WARN DENY-NEW DENY-ALL sets the thresholds of every mirrored log and TUF repository of DIR.
func limits(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "limits DIR WARN DENY-NEW DENY-ALL")
	var at [3]time.Duration
	for i, text := range args[1:] {
		var err error
		at[i], err = time.ParseDuration(text)
		ts.Check(err)
	}
	stale := MirrorStale{Warn: Duration(at[0]), DenyNew: Duration(at[1]), DenyAll: Duration(at[2])}
	reconfigure(ts, args[0], func(c *Config) {
		for i := range c.Mirror.Logs {
			c.Mirror.Logs[i].Stale = stale
		}
		for i := range c.Mirror.TUF {
			c.Mirror.TUF[i].Stale = stale
		}
	})
}
