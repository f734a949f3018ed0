package policy

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca/denied"
	"redoubt.internal/log/strictjson"
)

// cosignSign is the predicate type by which cosign signs an image in an attestation: it says nothing but that it is signed.
const cosignSign = "https://sigstore.dev/cosign/sign/v1"

// fact is evidence that verified under one root.
type fact struct {
	source string
	result *verify.Result
	signed time.Time // the earliest signed time; zero where none is needed
}

// signature tells a plain signature from an attestation that says something.
func (f fact) signature() bool { return IsSignature(f.result) }

// IsSignature tells a plain signature, cosign's simple signing and its sign/v1 attestation from an attestation that says something.
func IsSignature(r *verify.Result) bool {
	t := r.PredicateType()
	return t == "" || t == cosignSign
}

// who is the signer, by whatever root: the same person twice is one. A workflow is the same at every ref.
func (f fact) who() string {
	if k := f.result.Key(); k != "" {
		return "key " + k
	}
	san, issuer := f.result.Signer()
	return SameSigner(san, issuer)
}

// logs are the keys of the logs that it stands in.
func (f fact) logs() int {
	ids, hosts := map[string]bool{}, map[string]bool{}
	for _, l := range f.result.Log() {
		ids[l.LogID], hosts[l.BaseURL] = true, true
	}
	return min(len(ids), len(hosts))
}

// establish verifies all evidence. What does not verify is told in d. The error is the context's.
func (p *Policy) establish(ctx context.Context, a Artifact, evidence []Evidence, d *Decision) (facts []fact, err error) {
	seen := map[string]bool{}
	for _, e := range evidence {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("judging the evidence: %w", err)
		}
		results, err := p.verifyOne(ctx, a, e)
		for _, r := range results {
			d.observed = append(d.observed, r.Observations()...)
		}
		results, err = p.fresh(results, err)
		if err != nil {
			d.ignore(e.Source, err)
		}
		for _, r := range results {
			if key := r.BundleSHA256() + " " + r.Root() + " " + r.Key(); !seen[key] { // the same bundle under two tags is one
				seen[key] = true
				facts = append(facts, fact{e.Source, r, earliest(r)})
				d.verified = append(d.verified, r)
			}
		}
	}
	return facts, ctx.Err()
}

func earliest(r *verify.Result) (first time.Time) {
	for _, t := range r.Times() {
		if first.IsZero() || t.Time.Before(first) {
			first = t.Time
		}
	}
	return first
}

// verifyOne verifies one piece under every root, or by every key under the root of that key.
func (p *Policy) verifyOne(ctx context.Context, a Artifact, e Evidence) ([]*verify.Result, error) {
	request := verify.Request{Policy: verify.Policy{Identities: p.anybody()}}
	results, err := p.verifyWith(ctx, p.any, request, a, e)
	if errors.Is(err, verify.ErrNoSignature) && len(p.keys) > 0 {
		results, err = p.verifyKeys(ctx, a, e)
	}
	return results, err
}

// anybody accepts every signer under every root: who counts is decided from what was verified.
func (p *Policy) anybody() (all []verify.Identity) {
	for _, name := range slices.Sorted(maps.Keys(p.roots)) {
		all = append(all, verify.Identity{Root: name, SANRegexp: ".*", IssuerRegexp: ".*", WithoutLog: p.roots[name].WithoutLog})
	}
	return all
}

// verifyKeys tries every key. Where none fits, the error has the reasons against each.
func (p *Policy) verifyKeys(ctx context.Context, a Artifact, e Evidence) (all []*verify.Result, err error) {
	var reasons []verify.Reason
	for _, name := range slices.Sorted(maps.Keys(p.keys)) {
		k := p.keys[name]
		request := verify.Request{Policy: verify.Policy{Key: k.public, WithoutLog: k.WithoutLog}}
		results, failed := p.verifyWith(ctx, p.roots[k.Root].verifier, request, a, e)
		if failed != nil {
			err = errors.Join(err, fmt.Errorf("by key %s: %w", name, failed))
			reasons = append(reasons, verify.ReasonsBy(name, failed)...)
		}
		all = append(all, results...)
	}
	if len(all) > 0 {
		return all, nil
	}
	return nil, verify.WithReasons(err, reasons)
}

func (p *Policy) verifyWith(ctx context.Context, v *verify.Verifier, q verify.Request, a Artifact, e Evidence) ([]*verify.Result, error) {
	close, err := e.Over(a, &q)
	if err != nil {
		return nil, err
	}
	defer close()
	return v.VerifyAll(ctx, q)
}

// Over has q ask whether e signs a: the artifact itself, or a payload that names it. Once q was answered, close ends the reading.
func (e Evidence) Over(a Artifact, q *verify.Request) (close func() error, err error) {
	q.Bundle, close = e.Bundle, func() error { return nil }
	switch {
	case e.Notation != "":
		q.Bundle, q.Notation, q.Artifact.Digest = nil, &verify.Envelope{MediaType: e.Notation, Bytes: e.Bundle}, a.Digest
	case e.Payload != nil:
		if err := checkPayload(e.Payload, a); err != nil {
			return nil, err
		}
		q.Artifact.Reader = bytes.NewReader(e.Payload)
	case a.Open != nil:
		r, err := a.Open()
		if err != nil {
			return nil, fmt.Errorf("reading the artifact: %w", err)
		}
		q.Artifact.Reader, close = r, r.Close
	case a.Git != nil:
		q.Artifact.Git = a.Git
	default:
		q.Artifact.Digest = a.Digest
	}
	return close, nil
}

// fresh leaves out what verified under a root that is too old, or whose list of denied identities is.
func (p *Policy) fresh(results []*verify.Result, err error) (out []*verify.Result, _ error) {
	for _, r := range results {
		root := p.roots[r.Root()]
		if old := root.checkDenied(p.now(), p.anyAge); old != nil {
			err = fmt.Errorf("%w: root %s: %w", verify.ErrStale, r.Root(), old)
			continue
		}
		if root.MaxAge > 0 && !p.anyAge && (root.asOf.IsZero() || p.now().Sub(root.asOf) > time.Duration(root.MaxAge)) {
			err = fmt.Errorf("%w: root %s, of %s", verify.ErrStale, r.Root(), root.asOf.UTC().Format(time.RFC3339))
			continue
		}
		out = append(out, r)
	}
	return out, err
}

// checkDenied refuses a list of denied identities that is older than the policy takes. An earlier version than that is no matter of age.
func (t trusted) checkDenied(now time.Time, anyAge bool) error {
	if t.denied == nil {
		return nil
	}
	b := denied.Bounds{MinVersion: t.Denied.MinVersion, MaxAge: time.Duration(t.Denied.MaxAge)}
	if anyAge {
		b.MaxAge = 0
	}
	return t.denied.Check(b, now)
}

// checkPayload holds a simple-signing payload to the image it must name.
func checkPayload(payload []byte, a Artifact) error {
	var p struct {
		Critical struct {
			Type  string `json:"type"`
			Image struct {
				Digest string `json:"docker-manifest-digest"`
			} `json:"image"`
		} `json:"critical"`
	}
	if err := strictjson.Check(payload, strictjson.Limits{Bytes: maxPayload, Depth: 16, Values: 10_000, Fold: true}); err != nil {
		return fmt.Errorf("%w: simple signing: %w", verify.ErrMalformed, err)
	}
	if err := json.Unmarshal(payload, &p); err != nil {
		return fmt.Errorf("%w: simple signing: %w", verify.ErrMalformed, err)
	}
	switch {
	case p.Critical.Type != "cosign container image signature" && p.Critical.Type != "atomic container signature":
		return fmt.Errorf("%w: simple signing of type %.100q", verify.ErrMalformed, p.Critical.Type)
	case a.Digest == "" || p.Critical.Image.Digest != a.Digest:
		return fmt.Errorf("%w: what is signed names the image %.100q", verify.ErrSignature, p.Critical.Image.Digest)
	}
	return nil
}

// check refuses an artifact that nothing could be said of.
func (a Artifact) check() error {
	if a.Kind != Image && a.Kind != Blob {
		return fmt.Errorf("an artifact of kind %q", a.Kind)
	}
	if len(a.Name) > 1000 || a.Digest == "" && a.Open == nil && a.Git == nil {
		return errors.New("an artifact without a digest, or with too long a name")
	}
	return nil
}
