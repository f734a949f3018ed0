//go:build cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// faulty is SoftHSM behind a module of the tests' own (testdata/faulty.c) that
// answers as faulty hardware does.
type faulty struct {
	*store
	module, control string
}

var faultyDir string // where the module was built, "" before

// buildFaulty compiles the module once per test run.
var buildFaulty = sync.OnceValues(func() (string, error) {
	headers, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	if err != nil {
		return "", fmt.Errorf("finding the PKCS#11 headers: %w", err)
	}
	dir, err := os.MkdirTemp("", "faulty-*")
	if err != nil {
		return "", err
	}
	faultyDir = dir
	out := filepath.Join(dir, "faulty.so")
	cc := os.Getenv("CC")
	if cc == "" {
		cc = "cc"
	}
	if msg, err := exec.Command(cc, "-shared", "-fPIC", "-o", out, "-I", strings.TrimSpace(string(headers)), "testdata/faulty.c", "-ldl").CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling: %w: %s", err, msg)
	}
	return out, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if faultyDir != "" {
		_ = os.RemoveAll(faultyDir)
	}
	os.Exit(code)
}

func newFaulty(t *testing.T, label string) *faulty {
	t.Helper()
	module, err := buildFaulty()
	must(t, err)
	f := &faulty{store: newStore(t, label), module: module}
	f.control = filepath.Join(f.base, "faults")
	t.Setenv("FAULTY_CONTROL", f.control)
	return f
}

// set puts faults in force.
func (f *faulty) set(t *testing.T, faults string) {
	t.Helper()
	must(t, os.WriteFile(f.control+".new", []byte(faults), 0o600))
	must(t, os.Rename(f.control+".new", f.control))
}

func (f *faulty) config(label string) Config {
	return Config{URI: "pkcs11:token=" + label + "?module-path=" + f.module, PINFile: f.pin, AllowedModules: []string{f.module}, Sessions: 3}
}

// A module that never answers costs the caller its deadline, and no more.
func TestHungModule(t *testing.T) {
	f := newFaulty(t, "hang")
	tok := open(t, f.config("hang"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	f.set(t, "hang")
	for range 5 { // more than there are sessions
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		_, err := key.SignContext(ctx, digest[:], crypto.SHA256)
		cancel()
		failsWith(t, err, hsm.ErrUnavailable)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	}
	f.set(t, "")
	must(t, key.Check(t.Context())) // waits for a session that comes back
}

func TestAlteredSignatureIsCaught(t *testing.T) {
	f := newFaulty(t, "flip")
	tok := open(t, f.config("flip"))
	for _, alg := range []hsm.Algorithm{hsm.ECDSAP256, hsm.Ed25519} {
		key := generate(t, tok, "k-"+string(alg), alg)
		f.set(t, "flip")
		failsWith(t, key.Check(t.Context()), hsm.ErrBadSignature)
		f.set(t, "")
		must(t, key.Check(t.Context()))
	}
}

func TestDeviceErrorHeals(t *testing.T) {
	f := newFaulty(t, "device")
	tok := open(t, f.config("device"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	for _, fault := range []string{"device-error", "busy-session"} {
		f.set(t, fault)
		for range 8 {
			failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
		}
		f.set(t, "")
		err := key.Check(t.Context())
		for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); err = key.Check(t.Context()) {
			time.Sleep(retryAfter / 2)
		}
		must(t, err)
	}
}

// A token that makes an extractable key against orders keeps none of it.
func TestNewKeyThatReadsBackExtractableIsRemoved(t *testing.T) {
	f := newFaulty(t, "leaky")
	tok := open(t, f.config("leaky"))
	f.set(t, "extractable")
	_, err := tok.Generate(t.Context(), "pkcs11:object=k", hsm.ECDSAP256)
	failsWith(t, err, hsm.ErrInsecureKey, "extractable is true")
	f.set(t, "")
	_, err = tok.Signer(t.Context(), "pkcs11:object=k")
	failsWith(t, err, hsm.ErrNotFound)
	generate(t, tok, "k", hsm.ECDSAP256) // the name is free again
}

// A module that refuses the full template still makes an acceptable key.
func TestMinimalTemplate(t *testing.T) {
	f := newFaulty(t, "old")
	tok := open(t, f.config("old"))
	f.set(t, "old-module")
	key := generate(t, tok, "k", hsm.ECDSAP256)
	must(t, key.Check(t.Context()))
	if a := key.Info().Attributes; a["sensitive"] != "true" || a["extractable"] != "false" {
		t.Errorf("attributes %v", a)
	}
}

// Full template refused, minimal template taken, and what it made read back: a
// key that is not what was asked for does not stay.
func TestMinimalTemplateIsReadBack(t *testing.T) {
	f := newFaulty(t, "older")
	tok := open(t, f.config("older"))
	f.set(t, "old-module extractable")
	_, err := tok.Generate(t.Context(), "pkcs11:object=k", hsm.ECDSAP256)
	failsWith(t, err, hsm.ErrInsecureKey, "extractable is true")
	f.set(t, "old-module")
	_, err = tok.Signer(t.Context(), "pkcs11:object=k")
	failsWith(t, err, hsm.ErrNotFound)
}

func TestFewSessions(t *testing.T) {
	f := newFaulty(t, "few")
	f.set(t, "few-sessions")
	c := f.config("few")
	c.Sessions = 16
	tok := open(t, c)
	if n := len(tok.conn.Load().free); n != 3 { // one of the four holds the login
		t.Errorf("pool of %d", n)
	}
	f.set(t, "")
	key := generate(t, tok, "k", hsm.ECDSAP256)
	var wg sync.WaitGroup
	for range 12 {
		wg.Go(func() {
			if err := key.Check(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestFinalTryIsNotTaken(t *testing.T) {
	f := newFaulty(t, "final")
	f.set(t, "final-try")
	must(t, os.WriteFile(f.pin, []byte("wrong-pin-99"), 0o600))
	_, err := Open(f.config("final"))
	failsWith(t, err, hsm.ErrBadPIN, "one PIN try left")
	f.set(t, "")
	c := intruder(t)
	must(t, c.Initialize())
	defer func() { _ = c.Finalize() }()
	ti, err := c.GetTokenInfo(slotOf(t, c, "final"))
	must(t, err)
	if ti.Flags&pkcs11.CKF_USER_PIN_COUNT_LOW != 0 {
		t.Error("the PIN was tried")
	}
}

func TestMissingMechanism(t *testing.T) {
	f := newFaulty(t, "mech")
	f.set(t, "no-eddsa")
	_, err := open(t, f.config("mech")).Generate(t.Context(), "pkcs11:object=k", hsm.Ed25519)
	failsWith(t, err, hsm.ErrUnsupported, "no mechanism", "it has those of [ecdsa-p256 ecdsa-p384 rsa-3072 rsa-4096]")
}

// logins counts the logins the module saw.
func (f *faulty) logins(t *testing.T) int {
	t.Helper()
	data, err := os.ReadFile(f.control + ".logins")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return len(data)
}

// A service manager that restarts again and again spends one try of the PIN.
func TestRestartsSpendOneTry(t *testing.T) {
	f := newFaulty(t, "restarts")
	must(t, os.WriteFile(f.pin, []byte("wrong-pin-99"), 0o600))
	for range 8 {
		_, err := Open(f.config("restarts"))
		failsWith(t, err, hsm.ErrBadPIN)
	}
	if n := f.logins(t); n != 1 {
		t.Errorf("%d logins", n)
	}
	// The try it did spend is told at the next good login.
	must(t, os.WriteFile(f.pin, []byte(testPIN), 0o600))
	var log bytes.Buffer
	c := f.config("restarts")
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	open(t, c)
	if !strings.Contains(log.String(), "wrong PIN") {
		t.Errorf("log says nothing of the earlier try: %s", log.String())
	}
}

// Outage after outage leaves no session and no goroutine behind, and each one
// heals.
func TestOutagesLeakNothing(t *testing.T) {
	f := newFaulty(t, "outages")
	tok := open(t, f.config("outages"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	c := pkcs11.New(f.module) // the same shared object, another user of it
	slot := slotOf(t, c, "outages")
	sessions := func() uint {
		ti, err := c.GetTokenInfo(slot)
		must(t, err)
		return ti.SessionCount
	}
	heal := func() {
		err := key.Check(t.Context())
		for deadline := time.Now().Add(20 * time.Second); err != nil && time.Now().Before(deadline); err = key.Check(t.Context()) {
			time.Sleep(10 * time.Millisecond)
		}
		must(t, err)
	}
	heal()
	before, goroutines := sessions(), runtime.NumGoroutine()
	outages := 40
	if os.Getenv("REDOUBT_TORTURE") != "" {
		outages = 500
	}
	for i := range outages {
		switch i % 4 {
		case 0:
			must(t, c.CloseAllSessions(slot))
		case 1:
			f.set(t, "device-error")
			failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
		case 2:
			f.set(t, "removed")
			failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
		case 3:
			s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION)
			must(t, err)
			must(t, c.Logout(s))
			must(t, c.CloseSession(s))
		}
		f.set(t, "")
		heal()
	}
	if before != 4 { // three in the pool, one that logs in
		t.Errorf("%d sessions at the start", before)
	}
	if after := sessions(); after != before {
		t.Errorf("%d sessions, %d before the outages", after, before)
	}
	for deadline := time.Now().Add(10 * time.Second); runtime.NumGoroutine() > goroutines && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before the outages", n, goroutines)
	}
}

// A token that is never found again does not restart the module for every
// caller: the other tokens of the process go on undisturbed.
func TestAbsentTokenLeavesOthersAlone(t *testing.T) {
	s := newStore(t, "present")
	tok := open(t, s.config("present"))
	key := generate(t, tok, "k", hsm.ECDSAP256)
	before := tok.mod.current()
	for range 5 {
		_, err := Open(s.config("absent"))
		failsWith(t, err, hsm.ErrNotFound)
		must(t, key.Check(t.Context()))
	}
	if restarts := tok.mod.current() - before; restarts > 1 {
		t.Errorf("%d restarts of the module", restarts)
	}
}
