package ct_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"math/big"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/ct"
	"redoubt.internal/log/store/bolt"
)

// pki is an authority as the ceremony makes one: P-384 root, P-256 issuing CA.
type pki struct {
	t         testing.TB
	root, ca  *x509.Certificate
	rootKey   *ecdsa.PrivateKey
	caKey     *ecdsa.PrivateKey
	nextSerie int64
}

func generate(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newPKI(t testing.TB) *pki {
	p := &pki{t: t, rootKey: generate(t, elliptic.P384()), caKey: generate(t, elliptic.P256())}
	p.root = p.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLen: 1,
	}, nil, p.rootKey.Public(), p.rootKey)
	p.ca = p.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "issuing"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, MaxPathLenZero: true,
	}, p.root, p.caKey.Public(), p.rootKey)
	return p
}

func (p *pki) make(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	p.t.Helper()
	p.nextSerie++
	tmpl.SerialNumber = big.NewInt(p.nextSerie)
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore, tmpl.NotAfter = time.Now().Add(-time.Minute), time.Now().Add(10*time.Minute)
	}
	if parent == nil {
		parent = tmpl
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		p.t.Fatal(err)
	}
	return c
}

var poison = pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3}, Critical: true, Value: []byte{5, 0}}

// precert is a precertificate in the profile of the authority: no subject, one critical e-mail SAN, code signing.
func (p *pki) precert(change func(*x509.Certificate)) *x509.Certificate {
	tmpl := &x509.Certificate{
		EmailAddresses:  []string{"dev@corp.example"},
		KeyUsage:        x509.KeyUsageDigitalSignature,
		ExtKeyUsage:     []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		ExtraExtensions: []pkix.Extension{poison},
	}
	if change != nil {
		change(tmpl)
	}
	return p.make(tmpl, p.ca, generate(p.t, elliptic.P256()).Public(), p.caKey)
}

func (p *pki) chain(leaf *x509.Certificate) [][]byte { return [][]byte{leaf.Raw, p.ca.Raw, p.root.Raw} }

// token is the log's key in something that can be pulled out. With after set, it goes after that many more signatures.
type token struct {
	*ecdsa.PrivateKey
	out   atomic.Bool
	after atomic.Int64
}

func (k *token) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.out.Load() || k.after.Load() > 0 && k.after.Add(-1) == 0 {
		k.out.Store(true)
		return nil, errors.New("the token is not there")
	}
	return k.PrivateKey.Sign(r, digest, o)
}

// rig is a running transparency log in a directory of its own.
type rig struct {
	*pki
	key    *token
	conf   log.Config
	path   string
	db     *bolt.DB
	merkle *log.Log
	ct     *ct.Log
	url    string
	stop   func()
}

func newRig(t testing.TB) *rig {
	r := &rig{pki: newPKI(t), key: &token{PrivateKey: generate(t, elliptic.P256())}, path: filepath.Join(t.TempDir(), "authority.db")}
	r.conf = log.Config{Prefix: "ct/", Origin: "ct.example.test", Signer: r.key, Unique: true, IndexKeys: ct.IndexKeys}
	var err error
	if r.db, err = bolt.Create(r.path); err != nil {
		t.Fatal(err)
	}
	r.conf.DB = r.db
	if err := log.Create(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	r.open()
	t.Cleanup(func() {
		r.stop()
		// Whatever the test did, the log is whole.
		if _, err := log.Fsck(context.Background(), r.conf, nil); err != nil {
			t.Errorf("fsck after the test: %v", err)
		}
		r.db.Close()
	})
	return r
}

func (r *rig) open() {
	t := r.t
	t.Helper()
	var err error
	if r.merkle, err = log.Open(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.merkle.Run(ctx) }()
	if r.ct, err = ct.New(ct.Config{Log: r.merkle, Signer: r.key, Roots: []*x509.Certificate{r.root}}); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.ct.Handler())
	r.url = server.URL
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			server.Close()
			cancel()
			<-done
		}
	}
}

// reopen stops the process in spirit: a new engine on the same file, empty caches.
func (r *rig) reopen() {
	r.t.Helper()
	r.stop()
	if err := r.db.Close(); err != nil {
		r.t.Fatal(err)
	}
	var err error
	if r.db, err = bolt.Open(r.path); err != nil {
		r.t.Fatal(err)
	}
	r.conf.DB = r.db
	r.open()
}

func (r *rig) add(leaf *x509.Certificate) ct.SCT {
	r.t.Helper()
	sct, err := r.ct.AddPreChain(r.t.Context(), r.chain(leaf))
	if err != nil {
		r.t.Fatal(err)
	}
	return sct
}

func query(kv ...string) string {
	q := url.Values{}
	for i := 0; i < len(kv); i += 2 {
		q.Set(kv[i], kv[i+1])
	}
	return "?" + q.Encode()
}
