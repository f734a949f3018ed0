package tsa

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"

	"redoubt.internal/hsm"
)

// Handler serves the timestamp API of Sigstore clients:
//
//	POST /api/v1/timestamp            DER or JSON request -> 201 application/timestamp-reply
//	GET  /api/v1/timestamp/certchain  PEM, leaf first
//	GET  /ping                        200, the server answers
//
//	POST /tsr                         DER request -> 200 application/timestamp-reply, for clients that know RFC 3161 alone
//
// with or without a trailing slash. Errors are {"code","message"} in JSON: 400
// for the request, 413 and 415 for its size and type, 503 when the key, the
// clock or the certificate does not serve now.
func (a *Authority) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, slash := range []string{"", "/{$}"} {
		mux.HandleFunc("POST /api/v1/timestamp"+slash, func(w http.ResponseWriter, r *http.Request) { a.serveTimestamp(w, r, http.StatusCreated) })
		mux.HandleFunc("POST /tsr"+slash, func(w http.ResponseWriter, r *http.Request) { a.serveTimestamp(w, r, http.StatusOK) })
		mux.HandleFunc("GET /api/v1/timestamp/certchain"+slash, a.serveCertChain)
		mux.HandleFunc("GET /ping"+slash, func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, ".") })
	}
	return mux
}

// serveTimestamp answers a request with what a client takes for success: those of Sigstore expect 201, and only they write JSON.
func (a *Authority) serveTimestamp(w http.ResponseWriter, r *http.Request, success int) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		kind = ""
	}
	parse, limit := ParseDER, int64(maxQuery)
	switch {
	case kind == "application/timestamp-query":
	case kind == "application/json" && success == http.StatusCreated:
		parse, limit = ParseJSON, maxJSON
	default:
		a.fail(w, r, http.StatusUnsupportedMediaType, errors.New("Content-Type must be application/timestamp-query or application/json"))
		return
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		a.fail(w, r, http.StatusRequestEntityTooLarge, errors.New("request is larger than "+strconv.FormatInt(limit, 10)+" bytes"))
		return
	}
	if err != nil {
		a.fail(w, r, http.StatusBadRequest, errors.New("request body cannot be read"))
		return
	}
	reply, err := a.processTimestamp(r.Context(), parse, body)
	if err != nil {
		a.fail(w, r, status(err), err)
		return
	}
	w.Header().Set("Content-Type", "application/timestamp-reply")
	w.Header().Set("Content-Length", strconv.Itoa(len(reply)))
	w.WriteHeader(success)
	w.Write(reply)
}

func (a *Authority) processTimestamp(ctx context.Context, parse func([]byte) (*Request, error), body []byte) ([]byte, error) {
	req, err := parse(body)
	if err != nil {
		return nil, err
	}
	return a.Issue(ctx, req)
}

func (a *Authority) serveCertChain(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/pem-certificate-chain")
	w.Header().Set("Content-Length", strconv.Itoa(len(a.pem)))
	w.Write(a.pem)
}

// status maps the errors of this package to HTTP, once.
func status(err error) int {
	switch {
	case errors.Is(err, ErrRequest):
		return http.StatusBadRequest
	case errors.Is(err, hsm.ErrUnavailable), errors.Is(err, ErrClock), errors.Is(err, ErrExpired), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fail answers an error. The text of an internal failure stays in the log.
func (a *Authority) fail(w http.ResponseWriter, r *http.Request, code int, err error) {
	text := err.Error()
	switch {
	case code == http.StatusInternalServerError:
		a.log.ErrorContext(r.Context(), "timestamp failed", "err", err)
		text = "internal error"
	case code == http.StatusServiceUnavailable:
		a.log.WarnContext(r.Context(), "timestamp unavailable", "err", err)
		w.Header().Set("Retry-After", "5")
		text = unavailable(err)
	default:
		a.log.DebugContext(r.Context(), "timestamp refused", "err", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, text})
}

func unavailable(err error) string {
	for _, known := range []error{ErrClock, ErrExpired, hsm.ErrUnavailable} {
		if errors.Is(err, known) {
			return known.Error()
		}
	}
	return "request ended"
}
