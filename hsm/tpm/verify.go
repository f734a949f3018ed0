package tpm

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"redoubt.internal/hsm"
)

// tpmTransport is what go-tpm hands to policy callbacks.
type tpmTransport = transport.TPM

// ErrAttestation: an attestation does not say what it should.
var ErrAttestation = errors.New("attestation does not verify")

// Report is what an attestation comes down to, in sentences for a transcript.
type Report struct {
	// Key is the attested public key.
	Key crypto.PublicKey `json:"-"`
	// Endorsed is true when a certificate of the endorsement key leads to one of
	// the given roots.
	Endorsed bool `json:"endorsed"`
	// Proven follows from signatures over what was given.
	Proven []string `json:"proven"`
	// Claimed is the word of the machine that made the attestation.
	Claimed []string `json:"claimed"`
}

// VerifyAttestation checks an attestation offline, at any later time. It fails
// with ErrAttestation. roots are the TPM makers' roots, nil for none: then nothing
// says that the attesting key lies in a TPM at all, and the report says so. The
// caller compares Nonce and Fingerprint with what it asked for.
//
// Proven is what TPMS_ATTEST (TPM 2.0 Library part 2, 10.12.12) says: the attesting
// key is restricted, so that it signs nothing but statements of its TPM; the
// statement is a certification over the nonce; the name in it is that of the
// public area given, attributes included; that area holds the key.
func VerifyAttestation(a hsm.Attestation, roots *x509.CertPool) (Report, error) {
	r := Report{Claimed: slices.Clone(a.Claims)}
	if err := r.verify(a, roots); err != nil {
		return Report{}, fmt.Errorf("%w: %w", ErrAttestation, err)
	}
	return r, nil
}

func (r *Report) verify(a hsm.Attestation, roots *x509.CertPool) error {
	if a.Format != AttestationFormat {
		return fmt.Errorf("format %.40q, expected %s", a.Format, AttestationFormat)
	}
	public, err := publicArea(a.Public)
	if err != nil {
		return fmt.Errorf("attested key: %w", err)
	}
	if err := checkAttributes(public.ObjectAttributes); err != nil {
		return fmt.Errorf("attested key: %w", err)
	}
	if r.Key, err = publicKey(*public); err != nil {
		return fmt.Errorf("attested key: %w", err)
	}
	spki, err := x509.MarshalPKIXPublicKey(r.Key)
	if err != nil {
		return fmt.Errorf("attested key: %w", err)
	}
	if sum := sha256.Sum256(spki); a.Fingerprint != hex.EncodeToString(sum[:]) {
		return fmt.Errorf("the attested key has fingerprint %x, the attestation names %.80q", sum, a.Fingerprint)
	}
	ak, err := publicArea(a.AttestingKey)
	if err != nil {
		return fmt.Errorf("attesting key: %w", err)
	}
	if err := checkAttesting(ak.ObjectAttributes); err != nil {
		return fmt.Errorf("attesting key: %w", err)
	}
	if err := checkSignature(ak, a.Statement, a.Signature); err != nil {
		return err
	}
	if err := checkStatement(a, public, ak); err != nil {
		return err
	}
	r.Proven = append(r.Proven,
		"The attesting key signed that it holds, in the same TPM, the key with this fingerprint, over the nonce given.",
		"By its attributes the key was made inside that TPM (sensitiveDataOrigin), cannot leave it (fixedTPM, fixedParent), and only signs.",
		"The attesting key is by its attributes restricted: a TPM signs with it only what that TPM states.")
	return r.endorsement(a, roots)
}

// checkAttesting refuses attesting keys that could sign what others made up.
func checkAttesting(a tpm2.TPMAObject) error {
	if !a.Restricted || !a.SignEncrypt || a.Decrypt || !a.FixedTPM || !a.FixedParent || !a.SensitiveDataOrigin {
		return errors.New("it is not a restricted signing key made inside its TPM and fixed to it")
	}
	return nil
}

// checkStatement compares the statement with what it must be.
func checkStatement(a hsm.Attestation, public, ak *tpm2.TPMTPublic) error {
	if len(a.Statement) > 1<<10 {
		return errors.New("statement too long")
	}
	s, err := tpm2.Unmarshal[tpm2.TPMSAttest](a.Statement)
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	if s.Magic != tpm2.TPMGeneratedValue || s.Type != tpm2.TPMSTAttestCertify {
		return fmt.Errorf("statement of type 0x%04x, expected a certification made by a TPM", uint16(s.Type))
	}
	if !bytes.Equal(tpm2.Marshal(*s), a.Statement) {
		return errors.New("statement is not in its one encoding")
	}
	if !bytes.Equal(s.ExtraData.Buffer, a.Nonce) || len(a.Nonce) > maxNonce {
		return errors.New("statement is over another nonce")
	}
	info, err := s.Attested.Certify()
	if err != nil {
		return fmt.Errorf("statement: %w", err)
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return fmt.Errorf("attested key: %w", err)
	}
	if !sameName(info.Name, *name) {
		return errors.New("statement is about another key")
	}
	akName, err := tpm2.ObjectName(ak)
	if err != nil {
		return fmt.Errorf("attesting key: %w", err)
	}
	if ak.NameAlg != tpm2.TPMAlgSHA256 || !bytes.Equal(s.QualifiedSigner.Buffer, qualifiedPrimary(uint32(tpm2.TPMRHEndorsement), akName.Buffer)) {
		return errors.New("statement was signed by another key than a primary of the endorsement hierarchy")
	}
	return nil
}

// qualifiedPrimary is the qualified name of a primary key:
// nameAlg || H(handle of the hierarchy || name) (TPM 2.0 Library part 1, 26.5).
func qualifiedPrimary(hierarchy uint32, name []byte) []byte {
	sum := sha256.Sum256(append(binary.BigEndian.AppendUint32(nil, hierarchy), name...))
	return append(binary.BigEndian.AppendUint16(nil, uint16(tpm2.TPMAlgSHA256)), sum[:]...)
}

// checkSignature verifies a TPMT_SIGNATURE over SHA-256 of the statement.
func checkSignature(ak *tpm2.TPMTPublic, statement, encoded []byte) error {
	pub, err := publicKey(*ak)
	if err != nil {
		return fmt.Errorf("attesting key: %w", err)
	}
	if len(encoded) > 1<<10 {
		return errors.New("signature too long")
	}
	s, err := tpm2.Unmarshal[tpm2.TPMTSignature](encoded)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if !bytes.Equal(tpm2.Marshal(*s), encoded) {
		return errors.New("signature is not in its one encoding")
	}
	digest, ok := sha256.Sum256(statement), false
	switch pub := pub.(type) {
	case *ecdsa.PublicKey:
		v, err := s.Signature.ECDSA()
		if err != nil || s.SigAlg != tpm2.TPMAlgECDSA || v.Hash != tpm2.TPMAlgSHA256 {
			return errors.New("signature is not ECDSA with SHA-256")
		}
		sig, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(v.SignatureR.Buffer), new(big.Int).SetBytes(v.SignatureS.Buffer)})
		ok = err == nil && ecdsa.VerifyASN1(pub, digest[:], sig)
	case *rsa.PublicKey:
		v, err := s.Signature.RSASSA()
		if err != nil || s.SigAlg != tpm2.TPMAlgRSASSA || v.Hash != tpm2.TPMAlgSHA256 {
			return errors.New("signature is not RSASSA with SHA-256")
		}
		ok = rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], v.Sig.Buffer) == nil
	}
	if !ok {
		return errors.New("the attesting key did not sign the statement")
	}
	return nil
}

// oidSAN is the subject alternative name, in which endorsement certificates name
// the TPM by a directory name that crypto/x509 does not read.
var oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}

// endorsement looks at the endorsement key and its certificates.
func (r *Report) endorsement(a hsm.Attestation, roots *x509.CertPool) error {
	unbound := "That the attesting key lies in a TPM, and in which one: no endorsement certificate that leads to a given root came with it."
	if len(a.Certificates) == 0 {
		r.Claimed = append(r.Claimed, unbound)
		return nil
	}
	if len(a.Certificates) > 8 {
		return errors.New("more than 8 certificates")
	}
	ek, err := publicArea(a.EndorsementKey)
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	if !slices.ContainsFunc(endorsements(), func(e endorsement) bool {
		e.template.Unique = ek.Unique
		return e.template.Type == ek.Type && bytes.Equal(tpm2.Marshal(e.template), a.EndorsementKey)
	}) {
		return errors.New("endorsement key: it is not of a template of the EK Credential Profile")
	}
	var chain []*x509.Certificate
	for _, der := range a.Certificates {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("endorsement certificate: %w", err)
		}
		c.UnhandledCriticalExtensions = slices.DeleteFunc(c.UnhandledCriticalExtensions, func(o asn1.ObjectIdentifier) bool { return o.Equal(oidSAN) })
		chain = append(chain, c)
	}
	pub, err := tpm2.Pub(*ek)
	if err != nil {
		return fmt.Errorf("endorsement key: %w", err)
	}
	if k, ok := chain[0].PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !k.Equal(pub) {
		return errors.New("the endorsement certificate is of another key")
	}
	if roots == nil {
		r.Claimed = append(r.Claimed, unbound)
		return nil
	}
	rest := x509.NewCertPool()
	for _, c := range chain[1:] {
		rest.AddCert(c)
	}
	// An endorsement certificate is a birth certificate: what counts is that it was
	// good when issued, not that its issuer is still in business.
	opts := x509.VerifyOptions{Roots: roots, Intermediates: rest, CurrentTime: chain[0].NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}
	if _, err := chain[0].Verify(opts); err != nil {
		return fmt.Errorf("endorsement certificate: %w", err)
	}
	r.Endorsed = true
	r.Proven = append(r.Proven, fmt.Sprintf("The endorsement key given is that of a TPM whose maker %q certified it (serial %x).", chain[0].Issuer, chain[0].SerialNumber))
	r.Claimed = append(r.Claimed, "That the attesting key lies in the TPM of that endorsement key: a credential proves it to who made it, and that was the machine itself.")
	return nil
}
