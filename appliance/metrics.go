package main

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the numbers of one serving process. Every label has a fixed, short list of values: service names of the
// configuration, status classes, known methods. Paths never become labels.
type metrics struct {
	registry *prometheus.Registry
	gauges   map[string]bool          // registered by gauge, by name and labels
	requests *prometheus.CounterVec   // by service, method, status class
	latency  *prometheus.HistogramVec // by service

	// The first three keep the names existing Sigstore dashboards read.
	newCerts, newEntriesV1, newEntriesV2, timestamps prometheus.Counter
}

func newMetrics() *metrics {
	m := &metrics{
		registry:     prometheus.NewRegistry(),
		gauges:       map[string]bool{},
		requests:     prometheus.NewCounterVec(prometheus.CounterOpts{Name: "redoubt_http_requests_total", Help: "Requests by service, method and status class."}, []string{"service", "method", "class"}),
		latency:      prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "redoubt_http_request_seconds", Help: "Time to answer by service.", Buckets: prometheus.ExponentialBuckets(0.001, 2, 14)}, []string{"service"}),
		newCerts:     prometheus.NewCounter(prometheus.CounterOpts{Name: "fulcio_new_certs", Help: "Certificates issued."}),
		newEntriesV1: prometheus.NewCounter(prometheus.CounterOpts{Name: "rekor_new_entries", Help: "Entries accepted by the v1 API."}),
		newEntriesV2: prometheus.NewCounter(prometheus.CounterOpts{Name: "rekor_v2_new_hashedrekord_entries", Help: "Entries accepted by the v2 API."}),
		timestamps:   prometheus.NewCounter(prometheus.CounterOpts{Name: "redoubt_timestamps_total", Help: "Timestamps issued."}),
	}
	m.registry.MustRegister(m.requests, m.latency, m.newCerts, m.newEntriesV1, m.newEntriesV2, m.timestamps, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// gauge adds a number that is read when the page is fetched; one of that name that is there stays.
func (m *metrics) gauge(name, help string, read func() float64) { m.labelled(name, help, nil, read) }

// labelled is gauge for one of several numbers of a name.
func (m *metrics) labelled(name, help string, labels map[string]string, read func() float64) {
	key := fmt.Sprint(name, labels)
	if m.gauges[key] {
		return
	}
	m.gauges[key] = true
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, read))
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// observe counts one answered request.
func (m *metrics) observe(service string, r *http.Request, status int, took time.Duration) {
	m.requests.WithLabelValues(service, knownMethod(r.Method), strconv.Itoa(status/100)+"xx").Inc()
	m.latency.WithLabelValues(service).Observe(took.Seconds())
	if status/100 != 2 || r.Method != http.MethodPost {
		return
	}
	switch service + " " + r.URL.Path {
	case "fulcio /api/v2/signingCert", "fulcio /api/v1/signingCert":
		m.newCerts.Inc()
	case "rekor /api/v1/log/entries":
		m.newEntriesV1.Inc()
	case "rekor /api/v2/log/entries":
		m.newEntriesV2.Inc()
	case "tsa /api/v1/timestamp", "tsa /tsr":
		m.timestamps.Inc()
	}
}

func knownMethod(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodOptions:
		return method
	}
	return "other"
}
