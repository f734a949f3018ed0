package parcel

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/tiles"
)

type file struct {
	name Name
	data []byte
}

var created = Time{time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)}

func testKey(t testing.TB) (crypto.Signer, *Verifier) {
	t.Helper()
	s := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))
	v, err := verifierOf("exporter.example", s.Public())
	if err != nil {
		t.Fatal(err)
	}
	return s, v
}

// testManifest describes a step of one log from nothing to size leaves.
func testManifest(size uint64) Manifest {
	empty := tiles.EmptyRoot()
	return Manifest{Stream: "outside", Sequence: 1, Created: created, Logs: []Log{{
		Origin: "log.example", Observed: created, Scope: ScopeFull, From: State{Root: empty[:]}, To: State{Size: size, Root: Sum([]byte("root"))},
	}}}
}

// testFiles are files of a log of 2,000 entries: a checkpoint, a hash tile and bundles of random and of constant bytes.
func testFiles() []file {
	rng := mrand.New(mrand.NewChaCha8([32]byte{1}))
	out := []file{{Name{Checkpoint: true}, []byte("log.example\n2000\n")}, {Name{Tile: tiles.Tile{Level: 1, Width: 7}}, make([]byte, 7*32)}}
	for i := range 7 {
		b := make([]byte, 100_000+i*1000)
		if i%2 == 0 {
			for k := range b {
				b[k] = byte(rng.Uint32())
			}
		}
		out = append(out, file{Name{Tile: tiles.Tile{Level: tiles.Entries, Index: uint64(i), Width: 256}}, b})
	}
	return out
}

func pack(t testing.TB, dir string, m Manifest, files []file, volume int64) *Packed {
	t.Helper()
	key, v := testKey(t)
	w, err := NewWriter(dir, "outside-000001", m, volume)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if err := w.Add(f.name, f.data); err != nil {
			t.Fatal(err)
		}
	}
	p, err := w.Finish(v.Name(), key)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Publish(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func paths(dir string, p *Packed) []string {
	var out []string
	for _, f := range p.Files {
		out = append(out, filepath.Join(dir, f))
	}
	return out
}

// readAll scans, checks and reads a parcel to its end.
func readAll(t testing.TB, paths []string) ([]file, error) {
	t.Helper()
	_, v := testKey(t)
	list, err := Scan(paths, []*Verifier{v})
	if err != nil {
		return nil, err
	}
	var out []file
	for _, p := range list {
		defer p.Close()
		if err := p.Check(context.Background()); err != nil {
			return nil, err
		}
		r, err := p.Files(context.Background())
		if err != nil {
			return nil, err
		}
		defer r.Close()
		for {
			n, b, err := r.Next(nil)
			if err == io.EOF {
				break
			}
			if err != nil {
				return out, err
			}
			out = append(out, file{n, b})
		}
	}
	return out, nil
}

func TestRoundTrip(t *testing.T) {
	for _, volume := range []int64{0, 300_000, 200_000} {
		dir := t.TempDir()
		p := pack(t, dir, testManifest(2000), testFiles(), volume)
		if volume == 0 != (len(p.Files) == 1) {
			t.Fatalf("%d volumes of %d bytes", len(p.Files), volume)
		}
		for _, f := range paths(dir, p) {
			if st, err := os.Stat(f); err != nil || volume > 0 && st.Size() > volume {
				t.Fatalf("%v, %v: larger than %d", st.Size(), err, volume)
			}
		}
		list := paths(dir, p)
		slices.Reverse(list)
		got, err := readAll(t, list)
		if err != nil {
			t.Fatal(err)
		}
		want := testFiles()
		if len(got) != len(want) {
			t.Fatalf("%d files of %d", len(got), len(want))
		}
		for i := range want {
			if got[i].name != want[i].name || !bytes.Equal(got[i].data, want[i].data) {
				t.Fatalf("%s differs", want[i].name)
			}
		}
		// The directory holds volumes and nothing else.
		if entries, _ := os.ReadDir(dir); len(entries) != len(p.Files) {
			t.Fatalf("%d files in the directory, %d volumes", len(entries), len(p.Files))
		}
	}
}

// TestStandardTools reads a volume with archive/tar over a plain zstd reader, as tar --zstd would.
func TestStandardTools(t *testing.T) {
	dir := t.TempDir()
	p := pack(t, dir, testManifest(2000), testFiles(), 300_000)
	var names []string
	for i, path := range paths(dir, p) {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := zstd.NewReader(f)
		if err != nil {
			t.Fatal(err)
		}
		defer z.Close()
		tr := tar.NewReader(z)
		for k := 0; ; k++ {
			h, err := tr.Next()
			if err == io.EOF {
				break
			}
			if err != nil || h.Typeflag != tar.TypeReg {
				t.Fatal(h, err)
			}
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if k == 0 {
				if h.Name != "manifest.note" || !bytes.Equal(b, p.Note) {
					t.Fatalf("volume %d begins with %s", i+1, h.Name)
				}
				continue
			}
			names = append(names, h.Name)
		}
	}
	if len(names) != len(testFiles()) || names[0] != "logs/0/checkpoint" {
		t.Fatal(names)
	}
}

func TestSameInputsSameBytes(t *testing.T) {
	a, b := t.TempDir(), t.TempDir()
	p := pack(t, a, testManifest(2000), testFiles(), 300_000)
	q := pack(t, b, testManifest(2000), testFiles(), 300_000)
	if !p.Digest.Equal(q.Digest) || len(p.Files) != len(q.Files) {
		t.Fatal("two digests from the same inputs")
	}
	for i := range p.Files {
		x, _ := os.ReadFile(paths(a, p)[i])
		y, _ := os.ReadFile(paths(b, q)[i])
		if !bytes.Equal(x, y) { // Ed25519 signatures are deterministic too
			t.Fatalf("%s differs", p.Files[i])
		}
	}
}

// TestBadVolumesAreNamed damages and removes volumes; the error names each, and only them.
func TestBadVolumesAreNamed(t *testing.T) {
	dir := t.TempDir()
	p := pack(t, dir, testManifest(2000), testFiles(), 300_000)
	if len(p.Files) < 3 {
		t.Fatalf("only %d volumes", len(p.Files))
	}
	all := paths(dir, p)
	good, err := os.ReadFile(all[1])
	if err != nil {
		t.Fatal(err)
	}
	bad := bytes.Clone(good)
	bad[len(bad)-2000] ^= 4
	os.WriteFile(all[1], bad, 0o644)
	_, err = readAll(t, all)
	var v *VolumeError
	if !errors.As(err, &v) || v.N != 2 || v.Path != all[1] || !errors.Is(err, ErrVolume) {
		t.Fatalf("a flipped bit: %v", err)
	}
	os.WriteFile(all[1], good[:len(good)-1], 0o644)
	if _, err = readAll(t, all); !errors.As(err, &v) || v.N != 2 {
		t.Fatalf("cut short: %v", err)
	}
	if _, err = readAll(t, slices.Delete(slices.Clone(all), 1, 2)); !errors.As(err, &v) || v.N != 2 || v.Path != "outside-000001.002.rdp" {
		t.Fatalf("missing: %v", err)
	}
	// The whole one under any other name heals it, beside the damaged copy too.
	os.WriteFile(filepath.Join(dir, "again.rdp"), good, 0o644)
	if _, err = readAll(t, append(all, filepath.Join(dir, "again.rdp"))); err != nil {
		t.Fatal(err)
	}
	// A bit of the manifest.
	head := bytes.Clone(good)
	head[600] ^= 1
	os.WriteFile(all[1], head, 0o644)
	if _, err = readAll(t, all); !errors.As(err, &v) || v.N != 2 || !errors.Is(err, ErrVolume) {
		t.Fatalf("a flipped bit in the manifest: %v", err)
	}
}

func TestKeys(t *testing.T) {
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, _ := testKey(t)
	for _, s := range []crypto.Signer{ec, ed} {
		vkey, err := VerifierKey("some.name/x", s.Public())
		if err != nil {
			t.Fatal(err)
		}
		v, err := NewVerifier(vkey + "\n")
		if err != nil || v.VKey() != vkey {
			t.Fatal(v, err)
		}
		note, err := SignNote([]byte("a\nb\n"), "some.name/x", s)
		if err != nil {
			t.Fatal(err)
		}
		if text, by, err := OpenNote(note, []*Verifier{v, v}); err != nil || string(text) != "a\nb\n" || by != v {
			t.Fatal(text, by, err)
		}
		if _, _, err := OpenNote(bytes.Replace(note, []byte("b"), []byte("c"), 1), []*Verifier{v}); err == nil || errors.Is(err, ErrForeignKey) {
			t.Fatal("a changed text passes", err)
		}
		other, err := VerifierKey("other", s.Public())
		if err != nil {
			t.Fatal(err)
		}
		o, _ := NewVerifier(other)
		if _, _, err := OpenNote(note, []*Verifier{o}); !errors.Is(err, ErrForeignKey) {
			t.Fatal(err)
		}
	}
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if _, err := VerifierKey("x", p384.Public()); !errors.Is(err, ErrKey) {
		t.Fatal(err)
	}
	for _, bad := range []string{"", "a+b", "a+00000000+AQ==", "a b+7b9a3f7c+AVtQ/9lW+g90rQY3+pODJvMQ8X/tTvh/EuvCDLSmUk4S",
		"github.com/AlCutter/serverless-test/log+28035192+AVtQ/9lW+g90rQY3+pODJvMQ8X/tTvh/EuvCDLSmUk4S"} {
		if _, err := NewVerifier(bad); !errors.Is(err, ErrKey) {
			t.Errorf("%q is a key: %v", bad, err)
		}
	}
	if _, err := NewVerifier("github.com/AlCutter/serverless-test/log+28035191+AVtQ/9lW+g90rQY3+pODJvMQ8X/tTvh/EuvCDLSmUk4S"); err != nil {
		t.Error(err)
	}
}

func TestManifestIsStrict(t *testing.T) {
	m := testManifest(2000)
	m.MinImporter, m.Exporter = 1, "exporter.example+00000000"
	m.Volumes = []Volume{{N: 1, Bytes: 10, Files: 1, Unpacked: 1024, SHA256: Sum(nil)}}
	text, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(text)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := got.Text(); !bytes.Equal(again, text) {
		t.Fatal("reading and writing changes the manifest")
	}
	for i, bad := range []func([]byte) []byte{
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"n":1`), []byte(`"n":2`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"n":1`), []byte(`"n":1.0`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"n":1`), []byte(`"n":1,"n":1`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"n":1`), []byte(`"N":1`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`{"created"`), []byte(`{"a":1,"created"`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`{"created"`), []byte(`{ "created"`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte("v1 outside"), []byte("v1 Outside"), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte("v1 outside"), []byte("v1  outside"), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte("\n1\n"), []byte("\n01\n"), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte("\n1\n"), []byte("\n2\n"), 1) },
		func(b []byte) []byte { return append(b, "more\n"...) },
		func(b []byte) []byte { return b[:len(b)-1] },
		func(b []byte) []byte { return bytes.Replace(b, []byte("12:00:00Z"), []byte("12:00:00.5Z"), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"full"`), []byte(`"some"`), 1) },
		func(b []byte) []byte { return bytes.Replace(b, []byte(`"size":2000`), []byte(`"size":-1`), 1) },
	} {
		mutant := bad(bytes.Clone(text))
		if bytes.Equal(mutant, text) {
			t.Fatalf("case %d changes nothing", i)
		}
		if _, err := ParseManifest(mutant); !errors.Is(err, ErrManifest) {
			t.Errorf("case %d: %v", i, err)
		}
	}
	if _, err := ParseManifest(bytes.Replace(text, []byte("parcel/v1"), []byte("parcel/v2"), 1)); !errors.Is(err, ErrTooNew) {
		t.Error(err)
	}
	if _, err := ParseManifest(bytes.Replace(text, []byte(`"min_importer":1`), []byte(`"min_importer":2`), 1)); !errors.Is(err, ErrTooNew) {
		t.Error(err)
	}
}

func ExampleName() {
	fmt.Println(Name{Log: 2, Tile: tiles.Tile{Level: tiles.Entries, Index: 1234, Width: 17}})
	// Output: logs/2/tile/entries/x001/234.p/17
}
