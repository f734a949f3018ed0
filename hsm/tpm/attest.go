package tpm

import (
	"bytes"
	"context"
	"crypto/fips140"
	"crypto/rand"
	"crypto/subtle"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// AttestationFormat names the format of Attest and VerifyAttestation.
const AttestationFormat = "tpm2-certify"

// maxNonce is the longest nonce of an attestation, in octets.
const maxNonce = 32

// akTemplate is the attestation key: a primary of the endorsement hierarchy, the
// same each time it is made, that signs only what the TPM itself states. The
// unique field sets it apart from other primaries.
func akTemplate() tpm2.TPMTPublic {
	return tpm2.TPMTPublic{
		Type: tpm2.TPMAlgECC, NameAlg: tpm2.TPMAlgSHA256,
		ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, SensitiveDataOrigin: true, UserWithAuth: true, NoDA: true, Restricted: true, SignEncrypt: true},
		Parameters: tpm2.NewTPMUPublicParms(tpm2.TPMAlgECC, &tpm2.TPMSECCParms{
			CurveID: tpm2.TPMECCNistP256,
			Scheme: tpm2.TPMTECCScheme{Scheme: tpm2.TPMAlgECDSA,
				Details: tpm2.NewTPMUAsymScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSigSchemeECDSA{HashAlg: tpm2.TPMAlgSHA256})},
		}),
		Unique: tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("redoubt attestation key v1")}}),
	}
}

// endorsement is one of the endorsement keys of the TCG EK Credential Profile
// (2.2.1.4, 2.2.1.5): where its certificate and the key itself may lie.
type endorsement struct {
	certificate uint32 // NV index
	persistent  uint32
	template    tpm2.TPMTPublic
	slow        bool
}

func endorsements() []endorsement {
	return []endorsement{
		{0x01c0000a, 0x81010002, tpm2.ECCEKTemplate, false},
		{0x01c00002, 0x81010001, tpm2.RSAEKTemplate, true},
	}
}

// attest has the TPM certify the key by the attestation key over nonce, and
// records beside it what the endorsement key says for the attestation key.
func (t *Token) attest(ctx context.Context, r *keyRef, nonce []byte) (hsm.Attestation, error) {
	if len(nonce) > maxNonce {
		return hsm.Attestation{}, fmt.Errorf("nonce of %d octets, at most %d: %w", len(nonce), maxNonce, hsm.ErrUnsupported)
	}
	var out hsm.Attestation
	err := t.with(ctx, func(c *commands) error {
		a := hsm.Attestation{Format: AttestationFormat, Nonce: bytes.Clone(nonce), Public: tpm2.Marshal(r.public)}
		ak, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(akTemplate())}.Execute(c.w)
		if err != nil {
			c.keep(0, tpm2.TPM2BName{}, err)
			return fmt.Errorf("making the attestation key: %w", err)
		}
		c.keep(ak.ObjectHandle, ak.Name, nil)
		a.AttestingKey = bytes.Clone(ak.OutPublic.Bytes())
		if err := c.endorse(&a, ak.ObjectHandle, ak.Name); err != nil {
			return err
		}
		return c.certify(&a, r, ak.ObjectHandle, ak.Name, &out)
	})
	if err != nil {
		return hsm.Attestation{}, err
	}
	key, err := t.key(r)
	if err != nil {
		return hsm.Attestation{}, err
	}
	out.Fingerprint = key.Info().Fingerprint
	return out, nil
}

// certify has the attestation key sign what the TPM knows of the key.
func (c *commands) certify(a *hsm.Attestation, r *keyRef, ak tpm2.TPMHandle, akName tpm2.TPM2BName, out *hsm.Attestation) error {
	s, err := c.session(r.withAuth(c.t), !r.public.ObjectAttributes.NoDA)
	if err != nil {
		return err
	}
	h, err := c.load(r)
	if err != nil {
		return err
	}
	v, err := tpm2.Certify{
		ObjectHandle:   tpm2.AuthHandle{Handle: h, Name: r.name, Auth: s},
		SignHandle:     tpm2.AuthHandle{Handle: ak, Name: akName, Auth: tpm2.PasswordAuth(nil)},
		QualifyingData: tpm2.TPM2BData{Buffer: a.Nonce},
		InScheme:       tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(c.w)
	if err := c.judge(s, err); err != nil {
		return fmt.Errorf("certifying the key: %w", err)
	}
	a.Statement, a.Signature = v.CertifyInfo.Bytes(), tpm2.Marshal(v.Signature)
	*out = *a
	return nil
}

// endorse adds the endorsement key's certificate, when the maker left one, and has
// the TPM activate a credential, which only the TPM that holds both keys can.
func (c *commands) endorse(a *hsm.Attestation, ak tpm2.TPMHandle, akName tpm2.TPM2BName) error {
	for _, e := range endorsements() {
		der, err := c.readCertificate(e.certificate)
		if errors.Is(err, hsm.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("reading the endorsement certificate: %w", err)
		}
		a.Certificates = [][]byte{der}
		return c.activate(a, e, ak, akName)
	}
	a.Claims = append(a.Claims, "The TPM holds no endorsement certificate: nothing says who made it.")
	return c.activate(a, endorsements()[0], ak, akName)
}

// activate loads the endorsement key and activates a credential for the
// attestation key with it.
func (c *commands) activate(a *hsm.Attestation, e endorsement, ak tpm2.TPMHandle, akName tpm2.TPM2BName) error {
	ek, err := c.endorsementKey(e)
	if err != nil {
		return err
	}
	defer c.release(ek.handle)
	a.EndorsementKey = tpm2.Marshal(ek.public)
	if fips140.Enforced() {
		a.Claims = append(a.Claims, "No credential was activated: FIPS-only mode has no AES-CFB to make one.")
		return nil
	}
	encapsulation, err := tpm2.ImportEncapsulationKey(&ek.public)
	if err != nil {
		return fmt.Errorf("reading the endorsement key: %w", err)
	}
	secret := make([]byte, 32)
	_, _ = rand.Read(secret) // never fails
	blob, sealed, err := tpm2.CreateCredential(rand.Reader, encapsulation, akName.Buffer, secret)
	if err != nil {
		return fmt.Errorf("making a credential: %w", err)
	}
	if err := c.noteSessions(); err != nil {
		return err
	}
	policy := tpm2.Policy(tpm2.TPMAlgSHA256, nonceSize, tpm2.PolicyCallback(func(_ tpmTransport, session tpm2.TPMISHPolicy, nonceTPM tpm2.TPM2BNonce) error {
		_, err := tpm2.PolicySecret{AuthHandle: tpm2.TPMRHEndorsement, PolicySession: session, NonceTPM: nonceTPM}.Execute(c.w)
		return err
	}), tpm2.Salted(ek.handle, ek.public))
	v, err := tpm2.ActivateCredential{
		ActivateHandle: tpm2.AuthHandle{Handle: ak, Name: akName, Auth: tpm2.PasswordAuth(nil)},
		KeyHandle:      tpm2.AuthHandle{Handle: ek.handle, Name: ek.name, Auth: policy},
		CredentialBlob: tpm2.TPM2BIDObject{Buffer: blob}, Secret: tpm2.TPM2BEncryptedSecret{Buffer: sealed},
	}.Execute(c.w)
	if err != nil {
		return fmt.Errorf("activating a credential: %w", err)
	}
	if subtle.ConstantTimeCompare(v.CertInfo.Buffer, secret) != 1 {
		return fmt.Errorf("%w: the TPM activated another credential than it was given", hsm.ErrInsecureKey)
	}
	a.Claims = append(a.Claims, "When the attestation was made, the TPM activated a credential of this machine for the attesting key with the endorsement key: both lie in one TPM.")
	return nil
}

// endorsementKey returns the persistent endorsement key, or makes the transient
// one; an RSA one takes a chip a while.
func (c *commands) endorsementKey(e endorsement) (*parent, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(e.persistent)}.Execute(c.w)
	if err == nil {
		public, err := r.OutPublic.Contents()
		if err == nil && public.Type == e.template.Type && public.ObjectAttributes == e.template.ObjectAttributes && bytes.Equal(public.AuthPolicy.Buffer, e.template.AuthPolicy.Buffer) {
			return &parent{handle: tpm2.TPMHandle(e.persistent), name: r.Name, public: *public}, nil
		}
	} else if isLost(err) {
		return nil, err
	}
	if e.slow {
		defer c.w.slowly()()
	}
	p, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(e.template)}.Execute(c.w)
	if err != nil {
		c.keep(0, tpm2.TPM2BName{}, err)
		return nil, fmt.Errorf("making the endorsement key: %w", err)
	}
	c.keep(p.ObjectHandle, p.Name, nil)
	public, err := p.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("making the endorsement key: %w", err)
	}
	return &parent{handle: p.ObjectHandle, name: p.Name, public: *public}, nil
}

// readCertificate reads a DER certificate from NV, without the padding some makers
// leave behind it.
func (c *commands) readCertificate(index uint32) ([]byte, error) {
	const chunk, limit = 512, 8 << 10
	r, err := tpm2.NVReadPublic{NVIndex: tpm2.TPMHandle(index)}.Execute(c.w)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, hsm.ErrNotFound
	}
	if err != nil {
		return nil, err
	}
	public, err := r.NVPublic.Contents()
	if err != nil {
		return nil, err
	}
	size := int(public.DataSize)
	if size == 0 || size > limit {
		return nil, fmt.Errorf("NV index 0x%08x has %d octets", index, size)
	}
	auth := tpm2.AuthHandle{Handle: tpm2.TPMHandle(index), Name: r.NVName, Auth: tpm2.PasswordAuth(nil)}
	if !public.Attributes.AuthRead {
		auth = tpm2.AuthHandle{Handle: tpm2.TPMRHOwner}
		if auth.Auth, err = c.bareOwner(); err != nil {
			return nil, err
		}
	}
	data := make([]byte, 0, size)
	for len(data) < size {
		part, err := tpm2.NVRead{AuthHandle: auth, NVIndex: tpm2.NamedHandle{Handle: tpm2.TPMHandle(index), Name: r.NVName}, Size: uint16(min(chunk, size-len(data))), Offset: uint16(len(data))}.Execute(c.w)
		if err != nil {
			return nil, err
		}
		if len(part.Data.Buffer) == 0 {
			return nil, errors.New("empty part of a certificate")
		}
		data = append(data, part.Data.Buffer...)
	}
	var der asn1.RawValue
	if _, err := asn1.Unmarshal(data, &der); err != nil {
		return nil, fmt.Errorf("NV index 0x%08x holds no certificate: %w", index, err)
	}
	if _, err := x509.ParseCertificate(der.FullBytes); err != nil {
		return nil, fmt.Errorf("NV index 0x%08x: %w", index, err)
	}
	return der.FullBytes, nil
}
