package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// How long the disk lasts is told from how much was free before: a sample at each look of the server, every twelve hours, in
// DIR/disk.json. Nothing else depends on the file; one that does not parse is begun anew.

const (
	sampleEvery   = 12*time.Hour - time.Minute
	forecastSpan  = 30 * 24 * time.Hour // what counts
	leastSpan     = 24 * time.Hour      // what a forecast needs
	maxSamples    = 120
	lastsEnough   = 90 * 24 * time.Hour
	lastsTooShort = 14 * 24 * time.Hour
)

// diskSample is how much was free at a time.
type diskSample struct {
	At   time.Time `json:"at"`
	Free uint64    `json:"free"` // bytes that the service may use
}

func (l layout) diskSamples() string { return l.path("disk.json") }

func readSamples(dir layout) (samples []diskSample) {
	text, err := os.ReadFile(dir.diskSamples())
	if err != nil || len(text) > maxSamples*256 || json.Unmarshal(text, &samples) != nil {
		return nil
	}
	return samples
}

// sampleDisk adds a sample when the last one is old enough.
func sampleDisk(dir layout, now time.Time) error {
	samples := readSamples(dir)
	if n := len(samples); n > 0 && now.Sub(samples[n-1].At) < sampleEvery && !now.Before(samples[n-1].At) {
		return nil
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir.root, &st); err != nil {
		return err
	}
	samples = append(samples, diskSample{now.UTC(), st.Bavail * uint64(st.Bsize)})
	samples = samples[max(0, len(samples)-maxSamples):]
	text, err := json.Marshal(samples)
	if err != nil {
		return err
	}
	return os.WriteFile(dir.diskSamples(), text, 0o600) // in place: whoever samples may not make files beside it
}

// lasts is how long the free space lasts, as it went down over the last thirty days; false where that cannot be told, because it is
// looked at for less than a day, or where it does not go down.
func lasts(samples []diskSample) (time.Duration, bool) {
	if len(samples) < 2 {
		return 0, false
	}
	last := samples[len(samples)-1]
	first := last
	for _, s := range samples {
		if age := last.At.Sub(s.At); age > 0 && age <= forecastSpan {
			first = s
			break
		}
	}
	span := last.At.Sub(first.At)
	if span < leastSpan || first.Free <= last.Free {
		return 0, false
	}
	days := float64(last.Free) / (float64(first.Free-last.Free) / span.Hours() * 24)
	return time.Duration(min(days, 36500) * float64(24*time.Hour)), true
}

// forecastCheck warns ninety days before the disk is full, and urges fourteen days before.
func forecastCheck(dir layout) check {
	c := check{Name: "disk forecast", OK: true}
	samples := readSamples(dir)
	left, known := lasts(samples)
	switch {
	case !known && len(samples) < 2:
		c.Detail = "a server that runs for a day can tell"
	case !known:
		c.Detail = "free space does not go down"
	default:
		c.Detail = fmt.Sprintf("free space lasts %d days more", int(left.Hours()/24))
	}
	if known && left < lastsEnough {
		c = urgent(c.Name, errors.New(c.Detail), "add space; what may be removed is in `redoubt docs operator`")
		c.Urgent = left < lastsTooShort
	}
	if _, err := os.Stat(dir.diskSamples()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return warning(c.Name, err, "chown it to the service user")
	}
	return c
}
