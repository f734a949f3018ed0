package mirror

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// rekorLeaf is the body of an entry that somebody with a certificate signed.
func rekorLeaf(t *testing.T, email, issuer string, n int) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(int64(n)), NotBefore: time.Unix(1_700_000_000, 0), NotAfter: time.Unix(1_700_000_600, 0), EmailAddresses: []string{email},
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(issuer)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%064x"}},"signature":{"content":"AAAA","publicKey":{"content":%q}}}}`,
		n, base64.StdEncoding.EncodeToString(text))
}

// watchedLog is a log of entries by others, with one of ours at each index in ours.
func watchedLog(t *testing.T, ours map[int]string, sizes ...uint64) LogConfig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	w, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	other := rekorLeaf(t, "somebody@elsewhere.example", "https://accounts.example", 0)
	for _, size := range sizes {
		for w.Size() < size {
			leaf := other
			if email := ours[int(w.Size())]; email != "" {
				leaf = rekorLeaf(t, email, "https://issuer.corp.internal", int(w.Size()))
			}
			if err := w.Add(leaf); err != nil {
				t.Fatal(err)
			}
		}
		note, err := parcel.SignNote(generate.CheckpointText("log.example", size, w.Root()), "log.example", labKey(4))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Publish(note); err != nil {
			t.Fatal(err)
		}
	}
	return LogConfig{Origin: "log.example", VKey: mustKey(t, "log.example", 4), Source: dir}
}

// TestWatch: an entry signed as us appears in a mirrored log; the signed report says so until somebody acknowledges it, each entry is
// looked at once, and a changed watch looks at all of them again.
func TestWatch(t *testing.T) {
	c := watchedLog(t, map[int]string{5: "release@corp.internal", 600: "release@corp.internal", 601: "build@corp.internal"}, 300, 700)
	l := newLab(t, c)
	l.mc.Watch = []WatchConfig{{Name: "us", Identity: `^release@corp\.internal$`, Issuer: `corp\.internal`}, {Name: "digest", Digests: []string{fmt.Sprintf("sha256:%064x", 601)}}}
	l.reopen()
	step := func(size uint64) *ReconcileReport {
		t.Helper()
		if err := generate.Rewind(c.Source, size); err != nil {
			t.Fatal(err)
		}
		l.pull()
		l.load(l.export(0))
		r, err := l.in.Reconcile(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	r := step(300)
	if r.Watched.Hits != 1 || r.Watched.Newest[0].Index != 5 || r.Watched.Newest[0].Identities[0] != "release@corp.internal" || !r.Watched.Coverage[0].Proves || r.Watched.Coverage[0].Looked != 300 {
		t.Fatalf("%+v", r.Watched)
	}
	if !errors.Is(r.Err(), ErrWatched) || ExitCode(r.Err()) != 33 || !strings.Contains(string(r.Note), "release@corp.internal") {
		t.Fatal(r.Err())
	}
	index := uint64(5)
	if n, err := l.in.Acknowledge(t.Context(), AckFilter{Watch: "us", Origin: "log.example", Index: &index}, "alice", "our own release"); err != nil || n != 1 {
		t.Fatal(n, err)
	}
	if _, err := l.in.Acknowledge(t.Context(), AckFilter{Watch: "us"}, "alice", ""); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	r = step(700)
	if r.Watched.Hits != 2 || r.Watched.Coverage[0].Looked != 700 {
		t.Fatalf("%+v", r.Watched)
	}
	if err := l.in.Rewatch(); err != nil {
		t.Fatal(err)
	}
	if again, err := l.in.Watch(t.Context()); err != nil || again.Hits != 2 || again.Coverage[0].Looked != 700 {
		t.Fatalf("looking again forgot what was acknowledged: %v %+v", err, again)
	}
	l.mc.Watch[0].Identity = "corp.internal"
	l.reopen()
	if wider, err := l.in.Watch(t.Context()); err != nil || wider.Hits != 3 {
		t.Fatalf("%v %+v", err, wider)
	}
	g, err := l.in.Gauges(t.Context())
	if err != nil || g.Hits["us"] != 2 || g.Hits["digest"] != 1 || g.Status.Reconcile == nil {
		t.Fatalf("%v %+v", err, g)
	}
}

// TestWatchSparse: of a sparse log the records are looked at, and the report does not claim that there is no other hit.
func TestWatchSparse(t *testing.T) {
	c := watchedLog(t, map[int]string{5: "release@corp.internal", 600: "release@corp.internal"}, 300, 700)
	c.Scope, c.Records = parcel.ScopeSparse, []uint64{4, 5}
	l := newLab(t, c)
	l.mc.Watch = []WatchConfig{{Name: "us", Identity: "release@"}}
	l.reopen()
	l.pull()
	l.load(l.export(0))
	r, err := l.in.Watch(t.Context())
	if err != nil || r.Hits != 1 || r.Coverage[0].Proves || r.Coverage[0].Looked != 2 {
		t.Fatalf("%v %+v", err, r)
	}
	if again, err := l.in.Watch(t.Context()); err != nil || again.Coverage[0].Looked != 2 {
		t.Fatalf("%v %+v", err, again)
	}
}

func TestWatchConfigs(t *testing.T) {
	for name, c := range map[string][]WatchConfig{
		"no name":  {{Identity: "x"}},
		"twice":    {{Name: "a", Identity: "x"}, {Name: "a", Identity: "y"}},
		"nothing":  {{Name: "a"}},
		"no regex": {{Name: "a", Identity: "("}},
	} {
		if err := CheckWatches(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
