package admission

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the gate's numbers. Every label has a short list of values; names of images and namespaces never become labels.
type metrics struct {
	reviews  *prometheus.CounterVec
	seconds  prometheus.Histogram
	verified *prometheus.CounterVec
	lookups  *prometheus.CounterVec
	events   *prometheus.CounterVec
	bundles  *prometheus.CounterVec
	receipts *prometheus.CounterVec
	reports  *prometheus.CounterVec
}

func newMetrics() *metrics {
	return &metrics{
		reviews:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_reviews_total", Help: "Reviews by what was decided."}, []string{"decision"}),
		seconds:  prometheus.NewHistogram(prometheus.HistogramOpts{Name: "redoubt_admission_review_seconds", Help: "Time to decide one review.", Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15)}),
		verified: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_verify_total", Help: "Images judged, by result and the reason of a refusal."}, []string{"result", "reason"}),
		lookups:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_cache_total", Help: "Images judged, by whether the decision was remembered."}, []string{"cache"}),
		events:   prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_events_total", Help: "Kubernetes events of refusals, by what became of them."}, []string{"sent"}),
		bundles:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_spooled_total", Help: "Log proofs left to a mirror, by whether that worked."}, []string{"left"}),
		receipts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_receipts_shared_total", Help: "Receipts shared with other replicas, by whether that worked at once."}, []string{"shared"}),
		reports:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_admission_reports_total", Help: "Results of reviews for policy reports in the cluster, by what became of them."}, []string{"sent"}),
	}
}

// Collectors are what a page of metrics shows of the gate.
func (g *Gate) Collectors() []prometheus.Collector {
	gauge := func(name, help string, read func(*Rules) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return read(g.rules.Load()) })
	}
	m := g.metrics
	return []prometheus.Collector{m.reviews, m.seconds, m.verified, m.lookups, m.events, m.bundles, m.receipts, m.reports,
		gauge("redoubt_admission_trust_age_seconds", "Age of what is trusted here.", func(r *Rules) float64 { return g.now().Sub(r.AsOf).Seconds() }),
		gauge("redoubt_admission_policy_unapproved", "1 while the policy file holds a policy that nobody approved; the former one is in force.", func(r *Rules) float64 {
			if r.Unapproved {
				return 1
			}
			return 0
		}),
		gauge("redoubt_admission_trust_stale", "1 while images are refused, or pass by receipt, because what is trusted here is older than the policy allows.", func(*Rules) float64 {
			if g.aged.Load() {
				return 1
			}
			return 0
		}),
	}
}

func (m *metrics) reviewed(decision string, took time.Duration) {
	m.reviews.WithLabelValues(decision).Inc()
	m.seconds.Observe(took.Seconds())
}

func (m *metrics) judged(f finding) {
	switch {
	case f.err != nil:
		m.verified.WithLabelValues("refused", reasonOf(f.err)).Inc()
	case !f.verdict.Stale.IsZero():
		m.verified.WithLabelValues("allowed", "receipt").Inc()
	case f.verdict.brokeGlass():
		m.verified.WithLabelValues("allowed", "break_glass").Inc()
	case f.verdict.By != "":
		m.verified.WithLabelValues("allowed", "own").Inc()
	default:
		m.verified.WithLabelValues("allowed", "policy").Inc()
	}
}

func (m *metrics) shared(done bool) {
	if done {
		m.receipts.WithLabelValues("yes").Inc()
	} else {
		m.receipts.WithLabelValues("later").Inc()
	}
}

func (m *metrics) cached(hit bool) {
	if hit {
		m.lookups.WithLabelValues("hit").Inc()
	} else {
		m.lookups.WithLabelValues("miss").Inc()
	}
}
