// Package serve answers for mirrored logs as the logs themselves would: C2SP tlog-tiles over HTTP, below a path per log.
//
//	GET /<escaped origin>/checkpoint                        the last good head's signed checkpoint
//	GET /<escaped origin>/tile/<level>/<index>[.p/<width>]  a hash tile
//	GET /<escaped origin>/tile/entries/<index>[.p/<width>]  an entry bundle
//	GET /                                                   the logs, as JSON
//
// Contract: what is answered follows the mirror's heads and nothing else. A tile beyond the head is 404 though its file may lie
// on the disk; a frozen log is served at its last good head. Every answer but the checkpoint and the list may be cached for
// ever. Requests have no body, no query and one spelling; everything else is 400, 404 or 405.
//
// Not promised: that bytes which rotted on the disk since the last reconcile are noticed here. Whoever reads tiles hashes
// them.
package serve

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/tiles"
)

// Handler serves the mirror's logs. To serve below a prefix wrap it in http.StripPrefix; to give one log its own host use Log.
func Handler(m *mirror.Mirror, logger *slog.Logger) http.Handler {
	s := &server{m: m, logger: logger}
	if logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(s.serveAll)
}

// Log serves one log at the root of its own host.
func Log(m *mirror.Mirror, origin string, logger *slog.Logger) http.Handler {
	all := Handler(m, logger).(http.HandlerFunc)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u := *r.URL
		u.Path, u.RawPath = "/"+origin+r.URL.Path, "/"+url.PathEscape(origin)+r.URL.EscapedPath()
		r2 := *r
		r2.URL = &u
		all(w, &r2)
	})
}

type server struct {
	m      *mirror.Mirror
	logger *slog.Logger
}

func (s *server) serveAll(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	if len(r.URL.EscapedPath()) > 1024 || r.URL.RawQuery != "" {
		http.Error(w, "no such name", http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	log, rest, ok := strings.Cut(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	if !ok {
		s.serveList(w, r, log)
		return
	}
	origin, err := url.PathUnescape(log)
	if err != nil || url.PathEscape(origin) != log {
		http.Error(w, "no such log", http.StatusNotFound)
		return
	}
	body, kind, err := s.processRead(origin, rest)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if rest == "checkpoint" {
		w.Header().Set("Cache-Control", "no-cache")
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	if r.Method == http.MethodGet {
		w.Write(body)
	}
}

// processRead returns what a name below a log stands for.
func (s *server) processRead(origin, name string) (body []byte, kind string, err error) {
	if name == "checkpoint" {
		h, err := s.m.Head(origin)
		return h.Note, "text/plain; charset=utf-8", err
	}
	t, err := tiles.Parse(name)
	if err != nil {
		return nil, "", err
	}
	body, err = s.m.Tile(origin, t)
	return body, "application/octet-stream", err
}

func (s *server) serveList(w http.ResponseWriter, r *http.Request, name string) {
	if name != "" {
		http.Error(w, "no such log", http.StatusNotFound)
		return
	}
	origins, err := s.m.Origins()
	if err != nil {
		s.fail(w, r, err)
		return
	}
	type entry struct {
		Origin string `json:"origin"`
		Path   string `json:"path"`
		Scope  string `json:"scope"`
		Size   uint64 `json:"size"`
	}
	list := []entry{}
	for _, o := range origins {
		h, err := s.m.Head(o)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		list = append(list, entry{o, "/" + url.PathEscape(o) + "/", h.Scope, h.Size})
	}
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]any{"logs": list})
}

func (s *server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if errors.Is(err, mirror.ErrNotFound) || errors.Is(err, tiles.ErrName) {
		http.Error(w, "not found", http.StatusNotFound)
		return
	}
	s.logger.ErrorContext(r.Context(), "reading mirrored log", "path", r.URL.Path, "error", err)
	http.Error(w, "the mirror cannot read this", http.StatusInternalServerError)
}
