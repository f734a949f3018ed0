package serve

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/tiles"
)

// shard is one mirrored log of a Rekor v1 face: a tree with its own checkpoints, and its place in the count over all.
type shard struct {
	head    mirror.Head
	treeID  int64 // 0 for a log that is none of Rekor v1
	first   uint64
	ordered bool // first is known
}

// face is one Rekor v1 server as clients know it: the mirrored logs "<name> - <tree id>" in the order of their entries, the last of them the
// active one, or else the one log called name.
type face struct {
	s      *server
	name   string
	shards []shard
}

func (s *server) face(name string) (*face, error) {
	origins, err := s.m.Origins()
	if err != nil {
		return nil, err
	}
	f := &face{s: s, name: name}
	for _, o := range origins {
		host, id, tree := mirror.RekorTree(o)
		if tree && host != name || !tree && o != name {
			continue
		}
		sh := shard{treeID: id}
		if sh.head, err = s.m.Head(o); err != nil {
			return nil, err
		}
		if sh.first, sh.ordered, err = s.index.firstOf(sh.head); err != nil {
			return nil, err
		}
		f.shards = append(f.shards, sh)
	}
	if len(f.shards) == 0 {
		return nil, fmt.Errorf("%w: no log of %q", mirror.ErrNotFound, name)
	}
	slices.SortStableFunc(f.shards, func(a, b shard) int {
		if a.ordered != b.ordered { // one whose place is unknown counts before the others
			return cmp.Compare(number(a.ordered), number(b.ordered))
		}
		return cmp.Or(cmp.Compare(a.first, b.first), a.head.Imported.Compare(b.head.Imported))
	})
	return f, nil
}

func number(b bool) int {
	if b {
		return 1
	}
	return 0
}

func (f *face) active() shard { return f.shards[len(f.shards)-1] }

// tree is the shard a query names by treeID, the active one where it names none.
func (f *face) tree(q url.Values) (shard, error) {
	v := q.Get("treeID")
	if v == "" {
		return f.active(), nil
	}
	for _, sh := range f.shards {
		if strconv.FormatInt(sh.treeID, 10) == v {
			return sh, nil
		}
	}
	return shard{}, badRequest("%.40q is not the tree ID of a log of %s that is mirrored here", v, f.name)
}

// place is where an entry stands.
type place struct {
	shard shard
	index uint64
}

// locate finds the entry with an index over all shards.
func (f *face) locate(over uint64) (place, error) {
	for _, sh := range f.shards {
		if first := sh.first; (sh.ordered || len(f.shards) == 1) && over >= first && over-first < sh.head.Size {
			return place{sh, over - first}, nil
		}
	}
	return place{}, mirror.ErrNotFound
}

// lookup finds the entry of a name.
func (f *face) lookup(ctx context.Context, id string) (place, error) {
	tree, leaf, err := rekor.ParseID(id)
	if err != nil {
		return place{}, err
	}
	for _, sh := range f.shards {
		if tree != 0 && tree != sh.treeID {
			continue
		}
		found, err := f.s.index.Find(ctx, sh.head.Origin, leafTerm(leaf))
		if err != nil {
			return place{}, err
		}
		if len(found) > 0 {
			return place{sh, found[0]}, nil
		}
	}
	return place{}, mirror.ErrNotFound
}

// read returns an entry as the upstream log would answer it now, were it to stand where it stood at its last carried head: proven under that
// head's own signed checkpoint, with the time and the timestamp the log signed.
func (f *face) read(ctx context.Context, at place) (id string, e rekor.LogEntry, err error) {
	origin := at.shard.head.Origin
	leaf, proof, head, err := f.s.m.Inclusion(ctx, origin, at.index)
	if err != nil {
		return "", e, err
	}
	r, err := f.s.m.Record(origin, at.index)
	if err != nil {
		return "", e, err
	}
	if tiles.LeafHash(r.Leaf) != leaf {
		return "", e, fmt.Errorf("%w: entry %d of %q does not hash to its leaf", mirror.ErrDamaged, at.index, origin)
	}
	logID, note, err := f.signer(head)
	if err != nil {
		return "", e, err
	}
	e = rekor.LogEntry{Body: r.Leaf, LogID: logID, LogIndex: at.shard.first + at.index, Verification: rekor.Verification{InclusionProof: rekor.InclusionProof{
		Checkpoint: note, Hashes: hexes(proof), LogIndex: at.index, RootHash: head.Root.String(), TreeSize: head.Size,
	}}}
	if len(r.Extra) > 0 {
		x, err := entry.ParseExtra(r.Extra)
		if err != nil {
			return "", e, fmt.Errorf("%w: entry %d of %q: %w", mirror.ErrDamaged, at.index, origin, err)
		}
		e.IntegratedTime, e.LogIndex, e.Verification.SignedEntryTimestamp = x.IntegratedTime, x.LogIndex, x.SignedEntryTimestamp
		if len(x.Attestation) > 0 {
			e.Attestation = &rekor.Attestation{Data: x.Attestation}
		}
	}
	return at.shard.entryID(leaf), e, nil
}

// entryID is the name of an entry: with the tree's id where it has one.
func (sh shard) entryID(leaf tiles.Hash) string {
	if sh.treeID == 0 {
		return hex.EncodeToString(leaf[:])
	}
	return rekor.EntryID(sh.treeID, leaf)
}

// signer returns the id of the key a head was signed by and the head's note as that key signed it. Lines of witnesses are left out: clients
// of Rekor v1 refuse a checkpoint with a signature that is not the log's.
func (f *face) signer(h mirror.Head) (logID, note string, err error) {
	spki, err := f.spki(h)
	if err != nil {
		return "", "", err
	}
	id := sha256.Sum256(spki)
	text, lines, ok := bytes.Cut(h.Note, []byte("\n\n"))
	if !ok {
		return "", "", fmt.Errorf("%w: head of %q", mirror.ErrDamaged, h.Origin)
	}
	var own strings.Builder
	for line := range strings.Lines(string(lines)) {
		words := strings.Fields(line)
		if len(words) != 3 {
			continue
		}
		if sig, err := base64.StdEncoding.DecodeString(words[2]); err == nil && bytes.HasPrefix(sig, id[:4]) {
			own.WriteString(line)
		}
	}
	if own.Len() == 0 { // an Ed25519 key has another key id; such a log's clients read notes as C2SP has them
		return hex.EncodeToString(id[:]), string(h.Note), nil
	}
	return hex.EncodeToString(id[:]), string(text) + "\n\n" + own.String(), nil
}

func (f *face) spki(h mirror.Head) ([]byte, error) {
	key, err := f.s.m.PublicKey(h.Origin)
	if err != nil {
		return nil, err
	}
	return x509.MarshalPKIXPublicKey(key)
}

func (f *face) publicPEM(h mirror.Head) ([]byte, error) {
	spki, err := f.spki(h)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), err
}

// retrieve finds entries by id, by content and by index; absent ones are left out.
func (f *face) retrieve(ctx context.Context, asked rekor.Retrieval) ([]map[string]rekor.LogEntry, error) {
	answer := []map[string]rekor.LogEntry{}
	add := func(at place, err error) error {
		if err == nil {
			var id string
			var e rekor.LogEntry
			if id, e, err = f.read(ctx, at); err == nil {
				answer = append(answer, map[string]rekor.LogEntry{id: e})
			}
		}
		if errors.Is(err, mirror.ErrNotFound) {
			return nil
		}
		return err
	}
	for _, id := range asked.IDs {
		if err := add(f.lookup(ctx, id)); err != nil {
			return nil, err
		}
	}
	for _, i := range asked.Indexes {
		if err := add(f.locate(i)); err != nil {
			return nil, err
		}
	}
	return answer, nil
}

// search returns the names of the entries that have any term or all of them, in the order of the logs.
func (f *face) search(ctx context.Context, q rekor.Query) ([]string, error) {
	ids := []string{}
	terms := slices.Compact(slices.Sorted(slices.Values(q.Terms)))
	for _, sh := range f.shards {
		hits := make(map[uint64]int)
		for _, t := range terms {
			found, err := f.s.index.Find(ctx, sh.head.Origin, t)
			if err != nil {
				return nil, err
			}
			for _, i := range found {
				hits[i]++
			}
		}
		var matches []uint64
		for i, n := range hits {
			if !q.And || n == len(terms) {
				matches = append(matches, i)
			}
		}
		slices.Sort(matches)
		for _, i := range matches {
			r, err := f.s.m.Record(sh.head.Origin, i)
			if err != nil {
				return nil, err
			}
			ids = append(ids, sh.entryID(tiles.LeafHash(r.Leaf)))
		}
	}
	if len(ids) > rekor.MaxMatches {
		return nil, errTooMany
	}
	return ids, nil
}

// info states the head of a tree.
func (f *face) info(sh shard) (rekor.LogInfo, error) {
	_, note, err := f.signer(sh.head)
	return rekor.LogInfo{RootHash: sh.head.Root.String(), SignedTreeHead: note, TreeID: strconv.FormatInt(sh.treeID, 10), TreeSize: sh.head.Size}, err
}

func (f *face) infos() (out rekor.LogInfos, err error) {
	out.InactiveShards = []rekor.LogInfo{}
	for _, sh := range f.shards {
		i, err := f.info(sh)
		if err != nil {
			return out, err
		}
		out.InactiveShards = append(out.InactiveShards, i)
	}
	last := len(out.InactiveShards) - 1
	out.LogInfo, out.InactiveShards = out.InactiveShards[last], out.InactiveShards[:last]
	return out, nil
}

// consistency proves between two sizes of a tree. Its root is that of the head, whatever the later size is, as in Rekor.
func (f *face) consistency(ctx context.Context, sh shard, first, last uint64) (out rekor.ConsistencyProof, err error) {
	if last > sh.head.Size {
		return out, badRequest("the tree size requested(%d) was greater than what is mirrored here(%d)", last, sh.head.Size)
	}
	proof, head, err := f.s.m.Between(ctx, sh.head.Origin, first, last)
	if errors.Is(err, mirror.ErrNotFound) {
		return out, badRequest("this mirror of %s keeps selected entries and can prove consistency between the heads it accepted, not between %d and %d", f.name, first, last)
	}
	return rekor.ConsistencyProof{Hashes: hexes(proof), RootHash: head.Root.String()}, err
}

func hexes(hashes []tiles.Hash) []string {
	out := make([]string, len(hashes))
	for i, h := range hashes {
		out[i] = h.String()
	}
	return out
}

// refused is what a request did wrong, with its HTTP status.
type refused struct {
	code int
	err  error
}

func (r *refused) Error() string { return r.err.Error() }

func badRequest(format string, args ...any) error {
	return &refused{http.StatusBadRequest, fmt.Errorf(format, args...)}
}

var errTooMany = badRequest("more than %d entries match: use a more telling term", rekor.MaxMatches)
