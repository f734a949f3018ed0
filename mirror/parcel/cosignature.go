package parcel

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// typeCosignature is the signature type of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
const typeCosignature = 0x04

// cosignatureSize is the length of a timestamped_signature: a time of 8 bytes and an Ed25519 signature.
const cosignatureSize = 8 + ed25519.SignatureSize

// ErrNoCosigner says that a key cannot cosign checkpoints: only Ed25519 has a cosignature format that everybody reads.
var ErrNoCosigner = errors.New("only an Ed25519 key cosigns checkpoints")

// Cosigner checks cosignature lines of one Ed25519 key under one name. It is a note.Verifier. A cosignature says that the tree
// of the checkpoint was the largest consistent one its signer had seen at the time it names.
type Cosigner struct {
	name  string
	hash  uint32
	timed bool
	key   ed25519.PublicKey
}

// NewCosigner reads a verifier key of signature type 0x04, cosignature/v1, or 0x01: a plain Ed25519 signature of the text, which
// names no time, as witnesses made them before there was cosignature/v1. Errors are ErrKey.
func NewCosigner(vkey string) (*Cosigner, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(vkey), "+")
	hash, key, _ := strings.Cut(rest, "+")
	raw, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("%w: %.80q has no base64 key of an Ed25519 cosigner", ErrKey, vkey)
	}
	if raw[0] != typeCosignature && raw[0] != typeEd25519 {
		return nil, fmt.Errorf("%w: a cosigner with signature type %#02x; %#02x is needed", ErrKey, raw[0], typeCosignature)
	}
	if _, err := verifierOf(name, ed25519.PublicKey(raw[1:])); err != nil {
		return nil, err
	}
	c := cosignerOf(name, raw[0], raw[1:])
	if h, err := strconv.ParseUint(hash, 16, 32); err != nil || len(hash) != 8 || uint32(h) != c.hash {
		return nil, fmt.Errorf("%w: key id %.20q does not belong to key %08x of %q", ErrKey, hash, c.hash, name)
	}
	return c, nil
}

// cosignerOf computes the key id: SHA-256(name || "\n" || type || key), its first four bytes.
func cosignerOf(name string, kind byte, key ed25519.PublicKey) *Cosigner {
	sum := sha256.Sum256(append(append([]byte(name+"\n"), kind), key...))
	return &Cosigner{name, binary.BigEndian.Uint32(sum[:]), kind == typeCosignature, key}
}

// Cosigner is the key as a cosigner of checkpoints, false when it is not Ed25519.
func (v *Verifier) Cosigner() (*Cosigner, bool) {
	k, ok := v.key.(ed25519.PublicKey)
	if !ok {
		return nil, false
	}
	return cosignerOf(v.name, typeCosignature, k), true
}

// Timed is the cosigner that makes cosignature/v1 lines with the key of c.
func (c *Cosigner) Timed() *Cosigner { return cosignerOf(c.name, typeCosignature, c.key) }

// Name is the key's name.
func (c *Cosigner) Name() string { return c.name }

// KeyHash is the key id as a number.
func (c *Cosigner) KeyHash() uint32 { return c.hash }

// ID is name and key id, "NAME+HASH".
func (c *Cosigner) ID() string { return fmt.Sprintf("%s+%08x", c.name, c.hash) }

// VKey is the verifier key.
func (c *Cosigner) VKey() string {
	kind := byte(typeEd25519)
	if c.timed {
		kind = typeCosignature
	}
	return c.ID() + "+" + base64.StdEncoding.EncodeToString(append([]byte{kind}, c.key...))
}

// Key is the public key itself: what tells two cosigners apart, whatever they are called.
func (c *Cosigner) Key() ed25519.PublicKey { return c.key }

// SameKey tells whether a log's or exporter's key is that of the cosigner.
func (c *Cosigner) SameKey(v *Verifier) bool { return c.key.Equal(v.key) }

// Verify tells whether sig is a cosignature of the checkpoint text.
func (c *Cosigner) Verify(text, sig []byte) bool {
	if !c.timed {
		return ed25519.Verify(c.key, text, sig)
	}
	t, ok := timeOf(sig)
	return ok && ed25519.Verify(c.key, cosigned(text, t), sig[8:])
}

// TimeOf is the time a cosignature of c names, zero if it names none. sig was verified.
func (c *Cosigner) TimeOf(sig []byte) time.Time {
	t, ok := timeOf(sig)
	if !ok || !c.timed {
		return time.Time{}
	}
	return time.Unix(t, 0).UTC()
}

func timeOf(sig []byte) (int64, bool) {
	if len(sig) != cosignatureSize {
		return 0, false
	}
	t := binary.BigEndian.Uint64(sig)
	return int64(t), t > 0 && t <= math.MaxInt64
}

// cosigned is the message that is signed: two lines before the text of the checkpoint.
func cosigned(text []byte, t int64) []byte {
	return append(fmt.Appendf(nil, "cosignature/v1\ntime %d\n", t), text...)
}

// Cosign returns the cosignature of a checkpoint text, key id before it: what the base64 of a signature line holds. The signature
// is verified before it is returned. ErrNoCosigner when the key is not Ed25519.
func Cosign(text []byte, name string, s crypto.Signer, at time.Time) ([]byte, error) {
	v, err := verifierOf(name, s.Public())
	if err != nil {
		return nil, err
	}
	c, ok := v.Cosigner()
	if !ok {
		return nil, fmt.Errorf("%w: this one is a %T", ErrNoCosigner, s.Public())
	}
	sig, err := s.Sign(rand.Reader, cosigned(text, at.Unix()), crypto.Hash(0))
	if err != nil {
		return nil, fmt.Errorf("cosigning: %w", err)
	}
	whole := append(binary.BigEndian.AppendUint64(nil, uint64(at.Unix())), sig...)
	if !c.Verify(text, whole) {
		return nil, errors.New("cosigning: the key gave a signature that does not verify")
	}
	return append(binary.BigEndian.AppendUint32(nil, c.hash), whole...), nil
}

// CheckCosignature verifies what Cosign returned and gives the time it names.
func (c *Cosigner) CheckCosignature(text, signed []byte) (time.Time, bool) {
	if len(signed) != 4+cosignatureSize || binary.BigEndian.Uint32(signed) != c.hash || !c.Verify(text, signed[4:]) {
		return time.Time{}, false
	}
	return c.TimeOf(signed[4:]), true
}

// SignatureLine is a line of a signed note: "— NAME BASE64".
func SignatureLine(name string, signed []byte) string {
	return "— " + name + " " + base64.StdEncoding.EncodeToString(signed) + "\n"
}
