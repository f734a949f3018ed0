package ca_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	nx509 "github.com/notaryproject/notation-core-go/x509"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/lint"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

var releaseName = pkix.Name{Country: []string{"DE"}, Province: []string{"Berlin"}, Organization: []string{"Corp"}, OrganizationalUnit: []string{"Build"}, CommonName: "release"}

func csrOf(t testing.TB, key crypto.Signer, subject pkix.Name) []byte {
	t.Helper()
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: subject, DNSNames: []string{"mallory.example"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return csr
}

func notationRequest(t testing.TB, key crypto.Signer) ca.NotationRequest {
	return ca.NotationRequest{CSR: csrOf(t, key, pkix.Name{CommonName: "mallory"}), Subject: releaseName, Lifetime: 90 * 24 * time.Hour, Actor: "alice uid:1000"}
}

// TestNotation issues by the second profile under each kind of authority key, holds the chain to notation-core-go's rules, and finds it in the
// register: by its subject, which is the approved one and not that of the signing request.
func TestNotation(t *testing.T) {
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	for name, authority := range map[string]crypto.Signer{"P-384": p384, "RSA": clientKeys()["RSA-3072"]} {
		for _, client := range []string{"P-256", "RSA-2048"} {
			t.Run(name+" for "+client, func(t *testing.T) {
				r := catest.New(t, catest.Options{IssuingKey: authority})
				got, err := r.Authority.IssueNotation(t.Context(), notationRequest(t, clientKeys()[client]))
				if err != nil {
					t.Fatal(err)
				}
				var chain []*x509.Certificate
				for _, der := range append([][]byte{got.Leaf}, got.Chain...) {
					c, err := x509.ParseCertificate(der)
					if err != nil {
						t.Fatal(err)
					}
					chain = append(chain, c)
				}
				now := got.NotBefore
				if err := nx509.ValidateCodeSigningCertChain(chain, &now); err != nil {
					t.Fatal(err)
				}
				leaf := chain[0]
				const subject = "CN=release,OU=Build,O=Corp,ST=Berlin,C=DE"
				if leaf.Subject.String() != subject || len(leaf.DNSNames)+len(leaf.URIs)+len(leaf.EmailAddresses) > 0 || len(leaf.Extensions) != 4 || got.NotAfter.Sub(got.NotBefore) != 90*24*time.Hour {
					t.Fatalf("%s, %d extensions, %s to %s", leaf.Subject, len(leaf.Extensions), got.NotBefore, got.NotAfter)
				}
				if err := lint.Check(got.Leaf, lint.Notation); err != nil {
					t.Error(err)
				}
				if err := lint.Check(got.Leaf, lint.Leaf); err == nil {
					t.Error("it passes for a keyless leaf")
				}
				found, err := ca.Search(t.Context(), r.DB, ca.Query{Identity: subject})
				if err != nil || len(found) != 1 || found[0].State != ca.StateIssued || found[0].Issuer != denied.Notation || found[0].Identity != subject || !bytes.Equal(found[0].Certificate, got.Leaf) {
					t.Fatalf("%+v %v", found, err)
				}
				if size := r.CTLog.Head().Size; size != 0 {
					t.Errorf("the certificate log has %d entries", size)
				}
			})
		}
	}
}

// TestNotationOrder: the intent is durable before the key signs, and no signature is made where it cannot be.
func TestNotationOrder(t *testing.T) {
	r := catest.New(t, catest.Options{})
	request := notationRequest(t, clientKeys()["P-256"])
	spent := errors.New("spent before")
	request.Spend = func(store.Tx) error { return spent }
	if _, err := r.Authority.IssueNotation(t.Context(), request); !errors.Is(err, spent) || r.CAKey.Signatures.Load() != 0 {
		t.Fatalf("%v, %d signatures", err, r.CAKey.Signatures.Load())
	}
	request.Spend = nil
	r.CAKey.FailWith(func(int64) error { return errors.New("the token is gone") })
	if _, err := r.Authority.IssueNotation(t.Context(), request); !errors.Is(err, ca.ErrSigning) {
		t.Fatal(err)
	}
	all, err := ca.Search(t.Context(), r.DB, ca.Query{})
	if err != nil || len(all) != 1 || all[0].State != ca.StateIntent {
		t.Fatalf("%+v %v", all, err)
	}
	records, err := r.Audit.List(t.Context(), 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	var outcomes []string
	for _, e := range records {
		if outcomes = append(outcomes, e.Outcome); e.Actor != "alice uid:1000" {
			t.Errorf("actor %q", e.Actor)
		}
	}
	if !slices.Equal(outcomes, []string{audit.Intent, audit.Failed}) {
		t.Fatal(outcomes)
	}
	r.StopAudit()
	r.CAKey.FailWith(nil)
	if _, err := r.Authority.IssueNotation(t.Context(), request); !errors.Is(err, ca.ErrRecord) || r.CAKey.Signatures.Load() != 0 {
		t.Fatalf("%v, %d signatures", err, r.CAKey.Signatures.Load())
	}
}

// TestNotationRefusals: names and keys that the profile does not have, and a name that is denied. Nothing is recorded, nothing is signed.
func TestNotationRefusals(t *testing.T) {
	list, err := denied.New("corp.example").With(denied.Entry{Issuer: denied.Notation, Identity: "cn=fired,o=Corp,ST=Berlin,C=DE", Reason: "left"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	r := catest.New(t, catest.Options{CANotAfter: time.Now().AddDate(3, 0, 0), Denied: func() *denied.List { return list }})
	key := clientKeys()["P-256"]
	name := func(change func(*pkix.Name)) ca.NotationRequest {
		q := notationRequest(t, key)
		q.Subject.OrganizationalUnit = nil
		change(&q.Subject)
		return q
	}
	with := func(csr []byte) ca.NotationRequest { q := notationRequest(t, key); q.CSR = csr; return q }
	broken := csrOf(t, key, releaseName)
	broken[len(broken)-1] ^= 1
	long := notationRequest(t, key)
	long.Lifetime = lint.MaxNotationValidity + time.Second
	for what, c := range map[string]struct {
		request ca.NotationRequest
		want    error
	}{
		"no country":         {name(func(n *pkix.Name) { n.Country = nil }), ca.ErrSubject},
		"no state":           {name(func(n *pkix.Name) { n.Province = nil }), ca.ErrSubject},
		"no organization":    {name(func(n *pkix.Name) { n.Organization = nil }), ca.ErrSubject},
		"no common name":     {name(func(n *pkix.Name) { n.CommonName = "" }), ca.ErrSubject},
		"two organizations":  {name(func(n *pkix.Name) { n.Organization = []string{"Corp", "Other"} }), ca.ErrSubject},
		"locality":           {name(func(n *pkix.Name) { n.Locality = []string{"Berlin"} }), ca.ErrSubject},
		"country in words":   {name(func(n *pkix.Name) { n.Country = []string{"Germany"} }), ca.ErrSubject},
		"small country":      {name(func(n *pkix.Name) { n.Country = []string{"de"} }), ca.ErrSubject},
		"line break":         {name(func(n *pkix.Name) { n.CommonName = "a\nb" }), ca.ErrSubject},
		"blank at the end":   {name(func(n *pkix.Name) { n.CommonName = "release " }), ca.ErrSubject},
		"too long":           {name(func(n *pkix.Name) { n.CommonName = strings.Repeat("a", 65) }), ca.ErrSubject},
		"denied":             {name(func(n *pkix.Name) { n.CommonName = "fired" }), ca.ErrDenied},
		"no request":         {with(nil), ca.ErrRequest},
		"broken request":     {with(broken), ca.ErrProof},
		"garbage":            {with([]byte("csr")), ca.ErrCSR},
		"Ed25519":            {with(csrOf(t, clientKeys()["Ed25519"], releaseName)), ca.ErrKey},
		"valid for too long": {long, ca.ErrLint},
	} {
		t.Run(what, func(t *testing.T) {
			if got, err := r.Authority.IssueNotation(context.Background(), c.request); !errors.Is(err, c.want) || got != nil {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
	if all, err := ca.Search(t.Context(), r.DB, ca.Query{}); err != nil || len(all) != 0 || r.CAKey.Signatures.Load() != 0 {
		t.Errorf("%+v %v", all, err)
	}
}
