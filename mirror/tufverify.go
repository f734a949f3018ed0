package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/trustedmetadata"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// How a TUF repository is believed: as a TUF client would, from the pinned root or the last good state on, by go-tuf, strictly as
// of one given time. Nothing here reads a clock. Beyond what a client does, no role may ever go back, the floors hold from the first
// state on, one version has one content for good, and everything is carried, not what somebody asks for.

// tufAsk names a metadata file: a role at a version, the timestamp at whatever version is newest.
type tufAsk struct {
	role    string
	version int64
}

// name is the file's name in a repository with consistent snapshots, and in the mirror's folder.
func (a tufAsk) name() string { return fmt.Sprintf("%d.%s.json", a.version, escape(a.role)) }

// limit is the longest file in bytes.
func (a tufAsk) limit() int64 {
	n := parcel.TUFName{Kind: parcel.TUFRole}
	switch a.role {
	case metadata.ROOT:
		n.Kind = parcel.TUFRoot
	case metadata.TIMESTAMP:
		n.Kind = parcel.TUFTimestamp
	case metadata.SNAPSHOT:
		n.Kind = parcel.TUFSnapshot
	}
	return parcel.Name{TUF: n}.Limit()
}

// tufFetch returns a metadata file. A root that is not there is fs.ErrNotExist and ends the chain.
type tufFetch func(ctx context.Context, ask tufAsk) ([]byte, error)

// tufHeld is what is believed already: a root, and unless it is the pinned one, what came with it.
type tufHeld struct {
	versions  parcel.Versions
	root      []byte
	timestamp []byte
	snapshot  []byte
	digests   map[string]parcel.Digest // of metadata files, by name
}

// tufState is a verified state of a repository.
type tufState struct {
	versions   parcel.Versions
	expires    time.Time // the earliest end of any role
	expiring   string    // and that role
	consistent bool      // files have versions and digests in their names
	root       *metadata.Metadata[metadata.RootType]
	files      []tufMeta // metadata, in the order it was verified
	roles      []string  // delegated, ascending
	targets    []TUFTarget
}

type tufMeta struct {
	ask  tufAsk
	data []byte
}

// verifyTUF verifies the newest state of a repository as of one time. Errors: ErrProof, ErrRollback, ErrStale for metadata that had
// expired by then, or what fetch returns.
func (r *tufRepo) verify(ctx context.Context, held tufHeld, at time.Time, fetch tufFetch) (*tufState, error) {
	if pinned, ok := held.digests[tufAsk{metadata.ROOT, r.pin}.name()]; ok && !pinned.Equal(parcel.Sum(r.Root)) {
		return nil, fmt.Errorf("%w: TUF repository %q: root %d that is pinned is not the one that was accepted", ErrConfig, r.Name, r.pin)
	}
	w := &tufWalk{repo: r, held: held, fetch: fetch}
	var err error
	if w.trusted, err = trustedmetadata.New(held.root); err != nil {
		return nil, r.blame("the root held", err)
	}
	w.trusted.RefTime = at.UTC()
	for _, step := range []func(context.Context) error{w.roots, w.timestamp, w.snapshot, w.targets} {
		if err := step(ctx); err != nil {
			return nil, err
		}
	}
	s := &w.state
	s.root, s.consistent = w.trusted.Root, w.trusted.Root.Signed.ConsistentSnapshot
	s.versions = parcel.Versions{
		Root: w.trusted.Root.Signed.Version, Timestamp: w.trusted.Timestamp.Signed.Version,
		Snapshot: w.trusted.Snapshot.Signed.Version, Targets: w.trusted.Targets[metadata.TARGETS].Signed.Version,
	}
	if err := r.advances(held.versions, s.versions); err != nil {
		return nil, err
	}
	w.expiry(metadata.ROOT, s.root.Signed.Expires)
	w.expiry(metadata.TIMESTAMP, w.trusted.Timestamp.Signed.Expires)
	w.expiry(metadata.SNAPSHOT, w.trusted.Snapshot.Signed.Expires)
	for role, t := range w.trusted.Targets {
		w.expiry(role, t.Signed.Expires)
	}
	s.targets, err = w.resolveAll()
	return s, err
}

// advances refuses a state that is behind the one held or below the floors.
func (r *tufRepo) advances(from, to parcel.Versions) error {
	if role := to.Below(from); role != "" {
		return fmt.Errorf("TUF repository %q: %w: %s: %v are held, this is %v", r.Name, ErrRollback, role, from, to)
	}
	if role := to.Below(r.floors); role != "" {
		return fmt.Errorf("TUF repository %q: %w: %s is below the floor: at least %v, this is %v (%s); run redoubt mirror pull and export outside again, against the repository's own server",
			r.Name, ErrRollback, role, r.floors, to, r.floorsFrom())
	}
	return nil
}

// blame says what of a repository did not verify, and sorts the library's errors.
func (r *tufRepo) blame(what string, err error) error {
	var expired *metadata.ErrExpiredMetadata
	if errors.As(err, &expired) {
		return fmt.Errorf("TUF repository %q: %s: %w: %v", r.Name, what, freshness.ErrStale, err)
	}
	return fmt.Errorf("TUF repository %q: %s: %w: %v", r.Name, what, ErrProof, err)
}

// tufWalk is one verification on its way.
type tufWalk struct {
	repo    *tufRepo
	held    tufHeld
	fetch   tufFetch
	trusted *trustedmetadata.TrustedMetadata
	state   tufState
}

func (w *tufWalk) expiry(role string, at time.Time) {
	if w.state.expires.IsZero() || at.Before(w.state.expires) {
		w.state.expires, w.state.expiring = at.UTC(), role
	}
}

// get fetches a file and refuses what no reader should interpret. Of a version that is held it must be the very file.
func (w *tufWalk) get(ctx context.Context, ask tufAsk) ([]byte, error) {
	data, err := w.fetch(ctx, ask)
	if err != nil {
		return nil, err
	}
	if err := checkTUFJSON(data, ask.limit()); err != nil {
		return nil, w.repo.blame(ask.role, err)
	}
	return data, nil
}

// keep takes a file that verified.
func (w *tufWalk) keep(ask tufAsk, data []byte) error {
	if d, ok := w.held.digests[ask.name()]; ok && !d.Equal(parcel.Sum(data)) {
		return fmt.Errorf("TUF repository %q: %w: %s has another content than the one held, under the same version", w.repo.Name, ErrProof, ask.name())
	}
	w.state.files = append(w.state.files, tufMeta{ask, data})
	return nil
}

// roots follows the chain of roots to its end.
func (w *tufWalk) roots(ctx context.Context) error {
	for range parcel.MaxTUFRoots {
		ask := tufAsk{metadata.ROOT, w.trusted.Root.Signed.Version + 1}
		data, err := w.get(ctx, ask)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := w.trusted.UpdateRoot(data); err != nil {
			return w.repo.blame(ask.name(), err)
		}
		if ask.version == w.repo.pin && !bytes.Equal(data, w.repo.Root) {
			return fmt.Errorf("TUF repository %q: %w: %s is not the root that is pinned here", w.repo.Name, ErrProof, ask.name())
		}
		if err := w.keep(ask, data); err != nil {
			return err
		}
	}
	return fmt.Errorf("TUF repository %q: %w: more than %d roots follow the one held", w.repo.Name, ErrProof, parcel.MaxTUFRoots)
}

func (w *tufWalk) timestamp(ctx context.Context) error {
	if w.held.timestamp != nil {
		w.trusted.UpdateTimestamp(w.held.timestamp) // it serves to find a rollback; its own expiry is no matter, and a key that left has no say
	}
	data, err := w.get(ctx, tufAsk{role: metadata.TIMESTAMP})
	if err != nil {
		return err
	}
	m, err := metadata.Timestamp().FromBytes(data)
	if err != nil {
		return w.repo.blame("timestamp", err)
	}
	if m.Signed.Meta["snapshot.json"] == nil {
		return w.repo.blame("timestamp", errors.New("it names no snapshot"))
	}
	_, err = w.trusted.UpdateTimestamp(data)
	var older *metadata.ErrBadVersionNumber
	var same *metadata.ErrEqualVersionNumber
	switch {
	case errors.As(err, &older):
		return fmt.Errorf("TUF repository %q: timestamp: %w: %v", w.repo.Name, ErrRollback, err)
	case errors.As(err, &same) && bytes.Equal(data, w.held.timestamp):
		err = nil
	}
	if err != nil {
		return w.repo.blame(fmt.Sprintf("timestamp %d as of %s", m.Signed.Version, w.trusted.RefTime.Format(time.RFC3339)), err)
	}
	return w.keep(tufAsk{metadata.TIMESTAMP, m.Signed.Version}, data)
}

func (w *tufWalk) snapshot(ctx context.Context) error {
	if w.held.snapshot != nil {
		w.trusted.UpdateSnapshot(w.held.snapshot, true) // as above
	}
	ask := tufAsk{metadata.SNAPSHOT, w.trusted.Timestamp.Signed.Meta["snapshot.json"].Version}
	data, err := w.get(ctx, ask)
	if err != nil {
		return err
	}
	m, err := metadata.Snapshot().FromBytes(data)
	if err != nil {
		return w.repo.blame(ask.name(), err)
	}
	if m.Signed.Version != ask.version {
		return w.repo.blame(ask.name(), fmt.Errorf("it calls itself %d", m.Signed.Version))
	}
	_, err = w.trusted.UpdateSnapshot(data, false)
	var older *metadata.ErrBadVersionNumber
	if errors.As(err, &older) {
		return fmt.Errorf("TUF repository %q: %s: %w: %v", w.repo.Name, ask.name(), ErrRollback, err)
	}
	if err != nil {
		return w.repo.blame(ask.name(), err)
	}
	return w.keep(ask, data)
}

// targets takes the top-level targets and every role they delegate to, whoever delegated first.
func (w *tufWalk) targets(ctx context.Context) error {
	type delegation struct{ role, by string }
	queue := []delegation{{metadata.TARGETS, metadata.ROOT}}
	for len(queue) > 0 {
		d := queue[0]
		queue = queue[1:]
		if w.trusted.Targets[d.role] != nil {
			continue
		}
		meta := w.trusted.Snapshot.Signed.Meta[d.role+".json"]
		if meta == nil {
			return w.repo.blame(d.role, errors.New("the snapshot does not name it"))
		}
		ask := tufAsk{d.role, meta.Version}
		data, err := w.get(ctx, ask)
		if err != nil {
			return err
		}
		t, err := w.trusted.UpdateDelegatedTargets(data, d.role, d.by)
		if err != nil {
			return w.repo.blame(ask.name(), err)
		}
		if err := w.keep(ask, data); err != nil {
			return err
		}
		if d.role != metadata.TARGETS {
			w.state.roles = append(w.state.roles, d.role)
		}
		if t.Signed.Delegations == nil {
			continue
		}
		if t.Signed.Delegations.SuccinctRoles != nil || len(w.state.roles)+len(queue)+len(t.Signed.Delegations.Roles) > 2*parcel.MaxTUFRoles {
			return w.repo.blame(ask.name(), errors.New("it delegates to more roles than are carried"))
		}
		for _, r := range t.Signed.Delegations.Roles {
			if !roleName().MatchString(r.Name) || slices.Contains(metadata.TOP_LEVEL_ROLE_NAMES[:], r.Name) {
				return w.repo.blame(ask.name(), fmt.Errorf("a delegated role called %.80q", r.Name))
			}
			queue = append(queue, delegation{r.Name, d.role})
		}
	}
	if len(w.state.roles) > parcel.MaxTUFRoles {
		return w.repo.blame("targets", errors.New("it delegates to more roles than are carried"))
	}
	slices.Sort(w.state.roles)
	return nil
}

var (
	roleName   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._ -]{0,99}$`) })
	targetName = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[A-Za-z0-9][A-Za-z0-9._-]{0,99}){0,3}$`)
	})
)

// resolveAll finds for every name any role lists the target a client would be given (TUF 5.6.7: depth first, in the order of
// delegations, a terminating one ends the search).
func (w *tufWalk) resolveAll() ([]TUFTarget, error) {
	names := make(map[string]bool)
	for _, t := range w.trusted.Targets {
		for name := range t.Signed.Targets {
			names[name] = true
		}
	}
	var out []TUFTarget
	files := make(map[string]bool)
	for name := range names {
		t, _ := w.resolve(metadata.TARGETS, name, make(map[string]bool))
		if t == nil {
			continue
		}
		digest := parcel.Digest(t.Hashes["sha256"])
		if !targetName().MatchString(name) || len(digest) != 32 || t.Length < 0 || t.Length > parcel.MaxTUFTarget {
			return nil, w.repo.blame("targets", fmt.Errorf("target %.100q of %d bytes, which cannot be carried: a plain name, a SHA-256 and at most %d bytes are needed", name, t.Length, parcel.MaxTUFTarget))
		}
		files[digest.String()] = true
		target := TUFTarget{Name: name, SHA256: digest, Bytes: t.Length, Custom: t.Custom, files: t}
		out = append(out, target)
	}
	if len(files) > parcel.MaxTUFFiles {
		return nil, w.repo.blame("targets", fmt.Errorf("%d target files; at most %d are carried", len(files), parcel.MaxTUFFiles))
	}
	slices.SortFunc(out, func(a, b TUFTarget) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return out, nil
}

func (w *tufWalk) resolve(role, name string, visited map[string]bool) (t *metadata.TargetFiles, end bool) {
	m := w.trusted.Targets[role]
	if m == nil || visited[role] {
		return nil, false
	}
	visited[role] = true
	if t := m.Signed.Targets[name]; t != nil {
		return t, true
	}
	if m.Signed.Delegations == nil {
		return nil, false
	}
	for _, d := range m.Signed.Delegations.GetRolesForTarget(name) {
		if t, end = w.resolve(d.Name, name, visited); end || d.Terminating {
			return t, true
		}
	}
	return nil, false
}

// checkTUFJSON refuses what two readers may read in two ways, and null, which no member of TUF metadata is.
func checkTUFJSON(data []byte, limit int64) error {
	if err := strictjson.Check(data, strictjson.Limits{Bytes: int(limit), Depth: 32, Values: 200_000}); err != nil {
		return err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		switch token, err := d.Token(); {
		case err != nil:
			return nil // the end: it was found to be JSON above
		case token == nil:
			return errors.New("it holds null")
		}
	}
}
