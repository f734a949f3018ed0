package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// mirrorGauges reads the mirror's numbers when the metrics page is fetched. Labels are the origins of logs that are configured, learned
// from a verified trusted root or held, and the names of configured watches: what a parcel or an entry says never becomes one.
type mirrorGauges struct{ s *server }

var (
	mirrorAge         = prometheus.NewDesc("redoubt_mirror_age_seconds", "Since the log was last observed at its mirrored head, by the exporter's clock.", []string{"origin"}, nil)
	mirrorSize        = prometheus.NewDesc("redoubt_mirror_log_size", "Entries under the mirrored head.", []string{"origin"}, nil)
	mirrorReconciled  = prometheus.NewDesc("redoubt_mirror_last_reconcile_timestamp", "Unix time of the last reconcile report.", nil, nil)
	mirrorConflicts   = prometheus.NewDesc("redoubt_mirror_conflicts", "Logs that stand still because they showed two histories.", nil, nil)
	mirrorWatchHits   = prometheus.NewDesc("redoubt_mirror_watch_hits", "Watched entries that nobody acknowledged.", []string{"watch"}, nil)
	mirrorMissing     = prometheus.NewDesc("redoubt_mirror_missing_parcels", "Parcels that later ones showed to be missing.", nil, nil)
	mirrorQuarantined = prometheus.NewDesc("redoubt_mirror_quarantined", "Parts of parcels in quarantine.", nil, nil)
)

func (g mirrorGauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{mirrorAge, mirrorSize, mirrorReconciled, mirrorConflicts, mirrorWatchHits, mirrorMissing, mirrorQuarantined} {
		to <- d
	}
}

func (g mirrorGauges) Collect(to chan<- prometheus.Metric) {
	in := g.s.instance()
	if in.mirror == nil {
		return
	}
	now, err := in.mirror.Gauges(context.Background())
	if err != nil {
		in.logger.Error("reading the mirror for its metrics", "error", err)
		return
	}
	send := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	for _, l := range now.Status.Logs {
		send(mirrorSize, float64(l.Size), l.Origin)
		if !l.Observed.IsZero() {
			send(mirrorAge, in.now().Sub(l.Observed).Seconds(), l.Origin)
		}
	}
	for name, n := range now.Hits {
		send(mirrorWatchHits, float64(n), name)
	}
	if !now.Reconciled.IsZero() {
		send(mirrorReconciled, float64(now.Reconciled.Unix()))
	}
	send(mirrorConflicts, float64(now.Conflicts))
	send(mirrorMissing, float64(now.Missing))
	send(mirrorQuarantined, float64(now.Quarantined))
}
