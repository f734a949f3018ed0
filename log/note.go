package log

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"redoubt.internal/hsm"
)

// ErrNote says that a checkpoint is not a C2SP checkpoint signed by the key it is checked with.
var ErrNote = errors.New("the checkpoint does not verify")

// MaxNote bounds a checkpoint with its signatures, in bytes.
const MaxNote = 64 << 10

// SignNote makes a C2SP checkpoint: origin, size in decimal and root in base64, a line each, signed by s.
//
// The name in the signature line is the origin, or for a Rekor v1 origin ("host - treeID") the host. The key hash is, as
// Rekor's clients compute it, SHA-256(SPKI)[:4] for ECDSA keys and for every key under a v1 origin; for others the
// C2SP signed-note one over name, algorithm byte and key. ECDSA signs SHA-256 of the text (SHA-384 under P-384), DER
// encoded; RSA is PKCS#1 v1.5 over SHA-256; Ed25519 signs the text.
//
// The signature is verified before the note is returned.
func SignNote(origin string, s crypto.Signer, size uint64, root [32]byte) ([]byte, error) {
	k, err := newNoteKey(origin, s.Public())
	if err != nil {
		return nil, err
	}
	sig, err := k.sign(s, size, root)
	if err != nil {
		return nil, err
	}
	if err := k.verify(size, root, sig); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return renderNote(origin, size, root, sig), nil
}

// unverified asks an hsm.Key not to verify what the caller verifies itself: once is enough, and costs 46 us.
func unverified(s crypto.Signer) crypto.Signer {
	if k, ok := s.(*hsm.Key); ok {
		return k.Unverified()
	}
	return s
}

// noteKey is a public key under an origin.
type noteKey struct {
	origin string
	pub    crypto.PublicKey
	hash   [4]byte       // of the signature line
	own    *hsm.Verifier // for the heads this log signs; nil for notes of others
}

func newNoteKey(origin string, pub crypto.PublicKey) (*noteKey, error) {
	kh, err := noteKeyHash(origin, pub)
	if err != nil {
		return nil, err
	}
	return &noteKey{origin: origin, pub: pub, hash: [4]byte(kh)}, nil
}

// sign returns the key hash followed by the signature, the payload of a signature line. The caller verifies it.
func (k *noteKey) sign(s crypto.Signer, size uint64, root [32]byte) ([]byte, error) {
	msg, opts := noteDigest(k.pub, noteText(k.origin, size, root))
	sig, err := unverified(s).Sign(rand.Reader, msg, opts)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSigning, err)
	}
	return append(k.hash[:4:4], sig...), nil
}

// verify checks what sign made.
func (k *noteKey) verify(size uint64, root [32]byte, sig []byte) error {
	ok := false
	if len(sig) > 4 && bytes.Equal(sig[:4], k.hash[:]) {
		msg, opts := noteDigest(k.pub, noteText(k.origin, size, root))
		switch p := k.pub.(type) {
		case *ecdsa.PublicKey:
			if k.own != nil {
				ok = k.own.Verify(msg, sig[4:], opts)
				break
			}
			ok = ecdsa.VerifyASN1(p, msg, sig[4:])
		case *rsa.PublicKey:
			ok = rsa.VerifyPKCS1v15(p, opts.HashFunc(), msg, sig[4:]) == nil
		case ed25519.PublicKey:
			ok = ed25519.Verify(p, msg, sig[4:])
		}
	}
	if !ok {
		return fmt.Errorf("%w: size %d of %s", ErrNote, size, k.origin)
	}
	return nil
}

// VerifyNote reads a checkpoint of origin signed by pub. Further signature lines are tolerated and not looked at.
func VerifyNote(origin string, pub crypto.PublicKey, note []byte) (size uint64, root [32]byte, err error) {
	bad := func(what string) (uint64, [32]byte, error) {
		return 0, [32]byte{}, fmt.Errorf("%w: %s", ErrNote, what)
	}
	if len(note) > MaxNote || !utf8.Valid(note) || bytes.IndexFunc(note, func(r rune) bool { return r < 0x20 && r != '\n' }) >= 0 {
		return bad("it is not a note")
	}
	text, sigs, ok := strings.Cut(string(note), "\n\n")
	if !ok || !strings.HasSuffix(sigs, "\n") {
		return bad("it is not a signed note")
	}
	lines := strings.Split(text, "\n")
	if len(lines) < 3 || lines[0] != origin {
		return bad("it is not of " + origin)
	}
	size, err = strconv.ParseUint(lines[1], 10, 64)
	if err != nil || strconv.FormatUint(size, 10) != lines[1] {
		return bad("its size is not a number")
	}
	r, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(r) != 32 {
		return bad("its root is not a hash")
	}
	root = [32]byte(r)
	// Extension lines would be covered by the signature; this log writes none and reads none.
	if len(lines) > 3 {
		return bad("it has extension lines")
	}
	k, err := newNoteKey(origin, pub)
	if err != nil {
		return 0, [32]byte{}, err
	}
	for _, line := range strings.Split(strings.TrimSuffix(sigs, "\n"), "\n") {
		name, b64, ok := strings.Cut(strings.TrimPrefix(line, "\u2014 "), " ")
		if !strings.HasPrefix(line, "\u2014 ") || !ok {
			return bad("it has a line that is no signature")
		}
		sig, err := base64.StdEncoding.Strict().DecodeString(b64)
		if err != nil || len(sig) < 5 {
			return bad("it has a line that is no signature")
		}
		if name == noteName(origin) && k.verify(size, root, sig) == nil {
			return size, root, nil
		}
	}
	return bad("no signature of the log's key")
}

func noteText(origin string, size uint64, root [32]byte) []byte {
	b := append([]byte(origin), '\n')
	b = strconv.AppendUint(b, size, 10)
	b = append(b, '\n')
	b = base64.StdEncoding.AppendEncode(b, root[:])
	return append(b, '\n')
}

func renderNote(origin string, size uint64, root [32]byte, sig []byte) []byte {
	b := append(noteText(origin, size, root), "\n\u2014 "...)
	b = append(b, noteName(origin)...)
	b = append(b, ' ')
	b = base64.StdEncoding.AppendEncode(b, sig)
	return append(b, '\n')
}

// noteName is the key name in the signature line.
func noteName(origin string) string {
	if host, ok := v1Origin(origin); ok {
		return host
	}
	return origin
}

// v1Origin splits "host - digits".
func v1Origin(origin string) (host string, ok bool) {
	i := strings.LastIndex(origin, " - ")
	if i < 1 || i+3 == len(origin) || strings.Trim(origin[i+3:], "0123456789") != "" {
		return "", false
	}
	return origin[:i], true
}

// checkOrigin holds an origin to what C2SP signed-note allows a key name to be.
func checkOrigin(origin string) error {
	name := noteName(origin)
	if name == "" || len(origin) > 255 || !utf8.ValidString(origin) || strings.ContainsRune(name, '+') ||
		strings.IndexFunc(name, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) >= 0 {
		return fmt.Errorf("%w: %q cannot be an origin (1 to 255 bytes, no spaces, no plus sign)", ErrConfig, origin)
	}
	return nil
}

func noteKeyHash(origin string, pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var sum [32]byte
	_, v1 := v1Origin(origin)
	switch p := pub.(type) {
	case ed25519.PublicKey:
		sum = sha256.Sum256(append([]byte(origin+"\n\x01"), p...))
	case *rsa.PublicKey:
		sum = sha256.Sum256(append([]byte(origin+"\n\xffPKIX-RSA-PKCS#1v1.5"), spki...))
	case *ecdsa.PublicKey:
		v1 = true
	default:
		return nil, fmt.Errorf("%w: a key of type %T cannot sign a checkpoint", ErrConfig, pub)
	}
	if v1 {
		sum = sha256.Sum256(spki)
	}
	return sum[:], nil
}

func noteDigest(pub crypto.PublicKey, text []byte) ([]byte, crypto.SignerOpts) {
	switch p := pub.(type) {
	case ed25519.PublicKey:
		return text, crypto.Hash(0)
	case *ecdsa.PublicKey:
		if p.Curve == elliptic.P384() {
			d := sha512.Sum384(text)
			return d[:], crypto.SHA384
		}
	}
	d := sha256.Sum256(text)
	return d[:], crypto.SHA256
}
