package installer

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"redoubt.internal/mirror/parcel"
)

// What lies beside a bundle, for tools that know no parcel.
const (
	bundleSuffix = ".sigstore.json" // a Sigstore bundle over the whole file
	sigSuffix    = ".sig"           // the same signature alone, in base64, for cosign 2
	keySuffix    = ".pub"           // the key in PEM
)

// sigstoreBundle is the JSON of a Sigstore bundle of a key, without a log's entry: nobody's service is needed to make or to check it.
type sigstoreBundle struct {
	MediaType            string `json:"mediaType"`
	VerificationMaterial struct {
		PublicKey struct {
			Hint []byte `json:"hint"` // SHA-256 of the key in SPKI form
		} `json:"publicKey"`
	} `json:"verificationMaterial"`
	MessageSignature struct {
		MessageDigest struct {
			Algorithm string `json:"algorithm"`
			Digest    []byte `json:"digest"`
		} `json:"messageDigest"`
		Signature []byte `json:"signature"`
	} `json:"messageSignature"`
}

// signWhole signs the digest of the whole file and writes the Sigstore bundle and the key beside out.
func (c Config) signWhole(digest []byte) error {
	signature, err := c.Signer.Sign(rand.Reader, digest, crypto.SHA256)
	if err != nil {
		return fmt.Errorf("signing: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(c.Signer.Public())
	if err != nil {
		return err
	}
	var b sigstoreBundle
	b.MediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	hint := sha256.Sum256(spki)
	b.VerificationMaterial.PublicKey.Hint = hint[:]
	b.MessageSignature.MessageDigest.Algorithm, b.MessageSignature.MessageDigest.Digest = "SHA2_256", digest
	b.MessageSignature.Signature = signature
	data, err := json.Marshal(b)
	if err != nil {
		return err
	}
	if err := os.WriteFile(c.Out+bundleSuffix, append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing the signature: %w", err)
	}
	if err := os.WriteFile(c.Out+sigSuffix, []byte(base64.StdEncoding.EncodeToString(signature)), 0o644); err != nil {
		return fmt.Errorf("writing the signature: %w", err)
	}
	if err := os.WriteFile(c.Out+keySuffix, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o644); err != nil {
		return fmt.Errorf("writing the key: %w", err)
	}
	return nil
}

// ReadKey reads the key that must have signed a bundle: a verifier line, or a file with one or with a public key in PEM.
func ReadKey(source string) (*parcel.Verifier, error) {
	if v, err := parcel.NewVerifier(source); err == nil {
		return v, nil
	}
	data, err := os.ReadFile(source)
	if err != nil {
		return nil, fmt.Errorf("reading the key: %w", err)
	}
	line := strings.TrimSpace(string(data))
	if block, _ := pem.Decode(data); block != nil {
		public, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the key %s: %w", source, err)
		}
		if line, err = parcel.VerifierKey(keyName, public); err != nil {
			return nil, fmt.Errorf("reading the key %s: %w", source, err)
		}
	}
	v, err := parcel.NewVerifier(line)
	if err != nil {
		return nil, fmt.Errorf("reading the key %s: %w", source, err)
	}
	return v, nil
}
