package serve

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
)

// maxBody bounds a question; nothing is ever stored of it.
const maxBody = 1 << 20

// serveRekor answers below api/v1/ as the Rekor v1 server called name. A trailing slash makes no difference.
func (s *server) serveRekor(w http.ResponseWriter, r *http.Request, name, path string) {
	path = strings.TrimSuffix(path, "/")
	type serve func(*face, http.ResponseWriter, *http.Request) error
	routes := map[string]map[string]serve{
		"log":                  {http.MethodGet: serveLogInfo},
		"log/proof":            {http.MethodGet: serveLogProof},
		"log/publicKey":        {http.MethodGet: servePublicKey},
		"log/entries":          {http.MethodGet: serveByIndex},
		"log/entries/retrieve": {http.MethodPost: serveRetrieve},
		"index/retrieve":       {http.MethodPost: serveSearch},
	}
	methods := routes[path]
	if id, ok := strings.CutPrefix(path, "log/entries/"); ok && methods == nil {
		methods = map[string]serve{http.MethodGet: func(f *face, w http.ResponseWriter, r *http.Request) error { return serveByID(f, w, r, id) }}
	}
	m := r.Method
	if m == http.MethodHead {
		m = http.MethodGet
	}
	f, err := s.face(name)
	switch {
	case err != nil:
	case methods == nil:
		err = &refused{http.StatusNotFound, fmt.Errorf("path %.200q was not found", r.URL.Path)}
	case methods[m] == nil:
		for known := range methods {
			w.Header().Set("Allow", known)
		}
		err = &refused{http.StatusMethodNotAllowed, fmt.Errorf("this is a mirror of %s: it answers what the log held at its last carried head and takes nothing", name)}
	default:
		err = methods[m](f, w, r)
	}
	if err != nil {
		s.failRekor(w, r, err)
	}
}

// failRekor answers an error as Rekor v1 does.
func (s *server) failRekor(w http.ResponseWriter, r *http.Request, err error) {
	var no *refused
	code := rekor.StatusOf(err)
	switch {
	case errors.Is(err, mirror.ErrNotFound):
		rekor.WriteErrorV1(w, http.StatusNotFound, "")
	case errors.As(err, &no):
		rekor.WriteErrorV1(w, no.code, no.Error())
	case code != 0:
		rekor.WriteErrorV1(w, code, err.Error())
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		rekor.WriteErrorV1(w, http.StatusServiceUnavailable, "the mirror is still reading what it holds; ask again")
	default:
		s.logger.ErrorContext(r.Context(), "answering for a mirrored log", "path", r.URL.Path, "error", err)
		rekor.WriteErrorV1(w, http.StatusInternalServerError, "the mirror cannot read this")
	}
}

func serveLogInfo(f *face, w http.ResponseWriter, r *http.Request) error {
	infos, err := f.infos()
	if err == nil {
		rekor.WriteJSON(w, http.StatusOK, infos)
	}
	return err
}

func serveLogProof(f *face, w http.ResponseWriter, r *http.Request) error {
	first, last, err := rekor.ParseSizes(r.URL.Query())
	if err != nil {
		return err
	}
	sh, err := f.tree(r.URL.Query())
	if err != nil {
		return err
	}
	proof, err := f.consistency(r.Context(), sh, first, last)
	if err == nil {
		rekor.WriteJSON(w, http.StatusOK, proof)
	}
	return err
}

func servePublicKey(f *face, w http.ResponseWriter, r *http.Request) error {
	sh, err := f.tree(r.URL.Query())
	if err != nil {
		return err
	}
	key, err := f.publicPEM(sh.head)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(key)
	return nil
}

func serveByIndex(f *face, w http.ResponseWriter, r *http.Request) error {
	index, err := rekor.ParseIndex(r.URL.Query())
	if err != nil {
		return err
	}
	at, err := f.locate(index)
	if err != nil {
		return err
	}
	return f.serveEntry(w, r, at)
}

func serveByID(f *face, w http.ResponseWriter, r *http.Request, id string) error {
	at, err := f.lookup(r.Context(), id)
	if err != nil {
		return err
	}
	return f.serveEntry(w, r, at)
}

func (f *face) serveEntry(w http.ResponseWriter, r *http.Request, at place) error {
	id, e, err := f.read(r.Context(), at)
	if err == nil {
		rekor.WriteJSON(w, http.StatusOK, map[string]rekor.LogEntry{id: e})
	}
	return err
}

func serveRetrieve(f *face, w http.ResponseWriter, r *http.Request) error {
	body, err := rekor.ReadBody(w, r, maxBody)
	if err != nil {
		return err
	}
	asked, err := rekor.ParseRetrieval(r.Context(), body)
	if err != nil {
		return err
	}
	found, err := f.retrieve(r.Context(), asked)
	if err == nil {
		rekor.WriteJSON(w, http.StatusOK, found)
	}
	return err
}

func serveSearch(f *face, w http.ResponseWriter, r *http.Request) error {
	body, err := rekor.ReadBody(w, r, maxBody)
	if err != nil {
		return err
	}
	q, err := rekor.ParseQuery(body)
	if err != nil {
		return err
	}
	ids, err := f.search(r.Context(), q)
	if err == nil {
		rekor.WriteJSON(w, http.StatusOK, ids)
	}
	return err
}
