// Package serve answers for mirrored logs as the logs themselves would, so that their stock clients need nothing but another address:
//
//	GET <log>/checkpoint                        the last good head's signed checkpoint
//	GET <log>/tile/<level>/<index>[.p/<width>]  a hash tile (C2SP tlog-tiles)
//	GET <log>/tile/entries/<index>[.p/<width>]  an entry bundle
//	    <log>/api/v2/...                        the same, where clients of Rekor v2 look for it
//	    <rekor>/api/v1/...                      the reading half of Rekor v1, over all mirrored trees of one server
//	GET /                                       the logs, as JSON
//
// <log> is /<escaped origin>, or the root of a host of its own. <rekor> is the part of the origin before " - <tree id>", likewise.
//
// Contract: what is answered follows the mirror's heads and nothing else. A tile beyond the head is 404 though its file may lie
// on the disk; a frozen log is served at its last good head. Proofs lead to the upstream log's own signed checkpoint, and are made from
// what the import proved. Tiles may be cached for ever. Requests have one spelling; whatever would write is 405 and says that this is a
// mirror; everything else is 400, 404 or 405.
//
// Not promised: that bytes which rotted on the disk since the last reconcile are noticed here (entries of Rekor v1 are hashed again, tiles are
// not: whoever reads them hashes them); that a search finds what is not mirrored.
package serve

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/tiles"
)

// Config says what is served and under which names.
type Config struct {
	Mirror *mirror.Mirror
	// Index finds entries for Rekor v1; nil makes one that fills when it is first asked.
	Index *Index
	// Domain: a request to the host <name>.<Domain> is one to the log or server <name>. Empty: logs have no hosts.
	Domain string
	// Hosts name logs or servers by whole host names.
	Hosts  map[string]string
	Logger *slog.Logger
}

// Handler serves the mirror's logs below a path each, without hosts of their own.
func Handler(m *mirror.Mirror, logger *slog.Logger) http.Handler {
	return New(Config{Mirror: m, Logger: logger})
}

// New serves the mirror's logs. To serve below a prefix wrap it in http.StripPrefix.
func New(c Config) http.Handler {
	s := &server{m: c.Mirror, index: c.Index, domain: c.Domain, hosts: c.Hosts, logger: c.Logger}
	if s.index == nil {
		s.index = NewIndex(c.Mirror)
	}
	if s.logger == nil {
		s.logger = slog.New(slog.DiscardHandler)
	}
	return http.HandlerFunc(s.serveAll)
}

type server struct {
	m      *mirror.Mirror
	index  *Index
	domain string
	hosts  map[string]string
	logger *slog.Logger
}

// hosted is the log or server a host stands for, "" for the mirror itself.
func (s *server) hosted(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if name := s.hosts[host]; name != "" {
		return name
	}
	name, ok := strings.CutSuffix(host, "."+s.domain)
	if !ok || s.domain == "" {
		return ""
	}
	if id, server, ok := strings.Cut(name, "."); ok && id != "" && strings.Trim(id, "0123456789") == "" { // a tree of Rekor v1
		return server + " - " + id
	}
	return name
}

func (s *server) serveAll(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if len(r.URL.EscapedPath()) > 1024 || len(r.URL.RawQuery) > 1024 {
		http.Error(w, "no such name", http.StatusBadRequest)
		return
	}
	rest := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	name := s.hosted(r.Host)
	if name == "" {
		log, below, ok := strings.Cut(rest, "/")
		if !ok {
			if readOnly(w, r) {
				s.serveList(w, r, log)
			}
			return
		}
		var err error
		if name, err = url.PathUnescape(log); err != nil || url.PathEscape(name) != log {
			http.Error(w, "no such log", http.StatusNotFound)
			return
		}
		rest = below
	}
	if path, ok := strings.CutPrefix(rest, "api/v1/"); ok {
		s.serveRekor(w, r, name, path)
		return
	}
	s.serveTiles(w, r, name, rest)
}

// readOnly refuses whatever would write, and questions where there are none.
func readOnly(w http.ResponseWriter, r *http.Request) bool {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this is a mirror: it is read, with GET and HEAD", http.StatusMethodNotAllowed)
		return false
	}
	if r.URL.RawQuery != "" {
		http.Error(w, "no such name", http.StatusBadRequest)
		return false
	}
	return true
}

// serveTiles answers for one log in the layout of C2SP tlog-tiles, at its root and where Rekor v2 has it.
func (s *server) serveTiles(w http.ResponseWriter, r *http.Request, origin, name string) {
	if !readOnly(w, r) {
		return
	}
	switch name {
	case "ping", "healthz":
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte("."))
		return
	}
	name = strings.TrimPrefix(name, "api/v2/")
	body, kind, err := s.processRead(origin, name)
	if err != nil {
		s.fail(w, r, err)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	if name == "checkpoint" {
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
		Rekor  string `json:"rekor,omitempty"` // where Rekor v1 is answered for this log and its other trees
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
		e := entry{Origin: o, Path: "/" + url.PathEscape(o) + "/", Scope: h.Scope, Size: h.Size}
		if host, _, ok := mirror.RekorTree(o); ok {
			e.Rekor = "/" + url.PathEscape(host) + "/api/v1/"
		}
		list = append(list, e)
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
