package ceremony

import (
	"crypto"
	_ "crypto/sha512" // SHA-384 of P-384 signatures
	"crypto/x509"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/hsm"
)

// ErrTranscript: the transcript is malformed, altered or contradicts itself.
var ErrTranscript = errors.New("ceremony transcript refused")

// maxTranscript bounds what Verify reads.
const maxTranscript = 4 << 20

// Verifier re-checks transcripts.
type Verifier struct {
	// Attestation verifies a token's statement about one of its keys over nonce,
	// offline, and says in a sentence what it proves. nil leaves attestations
	// unchecked but for the key and the nonce they name; Checked says so.
	Attestation func(a hsm.Attestation, nonce []byte) (string, error)
	// At, when not zero, is a time at which the chains must be valid as well.
	At time.Time
}

// Verify re-checks a transcript by the standard library alone; see Verifier.Verify.
func Verify(data []byte) (*Transcript, error) { return Verifier{}.Verify(data) }

// Verify reads a transcript and re-checks, offline and without any key: that
// each step is linked to the one before; that it is signed by the key that the
// kind of ceremony says, and each operator's signature; that as many operators
// as the plan asks for approved this very plan; that the steps are those of the
// plan, no more and no fewer, and each produced what it says; that requests,
// certificates, keys and attestations belong together, that the certificates
// chain and still pass lint; that times run forward; and the same of every
// transcript carried in. It says nothing about whether the root is the one you
// expect: compare its fingerprint. A rehearsal verifies too: see Opening.Mode.
func (v Verifier) Verify(data []byte) (*Transcript, error) {
	t, err := v.all(data)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTranscript, err)
	}
	return t, nil
}

// Checked lists, in sentences, what Verify found, for people.
func (t *Transcript) Checked() []string { return t.checked }

// Rehearsal tells whether the keys are stand-ins.
func (t *Transcript) Rehearsal() bool { return t.Body.Opening.Mode == ModeRehearsal }

func (v Verifier) all(data []byte) (*Transcript, error) {
	t := &Transcript{certs: map[string]*x509.Certificate{}}
	if err := approval.Decode(data, maxTranscript, t); err != nil {
		return nil, err
	}
	if err := t.checkOpening(); err != nil {
		return nil, err
	}
	if err := t.Body.checkLinks(); err != nil {
		return nil, err
	}
	if o := t.plan.Operators; o != nil && o.Register != "" {
		t.checked = append(t.checked, "the operators are the custodians as of the register's entry "+o.Register)
	}
	c := &checking{Verifier: v, t: t, publics: map[string]crypto.PublicKey{}, csrs: map[string]string{}, prints: map[string]string{}}
	if err := c.steps(); err != nil {
		return nil, err
	}
	if err := c.signatures(); err != nil {
		return nil, err
	}
	if err := t.checkTimes(); err != nil {
		return nil, err
	}
	if err := c.validAt(); err != nil {
		return nil, err
	}
	return t, nil
}

// checkOpening re-checks what was settled before the first step.
func (t *Transcript) checkOpening() (err error) {
	o := &t.Body.Opening
	if o.Format != Format {
		return fmt.Errorf("format %q, expected %q", o.Format, Format)
	}
	if o.Mode != ModeRun && o.Mode != ModeRehearsal {
		return fmt.Errorf("mode %q, expected %s or %s", o.Mode, ModeRun, ModeRehearsal)
	}
	if hexSum([]byte(o.Plan)) != o.PlanDigest {
		return errors.New("the plan does not have the recorded digest")
	}
	if t.plan, err = ParsePlan([]byte(o.Plan)); err != nil {
		return err
	}
	if t.plan.Domain != o.Domain || t.plan.Kind != o.Kind {
		return fmt.Errorf("kind %s and domain %q, the plan's are %s and %q", o.Kind, o.Domain, t.plan.Kind, t.plan.Domain)
	}
	in, err := o.read(&t.plan)
	if err != nil {
		return err
	}
	if in.part != o.Part {
		return fmt.Errorf("part %q, the documents carried in make it %q", o.Part, in.part)
	}
	t.requests, t.issued, t.register, t.authority = in.requests, in.issued, in.register, t.plan.chain()
	if t.issued != nil {
		t.authority = t.issued.authority // in a rehearsal a stand-in's
	}
	if o.Mode == ModeRehearsal && len(o.Approvals) == 0 {
		return nil
	}
	return checkApprovals(&t.plan, o.PlanDigest, t.operators(), o.Approvals)
}

// checkLinks follows the digests from the opening to the last step.
func (b *Body) checkLinks() error {
	previous, err := link(b.Opening)
	if err != nil {
		return err
	}
	for i, s := range b.Steps {
		if s.Number != i+1 || s.Previous != previous {
			return fmt.Errorf("step %d is not linked to the one before it", i+1)
		}
		if previous, err = link(s); err != nil {
			return err
		}
	}
	return nil
}

// checking is the state of one verification.
type checking struct {
	Verifier
	t       *Transcript
	publics map[string]crypto.PublicKey // by role
	csrs    map[string]string           // by role, carried in
	prints  map[string]string           // role by fingerprint
}

// steps compares the steps with those the plan implies, and what each produced with what it should.
func (c *checking) steps() error {
	o := &c.t.Body.Opening
	want := planned(&c.t.plan, o.Part)
	if len(c.t.Body.Steps) != len(want) {
		return fmt.Errorf("%d steps, the plan has %d", len(c.t.Body.Steps), len(want))
	}
	if c.t.requests != nil {
		for _, s := range c.t.requests.Body.Steps {
			if s.Request != nil {
				c.csrs[s.Request.Role] = s.Request.PEM
			}
		}
	}
	for i, p := range want {
		s := c.t.Body.Steps[i]
		if s.Name != p.name {
			return fmt.Errorf("step %d is %q, the plan's is %q", i+1, s.Name, p.name)
		}
		if err := c.step(p, s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
	}
	return nil
}

// step checks one step's product; it must be the only one.
func (c *checking) step(p plannedStep, s Step) (err error) {
	missing := errors.New("the record lacks what the step produced")
	rest := Step{Number: s.Number, Previous: s.Previous, Name: s.Name, Started: s.Started, Milliseconds: s.Milliseconds}
	switch p.act {
	case actAuthority:
		if s.Authority == nil {
			return missing
		}
		rest.Authority, err = s.Authority, c.authority(s.Authority)
	case actGenerate, actReopen, actTakeKey:
		if s.Key == nil {
			return missing
		}
		rest.Key, err = s.Key, c.key(p, s.Key)
	case actRequest:
		if s.Request == nil {
			return missing
		}
		rest.Request, err = s.Request, c.request(p.cert, s.Request)
	case actIssue, actTakeCertificate:
		if s.Certificate == nil {
			return missing
		}
		rest.Certificate, err = s.Certificate, c.certificate(p, s.Certificate)
	case actBackup:
		if s.Backup == nil {
			return missing
		}
		rest.Backup, err = s.Backup, c.backup(s.Backup)
	case actTrust:
		rest.Trust = s.Trust
		if !reflect.DeepEqual(s.Trust, trustChanges(&c.t.plan, c.t.certs, c.t.authority)) {
			err = errors.New("it is not what the certificates mean")
		}
	case actRegister:
		if s.Entry == nil {
			return missing
		}
		rest.Entry, err = s.Entry, c.entry(s.Entry)
	}
	if err == nil && !reflect.DeepEqual(rest, s) {
		err = errors.New("the record holds more than the step produced")
	}
	return err
}

// backup compares the record with the declaration.
func (c *checking) backup(b *BackupRecord) error {
	p := c.t.plan.Backup
	if b.Profile != p.Profile || b.Place != p.Place || strings.Join(b.Holders, "\n") != strings.Join(p.Holders, "\n") {
		return errors.New("it is not what the plan declares")
	}
	if (b.Statement == "") != (b.Profile == BackupNone) || len(b.Statement) > maxStatement {
		return errors.New("the operator's statement is missing, or out of place")
	}
	return nil
}

// signatures checks the ceremony's own signature and those of operators.
func (c *checking) signatures() error {
	t := c.t
	own := sealer(&t.plan, t.Body.Opening.Part)
	seen := map[string]bool{}
	for i, s := range t.Signatures {
		var pub crypto.PublicKey
		if name, ok := cutOperator(s.By); ok {
			o, member := t.operators().member(name)
			if !member {
				return fmt.Errorf("it is signed by %q, who is no operator of the plan", name)
			}
			var err error
			if pub, _, err = o.Key(); err != nil {
				return err
			}
		} else if pub = c.publics[s.By]; s.By != own || i != 0 || pub == nil {
			return fmt.Errorf("signature %d is by %q, expected the %s key's first and then operators'", i+1, s.By, own)
		}
		if print, err := fingerprint(pub); err != nil || print != s.Fingerprint || seen[s.By] {
			return fmt.Errorf("the signature by %s names another key, or is there twice", s.By)
		}
		seen[s.By] = true
		if err := approval.VerifyStatement(Format, t.Body, pub, s.Signature); err != nil {
			return fmt.Errorf("the %s key's signature does not verify", s.By)
		}
	}
	if own != "" && !seen[own] {
		return fmt.Errorf("the %s key's signature is missing", own)
	}
	return nil
}

// cutOperator takes the name of an operator out of Signature.By.
func cutOperator(by string) (string, bool) { return strings.CutPrefix(by, operatorPrefix) }

// fingerprint is the SHA-256 of a key's SubjectPublicKeyInfo in hex.
func fingerprint(pub crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	return hexSum(der), err
}

// checkTimes refuses a record whose times do not lie within the ceremony.
func (t *Transcript) checkTimes() error {
	b := &t.Body
	started := b.Opening.Started
	if b.Finished.Before(started) {
		return errors.New("the ceremony ends before it starts")
	}
	within := func(at time.Time) bool { return !at.Before(started) && !at.After(b.Finished) }
	last := started
	for _, s := range b.Steps {
		if !within(s.Started) || s.Started.Before(last) || s.Milliseconds < 0 {
			return fmt.Errorf("step %q lies outside its time", s.Name)
		}
		last = s.Started
		if s.Key != nil && b.Opening.Part != PartAcceptance && !within(s.Key.Created) {
			return fmt.Errorf("%s key was made outside the ceremony", s.Key.Role)
		}
	}
	for _, other := range []*Transcript{t.requests, t.issued} {
		if other != nil && other.Body.Opening.Mode != b.Opening.Mode {
			return errors.New("a rehearsal and a run are mixed")
		}
	}
	return nil
}

// validAt checks the chains of what is issued at the end of the ceremony, and at the time asked for.
func (c *checking) validAt() error {
	times := []time.Time{c.t.Body.Finished}
	if !c.At.IsZero() {
		times = append(times, c.At)
	}
	for _, at := range times {
		for _, p := range c.t.plan.certificates() {
			if c.t.certs[p.role] == nil {
				continue
			}
			if err := checkPath(c.t.Chain(p.role), at); err != nil {
				return fmt.Errorf("%s certificate at %s: %w", p.role, at.UTC().Format(time.RFC3339), err)
			}
		}
	}
	return nil
}
