//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rsa"
	"encoding/asn1"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// Constants of PKCS#11 v3.0 that miekg/pkcs11 v1.1.2 lacks.
const (
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEdDSA               = 0x1057
	ckkECEdwards           = 0x40
)

// The curves as CKA_EC_PARAMS. For Ed25519 the two spellings of PKCS#11 v3.0:
// the curve name as PrintableString and the OID.
var (
	paramsP256       = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}
	paramsP384       = []byte{0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22}
	paramsEd25519    = append([]byte{0x13, 0x0c}, "edwards25519"...)
	paramsEd25519OID = []byte{0x06, 0x03, 0x2b, 0x65, 0x70}
)

// digestInfo is the DER prefix of DigestInfo before the digest (RFC 8017, 9.2, note 1).
var digestInfo = map[crypto.Hash][]byte{
	crypto.SHA256: {0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00, 0x04, 0x20},
	crypto.SHA384: {0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05, 0x00, 0x04, 0x30},
	crypto.SHA512: {0x30, 0x51, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03, 0x05, 0x00, 0x04, 0x40},
}

// recipe is how one algorithm's key pair is made.
type recipe struct {
	mechanism uint
	keyType   uint
	params    []byte // CKA_EC_PARAMS
	bits      int    // CKA_MODULUS_BITS
	sign      uint   // mechanism that must be there to sign
}

// recipeOf returns hsm.ErrUnsupported for an unknown algorithm.
func recipeOf(alg hsm.Algorithm) (recipe, error) {
	switch alg {
	case hsm.ECDSAP256:
		return recipe{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC, paramsP256, 0, pkcs11.CKM_ECDSA}, nil
	case hsm.ECDSAP384:
		return recipe{pkcs11.CKM_EC_KEY_PAIR_GEN, pkcs11.CKK_EC, paramsP384, 0, pkcs11.CKM_ECDSA}, nil
	case hsm.RSA3072:
		return recipe{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA, nil, 3072, pkcs11.CKM_RSA_PKCS}, nil
	case hsm.RSA4096:
		return recipe{pkcs11.CKM_RSA_PKCS_KEY_PAIR_GEN, pkcs11.CKK_RSA, nil, 4096, pkcs11.CKM_RSA_PKCS}, nil
	case hsm.Ed25519:
		return recipe{ckmECEdwardsKeyPairGen, ckkECEdwards, paramsEd25519, 0, ckmEdDSA}, nil
	}
	return recipe{}, fmt.Errorf("algorithm %q: %w", alg, hsm.ErrUnsupported)
}

// probe returns the algorithms a token says it can make keys of and sign with.
func probe(c *pkcs11.Ctx, slot uint) ([]hsm.Algorithm, error) {
	list, err := c.GetMechanismList(slot)
	if err != nil {
		return nil, fmt.Errorf("listing mechanisms: %w", err)
	}
	has := func(mechanism uint, bits int) bool {
		if !slices.ContainsFunc(list, func(m *pkcs11.Mechanism) bool { return m.Mechanism == mechanism }) {
			return false
		}
		info, err := c.GetMechanismInfo(slot, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)})
		if err != nil || info.MaxKeySize == 0 {
			return true // it says no bounds
		}
		limit := int(min(info.MaxKeySize, 1<<20))
		return bits <= limit || bits >= 3072 && bits <= 8*limit && limit < 1024 // some count RSA keys in octets
	}
	var found []hsm.Algorithm
	for _, alg := range hsm.Algorithms() {
		r, err := recipeOf(alg)
		if err != nil {
			return nil, err
		}
		bits := map[hsm.Algorithm]int{hsm.ECDSAP256: 256, hsm.ECDSAP384: 384, hsm.RSA3072: 3072, hsm.RSA4096: 4096, hsm.Ed25519: 0}[alg]
		if has(r.mechanism, bits) && has(r.sign, bits) {
			found = append(found, alg)
		}
	}
	return found, nil
}

// mechanismFor returns the signing mechanism and its input. Hashing is done in
// Go: SoftHSM has no CKM_ECDSA_SHA256, and a digest is all crypto.Signer gives.
func mechanismFor(alg hsm.Algorithm, digest []byte, opts crypto.SignerOpts) (*pkcs11.Mechanism, []byte, error) {
	switch alg {
	case hsm.ECDSAP256, hsm.ECDSAP384:
		return pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil), truncate(alg, digest), nil
	case hsm.Ed25519:
		return pkcs11.NewMechanism(ckmEdDSA, nil), digest, nil
	case hsm.RSA3072, hsm.RSA4096:
		if _, ok := opts.(*rsa.PSSOptions); ok {
			h, mgf, err := pssParams(opts.HashFunc())
			if err != nil {
				return nil, nil, err
			}
			return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS_PSS, pkcs11.NewPSSParams(h, mgf, uint(opts.HashFunc().Size()))), digest, nil
		}
		prefix, ok := digestInfo[opts.HashFunc()]
		if !ok {
			return nil, nil, fmt.Errorf("RSA over %s: %w", opts.HashFunc(), hsm.ErrUnsupported)
		}
		return pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil), append(prefix[:len(prefix):len(prefix)], digest...), nil
	}
	return nil, nil, fmt.Errorf("algorithm %q: %w", alg, hsm.ErrUnsupported)
}

// truncate cuts a digest to the curve's length as FIPS 186-5, 6.4.1 says;
// some modules refuse a longer input instead of cutting it.
func truncate(alg hsm.Algorithm, digest []byte) []byte {
	size := 32
	if alg == hsm.ECDSAP384 {
		size = 48
	}
	return digest[:min(size, len(digest))]
}

func pssParams(h crypto.Hash) (hash, mgf uint, err error) {
	switch h {
	case crypto.SHA256:
		return pkcs11.CKM_SHA256, pkcs11.CKG_MGF1_SHA256, nil
	case crypto.SHA384:
		return pkcs11.CKM_SHA384, pkcs11.CKG_MGF1_SHA384, nil
	case crypto.SHA512:
		return pkcs11.CKM_SHA512, pkcs11.CKG_MGF1_SHA512, nil
	}
	return 0, 0, fmt.Errorf("PSS over %s: %w", h, hsm.ErrUnsupported)
}

// encodeSignature turns the module's signature into crypto.Signer's encoding:
// for ECDSA from r || s of equal length to SEQUENCE { INTEGER r, INTEGER s }.
func encodeSignature(alg hsm.Algorithm, sig []byte) ([]byte, error) {
	if alg != hsm.ECDSAP256 && alg != hsm.ECDSAP384 {
		return sig, nil
	}
	if len(sig) == 0 || len(sig)%2 != 0 || len(sig) > 2*48 { // so that every length below is one octet
		return nil, fmt.Errorf("ECDSA signature of %d octets: %w", len(sig), hsm.ErrBadSignature)
	}
	out := make([]byte, 2, len(sig)+8)
	for _, part := range [][]byte{sig[:len(sig)/2], sig[len(sig)/2:]} {
		for len(part) > 1 && part[0] == 0 {
			part = part[1:]
		}
		if part[0]&0x80 != 0 { // positive
			out = append(out, 0x02, byte(len(part)+1), 0)
		} else {
			out = append(out, 0x02, byte(len(part)))
		}
		out = append(out, part...)
	}
	out[0], out[1] = 0x30, byte(len(out)-2)
	return out, nil
}

// ecPoint unwraps CKA_EC_POINT: an OCTET STRING by the standard, the bare
// point from some modules.
func ecPoint(value []byte, size int) []byte {
	var inner []byte
	if rest, err := asn1.Unmarshal(value, &inner); err == nil && len(rest) == 0 && len(inner) == size {
		return inner
	}
	return value
}
