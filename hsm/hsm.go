// Package hsm is where private keys live. It fixes the contract every kind of
// token (hsm/soft, hsm/pkcs11) keeps and every other room relies on.
//
// It guarantees:
//   - a Key never gives its private half away; it is a crypto.Signer;
//   - every signature is verified against the public key before it is handed
//     out (except through Unverified, for callers that verify themselves), so a
//     faulty or wrongly driven token cannot put a bad signature into a log or a
//     certificate;
//   - the digest has the length of the named hash, and weak hashes are refused;
//   - a signature is bounded in time (Timeout), so a hung token is an error
//     (ErrUnavailable) and never a hung server;
//   - Info never holds a secret: no PIN, no passphrase, no key material.
//
// It does not guarantee that a token is hardware: Info.Software and
// Info.Evidence say what the token claims, and nothing here turns a claim into
// an attestation.
//
// Start reading at Token, then Key. hsm/hsmtest is the conformance test every
// kind of token runs.
package hsm

import (
	"context"
	"errors"
)

// Errors every kind of token returns, to be tested with errors.Is.
var (
	// ErrNotFound: the URI names no key (or no token) that exists.
	ErrNotFound = errors.New("no such key or token")
	// ErrAmbiguous: the URI matches more than one key or token, and guessing
	// would be a way to sign with the wrong one.
	ErrAmbiguous = errors.New("more than one match")
	// ErrExists: Generate was asked to make a key where one already is.
	ErrExists = errors.New("key already exists")
	// ErrBadPIN: the PIN or passphrase was refused, or must not be tried.
	ErrBadPIN = errors.New("PIN or passphrase refused")
	// ErrUnavailable: the token does not answer now; it may heal by itself.
	ErrUnavailable = errors.New("token unavailable")
	// ErrHung: joined to ErrUnavailable when a call is still inside the token's
	// driver past its deadline, where nothing but the end of the process takes
	// it back.
	ErrHung = errors.New("token holds a call past its deadline")
	// ErrUnsupported: the token or the URI scheme cannot do what was asked.
	ErrUnsupported = errors.New("not supported")
	// ErrInsecureKey: the key exists but its protection is below the floor
	// (extractable, not sensitive, readable by others).
	ErrInsecureKey = errors.New("key is not protected as required")
	// ErrBadSignature: the token returned a signature that its own public key
	// does not verify. The signature was discarded.
	ErrBadSignature = errors.New("token returned a signature that does not verify")
)

// Algorithm names a key type together with its size.
type Algorithm string

// The key types Redoubt makes and uses.
const (
	ECDSAP256 Algorithm = "ecdsa-p256"
	ECDSAP384 Algorithm = "ecdsa-p384"
	RSA3072   Algorithm = "rsa-3072"
	RSA4096   Algorithm = "rsa-4096"
	Ed25519   Algorithm = "ed25519"
)

// Algorithms lists every supported Algorithm, in the order of the constants.
func Algorithms() []Algorithm {
	return []Algorithm{ECDSAP256, ECDSAP384, RSA3072, RSA4096, Ed25519}
}

// Token is a place that holds keys: a directory of encrypted files, a slot of a
// PKCS#11 module. Implementations are safe for concurrent use.
type Token interface {
	// Signer returns the one existing key the URI names. It fails with
	// ErrNotFound, ErrAmbiguous, ErrBadPIN, ErrInsecureKey or ErrUnavailable.
	Signer(ctx context.Context, uri string) (*Key, error)

	// Generate makes a new key inside the token under the name the URI gives and
	// returns it. It never replaces a key (ErrExists) and never returns one whose
	// protection it has not read back (ErrInsecureKey).
	Generate(ctx context.Context, uri string, alg Algorithm) (*Key, error)

	// Close ends the token's sessions. Keys obtained from it fail with
	// ErrUnavailable from then on. Close may be called more than once.
	Close() error
}

// Info describes a key and the token that holds it, for inventories, ceremony
// transcripts and status pages. It never holds a secret: URIs are redacted.
type Info struct {
	// URI is the key URI with every secret attribute removed.
	URI string `json:"uri"`
	// Kind is the kind of token: "soft", "pkcs11", "tpm", "vault" or "plugin".
	Kind string `json:"kind"`
	// Token names the token within its kind: a token label, a directory.
	Token string `json:"token,omitempty"`
	// Label is the key's human name inside the token.
	Label string `json:"label,omitempty"`
	// ID is the key's identifier inside the token, lower-case hex (CKA_ID).
	ID string `json:"id,omitempty"`
	// Algorithm of the key; NewKey fills it from the public key.
	Algorithm Algorithm `json:"algorithm"`
	// Fingerprint is the SHA-256 of the DER SubjectPublicKeyInfo, lower-case
	// hex; NewKey fills it.
	Fingerprint string `json:"fingerprint"`
	// Software is true when the private key is held by software on this machine
	// (a file, SoftHSM), so that copying a disk copies the key.
	Software bool `json:"software"`
	// Module identifies the driver: path, library name and version, SHA-256.
	Module string `json:"module,omitempty"`
	// TokenState holds what the token says about itself: manufacturer, model,
	// serial, firmware, flags.
	TokenState map[string]string `json:"tokenState,omitempty"`
	// TokenAlgorithms are the algorithms the token says it can make and use keys
	// of, in the order of Algorithms(); nil where it was not asked.
	TokenAlgorithms []Algorithm `json:"tokenAlgorithms,omitempty"`
	// Attributes are the key attributes as read back from the token.
	Attributes map[string]string `json:"attributes,omitempty"`
	// Evidence lists the token's claims about the key's origin and protection,
	// one sentence each. They are claims of the provider, not attestations.
	Evidence []string `json:"evidence,omitempty"`
}
