package trust

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// Errors of the repository, to be tested with errors.Is.
var (
	// ErrExists: Create found a repository in the directory.
	ErrExists = errors.New("TUF repository exists already")
	// ErrNotFound: Open found no repository in the directory, or Target no such target.
	ErrNotFound = errors.New("no TUF repository, or not in it")
	// ErrDamaged: files of the repository are missing, or do not verify.
	ErrDamaged = errors.New("TUF repository is damaged")
	// ErrKey: the signing key is not one the repository's root names.
	ErrKey = errors.New("key is not the TUF repository's")
)

// Lifetime of the metadata of each role. The defaults suit a site where nobody
// brings new metadata for years: the documents inside change by decision, not
// by schedule, and an expired timestamp stops every client that updates. The
// timestamp is the shortest because Renew refreshes it whenever the server runs.
type Lifetime struct {
	Root      time.Duration // default 10 years
	Targets   time.Duration // default 10 years
	Snapshot  time.Duration // default 10 years
	Timestamp time.Duration // default 1 year
}

const year = 365 * 24 * time.Hour

func (l Lifetime) withDefaults() Lifetime {
	for _, p := range []struct {
		field *time.Duration
		def   time.Duration
	}{{&l.Root, 10 * year}, {&l.Targets, 10 * year}, {&l.Snapshot, 10 * year}, {&l.Timestamp, year}} {
		if *p.field == 0 {
			*p.field = p.def
		}
	}
	return l
}

// RepositoryConfig says where a repository lies and who signs it.
type RepositoryConfig struct {
	// Dir holds the served files and nothing else.
	Dir string
	// Signer is the one key of all four roles, ECDSA P-256. Nil opens the
	// repository for serving only.
	Signer crypto.Signer
	// Floor is the least version of targets, snapshot and timestamp that is signed from now on; 0 is none. Whoever lost the newest
	// repository goes beyond what clients may have seen.
	Floor int64
	// Lifetime of new metadata.
	Lifetime Lifetime
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger gets each publication at info level; nil discards.
	Logger *slog.Logger
}

// Repository is a TUF repository with consistent snapshots in a directory:
//
//	N.root.json  N.targets.json  N.snapshot.json  timestamp.json  root.json (the newest)
//	targets/<sha256>.<name>, targets/<folder>/<sha256>.<name>
//
// timestamp.json decides: what it does not lead to was never published. It is
// safe for concurrent use in one process; one process writes at a time.
type Repository struct {
	dir    string
	signer crypto.Signer
	life   Lifetime
	floor  int64
	now    func() time.Time
	log    *slog.Logger

	mu        sync.Mutex
	root      *metadata.Metadata[metadata.RootType]
	rootBytes []byte
	targets   *metadata.Metadata[metadata.TargetsType]
	snapshot  *metadata.Metadata[metadata.SnapshotType]
	timestamp *metadata.Metadata[metadata.TimestampType]
}

// targetName is what a target may be called, in up to three folders: it becomes part of a file name and a URL.
var targetName = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^([A-Za-z0-9][A-Za-z0-9._-]{0,99}/){0,3}[A-Za-z0-9][A-Za-z0-9._-]{0,99}$`)
})

// targetFile is where a target's file lies: its digest stands before the last part of its name (TUF 6.2.1).
func targetFile(name string, t *metadata.TargetFiles) string {
	folder, base := path.Split(name)
	return "targets/" + folder + t.Hashes["sha256"].String() + "." + base
}

const maxTarget = 4 << 20 // bytes

func newRepository(c RepositoryConfig) (*Repository, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Signer != nil {
		if _, _, err := tufKey(c.Signer.Public()); err != nil {
			return nil, err
		}
	}
	return &Repository{dir: c.Dir, signer: c.Signer, floor: c.Floor, life: c.Lifetime.withDefaults(), now: c.Now, log: c.Logger}, nil
}

// Create makes a repository in c.Dir, which must hold none, and publishes files
// as its first targets.
func Create(ctx context.Context, c RepositoryConfig, files []File) (*Repository, error) {
	r, err := newRepository(c)
	if err != nil {
		return nil, err
	}
	if r.signer == nil {
		return nil, fmt.Errorf("%w: none given", ErrKey)
	}
	if _, err := os.Stat(r.path("timestamp.json")); !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrExists, c.Dir)
	}
	if err := os.MkdirAll(r.path("targets"), 0o755); err != nil {
		return nil, fmt.Errorf("creating TUF repository: %w", err)
	}
	key, _, err := tufKey(r.signer.Public())
	if err != nil {
		return nil, err
	}
	r.root = metadata.Root(r.expiry(r.life.Root))
	r.root.Signed.ConsistentSnapshot = true
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		if err := r.root.Signed.AddKey(key, role); err != nil {
			return nil, fmt.Errorf("assigning TUF key: %w", err)
		}
	}
	if err := r.writeRoot(ctx, nil); err != nil {
		return nil, err
	}
	if err := r.Publish(ctx, files); err != nil {
		return nil, err
	}
	return r, nil
}

// Open reads the repository in c.Dir and verifies it from the newest root down,
// every target included. Expiry is not an error here: see Status and Renew.
func Open(c RepositoryConfig) (*Repository, error) {
	r, err := newRepository(c)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(r.path("timestamp.json")); errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s", ErrNotFound, c.Dir)
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if r.signer != nil {
		_, id, err := tufKey(r.signer.Public())
		if err != nil {
			return nil, err
		}
		if _, ok := r.root.Signed.Keys[id]; !ok {
			return nil, fmt.Errorf("%w: %s", ErrKey, id)
		}
	}
	return r, nil
}

func (r *Repository) load() error {
	for n := 1; ; n++ { // the chain: each root is signed by its predecessor and by itself
		data, err := r.read(strconv.Itoa(n) + ".root.json")
		if errors.Is(err, os.ErrNotExist) && n > 1 {
			break
		}
		if err != nil {
			return err
		}
		next, err := (&metadata.Metadata[metadata.RootType]{}).FromBytes(data)
		if err != nil {
			return fmt.Errorf("parsing root %d: %w", n, err)
		}
		if next.Signed.Version != int64(n) {
			return fmt.Errorf("root %d calls itself %d", n, next.Signed.Version)
		}
		if r.root != nil {
			if err := r.root.VerifyDelegate(metadata.ROOT, next); err != nil {
				return fmt.Errorf("root %d by root %d: %w", n, n-1, err)
			}
		}
		if err := next.VerifyDelegate(metadata.ROOT, next); err != nil {
			return fmt.Errorf("root %d: %w", n, err)
		}
		r.root, r.rootBytes = next, data
	}
	var err error
	if r.timestamp, err = loadRole(r, "timestamp.json", metadata.TIMESTAMP, nil, &metadata.Metadata[metadata.TimestampType]{}); err != nil {
		return err
	}
	meta := r.timestamp.Signed.Meta["snapshot.json"]
	if meta == nil {
		return errors.New("timestamp names no snapshot")
	}
	if r.snapshot, err = loadRole(r, versioned(meta.Version, "snapshot"), metadata.SNAPSHOT, meta, &metadata.Metadata[metadata.SnapshotType]{}); err != nil {
		return err
	}
	if meta = r.snapshot.Signed.Meta["targets.json"]; meta == nil {
		return errors.New("snapshot names no targets")
	}
	if r.targets, err = loadRole(r, versioned(meta.Version, "targets"), metadata.TARGETS, meta, &metadata.Metadata[metadata.TargetsType]{}); err != nil {
		return err
	}
	for name, t := range r.targets.Signed.Targets {
		if !targetName().MatchString(name) {
			return fmt.Errorf("target name %q", name)
		}
		data, err := r.read(targetFile(name, t))
		if err != nil {
			return err
		}
		if err := t.VerifyLengthHashes(data); err != nil {
			return fmt.Errorf("target %s: %w", name, err)
		}
	}
	return nil
}

// loadRole reads, parses and verifies one metadata file of the newest root.
func loadRole[T metadata.Roles](r *Repository, file, role string, meta *metadata.MetaFiles, m *metadata.Metadata[T]) (*metadata.Metadata[T], error) {
	data, err := r.read(file)
	if err != nil {
		return nil, err
	}
	if meta != nil {
		if err := meta.VerifyLengthHashes(data); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
	}
	if m, err = m.FromBytes(data); err != nil {
		return nil, fmt.Errorf("parsing %s: %w", file, err)
	}
	if err := r.root.VerifyDelegate(role, m); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return m, nil
}

// Root returns the newest root metadata, the file clients bootstrap from.
func (r *Repository) Root() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return bytes.Clone(r.rootBytes)
}

// Target returns the published target called name, as clients get it. It fails with ErrNotFound when there is none.
func (r *Repository) Target(name string) ([]byte, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.targets.Signed.Targets[name]
	if t == nil {
		return nil, fmt.Errorf("target %q: %w", name, ErrNotFound)
	}
	data, err := r.read(targetFile(name, t))
	if err != nil {
		return nil, err
	}
	return data, t.VerifyLengthHashes(data)
}

// RoleStatus is the state of one role.
type RoleStatus struct {
	Role    string    `json:"role"`
	Version int64     `json:"version"`
	Expires time.Time `json:"expires"`
	Expired bool      `json:"expired"`
}

// Status reports version and expiry of the four roles, the soonest to expire first to act on.
func (r *Repository) Status() []RoleStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := func(role string, version int64, expires time.Time) RoleStatus {
		return RoleStatus{role, version, expires, r.now().After(expires)}
	}
	return []RoleStatus{
		s(metadata.TIMESTAMP, r.timestamp.Signed.Version, r.timestamp.Signed.Expires),
		s(metadata.SNAPSHOT, r.snapshot.Signed.Version, r.snapshot.Signed.Expires),
		s(metadata.TARGETS, r.targets.Signed.Version, r.targets.Signed.Expires),
		s(metadata.ROOT, r.root.Signed.Version, r.root.Signed.Expires),
	}
}
