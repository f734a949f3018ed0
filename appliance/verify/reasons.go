package verify

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
)

// Reason is one thing that speaks against a bundle.
type Reason struct {
	ID     string `json:"id"`               // stable, the label of metrics and the rule of SARIF too: see ReasonIDs
	Code   int    `json:"code"`             // the exit code where it stands alone
	Reason string `json:"reason"`           // the sentence of it
	Root   string `json:"root,omitempty"`   // the trusted root it was found under; left out where it holds under every one
	Key    string `json:"key,omitempty"`    // the policy's key it was tried by, where several may have signed
	Source string `json:"source,omitempty"` // what it speaks against, where several things vouch
	Detail string `json:"detail"`           // for people; not stable
}

func newReason(root string, err error) Reason {
	k := kindOf(err)
	return Reason{ID: k.id, Code: k.code, Reason: k.sentence(), Root: root, Detail: err.Error()}
}

// refusal is the error of a bundle that was judged under every root: error is the one that got furthest.
type refusal struct {
	error
	all      []Reason
	artifact *artifactReport
	bundle   string
	roots    []rootReport
}

func (r *refusal) Unwrap() error { return r.error }

// Reasons are what err says against a bundle: everything with Config.EveryReason, else the first that was found.
func Reasons(err error) []Reason {
	var r *refusal
	switch {
	case err == nil:
		return nil
	case errors.As(err, &r):
		return slices.Clone(r.all)
	}
	return []Reason{newReason("", err)}
}

// ReasonsOf are the reasons against one of several things that vouch.
func ReasonsOf(source string, err error) []Reason {
	all := Reasons(err)
	for i := range all {
		all[i].Source = source
	}
	return all
}

// ReasonsBy are the reasons against something by one of the keys that it was tried by.
func ReasonsBy(key string, err error) []Reason {
	all := Reasons(err)
	for i := range all {
		all[i].Key = key
	}
	return all
}

// WithReasons is err with the reasons against all that was offered, in place of its own where there are any.
func WithReasons(err error, all []Reason) error {
	if len(all) == 0 {
		return err
	}
	out := refusal{}
	if r := (*refusal)(nil); errors.As(err, &r) {
		out = *r
	}
	out.error, out.all = err, all
	return &out
}

// every is all that speaks against b under one root: first, which is the refusal that was given, and whatever else would have been one. Each part
// is judged for itself, as far as that can be where another fails. One reason of a kind is told. It can only add reasons to a refusal.
func (v *Verifier) every(first error, r *trustedRoot, b *decoded, a artifact, p *policy) []error {
	found := []error{first}
	add := func(err error) bool {
		if err != nil && !slices.ContainsFunc(found, func(have error) bool { return kindOf(have) == kindOf(err) }) {
			found = append(found, err)
		}
		return err == nil
	}
	material := p.material(r)
	add(v.checkAge(r, p))
	if a.use != "" {
		if err := checkSignature(material, b, a); err != nil {
			add(fmt.Errorf("%w: %w", ErrSignature, err))
		}
	}
	out := report{Root: rootReport{Name: r.name, SHA256: fmt.Sprintf("%x", r.sum)}}
	out.Log, out.Times = logsAlone(add, material, r, b, p)
	out.Times = append(out.Times, stampsAlone(add, material, r, b)...)
	add(signerAlone(add, material, b, p, out.Times))
	add(bindChain(r, b))
	add(p.checkType(b))
	if v.upstream != nil {
		add(v.judgeUpstream(&out))
	}
	return found
}

// logsAlone judges the log entries. Without a log of the root there is nothing to judge.
func logsAlone(add func(error) bool, material root.TrustedMaterial, r *trustedRoot, b *decoded, p *policy) (logs logProofs, times []SignedTime) {
	if p.WithoutLog || !add(r.knowsLog(b)) {
		return logs, nil
	}
	stamps, err := sgverify.VerifyTlogEntry(b, material, 1, b.HasInclusionPromise())
	if err != nil {
		add(explainLog(oneLine{err}, material, r, b))
		return logs, nil
	}
	var verified []sgverify.TimestampVerificationResult
	for _, s := range stamps {
		verified = append(verified, sgverify.TimestampVerificationResult{Timestamp: s.Time})
		times = append(times, SignedTime{s.Time, "log", s.URI})
	}
	if logs, err = bindEntries(r, b, verified, material, p); err != nil {
		add(err)
		return logProofs{}, times
	}
	return logs, times
}

// stampsAlone judges the timestamps, of which every one of a known authority must verify.
func stampsAlone(add func(error) bool, material root.TrustedMaterial, r *trustedRoot, b *decoded) (times []SignedTime) {
	known, _, err := readTimestamps(r, b)
	if !add(err) || len(known) == 0 {
		return nil
	}
	stamps, err := sgverify.VerifySignedTimestampWithThreshold(b, material, 1)
	if err != nil {
		add(fmt.Errorf("%w: %w", ErrTime, oneLine{err}))
		return nil
	}
	add(bindTimestamps(r, b, known))
	for _, s := range stamps {
		times = append(times, SignedTime{s.Time, "timestampAuthority", s.URI})
	}
	return times
}

// signerAlone judges the certificate: its path at the signed times, or at its own beginning where there is none, its certificate timestamp, and
// the identity it names; or the validity of the key.
func signerAlone(add func(error) bool, material root.TrustedMaterial, b *decoded, p *policy, times []SignedTime) error {
	leaf := pathLeaf(b)
	if leaf == nil {
		for _, t := range times {
			if !b.content.ValidAtTime(t.Time, material) {
				return fmt.Errorf("%w: signed %s, outside the key's validity", ErrTime, t.Time.UTC().Format(time.RFC3339))
			}
		}
		return nil
	}
	for _, t := range times {
		if _, err := sgverify.VerifyLeafCertificate(t.Time, leaf, material); err != nil {
			add(explainChain(err, material, b, t.Time))
		}
	}
	chains, err := sgverify.VerifyLeafCertificate(leaf.NotBefore, leaf, material)
	if err != nil {
		add(explainChain(err, material, b, leaf.NotBefore))
	} else if !p.unstamped {
		if err := sgverify.VerifySignedCertificateTimestamp(chains, 1, material); err != nil {
			add(explainSCT(err, material, leaf))
		}
	}
	summary, err := certificate.SummarizeCertificate(b.content.Certificate())
	if err != nil {
		return fmt.Errorf("%w: %w", ErrIdentity, err)
	}
	var at []time.Time
	for _, t := range times {
		at = append(at, t.Time)
	}
	add(p.checkDenied(summary, at))
	if slices.ContainsFunc(p.allow, func(r rule) bool { return r.id.Verify(summary) == nil }) {
		return nil
	}
	return explainIdentity(errors.New("not one of those accepted"), b.content.Certificate())
}
