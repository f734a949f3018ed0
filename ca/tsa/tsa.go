// Package tsa is the timestamp authority: it says, under a certificate of our
// own chain, that a digest existed at a time (RFC 3161).
//
// It guarantees:
//   - genTime never goes back, not across a restart and not when the clock of
//     the machine does: a clock behind the last token is an error, never a token;
//   - genTime lies within Accuracy of the clock that Config.Now reads;
//   - a request is bounded and fully read as strict DER (or strict JSON) before
//     anything is hashed or signed; SHA-1 and MD5 imprints are refused;
//   - serial numbers are random (160 bits), the nonce is echoed, the
//     certificate is embedded exactly when the request asks for it;
//   - without the signing key, a valid certificate or a durable time floor there
//     is no token.
//
// It does not guarantee that Config.Now tells the true time, and keeps no list
// of issued tokens: the database holds one value, the time floor.
//
// Start reading at Authority.Issue, then Handler.
package tsa

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/digitorus/timestamp"

	"redoubt.internal/log/store"
)

// Errors of Issue and New, to be tested with errors.Is.
var (
	// ErrRequest: the request is malformed or asks for something we do not do.
	ErrRequest = errors.New("timestamp request not accepted")
	// ErrWeakHash: the imprint's hash is SHA-1 or MD5.
	ErrWeakHash = fmt.Errorf("%w: weak hash, use SHA-256, SHA-384 or SHA-512", ErrRequest)
	// ErrPolicy: the request demands a policy other than ours.
	ErrPolicy = fmt.Errorf("%w: policy not offered", ErrRequest)
	// ErrClock: the clock is behind a time already given out.
	ErrClock = errors.New("clock is behind the last timestamp")
	// ErrExpired: the signing certificate is not valid at the clock's time.
	ErrExpired = errors.New("timestamp certificate is not valid now")
	// ErrChain: the configured chain cannot sign timestamps (RFC 3161 2.3).
	ErrChain = errors.New("chain unfit for timestamping")
)

// Accuracy is stated in every token: genTime is cut to the second.
const Accuracy = time.Second

// DefaultPolicy is the policy OID of the public Sigstore deployments, which
// clients that check one expect.
var DefaultPolicy = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}

// Config holds everything an Authority needs.
type Config struct {
	// Signer is the key of Chain[0]: ECDSA P-256, P-384 or RSA.
	Signer crypto.Signer
	// Chain is the certificate chain, leaf first, root last.
	Chain []*x509.Certificate
	// Policy is stated in every token; nil means DefaultPolicy.
	Policy asn1.ObjectIdentifier
	// DB keeps the time floor under the key "tsa/floor".
	DB store.DB
	// Now is the clock; nil means time.Now.
	Now func() time.Time
	// Logger gets refusals at debug and failures at error level; nil discards.
	Logger *slog.Logger
}

// Authority issues tokens. It is safe for concurrent use.
type Authority struct {
	signer crypto.Signer
	hash   crypto.Hash
	chain  []*x509.Certificate
	pem    []byte
	policy asn1.ObjectIdentifier
	now    func() time.Time
	floor  *floor
	log    *slog.Logger
}

// New checks the chain against the key and reads the time floor.
func New(c Config) (*Authority, error) {
	if c.Signer == nil || c.DB == nil {
		return nil, errors.New("tsa: Signer and DB are required")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Policy == nil {
		c.Policy = DefaultPolicy
	}
	hash, err := checkChain(c.Signer.Public(), c.Chain)
	if err != nil {
		return nil, err
	}
	f, err := openFloor(c.DB)
	if err != nil {
		return nil, fmt.Errorf("reading the time floor: %w", err)
	}
	a := &Authority{signer: c.Signer, hash: hash, chain: slices.Clone(c.Chain), policy: c.Policy, now: c.Now, floor: f, log: c.Logger}
	for _, cert := range c.Chain {
		a.pem = append(a.pem, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
	}
	return a, nil
}

// Close gives back the unused part of the reserved time, so that the next start
// need not wait for it. Issue must not be called afterwards.
func (a *Authority) Close() error { return a.floor.close() }

// CertChain returns the chain as PEM, leaf first.
func (a *Authority) CertChain() []byte { return slices.Clone(a.pem) }

// Status tells where the clock stands against the time floor.
type Status struct {
	Now      time.Time `json:"now"`      // the clock
	Last     time.Time `json:"last"`     // no token bears an earlier time from here on
	Reserved time.Time `json:"reserved"` // durable; tokens up to here need no write
	NotAfter time.Time `json:"notAfter"` // end of the leaf's validity
}

// Status reports the clock and the floor.
func (a *Authority) Status() Status {
	last, reserved := a.floor.state()
	return Status{Now: a.now().UTC(), Last: last, Reserved: reserved, NotAfter: a.chain[0].NotAfter}
}

// Issue answers one parsed request with a DER TimeStampResp. It may wait for the
// clock to pass the floor, at most for the span reserved ahead, after a stop
// that was no Close.
func (a *Authority) Issue(ctx context.Context, req *Request) ([]byte, error) {
	if req.Policy != nil && !req.Policy.Equal(a.policy) {
		return nil, fmt.Errorf("%w: %s", ErrPolicy, req.Policy)
	}
	if req.Hash.Size() != len(req.Imprint) {
		return nil, fmt.Errorf("%w: imprint of %d bytes under %s", ErrRequest, len(req.Imprint), req.Hash)
	}
	at, err := a.floor.next(ctx, a.now)
	if err != nil {
		return nil, err
	}
	if leaf := a.chain[0]; at.Before(leaf.NotBefore) || at.After(leaf.NotAfter) {
		return nil, fmt.Errorf("%w: %s outside %s to %s", ErrExpired, at.Format(time.RFC3339), leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
	}
	t := timestamp.Timestamp{
		HashAlgorithm:     req.Hash,
		HashedMessage:     req.Imprint,
		Time:              at,
		Accuracy:          Accuracy,
		Nonce:             req.Nonce,
		Policy:            a.policy,
		AddTSACertificate: req.CertReq,
	}
	if between := a.chain[1 : len(a.chain)-1]; req.CertReq { // Notation knows the root alone
		t.Certificates = between
	}
	der, err := t.CreateResponseWithOpts(a.chain[0], a.signer, a.hash)
	if err != nil {
		return nil, fmt.Errorf("signing timestamp: %w", err)
	}
	return der, nil
}

var oidEKU = asn1.ObjectIdentifier{2, 5, 29, 37}

// checkChain holds the chain to RFC 3161 2.3 and to what Sigstore's verifiers
// demand, and returns the hash to sign with.
func checkChain(pub crypto.PublicKey, chain []*x509.Certificate) (crypto.Hash, error) {
	if len(chain) == 0 || slices.Contains(chain, nil) {
		return 0, fmt.Errorf("%w: empty", ErrChain)
	}
	leaf := chain[0]
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrChain, err)
	}
	if !bytes.Equal(spki, leaf.RawSubjectPublicKeyInfo) {
		return 0, fmt.Errorf("%w: the key is not that of the first certificate", ErrChain)
	}
	critical := false
	for _, e := range leaf.Extensions {
		critical = critical || e.Id.Equal(oidEKU) && e.Critical
	}
	if leaf.IsCA || !critical || len(leaf.UnknownExtKeyUsage) != 0 || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageTimeStamping {
		return 0, fmt.Errorf("%w: the leaf needs timeStamping as its only, critical, extended key usage and must not be a CA", ErrChain)
	}
	for i, cert := range chain[:len(chain)-1] {
		if err := cert.CheckSignatureFrom(chain[i+1]); err != nil {
			return 0, fmt.Errorf("%w: certificate %d is not signed by the next: %w", ErrChain, i, err)
		}
	}
	if len(chain) < 2 || !bytes.Equal(chain[len(chain)-1].RawSubject, chain[len(chain)-1].RawIssuer) {
		return 0, fmt.Errorf("%w: the last certificate is not a root", ErrChain)
	}
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		switch pub.Curve.Params().BitSize {
		case 256:
			return crypto.SHA256, nil
		case 384:
			return crypto.SHA384, nil
		}
	case *rsa.PublicKey:
		return crypto.SHA256, nil
	}
	return 0, fmt.Errorf("%w: key type %T, want ECDSA P-256, P-384 or RSA", ErrChain, pub)
}
