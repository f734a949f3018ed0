package verify

import (
	"errors"
	"fmt"
)

// The reasons of a refusal. Every error of New and Verify wraps exactly one, and
// ExitCode gives its number.
var (
	// ErrUsage: the request contradicts itself or lacks a part.
	ErrUsage = errors.New("verification request incomplete")
	// ErrNoSignature: the bundle holds no signature of the kind asked for.
	ErrNoSignature = errors.New("no matching signature")
	// ErrIdentity: the signer is known but not one of those accepted.
	ErrIdentity = errors.New("identity or issuer not accepted")
	// ErrSignature: the signature or the digest does not fit the artifact.
	ErrSignature = errors.New("signature or digest mismatch")
	// ErrUntrusted: the trusted root does not vouch for the certificate or log.
	ErrUntrusted = errors.New("untrusted root or key")
	// ErrStale: the trusted root is older than the policy allows.
	ErrStale = errors.New("trust is stale beyond policy")
	// ErrLogProof: the log entry, its proof, its checkpoint or the SCT is missing,
	// does not verify, or is not for this signature.
	ErrLogProof = errors.New("bad log proof")
	// ErrPolicy: everything verifies, but the policy wants something else.
	ErrPolicy = errors.New("denied by policy")
	// ErrTime: there is no signed time, or a signed time lies outside a validity.
	ErrTime = errors.New("time invalid")
	// ErrDenied: the identity is on the deny list.
	ErrDenied = errors.New("identity is denied")
	// ErrMalformed: the bundle, the trusted root or the key cannot be read.
	ErrMalformed = errors.New("malformed input")
	// ErrLocal: reading the artifact failed.
	ErrLocal = errors.New("cannot read the artifact")
	// ErrInternal: a fault of the verifier itself; there is no verdict.
	ErrInternal = errors.New("internal error in the verifier")
)

// kind is a reason of a refusal, in the words of the command line's contract.
type kind struct {
	err  error
	id   string
	code int
}

func (k kind) sentence() string {
	if k.err == nil {
		return "local error"
	}
	return k.err.Error()
}

// kinds is the table of the contract. Order matters only for the reader: an error wraps one of them.
var kinds = []kind{
	{ErrLocal, "local", 1}, {ErrUsage, "usage", 2}, {ErrNoSignature, "no_signature", 10}, {ErrIdentity, "identity", 11}, {ErrSignature, "signature", 12},
	{ErrUntrusted, "untrusted", 20}, {ErrStale, "stale", 21}, {ErrLogProof, "log_proof", 22}, {ErrPolicy, "policy", 23}, {ErrTime, "time", 24},
	{ErrDenied, "denied", 25}, {ErrMalformed, "malformed", 26}, {ErrInternal, "internal", 70},
}

// kindOf is the reason that err wraps, a local one where its origin is another.
func kindOf(err error) kind {
	for _, k := range kinds {
		if errors.Is(err, k.err) {
			return k
		}
	}
	return kind{nil, "local", 1}
}

// ReasonID is the stable name of the reason that err wraps.
func ReasonID(err error) string { return kindOf(err).id }

// ReasonIDs are the reasons there are, by their stable names: the sentence and the exit code of each.
func ReasonIDs() (all []Reason) {
	for _, k := range kinds {
		all = append(all, Reason{ID: k.id, Code: k.code, Reason: k.sentence()})
	}
	return all
}

// ExitCode maps an error of this package to the process exit code: 0 for nil,
// 1 for an error of another origin.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	return kindOf(err).code
}

// Failure is the JSON document of a refusal; its schema only grows.
type Failure struct {
	Schema   string          `json:"schema"`                 // SchemaID
	Verified bool            `json:"verified"`               // false
	Code     int             `json:"code"`                   // ExitCode
	Reason   string          `json:"reason"`                 // the sentence of the sentinel
	Detail   string          `json:"detail"`                 // for people; not stable
	Reasons  []Reason        `json:"reasons"`                // every reason; the one that decided the code is among them
	Artifact *artifactReport `json:"artifact,omitempty"`     // what was to be vouched for, where it could be read
	Bundle   string          `json:"bundleSHA256,omitempty"` // what was offered
	Roots    []rootReport    `json:"roots,omitempty"`        // under which it was judged, each for itself
	Offline  *Offline        `json:"offline,omitempty"`      // only with --prove-offline
}

// NewFailure describes err for -o json.
func NewFailure(err error) Failure {
	k := kindOf(err)
	f := Failure{Schema: SchemaID, Code: k.code, Reason: k.sentence(), Detail: fmt.Sprint(err), Reasons: Reasons(err)}
	var r *refusal
	if errors.As(err, &r) {
		f.Artifact, f.Bundle, f.Roots = r.artifact, r.bundle, r.roots
	}
	return f
}
