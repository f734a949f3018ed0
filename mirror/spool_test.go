package mirror

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// spoolLab is a mirror of the first 700 entries of a log, and the log's later history.
func spoolLab(t *testing.T) (*lab, history, string) {
	t.Helper()
	c := signedLog(t, 4, tiles.MaxSize, 700, 1500)
	l := newLab(t, c)
	rewind(t, c.Source, 700)
	l.pull()
	l.load(l.export(0))
	return l, newHistory(1500, tiles.MaxSize), filepath.Join(l.dir, "spool")
}

func spoolFiles(t *testing.T, dir string) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// TestSpool: proofs left by verifications are compared once and taken away; a forked one freezes its log, with evidence.
func TestSpool(t *testing.T) {
	l, honest, dir := spoolLab(t)
	ctx := context.Background()
	if r, err := l.in.ObserveSpool(ctx, dir); err != nil || r != (SpoolReport{}) {
		t.Fatalf("no folder yet: %+v, %v", r, err)
	}
	for _, n := range [][2]uint64{{3, 700}, {3, 700}, {40, 512}, {699, 1300}} {
		if err := spool.Leave(dir, honest.shows(t, n[0], n[1])); err != nil {
			t.Fatal(err)
		}
	}
	other := honest.shows(t, 1, 9)
	other.Origin = "elsewhere.example"
	if err := spool.Leave(dir, other); err != nil {
		t.Fatal(err)
	}
	if n := len(spoolFiles(t, dir)); n != 4 {
		t.Fatalf("%d files of four different proofs", n)
	}
	r, err := l.in.ObserveSpool(ctx, dir)
	if err != nil || r.Taken != 3 || r.Foreign != 1 || r.Refused != 0 || r.New == 0 || r.Known == 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if names := spoolFiles(t, dir); len(names) != 0 {
		t.Fatalf("left in the spool: %q", names)
	}
	forked := newHistory(1500, 100).shows(t, 3, 700)
	if err := spool.Leave(dir, forked); err != nil {
		t.Fatal(err)
	}
	r, err = l.in.ObserveSpool(ctx, dir)
	var fork *ForkError
	if !errors.As(err, &fork) || r.Taken != 1 {
		t.Fatalf("a forked proof: %+v, %v", r, err)
	}
	st, err := l.in.Status(ctx)
	if err != nil || st.Logs[0].Frozen == nil {
		t.Fatalf("not frozen: %+v, %v", st, err)
	}
	f, err := l.in.Freshness(ctx)
	if err != nil || !f.Logs[0].Frozen {
		t.Errorf("verifications are not told of the fork: %+v, %v", f, err)
	}
	if err := spool.Leave(dir, forked); err != nil {
		t.Fatal(err)
	}
	if r, err = l.in.ObserveSpool(ctx, dir); err != nil || r.Taken != 1 {
		t.Errorf("of a log that is frozen: %+v, %v", r, err)
	}
}

// TestSpoolRefuses: whatever else lies in a spool is thrown away and moves nothing.
func TestSpoolRefuses(t *testing.T) {
	l, honest, dir := spoolLab(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	good, err := spool.Encode(honest.shows(t, 3, 700))
	if err != nil {
		t.Fatal(err)
	}
	secret := filepath.Join(l.dir, "secret")
	if err := os.WriteFile(secret, good, 0o600); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if name == "" {
			name = spool.NameOf(b)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	wrongProof := honest.shows(t, 3, 700)
	wrongProof.Proof[0][0] ^= 1
	badProof, _ := spool.Encode(wrongProof)
	wrongSig := honest.shows(t, 4, 700)
	wrongSig.Note = bytes.Replace(wrongSig.Note, []byte("\n700\n"), []byte("\n701\n"), 1)
	badSig, _ := spool.Encode(wrongSig)
	put("", badProof)
	put("", badSig)
	put("", append([]byte(" "), good...))
	put("", bytes.Replace(good, []byte(`{"index"`), []byte(`{"more":1,"index"`), 1))
	put("", bytes.Replace(good, []byte(`{"index":3`), []byte(`{"index":3,"index":3`), 1))
	put("", []byte("{}"))
	put("", nil)
	put("", bytes.Repeat([]byte("a"), spool.MaxBytes+1))
	put(strings.Repeat("0", 64)+".json", good)
	put("readme", good)
	if err := os.Symlink(secret, filepath.Join(dir, spool.NameOf(good))); err != nil {
		t.Fatal(err)
	}
	put(".unfinished", good)
	put(".abandoned", good)
	if err := os.Chtimes(filepath.Join(dir, ".unfinished"), l.now, l.now); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, ".abandoned"), l.now.Add(-2*time.Hour), l.now.Add(-2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	before := l.fingerprint()
	r, err := l.in.ObserveSpool(context.Background(), dir)
	if err != nil || r.Refused != 11 || r.Taken != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if l.fingerprint() != before {
		t.Error("refused files moved the state")
	}
	if names := spoolFiles(t, dir); len(names) != 1 || names[0] != ".unfinished" {
		t.Errorf("left: %q", names)
	}
	if _, err := os.Stat(secret); err != nil {
		t.Errorf("what a link led to: %v", err)
	}
}

// TestSpoolIsBounded: a spool nobody empties takes no more than its limit, and an import that runs leaves it for later.
func TestSpoolIsBounded(t *testing.T) {
	l, honest, dir := spoolLab(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range spool.MaxFiles {
		if err := os.WriteFile(filepath.Join(dir, "."+strings.Repeat("x", 1+i%200)+string(rune('a'+i/200))), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := spool.Leave(dir, honest.shows(t, 3, 700)); !errors.Is(err, spool.ErrFull) {
		t.Errorf("a full spool: %v", err)
	}
	big := honest.shows(t, 3, 700)
	big.Note = bytes.Repeat([]byte("a"), spool.MaxBytes)
	if err := spool.Leave(dir, big); !errors.Is(err, spool.ErrMalformed) {
		t.Errorf("a proof that is too long: %v", err)
	}
	free := filepath.Join(l.dir, "free")
	if err := spool.Leave(free, honest.shows(t, 3, 700)); err != nil {
		t.Fatal(err)
	}
	unlock, err := lockDir(l.in.root)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := l.in.ObserveSpool(context.Background(), free); !errors.Is(err, ErrBusy) || r.Left != 1 {
		t.Errorf("beside an import: %+v, %v", r, err)
	}
	unlock()
	if r, err := l.in.ObserveSpool(context.Background(), free); err != nil || r.Taken != 1 {
		t.Errorf("after it: %+v, %v", r, err)
	}
}

func FuzzParseSpooled(f *testing.F) {
	b, err := spool.Encode(spool.Observation{Origin: "log.example", Note: []byte("log.example\n1\nAAAA\n\n— x y\n"), Proof: []tiles.Hash{{1}}, Source: "bundle"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"index":0,"leaf":"","note":"","origin":"","proof":[],"source":""}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := spool.Parse(b)
		if err != nil {
			if !errors.Is(err, spool.ErrMalformed) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		if again, err := spool.Encode(o); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two spellings: %q, %q", b, again)
		}
	})
}
