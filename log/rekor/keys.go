package rekor

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/jedisct1/go-minisign"
	"github.com/sigstore/rekor/pkg/pki/identity"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
)

// publicKey is what a signer's key or certificate says about itself.
type publicKey struct {
	subjects []string // names in the certificate, as written
}

// parsePEM reads one PEM public key or certificate, or a chain of at most ten of which the first counts, and refuses a weak key.
func parsePEM(text []byte) (publicKey, error) {
	block, rest := pem.Decode(bytes.TrimSpace(text))
	if block == nil {
		return publicKey{}, errors.New("public key: not PEM")
	}
	if len(bytes.TrimSpace(rest)) > 0 {
		certs, err := cryptoutils.UnmarshalCertificatesFromPEMLimited(bytes.TrimSpace(text), 10)
		if err != nil {
			return publicKey{}, fmt.Errorf("public key: %w", err)
		}
		if len(certs) == 0 {
			return publicKey{}, errors.New("public key: no certificate in the chain")
		}
		return publicKey{cryptoutils.GetSubjectAlternateNames(certs[0])}, checkKey(certs[0])
	}
	switch block.Type {
	case "PUBLIC KEY":
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return publicKey{}, fmt.Errorf("public key: %w", err)
		}
		return publicKey{}, checkKey(key)
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return publicKey{}, fmt.Errorf("public key: %w", err)
		}
		return publicKey{cryptoutils.GetSubjectAlternateNames(cert)}, checkKey(cert)
	}
	return publicKey{}, fmt.Errorf("public key: PEM of type %.40q, want PUBLIC KEY or CERTIFICATE", block.Type)
}

// checkIdentity applies checkKey to a key as the type packages hand it out: as itself or, for SSH, in a wrapper with its PKIX form beside it.
func checkIdentity(id identity.Identity) error {
	switch id.Crypto.(type) {
	case *x509.Certificate, *rsa.PublicKey, *ecdsa.PublicKey, ed25519.PublicKey, *minisign.PublicKey:
		return checkKey(id.Crypto)
	}
	key, err := x509.ParsePKIXPublicKey(id.Raw)
	if err != nil {
		return fmt.Errorf("unsupported key: %T", id.Crypto)
	}
	return checkKey(key)
}

// checkKey is the floor under every key that signs an entry: RSA of 2048 to 8192 bits with an odd exponent above 2^16 (FIPS 186-5, 5.4), ECDSA
// on P-256, P-384 or P-521 with the point on the curve, Ed25519.
func checkKey(key any) error {
	switch k := key.(type) {
	case *x509.Certificate:
		return checkKey(k.PublicKey)
	case *rsa.PublicKey:
		if bits := k.N.BitLen(); bits < 2048 || bits > 8192 {
			return fmt.Errorf("weak key: RSA of %d bits, 2048 to 8192 are accepted", bits)
		}
		if k.E <= 1<<16 || k.E&1 == 0 {
			return fmt.Errorf("weak key: RSA exponent %d, odd ones above 65536 are accepted", k.E)
		}
		return nil
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() && k.Curve != elliptic.P384() && k.Curve != elliptic.P521() {
			return errors.New("weak key: ECDSA on a curve other than P-256, P-384 and P-521")
		}
		if _, err := k.ECDH(); err != nil {
			return errors.New("weak key: the ECDSA point is not on its curve")
		}
		return nil
	case ed25519.PublicKey, *minisign.PublicKey:
		return nil
	}
	return fmt.Errorf("unsupported key: %T", key)
}

// errPGP: version 4 OpenPGP keys are named by a SHA-1 hash (RFC 4880, 12.2).
var errPGP = fmt.Errorf("%w: OpenPGP keys are not taken in FIPS 140-3 mode: their fingerprints are SHA-1; sign with an x509, ssh or minisign key", ErrEntry)

// checkPGP refuses OpenPGP keys that sign with DSA or ElGamal; the rest of the floor sees only the kinds of key it knows.
func checkPGP(content []byte) error {
	if fips140.Enforced() {
		return errPGP
	}
	read := openpgp.ReadKeyRing
	if bytes.HasPrefix(bytes.TrimSpace(content), []byte("-----BEGIN")) {
		read = openpgp.ReadArmoredKeyRing
	}
	ring, err := read(bytes.NewReader(content))
	if err != nil {
		return fmt.Errorf("OpenPGP key: %w", err)
	}
	check := func(k *packet.PublicKey, signs bool) error {
		switch k.PubKeyAlgo {
		case packet.PubKeyAlgoDSA, packet.PubKeyAlgoElGamal:
			if signs {
				return errors.New("weak key: OpenPGP key of a kind no longer accepted (DSA, ElGamal)")
			}
		}
		return nil
	}
	for _, e := range ring {
		if err := check(e.PrimaryKey, true); err != nil {
			return err
		}
		for _, sub := range e.Subkeys {
			if err := check(sub.PublicKey, sub.Sig == nil || sub.Sig.FlagSign || !sub.Sig.FlagsValid); err != nil {
				return err
			}
		}
	}
	return nil
}

func digestOf(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
