package ca_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"redoubt.internal/ca"
	"redoubt.internal/ca/catest"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// watchedKey calls seen with each digest before it is signed.
type watchedKey struct {
	crypto.Signer
	seen func(digest []byte)
}

func (k *watchedKey) Sign(r io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	k.seen(digest)
	return k.Signer.Sign(r, digest, opts)
}

// faultyDB refuses Updates on demand.
type faultyDB struct {
	store.DB
	updates atomic.Int64
	failAt  atomic.Int64 // the number of the Update that fails; 0 none
}

func (d *faultyDB) Update(fn func(store.Tx) error) error {
	if d.updates.Add(1) == d.failAt.Load() {
		return fmt.Errorf("planted: %w", store.ErrFull)
	}
	return d.DB.Update(fn)
}

// registered returns the state of every serial and the SHA-256 of its
// to-be-signed bytes.
func registered(t testing.TB, db store.DB) map[string]string {
	t.Helper()
	all, err := ca.Search(context.Background(), db, ca.Query{Limit: 10_000})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, r := range all {
		c, err := x509.ParseCertificate(r.Certificate)
		if err != nil {
			t.Fatal(err)
		}
		sum := sha256.Sum256(c.RawTBSCertificate)
		out[hex.EncodeToString(sum[:])] = r.State
	}
	return out
}

// TestIntentBeforeSignature looks into the database at the moment of each
// signature: the very bytes to be signed must be durable there, as an intent,
// the first time; the second signature belongs to a registered intent too.
func TestIntentBeforeSignature(t *testing.T) {
	var r *catest.Rig
	var mu sync.Mutex
	pre, other := 0, 0
	key := &watchedKey{Signer: catest.NewKey(t).Signer, seen: func(digest []byte) {
		states := registered(t, r.DB)
		mu.Lock()
		defer mu.Unlock()
		if states[hex.EncodeToString(digest)] == ca.StateIntent {
			pre++
		} else {
			other++
		}
	}}
	r = catest.New(t, catest.Options{IssuingKey: key})
	for range 5 {
		if _, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"])); err != nil {
			t.Fatal(err)
		}
	}
	if pre != 5 || other != 5 {
		t.Fatalf("%d signatures over a recorded intent, %d others; want 5 precertificates and 5 certificates", pre, other)
	}
}

// TestEveryStepFails breaks each step in turn and checks what it leaves behind:
// an error of the right kind, no certificate, signatures never above intents,
// no half record, and a working authority afterwards where it can heal.
func TestEveryStepFails(t *testing.T) {
	planted := errors.New("planted")
	gone := fmt.Errorf("%w: planted", hsm.ErrUnavailable)
	for _, c := range []struct {
		name    string
		wreck   func(r *catest.Rig, db *faultyDB)
		heal    func(r *catest.Rig, db *faultyDB)
		want    []error
		signed  int64 // signatures of the issuing key for the failed request
		intents int   // intents without an outcome it leaves
	}{
		{"3: audit log stopped", func(r *catest.Rig, _ *faultyDB) { r.StopAudit() }, nil, []error{ca.ErrRecord, ca.ErrUnavailable}, 0, 0},
		{"3: database full", func(_ *catest.Rig, db *faultyDB) { db.failAt.Store(db.updates.Load() + 1) }, func(*catest.Rig, *faultyDB) {}, []error{ca.ErrRecord, ca.ErrUnavailable}, 0, 0},
		{"3: audit key gone", func(r *catest.Rig, _ *faultyDB) { r.AuditKey.FailWith(func(int64) error { return planted }) }, nil, []error{ca.ErrRecord}, 0, 1},
		{"4: issuing key broken", func(r *catest.Rig, _ *faultyDB) { r.CAKey.FailWith(func(int64) error { return planted }) }, func(r *catest.Rig, _ *faultyDB) { r.CAKey.FailWith(nil) }, []error{ca.ErrSigning}, 0, 1},
		{"4: issuing key's token lost", func(r *catest.Rig, _ *faultyDB) { r.CAKey.FailWith(func(int64) error { return gone }) }, func(r *catest.Rig, _ *faultyDB) { r.CAKey.FailWith(nil) }, []error{ca.ErrSigning, ca.ErrUnavailable}, 0, 1},
		{"4: transparency log stopped", func(r *catest.Rig, _ *faultyDB) { r.StopCT() }, nil, []error{ca.ErrCT, ca.ErrUnavailable}, 1, 1},
		{"4: transparency key broken", func(r *catest.Rig, _ *faultyDB) { r.CTKey.FailWith(func(int64) error { return planted }) }, nil, []error{ca.ErrCT}, 1, 1},
		{"5: issuing key lost in between", func(r *catest.Rig, _ *faultyDB) {
			r.CAKey.FailWith(func(n int64) error {
				if n%2 == 0 {
					return gone
				}
				return nil
			})
		}, nil, []error{ca.ErrSigning, ca.ErrUnavailable}, 1, 1},
		{"5: outcome cannot be recorded", func(r *catest.Rig, db *faultyDB) {
			r.CAKey.FailWith(func(n int64) error {
				if n%2 == 0 { // about to sign the certificate: the next write is the outcome
					db.failAt.Store(db.updates.Load() + 1)
				}
				return nil
			})
		}, func(r *catest.Rig, db *faultyDB) { r.CAKey.FailWith(nil); db.failAt.Store(0) }, []error{ca.ErrRecord, ca.ErrUnavailable}, 2, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			var db *faultyDB
			r := catest.New(t, catest.Options{WrapDB: func(inner store.DB) store.DB { db = &faultyDB{DB: inner}; return db }})
			issue := func() (*ca.Issued, error) {
				return r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
			}
			if _, err := issue(); err != nil {
				t.Fatal(err)
			}
			before := r.CAKey.Signatures.Load()
			c.wreck(r, db)
			got, err := issue()
			if got != nil || err == nil {
				t.Fatalf("issued %v, %v", got, err)
			}
			for _, want := range c.want {
				if !errors.Is(err, want) {
					t.Fatalf("error %v is not %v", err, want)
				}
			}
			if n := r.CAKey.Signatures.Load() - before; n != c.signed {
				t.Fatalf("%d signatures, want %d", n, c.signed)
			}
			intents, issued := 0, 0
			for _, state := range registered(t, r.DB) {
				if state == ca.StateIntent {
					intents++
				} else {
					issued++
				}
			}
			if intents != c.intents || issued != 1 {
				t.Fatalf("register holds %d intents without outcome and %d certificates, want %d and 1", intents, issued, c.intents)
			}
			if signed := r.CAKey.Signatures.Load(); signed > int64(2*(intents+issued)) {
				t.Fatalf("%d signatures for %d intents", signed, intents+issued)
			}
			if c.heal == nil {
				return
			}
			c.heal(r, db)
			if _, err := issue(); err != nil {
				t.Fatalf("after healing: %v", err)
			}
		})
	}
}

// TestFaultyToken lets a token return signatures over something else. The
// issuing key is used without its own second verification, so both must be
// caught here: the first by the transparency log, before it enters, the second
// when the certificate is read back.
func TestFaultyToken(t *testing.T) {
	for faulty, want := range map[int64]error{1: ca.ErrCT, 2: ca.ErrSigning} {
		soft := catest.NewKey(t)
		var n atomic.Int64
		key, err := hsm.NewKey(hsm.Info{URI: "test:faulty"}, soft.Public(), func(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			if n.Add(1) == faulty {
				digest = bytes.Repeat([]byte{1}, len(digest))
			}
			return soft.Sign(nil, digest, opts)
		})
		if err != nil {
			t.Fatal(err)
		}
		r := catest.New(t, catest.Options{IssuingKey: key})
		n.Store(0)
		got, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
		if got != nil || !errors.Is(err, want) {
			t.Fatalf("signature %d faulty: %v, %v", faulty, got, err)
		}
		for _, state := range registered(t, r.DB) {
			if state != ca.StateIntent {
				t.Fatalf("signature %d faulty: register says %s", faulty, state)
			}
		}
		if faulty == 1 && r.CTLog.Head().Size != 0 {
			t.Fatal("a precertificate with a faulty signature entered the log")
		}
		if got, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"])); err != nil {
			t.Fatalf("healed: %v", err)
		} else {
			verifyIssued(t, r, got, clientKeys()["P-256"].Public())
		}
	}
}

// TestSignaturesPerCertificate counts what every certificate costs, so that the
// numbers of docs/cycle.md cannot creep up: two signatures of the issuing key and
// one timestamp, each verified once and never twice. One certificate at a time
// has a batch, and with it a head, of its own in each log.
func TestSignaturesPerCertificate(t *testing.T) {
	const n = 10
	inner := catest.NewKey(t)
	key, err := hsm.NewKey(hsm.Info{URI: "test:issuing"}, inner.Public(), func(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return inner.Sign(nil, digest, opts)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := catest.New(t, catest.Options{IssuingKey: key})
	issue := func() {
		if _, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"])); err != nil {
			t.Fatal(err)
		}
	}
	counts := func() [5]int64 {
		return [5]int64{inner.Signatures.Load(), r.Authority.Verifications() + key.Verified(), r.CTToken.Verified(), r.CTKey.Signatures.Load(), r.AuditKey.Signatures.Load()}
	}
	issue()
	before := counts()
	for range n {
		issue()
	}
	got := counts()
	for i, each := range []int64{2, 2, 1, 2, 2} {
		if name := []string{"issuing key signs", "its signatures are verified", "timestamps are verified", "log's key signs, heads included", "audit log's key signs its heads"}[i]; got[i]-before[i] != n*each {
			t.Errorf("%s: %d for %d certificates, want %d each", name, got[i]-before[i], n, each)
		}
	}
}

// TestFailureIsRecorded shows the outcome of an intent that came to nothing.
func TestFailureIsRecorded(t *testing.T) {
	r := catest.New(t, catest.Options{})
	r.CAKey.FailWith(func(int64) error { return errors.New("planted") })
	if _, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"])); err == nil {
		t.Fatal("issued")
	}
	events, err := r.Audit.List(t.Context(), 0, 10)
	if err != nil || len(events) != 2 || events[0].Outcome != audit.Intent || events[1].Outcome != audit.Failed || events[0].Object != events[1].Object || events[1].Detail["reason"] == "" {
		t.Fatalf("%+v, %v", events, err)
	}
	if events[0].Actor != "dev@corp.example" || events[0].Action != "certificate.issue" {
		t.Fatalf("%+v", events[0])
	}
}

// TestRefusalsAreBounded floods the authority with garbage: the audit log takes
// a bounded number and says how many it left out.
func TestRefusalsAreBounded(t *testing.T) {
	now := time.Now()
	r := catest.New(t, catest.Options{Now: func() time.Time { return now }})
	for range 500 {
		if _, err := r.Authority.Issue(t.Context(), ca.Request{Token: "a.b.c"}); !errors.Is(err, ca.ErrToken) {
			t.Fatal(err)
		}
	}
	size := r.AuditLog.Head().Size
	if size == 0 || size > 60 {
		t.Fatalf("%d records of 500 refusals", size)
	}
	now = now.Add(time.Minute)
	if _, err := r.Authority.Issue(t.Context(), ca.Request{Token: "a.b.c"}); !errors.Is(err, ca.ErrToken) {
		t.Fatal(err)
	}
	events, err := r.Audit.List(t.Context(), size, size+1)
	if err != nil || len(events) != 1 || events[0].Detail["not_recorded"] != fmt.Sprint(500-size) {
		t.Fatalf("%+v, %v", events, err)
	}
}

// TestClock moves the clock: no certificate is dated before one issued earlier,
// also across a restart, and a clock too far behind or leaping ahead stops
// issuing.
func TestClock(t *testing.T) {
	now := time.Now()
	r := catest.New(t, catest.Options{Now: func() time.Time { return now }})
	issue := func() (*ca.Issued, error) {
		return r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
	}
	first, err := issue()
	if err != nil {
		t.Fatal(err)
	}
	for _, restart := range []bool{false, true} {
		if restart {
			r.Restart(t)
		}
		now = first.NotBefore.Add(-5 * time.Second)
		got, err := issue()
		if err != nil || got.NotBefore.Before(first.NotBefore) {
			t.Fatalf("restart %v, 5 s behind: %v, %v", restart, got, err)
		}
		now = first.NotBefore.Add(-time.Minute)
		if _, err := issue(); !errors.Is(err, ca.ErrClock) {
			t.Fatalf("restart %v, a minute behind: %v", restart, err)
		}
		now = first.NotBefore.Add(time.Second)
		if _, err := issue(); err != nil {
			t.Fatalf("restart %v, healed: %v", restart, err)
		}
	}
}

// TestClockLeap sets the wall clock an hour ahead while the monotonic clock goes
// on as before: nothing is issued until the next start, when the operator has
// looked. Hours that pass by both clocks are no leap.
func TestClockLeap(t *testing.T) {
	var wall, both atomic.Int64
	r := catest.New(t, catest.Options{Now: func() time.Time {
		return leapt(time.Now().Add(time.Duration(both.Load())), time.Duration(wall.Load()))
	}})
	issue := func() error {
		_, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
		return err
	}
	both.Store(int64(time.Hour))
	if err := issue(); err != nil {
		t.Fatalf("an hour by both clocks: %v", err)
	}
	wall.Store(int64(time.Hour))
	if err := issue(); !errors.Is(err, ca.ErrClock) {
		t.Fatalf("an hour by the wall clock alone: %v", err)
	}
	wall.Store(int64(time.Minute))
	if err := issue(); err != nil {
		t.Fatalf("a minute by the wall clock alone: %v", err)
	}
	wall.Store(int64(time.Hour))
	r.Restart(t)
	if err := issue(); err != nil {
		t.Fatalf("after a restart: %v", err)
	}
}

// leapt moves the wall part of t, whole seconds, and leaves its monotonic part.
// No exported function can; the layout is that of time.Time with a monotonic
// reading: 1 bit flag, 33 bits seconds, 30 bits nanoseconds.
func leapt(t time.Time, d time.Duration) time.Time {
	w := (*uint64)(unsafe.Pointer(&t))
	*w += uint64(d/time.Second) << 30
	return t
}

// TestExpiredAuthority refuses before and after the issuing certificate's life,
// and never outlives it.
func TestExpiredAuthority(t *testing.T) {
	now := time.Now()
	end := now.Add(5 * time.Minute).UTC().Truncate(time.Second)
	r := catest.New(t, catest.Options{Now: func() time.Time { return now }, CANotAfter: end})
	got, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"]))
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(got.Leaf)
	if err != nil || !leaf.NotAfter.Equal(end) {
		t.Fatalf("ends at %s, authority at %s (%v)", leaf.NotAfter, end, err)
	}
	now = end.Add(time.Second)
	if _, err := r.Authority.Issue(t.Context(), r.Request(t, "dev@corp.example", clientKeys()["P-256"])); !errors.Is(err, ca.ErrExpired) {
		t.Fatalf("after the end: %v", err)
	}
	r.Restart(t) // an expired authority opens, so that its register can be read
	if n := r.CAKey.Signatures.Load(); n != 2 {
		t.Fatalf("%d signatures", n)
	}
}

// TestNewRefuses shows chains and keys that do not fit.
func TestNewRefuses(t *testing.T) {
	r := catest.New(t, catest.Options{})
	other := catest.New(t, catest.Options{})
	base := ca.Config{Chain: r.Chain, Signer: r.CAKey, CT: r.CT, Audit: r.Audit, DB: r.DB, Identity: r.Verifier}
	for name, edit := range map[string]func(*ca.Config){
		"no chain":         func(c *ca.Config) { c.Chain = nil },
		"no key":           func(c *ca.Config) { c.Signer = nil },
		"no audit log":     func(c *ca.Config) { c.Audit = nil },
		"no CT log":        func(c *ca.Config) { c.CT = nil },
		"no database":      func(c *ca.Config) { c.DB = nil },
		"no verifier":      func(c *ca.Config) { c.Identity = nil },
		"another key":      func(c *ca.Config) { c.Signer = other.CAKey },
		"another root":     func(c *ca.Config) { c.Chain = []*x509.Certificate{r.Chain[0], other.Chain[1]} },
		"chain upside":     func(c *ca.Config) { c.Chain = []*x509.Certificate{r.Chain[1], r.Chain[0]} },
		"no root":          func(c *ca.Config) { c.Chain = r.Chain[:1] },
		"lifetime of days": func(c *ca.Config) { c.Profile.Lifetime = 48 * time.Hour },
	} {
		t.Run(name, func(t *testing.T) {
			c := base
			edit(&c)
			if _, err := ca.New(c); !errors.Is(err, ca.ErrConfig) {
				t.Fatalf("%v", err)
			}
		})
	}
	if _, err := ca.New(base); err != nil {
		t.Fatal(err)
	}
}

// Killing: a child process issues as fast as it can and writes each digest it
// is about to sign into a file; the parent kills it at a random moment, reopens
// the database and asks whether every signature had its intent.
const killEnv = "REDOUBT_CA_KILL_DIR"

// TestKillChild is the child; it does nothing unless the parent started it.
func TestKillChild(t *testing.T) {
	dir := os.Getenv(killEnv)
	if dir == "" {
		return
	}
	f, err := os.OpenFile(filepath.Join(dir, "signatures"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	key := &watchedKey{Signer: catest.NewKey(t).Signer, seen: func(d []byte) {
		if _, err := fmt.Fprintf(f, "%x\n", d); err != nil { // one write, before the signature
			os.Exit(3)
		}
	}}
	r := catest.New(t, catest.Options{IssuingKey: key, Dir: dir})
	request := r.Request(t, "dev@corp.example", catest.NewKey(t))
	fmt.Println("ready")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range math.MaxInt32 {
				if _, err := r.Authority.Issue(context.Background(), request); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestKilledSignaturesHaveIntents(t *testing.T) {
	cycles := 6
	total, open := 0, 0
	for range cycles {
		dir := t.TempDir()
		cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
		cmd.Env = append(os.Environ(), killEnv+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || strings.TrimSpace(line) != "ready" {
			t.Fatalf("child says %q, %v", line, err)
		}
		time.Sleep(time.Duration(20+rand.IntN(150)) * time.Millisecond)
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed, as asked
		signed, dangling := checkKilled(t, dir)
		total, open = total+signed, open+dangling
	}
	if total == 0 {
		t.Fatal("no signature in any cycle: the test proved nothing")
	}
	t.Logf("%d kills, %d signatures, %d intents without an outcome", cycles, total, open)
}

// checkKilled compares the signatures of a killed child with its audit log.
func checkKilled(t *testing.T, dir string) (signed, dangling int) {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "signatures"))
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(filepath.Join(dir, catest.DBName))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	l, err := log.Open(t.Context(), catest.AuditConfig(db))
	if err != nil {
		t.Fatal(err)
	}
	intents, outcomes := map[string]bool{}, 0
	err = audit.New(l).Scan(t.Context(), 0, math.MaxUint64, func(e audit.Record) bool {
		if e.Outcome == audit.Intent {
			intents[e.Detail["tbs_sha256"]] = true
		} else {
			outcomes++
		}
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	digests := bytes.Fields(raw)
	if why := unrecorded(digests, intents); why != "" {
		t.Fatal(why)
	}
	// The control: one signature too many must be noticed.
	if unrecorded(append(append([][]byte{}, digests...), bytes.Repeat([]byte("00"), 32), bytes.Repeat([]byte("01"), 32)), map[string]bool{}) == "" {
		t.Fatal("the check does not notice signatures without intents")
	}
	return len(digests), len(intents) - outcomes
}

// unrecorded says why digests could not all have been signed under intents: each
// intent allows its own bytes, and one certificate made of them.
func unrecorded(digests [][]byte, intents map[string]bool) string {
	pre, final := 0, 0
	for _, d := range digests {
		if intents[string(d)] {
			pre++
		} else {
			final++
		}
	}
	if final > pre || pre > len(intents) {
		return fmt.Sprintf("%d intents, %d signatures over recorded bytes, %d over others", len(intents), pre, final)
	}
	return ""
}
