package approval

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/hsm"
	"redoubt.internal/log/strictjson"
)

// SignStatement signs format, a newline and the canonical form (RFC 8785) of v's JSON: with SHA-384 for P-384, with SHA-256
// for P-256 and RSA, the octets themselves for Ed25519. No two kinds of statement have one format, so that no signature of one
// can be taken for another's.
func SignStatement(format string, v any, key crypto.Signer) ([]byte, error) {
	digest, opts, err := statementDigest(format, v, key.Public())
	if err != nil {
		return nil, err
	}
	return key.Sign(rand.Reader, digest, opts)
}

// VerifyStatement checks what SignStatement made.
func VerifyStatement(format string, v any, pub crypto.PublicKey, sig []byte) error {
	digest, opts, err := statementDigest(format, v, pub)
	if err != nil {
		return err
	}
	good := false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(pub, digest, sig)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(pub, opts.HashFunc(), digest, sig) == nil
	case ed25519.PublicKey:
		good = ed25519.Verify(pub, digest, sig)
	}
	if !good {
		return errors.New("the signature does not verify")
	}
	return nil
}

// statementDigest is what is handed to the key.
func statementDigest(format string, v any, pub crypto.PublicKey) ([]byte, crypto.SignerOpts, error) {
	canonical, err := Canonical(v)
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

// Canonical is the JCS form (RFC 8785) of v's JSON.
func Canonical(v any) ([]byte, error) {
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

// Encode writes v as the indented JSON that files with signatures are spelt in.
func Encode(v any) ([]byte, error) {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding: %w", err)
	}
	return append(b, '\n'), nil
}

// Decode reads JSON that must be spelt as Encode spells it, so that no octet of the file is without meaning.
func Decode(data []byte, limit int, v any) error {
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: limit}, v); err != nil {
		return fmt.Errorf("parsing: %w", err)
	}
	again, err := Encode(v)
	if err != nil {
		return err
	}
	if string(again) != string(data) {
		return errors.New("parsing: it is not spelt as it was written; copy the file itself, not its text")
	}
	return nil
}

func hexSum(data []byte) string {
	sum := sha256.Sum256(data)
	return fmt.Sprintf("%x", sum)
}
