// Package ca is the certificate authority: it issues short-lived code-signing
// certificates for OpenID Connect identities, and nothing is issued that is not
// recorded.
//
// It guarantees, for every certificate Issue hands out:
//   - the identity was verified and the requester proved possession of the key;
//   - exactly the bytes that were linted were signed: a to-be-signed certificate
//     is a value only lint can make, and signing consumes it;
//   - an intent with the serial number and those bytes was durable, in the audit
//     log and in the register of certificates, before the issuing key was used,
//     so signatures never outnumber intents, whatever crashes;
//   - the precertificate is in the certificate transparency log and its SCT is
//     embedded last; the final certificate says nothing else;
//   - the outcome and the certificate are durable before the caller sees it;
//   - its validity lies within that of every certificate of the chain, and no
//     time before the highest ever issued is used.
//
// When the audit log, the transparency log or the key fails, Issue fails.
//
// It does not speak HTTP (package fulcio does), make authorities (package
// ceremony does) or decide which identities an issuer may vouch for (package
// identity does).
//
// Start at Authority.Issue: one function, five numbered steps, the same numbers
// as docs/cycle.md.
package ca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
	"redoubt.internal/hsm"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/ct"
	"redoubt.internal/log/store"
)

// Errors of Issue, to be tested with errors.Is. The first group is the fault of
// the request and never changes by trying again; the second is ours.
var (
	// ErrToken: the identity token was refused; wraps the reason of package identity.
	ErrToken = errors.New("identity token not accepted")
	// ErrTokenUsed: the token has obtained as many certificates as its issuer allows.
	ErrTokenUsed = errors.New("identity token was used before")
	// ErrDenied: the identity is on the list of those that are denied.
	ErrDenied = errors.New("identity is denied")
	// ErrRequest: the request gives no key, or two.
	ErrRequest = errors.New("request is incomplete or contradictory")
	// ErrKey: the public key cannot be read, or is of a kind or quality not certified.
	ErrKey = errors.New("public key not accepted")
	// ErrCSR: the certificate signing request cannot be read.
	ErrCSR = errors.New("certificate signing request not accepted")
	// ErrProof: the signature that proves possession of the private key is wrong.
	ErrProof = errors.New("proof of possession does not verify")

	// ErrLint: the certificate would break the profile; it was not signed.
	ErrLint = errors.New("certificate refused by lint")
	// ErrRecord: the audit log could not record the issuance, so there is none.
	ErrRecord = errors.New("issuance could not be recorded")
	// ErrCT: the certificate transparency log did not take the precertificate.
	ErrCT = errors.New("certificate transparency log failed")
	// ErrSigning: the issuing key gave no usable signature.
	ErrSigning = errors.New("issuing key failed")
	// ErrClock: the clock is behind the highest time ever issued, or jumped.
	ErrClock = errors.New("clock in doubt")
	// ErrExpired: a certificate of the chain is not valid now.
	ErrExpired = errors.New("authority is not valid now")
	// ErrUnavailable: joined to one of the above when the reason is a token, key
	// or log that may come back by itself.
	ErrUnavailable = errors.New("temporarily unavailable")
	// ErrConfig: New was given a chain, key or room that do not fit together.
	ErrConfig = errors.New("certificate authority configuration")
)

// Profile bounds what is issued. The zero value is Sigstore's own profile.
type Profile struct {
	// Lifetime of a certificate; 0 is 10 minutes, which is also the most
	// (Fulcio docs/certificate-specification.md).
	Lifetime time.Duration
	// ClockBack is how far the clock may fall behind the highest time ever issued
	// before issuing stops; 0 is 10 seconds. Within it that highest time is used.
	ClockBack time.Duration
	// ClockJump is how far the clock may leap ahead of the monotonic clock while
	// running before issuing stops until the next start; 0 is 5 minutes, negative
	// never stops.
	ClockJump time.Duration
	// Timeout bounds what follows the intent (signatures and logs); 0 is 20 seconds.
	Timeout time.Duration
}

// Limits of Profile.
const (
	maxLifetime      = 10 * time.Minute
	defaultClockBack = 10 * time.Second
	defaultClockJump = 5 * time.Minute
	defaultTimeout   = 20 * time.Second
)

// Config is what an Authority is made of.
type Config struct {
	// Chain is the issuing certificate first, the root last.
	Chain []*x509.Certificate
	// Signer is the issuing certificate's key.
	Signer crypto.Signer
	// CT takes the precertificates. Its accepted roots contain the chain's root.
	CT *ct.Log
	// Audit records intents, outcomes and refusals. It writes into DB.
	Audit *audit.Log
	// DB holds the register of certificates under the prefix "ca/". It must be the
	// database Audit's log is in: both are written in one transaction.
	DB store.DB
	// Identity verifies tokens.
	Identity *identity.Verifier
	// Denied is the list of identities nothing is issued to, asked for at each
	// request; nil denies nobody.
	Denied func() *denied.List
	// Profile bounds what is issued.
	Profile Profile
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Logger; nil discards.
	Logger *slog.Logger
}

// Authority issues certificates. It is safe for concurrent use.
type Authority struct {
	chain    []*x509.Certificate
	rawChain [][]byte
	signer   crypto.Signer
	hash     crypto.Hash // 0 for Ed25519
	ct       *ct.Issuer  // the log, which has verified the chain
	audit    *audit.Log
	db       store.DB
	identity *identity.Verifier
	denied   func() *denied.List
	profile  Profile
	logger   *slog.Logger
	clock    *clock
	refusals refusals
	turns    atomic.Uint32 // intents of this process, see record.go

	// algorithm is the DER AlgorithmIdentifier of the issuing key's signatures.
	// throwaway is a signature of that algorithm by a key that New made and forgot:
	// it stands under what is linted.
	algorithm, throwaway []byte
	verifier             *hsm.Verifier // of the issuing key
	usages, authority    []byte        // extensions that never change, DER
}

// Request asks for a certificate: a token, and either a public key with a proof
// of possession or a certificate signing request.
type Request struct {
	// Token is the compact ID token.
	Token string
	// PublicKey is a SubjectPublicKeyInfo, PEM or DER.
	PublicKey []byte
	// Proof is the signature, by the private key, over the principal's Name: ECDSA
	// (ASN.1) with SHA-256, 384 or 512 for P-256, P-384, P-521; RSA PKCS #1 v1.5
	// with SHA-256; Ed25519.
	Proof []byte
	// CSR is a PKCS #10 request, PEM or DER. Only its key is used; its own
	// signature is the proof.
	CSR []byte
}

// Issued is a certificate that is logged and recorded.
type Issued struct {
	// Leaf is the certificate, DER.
	Leaf []byte
	// Chain is what stands above it: issuing certificate first, root last, DER.
	Chain [][]byte
	// SCT is the embedded timestamp.
	SCT ct.SCT
	// Serial is the certificate's serial number, lower-case hex of 20 octets.
	Serial string
	// Principal is whom it names.
	Principal identity.Principal
	// NotBefore and NotAfter bound its validity, UTC, whole seconds.
	NotBefore, NotAfter time.Time
}

// New checks that the parts fit together and returns an Authority. It reads the
// time floor from DB and signs nothing.
func New(c Config) (*Authority, error) {
	switch {
	case len(c.Chain) == 0 || c.Signer == nil:
		return nil, fmt.Errorf("%w: a chain and its key are required", ErrConfig)
	case c.CT == nil || c.Audit == nil || c.DB == nil || c.Identity == nil:
		return nil, fmt.Errorf("%w: transparency log, audit log, database and identity verifier are required", ErrConfig)
	}
	if err := checkChain(c.Chain, c.Signer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	p, err := c.Profile.withDefaults()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Denied == nil {
		c.Denied = func() *denied.List { return nil }
	}
	a := &Authority{
		chain: c.Chain, signer: c.Signer, audit: c.Audit, db: c.DB, identity: c.Identity, denied: c.Denied,
		profile: p, logger: c.Logger, refusals: newRefusals(c.Now),
	}
	for _, cert := range c.Chain {
		a.rawChain = append(a.rawChain, cert.Raw)
	}
	if a.ct, err = c.CT.Issuer(a.rawChain); err != nil {
		return nil, fmt.Errorf("%w: the transparency log does not take this chain: %w", ErrConfig, err)
	}
	// The issuing key's signatures are verified once: the precertificate's by the
	// transparency log before it enters, the final one's by step 5.
	if k, ok := c.Signer.(*hsm.Key); ok {
		a.signer = k.Unverified()
	}
	if err := a.prepareLint(c.Signer.Public()); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	a.verifier = a.ct.Verifier()
	floor, err := readFloor(c.DB)
	if err != nil {
		return nil, fmt.Errorf("reading time floor: %w", err)
	}
	a.clock = newClock(c.Now, floor, p)
	return a, nil
}

// Chain returns the issuing certificate first, the root last. The caller must
// not change it.
func (a *Authority) Chain() []*x509.Certificate { return a.chain }

func (p Profile) withDefaults() (Profile, error) {
	if p.Lifetime == 0 {
		p.Lifetime = maxLifetime
	}
	if p.Lifetime < time.Minute || p.Lifetime > maxLifetime {
		return p, fmt.Errorf("lifetime %s is not between 1m and %s", p.Lifetime, maxLifetime)
	}
	if p.ClockBack == 0 {
		p.ClockBack = defaultClockBack
	}
	if p.ClockJump == 0 {
		p.ClockJump = defaultClockJump
	}
	if p.Timeout == 0 {
		p.Timeout = defaultTimeout
	}
	if p.ClockBack < 0 || p.Timeout < 0 {
		return p, errors.New("a negative duration")
	}
	return p, nil
}

// checkChain verifies that each certificate issued the one before it, that the
// first may issue code-signing leaves and that the key is its own.
func checkChain(chain []*x509.Certificate, s crypto.Signer) error {
	leafMaker := chain[0]
	pub, ok := leafMaker.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !pub.Equal(s.Public()) {
		return errors.New("the key is not that of the first certificate of the chain")
	}
	if !leafMaker.IsCA || leafMaker.KeyUsage&x509.KeyUsageCertSign == 0 {
		return errors.New("the first certificate of the chain is no authority")
	}
	if len(leafMaker.SubjectKeyId) == 0 {
		return errors.New("the issuing certificate has no subject key identifier")
	}
	for i, c := range chain[:len(chain)-1] {
		if err := c.CheckSignatureFrom(chain[i+1]); err != nil {
			return fmt.Errorf("certificate %d of the chain was not issued by the next: %w", i, err)
		}
	}
	root := chain[len(chain)-1]
	if err := root.CheckSignatureFrom(root); err != nil {
		return fmt.Errorf("the last certificate of the chain is no root: %w", err)
	}
	return nil
}

// Signature algorithms, DER AlgorithmIdentifier (RFC 5758, 3.2; RFC 4055, 5; RFC
// 8410, 3). RSA alone has NULL parameters.
var (
	ecdsaSHA256 = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02}
	ecdsaSHA384 = []byte{0x30, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03}
	rsaSHA256   = []byte{0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b, 0x05, 0x00}
	pureEd25519 = []byte{0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70}
)

// prepareLint settles the signature algorithm of the issuing key pub, and makes
// the throwaway signature.
func (a *Authority) prepareLint(pub crypto.PublicKey) error {
	a.verifier = hsm.NewVerifier(pub)
	a.usages, a.authority = fixedExtensions(a.chain[0])
	var throwaway crypto.Signer
	var err error
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			a.hash, a.algorithm = crypto.SHA256, ecdsaSHA256
		case elliptic.P384():
			a.hash, a.algorithm = crypto.SHA384, ecdsaSHA384
		default:
			return fmt.Errorf("issuing key on curve %s is not supported", k.Curve.Params().Name)
		}
		throwaway, err = ecdsa.GenerateKey(k.Curve, rand.Reader)
	case *rsa.PublicKey:
		a.hash, a.algorithm = crypto.SHA256, rsaSHA256
		a.throwaway = make([]byte, k.Size()) // an RSA signature is a number; making a key takes a second
		_, err = rand.Read(a.throwaway)
		return err
	case ed25519.PublicKey:
		a.hash, a.algorithm = 0, pureEd25519
		_, throwaway, err = ed25519.GenerateKey(rand.Reader)
	default:
		return fmt.Errorf("issuing key of type %T is not supported", pub)
	}
	if err != nil {
		return fmt.Errorf("making throwaway key: %w", err)
	}
	a.throwaway, err = signBytes(throwaway, a.hash, []byte("redoubt.internal/ca: not a signature over a certificate"))
	return err
}
