package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"reflect"
	"testing"

	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// TestNamedEntries: what an artifact says of its log entry picks it in the logs that it can be in, and in no other.
func TestNamedEntries(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(der)
	id := hex.EncodeToString(sum[:])
	vkey := func(name string) string {
		line, err := parcel.VerifierKey(name, key.Public())
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	const old, new, tiled, other, whole = "rekor.example - 1", "rekor.example - 2", "log.example", "other.example", "whole.example"
	sparse := parcel.ScopeSparse
	_, stranger := makeLog(t, growing)
	e := &Exporter{}
	if e.logs, err = knownLogs([]LogConfig{
		{Origin: old, VKey: vkey("rekor.example"), Scope: sparse, Layout: layoutRekor1}, {Origin: new, VKey: vkey("rekor.example"), Scope: sparse, Layout: layoutRekor1},
		{Origin: tiled, VKey: vkey(tiled), Scope: sparse}, {Origin: other, VKey: stranger.VKey, Scope: sparse}, {Origin: whole, VKey: vkey(whole), Scope: parcel.ScopeFull},
	}); err != nil {
		t.Fatal(err)
	}
	n := func(v uint64) *uint64 { return &v }
	digest := images.DigestOf(nil)
	unknown := e.nameEntries(images.Image{Entries: []images.Entry{
		{Origin: tiled, Index: n(5), LogID: id, Digest: digest},
		{Origin: whole, Index: n(6)},                                // carried anyway
		{Origin: "gone.example", Index: n(7)},                       // not carried
		{LogID: id, Number: n(1200), Digest: digest},                // in one of the shards
		{LogID: hex.EncodeToString(make([]byte, 32)), Number: n(3)}, // of another site
		{Digest: digest}, // looked up where there is an index
	}})
	if len(unknown) != 2 || unknown[0] != "gone.example" {
		t.Fatal(unknown)
	}
	e.numbered(old, 0)
	e.numbered(new, 1000)
	if got := e.namedIndexes(tiled); !reflect.DeepEqual(got, []uint64{5}) {
		t.Fatal(got)
	}
	if got := e.namedIndexes(old); !reflect.DeepEqual(got, []uint64{1200}) { // beyond its end, which the pull finds
		t.Fatal(got)
	}
	if got := e.namedIndexes(new); !reflect.DeepEqual(got, []uint64{200}) {
		t.Fatal(got)
	}
	for origin, looked := range map[string]bool{old: true, new: true, tiled: false, other: false, whole: false} {
		if s := e.asked(e.logs[origin]); s.byContent() != looked || looked && !s.digests[digest] {
			t.Fatal(origin, s.Digests)
		}
		if e.logs[origin].selected.byContent() {
			t.Fatal("the configured selection changed")
		}
	}
	if got := e.namedIndexes(other); got != nil {
		t.Fatal(got)
	}
}
