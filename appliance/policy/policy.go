// Package policy decides whether an artifact may be used here, by one file of ordered rules that the command line, the cluster's gate and the
// registry's gate read alike.
//
// What it guarantees:
//   - What no rule allows is denied; what a rule denies no other allows; a rule that nothing could ever reach is refused when the file is read.
//   - A signer is accepted under the one trusted root, or by the one key, that the file names for it: more roots never mean more signers.
//   - Only what package verify verified counts. Evidence that did not is named with its reason, and neither harms nor helps what did.
//   - Signers are counted by who they are, logs by their keys: one of either offered many times is one.
//   - Deciding opens no socket and no file. Time and memory are bounded (the constants below); what runs out of either is a denial.
//
// What it does not: find evidence. A registry can withhold a signature that a rule denies by; whoever must not be allowed is denied by identity
// in what vouches, or by name.
//
// Start at Policy.Decide.
package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/ca/denied"
	"redoubt.internal/log/strictyaml"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/spool"
)

// ErrFile says that a policy cannot be used: it is not written as it has to be, or a file that it names is not there.
var ErrFile = errors.New("the policy is not valid")

// Bounds of one decision.
const (
	MaxEvidence = 256       // pieces of evidence for one artifact
	maxFileSize = 4 << 20   // bytes of a trusted root or key
	maxRules    = 1000      // rules, signers, roots and keys: each at most so many
	maxDemands  = 100       // attestations that one rule asks for
	maxReasons  = 100       // reasons that are told
	maxText     = 2000      // bytes of one reason
	maxPayload  = 128 << 10 // bytes of a simple-signing payload
)

// Config is what a policy does not say itself.
type Config struct {
	// Roots replace the files of the trusted roots of their names: what a mirror or a trust pack holds in memory.
	Roots []verify.Root
	// Upstream is what a mirror says it knows of the logs, as in verify.Config.
	Upstream *freshness.State
	// AnyAge leaves the age of roots out of account: what such a policy allows and another does not, that refuses for the age alone.
	AnyAge bool
	// EveryReason finds every reason against evidence that does not verify, for people; see verify.Config.
	EveryReason bool
	// Now is the clock for ages; nil means time.Now.
	Now func() time.Time
}

// Policy is a policy in force. It is immutable and safe for concurrent use.
type Policy struct {
	file    *File
	version string
	now     func() time.Time
	anyAge  bool
	rules   []rule
	denied  []denial
	signers map[string][]signer
	roots   map[string]trusted
	keys    map[string]key
	any     *verify.Verifier // under every root, for certificates
}

// trusted is a root by its name.
type trusted struct {
	Root
	json     []byte // its trusted_root.json
	asOf     time.Time
	denied   *denied.List     // nil where the policy names none
	verifier *verify.Verifier // under this root alone, for keys
}

// key is a key by its name.
type key struct {
	Key
	sum    string // SHA-256 of its SubjectPublicKeyInfo, as verify.Result.Key
	public *verify.Key
}

// Artifact is what is judged.
type Artifact struct {
	// Kind is what Name names.
	Kind Kind
	// Name is what rules match: of an image HOST/REPOSITORY, in full, without tag and digest; of a file its name. Empty matches ** alone.
	Name string
	// Digest is "sha256:HEX", or sha384 or sha512.
	Digest string
	// Open, when set, yields the bytes of a file instead of Digest. It is called once for each piece of evidence.
	Open func() (io.ReadCloser, error)
	// Git, when set, is a commit or tag with its signature in it, in place of Digest and Open; the only evidence for it has an empty bundle.
	Git *verify.GitObject
}

// Kind tells images from other artifacts.
type Kind string

// Kinds.
const (
	Image Kind = "image"
	Blob  Kind = "artifact"
)

// Evidence is one thing that is said to vouch for an artifact. Nothing in it is believed.
type Evidence struct {
	// Source says where it was found, for reasons: a digest, a tag, a file.
	Source string
	// Bundle is the Sigstore bundle, JSON.
	Bundle []byte
	// Payload, when set, is what Bundle signs in place of the artifact: cosign's simple signing, which names the image's digest.
	Payload []byte
	// Notation, when set, is the media type of the Notary Project's envelope that Bundle holds in place of a bundle.
	Notation string
}

// DecisionSchema names the schema of a Decision in JSON. Within it, fields may be added and never change their meaning.
const DecisionSchema = "redoubt.decision/v1"

// Decision says whether an artifact may be used, which rule says so, and why. The zero Decision denies.
type Decision struct {
	Schema   string           `json:"schema"` // DecisionSchema
	Allow    bool             `json:"allow"`
	Rule     string           `json:"rule"`              // the rule that decided; empty where none is for the artifact
	Code     int              `json:"code"`              // exit code: 0, 23 denied by policy, 25 signer denied
	Artifact string           `json:"artifact"`          // its digest
	Reasons  []string         `json:"reasons"`           // of a denial every reason, of what is allowed what was asked for and found
	Ignored  []string         `json:"ignored"`           // evidence that did not count, and why
	Refused  []Refused        `json:"refused"`           // of that what did not verify, with every reason
	Version  string           `json:"version"`           // Policy.Version
	Results  []*verify.Result `json:"results"`           // what counted
	Offline  *verify.Offline  `json:"offline,omitempty"` // only with --prove-offline

	observed []spool.Observation
	verified []*verify.Result
}

// Refused is evidence that did not verify.
type Refused struct {
	Source  string          `json:"source"` // where it was found
	Reasons []verify.Reason `json:"reasons"`
}

// Observations are the log proofs of all evidence that verified, whether or not it counted, for a mirror to compare with what it knows.
func (d Decision) Observations() []spool.Observation { return d.observed }

// Verified is all evidence that verified, whether or not the rule asks for it.
func (d Decision) Verified() []*verify.Result { return d.verified }

// Err is nil where d allows, else an error that wraps verify.ErrPolicy or verify.ErrDenied and names the rule.
func (d Decision) Err() error {
	if d.Allow {
		return nil
	}
	sentinel := verify.ErrPolicy
	if d.Code == verify.ExitCode(verify.ErrDenied) {
		sentinel = verify.ErrDenied
	}
	return fmt.Errorf("%w: %s", sentinel, d.explain())
}

// Version is a digest of everything the policy consists of: the file, its roots and its keys. Two policies of one version decide alike, but for
// the passing of time.
func (p *Policy) Version() string { return p.version }

// AsOf is when the oldest of its roots was obtained.
func (p *Policy) AsOf() (oldest time.Time) {
	for _, r := range p.roots {
		if oldest.IsZero() || r.asOf.Before(oldest) {
			oldest = r.asOf
		}
	}
	return oldest
}

// Load reads a policy and the files that it names, which stand relative to its own folder. Every error is ErrFile.
func Load(file string, c Config) (*Policy, error) {
	data, err := ReadFile(file)
	if err != nil {
		return nil, err
	}
	p, err := Parse(data, filepath.Dir(file), c)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrFile, file, err)
	}
	return p, nil
}

// ReadFile reads the text of a policy. Every error is ErrFile.
func ReadFile(file string) ([]byte, error) {
	data, err := readFile(file, strictyaml.MaxBytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFile, err)
	}
	return data, nil
}

// Parse is Load for a policy's text; dir is the folder that its files stand in.
func Parse(data []byte, dir string, c Config) (*Policy, error) {
	f, err := strictyaml.Decode[File](data)
	if err != nil {
		return nil, err
	}
	p := &Policy{file: f, now: c.Now, anyAge: c.AnyAge, signers: map[string][]signer{}, roots: map[string]trusted{}, keys: map[string]key{}}
	if p.now == nil {
		p.now = time.Now
	}
	sum := sha256.New()
	sum.Write(data)
	for _, step := range []func() error{
		f.check, func() error { return p.loadRoots(dir, c, sum) }, func() error { return p.loadKeys(dir, sum) }, p.compile,
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	p.version = "sha256:" + hex.EncodeToString(sum.Sum(nil))
	return p, nil
}

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("%s is larger than %d bytes", path, limit)
	}
	return data, err
}
