// Package mirror carries public transparency logs across an air gap and keeps what arrived provable.
//
// Outside, an Exporter pulls logs from their servers or from directories into a collection, verifying everything it takes,
// and packs what is new into parcels (package parcel). Inside, a Mirror imports the parcels, verifies everything again, keeps
// the logs as C2SP tlog-tiles files (package mirror/serve serves them) and reconciles what it keeps on a timer.
//
// What it guarantees:
//   - The exporter's signature admits a parcel and proves nothing about a log. A head moves only if the log's own pinned key
//     signed the new checkpoint, the tree of our own last head is a prefix of the new tree, and, at scope full, every new leaf
//     hashes up to the new root. Every byte of every tile is hashed.
//   - A stream is a chain: parcels count up by one and name the digest of the one before. The last parcel again is no error and
//     no change. A replay, a gap, a forked or foreign stream is refused with its own error and exit code, and no head, tile or
//     sequence number moves.
//   - An import is all or nothing. It may be killed at any instant; run again, it ends in the same state. Readers follow the
//     heads in the database, never the files.
//   - A log that shows two histories is frozen at its last good head; the evidence file holds both signed notes and a proof
//     that anyone can check with the log's key alone. Other logs move on.
//
// What it does not: show that a log is honest about entries nobody looks at, tell the true time (the exporter's clock is a
// claim), or fetch anything while importing.
//
// Start at Mirror.Import (import.go), whose numbered steps are those of docs/cycle.md; outside, at Exporter.Pull.
package mirror

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Config says what a Mirror keeps, where, and whom it believes.
type Config struct {
	// DB holds heads, the stream's state and the record of transfers, under the prefix "mirror/".
	DB store.DB
	// Dir is the mirror's own folder for tiles, staging and evidence. It is made if it is not there.
	Dir string
	// Stream is the one stream of parcels this mirror takes.
	Stream string
	// Exporters are the verifier keys of exporters whose parcels are taken.
	Exporters []string
	// Logs are the logs this mirror knows.
	Logs []LogConfig
	// TUF are the TUF repositories this mirror takes.
	TUF []TUFConfig
	// Follow has the logs mirrored that imported trusted roots name.
	Follow []Follow
	// Floors are the smallest sizes at which logs may begin here, by origin, in place of ShippedSizes.
	Floors map[string]uint64
	// Peers are the verifier keys of other enclaves whose heads are compared with ours (see Compare).
	Peers []string
	// Watch names entries that must not appear in a mirrored log unnoticed.
	Watch []WatchConfig
	// Cover says at every reconcile how what runs is covered by signatures in the logs; nil asks nobody.
	Cover func(context.Context) (*CoverageReport, error)
	// Scrub is the time in which reconciles hash everything that is stored once, each a part of it; 0 has each hash everything.
	Scrub time.Duration
	// Cadence is the time in which a parcel is expected; 0 derives it from those that came, and then silence is no finding.
	Cadence time.Duration
	// Ignore are origins of logs that trusted roots name and that are not mirrored on purpose.
	Ignore []string
	// Quota is the largest number of bytes a parcel may unpack to; 0 leaves it to the free space of the disk.
	Quota int64
	// Signer and Name sign reconcile reports as C2SP notes. Without a Signer reports are not signed.
	Signer crypto.Signer
	Name   string
	// Record writes an event to the audit log, running with in the same transaction or not at all. Nil only runs with.
	Record func(ctx context.Context, e Event, with func(store.Tx) error) error
	// Progress is called as a transfer goes on, from one goroutine at a time. It must not block.
	Progress func(Progress)
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger takes messages for the operator; nil drops them.
	Logger *slog.Logger
}

// Event is what the mirror asks to be recorded in the audit log.
type Event struct {
	Action  string // "mirror.import", "mirror.refuse", "mirror.freeze", "mirror.reconcile", "mirror.trust"
	Object  string // the parcel's digest or the log's origin
	Outcome string // "success", "refused"
	Detail  map[string]string
}

// Progress tells how far a transfer is.
type Progress struct {
	Stage  string // "received", "quarantined", "pending", "package", "publish", "commit", "committed"; "pull", "export"
	Origin string
	Done   uint64 // packages done
	Total  uint64 // packages of this log
}

// Mirror is the inside end of a stream. It is safe for concurrent use; one import runs at a time, in one process.
type Mirror struct {
	c        Config
	logs     map[string]*knownLog // configured
	learnt   sync.Map             // by repository: map[string]*knownLog, from trusted roots that were imported
	watching sync.Mutex           // held by who lets the watches look
	watches  []watch

	reconciling sync.Mutex // held by who makes a report

	vouched   atomic.Pointer[map[string]*knownLog] // whose keys people took on their own word
	tuf       map[string]*tufRepo
	trusted   sync.Map // by repository: trusted, what its imported trusted root says
	exporters []*parcel.Verifier
	peers     []*parcel.Verifier
	root      *os.Root
	shelves   sync.Map // by origin: *shelf, opened at first use, closed by Close
}

// Open opens the mirror in c.Dir. It starts nothing.
func Open(c Config) (*Mirror, error) {
	if !parcel.IsStream(c.Stream) {
		return nil, fmt.Errorf("%w: stream %.80q; 1 to 64 of a-z, 0-9, dot and hyphen are allowed", ErrConfig, c.Stream)
	}
	if c.DB == nil || c.Dir == "" {
		return nil, fmt.Errorf("%w: no database or no folder", ErrConfig)
	}
	m := &Mirror{c: c}
	var err error
	if m.logs, err = knownLogs(c.Logs); err != nil {
		return nil, err
	}
	if m.tuf, err = knownTUF(c.TUF); err != nil {
		return nil, err
	}
	if err := checkTrust(m.tuf, c.Logs, c.Follow); err != nil {
		return nil, err
	}
	for _, e := range c.Exporters {
		v, err := parcel.NewVerifier(e)
		if err != nil {
			return nil, fmt.Errorf("%w: exporter key: %w", ErrConfig, err)
		}
		m.exporters = append(m.exporters, v)
	}
	if m.peers, err = verifiers(c.Peers, "peer"); err != nil {
		return nil, err
	}
	if m.watches, err = watches(c.Watch); err != nil {
		return nil, err
	}
	setDefaults(&m.c.Now, &m.c.Logger)
	if err := m.relearnVouched(); err != nil {
		return nil, err
	}
	if m.root, err = openDir(c.Dir); err != nil {
		return nil, err
	}
	if err := m.relearn(); err != nil {
		m.c.Logger.Error("reading the imported trusted roots", "error", err) // what they explain is not known until that is mended
	}
	return m, nil
}

// Close closes the mirror's folder, not the database.
func (m *Mirror) Close() error {
	m.shelves.Range(func(_, s any) bool { s.(*shelf).close(); return true })
	return m.root.Close()
}

// Origins lists the logs that have a head, in order.
func (m *Mirror) Origins() ([]string, error) {
	heads, err := readHeads(m.c.DB)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, h := range heads {
		out = append(out, h.Origin)
	}
	slices.Sort(out)
	return out, nil
}

// log is the log of that origin as it is known here, nil when it is not: as configured, else as an imported trusted root has it.
// A log of which two trusted roots name two keys is not known: which of them is believed is for people to configure.
func (m *Mirror) log(origin string) *knownLog {
	if l := m.logs[origin]; l != nil {
		return m.explained(l)
	}
	var found *knownLog
	m.learnt.Range(func(_, logs any) bool {
		all := logs.(map[string]*knownLog)
		l := all[origin]
		if l == nil {
			l = shard(all, origin)
		}
		if l != nil && found != nil && l.VKey != found.VKey {
			found = nil
			return false
		}
		if l != nil {
			found = l
		}
		return true
	})
	if vouched := m.vouched.Load(); found == nil && vouched != nil { // a trusted root counts more than people's word
		found = (*vouched)[origin]
	}
	return found
}

// learn takes the logs that the trusted root of a repository names, in place of those it named before.
func (m *Mirror) learn(repository string, logs []LogConfig) error {
	known, err := knownLogs(logs)
	if err == nil {
		m.learnt.Store(repository, known)
	}
	return err
}

func (m *Mirror) record(ctx context.Context, e Event, with func(store.Tx) error) error {
	if m.c.Record == nil {
		return m.c.DB.Update(with)
	}
	return m.c.Record(ctx, e, with)
}

func (m *Mirror) progress(p Progress) {
	if m.c.Progress != nil {
		m.c.Progress(p)
	}
}

// shelf returns the shelf of a log; it stays open until Close.
func (m *Mirror) shelf(origin string) (*shelf, error) {
	if s, ok := m.shelves.Load(origin); ok {
		return s.(*shelf), nil
	}
	s, err := openShelf(m.root, logDir(origin))
	if err != nil {
		return nil, err
	}
	if other, loaded := m.shelves.LoadOrStore(origin, s); loaded {
		s.close()
		s = other.(*shelf)
	}
	return s, nil
}

func logDir(origin string) string { return "logs/" + escape(origin) }

func setDefaults(now *func() time.Time, logger **slog.Logger) {
	if *now == nil {
		*now = time.Now
	}
	if *logger == nil {
		*logger = slog.New(slog.DiscardHandler)
	}
}

func openDir(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making %s: %w", dir, err)
	}
	return os.OpenRoot(dir)
}

// lockDir takes the one lock of a folder: ErrBusy when another transfer holds it. It goes with the process.
func lockDir(root *os.Root) (unlock func(), err error) {
	f, err := root.OpenFile("lock", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%w: %s", ErrBusy, root.Name())
		}
		return nil, fmt.Errorf("locking %s: %w", filepath.Join(root.Name(), "lock"), err)
	}
	return func() { f.Close() }, nil
}

func isForeign(err error) bool { return errors.Is(err, parcel.ErrForeignKey) }

// path is where a file of the mirror's folder lies for whoever reads a message.
func (m *Mirror) path(name string) string { return filepath.Join(m.c.Dir, filepath.FromSlash(name)) }
