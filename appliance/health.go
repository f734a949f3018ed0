package main

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"
)

// check is one named condition. Fix is the next thing to do when it does not hold; a Warning does not count as a failure.
type check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Warning bool   `json:"warning,omitempty"`
	Urgent  bool   `json:"urgent,omitempty"` // a warning doctor fails on
	Reason  string `json:"reason,omitempty"`
	Detail  string `json:"detail,omitempty"` // of what holds
	Fix     string `json:"fix,omitempty"`

	keyTrouble bool // the reason speaks of a key's token
	private    bool // what it says is for who runs the machine
}

// health answers /healthz (this process is alive) and /readyz (every check holds). Checks sign with every key, so the
// result is kept for a second: a flood of probes costs one round of signatures.
type health struct {
	checks func(ctx context.Context) []check

	mu   sync.Mutex // guards last and at, and lets one caller at a time run the checks
	last []check
	at   time.Time
}

const (
	healthAge     = time.Second
	healthTimeout = 5 * time.Second
)

func (h *health) current(ctx context.Context) ([]check, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.last == nil || time.Since(h.at) > healthAge {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), healthTimeout)
		defer cancel()
		h.last, h.at = h.checks(ctx), time.Now()
	}
	return h.last, ready(h.last)
}

// shown is the health that a service shows: the console's services where roles run apart, that of every role.
func (s *server) shown(service string) *health {
	if serviceParts[service] == partConsole && s.showsAll() {
		return s.every
	}
	return s.health
}

func (h *health) serveHealthz(w http.ResponseWriter, _ *http.Request) {
	writeJSON(w, http.StatusOK, map[string]string{"status": "SERVING"})
}

// serveReadyz answers on the listener of a service, which anybody may reach: without what keys say of themselves.
func (h *health) serveReadyz(w http.ResponseWriter, r *http.Request) {
	checks, ok := h.current(r.Context())
	writeReadiness(w, withoutKeys(checks), ok)
}

// serveReadyzWhole answers on the metrics' listener, which is loopback always.
func (h *health) serveReadyzWhole(w http.ResponseWriter, r *http.Request) {
	checks, ok := h.current(r.Context())
	writeReadiness(w, checks, ok)
}

// withoutKeys leaves out where keys live and what their tokens answered.
func withoutKeys(checks []check) []check {
	public := slices.Clone(checks)
	for i, c := range public {
		if c.keyTrouble {
			public[i].Reason = "key unavailable"
		}
		if c.private && !c.OK {
			public[i].Reason, public[i].Fix = "see redoubt doctor", ""
		}
	}
	return public
}

func writeReadiness(w http.ResponseWriter, checks []check, ok bool) {
	status := http.StatusOK
	if !ok {
		status = http.StatusServiceUnavailable
	}
	writeJSON(w, status, struct {
		Ready  bool    `json:"ready"`
		Checks []check `json:"checks"`
	}{ok, checks})
}
