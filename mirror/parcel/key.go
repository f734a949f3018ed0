package parcel

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"golang.org/x/mod/sumdb/note"
)

// Signature types of C2SP signed-note, section "Signatures".
const (
	typeEd25519 = 0x01
	typeECDSA   = 0x02
)

// Verifier checks signature lines of one key. It is a note.Verifier.
type Verifier struct {
	name string
	hash uint32
	kind byte
	key  crypto.PublicKey
}

// NewVerifier reads a verifier key "NAME+HASH+BASE64" (C2SP signed-note, "Verifier keys"): type 0x01 is Ed25519, its key id
// the SHA-256 of name, newline, type and key; type 0x02 is ECDSA P-256 over SHA-256 with an ASN.1 signature, the key in SPKI
// form and its key id the SHA-256 of that, as Rekor does it; type 0x05 is a Certificate Transparency log (see CTVerifierKey), the key in
// SPKI form. Errors are ErrKey.
func NewVerifier(vkey string) (*Verifier, error) {
	name, rest, _ := strings.Cut(strings.TrimSpace(vkey), "+")
	hash, key, _ := strings.Cut(rest, "+")
	h, err := strconv.ParseUint(hash, 16, 32)
	if err != nil || len(hash) != 8 {
		return nil, fmt.Errorf("%w: %.80q has no key id of 8 hex digits", ErrKey, vkey)
	}
	raw, err := base64.StdEncoding.Strict().DecodeString(key)
	if err != nil || len(raw) < 2 || len(raw) > 1024 {
		return nil, fmt.Errorf("%w: %.80q has no base64 key", ErrKey, vkey)
	}
	var pub crypto.PublicKey
	switch raw[0] {
	case typeEd25519:
		pub = ed25519.PublicKey(raw[1:])
	case typeECDSA, typeRFC6962:
		if pub, err = x509.ParsePKIXPublicKey(raw[1:]); err != nil {
			return nil, fmt.Errorf("%w: %v", ErrKey, err)
		}
	default:
		return nil, fmt.Errorf("%w: signature type %#02x", ErrKey, raw[0])
	}
	of := verifierOf
	if raw[0] == typeRFC6962 {
		of = ctVerifierOf
	}
	v, err := of(name, pub)
	if err != nil {
		return nil, err
	}
	if v.hash != uint32(h) || raw[0] != v.kind {
		return nil, fmt.Errorf("%w: key id %s does not belong to key %08x of %q", ErrKey, hash, v.hash, name)
	}
	return v, nil
}

func checkName(name string) error {
	if name == "" || len(name) > 255 || strings.Contains(name, "+") || strings.ContainsFunc(name, unicode.IsSpace) || !printable(name) {
		return fmt.Errorf("%w: %.80q is no key name", ErrKey, name)
	}
	return nil
}

func verifierOf(name string, pub crypto.PublicKey) (*Verifier, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	v := &Verifier{name: name, key: pub}
	switch k := pub.(type) {
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("%w: an Ed25519 key of %d bytes", ErrKey, len(k))
		}
		sum := sha256.Sum256(append([]byte(name+"\n\x01"), k...))
		v.kind, v.hash = typeEd25519, binary.BigEndian.Uint32(sum[:])
	case *ecdsa.PublicKey:
		if k.Curve != elliptic.P256() {
			return nil, fmt.Errorf("%w: an ECDSA key that is not P-256", ErrKey)
		}
		spki, err := x509.MarshalPKIXPublicKey(k)
		if err != nil {
			return nil, fmt.Errorf("%w: %v", ErrKey, err)
		}
		sum := sha256.Sum256(spki)
		v.kind, v.hash = typeECDSA, binary.BigEndian.Uint32(sum[:])
	default:
		return nil, fmt.Errorf("%w: a %T; Ed25519 or ECDSA P-256 is needed", ErrKey, pub)
	}
	return v, nil
}

// VerifierKey returns the verifier key of a public key under a name: what an importer pins.
func VerifierKey(name string, pub crypto.PublicKey) (string, error) {
	v, err := verifierOf(name, pub)
	if err != nil {
		return "", err
	}
	return v.VKey(), nil
}

// Name is the key's name.
func (v *Verifier) Name() string { return v.name }

// Public is the key itself.
func (v *Verifier) Public() crypto.PublicKey { return v.key }

// KeyHash is the key id as a number.
func (v *Verifier) KeyHash() uint32 { return v.hash }

// ID is name and key id, "NAME+HASH": what manifests and reports call the key.
func (v *Verifier) ID() string { return fmt.Sprintf("%s+%08x", v.name, v.hash) }

// VKey is the verifier key.
func (v *Verifier) VKey() string {
	raw := []byte{v.kind}
	if k, ok := v.key.(ed25519.PublicKey); ok {
		raw = append(raw, k...)
	} else if spki, err := x509.MarshalPKIXPublicKey(v.key); err == nil {
		raw = append(raw, spki...)
	}
	return v.ID() + "+" + base64.StdEncoding.EncodeToString(raw)
}

// SameKey tells whether both are one key, whatever they are called.
func (v *Verifier) SameKey(o *Verifier) bool {
	switch k := v.key.(type) {
	case ed25519.PublicKey:
		return k.Equal(o.key)
	case *ecdsa.PublicKey:
		return k.Equal(o.key)
	}
	return false
}

// Verify tells whether sig is the key's signature of msg.
func (v *Verifier) Verify(msg, sig []byte) bool {
	if v.kind == typeRFC6962 {
		return v.verifyTreeHead(msg, sig)
	}
	switch k := v.key.(type) {
	case ed25519.PublicKey:
		return ed25519.Verify(k, msg, sig)
	case *ecdsa.PublicKey:
		sum := sha256.Sum256(msg)
		return ecdsa.VerifyASN1(k, sum[:], sig)
	}
	return false
}

// SignNote signs text, which ends in a newline and has no empty line, as a C2SP signed note with one signature. The
// signature is verified before it is returned.
func SignNote(text []byte, name string, s crypto.Signer) ([]byte, error) {
	v, err := verifierOf(name, s.Public())
	if err != nil {
		return nil, err
	}
	if len(text) == 0 || text[len(text)-1] != '\n' || bytes.Contains(text, []byte("\n\n")) {
		return nil, fmt.Errorf("%w: the text is not one a note can hold", ErrManifest)
	}
	msg, opts := text, crypto.SignerOpts(crypto.Hash(0))
	if v.kind == typeECDSA {
		sum := sha256.Sum256(text)
		msg, opts = sum[:], crypto.SHA256
	}
	sig, err := s.Sign(rand.Reader, msg, opts)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	if !v.Verify(text, sig) {
		return nil, errors.New("signing: the key gave a signature that does not verify")
	}
	id := binary.BigEndian.AppendUint32(nil, v.hash)
	return fmt.Appendf(bytes.Clone(text), "\n— %s %s\n", name, base64.StdEncoding.EncodeToString(append(id, sig...))), nil
}

// OpenNote returns the text of a signed note and the first of the keys that signed it. Lines of unknown keys are ignored; a
// wrong signature under the name and id of a known key refuses the note. Without a known key the error is ErrForeignKey.
func OpenNote(signed []byte, keys []*Verifier) (text []byte, by *Verifier, err error) {
	var list []note.Verifier
	for i, k := range keys {
		if !slices.ContainsFunc(keys[:i], func(o *Verifier) bool { return o.ID() == k.ID() }) {
			list = append(list, k)
		}
	}
	n, err := note.Open(signed, note.VerifierList(list...))
	var unknown *note.UnverifiedNoteError
	switch {
	case errors.As(err, &unknown):
		var by []string
		for _, s := range unknown.Note.UnverifiedSigs {
			by = append(by, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
		}
		return nil, nil, fmt.Errorf("%w: it is signed by %.200q", ErrForeignKey, by)
	case err != nil:
		return nil, nil, err
	}
	for _, k := range keys {
		if k.name == n.Sigs[0].Name && k.hash == n.Sigs[0].Hash {
			return []byte(n.Text), k, nil
		}
	}
	return nil, nil, ErrForeignKey
}
