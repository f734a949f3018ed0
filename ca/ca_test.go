package ca_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/ctutil"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/fulcio/pkg/config"
	"github.com/sigstore/sigstore/pkg/cryptoutils"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// clientKeys are one key of every accepted kind.
var clientKeys = sync.OnceValue(func() map[string]crypto.Signer {
	keys := map[string]crypto.Signer{}
	for name, curve := range map[string]elliptic.Curve{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()} {
		keys[name], _ = ecdsa.GenerateKey(curve, rand.Reader)
	}
	for name, bits := range map[string]int{"RSA-2048": 2048, "RSA-3072": 3072} {
		keys[name], _ = rsa.GenerateKey(rand.Reader, bits)
	}
	_, keys["Ed25519"], _ = ed25519.GenerateKey(rand.Reader)
	return keys
})

// verifyIssued checks a certificate as a client would: chain at its own time,
// SCT by the log's key, profile, extensions as Fulcio's package reads them.
func verifyIssued(t testing.TB, r *catest.Rig, got *ca.Issued, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	leaf, err := x509.ParseCertificate(got.Leaf)
	if err != nil {
		t.Fatal(err)
	}
	roots, inter := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(r.Chain[len(r.Chain)-1])
	for _, c := range r.Chain[:len(r.Chain)-1] {
		inter.AddCert(c)
	}
	leaf.UnhandledCriticalExtensions = slices.DeleteFunc(leaf.UnhandledCriticalExtensions, func(o asn1.ObjectIdentifier) bool {
		return o.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) // user names are an otherName, which the standard library does not read
	})
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: inter, CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Fatalf("chain: %v", err)
	}
	if !pub.(interface{ Equal(crypto.PublicKey) bool }).Equal(leaf.PublicKey) {
		t.Fatal("certificate holds another key")
	}
	if len(leaf.Subject.Names) != 0 || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature || !slices.Equal(leaf.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}) {
		t.Fatalf("profile: %+v", leaf)
	}
	if d := leaf.NotAfter.Sub(leaf.NotBefore); d > 10*time.Minute || d <= 0 {
		t.Fatalf("valid for %s", d)
	}
	if n := leaf.SerialNumber; n.Sign() <= 0 || len(n.Bytes()) != 20 {
		t.Fatalf("serial %x", n)
	}
	if len(leaf.SubjectKeyId) == 0 || !bytes.Equal(leaf.AuthorityKeyId, r.Chain[0].SubjectKeyId) {
		t.Fatal("key identifiers")
	}
	sans := 0
	for _, e := range leaf.Extensions {
		if e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 17}) {
			sans++
			if !e.Critical {
				t.Fatal("SAN is not critical")
			}
		}
	}
	if sans != 1 {
		t.Fatalf("%d SANs", sans)
	}
	ext, err := certificate.ParseExtensions(leaf.Extensions)
	if err != nil || ext.Issuer != got.Principal.Issuer || ext.Subject != got.Principal.Subject {
		t.Fatalf("extensions %+v, %v", ext, err)
	}
	if last := leaf.Extensions[len(leaf.Extensions)-1].Id.String(); last != "1.3.6.1.4.1.11129.2.4.2" {
		t.Fatalf("last extension is %s", last)
	}
	verifySCT(t, r, got.Leaf)
	return leaf
}

// verifySCT verifies the embedded SCT with certificate-transparency-go.
func verifySCT(t testing.TB, r *catest.Rig, der []byte) {
	t.Helper()
	leaf, err := ctx509.ParseCertificate(der)
	if ctx509.IsFatal(err) {
		t.Fatal(err)
	}
	issuer, err := ctx509.ParseCertificate(r.Chain[0].Raw)
	if ctx509.IsFatal(err) {
		t.Fatal(err)
	}
	scts, err := x509util.ParseSCTsFromCertificate(der)
	if err != nil || len(scts) != 1 {
		t.Fatalf("%d SCTs, %v", len(scts), err)
	}
	if err := ctutil.VerifySCT(r.CTKey.Public(), []*ctx509.Certificate{leaf, issuer}, scts[0], true); err != nil {
		t.Fatalf("SCT: %v", err)
	}
	if scts[0].LogID.KeyID != r.CT.ID() || scts[0].SCTVersion != cttypes.V1 {
		t.Fatalf("SCT %+v", scts[0])
	}
}

func TestIssueEveryKey(t *testing.T) {
	r := catest.New(t, catest.Options{})
	for name, key := range clientKeys() {
		t.Run(name, func(t *testing.T) {
			before := r.CTLog.Head().Size
			got, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", key))
			if err != nil {
				t.Fatal(err)
			}
			leaf := verifyIssued(t, r, got, key.Public())
			if !slices.Equal(leaf.EmailAddresses, []string{"dev@corp.example"}) {
				t.Fatalf("SAN %v", leaf.EmailAddresses)
			}
			if r.CTLog.Head().Size != before+1 {
				t.Fatal("the precertificate is not in the log")
			}
		})
	}
}

func TestIssueByCSR(t *testing.T) {
	r := catest.New(t, catest.Options{})
	for name, key := range clientKeys() {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
			Subject: pkix.Name{CommonName: "root"}, DNSNames: []string{"evil.example"}, EmailAddresses: []string{"root@corp.example"},
		}, key)
		if err != nil {
			t.Fatal(err)
		}
		for form, csr := range map[string][]byte{"DER": der, "PEM": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})} {
			t.Run(name+" "+form, func(t *testing.T) {
				got, err := r.Authority.Issue(t.Context(), ca.Request{Token: r.Token(t, "dev@corp.example"), CSR: csr})
				if err != nil {
					t.Fatal(err)
				}
				leaf := verifyIssued(t, r, got, key.Public())
				if len(leaf.DNSNames) > 0 || !slices.Equal(leaf.EmailAddresses, []string{"dev@corp.example"}) {
					t.Fatalf("a name of the request reached the certificate: %v %v", leaf.DNSNames, leaf.EmailAddresses)
				}
			})
		}
	}
}

// TestIssueForEveryIssuerType issues for URIs and user names too.
func TestIssueForEveryIssuerType(t *testing.T) {
	tokens := map[string]identity.Claims{
		"uri":      {Subject: "https://users.redoubt.example/7"},
		"spiffe":   {Subject: "spiffe://redoubt.example/ns/build"},
		"username": {Subject: "alice"},
	}
	for typ, claims := range tokens {
		t.Run(typ, func(t *testing.T) {
			r := catest.New(t, catest.Options{Identity: func(c *identity.Config) {
				rules := c.OIDCIssuers[catest.DefaultIssuer]
				rules.OIDCIssuer = config.OIDCIssuer{ClientID: "sigstore", Type: config.IssuerType(typ), SPIFFETrustDomain: "redoubt.example"}
				switch typ {
				case "uri":
					rules.SubjectDomain = "https://users.redoubt.example"
				case "username":
					rules.SubjectDomain = "redoubt.example"
				}
				c.OIDCIssuers[catest.DefaultIssuer] = rules
			}})
			raw, err := r.Issuer.Mint(claims)
			if err != nil {
				t.Fatal(err)
			}
			key := clientKeys()["P-256"]
			got, err := r.Authority.Issue(t.Context(), ca.Request{Token: raw, PublicKey: catest.PublicPEM(t, key.Public()), Proof: catest.Proof(t, key, claims.Subject)})
			if err != nil {
				t.Fatal(err)
			}
			leaf := verifyIssued(t, r, got, key.Public())
			if typ == "username" {
				name, err := cryptoutils.UnmarshalOtherNameSAN(leaf.Extensions)
				if err != nil || name != "alice!redoubt.example" {
					t.Fatalf("user name %q, %v", name, err)
				}
			} else if leaf.URIs[0].String() != claims.Subject {
				t.Fatalf("SAN %v", leaf.URIs)
			}
			found, err := ca.Search(t.Context(), r.DB, ca.Query{Identity: got.Principal.SAN.Value})
			if err != nil || len(found) != 1 || found[0].Serial != got.Serial || found[0].Identity != got.Principal.SAN.Value {
				t.Fatalf("search: %+v, %v", found, err)
			}
		})
	}
}

// TestIssuingKeyTypes issues under each kind of authority key, among them an
// hsm.Key, whose signatures are verified once only.
func TestIssuingKeyTypes(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, key := range map[string]crypto.Signer{"P-384": p384, "Ed25519": ed, "RSA": clientKeys()["RSA-3072"]} {
		t.Run(name, func(t *testing.T) {
			r := catest.New(t, catest.Options{IssuingKey: key})
			client := clientKeys()["P-256"]
			got, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", client))
			if err != nil {
				t.Fatal(err)
			}
			verifyIssued(t, r, got, client.Public())
		})
	}
}

// badKey makes a SubjectPublicKeyInfo of an RSA key with chosen numbers.
func badRSA(t testing.TB, n *big.Int, e int) []byte {
	t.Helper()
	return catest.PublicPEM(t, &rsa.PublicKey{N: n, E: e})
}

// refusals of step 2: each with the sentinel it must end in.
func badRequests(t testing.TB, r *catest.Rig) map[string]struct {
	request ca.Request
	want    error
} {
	t.Helper()
	good := clientKeys()["P-256"]
	token := r.Token(t, "dev@corp.example")
	goodPEM := catest.PublicPEM(t, good.Public())
	proof := catest.Proof(t, good, "dev@corp.example")
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	weak := weakRSA(t)
	rsaN := clientKeys()["RSA-2048"].Public().(*rsa.PublicKey).N
	close1 := nextPrime(new(big.Int).Lsh(big.NewInt(3), 1022))
	close2 := nextPrime(new(big.Int).Add(close1, big.NewInt(2)))
	goodCSR, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, good)
	brokenCSR := bytes.Clone(goodCSR)
	brokenCSR[len(brokenCSR)-1] ^= 1
	p224CSR, _ := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p224)
	pop := func(pub, sig []byte) ca.Request { return ca.Request{Token: token, PublicKey: pub, Proof: sig} }
	csr := func(b []byte) ca.Request { return ca.Request{Token: token, CSR: b} }
	type bad = struct {
		request ca.Request
		want    error
	}
	return map[string]bad{
		"nothing":                     {ca.Request{Token: token}, ca.ErrRequest},
		"key and request":             {ca.Request{Token: token, PublicKey: goodPEM, Proof: proof, CSR: goodCSR}, ca.ErrRequest},
		"no token":                    {ca.Request{PublicKey: goodPEM, Proof: proof}, ca.ErrToken},
		"token of dots":               {ca.Request{Token: strings.Repeat(".", 1<<20), PublicKey: goodPEM, Proof: proof}, ca.ErrToken},
		"proof missing":               {pop(goodPEM, nil), ca.ErrProof},
		"proof by another key":        {pop(goodPEM, catest.Proof(t, other, "dev@corp.example")), ca.ErrProof},
		"proof over another name":     {pop(goodPEM, catest.Proof(t, good, "root@corp.example")), ca.ErrProof},
		"proof over the subject":      {pop(goodPEM, catest.Proof(t, good, "u-1")), ca.ErrProof},
		"proof cut":                   {pop(goodPEM, proof[:len(proof)-1]), ca.ErrProof},
		"proof endless":               {pop(goodPEM, make([]byte, 1<<20)), ca.ErrProof},
		"proof by PSS":                {pop(catest.PublicPEM(t, clientKeys()["RSA-2048"].Public()), pssProof(t)), ca.ErrProof},
		"key is garbage":              {pop([]byte("key"), proof), ca.ErrKey},
		"key is empty PEM":            {pop([]byte("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n"), proof), ca.ErrKey},
		"key PEM is cut":              {pop(goodPEM[:60], proof), ca.ErrKey},
		"key twice":                   {pop(append(bytes.Clone(goodPEM), goodPEM...), proof), ca.ErrKey},
		"key is a private key block":  {pop(privatePEM(t), proof), ca.ErrKey},
		"key is a certificate":        {pop(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Chain[0].Raw}), proof), ca.ErrKey},
		"key endless":                 {pop(bytes.Repeat([]byte("A"), 1<<20), proof), ca.ErrKey},
		"point off the curve":         {pop(offCurve(t), proof), ca.ErrKey},
		"P-224":                       {pop(catest.PublicPEM(t, p224.Public()), catest.Proof(t, p224, "dev@corp.example")), ca.ErrKey},
		"RSA of 1024 bits":            {pop(badRSA(t, weak, 65537), proof), ca.ErrKey},
		"RSA of 2047 bits":            {pop(badRSA(t, new(big.Int).Rsh(rsaN, 1), 65537), proof), ca.ErrKey},
		"RSA of 8192 bits":            {pop(badRSA(t, new(big.Int).SetBit(new(big.Int).Lsh(rsaN, 8192-2048), 0, 1), 65537), proof), ca.ErrKey},
		"RSA with exponent 3":         {pop(badRSA(t, rsaN, 3), proof), ca.ErrKey},
		"RSA with even exponent":      {pop(badRSA(t, rsaN, 65538), proof), ca.ErrKey},
		"RSA with a small factor":     {pop(badRSA(t, multipleOf(rsaN, 739), 65537), proof), ca.ErrKey},
		"RSA even":                    {pop(badRSA(t, new(big.Int).And(rsaN, new(big.Int).Not(big.NewInt(1))), 65537), proof), ca.ErrKey},
		"RSA with close primes":       {pop(badRSA(t, new(big.Int).Mul(close1, close2), 65537), proof), ca.ErrKey},
		"RSA square":                  {pop(badRSA(t, new(big.Int).Mul(close1, close1), 65537), proof), ca.ErrKey},
		"RSA of the ROCA family":      {pop(badRSA(t, rocaModulus(), 65537), proof), ca.ErrKey},
		"Ed25519 of small order":      {pop(catest.PublicPEM(t, ed25519.PublicKey(make([]byte, 32))), make([]byte, 64)), ca.ErrKey},
		"Ed25519 identity":            {pop(catest.PublicPEM(t, ed25519.PublicKey(append([]byte{1}, make([]byte, 31)...))), make([]byte, 64)), ca.ErrKey},
		"CSR is garbage":              {csr([]byte("csr")), ca.ErrCSR},
		"CSR signature broken":        {csr(brokenCSR), ca.ErrProof},
		"CSR is a certificate":        {csr(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Chain[0].Raw})), ca.ErrCSR},
		"CSR endless":                 {csr(bytes.Repeat([]byte{0x30}, 1<<20)), ca.ErrCSR},
		"CSR of a P-224 key":          {csr(p224CSR), ca.ErrKey},
		"CSR followed by another":     {csr(slices.Concat(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: goodCSR}), []byte("x"))), ca.ErrCSR},
		"CSR signed over other bytes": {csr(otherKeyCSR(t, goodCSR)), ca.ErrProof},
	}
}

func TestRefused(t *testing.T) {
	r := catest.New(t, catest.Options{})
	signatures := r.CAKey.Signatures.Load()
	for name, c := range badRequests(t, r) {
		t.Run(name, func(t *testing.T) {
			got, err := r.Authority.Issue(t.Context(), c.request)
			if !errors.Is(err, c.want) || got != nil {
				t.Fatalf("%+v, %v", got, err)
			}
			if len(err.Error()) > 1000 {
				t.Fatalf("error of %d bytes", len(err.Error()))
			}
			t.Log(err)
		})
	}
	if n := r.CAKey.Signatures.Load(); n != signatures {
		t.Fatalf("%d signatures for refused requests", n-signatures)
	}
	if all, err := ca.Search(t.Context(), r.DB, ca.Query{}); err != nil || len(all) != 0 {
		t.Fatalf("refusals left serials: %v, %v", all, err)
	}
	records, err := r.Audit.List(t.Context(), 0, 1000)
	if err != nil || len(records) == 0 {
		t.Fatalf("%d refusals recorded, %v", len(records), err)
	}
	for _, e := range records {
		if e.Outcome != audit.Refused || e.Detail["reason"] == "" {
			t.Fatalf("record %+v", e)
		}
	}
}

// TestDenied: who is denied is issued nothing from the next request on, while others are; the key signs nothing for it, and the refusal is on record.
func TestDenied(t *testing.T) {
	var list *denied.List
	r := catest.New(t, catest.Options{Denied: func() *denied.List { return list }})
	ask := func(email string) error {
		_, err := r.Authority.Issue(t.Context(), r.Request(t, email, clientKeys()["P-256"]))
		return err
	}
	if err := ask("eve@corp.example"); err != nil {
		t.Fatal(err)
	}
	var err error
	if list, err = denied.New("corp.example").With(denied.Entry{Issuer: catest.DefaultIssuer, Identity: "eve@corp.example", Reason: "left"}, 0); err != nil {
		t.Fatal(err)
	}
	signatures := r.CAKey.Signatures.Load()
	if err := ask("Eve@corp.example"); !errors.Is(err, ca.ErrDenied) {
		t.Errorf("denied, %v", err)
	}
	if n := r.CAKey.Signatures.Load(); n != signatures {
		t.Errorf("%d signatures for a denied identity", n-signatures)
	}
	if err := ask("dev@corp.example"); err != nil {
		t.Errorf("another one: %v", err)
	}
	records, err := r.Audit.List(t.Context(), 0, 100)
	if err != nil || !slices.ContainsFunc(records, func(e audit.Record) bool {
		return e.Outcome == audit.Refused && e.Actor == "Eve@corp.example" && strings.Contains(e.Detail["reason"], "left")
	}) {
		t.Errorf("records %+v, %v", records, err)
	}
}

// TestTokenUses shows the limit per token and that a retry is not a reuse.
func TestTokenUses(t *testing.T) {
	r := catest.New(t, catest.Options{Identity: func(c *identity.Config) {
		rules := c.OIDCIssuers[catest.DefaultIssuer]
		rules.TokenUses = 1
		c.OIDCIssuers[catest.DefaultIssuer] = rules
	}})
	first := r.Request(t, "dev@corp.example", clientKeys()["P-256"])
	for range 2 {
		if _, err := r.Authority.Issue(t.Context(), first); err != nil {
			t.Fatalf("a retry with the same key: %v", err)
		}
	}
	again := first
	again.PublicKey, again.Proof = catest.PublicPEM(t, clientKeys()["P-384"].Public()), catest.Proof(t, clientKeys()["P-384"], "dev@corp.example")
	if _, err := r.Authority.Issue(t.Context(), again); !errors.Is(err, ca.ErrTokenUsed) {
		t.Fatalf("a second key: %v", err)
	}
	if _, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-384"])); err != nil {
		t.Fatalf("a new token: %v", err)
	}
}

func TestSearch(t *testing.T) { search(t, false) }

// TestSearchOlderRecords does the same over records as they were written when a
// moment was its seconds alone, beside new ones.
func TestSearchOlderRecords(t *testing.T) { search(t, true) }

// older rewrites records of the register into the older form.
func older(t *testing.T, db store.DB, serials ...string) {
	t.Helper()
	n := 0
	err := db.Update(func(tx store.Tx) error {
		for prefix, at := range map[string]int{"ca/cert/": 8, "ca/name/": 32 + 8} {
			var keys [][]byte
			if err := tx.Scan([]byte(prefix), []byte(prefix+"\xff"), func(k, _ []byte) bool {
				keys = append(keys, bytes.Clone(k))
				return true
			}); err != nil {
				return err
			}
			for _, k := range keys {
				serial := k[len(k)-20:]
				if !slices.Contains(serials, hex.EncodeToString(serial)) {
					continue
				}
				v, err := tx.Get(k)
				if err != nil {
					return err
				}
				short := append(bytes.Clone(k[:len(prefix)+at]), serial...)
				if len(short) != len(k)-4 {
					return fmt.Errorf("key %x is not of the form expected", k)
				}
				n++
				if err := errors.Join(tx.Put(short, bytes.Clone(v)), tx.Delete(k), tx.Put(append([]byte("ca/serial/"), serial...), short[len(short)-28:len(short)-20])); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil || n != 2*len(serials) {
		t.Fatalf("%d keys rewritten: %v", n, err)
	}
}

func search(t *testing.T, rewrite bool) {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	r := catest.New(t, catest.Options{Now: func() time.Time { return now }})
	var serials []string
	for i, name := range []string{"a@corp.example", "b@corp.example", "a@corp.example"} {
		now = now.Add(time.Duration(i) * time.Minute)
		got, err := r.Authority.Issue(t.Context(), r.Request(t, name, clientKeys()["P-256"]))
		if err != nil {
			t.Fatal(err)
		}
		serials = append(serials, got.Serial)
	}
	if rewrite {
		older(t, r.DB, serials[:2]...)
	}
	start := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	for name, c := range map[string]struct {
		query ca.Query
		want  []string
	}{
		"all, newest first": {ca.Query{}, []string{serials[2], serials[1], serials[0]}},
		"limit":             {ca.Query{Limit: 2}, []string{serials[2], serials[1]}},
		"identity":          {ca.Query{Identity: "a@corp.example"}, []string{serials[2], serials[0]}},
		"nobody":            {ca.Query{Identity: "c@corp.example"}, nil},
		"serial":            {ca.Query{Serial: strings.ToUpper(serials[1])}, serials[1:2]},
		"unknown serial":    {ca.Query{Serial: "01"}, nil},
		"since":             {ca.Query{Since: start.Add(time.Minute)}, []string{serials[2], serials[1]}},
		"until":             {ca.Query{Until: start.Add(time.Minute)}, []string{serials[1], serials[0]}},
		"empty window":      {ca.Query{Since: start.Add(time.Hour), Until: start}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := ca.Search(t.Context(), r.DB, c.query)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, f := range found {
				got = append(got, f.Serial)
				if f.State != ca.StateIssued || f.Issuer != catest.DefaultIssuer || len(f.Certificate) == 0 {
					t.Fatalf("record %+v", f)
				}
			}
			if !slices.Equal(got, c.want) {
				t.Fatalf("got %v, want %v", got, c.want)
			}
		})
	}
	for _, q := range []ca.Query{{Serial: "xyz"}, {Serial: strings.Repeat("f", 41)}, {Limit: -1}, {Limit: 1 << 20}} {
		if _, err := ca.Search(t.Context(), r.DB, q); !errors.Is(err, ca.ErrQuery) {
			t.Fatalf("%+v: %v", q, err)
		}
	}
}

// Makers of bad keys.

func weakRSA(t testing.TB) *big.Int {
	t.Helper()
	p, q := nextPrime(randBits(t, 512)), nextPrime(randBits(t, 512))
	return p.Mul(p, q)
}

func randBits(t testing.TB, bits int) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits)))
	if err != nil {
		t.Fatal(err)
	}
	return n.SetBit(n.SetBit(n, bits-1, 1), bits-2, 1)
}

func nextPrime(n *big.Int) *big.Int {
	n = new(big.Int).SetBit(n, 0, 1)
	for !n.ProbablyPrime(4) {
		n.Add(n, big.NewInt(2))
	}
	return n
}

// multipleOf is the first multiple of p at or above n, odd, of n's length.
func multipleOf(n *big.Int, p int64) *big.Int {
	m := new(big.Int).Sub(n, new(big.Int).Mod(n, big.NewInt(p)))
	if m.Bit(0) == 0 {
		m.Sub(m, big.NewInt(p))
	}
	return m
}

// rocaModulus is a number of 2048 bits congruent to a power of 65537 modulo
// every prime of the test, without being a multiple of a small prime.
func rocaModulus() *big.Int {
	m := big.NewInt(1)
	for c := int64(3); c <= 167; c++ {
		if big.NewInt(c).ProbablyPrime(0) {
			m.Mul(m, big.NewInt(c))
		}
	}
	k := new(big.Int).Div(new(big.Int).Lsh(big.NewInt(3), 2046), m)
	for {
		n := new(big.Int).Mul(m, k)
		n.Add(n, new(big.Int).Exp(big.NewInt(65537), big.NewInt(12345), m))
		clean := n.Bit(0) == 1
		for c := int64(169); clean && c < 752; c += 2 {
			clean = !big.NewInt(c).ProbablyPrime(0) || new(big.Int).Mod(n, big.NewInt(c)).Sign() != 0
		}
		if clean {
			return n
		}
		k.Add(k, big.NewInt(1))
	}
}

func offCurve(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(clientKeys()["P-256"].Public())
	if err != nil {
		t.Fatal(err)
	}
	der[len(der)-1] ^= 1
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
}

func privatePEM(t testing.TB) []byte {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(clientKeys()["P-256"])
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func pssProof(t testing.TB) []byte {
	t.Helper()
	d := sha256.Sum256([]byte("dev@corp.example"))
	sig, err := clientKeys()["RSA-2048"].Sign(rand.Reader, d[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash, Hash: crypto.SHA256})
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// otherKeyCSR keeps a CSR's body and puts another key's signature under it.
func otherKeyCSR(t testing.TB, der []byte) []byte {
	t.Helper()
	var outer struct {
		Body asn1.RawValue
		Alg  pkix.AlgorithmIdentifier
		Sig  asn1.BitString
	}
	if _, err := asn1.Unmarshal(der, &outer); err != nil {
		t.Fatal(err)
	}
	d := sha256.Sum256(outer.Body.FullBytes)
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	sig, err := other.Sign(rand.Reader, d[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	outer.Sig = asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}
	out, err := asn1.Marshal(outer)
	if err != nil {
		t.Fatal(err)
	}
	return out
}
