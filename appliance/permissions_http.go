package main

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"redoubt.internal/appliance/cmdline"
	"slices"
	"strings"
)

// admit says whether the room of a service may have a request. It answers what falls under no row of routeTable, and reads of a log
// by somebody who is not known where log.read wants that.
func (s *server) admit(service string, w http.ResponseWriter, r *http.Request) bool {
	found, allowed := s.routes.find(service, s.belowBase(service, r))
	switch {
	case found == "" && len(allowed) > 0:
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		writeJSON(w, http.StatusMethodNotAllowed, refusal{http.StatusMethodNotAllowed, "method " + r.Method + " is not allowed, but " + strings.Join(allowed, " and ") + " are"})
		return false
	case found == "":
		writeJSON(w, http.StatusNotFound, refusal{http.StatusNotFound, "path was not found"})
		return false
	case found == readFace && s.instance().law().reading == readAuthenticated:
		if _, err := s.caller(r); err != nil {
			s.refuseCaller(w, r, err)
			return false
		}
	}
	return true
}

// belowBase takes the path of the built-in issuer's URL off its requests.
func (s *server) belowBase(service string, r *http.Request) *http.Request {
	if service != "oidc" || s.cfg.Services.OIDC == nil {
		return r
	}
	base, err := url.Parse(s.cfg.Services.OIDC.URL)
	rest, ok := strings.CutPrefix(r.URL.Path, strings.TrimSuffix(base.Path, "/"))
	if err != nil || !ok || base.Path == "" {
		return r
	}
	return &http.Request{Method: r.Method, URL: &url.URL{Path: rest}}
}

// caller is the member of people that a request over the network is from: by its token if it has one, else by its client certificate.
func (s *server) caller(r *http.Request) (person, error) {
	l := s.instance().law()
	if header := r.Header.Values("Authorization"); len(header) > 0 {
		scheme, token, _ := strings.Cut(header[0], " ")
		if len(header) > 1 || !strings.EqualFold(scheme, "bearer") {
			return person{}, errUnknownPerson
		}
		return l.token(r.Context(), strings.TrimSpace(token))
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return person{}, errUnknownPerson
	}
	return l.certificate(r.TLS.PeerCertificates, s.instance().now())
}

// refuseCaller answers 401 and leaves the reason to the server's own log.
func (s *server) refuseCaller(w http.ResponseWriter, r *http.Request, err error) {
	s.logger.WarnContext(r.Context(), "a request of somebody who is not known", "path", r.URL.Path, "from", r.RemoteAddr, "error", err)
	w.Header().Set("WWW-Authenticate", `Bearer realm="redoubt people"`)
	writeJSON(w, http.StatusUnauthorized, refusal{http.StatusUnauthorized, "a client certificate or a token of a member of people is needed"})
}

// serveAct does one operation for a person over the network: the body is the operation's arguments in JSON, the answer what
// `redoubt VERB -o json` would print, or 422 with the error, its hint and its exit code. Only JSON is taken: a page of another
// site that a browser shows cannot send it.
func (s *server) serveAct(w http.ResponseWriter, r *http.Request) {
	who, err := s.caller(r)
	if err != nil {
		s.refuseCaller(w, r, err)
		return
	}
	if kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || kind != "application/json" {
		writeJSON(w, http.StatusUnsupportedMediaType, refusal{http.StatusUnsupportedMediaType, "Content-Type must be application/json"})
		return
	}
	s.serveOperation(w, r, r.PathValue("operation"), who, s.reach)
}

// doer does one operation for a person: operate in this process, reach wherever it is done.
type doer func(ctx context.Context, o operation, who person, args json.RawMessage) (any, error)

// serveOperation answers one operation for who.
func (s *server) serveOperation(w http.ResponseWriter, r *http.Request, name string, who person, do doer) {
	all := operations()
	i := slices.IndexFunc(all, func(o operation) bool { return o.name == name })
	if i < 0 {
		writeFailure(w, cmdline.Usage("the server knows no operation %q; client and server differ in version", name))
		return
	}
	args, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxCallBytes))
	if err != nil {
		writeFailure(w, cmdline.Usage("arguments of %s: %v", name, err))
		return
	}
	result, err := do(r.Context(), all[i], who, json.RawMessage(args))
	switch {
	case errors.Is(err, errNotAllowed) && r.TLS != nil:
		writeJSON(w, http.StatusForbidden, refusal{http.StatusForbidden, err.Error()})
	case err != nil:
		writeFailure(w, err)
	default:
		writeJSON(w, http.StatusOK, result)
	}
}

// peer is the person at the other end of a local socket.
func (s *server) peer(ctx context.Context) person {
	if uid, known := ctx.Value(peerKey{}).(int); known {
		return s.instance().law().user(uid)
	}
	return person{how: "unknown"}
}
