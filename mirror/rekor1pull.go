package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// pullRekor1 brings a shard of a Rekor v1 log up to date. At scope sparse the records come with proofs of their own, each under
// another checkpoint; they are rebased to one. At scope full every entry is fetched in order, and the tiles that the log does not
// serve are built from them in the collection, where they are proven like any other log's.
func (e *Exporter) pullRekor1(ctx context.Context, log *knownLog, from Head, sh *shelf, out *PullStep) error {
	s, err := openRekor1(log, e.c.Network)
	if err != nil {
		return err
	}
	note, err := s.head(ctx)
	if err != nil {
		return remoteErr("reading the checkpoint", err)
	}
	to, err := log.open(note)
	if err != nil {
		return err
	}
	switch log.Scope {
	case parcel.ScopeSparse:
		return e.pullRekor1Sparse(ctx, s, from, note, to, sh, out)
	case parcel.ScopeFull:
		return e.pullRekor1Full(ctx, s, from, note, to, sh, out)
	}
	return fmt.Errorf("%w: log %q: a Rekor v1 log serves no tiles, so scope %q cannot be had from it", ErrConfig, log.Origin, log.Scope)
}

// known are subtree hashes that signed checkpoints fix.
type known map[tiles.Node]tiles.Hash

// add takes in hashes; two values for one subtree are both signed for, so they are a fork.
func (k known) add(nodes []tiles.NodeHash) error {
	for _, n := range nodes {
		if held, ok := k[n.Node]; ok && held != n.Hash {
			return fmt.Errorf("%w: %s has hash %s and %s", ErrFork, n.Node, held, n.Hash)
		}
		k[n.Node] = n.Hash
	}
	return nil
}

// close adds every subtree whose two halves are known.
func (k known) close() {
	var level []tiles.Node
	for n := range k {
		level = append(level, n)
	}
	for len(level) > 0 {
		var up []tiles.Node
		for _, n := range level {
			parent := tiles.Node{Level: n.Level + 1, Index: n.Index >> 1}
			left, right := tiles.Node{Level: n.Level, Index: n.Index &^ 1}, tiles.Node{Level: n.Level, Index: n.Index | 1}
			l, okl := k[left]
			r, okr := k[right]
			if _, have := k[parent]; !have && okl && okr {
				k[parent] = tiles.HashChildren(l, r)
				up = append(up, parent)
			}
		}
		level = up
	}
}

// pullRekor1Sparse collects the step to the newest of the checkpoints that the head and the records came with.
func (e *Exporter) pullRekor1Sparse(ctx context.Context, s *rekor1, from Head, note []byte, to Checkpoint, sh *shelf, out *PullStep) error {
	e.numbered(s.log.Origin, s.first)
	want, err := e.wanted(ctx, s.log, to.Size, s.find)
	if err != nil {
		return err
	}
	ask := want
	if to.Size > 0 && !slices.Contains(want, to.Size-1) {
		ask = append(slices.Clone(want), to.Size-1) // with the last leaf's proof every peak of the tree is known
	}
	entries, err := s.byIndex(ctx, ask)
	if err != nil {
		return remoteErr("reading entries", err)
	}
	heads := []signedHead{{to, note}}
	nodes := make(known)
	var records []Record
	for i, p := range entries {
		heads = append(heads, signedHead{p.in, p.note})
		if err := nodes.add(p.nodes); err != nil {
			return fmt.Errorf("log %q: %w", s.log.Origin, err)
		}
		if i < len(want) {
			records = append(records, p.Record)
		}
	}
	newest, err := s.rebase(ctx, from, heads, nodes)
	if err != nil {
		return err
	}
	if newest.Size > to.Size { // the log grew meanwhile: the peaks of the newest tree come with its own last leaf
		last, err := s.byIndex(ctx, []uint64{newest.Size - 1})
		if err != nil {
			return remoteErr("reading entries", err)
		}
		if err := nodes.add(last[0].nodes); err != nil {
			return fmt.Errorf("log %q: %w", s.log.Origin, err)
		}
	}
	nodes.close()
	e.progress(Progress{Stage: "pull", Origin: s.log.Origin, Done: uint64(len(records)), Total: uint64(len(records))})
	held := sparseNode(e.c.DB, keyCollectNode, s.log.Origin)
	return e.collect(ctx, s.log, from, newest.note, records, sh, out, func(ctx context.Context, n tiles.Node) (tiles.Hash, error) {
		if h, ok := nodes[n]; ok {
			return h, nil
		}
		h, err := held(ctx, n)
		if errors.Is(err, ErrNotFound) {
			err = fmt.Errorf("log %q: %w: what it answered does not fix %s", s.log.Origin, ErrProof, n)
		}
		return h, err
	})
}

// signedHead is a checkpoint with its note.
type signedHead struct {
	Checkpoint
	note []byte
}

// rebase proves that the trees of all heads, and the one held, are prefixes of the largest, which it returns, and adds the subtree
// hashes that the proofs fix. Heads that contradict each other are a *forkFound.
func (s *rekor1) rebase(ctx context.Context, from Head, heads []signedHead, nodes known) (newest signedHead, err error) {
	if from.Note != nil {
		heads = append(heads, signedHead{Checkpoint{from.Origin, from.Size, from.Root}, from.Note})
	}
	slices.SortStableFunc(heads, func(a, b signedHead) int { return int(min(max(int64(a.Size)-int64(b.Size), -1), 1)) })
	newest = heads[len(heads)-1]
	if from.Note != nil && from.Size == newest.Size {
		newest.note = from.Note
	}
	var done uint64
	for _, h := range heads {
		switch {
		case h.Size == newest.Size && h.Root != newest.Root:
			return newest, s.fork(h, newest, from, nil)
		case h.Size == 0 || h.Size == newest.Size:
			continue
		case h.Size != done:
			if err := s.prefix(ctx, h, newest, from, nodes); err != nil {
				return newest, err
			}
			done = h.Size
		}
	}
	for i := range heads[1:] { // two of one size that is not the newest
		if a, b := heads[i], heads[i+1]; a.Size == b.Size && a.Root != b.Root {
			return newest, s.fork(a, b, from, nil)
		}
	}
	return newest, nil
}

// prefix proves that the tree of a is a prefix of that of b.
func (s *rekor1) prefix(ctx context.Context, a, b signedHead, from Head, nodes known) error {
	proof, err := s.consistency(ctx, a.Size, b.Size)
	if err != nil {
		return remoteErr(fmt.Sprintf("reading the consistency proof from %d to %d", a.Size, b.Size), err)
	}
	old, root, more, err := tiles.PrefixPath(a.Size, b.Size, tiles.Seeded(a.Size, a.Root, proof))
	switch {
	case err != nil || root != b.Root:
		if list := s.otherSeed(ctx, a, b, proof, nodes); list != nil {
			return s.fork(a, b, from, list)
		}
		return fmt.Errorf("log %q: %w: the consistency proof from %d to %d does not lead to the signed root", s.log.Origin, ErrProof, a.Size, b.Size)
	case old != a.Root:
		return s.fork(a, b, from, proof)
	}
	if err := nodes.add(more); err != nil {
		return fmt.Errorf("log %q: %w", s.log.Origin, err)
	}
	return nil
}

// otherSeed finds, where a's tree is one complete subtree that the proof leaves out, the hash which that subtree has under b, which
// the proof of any entry in it fixes: the list that shows the fork, or nil.
func (s *rekor1) otherSeed(ctx context.Context, a, b signedHead, proof []tiles.Hash, nodes known) []tiles.Hash {
	peaks := tiles.Peaks(a.Size)
	if len(peaks) != 1 {
		return nil
	}
	nodes.close()
	if _, ok := nodes[peaks[0]]; !ok {
		entries, err := s.byIndex(ctx, []uint64{0})
		if err != nil || nodes.add(entries[0].nodes) != nil {
			return nil
		}
	}
	h, ok := nodes[peaks[0]]
	if !ok || h == a.Root {
		return nil
	}
	list := tiles.Seeded(a.Size, h, proof)
	if _, root, err := tiles.PrefixRoots(a.Size, b.Size, list); err != nil || root != b.Root {
		return nil
	}
	return list
}

// fork is the evidence of two heads, of which the held one may have been signed by a former key.
func (s *rekor1) fork(a, b signedHead, from Head, proof []tiles.Hash) error {
	vkey := func(h signedHead) string {
		if from.Note != nil && bytes.Equal(h.note, from.Note) {
			return from.vkey(s.log)
		}
		return s.log.key.VKey()
	}
	return &forkFound{Evidence{
		Origin: s.log.Origin, Former: s.log.FormerOrigins,
		Smaller: string(a.note), SmallerKey: vkey(a), Larger: string(b.note), LargerKey: vkey(b), Proof: proof,
	}}
}

// pullRekor1Full builds what the log does not serve, and proves it.
func (e *Exporter) pullRekor1Full(ctx context.Context, s *rekor1, from Head, note []byte, to Checkpoint, sh *shelf, out *PullStep) error {
	if err := s.log.contradicts(from, to, note); err != nil {
		if errors.Is(err, ErrReplay) {
			err = e.olderHead(ctx, s.log, from, note, sh, err)
		}
		return err
	}
	if from.Size > 0 && from.Size < to.Size { // before anything is fetched on top of another history
		if err := s.prefix(ctx, signedHead{Checkpoint{from.Origin, from.Size, from.Root}, from.Note}, signedHead{to, note}, from, make(known)); err != nil {
			return err
		}
	}
	if err := s.log.thawed(to); err != nil {
		return err
	}
	if err := floors(e.c.Floors).admit(s.log.Origin, from, to.Size); err != nil {
		return err
	}
	b := building{s: s, sh: sh, from: from.Size, size: to.Size, log: s.log}
	b.progress = func(done, total uint64) {
		e.progress(Progress{Stage: "fetch", Origin: s.log.Origin, Done: done, Total: total})
	}
	if err := b.build(ctx, out); err != nil {
		return err
	}
	return e.pullTiles(ctx, s.log, from, note, built{sh}, sh, out)
}

// built reads what was built.
type built struct{ sh *shelf }

// Checkpoint is not built.
func (b built) Checkpoint(context.Context) ([]byte, error) { return nil, fs.ErrNotExist }

// Tile reads from the shelf.
func (b built) Tile(_ context.Context, t tiles.Tile, buf []byte) ([]byte, error) {
	return b.sh.need(t, buf)
}

// building makes bundles and tiles from single entries, for the leaves from the old size to the new one.
type building struct {
	s          *rekor1
	log        *knownLog
	sh         *shelf
	from, size uint64
	progress   func(done, total uint64)
}

func (b *building) build(ctx context.Context, out *PullStep) error {
	if b.from == b.size {
		return nil
	}
	begin, end := b.from/tiles.Width, (b.size-1)/tiles.Width+1
	for k := begin; k < end; k++ {
		t, _ := tiles.At(tiles.Entries, k, b.size)
		if err := b.bundle(ctx, t, out); err != nil {
			return err
		}
		b.progress(min(b.size, (k+1)*tiles.Width)-b.from, b.size-b.from)
	}
	for level := 1; tiles.Count(level, b.size) > 0; level++ {
		for i := tiles.Count(level, b.from) / tiles.Width; i*tiles.Width < tiles.Count(level, b.size); i++ {
			t, _ := tiles.At(level, i, b.size)
			if err := b.tile(t); err != nil {
				return err
			}
		}
	}
	return b.sh.sync()
}

// bundle makes sure that the entries of t and what stands beside them are on the shelf.
func (b *building) bundle(ctx context.Context, t tiles.Tile, out *PullStep) error {
	beside := tiles.Tile{Level: tiles.Extras, Index: t.Index, Width: t.Width}
	entries, extras := b.held(t, beside)
	if entries == nil {
		var have int
		if w := int(b.from % tiles.Width); w > 0 && t.Index == b.from/tiles.Width { // what an earlier pull left in part
			old, oldBeside := t, beside
			old.Width, oldBeside.Width = w, w
			if entries, extras = b.held(old, oldBeside); entries != nil {
				have = w
			}
		}
		var want []uint64
		for i := have; i < t.Width; i++ {
			want = append(want, t.Index*tiles.Width+uint64(i))
		}
		got, err := b.s.byIndex(ctx, want)
		if err != nil {
			return remoteErr("reading entries", err)
		}
		for _, p := range got {
			entries, extras = tiles.AppendEntry(entries, p.Leaf), tiles.AppendEntry(extras, p.Extra)
		}
		if err := errors.Join(b.sh.write(beside, extras), b.sh.write(t, entries)); err != nil {
			return err
		}
		out.Fetched++
	}
	return nil
}

// held are a bundle and its extras as the shelf has them, nil unless both are whole and fit each other.
func (b *building) held(t, beside tiles.Tile) (entries, extras []byte) {
	entries, err := b.sh.readFile(t, nil)
	if err != nil {
		return nil, nil
	}
	if extras, err = b.sh.readFile(beside, nil); err != nil || b.log.checkExtras(t, entries, extras) != nil {
		return nil, nil
	}
	return entries, extras
}

// tile writes a hash tile above level 0 from the tiles below it.
func (b *building) tile(t tiles.Tile) error {
	var hashes []byte
	for i := range uint64(t.Width) {
		below, err := b.sh.need(tiles.Tile{Level: t.Level - 1, Index: t.Index*tiles.Width + i, Width: tiles.Width}, nil)
		if err != nil {
			return err
		}
		h := tiles.Subtree(below)
		hashes = append(hashes, h[:]...)
	}
	return b.sh.write(t, hashes)
}
