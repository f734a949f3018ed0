package main

import "testing"

// TestWireVersion: an entry that was lost goes back through the API that took it.
func TestWireVersion(t *testing.T) {
	for _, c := range []struct {
		kind, version string
		want          uint32
	}{
		{"hashedrekord", "0.0.1", 1}, {"dsse", "0.0.1", 1}, {"intoto", "0.0.2", 1},
		{"hashedrekord", "0.0.2", 2}, {"dsse", "0.0.2", 2},
	} {
		if got := wireVersion(c.kind, c.version); got != c.want {
			t.Errorf("%s %s: %d, want %d", c.kind, c.version, got, c.want)
		}
	}
}
