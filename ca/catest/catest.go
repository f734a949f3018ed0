// Package catest builds a whole certificate authority for tests: software keys,
// a real embedded database, the real transparency and audit logs, the built-in
// issuer. Everything runs in the test's temporary directory and ends with the
// test.
//
// It is for tests only; the keys are made on the spot and protect nothing.
package catest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/ct"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// Options change what New builds. The zero value is the product's default.
type Options struct {
	// IssuingKey is the issuing certificate's key; nil is a new P-256 key.
	IssuingKey crypto.Signer
	// WrapDB stands between the rooms and the database.
	WrapDB func(store.DB) store.DB
	// Denied is the list of denied identities; nil denies nobody.
	Denied func() *denied.List
	// Profile of the authority.
	Profile ca.Profile
	// Now is the clock of all rooms; nil is time.Now.
	Now func() time.Time
	// Identity changes the identity configuration before it is used.
	Identity func(*identity.Config)
	// IssuerURL names the built-in issuer; empty is DefaultIssuer.
	IssuerURL string
	// IssuerKey signs the built-in issuer's tokens; nil is a new P-256 key.
	IssuerKey crypto.Signer
	// CANotAfter ends the issuing certificate; zero is a year from now.
	CANotAfter time.Time
	// Logger of the authority; nil discards.
	Logger *slog.Logger
	// Dir holds the database; empty is the test's temporary directory.
	Dir string
}

// DBName is the database's file in Options.Dir.
const DBName = "authority.db"

// DefaultIssuer is the name of the built-in issuer, of type email.
const DefaultIssuer = "https://oidc.redoubt.example"

// Rig is a running authority and everything below it.
type Rig struct {
	Authority *ca.Authority
	Verifier  *identity.Verifier
	Issuer    *identity.Issuer
	CT        *ct.Log
	CTLog     *log.Log
	CTKey     *Signer
	CTToken   *hsm.Key // CTKey in a token, for timestamps
	Audit     *audit.Log
	AuditLog  *log.Log
	AuditKey  *Signer
	CAKey     *Signer
	Chain     []*x509.Certificate
	DB        store.DB
	// StopAudit and StopCT end the writers of the two logs.
	StopAudit, StopCT func()
	config            ca.Config
}

// Signer counts signatures and fails on demand.
type Signer struct {
	crypto.Signer
	Signatures atomic.Int64
	mu         sync.Mutex
	fail       func(n int64) error
}

// Sign implements crypto.Signer.
func (s *Signer) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	s.mu.Lock()
	fail := s.fail
	s.mu.Unlock()
	if fail != nil {
		if err := fail(s.Signatures.Load() + 1); err != nil {
			return nil, err
		}
	}
	sig, err := s.Signer.Sign(r, digest, opts)
	if err == nil {
		s.Signatures.Add(1)
	}
	return sig, err
}

// FailWith makes signatures fail where f, given the number of the coming
// signature, returns an error. Nil heals.
func (s *Signer) FailWith(f func(n int64) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = f
}

// NewKey returns a counting P-256 key.
func NewKey(t testing.TB) *Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &Signer{Signer: k}
}

// New builds and runs an authority.
func New(t testing.TB, o Options) *Rig {
	t.Helper()
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.IssuerURL == "" {
		o.IssuerURL = DefaultIssuer
	}
	r := &Rig{CTKey: NewKey(t), AuditKey: NewKey(t), CAKey: NewKey(t)}
	if o.IssuingKey != nil {
		r.CAKey = &Signer{Signer: o.IssuingKey}
	}
	r.Chain = NewChain(t, r.CAKey.Signer, o.Now(), o.CANotAfter)
	if o.Dir == "" {
		o.Dir = t.TempDir()
	}
	db, err := bolt.Create(filepath.Join(o.Dir, DBName))
	must(t, err)
	t.Cleanup(func() { _ = db.Close() }) // after the logs stopped: cleanups run last to first
	r.DB = db
	if o.WrapDB != nil {
		r.DB = o.WrapDB(db)
	}
	r.CTLog, r.StopCT = r.runLog(t, log.Config{DB: r.DB, Prefix: "ct/", Origin: "ct.redoubt.example", Signer: r.CTKey, Now: o.Now, IndexKeys: ct.IndexKeys})
	r.AuditLog, r.StopAudit = r.runLog(t, log.Config{DB: r.DB, Prefix: "audit/", Origin: "audit.redoubt.example", Signer: r.AuditKey, Now: o.Now})
	// As the appliance passes it: each timestamp is verified before it is used.
	r.CTToken, err = hsm.NewKey(hsm.Info{URI: "test:ct"}, r.CTKey.Public(), func(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return r.CTKey.Sign(rand.Reader, digest, opts)
	})
	must(t, err)
	r.CT, err = ct.New(ct.Config{Log: r.CTLog, Signer: r.CTToken, Roots: r.Chain[len(r.Chain)-1:], Now: o.Now})
	must(t, err)
	if o.IssuerKey == nil {
		o.IssuerKey = NewKey(t)
	}
	r.Audit = audit.New(r.AuditLog)
	r.Audit.Now = o.Now
	r.Issuer, err = identity.NewIssuer(identity.IssuerConfig{URL: o.IssuerURL, Signer: o.IssuerKey, Now: o.Now})
	must(t, err)
	c := identity.Config{Now: o.Now, OIDCIssuers: map[string]identity.IssuerRules{
		o.IssuerURL: {OIDCIssuer: config.OIDCIssuer{ClientID: "sigstore", Type: "email"}, JWKS: identity.JWKS{Inline: r.Issuer.JWKS()}},
	}}
	if o.Identity != nil {
		o.Identity(&c)
	}
	r.Verifier, err = identity.New(c)
	must(t, err)
	var signer crypto.Signer = r.CAKey
	if k, ok := o.IssuingKey.(*hsm.Key); ok {
		signer = k // as the appliance passes it; CAKey counts nothing then
	}
	r.config = ca.Config{
		Chain: r.Chain, Signer: signer, CT: r.CT, Audit: r.Audit, DB: r.DB, Identity: r.Verifier,
		Denied: o.Denied, Profile: o.Profile, Now: o.Now, Logger: o.Logger,
	}
	r.Authority, err = ca.New(r.config)
	must(t, err)
	return r
}

// AuditConfig opens the audit log of a database read-only.
func AuditConfig(db store.DB) log.Config {
	return log.Config{DB: db, Prefix: "audit/", Origin: "audit.redoubt.example"}
}

// Restart makes a new Authority over the same state, as a new process would.
func (r *Rig) Restart(t testing.TB) {
	t.Helper()
	a, err := ca.New(r.config)
	must(t, err)
	r.Authority = a
}

// runLog creates, opens and runs one log.
func (r *Rig) runLog(t testing.TB, c log.Config) (*log.Log, func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	must(t, log.Create(ctx, c))
	l, err := log.Open(ctx, c)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = l.Run(ctx) // how it ends is what tests look at through Add
	}()
	stop := func() { cancel(); <-done }
	t.Cleanup(stop)
	return l, stop
}

// NewChain returns the issuing certificate for key and its P-384 root.
func NewChain(t testing.TB, key crypto.Signer, now, notAfter time.Time) []*x509.Certificate {
	t.Helper()
	rootKey, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	if notAfter.IsZero() {
		notAfter = now.AddDate(1, 0, 0)
	}
	root := &x509.Certificate{
		SerialNumber: big.NewInt(1).Lsh(big.NewInt(1), 120), Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "Example Root"},
		NotBefore: now.Add(-time.Hour), NotAfter: now.AddDate(10, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, SubjectKeyId: keyID(t, rootKey.Public()),
	}
	rootDER, err := x509.CreateCertificate(rand.Reader, root, root, rootKey.Public(), rootKey)
	must(t, err)
	root, err = x509.ParseCertificate(rootDER)
	must(t, err)
	issuing := &x509.Certificate{
		SerialNumber: big.NewInt(2).Lsh(big.NewInt(1), 121), Subject: pkix.Name{Organization: []string{"Example"}, CommonName: "Example Issuing CA"},
		NotBefore: now.Add(-time.Hour), NotAfter: notAfter, MaxPathLenZero: true,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, SubjectKeyId: keyID(t, key.Public()),
	}
	der, err := x509.CreateCertificate(rand.Reader, issuing, root, key.Public(), rootKey)
	must(t, err)
	issuing, err = x509.ParseCertificate(der)
	must(t, err)
	return []*x509.Certificate{issuing, root}
}

func keyID(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(pub)
	must(t, err)
	sum := sha256.Sum256(spki)
	return sum[:20]
}

// Token mints a token of the built-in issuer for an address.
func (r *Rig) Token(t testing.TB, email string) string {
	t.Helper()
	raw, err := r.Issuer.Mint(identity.Claims{Email: email})
	must(t, err)
	return raw
}

// Request is a good request for an address: a token, a public key in PEM and
// the proof of possession.
func (r *Rig) Request(t testing.TB, email string, key crypto.Signer) ca.Request {
	t.Helper()
	return ca.Request{Token: r.Token(t, email), PublicKey: PublicPEM(t, key.Public()), Proof: Proof(t, key, email)}
}

// PublicPEM encodes a public key.
func PublicPEM(t testing.TB, pub crypto.PublicKey) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(pub)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

// Proof signs name as a client proves possession.
func Proof(t testing.TB, key crypto.Signer, name string) []byte {
	t.Helper()
	msg, hash := []byte(name), crypto.Hash(0)
	switch k := key.Public().(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P384():
			d := sha512.Sum384(msg)
			msg, hash = d[:], crypto.SHA384
		case elliptic.P521():
			d := sha512.Sum512(msg)
			msg, hash = d[:], crypto.SHA512
		default:
			d := sha256.Sum256(msg)
			msg, hash = d[:], crypto.SHA256
		}
	case interface{ Size() int }: // *rsa.PublicKey
		d := sha256.Sum256(msg)
		msg, hash = d[:], crypto.SHA256
	}
	sig, err := key.Sign(rand.Reader, msg, hash)
	must(t, err)
	return sig
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
