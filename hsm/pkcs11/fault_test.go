//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

var digest = sha256.Sum256([]byte("fault"))

// Every way SoftHSM can lose what a Token holds heals within one signature.
func TestRecovers(t *testing.T) {
	newer := func(t *testing.T) (*Token, *hsm.Key, *pkcs11.Ctx, uint) {
		s := newStore(t, "recover")
		tok := open(t, s.config("recover"))
		key := generate(t, tok, "k", hsm.ECDSAP256)
		c := intruder(t)
		return tok, key, c, slotOf(t, c, "recover")
	}
	t.Run("Logout", func(t *testing.T) {
		_, key, c, slot := newer(t)
		s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
		must(t, err)
		must(t, c.Logout(s))
		must(t, key.Check(t.Context()))
	})
	t.Run("CloseAllSessions", func(t *testing.T) {
		_, key, c, slot := newer(t)
		must(t, c.CloseAllSessions(slot))
		must(t, key.Check(t.Context()))
	})
	t.Run("Finalize", func(t *testing.T) {
		_, key, c, _ := newer(t)
		must(t, c.Finalize())
		must(t, key.Check(t.Context()))
	})
	t.Run("CloseAllSessionsUnderLoad", func(t *testing.T) {
		tok, key, c, slot := newer(t)
		var wg sync.WaitGroup
		var signed atomic.Int64
		stop := make(chan struct{})
		for range 8 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, err := key.Sign(rand.Reader, digest[:], crypto.SHA256); err != nil {
						t.Errorf("signing: %v", err)
						return
					}
					signed.Add(1)
				}
			})
		}
		for range 5 { // sessions are taken away between calls, as a reset HSM does
			tok.mod.calls.Lock()
			_ = c.CloseAllSessions(slot)
			tok.mod.calls.Unlock()
			for goal := signed.Load() + 64; signed.Load() < goal && !t.Failed(); {
				time.Sleep(time.Millisecond)
			}
		}
		close(stop)
		wg.Wait()
	})
	t.Run("GenerateAfterLoss", func(t *testing.T) {
		tok, _, c, slot := newer(t)
		must(t, c.CloseAllSessions(slot))
		must(t, generate(t, tok, "second", hsm.ECDSAP384).Check(t.Context()))
	})
}

func TestTwoTokensOfOneModuleShareTheProcess(t *testing.T) {
	s := newStore(t, "one", "two")
	a, b := open(t, s.config("one")), open(t, s.config("two"))
	ka, kb := generate(t, a, "k", hsm.ECDSAP256), generate(t, b, "k", hsm.ECDSAP256)
	must(t, intruder(t).Finalize())
	must(t, ka.Check(t.Context()))
	must(t, kb.Check(t.Context()))
	must(t, a.Close())
	must(t, kb.Check(t.Context()))
	if _, err := b.Signer(t.Context(), "pkcs11:token=one;object=k"); err == nil {
		t.Error("a Token answered for another token's URI")
	}
}

// The token's storage disappears while it is open and comes back.
func TestTokenRemovedWhileOpen(t *testing.T) {
	s := newStore(t, "removed")
	var log bytes.Buffer
	c := s.config("removed")
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	tok := open(t, c)
	key := generate(t, tok, "k", hsm.ECDSAP256)
	away := s.dir + ".away"
	for round := range 2 {
		must(t, os.Rename(s.dir, away))
		must(t, os.Mkdir(s.dir, 0o700))
		start := time.Now()
		for range 5 {
			failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
		}
		t.Logf("round %d: five failures in %s", round, time.Since(start))
		must(t, os.Remove(s.dir))
		must(t, os.Rename(away, s.dir))
		deadline := time.Now().Add(20 * time.Second)
		err := key.Check(t.Context())
		for err != nil && time.Now().Before(deadline) {
			time.Sleep(50 * time.Millisecond)
			err = key.Check(t.Context())
		}
		if err != nil {
			t.Fatalf("round %d: did not heal: %v", round, err)
		}
	}
	if s := log.String(); !strings.Contains(s, "lost") || !strings.Contains(s, "is back") {
		t.Errorf("log does not tell loss and return:\n%s", s)
	}
}

// A key that was deleted, and then replaced under its name, is not signed with.
func TestReplacedKeyIsRefused(t *testing.T) {
	s := newStore(t, "replaced")
	tok := open(t, s.config("replaced"))
	key, err := tok.Generate(t.Context(), "pkcs11:object=k;id=%01", hsm.ECDSAP256)
	must(t, err)
	c := intruder(t)
	rw := rwSession(t, c, "replaced")
	for _, class := range []uint{pkcs11.CKO_PRIVATE_KEY, pkcs11.CKO_PUBLIC_KEY} {
		hs, err := find(c, rw, 2, selector(class, []byte{1}, ""))
		must(t, err)
		for _, h := range hs {
			must(t, c.DestroyObject(rw, h))
		}
	}
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable, "gone")
	_, err = tok.Generate(t.Context(), "pkcs11:object=k;id=%01", hsm.ECDSAP256)
	for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); {
		time.Sleep(retryAfter)
		_, err = tok.Generate(t.Context(), "pkcs11:object=k;id=%01", hsm.ECDSAP256)
	}
	must(t, err)
	err = key.Check(t.Context())
	failsWith(t, err, hsm.ErrUnavailable, "another public key")
	failsWith(t, err, hsm.ErrInsecureKey)
}

func TestWrongPINIsTriedOnce(t *testing.T) {
	s := newStore(t, "pin")
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99\n"), 0o600))
	countLow := func() bool { // SoftHSM raises the flag at the first wrong PIN and clears it at a right one
		c := intruder(t)
		if err := c.Initialize(); err == nil {
			defer func() { _ = c.Finalize() }()
		}
		ti, err := c.GetTokenInfo(slotOf(t, c, "pin"))
		must(t, err)
		return ti.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0
	}
	_, err := Open(s.config("pin"))
	failsWith(t, err, hsm.ErrBadPIN, s.pin)
	if strings.Contains(err.Error(), "wrong-pin-99") {
		t.Error("the error shows the PIN")
	}
	if !countLow() {
		t.Fatal("the PIN was not tried")
	}
	latch := s.pin + ".refused"
	st, err := os.Stat(latch)
	must(t, err)
	if st.Mode().Perm() != 0o600 {
		t.Errorf("latch has mode %04o", st.Mode().Perm())
	}
	if data, _ := os.ReadFile(latch); bytes.Contains(data, []byte("wrong")) {
		t.Error("latch shows the PIN")
	}
	// A good login in between clears the flag, so that a second try would show.
	right := filepath.Join(s.base, "right")
	must(t, os.WriteFile(right, []byte(testPIN), 0o600))
	c := s.config("pin")
	c.PINFile = right
	must(t, open(t, c).Close())
	if countLow() {
		t.Fatal("flag was not cleared")
	}
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99"), 0o600)) // same PIN, new file time, as a service manager copies it
	for range 3 {
		_, err = Open(s.config("pin"))
		failsWith(t, err, hsm.ErrBadPIN, "not tried again", latch)
	}
	if countLow() {
		t.Fatal("the refused PIN was tried again")
	}
	must(t, os.WriteFile(s.pin, []byte(testPIN+"\n"), 0o600))
	generate(t, open(t, s.config("pin")), "k", hsm.ECDSAP256)
	if _, err := os.Stat(latch); err == nil {
		t.Error("latch stayed after a good login")
	}
}

// While serving: the PIN file turns wrong, the session is lost, the PIN is
// tried once, and the right PIN heals without a restart.
func TestWrongPINWhileServing(t *testing.T) {
	s := newStore(t, "serving")
	tok := open(t, s.config("serving"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99"), 0o600))
	c := intruder(t)
	must(t, c.CloseAllSessions(slotOf(t, c, "serving")))
	for range 3 {
		err := key.Check(t.Context())
		failsWith(t, err, hsm.ErrUnavailable)
		failsWith(t, err, hsm.ErrBadPIN)
		time.Sleep(retryAfter)
	}
	must(t, os.WriteFile(s.pin, []byte(testPIN), 0o600))
	time.Sleep(retryAfter)
	must(t, key.Check(t.Context()))
}

func TestRefusesExtractableKey(t *testing.T) {
	s := newStore(t, "weak")
	tok := open(t, s.config("weak"))
	c := intruder(t)
	rw := rwSession(t, c, "weak")
	at := pkcs11.NewAttribute
	for name, private := range map[string][]*pkcs11.Attribute{
		"extractable":   {at(pkcs11.CKA_SENSITIVE, true), at(pkcs11.CKA_EXTRACTABLE, true), at(pkcs11.CKA_PRIVATE, true)},
		"not-sensitive": {at(pkcs11.CKA_SENSITIVE, false), at(pkcs11.CKA_EXTRACTABLE, false), at(pkcs11.CKA_PRIVATE, true)},
		"not-private":   {at(pkcs11.CKA_SENSITIVE, true), at(pkcs11.CKA_EXTRACTABLE, false), at(pkcs11.CKA_PRIVATE, false)},
	} {
		private = append(private, at(pkcs11.CKA_TOKEN, true), at(pkcs11.CKA_SIGN, true), at(pkcs11.CKA_ID, name), at(pkcs11.CKA_LABEL, name))
		public := []*pkcs11.Attribute{at(pkcs11.CKA_TOKEN, true), at(pkcs11.CKA_EC_PARAMS, paramsP256), at(pkcs11.CKA_ID, name)}
		_, _, err := c.GenerateKeyPair(rw, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)}, public, private)
		must(t, err)
		_, err = tok.Signer(t.Context(), "pkcs11:object="+name)
		failsWith(t, err, hsm.ErrInsecureKey)
	}
	// A key that was extractable once may have left the token.
	hs, err := find(c, rw, 1, selector(pkcs11.CKO_PRIVATE_KEY, nil, "extractable"))
	must(t, err)
	must(t, c.SetAttributeValue(rw, hs[0], []*pkcs11.Attribute{at(pkcs11.CKA_EXTRACTABLE, false)}))
	_, err = tok.Signer(t.Context(), "pkcs11:object=extractable")
	failsWith(t, err, hsm.ErrInsecureKey, "never-extractable")
	conf := s.config("weak")
	conf.AllowImported = true
	key, err := open(t, conf).Signer(t.Context(), "pkcs11:object=extractable")
	must(t, err)
	if !strings.Contains(strings.Join(key.Info().Evidence, " "), "once could be extracted") {
		t.Errorf("evidence hides the past: %q", key.Info().Evidence)
	}
}
