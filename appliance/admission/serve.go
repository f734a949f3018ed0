package admission

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// Paths of the webhook.
const (
	MutatePath   = "/mutate"
	ValidatePath = "/validate"
)

// margin is what is left of the API server's patience to answer it.
const margin = 500 * time.Millisecond

// Handler answers the API server.
func (g *Gate) Handler() http.Handler {
	mux := http.NewServeMux()
	waiting := make(chan struct{}, maxReviews)
	for path, mutate := range map[string]bool{MutatePath: true, ValidatePath: false} {
		mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) {
			ctx, cancel := context.WithTimeout(r.Context(), g.patience(r))
			defer cancel()
			select {
			case waiting <- struct{}{}:
				defer func() { <-waiting }()
				g.serveReview(w, r.WithContext(ctx), mutate)
			case <-ctx.Done():
				http.Error(w, "too many reviews at once", http.StatusServiceUnavailable)
			}
		})
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", g.serveReady)
	return mux
}

// patience is how long this review may take: the API server says in the query how long it waits.
func (g *Gate) patience(r *http.Request) time.Duration {
	patience := g.c.Timeout
	if asked, err := time.ParseDuration(r.URL.Query().Get("timeout")); err == nil && asked > 0 {
		patience = min(patience, max(asked-margin, asked/2))
	}
	return patience
}

// serveReview answers one review. What cannot be read is a 400, which an API server takes as a refusal.
func (g *Gate) serveReview(w http.ResponseWriter, r *http.Request, mutate bool) {
	defer func() {
		if p := recover(); p != nil {
			g.c.Logger.Error("a review panicked", "panic", p, "stack", string(debug.Stack()))
			http.Error(w, "internal error", http.StatusInternalServerError)
		}
	}()
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		http.Error(w, "application/json is expected", http.StatusUnsupportedMediaType)
		return
	}
	size := 0
	if r.ContentLength > 0 && r.ContentLength <= MaxBody {
		size = int(r.ContentLength)
	}
	body, err := readAll(http.MaxBytesReader(w, r.Body, MaxBody), size)
	var large *http.MaxBytesError
	if errors.As(err, &large) {
		g.metrics.reviewed("unreadable", 0)
		http.Error(w, "the review is larger than "+strconv.Itoa(MaxBody)+" bytes", http.StatusRequestEntityTooLarge)
		return
	}
	var asked *request
	if err == nil {
		asked, err = decodeReview(body)
	}
	if err != nil {
		g.metrics.reviewed("unreadable", 0)
		http.Error(w, oneLine(err.Error()), http.StatusBadRequest)
		return
	}
	answer, err := encodeReview(g.process(r.Context(), asked, mutate))
	if err != nil {
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Write(answer)
}

func readAll(r io.Reader, size int) ([]byte, error) {
	b := make([]byte, 0, size+512)
	for {
		n, err := r.Read(b[len(b):cap(b)])
		b = b[:len(b)+n]
		if errors.Is(err, io.EOF) {
			return b, nil
		}
		if err != nil {
			return b, err
		}
		if len(b) == cap(b) {
			b = append(b, 0)[:len(b)]
		}
	}
}

// serveReady says whether reviews can be decided. Trust that is too old does not make it unready: another replica has no newer one.
func (g *Gate) serveReady(w http.ResponseWriter, _ *http.Request) {
	rules := g.rules.Load()
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"ready": true, "version": rules.Version, "trust_as_of": rules.AsOf.UTC(), "trust_stale": g.aged.Load()})
}
