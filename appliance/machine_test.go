package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestForecast(t *testing.T) {
	day0 := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	at := func(days float64, free uint64) diskSample {
		return diskSample{day0.Add(time.Duration(days * float64(24*time.Hour))), free}
	}
	for name, c := range map[string]struct {
		samples []diskSample
		days    int
		known   bool
	}{
		"nothing":          {nil, 0, false},
		"one look":         {[]diskSample{at(0, 100)}, 0, false},
		"half a day":       {[]diskSample{at(0, 100), at(0.5, 90)}, 0, false},
		"ten a day":        {[]diskSample{at(0, 100), at(1, 90), at(2, 80)}, 8, true},
		"it grows":         {[]diskSample{at(0, 80), at(2, 100)}, 0, false},
		"the same":         {[]diskSample{at(0, 80), at(2, 80)}, 0, false},
		"long ago was not": {[]diskSample{at(0, 1000), at(100, 50), at(110, 40)}, 40, true},
		"a clock put back": {[]diskSample{at(10, 100), at(0, 90), at(2, 80)}, 16, true},
		"centuries":        {[]diskSample{at(0, 1<<60), at(2, 1<<60-1)}, 36500, true},
	} {
		left, known := lasts(c.samples)
		if known != c.known || int(left.Hours()/24) != c.days {
			t.Errorf("%s: %s, %v", name, left, known)
		}
	}
}

// TestForecastFile: samples are twelve hours apart and bounded, and a file that does not parse is begun anew.
func TestForecastFile(t *testing.T) {
	dir := layout{t.TempDir()}
	now := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	for range 3 * maxSamples {
		if err := sampleDisk(dir, now); err != nil {
			t.Fatal(err)
		}
		now = now.Add(6 * time.Hour)
	}
	samples := readSamples(dir)
	if len(samples) != maxSamples || samples[1].At.Sub(samples[0].At) != 12*time.Hour {
		t.Fatalf("%d samples, %s apart", len(samples), samples[1].At.Sub(samples[0].At))
	}
	if c := forecastCheck(dir); !c.OK && !c.Warning {
		t.Fatal(c)
	}
	if err := os.WriteFile(dir.diskSamples(), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := sampleDisk(dir, now); err != nil || len(readSamples(dir)) != 1 {
		t.Fatal(err)
	}
	for days, want := range map[int]string{200: "ok", 60: "warn", 10: "urgent"} {
		free := uint64(1000 * days)
		text := `[{"at":"2026-11-01T00:00:00Z","free":` + fmt.Sprint(free+10_000) + `},{"at":"2026-11-11T00:00:00Z","free":` + fmt.Sprint(free) + `}]`
		if err := os.WriteFile(dir.diskSamples(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := forecastCheck(dir)
		if got := map[float64]string{0: "ok", 1: "warn", 2: "urgent", 3: "failed"}[c.level()]; got != want {
			t.Errorf("%d days: %s (%+v)", days, got, c)
		}
	}
}

func TestMountOf(t *testing.T) {
	const mounts = `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 8:2 / /srv rw - ext4 /dev/sdb1 rw,data=writeback
31 30 8:3 / /srv/redoubt rw,noatime - xfs /dev/mapper/vg-r rw,attr2
nonsense
`
	for path, want := range map[string]string{"/": "/dev/sda1", "/var/x": "/dev/sda1", "/srv": "/dev/sdb1", "/srv/x/y": "/dev/sdb1", "/srv/redoubt": "/dev/mapper/vg-r", "/srv/redoubt/db": "/dev/mapper/vg-r", "/srv/redoubtful": "/dev/sdb1"} {
		if device, _ := mountOf([]byte(mounts), path); device != want {
			t.Errorf("%s: %s, want %s", path, device, want)
		}
	}
}

func TestFastCommit(t *testing.T) {
	for release, lost := range map[string]bool{"5.10.93": true, "5.10.94-1-amd64": false, "5.15.0-generic": true, "5.15.17": false, "5.16.3": true, "5.17.0": false, "6.1.0-18-amd64": false, "4.19.0": false, "5.4.1": false, "": false} {
		if losesFastCommits(release) != lost {
			t.Errorf("%q", release)
		}
	}
	dir := t.TempDir()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	device, _ := mountOf(mounts, dir)
	stats := filepath.Join(dir, "proc", filepath.Base(device), "fc_info")
	release := filepath.Join(dir, "osrelease")
	if err := os.MkdirAll(filepath.Dir(stats), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		release, stats string
		ok             bool
	}{{"5.15.0", "fc stats:\n0 commits\n", true}, {"5.15.0", "fc stats:\n12 commits\n0 ineligible\n", false}, {"6.1.0", "fc stats:\n12 commits\n", true}, {"5.15.0", "else", true}} {
		os.WriteFile(stats, []byte(c.stats), 0o644)
		os.WriteFile(release, []byte(c.release+"\n"), 0o644)
		if err := checkFastCommit(filepath.Join(dir, "proc"), release, dir); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// TestMachineChecks: every check holds on a state directory as init leaves it, and each of these changes is found by its check.
func TestMachineChecks(t *testing.T) {
	dir := newStateDir(t)
	cfg, err := loadConfig(dir.config())
	if err != nil {
		t.Fatal(err)
	}
	found := func(name string) check {
		for _, c := range machineChecks(cfg, dir) {
			if c.Name == name {
				return c
			}
		}
		t.Fatalf("no check %q", name)
		return check{}
	}
	for _, name := range []string{"state directory", "configuration file", "secret files", "leftovers"} {
		if c := found(name); !c.OK {
			t.Errorf("%s: %+v", name, c)
		}
	}
	for name, spoil := range map[string]func() error{
		"state directory":    func() error { return os.Chmod(dir.keys(), 0o750) },
		"configuration file": func() error { return os.Chmod(dir.config(), 0o666) },
		"secret files":       func() error { return os.Chmod(dir.resolve(cfg.Keys.PassphraseFile), 0o644) },
		"leftovers":          func() error { return os.Mkdir(dir.root+".init-1", 0o700) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if c := found(name); c.OK || c.Fix == "" || !c.private {
			t.Errorf("%s was not found: %+v", name, c)
		}
	}
	for _, c := range withoutKeys(machineChecks(cfg, dir)) {
		if strings.Contains(c.Reason, dir.root) {
			t.Errorf("a public answer names a path: %+v", c)
		}
	}
}

// TestFortyChecks: a serving instance is looked at from at least forty sides, each with a name of its own, and what does not hold says
// what to do.
func TestFortyChecks(t *testing.T) {
	in, err := openState(t, newStateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, c := range in.checks(t.Context()) {
		if names[c.Name] {
			t.Errorf("two checks are called %q", c.Name)
		}
		names[c.Name] = true
		if !c.OK && c.Fix == "" {
			t.Errorf("%s has no fix", c.Name)
		}
	}
	if len(names)+len(serviceNames) < 40 { // doctor asks each service besides
		t.Errorf("%d checks", len(names))
	}
	t.Logf("%d checks of the instance, %d of listeners", len(names), len(serviceNames))
}
