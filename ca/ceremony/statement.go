package ceremony

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/hsm"
	"redoubt.internal/log/strictjson"
)

// signStatement signs format, a newline and the canonical form of v.
func signStatement(format string, v any, key crypto.Signer) ([]byte, error) {
	digest, opts, err := statementDigest(format, v, key.Public())
	if err != nil {
		return nil, err
	}
	return key.Sign(rand.Reader, digest, opts)
}

// verifyStatement checks what signStatement made.
func verifyStatement(format string, v any, pub crypto.PublicKey, sig []byte) error {
	digest, opts, err := statementDigest(format, v, pub)
	if err != nil {
		return err
	}
	if !verifyDigest(pub, digest, opts, sig) {
		return errors.New("the signature does not verify")
	}
	return nil
}

// statementDigest is what is handed to the key: SHA-384 for P-384, SHA-256 for
// P-256 and RSA, the message itself for Ed25519.
func statementDigest(format string, v any, pub crypto.PublicKey) ([]byte, crypto.SignerOpts, error) {
	canonical, err := canonicalOf(v)
	if err != nil {
		return nil, nil, err
	}
	message := append([]byte(format+"\n"), canonical...)
	alg, err := hsm.AlgorithmOf(pub)
	if err != nil {
		return nil, nil, err
	}
	hash := crypto.SHA256
	switch alg {
	case hsm.Ed25519:
		return message, crypto.Hash(0), nil
	case hsm.ECDSAP384:
		hash = crypto.SHA384
	}
	h := hash.New()
	h.Write(message)
	return h.Sum(nil), hash, nil
}

// canonicalOf is the JCS form (RFC 8785) of v's JSON.
func canonicalOf(v any) ([]byte, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	canonical, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("canonicalizing: %w", err)
	}
	return canonical, nil
}

// link is the digest by which the next record names v: SHA-256 of its JCS form, hex.
func link(v any) (string, error) {
	canonical, err := canonicalOf(v)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(canonical)
	return fmt.Sprintf("%x", sum), nil
}

// encode writes v as the indented JSON every file of a ceremony is spelt in.
func encode(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	return append(b, '\n'), nil
}

// decodeExactly reads JSON that must be spelt as encode spells it, so that no
// octet of the file is without meaning.
func decodeExactly(data []byte, limit int, v any) error {
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: limit}, v); err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	again, err := encode(v)
	if err != nil {
		return err
	}
	if string(again) != string(data) {
		return errors.New("parsing: it is not spelt as it was written; copy the file itself, not its text")
	}
	return nil
}

// samePublic reports whether a and b are one public key.
func samePublic(a, b crypto.PublicKey) bool {
	switch a := a.(type) {
	case *ecdsa.PublicKey:
		return a.Equal(b)
	case ed25519.PublicKey:
		return a.Equal(b)
	case interface{ Equal(crypto.PublicKey) bool }:
		return a.Equal(b)
	}
	return false
}
