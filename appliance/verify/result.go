package verify

import (
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"

	"redoubt.internal/mirror/spool"
)

// SchemaID names the schema of Result and Failure in JSON. Within it, fields
// may be added and never change their meaning.
const SchemaID = "redoubt.verify/v1"

// Result is the proof that a bundle verified. Only a Verifier makes one that
// says so; the zero Result says no and does not marshal.
type Result struct{ report report }

// Verified tells a Result of a Verifier from a zero value.
func (r *Result) Verified() bool { return r != nil && r.report.Verified }

// Root is the name of the trusted root that vouched.
func (r *Result) Root() string { return r.report.Root.Name }

// Artifact is the digest that verified, ALGORITHM:HEX, of a git object gitCommit:HEX or gitTag:HEX.
func (r *Result) Artifact() string { return r.report.Artifact.String() }

// Signer is the certificate's identity and issuer, empty in key mode.
func (r *Result) Signer() (san, issuer string) {
	return r.report.Signer.Identity, r.report.Signer.Issuer
}

// Key is the SHA-256 in hex of the signer's public key (SubjectPublicKeyInfo), empty where a certificate says who signed.
func (r *Result) Key() string { return r.report.Signer.Key }

// Extensions are Fulcio's certificate extensions that are texts, by the names of ExtensionNames.
func (r *Result) Extensions() map[string]string { return maps.Clone(r.report.Signer.Extensions) }

// ExtensionNames are the names under which Extensions may have something.
func ExtensionNames() (names []string) {
	for f := range reflect.TypeFor[certificate.Extensions]().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

// BundleSHA256 is the digest in hex of the bundle that verified.
func (r *Result) BundleSHA256() string { return r.report.BundleSHA256 }

// Times are the verified signed times.
func (r *Result) Times() []SignedTime { return slices.Clone(r.report.Times) }

// Log are the verified log entries.
func (r *Result) Log() []LogProof { return slices.Clone(r.report.Log.Proven) }

// PredicateType is the attestation's, "" for a plain signature.
func (r *Result) PredicateType() string { return r.report.Signature.PredicateType }

// Statement is the verified in-toto statement as signed, nil for a plain
// signature. The caller owns the copy.
func (r *Result) Statement() []byte { return slices.Clone(r.report.payload) }

// MarshalJSON writes the documented schema; it fails for a zero Result.
func (r *Result) MarshalJSON() ([]byte, error) {
	if !r.Verified() {
		return nil, errors.New("not the result of a verification")
	}
	return json.Marshal(r.report)
}

// ResultShape is the type whose JSON a Result is written as, for manuals.
func ResultShape() reflect.Type { return reflect.TypeFor[report]() }

// report is the schema. Everything in it was verified.
type report struct {
	Schema       string         `json:"schema"`
	Verified     bool           `json:"verified"`
	Root         rootReport     `json:"root"`
	Artifact     artifactReport `json:"artifact"`
	BundleSHA256 string         `json:"bundleSHA256"`
	MediaType    string         `json:"bundleMediaType"` // as the bundle calls itself
	Signature    signatureInfo  `json:"signature"`
	Signer       signerReport   `json:"signer"`
	Times        []SignedTime   `json:"times"`
	TimesIgnored int            `json:"timesIgnored"` // tokens of authorities the root does not know
	Log          logProofs      `json:"log"`
	Checked      []string       `json:"checked"`
	Offline      *Offline       `json:"offline,omitempty"` // only with --prove-offline

	payload  []byte
	observed []spool.Observation
}

type rootReport struct {
	Name   string     `json:"name"`
	SHA256 string     `json:"sha256"`
	AsOf   *time.Time `json:"asOf,omitempty"` // when it was obtained or confirmed
	Age    string     `json:"age,omitempty"`  // since then, as 72h3m0s
	// Upstream is there when a mirror carries the repository this very root came from.
	Upstream *Upstream `json:"upstream,omitempty"`
}

type artifactReport struct {
	Algorithm string `json:"algorithm"` // gitCommit and gitTag for git objects
	Digest    string `json:"digest"`
	Bytes     bool   `json:"bytesSeen"` // false: only the digest was given
}

func (a artifactReport) String() string { return a.Algorithm + ":" + a.Digest }

type signatureInfo struct {
	Kind          string `json:"kind"` // "message" or "attestation"
	StatementType string `json:"statementType,omitempty"`
	PredicateType string `json:"predicateType,omitempty"`
	Subjects      int    `json:"subjects,omitempty"`
}

type signerReport struct {
	Kind        string            `json:"kind"` // "certificate" or "key"
	Identity    string            `json:"identity,omitempty"`
	Issuer      string            `json:"issuer,omitempty"`
	Certificate string            `json:"certificateSHA256,omitempty"`
	NotBefore   *time.Time        `json:"notBefore,omitempty"`
	NotAfter    *time.Time        `json:"notAfter,omitempty"`
	Extensions  map[string]string `json:"extensions,omitempty"` // Fulcio's, by name
	Key         string            `json:"keySHA256,omitempty"`  // of the SubjectPublicKeyInfo
}

// SignedTime is a time that an authority signed.
type SignedTime struct {
	Time   time.Time `json:"time"`
	Source string    `json:"source"` // "log" or "timestampAuthority"
	URI    string    `json:"uri"`    // as the trusted root names it
}

// LogProof is an entry proven to be in a log, or promised by it.
type LogProof struct {
	LogID          string     `json:"logID"` // hex
	BaseURL        string     `json:"baseURL"`
	Origin         string     `json:"origin,omitempty"` // of the checkpoint
	Kind           string     `json:"kind"`
	Version        string     `json:"version"`
	Index          *int64     `json:"index,omitempty"` // in the tree of the proof
	TreeSize       uint64     `json:"treeSize,omitempty"`
	RootHash       string     `json:"rootHash,omitempty"` // hex
	Promise        bool       `json:"promise"`
	EntryIndex     *int64     `json:"entryIndex,omitempty"` // across shards; only as promised
	IntegratedTime *time.Time `json:"integratedTime,omitempty"`
	Upstream       *Upstream  `json:"upstream,omitempty"` // only where a mirror's state was given
}

type logProofs struct {
	Proven  []LogProof `json:"proven"`
	Ignored int        `json:"ignored"` // entries of logs the root does not know
}

// rootReport says which root it is, and how old.
func (v *Verifier) rootReport(r *trustedRoot) rootReport {
	out := rootReport{Name: r.name, SHA256: hex.EncodeToString(r.sum[:])}
	if !r.asOf.IsZero() {
		at := r.asOf.UTC()
		out.AsOf, out.Age = &at, v.now().Sub(at).Truncate(time.Second).String()
	}
	return out
}

// report is the digest that was judged, where none fits the SHA-256; nil without either.
func (a artifact) report() *artifactReport {
	if a.gitID != "" {
		return &artifactReport{Algorithm: a.gitName, Digest: a.gitID, Bytes: true}
	}
	use := cmp.Or(a.use, "sha256")
	if a.digests[use] == nil {
		return nil
	}
	return &artifactReport{Algorithm: use, Digest: hex.EncodeToString(a.digests[use]), Bytes: !a.given}
}

func newReport(r rootReport, b *decoded, a artifact, p *policy, v *sgverify.VerificationResult, logs logProofs) *report {
	out := &report{
		Schema: SchemaID, Verified: true,
		Root:      r,
		Artifact:  *a.report(),
		Signature: signatureInfo{Kind: "message"},
		Log:       logs,
		Times:     []SignedTime{},
		Checked:   []string{"signature", "artifact"},
	}
	if b.statement != nil {
		out.Signature = signatureInfo{"attestation", b.statement.GetType(), b.statement.GetPredicateType(), len(b.subjects)}
		out.payload = b.GetDsseEnvelope().GetPayload()
	}
	for _, t := range v.VerifiedTimestamps {
		source := "timestampAuthority"
		if t.Type == "Tlog" {
			source = "log"
		}
		out.Times = append(out.Times, SignedTime{t.Timestamp.UTC(), source, t.URI})
	}
	if c := b.content.Certificate(); c != nil {
		s := v.Signature.Certificate
		from, to := c.NotBefore.UTC(), c.NotAfter.UTC()
		out.Signer = signerReport{Kind: "certificate", Identity: s.SubjectAlternativeName, Issuer: s.Issuer, Certificate: hexSum(c.Raw), NotBefore: &from, NotAfter: &to, Extensions: extensions(s.Extensions)}
		out.Checked = append(out.Checked, "certificate path", "identity")
		if !p.unstamped {
			out.Checked = append(out.Checked, "certificate transparency")
		}
	} else {
		out.Signer = signerReport{Kind: "key", Key: hexSum(p.keySPKI)}
	}
	if !p.WithoutLog {
		out.Checked = append(out.Checked, "log entry")
	}
	if len(out.Times) > 0 {
		out.Checked = append(out.Checked, "signed time")
	}
	return out
}

// extensions flattens Fulcio's certificate extensions that are texts to their JSON names.
func extensions(e certificate.Extensions) map[string]string {
	out := map[string]string{}
	raw, _ := json.Marshal(e)
	_ = json.Unmarshal(raw, &out) // what is no text is left out
	return out
}
