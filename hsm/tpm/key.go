package tpm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// keyRef finds a key again, and pins what it is.
type keyRef struct {
	u      *uri
	file   *keyFile // nil for a persistent key
	public tpm2.TPMTPublic
	name   tpm2.TPM2BName // digest of the public area, attributes included
	pub    crypto.PublicKey
	info   map[string]string // TokenState
	soft   bool
}

// withAuth reports whether using the key takes the authorisation value.
func (r *keyRef) withAuth(t *Token) bool {
	if r.file != nil {
		return !r.file.emptyAuth
	}
	return t.c.AuthFile != ""
}

// find opens an existing key: its public area is read and judged, and the TPM
// shows that it has it by loading it.
func (t *Token) find(ctx context.Context, u *uri) (*keyRef, error) {
	r := &keyRef{u: u}
	if u.file != "" {
		f, err := readKeyFile(u.path, oidLoadable)
		if err != nil {
			return nil, err
		}
		if len(f.policy) > 0 {
			return nil, fmt.Errorf("%s: the key has a policy: %w", u.path, hsm.ErrUnsupported)
		}
		public, err := publicArea(f.public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", u.path, err)
		}
		if err := r.pin(*public); err != nil {
			return nil, err
		}
		r.file = f
	}
	err := t.with(ctx, func(c *commands) error {
		if u.file == "" {
			public, err := c.readPersistent(u.handle)
			if err != nil {
				return err
			}
			if err := r.pin(*public); err != nil {
				return err
			}
		}
		if _, err := c.load(r); err != nil {
			return err
		}
		return c.describe(r)
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// pin notes what the key is, after judging its attributes.
func (r *keyRef) pin(public tpm2.TPMTPublic) (err error) {
	if err := checkAttributes(public.ObjectAttributes); err != nil {
		return err
	}
	if r.pub, err = publicKey(public); err != nil {
		return err
	}
	if _, err := hsm.AlgorithmOf(r.pub); err != nil {
		return err
	}
	name, err := tpm2.ObjectName(&public)
	if err != nil {
		return fmt.Errorf("naming the key: %w", err)
	}
	r.public, r.name = public, *name
	return nil
}

// checkAttributes refuses every key that could leave the TPM, came from outside,
// or does more than sign.
func checkAttributes(a tpm2.TPMAObject) error {
	for _, c := range []struct {
		bad  bool
		what string
	}{
		{!a.FixedTPM || !a.FixedParent, "it may leave the TPM (fixedTPM or fixedParent is clear)"},
		{!a.SensitiveDataOrigin, "it was not made inside the TPM (sensitiveDataOrigin is clear)"},
		{!a.UserWithAuth, "it is used by policy alone (userWithAuth is clear)"},
		{!a.SignEncrypt, "it does not sign"},
		{a.Decrypt, "it decrypts too"},
		{a.Restricted, "it is restricted to what the TPM made itself"},
		{a.EncryptedDuplication, "it may be duplicated"},
	} {
		if c.bad {
			return fmt.Errorf("%w: %s", hsm.ErrInsecureKey, c.what)
		}
	}
	return nil
}

// publicKey gives a public area as a key of the standard library, with the point
// on the curve checked.
func publicKey(p tpm2.TPMTPublic) (crypto.PublicKey, error) {
	switch p.Type {
	case tpm2.TPMAlgECC:
		params, err := p.Parameters.ECCDetail()
		if err != nil {
			return nil, err
		}
		point, err := p.Unique.ECC()
		if err != nil {
			return nil, err
		}
		var curve elliptic.Curve
		switch params.CurveID {
		case tpm2.TPMECCNistP256:
			curve = elliptic.P256()
		case tpm2.TPMECCNistP384:
			curve = elliptic.P384()
		default:
			return nil, fmt.Errorf("elliptic curve 0x%04x: %w", uint16(params.CurveID), hsm.ErrUnsupported)
		}
		size := (curve.Params().BitSize + 7) / 8
		if len(point.X.Buffer) > size || len(point.Y.Buffer) > size {
			return nil, errors.New("point longer than its curve")
		}
		raw := make([]byte, 1+2*size)
		raw[0] = 4
		copy(raw[1+size-len(point.X.Buffer):], point.X.Buffer)
		copy(raw[1+2*size-len(point.Y.Buffer):], point.Y.Buffer)
		return ecdsa.ParseUncompressedPublicKey(curve, raw)
	case tpm2.TPMAlgRSA:
		params, err := p.Parameters.RSADetail()
		if err != nil {
			return nil, err
		}
		n, err := p.Unique.RSA()
		if err != nil {
			return nil, err
		}
		e := int(params.Exponent)
		if e == 0 {
			e = 65537
		}
		if e != 65537 || len(n.Buffer) == 0 || len(n.Buffer)*8 != int(params.KeyBits) || n.Buffer[0]&0x80 == 0 {
			return nil, fmt.Errorf("RSA key with exponent %d and %d octets: %w", e, len(n.Buffer), hsm.ErrUnsupported)
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n.Buffer), E: e}, nil
	}
	return nil, fmt.Errorf("TPM key of type 0x%04x: %w", uint16(p.Type), hsm.ErrUnsupported)
}

// readPersistent reads the public area at a handle.
func (c *commands) readPersistent(handle uint32) (*tpm2.TPMTPublic, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(handle)}.Execute(c.w)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, fmt.Errorf("no key at handle 0x%08x: %w", handle, hsm.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the key at 0x%08x: %w", handle, err)
	}
	return publicArea(r.OutPublic.Bytes())
}

// load makes the key usable and returns its handle. A context saved from an
// earlier load spares unwrapping it again; one that no longer loads means that
// the TPM was reset.
func (c *commands) load(r *keyRef) (tpm2.TPMHandle, error) {
	s := &c.t.state
	if r.file == nil {
		if clock, err := c.clock(); err != nil {
			return 0, err
		} else if !sameBoot(*s.clock, *clock) {
			return 0, errStale
		}
		if !s.checked[r.u.handle] {
			public, err := c.readPersistent(r.u.handle)
			if err != nil {
				return 0, err
			}
			if name, err := tpm2.ObjectName(public); err != nil || !sameName(*name, r.name) {
				return 0, fmt.Errorf("%w: another key lies at 0x%08x than when it was opened", hsm.ErrUnavailable, r.u.handle)
			}
			s.checked[r.u.handle] = true
		}
		return tpm2.TPMHandle(r.u.handle), nil
	}
	if saved, ok := s.contexts[string(r.name.Buffer)]; ok {
		l, err := tpm2.ContextLoad{Context: saved}.Execute(c.w)
		if err == nil {
			c.keep(tpm2.TPMHandle(l.LoadedHandle), r.name, nil)
			return tpm2.TPMHandle(l.LoadedHandle), nil
		}
		c.keep(0, tpm2.TPM2BName{}, err)
		if isLost(err) {
			return 0, err
		}
		delete(s.contexts, string(r.name.Buffer))
		if clock, cerr := c.clock(); cerr != nil || !sameBoot(*s.clock, *clock) {
			return 0, errors.Join(err, cerr) // with sees that it was reset
		}
	}
	h, err := c.loadFile(r.file, r.name)
	if err != nil {
		return 0, err
	}
	saved, err := tpm2.ContextSave{SaveHandle: h}.Execute(c.w)
	if err != nil {
		return 0, fmt.Errorf("saving the key's context: %w", err)
	}
	s.contexts[string(r.name.Buffer)] = saved.Context
	return h, nil
}

// loadFile loads a key file under its parent and compares the name the TPM
// computed with the expected one.
func (c *commands) loadFile(f *keyFile, name tpm2.TPM2BName) (tpm2.TPMHandle, error) {
	p, err := c.parentOf(f.parent)
	if err != nil {
		return 0, err
	}
	c.expect(name)
	l, err := tpm2.Load{ParentHandle: p.auth(tpm2.PasswordAuth(nil)), InPrivate: tpm2.TPM2BPrivate{Buffer: f.private}, InPublic: tpm2.BytesAs2B[tpm2.TPMTPublic](f.public)}.Execute(c.w)
	if err != nil {
		c.keep(0, tpm2.TPM2BName{}, err)
		if errors.Is(err, tpm2.TPMRCIntegrity) {
			return 0, fmt.Errorf("the key file was made by another TPM, or the owner hierarchy was cleared since: %w: %w", hsm.ErrNotFound, err)
		}
		return 0, fmt.Errorf("loading the key: %w", err)
	}
	c.keep(l.ObjectHandle, l.Name, nil)
	c.release(p.handle)
	if !sameName(l.Name, name) {
		return 0, fmt.Errorf("%w: the TPM loaded another key than the file describes", hsm.ErrUnavailable)
	}
	return l.ObjectHandle, nil
}

// describe fills the reference's description of the token.
func (c *commands) describe(r *keyRef) error {
	l, err := c.lockout()
	if err != nil {
		return err
	}
	algorithms, err := c.algorithms()
	if err != nil {
		return err
	}
	p := c.t.state.props
	r.soft = p.software()
	r.info = map[string]string{"manufacturer": p.manufacturer, "model": p.vendor, "firmware": p.firmware, "specification": fmt.Sprintf("%s revision %d.%02d", p.family, p.revision/100, p.revision%100), "lockout": l.String(), "algorithms": algorithms}
	return nil
}

// key wraps a reference as an hsm.Key.
func (t *Token) key(r *keyRef) (*hsm.Key, error) {
	a := r.public.ObjectAttributes
	u := *r.u
	if u.device == "" {
		u.device = t.c.Device
	}
	info := hsm.Info{
		URI: u.String(), Kind: "tpm", Token: t.c.Device, ID: hex.EncodeToString(r.name.Buffer), Software: r.soft,
		Module:     "redoubt.internal/hsm/tpm, " + r.info["manufacturer"] + " " + r.info["model"],
		TokenState: r.info,
		Attributes: map[string]string{"fixedTPM": flag(a.FixedTPM), "fixedParent": flag(a.FixedParent), "sensitiveDataOrigin": flag(a.SensitiveDataOrigin),
			"userWithAuth": flag(a.UserWithAuth), "sign": flag(a.SignEncrypt), "decrypt": flag(a.Decrypt), "restricted": flag(a.Restricted), "noDA": flag(a.NoDA), "auth": flag(r.withAuth(t))},
		Evidence: []string{"The TPM shows this public area, in which fixedTPM, fixedParent and sensitiveDataOrigin say that the key was made inside it and cannot leave it; its name (ID) covers them. keys attest has the TPM sign that."},
	}
	if r.file != nil {
		info.Label = strings.TrimSuffix(filepath.Base(r.u.file), ".pem")
		info.Attributes["parent"] = fmt.Sprintf("0x%08x", r.file.parent)
	} else {
		info.Label = fmt.Sprintf("0x%08x", r.u.handle)
	}
	if r.soft {
		info.Evidence = append(info.Evidence, "The TPM is software by its manufacturer property: its state is a file, and copying it copies the key.")
	}
	key, err := hsm.NewKey(info, r.pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return t.sign(ctx, r, digest, opts)
	})
	if err != nil {
		return nil, err
	}
	return key.WithAttest(func(ctx context.Context, nonce []byte) (hsm.Attestation, error) { return t.attest(ctx, r, nonce) }), nil
}

func flag(b bool) string {
	if b {
		return "1"
	}
	return "0"
}

// sign makes one signature.
func (t *Token) sign(ctx context.Context, r *keyRef, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	digest, scheme, err := signScheme(r.pub, digest, opts)
	if err != nil {
		return nil, err
	}
	var out []byte
	err = t.with(ctx, func(c *commands) error {
		s, err := c.session(r.withAuth(t), !r.public.ObjectAttributes.NoDA)
		if err != nil {
			return err
		}
		h, err := c.load(r)
		if err != nil {
			return err
		}
		answer, err := tpm2.Sign{
			KeyHandle: tpm2.AuthHandle{Handle: h, Name: r.name, Auth: s}, Digest: tpm2.TPM2BDigest{Buffer: digest}, InScheme: scheme,
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck},
		}.Execute(c.w)
		if err := c.judge(s, err); err != nil {
			return err
		}
		out, err = signature(answer.Signature)
		return err
	})
	if err != nil {
		return nil, err
	}
	return out, nil
}

// signScheme is the TPM's name of what opts asks for. An ECDSA signature is over
// the leftmost octets of the digest that fit the curve (FIPS 186-5, 6.4.1), so
// those are sent: chips without SHA-512 sign SHA-512 digests too.
func signScheme(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts) ([]byte, tpm2.TPMTSigScheme, error) {
	hash := map[crypto.Hash]tpm2.TPMAlgID{crypto.SHA256: tpm2.TPMAlgSHA256, crypto.SHA384: tpm2.TPMAlgSHA384, crypto.SHA512: tpm2.TPMAlgSHA512}[opts.HashFunc()]
	alg := tpm2.TPMAlgRSASSA
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		alg = tpm2.TPMAlgECDSA
		if size := pub.Curve.Params().BitSize / 8; len(digest) > size {
			digest = digest[:size]
			hash = map[int]tpm2.TPMAlgID{32: tpm2.TPMAlgSHA256, 48: tpm2.TPMAlgSHA384}[size]
		}
	case *rsa.PublicKey:
		if _, pss := opts.(*rsa.PSSOptions); pss {
			alg = tpm2.TPMAlgRSAPSS
		}
	}
	if hash == 0 {
		return nil, tpm2.TPMTSigScheme{}, fmt.Errorf("hash %s: %w", opts.HashFunc(), hsm.ErrUnsupported)
	}
	return digest, tpm2.TPMTSigScheme{Scheme: alg, Details: tpm2.NewTPMUSigScheme(alg, &tpm2.TPMSSchemeHash{HashAlg: hash})}, nil
}

// signature gives a TPMT_SIGNATURE in the encoding of crypto.Signer.
func signature(s tpm2.TPMTSignature) ([]byte, error) {
	switch s.SigAlg {
	case tpm2.TPMAlgECDSA:
		v, err := s.Signature.ECDSA()
		if err != nil {
			return nil, err
		}
		return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(v.SignatureR.Buffer), new(big.Int).SetBytes(v.SignatureS.Buffer)})
	case tpm2.TPMAlgRSASSA:
		v, err := s.Signature.RSASSA()
		if err != nil {
			return nil, err
		}
		return bytes.Clone(v.Sig.Buffer), nil
	case tpm2.TPMAlgRSAPSS:
		v, err := s.Signature.RSAPSS()
		if err != nil {
			return nil, err
		}
		return bytes.Clone(v.Sig.Buffer), nil
	}
	return nil, fmt.Errorf("signature of algorithm 0x%04x: %w", uint16(s.SigAlg), hsm.ErrUnsupported)
}
