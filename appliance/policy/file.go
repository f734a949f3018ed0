package policy

import (
	"embed"
	"reflect"
	"time"

	"redoubt.internal/log/strictyaml"
)

//go:embed file.go
var source embed.FS

// JSONSchema describes a policy to editors.
func JSONSchema() (map[string]any, error) {
	docs, err := strictyaml.Docs(source)
	if err != nil {
		return nil, err
	}
	schema := strictyaml.Schema(reflect.TypeFor[File](), docs)
	schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	schema["title"] = Schema
	return schema, nil
}

// Schema is the version of the policy's form.
const Schema = "redoubt.policy/v1"

// File is a policy as it is written.
type File struct {
	// Version is redoubt.policy/v1.
	Version string `yaml:"version"`
	// Roots are the trusted roots by the names that signers use.
	Roots map[string]Root `yaml:"roots"`
	// Keys are public keys that are trusted by themselves, by name.
	Keys map[string]Key `yaml:"keys,omitempty"`
	// Signers are named groups of who may sign.
	Signers map[string][]Signer `yaml:"signers,omitempty"`
	// Deny lists signers that nobody may use anything of, whatever else vouches for it.
	Deny []Denied `yaml:"deny,omitempty"`
	// Rules are read from the top. The first that matches decides, but a rule that denies wins over all others. What none matches is denied.
	Rules []Rule `yaml:"rules"`
}

// Root is a trusted root.
type Root struct {
	// File is its trusted_root.json, relative to the policy.
	File string `yaml:"file"`
	// MaxAge refuses it when its file is older.
	MaxAge Duration `yaml:"max-age,omitempty"`
	// WithoutLog accepts what stands in no log. Refused where the root names a log.
	WithoutLog bool `yaml:"without-log,omitempty"`
	// Denied is that deployment's list of denied identities; left out, only the policy's own deny counts.
	Denied *DeniedList `yaml:"denied,omitempty"`
}

// DeniedList is a deployment's list of denied identities. Nothing under its root counts while the list is older than it may be.
type DeniedList struct {
	// File is its denied.json, relative to the policy.
	File string `yaml:"file"`
	// MinVersion is the least version that is taken.
	MinVersion uint64 `yaml:"min-version,omitempty"`
	// MaxAge is how long after its date it is taken; without it for ever.
	MaxAge Duration `yaml:"max-age,omitempty"`
}

// Key is a public key that its owner keeps.
type Key struct {
	// File is the public key in PEM, relative to the policy.
	File string `yaml:"file"`
	// Root is the name of the root whose log and timestamps count for it.
	Root string `yaml:"root"`
	// NotBefore is the earliest signed time at which it counts.
	NotBefore time.Time `yaml:"not-before,omitempty"`
	// NotAfter is the latest.
	NotAfter time.Time `yaml:"not-after,omitempty"`
	// WithoutLog accepts its signatures without a log entry.
	WithoutLog bool `yaml:"without-log,omitempty"`
}

// Signer is one signer, or those that regular expressions match. Expressions match the whole text.
type Signer struct {
	// Root is the name of the root under which the certificate must verify.
	Root string `yaml:"root,omitempty"`
	// Identity is the e-mail or URI in the certificate.
	Identity string `yaml:"identity,omitempty"`
	// IdentityRegexp matches it.
	IdentityRegexp string `yaml:"identity-regexp,omitempty"`
	// Issuer is the issuer of the token behind the certificate.
	Issuer string `yaml:"issuer,omitempty"`
	// IssuerRegexp matches it.
	IssuerRegexp string `yaml:"issuer-regexp,omitempty"`
	// Extensions are Fulcio's certificate extensions by name, as sourceRepositoryURI, each exactly.
	Extensions map[string]string `yaml:"extensions,omitempty"`
	// ExtensionsRegexp matches extensions by name.
	ExtensionsRegexp map[string]string `yaml:"extensions-regexp,omitempty"`
	// Key is the name of a key, in place of all of the above.
	Key string `yaml:"key,omitempty"`
}

// Denied is a signer that is refused.
type Denied struct {
	// By names groups of signers.
	By []string `yaml:"by"`
	// Since is the first signed time that is refused; all are without it.
	Since time.Time `yaml:"since,omitempty"`
	// Until is the last.
	Until time.Time `yaml:"until,omitempty"`
	// Reason is told to who asks.
	Reason string `yaml:"reason,omitempty"`
}

// Rule is what is asked of some artifacts.
type Rule struct {
	// Name is shown in every decision.
	Name string `yaml:"name"`
	// Images are patterns of HOST/REPOSITORY: * stands for anything within one part, ** for anything.
	Images []string `yaml:"images,omitempty"`
	// Artifacts are patterns of the names of files.
	Artifacts []string `yaml:"artifacts,omitempty"`
	// Action is allow, or deny: then nothing that matches is used, and the rule asks for nothing.
	Action string `yaml:"action,omitempty"`
	// Signatures asks for signatures over the artifact.
	Signatures *Signatures `yaml:"signatures,omitempty"`
	// Attestations asks for attestations; each of them must be there.
	Attestations []Attestation `yaml:"attestations,omitempty"`
}

// Signatures is how often and by whom an artifact must be signed.
type Signatures struct {
	// By names groups of signers; each in them is accepted.
	By []string `yaml:"by"`
	// Threshold is how many different signers there must be; 1 without it.
	Threshold int `yaml:"threshold,omitempty"`
	// Logs is how many different logs each signature must stand in; 0 leaves it to the root.
	Logs int `yaml:"logs,omitempty"`
	// MaxAge refuses signatures whose earliest signed time is older.
	MaxAge Duration `yaml:"max-age,omitempty"`
}

// Attestation is what must be attested of an artifact, how often and by whom.
type Attestation struct {
	// Type is the predicate type: a URI, or slsa-provenance, verification-summary, spdx, cyclonedx, sbom, openvex, vulnerabilities or test-result
	// for its known versions.
	Type string `yaml:"type"`
	// By names groups of signers; each in them is accepted.
	By []string `yaml:"by"`
	// Threshold is how many different signers must attest it; 1 without it.
	Threshold int `yaml:"threshold,omitempty"`
	// Logs is how many different logs each attestation must stand in; 0 leaves it to the root.
	Logs int `yaml:"logs,omitempty"`
	// MaxAge refuses attestations whose earliest signed time is older.
	MaxAge Duration `yaml:"max-age,omitempty"`
	// Newest looks at the newest attestation of each signer alone. It is always so with vex, vulnerabilities and tests.
	Newest bool `yaml:"newest,omitempty"`
	// SLSA asks for a builder, a source and a level; for slsa-provenance, v0.2 and v1.
	SLSA *SLSA `yaml:"slsa,omitempty"`
	// SBOM looks into bills of materials, SPDX and CycloneDX.
	SBOM *SBOM `yaml:"sbom,omitempty"`
	// VEX looks into OpenVEX documents.
	VEX *VEX `yaml:"vex,omitempty"`
	// Vulnerabilities looks into scans.
	Vulnerabilities *Vulnerabilities `yaml:"vulnerabilities,omitempty"`
	// Tests looks into test results.
	Tests *Tests `yaml:"tests,omitempty"`
	// CEL are expressions that must all be true. They see predicate, predicateType, signer (identity, issuer, root, key), extensions, artifact (kind,
	// name, digest), signed and now.
	CEL []string `yaml:"cel,omitempty"`
}

// SLSA is what provenance must say.
type SLSA struct {
	// Builders are the builders that are accepted.
	Builders []Builder `yaml:"builders"`
	// Level is the level that the builder must be trusted to.
	Level int `yaml:"level,omitempty"`
	// Sources are patterns of the source repositories, as https://HOST/REPOSITORY: every source that the provenance names must match one.
	Sources []string `yaml:"sources,omitempty"`
	// BuildTypes are patterns of the build types that are accepted; all are without it.
	BuildTypes []string `yaml:"build-types,omitempty"`
}

// Builder is a builder and how far it is trusted: provenance does not say its own level.
type Builder struct {
	// ID is a pattern of the builder's id.
	ID string `yaml:"id"`
	// Level is the SLSA build level that it is trusted to, 0 to 4.
	Level int `yaml:"level,omitempty"`
}

// SBOM is what a bill of materials must be like.
type SBOM struct {
	// MinPackages is how many packages it must list at least; 1 without it.
	MinPackages int `yaml:"min-packages,omitempty"`
	// DenyPackages are patterns of purls, or of NAME@VERSION, that it must not list.
	DenyPackages []string `yaml:"deny-packages,omitempty"`
}

// VEX is what an OpenVEX document must be like.
type VEX struct {
	// Deny are the statuses that no statement may have: affected without it.
	Deny []string `yaml:"deny,omitempty"`
	// MaxAge refuses a document that was written longer ago.
	MaxAge Duration `yaml:"max-age,omitempty"`
}

// Vulnerabilities is what a scan may find.
type Vulnerabilities struct {
	// MaxSeverity is the worst that is accepted: none (without it), low, medium, high or critical. A severity that is not known counts as critical.
	MaxSeverity string `yaml:"max-severity,omitempty"`
	// Ignore are identifiers that are accepted whatever their severity.
	Ignore []string `yaml:"ignore,omitempty"`
	// MaxAge refuses a scan that ended longer ago.
	MaxAge Duration `yaml:"max-age,omitempty"`
}

// Tests is what test results must say.
type Tests struct {
	// Results are the results that are accepted: PASSED without it, WARNED, FAILED.
	Results []string `yaml:"results,omitempty"`
	// Passed are tests that must be among those that passed.
	Passed []string `yaml:"passed,omitempty"`
}

// Duration is a time span: 5s, 10m, 24h, or 30d for days of 24 hours.
type Duration time.Duration
