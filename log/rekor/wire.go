package rekor

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"strconv"

	"redoubt.internal/log/strictjson"
)

// The wire of Rekor v1, for whoever else speaks it: a mirror answers for logs that are not ours.

// LogEntry is LogEntryAnon of openapi.yaml; an answer is an object with the entry id as its one member.
type LogEntry struct {
	Attestation    *Attestation `json:"attestation,omitempty"`
	Body           []byte       `json:"body"` // canonical entry, base64
	IntegratedTime int64        `json:"integratedTime"`
	LogID          string       `json:"logID"`
	LogIndex       uint64       `json:"logIndex"` // over all v1 logs of the site; the proof's is within the tree
	Verification   Verification `json:"verification"`
}

// Attestation is the statement that an entry of kind intoto was logged with.
type Attestation struct {
	Data []byte `json:"data"`
}

// Verification is what proves an entry.
type Verification struct {
	InclusionProof       InclusionProof `json:"inclusionProof"`
	SignedEntryTimestamp []byte         `json:"signedEntryTimestamp,omitempty"`
}

// InclusionProof proves an entry in the tree of one shard; hashes are in hex.
type InclusionProof struct {
	Checkpoint string   `json:"checkpoint"`
	Hashes     []string `json:"hashes"`
	LogIndex   uint64   `json:"logIndex"`
	RootHash   string   `json:"rootHash"`
	TreeSize   uint64   `json:"treeSize"`
}

// LogInfo is InactiveShardLogInfo of openapi.yaml, and what LogInfo says of the active tree.
type LogInfo struct {
	RootHash       string `json:"rootHash"`
	SignedTreeHead string `json:"signedTreeHead"`
	TreeID         string `json:"treeID"`
	TreeSize       uint64 `json:"treeSize"`
}

// LogInfos is LogInfo of openapi.yaml: the active tree, and the shards before it.
type LogInfos struct {
	InactiveShards []LogInfo `json:"inactiveShards"`
	LogInfo
}

// ConsistencyProof is ConsistencyProof of openapi.yaml.
type ConsistencyProof struct {
	Hashes   []string `json:"hashes"`
	RootHash string   `json:"rootHash"`
}

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

// StatusOf returns the HTTP status of what is wrong with a request, 0 for an error that is not the request's.
func StatusOf(err error) int {
	var es *errStatus
	switch {
	case errors.As(err, &es):
		return es.code
	case errors.Is(err, ErrEntry):
		return http.StatusBadRequest
	}
	return 0
}

// errAbsent is the 404 of an entry: without a body, as openapi.yaml has it.
var errAbsent = &errStatus{http.StatusNotFound, errors.New("")}

// WriteErrorV1 answers {"code","message"}; a 404 of a known path has no body, and neither of ours has one.
func WriteErrorV1(w http.ResponseWriter, code int, message string) {
	if code == http.StatusNotFound && message == "" {
		w.Header().Set("Cache-Control", "no-store")
		w.WriteHeader(code)
		return
	}
	WriteJSON(w, code, struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, message})
}

// WriteJSON answers with a document that is not to be cached.
func WriteJSON(w http.ResponseWriter, code int, answer any) {
	body, err := json.Marshal(answer)
	if err != nil { // answers are plain structs of strings, numbers and bytes
		code, body = http.StatusInternalServerError, []byte(`{"code":500,"message":"encoding the answer"}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(code)
	w.Write(body) // the client's loss if it is gone
}

// ReadBody reads a JSON body of at most limit bytes. Of a longer one it reads no more than that and closes the connection.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	if ct := r.Header.Get("Content-Type"); ct != "" && ct != "application/json" {
		if t, _, err := mime.ParseMediaType(ct); err != nil || t != "application/json" {
			return nil, &errStatus{http.StatusUnsupportedMediaType, fmt.Errorf("unsupported media type %.80q, only [application/json] are allowed", ct)}
		}
	}
	if r.ContentLength > limit {
		w.Header().Set("Connection", "close")
		return nil, &errStatus{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is %d bytes, at most %d", r.ContentLength, limit)}
	}
	var buf bytes.Buffer
	buf.Grow(int(min(max(r.ContentLength, 0), 64<<10)) + bytes.MinRead) // an ordinary entry is read without growing
	_, err := buf.ReadFrom(http.MaxBytesReader(w, r.Body, limit))
	body := buf.Bytes()
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, &errStatus{http.StatusRequestEntityTooLarge, fmt.Errorf("the body is longer than %d bytes", limit)}
	case err != nil:
		return nil, badRequest("reading the body: %v", err)
	case len(body) == 0:
		return nil, badRequest("the body is empty")
	}
	return body, nil
}

// EntryID is the name of an entry: 16 hex digits of tree id and the leaf hash.
func EntryID(treeID int64, leafHash [32]byte) string {
	return fmt.Sprintf("%016x", uint64(treeID)) + hex.EncodeToString(leafHash[:])
}

// ParseID reads the name of an entry: 64 hex digits of leaf hash, or 80 with the tree id in front. The tree is 0 in names without one, or from
// before trees had names.
func ParseID(id string) (tree int64, leafHash [32]byte, err error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != 32 && len(raw) != 40 {
		return 0, leafHash, badRequest("entryUUID must be 64 or 80 hexadecimal digits, %.100q is not", id)
	}
	if len(raw) == 40 {
		if tree, err = strconv.ParseInt(id[:16], 16, 64); err != nil {
			return 0, leafHash, badRequest("%s is not a valid TreeID", id[:16])
		}
		raw = raw[8:]
	}
	return tree, [32]byte(raw), nil
}

// maxQueries is Rekor's limit on one retrieve request, over its three lists together.
const maxQueries = 10

// Retrieval is what a request asks entries by.
type Retrieval struct {
	IDs     []string // names, and leaf hashes of the entries that were sent along
	Indexes []uint64 // over all shards
}

// ParseRetrieval decodes {entryUUIDs, entries, logIndexes}.
func ParseRetrieval(ctx context.Context, body []byte) (out Retrieval, err error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return out, badRequest("%w", err)
	}
	if err := strictjson.Only(o, "entryUUIDs", "logIndexes", "entries"); err != nil {
		return out, badRequest("%w", err)
	}
	lists := make(map[string][]any)
	total := 0
	for name, v := range o {
		list, ok := v.([]any)
		if !ok && v != nil { // clients send null for the lists they leave out
			return out, badRequest("%s in body must be a list", name)
		}
		lists[name] = list
		total += len(list)
	}
	if total > maxQueries {
		return out, &errStatus{http.StatusUnprocessableEntity, fmt.Errorf("more than max allowed %d entries in request", maxQueries)}
	}
	if total == 0 {
		return out, badRequest("one of entryUUIDs, logIndexes and entries is required")
	}
	for i, v := range lists["entryUUIDs"] {
		id, ok := v.(string)
		if !ok {
			return out, badRequest("entryUUIDs.%d in body must be a string", i)
		}
		if _, _, err := ParseID(id); err != nil {
			return out, err
		}
		out.IDs = append(out.IDs, id)
	}
	for i, v := range lists["entries"] {
		proposed, ok := v.(map[string]any)
		if !ok {
			return out, badRequest("entries.%d in body must be an object", i)
		}
		e, err := proposedV1(ctx, proposed)
		if err != nil {
			return out, badRequest("entries.%d: %w", i, err)
		}
		hash := hashLeaf(e.Body)
		out.IDs = append(out.IDs, hex.EncodeToString(hash[:]))
	}
	for i, v := range lists["logIndexes"] {
		n, ok := v.(json.Number)
		index, err := n.Int64()
		if !ok || err != nil || index < 0 {
			return out, badRequest("logIndexes.%d in body must be a number, 0 or more", i)
		}
		out.Indexes = append(out.Indexes, uint64(index))
	}
	return out, nil
}

// ParseIndex reads the query of an entry by its index over all shards.
func ParseIndex(q url.Values) (uint64, error) { return number(q, "logIndex", "") }

// ParseSizes reads the query of a consistency proof: at least 1, in order.
func ParseSizes(q url.Values) (first, last uint64, err error) {
	if first, err = number(q, "firstSize", "1"); err != nil {
		return 0, 0, err
	}
	if last, err = number(q, "lastSize", ""); err != nil {
		return 0, 0, err
	}
	switch {
	case first < 1 || last < 1:
		return 0, 0, badRequest("firstSize and lastSize should be greater than or equal to 1")
	case first > last:
		return 0, 0, badRequest("firstSize(%d) must be less than lastSize(%d)", first, last)
	}
	return first, last, nil
}

// number reads a decimal query parameter, below 2^53 so that every JSON reader can repeat it; absent takes the place of one left out.
func number(q url.Values, name, absent string) (uint64, error) {
	v := absent
	if given, ok := q[name]; ok {
		if len(given) != 1 {
			return 0, badRequest("%s in query is given %d times", name, len(given))
		}
		v = given[0]
	}
	if v == "" {
		return 0, badRequest("%s in query is required", name)
	}
	n, err := strconv.ParseUint(v, 10, 53)
	if err != nil {
		return 0, badRequest("%s in query must be a number of entries or an index: %.40q", name, v)
	}
	return n, nil
}

func hexes(hashes [][]byte) []string {
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = hex.EncodeToString(h)
	}
	return out
}
