package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestClockNear(t *testing.T) {
	for name, c := range map[string]struct {
		now      time.Time
		accepted bool
		want     error
	}{
		"today":                {sourceDate.AddDate(0, 3, 0), false, nil},
		"two years behind":     {sourceDate.AddDate(-2, 1, 0), false, errClockBehind},
		"behind, said right":   {sourceDate.AddDate(-2, 1, 0), true, errClockBehind}, // it cannot be
		"1970":                 {time.Unix(0, 0), false, errClockBehind},
		"two years ahead":      {sourceDate.AddDate(2, 1, 0), false, errClockAhead},
		"an old release, said": {sourceDate.AddDate(5, 0, 0), true, nil},
	} {
		if err := clockNear(c.now, sourceDate, c.accepted); !errors.Is(err, c.want) || c.want == nil && err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestOwners: what others may write to is named, and what is somebody else's.
func TestOwners(t *testing.T) {
	dir := layout{filepath.Join(t.TempDir(), "state")}
	must(t, os.MkdirAll(dir.path("db"), 0o700))
	must(t, os.WriteFile(dir.logDB("rekor"), nil, 0o600))
	must(t, checkOwners(&Config{}, dir))
	must(t, os.Chmod(dir.logDB("rekor"), 0o622))
	if err := checkOwners(&Config{}, dir); err == nil {
		t.Error("a database that anybody may write to")
	}
	must(t, os.Chmod(dir.logDB("rekor"), 0o600))
	if os.Getuid() != 0 {
		return
	}
	must(t, os.Chown(dir.logDB("rekor"), 12345, 12345))
	if err := checkOwners(&Config{}, dir); err == nil {
		t.Error("a database of somebody else")
	}
	must(t, checkOwners(&Config{Roles: &Roles{}}, dir))
}

func TestEscapeURI(t *testing.T) {
	for in, want := range map[string]string{"site one": "site%20one", "/usr/lib/x.so": "/usr/lib/x.so", "a;b&c?d": "a%3Bb%26c%3Fd", "ü": "%C3%BC"} {
		if got := escapeURI(in); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
