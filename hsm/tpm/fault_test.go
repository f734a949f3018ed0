package tpm

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

var digest = sha256.Sum256([]byte("message"))

func sign(key *hsm.Key) error {
	_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

// rounds is n in the normal run and all in the torture run.
func rounds(n, all int) int {
	if os.Getenv("REDOUBT_TORTURE") == "1" {
		return all
	}
	return n
}

// A thousand operations, good and failing, leave every place of the TPM free but
// that of the session kept for reuse.
func TestNoLeakedHandle(t *testing.T) {
	e := startTPM(t)
	c := e.config()
	c.AuthFile = e.auth(testAuth)
	tok := open(t, c)
	key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	must(t, os.WriteFile(filepath.Join(c.Dir, "other.pem"), foreignKeyFile(t), 0o600))
	fails := []struct {
		do   func() error
		want error
	}{
		{func() error { _, err := tok.Signer(t.Context(), "tpm:file=other.pem"); return err }, hsm.ErrNotFound},
		{func() error { _, err := tok.Signer(t.Context(), "tpm:handle=0x81010099"); return err }, hsm.ErrNotFound},
		{func() error {
			_, err := tok.Generate(t.Context(), "tpm:handle=0x81000001;device="+e.socket+"x", hsm.ECDSAP256)
			return err
		}, hsm.ErrUnsupported},
		{func() error { _, err := tok.Generate(t.Context(), "tpm:file=b.pem", hsm.RSA4096); return err }, hsm.ErrUnsupported},
		{func() error { _, err := tok.Generate(t.Context(), "tpm:file=b.pem", hsm.Ed25519); return err }, hsm.ErrUnsupported},
		{func() error {
			return tok.with(t.Context(), func(c *commands) error { // fails with all three places taken
				for range 3 {
					if _, err := c.ownerParent(); err != nil {
						return err
					}
				}
				_, err := c.ownerParent()
				return err
			})
		}, hsm.ErrUnavailable},
	}
	for i := range 1000 {
		if i%10 == 9 {
			f := fails[i/10%len(fails)]
			if err := f.do(); !errors.Is(err, f.want) {
				t.Fatalf("failing operation %d: %v, want %v", i/10%len(fails), err, f.want)
			}
		} else if err := sign(key); err != nil {
			t.Fatalf("signature %d: %v", i, err)
		}
		if i%50 == 9 {
			if o, s := e.places(); o != 0 || s > 1 {
				t.Fatalf("after %d operations: %d objects, %d sessions", i, o, s)
			}
		}
	}
	must(t, tok.Close())
	e.empty()
}

// foreignKeyFile is a key file of another TPM.
func foreignKeyFile(t *testing.T) []byte {
	t.Helper()
	e := startTPM(t)
	defer e.stop()
	tok := open(t, e.config())
	generate(t, tok, "tpm:file=k.pem", hsm.ECDSAP256)
	must(t, tok.Close())
	data, err := os.ReadFile(filepath.Join(e.dir, "keys", "k.pem"))
	must(t, err)
	return data
}

// A TPM that dies and comes back: every signer is answered with the reason, and
// the same keys sign again, without a goroutine or a handle left behind.
func TestKilledTPM(t *testing.T) {
	e := startTPM(t)
	e.persistSRK()
	c := e.config()
	c.AuthFile = e.auth("an authorisation nobody guesses")
	tok := open(t, c)
	keys := []*hsm.Key{generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256), generate(t, tok, "tpm:handle=0x81010042", hsm.ECDSAP384)}
	var before int
	var slowest, longest time.Duration
	for round := range rounds(25, 500) {
		e.stop()
		var wg sync.WaitGroup
		var took [4]time.Duration
		for g := range 4 {
			wg.Go(func() {
				start := time.Now()
				if err := sign(keys[g%2]); !errors.Is(err, hsm.ErrUnavailable) {
					t.Errorf("round %d, dead TPM: %v", round, err)
				}
				took[g] = time.Since(start)
			})
		}
		wg.Wait()
		slowest = max(slowest, slices.Max(took[:]))
		e.start()
		back := time.Now()
		for {
			err := sign(keys[round%2])
			if err == nil {
				break
			}
			if !errors.Is(err, hsm.ErrUnavailable) || time.Since(back) > time.Minute {
				t.Fatalf("round %d, TPM back: %v", round, err)
			}
			time.Sleep(5 * time.Millisecond)
		}
		longest = max(longest, time.Since(back))
		must(t, sign(keys[1-round%2]))
		if o, s := e.places(); o != 0 || s > 1 {
			t.Fatalf("round %d: %d objects, %d sessions", round, o, s)
		}
		if round == 3 {
			before = runtime.NumGoroutine()
		}
	}
	settle(t, before)
	t.Logf("slowest answer of a dead TPM %s, longest recovery %s", slowest, longest)
}

// settle waits until no more goroutines run than before.
func settle(t *testing.T, before int) {
	t.Helper()
	for range 500 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}

// A TPM that hangs in the middle of commands and goes on: the late commands run
// after all, and what they loaded is found and flushed.
func TestTortureHungTPM(t *testing.T) {
	e := startTPM(t)
	tok := open(t, e.config())
	key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	for round := range rounds(3, 30) {
		if round%2 == 1 { // the lost command is then not a ContextLoad but the start of a session
			must(t, tok.with(t.Context(), func(c *commands) error { tok.endSessions(c); return nil }))
		}
		e.signal(syscall.SIGSTOP)
		start := time.Now()
		err := sign(key)
		if !errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, errLost) {
			t.Fatalf("hung TPM: %v", err)
		}
		t.Logf("answer of a hung TPM after %s: %v", time.Since(start).Round(time.Millisecond), err)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		if _, err := key.SignContext(ctx, digest[:], crypto.SHA256); !errors.Is(err, hsm.ErrUnavailable) {
			t.Fatalf("hung TPM, short context: %v", err)
		}
		cancel()
		e.signal(syscall.SIGCONT)
		for sign(key) != nil {
			time.Sleep(10 * time.Millisecond)
		}
		if o, s := e.places(); o != 0 || s > 1 {
			t.Fatalf("round %d: %d objects, %d sessions", round, o, s)
		}
	}
	must(t, tok.Close())
	e.empty()
}

// A wrong authorisation is tried exactly once over a thousand restarts, and not at
// all when one try is left or in lockout.
func TestTortureWrongAuth(t *testing.T) {
	e := startTPM(t)
	e.tool("tpm2_dictionarylockout", "-s", "-n", "5", "-t", "3600", "-l", "3600")
	c := e.config()
	c.AuthFile = e.auth(testAuth)
	tok := open(t, c)
	generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	must(t, tok.Close())
	try := func() error {
		t.Helper()
		err := hsm.ErrUnavailable
		for range 20 { // a machine under load may be slower than a TPM may be
			tok, opened := Open(c)
			if opened != nil {
				continue
			}
			var key *hsm.Key
			if key, err = tok.Signer(t.Context(), "tpm:file=a.pem"); err == nil {
				err = sign(key)
			}
			must(t, tok.Close())
			if !errors.Is(err, hsm.ErrUnavailable) || strings.Contains(err.Error(), "lockout") {
				break
			}
		}
		if err != nil && (strings.Contains(err.Error(), testAuth) || strings.Contains(err.Error(), "quail-4712")) {
			t.Errorf("the error shows the secret: %v", err)
		}
		return err
	}
	must(t, try())
	e.auth("quail-4712")
	for range rounds(40, 1000) {
		if err := try(); !errors.Is(err, hsm.ErrBadPIN) {
			t.Fatalf("wrong value: %v", err)
		}
	}
	if l := e.lockout(); l.Counter != 1 {
		t.Errorf("%d tries were spent, want 1", l.Counter)
	}
	e.auth(testAuth) // the right one again
	must(t, try())
	e.auth("quail-4713")
	_ = try()
	e.auth("quail-4714")
	_ = try()
	if l := e.lockout(); l.Counter != 3 || l.Err() != nil {
		t.Fatalf("%s, %v", l, l.Err())
	}
	e.auth("quail-4715")
	_ = try() // the fourth of five: one is left
	e.auth(testAuth)
	if err := try(); !errors.Is(err, hsm.ErrBadPIN) || !strings.Contains(err.Error(), "one try left") {
		t.Errorf("one try left: %v", err)
	}
	if l := e.lockout(); l.Counter != 4 || l.Locked {
		t.Errorf("the last try was risked: %s", l)
	}
	e.spend() // somebody else's wrong try
	if l := e.lockout(); !l.Locked {
		t.Fatalf("not locked: %s", l)
	}
	if err := try(); !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "lockout") {
		t.Errorf("in lockout: %v", err)
	}
	e.tool("tpm2_dictionarylockout", "-c")
	must(t, try())
}

// lockout reads the emulator's state.
func (e *emulator) lockout() Lockout {
	e.t.Helper()
	l, err := e.direct().lockout()
	must(e.t, err)
	return l
}

// spend wastes one try of the TPM on an object of its own.
func (e *emulator) spend() {
	e.t.Helper()
	e.tool("tpm2_createprimary", "-C", "o", "-p", "right", "-a", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|decrypt", "-c", "victim.ctx")
	if out, err := e.try("tpm2_create", "-C", "victim.ctx", "-P", "wrong", "-u", "v.pub", "-r", "v.priv"); err == nil {
		e.t.Fatalf("a wrong authorisation was taken: %s", out)
	}
	e.tool("tpm2_flushcontext", "-t")
}

// Closing a token of a hung TPM ends it all the same, and a second Close is
// nothing.
func TestCloseHung(t *testing.T) {
	e := startTPM(t)
	tok := open(t, e.config())
	key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	e.signal(syscall.SIGSTOP)
	must(t, tok.Close())
	e.signal(syscall.SIGCONT)
	time.Sleep(2 * retryAfter)
	if err := sign(key); !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "closed") {
		t.Errorf("after Close: %v", err)
	}
	must(t, tok.Close())
}

// Keys whose authorisation cannot be guessed stay usable in lockout.
func TestStrongAuthInLockout(t *testing.T) {
	e := startTPM(t)
	c := e.config()
	c.AuthFile = e.auth("an authorisation nobody guesses")
	key := generate(t, open(t, c), "tpm:file=a.pem", hsm.ECDSAP256)
	e.tool("tpm2_dictionarylockout", "-s", "-n", "1", "-t", "3600", "-l", "3600")
	e.spend()
	if l := e.lockout(); !l.Locked {
		t.Fatalf("not locked: %s", l)
	}
	must(t, sign(key))
	tok := open(t, c)
	again, err := tok.Signer(t.Context(), "tpm:file=a.pem")
	must(t, err)
	must(t, sign(again))
	if !strings.Contains(again.Info().TokenState["lockout"], "LOCKED") {
		t.Errorf("info says %q", again.Info().TokenState["lockout"])
	}
}

// Another TPM behind the socket, or another key at the handle, is not signed with.
func TestExchangedTPM(t *testing.T) {
	e, other := startTPM(t), startTPM(t)
	tok := open(t, e.config())
	file := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
	handle := generate(t, tok, "tpm:handle=0x81010042", hsm.ECDSAP256)
	otherTok := open(t, other.config())
	generate(t, otherTok, "tpm:handle=0x81010042", hsm.ECDSAP256)
	must(t, otherTok.Close())
	e.stop()
	must(t, os.Remove(e.socket))
	must(t, os.Symlink(other.socket, e.socket))
	for range 3 {
		if err := sign(file); !errors.Is(err, hsm.ErrNotFound) && !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("file key on another TPM: %v", err)
		}
		if err := sign(handle); !errors.Is(err, hsm.ErrUnavailable) {
			t.Errorf("handle of another TPM: %v", err)
		}
		time.Sleep(2 * retryAfter)
	}
	must(t, os.Remove(e.socket))
	e.start()
	time.Sleep(2 * retryAfter)
	must(t, sign(file))
	must(t, sign(handle))
}

// The TPM reset beneath reused sessions and saved contexts, with another client
// holding the handle numbers meanwhile: nothing is mistaken for a wrong value.
func TestResetUnderSession(t *testing.T) {
	e := startTPM(t)
	c := e.config()
	c.AuthFile = e.auth(testAuth)
	tok := open(t, c)
	keys := []*hsm.Key{generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256), generate(t, tok, "tpm:handle=0x81010042", hsm.ECDSAP256)}
	for i := range 4 {
		must(t, sign(keys[0]))
		must(t, sign(keys[1]))
		e.stop()
		e.start()
		// A reset without shutdown after a guarded key was used counts as a try of its
		// own (TPM 2.0 Library part 1, 19.8.6).
		e.tool("tpm2_dictionarylockout", "-c")
		d := e.direct()
		for range 2 { // take the first session handles
			_, _, err := tpm2.HMACSession(d.w, tpm2.TPMAlgSHA256, nonceSize)
			must(t, err)
		}
		must(t, sign(keys[i%2]))
		if latched, err := tok.latch.Latched(); err != nil || latched {
			t.Fatalf("latched %v, %v", latched, err)
		}
		hs, err := d.handles(0x02000000)
		must(t, err)
		for _, h := range hs[:2] {
			_, _ = tpm2.FlushContext{FlushHandle: h}.Execute(d.w)
		}
		if l := e.lockout(); l.Counter != 0 {
			t.Errorf("tries were spent: %s", l)
		}
	}
}
