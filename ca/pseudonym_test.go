package ca_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
)

// TestPseudonyms: a person of an issuer with pseudonyms has one name, however many ask at once, and nothing that is issued or recorded
// names them; another's is another.
func TestPseudonyms(t *testing.T) {
	var list *denied.List
	r := catest.New(t, catest.Options{Denied: func() *denied.List { return list }, Identity: func(c *identity.Config) {
		rules := c.OIDCIssuers[catest.DefaultIssuer]
		rules.Pseudonyms = "pseudonym.example"
		c.OIDCIssuers[catest.DefaultIssuer] = rules
	}})
	request := r.Request(t, "Eve@corp.example", clientKeys()["P-256"])
	names := make([]string, 8)
	var all sync.WaitGroup
	for i := range names {
		all.Go(func() {
			got, err := r.Authority.Issue(t.Context(), request)
			if err != nil {
				t.Error(err)
				return
			}
			cert, err := x509.ParseCertificate(got.Leaf)
			if err != nil || len(cert.EmailAddresses) != 1 {
				t.Errorf("%v, names %v", err, cert.EmailAddresses)
				return
			}
			names[i] = cert.EmailAddresses[0]
			if bytes.Contains(bytes.ToLower(got.Leaf), []byte("eve@")) {
				t.Error("the certificate names the person")
			}
		})
	}
	all.Wait()
	if !strings.HasSuffix(names[0], "@pseudonym.example") || len(names[0]) != 26+len("@pseudonym.example") || len(slices.Compact(slices.Clone(names))) != 1 {
		t.Errorf("names %v", names)
	}
	p, err := ca.Reveal(r.DB, names[0])
	if err != nil || p.Identity != "Eve@corp.example" || p.Issuer != catest.DefaultIssuer {
		t.Errorf("%+v, %v", p, err)
	}
	if again, err := ca.PseudonymOf(r.DB, catest.DefaultIssuer, "eve@CORP.example"); err != nil || again != p {
		t.Errorf("%+v, %v", again, err)
	}
	if _, err := ca.PseudonymOf(r.DB, catest.DefaultIssuer, "dev@corp.example"); !errors.Is(err, ca.ErrNoPseudonym) {
		t.Error(err)
	}
	if _, err := ca.Reveal(r.DB, strings.Repeat("x", 4096)); !errors.Is(err, ca.ErrNoPseudonym) {
		t.Error(err)
	}
	if _, err := r.Authority.Issue(t.Context(), r.Request(t, names[0], clientKeys()["P-256"])); !errors.Is(err, ca.ErrToken) {
		t.Errorf("a token that names a pseudonym: %v", err)
	}
	other, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
	if err != nil || other.Principal.SAN.Value == names[0] {
		t.Errorf("%v, %v", other, err)
	}
	for _, id := range []string{names[0], "eve@corp.example"} { // under either name
		if list, err = denied.New("corp.example").With(denied.Entry{Issuer: catest.DefaultIssuer, Identity: id, Reason: "left"}, 0); err != nil {
			t.Fatal(err)
		}
		if _, err := r.Authority.Issue(t.Context(), request); !errors.Is(err, ca.ErrDenied) {
			t.Errorf("denied as %s: %v", id, err)
		}
	}
	records, err := r.Audit.List(t.Context(), 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	assigned := 0
	for _, e := range records {
		if e.Action == "pseudonym.assign" {
			assigned++
		}
		delete(e.Detail, "reason") // of a denial: the list is public
		if text := fmt.Sprint(e); strings.Contains(strings.ToLower(text), "eve@") || e.Detail["token"] != "" {
			t.Errorf("a record names the person: %s", text)
		}
	}
	if assigned != 2 {
		t.Errorf("%d pseudonyms drawn for two people", assigned)
	}
}
