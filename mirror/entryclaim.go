package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// A bundle that was verified inside claims that its entry stands in a public log, and its proof bears that out: of the history that signer was
// shown. Whether it is the history held here is asked at every reconcile, because heads move on. A proof that contradicts a log when it
// is shown freezes the log there and then (see Observe).

// How an entry that a bundle claims stands to what is mirrored.
const (
	ClaimMirrored     = "mirrored"     // the mirror has this very entry
	ClaimProven       = "proven"       // the entry is not carried; hashes that were prove that it stands in the mirrored log
	ClaimNotCarried   = "not-carried"  // too little of the log is carried here to tell
	ClaimBeyond       = "beyond-head"  // the log was not mirrored that far yet
	ClaimContradicted = "contradicted" // the mirrored log has something else there
	ClaimUnread       = "unread"       // what is stored cannot be read; the report says why
)

// ClaimStands are all of them, the gravest first.
var ClaimStands = []string{ClaimContradicted, ClaimUnread, ClaimBeyond, ClaimNotCarried, ClaimProven, ClaimMirrored}

// EntryClaim is an entry of a mirrored log that a bundle seen inside claims, by a proof under a checkpoint that the log signed. Its JSON form
// is stable.
type EntryClaim struct {
	Origin   string     `json:"origin"`
	Index    uint64     `json:"index"`
	Leaf     tiles.Hash `json:"leaf"`
	Size     uint64     `json:"size"` // of the checkpoint that was shown
	Root     tiles.Hash `json:"root"`
	Source   string     `json:"source"` // what showed it first
	Seen     time.Time  `json:"seen"`
	Stands   string     `json:"stands"`             // mirrored, proven, not-carried, beyond-head, contradicted or unread, as of the last reconcile
	Evidence string     `json:"evidence,omitempty"` // file that proves the contradiction
}

// Keys in the database:
//
//	mirror/claim/<origin>\x00<index>\x00<leaf>  EntryClaim
//	mirror/claims                               claimTotals
const (
	keyClaim  = "mirror/claim/"
	keyClaims = "mirror/claims"
)

// maxClaims bounds how many are kept; beyond it those that stand in the mirror go first, the oldest of them first.
const maxClaims = 20_000

type claimTotals struct {
	Kept    int            `json:"kept"`
	Dropped uint64         `json:"dropped"`
	Stands  map[string]int `json:"stands"` // as of the last reconcile
}

// ClaimsReport says of the bundles seen inside whether their entries stand in the mirrored logs. Its JSON form is stable.
type ClaimsReport struct {
	Seen         int          `json:"seen"`         // different entries
	Mirrored     int          `json:"mirrored"`     // the mirror has the entry
	Proven       int          `json:"proven"`       // the entry is not carried, that it is in the log is proven
	NotCarried   int          `json:"not_carried"`  // too little is carried to tell
	Beyond       int          `json:"beyond_head"`  // newer than the mirror
	Contradicted int          `json:"contradicted"` // the log has something else there
	Unread       int          `json:"unread"`
	Dropped      uint64       `json:"dropped"` // forgotten to keep within bounds
	Open         []EntryClaim `json:"open"`    // of those that are neither mirrored nor proven, the gravest and newest
}

func claimKey(c EntryClaim) string {
	return fmt.Sprintf("%s%s\x00%020d\x00%s", keyClaim, c.Origin, c.Index, c.Leaf)
}

// keepClaim remembers an entry that was shown under a checkpoint of the log; one that is known stays, but for the evidence against it.
func (m *Mirror) keepClaim(o spool.Observation, c Checkpoint, evidence string) error {
	claim := EntryClaim{Origin: o.Origin, Index: o.Index, Leaf: o.Leaf, Size: c.Size, Root: c.Root, Source: oneLine(errors.New(o.Source)), Seen: m.c.Now().UTC(), Evidence: evidence}
	if evidence != "" {
		claim.Stands = ClaimContradicted
	}
	return full(m.c.DB.Update(func(tx store.Tx) error {
		var old EntryClaim
		known, err := get(tx, claimKey(claim), &old)
		if err != nil || known && (evidence == "" || old.Evidence != "") {
			return err
		}
		if !known {
			if err := makeRoom(tx); err != nil {
				return err
			}
		}
		return put(tx, claimKey(claim), claim)
	}))
}

// makeRoom counts one claim more, and forgets a twentieth of them when there are too many.
func makeRoom(tx store.Tx) error {
	var n claimTotals
	if _, err := get(tx, keyClaims, &n); err != nil {
		return err
	}
	if n.Kept++; n.Kept > maxClaims {
		var all []EntryClaim
		if err := scan(tx, keyClaim, func(_ string, c EntryClaim) error { all = append(all, c); return nil }); err != nil {
			return err
		}
		rank := func(c EntryClaim) int { return -slices.Index(ClaimStands, c.Stands) }
		slices.SortFunc(all, func(a, b EntryClaim) int { return cmp.Or(cmp.Compare(rank(a), rank(b)), a.Seen.Compare(b.Seen)) })
		for _, c := range all[:max(1, maxClaims/20)] {
			if c.Stands == ClaimContradicted {
				break
			}
			if err := tx.Delete([]byte(claimKey(c))); err != nil {
				return err
			}
			n.Kept, n.Dropped = n.Kept-1, n.Dropped+1
		}
	}
	return put(tx, keyClaims, n)
}

// Claims lists the entries that bundles seen inside claim, by log and index, and how each stands now. It changes nothing.
func (m *Mirror) Claims(ctx context.Context) ([]EntryClaim, error) {
	out := []EntryClaim{}
	heads, err := readHeads(m.c.DB)
	if err != nil {
		return nil, err
	}
	if err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyClaim, func(_ string, c EntryClaim) error { out = append(out, c); return nil })
	}); err != nil {
		return nil, err
	}
	var tree *tiles.Tree
	var sh *shelf
	for i := range out {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		c, h := &out[i], heads[out[i].Origin]
		if i == 0 || out[i-1].Origin != c.Origin {
			if tree, sh, err = m.storedTree(h); err != nil {
				return nil, err
			}
		}
		if c.Stands, err = m.stands(ctx, *c, h, tree, sh); errors.Is(err, ErrDamaged) {
			c.Stands = ClaimUnread
		} else if err != nil {
			return nil, err
		}
		if tree != nil { // claims ascend: what the next one does not share is done with
			next := uint64(tiles.MaxSize)
			if i+1 < len(out) && out[i+1].Origin == c.Origin {
				next = out[i+1].Index
			}
			leavePath(tree, c.Index, next)
		}
	}
	return out, nil
}

// stands tells how a claim stands to the tree of a head.
func (m *Mirror) stands(ctx context.Context, c EntryClaim, h Head, tree *tiles.Tree, sh *shelf) (string, error) {
	if c.Evidence != "" {
		return ClaimContradicted, nil
	}
	if c.Index >= h.Size {
		return ClaimBeyond, nil
	}
	leaf := tiles.Node{Index: c.Index}
	own, known, err := m.accepted(ctx, h, tree, sh, leaf)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	case known && own.Hash != c.Leaf:
		return ClaimContradicted, nil
	case h.Scope == parcel.ScopeFull:
		return ClaimMirrored, nil
	}
	var seen seenHead
	var record bool
	if err := m.c.DB.View(func(tx store.Tx) error {
		b, err := tx.Get([]byte(recordKey(keyRecord, c.Origin, c.Index)))
		if record = b != nil; err != nil {
			return err
		}
		_, err = get(tx, seenKey(c.Origin, c.Size), &seen)
		return err
	}); err != nil {
		return "", err
	}
	switch {
	case record && known && h.Scope == parcel.ScopeSparse:
		return ClaimMirrored, nil
	case seen.Size == c.Size && seen.Root == c.Root: // the proof that came with it ends in a checkpoint that was accepted
		return ClaimProven, nil
	case h.Scope == parcel.ScopeSparse:
		return m.standsSparse(ctx, c, h)
	}
	return m.standsSpine(ctx, c, h, tree, sh)
}

// standsSparse proves a claim by the subtree hashes kept of a sparse log, if they suffice.
func (m *Mirror) standsSparse(ctx context.Context, c EntryClaim, h Head) (string, error) {
	_, proof, err := sparseTree(m.c.DB, keyNode, c.Origin, h.Size).Inclusion(ctx, c.Index)
	if errors.Is(err, ErrNotFound) {
		return ClaimNotCarried, nil
	}
	if err != nil {
		return "", err
	}
	root, _, err := tiles.Path(c.Index, h.Size, c.Leaf, proof)
	if err != nil || root != h.Root {
		return "", fmt.Errorf("%w: entry %d of %q does not hash up to the head", ErrDamaged, c.Index, c.Origin)
	}
	return ClaimProven, nil
}

// standsSpine proves a claim by the hashes beside it that were shown, up to a subtree whose hash the tiles have, if they suffice.
func (m *Mirror) standsSpine(ctx context.Context, c EntryClaim, h Head, tree *tiles.Tree, sh *shelf) (string, error) {
	n, hash := tiles.Node{Index: c.Index}, c.Leaf
	for !inTiles(h.Scope, h.Size, n) {
		beside, known, err := m.accepted(ctx, h, tree, sh, tiles.Node{Level: n.Level, Index: n.Index ^ 1})
		if err != nil {
			return "", fmt.Errorf("%w: %w", ErrDamaged, err)
		}
		if !known {
			return ClaimNotCarried, nil
		}
		if n.Index&1 == 0 {
			hash = tiles.HashChildren(hash, beside.Hash)
		} else {
			hash = tiles.HashChildren(beside.Hash, hash)
		}
		if n = (tiles.Node{Level: n.Level + 1, Index: n.Index >> 1}); !n.In(h.Size) {
			return ClaimNotCarried, nil
		}
	}
	own, _, err := m.accepted(ctx, h, tree, sh, n)
	switch {
	case err != nil:
		return "", fmt.Errorf("%w: %w", ErrDamaged, err)
	case own.Hash != hash:
		return ClaimContradicted, nil
	}
	return ClaimProven, nil
}

// reclaim asks how every claim stands now and remembers it.
func (m *Mirror) reclaim(ctx context.Context) (*ClaimsReport, error) {
	all, err := m.Claims(ctx)
	if err != nil {
		return nil, err
	}
	r := &ClaimsReport{Seen: len(all), Open: []EntryClaim{}}
	counts := make(map[string]int)
	for _, c := range all {
		counts[c.Stands]++
		if c.Stands != ClaimMirrored && c.Stands != ClaimProven {
			r.Open = append(r.Open, c)
		}
	}
	grave := func(c EntryClaim) int { return slices.Index(ClaimStands, c.Stands) }
	slices.SortStableFunc(r.Open, func(a, b EntryClaim) int { return cmp.Or(cmp.Compare(grave(a), grave(b)), b.Seen.Compare(a.Seen)) })
	r.Open = r.Open[:min(len(r.Open), maxShown)]
	r.Mirrored, r.Proven, r.NotCarried, r.Beyond = counts[ClaimMirrored], counts[ClaimProven], counts[ClaimNotCarried], counts[ClaimBeyond]
	r.Contradicted, r.Unread = counts[ClaimContradicted], counts[ClaimUnread]
	return r, full(m.c.DB.Update(func(tx store.Tx) error {
		var n claimTotals
		if _, err := get(tx, keyClaims, &n); err != nil {
			return err
		}
		n.Stands, r.Dropped = counts, n.Dropped
		for _, c := range all {
			var old EntryClaim
			if ok, err := get(tx, claimKey(c), &old); err != nil {
				return err
			} else if !ok || old.Stands == c.Stands || old.Evidence != c.Evidence { // forgotten, or contradicted, in the meantime
				continue
			}
			if err := put(tx, claimKey(c), c); err != nil {
				return err
			}
		}
		return put(tx, keyClaims, n)
	}))
}

// err is what is wrong beyond the freezes: a mirrored log that has something else where a bundle's entry was, with nothing that froze it.
func (r *ClaimsReport) err() error {
	if r == nil {
		return nil
	}
	for _, c := range r.Open {
		if c.Stands == ClaimContradicted && c.Evidence == "" {
			return fmt.Errorf("log %q: %w: entry %d is not the one that %q was verified by", c.Origin, ErrDamaged, c.Index, c.Source)
		}
	}
	return nil
}
