//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// Generate makes a key pair in the token. The URI must name object (the label)
// and may name id; without one, 16 random octets are taken, since two keys with
// one CKA_ID silently replace each other in some tokens. The label and the id
// must be unused. Key pairs are made one at a time per Token.
func (t *Token) Generate(ctx context.Context, s string, alg hsm.Algorithm) (*hsm.Key, error) {
	u, err := t.keyURI(s)
	if err != nil {
		return nil, err
	}
	fail := func(err error) (*hsm.Key, error) {
		return nil, fmt.Errorf("generating key %s: %w", redact(s), err)
	}
	if u.object == "" {
		return fail(fmt.Errorf("the URI names no object: %w", hsm.ErrUnsupported))
	}
	r, err := recipeOf(alg)
	if err != nil {
		return fail(err)
	}
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return fail(fmt.Errorf("%w: %w", hsm.ErrUnavailable, ctx.Err()))
	}
	id := u.id
	if len(id) == 0 {
		id = make([]byte, 16)
		_, _ = rand.Read(id) // never fails
	}
	// First a look that may reconnect, then the creation that must not run twice.
	err = t.with(ctx, true, func(c *pkcs11.Ctx, conn *connection, sh pkcs11.SessionHandle) error {
		if !slices.Contains(conn.algorithms, alg) {
			return fmt.Errorf("token %q has no mechanism to make and use a key of type %s; it has those of %v: %w", trim(conn.info.Label), alg, conn.algorithms, hsm.ErrUnsupported)
		}
		return unused(c, sh, id, u.object)
	})
	if err != nil {
		return fail(err)
	}
	made := make(chan *hsm.Key, 1)
	err = t.with(ctx, false, func(c *pkcs11.Ctx, conn *connection, _ pkcs11.SessionHandle) error {
		rw, err := c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			return fmt.Errorf("opening read-write session: %w", err)
		}
		defer func() { _ = c.CloseSession(rw) }()
		key, err := t.create(ctx, c, conn, rw, r, id, u.object)
		if err == nil {
			made <- key
		}
		return err
	})
	if err != nil {
		return fail(err)
	}
	return <-made, nil
}

// unused fails with hsm.ErrExists when a key object has the id or the label.
func unused(c *pkcs11.Ctx, s pkcs11.SessionHandle, id []byte, label string) error {
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		for _, sel := range [][]*pkcs11.Attribute{selector(class, id, ""), selector(class, nil, label)} {
			handles, err := find(c, s, 1, sel)
			if err != nil {
				return err
			}
			if len(handles) > 0 {
				return fmt.Errorf("label %q or id %x is taken: %w", label, id, hsm.ErrExists)
			}
		}
	}
	return nil
}

// create makes the pair, reads it back and removes it again when it is not
// what was asked for.
func (t *Token) create(ctx context.Context, c *pkcs11.Ctx, conn *connection, rw pkcs11.SessionHandle, r recipe, id []byte, label string) (key *hsm.Key, err error) {
	pub, priv, err := makePair(c, rw, r, id, label)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, destroy(c, rw, pub, priv))
		}
	}()
	if ctx.Err() != nil { // nobody waits for the key any more
		return nil, ctx.Err()
	}
	// Another process may have made one at the same moment: both then see two.
	for _, sel := range [][]*pkcs11.Attribute{selector(pkcs11.CKO_PRIVATE_KEY, id, ""), selector(pkcs11.CKO_PRIVATE_KEY, nil, label)} {
		handles, err := find(c, rw, 2, sel)
		if err != nil {
			return nil, err
		}
		if len(handles) != 1 {
			return nil, fmt.Errorf("label %q or id %x was taken meanwhile: %w", label, id, hsm.ErrExists)
		}
	}
	key, err = t.load(c, conn, rw, id, label)
	if err != nil {
		return nil, fmt.Errorf("reading the new key back: %w", err)
	}
	attrs, err := readAttributes(c, rw, priv)
	if err != nil {
		return nil, fmt.Errorf("reading the new key back: %w", err)
	}
	if !bytes.Equal(attrs.id, id) || attrs.label != label {
		return nil, fmt.Errorf("the token stored the new key with another id or label: %w", hsm.ErrInsecureKey)
	}
	return key, nil
}

// makePair tries the full template, then a minimal one: modules refuse
// attributes they do not know. Whatever results is read back.
func makePair(c *pkcs11.Ctx, rw pkcs11.SessionHandle, r recipe, id []byte, label string) (pub, priv pkcs11.ObjectHandle, err error) {
	at := pkcs11.NewAttribute
	minPub := []*pkcs11.Attribute{at(pkcs11.CKA_TOKEN, true), at(pkcs11.CKA_ID, id), at(pkcs11.CKA_LABEL, label)}
	if r.params != nil {
		minPub = append(minPub, at(pkcs11.CKA_EC_PARAMS, r.params))
	} else {
		minPub = append(minPub, at(pkcs11.CKA_MODULUS_BITS, r.bits), at(pkcs11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}))
	}
	minPriv := []*pkcs11.Attribute{
		at(pkcs11.CKA_TOKEN, true), at(pkcs11.CKA_PRIVATE, true), at(pkcs11.CKA_SENSITIVE, true), at(pkcs11.CKA_EXTRACTABLE, false),
		at(pkcs11.CKA_SIGN, true), at(pkcs11.CKA_ID, id), at(pkcs11.CKA_LABEL, label),
	}
	fullPub := append(minPub[:len(minPub):len(minPub)],
		at(pkcs11.CKA_PRIVATE, false), at(pkcs11.CKA_VERIFY, true), at(pkcs11.CKA_ENCRYPT, false), at(pkcs11.CKA_WRAP, false), at(pkcs11.CKA_VERIFY_RECOVER, false), at(pkcs11.CKA_MODIFIABLE, false))
	fullPriv := append(minPriv[:len(minPriv):len(minPriv)],
		at(pkcs11.CKA_DECRYPT, false), at(pkcs11.CKA_UNWRAP, false), at(pkcs11.CKA_SIGN_RECOVER, false), at(pkcs11.CKA_DERIVE, false), at(pkcs11.CKA_MODIFIABLE, false), at(pkcs11.CKA_COPYABLE, false))
	mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(r.mechanism, nil)}
	pub, priv, err = c.GenerateKeyPair(rw, mech, fullPub, fullPriv)
	if isCode(err, pkcs11.CKR_TEMPLATE_INCONSISTENT, pkcs11.CKR_TEMPLATE_INCOMPLETE, pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID,
		pkcs11.CKR_ATTRIBUTE_READ_ONLY, pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_ARGUMENTS_BAD) {
		pub, priv, err = c.GenerateKeyPair(rw, mech, minPub, minPriv)
	}
	if err != nil {
		return 0, 0, fmt.Errorf("generating key pair: %w", err)
	}
	return pub, priv, nil
}

// destroy removes a pair that must not stay.
func destroy(c *pkcs11.Ctx, rw pkcs11.SessionHandle, handles ...pkcs11.ObjectHandle) error {
	var errs error
	for _, h := range handles {
		if err := c.DestroyObject(rw, h); err != nil {
			errs = errors.Join(errs, fmt.Errorf("removing the refused key, remove it by hand: %w", err))
		}
	}
	return errs
}
