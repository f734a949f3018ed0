// Package rekor is an artifact log as Sigstore clients know it: a Merkle tree with an ECDSA P-256 key of its own, spoken to in the wire
// formats of Rekor v1, of Rekor v2, or of both.
//
// Contract:
//   - An entry is answered only after it is durable and covered by a head; proof and checkpoint come in the same answer, in the form of
//     the generation asked. The v1 checkpoint (origin "<host> - <treeID>") renders the same head as the v2 one (origin "<host>") and is
//     refused unless size and root agree.
//   - A log that does not serve a generation takes no entry of it. One that does not serve v1 signs no v1 checkpoint and no entry
//     timestamp, whoever asks: docs/adr/0009 says what stock clients believe otherwise.
//   - Every signature an entry carries was verified before the entry was added, with a key that is not weak. Nothing is fetched: an entry
//     that names a URL is refused.
//   - v1 reads find what is in the log and in the logs beside it, whichever generation wrote it; the same canonical entry is a 409.
//   - A frozen log takes no entry and is read as ever. The v1 logs of a site count their entries in one row: a log's logIndex goes on where
//     the logs frozen before it stopped. Proofs and Rekor v2 count within one tree.
//   - What a client sends wrong is answered with a 4xx and a reason and changes nothing.
//
// The canonical bytes of entries are made by Sigstore's own type packages (rekor/pkg/types, rekor-tiles/pkg/types), never here: clients
// rebuild those bytes and compare.
//
// Not promised: that a key belongs to anybody, that integratedTime is more than this machine's clock.
//
// Start at New and Log.Handler; entry.go makes entries, v1.go and v2.go speak the two protocols.
package rekor

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"redoubt.internal/log"
)

var (
	// ErrEntry: a proposed entry, or a search, is not acceptable; the text says why.
	ErrEntry = errors.New("not acceptable")
	// ErrHead: a head to render does not agree with its own signed note. Nothing is signed.
	ErrHead = errors.New("tree head contradicts its note")
	// ErrExtra: the part of an entry stored beside its leaf is not the encoding this package makes.
	ErrExtra = errors.New("entry metadata is malformed")
)

// Generation is a Rekor wire format, by the name operators give it.
type Generation string

// The generations there are.
const (
	V1 Generation = "v1" // /api/v1: signed entry timestamps, checkpoints named "<host> - <treeID>"
	V2 Generation = "v2" // /api/v2: C2SP checkpoints and tiles, no time
)

// Config is what a log needs. Its Merkle log must be opened with Origin equal to Hostname, Unique true, IndexKeys set to IndexKeys of
// this package and the same Signer.
type Config struct {
	Log      *log.Log         // the Merkle log; the caller runs it
	Signer   crypto.Signer    // P-256; signs v1 checkpoints and entry timestamps
	Hostname string           // host name of the service: name in both checkpoints, and what clients know the log by
	TreeID   int64            // > 0, forever the same for this tree
	Now      func() time.Time // default time.Now; gives integratedTime
	Logger   *slog.Logger     // default: silent
	// Serves names the generations, at least one. V1 alone takes entries through Rekor v1 (the C2SP reads stay, they are safe over v1
	// leaves); V2 alone answers v1 with 501. With both, sigstore-go up to 1.3.0 can be shown another one's v2 entry under a v1 checkpoint
	// as the entry of an unlogged signature: see docs/adr/0009.
	Serves []Generation
	// Beside are logs that v1 search and v1 reads by id look into as well; their entries come with their own log's id and with what that
	// log signs: those of a log without V1 with a v2 checkpoint, no time and no entry timestamp.
	Beside []*Log
	// Frozen ends the log: it answers a new entry as one with createLogEntry disabled does. A v1 log that has it among Beside lists it as an
	// inactive shard when it served v1.
	Frozen bool
	// FirstIndex is the v1 logIndex of the first entry: how many entries the v1 logs before this one have. It is part of what entry
	// timestamps state and never changes once the log has an entry.
	FirstIndex uint64
	// MaxBody bounds a request body in bytes, and so the size of an envelope or artifact submitted inline. Default 1 MiB.
	MaxBody int64
	// Disabled lists operations answered with 501, by their names in Rekor's openapi.yaml: createLogEntry, getLogEntryByIndex,
	// getLogEntryByUUID, searchLogQuery, searchIndex, getLogInfo, getLogProof, getPublicKey. With createLogEntry disabled the log is
	// frozen, which v2 answers with 405.
	Disabled []string
}

// Log is the artifact log.
type Log struct {
	c         Config
	publicPEM []byte
	logID     [32]byte // SHA-256 of the key's SPKI: v1 logID in hex, v2 logId.keyId
	disabled  map[string]bool

	mu          sync.Mutex
	checkpoints recent[checkpointKey, *checkpoint] // v1 checkpoints of the last heads
	timestamps  recent[uint64, []byte]             // signed entry timestamps of entries read lately, by index
}

var operations = []string{
	"createLogEntry", "getLogEntryByIndex", "getLogEntryByUUID", "searchLogQuery", "searchIndex", "getLogInfo", "getLogProof", "getPublicKey",
}

// New returns the log. It signs nothing yet.
func New(c Config) (*Log, error) {
	if c.Log == nil || c.Signer == nil {
		return nil, errors.New("rekor: a Merkle log and a signer are required")
	}
	pub, ok := c.Signer.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("rekor: the log key is %T, clients need ECDSA P-256", c.Signer.Public())
	}
	if c.Hostname == "" {
		return nil, errors.New("rekor: no host name")
	}
	if c.TreeID <= 0 {
		return nil, fmt.Errorf("rekor: tree id %d: clients need a positive one", c.TreeID)
	}
	if _, _, err := log.VerifyNote(c.Hostname, pub, c.Log.Head().Note); err != nil {
		return nil, fmt.Errorf("rekor: the Merkle log is not one of %s by this key: %w", c.Hostname, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the log key: %w", err)
	}
	if len(c.Serves) == 0 {
		return nil, errors.New("rekor: no generation to serve")
	}
	for _, g := range c.Serves {
		if g != V1 && g != V2 {
			return nil, fmt.Errorf("rekor: there is no generation %q, only v1 and v2", g)
		}
	}
	disabled := make(map[string]bool)
	for _, d := range c.Disabled {
		disabled[d] = true
	}
	for _, o := range operations {
		delete(disabled, o)
	}
	for d := range disabled {
		return nil, fmt.Errorf("rekor: unknown operation %q cannot be disabled", d)
	}
	for _, d := range c.Disabled {
		disabled[d] = true
	}
	if c.Frozen {
		disabled["createLogEntry"] = true
	}
	if c.FirstIndex >= 1<<52 {
		return nil, fmt.Errorf("rekor: a first index of %d leaves JSON readers no room for the next ones", c.FirstIndex)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxBody == 0 {
		c.MaxBody = 1 << 20
	}
	return &Log{
		c: c, disabled: disabled, logID: sha256.Sum256(spki),
		publicPEM:   pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}),
		checkpoints: newRecent[checkpointKey, *checkpoint](64),
		timestamps:  newRecent[uint64, []byte](1024),
	}, nil
}

// serves reports whether the log speaks g.
func (l *Log) serves(g Generation) bool { return slices.Contains(l.c.Serves, g) }

// ID returns SHA-256 of the log key's SPKI: logID of v1 in hex, logId.keyId of v2.
func (l *Log) ID() [32]byte { return l.logID }

// Entry is an entry accepted but not yet in the log: all its signatures are verified.
type Entry struct {
	Kind        string   // "hashedrekord"
	Version     string   // "0.0.1"
	Body        []byte   // canonical JSON: the leaf
	Keys        []string // search keys, the most telling first
	Attestation []byte   // served with the entry by v1, may be nil
}

// Add puts e into the log and returns its receipt and integratedTime in Unix seconds. The error is a *log.DuplicateError when the log
// holds the same body already.
func (l *Log) Add(ctx context.Context, e *Entry) (log.Receipt, int64, error) {
	if len(e.Body) > log.MaxLeaf {
		return log.Receipt{}, 0, fmt.Errorf("%w: the canonical entry is %d bytes, a log entry holds at most %d", ErrEntry, len(e.Body), log.MaxLeaf)
	}
	now := l.c.Now().Unix()
	extra, err := encodeExtra(extra{time: now, keys: hashKeys(e.Keys), attestation: e.Attestation})
	if err != nil {
		return log.Receipt{}, 0, err
	}
	r, err := l.c.Log.Add(ctx, e.Body, extra, nil)
	return r, now, err
}

// entryID is the v1 name of an entry: 16 hex digits of tree id and the leaf hash.
func (l *Log) entryID(leafHash [32]byte) string {
	return EntryID(l.c.TreeID, leafHash)
}

// hashLeaf is RFC 6962 2.1: SHA-256(0x00 || leaf).
func hashLeaf(leaf []byte) (sum [32]byte) {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(leaf)
	h.Sum(sum[:0])
	return sum
}

// recent remembers the last n values; the oldest is forgotten first. Its owner guards it.
type recent[K comparable, V any] struct {
	values map[K]V
	order  []K // a ring once full
	next   int
}

func newRecent[K comparable, V any](n int) recent[K, V] {
	return recent[K, V]{values: make(map[K]V), order: make([]K, 0, n)}
}

func (r *recent[K, V]) put(k K, v V) {
	if _, known := r.values[k]; !known {
		if len(r.order) < cap(r.order) {
			r.order = append(r.order, k)
		} else {
			delete(r.values, r.order[r.next])
			r.order[r.next] = k
			r.next = (r.next + 1) % len(r.order)
		}
	}
	r.values[k] = v
}
