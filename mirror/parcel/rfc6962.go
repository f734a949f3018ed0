package parcel

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/note"
)

// typeRFC6962 is the signature of a Certificate Transparency log under a checkpoint (C2SP static-ct-api, "Checkpoints").
const typeRFC6962 = 0x05

// CTVerifierKey returns the verifier key of a Certificate Transparency log with static-ct-api: its name is the first line of its
// checkpoints.
func CTVerifierKey(name string, pub crypto.PublicKey) (string, error) {
	v, err := ctVerifierOf(name, pub)
	if err != nil {
		return "", err
	}
	return v.VKey(), nil
}

// ctVerifierOf is the key whose id is the SHA-256 of name, newline, type and log id. RFC 6962 has ECDSA P-256 and RSA of 2048 bits
// and more.
func ctVerifierOf(name string, pub crypto.PublicKey) (*Verifier, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%w: an ECDSA key that is not P-256", ErrKey)
		}
	case *rsa.PublicKey:
		if k.N.BitLen() < 2048 {
			return nil, fmt.Errorf("%w: an RSA key of %d bits", ErrKey, k.N.BitLen())
		}
	default:
		return nil, fmt.Errorf("%w: a %T; ECDSA P-256 or RSA is needed", ErrKey, pub)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrKey, err)
	}
	id := sha256.Sum256(spki)
	sum := sha256.Sum256(append([]byte(name+"\n\x05"), id[:]...))
	return &Verifier{name: name, kind: typeRFC6962, hash: binary.BigEndian.Uint32(sum[:]), key: pub}, nil
}

// TreeHeadTime is the time in a tree head that this key signed, of a Certificate Transparency log; zero of any other note.
func (v *Verifier) TreeHeadTime(signed []byte) time.Time {
	if v.kind != typeRFC6962 {
		return time.Time{}
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil {
		return time.Time{}
	}
	sig, err := base64.StdEncoding.DecodeString(n.Sigs[0].Base64)
	if err != nil || len(sig) < 12 { // of the key hash and the timestamp
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(sig[4:]) & math.MaxInt64)).UTC()
}

// verifyTreeHead verifies an RFC6962NoteSignature over the text of a checkpoint:
//
//	uint64 timestamp;  uint8 hash = sha256(4);  uint8 signature = ecdsa(3) | rsa(1);  opaque signature<0..2^16-1>
//
// What the log signed is the TreeHeadSignature of RFC 6962, section 3.5: it holds neither origin nor extension lines. So the origin
// has to be the key's name, which the key id binds, and there are no extension lines.
func (v *Verifier) verifyTreeHead(text, sig []byte) bool {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[3] != "" || lines[0] != v.name || len(sig) < 12 || sig[8] != 4 || int(binary.BigEndian.Uint16(sig[10:])) != len(sig)-12 {
		return false
	}
	size, err := strconv.ParseUint(lines[1], 10, 63)
	root, rerr := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || rerr != nil || len(root) != sha256.Size || strconv.FormatUint(size, 10) != lines[1] {
		return false
	}
	signed := append([]byte{0, 1}, sig[:8]...) // version v1, tree_hash, timestamp
	signed = append(binary.BigEndian.AppendUint64(signed, size), root...)
	sum := sha256.Sum256(signed)
	switch k := v.key.(type) {
	case *ecdsa.PublicKey:
		return sig[9] == 3 && ecdsa.VerifyASN1(k, sum[:], sig[12:])
	case *rsa.PublicKey:
		return sig[9] == 1 && rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], sig[12:]) == nil
	}
	return false
}
