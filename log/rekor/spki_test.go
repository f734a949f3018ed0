package rekor

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
)

// The search key of a public key is the hash of the key as v1 encodes it, whatever way it took to that encoding.
func TestKeyIsSoughtAsEncoded(t *testing.T) {
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		key, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			t.Fatal(err)
		}
		keys, err := verifierKeys(&pb.Verifier{Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}}, KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256})
		if err != nil || len(keys) != 1 || keys[0] != pemDigest("PUBLIC KEY", der) {
			t.Errorf("%s: %v %v", curve.Params().Name, keys, err)
		}
		if short := len(der) == p256SPKI && string(der[:len(p256Prefix)]) == string(p256Prefix); short != (curve == elliptic.P256()) {
			t.Errorf("%s: known by its first bytes: %v", curve.Params().Name, short)
		}
		// What begins like a key and is none is refused.
		der[len(der)-1] ^= 1
		if _, err := verifierKeys(&pb.Verifier{Verifier: &pb.Verifier_PublicKey{PublicKey: &pb.PublicKey{RawBytes: der}}}); err == nil {
			t.Errorf("%s: a point off the curve is taken", curve.Params().Name)
		}
	}
}
