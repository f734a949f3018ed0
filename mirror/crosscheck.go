package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// The subtree cross-check. An inclusion proof that ends in a checkpoint the log signed fixes the hash of every complete subtree on
// its path. Whoever shows one, in whatever bundle, lets us compare those hashes with all we have ever accepted: the log cannot show
// one history to the signer of a bundle and another to the mirror without giving itself away where their paths meet. It is a
// detector and proves no consistency: what is shown by nobody is compared with nothing.

// Confirmed says what an observation was compared with.
type Confirmed struct {
	Nodes int  `json:"nodes"` // subtree hashes the proof fixes
	Known int  `json:"known"` // of them, those that were accepted before, and agree
	New   int  `json:"new"`   // of them, those that are kept from now on
	Root  bool `json:"root"`  // the mirrored tree has the very root at that size
}

// Observe verifies an observation by the log's key and compares every subtree hash it fixes with those accepted before. What is new
// is kept for ever. A contradiction freezes the log with evidence: a *ForkError. ErrBusy while an import runs.
func (m *Mirror) Observe(ctx context.Context, o spool.Observation) (Confirmed, error) {
	log := m.log(o.Origin)
	if log == nil {
		return Confirmed{}, fmt.Errorf("%w: %q", ErrUnknownOrigin, o.Origin)
	}
	c, by, err := log.openAny(o.Note)
	if err != nil {
		return Confirmed{}, err
	}
	root, nodes, err := tiles.Path(o.Index, c.Size, o.Leaf, o.Proof)
	if err != nil || root != c.Root {
		return Confirmed{}, fmt.Errorf("leaf %d of %q, shown by %.200s: %w: it does not hash up to the checkpoint of size %d", o.Index, o.Origin, o.Source, ErrProof, c.Size)
	}
	unlock, err := lockDir(m.root)
	if err != nil {
		return Confirmed{}, err
	}
	defer unlock()
	s, err := m.snapshot()
	if err != nil {
		return Confirmed{}, err
	}
	if s.pending != nil {
		return Confirmed{}, fmt.Errorf("%w: an import is not finished", ErrBusy)
	}
	if f, ok := s.frozen[o.Origin]; ok {
		if err := m.keepClaim(o, c, ""); err != nil {
			return Confirmed{}, err
		}
		return Confirmed{}, &ForkError{Origin: o.Origin, Evidence: m.path(f.Evidence), Frozen: true}
	}
	out, err := m.compare(ctx, log, s.head(o.Origin), c, by, o, nodes)
	var fork *forkFound
	if !errors.As(err, &fork) {
		if err == nil {
			err = errors.Join(m.shown(c, o.Origin, o.Source), m.keepClaim(o, c, ""))
		}
		return out, err
	}
	f, err := freezeLog(ctx, m.root, log, fork.evidence, m.c.Now().UTC(), func(e Event, with func(store.Tx) error) error { return m.record(ctx, e, with) }, keyFrozen)
	if err != nil {
		return out, err
	}
	m.c.Logger.ErrorContext(ctx, "log frozen: what was shown here contradicts it", "origin", o.Origin, "shown by", o.Source, "evidence", f.Evidence)
	if err := m.keepClaim(o, c, f.Evidence); err != nil { // the freeze stands, and so does its evidence
		m.c.Logger.ErrorContext(ctx, "remembering what contradicts a log", "origin", o.Origin, "error", err)
	}
	return out, &ForkError{Origin: o.Origin, Evidence: m.path(f.Evidence)}
}

// openAny is open by the log's key or any of its former ones.
func (l *knownLog) openAny(note []byte) (c Checkpoint, vkey string, err error) {
	for _, k := range append([]*parcel.Verifier{l.key}, l.former...) {
		if c, err = l.openHeld(note, k.VKey()); err == nil || !errors.Is(err, ErrUnknownOrigin) {
			return c, k.VKey(), err
		}
	}
	return c, "", err
}

// compare compares an observation with the mirrored tree and with every hash accepted before, and keeps what is new.
func (m *Mirror) compare(ctx context.Context, log *knownLog, h Head, c Checkpoint, by string, o spool.Observation, nodes []tiles.NodeHash) (Confirmed, error) {
	out := Confirmed{Nodes: len(nodes)}
	shown := shownHead{c, o.Note, by}
	if same, err := m.atSize(ctx, log, h, shown); err != nil {
		return out, err
	} else if same {
		out.Known, out.Root = len(nodes), true
		return out, nil
	}
	tree, sh, err := m.storedTree(h)
	if err != nil {
		return out, err
	}
	var fresh []tiles.NodeHash
	for _, n := range nodes {
		own, known, err := m.accepted(ctx, h, tree, sh, n.Node)
		switch {
		case err != nil:
			return out, err
		case !known:
			fresh = append(fresh, n)
		case own.Hash == n.Hash:
			out.Known++
		default:
			_, rest, _ := tiles.PathTo(o.Index, c.Size, o.Leaf, o.Proof, n.Node)
			return out, m.split(ctx, log, h, tree, own, shownNode{shown, n.Hash, rest, oneLine(errors.New(o.Source))})
		}
	}
	out.New = len(fresh)
	if len(fresh) == 0 {
		return out, nil
	}
	return out, m.keepObservation(o, by, fresh)
}

// shownHead is a checkpoint that was shown, and the key it is signed by.
type shownHead struct {
	Checkpoint
	note []byte
	vkey string
}

// shownNode is a subtree of a tree that was shown, the proof of it, and what showed it.
type shownNode struct {
	shownHead
	hash   tiles.Hash
	proof  []tiles.Hash
	source string
}

// atSize compares a checkpoint with the mirrored tree at the same size, where that is known. Another root is a *forkFound.
func (m *Mirror) atSize(ctx context.Context, log *knownLog, h Head, c shownHead) (same bool, err error) {
	var seen seenHead
	var ok bool
	if err := m.c.DB.View(func(tx store.Tx) error { ok, err = get(tx, seenKey(log.Origin, c.Size), &seen); return err }); err != nil {
		return false, err
	}
	if ok {
		if seen.Root == c.Root {
			return true, nil
		}
		held := Head{Note: seen.Note, VKey: seen.VKey}
		return false, &forkFound{log.pair(c.note, c.vkey, held)}
	}
	if h.Scope != parcel.ScopeFull || c.Size > h.Size || c.Size == 0 {
		return false, nil
	}
	tree, _, err := m.storedTree(h)
	if err != nil {
		return false, err
	}
	root, err := tree.RootAt(ctx, c.Size)
	if err != nil || root == c.Root {
		return err == nil, err
	}
	proof, err := tree.Consistency(ctx, c.Size)
	if err != nil {
		return false, err
	}
	e := log.pair(c.note, c.vkey, h)
	e.Proof = tiles.Seeded(c.Size, root, proof)
	return false, &forkFound{e}
}

// pair is the evidence of a smaller checkpoint that was shown against a head that is held.
func (l *knownLog) pair(note []byte, vkey string, held Head) Evidence {
	return Evidence{
		Origin: l.Origin, Former: l.FormerOrigins, Smaller: string(note), SmallerKey: vkey, Larger: string(held.Note), LargerKey: held.vkey(l),
	}
}

// storedTree is the tree of a head whose scope keeps tiles, nil otherwise.
func (m *Mirror) storedTree(h Head) (*tiles.Tree, *shelf, error) {
	if h.Size == 0 || carriesRecords(h.Scope) {
		return nil, nil, nil
	}
	sh, err := m.shelf(h.Origin)
	if err != nil {
		return nil, nil, err
	}
	return m.tree(h, sh), sh, nil
}

// inTiles tells whether the tiles kept at a scope give a node of a tree of size leaves.
func inTiles(scope string, size uint64, n tiles.Node) bool {
	return n.In(size) && (scope == parcel.ScopeFull || scope == parcel.ScopeSpine && n.Level >= 8)
}

// accepted returns the hash of a subtree that was accepted before, from the mirrored tree or from the kept hashes.
func (m *Mirror) accepted(ctx context.Context, h Head, tree *tiles.Tree, sh *shelf, n tiles.Node) (out node, ok bool, err error) {
	if tree != nil && inTiles(h.Scope, h.Size, n) {
		hash, err := tree.Node(ctx, n)
		return node{tiles.NodeHash{Node: n, Hash: hash}, h.Sequence}, err == nil, err
	}
	err = m.c.DB.View(func(tx store.Tx) error { out, ok, err = getNode(tx, keyNode, h.Origin, n); return err })
	return out, ok, err
}

// observationState is a proof that first fixed some subtree hash, kept so that a later contradiction can be proven.
type observationState struct {
	Note   []byte       `json:"note"`
	VKey   string       `json:"vkey"`
	Index  uint64       `json:"index"`
	Leaf   tiles.Hash   `json:"leaf"`
	Proof  []tiles.Hash `json:"proof"`
	Source string       `json:"source"`
}

const (
	keyObservation = "mirror/observation/"
	keyObserved    = "mirror/observations" // how many there are, of all logs
)

func observationKey(id uint64) string { return fmt.Sprintf("%s%020d", keyObservation, id) }

// keepObservation keeps the hashes that an observation was the first to show, and the observation.
func (m *Mirror) keepObservation(o spool.Observation, vkey string, fresh []tiles.NodeHash) error {
	return full(m.c.DB.Update(func(tx store.Tx) error {
		var n uint64
		if _, err := get(tx, keyObserved, &n); err != nil {
			return err
		}
		n++
		if err := put(tx, keyObserved, n); err != nil {
			return err
		}
		state := observationState{o.Note, vkey, o.Index, o.Leaf, o.Proof, oneLine(errors.New(o.Source))}
		if err := put(tx, observationKey(n), state); err != nil {
			return err
		}
		return putNodes(tx, keyNode, o.Origin, fresh, observed|n)
	}))
}

// split is the *forkFound of a subtree that has one hash here and another in what was shown.
func (m *Mirror) split(ctx context.Context, log *knownLog, h Head, tree *tiles.Tree, own node, shown shownNode) error {
	held, err := m.provenNode(ctx, log, h, tree, own)
	if err != nil {
		return err
	}
	a, b := held, shown
	if b.Size < a.Size {
		a, b = b, a
	}
	return &forkFound{Evidence{
		Origin: log.Origin, Former: log.FormerOrigins, Smaller: string(a.note), SmallerKey: a.vkey, Larger: string(b.note), LargerKey: b.vkey,
		Subtree: &SubtreeEvidence{Level: own.Level, Index: own.Index, Smaller: a.hash, SmallerProof: a.proof, SmallerSource: a.source, Larger: b.hash, LargerProof: b.proof, LargerSource: b.source},
	}}
}

// provenNode returns the proof by which a subtree hash was accepted: from the mirrored tree, from an observation, or from the
// subtrees kept of the head of the parcel that brought it.
func (m *Mirror) provenNode(ctx context.Context, log *knownLog, h Head, tree *tiles.Tree, own node) (shownNode, error) {
	if tree != nil && inTiles(h.Scope, h.Size, own.Node) {
		hash, proof, err := tree.Subtree(ctx, own.Node)
		return shownNode{shownHead{Checkpoint{log.Origin, h.Size, h.Root}, h.Note, h.vkey(log)}, hash, proof, fromParcel(h.Sequence)}, err
	}
	if own.by&observed != 0 {
		var o observationState
		err := m.c.DB.View(func(tx store.Tx) error {
			ok, err := get(tx, observationKey(own.by&^observed), &o)
			if err == nil && !ok {
				err = fmt.Errorf("%w: observation %d", ErrDamaged, own.by&^observed)
			}
			return err
		})
		if err != nil {
			return shownNode{}, err
		}
		c, err := log.openHeld(o.Note, o.VKey)
		if err != nil {
			return shownNode{}, err
		}
		hash, proof, ok := tiles.PathTo(o.Index, c.Size, o.Leaf, o.Proof, own.Node)
		if !ok || hash != own.Hash {
			return shownNode{}, fmt.Errorf("%w: observation %d", ErrDamaged, own.by&^observed)
		}
		return shownNode{shownHead{c, o.Note, o.VKey}, hash, proof, o.Source}, nil
	}
	var heads []seenHead
	if err := m.c.DB.View(func(tx store.Tx) error {
		heads = heads[:0]
		return scan(tx, keySeen+log.Origin+"\x00", func(_ string, s seenHead) error { heads = append(heads, s); return nil })
	}); err != nil {
		return shownNode{}, err
	}
	i := slices.IndexFunc(heads, func(s seenHead) bool { return s.Sequence == own.by && own.In(s.Size) })
	if i < 0 {
		return shownNode{}, fmt.Errorf("%w: %s of %q is kept, the head it was proven by is not", ErrDamaged, own.Node, log.Origin)
	}
	s := heads[i]
	hash, proof, err := sparseTree(m.c.DB, keyNode, log.Origin, s.Size).Subtree(ctx, own.Node)
	return shownNode{shownHead{Checkpoint{log.Origin, s.Size, s.Root}, s.Note, s.VKey}, hash, proof, fromParcel(s.Sequence)}, err
}

func fromParcel(sequence uint64) string { return fmt.Sprintf("parcel %d", sequence) }

// checkAhead compares the new part of a tree, on its way in, with every hash of it that was shown here before.
func (m *Mirror) checkAhead(ctx context.Context, s *step, fetch tiles.Fetch) error {
	var ahead []node
	if err := m.c.DB.View(func(tx store.Tx) error {
		ahead = ahead[:0]
		prefix := keyNode + s.log.Origin + "\x00"
		var inner error
		err := tx.Scan([]byte(prefix), after(prefix), func(k, v []byte) bool {
			n, err := decodeNodeKey(k[len(prefix):])
			if err == nil && !inTiles(s.log.Scope, s.from.Size, n) && inTiles(s.log.Scope, s.to.Size, n) {
				var held node
				if held, _, err = getNode(tx, keyNode, s.log.Origin, n); err == nil {
					ahead = append(ahead, held)
				}
			}
			inner = err
			return err == nil
		})
		return errors.Join(err, inner)
	}); err != nil {
		return err
	}
	tree := tiles.NewTree(s.to.Size, s.to.Root, fetch)
	for _, n := range ahead {
		hash, proof, err := tree.Subtree(ctx, n.Node)
		if err != nil {
			return s.blame(err)
		}
		if hash != n.Hash {
			return m.split(ctx, s.log, s.from, nil, n, shownNode{shownHead{s.to, s.note, s.log.key.VKey()}, hash, proof, "a new parcel"})
		}
	}
	return nil
}

// checkProven compares the subtrees a sparse step proves with every hash of them that was accepted or shown here before.
func (m *Mirror) checkProven(ctx context.Context, s *sparseStep, nodes []tiles.NodeHash, prove func(context.Context, tiles.Node) (tiles.Hash, []tiles.Hash, error)) error {
	for _, n := range nodes {
		var held node
		var ok bool
		err := m.c.DB.View(func(tx store.Tx) (err error) { held, ok, err = getNode(tx, keyNode, s.log.Origin, n.Node); return err })
		if err != nil {
			return err
		}
		if !ok || held.Hash == n.Hash {
			continue
		}
		hash, proof, err := prove(ctx, n.Node)
		if err != nil {
			return err
		}
		return m.split(ctx, s.log, s.from, nil, held, shownNode{shownHead{s.to, s.note, s.log.key.VKey()}, hash, proof, "a new parcel"})
	}
	return nil
}
