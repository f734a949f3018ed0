package rekor

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"redoubt.internal/log"
)

// Handler serves both generations on one host: Rekor v1 under /api/v1/, Rekor v2 under /api/v2/, C2SP tlog-tiles at the root, and the
// health probes of both (/ping, /healthz). A trailing slash makes no difference.
func (l *Log) Handler() http.Handler {
	mux := l.Routes()
	notFound := func(w http.ResponseWriter, r *http.Request) {
		write := WriteErrorV1
		if strings.HasPrefix(r.URL.Path, "/api/v2/") {
			write = writeErrorV2
		}
		l.fail(w, r, write, &errStatus{http.StatusNotFound, fmt.Errorf("path %.200q was not found", r.URL.Path)})
	}
	mux.HandleFunc("/", notFound)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path+"/", "/../") || strings.Contains(r.URL.Path+"/", "/./") || strings.Contains(r.URL.Path, "//") {
			notFound(w, r) // the mux would redirect it, in HTML
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// Routes is what Handler serves, without what it answers to other paths.
func (l *Log) Routes() *http.ServeMux {
	mux := http.NewServeMux()
	route := func(path string, h http.HandlerFunc) {
		mux.HandleFunc(path, h)
		mux.HandleFunc(path+"/{$}", h)
	}
	l.routesV1(route)
	l.routesV2(route, mux)
	return mux
}

// method refuses other methods than the ones given.
func method(w http.ResponseWriter, r *http.Request, methods ...string) error {
	for _, m := range methods {
		if r.Method == m || m == http.MethodGet && r.Method == http.MethodHead {
			return nil
		}
	}
	for _, m := range methods {
		w.Header().Add("Allow", m)
	}
	return &errStatus{http.StatusMethodNotAllowed, fmt.Errorf("method %.20s is not allowed, but %v are", r.Method, methods)}
}

func (l *Log) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	return ReadBody(w, r, l.c.MaxBody)
}

// status maps an error to its HTTP status, once for both generations. A log that cannot write answers 503 and says why.
func (l *Log) status(err error) int {
	if code := StatusOf(err); code != 0 {
		return code
	}
	switch {
	case errors.Is(err, log.ErrTooLarge):
		return http.StatusBadRequest
	case errors.Is(err, log.ErrDuplicate):
		return http.StatusConflict
	case errors.Is(err, log.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, log.ErrReadOnly), errors.Is(err, log.ErrRolledBack), errors.Is(err, log.ErrClosed), errors.Is(err, log.ErrSigning), errors.Is(err, log.ErrIndexing),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), l.c.Log.Err() != nil:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fail answers err in the form of one generation and logs what is not the client's doing.
func (l *Log) fail(w http.ResponseWriter, r *http.Request, write func(http.ResponseWriter, int, string), err error) {
	code := l.status(err)
	message := err.Error()
	if code >= http.StatusInternalServerError {
		l.c.Logger.ErrorContext(r.Context(), "rekor request failed", "path", r.URL.Path, "status", code, "error", err)
	}
	if errors.Is(err, log.ErrSigning) { // what the key says of itself is for the log's own record
		message = "the log's key is unavailable"
	}
	if code == http.StatusInternalServerError {
		message = "the log could not answer; its own record says why"
	}
	write(w, code, message)
}
