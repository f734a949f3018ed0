//go:build cgo

package worker

import (
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// A real PKCS#11 module behind the pipe passes what one in the process passes.
func TestPKCS11Conformance(t *testing.T) {
	s := newShim(t)
	hsmtest.Run(t, hsmtest.Kind{
		Open:   func(t testing.TB) hsm.Token { tok, err := Open(s.config); must(t, err); return tok },
		URI:    func(name string) string { return "pkcs11:token=worker;object=" + name },
		Secret: shimPIN,
	})
}

func shimKey(t testing.TB, tok *Token) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), "pkcs11:object=k", hsm.ECDSAP256)
	must(t, err)
	return key
}

// children lists the processes whose parent this one is.
func children(t testing.TB) (pids []string) {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, task := range tasks {
		data, err := os.ReadFile("/proc/self/task/" + task.Name() + "/children")
		if err == nil { // a thread may have ended meanwhile
			pids = append(pids, strings.Fields(string(data))...)
		}
	}
	return pids
}

// Each way a module fails while serving: the reason arrives, all callers are
// answered within a bound, and the token is back once the fault has gone. The
// times are printed; the bounds that fail are many times those that hold.
func TestModuleFaults(t *testing.T) {
	for fault, says := range map[string]string{
		"hang": "does not answer", "crash": "segmentation", "removed": "DEVICE_REMOVED", "closed": "SESSION_HANDLE_INVALID", "finalized": "CRYPTOKI_NOT_INITIALIZED",
		"logout":  "USER_NOT_LOGGED_IN",
		"general": "GENERAL_ERROR", "busy-session": "OPERATION_ACTIVE", "device-error": "DEVICE_ERROR",
	} {
		t.Run(fault, func(t *testing.T) {
			s := newShim(t)
			key := shimKey(t, s.open(t))
			s.set(t, fault)
			_, reason := key.Sign(rand.Reader, digest[:], crypto.SHA256)
			failsWith(t, reason, hsm.ErrUnavailable, says)
			// Beside each other they meet each other's traces as well: SoftHSM crashes, or
			// locks itself up, when it is finalized under other calls.
			var wg sync.WaitGroup
			var mu sync.Mutex
			var longest time.Duration
			for range 12 { // more than there are sessions
				wg.Go(func() {
					began := time.Now()
					_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
					mu.Lock()
					defer mu.Unlock()
					longest = max(longest, time.Since(began))
					failsWith(t, err, hsm.ErrUnavailable)
				})
			}
			wg.Wait()
			s.set(t, "")
			t.Logf("%s: 12 callers answered within %s, healed within %s; %s", fault, longest.Round(time.Millisecond), heals(t, key).Round(time.Millisecond), reason)
			if longest > 10*DefaultTimeout {
				t.Errorf("answered after %s", longest)
			}
		})
	}
}

// Without its storage SoftHSM still opens sessions; the worker says why it does
// not sign and is back when the storage is.
func TestTokenRemovedAndBack(t *testing.T) {
	s := newShim(t)
	key := shimKey(t, s.open(t))
	must(t, os.Rename(s.tokens, s.tokens+".away"))
	for range 5 {
		failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
	}
	must(t, os.Rename(s.tokens+".away", s.tokens))
	t.Logf("healed within %s", heals(t, key))
}

// 500 outages, 125 of each of four tokens, leave no process, no goroutine and no
// descriptor behind, and after each the token signs again.
func TestFiveHundredOutages(t *testing.T) {
	s := newShim(t)
	s.config.Timeout = 1400 * time.Millisecond // three quarters of it are enough for a call to count as hung
	const tokens, rounds = 4, 125
	type subject struct {
		tok *Token
		key *hsm.Key
	}
	var subjects []subject
	for i := range tokens {
		tok := s.open(t)
		key, err := tok.Generate(t.Context(), fmt.Sprintf("pkcs11:object=k%d", i), hsm.ECDSAP256)
		must(t, err)
		subjects = append(subjects, subject{tok, key})
	}
	each := func(fn func(subject)) {
		var wg sync.WaitGroup
		for _, x := range subjects {
			wg.Go(func() { fn(x) })
		}
		wg.Wait()
	}
	each(func(x subject) { _ = x.key.Check(t.Context()) })
	descriptors := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	goroutines, fds := runtime.NumGoroutine(), descriptors()
	faults := []string{"closed", "crash", "kill", "finalized", "crash", "removed", "kill", "general", "crash", "logout"}
	var mu sync.Mutex
	took := map[string]time.Duration{}
	began := time.Now()
	for i := range rounds {
		fault := faults[i%len(faults)]
		if i%25 == 24 {
			fault = "hang"
		}
		s.set(t, strings.TrimPrefix(fault, "kill"))
		each(func(x subject) {
			if fault == "kill" { // the kernel's way, out of memory
				x.tok.mu.Lock()
				p := x.tok.current
				x.tok.mu.Unlock()
				_ = p.cmd.Process.Kill()
			} else if err := x.key.Check(t.Context()); !errors.Is(err, hsm.ErrUnavailable) {
				t.Errorf("%s: %v", fault, err)
			}
		})
		s.set(t, "")
		each(func(x subject) {
			d := heal(t, x.key)
			mu.Lock()
			defer mu.Unlock()
			took[fault] = max(took[fault], d)
		})
		if t.Failed() {
			t.FailNow()
		}
	}
	t.Logf("%d outages in %s; longest time to heal %v", tokens*rounds, time.Since(began).Round(time.Millisecond), took)
	if pids := children(t); len(pids) != tokens {
		t.Errorf("child processes %v, want %d", pids, tokens)
	}
	for began := time.Now(); (runtime.NumGoroutine() > goroutines || descriptors() > fds) && time.Since(began) < 10*time.Second; {
		time.Sleep(10 * time.Millisecond)
	}
	if n := runtime.NumGoroutine(); n > goroutines {
		t.Errorf("%d goroutines, %d before", n, goroutines)
	}
	if n := descriptors(); n > fds {
		t.Errorf("%d descriptors, %d before", n, fds)
	}
	each(func(x subject) { _ = x.tok.Close() })
	if pids := children(t); len(pids) != 0 {
		t.Errorf("child processes %v after Close", pids)
	}
}
