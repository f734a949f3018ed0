package verifying

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca/denied"
	"redoubt.internal/mirror/freshness"
)

// Request is one verification without a policy file.
type Request struct {
	Found            *policy.Gathered // what is verified, and what vouches for it
	Artifact, Bundle string           // the same by the names of files, where Found is nil
	Setup, Key       string
	Roots, Types     []string
	Identity         verify.Identity
	Subject          string // of the certificate of a Notation signature
	WithoutLog       bool
	MaxTrustAge      time.Duration
	Upstream         *freshness.State
	Mirrored         []verify.Root     // trusted roots that were carried here
	Accepted         []verify.Identity // who is accepted, each under one root, in place of Identity
	Offline          *verify.Offline   // how it was proven that no socket is opened; nil where it was not
	Denied           *denied.List      // who is refused all the same; nil for nobody
}

const maxVerifyFile = 32 << 20 // a bundle or a trusted root in bytes

// Verify is one verification without a policy file.
func Verify(ctx context.Context, r Request) (*verify.Result, error) {
	if r.Key != "" && r.Identity != (verify.Identity{}) {
		return nil, fmt.Errorf("%w: --key and the --certificate flags exclude each other: a signature is by a key or by an identity", verify.ErrUsage)
	}
	if len(r.Accepted) > 0 && (r.Key != "" || r.Identity != (verify.Identity{})) {
		return nil, fmt.Errorf("%w: --accept excludes --key and the --certificate flags", verify.ErrUsage)
	}
	if r.Subject != "" && (r.Key != "" || len(r.Accepted) > 0 || r.Identity != (verify.Identity{}) || len(r.Types) > 0 || r.WithoutLog) {
		return nil, fmt.Errorf("%w: --certificate-subject asks for a Notation signature, which has no key, identity, log or predicate: leave out the other flags that say who may have signed", verify.ErrUsage)
	}
	if r.Found == nil {
		found, err := gatherBlob(r.Artifact, blobParts{Bundle: r.Bundle})
		if err != nil {
			return nil, err
		}
		r.Found = &found
	}
	roots, err := r.roots()
	if err != nil {
		return nil, err
	}
	verifier, err := verify.New(verify.Config{Roots: roots, Upstream: r.Upstream, Offline: r.Offline, EveryReason: true, Now: Now})
	if err != nil {
		return nil, err
	}
	p := verify.Policy{Identities: r.Accepted, Denied: r.Denied, MaxTrustAge: r.MaxTrustAge, WithoutLog: r.WithoutLog}
	if r.Identity != (verify.Identity{}) {
		p.Identities = []verify.Identity{r.Identity}
	}
	if r.Subject != "" {
		subject, err := verify.ParseSubject(r.Subject)
		if err != nil {
			return nil, err
		}
		p.Subjects = []verify.Subject{subject}
	}
	if r.Key != "" {
		data, err := ReadBounded("public key", r.Key)
		if err != nil {
			return nil, err
		}
		if p.Key, err = verify.ParseKey(data); err != nil {
			return nil, err
		}
	}
	for _, t := range r.Types {
		if !strings.Contains(t, ":") && CosignTypes[t] == "" {
			return nil, fmt.Errorf("%w: --type %.100q is neither the URI of a predicate type nor one of its names", verify.ErrUsage, t)
		}
		p.PredicateTypes = append(p.PredicateTypes, cmp.Or(CosignTypes[t], t))
	}
	return verifyFound(ctx, verifier, *r.Found, p)
}

// CosignTypes are the names that cosign has for predicate types.
var CosignTypes = map[string]string{
	"custom": "https://cosign.sigstore.dev/attestation/v1", "cyclonedx": "https://cyclonedx.org/bom", "link": "https://in-toto.io/Link/v1",
	"openvex": "https://openvex.dev/ns", "slsaprovenance": "https://slsa.dev/provenance/v0.2", "slsaprovenance02": "https://slsa.dev/provenance/v0.2",
	"slsaprovenance1": "https://slsa.dev/provenance/v1", "spdx": "https://spdx.dev/Document", "spdxjson": "https://spdx.dev/Document",
	"vuln": "https://cosign.sigstore.dev/attestation/vuln/v1",
}

// roots are the trusted roots that were named. With several of them an identity is accepted under one.
func (r Request) roots() ([]verify.Root, error) {
	if r.Setup != "" {
		r.Roots = append(r.Roots, filepath.Join(r.Setup, "trusted_root.json"))
	}
	roots := slices.Clone(r.Mirrored)
	switch n := len(r.Roots) + len(roots); {
	case n == 0:
		return nil, fmt.Errorf("%w: --trusted-root F, --setup DIR or --mirror-root NAME is missing", verify.ErrUsage)
	case n > 1 && len(r.Accepted) == 0 && r.Key == "":
		return nil, fmt.Errorf("%w: with several roots an identity is accepted under one of them, or one could speak for the people of another: give --accept", verify.ErrUsage)
	}
	for _, path := range r.Roots {
		data, err := ReadBounded("trusted root", path)
		if err != nil {
			return nil, err
		}
		info, err := os.Stat(path)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", verify.ErrLocal, err)
		}
		roots = append(roots, verify.Root{Name: path, JSON: data, AsOf: info.ModTime()})
	}
	return roots, nil
}

// verifyFound verifies what vouches for an artifact piece by piece. One that verifies is enough, unless a signer who is denied is among them; the
// refusal of the one that got furthest explains best.
func verifyFound(ctx context.Context, v *verify.Verifier, g policy.Gathered, p verify.Policy) (*verify.Result, error) {
	var first *verify.Result
	var best error
	var others []string
	var reasons []verify.Reason
	for _, e := range g.Evidence {
		result, err := verifyOne(ctx, v, g.Artifact, e, p)
		if len(g.Evidence) > 1 {
			reasons = append(reasons, verify.ReasonsOf(e.Source, err)...)
		}
		switch {
		case errors.Is(err, verify.ErrDenied):
			return nil, err
		case err == nil && first == nil:
			first = result
		case err == nil:
		case best == nil:
			best = err
		case verify.Further(err, best):
			best, others = err, append(others, best.Error())
		default:
			others = append(others, err.Error())
		}
	}
	switch {
	case first != nil:
		return first, nil
	case len(g.Evidence) == 0:
		return nil, fmt.Errorf("%w: nothing vouches for %s@%s%s", verify.ErrNoSignature, g.Artifact.Name, g.Artifact.Digest, also(g.Left))
	}
	return nil, verify.WithReasons(fmt.Errorf("%w%s", best, also(append(others, g.Left...))), reasons)
}

// also tells of what else was found, as far as it fits.
func also(texts []string) string {
	if len(texts) == 0 {
		return ""
	}
	if more := len(texts) - 5; more > 0 {
		texts = append(texts[:5:5], fmt.Sprintf("%d more", more))
	}
	return fmt.Sprintf(" (and of the others: %s)", strings.Join(texts, "; "))
}

func verifyOne(ctx context.Context, v *verify.Verifier, a policy.Artifact, e policy.Evidence, p verify.Policy) (*verify.Result, error) {
	request := verify.Request{Policy: p}
	close, err := e.Over(a, &request)
	if err != nil {
		return nil, err
	}
	defer close()
	result, err := v.Verify(ctx, request)
	if err == nil && a.Kind == policy.Image && len(p.PredicateTypes) == 0 && !policy.IsSignature(result) {
		return nil, fmt.Errorf("%w: it attests %s, which is no signature: --type asks for it", verify.ErrNoSignature, result.PredicateType())
	}
	return result, err
}
