package log

import (
	"bytes"
	"context"
	"crypto"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// faultyDB fails chosen updates, before or after they persist.
type faultyDB struct {
	store.DB
	mu     sync.Mutex
	n      int // updates so far
	failAt int // 0: none
	after  bool
	err    error
	stuck  bool // like the engine after a failed flush, every later update fails too
}

func (d *faultyDB) Update(fn func(store.Tx) error) error {
	d.mu.Lock()
	d.n++
	hit := d.failAt != 0 && d.n == d.failAt
	stuck := d.stuck
	if hit && errors.Is(d.err, store.ErrSync) {
		d.stuck = true
	}
	d.mu.Unlock()
	if stuck {
		return d.err
	}
	if !hit {
		return d.DB.Update(fn)
	}
	if d.after {
		// Persisted, but an error is returned: what a failed last flush looks like.
		if err := d.DB.Update(fn); err != nil {
			return err
		}
		return d.err
	}
	// Not persisted: the function ran, the transaction is dropped.
	err := d.DB.Update(func(tx store.Tx) error {
		if err := fn(tx); err != nil {
			return err
		}
		return d.err
	})
	return err
}

// faultyMark fails chosen raises, before or after they persist.
type faultyMark struct {
	HighWater
	n, failAt int
	after     bool
}

func (m *faultyMark) Raise(ctx context.Context, to Mark) error {
	m.n++
	if m.n == m.failAt {
		if m.after {
			m.HighWater.Raise(ctx, to)
		}
		return errors.New("the mark did not answer")
	}
	return m.HighWater.Raise(ctx, to)
}

// Every transaction and every raise of a run fails once, both before and after it persists. Each time: what was
// acknowledged is there after reopening, what was not is either absent or covered, Fsck finds nothing, and the log goes on.
func TestFaultAtEveryCommitPoint(t *testing.T) {
	t.Parallel()
	cases := 0
	for _, kind := range []string{"commit", "full", "mark"} {
		for at := 1; at <= 12; at++ {
			for _, after := range []bool{false, true} {
				if kind == "full" && after || kind == "mark" && at > 8 {
					continue // a full disk is met before anything persists; there are 8 raises
				}
				cases++
				name := fmt.Sprintf("%s %d persisted=%v", kind, at, after)
				r := newRig(t, func(c *Config) { c.Unique = true })
				r.stop()
				r.db, _ = bolt.Open(r.path())
				r.openHW()
				db := &faultyDB{DB: r.db}
				mark := &faultyMark{HighWater: r.hw.For(r.c.Origin)}
				switch kind {
				case "commit":
					db.failAt, db.after, db.err = at+0, after, fmt.Errorf("%w: injected", store.ErrSync)
				case "full":
					db.failAt, db.err = at, fmt.Errorf("%w: injected", store.ErrFull)
				case "mark":
					mark.failAt, mark.after = at+1, after // Open raises once
				}
				r.c.DB, r.c.HighWater = db, []HighWater{mark}
				r.open()
				acked := map[uint64]string{}
				failed := 0
				for i := range 8 {
					leaf := fmt.Sprintf("leaf %d", i)
					rc, err := r.l.Add(t.Context(), []byte(leaf), []byte("x"), func(tx store.Tx) error {
						return tx.Put([]byte("room/"+leaf), []byte("1"))
					})
					if err != nil {
						failed++
						if kind != "full" && !errors.Is(err, ErrReadOnly) {
							t.Fatalf("%s: %v", name, err)
						}
						if kind == "full" && !errors.Is(err, store.ErrFull) {
							t.Fatalf("%s: %v", name, err)
						}
						continue
					}
					acked[rc.Index] = leaf
				}
				switch {
				case kind == "full" && failed > 1:
					t.Fatalf("%s: %d Adds failed, a full disk heals", name, failed)
				case kind != "full" && failed == 0:
					t.Fatalf("%s: nothing failed, the test does not bite", name)
				case kind != "full" && r.l.Err() == nil:
					t.Fatalf("%s: not latched", name)
				}
				if kind != "full" {
					if _, err := r.l.Add(t.Context(), []byte("more"), nil, nil); !errors.Is(err, ErrReadOnly) {
						t.Fatalf("%s: a latched log says %v", name, err)
					}
					for i, leaf := range acked {
						if e, err := r.l.Entry(t.Context(), i); err != nil || string(e.Leaf) != leaf {
							t.Fatalf("%s: a latched log does not read: %v", name, err)
						}
					}
				}
				head := r.l.Head()
				r.reopenAfterFault(name, kind == "commit")
				for i, leaf := range acked {
					if e, err := r.l.Entry(t.Context(), i); err != nil || string(e.Leaf) != leaf {
						t.Fatalf("%s: acknowledged entry %d is %q, %v", name, i, e.Leaf, err)
					}
				}
				if h := r.l.Head(); h.Size < head.Size || h.Time.Before(head.Time) {
					t.Fatalf("%s: the head went back", name)
				}
				// The callers' writes stand and fall with their entries.
				size := r.l.Head().Size
				rooms := uint64(0)
				r.db.View(func(tx store.Tx) error {
					return tx.Scan([]byte("room/"), []byte("room0"), func(_, _ []byte) bool { rooms++; return true })
				})
				if rooms != size {
					t.Fatalf("%s: %d entries, %d writes beside them", name, size, rooms)
				}
				rep, err := Fsck(t.Context(), r.c, nil)
				if err != nil || rep.Unsigned != 0 {
					t.Fatalf("%s: %+v %v", name, rep, err)
				}
				if rc := r.add("after", ""); rc.Index != size {
					t.Fatalf("%s: went on at %d, not %d", name, rc.Index, size)
				}
				r.stop()
			}
		}
	}
	t.Logf("%d faults, 0 acknowledged entries lost", cases)
}

// reopenAfterFault opens what a new process would find. A log whose flush failed stays halted until an operator resumes.
func (r *rig) reopenAfterFault(name string, halted bool) {
	r.t.Helper()
	r.stop()
	var err error
	if r.db, err = bolt.Open(r.path()); err != nil {
		r.t.Fatal(err)
	}
	r.c.DB = r.db
	r.openHW()
	if halted {
		r.open()
		if !errors.Is(r.l.Err(), ErrReadOnly) {
			r.t.Fatalf("%s: halted, but opens with %v", name, r.l.Err())
		}
		r.stop()
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		if _, err := Resume(r.t.Context(), r.c); err != nil {
			r.t.Fatalf("%s: %v", name, err)
		}
	}
	r.open()
	if err := r.l.Err(); err != nil {
		r.t.Fatalf("%s: %v", name, err)
	}
}

// sickKey refuses to sign, or signs something else, for a while.
type sickKey struct {
	crypto.Signer
	refuse, garble atomic.Int32
}

func (k *sickKey) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.refuse.Add(-1) >= 0 {
		return nil, errors.New("token removed")
	}
	sig, err := k.Signer.Sign(r, d, o)
	if k.garble.Add(-1) >= 0 {
		sig[len(sig)-1] ^= 1
	}
	return sig, err
}

// What was stored and not covered by a head, because the key was away, is counted when the log is opened without it.
func TestStoredAtOpen(t *testing.T) {
	var key *sickKey
	r := newRig(t, func(c *Config) { key = &sickKey{Signer: c.Signer}; c.Signer = key })
	r.add("one", "")
	key.refuse.Store(100)
	if _, err := r.l.Add(t.Context(), []byte("two"), nil, nil); !errors.Is(err, ErrSigning) {
		t.Fatal(err)
	}
	r.reopen()
	if r.l.Head().Size != 1 || r.l.StoredAtOpen() != 2 {
		t.Errorf("head of size %d, %d stored", r.l.Head().Size, r.l.StoredAtOpen())
	}
	key.refuse.Store(0)
	r.reopen()
	if r.l.Head().Size != 2 || r.l.StoredAtOpen() != 2 {
		t.Errorf("with the key back: head of size %d, %d stored", r.l.Head().Size, r.l.StoredAtOpen())
	}
}

// A key that goes away fails the Adds of that time and heals; entries do not pile up unsigned meanwhile.
func TestKeyGoesAwayAndComesBack(t *testing.T) {
	var key *sickKey
	r := newRig(t, func(c *Config) { key = &sickKey{Signer: c.Signer}; c.Signer = key })
	r.add("one", "")
	key.refuse.Store(5)
	for range 3 {
		if _, err := r.l.Add(t.Context(), []byte("two"), nil, nil); !errors.Is(err, ErrSigning) {
			t.Fatal(err)
		}
	}
	if r.l.Head().Size != 1 || r.l.Err() != nil {
		t.Fatal(r.l.Head().Size, r.l.Err())
	}
	if r.l.w.tree.size > 2 {
		t.Fatalf("%d entries without a head", r.l.w.tree.size-1)
	}
	key.refuse.Store(0)
	if rc := r.add("three", ""); rc.Index != 2 {
		t.Fatal(rc.Index)
	}
	// A signature that does not verify is never published; the next one is.
	key.garble.Store(1)
	if _, err := r.l.Add(t.Context(), []byte("four"), nil, nil); !errors.Is(err, ErrSigning) {
		t.Fatal(err)
	}
	if h := r.l.Head(); h.Size != 3 {
		t.Fatal("a head with a bad signature was published")
	}
	r.add("five", "")
	// And after a restart on top of one.
	key.garble.Store(1)
	r.l.Add(t.Context(), []byte("six"), nil, nil)
	r.reopen()
	if h := r.l.Head(); h.Size != 6 {
		t.Fatal(h.Size)
	} else if _, _, err := VerifyNote(r.c.Origin, key.Public(), h.Note); err != nil {
		t.Fatal(err)
	}
	if _, err := Fsck(t.Context(), r.c, nil); err != nil {
		t.Fatal(err)
	}
	// A log opens without its token, reads, and writes when it is back.
	key.refuse.Store(1 << 20)
	r.reopen()
	if _, err := r.l.Entry(t.Context(), 5); err != nil {
		t.Fatal(err)
	}
	key.refuse.Store(0)
	r.add("seven", "")
}

// flippingDB flips one bit of one chunk on its way to the disk: memory gone bad between hashing and storing.
type flippingDB struct {
	store.DB
	r    *rand.Rand
	left int
}

type flippingTx struct {
	store.Tx
	d *flippingDB
}

func (d *flippingDB) Update(fn func(store.Tx) error) error {
	return d.DB.Update(func(tx store.Tx) error { return fn(&flippingTx{tx, d}) })
}

func (tx *flippingTx) Put(k, v []byte) error {
	if tx.d.left > 0 && len(k) == len("t/log/e")+8 && k[6] == 'e' {
		tx.d.left--
		v = bytes.Clone(v)
		v[tx.d.r.IntN(len(v))] ^= 1 << tx.d.r.IntN(8)
	}
	return tx.Tx.Put(k, v)
}

// No bit that flips between the caller and the disk is signed over.
func TestTortureFlippedBitIsNotSigned(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(7, 8))
	signed := 0
	rounds := 60
	if os.Getenv("REDOUBT_TORTURE") != "" {
		rounds = 1000
	}
	for range rounds {
		r := newRig(t, nil)
		r.add("before", "")
		r.cancel()
		<-r.done
		r.c.DB = &flippingDB{DB: r.db, r: rnd, left: 1}
		r.open()
		_, err := r.l.Add(t.Context(), bytes.Repeat([]byte{1}, 200), []byte("an extra"), nil)
		if !errors.Is(err, ErrReadOnly) || !errors.Is(err, ErrCorrupt) {
			t.Errorf("a flipped bit: %v", err)
		}
		if r.l.Head().Size != 1 {
			signed++
		}
		r.stop()
		// The next process does not sign it either.
		r.db, _ = bolt.Open(r.path())
		r.c.DB = r.db
		r.openHW()
		if l, err := Open(t.Context(), r.c); err == nil && l.Head().Size != 1 {
			signed++
		}
		r.cancel = func() {}
		r.stop()
	}
	t.Logf("%d flips, %d signed over", rounds, signed)
	if signed != 0 {
		t.Fail()
	}
}

// A second writer on the same data is noticed by the compare-and-swap and stops this one for good.
func TestLostCompareAndSwap(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	c := r.c
	c.HighWater = nil
	l2, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l2.Run(ctx) }()
	if _, err := l2.Add(t.Context(), []byte("from the other"), nil, nil); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	_, err = r.l.Add(t.Context(), []byte("two"), nil, nil)
	if !errors.Is(err, ErrReadOnly) || !errors.Is(err, store.ErrConflict) {
		t.Fatal(err)
	}
	<-r.done
	if !errors.Is(r.ran, ErrReadOnly) {
		t.Fatalf("Run returned %v", r.ran)
	}
	if r.l.Head().Size != 1 {
		t.Fatal("it signed on")
	}
}

func TestClockGoesBack(t *testing.T) {
	t.Parallel()
	now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	var mu sync.Mutex
	r := newRig(t, func(c *Config) {
		c.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	set := func(t time.Time) { mu.Lock(); now = t; mu.Unlock() }
	var last time.Time
	rnd := rand.New(rand.NewPCG(1, 1))
	for i := range 100 {
		set(time.Date(2020+rnd.IntN(20), 1, 1, 0, 0, 0, 0, time.UTC))
		rc := r.add(fmt.Sprint(i), "")
		if rc.Time.Before(last) {
			t.Fatalf("head %d is older than the one before", i)
		}
		last = rc.Time
		if i%25 == 24 {
			r.reopen()
			if r.l.Head().Time.Before(last) {
				t.Fatal("the time went back over a restart")
			}
		}
	}
	if _, err := Fsck(t.Context(), r.c, nil); err != nil {
		t.Fatal(err)
	}
}

// A head whose mark cannot be raised is not published; after a restart the mark follows the durable head.
func TestMarkFileFailsToFlush(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	r.hw.f.Close() // every later write fails
	if _, err := r.l.Add(t.Context(), []byte("two"), nil, nil); !errors.Is(err, ErrReadOnly) || !errors.Is(err, os.ErrClosed) {
		t.Fatal(err)
	}
	if r.l.Head().Size != 1 {
		t.Fatal("published without its mark")
	}
	r.reopen()
	// The head was durable; the mark follows it.
	if r.l.Head().Size != 2 || r.l.Err() != nil {
		t.Fatal(r.l.Head().Size, r.l.Err())
	}
	r.add("three", "")
}

// A database closed under a running log stops this process's writer, and does not halt the log for good.
func TestDatabaseClosedUnderneath(t *testing.T) {
	r := newRig(t, nil)
	r.add("one", "")
	r.db.Close()
	if _, err := r.l.Add(t.Context(), []byte("two"), nil, nil); !errors.Is(err, ErrReadOnly) {
		t.Fatal(err)
	}
	r.reopen()
	if err := r.l.Err(); err != nil {
		t.Fatal(err)
	}
	r.add("two", "")
}

// One bad signature under load: the next batch is stored before the verdict is in, so the next head covers both and takes
// the bad one's place. Nothing stays behind that a check condemns.
func TestBadSignatureUnderLoad(t *testing.T) {
	var key *sickKey
	r := newRig(t, func(c *Config) { key = &sickKey{Signer: c.Signer}; c.Signer = key })
	r.add("one", "")
	key.garble.Store(1)
	gate := make(chan struct{})
	first := true
	r.l.at = func(p string) {
		if p != "signed" || !first {
			return
		}
		first = false
		close(gate)
		for { // until the next Add waits
			r.l.queue.mu.Lock()
			n := len(r.l.queue.open.reqs)
			r.l.queue.mu.Unlock()
			if n > 0 {
				return
			}
			time.Sleep(time.Millisecond)
		}
	}
	two := make(chan error, 1)
	go func() {
		_, err := r.l.Add(t.Context(), []byte("two"), nil, nil)
		two <- err
	}()
	<-gate
	if rc := r.add("three", ""); rc.Index != 2 {
		t.Fatal(rc.Index)
	}
	if err := <-two; !errors.Is(err, ErrSigning) {
		t.Fatal(err)
	}
	r.add("four", "")
	if _, err := Fsck(t.Context(), r.c, nil); err != nil {
		t.Fatal(err)
	}
	r.reopen()
	if r.l.Head().Size != 4 || r.l.Err() != nil {
		t.Fatal(r.l.Head().Size, r.l.Err())
	}
}

// A log that stops on top of a bad signature publishes the good head below it until it can sign again, and a halted one
// can be resumed.
func TestStopOnBadSignature(t *testing.T) {
	var key *sickKey
	r := newRig(t, func(c *Config) { key = &sickKey{Signer: c.Signer}; c.Signer = key })
	r.add("one", "")
	good := r.l.Head()
	key.garble.Store(1)
	if _, err := r.l.Add(t.Context(), []byte("two"), nil, nil); !errors.Is(err, ErrSigning) {
		t.Fatal(err)
	}
	key.refuse.Store(1 << 20)
	r.reopen()
	if h := r.l.Head(); !bytes.Equal(h.Note, good.Note) || r.l.Err() != nil {
		t.Fatalf("published %d, %v", h.Size, r.l.Err())
	}
	r.l.halt(errors.New("injected"))
	r.cancel()
	<-r.done
	rep, err := Resume(t.Context(), r.c)
	if err != nil || !rep.Unpublished {
		t.Fatal(rep, err)
	}
	key.refuse.Store(0)
	r.reopen()
	if h := r.l.Head(); h.Size != 2 || r.l.Err() != nil {
		t.Fatal(h.Size, r.l.Err())
	}
	if rep, err := Fsck(t.Context(), r.c, nil); err != nil || rep.Unpublished {
		t.Fatal(rep, err)
	}
}
