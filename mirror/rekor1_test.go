package mirror

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

const site1 = "rekor.example"

// v1Shard is a running Rekor v1 log of our own.
type v1Shard struct {
	t      testing.TB
	tree   int64
	key    *ecdsa.PrivateKey
	merkle *log.Log
	log    *rekor.Log
	n      int
	now    time.Time
}

// newShard starts a shard after those before it, which must take no more entries.
func newShard(t testing.TB, tree int64, before ...*v1Shard) *v1Shard {
	t.Helper()
	s := &v1Shard{t: t, tree: tree, now: time.Date(2026, 11, 20, 11, 0, 0, 0, time.UTC)}
	var err error
	if s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if len(before) > 0 {
		s.key = before[0].key // as the public site: one key for all shards
	}
	db := newDB(t, filepath.Join(t.TempDir(), "rekor.db")).(*bolt.DB)
	c := log.Config{DB: db, Origin: site1, Signer: s.key, Unique: true, IndexKeys: rekor.IndexKeys}
	if err := log.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if s.merkle, err = log.Open(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var run sync.WaitGroup
	run.Go(func() { s.merkle.Run(ctx) })
	t.Cleanup(func() { cancel(); run.Wait() })
	s.serve(before...)
	return s
}

func (s *v1Shard) serve(before ...*v1Shard) {
	now := func() time.Time { return s.now }
	c := rekor.Config{Log: s.merkle, Signer: s.key, Hostname: site1, TreeID: s.tree, Serves: []rekor.Generation{rekor.V1}, Now: now}
	for _, b := range before {
		frozen := rekor.Config{Log: b.merkle, Signer: b.key, Hostname: site1, TreeID: b.tree, Serves: c.Serves, Frozen: true, FirstIndex: c.FirstIndex, Now: now}
		l, err := rekor.New(frozen)
		if err != nil {
			s.t.Fatal(err)
		}
		c.Beside = append(c.Beside, l)
		c.FirstIndex += b.merkle.Head().Size
	}
	var err error
	if s.log, err = rekor.New(c); err != nil {
		s.t.Fatal(err)
	}
}

// add puts n entries into the shard, some with attestations.
func (s *v1Shard) add(n int) {
	s.t.Helper()
	var all sync.WaitGroup
	for range n {
		s.n++
		body := fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"tree":%d,"number":%d}}`, s.tree, s.n)
		all.Go(func() {
			if _, _, err := s.log.Add(context.Background(), &rekor.Entry{Kind: "hashedrekord", Version: "0.0.1", Body: body}); err != nil {
				s.t.Error(err)
			}
		})
	}
	all.Wait()
}

func (s *v1Shard) origin() string { return fmt.Sprintf("%s - %d", site1, s.tree) }

func (s *v1Shard) config(url, scope string) LogConfig {
	s.t.Helper()
	vkey, err := parcel.VerifierKey(site1, s.key.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	return LogConfig{Origin: s.origin(), VKey: vkey, Scope: scope, Source: url, Layout: layoutRekor1}
}

// v1Server serves the site; change may spoil answers on their way.
func v1Server(t testing.TB, active *v1Shard, change func(path string, answer []byte) []byte) (url string, requests *atomic.Int32) {
	t.Helper()
	requests = new(atomic.Int32)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		rec := httptest.NewRecorder()
		active.log.Handler().ServeHTTP(rec, r)
		b := rec.Body.Bytes()
		if change != nil {
			b = change(r.URL.Path, b)
		}
		w.WriteHeader(rec.Code)
		w.Write(b)
	}))
	t.Cleanup(srv.Close)
	return srv.URL, requests
}

// TestRekor1Sparse carries single entries of a growing shard whose every answer comes with another checkpoint, and proves each of
// them inside at every later head.
func TestRekor1Sparse(t *testing.T) {
	s := newShard(t, 7)
	url, requests := v1Server(t, s, nil)
	c := s.config(url, parcel.ScopeSparse)
	l := newLab(t, c)
	r := mrand.New(mrand.NewChaCha8([32]byte{1}))
	var want []uint64
	for step, n := range []int{1, 1, 1, 1, 3, 1, 8, 47, 1, 190, 1, 2, 40} {
		s.add(n)
		size := s.merkle.Head().Size
		if step != 1 { // a step without records
			for range step % 3 {
				want = append(want, r.Uint64N(size))
			}
		}
		c.Records = want
		l.ec.Logs = []LogConfig{c}
		l.reopen()
		requests.Store(0)
		l.pull()
		if got := requests.Load(); got > 8 {
			t.Errorf("%d requests for a step with %d records", got, step%3)
		}
		l.load(l.export(0))
		for _, i := range want {
			leaf, proof, head, err := l.in.Inclusion(t.Context(), c.Origin, i)
			if err != nil || head.Size != size {
				t.Fatal(i, size, head.Size, err)
			}
			proven(t, i, head, leaf, proof)
			rec, err := l.in.Record(c.Origin, i)
			if err != nil || tiles.LeafHash(rec.Leaf) != leaf {
				t.Fatal(i, err)
			}
			if x, err := entry.ParseExtra(rec.Extra); err != nil || x.LogIndex != i || x.Verify(rec.Leaf, s.key.Public()) != nil {
				t.Fatalf("%+v, %v", x, err)
			}
		}
	}
	rep, err := l.in.Reconcile(t.Context())
	if err != nil || rep.Err() != nil {
		t.Fatal(err, rep.Err())
	}
	if _, err := l.out.Pull(t.Context()); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
}

// TestRekor1Full carries all shards of a site, entry by entry, with what stands beside them, through turn-over and growth.
func TestRekor1Full(t *testing.T) {
	first := newShard(t, 7)
	first.add(261)
	second := newShard(t, 8, first)
	second.add(3)
	url, requests := v1Server(t, second, nil)
	f, n := first.config(url, parcel.ScopeFull), uint64(261)
	h := first.merkle.Head()
	f.Frozen = &parcel.State{Size: h.Size, Root: h.Root[:]}
	g := second.config(url, parcel.ScopeFull)
	g.FirstIndex = &n
	l := newLab(t, f, g)
	for _, more := range []int{0, 1, 252, 1, 300} {
		second.add(more)
		l.pull()
		l.load(l.export(0))
		for _, s := range []*v1Shard{first, second} {
			if head, err := l.in.Head(s.origin()); err != nil || head.Size != s.merkle.Head().Size {
				t.Fatal(head.Size, err)
			}
		}
	}
	for _, i := range []uint64{0, 255, 256, 556} {
		rec, err := l.in.Record(second.origin(), i)
		if err != nil {
			t.Fatal(err)
		}
		if x, err := entry.ParseExtra(rec.Extra); err != nil || x.LogIndex != i+261 {
			t.Fatalf("%+v, %v", x, err)
		}
	}
	rep, err := l.in.Reconcile(t.Context())
	if err != nil || rep.Err() != nil || rep.Logs[0].Leaves != 261 || rep.Logs[1].Leaves != 557 {
		t.Fatalf("%v, %v, %+v", err, rep.Err(), rep.Logs)
	}
	// What was fetched is not fetched again: of the last bundle only the new entry.
	second.add(1)
	requests.Store(0)
	l.pull()
	if got := requests.Load(); got > 5 {
		t.Errorf("%d requests for one new entry", got)
	}
}

// TestFrozenShardMoves: a shard that was pinned where it stopped, and takes one more entry, is an alarm of its own; so is another root.
func TestFrozenShardMoves(t *testing.T) {
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse} {
		s := newShard(t, 7)
		s.add(5)
		h := s.merkle.Head()
		url, _ := v1Server(t, s, nil)
		c := s.config(url, scope)
		c.Frozen = &parcel.State{Size: h.Size, Root: h.Root[:]}
		l := newLab(t, c)
		l.pull()
		l.load(l.export(0))
		s.add(1)
		if _, err := l.out.Pull(t.Context()); !errors.Is(err, ErrThawed) || ExitCode(err) != 32 {
			t.Fatal(scope, err)
		}
		// An exporter that does not know of the pin carries it; the inside refuses.
		l.ec.Logs = slices.Clone(l.ec.Logs)
		l.ec.Logs[0].Frozen = nil
		l.reopen()
		l.pull()
		l.refused(32, l.export(0)...)
		wrong := c
		wrong.Frozen = &parcel.State{Size: 6, Root: h.Root[:]}
		l2 := newLab(t, wrong)
		if _, err := l2.out.Pull(t.Context()); ExitCode(err) != 32 {
			t.Fatal(scope, err)
		}
	}
}

// TestRekor1Fork: a shard that shows two histories is proven to, at both scopes and whether the old tree is one subtree or not.
func TestRekor1Fork(t *testing.T) {
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse} {
		for _, size := range []int{4, 5} {
			t.Run(fmt.Sprint(scope, size), func(t *testing.T) {
				one := newShard(t, 7)
				one.add(size)
				two := newShard(t, 7, one) // the same key
				two.serve()
				two.n = 100
				two.add(size + 3)
				url, _ := v1Server(t, one, nil)
				c := one.config(url, scope)
				if scope == parcel.ScopeSparse {
					c.Records = []uint64{1}
				}
				l := newLab(t, c)
				l.pull()
				l.load(l.export(0))
				url, _ = v1Server(t, two, nil)
				l.ec.Logs = []LogConfig{two.config(url, scope)}
				if scope == parcel.ScopeSparse {
					l.ec.Logs[0].Records = []uint64{2}
				}
				l.reopen()
				_, err := l.out.Pull(t.Context())
				var fork *ForkError
				if !errors.As(err, &fork) || ExitCode(err) != 30 {
					t.Fatal(err)
				}
				data, err := os.ReadFile(fork.Evidence)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := CheckEvidence(data, c); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// TestRekor1Lies changes one thing in the answers of the API at a time: nothing that is changed is taken.
func TestRekor1Lies(t *testing.T) {
	s := newShard(t, 7)
	s.add(20)
	other := newShard(t, 7)
	other.add(20)
	entries := func(f func(e map[string]any)) func(string, []byte) []byte {
		return func(path string, b []byte) []byte {
			if !strings.Contains(path, "entries") {
				return b
			}
			var list []map[string]map[string]any
			if json.Unmarshal(b, &list) != nil {
				return b
			}
			for _, m := range list {
				for _, e := range m {
					f(e)
				}
			}
			b, _ = json.Marshal(list)
			return b
		}
	}
	proof := func(e map[string]any) map[string]any {
		return e["verification"].(map[string]any)["inclusionProof"].(map[string]any)
	}
	for name, change := range map[string]func(string, []byte) []byte{
		"no checkpoint": func(p string, b []byte) []byte { return bytes.ReplaceAll(b, []byte(`— `), []byte(`- `)) },
		"not JSON":      func(p string, b []byte) []byte { return append(b, '{') },
		"another tree": func(p string, b []byte) []byte {
			return bytes.ReplaceAll(b, []byte(`"treeID":"7"`), []byte(`"treeID":"9"`))
		},
		"another body":         entries(func(e map[string]any) { e["body"] = "e30=" }),
		"body no base64":       entries(func(e map[string]any) { e["body"] = "*" }),
		"another time":         entries(func(e map[string]any) { e["integratedTime"] = 1 }),
		"another log id":       entries(func(e map[string]any) { e["logID"] = strings.Repeat("0", 64) }),
		"another global index": entries(func(e map[string]any) { e["logIndex"] = e["logIndex"].(float64) + 1 }),
		"another shard index":  entries(func(e map[string]any) { proof(e)["logIndex"] = proof(e)["logIndex"].(float64) + 1 }),
		"no proof":             entries(func(e map[string]any) { e["verification"].(map[string]any)["inclusionProof"] = nil }),
		"no timestamp":         entries(func(e map[string]any) { e["verification"].(map[string]any)["signedEntryTimestamp"] = "" }),
		"short proof":          entries(func(e map[string]any) { proof(e)["hashes"] = proof(e)["hashes"].([]any)[1:] }),
		"flipped proof": entries(func(e map[string]any) {
			h := proof(e)["hashes"].([]any)
			h[0] = strings.Repeat("ab", 32)
		}),
		"another key's checkpoint": entries(func(e map[string]any) {
			h := other.merkle.Head()
			proof(e)["checkpoint"] = string(h.Note)
		}),
		"entries left out": func(p string, b []byte) []byte {
			if strings.Contains(p, "entries") {
				return []byte("[]")
			}
			return b
		},
	} {
		for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse} {
			url, _ := v1Server(t, s, change)
			c := s.config(url, scope)
			if scope == parcel.ScopeSparse {
				c.Records = []uint64{3, 11}
			}
			l := newLab(t, c)
			if _, err := l.out.Pull(t.Context()); !slices.Contains([]int{3, 31, 60}, ExitCode(err)) {
				t.Errorf("%s at scope %s: %v", name, scope, err)
			}
			if heads, err := l.out.state(); err != nil || len(heads.collected) > 0 {
				t.Errorf("%s at scope %s: the collection moved", name, scope)
			}
		}
	}
}
