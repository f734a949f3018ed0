package tpm

import (
	"context"

	"redoubt.internal/hsm"
)

func (t *Token) attest(ctx context.Context, r *keyRef, nonce []byte) (hsm.Attestation, error) {
	return hsm.Attestation{}, hsm.ErrUnsupported
}
