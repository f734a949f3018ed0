package tpm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// Sealing keeps a PIN or passphrase in a file that one TPM opens while its PCRs
// hold what they held: the measured firmware, boot loader and kernel. The file is
// a TSS2 key file of sealed data whose policy is TPM2_PolicyPCR over SHA-256 PCRs,
// and TPM2_PolicyAuthValue when an authorisation value is asked for too.

// ErrPCRs: the platform is not in the state the secret was, or could be, sealed to.
var ErrPCRs = errors.New("the PCRs do not allow it")

// MaxSealed is the longest secret a TPM seals, in octets (MAX_SYM_DATA).
const MaxSealed = 128

// resettable PCRs are set back by anybody who may use the TPM (PC Client Platform
// TPM Profile, 4.6.2): the debug and the application PCR.
var resettable = []uint{16, 23}

// ParsePCRs reads a list such as "7,11": ascending numbers of PCRs that can prove
// something.
func ParsePCRs(s string) ([]uint, error) {
	var pcrs []uint
	for field := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseUint(field, 10, 8)
		switch {
		case err != nil || n > 23:
			return nil, fmt.Errorf("PCR %.10q is no number from 0 to 23", field)
		case slices.Contains(resettable, uint(n)):
			return nil, fmt.Errorf("PCR %d can be reset by anybody and proves nothing", n)
		case len(pcrs) > 0 && uint(n) <= pcrs[len(pcrs)-1]:
			return nil, fmt.Errorf("PCRs %.80q are not in ascending order", s)
		}
		pcrs = append(pcrs, uint(n))
	}
	return pcrs, nil
}

// Seal writes secret into a new file at path that only this TPM opens, in the
// state its PCRs are in now; withAuth also asks for the value in Config.AuthFile.
// PCRs that were never measured into (all zeros) or are absent (all ones) are
// refused: everybody could bring them into that state.
func (t *Token) Seal(ctx context.Context, path string, secret []byte, pcrs []uint, withAuth bool) error {
	switch {
	case len(secret) == 0 || len(secret) > MaxSealed:
		return fmt.Errorf("sealing: a secret has 1 to %d octets, this one %d", MaxSealed, len(secret))
	case len(pcrs) == 0:
		return errors.New("sealing: no PCRs named")
	case withAuth && t.c.AuthFile == "":
		return errors.New("sealing: an authorisation value is asked for, and no file of it is set")
	case exists(path):
		return fmt.Errorf("sealing: %s: %w", path, hsm.ErrExists)
	}
	err := t.with(ctx, func(c *commands) error {
		f, err := c.seal(secret, pcrs, withAuth)
		if err != nil {
			return err
		}
		return writeKeyFile(path, f)
	})
	if err != nil {
		return fmt.Errorf("sealing: %w", err)
	}
	return nil
}

func (c *commands) seal(secret []byte, pcrs []uint, withAuth bool) (*keyFile, error) {
	digest, err := c.pcrDigest(pcrs)
	if err != nil {
		return nil, err
	}
	var auth []byte
	if withAuth {
		if auth, err = c.t.auth(); err != nil {
			return nil, err
		}
	}
	steps := sealSteps(pcrs, digest, withAuth)
	policy, err := tpm2.NewPolicyCalculator(tpm2.TPMAlgSHA256)
	if err != nil {
		return nil, err
	}
	if err := (tpm2.PolicyPCR{PcrDigest: tpm2.TPM2BDigest{Buffer: digest}, Pcrs: selection(pcrs)}).Update(policy); err != nil {
		return nil, err
	}
	if withAuth {
		if err := (tpm2.PolicyAuthValue{}).Update(policy); err != nil {
			return nil, err
		}
	}
	p, err := c.srk()
	if err != nil {
		return nil, err
	}
	session, err := c.salted(p, nil, c.encryption(true, false)...)
	if err != nil {
		return nil, err
	}
	r, err := tpm2.Create{
		ParentHandle: p.auth(session),
		InPublic: tpm2.New2B(tpm2.TPMTPublic{
			Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
			ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, NoDA: !withAuth || len(auth) >= strongAuth},
			AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy.Hash().Digest},
			Parameters:       tpm2.NewTPMUPublicParms(tpm2.TPMAlgKeyedHash, &tpm2.TPMSKeyedHashParms{}),
			Unique:           tpm2.NewTPMUPublicID(tpm2.TPMAlgKeyedHash, &tpm2.TPM2BDigest{}),
		}),
		InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
			UserAuth: tpm2.TPM2BAuth{Buffer: auth}, Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret})}},
	}.Execute(c.w)
	if err != nil {
		return nil, fmt.Errorf("making the sealed object: %w", err)
	}
	return &keyFile{kind: oidSealed, emptyAuth: !withAuth, policy: steps, parent: p.reference, public: r.OutPublic.Bytes(), private: r.OutPrivate.Buffer}, nil
}

// Unseal opens a file Seal wrote. It fails with ErrPCRs when the platform is in
// another state than it was sealed to, hsm.ErrNotFound when another TPM sealed it.
func (t *Token) Unseal(ctx context.Context, path string) ([]byte, error) {
	f, err := readKeyFile(path, oidSealed)
	if err != nil {
		return nil, fmt.Errorf("unsealing: %w", err)
	}
	var secret []byte
	err = t.with(ctx, func(c *commands) error {
		out, err := c.unseal(f)
		secret = out
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("unsealing %s: %w", path, err)
	}
	return secret, nil
}

func (c *commands) unseal(f *keyFile) ([]byte, error) {
	pcrs, sealed, withAuth, err := parseSealSteps(f.policy)
	if err != nil {
		return nil, err
	}
	public, err := publicArea(f.public)
	if err != nil {
		return nil, err
	}
	name, err := tpm2.ObjectName(public)
	if err != nil {
		return nil, err
	}
	now, err := c.pcrDigest(pcrs)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(now, sealed) {
		return nil, fmt.Errorf("%w: PCRs %s hold other values than when the secret was sealed: firmware, boot loader, Secure Boot keys or kernel changed. Boot the state it was sealed to, or seal the secret again", ErrPCRs, pcrList(pcrs))
	}
	var auth []byte
	if withAuth {
		if auth, err = c.t.auth(); err != nil {
			return nil, err
		}
		if !public.ObjectAttributes.NoDA {
			if err := c.mayTry(); err != nil {
				return nil, err
			}
		}
	}
	h, err := c.loadFile(f, *name)
	if err != nil {
		return nil, err
	}
	p, err := c.srk()
	if err != nil {
		return nil, err
	}
	if err := c.noteSessions(); err != nil {
		return nil, err
	}
	options := append(c.encryption(false, true), tpm2.Auth(auth), tpm2.Salted(p.handle, p.public))
	s, end, err := tpm2.PolicySession(c.w, tpm2.TPMAlgSHA256, nonceSize, options...)
	if err != nil {
		return nil, fmt.Errorf("starting a policy session: %w", err)
	}
	c.t.state.held[s.Handle()] = true
	defer func() {
		if err := end(); err == nil || !isLost(err) {
			delete(c.t.state.held, s.Handle())
		}
	}()
	if _, err := (tpm2.PolicyPCR{PolicySession: s.Handle(), Pcrs: selection(pcrs)}).Execute(c.w); err != nil {
		return nil, fmt.Errorf("stating the PCRs: %w", err)
	}
	if withAuth {
		if _, err := (tpm2.PolicyAuthValue{PolicySession: s.Handle()}).Execute(c.w); err != nil {
			return nil, fmt.Errorf("stating the authorisation: %w", err)
		}
	}
	r, err := tpm2.Unseal{ItemHandle: tpm2.AuthHandle{Handle: h, Name: *name, Auth: s}}.Execute(c.w)
	switch {
	case errors.Is(err, tpm2.TPMRCPolicyFail), errors.Is(err, tpm2.TPMRCPCRChanged):
		return nil, fmt.Errorf("%w: the TPM says the policy of PCRs %s is not met: %w", ErrPCRs, pcrList(pcrs), err)
	case withAuth && (errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth)):
		err = fmt.Errorf("%w: the TPM answered %w; the value was tried once and is not tried again until it changes", hsm.ErrBadPIN, err)
		return nil, errors.Join(err, c.t.latch.Refuse(auth))
	case err != nil:
		return nil, err
	case withAuth:
		return r.OutData.Buffer, c.t.latch.Accept()
	}
	return r.OutData.Buffer, nil
}

// selection names PCRs of the SHA-256 bank.
func selection(pcrs []uint) tpm2.TPMLPCRSelection {
	return tpm2.TPMLPCRSelection{PCRSelections: []tpm2.TPMSPCRSelection{{Hash: tpm2.TPMAlgSHA256, PCRSelect: tpm2.PCClientCompatible.PCRs(pcrs...)}}}
}

// pcrDigest is the digest TPM2_PolicyPCR takes: SHA-256 over the PCRs' values in
// ascending order. It refuses values everybody can bring about.
func (c *commands) pcrDigest(pcrs []uint) ([]byte, error) {
	h := sha256.New()
	for _, n := range pcrs { // one at a time: a TPM answers for as many as it likes
		r, err := tpm2.PCRRead{PCRSelectionIn: selection([]uint{n})}.Execute(c.w)
		if err != nil {
			return nil, fmt.Errorf("reading PCR %d: %w", n, err)
		}
		if len(r.PCRValues.Digests) != 1 || len(r.PCRValues.Digests[0].Buffer) != sha256.Size {
			return nil, fmt.Errorf("%w: the TPM has no SHA-256 value of PCR %d", ErrPCRs, n)
		}
		v := r.PCRValues.Digests[0].Buffer
		if bytes.Count(v, []byte{0}) == len(v) || bytes.Count(v, []byte{0xff}) == len(v) {
			return nil, fmt.Errorf("%w: PCR %d holds %02x...%02x, which means that nothing was measured into it: the firmware measures no boot, or not into the SHA-256 bank", ErrPCRs, n, v[0], v[0])
		}
		h.Write(v)
	}
	return h.Sum(nil), nil
}

// sealSteps is the policy as the key file holds it: each command without its
// session handle.
func sealSteps(pcrs []uint, digest []byte, withAuth bool) []policyStep {
	body := append(tpm2.Marshal(tpm2.TPM2BDigest{Buffer: digest}), tpm2.Marshal(selection(pcrs))...)
	steps := []policyStep{{uint32(tpm2.TPMCCPolicyPCR), body}}
	if withAuth {
		steps = append(steps, policyStep{uint32(tpm2.TPMCCPolicyAuthValue), nil})
	}
	return steps
}

// parseSealSteps is the reverse; it takes nothing sealSteps does not make.
func parseSealSteps(steps []policyStep) (pcrs []uint, digest []byte, withAuth bool, err error) {
	bad := fmt.Errorf("the sealed file has a policy other than PCRs of SHA-256 with or without an authorisation value: %w", hsm.ErrUnsupported)
	if len(steps) < 1 || len(steps) > 2 || steps[0].code != uint32(tpm2.TPMCCPolicyPCR) {
		return nil, nil, false, bad
	}
	withAuth = len(steps) == 2
	body := steps[0].body
	if len(body) < 2+sha256.Size+3 {
		return nil, nil, false, bad
	}
	digest = body[2 : 2+sha256.Size]
	bits := body[len(body)-3:]
	for n := range uint(24) {
		if bits[n/8]&(1<<(n%8)) != 0 {
			pcrs = append(pcrs, n)
		}
	}
	again := sealSteps(pcrs, digest, withAuth)
	for i := range steps {
		if steps[i].code != again[i].code || !bytes.Equal(steps[i].body, again[i].body) {
			return nil, nil, false, bad
		}
	}
	if _, err := ParsePCRs(pcrList(pcrs)); err != nil {
		return nil, nil, false, fmt.Errorf("the sealed file's policy: %w: %w", err, hsm.ErrUnsupported)
	}
	return pcrs, digest, withAuth, nil
}

func pcrList(pcrs []uint) string {
	var s []string
	for _, n := range pcrs {
		s = append(s, strconv.Itoa(int(n)))
	}
	return strings.Join(s, ",")
}
