package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// verdictOptions say what is accepted of a verified transcript.
type verdictOptions struct {
	rehearsal, pending bool
	at                 time.Time
	roots              *x509.CertPool // of makers of tokens
}

func ceremonyVerify(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("ceremony verify takes one TRANSCRIPT")
	}
	o := verdictOptions{rehearsal: c.Bool("rehearsal"), pending: c.Bool("pending")}
	if text := c.String("at"); text != "" {
		var err error
		if o.at, err = time.Parse(time.RFC3339, text); err != nil {
			return cmdline.Usage("--at %q: want a time as 2031-01-31T00:00:00Z", text)
		}
	}
	if path := c.String("attestation-roots"); path != "" {
		chain, err := readChain(path)
		if err != nil {
			return fmt.Errorf("--attestation-roots: %w", err)
		}
		o.roots = x509.NewCertPool()
		for _, root := range chain {
			o.roots.AddCert(root)
		}
	}
	return printTranscript(c, c.Args().First(), o)
}

// printTranscript verifies a transcript and prints what it proves.
func printTranscript(c *cli.Context, path string, o verdictOptions) error {
	data, err := readRecord(path)
	if err != nil {
		return err
	}
	t, err := ceremony.Verifier{Attestation: attestationVerifier(o.roots), At: o.at}.Verify(data)
	if err != nil {
		return err
	}
	return printCeremony(c, t, o)
}

// ceremonyResult is the JSON of `redoubt ceremony run|rehearse|sign|verify -o json`.
type ceremonyResult struct {
	Mode       string                 `json:"mode"` // run or rehearsal
	Part       string                 `json:"part,omitempty"`
	Kind       ceremony.Kind          `json:"kind"`
	Domain     string                 `json:"domain"`
	PlanDigest string                 `json:"planDigest"`
	Digest     string                 `json:"digest"` // SHA-256 of the transcript's file
	Started    time.Time              `json:"started"`
	Finished   time.Time              `json:"finished"`
	Steps      int                    `json:"steps"`
	Keys       []ceremonyKey          `json:"keys"`
	Certs      []ceremonyCertificate  `json:"certificates"`
	Trust      []ceremony.TrustChange `json:"trust"`
	Approvals  []string               `json:"approvals"`
	SignedBy   []string               `json:"signedBy"`
	Awaited    int                    `json:"awaited"` // operators' signatures still to come
	Checked    []string               `json:"checked"`
}

type ceremonyKey struct {
	Role     string `json:"role"`
	Attested bool   `json:"attested"`
	hsm.Info
}

type ceremonyCertificate struct {
	Role        string `json:"role"`
	Issuer      string `json:"issuer"`
	Fingerprint string `json:"fingerprint"`
}

func newCeremonyResult(t *ceremony.Transcript) (*ceremonyResult, error) {
	o := &t.Body.Opening
	digest, err := t.Digest()
	if err != nil {
		return nil, err
	}
	r := &ceremonyResult{
		Mode: o.Mode, Part: o.Part, Kind: o.Kind, Domain: o.Domain, PlanDigest: o.PlanDigest, Digest: digest, Started: o.Started, Finished: t.Body.Finished, Steps: len(t.Body.Steps),
		Keys: []ceremonyKey{}, Certs: []ceremonyCertificate{}, Trust: append([]ceremony.TrustChange{}, t.Trust()...), Approvals: []string{}, SignedBy: []string{}, Checked: append([]string{}, t.Checked()...),
	}
	for _, k := range t.Keys() {
		r.Keys = append(r.Keys, ceremonyKey{k.Role, k.Attestation != nil, k.Info})
	}
	for _, k := range t.Certificates() {
		r.Certs = append(r.Certs, ceremonyCertificate{k.Role, k.Issuer, k.Fingerprint})
	}
	for _, a := range o.Approvals {
		r.Approvals = append(r.Approvals, a.Statement.Operator)
	}
	for _, s := range t.Signatures {
		r.SignedBy = append(r.SignedBy, s.By)
	}
	have, want := t.Signed()
	r.Awaited = max(0, want-have)
	return r, nil
}

// printCeremony prints what a verified transcript proves, and refuses what was not asked for.
func printCeremony(c *cli.Context, t *ceremony.Transcript, o verdictOptions) error {
	r, err := newCeremonyResult(t)
	if err != nil {
		return err
	}
	if t.Rehearsal() && !o.rehearsal {
		return cmdline.Hinted(errors.New("this is a rehearsal: its keys are stand-ins, nothing of it may be trusted"), "--rehearsal accepts it")
	}
	if r.Awaited > 0 && !t.Rehearsal() && !o.pending {
		return cmdline.Hinted(fmt.Errorf("the transcript is sound, and %d more of its operators have to sign it", r.Awaited), "`redoubt ceremony sign TRANSCRIPT --key KEY`; --pending accepts it as it is")
	}
	return cmdline.PrintResult(c, r, r.print)
}

func (r *ceremonyResult) print(w io.Writer) {
	what := "ceremony"
	if r.Mode == ceremony.ModeRehearsal {
		what = "REHEARSAL (stand-in keys, not to be trusted)"
	}
	if r.Part != "" {
		r.Kind += ceremony.Kind(", part " + r.Part)
	}
	fmt.Fprintf(w, "%s of %s, %s, %s\n", what, r.Domain, r.Kind, r.Started.Format(time.RFC3339))
	for _, k := range r.Keys {
		fmt.Fprintf(w, "key   %-16s %-11s %s\n", k.Role, k.Algorithm, k.URI)
	}
	for _, k := range r.Certs {
		fmt.Fprintf(w, "cert  %-16s by %-16s SHA-256 %s\n", k.Role, k.Issuer, k.Fingerprint)
	}
	for _, t := range r.Trust {
		fmt.Fprintf(w, "trust %-16s %s, from %s until %s\n", t.Role, t.Change, t.From.Format(time.RFC3339), t.Until.Format(time.RFC3339))
	}
	for _, s := range r.Checked {
		fmt.Fprintf(w, "check %s\n", s)
	}
	if len(r.Approvals) > 0 {
		fmt.Fprintf(w, "approved by %v\n", r.Approvals)
	}
	printAloud(w, "plan", r.PlanDigest)
	printAloud(w, "transcript", r.Digest)
	fmt.Fprintf(w, "%d steps, each linked to the one before; signed by %v; certificates, lint and plan agree\n", r.Steps, r.SignedBy)
	if r.Awaited > 0 && r.Mode != ceremony.ModeRehearsal {
		fmt.Fprintf(w, "next: %d operators run `redoubt ceremony sign`; the digest of the file changes with each signature\n", r.Awaited)
	}
	switch r.Part {
	case ceremony.PartRequests:
		fmt.Fprintf(w, "then: carry %s to the offline machine; there: redoubt ceremony run PLAN --requests FILE\n", ceremony.RequestsFile)
	case ceremony.PartCertificates:
		fmt.Fprintf(w, "then: carry %s back; there: redoubt ceremony run PLAN --certificates FILE\n", ceremony.CertificatesFile)
	}
}

var errDiffers = errors.New("the transcripts differ where they must not")

func ceremonyDiff(c *cli.Context) error {
	if c.NArg() != 2 {
		return cmdline.Usage("ceremony diff takes two transcripts")
	}
	var both [2]*ceremony.Transcript
	for i := range both {
		data, err := readRecord(c.Args().Get(i))
		if err != nil {
			return err
		}
		if both[i], err = ceremony.Verify(data); err != nil {
			return fmt.Errorf("%s: %w", c.Args().Get(i), err)
		}
	}
	d := ceremony.Diff(both[0], both[1])
	if err := cmdline.PrintResult(c, d, func(w io.Writer) {
		for _, x := range d.Refused {
			fmt.Fprintf(w, "REFUSED   %s\n          %s\n          %s\n", x.Where, x.A, x.B)
		}
		for _, x := range d.Expected {
			fmt.Fprintf(w, "expected  %s: %s | %s\n", x.Where, x.A, x.B)
		}
		fmt.Fprintf(w, "%d the same, %d expected to differ, %d refused\n", len(d.Same), len(d.Expected), len(d.Refused))
	}); err != nil {
		return err
	}
	if len(d.Refused) > 0 {
		return errDiffers
	}
	return nil
}
