package tsa

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	"github.com/sigstore/timestamp-authority/v2/pkg/verification"

	"redoubt.internal/hsm"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// makeChain makes root, intermediate and leaf for key; edit may spoil the leaf.
func makeChain(t testing.TB, pub crypto.PublicKey, edit func(*x509.Certificate)) []*x509.Certificate {
	t.Helper()
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now().Add(-time.Hour)
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{CommonName: cn}, NotBefore: start, NotAfter: start.AddDate(10, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, SerialNumber: big.NewInt(1)}
	}
	sign := func(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
		der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	rootKey, intKey := newKey(t), newKey(t)
	root := ca("Test Root")
	root = sign(root, root, rootKey.Public(), rootKey)
	inter := sign(ca("Test TSA CA"), root, intKey.Public(), rootKey)
	leaf := &x509.Certificate{
		Subject: pkix.Name{CommonName: "Test TSA"}, SerialNumber: big.NewInt(2), NotBefore: start, NotAfter: start.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: oidEKU, Critical: true, Value: eku}},
	}
	if edit != nil {
		edit(leaf)
	}
	return []*x509.Certificate{sign(leaf, inter, pub, intKey), inter, root}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newDB(t testing.TB) store.DB {
	t.Helper()
	db, err := bolt.Create(filepath.Join(t.TempDir(), "authority.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// clock is a settable clock.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.at }
func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

func newAuthority(t testing.TB, edit func(*Config)) *Authority {
	t.Helper()
	key := newKey(t)
	c := Config{Signer: key, Chain: makeChain(t, key.Public(), nil), DB: newDB(t)}
	if edit != nil {
		edit(&c)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func post(t testing.TB, h http.Handler, path, kind string, body []byte) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	r.Header.Set("Content-Type", kind)
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func query(t testing.TB, edit func(*timestamp.Request)) []byte {
	t.Helper()
	sum := sha256.Sum256([]byte("artifact"))
	r := &timestamp.Request{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:]}
	if edit != nil {
		edit(r)
	}
	der, err := r.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// TestOpenSSL is the user's view: openssl makes the query and judges the reply.
func TestOpenSSL(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Fatal("openssl is not installed")
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"p256": newKey(t), "p384": p384, "rsa": rsaKey} {
		t.Run(name, func(t *testing.T) {
			chain := makeChain(t, key.Public(), nil)
			a := newAuthority(t, func(c *Config) { c.Signer, c.Chain = key, chain })
			srv := httptest.NewServer(a.Handler())
			defer srv.Close()
			dir := t.TempDir()
			file := func(n string) string { return filepath.Join(dir, n) }
			write := func(n string, b []byte) {
				if err := os.WriteFile(file(n), b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			run := func(ok bool, args ...string) {
				t.Helper()
				out, err := exec.Command("openssl", args...).CombinedOutput()
				if (err == nil) != ok {
					t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
				}
			}
			write("data", []byte("artifact"))
			write("other", []byte("artefact"))
			write("root.pem", pemOf(chain[2]))
			write("mid.pem", pemOf(chain[:2]...))
			for _, hash := range []string{"-sha256", "-sha384", "-sha512"} {
				for _, cert := range []bool{true, false} {
					args := []string{"ts", "-query", "-data", file("data"), hash, "-out", file("q")}
					if cert {
						args = append(args, "-cert")
					}
					run(true, args...)
					q, err := os.ReadFile(file("q"))
					if err != nil {
						t.Fatal(err)
					}
					resp, err := http.Post(srv.URL+"/api/v1/timestamp", "application/timestamp-query", bytes.NewReader(q))
					if err != nil {
						t.Fatal(err)
					}
					reply, _ := io.ReadAll(resp.Body)
					resp.Body.Close()
					if resp.StatusCode != http.StatusCreated || resp.Header.Get("Content-Type") != "application/timestamp-reply" {
						t.Fatalf("status %d, type %q: %s", resp.StatusCode, resp.Header.Get("Content-Type"), reply)
					}
					write("r", reply)
					run(true, "ts", "-verify", "-queryfile", file("q"), "-in", file("r"), "-CAfile", file("root.pem"), "-untrusted", file("mid.pem"))
					run(true, "ts", "-verify", "-data", file("data"), "-in", file("r"), "-CAfile", file("root.pem"), "-untrusted", file("mid.pem"))
					run(false, "ts", "-verify", "-data", file("other"), "-in", file("r"), "-CAfile", file("root.pem"), "-untrusted", file("mid.pem"))
					ts, err := timestamp.ParseResponse(reply)
					if err != nil {
						t.Fatal(err)
					}
					if got := len(ts.Certificates) > 0; got != cert {
						t.Errorf("certificate embedded: %v, requested: %v", got, cert)
					}
				}
			}
		})
	}
}

func pemOf(certs ...*x509.Certificate) (out []byte) {
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// TestSigstoreVerification holds a token to the verifier sigstore-go uses, in
// both request forms.
func TestSigstoreVerification(t *testing.T) {
	a := newAuthority(t, nil)
	nonce := big.NewInt(0xC0FFEE)
	sum := sha256.Sum256([]byte("artifact"))
	js := fmt.Sprintf(`{"artifactHash":%q,"certificates":true,"hashAlgorithm":"sha256","nonce":%d,"tsaPolicyOID":"1.3.6.1.4.1.57264.2"}`, b64(sum[:]), nonce)
	serials := map[string]bool{}
	for name, w := range map[string]*httptest.ResponseRecorder{
		"der":   post(t, a.Handler(), "/api/v1/timestamp", "application/timestamp-query", query(t, func(r *timestamp.Request) { r.Nonce, r.Certificates = nonce, true })),
		"slash": post(t, a.Handler(), "/api/v1/timestamp/", "application/timestamp-query", query(t, func(r *timestamp.Request) { r.Nonce = nonce; r.TSAPolicyOID = DefaultPolicy })),
		"json":  post(t, a.Handler(), "/api/v1/timestamp", "application/json; charset=utf-8", []byte(js)),
	} {
		t.Run(name, func(t *testing.T) {
			if w.Code != http.StatusCreated {
				t.Fatalf("status %d: %s", w.Code, w.Body)
			}
			opts := verification.VerifyOpts{Roots: a.chain[2:], Intermediates: a.chain[1:2], TSACertificate: a.chain[0], Nonce: nonce, OID: DefaultPolicy}
			ts, err := verification.VerifyTimestampResponse(w.Body.Bytes(), strings.NewReader("artifact"), opts)
			if err != nil {
				t.Fatal(err)
			}
			if d := time.Since(ts.Time); d < 0 || d > 5*time.Second || ts.Accuracy != time.Second || ts.Time.Location() != time.UTC {
				t.Errorf("genTime %s is %s ago, accuracy %s", ts.Time, d, ts.Accuracy)
			}
			if serials[ts.SerialNumber.String()] || ts.SerialNumber.BitLen() < 64 {
				t.Errorf("serial %x", ts.SerialNumber)
			}
			serials[ts.SerialNumber.String()] = true
			if _, err := verification.VerifyTimestampResponse(w.Body.Bytes(), strings.NewReader("other"), opts); err == nil {
				t.Error("token verifies for another artifact")
			}
		})
	}
	r := httptest.NewRequest(http.MethodGet, "/api/v1/timestamp/certchain", nil)
	w := httptest.NewRecorder()
	a.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), pemOf(a.chain...)) {
		t.Errorf("certchain: %d %s", w.Code, w.Body)
	}
}

func TestBadRequests(t *testing.T) {
	signed := 0
	key := newKey(t)
	a := newAuthority(t, func(c *Config) {
		c.Signer, c.Chain = countingSigner{key, &signed}, makeChain(t, key.Public(), nil)
	})
	good := query(t, nil)
	goodJSON := `{"artifactHash":"` + b64(make([]byte, 32)) + `","hashAlgorithm":"sha256"}`
	sha1OID := asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}
	md5OID := asn1.ObjectIdentifier{1, 2, 840, 113549, 2, 5}
	const q, j = "application/timestamp-query", "application/json"
	for name, c := range map[string]struct {
		kind string
		body []byte
		want int
		text string
	}{
		"empty":                {q, nil, 400, "DER"},
		"garbage":              {q, []byte("hello"), 400, "DER"},
		"truncated":            {q, good[:len(good)-1], 400, "DER"},
		"trailing":             {q, append(bytes.Clone(good), 0), 400, "DER"},
		"sha1":                 {q, rawQuery(t, sha1OID, 20), 400, "weak hash"},
		"sha1 with 32 bytes":   {q, rawQuery(t, sha1OID, 32), 400, "weak hash"},
		"md5":                  {q, rawQuery(t, md5OID, 16), 400, "weak hash"},
		"unknown hash":         {q, rawQuery(t, asn1.ObjectIdentifier{1, 2, 3}, 32), 400, "unknown hash"},
		"short imprint":        {q, query(t, func(r *timestamp.Request) { r.HashedMessage = r.HashedMessage[1:] }), 400, "31 bytes"},
		"sha512 with 32 bytes": {q, query(t, func(r *timestamp.Request) { r.HashAlgorithm = crypto.SHA512 }), 400, "32 bytes"},
		"other policy":         {q, query(t, func(r *timestamp.Request) { r.TSAPolicyOID = asn1.ObjectIdentifier{1, 2, 3, 4} }), 400, "policy"},
		"extension":            {q, query(t, func(r *timestamp.Request) { r.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3}}} }), 400, "extensions"},
		"huge nonce":           {q, query(t, func(r *timestamp.Request) { r.Nonce = new(big.Int).Lsh(big.NewInt(1), 1000) }), 400, "nonce"},
		"version 2":            {q, bytes.Replace(good, []byte{2, 1, 1}, []byte{2, 1, 2}, 1), 400, "version"},
		"long length form":     {q, append([]byte{0x30, 0x84, 0, 0, 0, byte(len(good) - 2)}, good[2:]...), 400, "DER"},
		"indefinite length":    {q, append(append([]byte{0x30, 0x80}, good[2:]...), 0, 0), 400, "DER"},
		"too large":            {q, make([]byte, maxQuery+1), 413, "larger"},
		"5 MiB":                {q, make([]byte, 5<<20), 413, "larger"},
		"json too large":       {j, []byte(strings.Repeat(" ", maxJSON) + goodJSON), 413, "larger"},
		"json sha1":            {j, []byte(`{"artifactHash":"` + b64(make([]byte, 20)) + `","hashAlgorithm":"SHA1"}`), 400, "weak hash"},
		"json no hash":         {j, []byte(`{"artifactHash":"` + b64(make([]byte, 32)) + `"}`), 400, "unknown hash"},
		"json not base64":      {j, []byte(`{"artifactHash":"***","hashAlgorithm":"sha256"}`), 400, "artifactHash"},
		"json nonce digits":    {j, []byte(strings.Replace(goodJSON, "{", `{"nonce":`+strings.Repeat("9", 400)+`,`, 1)), 400, "nonce"},
		"json duplicate":       {j, []byte(strings.Replace(goodJSON, "{", `{"hashAlgorithm":"sha1",`, 1)), 400, "duplicate"},
		"json unknown":         {j, []byte(strings.Replace(goodJSON, "{", `{"url":"http://x",`, 1)), 400, "unknown field"},
		"json folded case":     {j, []byte(strings.Replace(goodJSON, "hashAlgorithm", "hashalgorithm", 1)), 400, "unknown field"},
		"json OID of dots":     {j, []byte(strings.Replace(goodJSON, "{", `{"tsaPolicyOID":"`+strings.Repeat(".", 500)+`",`, 1)), 400, "OID"},
		"json bad OID":         {j, []byte(strings.Replace(goodJSON, "{", `{"tsaPolicyOID":"1.02.3",`, 1)), 400, "OID"},
		"json null":            {j, []byte(`null`), 400, ""},
		"json array":           {j, []byte(`[]`), 400, ""},
		"no type":              {"", good, 415, "Content-Type"},
		"twice application/":   {"application/application/json", good, 415, "Content-Type"},
		"long type":            {strings.Repeat("application/", 50000), good, 415, "Content-Type"},
	} {
		t.Run(name, func(t *testing.T) {
			w := post(t, a.Handler(), "/api/v1/timestamp", c.kind, c.body)
			if w.Code != c.want || !strings.Contains(w.Body.String(), c.text) || w.Header().Get("Content-Type") != "application/json" {
				t.Errorf("status %d, want %d with %q: %s", w.Code, c.want, c.text, w.Body)
			}
		})
	}
	if signed != 0 {
		t.Errorf("the key was used %d times for refused requests", signed)
	}
	if w := post(t, a.Handler(), "/api/v1/timestamp", j, []byte(goodJSON)); w.Code != 201 || signed != 1 {
		t.Errorf("the unspoilt JSON request: %d, %d signatures", w.Code, signed)
	}
	for _, path := range []string{"/", "/api/v1/timestamp/x", "/api/v2/timestamp"} {
		if w := post(t, a.Handler(), path, q, good); w.Code != 404 && w.Code != 405 {
			t.Errorf("POST %s: %d", path, w.Code)
		}
	}
}

type countingSigner struct {
	crypto.Signer
	n *int
}

func (s countingSigner) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	*s.n++
	return s.Signer.Sign(r, d, o)
}

// rawQuery encodes a request for any hash OID.
func rawQuery(t testing.TB, oid asn1.ObjectIdentifier, size int) []byte {
	t.Helper()
	type imprint struct {
		Alg    pkix.AlgorithmIdentifier
		Digest []byte
	}
	der, err := asn1.Marshal(struct {
		Version int
		Imprint imprint
	}{1, imprint{pkix.AlgorithmIdentifier{Algorithm: oid, Parameters: asn1.NullRawValue}, make([]byte, size)}})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

type lostToken struct {
	crypto.Signer
	gone *bool
}

func (s lostToken) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	if *s.gone {
		return nil, fmt.Errorf("signing: %w", hsm.ErrUnavailable)
	}
	return s.Signer.Sign(r, d, o)
}

func TestTokenLostAndBack(t *testing.T) {
	key, gone := newKey(t), true
	a := newAuthority(t, func(c *Config) {
		c.Signer, c.Chain = lostToken{key, &gone}, makeChain(t, key.Public(), nil)
	})
	w := post(t, a.Handler(), "/api/v1/timestamp", "application/timestamp-query", query(t, nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), "token unavailable") || w.Header().Get("Retry-After") == "" {
		t.Fatalf("token gone: %d %s", w.Code, w.Body)
	}
	gone = false
	if w := post(t, a.Handler(), "/api/v1/timestamp", "application/timestamp-query", query(t, nil)); w.Code != 201 {
		t.Fatalf("token back: %d %s", w.Code, w.Body)
	}
}

func TestChainRefused(t *testing.T) {
	key := newKey(t)
	pub := key.Public()
	good := makeChain(t, pub, nil)
	eku := func(critical bool, oids ...asn1.ObjectIdentifier) func(*x509.Certificate) {
		v, err := asn1.Marshal(oids)
		if err != nil {
			t.Fatal(err)
		}
		return func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: oidEKU, Critical: critical, Value: v}}
		}
	}
	stamping := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 8}
	for name, chain := range map[string][]*x509.Certificate{
		"empty": nil, "nil": {nil}, "leaf only": good[:1], "no root": good[:2], "root first": {good[2], good[1], good[0]}, "gap": {good[0], good[2]},
		"other key":      makeChain(t, newKey(t).Public(), nil),
		"EKU missing":    makeChain(t, pub, func(c *x509.Certificate) { c.ExtraExtensions = nil }),
		"EKU uncritical": makeChain(t, pub, eku(false, stamping)),
		"EKU other":      makeChain(t, pub, eku(true, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 3, 3})),
		"EKU two":        makeChain(t, pub, eku(true, stamping, asn1.ObjectIdentifier{1, 2, 3, 4})),
		"CA":             makeChain(t, pub, func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }),
	} {
		if _, err := New(Config{Signer: key, Chain: chain, DB: newDB(t)}); !errors.Is(err, ErrChain) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func b64(b []byte) string { return string(appendB64(b)) }

// TestFloor: no token is earlier than one before it, across restarts with and
// without Close, and whatever the clock does.
func TestFloor(t *testing.T) {
	key := newKey(t)
	chain, db := makeChain(t, key.Public(), nil), newDB(t)
	clk := &clock{at: time.Now().Truncate(time.Second).Add(500 * time.Millisecond)}
	start := clk.now()
	open := func() *Authority {
		t.Helper()
		a, err := New(Config{Signer: key, Chain: chain, DB: db, Now: clk.now})
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	genTime := func(a *Authority) time.Time {
		t.Helper()
		req, err := ParseDER(query(t, nil))
		if err != nil {
			t.Fatal(err)
		}
		der, err := a.Issue(context.Background(), req)
		if err != nil {
			t.Fatal(err)
		}
		ts, err := timestamp.ParseResponse(der)
		if err != nil {
			t.Fatal(err)
		}
		return ts.Time
	}
	refused := func(a *Authority) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		defer cancel()
		req, _ := ParseDER(query(t, nil))
		if der, err := a.Issue(ctx, req); err == nil {
			ts, _ := timestamp.ParseResponse(der)
			t.Fatalf("issued %s with the clock at %s", ts.Time, clk.now())
		}
	}
	a := open()
	if got, want := genTime(a), start.Truncate(time.Second).UTC(); !got.Equal(want) {
		t.Fatalf("genTime %s, want %s", got, want)
	}
	clk.add(2 * time.Second)
	last := genTime(a)
	clk.add(-1400 * time.Millisecond) // within the accuracy of the last token
	if got := genTime(a); !got.Equal(last) {
		t.Fatalf("clock back a little: %s, want the floor %s", got, last)
	}
	clk.add(-time.Hour)
	refused(a)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	refused(a) // closed
	clk.add(time.Hour)
	a = open() // after Close the floor is the last token
	if got := genTime(a); !got.Equal(last) {
		t.Fatalf("after Close: %s, want %s", got, last)
	}
	clk.add(2 * time.Second)
	last = genTime(a)
	a = open() // no Close, as after a crash: the reserve counts as used
	if _, reserved := a.floor.state(); !reserved.After(last) {
		t.Fatalf("reserve %s does not cover %s", reserved, last)
	}
	clk.add(-24 * time.Hour)
	refused(a)
	clk.add(24*time.Hour + reserveAhead)
	if got := genTime(a); got.Before(last) {
		t.Fatalf("after a crash: %s, before %s", got, last)
	}
}

// TestFloorWaits: after a crash a request waits for the clock rather than fail.
func TestFloorWaits(t *testing.T) {
	key := newKey(t)
	chain, db := makeChain(t, key.Public(), nil), newDB(t)
	req, err := ParseDER(query(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second start finds a reserve up to 3 s ahead
		a, err := New(Config{Signer: key, Chain: chain, DB: db})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Issue(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
}

// TestNoWritePerToken: the database is written once per reserved span.
func TestNoWritePerToken(t *testing.T) {
	db := &countingDB{DB: newDB(t)}
	clk := &clock{at: time.Now()}
	a := newAuthority(t, func(c *Config) { c.DB, c.Now = db, clk.now })
	req, err := ParseDER(query(t, nil))
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		if _, err := a.Issue(context.Background(), req); err != nil {
			t.Fatal(err)
		}
	}
	if db.updates != 1 {
		t.Errorf("%d writes for 100 tokens", db.updates)
	}
	db.fail = true
	clk.add(time.Minute)
	if _, err := a.Issue(context.Background(), req); err == nil {
		t.Error("a token without a durable floor")
	}
}

type countingDB struct {
	store.DB
	updates int
	fail    bool
}

func (d *countingDB) Update(fn func(store.Tx) error) error {
	if d.fail {
		return store.ErrSync
	}
	d.updates++
	return d.DB.Update(fn)
}

func TestExpiredLeaf(t *testing.T) {
	clk := &clock{at: time.Now().AddDate(6, 0, 0)}
	a := newAuthority(t, func(c *Config) { c.Now = clk.now })
	w := post(t, a.Handler(), "/api/v1/timestamp", "application/timestamp-query", query(t, nil))
	if w.Code != 503 || !strings.Contains(w.Body.String(), ErrExpired.Error()) {
		t.Errorf("expired: %d %s", w.Code, w.Body)
	}
}

func TestConcurrent(t *testing.T) {
	a := newAuthority(t, nil)
	h := a.Handler()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10 {
				if w := post(t, h, "/api/v1/timestamp", "application/timestamp-query", query(t, nil)); w.Code != 201 {
					t.Errorf("status %d: %s", w.Code, w.Body)
				}
			}
		})
	}
	wg.Wait()
}
