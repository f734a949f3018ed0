//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// The traps of real modules, one test each. Others stand where they belong:
// TestMinimalTemplate, TestMinimalTemplateIsReadBack (full template, minimal
// template, read-back), TestIDInUseIsRefused (CKA_ID already used),
// TestRecovers (logins and sessions taken away), TestDeviceErrorHeals.

// Slot numbers change when a token is initialized, and the order of slots when
// another is: the token is found by its label all the same, also by a Token that
// was open before.
func TestChangingSlotIDs(t *testing.T) {
	s := newStore(t)
	c := intruder(t)
	must(t, c.Initialize())
	blank, err := c.GetSlotList(true)
	must(t, err)
	must(t, c.Finalize())
	initToken(t, "moving")
	tok := open(t, s.config("moving"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	slot := tok.conn.Load().slot
	if slot == blank[0] {
		t.Fatalf("the slot kept its number %d, nothing is tested", slot)
	}
	for _, label := range []string{"a", "b", "c"} {
		initToken(t, label)
	}
	must(t, c.Finalize()) // the module lists its slots anew
	must(t, key.Check(t.Context()))
	must(t, tok.Close())
	again, err := open(t, s.config("moving")).Signer(t.Context(), "pkcs11:object=k")
	must(t, err)
	if again.Info().Fingerprint != key.Info().Fingerprint {
		t.Error("found another key")
	}
}

// SoftHSM opens sessions on a token whose storage is gone: only a signature
// tells.
func TestOpenSessionSucceedsOnADeadToken(t *testing.T) {
	s := newStore(t, "dead")
	tok := open(t, s.config("dead"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	must(t, os.RemoveAll(s.dir))
	c := intruder(t)
	session, err := c.OpenSession(tok.conn.Load().slot, pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatalf("it says so by itself, nothing is tested: %v", err)
	}
	must(t, c.CloseSession(session))
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
}

// A handle of before a logout is void after the next login, although the key is
// the same: it is looked up again.
func TestOldHandlesAfterRelogin(t *testing.T) {
	s := newStore(t, "relogin")
	tok := open(t, s.config("relogin"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	must(t, key.Check(t.Context()))
	conn := tok.conn.Load()
	var old pkcs11.ObjectHandle
	for _, h := range conn.objects {
		old = h
	}
	c := intruder(t)
	session, err := c.OpenSession(conn.slot, pkcs11.CKF_SERIAL_SESSION)
	must(t, err)
	must(t, c.Logout(session))
	must(t, c.Login(session, pkcs11.CKU_USER, testPIN))
	if err := c.SignInit(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}, old); err == nil {
		t.Fatal("the old handle still works, nothing is tested")
	}
	must(t, c.CloseSession(session))
	must(t, key.Check(t.Context()))
}

// A session left in the middle of a signature answers CKR_OPERATION_ACTIVE: it
// is replaced, and nobody sees it.
func TestOperationActive(t *testing.T) {
	s := newStore(t, "active")
	c := s.config("active")
	c.Sessions = 2
	tok := open(t, c)
	key := generate(t, tok, "k", hsm.ECDSAP256)
	must(t, key.Check(t.Context()))
	conn := tok.conn.Load()
	var handle pkcs11.ObjectHandle
	for _, h := range conn.objects {
		handle = h
	}
	mech := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDSA, nil)}
	session := <-conn.free
	must(t, tok.mod.ctx.SignInit(session, mech, handle))
	if err := tok.mod.ctx.SignInit(session, mech, handle); !isCode(err, pkcs11.CKR_OPERATION_ACTIVE) {
		t.Fatalf("a second SignInit says %v, nothing is tested", err)
	}
	conn.free <- session
	for range 4 {
		must(t, key.Check(t.Context()))
	}
	if tok.conn.Load() != conn {
		t.Error("the whole connection was given up for one session")
	}
}

// CKM_RSA_PKCS pads and signs what it is given: without the DigestInfo in front
// the signature is well-formed and wrong. SHA-512 is what libraries choose for
// RSA-4096.
func TestSHA512DigestInfo(t *testing.T) {
	s := newStore(t, "digestinfo")
	tok := open(t, s.config("digestinfo"))
	key := generate(t, tok, "k", hsm.RSA4096)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "t"}, NotAfter: time.Now().Add(time.Hour), SignatureAlgorithm: x509.SHA512WithRSA}
	_, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)

	sum := sha512.Sum512([]byte("m"))
	var bare []byte
	must(t, tok.with(t.Context(), true, func(c *pkcs11.Ctx, conn *connection, sh pkcs11.SessionHandle) (err error) {
		h, err := findPrivate(c, sh, nil, "k")
		if err != nil {
			return err
		}
		if err := c.SignInit(sh, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_RSA_PKCS, nil)}, h); err != nil {
			return err
		}
		bare, err = c.Sign(sh, sum[:])
		return err
	}))
	public := key.Public().(*rsa.PublicKey)
	if rsa.VerifyPKCS1v15(public, crypto.SHA512, sum[:], bare) == nil {
		t.Fatal("the bare digest verifies, nothing is tested")
	}
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		hash := h.New()
		hash.Write([]byte("m"))
		sig, err := key.Unverified().Sign(rand.Reader, hash.Sum(nil), h)
		must(t, err)
		if err := rsa.VerifyPKCS1v15(public, h, hash.Sum(nil), sig); err != nil {
			t.Errorf("%s: %v", h, err)
		}
	}
}
