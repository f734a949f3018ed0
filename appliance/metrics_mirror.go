package main

import (
	"context"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
)

// mirrorGauges reads the mirror's numbers when the metrics page is fetched. Labels are the origins of logs that are configured, learned
// from a verified trusted root or held, and the names of configured watches: what a parcel or an entry says never becomes one.
type mirrorGauges struct{ s *server }

var (
	mirrorAge         = prometheus.NewDesc("redoubt_mirror_age_seconds", "Since the log was last observed at its mirrored head, by the exporter's clock.", []string{"origin"}, nil)
	mirrorLag         = prometheus.NewDesc("redoubt_mirror_lag_entries", "Entries known to exist upstream that are not mirrored; 0 where nobody showed more.", []string{"origin"}, nil)
	mirrorOutcome     = prometheus.NewDesc("redoubt_mirror_last_reconcile_outcome", "1 for how the last reconcile ended: clean, findings, or failed where no report could be made.", []string{"outcome"}, nil)
	mirrorCode        = prometheus.NewDesc("redoubt_mirror_last_reconcile_code", "Exit code of the gravest finding of the last report, 0 without one.", nil, nil)
	mirrorClaims      = prometheus.NewDesc("redoubt_mirror_claims", "Entries of mirrored logs that bundles seen inside claim, by how they stood at the last reconcile.", []string{"stands"}, nil)
	mirrorCoverRatio  = prometheus.NewDesc("redoubt_mirror_coverage_ratio", "Share of the running image digests that an entry of a log held here says are signed, at the last reconcile; absent where an inventory could not be read.", nil, nil)
	mirrorCoverImages = prometheus.NewDesc("redoubt_mirror_coverage_images", "Running image digests at the last reconcile, and containers that have none, by how they stand.", []string{"state"}, nil)
	mirrorScrubAge    = prometheus.NewDesc("redoubt_mirror_scrub_age_seconds", "Since everything that is stored of the log was hashed anew.", []string{"origin"}, nil)
	mirrorScrubPeriod = prometheus.NewDesc("redoubt_mirror_scrub_period_seconds", "In which reconciles hash everything once; 0 where each hashes everything. An age of more than twice this is late.", nil, nil)
	mirrorUnmirrored  = prometheus.NewDesc("redoubt_mirror_unmirrored_logs", "Logs that a carried trusted root names, valid now, of which nothing is mirrored.", []string{"kind"}, nil)
	mirrorEnded       = prometheus.NewDesc("redoubt_mirror_ended_logs", "Mirrored logs that take no more entries.", nil, nil)
	mirrorSilence     = prometheus.NewDesc("redoubt_mirror_exporter_silence_seconds", "Since the last parcel that was heard of was made.", nil, nil)
	mirrorCadence     = prometheus.NewDesc("redoubt_mirror_exporter_cadence_seconds", "In which a parcel is expected, as configured or derived; 0 where too few came to tell.", nil, nil)
	mirrorProblems    = prometheus.NewDesc("redoubt_mirror_damaged", "Problems of stored bytes in the last report.", nil, nil)
	mirrorLevel       = prometheus.NewDesc("redoubt_mirror_stale_level", "What the thresholds make of that age: 0 fresh, 1 warn, 2 deny-new, 3 deny-all.", []string{"origin"}, nil)
	mirrorTrustAge    = prometheus.NewDesc("redoubt_mirror_trust_age_seconds", "Since the TUF repository was last observed at its mirrored state, by the exporter's clock.", []string{"repository"}, nil)
	mirrorTrustLevel  = prometheus.NewDesc("redoubt_mirror_trust_stale_level", "What the thresholds make of that age: 0 fresh, 1 warn, 2 deny-new, 3 deny-all.", []string{"repository"}, nil)
	mirrorSize        = prometheus.NewDesc("redoubt_mirror_log_size", "Entries under the mirrored head.", []string{"origin"}, nil)
	mirrorReconciled  = prometheus.NewDesc("redoubt_mirror_last_reconcile_timestamp", "Unix time of the last reconcile report.", nil, nil)
	mirrorConflicts   = prometheus.NewDesc("redoubt_mirror_conflicts", "Logs that stand still because they showed two histories.", nil, nil)
	mirrorWatchHits   = prometheus.NewDesc("redoubt_mirror_watch_hits", "Watched entries that nobody acknowledged.", []string{"watch"}, nil)
	mirrorMissing     = prometheus.NewDesc("redoubt_mirror_missing_parcels", "Parcels that later ones showed to be missing.", nil, nil)
	mirrorQuarantined = prometheus.NewDesc("redoubt_mirror_quarantined", "Parts of parcels in quarantine.", nil, nil)
)

func (g mirrorGauges) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{mirrorAge, mirrorLevel, mirrorTrustAge, mirrorTrustLevel, mirrorLag, mirrorOutcome, mirrorCode, mirrorClaims, mirrorUnmirrored, mirrorEnded, mirrorSilence, mirrorCadence, mirrorScrubAge, mirrorScrubPeriod, mirrorCoverRatio, mirrorCoverImages, mirrorProblems, mirrorSize, mirrorReconciled, mirrorConflicts, mirrorWatchHits, mirrorMissing, mirrorQuarantined} {
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
		send(mirrorLag, float64(l.Lag), l.Origin)
		send(mirrorLevel, float64(slices.Index(freshness.Levels, l.Level)), l.Origin)
		if !l.Scrubbed.IsZero() {
			send(mirrorScrubAge, in.now().Sub(l.Scrubbed).Seconds(), l.Origin)
		}
		if !l.Observed.IsZero() {
			send(mirrorAge, in.now().Sub(l.Observed).Seconds(), l.Origin)
		}
	}
	for _, t := range now.Status.TUF {
		send(mirrorTrustLevel, float64(slices.Index(freshness.Levels, t.Level)), t.Name)
		if !t.Observed.IsZero() {
			send(mirrorTrustAge, in.now().Sub(t.Observed).Seconds(), t.Name)
		}
	}
	for name, n := range now.Hits {
		send(mirrorWatchHits, float64(n), name)
	}
	if r := now.Status.Reconcile; r != nil {
		if !r.Time.IsZero() {
			send(mirrorReconciled, float64(r.Time.Unix()))
		}
		send(mirrorCode, float64(r.Code))
		send(mirrorProblems, float64(r.Problems))
		for _, outcome := range []string{mirror.Clean, mirror.Findings, mirror.Failed} {
			send(mirrorOutcome, oneIf(r.Outcome == outcome), outcome)
		}
	}
	for _, stands := range mirror.ClaimStands {
		send(mirrorClaims, float64(now.Claims[stands]), stands)
	}
	if c := now.Coverage; c != nil {
		if share, ok := c.Ratio(); ok {
			send(mirrorCoverRatio, share)
		}
		for state, n := range map[string]int{mirror.CoverSigned: c.Signed, mirror.CoverUnsigned: c.Unsigned, mirror.CoverNotCarried: c.NotCarried, mirror.CoverUnresolved: c.Unresolved} {
			send(mirrorCoverImages, float64(n), state)
		}
	}
	send(mirrorScrubPeriod, in.cfg.Mirror.Reconcile.scrub().Seconds())
	if a := now.Status.Absent; a != nil {
		kinds := map[string]int{"rekor": 0, "ct": 0}
		for _, l := range a.Unmirrored {
			kinds[l.Kind]++
		}
		for kind, n := range kinds {
			send(mirrorUnmirrored, float64(n), kind)
		}
		send(mirrorEnded, float64(len(a.Ended)))
		if e := a.Exporter; e != nil {
			send(mirrorSilence, float64(e.Seconds))
			send(mirrorCadence, float64(e.Cadence))
		}
	}
	send(mirrorConflicts, float64(now.Status.Conflicts))
	send(mirrorMissing, float64(now.Missing))
	send(mirrorQuarantined, float64(now.Quarantined))
}

func oneIf(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
