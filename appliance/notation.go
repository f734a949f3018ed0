package main

import (
	"context"
	"crypto/sha256"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/lint"
	"redoubt.internal/log/store"
)

// Certificates of the profile notation. Operators ask for them, each for one name; enough approvers agree to that name, that key and that life
// (none where the dev profile has no people). What else a subject says is configured, and the signing request's own words count for nothing.

const defaultNotationLife, minNotationLife = 90 * 24 * time.Hour, 10 * time.Minute

var errNoNotation = errors.New("the certificate profile notation is not configured")

// check says why no certificate could be issued by the profile.
func (p *NotationProfile) check() error {
	if p == nil {
		return nil
	}
	if life := p.Lifetime.or(defaultNotationLife); life < minNotationLife || life > lint.MaxNotationValidity {
		return fmt.Errorf("lifetime: %s is not between %s and %s", life, minNotationLife, lint.MaxNotationValidity)
	}
	_, _, err := ca.NotationSubject(p.subject("name", ""))
	return err
}

func (p *NotationProfile) subject(name, unit string) pkix.Name {
	n := pkix.Name{Country: []string{p.Country}, Province: []string{p.State}, Organization: []string{p.Organization}, CommonName: name}
	if unit != "" {
		n.OrganizationalUnit = []string{unit}
	}
	return n
}

// notationArgs ask for one certificate.
type notationArgs struct {
	CSR      []byte        `json:"csr"`
	Name     string        `json:"name"` // CN
	Unit     string        `json:"unit,omitempty"`
	Lifetime time.Duration `json:"lifetime,omitempty"` // zero is what is configured
	approvalArgs
}

// notationIssued is the JSON of `redoubt ca issue -o json`.
type notationIssued struct {
	Subject   string    `json:"subject"` // RFC 2253, the common name first: what `identity deny` takes
	Pin       string    `json:"pin"`     // the same as Notation's trust policies and `verify --certificate-subject` take it
	Serial    string    `json:"serial"`  // 40 hex digits
	NotBefore time.Time `json:"notBefore"`
	NotAfter  time.Time `json:"notAfter"`
	Chain     string    `json:"chain"` // PEM: the certificate first, the root last
}

var notationIssue = verb[notationArgs, notationIssued]{"ca.issue", func(ctx context.Context, in *instance, actor string, a notationArgs) (r notationIssued, err error) {
	p := in.cfg.CA.Notation
	if p == nil {
		return r, cmdline.Hinted(errNoNotation, "set ca.notation with country, state and organization; `redoubt docs config` explains them")
	}
	life := p.Lifetime.or(defaultNotationLife)
	if a.Lifetime != 0 {
		if a.Lifetime < minNotationLife || a.Lifetime > life {
			return r, cmdline.Usage("--lifetime %s is not between %s and %s, as ca.notation.lifetime has it", a.Lifetime, minNotationLife, life)
		}
		life = a.Lifetime
	}
	request := ca.NotationRequest{CSR: a.CSR, Subject: p.subject(a.Name, a.Unit), Lifetime: life, Actor: actor}
	_, subject, err := ca.NotationSubject(request.Subject)
	if err != nil {
		return r, fmt.Errorf("%w: --name and --unit are its CN and OU", err)
	}
	spki, err := ca.NotationKey(a.CSR) // before anybody is asked
	if err != nil {
		return r, err
	}
	sum := sha256.Sum256(spki)
	agreed, err := in.agree(ctx, actor, "ca.issue", []string{"profile notation", "subject " + approval.Value(subject), "public key SHA-256 " + hex.EncodeToString(sum[:]), "lifetime " + life.String()}, a.approvalArgs)
	if err != nil {
		return r, err
	}
	if agreed.in != nil {
		request.Spend = func(tx store.Tx) error { return agreed.spend(tx) }
	}
	issued, err := in.issuance.Load().authority.IssueNotation(ctx, request)
	if err != nil {
		return r, err
	}
	if agreed.in != nil {
		if err := agreed.done(); err != nil {
			return r, err
		}
	}
	var chain []byte
	for _, der := range append([][]byte{issued.Leaf}, issued.Chain...) {
		chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return notationIssued{subject, notationPin(request.Subject), issued.Serial, issued.NotBefore, issued.NotAfter, string(chain)}, nil
}}

// notationPin writes a subject as Notation's trust policies do, the country first.
func notationPin(n pkix.Name) (text string) {
	rdns := n.ToRDNSequence()
	for i := range rdns {
		if i > 0 {
			text += ", "
		}
		text += rdns[i : i+1].String()
	}
	return text
}

var issuedList = verb[ca.Query, []ca.Record]{"ca.issued", func(ctx context.Context, in *instance, _ string, q ca.Query) ([]ca.Record, error) {
	records, err := ca.Search(ctx, in.authorityDB, q)
	if records == nil {
		records = []ca.Record{}
	}
	return records, err
}}
