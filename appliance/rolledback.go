package main

import (
	"errors"
	"fmt"
	"net/http"

	"redoubt.internal/log"
)

// A log behind its high-water mark, or without one, says more than that the log may not be signed on: the whole directory may be
// an older copy. The trust repository in it then stands at versions that were used, and the floor of the timestamp authority at a
// time that has passed. Neither signs until the directory is the newest one again.

var errOlderCopy = errors.New("nothing is signed here, this directory may be an older copy")

// olderCopy is why nothing may be signed from this directory: the first log that is behind its high-water mark. Nil when none is.
func (in *instance) olderCopy() error {
	for _, l := range in.logs() {
		if err := l.log.Err(); errors.Is(err, log.ErrRolledBack) {
			return fmt.Errorf("%w: %s log: %w", errOlderCopy, l.role, err)
		}
	}
	return nil
}

// mayPublish refuses a verb that would sign metadata of the trust repository.
func (in *instance) mayPublish() error {
	if err := in.olderCopy(); err != nil {
		return hinted(unavailable(err), "%s", highWaterFix(err))
	}
	return nil
}

// timestampHandler is the timestamp authority's, which answers every request for a timestamp with the reason, 503, where the
// directory may be an older copy. What it reads out stays served.
func (in *instance) timestampHandler() http.Handler {
	authority := in.tsa.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := in.olderCopy(); err != nil && r.Method == http.MethodPost {
			writeJSON(w, http.StatusServiceUnavailable, struct {
				Code    int    `json:"code"`
				Message string `json:"message"`
			}{http.StatusServiceUnavailable, err.Error()})
			return
		}
		authority.ServeHTTP(w, r)
	})
}
