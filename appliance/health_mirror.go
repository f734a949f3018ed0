package main

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/mirror/freshness"
)

// mirrorChecks name what is mirrored and older than this site allows. That stops no service here from signing, so it warns; doctor fails where
// anything is denied.
func (in *instance) mirrorChecks(ctx context.Context) (checks []check) {
	if in.mirror == nil {
		return nil
	}
	status, err := in.mirror.Status(ctx)
	if err != nil {
		return []check{warning("mirror", err, "`redoubt mirror fsck`")}
	}
	old := func(name string, level freshness.Level, stale bool, age string) {
		c := check{Name: name, OK: true}
		if level != freshness.Fresh || stale {
			reason := fmt.Errorf("%s: last observed outside %s ago", level, age)
			switch {
			case age == "":
				reason = errors.New("nothing of it was imported yet")
			case level == freshness.Fresh:
				reason = fmt.Errorf("stale beyond max-age: last observed outside %s ago", age)
			}
			c = warning(name, reason, "carry a newer parcel and import it; `redoubt mirror status` says how old everything is")
			c.Urgent = level == freshness.DenyNew || level == freshness.DenyAll
		}
		checks = append(checks, c)
	}
	for _, l := range status.Logs {
		old("mirrored log "+l.Origin, l.Level, l.Stale, l.Age)
	}
	for _, t := range status.TUF {
		old("mirrored trust "+t.Name, t.Level, false, t.Age)
	}
	return checks
}
