package trust

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Publish makes files the targets, all of them: a target not among files is
// withdrawn. Publishing what is published already changes nothing.
func (r *Repository) Publish(ctx context.Context, files []File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := make(map[string]*metadata.TargetFiles, len(files))
	for _, f := range files {
		t, err := r.describeTarget(f)
		if err != nil {
			return err
		}
		if next[f.Name] != nil {
			return fmt.Errorf("%w: two targets %q", ErrMaterial, f.Name)
		}
		next[f.Name] = t
	}
	return r.publish(ctx, files, next)
}

// describeTarget is what the metadata says of f.
func (r *Repository) describeTarget(f File) (*metadata.TargetFiles, error) {
	if !targetName().MatchString(f.Name) || len(f.Data) == 0 || len(f.Data) > maxTarget {
		return nil, fmt.Errorf("%w: target %q of %d bytes", ErrMaterial, f.Name, len(f.Data))
	}
	t, err := metadata.TargetFile().FromBytes(f.Name, f.Data, "sha256")
	if err != nil {
		return nil, fmt.Errorf("describing target: %w", err)
	}
	if f.Custom != nil {
		custom := bytes.Clone(f.Custom)
		t.Custom = (*json.RawMessage)(&custom)
	}
	return t, nil
}

// publish makes next the targets; files are those of them that may not lie here yet. Its caller has r.mu.
func (r *Repository) publish(ctx context.Context, files []File, next map[string]*metadata.TargetFiles) error {
	if r.targets != nil && sameTargets(r.targets.Signed.Targets, next) {
		return nil
	}
	if r.signer == nil {
		return fmt.Errorf("%w: opened without one", ErrKey)
	}
	// 1. Target files. A crash up to step 5 leaves files nothing refers to.
	for _, f := range files {
		name := targetFile(f.Name, next[f.Name])
		if err := os.MkdirAll(filepath.Dir(r.path(name)), 0o755); err != nil {
			return fmt.Errorf("writing TUF file: %w", err)
		}
		if err := r.write(name, f.Data); err != nil {
			return err
		}
	}
	return r.advance(ctx, next)
}

// Replace publishes f in place of the target of its name, or beside the others.
func (r *Repository) Replace(ctx context.Context, f File) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	next := maps.Clone(r.targets.Signed.Targets)
	t, err := r.describeTarget(f)
	if err != nil {
		return err
	}
	next[f.Name] = t
	return r.publish(ctx, []File{f}, next)
}

func sameTargets(a, b map[string]*metadata.TargetFiles) bool {
	if len(a) != len(b) {
		return false
	}
	for name, t := range a {
		o := b[name]
		if o == nil || !t.Equal(*o) || (t.Custom == nil) != (o.Custom == nil) || t.Custom != nil && !sameJSON(*t.Custom, *o.Custom) {
			return false
		}
	}
	return true
}

func sameJSON(a, b []byte) bool {
	var x, y bytes.Buffer
	return json.Compact(&x, a) == nil && json.Compact(&y, b) == nil && bytes.Equal(x.Bytes(), y.Bytes())
}

// Renew signs a fresh timestamp, and with it the roles that have less than a
// quarter of their lifetime left, the root included. A server calls it at start
// and from time to time.
func (r *Repository) Renew(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signer == nil {
		return fmt.Errorf("%w: opened without one", ErrKey)
	}
	near := func(expires time.Time, life time.Duration) bool { return expires.Before(r.now().Add(life / 4)) }
	if near(r.root.Signed.Expires, r.life.Root) {
		if err := r.replaceRoot(ctx, func(*metadata.RootType) error { return nil }); err != nil {
			return err
		}
	}
	if near(r.targets.Signed.Expires, r.life.Targets) {
		return r.advance(ctx, r.targets.Signed.Targets)
	}
	if near(r.snapshot.Signed.Expires, r.life.Snapshot) {
		return r.advanceSnapshot(ctx, r.targets)
	}
	return r.advanceTimestamp(ctx, r.targets, r.snapshot)
}

// advance publishes targets as the next version of everything below the root.
func (r *Repository) advance(ctx context.Context, next map[string]*metadata.TargetFiles) error {
	t := metadata.Targets(r.expiry(r.life.Targets))
	t.Signed.Targets = next
	if r.targets != nil {
		t.Signed.Version = max(r.targets.Signed.Version+1, r.floor)
	}
	if err := signAndWrite(ctx, r, t, metadata.TARGETS, versioned(t.Signed.Version, "targets")); err != nil { // 2
		return err
	}
	return r.advanceSnapshot(ctx, t)
}

func (r *Repository) advanceSnapshot(ctx context.Context, t *metadata.Metadata[metadata.TargetsType]) error {
	s := metadata.Snapshot(r.expiry(r.life.Snapshot))
	if r.snapshot != nil {
		s.Signed.Version = max(r.snapshot.Signed.Version+1, r.floor)
	}
	meta, err := r.describe(versioned(t.Signed.Version, "targets"), t.Signed.Version)
	if err != nil {
		return err
	}
	s.Signed.Meta["targets.json"] = meta
	if err := signAndWrite(ctx, r, s, metadata.SNAPSHOT, versioned(s.Signed.Version, "snapshot")); err != nil { // 3
		return err
	}
	return r.advanceTimestamp(ctx, t, s)
}

func (r *Repository) advanceTimestamp(ctx context.Context, t *metadata.Metadata[metadata.TargetsType], s *metadata.Metadata[metadata.SnapshotType]) error {
	ts := metadata.Timestamp(r.expiry(r.life.Timestamp))
	if r.timestamp != nil {
		ts.Signed.Version = max(r.timestamp.Signed.Version+1, r.floor)
	}
	meta, err := r.describe(versioned(s.Signed.Version, "snapshot"), s.Signed.Version)
	if err != nil {
		return err
	}
	ts.Signed.Meta["snapshot.json"] = meta
	if err := signAndWrite(ctx, r, ts, metadata.TIMESTAMP, "timestamp.json"); err != nil { // 4. from here on it is published
		return err
	}
	r.targets, r.snapshot, r.timestamp = t, s, ts
	r.log.InfoContext(ctx, "TUF repository published", "targets", t.Signed.Version, "snapshot", s.Signed.Version, "timestamp", ts.Signed.Version, "expires", ts.Signed.Expires)
	return nil
}

// describe returns length and hash of a file just written.
func (r *Repository) describe(file string, version int64) (*metadata.MetaFiles, error) {
	data, err := r.read(file)
	if err != nil {
		return nil, err
	}
	t, err := metadata.TargetFile().FromBytes(file, data, "sha256")
	if err != nil {
		return nil, fmt.Errorf("describing %s: %w", file, err)
	}
	return &metadata.MetaFiles{Version: version, Length: t.Length, Hashes: t.Hashes}, nil
}

// writeRoot signs r.root and makes it the newest. It must satisfy its own rule
// and prior's, the root before it; nil for the first.
func (r *Repository) writeRoot(ctx context.Context, prior *metadata.Metadata[metadata.RootType], also ...crypto.Signer) error {
	r.root.ClearSignatures()
	file := versioned(r.root.Signed.Version, "root")
	data, err := signed(ctx, r, r.root, metadata.ROOT, file, also...)
	if err != nil {
		return err
	}
	if prior != nil {
		if err := prior.VerifyDelegate(metadata.ROOT, r.root); err != nil {
			return fmt.Errorf("checking %s by the root before it: %w", file, err)
		}
	}
	if err := r.write(file, data); err != nil {
		return err
	}
	r.rootBytes = data
	return r.write("root.json", data)
}

// signAndWrite signs m, verifies it as a client would, and makes it durable.
func signAndWrite[T metadata.Roles](ctx context.Context, r *Repository, m *metadata.Metadata[T], role, file string) error {
	data, err := signed(ctx, r, m, role, file)
	if err != nil {
		return err
	}
	return r.write(file, data)
}

// signed signs m with the repository's key and those in also, and verifies it by
// the newest root.
func signed[T metadata.Roles](ctx context.Context, r *Repository, m *metadata.Metadata[T], role, file string, also ...crypto.Signer) ([]byte, error) {
	for _, key := range append([]crypto.Signer{r.signer}, also...) {
		signer := &tufSigner{ctx: ctx, key: key}
		if _, err := m.Sign(signer); err != nil {
			return nil, fmt.Errorf("signing %s: %w", file, cmp.Or(signer.err, err))
		}
	}
	if err := r.root.VerifyDelegate(role, m); err != nil {
		return nil, fmt.Errorf("checking %s: %w", file, err)
	}
	data, err := m.ToBytes(true)
	if err != nil {
		return nil, fmt.Errorf("encoding %s: %w", file, err)
	}
	return data, nil
}

func versioned(n int64, role string) string { return strconv.FormatInt(n, 10) + "." + role + ".json" }

func (r *Repository) expiry(d time.Duration) time.Time {
	return r.now().UTC().Add(d).Truncate(time.Second)
}

func (r *Repository) path(name string) string {
	return filepath.Join(r.dir, filepath.FromSlash(name))
}
