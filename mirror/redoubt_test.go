package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"sync"
	"testing"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// TestMirrorsAnotherRedoubt carries the artifact log of another Redoubt, read through its Rekor v2 API and signed with ECDSA
// P-256, in three growing transfers.
func TestMirrorsAnotherRedoubt(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := log.Config{DB: newDB(t, filepath.Join(t.TempDir(), "rekor.db")), Prefix: "rekor/", Origin: "rekor.outside.example", Signer: key}
	if err := log.Create(ctx, c); err != nil {
		t.Fatal(err)
	}
	engine, err := log.Open(ctx, c)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- engine.Run(ctx) }()
	defer func() { cancel(); <-ended }()
	api, err := rekor.New(rekor.Config{Log: engine, Signer: key, Hostname: c.Origin, TreeID: 1, Serves: []rekor.Generation{rekor.V2}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(api.Handler())
	defer srv.Close()
	vkey, err := parcel.VerifierKey(c.Origin, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	l := newLab(t, LogConfig{Origin: c.Origin, VKey: vkey, Source: srv.URL + "/api/v2"})
	for n, upTo := range []int{1, 255, 700} {
		var all sync.WaitGroup
		for i := int(engine.Head().Size); i < upTo; i++ {
			all.Go(func() {
				if _, err := engine.Add(ctx, fmt.Appendf(nil, "entry %d", i), nil, nil); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		l.pull()
		r := l.load(l.export(0))
		if r.Transfers[0].Sequence != uint64(n+1) || r.Transfers[0].Logs[0].To != uint64(upTo) {
			t.Fatalf("%+v", r)
		}
		h, err := l.in.Head(c.Origin)
		if err != nil || h.Root != tiles.Hash(engine.Head().Root) {
			t.Fatal(h, err)
		}
	}
	r, err := l.in.Reconcile(ctx)
	if err != nil || r.Err() != nil || r.Logs[0].Leaves != 700 || r.Logs[0].Heads != 3 {
		t.Fatal(err, r.Err())
	}
	leaf, proof, h, err := l.in.Inclusion(ctx, c.Origin, 300)
	if err != nil {
		t.Fatal(err)
	}
	proven(t, 300, h, leaf, proof)
}

// proven fails the test unless proof shows, to a verifier that is not ours, that leaf stands at index under head.
func proven(t testing.TB, index uint64, head Head, leaf tiles.Hash, list []tiles.Hash) {
	t.Helper()
	if err := verifyElsewhere(index, head, leaf, list); err != nil {
		t.Fatal(err)
	}
}
