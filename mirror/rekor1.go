package mirror

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/tiles"
)

// layoutRekor1 is the API of Rekor v1, which has no tiles: entries come by ten, each with a proof of its own.
const layoutRekor1 = "rekor1"

// Longest answers of the API in bytes. An entry's body is at most tiles.MaxEntry, its attestation may be longer.
const (
	maxInfo       = 1 << 20
	maxAskedProof = 64 << 10
	maxAnswer     = 16 << 20
	perCall       = 10 // entries a call, as Rekor has it
)

// rekor1 asks one shard of a Rekor v1 site. Nothing it is told is trusted: whoever calls verifies.
type rekor1 struct {
	base    *url.URL
	network *Network
	log     *knownLog
	tree    int64
	first   uint64 // number over all shards of the shard's first entry; known once head was called
}

func openRekor1(log *knownLog, network *Network) (*rekor1, error) {
	base, err := sourceURL(log.Source)
	if err != nil {
		return nil, err
	}
	if base == nil {
		return nil, fmt.Errorf("%w: log %q: the layout %q is read at an http or https URL", ErrConfig, log.Origin, layoutRekor1)
	}
	if network == nil {
		if network, err = NewNetwork(Access{}); err != nil {
			return nil, err
		}
	}
	_, tree, _ := rekor1Origin(log.Origin)
	return &rekor1{base: base, network: network, log: log, tree: tree}, nil
}

// ask asks the API and reads its JSON answer into v.
func (s *rekor1) ask(ctx context.Context, path string, query url.Values, body any, limit int64, v any) error {
	u := s.base.JoinPath(path)
	u.RawQuery = query.Encode()
	a := ask{method: http.MethodGet, url: u.String(), limit: limit}
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		a.method, a.body = http.MethodPost, string(b)
	}
	got, err := s.network.do(ctx, a)
	if err != nil {
		return remoteErr("", err)
	}
	if err := strictjson.Check(got.body, strictjson.Limits{Bytes: int(limit), Depth: 16}); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRemote, a.url, err)
	}
	if err := json.Unmarshal(got.body, v); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRemote, a.url, err)
	}
	return nil
}

// shardInfo is what the site says of one of its trees.
type shardInfo struct {
	RootHash       string `json:"rootHash"`
	SignedTreeHead string `json:"signedTreeHead"`
	TreeID         string `json:"treeID"`
	TreeSize       uint64 `json:"treeSize"`
}

// head returns the shard's signed checkpoint, and learns the number over all shards of its first entry: the shards before it are frozen.
func (s *rekor1) head(ctx context.Context) (note []byte, err error) {
	var info struct {
		InactiveShards []shardInfo `json:"inactiveShards"`
		shardInfo
	}
	if err := s.ask(ctx, "/api/v1/log", nil, nil, maxInfo, &info); err != nil {
		return nil, err
	}
	s.first = 0
	for _, i := range append(info.InactiveShards, info.shardInfo) {
		if i.TreeID == strconv.FormatInt(s.tree, 10) {
			if s.log.FirstIndex != nil && *s.log.FirstIndex != s.first {
				return nil, fmt.Errorf("log %q: %w: %d entries stand before it, %d are configured", s.log.Origin, ErrProof, s.first, *s.log.FirstIndex)
			}
			return []byte(i.SignedTreeHead), nil
		}
		if s.first += i.TreeSize; s.first >= maxIndex || i.TreeSize >= maxIndex {
			return nil, fmt.Errorf("%w: shards of %d entries", ErrRemote, s.first)
		}
	}
	return nil, fmt.Errorf("%w: %s has no tree %d", ErrRemote, s.base.Host, s.tree)
}

// consistency returns the proof between two sizes of the shard.
func (s *rekor1) consistency(ctx context.Context, from, to uint64) ([]tiles.Hash, error) {
	var p struct {
		Hashes   []string `json:"hashes"`
		RootHash string   `json:"rootHash"`
	}
	q := url.Values{"firstSize": {strconv.FormatUint(from, 10)}, "lastSize": {strconv.FormatUint(to, 10)}, "treeID": {strconv.FormatInt(s.tree, 10)}}
	if err := s.ask(ctx, "/api/v1/log/proof", q, nil, maxAskedProof, &p); err != nil {
		return nil, err
	}
	return hexHashes(p.Hashes)
}

// rekorEntry is an entry as the API tells it, not verified.
type rekorEntry struct {
	Attestation *struct {
		Data []byte `json:"data"`
	} `json:"attestation"`
	Body           string `json:"body"`
	IntegratedTime int64  `json:"integratedTime"`
	LogID          string `json:"logID"`
	LogIndex       uint64 `json:"logIndex"`
	Verification   struct {
		InclusionProof *struct {
			Checkpoint string   `json:"checkpoint"`
			Hashes     []string `json:"hashes"`
			LogIndex   uint64   `json:"logIndex"`
			RootHash   string   `json:"rootHash"`
			TreeSize   uint64   `json:"treeSize"`
		} `json:"inclusionProof"`
		SignedEntryTimestamp []byte `json:"signedEntryTimestamp"`
	} `json:"verification"`
}

// retrieve asks for entries by what query holds, at most perCall of them. Those that are not there are left out of the answer.
func (s *rekor1) retrieve(ctx context.Context, query any) (map[string]rekorEntry, error) {
	var list []map[string]rekorEntry
	if err := s.ask(ctx, "/api/v1/log/entries/retrieve", nil, query, maxAnswer, &list); err != nil {
		return nil, err
	}
	out := make(map[string]rekorEntry)
	for _, m := range list {
		for id, e := range m {
			out[id] = e
		}
	}
	return out, nil
}

// byIndex asks for entries by their numbers in the shard and returns them in that order. One that is not there is fs.ErrNotExist.
func (s *rekor1) byIndex(ctx context.Context, indexes []uint64) ([]provenEntry, error) {
	var out []provenEntry
	for part := range slices.Chunk(indexes, perCall) {
		var ask []uint64
		for _, i := range part {
			ask = append(ask, s.first+i)
		}
		got, err := s.retrieve(ctx, map[string]any{"logIndexes": ask})
		if err != nil {
			return nil, err
		}
		found := make(map[uint64]provenEntry)
		for id, e := range got {
			p, err := s.verify(id, e)
			if err != nil {
				return nil, err
			}
			found[p.Index] = p
		}
		for k, i := range part {
			p, ok := found[i]
			if !ok || p.over != ask[k] {
				return nil, fmt.Errorf("%w: entry %d of log %q: %w", ErrRemote, i, s.log.Origin, fs.ErrNotExist)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

// search asks the index for what it has under a query, and returns the numbers in the shard of the entries that match as well.
func (s *rekor1) search(ctx context.Context, query map[string]any, match func(leaf []byte) bool) ([]uint64, error) {
	var ids []string
	if err := s.ask(ctx, "/api/v1/index/retrieve", nil, query, maxAnswer, &ids); err != nil {
		return nil, err
	}
	prefix := fmt.Sprintf("%016x", s.tree)
	ids = slices.DeleteFunc(ids, func(id string) bool { return !strings.HasPrefix(id, prefix) })
	var out []uint64
	for part := range slices.Chunk(ids, perCall) {
		got, err := s.retrieve(ctx, map[string]any{"entryUUIDs": part})
		if err != nil {
			return nil, err
		}
		for _, id := range part {
			e, ok := got[id]
			if !ok {
				return nil, fmt.Errorf("%w: entry %.80s: %w", ErrRemote, id, fs.ErrNotExist)
			}
			p, err := s.verify(id, e)
			if err != nil {
				return nil, err
			}
			if match(p.Leaf) {
				out = append(out, p.Index)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// provenEntry is an entry that is in the tree of a checkpoint its log signed.
type provenEntry struct {
	Record
	over  uint64 // its number over all shards
	note  []byte
	in    Checkpoint
	nodes []tiles.NodeHash // complete subtrees that the checkpoint fixes with it
}

// verify proves an entry: its id, its inclusion under the checkpoint that came with it, the signed entry timestamp.
func (s *rekor1) verify(id string, e rekorEntry) (p provenEntry, err error) {
	bad := func(err error) error {
		return fmt.Errorf("entry %d of log %q: %w", p.Index, s.log.Origin, err)
	}
	proof := e.Verification.InclusionProof
	if proof == nil {
		return p, bad(fmt.Errorf("%w: it has no inclusion proof", ErrProof))
	}
	p.Index, p.over, p.note = proof.LogIndex, e.LogIndex, []byte(proof.Checkpoint)
	if p.Leaf, err = base64.StdEncoding.Strict().DecodeString(e.Body); err != nil {
		return p, bad(fmt.Errorf("%w: its body is no base64", ErrProof))
	}
	leaf := tiles.LeafHash(p.Leaf)
	if own := hex.EncodeToString(leaf[:]); id != own && id != fmt.Sprintf("%016x%s", s.tree, own) {
		return p, bad(fmt.Errorf("%w: it is called %.80q and hashes to %s", ErrProof, id, own))
	}
	if p.in, err = s.log.open(p.note); err != nil {
		return p, bad(err)
	}
	hashes, err := hexHashes(proof.Hashes)
	if err != nil {
		return p, bad(err)
	}
	root, nodes, err := tiles.Path(p.Index, p.in.Size, leaf, hashes)
	if err == nil && root != p.in.Root {
		err = fmt.Errorf("%w: its proof leads to root %s, %s is signed", ErrProof, root, p.in.Root)
	}
	if err != nil {
		return p, bad(fmt.Errorf("%w: %w", ErrProof, err))
	}
	p.nodes = nodes
	x := entry.Extra{IntegratedTime: e.IntegratedTime, LogID: e.LogID, LogIndex: e.LogIndex, SignedEntryTimestamp: e.Verification.SignedEntryTimestamp}
	if p.Extra, err = x.Encode(); err == nil {
		err = s.log.checkRekor(p.Record, x)
	}
	if err != nil {
		return p, bad(fmt.Errorf("%w: %w", ErrProof, err))
	}
	if e.Attestation != nil { // kept if it is the one that was logged, and fits
		x.Attestation = e.Attestation.Data
		if b, err := x.Encode(); err == nil && s.log.checkRekor(p.Record, x) == nil {
			p.Extra = b
		}
	}
	if len(p.Leaf) > tiles.MaxEntry {
		return p, bad(fmt.Errorf("%w: its body has %d bytes, a bundle holds %d", ErrConfig, len(p.Leaf), tiles.MaxEntry))
	}
	return p, nil
}

func hexHashes(list []string) ([]tiles.Hash, error) {
	if len(list) > 128 {
		return nil, fmt.Errorf("%w: a proof of %d hashes", ErrProof, len(list))
	}
	var out []tiles.Hash
	for _, s := range list {
		b, err := hex.DecodeString(s)
		if err != nil || len(b) != tiles.HashSize {
			return nil, fmt.Errorf("%w: %.80q is no hash", ErrProof, s)
		}
		out = append(out, tiles.Hash(b))
	}
	return out, nil
}

// sourceURL reads a source on the network; nil is a folder.
func sourceURL(location string) (*url.URL, error) {
	if scheme, _, ok := strings.Cut(location, "://"); !ok || scheme == "file" {
		return nil, nil
	}
	u, err := url.Parse(location)
	if err != nil || u.User != nil { // neither is repeated: there may be a password in it
		return nil, fmt.Errorf("%w: a source is a URL without user and password", ErrConfig)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: source %.200q is neither a directory nor an http or https URL", ErrConfig, location)
	}
	return u, nil
}
