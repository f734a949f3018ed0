package tpm

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// strongAuth is the length from which an authorisation value is not guessed, so
// that its keys need no dictionary-attack protection and do not stand still when
// somebody else's wrong tries lock the TPM.
const strongAuth = 16

// template is the public area asked for.
func template(alg hsm.Algorithm, noDA bool) (tpm2.TPMTPublic, error) {
	t := tpm2.TPMTPublic{NameAlg: tpm2.TPMAlgSHA256, ObjectAttributes: tpm2.TPMAObject{
		FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, SignEncrypt: true, NoDA: noDA}}
	ecc := func(curve tpm2.TPMECCCurve) {
		t.Type = tpm2.TPMAlgECC
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{CurveID: curve})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	}
	rsa := func(bits tpm2.TPMKeyBits) {
		t.Type = tpm2.TPMAlgRSA
		t.Parameters = tpm2.NewTPMUPublicParms(tpm2.TPMAlgRSA, &tpm2.TPMSRSAParms{KeyBits: bits})
		t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{})
	}
	switch alg {
	case hsm.ECDSAP256:
		ecc(tpm2.TPMECCNistP256)
	case hsm.ECDSAP384:
		ecc(tpm2.TPMECCNistP384)
	case hsm.RSA3072:
		rsa(3072)
	case hsm.RSA4096:
		rsa(4096)
	case hsm.Ed25519:
		return t, fmt.Errorf("Ed25519: TPM 2.0 chips sign with it in no revision this product speaks; use ecdsa-p256: %w", hsm.ErrUnsupported)
	default:
		return t, fmt.Errorf("algorithm %.40q: %w", alg, hsm.ErrUnsupported)
	}
	return t, nil
}

// probe asks the TPM whether it has the algorithm.
func (c *commands) probe(alg hsm.Algorithm) error {
	t, err := template(alg, true)
	if err != nil {
		return err
	}
	_, err = tpm2.TestParms{Parameters: tpm2.TPMTPublicParms{Type: t.Type, Parameters: t.Parameters}}.Execute(c.w)
	if err != nil && !isLost(err) {
		return fmt.Errorf("%s: this TPM (%s %s) refuses its parameters: %w: %w", alg, c.t.state.props.manufacturer, c.t.state.props.vendor, hsm.ErrUnsupported, err)
	}
	return err
}

// algorithms asks the TPM once, after each reset, which of hsm.Algorithms it has.
func (c *commands) algorithms() (string, error) {
	p := c.t.state.props
	if p.algorithms == "" {
		var have []string
		for _, alg := range hsm.Algorithms() {
			switch err := c.probe(alg); {
			case err == nil:
				have = append(have, string(alg))
			case !errors.Is(err, hsm.ErrUnsupported):
				return "", err
			}
		}
		p.algorithms = strings.Join(have, " ")
	}
	return p.algorithms, nil
}

// generate makes a key and stores it.
func (t *Token) generate(ctx context.Context, u *uri, alg hsm.Algorithm) (*keyRef, error) {
	if _, err := template(alg, true); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	if u.file != "" && exists(u.path) {
		return nil, fmt.Errorf("%s: %w", u.path, hsm.ErrExists)
	}
	r := &keyRef{u: u}
	err := t.with(ctx, func(c *commands) error {
		if u.handle != 0 {
			if _, err := c.readPersistent(u.handle); err == nil {
				return fmt.Errorf("a key lies at 0x%08x: %w", u.handle, hsm.ErrExists)
			} else if !errors.Is(err, hsm.ErrNotFound) {
				return err
			}
		}
		if err := c.probe(alg); err != nil {
			return err
		}
		var auth []byte
		if t.c.AuthFile != "" {
			var err error
			if auth, err = t.auth(); err != nil {
				return err
			}
		}
		f, err := c.create(alg, auth)
		if err != nil {
			return err
		}
		public, err := publicArea(f.public)
		if err != nil {
			return err
		}
		if err := r.pin(*public); err != nil { // attributes as made, not as asked
			return err
		}
		if got, err := hsm.AlgorithmOf(r.pub); err != nil || got != alg {
			return fmt.Errorf("the TPM made a key of type %s, asked was %s: %w", got, alg, hsm.ErrUnsupported)
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
		}
		h, err := c.loadFile(f, r.name)
		if err != nil {
			return err
		}
		if u.handle != 0 {
			if err := c.persist(h, r.name, u.handle); err != nil {
				return err
			}
		} else {
			if err := writeKeyFile(u.path, f); err != nil {
				return err
			}
			r.file = f
		}
		return c.describe(r)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// create makes a key under the storage root key; the authorisation value travels
// encrypted.
func (c *commands) create(alg hsm.Algorithm, auth []byte) (*keyFile, error) {
	p, err := c.srk()
	if err != nil {
		return nil, err
	}
	t, err := template(alg, len(auth) == 0 || len(auth) >= strongAuth)
	if err != nil {
		return nil, err
	}
	session, err := c.salted(p, nil, c.encryption(true, false)...)
	if err != nil {
		return nil, err
	}
	defer c.w.slowly()()
	r, err := tpm2.Create{
		ParentHandle: p.auth(session), InPublic: tpm2.New2B(t),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: auth}}},
	}.Execute(c.w)
	c.release(p.handle)
	if err != nil {
		return nil, fmt.Errorf("making the key: %w", err)
	}
	return &keyFile{kind: oidLoadable, emptyAuth: len(auth) == 0, parent: p.reference, public: r.OutPublic.Bytes(), private: r.OutPrivate.Buffer}, nil
}

// persist moves a loaded key to a persistent handle.
func (c *commands) persist(h tpm2.TPMHandle, name tpm2.TPM2BName, handle uint32) error {
	owner, err := c.owner()
	if err != nil {
		return err
	}
	_, err = tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner},
		ObjectHandle:     tpm2.NamedHandle{Handle: h, Name: name},
		PersistentHandle: tpm2.TPMHandle(handle),
	}.Execute(c.w)
	if errors.Is(err, tpm2.TPMRCNVDefined) {
		return fmt.Errorf("a key lies at 0x%08x: %w", handle, hsm.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("storing the key at 0x%08x: %w", handle, err)
	}
	return nil
}

// owner is a session that authorises the owner hierarchy.
func (c *commands) owner() (tpm2.Session, error) {
	value, err := c.t.ownerAuth()
	if err != nil {
		return nil, err
	}
	p, err := c.srk()
	if err != nil {
		return nil, err
	}
	return c.salted(p, value)
}
