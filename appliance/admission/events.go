package admission

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxEvents wait to be sent; more are dropped and counted. A flood of refusals must not become one of requests.
const maxEvents = 256

// events sends Kubernetes events of what was refused or let through, where people look first.
type events struct {
	kube    *kube
	queue   chan event
	logger  *slog.Logger
	metrics *metrics
	now     func() time.Time
}

type event struct {
	APIVersion     string          `json:"apiVersion"`
	Kind           string          `json:"kind"`
	Metadata       objectMeta      `json:"metadata"`
	InvolvedObject objectReference `json:"involvedObject"`
	Reason         string          `json:"reason"`
	Message        string          `json:"message"`
	Type           string          `json:"type"`
	FirstTimestamp time.Time       `json:"firstTimestamp"`
	LastTimestamp  time.Time       `json:"lastTimestamp"`
	Count          int             `json:"count"`
	Source         eventSource     `json:"source"`
}

type objectReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Namespace  string `json:"namespace"`
	Name       string `json:"name"`
}

type eventSource struct {
	Component string `json:"component"`
}

func newEvents(k *kube, logger *slog.Logger, m *metrics, now func() time.Time) *events {
	return &events{k, make(chan event, maxEvents), logger, m, now}
}

// offer queues the event of a refusal. Objects without a name yet are named by the kind alone.
func (e *events) offer(r *request, decision, message string) {
	if r.Namespace == "" {
		return
	}
	name := r.Name
	if name == "" {
		name = strings.ToLower(r.Kind.Kind)
	}
	if len(message) > 1000 {
		message = message[:1000]
	}
	at := e.now().UTC().Truncate(time.Second)
	one := event{"v1", "Event", objectMeta{GenerateName: "redoubt-", Namespace: r.Namespace}, objectReference{versionOf(r.Kind), r.Kind.Kind, r.Namespace, name},
		decisions[decision].reason, strings.ToValidUTF8(message, ""), "Warning", at, at, 1, eventSource{"redoubt-admission"}}
	select {
	case e.queue <- one:
	default:
		e.metrics.events.WithLabelValues("dropped").Inc()
	}
}

// run sends what is queued until ctx ends.
func (e *events) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case one := <-e.queue:
			path := "/api/v1/namespaces/" + url.PathEscape(one.Metadata.Namespace) + "/events"
			if err := e.kube.do(ctx, http.MethodPost, path, "application/json", one, nil); err != nil {
				e.metrics.events.WithLabelValues("failed").Inc()
				e.logger.Warn("sending an event", "error", err)
				continue
			}
			e.metrics.events.WithLabelValues("sent").Inc()
		}
	}
}
