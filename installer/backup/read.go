package backup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"slices"
	"sync"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
)

// contentsOf is what the run of m holds: what it stored, on top of what it continues.
func (r *repository) contentsOf(m *Manifest, keys *opener) (*contents, error) {
	line := []*Manifest{m}
	for m.Base != 0 {
		var err error
		if m, _, err = r.manifest(m.Base); err != nil {
			return nil, err
		}
		line = append(line, m)
	}
	whole := &contents{}
	for i := len(line) - 1; i >= 0; i-- {
		plain, err := r.open(line[i].Contents, line[i].Encryption, keys)
		if err != nil {
			return nil, err
		}
		diff, err := parseContents(plain)
		if err != nil {
			return nil, err
		}
		whole.apply(diff)
	}
	return whole, nil
}

// open reads an object and opens it.
func (r *repository) open(p Part, encryption string, keys *opener) ([]byte, error) {
	data, err := r.get(p)
	if err != nil || encryption == EncryptionNone {
		return data, err
	}
	plain, err := keys.open(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", objectFile(p.Object), err)
	}
	return plain, nil
}

// target takes what a backup holds, checked. Verify has one that only counts.
type target struct {
	// record takes one record of a database, whose bytes stay as they are.
	record func(database string, key, value []byte) error
	// piece takes the next piece of a file, and folder a folder.
	piece  func(f *file, data []byte, first, last bool) error
	folder func(f *file) error
}

// reader goes through the contents of one run.
type reader struct {
	repo    *repository
	m       *Manifest
	c       *contents
	keys    *opener
	to      target
	objects int
	bytes   int64
	read    map[string]bool // objects, by name
	said    func(bytes int64)
}

// opened is an object that was read, compared with its digest and opened.
type opened struct {
	part  Part
	plain []byte
	err   error
}

// ahead is how many objects are opened while the one before is worked on.
const ahead = 2

// each calls fn with the contents of objects, in order. The next ones are opened meanwhile.
func (r *reader) each(ctx context.Context, parts []Part, fn func(p Part, plain []byte) error) error {
	ctx, cancel := context.WithCancel(ctx)
	var openers sync.WaitGroup
	defer openers.Wait()
	defer cancel()
	queue := make(chan chan opened, ahead)
	openers.Go(func() {
		defer close(queue)
		for _, p := range parts {
			one := make(chan opened, 1)
			select {
			case queue <- one:
			case <-ctx.Done():
				return
			}
			openers.Go(func() {
				plain, err := r.repo.open(p, r.m.Encryption, r.keys)
				one <- opened{p, plain, err}
			})
		}
	})
	for one := range queue {
		o := <-one
		if o.err != nil {
			return o.err
		}
		r.objects++
		r.bytes += o.part.Bytes
		r.read[objectFile(o.part.Object)] = true
		r.said(r.bytes)
		if err := fn(o.part, o.plain); err != nil {
			return damagedBy(o.part, err)
		}
	}
	return ctx.Err()
}

// damagedBy names the object of what is wrong with a backup.
func damagedBy(p Part, err error) error {
	if errors.Is(err, store.ErrSnapshot) || errors.Is(err, log.ErrCorrupt) {
		return fmt.Errorf("%w: %s: %w", ErrDamaged, objectFile(p.Object), err)
	}
	return err
}

// records calls fn with each record of the objects. Its bytes stay as they are.
func (r *reader) records(ctx context.Context, parts []Part, fn func(k, v []byte) error) error {
	return r.each(ctx, parts, func(_ Part, plain []byte) error { return store.SnapshotRecords(plain, fn) })
}

func (r *reader) run(ctx context.Context) error {
	seen := map[string]bool{}
	for _, d := range r.c.Databases {
		if err := r.database(ctx, d, seen); err != nil {
			return fmt.Errorf("%s: %w", d.Name, err)
		}
	}
	for _, l := range r.m.Logs {
		if !seen[l.Name] {
			return fmt.Errorf("%w: the %s log is in the manifest and not in the contents", ErrDamaged, l.Name)
		}
	}
	return r.files(ctx)
}

// database goes through one database: its logs, computed anew, then the rest of it.
func (r *reader) database(ctx context.Context, d *database, seen map[string]bool) error {
	if !fs.ValidPath(d.Name) || len(d.Name) > 255 || bytes.ContainsRune([]byte(d.Name), '/') {
		return fmt.Errorf("%w: a database called %.80q", ErrDamaged, d.Name)
	}
	put := func(k, v []byte) error { return r.to.record(d.Name, k, v) }
	for _, l := range d.Logs {
		if seen[l.Name] {
			return fmt.Errorf("%w: the %s log stands twice", ErrDamaged, l.Name)
		}
		seen[l.Name] = true
		if err := r.log(ctx, l, put); err != nil {
			return fmt.Errorf("the %s log: %w", l.Name, err)
		}
	}
	return r.records(ctx, d.Rest, func(k, v []byte) error {
		for _, l := range d.Logs {
			if log.Follows(l.Prefix, k) {
				return fmt.Errorf("%w: a key of the %s log beside it", ErrDamaged, l.Name)
			}
		}
		return put(k, v)
	})
}

// publicOnly is the key of a log as far as a check needs it.
type publicOnly struct{ key crypto.PublicKey }

func (p publicOnly) Public() crypto.PublicKey { return p.key }
func (p publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errors.New("only the public key is here")
}

// log computes a log anew and compares it with the checkpoint in the manifest.
func (r *reader) log(ctx context.Context, l *logPart, put func(k, v []byte) error) (err error) {
	var want *LogHead
	for i := range r.m.Logs {
		if r.m.Logs[i].Name == l.Name {
			want = &r.m.Logs[i]
		}
	}
	if want == nil || want.Origin != l.Origin {
		return fmt.Errorf("%w: the manifest knows no such log", ErrDamaged)
	}
	public, err := r.m.public(l.Name)
	if err != nil {
		return err
	}
	replay, err := log.NewReplay(log.Config{Prefix: l.Prefix, Origin: l.Origin, Signer: publicOnly{public}})
	if err != nil {
		return err
	}
	err = r.each(ctx, slices.Concat(l.Segments, l.Tail), func(_ Part, plain []byte) error { return segment(l, plain, replay, put) })
	if err != nil {
		replay.Finish()
		return err
	}
	got, err := replay.Finish()
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got.Head.Size != want.Size || !want.Root.Equal(got.Head.Root[:]) || got.Entries != want.Entries {
		return fmt.Errorf("%w: its entries lead to size %d and root %x, the checkpoint says %d and %s", ErrDamaged, got.Head.Size, got.Head.Root, want.Size, want.Root)
	}
	return nil
}

// segment hands one segment on: its heads first, for the replay compares them as the entries reach them.
func segment(l *logPart, plain []byte, replay *log.Replay, put func(k, v []byte) error) error {
	type record struct{ k, v []byte }
	var chunks []record
	err := store.SnapshotRecords(plain, func(k, v []byte) error {
		if !log.IsHead(l.Prefix, k) {
			chunks = append(chunks, record{k, v})
			return nil
		}
		if err := replay.Head(k, v); err != nil {
			return err
		}
		return put(k, v)
	})
	if err != nil {
		return err
	}
	for _, c := range chunks {
		if err := replay.Chunk(c.k, c.v, put); err != nil {
			return err
		}
		if err := put(c.k, c.v); err != nil {
			return err
		}
	}
	return nil
}

// files goes through the files, object by object as they lie.
func (r *reader) files(ctx context.Context) error {
	byObject := map[string][]*file{}
	var order []Part
	for _, f := range r.c.Files {
		if !fs.ValidPath(f.Path) || f.Path == "." || len(f.Path) > maxPath {
			return fmt.Errorf("%w: a file called %.80q", ErrDamaged, f.Path)
		}
		switch {
		case f.Mode.IsDir():
			if err := r.to.folder(f); err != nil {
				return err
			}
		case len(f.Parts) == 1:
			name := f.Parts[0].Object.String()
			if byObject[name] == nil {
				order = append(order, f.Parts[0])
			}
			byObject[name] = append(byObject[name], f)
		}
	}
	for _, p := range order {
		want := map[string]*file{}
		for _, f := range byObject[p.Object.String()] {
			want[f.Path] = f
		}
		err := r.records(ctx, []Part{p}, func(k, v []byte) error {
			f := want[string(k)]
			if f == nil {
				return nil // of a file that changed since
			}
			delete(want, f.Path)
			if sum := sha256.Sum256(v); int64(len(v)) != f.Size || !f.SHA256.Equal(sum[:]) {
				return fmt.Errorf("%w: %s in %s is not what was copied", ErrDamaged, f.Path, objectFile(p.Object))
			}
			return r.to.piece(f, v, true, true)
		})
		if err != nil {
			return err
		}
		for path := range want {
			return fmt.Errorf("%w: %s is not in %s", ErrDamaged, path, objectFile(p.Object))
		}
	}
	for _, f := range r.c.Files {
		if f.Mode.IsDir() || len(f.Parts) == 1 {
			continue
		}
		if err := r.large(ctx, f); err != nil {
			return err
		}
	}
	return nil
}

// large hands on a file of several pieces.
func (r *reader) large(ctx context.Context, f *file) error {
	if len(f.Parts) == 0 {
		return fmt.Errorf("%w: nothing holds %s", ErrDamaged, f.Path)
	}
	var h hash.Hash = sha256.New()
	var size int64
	for i, p := range f.Parts {
		err := r.records(ctx, []Part{p}, func(_, v []byte) error {
			h.Write(v)
			size += int64(len(v))
			return r.to.piece(f, v, i == 0, i == len(f.Parts)-1)
		})
		if err != nil {
			return err
		}
	}
	if size != f.Size || !f.SHA256.Equal(h.Sum(nil)) {
		return fmt.Errorf("%w: %s is not what was copied", ErrDamaged, f.Path)
	}
	return nil
}
