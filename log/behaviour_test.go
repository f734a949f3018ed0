package log

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/log/store"
)

// Equal entries at the same moment: one is appended, the others learn its index, and only once that is covered.
func TestUniqueInFlight(t *testing.T) {
	t.Parallel()
	r := newRig(t, func(c *Config) { c.Unique = true })
	const same, rounds = 16, 30
	for round := range rounds {
		leaf := fmt.Appendf(nil, "leaf %d", round)
		var added, dups atomic.Int32
		var index atomic.Uint64
		index.Store(1 << 60)
		var wg sync.WaitGroup
		var got [same]uint64
		for g := range same {
			wg.Go(func() {
				rc, err := r.l.Add(t.Context(), leaf, nil, nil)
				var dup *DuplicateError
				switch {
				case err == nil:
					added.Add(1)
					got[g] = rc.Index
				case errors.As(err, &dup) && errors.Is(err, ErrDuplicate):
					dups.Add(1)
					got[g] = dup.Index
					if dup.Index >= r.l.Head().Size {
						t.Errorf("told of entry %d while the head is at %d", dup.Index, r.l.Head().Size)
					}
				default:
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if added.Load() != 1 || dups.Load() != same-1 {
			t.Fatalf("%d added, %d duplicates", added.Load(), dups.Load())
		}
		for _, i := range got {
			if i != uint64(round) {
				t.Fatalf("index %d, want %d", i, round)
			}
		}
		if round == rounds/2 {
			r.reopen()
		}
	}
	// A failing with of the first does not take the place of the second.
	boom := errors.New("boom")
	b := newBatch()
	leaf := []byte("contested")
	bad := func(store.Tx) error { return boom }
	for _, with := range []func(store.Tx) error{bad, nil, nil} {
		b.reqs = append(b.reqs, &request{leaf: leaf, hash: leafHash(leaf), with: with})
	}
	r.cancel()
	<-r.done
	r.l.cycle(t.Context(), b)
	r.l.cycle(t.Context(), nil)
	<-b.done
	if b.failed != nil || b.reqs[0].err != boom || b.reqs[1].index != rounds || b.reqs[1].dup || !b.reqs[2].dup || b.reqs[2].index != rounds {
		t.Fatalf("%v %+v %+v %+v", b.failed, b.reqs[0], b.reqs[1], b.reqs[2])
	}
}

func TestDuplicatesAreEntriesWithoutUnique(t *testing.T) {
	r := newRig(t, nil)
	a, b := r.add("same", ""), r.add("same", "")
	if a.Index != 0 || b.Index != 1 {
		t.Fatal(a.Index, b.Index)
	}
	if i, ok, err := r.l.LeafIndex(t.Context(), a.LeafHash); i != 0 || !ok || err != nil {
		t.Fatal(i, ok, err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	keys := func(leaf, extra []byte) [][]byte {
		return append(bytes.Fields(leaf), append([]byte("x:"), extra...), make([]byte, maxIndexKeyLen+1))
	}
	r := newRig(t, func(c *Config) { c.IndexKeys = keys })
	for i := range 140 {
		r.add(fmt.Sprintf("all %d %s", i, map[bool]string{true: "even", false: "odd"}[i%2 == 0]), fmt.Sprint(i%7))
	}
	for range 2 {
		for key, want := range map[string]int{"all": 140, "even": 70, "17": 1, "x:3": 20, "absent": 0} {
			got, err := r.l.Find(t.Context(), []byte(key), 1000)
			if err != nil || len(got) != want {
				t.Fatalf("%s: %d found, want %d (%v)", key, len(got), want, err)
			}
			for i := 1; i < len(got); i++ {
				if got[i] <= got[i-1] {
					t.Fatal("not ascending")
				}
			}
		}
		if got, _ := r.l.Find(t.Context(), []byte("odd"), 3); len(got) != 3 || got[2] != 5 {
			t.Fatal(got)
		}
		r.reopen()
	}
}

func TestLimits(t *testing.T) {
	r := newRig(t, nil)
	for _, c := range []struct {
		leaf, extra int
		ok          bool
	}{{0, 0, true}, {MaxLeaf, MaxExtra, true}, {MaxLeaf + 1, 0, false}, {1, MaxExtra + 1, false}} {
		leaf, extra := bytes.Repeat([]byte{7}, c.leaf), bytes.Repeat([]byte{8}, c.extra)
		rc, err := r.l.Add(t.Context(), leaf, extra, nil)
		if c.ok != (err == nil) || !c.ok && !errors.Is(err, ErrTooLarge) {
			t.Fatalf("%d, %d: %v", c.leaf, c.extra, err)
		}
		if c.ok {
			if e, err := r.l.Entry(t.Context(), rc.Index); err != nil || !bytes.Equal(e.Leaf, leaf) || !bytes.Equal(e.Extra, extra) {
				t.Fatal(err)
			}
		}
	}
	if r.l.Head().Size != 2 {
		t.Fatal(r.l.Head().Size)
	}
}

// The writer takes what queued; what does not fit waits in its callers; a caller may give up.
func TestBackpressureAndContext(t *testing.T) {
	r := newRig(t, nil)
	r.cancel()
	<-r.done
	l, err := Open(t.Context(), r.c) // nobody runs it yet
	if err != nil {
		t.Fatal(err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Add(gone, []byte("x"), nil, nil); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	const callers = 20
	big := make([]byte, MaxLeaf)
	extra := make([]byte, MaxExtra)
	var wg sync.WaitGroup
	var done atomic.Int32
	for range callers * 16 {
		wg.Go(func() {
			if _, err := l.Add(t.Context(), big, extra, nil); err != nil {
				t.Error(err)
			}
			done.Add(1)
		})
	}
	waiting := func() (n, size int) {
		l.queue.mu.Lock()
		defer l.queue.mu.Unlock()
		return len(l.queue.open.reqs), l.queue.open.bytes
	}
	for n := 0; n < maxBatchBytes/(MaxLeaf+MaxExtra); n, _ = waiting() {
		time.Sleep(time.Millisecond)
	}
	short, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := l.Add(short, big, extra, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	if _, size := waiting(); size > maxBatchBytes || done.Load() != 0 {
		t.Fatalf("%d bytes wait, %d answered", size, done.Load())
	}
	ctx, stop := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- l.Run(ctx) }()
	wg.Wait()
	if n := l.Head().Size; n != callers*16 {
		t.Fatal(n)
	}
	if err := l.Run(t.Context()); err == nil {
		t.Fatal("two writers run")
	}
	stop()
	if err := <-ran; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if _, err := l.Add(t.Context(), []byte("x"), nil, nil); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
	// The caller may change its bytes as soon as Add returns, whatever it returned.
	leaf := []byte("mine")
	ctx, stop = context.WithCancel(t.Context())
	l2, _ := Open(t.Context(), r.c)
	quick, giveUp := context.WithCancel(t.Context())
	go func() {
		for n := 0; n == 0; {
			l2.queue.mu.Lock()
			n = len(l2.queue.open.reqs)
			l2.queue.mu.Unlock()
		}
		giveUp()
	}()
	l2.Add(quick, leaf, nil, nil)
	copy(leaf, "XXXX")
	go func() { ran <- l2.Run(ctx) }()
	if _, err := l2.Add(t.Context(), []byte("next"), nil, nil); err != nil {
		t.Fatal(err)
	}
	if e, err := l2.Entry(t.Context(), callers*16); err != nil || string(e.Leaf) != "mine" {
		t.Fatalf("%q %v", e.Leaf, err)
	}
	stop()
	<-ran
}

func TestCreateIsNotOpen(t *testing.T) {
	r := newRig(t, nil)
	if err := Create(t.Context(), r.c); !errors.Is(err, ErrExists) {
		t.Error(err)
	}
	other, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]struct {
		change func(*Config)
		want   error
	}{
		"another prefix": {func(c *Config) { c.Prefix = "z/" }, ErrAbsent},
		"another key":    {func(c *Config) { c.Signer = other }, ErrWrongKey},
		"another origin": {func(c *Config) { c.Origin = "x.example" }, ErrConfig},
		"no database":    {func(c *Config) { c.DB = nil }, ErrConfig},
		"no origin":      {func(c *Config) { c.Origin = "" }, ErrConfig},
		"a spaced one":   {func(c *Config) { c.Origin = "a b" }, ErrConfig},
		"a plus sign":    {func(c *Config) { c.Origin = "a+b" }, ErrConfig},
		"a line break":   {func(c *Config) { c.Origin = "a\nb" }, ErrConfig},
		"a long one":     {func(c *Config) { c.Origin = strings.Repeat("a", 256) }, ErrConfig},
	} {
		cfg := r.c
		c.change(&cfg)
		if _, err := Open(t.Context(), cfg); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Without a key it reads and does not write.
	cfg := r.c
	cfg.Signer = nil
	l, err := Open(t.Context(), cfg)
	if err != nil || !errors.Is(l.Err(), ErrReadOnly) {
		t.Fatal(err, l.Err())
	}
	if err := Create(t.Context(), Config{DB: r.db, Prefix: "new/", Origin: "new.example"}); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

// with: what fails leaves nothing, a panic included; what follows sees what went before; the log's keys are closed.
func TestOverlay(t *testing.T) {
	r := newRig(t, nil)
	dump := func(tx store.Tx, from, to string) string {
		var s []string
		tx.Scan([]byte(from), []byte(to), func(k, v []byte) bool { s = append(s, string(k)+"="+string(v)); return true })
		return strings.Join(s, " ")
	}
	put := func(kv ...string) func(store.Tx) error {
		return func(tx store.Tx) error {
			for i := 0; i < len(kv); i += 2 {
				if err := tx.Put([]byte(kv[i]), []byte(kv[i+1])); err != nil {
					return err
				}
			}
			return nil
		}
	}
	add := func(with func(store.Tx) error) error {
		_, err := r.l.Add(t.Context(), []byte("leaf"), nil, with)
		return err
	}
	if err := add(put("room/a", "1", "room/c", "3", "room/e", "5")); err != nil {
		t.Fatal(err)
	}
	err := add(func(tx store.Tx) error {
		put("room/b", "2", "room/c", "33", "room/f", "6")(tx)
		tx.Delete([]byte("room/e"))
		if got := dump(tx, "room/", "room0"); got != "room/a=1 room/b=2 room/c=33 room/f=6" {
			t.Errorf("inside: %s", got)
		}
		if got := dump(tx, "room/b", "room/d"); got != "room/b=2 room/c=33" {
			t.Errorf("a part: %s", got)
		}
		n := 0
		tx.Scan([]byte("room/"), nil, func(_, _ []byte) bool { n++; return n < 2 })
		if n != 2 {
			t.Errorf("scanned on: %d", n)
		}
		if v, _ := tx.Get([]byte("room/e")); v != nil {
			t.Error("a deleted key is there")
		}
		panic("no")
	})
	if err == nil || !strings.Contains(err.Error(), "panicked") {
		t.Fatal(err)
	}
	for _, key := range []string{"t/log/m", "t/log/zzz", "", strings.Repeat("k", store.MaxKey+1)} {
		if err := add(put(key, "x")); !errors.Is(err, store.ErrInvalid) {
			t.Errorf("%.20q: %v", key, err)
		}
	}
	r.db.View(func(tx store.Tx) error {
		if got := dump(tx, "room/", "room0"); got != "room/a=1 room/c=3 room/e=5" {
			t.Errorf("after: %s", got)
		}
		return nil
	})
	if r.l.Head().Size != 1 || r.l.Err() != nil {
		t.Fatal(r.l.Head().Size, r.l.Err())
	}
}

// Every key type the product knows signs notes; x/mod's note library, which is not ours, verifies the C2SP ones.
func TestNotes(t *testing.T) {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r2048, _ := rsa.GenerateKey(rand.Reader, 2048)
	edPub, ed, _ := ed25519.GenerateKey(rand.Reader)
	root := [32]byte{1, 2, 3}
	for _, origin := range []string{"rekor.example.test", "rekor.example.test - 1193050959916656506"} {
		for _, key := range []interface {
			Public() any
		}{pubOf{p256.Public()}, pubOf{p384.Public()}, pubOf{r2048.Public()}, pubOf{ed.Public()}} {
			var n []byte
			var err error
			switch p := key.Public().(type) {
			case *ecdsa.PublicKey:
				k := p256
				if p.Curve == elliptic.P384() {
					k = p384
				}
				n, err = SignNote(origin, k, 77, root)
			case *rsa.PublicKey:
				n, err = SignNote(origin, r2048, 77, root)
			case ed25519.PublicKey:
				n, err = SignNote(origin, ed, 77, root)
			}
			if err != nil {
				t.Fatal(err)
			}
			size, got, err := VerifyNote(origin, key.Public(), n)
			if err != nil || size != 77 || got != root {
				t.Fatalf("%s: %v", n, err)
			}
			if _, _, err := VerifyNote(origin, p256.Public(), n); (err == nil) != (key.Public() == p256.Public()) {
				t.Error("verifies with another key")
			}
			for i := range n {
				bad := bytes.Clone(n)
				bad[i] ^= 1
				if s, g, err := VerifyNote(origin, key.Public(), bad); err == nil {
					t.Fatalf("byte %d (%q) of the note may be changed: %d %x", i, n[i], s, g)
				}
			}
			if !strings.Contains(string(n), "\n\n\u2014 rekor.example.test ") {
				t.Errorf("%s", n)
			}
		}
	}
	n, err := SignNote("rekor.example.test", ed, 77, root)
	if err != nil {
		t.Fatal(err)
	}
	vkey, err := note.NewEd25519VerifierKey("rekor.example.test", edPub)
	if err != nil {
		t.Fatal(err)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := note.Open(n, note.VerifierList(v)); err != nil {
		t.Fatalf("x/mod does not verify our note: %v", err)
	}
}

type pubOf struct{ p any }

func (p pubOf) Public() any { return p.p }

// A check of a log that grows meanwhile: neither holds up the other, whatever the engine does to its mapping. The rig
// fails on a nested transaction, which is what once stopped both; more heads than one read takes are needed to meet it.
func TestFsckOfManyHeadsNestsNothing(t *testing.T) {
	t.Parallel()
	r := newRig(t, nil)
	for i := range 1100 {
		r.add(fmt.Sprint("entry ", i), "")
	}
	if rep, err := Fsck(t.Context(), r.c, nil); err != nil || rep.Heads != 1101 {
		t.Fatal(rep.Heads, err)
	}
}

// A log of another format is named as that, not as damage, and is left alone.
func TestOtherFormat(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	r.cancel()
	<-r.done
	for _, f := range []byte{1, format + 1} {
		if err := r.db.Update(func(tx store.Tx) error {
			v, err := tx.Get(r.l.keys.meta())
			if err != nil {
				return err
			}
			v = bytes.Clone(v)
			v[0] = f
			return tx.Put(r.l.keys.meta(), v)
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(t.Context(), r.c); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), fmt.Sprint("format ", f)) {
			t.Error(err)
		}
		if _, err := Fsck(t.Context(), r.c, nil); !errors.Is(err, ErrFormat) {
			t.Error(err)
		}
	}
}
