package backup

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Config says what a run copies, and where.
type Config struct {
	// To is the folder of the repository.
	To string
	// Dir is the state directory; everything below it is copied but Skip, databases and what only lives while a process does.
	Dir string
	// Skip are files and folders that are not copied: those of a running process and secrets, as absolute paths. Files of private
	// keys in clear are left out besides.
	Skip []string
	// Owns says which paths below Dir, with slashes, are copied; nil: all. What is among them and this user may not read is left out.
	Owns func(path string) bool
	// Still is asked when everything is copied; on an error there is no run. May be nil.
	Still func() error
	// Shares are what other processes have of the directory. They are copied before the databases of this one.
	Shares []Share
	// ConfigFile is the configuration, which is copied as redoubt.yaml where Dir has none.
	ConfigFile string
	// Databases are the open databases below Dir/db.
	Databases []Database
	// Marks are the high-water marks as they stand.
	Marks []Mark
	// Keys are the public keys of the appliance; those of the logs bear the logs' names.
	Keys []Key
	// Domain and Signer say whose backup it is.
	Domain string
	Signer crypto.Signer
	// Recipients are age recipients; none only with Plain.
	Recipients []string
	Plain      bool
	// State is the folder that remembers what each repository holds, so that only what is new is written. It may be lost.
	State string
	Now   func() time.Time
}

// Database is one open database.
type Database struct {
	Name string // of its file below Dir/db
	DB   store.DB
	// Stamp tells the state a transaction sees from others; 0: unknown.
	Stamp func(store.Tx) uint64
	Logs  []Log
}

// Log is one log in a database.
type Log struct {
	Name   string
	Config log.Config // Prefix, Origin, and the Signer's public key
}

// objectBytes is where an object is cut: whatever changed is written anew in pieces of this size.
const objectBytes = 8 << 20

// run is one run of Create.
type run struct {
	c      Config
	repo   *repository
	seal   *sealer
	put    func(sealed []byte) (p Part, written bool, err error) // where objects go
	have   *contents                                             // of the run before
	diff   *contents                                             // what is new
	base   uint64
	prev   parcel.Digest
	known  map[[32]byte]Part // by SHA-256 of what is in them
	added  []Part
	report Report
	heads  []LogHead
	left   []string
	buf    bytes.Buffer // of the object being filled; one at a time
}

// Create adds a run to the repository at c.To, which is begun where it is empty. On an error no run was added, unless it says so;
// objects that were written before stay.
func Create(ctx context.Context, c Config) (Report, error) {
	started := time.Now()
	r, err := begin(c)
	if err != nil {
		return Report{}, failure(err)
	}
	defer r.repo.close()
	err = r.copy(ctx)
	if err == nil && c.Still != nil {
		err = c.Still()
	}
	if err != nil {
		return Report{}, failure(err)
	}
	m, err := r.finish()
	if err != nil {
		return Report{}, failure(err)
	}
	r.report.describe(r.repo, m)
	r.report.Seconds, r.report.Contents = time.Since(started).Seconds(), true
	return r.report, nil
}

func (r *Report) describe(repo *repository, m *Manifest) {
	r.Repository, r.Run, r.Time, r.Domain, r.Appliance = repo.path, m.Run, m.Time.Time, m.Domain, m.Appliance()
	r.Encryption, r.Logs, r.LeftOut = m.Encryption, append([]LogHead{}, m.Logs...), append([]string{}, m.LeftOut...)
}

func begin(c Config) (*run, error) {
	if (len(c.Recipients) == 0) != c.Plain {
		return nil, fmt.Errorf("%w: name their age recipients, or say that the medium itself is encrypted", ErrRecipients)
	}
	r := &run{c: c, diff: &contents{}, known: map[[32]byte]Part{}, have: &contents{}}
	var err error
	if r.seal, err = newSealer(c.Recipients); err != nil {
		return nil, err
	}
	mine := identity{Domain: c.Domain}
	if mine.Appliance, err = Fingerprint(c.Signer.Public()); err != nil {
		return nil, err
	}
	if r.repo, err = writeRepository(c.To, mine); err != nil {
		return nil, err
	}
	r.put = r.repo.put
	if err := r.recall(); err != nil {
		r.repo.close()
		return nil, err
	}
	return r, nil
}

// remembered is what is kept in Config.State of a repository.
type remembered struct {
	Manifest parcel.Digest   `json:"manifest"`
	Sealed   string          `json:"sealed"` // for whom
	Contents json.RawMessage `json:"contents"`
}

func (r *run) memory() string { return filepath.Join(r.c.State, r.repo.Repository+".json") }

// sealedFor tells the ways objects may be sealed apart: a run continues none whose objects others can open.
func (r *run) sealedFor() string { return fmt.Sprintf("%q", r.c.Recipients) }

// recall finds out what the run before holds. Where nobody remembers it, or it was sealed for others, this run is complete by itself.
func (r *run) recall() error {
	if r.repo.runs == 0 {
		return nil
	}
	last, digest, err := r.repo.manifest(r.repo.runs)
	if err != nil {
		return err
	}
	r.prev = digest
	var kept remembered
	data, err := os.ReadFile(r.memory())
	switch {
	case err == nil && json.Unmarshal(data, &kept) == nil && kept.Manifest.Equal(digest) && kept.Sealed == r.sealedFor():
		if c, err := parseContents(kept.Contents); err == nil {
			r.have, r.base = c, r.repo.runs
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("reading what the backup holds: %w", err)
	}
	if r.base == 0 && last.Encryption == EncryptionNone && r.c.Plain {
		if r.have, err = r.repo.contentsOf(last, &opener{}); err != nil {
			return err
		}
		r.base = r.repo.runs
	}
	missing := 0
	r.have.parts(func(p Part) {
		if !r.repo.has(p) {
			missing++
		}
	})
	if missing > 0 {
		return fmt.Errorf("%w: %d objects of run %d are missing or cut short in %s; verify names them. Begin a new folder", ErrDamaged, missing, r.repo.runs, r.c.To)
	}
	r.know(r.have.of(r.c.Databases, r.owns)) // what others say of theirs is theirs alone
	return nil
}

// know notes the objects that the run before has of what is copied here.
func (r *run) know(have *contents) {
	have.parts(func(p Part) {
		if len(p.Plain) == sha256.Size {
			r.known[[32]byte(p.Plain)] = p
		}
	})
}

func (r *run) copy(ctx context.Context) error {
	for _, s := range r.c.Shares {
		if err := r.share(ctx, s); err != nil {
			return fmt.Errorf("copying the share of %s: %w", s.Name, err)
		}
	}
	for _, d := range r.c.Databases {
		if err := r.database(ctx, d); err != nil {
			return fmt.Errorf("copying %s: %w", d.Name, err)
		}
	}
	return r.files(ctx) // after the databases: files are durable before the record that names them
}

// object stores a stream of records, which is sealed unless an object with the same contents is known.
func (r *run) object(plain []byte) (Part, error) {
	sum := sha256.Sum256(plain)
	if p, ok := r.known[sum]; ok {
		return p, nil
	}
	sealed, err := r.seal.seal(plain)
	if err != nil {
		return Part{}, err
	}
	p, err := r.store(sealed)
	if err != nil {
		return p, err
	}
	p.Plain = sum[:]
	r.known[sum] = p
	return p, nil
}

// store stores an object of this run.
func (r *run) store(sealed []byte) (Part, error) {
	p, written, err := r.put(sealed)
	if err != nil {
		return p, err
	}
	r.added = append(r.added, p)
	if written {
		r.report.Objects++
		r.report.Bytes += p.Bytes
	}
	return p, nil
}

// records gathers records into objects.
type records struct {
	r     *run
	w     *store.Snapshot
	n     int
	parts []Part
	// Objects of a read transaction wait in memory, as far as there is room, so that a slow medium does not keep it open.
	hold    bool
	waiting [][]byte
	bytes   int
}

// waitingBytes is how much of a read transaction waits in memory.
const waitingBytes = 256 << 20

func (r *run) records() *records { return &records{r: r} }

func (s *records) put(k, v []byte) error {
	if s.n == 0 {
		s.r.buf.Reset()
		s.w = store.NewSnapshot(&s.r.buf)
	}
	s.n += len(k) + len(v) + 8
	return s.w.Put(k, v)
}

// cut ends the object.
func (s *records) cut() error {
	if s.n == 0 {
		return nil
	}
	s.n = 0
	if err := s.w.Close(); err != nil {
		return err
	}
	if s.hold && s.bytes < waitingBytes {
		s.waiting, s.bytes = append(s.waiting, bytes.Clone(s.r.buf.Bytes())), s.bytes+s.r.buf.Len()
		return nil
	}
	s.waiting = append(s.waiting, s.r.buf.Bytes()) // written before the next one begins
	_, err := s.stored()
	return err
}

// stored writes what waits and returns all the objects.
func (s *records) stored() ([]Part, error) {
	for _, plain := range s.waiting {
		p, err := s.r.object(plain)
		if err != nil {
			return nil, err
		}
		s.parts = append(s.parts, p)
	}
	s.waiting, s.bytes = nil, 0
	return append([]Part{}, s.parts...), nil
}

// boundary says whether an object ends after the record of a key: at places that do not move when other records come and go.
func boundary(n int, key []byte) bool {
	if n < objectBytes/8 {
		return false
	}
	sum := sha256.Sum256(key)
	return n >= objectBytes || binary.BigEndian.Uint16(sum[:])%1024 == 0
}

// finish writes the list of objects and the manifest, and remembers what the repository holds.
func (r *run) finish() (*Manifest, error) {
	plain, err := r.diff.encode()
	if err != nil {
		return nil, err
	}
	index, err := r.object(plain)
	if err != nil {
		return nil, err
	}
	index.Plain = nil
	n := r.repo.runs + 1
	list, _, err := r.repo.put(listOf(r.added))
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(r.c.Signer.Public())
	if err != nil {
		return nil, err
	}
	m := &Manifest{Repository: r.repo.Repository, Run: n, Previous: r.prev, Base: r.base, Time: parcel.Time{Time: r.c.Now().UTC().Truncate(time.Second)}, Domain: r.c.Domain,
		Key: der, Encryption: EncryptionAge, Recipients: append([]string{}, r.c.Recipients...), Logs: r.heads, Marks: append([]Mark{}, r.c.Marks...),
		Keys: r.c.Keys, LeftOut: append([]string{}, r.left...), Objects: list, Contents: index}
	if r.c.Plain {
		m.Encryption = EncryptionNone
	}
	note, err := m.sign(r.c.Signer)
	if err != nil {
		return nil, err
	}
	if _, err := openManifest(note); err != nil {
		return nil, fmt.Errorf("reading the manifest back: %w", err)
	}
	if err := r.repo.add(runFile(n), note); err != nil {
		return nil, err
	}
	digest := parcel.Sum(note)
	r.have.apply(r.diff)
	r.report.Manifest, r.report.Files = digest.String(), len(r.have.Files)
	if err := r.remember(digest); err != nil {
		return nil, fmt.Errorf("run %d was added, and the next one will not know what it holds: %w", n, err)
	}
	return m, nil
}

func (r *run) remember(manifest parcel.Digest) error {
	whole, err := r.have.encode()
	if err != nil {
		return err
	}
	data, err := json.Marshal(remembered{manifest, r.sealedFor(), whole})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(r.c.State, 0o700); err != nil {
		return fmt.Errorf("remembering what the backup holds: %w", err)
	}
	tmp, err := os.CreateTemp(r.c.State, ".part-*") // 0600
	if err != nil {
		return fmt.Errorf("remembering what the backup holds: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = errors.Join(tmp.Sync(), tmp.Close(), os.Rename(tmp.Name(), r.memory()))
	}
	if err != nil {
		return fmt.Errorf("remembering what the backup holds: %w", err)
	}
	return nil
}
