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

// exitCodes is the table of the command line's contract. Order matters only for
// the reader: an error wraps one of them.
var exitCodes = []struct {
	err  error
	code int
}{
	{ErrLocal, 1}, {ErrUsage, 2}, {ErrNoSignature, 10}, {ErrIdentity, 11}, {ErrSignature, 12}, {ErrUntrusted, 20}, {ErrStale, 21},
	{ErrLogProof, 22}, {ErrPolicy, 23}, {ErrTime, 24}, {ErrDenied, 25}, {ErrMalformed, 26}, {ErrInternal, 70},
}

// ExitCode maps an error of this package to the process exit code: 0 for nil,
// 1 for an error of another origin.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, e := range exitCodes {
		if errors.Is(err, e.err) {
			return e.code
		}
	}
	return 1
}

// Failure is the JSON document of a refusal; its schema only grows.
type Failure struct {
	Schema   string `json:"schema"`   // SchemaID
	Verified bool   `json:"verified"` // false
	Code     int    `json:"code"`     // ExitCode
	Reason   string `json:"reason"`   // the sentence of the sentinel
	Detail   string `json:"detail"`   // for people; not stable
}

// NewFailure describes err for -o json.
func NewFailure(err error) Failure {
	f := Failure{Schema: SchemaID, Code: ExitCode(err), Reason: "local error", Detail: fmt.Sprint(err)}
	for _, e := range exitCodes {
		if errors.Is(err, e.err) {
			f.Reason = e.err.Error()
		}
	}
	return f
}
