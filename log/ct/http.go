package ct

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"

	"redoubt.internal/log"
	"redoubt.internal/log/strictjson"
)

// MaxEntries is the most entries one get-entries answer holds; a client asks again for the rest, as RFC 6962 4.6 tells it to.
const MaxEntries = 256

// errStatus is an error that knows its HTTP status.
type errStatus struct {
	code int
	err  error
}

func (e *errStatus) Error() string { return e.err.Error() }
func (e *errStatus) Unwrap() error { return e.err }

func badRequest(format string, args ...any) error {
	return &errStatus{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

func notFound(format string, args ...any) error {
	return &errStatus{http.StatusNotFound, fmt.Errorf(format, args...)}
}

// Handler serves RFC 6962 section 4 under /ct/v1/. Errors are text with the status line first, as public logs answer.
func (l *Log) Handler() http.Handler {
	mux := http.NewServeMux()
	get := func(name string, serve func(context.Context, url.Values) (any, error)) {
		l.route(mux, name, http.MethodGet, func(_ http.ResponseWriter, r *http.Request) (any, error) {
			q, err := url.ParseQuery(r.URL.RawQuery)
			if err != nil {
				return nil, badRequest("malformed query")
			}
			return serve(r.Context(), q)
		})
	}
	l.route(mux, "add-pre-chain", http.MethodPost, l.serveAddPreChain)
	l.route(mux, "add-chain", http.MethodPost, func(http.ResponseWriter, *http.Request) (any, error) {
		return nil, badRequest("this log takes precertificates only: submit to add-pre-chain")
	})
	get("get-sth", l.processSTH)
	get("get-sth-consistency", l.processConsistency)
	get("get-proof-by-hash", l.processProofByHash)
	get("get-entries", l.processEntries)
	get("get-entry-and-proof", l.processEntryAndProof)
	get("get-roots", l.processRoots)
	return mux
}

// route serves one endpoint, with or without a trailing slash, for one method, and maps errors to statuses.
func (l *Log) route(mux *http.ServeMux, name, method string, serve func(http.ResponseWriter, *http.Request) (any, error)) {
	h := func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
			w.Header().Set("Allow", method)
			sendError(w, http.StatusMethodNotAllowed, fmt.Errorf("method not allowed: %s", r.Method))
			return
		}
		answer, err := serve(w, r)
		if err != nil {
			code := l.status(err)
			if code >= http.StatusInternalServerError {
				l.c.Logger.ErrorContext(r.Context(), "ct request failed", "endpoint", name, "status", code, "error", err)
			}
			sendError(w, code, err)
			return
		}
		body, err := json.Marshal(answer)
		if err != nil {
			sendError(w, http.StatusInternalServerError, errors.New("encoding the answer"))
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Write(body) // the client's loss if it is gone
	}
	mux.HandleFunc("/ct/v1/"+name, h)
	mux.HandleFunc("/ct/v1/"+name+"/{$}", h)
}

func sendError(w http.ResponseWriter, code int, err error) {
	if errors.Is(err, log.ErrSigning) { // what the key says of itself is for the log's own record
		err = errors.New("the log's key is unavailable")
	}
	http.Error(w, http.StatusText(code)+"\n"+err.Error(), code)
}

// status maps an error to its HTTP status. A log that cannot write answers 503 and says why.
func (l *Log) status(err error) int {
	var es *errStatus
	switch {
	case errors.As(err, &es):
		return es.code
	case errors.Is(err, ErrChain):
		return http.StatusBadRequest
	case errors.Is(err, ErrFrozen):
		return http.StatusForbidden
	case errors.Is(err, log.ErrNotFound):
		return http.StatusNotFound
	case errors.Is(err, log.ErrReadOnly), errors.Is(err, log.ErrRolledBack), errors.Is(err, log.ErrClosed), errors.Is(err, log.ErrSigning),
		errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded), l.c.Log.Err() != nil:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

func (l *Log) serveAddPreChain(w http.ResponseWriter, r *http.Request) (any, error) {
	if r.ContentLength > l.c.MaxBody {
		w.Header().Set("Connection", "close")
		return nil, &errStatus{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is %d bytes, at most %d", r.ContentLength, l.c.MaxBody)}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, l.c.MaxBody))
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &errStatus{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is longer than %d bytes", l.c.MaxBody)}
	case err != nil:
		return nil, badRequest("reading the body: %v", err)
	}
	chain, err := parseAddChain(body)
	if err != nil {
		return nil, &errStatus{http.StatusBadRequest, err}
	}
	if err := l.c.Log.Err(); err != nil {
		return nil, err
	}
	sct, err := l.AddPreChain(r.Context(), chain)
	if err != nil {
		return nil, err
	}
	sig, err := cttls.Marshal(sct.Signature)
	if err != nil {
		return nil, fmt.Errorf("encoding the timestamp: %w", err)
	}
	return cttypes.AddChainResponse{
		SCTVersion: sct.SCTVersion, ID: sct.LogID.KeyID[:], Timestamp: sct.Timestamp,
		Extensions: base64.StdEncoding.EncodeToString(sct.Extensions), Signature: sig,
	}, nil
}

// parseAddChain decodes {"chain":["<base64 DER>", ...]} and nothing else.
func parseAddChain(body []byte) ([][]byte, error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return nil, err
	}
	if err := strictjson.Only(o, "chain"); err != nil {
		return nil, err
	}
	list, ok := o["chain"].([]any)
	if !ok || len(list) == 0 {
		return nil, errors.New("cert chain was empty")
	}
	if len(list) > maxChain {
		return nil, fmt.Errorf("the chain has %d certificates, at most %d", len(list), maxChain)
	}
	chain := make([][]byte, len(list))
	for i, v := range list {
		s, ok := v.(string)
		if !ok || s == "" {
			return nil, fmt.Errorf("chain[%d] is not a base64 string", i)
		}
		if chain[i], err = base64.StdEncoding.DecodeString(s); err != nil {
			return nil, fmt.Errorf("chain[%d] is not base64", i)
		}
	}
	return chain, nil
}

func (l *Log) processSTH(context.Context, url.Values) (any, error) {
	h, err := l.head()
	if err != nil {
		return nil, err
	}
	return cttypes.GetSTHResponse{TreeSize: h.size, Timestamp: h.timestamp, SHA256RootHash: h.root[:], TreeHeadSignature: h.signature}, nil
}

func (l *Log) processConsistency(ctx context.Context, q url.Values) (any, error) {
	first, err := number(q, "first")
	if err != nil {
		return nil, err
	}
	second, err := number(q, "second")
	if err != nil {
		return nil, err
	}
	if second < first {
		return nil, badRequest("invalid first, second params: %d %d", first, second)
	}
	if size := l.c.Log.Head().Size; second > size {
		return nil, badRequest("need tree size: %d for proof but only got: %d", second, size)
	}
	proof := [][]byte{}
	if first > 0 && first < second {
		if proof, err = l.c.Log.ConsistencyProof(ctx, first, second); err != nil {
			return nil, fmt.Errorf("proving consistency: %w", err)
		}
	}
	return cttypes.GetSTHConsistencyResponse{Consistency: proof}, nil
}

func (l *Log) processProofByHash(ctx context.Context, q url.Values) (any, error) {
	size, err := number(q, "tree_size")
	if err != nil {
		return nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(q.Get("hash"))
	if err != nil || len(raw) != 32 {
		return nil, badRequest("hash: not the base64 of a SHA-256 hash")
	}
	if size == 0 {
		return nil, badRequest("tree_size must be > 0")
	}
	if known := l.c.Log.Head().Size; size > known {
		return nil, notFound("log returned tree size: %d but we expected: %d", known, size)
	}
	index, found, err := l.c.Log.LeafIndex(ctx, [32]byte(raw))
	if err != nil {
		return nil, fmt.Errorf("looking up the hash: %w", err)
	}
	if !found || index >= size {
		return nil, notFound("no entry with this hash in the tree of size %d", size)
	}
	proof, err := l.c.Log.InclusionProof(ctx, index, size)
	if err != nil {
		return nil, fmt.Errorf("proving inclusion: %w", err)
	}
	return cttypes.GetProofByHashResponse{LeafIndex: int64(index), AuditPath: nonNil(proof)}, nil
}

func (l *Log) processEntries(ctx context.Context, q url.Values) (any, error) {
	start, err := number(q, "start")
	if err != nil {
		return nil, err
	}
	end, err := number(q, "end")
	if err != nil {
		return nil, err
	}
	size := l.c.Log.Head().Size
	switch {
	case start > end:
		return nil, badRequest("start (%d) and end (%d) is not a valid range", start, end)
	case start >= size:
		return nil, badRequest("need tree size: %d to get leaves but only got: %d", start+1, size)
	}
	end = min(end, size-1, start+MaxEntries-1)
	answer := cttypes.GetEntriesResponse{Entries: make([]cttypes.LeafEntry, 0, end-start+1)}
	for i := start; i <= end; i++ {
		e, err := l.c.Log.Entry(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		answer.Entries = append(answer.Entries, cttypes.LeafEntry{LeafInput: e.Leaf, ExtraData: e.Extra})
	}
	return answer, nil
}

func (l *Log) processEntryAndProof(ctx context.Context, q url.Values) (any, error) {
	index, err := number(q, "leaf_index")
	if err != nil {
		return nil, err
	}
	size, err := number(q, "tree_size")
	if err != nil {
		return nil, err
	}
	if index >= size {
		return nil, badRequest("leaf_index %d out of range for tree of size %d", index, size)
	}
	if known := l.c.Log.Head().Size; size > known {
		return nil, badRequest("need tree size: %d for proof but only got: %d", size, known)
	}
	e, err := l.c.Log.Entry(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("reading entry %d: %w", index, err)
	}
	proof, err := l.c.Log.InclusionProof(ctx, index, size)
	if err != nil {
		return nil, fmt.Errorf("proving inclusion: %w", err)
	}
	return cttypes.GetEntryAndProofResponse{LeafInput: e.Leaf, ExtraData: e.Extra, AuditPath: nonNil(proof)}, nil
}

func (l *Log) processRoots(context.Context, url.Values) (any, error) {
	answer := cttypes.GetRootsResponse{Certificates: make([]string, 0, len(l.roots.list))}
	for _, r := range l.roots.list {
		answer.Certificates = append(answer.Certificates, base64.StdEncoding.EncodeToString(r.Raw))
	}
	return answer, nil
}

// number reads a query parameter: decimal, no sign, below 2^53 so that every JSON reader can repeat it.
func number(q url.Values, name string) (uint64, error) {
	v := q[name]
	if len(v) != 1 || v[0] == "" {
		return 0, badRequest("parameter '%s' is required once", name)
	}
	n, err := strconv.ParseUint(v[0], 10, 53)
	if err != nil || strings.HasPrefix(v[0], "+") {
		return 0, badRequest("parameter '%s' is malformed", name)
	}
	return n, nil
}

func nonNil(proof [][]byte) [][]byte {
	if proof == nil {
		return [][]byte{}
	}
	return proof
}
