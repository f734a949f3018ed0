package tpm

import (
	"crypto/fips140"
	"errors"
	"fmt"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// session is one reusable HMAC session, salted to the storage root key, whose
// commands have their first parameter encrypted.
type session struct {
	tpm2.Session
	secret []byte // the authorisation value it carries
	worked bool   // the TPM accepted that value in it
}

// nonceSize is the length of the nonces of sessions, in octets.
const nonceSize = 16

// srkHandle is where owners keep the storage root key (TCG TPM v2.0 Provisioning
// Guidance, 7.8).
const srkHandle = 0x81000001

// rhOwner stands for the owner hierarchy as the parent in a key file: the primary
// of srkTemplate.
const rhOwner = 0x40000001

// srkTemplate is the ECC P-256 storage root key with an empty unique field, which
// tools of the TSS2 key file derive when a file names the owner hierarchy.
func srkTemplate() tpm2.TPMTPublic {
	t := tpm2.ECCSRKTemplate
	t.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{})
	return t
}

// parent is a loaded storage key.
type parent struct {
	handle    tpm2.TPMHandle
	name      tpm2.TPM2BName
	public    tpm2.TPMTPublic
	reference uint32 // as key files name it
}

// auth is the parent with its authorisation, which is empty: nothing secret, so a
// password session does where no other secret travels.
func (p *parent) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: p.handle, Name: p.name, Auth: s}
}

// srk returns the persistent storage root key, or makes a transient one.
func (c *commands) srk() (*parent, error) {
	p, err := c.persistentParent(srkHandle)
	if err == nil || !errors.Is(err, hsm.ErrNotFound) {
		return p, err
	}
	return c.ownerParent()
}

// parentOf returns the storage key a key file names.
func (c *commands) parentOf(reference uint32) (*parent, error) {
	switch {
	case reference == rhOwner:
		return c.ownerParent()
	case reference>>24 == 0x81:
		return c.persistentParent(reference)
	}
	return nil, fmt.Errorf("parent 0x%08x is neither the owner hierarchy nor a persistent key: %w", reference, hsm.ErrUnsupported)
}

func (c *commands) persistentParent(reference uint32) (*parent, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: tpm2.TPMHandle(reference)}.Execute(c.w)
	if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCValue) {
		return nil, fmt.Errorf("no storage key at 0x%08x: %w", reference, hsm.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the storage key at 0x%08x: %w", reference, err)
	}
	public, err := r.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("reading the storage key at 0x%08x: %w", reference, err)
	}
	if a := public.ObjectAttributes; !a.Restricted || !a.Decrypt || a.SignEncrypt || !a.FixedTPM || !a.FixedParent || !a.UserWithAuth {
		return nil, fmt.Errorf("the key at 0x%08x is no storage key fixed to this TPM: %w", reference, hsm.ErrInsecureKey)
	}
	return &parent{handle: tpm2.TPMHandle(reference), name: r.Name, public: *public, reference: reference}, nil
}

// ownerParent makes the transient storage root key.
func (c *commands) ownerParent() (*parent, error) {
	auth, err := c.bareOwner()
	if err != nil {
		return nil, err
	}
	r, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: auth}, InPublic: tpm2.New2B(srkTemplate())}.Execute(c.w)
	if err != nil {
		c.keep(0, tpm2.TPM2BName{}, err)
		return nil, fmt.Errorf("making the storage root key: %w", err)
	}
	c.keep(r.ObjectHandle, r.Name, nil)
	public, err := r.OutPublic.Contents()
	if err != nil {
		return nil, fmt.Errorf("making the storage root key: %w", err)
	}
	return &parent{handle: r.ObjectHandle, name: r.Name, public: *public, reference: rhOwner}, nil
}

// bareOwner authorises the owner before there is a key to salt a session with: an
// HMAC keyed by the value itself, nothing where there is no value.
func (c *commands) bareOwner() (tpm2.Session, error) {
	value, err := c.t.ownerAuth()
	switch {
	case err != nil:
		return nil, err
	case len(value) == 0:
		return tpm2.PasswordAuth(nil), nil
	case fips140.Enforced() && len(value) < 14:
		return nil, fmt.Errorf("FIPS-only mode makes no HMAC keyed by less than 112 bits, which the owner's authorisation is: %w", hsm.ErrUnsupported)
	}
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, tpm2.Auth(value)), nil
}

// salted is a one-shot HMAC session for commands whose parameters need no secrecy;
// options add to it.
func (c *commands) salted(p *parent, secret []byte, options ...tpm2.AuthOption) (tpm2.Session, error) {
	options = append(options, tpm2.Auth(secret), tpm2.Salted(p.handle, p.public))
	return tpm2.HMAC(tpm2.TPMAlgSHA256, nonceSize, options...), c.noteSessions()
}

// noteSessions notes, where no resource manager does, which sessions are loaded
// before this operation starts one, so that one whose handle never comes back can
// be found.
func (c *commands) noteSessions() error {
	s := &c.t.state
	if s.sessionsBefore != nil || !c.shared() {
		return nil
	}
	before, err := c.handles(0x02000000)
	if err != nil {
		return fmt.Errorf("listing sessions: %w", err)
	}
	s.sessionsBefore = map[tpm2.TPMHandle]bool{}
	for _, h := range before {
		s.sessionsBefore[h] = true
	}
	return nil
}

// encryption is the option that encrypts the first parameter of commands, of
// responses, or both; none in plain sessions.
func (c *commands) encryption(in, out bool) []tpm2.AuthOption {
	switch {
	case c.t.c.PlainSessions:
		return nil
	case in && out:
		return []tpm2.AuthOption{tpm2.AESEncryption(128, tpm2.EncryptInOut)}
	case out:
		return []tpm2.AuthOption{tpm2.AESEncryption(128, tpm2.EncryptOut)}
	}
	return []tpm2.AuthOption{tpm2.AESEncryption(128, tpm2.EncryptIn)}
}

// session returns the reusable session: with the authorisation value, after the
// latch and the lockout state allowed it, or without one.
func (c *commands) session(withAuth, guarded bool) (*session, error) {
	s, i := &c.t.state, 0
	if withAuth {
		i = 1
	}
	if s.sessions[i] != nil {
		return s.sessions[i], nil
	}
	var secret []byte
	if withAuth {
		var err error
		if secret, err = c.t.auth(); err != nil {
			return nil, err
		}
	}
	if guarded {
		if err := c.mayTry(); err != nil {
			return nil, err
		}
	}
	p, err := c.srk()
	if err != nil {
		return nil, err
	}
	if err := c.noteSessions(); err != nil {
		return nil, err
	}
	options := append(c.encryption(true, false), tpm2.Auth(secret), tpm2.Salted(p.handle, p.public))
	made, _, err := tpm2.HMACSession(c.w, tpm2.TPMAlgSHA256, nonceSize, options...)
	if err != nil {
		return nil, fmt.Errorf("starting a session: %w", err)
	}
	s.held[made.Handle()] = true
	s.sessions[i] = &session{Session: made, secret: secret}
	c.release(p.handle)
	return s.sessions[i], nil
}

// judge looks at the outcome of a command the session authorised: success clears
// the latch, a refusal of the value closes it, unless this very session worked
// before, when it is the session that is at fault.
func (c *commands) judge(s *session, err error) error {
	switch {
	case err == nil:
		if !s.worked {
			s.worked = true
			return c.t.latch.Accept()
		}
		return nil
	case !errors.Is(err, tpm2.TPMRCAuthFail) && !errors.Is(err, tpm2.TPMRCBadAuth):
		return err
	}
	c.dropSession(s)
	if s.worked {
		return fmt.Errorf("%w: a session that worked was refused: %w", errStale, err)
	}
	c.t.c.Logger.Error("the TPM refused the authorisation value; it is not tried again", "device", c.t.c.Device, "mark", c.t.latch.Path())
	err = fmt.Errorf("%w: the TPM answered %w; the value was tried once and is not tried again until it changes", hsm.ErrBadPIN, err)
	return errors.Join(err, c.t.latch.Refuse(s.secret))
}

// dropSession flushes a reusable session.
func (c *commands) dropSession(s *session) {
	for i, kept := range c.t.state.sessions {
		if kept == s {
			c.t.state.sessions[i] = nil
			_ = c.flush(s.Handle())
		}
	}
}

// endSessions flushes every session, at Close.
func (t *Token) endSessions(c *commands) {
	for _, s := range t.state.sessions {
		if s != nil {
			c.dropSession(s)
		}
	}
}
