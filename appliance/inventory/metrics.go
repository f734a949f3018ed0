package inventory

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"redoubt.internal/appliance/counting"
	"redoubt.internal/appliance/verify"
)

// WriteMetrics writes the report as a page of metrics (Prometheus text format), for a collector of text files. The counter goes on from what the file says.
func (r Report) WriteMetrics(path string) error {
	return counting.Locked(path, func() error { return r.writeMetrics(path) })
}

func (r Report) writeMetrics(path string) error {
	registry := prometheus.NewRegistry()
	ratio := prometheus.NewGauge(prometheus.GaugeOpts{Name: "redoubt_signing_coverage_ratio", Help: "Share of the images of the last scan that the policy allows, 0 to 1."})
	count := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "redoubt_signing_coverage_images", Help: "Images of the last scan by status."}, []string{"status"})
	at := prometheus.NewGauge(prometheus.GaugeOpts{Name: "redoubt_signing_coverage_scan_timestamp_seconds", Help: "When the last scan began."})
	total := prometheus.NewCounterVec(prometheus.CounterOpts{Name: counting.Total, Help: counting.Help}, []string{"result", "reason"})
	registry.MustRegister(ratio, count, at, total)
	ratio.Set(r.Ratio)
	at.Set(float64(r.Time.Unix()))
	for _, s := range Statuses {
		count.WithLabelValues(string(s)).Set(float64(r.Counts[s]))
	}
	if err := resume(path, total); err != nil {
		return fmt.Errorf("reading the metrics of the scan before: %w", err)
	}
	for _, i := range r.Images {
		for _, label := range i.labels() {
			total.WithLabelValues(label[0], label[1]).Inc()
		}
	}
	return prometheus.WriteToTextfile(path, registry)
}

// labels are result and reason of an image: each kind of reason that was found against it.
func (i Image) labels() [][2]string {
	switch {
	case i.Status == Allowed:
		return [][2]string{{counting.Accepted, counting.ByPolicy}}
	case i.Status == Unreadable:
		return [][2]string{{counting.Refused, counting.Unanswered}}
	case i.Status == Unsigned:
		return [][2]string{{counting.Refused, verify.ReasonID(verify.ErrNoSignature)}}
	case i.Code == verify.ExitCode(verify.ErrDenied):
		return [][2]string{{counting.Refused, verify.ReasonID(verify.ErrDenied)}}
	case i.Status == Denied:
		return [][2]string{{counting.Refused, verify.ReasonID(verify.ErrPolicy)}}
	}
	seen := map[string]bool{}
	for _, r := range i.Refused {
		for _, reason := range r.Reasons {
			seen[reason.ID] = true
		}
	}
	var out [][2]string
	for _, r := range verify.ReasonIDs() {
		if seen[r.ID] {
			out = append(out, [2]string{counting.Refused, r.ID})
		}
	}
	return out
}

// resume sets the counter to what it was.
func resume(path string, total *prometheus.CounterVec) error {
	families, err := counting.ReadPage(path)
	if err != nil {
		return err
	}
	for _, m := range families[counting.Total].GetMetric() {
		labels := map[string]string{}
		for _, l := range m.GetLabel() {
			labels[l.GetName()] = l.GetValue()
		}
		c, err := total.GetMetricWithLabelValues(labels["result"], labels["reason"])
		if err != nil {
			return err
		}
		if v := m.GetCounter().GetValue(); v > 0 {
			c.Add(v)
		}
	}
	return nil
}
