package rekor

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"redoubt.internal/log"
)

// routesV1 is Rekor's openapi.yaml.
func (l *Log) routesV1(route func(string, http.HandlerFunc)) {
	type serve func(w http.ResponseWriter, r *http.Request) error
	handle := func(byMethod map[string]string, serves map[string]serve) http.HandlerFunc {
		methods := make([]string, 0, 2)
		for _, m := range []string{http.MethodGet, http.MethodPost} {
			if _, ok := byMethod[m]; ok {
				methods = append(methods, m)
			}
		}
		return func(w http.ResponseWriter, r *http.Request) {
			err := method(w, r, methods...)
			if err == nil {
				m := r.Method
				if m == http.MethodHead {
					m = http.MethodGet
				}
				if op := byMethod[m]; l.disabled[op] || !l.serves(V1) {
					err = &errStatus{http.StatusNotImplemented, fmt.Errorf("%s API not enabled in this Rekor instance", op)}
				} else {
					err = serves[m](w, r)
				}
			}
			if err != nil {
				l.fail(w, r, WriteErrorV1, err)
			}
		}
	}
	one := func(m, op string, s serve) http.HandlerFunc {
		return handle(map[string]string{m: op}, map[string]serve{m: s})
	}

	route("/api/v1/log/entries", handle(
		map[string]string{http.MethodPost: "createLogEntry", http.MethodGet: "getLogEntryByIndex"},
		map[string]serve{http.MethodPost: l.serveCreateV1, http.MethodGet: l.serveEntryByIndex}))
	route("/api/v1/log/entries/retrieve", one(http.MethodPost, "searchLogQuery", l.serveRetrieve))
	route("/api/v1/log/entries/{id}", one(http.MethodGet, "getLogEntryByUUID", l.serveEntryByID))
	route("/api/v1/index/retrieve", one(http.MethodPost, "searchIndex", l.serveSearchIndex))
	route("/api/v1/log", one(http.MethodGet, "getLogInfo", l.serveLogInfo))
	route("/api/v1/log/proof", one(http.MethodGet, "getLogProof", l.serveLogProof))
	route("/api/v1/log/publicKey", one(http.MethodGet, "getPublicKey", l.servePublicKey))
	route("/ping", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write([]byte("."))
	})
}

// render makes the v1 form of an entry with its proof in h. Of a log that does not serve v1 it has what that log signs: the v2 checkpoint,
// no time and no entry timestamp.
func (l *Log) render(index uint64, body []byte, integrated int64, attested []byte, proof [][]byte, h log.Head) (LogEntry, error) {
	var set []byte
	note := string(h.Note)
	over := index
	if l.serves(V1) {
		var err error
		over += l.c.FirstIndex
		if set, err = l.signTimestamp(body, integrated, over); err != nil {
			return LogEntry{}, err
		}
		if note, err = l.checkpointV1(h); err != nil {
			return LogEntry{}, err
		}
	} else {
		integrated = 0
	}
	e := LogEntry{
		Body: body, IntegratedTime: integrated, LogID: hex.EncodeToString(l.logID[:]), LogIndex: over,
		Verification: Verification{
			InclusionProof: InclusionProof{
				Checkpoint: note, Hashes: hexes(proof), LogIndex: index, RootHash: hex.EncodeToString(h.Root[:]), TreeSize: h.Size,
			},
			SignedEntryTimestamp: set,
		},
	}
	if attested != nil {
		e.Attestation = &Attestation{attested}
	}
	return e, nil
}

// read returns the entry at index in the v1 form, proved in the current head.
func (l *Log) read(ctx context.Context, index uint64) (string, LogEntry, error) {
	h := l.c.Log.Head()
	if index >= h.Size {
		return "", LogEntry{}, errAbsent
	}
	stored, err := l.c.Log.Entry(ctx, index)
	if err != nil {
		return "", LogEntry{}, fmt.Errorf("reading entry %d: %w", index, err)
	}
	x, err := parseExtra(stored.Extra)
	if err != nil {
		return "", LogEntry{}, fmt.Errorf("reading entry %d: %w", index, err)
	}
	proof, err := l.c.Log.InclusionProof(ctx, index, h.Size)
	if err != nil {
		return "", LogEntry{}, fmt.Errorf("proving entry %d: %w", index, err)
	}
	e, err := l.render(index, stored.Leaf, x.time, x.attestation, proof, h)
	return l.entryID(hashLeaf(stored.Leaf)), e, err
}

func (l *Log) serveCreateV1(w http.ResponseWriter, r *http.Request) error {
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	if err := l.c.Log.Err(); err != nil {
		return err
	}
	proposed, err := parseV1(r.Context(), body)
	if err != nil {
		return badRequest("error processing entry: %w", err)
	}
	receipt, integrated, err := l.Add(r.Context(), proposed)
	if errors.Is(err, log.ErrDuplicate) {
		id := l.entryID(hashLeaf(proposed.Body))
		w.Header().Set("Location", "/api/v1/log/entries/"+id)
		return &errStatus{http.StatusConflict, fmt.Errorf("an equivalent entry already exists in the transparency log with UUID %s", id)}
	}
	if err != nil {
		return err
	}
	e, err := l.render(receipt.Index, proposed.Body, integrated, nil, receipt.Proof, receipt.Checkpoint)
	if err != nil {
		return err
	}
	id := l.entryID(receipt.LeafHash)
	w.Header().Set("ETag", id) // unquoted: clients look the entry up under exactly this
	w.Header().Set("Location", "/api/v1/log/entries/"+id)
	WriteJSON(w, http.StatusCreated, map[string]LogEntry{id: e})
	return nil
}

func (l *Log) serveEntryByIndex(w http.ResponseWriter, r *http.Request) error {
	index, err := ParseIndex(r.URL.Query())
	if err != nil {
		return err
	}
	at, err := l.locate(index)
	if err != nil {
		return err
	}
	id, e, err := at.log.read(r.Context(), at.index)
	if err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, map[string]LogEntry{id: e})
	return nil
}

func (l *Log) serveEntryByID(w http.ResponseWriter, r *http.Request) error {
	at, err := l.lookup(r.Context(), r.PathValue("id"))
	if err != nil {
		return err
	}
	id, e, err := at.log.read(r.Context(), at.index)
	if err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, map[string]LogEntry{id: e})
	return nil
}

// place is where an entry stands: in this log or in one beside it.
type place struct {
	log   *Log
	index uint64
}

// readable are the logs v1 reads look into, this one first.
func (l *Log) readable() []*Log { return append([]*Log{l}, l.c.Beside...) }

// locate finds the entry with a logIndex over all v1 logs.
func (l *Log) locate(over uint64) (place, error) {
	for _, in := range l.readable() {
		if first := in.c.FirstIndex; in.serves(V1) && over >= first && over-first < in.c.Log.Head().Size {
			return place{in, over - first}, nil
		}
	}
	return place{}, errAbsent
}

// shard is the log that serves v1 and has the tree id a query names: this one where it names none, or one frozen beside it.
func (l *Log) shard(q url.Values) (*Log, error) {
	v := q.Get("treeID")
	if v == "" {
		return l, nil
	}
	id, err := strconv.ParseInt(v, 10, 64)
	if err != nil {
		return nil, badRequest("invalid tree ID specified: %.40q", v)
	}
	for _, in := range l.readable() {
		if in.serves(V1) && in.c.TreeID == id {
			return in, nil
		}
	}
	return nil, badRequest("%d is not a valid tree ID and doesn't appear to be a shard of this log", id)
}

// lookup finds the entry named by 64 hex digits of leaf hash, or by 80 with the tree id in front.
func (l *Log) lookup(ctx context.Context, id string) (place, error) {
	tree, leaf, err := ParseID(id)
	if err != nil {
		return place{}, err
	}
	for _, in := range l.readable() {
		if tree != 0 && tree != in.c.TreeID {
			continue
		}
		index, found, err := in.c.Log.LeafIndex(ctx, leaf)
		if err != nil {
			return place{}, fmt.Errorf("looking up the entry: %w", err)
		}
		if found {
			return place{in, index}, nil
		}
	}
	return place{}, errAbsent
}

func (l *Log) info() (LogInfo, error) {
	h := l.c.Log.Head()
	note, err := l.checkpointV1(h)
	return LogInfo{hex.EncodeToString(h.Root[:]), note, strconv.FormatInt(l.c.TreeID, 10), h.Size}, err
}

// serveLogInfo states the head of this tree, and those of the v1 logs beside it that take no more entries.
func (l *Log) serveLogInfo(w http.ResponseWriter, r *http.Request) error {
	inactive := []LogInfo{}
	for _, in := range l.c.Beside {
		if !in.serves(V1) || !in.c.Frozen {
			continue
		}
		i, err := in.info()
		if err != nil {
			return fmt.Errorf("shard %d: %w", in.c.TreeID, err)
		}
		inactive = append(inactive, i)
	}
	active, err := l.info()
	if err != nil {
		return err
	}
	WriteJSON(w, http.StatusOK, LogInfos{inactive, active})
	return nil
}

// serveLogProof proves consistency. Its rootHash is the current root, whatever lastSize is, as in Rekor.
func (l *Log) serveLogProof(w http.ResponseWriter, r *http.Request) error {
	q := r.URL.Query()
	first, last, err := ParseSizes(q)
	if err != nil {
		return err
	}
	in, err := l.shard(q)
	if err != nil {
		return err
	}
	h := in.c.Log.Head()
	if last > h.Size {
		return badRequest("the tree size requested(%d) was greater than what is currently observable(%d)", last, h.Size)
	}
	var proof [][]byte
	if first < last {
		if proof, err = in.c.Log.ConsistencyProof(r.Context(), first, last); err != nil {
			return fmt.Errorf("proving consistency: %w", err)
		}
	}
	WriteJSON(w, http.StatusOK, ConsistencyProof{hexes(proof), hex.EncodeToString(h.Root[:])})
	return nil
}

func (l *Log) servePublicKey(w http.ResponseWriter, r *http.Request) error {
	in, err := l.shard(r.URL.Query())
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(in.publicPEM)
	return nil
}
