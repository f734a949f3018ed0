package hsm

import (
	"context"
	"fmt"
)

// Attestation is a token's own signed statement that a key was made inside it
// and cannot leave it. It is evidence only as far as its attesting key is
// trusted; the room of the token kind verifies it, offline.
type Attestation struct {
	// Format names the statement's encoding: "tpm2-certify" (TPM 2.0 Library
	// part 2, TPMS_ATTEST over TPMT_PUBLIC).
	Format string `json:"format"`
	// Fingerprint of the attested key, as Info.Fingerprint.
	Fingerprint string `json:"fingerprint"`
	// Nonce is the qualifying data the verifier asked for.
	Nonce []byte `json:"nonce"`
	// Public is the attested key in the token's own encoding (TPMT_PUBLIC).
	Public []byte `json:"public"`
	// Statement is what was signed, in the token's own encoding (TPMS_ATTEST).
	Statement []byte `json:"statement"`
	// Signature over Statement, in the token's own encoding (TPMT_SIGNATURE).
	Signature []byte `json:"signature"`
	// AttestingKey is the key that signed, in the token's own encoding.
	AttestingKey []byte `json:"attestingKey"`
	// Certificates that speak for the attesting key or its token (the
	// endorsement key's certificate), DER, in the order leaf to root.
	Certificates [][]byte `json:"certificates,omitempty"`
	// EndorsementKey is the key the first certificate is of, in the token's own
	// encoding (TPMT_PUBLIC).
	EndorsementKey []byte `json:"endorsementKey,omitempty"`
	// Claims are sentences the machine that asked the token adds on its own word:
	// nothing signed proves them.
	Claims []string `json:"claims,omitempty"`
}

// WithAttest returns the same key with the token's way to attest it. Token
// kinds call it; nonce is at most 32 octets.
func (k *Key) WithAttest(attest func(ctx context.Context, nonce []byte) (Attestation, error)) *Key {
	c := *k
	c.attest = attest
	return &c
}

// Attest asks the token to state, over nonce, that it made the key. A token
// that cannot says ErrUnsupported.
func (k *Key) Attest(ctx context.Context, nonce []byte) (Attestation, error) {
	if k.attest == nil {
		return Attestation{}, fmt.Errorf("attesting %s: a %s token makes no attestations: %w", k.info.URI, k.info.Kind, ErrUnsupported)
	}
	a, err := k.attest(ctx, nonce)
	if err != nil {
		return Attestation{}, fmt.Errorf("attesting %s: %w", k.info.URI, err)
	}
	return a, nil
}
