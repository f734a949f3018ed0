// Package verify judges Sigstore bundles offline. It rests on sigstore-go for
// the cryptography and closes what that leaves open.
//
// It guarantees:
//   - no socket is opened and no file is read: everything comes in the Request;
//   - a Result exists only for a bundle that verified in full under one trusted
//     root: signature over the artifact, certificate path, SCT, log entry, signed
//     time and identity; a caller cannot make one;
//   - one root at a time: a certificate under one root is never combined with a
//     log of another;
//   - every byte of a bundle that bears meaning is bound to the signature or the
//     log, or the bundle is refused. What stays unbound is listed in
//     docs/adr/0017-verify-closes-the-gaps.md and is never reported as verified;
//   - an error wraps exactly one reason of errors.go.
//
// It does not fetch trust, does not ask whether a certificate was revoked
// elsewhere than in Policy.Denied, and takes the clock for nothing but the age of
// trust: the times that count are signed ones.
//
// Start reading at Verifier.each.
package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"redoubt.internal/mirror/freshness"
)

// Config holds what a Verifier trusts.
type Config struct {
	// Roots are the trusted roots, tried in order, each for itself.
	Roots []Root
	// Upstream is what a mirror says it knows of the logs: with it every entry's log is shown with when it was last observed, and one that is
	// older than its thresholds allow refuses the bundle. Nil knows nothing. The caller has checked its signature (freshness.Open).
	Upstream *freshness.State
	// EveryReason looks for every reason of a refusal and not the first alone, which costs about a second verification of what fails; see Reasons.
	EveryReason bool
	// Offline is told in every Result as it is: the caller's proof that this process opens no socket. Nil tells nothing.
	Offline *Offline
	// Now is the clock for Policy.MaxTrustAge and the age of Upstream; nil means time.Now.
	Now func() time.Time
}

// Root is one trusted root.
type Root struct {
	// Name is shown in results and may be named by an Identity: a file name.
	Name string
	// JSON is trusted_root.json.
	JSON []byte
	// AsOf is when the document was obtained or confirmed, for
	// Policy.MaxTrustAge; zero means unknown.
	AsOf time.Time
}

// Verifier verifies bundles. It is immutable and safe for concurrent use.
type Verifier struct {
	roots       []trustedRoot
	upstream    *freshness.State
	everyReason bool
	offline     *Offline
	now         func() time.Time
}

// Offline says that a verification opened no socket, and how that was proven.
type Offline struct {
	Sockets  int      `json:"sockets"`  // 0
	ProvenBy []string `json:"provenBy"` // "network namespace": it has no interface that is up; "seccomp": the kernel refused every socket
}

// New reads the trusted roots.
func New(c Config) (*Verifier, error) {
	if len(c.Roots) == 0 {
		return nil, fmt.Errorf("%w: no trusted root", ErrUsage)
	}
	v := &Verifier{upstream: c.Upstream, everyReason: c.EveryReason, offline: c.Offline, now: c.Now}
	if v.now == nil {
		v.now = time.Now
	}
	for _, r := range c.Roots {
		t, err := parseRoot(r)
		if err != nil {
			return nil, fmt.Errorf("reading trusted root %s: %w", r.Name, err)
		}
		v.roots = append(v.roots, t)
	}
	return v, nil
}

// Verify judges req.Bundle. The Result is non-nil exactly when the error is nil.
func (v *Verifier) Verify(ctx context.Context, req Request) (res *Result, err error) {
	if err = v.each(ctx, req, func(r *Result) bool { res = r; return false }); err != nil {
		return nil, err
	}
	return res, nil
}

// VerifyAll judges req.Bundle under every root, each for itself, and returns a Result for each root it verified under. The error is nil exactly
// when there is one. It is for callers to whom it matters which root vouches: the first that does is not the only one.
func (v *Verifier) VerifyAll(ctx context.Context, req Request) (all []*Result, err error) {
	if err = v.each(ctx, req, func(r *Result) bool { all = append(all, r); return true }); err != nil {
		return nil, err
	}
	return all, nil
}

// each hands to yield what verifies, root by root, until it returns false. The error is nil exactly when yield was called.
func (v *Verifier) each(ctx context.Context, req Request, yield func(*Result) bool) (err error) {
	found := false
	// The libraries below parse what strangers sent. A panic there is no verdict.
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", ErrInternal, p)
		}
	}()
	whole, err := req.Policy.compile()
	if err != nil {
		return err
	}
	if req.Notation != nil || len(req.Policy.Subjects) > 0 {
		return v.eachNotation(req, yield)
	}
	under := make([]*policy, len(v.roots))
	for i := range v.roots {
		if under[i], err = whole.under(&v.roots[i]); err != nil {
			return err
		}
	}
	b, a, unfit, err := req.read(ctx, whole)
	if err != nil {
		return err
	}
	if unfit != nil && !(v.everyReason && errors.Is(unfit, ErrSignature)) {
		return unfit
	}
	// 4. Each root alone. The refusal that got furthest explains best.
	var best error
	refused := &refusal{bundle: hexSum(b.source), artifact: a.report()}
	for i := range v.roots {
		r := &v.roots[i]
		out, err := (*report)(nil), unfit
		if unfit == nil {
			out, err = v.verifyUnder(r, b, a, under[i])
		}
		if err == nil {
			out.BundleSHA256, out.MediaType = hexSum(b.source), b.sourceType
			out.observe(b)
			if found = true; !yield(&Result{report: *out}) {
				return nil
			}
			continue
		}
		refused.roots = append(refused.roots, v.rootReport(r))
		if v.everyReason {
			for _, e := range v.every(err, r, b, a, under[i]) {
				refused.all = append(refused.all, newReason(r.name, e))
			}
		} else {
			refused.all = append(refused.all, newReason(r.name, err))
		}
		if len(v.roots) > 1 {
			err = fmt.Errorf("under root %s: %w", r.name, err)
		}
		if best == nil || rank(err) > rank(best) {
			best = err
		}
	}
	if found {
		return nil
	}
	refused.error = best
	return refused
}

// read is what was signed, and how; unfit says why the artifact is not what was signed.
func (req Request) read(ctx context.Context, p *policy) (b *decoded, a artifact, unfit, err error) {
	// 1. Read the bundle: strict JSON, known fields, limits.
	if req.Artifact.Git != nil {
		if len(req.Bundle) > 0 || req.Artifact.Reader != nil || req.Artifact.Digest != "" {
			return nil, a, nil, fmt.Errorf("%w: a git object bears its signature itself", ErrUsage)
		}
		if b, a, err = readGit(*req.Artifact.Git); err != nil {
			return nil, a, nil, err
		}
	} else if b, err = decode(req.Bundle); err != nil {
		return nil, a, nil, err
	}
	// 2. Is there a signature of the kind asked for?
	if err := p.checkKind(b); err != nil || req.Artifact.Git != nil {
		return b, a, nil, err
	}
	// 3. Digest the artifact with what the signature was made over.
	a, unfit = readArtifact(ctx, req.Artifact, b)
	return b, a, unfit, nil
}

// Further tells whether the verification that was refused with a got further than the one refused with b, and so says more.
func Further(a, b error) bool { return rank(a) > rank(b) }

// rank orders refusals by how far verification went under that root.
func rank(err error) int {
	for i, e := range []error{ErrUntrusted, ErrStale, ErrLogProof, ErrTime, ErrSignature, ErrIdentity, ErrPolicy, ErrDenied} {
		if errors.Is(err, e) {
			return i
		}
	}
	return -1
}

func (v *Verifier) verifyUnder(r *trustedRoot, b *decoded, a artifact, p *policy) (*report, error) {
	if err := v.checkAge(r, p); err != nil {
		return nil, err
	}
	material := p.material(r)
	if err := r.knowsLog(b); err != nil && !p.WithoutLog {
		return nil, err
	}
	stamps, ignored, err := readTimestamps(r, b)
	if err != nil {
		return nil, err
	}
	options, err := p.options(b, len(stamps) > 0)
	if err != nil {
		return nil, err
	}
	// 5. sigstore-go: log entry, signed times, certificate path, SCT, signature,
	// artifact, identity.
	sv, err := sgverify.NewVerifier(material, options...)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInternal, err)
	}
	identities, err := p.policyOptions()
	if err != nil {
		return nil, err
	}
	verified, err := sv.Verify(b, sgverify.NewPolicy(a.option(), identities...))
	if err != nil {
		return nil, explain(err, sv, material, r, b, a, p)
	}
	// 6. What sigstore-go leaves unbound.
	logs, err := bindEntries(r, b, verified.VerifiedTimestamps, material, p)
	if err != nil {
		return nil, err
	}
	if err := bindTimestamps(r, b, stamps); err != nil {
		return nil, err
	}
	if err := bindChain(r, b); err != nil {
		return nil, err
	}
	// 7. Our own policy on top.
	if err := p.check(b, verified); err != nil {
		return nil, err
	}
	out := newReport(v.rootReport(r), b, a, p, verified, logs)
	out.TimesIgnored, out.Offline = ignored, v.offline
	return out, v.judgeUpstream(out)
}

// checkAge refuses a root that is older than the policy allows, or of unknown age.
func (v *Verifier) checkAge(r *trustedRoot, p *policy) error {
	if p.MaxTrustAge > 0 && (r.asOf.IsZero() || v.now().Sub(r.asOf) > p.MaxTrustAge) {
		return fmt.Errorf("%w: obtained %s, at most %s old", ErrStale, r.asOf.Format(time.RFC3339), p.MaxTrustAge)
	}
	return nil
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

func containsRaw(all [][]byte, raw []byte) bool {
	for _, c := range all {
		if bytes.Equal(c, raw) {
			return true
		}
	}
	return false
}
