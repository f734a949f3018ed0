package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/log/store"
)

// lookAround adds to a report what is not about the stored bytes: watched entries and what waits in quarantine.
func (m *Mirror) lookAround(ctx context.Context, r *ReconcileReport) error {
	waiting, err := m.Quarantine()
	if err != nil {
		return err
	}
	r.Waiting = len(waiting)
	if r.Claims, err = m.reclaim(ctx); err != nil {
		return err
	}
	if m.c.Cover != nil {
		covered, err := m.c.Cover(ctx)
		if err != nil {
			return fmt.Errorf("asking what covers the running images: %w", err)
		}
		if r.Coverage, err = m.cover(covered); err != nil {
			return err
		}
	}
	r.Watched, err = m.Watch(ctx)
	return err
}

// Gauges are the numbers a monitor wants of the mirror.
type Gauges struct {
	Status      Status
	Missing     uint64 // parcels known to be missing
	Quarantined int    // parts of parcels that wait
	Hits        map[string]int
	Coverage    *CoverageReport // of the last reconcile, without images; nil where none was asked for
	Claims      map[string]int  // entries that bundles seen inside claim, by how they stood at the last reconcile
}

// Gauges reads them. It proves nothing.
func (m *Mirror) Gauges(ctx context.Context) (g Gauges, err error) {
	if g.Status, err = m.Status(ctx); err != nil {
		return g, err
	}
	for _, r := range g.Status.Missing {
		g.Missing += r.Last - r.First + 1
	}
	waiting, err := m.Quarantine()
	if err != nil {
		return g, err
	}
	g.Quarantined, g.Hits = len(waiting), map[string]int{}
	for _, w := range m.watches {
		g.Hits[w.Name] = 0
	}
	hits, err := m.Hits(false)
	if err != nil {
		return g, err
	}
	for _, h := range hits {
		if _, configured := g.Hits[h.Watch]; configured {
			g.Hits[h.Watch]++
		}
	}
	var claims claimTotals
	err = m.c.DB.View(func(tx store.Tx) error {
		var covered CoverageReport
		ok, err := get(tx, keyCoverage, &covered)
		if err == nil && ok && m.c.Cover != nil {
			g.Coverage = &covered
		}
		if err == nil {
			_, err = get(tx, keyClaims, &claims)
		}
		return err
	})
	g.Claims = claims.Stands
	return g, err
}
