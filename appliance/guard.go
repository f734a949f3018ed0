package main

import (
	"errors"
	"net"
	"net/http"
	"runtime/debug"
	"time"
)

// guard is what every request of every service passes before its room: the body is bounded, the request is counted, a
// panic becomes a 500 and a line in the log, /healthz and /readyz are answered beside the service's own routes, and what
// routeTable does not list is not found.
func (s *server) guard(service string, room http.Handler) http.Handler {
	limit := s.cfg.Limits.Body
	if limit == 0 {
		limit = defaultBodyBytes
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		leave, err := s.gate.enter(r.Context())
		if err != nil {
			return // the client is gone
		}
		defer leave()
		started, out := time.Now(), &recorder{ResponseWriter: w, status: http.StatusOK}
		defer func() {
			if p := recover(); p != nil {
				if err, ok := p.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(p)
				}
				s.logger.Error("a request handler panicked", "service", service, "panic", p, "stack", string(debug.Stack()))
				if !out.wrote {
					writeJSON(out, http.StatusInternalServerError, refusal{http.StatusInternalServerError, "internal error"})
				}
			}
			s.metrics.observe(service, r, out.status, time.Since(started))
		}()
		out.Header().Set("X-Content-Type-Options", "nosniff")
		switch r.URL.Path {
		case "/healthz":
			s.health.serveHealthz(out, r)
			return
		case "/readyz":
			if service == "metrics" {
				s.shown(service).serveReadyzWhole(out, r)
			} else {
				s.shown(service).serveReadyz(out, r)
			}
			return
		}
		if r.ContentLength > limit {
			out.Header().Set("Connection", "close")
			writeJSON(out, http.StatusRequestEntityTooLarge, refusal{http.StatusRequestEntityTooLarge, "the request body is larger than this service accepts"})
			return
		}
		r.Body = http.MaxBytesReader(out, r.Body, limit)
		if s.admit(service, out, r) {
			room.ServeHTTP(out, r)
		}
	})
}

// refusal is the body of an error that no room has seen, in the form Sigstore's services share.
type refusal struct {
	Code    int    `json:"code"`
	Message string `json:"message"`
}

// recorder remembers the status for the counters.
type recorder struct {
	http.ResponseWriter
	status int
	wrote  bool
}

func (r *recorder) WriteHeader(status int) {
	if !r.wrote {
		r.status, r.wrote = status, true
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(b []byte) (int, error) {
	r.wrote = true
	return r.ResponseWriter.Write(b)
}

// Flush is what streaming answers (gRPC) ask the writer for.
func (r *recorder) Flush() {
	r.wrote = true
	if f, ok := r.ResponseWriter.(http.Flusher); ok {
		f.Flush()
	}
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// byHost sends a request to the service its Host header names, or that alias names for that host; with one service on the address, the
// name does not matter.
func byHost(hosts map[string]http.Handler, alias func(host string) string) http.Handler {
	if len(hosts) == 1 {
		for _, h := range hosts {
			return h
		}
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := hosts[hostOf(r)]; ok {
			h.ServeHTTP(w, r)
			return
		}
		if h, ok := hosts[alias(hostOf(r))]; ok {
			h.ServeHTTP(w, r)
			return
		}
		http.Error(w, "no service has this host name", http.StatusMisdirectedRequest)
	})
}

// hostOf is the name in the Host header, without a port.
func hostOf(r *http.Request) string {
	if h, _, err := net.SplitHostPort(r.Host); err == nil {
		return h
	}
	return r.Host
}
