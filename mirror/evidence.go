package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Evidence proves on its own that a log showed two histories: two checkpoints it signed that cannot both be true.
//
// Where an enclave says in a signed statement that it holds another tree, without the log's own checkpoint for it, the statement
// stands in Claim, in the place of Smaller. Then it is proven that the log and that enclave contradict each other; the log's
// signature is on what the enclave holds, which it can be asked for.
//
// Of two checkpoints of one size with different roots nothing more is needed. Of a smaller and a larger one, Proof (as
// tiles.PrefixRoots reads it) gives the larger one's root and, for the smaller size, another root than the log signed.
type Evidence struct {
	Origin     string       `json:"origin"`
	Former     []string     `json:"former_origins,omitempty"`
	Smaller    string       `json:"smaller"` // the signed checkpoint of the smaller size
	SmallerKey string       `json:"smaller_vkey"`
	Larger     string       `json:"larger"` // the signed checkpoint that contradicts it
	LargerKey  string       `json:"larger_vkey"`
	Proof      []tiles.Hash `json:"proof,omitempty"`
	// Subtree proves it by a part of both trees, where neither checkpoint can be computed from the other's tree.
	Subtree  *SubtreeEvidence `json:"subtree,omitempty"`
	Claim    string           `json:"claim,omitempty"` // signed receipt or list of heads
	ClaimKey string           `json:"claim_vkey,omitempty"`
	Parcel   string           `json:"parcel,omitempty"` // what brought it
}

// SubtreeEvidence is one complete subtree, the 2^Level leaves from Index<<Level on, that has one hash in the tree of the smaller
// checkpoint and another in that of the larger. Each proof is an inclusion proof of leaf Index in the tree of size>>Level leaves,
// rounded up, whose leaf hash is the subtree's.
type SubtreeEvidence struct {
	Level         int          `json:"level"`
	Index         uint64       `json:"index"`
	Smaller       tiles.Hash   `json:"smaller_hash"`
	SmallerProof  []tiles.Hash `json:"smaller_proof"`
	SmallerSource string       `json:"smaller_source"` // what showed it: a parcel, a bundle; proves nothing
	Larger        tiles.Hash   `json:"larger_hash"`
	LargerProof   []tiles.Hash `json:"larger_proof"`
	LargerSource  string       `json:"larger_source"`
}

// check tells whether the subtree is in both trees, with two hashes.
func (s *SubtreeEvidence) check(a, b Checkpoint) error {
	n := tiles.Node{Level: s.Level, Index: s.Index}
	if s.Smaller == s.Larger {
		return fmt.Errorf("%w: %s has one hash", ErrProof, n)
	}
	root1, err1 := tiles.NodeRoot(n, a.Size, s.Smaller, s.SmallerProof)
	root2, err2 := tiles.NodeRoot(n, b.Size, s.Larger, s.LargerProof)
	if err := errors.Join(err1, err2); err != nil {
		return fmt.Errorf("%w: %w", ErrProof, err)
	}
	if root1 != a.Root || root2 != b.Root {
		return fmt.Errorf("%w: %s is not proven to be in both trees", ErrProof, n)
	}
	return nil
}

// CheckEvidence tells whether data proves that the log of c signed two histories. What the log is, its origin, former origins,
// key and former keys, is the reader's own knowledge in c: several honest logs may share a key, so that a file which said
// itself which origins are one log could make two of them a fork. The file has to agree with c. So has what enclaves said with
// claimants, the verifier keys of those the reader knows.
func CheckEvidence(data []byte, c LogConfig, claimants ...string) (*Evidence, error) {
	var e Evidence
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&e); err != nil {
		return nil, fmt.Errorf("%w: reading evidence: %v", ErrProof, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: bytes after the evidence", ErrProof)
	}
	known, err := knownLogs([]LogConfig{c})
	if err != nil {
		return nil, err
	}
	log := known[c.Origin]
	if e.Origin != c.Origin {
		return nil, fmt.Errorf("%w: the evidence is about %.100q, not about %q", ErrUnknownOrigin, e.Origin, c.Origin)
	}
	for _, f := range e.Former {
		if !slices.Contains(c.FormerOrigins, f) {
			return nil, fmt.Errorf("%w: %.100q is not known as a former origin of %q", ErrUnknownOrigin, f, c.Origin)
		}
	}
	if e.Claim == "" && e.SmallerKey == "" || e.LargerKey == "" {
		return nil, fmt.Errorf("%w: evidence that does not name its keys", ErrProof)
	}
	a, err := e.smaller(log, claimants)
	if err != nil {
		return nil, err
	}
	b, err := log.openHeld([]byte(e.Larger), e.LargerKey)
	if err != nil {
		return nil, err
	}
	if e.Subtree != nil {
		if err := e.Subtree.check(a, b); err != nil {
			return nil, err
		}
		return &e, nil
	}
	if a.Size == b.Size {
		if a.Root == b.Root {
			return nil, fmt.Errorf("%w: both checkpoints say the same", ErrProof)
		}
		return &e, nil
	}
	root1, root2, err := tiles.PrefixRoots(a.Size, b.Size, e.Proof)
	if err != nil {
		return nil, err
	}
	if root2 != b.Root || root1 == a.Root {
		return nil, fmt.Errorf("%w: the proof does not show a fork", ErrProof)
	}
	return &e, nil
}

// smaller is the tree that the larger one contradicts: of the log's own checkpoint, or of an enclave's statement.
func (e Evidence) smaller(log *knownLog, claimants []string) (Checkpoint, error) {
	if e.Claim == "" {
		return log.openHeld([]byte(e.Smaller), e.SmallerKey)
	}
	if e.Smaller != "" || !slices.Contains(claimants, e.ClaimKey) {
		return Checkpoint{}, fmt.Errorf("%w: evidence by the word of %.300q, whose key is not one given", ErrUnknownOrigin, e.ClaimKey)
	}
	v, err := parcel.NewVerifier(e.ClaimKey)
	if err != nil {
		return Checkpoint{}, err
	}
	s, _, err := OpenStatement([]byte(e.Claim), []*parcel.Verifier{v})
	if err != nil {
		return Checkpoint{}, err
	}
	for _, h := range s.Heads {
		if h.Origin == log.Origin {
			return Checkpoint{Origin: h.Origin, Size: h.Size, Root: h.Root}, nil
		}
	}
	return Checkpoint{}, fmt.Errorf("%w: the statement of %.80q does not name %q", ErrProof, v.Name(), log.Origin)
}

// writeEvidence stores evidence durably and returns the file's name below the folder. The name depends on the content alone,
// so that a repeated import finds the same file.
func writeEvidence(root *os.Root, e Evidence) (string, error) {
	data, err := json.MarshalIndent(e, "", "  ")
	if err != nil {
		return "", err
	}
	e.Parcel = ""
	stable, err := json.Marshal(e)
	if err != nil {
		return "", err
	}
	name := "evidence/" + escape(e.Origin) + "-" + parcel.Sum(stable).String()[:16] + ".json"
	if err := root.MkdirAll("evidence", 0o755); err != nil {
		return "", err
	}
	if _, err := root.Stat(name); err == nil {
		return name, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if err := writeDurably(root, name, append(data, '\n')); err != nil {
		return "", fmt.Errorf("writing evidence: %w", err)
	}
	return name, nil
}

// writeDurably writes a file whole or not at all.
func writeDurably(root *os.Root, name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := root.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := root.Rename(tmp, name); err != nil {
		return err
	}
	return syncfs(root)
}

// proves tells whether evidence that was just written stands by itself. Without it the log is frozen all the same.
func (e Evidence) proves(c LogConfig) error {
	data, err := json.Marshal(e)
	if err == nil {
		_, err = CheckEvidence(data, c, e.ClaimKey) // whose word was taken, because the key is pinned
	}
	return err
}

// freezeLog writes the evidence, then the record that the log stands still, under prefix. A pair that is no proof for others,
// because the older checkpoint was signed by a key that is not configured any more, freezes the log too: the reason says so.
func freezeLog(ctx context.Context, root *os.Root, log *knownLog, e Evidence, now time.Time, record func(Event, func(store.Tx) error) error, prefix string) (Freeze, error) {
	file, err := writeEvidence(root, e)
	if err != nil {
		return Freeze{}, err
	}
	f := Freeze{Origin: e.Origin, Since: now, Reason: "two roots of one size", Evidence: file}
	switch {
	case e.Claim != "":
		f.Reason = "an enclave holds another tree of it"
	case e.Subtree != nil:
		f.Reason = fmt.Sprintf("one subtree with two hashes, shown by %s and by %s", e.Subtree.SmallerSource, e.Subtree.LargerSource)
	case len(e.Proof) > 0:
		f.Reason = "the newer tree does not hold the older one"
	}
	if err := e.proves(log.LogConfig); err != nil {
		f.Reason += "; the evidence does not stand by itself: " + oneLine(err)
	}
	event := Event{Action: "mirror.freeze", Object: e.Origin, Outcome: "success", Detail: map[string]string{"reason": f.Reason, "evidence": file}}
	return f, record(event, func(tx store.Tx) error { return put(tx, prefix+e.Origin, f) })
}
