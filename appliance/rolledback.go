package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
)

// A log behind its high-water mark, or whose mark is missing or damaged, says more than that the log may not be signed on: the whole
// directory may be an older copy. The trust repository in it then stands at versions that were used, and the floor of the timestamp
// authority at a time that has passed. Neither signs until the directory is the newest one again, by a mark that can be read. Nor
// do they where a standby took over.

var (
	errOlderCopy = errors.New("nothing is signed here, this directory may be an older copy")
	errTakenOver = errors.New("nothing is signed here any more")
)

// noMark is the mark of every log in a high-water file that is damaged: it cannot be read, so nothing is signed.
type noMark struct{ err error }

func (m noMark) Read(context.Context) (log.Mark, error) { return log.Mark{}, m.err }
func (m noMark) Raise(context.Context, log.Mark) error  { return m.err }

// marks are the high-water marks of one log, in every file.
func (in *instance) marks(origin string) (marks []log.HighWater) {
	for _, f := range in.highWater {
		if f.covers(strings.TrimSuffix(origin, "."+in.cfg.Domain)) {
			marks = append(marks, f.For(origin))
		}
	}
	for _, s := range in.slowMarks {
		marks = append(marks, s.For(origin))
	}
	for _, m := range in.noMarks {
		marks = append(marks, m)
	}
	return marks
}

// noteMarks remembers that a log opened without a mark to trust. A mark that cannot be written later on says nothing about the
// directory's age.
func (in *instance) noteMarks() {
	for _, l := range in.logs() {
		if err := l.log.Err(); errors.Is(err, log.ErrNoMark) || errors.Is(err, log.ErrHighWater) {
			in.markless = fmt.Errorf("%w: %s log: %w", errOlderCopy, l.role, err)
			return
		}
	}
}

// olderCopy is why nothing may be signed from this directory: the first log that is behind its high-water mark, or has none that can
// be read. Nil when none is.
func (in *instance) olderCopy() error {
	if err := in.olderHere(); err != nil {
		return err
	}
	return in.peersOlder()
}

// olderHere is olderCopy as far as the logs that this process has say it.
func (in *instance) olderHere() error {
	for _, l := range in.logs() {
		err := l.log.Err()
		if errors.Is(err, log.ErrRolledBack) {
			return fmt.Errorf("%w: %s log: %w", errOlderCopy, l.role, err)
		}
		if errors.Is(err, log.ErrFenced) {
			return fmt.Errorf("%w: %s log: %w", errTakenOver, l.role, err)
		}
	}
	return in.markless
}

// mayPublish refuses a verb that would sign metadata of the trust repository.
func (in *instance) mayPublish() error {
	if err := in.olderCopy(); err != nil {
		return cmdline.Hinted(cmdline.Unavailable(err), "%s", highWaterFix(err))
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
