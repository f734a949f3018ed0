package ceremony

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"

	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
)

// ErrForeignKey: a certificate and the key it should be for do not belong together.
var ErrForeignKey = errors.New("the certificate is not this key's")

// openAuthority opens the existing key and compares it with its certificate; a
// rehearsal makes a stand-in for both.
func (r *run) openAuthority(ctx context.Context) error {
	chain, uri := r.plan.chain(), r.uri(RoleAuthority, r.plan.Authority.URI)
	if now := r.Now(); now.Before(chain[0].NotBefore) || now.After(chain[0].NotAfter) {
		return fmt.Errorf("its certificate is valid from %s to %s, not now", chain[0].NotBefore, chain[0].NotAfter)
	}
	token, err := r.Open(ctx, uri)
	if err != nil {
		return fmt.Errorf("opening the token: %w", err)
	}
	text := r.plan.Authority.Chain
	var key *hsm.Key
	if r.StandIn == nil {
		if key, err = token.Signer(ctx, uri); err != nil {
			return err
		}
		if !samePublic(key.Public(), chain[0].PublicKey) {
			return fmt.Errorf("authority.chain: %w: %s holds a key of fingerprint %s", ErrForeignKey, uri, key.Info().Fingerprint)
		}
	} else {
		alg, err := hsm.AlgorithmOf(chain[0].PublicKey)
		if err != nil {
			return err
		}
		if key, err = token.Generate(ctx, uri, alg); err != nil {
			return err
		}
		cert, err := standInCertificate(chain[0], key)
		if err != nil {
			return err
		}
		chain, text = []*x509.Certificate{cert}, string(pemOf(cert))
	}
	r.keys[RoleAuthority], r.publics[RoleAuthority], r.certs[RoleAuthority] = key, key.Public(), chain[0]
	r.product.Authority = &AuthorityRecord{key.Info(), text}
	return nil
}

// request makes one certificate request for the other side.
func (r *run) request(c certificate) error {
	text, err := makeRequest(r.keys[c.role], c, r.plan)
	if err != nil {
		return err
	}
	r.product.Request = &RequestRecord{c.role, text}
	return nil
}

// subjectOf is what a certificate of the plan speaks for: for cross
// certificates one that is there already, else a request by the key at hand or
// carried in.
func (r *run) subjectOf(c certificate) (subject, error) {
	if c.of == RoleSubject {
		return certificateSubject(r.plan.subject()), nil
	}
	if c.of != c.role {
		return certificateSubject(r.certs[c.of]), nil
	}
	text := r.csrs[c.role]
	if key := r.keys[c.role]; key != nil {
		var err error
		if text, err = makeRequest(key, c, r.plan); err != nil {
			return subject{}, err
		}
	}
	return requestSubject(text)
}

// issue makes one certificate: request by cfssl, template from its profile,
// lint over a throwaway key, signature, correspondence.
func (r *run) issue(c certificate) error {
	sub, err := r.subjectOf(c)
	if err != nil {
		return err
	}
	signer, parent := r.keys[c.issuer], r.certs[c.issuer]
	tmpl, err := makeTemplate(c, sub, parent, r.Now().Add(-r.plan.backdate()))
	if err != nil {
		return err
	}
	alg := signer.Info().Algorithm
	if r.throwaway[alg] == nil {
		if r.throwaway[alg], err = throwawayKey(alg); err != nil {
			return err
		}
	}
	der, err := signLinted(tmpl, parent, sub.pub, signer, r.throwaway[alg], c.profile)
	if err != nil {
		return err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parsing the new certificate: %w", err)
	}
	if err := cert.CheckSignatureFrom(first(parent, cert)); err != nil {
		return fmt.Errorf("verifying the new certificate: %w", err)
	}
	r.certs[c.role] = cert
	if r.product.Certificate, err = recordCertificate(c, cert, sub.text); err != nil {
		return err
	}
	return nil
}

// recordCertificate describes a certificate for the record.
func recordCertificate(c certificate, cert *x509.Certificate, request string) (*CertificateRecord, error) {
	applied, err := lint.Applied(c.profile)
	if err != nil {
		return nil, err
	}
	return &CertificateRecord{
		Role: c.role, Issuer: c.issuer, Request: request,
		PEM:         string(pemOf(cert)),
		Fingerprint: hexSum(cert.Raw),
		Description: describe(cert),
		Lint:        LintRecord{Profile: c.profile.String(), Applied: len(applied), Excluded: lint.Excluded(c.profile), Result: "pass"},
	}, nil
}

// reopen finds a key of the first part again and compares it.
func (r *run) reopen(ctx context.Context, k roleKey) error {
	before, _ := r.requests.Key(k.role)
	uri := r.uri(k.role, k.URI)
	token, err := r.Open(ctx, uri)
	if err != nil {
		return fmt.Errorf("opening the token: %w", err)
	}
	key, err := token.Signer(ctx, uri)
	if err != nil {
		return err
	}
	if key.Info().Fingerprint != before.Info.Fingerprint {
		return fmt.Errorf("%w: the requests were made for a key of fingerprint %s, %s holds %s", ErrForeignKey, before.Info.Fingerprint, uri, key.Info().Fingerprint)
	}
	record, err := r.keep(ctx, k.role, key)
	if err != nil {
		return err
	}
	record.Created = before.Created
	r.product.Key = record
	return nil
}

// takeKey copies the other side's record of a key.
func (r *run) takeKey(k roleKey) error {
	record, _ := r.issued.Key(k.role)
	pub, _, err := record.parse()
	if err != nil {
		return err
	}
	r.publics[k.role], r.product.Key = pub, &record
	return nil
}

// takeCertificate copies a certificate of the other side; it must be the key's.
func (r *run) takeCertificate(c certificate) error {
	for _, record := range r.issued.Certificates() {
		if record.Role != c.role {
			continue
		}
		cert := r.issued.Certificate(c.role)
		if c.of == c.role && !samePublic(r.publics[c.role], cert.PublicKey) {
			return ErrForeignKey
		}
		r.certs[c.role], r.product.Certificate = cert, &record
		return nil
	}
	return errors.New("the other side made no such certificate")
}

// takeInputs reads the documents carried in and settles which part this is.
func (r *run) takeInputs() error {
	o := &r.body.Opening
	for _, in := range []struct {
		name string
		data []byte
	}{{InputRequests, r.Requests}, {InputCertificates, r.Certificates}, {InputRegister, r.Register}} {
		if in.data != nil {
			o.Inputs = append(o.Inputs, Input{in.name, hexSum(in.data), in.data})
		}
	}
	in, err := o.read(&r.plan)
	if err != nil {
		return err
	}
	o.Part, r.requests, r.issued, r.register = in.part, in.requests, in.issued, in.register
	if r.requests == nil {
		return nil
	}
	r.publics = map[string]crypto.PublicKey{}
	for _, s := range r.requests.Body.Steps {
		if s.Request != nil {
			r.csrs[s.Request.Role] = s.Request.PEM
		}
	}
	return nil
}

// inputs are the documents of an opening, verified.
type inputs struct {
	part             string
	requests, issued *Transcript
	register         *Register
}

// read verifies the documents of an opening and settles which part it opens.
func (o *Opening) read(plan *Plan) (in inputs, err error) {
	seen := map[string]bool{}
	for _, doc := range o.Inputs {
		if seen[doc.Name] || hexSum(doc.Text) != doc.Digest {
			return in, fmt.Errorf("the input %q is there twice or does not have its digest", doc.Name)
		}
		seen[doc.Name] = true
		switch doc.Name {
		case InputRequests:
			in.part = PartCertificates
			in.requests, err = o.otherSide(doc.Text, PartRequests)
		case InputCertificates:
			in.part = PartAcceptance
			if in.issued, err = o.otherSide(doc.Text, PartCertificates); err == nil {
				in.requests = in.issued.requests
			}
		case InputRegister:
			in.register, err = ParseRegister(doc.Text)
		default:
			err = errors.New("it is not known")
		}
		if err != nil {
			return in, fmt.Errorf("the input %q: %w", doc.Name, err)
		}
	}
	switch {
	case seen[InputRequests] && seen[InputCertificates]:
		return in, errors.New("requests and certificates together; each belongs to another part")
	case plan.InParts() && in.part == PartWhole:
		in.part = PartRequests
	case !plan.InParts() && in.part != PartWhole:
		return in, fmt.Errorf("a plan of kind %s that is held in one place takes no requests and no certificates", plan.Kind)
	}
	return in, in.register.fits(plan)
}

// otherSide verifies a transcript of the other side of the gap.
func (o *Opening) otherSide(data []byte, part string) (*Transcript, error) {
	t, err := Verify(data)
	if err != nil {
		return nil, err
	}
	other := &t.Body.Opening
	switch {
	case other.PlanDigest != o.PlanDigest:
		return nil, fmt.Errorf("it is of another plan: digest %s, this plan's is %s", other.PlanDigest, o.PlanDigest)
	case other.Part != part:
		return nil, fmt.Errorf("it is the part %q, expected %q", other.Part, part)
	case other.Mode != o.Mode:
		return nil, fmt.Errorf("it is a %s, and this is a %s", other.Mode, o.Mode)
	}
	// Plan and approvals travel on the same medium, so anybody could hold the other part with keys of their own; what cannot be
	// made without the operators is their signatures.
	if have, want := t.Signed(); have < want && o.Mode == ModeRun {
		return nil, fmt.Errorf("%w: %d of its operators signed it, the plan asks for %d", ErrApproval, have, want)
	}
	return t, nil
}
