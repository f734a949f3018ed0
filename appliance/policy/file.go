package policy

import (
	"time"
)

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

// Duration is a time span: 5s, 10m, 24h, or 30d for days of 24 hours.
type Duration time.Duration
