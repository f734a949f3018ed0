// Package ct is the certificate transparency log (RFC 6962) of the appliance's own authorities, on the Merkle engine of package log.
//
// Contract: a signed certificate timestamp is a promise already kept. AddPreChain signs it only after the entry is durable and covered by
// a published head, so the maximum merge delay is zero. The same precertificate submitted again gets a timestamp of the same instant
// and no second entry. The log admits only precertificates whose chain, in order, ends in one of Config.Roots, and checks every
// signature on the way. The signed tree head is a rendering of the engine's head: same size, same root, refused otherwise.
//
// Not promised: anything about the names in a certificate, or that it is valid now; a log records what an authority signed. Final
// certificates (add-chain) and precertificate signing certificates are refused: the appliance's authorities need neither.
//
// Start at Log.AddPreChain and its numbered steps; Issuer.Add is the same for the authority in this process, which verified the chain above its
// certificates beforehand. Log.Handler serves clients and auditors.
package ct

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"

	"redoubt.internal/log"
)

var (
	// ErrChain: the submitted chain is not one this log takes; the text says which certificate and why.
	ErrChain = errors.New("certificate chain not acceptable")
	// ErrFrozen: the log takes no more entries; it is read for ever.
	ErrFrozen = errors.New("the log is frozen: it takes no more certificates")
	// ErrHead: the head to render does not agree with its own note. Nothing is signed.
	ErrHead = errors.New("tree head contradicts its note")
)

// SCT is a signed certificate timestamp, RFC 6962 3.2: LogID is SHA-256 of the key's SPKI, Timestamp milliseconds since the Unix epoch,
// Signature a TLS DigitallySigned (SHA-256, ECDSA), Extensions empty.
type SCT = cttypes.SignedCertificateTimestamp

// Config is what a log needs. Its Merkle log must be opened with log.Config.IndexKeys set to IndexKeys of this package.
type Config struct {
	Log    *log.Log            // the Merkle log; the caller runs it
	Signer crypto.Signer       // P-256; signs timestamps and tree heads, nothing else
	Roots  []*x509.Certificate // chains must end in one of these
	Now    func() time.Time    // default time.Now; the clock of log.Config, so that heads are never older than timestamps
	Logger *slog.Logger        // default: silent
	// Frozen ends the log: AddPreChain fails with ErrFrozen, everything else goes on.
	Frozen bool
	// MaxBody bounds a submitted chain in bytes of JSON. Default 256 KiB.
	MaxBody int64
}

// Log is a certificate transparency log.
type Log struct {
	c     Config
	id    [32]byte
	roots rootSet

	mu      sync.Mutex
	pending map[[32]byte]chan struct{}  // submissions on their way, by identity; closed when they end
	sent    recent[SCT]                 // timestamps handed out lately, by identity
	chains  recent[[]*x509.Certificate] // issuer chains verified lately, root included, by digest of what was submitted
	heads   recent[*treeHead]           // signed tree heads, by digest of size and root
}

// New returns the log. It signs nothing yet.
func New(c Config) (*Log, error) {
	if c.Log == nil || c.Signer == nil {
		return nil, errors.New("ct: a Merkle log and a signer are required")
	}
	pub, ok := c.Signer.Public().(*ecdsa.PublicKey)
	if !ok || pub.Curve != elliptic.P256() {
		return nil, fmt.Errorf("ct: the log key is %T, clients need ECDSA P-256", c.Signer.Public())
	}
	if len(c.Roots) == 0 {
		return nil, errors.New("ct: no accepted roots: the log would refuse every chain")
	}
	note := c.Log.Head().Note
	origin, _, _ := strings.Cut(string(note), "\n")
	if _, _, err := log.VerifyNote(origin, pub, note); err != nil {
		return nil, fmt.Errorf("ct: the Merkle log is not one by this key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding the log key: %w", err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.MaxBody == 0 {
		c.MaxBody = 256 << 10
	}
	return &Log{
		c: c, id: sha256.Sum256(spki), roots: newRootSet(c.Roots),
		pending: make(map[[32]byte]chan struct{}),
		sent:    newRecent[SCT](4096), chains: newRecent[[]*x509.Certificate](256), heads: newRecent[*treeHead](16),
	}, nil
}

// ID returns the log id: SHA-256 of the key's SPKI in DER.
func (l *Log) ID() [32]byte { return l.id }

// AddPreChain logs a precertificate and returns its timestamp. chain is DER: the precertificate, its issuer, and so on; the accepted
// root itself may be left out. Errors: ErrFrozen, ErrChain for what the log does not take, those of log.Add otherwise; after an error no timestamp
// exists, though the entry may.
func (l *Log) AddPreChain(ctx context.Context, chain [][]byte) (SCT, error) {
	// 1. Is it ours to log? Nothing is kept of a chain that is not.
	if l.c.Frozen {
		return SCT{}, ErrFrozen
	}
	p, err := l.processChain(chain)
	if err != nil {
		return SCT{}, err
	}
	return l.add(ctx, p)
}

// add logs a verified submission and returns its timestamp.
func (l *Log) add(ctx context.Context, p *submission) (SCT, error) {
	if l.c.Frozen {
		return SCT{}, ErrFrozen
	}
	// 2. One submission of an identity at a time, so that two of them can't become two entries.
	release, sct, err := l.claim(ctx, p.identity)
	if err != nil || release == nil {
		return sct, err
	}
	defer release()
	// 3. The entry, found or made. From here on it is durable and in a published head.
	leaf, err := l.entry(ctx, p)
	if err != nil {
		return SCT{}, err
	}
	// 4. The promise, signed over what the log holds.
	sct, err = l.sign(leaf)
	if err != nil {
		return SCT{}, err
	}
	l.mu.Lock()
	l.sent.put(p.identity, sct)
	l.mu.Unlock()
	return sct, nil
}

// claim waits until no other submission of the identity is on its way. It returns a timestamp handed out earlier, or a function that ends
// the claim.
func (l *Log) claim(ctx context.Context, identity [32]byte) (release func(), sct SCT, err error) {
	for {
		l.mu.Lock()
		if sct, ok := l.sent.get(identity); ok {
			l.mu.Unlock()
			return nil, sct, nil
		}
		other, busy := l.pending[identity]
		if !busy {
			done := make(chan struct{})
			l.pending[identity] = done
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				delete(l.pending, identity)
				l.mu.Unlock()
				close(done)
			}, SCT{}, nil
		}
		l.mu.Unlock()
		select {
		case <-other:
		case <-ctx.Done():
			return nil, SCT{}, ctx.Err()
		}
	}
}

// entry returns the leaf of the log's entry for the submission, adding it when there is none.
func (l *Log) entry(ctx context.Context, p *submission) ([]byte, error) {
	indexes, err := l.c.Log.Find(ctx, p.identity[:], 8)
	if err != nil {
		return nil, fmt.Errorf("looking for an earlier entry: %w", err)
	}
	for _, i := range indexes {
		e, err := l.c.Log.Entry(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		if id, ok := identityOf(e.Leaf); ok && id == p.identity {
			return e.Leaf, nil
		}
	}
	leaf := p.stamped(uint64(l.c.Now().UnixMilli()))
	if len(leaf) > log.MaxLeaf || len(p.extra) > log.MaxExtra {
		return nil, fmt.Errorf("%w: too large for a log entry", ErrChain)
	}
	if _, err := l.c.Log.Add(ctx, leaf, p.extra, nil); err != nil {
		return nil, fmt.Errorf("logging the precertificate: %w", err)
	}
	return leaf, nil
}

// sign makes the timestamp of a logged entry: RFC 6962 3.2. What is signed is the leaf itself, see encodeLeaf.
func (l *Log) sign(leaf []byte) (SCT, error) {
	sct := SCT{SCTVersion: cttypes.V1, LogID: cttypes.LogID{KeyID: l.id}, Timestamp: timestampOf(leaf)}
	var err error
	if sct.Signature, err = l.digitallySign(leaf); err != nil {
		return SCT{}, fmt.Errorf("signing the timestamp: %w", err)
	}
	return sct, nil
}

func (l *Log) digitallySign(input []byte) (cttypes.DigitallySigned, error) {
	digest := sha256.Sum256(input)
	sig, err := l.c.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return cttypes.DigitallySigned{}, fmt.Errorf("%w: %w", log.ErrSigning, err)
	}
	return cttypes.DigitallySigned{
		Algorithm: cttls.SignatureAndHashAlgorithm{Hash: cttls.SHA256, Signature: cttls.ECDSA},
		Signature: sig,
	}, nil
}

// recent remembers the last n values by digest; the oldest is forgotten first. Its owner guards it.
type recent[V any] struct {
	values map[[32]byte]V
	order  [][32]byte // a ring once full
	next   int
}

func newRecent[V any](n int) recent[V] {
	return recent[V]{values: make(map[[32]byte]V), order: make([][32]byte, 0, n)}
}

func (r *recent[V]) get(k [32]byte) (V, bool) {
	v, ok := r.values[k]
	return v, ok
}

func (r *recent[V]) put(k [32]byte, v V) {
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
