//go:build cgo

package worker

import (
	"os"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// A wrong PIN is tried once however often the worker, and the service around it,
// is started: each round here is a new process that loads a real module.
func TestWrongPINIsTriedOnceOverRestarts(t *testing.T) {
	s := newShim(t)
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99"), 0o600))
	rounds := 12
	if os.Getenv("REDOUBT_TORTURE") != "" {
		rounds = 1000
	}
	began := time.Now()
	for i := range rounds {
		_, err := Open(s.config)
		failsWith(t, err, hsm.ErrBadPIN)
		if n := s.logins(t); n != 1 {
			t.Fatalf("%d logins after %d starts", n, i+1)
		}
	}
	t.Logf("%d processes, 1 login, %s", rounds, time.Since(began).Round(time.Millisecond))
	must(t, os.WriteFile(s.pin, []byte(shimPIN), 0o600))
	must(t, shimKey(t, s.open(t)).Check(t.Context()))
}

// The same while serving: the PIN file turns wrong, the worker crashes, and every
// further start finds the refused PIN. The right one heals without a restart of
// the service.
func TestWrongPINWhileServing(t *testing.T) {
	s := newShim(t)
	tok := s.open(t)
	key := shimKey(t, tok)
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99"), 0o600))
	before := s.logins(t)
	s.set(t, "crash")
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
	s.set(t, "")
	for range 4 {
		err := key.Check(t.Context())
		failsWith(t, err, hsm.ErrUnavailable)
		failsWith(t, err, hsm.ErrBadPIN)
		time.Sleep(longestPause / 8)
	}
	if n := s.logins(t) - before; n != 1 {
		t.Errorf("the wrong PIN was tried %d times", n)
	}
	must(t, os.WriteFile(s.pin, []byte(shimPIN), 0o600))
	heals(t, key)
}

// The process ends inside C_Login, after the token saw the wrong PIN and before
// anybody could write that down: the token's own count tells the next start.
func TestDeathDuringLoginIsOneTry(t *testing.T) {
	s := newShim(t)
	must(t, os.WriteFile(s.pin, []byte("wrong-pin-99"), 0o600))
	s.set(t, "login-dies")
	_, err := Open(s.config)
	failsWith(t, err, hsm.ErrUnavailable, "ended by itself")
	for range 10 {
		_, err := Open(s.config)
		failsWith(t, err, hsm.ErrBadPIN)
	}
	if n := s.logins(t); n != 1 {
		t.Errorf("%d logins", n)
	}
	s.set(t, "")
	must(t, os.WriteFile(s.pin, []byte(shimPIN), 0o600))
	must(t, shimKey(t, s.open(t)).Check(t.Context()))
	if _, err := os.Stat(s.pin + ".trying"); err == nil {
		t.Error("the mark of a login stayed")
	}
}

// With the right PIN the same, and a login that hangs until its process is
// killed, are outages and no more: nobody has to remove a file.
func TestHungLoginHealsByItself(t *testing.T) {
	s := newShim(t)
	tok := s.open(t)
	key := shimKey(t, tok)
	tok.mu.Lock()
	tok.bound = 500 * time.Millisecond
	tok.mu.Unlock()
	for _, fault := range []string{"crash login-dies", "crash login-hangs"} {
		s.set(t, fault)
		for range 3 {
			failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
			time.Sleep(firstPause)
		}
		s.set(t, "")
		t.Logf("%s: healed within %s", fault, heals(t, key).Round(time.Millisecond))
	}
}
