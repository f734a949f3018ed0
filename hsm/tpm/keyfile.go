package tpm

import (
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/hsm"
)

// The TSS2 key file (draft-bottomley-tpm2-keys): a PEM block around
//
//	TPMKey ::= SEQUENCE {
//	    type        OBJECT IDENTIFIER,                    -- loadable or sealed
//	    emptyAuth   [0] EXPLICIT BOOLEAN OPTIONAL,
//	    policy      [1] EXPLICIT SEQUENCE OF TPMPolicy OPTIONAL,
//	    secret      [2] EXPLICIT OCTET STRING OPTIONAL,   -- importable keys only
//	    authPolicy  [3] EXPLICIT SEQUENCE OF TPMAuthPolicy OPTIONAL,
//	    description [4] EXPLICIT UTF8String OPTIONAL,
//	    rsaParent   [5] EXPLICIT BOOLEAN OPTIONAL,
//	    parent      INTEGER,                              -- handle
//	    pubkey      OCTET STRING,                         -- TPM2B_PUBLIC
//	    privkey     OCTET STRING }                        -- TPM2B_PRIVATE
//	TPMPolicy ::= SEQUENCE { commandCode [0] EXPLICIT INTEGER, commandPolicy [1] EXPLICIT OCTET STRING }
//
// The private part is wrapped by the parent: only the TPM that made it loads it.
const pemType = "TSS2 PRIVATE KEY"

// maxKeyFile bounds a key file.
const maxKeyFile = 16 << 10

var (
	oidLoadable = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 3}
	oidSealed   = asn1.ObjectIdentifier{2, 23, 133, 10, 1, 5}
)

// keyFile is a parsed key file.
type keyFile struct {
	kind      asn1.ObjectIdentifier
	emptyAuth bool
	policy    []policyStep
	parent    uint32
	public    []byte // TPMT_PUBLIC
	private   []byte // content of TPM2B_PRIVATE
}

// policyStep is one policy command the object's policy takes.
type policyStep struct {
	code uint32
	body []byte // parameters after the session handle
}

// explicit is the tag [n] EXPLICIT.
func explicit(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific().Constructed() }

// encode gives the file as PEM.
func (f *keyFile) encode() ([]byte, error) {
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1ObjectIdentifier(f.kind)
		// Written when false too: tpm2-openssl takes an absent one for true.
		b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Boolean(f.emptyAuth) })
		if len(f.policy) > 0 {
			b.AddASN1(explicit(1), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					for _, step := range f.policy {
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1(explicit(0), func(b *cryptobyte.Builder) { b.AddASN1Int64(int64(step.code)) })
							b.AddASN1(explicit(1), func(b *cryptobyte.Builder) { b.AddASN1OctetString(step.body) })
						})
					}
				})
			})
		}
		b.AddASN1Int64(int64(f.parent))
		sized := func(data []byte) []byte {
			var s cryptobyte.Builder
			s.AddUint16LengthPrefixed(func(b *cryptobyte.Builder) { b.AddBytes(data) })
			return s.BytesOrPanic()
		}
		if len(f.public) > maxKeyFile || len(f.private) > maxKeyFile {
			b.SetError(errors.New("object too large for a key file"))
			return
		}
		b.AddASN1OctetString(sized(f.public))
		b.AddASN1OctetString(sized(f.private))
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding key file: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), nil
}

// parseKeyFile reads a key file. Everything in it is used or refused.
func parseKeyFile(data []byte) (*keyFile, error) {
	block, rest := pem.Decode(data)
	if block == nil || block.Type != pemType || len(block.Headers) > 0 {
		return nil, fmt.Errorf("not a PEM block %q", pemType)
	}
	if len(rest) > 0 {
		return nil, errors.New("data after the end of the PEM block")
	}
	f, err := parseKeyDER(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", pemType, err)
	}
	return f, nil
}

func parseKeyDER(der []byte) (*keyFile, error) {
	in, f := cryptobyte.String(der), &keyFile{}
	var s cryptobyte.String
	if !in.ReadASN1(&s, cbasn1.SEQUENCE) || !in.Empty() || !s.ReadASN1ObjectIdentifier(&f.kind) {
		return nil, errors.New("not a sequence that begins with a type")
	}
	if !f.kind.Equal(oidLoadable) && !f.kind.Equal(oidSealed) {
		return nil, fmt.Errorf("type %s is neither a loadable key nor sealed data: %w", f.kind, hsm.ErrUnsupported)
	}
	var inner cryptobyte.String
	var present bool
	if !s.ReadOptionalASN1(&inner, &present, explicit(0)) || present && (!inner.ReadASN1Boolean(&f.emptyAuth) || !inner.Empty()) {
		return nil, errors.New("emptyAuth is no boolean")
	}
	if !s.ReadOptionalASN1(&inner, &present, explicit(1)) {
		return nil, errors.New("bad policy")
	}
	if present {
		var err error
		if f.policy, err = parsePolicy(inner); err != nil {
			return nil, err
		}
	}
	for n, what := range map[uint8]string{2: "an import secret", 3: "an authorised policy"} {
		if s.PeekASN1Tag(explicit(n)) {
			return nil, fmt.Errorf("the file holds %s: %w", what, hsm.ErrUnsupported)
		}
	}
	if !s.SkipOptionalASN1(explicit(4)) { // description, for people
		return nil, errors.New("bad description")
	}
	var rsaParent bool
	if !s.ReadOptionalASN1(&inner, &present, explicit(5)) || present && (!inner.ReadASN1Boolean(&rsaParent) || !inner.Empty()) {
		return nil, errors.New("rsaParent is no boolean")
	}
	if rsaParent {
		return nil, fmt.Errorf("the parent is an RSA primary, expected the ECC one: %w", hsm.ErrUnsupported)
	}
	var handle big.Int
	var public, private cryptobyte.String
	if !s.ReadASN1Integer(&handle) || !handle.IsInt64() || handle.Int64() < 0 || handle.Int64() > 0xffffffff {
		return nil, errors.New("parent is no handle")
	}
	f.parent = uint32(handle.Int64())
	if !s.ReadASN1(&public, cbasn1.OCTET_STRING) || !s.ReadASN1(&private, cbasn1.OCTET_STRING) || !s.Empty() {
		return nil, errors.New("no public and private part at the end")
	}
	var pub, priv cryptobyte.String
	if !public.ReadUint16LengthPrefixed(&pub) || !public.Empty() || !private.ReadUint16LengthPrefixed(&priv) || !private.Empty() || len(pub) == 0 || len(priv) == 0 {
		return nil, errors.New("public or private part of a wrong length")
	}
	f.public, f.private = pub, priv
	return f, nil
}

func parsePolicy(in cryptobyte.String) (steps []policyStep, err error) {
	bad := errors.New("policy is no list of commands")
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() {
		return nil, bad
	}
	for !list.Empty() {
		var one, code, body, octets cryptobyte.String
		var n big.Int
		if !list.ReadASN1(&one, cbasn1.SEQUENCE) || !one.ReadASN1(&code, explicit(0)) || !code.ReadASN1Integer(&n) || !code.Empty() ||
			!one.ReadASN1(&body, explicit(1)) || !body.ReadASN1(&octets, cbasn1.OCTET_STRING) || !body.Empty() || !one.Empty() ||
			!n.IsInt64() || n.Int64() < 0 || n.Int64() > 0xffffffff || len(steps) == 8 {
			return nil, bad
		}
		steps = append(steps, policyStep{uint32(n.Int64()), octets})
	}
	return steps, nil
}

// publicArea decodes a TPMT_PUBLIC strictly: what it does not give back octet for
// octet is refused.
func publicArea(data []byte) (*tpm2.TPMTPublic, error) {
	if len(data) > 2<<10 {
		return nil, errors.New("public area too long")
	}
	p, err := tpm2.Unmarshal[tpm2.TPMTPublic](data)
	if err != nil {
		return nil, fmt.Errorf("decoding public area: %w", err)
	}
	if again := tpm2.Marshal(*p); string(again) != string(data) {
		return nil, errors.New("public area is not in its one encoding")
	}
	return p, nil
}

// readKeyFile reads the file at path; hsm.ErrNotFound when there is none.
func readKeyFile(path string, kind asn1.ObjectIdentifier) (*keyFile, error) {
	data, err := hsm.ReadPrivate(path, maxKeyFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("no key file %s: %w", path, hsm.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading key file: %w", err)
	}
	f, err := parseKeyFile(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if !f.kind.Equal(kind) {
		return nil, fmt.Errorf("%s is of type %s, expected %s: %w", path, f.kind, kind, hsm.ErrUnsupported)
	}
	return f, nil
}

// writeKeyFile writes a new file durably; hsm.ErrExists when the name is taken.
func writeKeyFile(path string, f *keyFile) (err error) {
	data, err := f.encode()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	tmp, err := os.CreateTemp(dir, ".tpm-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Link(tmp.Name(), path) // never replaces
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, hsm.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	d, err := os.Open(dir)
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("syncing key file: %w", err)
	}
	return nil
}
