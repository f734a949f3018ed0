package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/encoding/protodelim"
)

// Where roles run apart, the console role shows for all of them: it asks each for its numbers and for its status over its socket, when its
// page is fetched. A number has the label process then, which says whose it is; redoubt_role_up says of each whether it answered.

const (
	processLabel = "process"
	rolePatience = 4 * time.Second // for what one role is asked when a page is fetched, below the 5 s that probes and scrapes wait
)

var roleUp = prometheus.NewDesc("redoubt_role_up", "1 where the process of a role answers.", []string{processLabel}, nil)

// readMetrics are the numbers of this process, each after its length (protodelim).
func (s *server) readMetrics(context.Context, string, []byte) (any, error) {
	families, err := s.metrics.registry.Gather()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	for _, f := range families {
		if _, err := protodelim.MarshalTo(&out, f); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// showsAll reports whether this process shows for other roles as well.
func (s *server) showsAll() bool {
	in := s.instance()
	return in.parts != nil && in.parts.runs(partConsole)
}

// Gather gathers the numbers of every role. One that does not answer has none.
func (s *server) Gather() ([]*dto.MetricFamily, error) {
	in, ctx := s.instance(), context.Background()
	running := runningParts(in.cfg)
	gathered, up := make(prometheus.Gatherers, len(running)), prometheus.NewRegistry()
	answers := make(roleAnswers, len(running))
	var asked sync.WaitGroup
	for i, part := range running {
		asked.Go(func() {
			families, err := s.metricsOf(ctx, in, part)
			if err != nil {
				s.logger.Warn("asking a role for its numbers", "role", part, "error", err)
			}
			answers[i] = roleAnswer{part, err == nil}
			gathered[i] = prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) { return families, nil })
		})
	}
	asked.Wait()
	up.MustRegister(answers)
	return append(gathered, up).Gather()
}

// metricsOf are the numbers of one role, labelled.
func (s *server) metricsOf(ctx context.Context, in *instance, part string) (families []*dto.MetricFamily, err error) {
	if in.parts.runs(part) {
		families, err = s.metrics.registry.Gather()
	} else {
		ctx, cancel := context.WithTimeout(ctx, rolePatience)
		defer cancel()
		var text []byte
		if text, err = ask[[]byte](ctx, in.cfg, part, metricsOperation, struct{}{}); err == nil {
			families, err = parseMetrics(text)
		}
	}
	for _, f := range families {
		for _, m := range f.Metric {
			m.Label = slices.DeleteFunc(m.Label, func(l *dto.LabelPair) bool { return l.GetName() == processLabel })
			name, value := processLabel, part
			m.Label = append(m.Label, &dto.LabelPair{Name: &name, Value: &value})
			slices.SortFunc(m.Label, func(a, b *dto.LabelPair) int { return bytes.Compare([]byte(a.GetName()), []byte(b.GetName())) })
		}
	}
	return families, err
}

// parseMetrics reads what readMetrics wrote.
func parseMetrics(text []byte) (families []*dto.MetricFamily, err error) {
	for from := bytes.NewReader(text); from.Len() > 0; {
		var f dto.MetricFamily
		if err := (protodelim.UnmarshalOptions{MaxSize: int64(from.Len())}).UnmarshalFrom(from, &f); err != nil {
			return nil, fmt.Errorf("reading the numbers of a role: %w", err)
		}
		families = append(families, &f)
	}
	return families, nil
}

// roleAnswers say which roles answered.
type roleAnswers []roleAnswer

type roleAnswer struct {
	part string
	up   bool
}

func (roleAnswers) Describe(to chan<- *prometheus.Desc) { to <- roleUp }

func (all roleAnswers) Collect(to chan<- prometheus.Metric) {
	for _, a := range all {
		value := 0.0
		if a.up {
			value = 1
		}
		to <- prometheus.MustNewConstMetric(roleUp, prometheus.GaugeValue, value, a.part)
	}
}

// status is what this process shows: of itself, or of every role, each asked as console is answered.
func (s *server) status(ctx context.Context) (report statusReport, err error) {
	in := s.instance()
	if !s.showsAll() {
		return readStatus.run(ctx, in, partConsole, struct{}{})
	}
	where, err := placeOf(in.cfg, readStatus.name, nil)
	if err != nil {
		return report, err
	}
	whole, err := where.gather(func(part string) ([]byte, error) {
		if in.parts.runs(part) {
			own, err := readStatus.run(ctx, in, rolePrefix+partConsole, struct{}{})
			if err != nil {
				return nil, err
			}
			return json.Marshal(own)
		}
		ctx, cancel := context.WithTimeout(ctx, rolePatience)
		defer cancel()
		return callSocket(ctx, in.dir.run(part), readStatus.name, []byte("{}"))
	})
	if err != nil {
		return report, err
	}
	return report, json.Unmarshal(whole, &report)
}

// everyCheck is the checks of every role.
func (s *server) everyCheck(ctx context.Context) []check {
	report, err := s.status(ctx)
	if err != nil {
		return []check{result("roles", err, "`redoubt status` asks them as root")}
	}
	return report.Checks
}
