//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"sync/atomic"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// keyRef finds a key again after its handle was lost.
type keyRef struct {
	id    []byte // CKA_ID
	label string // CKA_LABEL
	alg   hsm.Algorithm
	pub   interface{ Equal(crypto.PublicKey) bool } // pinned when opened
	spki  string                                    // pub as DER SubjectPublicKeyInfo: names the key within a connection
	mech  []*pkcs11.Mechanism                       // of ECDSA, which has no parameters; nil for others
	found atomic.Pointer[located]                   // where it was last
}

// located is the handle of a key on one connection.
type located struct {
	conn   *connection
	handle pkcs11.ObjectHandle
}

// goneError: after a reconnection the key is missing or is another one.
type goneError struct{ reason error }

func (e *goneError) Error() string { return "key is gone from the token: " + e.reason.Error() }
func (e *goneError) Unwrap() error { return e.reason }

// Signer returns the one private key the URI names by object, id or both.
func (t *Token) Signer(ctx context.Context, s string) (*hsm.Key, error) {
	u, err := t.keyURI(s)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, ConnectTimeout)
	defer cancel()
	found := make(chan *hsm.Key, 2)
	err = t.with(ctx, true, func(c *pkcs11.Ctx, conn *connection, sh pkcs11.SessionHandle) error {
		key, err := t.load(c, conn, sh, u.id, u.object)
		if err == nil {
			found <- key
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", redact(s), err)
	}
	return <-found, nil
}

// keyURI parses the URI of a key of this token.
func (t *Token) keyURI(s string) (*uri, error) {
	u, err := parseURI(s)
	if err != nil {
		return nil, err
	}
	if err := u.sameToken(t.uri); err != nil {
		return nil, err
	}
	if u.object == "" && len(u.id) == 0 {
		return nil, fmt.Errorf("key URI %s names neither object nor id: %w", redact(s), hsm.ErrUnsupported)
	}
	return u, nil
}

// load finds a key, reads it back, checks its protection and wraps it.
func (t *Token) load(c *pkcs11.Ctx, conn *connection, sh pkcs11.SessionHandle, id []byte, label string) (*hsm.Key, error) {
	handle, err := findPrivate(c, sh, id, label)
	if err != nil {
		return nil, err
	}
	attrs, err := readAttributes(c, sh, handle)
	if err != nil {
		return nil, err
	}
	if err := attrs.acceptable(t.import_); err != nil {
		return nil, err
	}
	ref := &keyRef{id: attrs.id, label: attrs.label}
	pub, err := publicKey(c, sh, handle, attrs)
	if err != nil {
		return nil, err
	}
	if ref.alg, err = hsm.AlgorithmOf(pub); err != nil {
		return nil, err
	}
	var ok bool
	if ref.pub, ok = pub.(interface{ Equal(crypto.PublicKey) bool }); !ok {
		return nil, fmt.Errorf("public key of type %T: %w", pub, hsm.ErrUnsupported)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	ref.spki = string(spki)
	if ref.alg == hsm.ECDSAP256 || ref.alg == hsm.ECDSAP384 {
		ref.mech = []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	}
	info := hsm.Info{
		URI:        canonicalURI(trim(conn.info.Label), trim(conn.info.SerialNumber), ref.label, ref.id, t.mod.path),
		Kind:       "pkcs11",
		Token:      trim(conn.info.Label),
		Label:      ref.label,
		ID:         hex.EncodeToString(ref.id),
		Algorithm:  ref.alg,
		Software:   isSoftware(conn.info, t.mod.path),
		Module:     conn.identity,
		TokenState: tokenState(conn.info),
		Attributes: attrs.show(),

		TokenAlgorithms: conn.algorithms,
		Evidence:        attrs.evidence(),
	}
	conn.mu.Lock()
	conn.objects[ref.spki] = handle
	conn.mu.Unlock()
	return hsm.NewKey(info, pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return t.sign(ctx, ref, digest, opts)
	})
}

// sign makes one signature, recovering once from a lost connection.
func (t *Token) sign(ctx context.Context, k *keyRef, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	mech, input, err := k.mechanism(digest, opts)
	if err != nil {
		return nil, err
	}
	var sig []byte // read only when the call that wrote it has ended
	err = t.with(ctx, true, func(c *pkcs11.Ctx, conn *connection, s pkcs11.SessionHandle) error {
		handle, err := conn.object(c, s, k)
		if err != nil {
			return err
		}
		if err := c.SignInit(s, mech, handle); err != nil {
			return fmt.Errorf("starting signature: %w", err)
		}
		if sig, err = c.Sign(s, input); err != nil {
			return fmt.Errorf("signing: %w", err)
		}
		return nil
	})
	if err != nil {
		if !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrUnsupported) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err) // the key was there: whatever is missing now may come back
		}
		return nil, err
	}
	return encodeSignature(k.alg, sig)
}

// mechanism is mechanismFor, without making the mechanism anew each time.
func (k *keyRef) mechanism(digest []byte, opts crypto.SignerOpts) ([]*pkcs11.Mechanism, []byte, error) {
	if k.mech != nil {
		return k.mech, truncate(k.alg, digest), nil
	}
	mech, input, err := mechanismFor(k.alg, digest, opts)
	return []*pkcs11.Mechanism{mech}, input, err
}

// object returns the handle of a key on this connection. The first use after a
// reconnection searches it and compares its public key with the pinned one.
func (conn *connection) object(c *pkcs11.Ctx, s pkcs11.SessionHandle, k *keyRef) (pkcs11.ObjectHandle, error) {
	if at := k.found.Load(); at != nil && at.conn == conn {
		return at.handle, nil
	}
	conn.mu.Lock()
	handle, ok := conn.objects[k.spki]
	conn.mu.Unlock()
	if ok {
		k.found.Store(&located{conn, handle})
		return handle, nil
	}
	handle, err := findPrivate(c, s, k.id, k.label)
	if errors.Is(err, hsm.ErrNotFound) || errors.Is(err, hsm.ErrAmbiguous) {
		return 0, &goneError{err}
	}
	if err != nil {
		return 0, err
	}
	attrs, err := readAttributes(c, s, handle)
	if err != nil {
		return 0, err
	}
	pub, err := publicKey(c, s, handle, attrs)
	if isLost(err) {
		return 0, err
	}
	if err != nil {
		return 0, &goneError{err}
	}
	if !k.pub.Equal(pub) {
		return 0, &goneError{fmt.Errorf("its name is now held by a key with another public key: %w", hsm.ErrInsecureKey)}
	}
	conn.mu.Lock()
	conn.objects[k.spki] = handle
	conn.mu.Unlock()
	return handle, nil
}

// find returns up to limit handles that match a template.
func find(c *pkcs11.Ctx, s pkcs11.SessionHandle, limit int, template []*pkcs11.Attribute) ([]pkcs11.ObjectHandle, error) {
	if err := c.FindObjectsInit(s, template); err != nil {
		return nil, fmt.Errorf("searching objects: %w", err)
	}
	handles, _, err := c.FindObjects(s, limit)
	if err := errors.Join(err, c.FindObjectsFinal(s)); err != nil {
		return nil, fmt.Errorf("searching objects: %w", err)
	}
	return handles, nil
}

// findPrivate returns the one private key of that id and label (either may be
// empty, not both).
func findPrivate(c *pkcs11.Ctx, s pkcs11.SessionHandle, id []byte, label string) (pkcs11.ObjectHandle, error) {
	handles, err := find(c, s, 2, selector(pkcs11.CKO_PRIVATE_KEY, id, label))
	switch {
	case err != nil:
		return 0, err
	case len(handles) == 0 && loggedOut(c, s):
		return 0, fmt.Errorf("searching a private key: %w", pkcs11.Error(pkcs11.CKR_USER_NOT_LOGGED_IN))
	case len(handles) == 0:
		return 0, fmt.Errorf("no private key with label %q and id %x: %w", label, id, hsm.ErrNotFound)
	case len(handles) > 1:
		return 0, fmt.Errorf("more than one private key with label %q and id %x: %w", label, id, hsm.ErrAmbiguous)
	}
	return handles[0], nil
}

// loggedOut reports whether a session has lost its login, which hides private
// keys: not found is then no answer.
func loggedOut(c *pkcs11.Ctx, s pkcs11.SessionHandle) bool {
	info, err := c.GetSessionInfo(s)
	if err != nil || info.State != pkcs11.CKS_RO_PUBLIC_SESSION && info.State != pkcs11.CKS_RW_PUBLIC_SESSION {
		return false
	}
	ti, err := c.GetTokenInfo(info.SlotID)
	return err == nil && ti.Flags&pkcs11.CKF_LOGIN_REQUIRED != 0
}

// selector is the search template of one object class by id and label.
func selector(class uint, id []byte, label string) []*pkcs11.Attribute {
	t := []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true)}
	if len(id) > 0 {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_ID, id))
	}
	if label != "" {
		t = append(t, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	}
	return t
}

// publicKey reads the public half: from the public key object of the same
// CKA_ID, else from the private key object where the module shows it there.
func publicKey(c *pkcs11.Ctx, s pkcs11.SessionHandle, private pkcs11.ObjectHandle, a attributes) (crypto.PublicKey, error) {
	sources := []pkcs11.ObjectHandle{private}
	if len(a.id) > 0 {
		handles, err := find(c, s, 2, append(selector(pkcs11.CKO_PUBLIC_KEY, a.id, ""), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, a.keyType)))
		if err != nil {
			return nil, err
		}
		if len(handles) > 1 {
			return nil, fmt.Errorf("more than one public key with id %x: %w", a.id, hsm.ErrAmbiguous)
		}
		sources = append(handles, sources...)
	}
	var err error
	for _, h := range sources {
		var pub crypto.PublicKey
		if pub, err = readPublic(c, s, h, a.keyType); err == nil {
			return pub, nil
		}
	}
	return nil, fmt.Errorf("reading public key: %w", err)
}

// readPublic reads the public components of one object.
func readPublic(c *pkcs11.Ctx, s pkcs11.SessionHandle, h pkcs11.ObjectHandle, keyType uint) (crypto.PublicKey, error) {
	get := func(a, b uint) (x, y []byte, err error) {
		v, err := c.GetAttributeValue(s, h, []*pkcs11.Attribute{pkcs11.NewAttribute(a, nil), pkcs11.NewAttribute(b, nil)})
		if err != nil {
			return nil, nil, err
		}
		if len(v) != 2 || len(v[0].Value) == 0 || len(v[1].Value) == 0 {
			return nil, nil, errors.New("token shows no public components")
		}
		return v[0].Value, v[1].Value, nil
	}
	switch keyType {
	case pkcs11.CKK_RSA:
		n, e, err := get(pkcs11.CKA_MODULUS, pkcs11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		exp := new(big.Int).SetBytes(e)
		if !exp.IsInt64() || exp.Int64() < 65537 || exp.Int64() > 1<<31-1 {
			return nil, fmt.Errorf("RSA key with exponent %s: %w", exp, hsm.ErrUnsupported)
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp.Int64())}, nil
	case pkcs11.CKK_EC:
		params, point, err := get(pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		curve, size := elliptic.P256(), 65
		switch {
		case bytes.Equal(params, paramsP256):
		case bytes.Equal(params, paramsP384):
			curve, size = elliptic.P384(), 97
		default:
			return nil, fmt.Errorf("elliptic curve with parameters %x: %w", params, hsm.ErrUnsupported)
		}
		return ecdsa.ParseUncompressedPublicKey(curve, ecPoint(point, size)) // checks the point
	case ckkECEdwards:
		params, point, err := get(pkcs11.CKA_EC_PARAMS, pkcs11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		point = ecPoint(point, ed25519.PublicKeySize)
		if !bytes.Equal(params, paramsEd25519) && !bytes.Equal(params, paramsEd25519OID) || len(point) != ed25519.PublicKeySize {
			return nil, fmt.Errorf("Edwards curve with parameters %x: %w", params, hsm.ErrUnsupported)
		}
		return ed25519.PublicKey(point), nil
	}
	return nil, fmt.Errorf("key type 0x%x: %w", keyType, hsm.ErrUnsupported)
}
