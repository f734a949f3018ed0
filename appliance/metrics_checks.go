package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"
)

// checkGauges shows the checks of readiness as numbers. The label is the check's name: keys, logs and services of the configuration.
type checkGauges struct{ s *server }

var (
	checkLevel = prometheus.NewDesc("redoubt_check_level", "What a check of readiness and doctor finds: 0 well, 1 warning, 2 urgent, 3 failed.", []string{"check"}, nil)
	diskLasts  = prometheus.NewDesc("redoubt_disk_lasts_seconds", "How long the free space lasts at the rate of the last thirty days; absent where it does not go down or that is not known yet.", nil, nil)
)

func (g checkGauges) Describe(to chan<- *prometheus.Desc) { to <- checkLevel; to <- diskLasts }

func (g checkGauges) Collect(to chan<- prometheus.Metric) {
	checks, _ := g.s.health.current(context.Background())
	seen := map[string]bool{}
	for _, c := range checks {
		if !seen[c.Name] {
			seen[c.Name] = true
			to <- prometheus.MustNewConstMetric(checkLevel, prometheus.GaugeValue, c.level(), c.Name)
		}
	}
	if left, known := lasts(readSamples(g.s.instance().dir)); known {
		to <- prometheus.MustNewConstMetric(diskLasts, prometheus.GaugeValue, left.Seconds())
	}
}

func (c check) level() float64 {
	switch {
	case c.OK:
		return 0
	case c.Warning && !c.Urgent:
		return 1
	case c.Warning:
		return 2
	}
	return 3
}
