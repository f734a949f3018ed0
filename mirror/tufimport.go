package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// maxTUFMetadata bounds the metadata of one repository that is held in memory at once.
const maxTUFMetadata = 64 << 20

// judgeTUF decides by the manifest alone whether its TUF steps can be taken.
func (m *Mirror) judgeTUF(n *parcel.Manifest) error {
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return err
	}
	for _, t := range n.TUF {
		r := m.tuf[t.Name]
		if r == nil {
			return fmt.Errorf("%w: TUF repository %q; pin its root under mirror.tuf", ErrUnknownOrigin, t.Name)
		}
		from := parcel.Versions{Root: r.pin}
		h, ok := heads[t.Name]
		if ok {
			from = h.Versions
		}
		if err := r.advances(from, t.To); err != nil {
			return err
		}
		if ok {
			if n.Created.Before(h.AsOf.Add(-clockSlack)) { // going back in time is how expired metadata would become valid
				return fmt.Errorf("TUF repository %q: %w: the parcel says it was made at %s, the state held was valid at %s",
					t.Name, ErrClock, n.Created.UTC().Format(time.RFC3339), h.AsOf.UTC().Format(time.RFC3339))
			}
		}
		if t.From.Root > from.Root {
			return fmt.Errorf("TUF repository %q: %w: the parcel's roots follow root %d, %d is held; pin a later root here, or an earlier one outside",
				t.Name, ErrProof, t.From.Root, from.Root)
		}
	}
	return nil
}

// readTUFs takes the TUF repositories of the parcel, before any log: what they say decides which logs are known. Metadata is judged
// as of the time the parcel was made. What has expired since is taken, and everybody is told by how much.
func (in *importing) readTUFs(ctx context.Context, n *parcel.Manifest) error {
	heads, err := tufHeads(in.m.c.DB, keyTUF)
	if err != nil || len(n.TUF) == 0 {
		return err
	}
	for i, t := range n.TUF {
		var held *TUFHead
		if h, ok := heads[t.Name]; ok {
			held = &h
		}
		head, change, err := in.readTUF(ctx, i, t, held, n)
		if err != nil {
			return err
		}
		step := newTUFStep(held, head, in.m.c.Now())
		step.Changes = change.Changes
		in.tuf, in.trust, in.tufSteps = append(in.tuf, head), append(in.trust, change), append(in.tufSteps, step)
	}
	for _, l := range n.Logs { // by what is known now
		if err := in.m.judgeLog(in.s, l); err != nil {
			return err
		}
	}
	return syncfs(in.m.root)
}

func (in *importing) readTUF(ctx context.Context, i int, t parcel.TUF, held *TUFHead, n *parcel.Manifest) (TUFHead, TrustChange, error) {
	m, r := in.m, in.m.tuf[t.Name]
	fail := func(err error) (TUFHead, TrustChange, error) { return TUFHead{}, TrustChange{}, err }
	carried, err := in.readMetadata(i, t)
	if err != nil {
		return fail(err)
	}
	believed, err := r.held(m.root, held)
	if err != nil {
		return fail(err)
	}
	state, err := r.verify(ctx, believed, n.Created.Time, carriedFetch(t, carried))
	if err != nil {
		return fail(err)
	}
	head := r.head(held, state)
	head.Observed, head.AsOf, head.Imported, head.Sequence = t.Observed.UTC(), n.Created.UTC(), m.c.Now().UTC(), n.Sequence
	if err := r.called(t, head); err != nil {
		return fail(err)
	}
	dir := in.stagedTUF(t.Name)
	if err := r.keepTUF(m.root, dir, held == nil, state); err != nil {
		return fail(err)
	}
	var trustedRoot []byte
	for _, d := range t.Files {
		b, err := in.next(parcel.Name{TUF: parcel.TUFName{Repo: i, Kind: parcel.TUFTarget, Digest: [32]byte(d)}}, nil)
		if err != nil {
			return fail(err)
		}
		if err := r.keepTarget(m.root, dir, state, d, b); err != nil {
			return fail(err)
		}
		if d.Equal(head.target(trustedRootName)) { // never nil: a digest has 32 bytes
			trustedRoot = b
		}
	}
	change, err := m.trustChange(held, head, state.root, trustedRoot)
	if err != nil {
		return fail(err)
	}
	return head, change, m.learnFrom(t.Name, trustedRoot)
}

// readMetadata reads the metadata files of a step, which stand before its target files.
func (in *importing) readMetadata(i int, t parcel.TUF) (map[parcel.TUFName][]byte, error) {
	out := make(map[parcel.TUFName][]byte)
	total := 0
	for _, name := range t.Names(i) {
		if name.TUF.Kind == parcel.TUFTarget {
			break
		}
		b, err := in.next(name, nil)
		if err != nil {
			return nil, err
		}
		if total += len(b); total > maxTUFMetadata {
			return nil, fmt.Errorf("TUF repository %q: %w: more than %d bytes of metadata", t.Name, parcel.ErrManifest, maxTUFMetadata)
		}
		name.TUF.Repo = 0
		out[name.TUF] = b
	}
	return out, nil
}

// carriedFetch hands a verification what a parcel carries.
func carriedFetch(t parcel.TUF, carried map[parcel.TUFName][]byte) tufFetch {
	return func(_ context.Context, ask tufAsk) ([]byte, error) {
		name := parcel.TUFName{Kind: parcel.TUFRole, N: int64(slices.Index(t.Roles, ask.role))}
		switch ask.role {
		case metadata.ROOT:
			name = parcel.TUFName{Kind: parcel.TUFRoot, N: ask.version}
		case metadata.TIMESTAMP:
			name = parcel.TUFName{Kind: parcel.TUFTimestamp}
		case metadata.SNAPSHOT:
			name = parcel.TUFName{Kind: parcel.TUFSnapshot}
		case metadata.TARGETS:
			name = parcel.TUFName{Kind: parcel.TUFTargets}
		}
		b, ok := carried[name]
		switch {
		case ok:
			return b, nil
		case ask.role == metadata.ROOT:
			return nil, fs.ErrNotExist
		}
		return nil, fmt.Errorf("TUF repository %q: %w: %s is not carried", t.Name, ErrProof, ask.name())
	}
}

// called requires that what verified is what the manifest calls for, no more and no less.
func (r *tufRepo) called(t parcel.TUF, h TUFHead) error {
	same := func(a, b parcel.Digest) bool { return a.Equal(b) }
	switch {
	case h.Versions != t.To:
		return fmt.Errorf("TUF repository %q: %w: the manifest ends at %v, the metadata at %v", r.Name, ErrProof, t.To, h.Versions)
	case !slices.Equal(h.Roles, t.Roles):
		return fmt.Errorf("TUF repository %q: %w: roles %q are carried, the targets delegate to %q", r.Name, ErrProof, t.Roles, h.Roles)
	case !slices.EqualFunc(h.digests(), t.Files, same):
		return fmt.Errorf("TUF repository %q: %w: the target files that are carried are not those the targets name", r.Name, ErrProof)
	}
	return nil
}

func (in *importing) stagedTUF(name string) string { return stagedTUF(in.digest, name) }

func stagedTUF(d parcel.Digest, name string) string { return path.Join(stagingDir(d), "tuf", name) }

// moveTUF puts the files of the repositories into place. It may be repeated.
func (m *Mirror) moveTUF(p *pendingState) error {
	for _, h := range p.TUF {
		if err := moveTree(m.root, stagedTUF(p.Digest, h.Name), tufDir(h.Name)); err != nil {
			return fmt.Errorf("publishing TUF repository %q: %w", h.Name, err)
		}
	}
	return nil
}

// commitTUF moves the heads of the repositories.
func commitTUF(tx store.Tx, p *pendingState) error {
	for _, h := range p.TUF {
		if err := put(tx, keyTUF+h.Name, h); err != nil {
			return err
		}
	}
	return nil
}

// unlearn forgets what a parcel taught that was not taken.
func (in *importing) unlearn(err error) error {
	if len(in.tuf) == 0 {
		return err
	}
	return errors.Join(err, in.m.relearn())
}
