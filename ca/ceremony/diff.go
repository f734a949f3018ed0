package ceremony

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Comparison is what two transcripts of one plan have in common and what not.
type Comparison struct {
	// Same names what was compared and found equal.
	Same []string `json:"same"`
	// Expected differences: keys, serial numbers, times, tokens and modules, names of stand-ins.
	Expected []Difference `json:"expected"`
	// Refused differences: what a rehearsal and its run must have in common.
	Refused []Difference `json:"refused"`
}

// Difference is one thing that is not the same in both.
type Difference struct {
	Where string `json:"where"`
	A     string `json:"a"`
	B     string `json:"b"`
}

// Diff compares two verified transcripts, a rehearsal and its run as a rule: the
// same plan octet by octet, the same program, the same steps, certificates that
// differ in nothing but key, serial number and time.
func Diff(a, b *Transcript) Comparison {
	c := Comparison{Same: []string{}, Expected: []Difference{}, Refused: []Difference{}}
	c.transcripts("", a, b)
	return c
}

func (c *Comparison) must(where, a, b string) bool {
	if a != b {
		c.Refused = append(c.Refused, Difference{where, a, b})
		return false
	}
	c.Same = append(c.Same, where)
	return true
}

func (c *Comparison) may(where, a, b string) {
	if a != b {
		c.Expected = append(c.Expected, Difference{where, a, b})
	}
}

func (c *Comparison) transcripts(in string, a, b *Transcript) {
	x, y := &a.Body.Opening, &b.Body.Opening
	if !c.must(in+"plan digest", x.PlanDigest, y.PlanDigest) {
		return // nothing below means anything
	}
	c.must(in+"part", orWord(x.Part, "whole"), orWord(y.Part, "whole"))
	c.must(in+"program version", x.Software, y.Software)
	c.may(in+"mode", x.Mode, y.Mode)
	c.may(in+"started", clock(x.Started), clock(y.Started))
	c.may(in+"approvals", fmt.Sprint(len(x.Approvals)), fmt.Sprint(len(y.Approvals)))
	if !c.must(in+"number of steps", fmt.Sprint(len(a.Body.Steps)), fmt.Sprint(len(b.Body.Steps))) {
		return
	}
	for i := range a.Body.Steps {
		c.steps(fmt.Sprintf("%sstep %d", in, i+1), &a.Body.Steps[i], &b.Body.Steps[i])
	}
	c.may(in+"signed by", signers(a), signers(b))
	for _, carried := range []struct {
		name string
		a, b *Transcript
	}{{"requests", a.requests, b.requests}, {"certificates", a.issued, b.issued}} {
		if !c.must(in+"carried in: "+carried.name, fmt.Sprint(carried.a != nil), fmt.Sprint(carried.b != nil)) || carried.a == nil {
			continue
		}
		if carried.name == "requests" && a.issued != nil {
			continue // compared inside the certificates
		}
		c.transcripts(in+carried.name+": ", carried.a, carried.b)
	}
}

func (c *Comparison) steps(where string, a, b *Step) {
	if !c.must(where, a.Name, b.Name) {
		return
	}
	where += " (" + a.Name + ")"
	if a.Key != nil && b.Key != nil {
		c.keys(where, a.Key, b.Key)
	}
	if a.Authority != nil && b.Authority != nil {
		c.must(where+" algorithm", string(a.Authority.Info.Algorithm), string(b.Authority.Info.Algorithm))
		c.may(where+" key", a.Authority.Info.URI, b.Authority.Info.URI)
	}
	if a.Certificate != nil && b.Certificate != nil {
		c.certificates(where, a.Certificate, b.Certificate)
	}
	if a.Backup != nil && b.Backup != nil {
		c.must(where+" profile", a.Backup.Profile, b.Backup.Profile)
		c.may(where+" statement", a.Backup.Statement, b.Backup.Statement)
	}
	if len(a.Trust) > 0 || len(b.Trust) > 0 {
		c.must(where+" changes", changeNames(a.Trust), changeNames(b.Trust))
	}
	present := func(s *Step) string {
		return fmt.Sprint(s.Key != nil, s.Request != nil, s.Certificate != nil, s.Authority != nil, s.Backup != nil, s.Entry != nil)
	}
	c.must(where+" products", present(a), present(b))
}

func (c *Comparison) keys(where string, a, b *KeyRecord) {
	c.must(where+" role and algorithm", a.Role+" "+string(a.Info.Algorithm), b.Role+" "+string(b.Info.Algorithm))
	c.may(where+" key", a.Info.URI, b.Info.URI)
	c.may(where+" kind of token", a.Info.Kind, b.Info.Kind)
	c.may(where+" module", a.Info.Module, b.Info.Module)
	c.may(where+" held by software", fmt.Sprint(a.Info.Software), fmt.Sprint(b.Info.Software))
	c.may(where+" fingerprint", a.Info.Fingerprint, b.Info.Fingerprint)
	c.may(where+" attestation", attested(a), attested(b))
	for _, name := range sortedKeys(a.Info.Attributes, b.Info.Attributes) {
		c.may(where+" attribute "+name, a.Info.Attributes[name], b.Info.Attributes[name])
	}
}

func (c *Comparison) certificates(where string, a, b *CertificateRecord) {
	c.must(where+" role, issuer and profile", a.Role+" "+a.Issuer+" "+a.Lint.Profile, b.Role+" "+b.Issuer+" "+b.Lint.Profile)
	c.must(where+" lints applied", fmt.Sprintf("%d less %v: %s", a.Lint.Applied, a.Lint.Excluded, a.Lint.Result), fmt.Sprintf("%d less %v: %s", b.Lint.Applied, b.Lint.Excluded, b.Lint.Result))
	x, errX := parseOne(a.PEM)
	y, errY := parseOne(b.PEM)
	if errX != nil || errY != nil {
		c.must(where+" certificate", fmt.Sprint(errX), fmt.Sprint(errY))
		return
	}
	c.must(where+" names", x.Subject.String()+" by "+x.Issuer.String(), y.Subject.String()+" by "+y.Issuer.String())
	c.must(where+" extensions", extensions(x), extensions(y))
	c.must(where+" signature algorithm", x.SignatureAlgorithm.String(), y.SignatureAlgorithm.String())
	if !x.NotAfter.Equal(y.NotAfter) { // else both end with the issuer
		c.must(where+" life", x.NotAfter.Sub(x.NotBefore).String(), y.NotAfter.Sub(y.NotBefore).String())
	}
	c.may(where+" valid from", clock(x.NotBefore), clock(y.NotBefore))
	c.may(where+" serial number", x.SerialNumber.Text(16), y.SerialNumber.Text(16))
}

// extensions spells a certificate's extensions out, the identifiers of keys aside.
func extensions(cert *x509.Certificate) string {
	var out []string
	for _, e := range cert.Extensions {
		value := fmt.Sprintf("%x", e.Value)
		if id := e.Id.String(); id == "2.5.29.14" || id == "2.5.29.35" {
			value = "key"
		}
		out = append(out, fmt.Sprintf("%s critical=%t %s", e.Id, e.Critical, value))
	}
	return strings.Join(out, "; ")
}

func parseOne(text string) (*x509.Certificate, error) {
	der, err := onePEM(text, "CERTIFICATE")
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func attested(k *KeyRecord) string {
	if k.Attestation == nil {
		return "none"
	}
	return k.Attestation.Format
}

func signers(t *Transcript) string {
	var out []string
	for _, s := range t.Signatures {
		out = append(out, s.By)
	}
	return strings.Join(out, " ")
}

func changeNames(changes []TrustChange) string {
	var b bytes.Buffer
	for _, t := range changes {
		fmt.Fprintf(&b, "%s %s (%d); ", t.Change, t.Role, len(t.Chain))
	}
	return b.String()
}

func clock(t time.Time) string { return t.UTC().Format(time.RFC3339) }

func sortedKeys(maps ...map[string]string) []string {
	var out []string
	for _, m := range maps {
		for k := range m {
			if !slices.Contains(out, k) {
				out = append(out, k)
			}
		}
	}
	slices.Sort(out)
	return out
}
