package ceremony

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// founded holds the ceremony of a new deployment and returns the authority its root is from then on.
func founded(t testing.TB) (first *Transcript, open func(context.Context, string) (hsm.Token, error), authority *Authority) {
	t.Helper()
	_, open = softToken(t)
	first, err := Run(t.Context(), quick(), open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return first, open, &Authority{URI: softURI(RoleRoot), Chain: string(pemOf(first.Certificate(RoleRoot)))}
}

// New keys of every kind of role below the existing root: certificates where they belong, the old root above them.
func TestRotation(t *testing.T) {
	first, open, authority := founded(t)
	plan := Rotation("corp.internal", authority, map[string]KeyPlan{
		RoleIssuing: {"soft:issuing-2.key", hsm.ECDSAP384}, RoleTSA: {"soft:tsa-2.key", hsm.ECDSAP256}, "rekor-3": {"soft:rekor-3.key", hsm.ECDSAP256}, "tuf-2": {"soft:tuf-2.key", hsm.Ed25519},
	})
	plan.Certificates.Issuing.CommonName = "Redoubt Issuing CA 2"
	read, err := ParsePlan(plan.YAML())
	if err != nil || !same(read, plan) {
		t.Fatalf("own YAML: %v\n%s", err, plan.YAML())
	}
	tr, err := Run(t.Context(), read, open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	root := first.Certificate(RoleRoot)
	for _, chain := range [][]*x509.Certificate{tr.IssuingChain(), tr.TSAChain()} {
		if len(chain) != 2 || !chain[1].Equal(root) || chain[0].CheckSignatureFrom(root) != nil {
			t.Errorf("chain of %d", len(chain))
		}
	}
	if keys := tr.Keys(); len(keys) != 4 || keys[0].Role != RoleIssuing || keys[2].Role != "rekor-3" || keys[3].Role != "tuf-2" {
		t.Errorf("keys %+v", keys)
	}
	if tr.Signatures[0].By != RoleAuthority {
		t.Errorf("signed by %s", tr.Signatures[0].By)
	}
	trust := tr.Trust()
	if len(trust) != 2 || trust[0].Role != RoleIssuing || trust[0].Change != "add" || len(trust[0].Chain) != 2 || trust[0].Chain[1] != hexSum(root.Raw) {
		t.Errorf("trust changes %+v", trust)
	}
	if _, err := Run(t.Context(), read, open, nil, nil); !errors.Is(err, ErrKeyExists) {
		t.Errorf("second time: %v", err)
	}
	dir := t.TempDir()
	if err := tr.Write(dir); err != nil {
		t.Error(err)
	}
}

// Keys without certificates need no root at hand: the first of them signs.
func TestRotationOfLogKeysAlone(t *testing.T) {
	_, open, _ := founded(t)
	tr, err := Run(t.Context(), Rotation("corp.internal", nil, map[string]KeyPlan{"ct-2": {"soft:ct-2.key", hsm.ECDSAP256}}), open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if tr.Signatures[0].By != "ct-2" || len(tr.Trust()) != 0 {
		t.Errorf("signed by %s, trust %v", tr.Signatures[0].By, tr.Trust())
	}
}

// The time-stamping key below its own intermediate authority.
func TestRotationBelowAnIntermediate(t *testing.T) {
	_, open := softToken(t)
	p := quick()
	p.Keys.TSAIntermediate = &KeyPlan{softURI(RoleTSAIntermediate), hsm.ECDSAP384}
	p.Certificates.TSAIntermediate = &CertificatePlan{"Redoubt Time Stamping CA", 3000}
	first, err := Run(t.Context(), p, open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	above := first.TSAChain()[1:]
	authority := &Authority{URI: softURI(RoleTSAIntermediate), Chain: string(pemOf(above...))}
	tr, err := Run(t.Context(), Rotation("corp.internal", authority, map[string]KeyPlan{RoleTSA: {"soft:tsa-2.key", hsm.ECDSAP256}}), open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if chain := tr.TSAChain(); len(chain) != 3 || !chain[1].Equal(above[0]) || !chain[2].Equal(above[1]) {
		t.Errorf("chain of %d", len(chain))
	}
	bad := Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:issuing-2.key", hsm.ECDSAP256}})
	if _, err := Run(t.Context(), bad, open, nil, nil); !errors.Is(err, ErrPlan) || !strings.Contains(err.Error(), "pathLenConstraint is 0") {
		t.Errorf("an issuing authority below it: %v", err)
	}
}

// A certificate that is not the key's stops the ceremony before it makes a key.
func TestAuthorityIsNotTheKeys(t *testing.T) {
	_, open, _ := founded(t)
	other, _, _ := founded(t)
	plan := Rotation("corp.internal", &Authority{URI: softURI(RoleRoot), Chain: string(pemOf(other.Certificate(RoleRoot)))}, map[string]KeyPlan{RoleIssuing: {"soft:issuing-2.key", hsm.ECDSAP256}})
	_, err := Run(t.Context(), plan, open, nil, nil)
	if !errors.Is(err, ErrForeignKey) {
		t.Errorf("got %v", err)
	}
	token, _ := open(t.Context(), "")
	if _, err := token.Signer(t.Context(), "soft:issuing-2.key"); !errors.Is(err, hsm.ErrNotFound) {
		t.Errorf("a key was made: %v", err)
	}
}

func TestAuthorityOutOfItsTime(t *testing.T) {
	_, open, authority := founded(t)
	plan := Rotation("corp.internal", authority, map[string]KeyPlan{RoleIssuing: {"soft:issuing-2.key", hsm.ECDSAP256}})
	if _, err := Run(t.Context(), plan, open, func() time.Time { return time.Now().AddDate(20, 0, 0) }, nil); err == nil {
		t.Error("an expired authority signed")
	}
}

// Old and new root sign each other, and a client of the old one reaches a leaf of the new.
func TestRootRotation(t *testing.T) {
	first, open, authority := founded(t)
	plan := quick()
	plan.Kind, plan.Authority, plan.Certificates.Cross = RotateRoot, authority, &CrossPlan{1000}
	plan.Keys = Keys{Root: &KeyPlan{"soft:root-2.key", hsm.ECDSAP384}, Issuing: &KeyPlan{"soft:issuing-2.key", hsm.ECDSAP256}}
	plan.Certificates.TSA = nil
	plan.Certificates.Root.CommonName = "Redoubt Root 2"
	tr, err := Run(t.Context(), plan, open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	oldRoot, newRoot := first.Certificate(RoleRoot), tr.Certificate(RoleRoot)
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(oldRoot)
	between.AddCert(tr.Certificate(CrossRootByAuthority))
	if _, err := tr.Certificate(RoleIssuing).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Errorf("new issuing authority for a client of the old root: %v", err)
	}
	roots, between = x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(newRoot)
	between.AddCert(tr.Certificate(CrossAuthorityByRoot))
	if _, err := first.Certificate(RoleIssuing).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Errorf("old issuing authority for a client of the new root: %v", err)
	}
	changes := map[string]string{}
	for _, c := range tr.Trust() {
		changes[c.Role] = c.Change
	}
	if len(changes) != 3 || changes[RoleIssuing] != "add" || changes[CrossRootByAuthority] != "bridge" || changes[CrossAuthorityByRoot] != "bridge" {
		t.Errorf("trust changes %v", changes)
	}
	plan.Certificates.Root.CommonName = oldRoot.Subject.CommonName
	if err := plan.Validate(); err == nil || !strings.Contains(err.Error(), "old root's commonName") {
		t.Errorf("two roots of one name: %v", err)
	}
}

// Another party's root below ours.
func TestCrossSigning(t *testing.T) {
	ours, open, authority := founded(t)
	theirs, _, _ := founded(t)
	plan := Plan{Version: 1, Kind: CrossSign, Domain: "corp.internal", Profile: Dev, Organization: "corp.internal", Authority: authority,
		Subject: &Subject{string(pemOf(theirs.Certificate(RoleRoot)))}, Certificates: Certificates{Cross: &CrossPlan{365}}}
	// Both roots of this test have one name; a cross certificate between them would look self-issued.
	if _, err := Run(t.Context(), plan, open, nil, nil); err == nil {
		t.Error("a cross certificate whose subject is its issuer")
	}
	p := quick()
	p.Organization = "partner.example"
	_, theirOpen := softToken(t)
	theirs, err := Run(t.Context(), p, theirOpen, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	plan.Subject.Certificate = string(pemOf(theirs.Certificate(RoleRoot)))
	tr, err := Run(t.Context(), plan, open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(ours.Certificate(RoleRoot))
	between.AddCert(tr.Certificate(CrossSubjectAuthority))
	if _, err := theirs.Certificate(RoleIssuing).Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Errorf("their issuing authority for our clients: %v", err)
	}
	plan.Subject.Certificate = string(pemOf(theirs.Certificate(RoleIssuing)))
	if err := plan.Validate(); !errors.Is(err, ErrPlan) {
		t.Errorf("cross-signing what is no root: %v", err)
	}
}
