package mirror

import (
	"context"
	"errors"
	"fmt"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// FsckReport is what Fsck found of one log.
type FsckReport struct {
	LogReport
	Subtrees uint64 `json:"subtrees"` // kept subtree hashes that were compared with their children or with the tree
}

// Fsck hashes everything that is stored of every log anew, at its scope: entries, tiles, records and what stands beside them up to
// the head, the head and every checkpoint ever accepted, and every subtree hash that was ever kept. It changes nothing. What it finds
// is in the reports (see FsckErr); an error means that it could not be made.
func (m *Mirror) Fsck(ctx context.Context) ([]FsckReport, error) {
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	incidents, err := m.Incidents()
	if err != nil {
		return nil, err
	}
	out := []FsckReport{}
	for _, l := range m.status(s, incidents).Logs {
		r := FsckReport{LogReport: LogReport{LogStatus: l, Problems: []string{}}}
		h, ok := s.heads[l.Origin]
		switch log := m.log(l.Origin); {
		case ok && log == nil:
			r.Problems = append(r.Problems, "it is not configured any more, so nothing of it can be verified")
		case ok:
			if err := m.recheck(ctx, log, h, &r.LogReport); err != nil {
				return nil, err
			}
			fallthrough
		default:
			if r.Subtrees, err = m.recheckNodes(ctx, h, l.Origin); errors.Is(err, ErrDamaged) {
				r.Problems = append(r.Problems, oneLine(err))
			} else if err != nil {
				return nil, err
			}
		}
		out = append(out, r)
	}
	return out, nil
}

// recheckNodes compares each kept subtree hash with those of its children, where they are kept, and with the tree of the head, where
// that has it. The first that differs is ErrDamaged.
func (m *Mirror) recheckNodes(ctx context.Context, h Head, origin string) (checked uint64, err error) {
	tree, _, err := m.storedTree(h)
	if err != nil {
		return 0, err
	}
	prefix := keyNode + origin + "\x00"
	var from tiles.Node
	for more := true; more; { // in pieces, so that no transaction lasts
		var batch []node
		if batch, more, err = m.someNodes(prefix, origin, from); err != nil {
			return checked, err
		}
		for _, n := range batch {
			if err := ctx.Err(); err != nil {
				return checked, err
			}
			ok, err := m.recheckNode(ctx, h, tree, origin, n)
			if err != nil {
				return checked, err
			}
			if ok {
				checked++
			}
			from = tiles.Node{Level: n.Level, Index: n.Index + 1}
		}
	}
	return checked, nil
}

// someNodes reads the kept hashes from a node on, a few thousand at most.
func (m *Mirror) someNodes(prefix, origin string, from tiles.Node) (batch []node, more bool, err error) {
	err = m.c.DB.View(func(tx store.Tx) error {
		batch, more = batch[:0], false
		var inner error
		err := tx.Scan(nodeKey(keyNode, origin, from), after(prefix), func(k, v []byte) bool {
			if more = len(batch) == 4096; more {
				return false
			}
			at, err := decodeNodeKey(k[len(prefix):])
			if err == nil && len(v) != tiles.HashSize+8 {
				err = fmt.Errorf("%w: %s of %q", ErrDamaged, at, origin)
			}
			if inner = err; err == nil {
				batch = append(batch, node{tiles.NodeHash{Node: at, Hash: tiles.Hash(v[:tiles.HashSize])}, 0})
			}
			return err == nil
		})
		return errors.Join(err, inner)
	})
	return batch, more, err
}

func (m *Mirror) recheckNode(ctx context.Context, h Head, tree *tiles.Tree, origin string, n node) (compared bool, err error) {
	want := n.Hash
	if tree != nil && inTiles(h.Scope, h.Size, n.Node) {
		if want, err = tree.Node(ctx, n.Node); err != nil {
			return false, fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		compared = true
	} else if n.Level > 0 {
		left, right := tiles.Node{Level: n.Level - 1, Index: 2 * n.Index}, tiles.Node{Level: n.Level - 1, Index: 2*n.Index + 1}
		err := m.c.DB.View(func(tx store.Tx) error {
			a, ok1, err1 := getNode(tx, keyNode, origin, left)
			b, ok2, err2 := getNode(tx, keyNode, origin, right)
			if compared = ok1 && ok2; compared {
				want = tiles.HashChildren(a.Hash, b.Hash)
			}
			return errors.Join(err1, err2)
		})
		if err != nil {
			return false, err
		}
	}
	if want != n.Hash {
		return true, fmt.Errorf("%w: the kept hash of %s is not the one the tree has", ErrDamaged, n.Node)
	}
	return compared, nil
}

// FsckTUF verifies every stored TUF repository anew, from its first root on, as of the time it was accepted at. It changes nothing.
func (m *Mirror) FsckTUF(ctx context.Context) ([]TUFReport, error) { return m.recheckTUF(ctx) }

// FsckErr is the gravest finding of reports as an error that ExitCode knows, nil if all is well.
func FsckErr(reports []FsckReport, tuf ...TUFReport) error {
	var errs []error
	for _, r := range reports {
		if len(r.Problems) > 0 {
			errs = append(errs, fmt.Errorf("log %q: %w: %s", r.Origin, ErrDamaged, r.Problems[0]))
		}
	}
	for _, t := range tuf {
		if len(t.Problems) > 0 {
			errs = append(errs, fmt.Errorf("TUF repository %q: %w: %s", t.Name, ErrDamaged, t.Problems[0]))
		}
	}
	return errors.Join(errs...)
}
