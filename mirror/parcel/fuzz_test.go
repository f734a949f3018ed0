package parcel

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/tiles"
)

// FuzzManifest: what is read can be written again to the same bytes.
func FuzzManifest(f *testing.F) {
	m := testManifest(2000)
	m.MinImporter, m.Exporter = 1, "exporter.example+00000000"
	m.Volumes = []Volume{{N: 1, Bytes: 10, Files: 1, Unpacked: 1024, SHA256: Sum(nil)}}
	text, err := m.Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	m.TUF = tufManifest().TUF
	if text, err = m.Text(); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	m.Blobs, m.Images = []Blob{{Bytes: 2, SHA256: Sum([]byte("{}"))}}, Sum([]byte("{}"))
	if text, err = m.Text(); err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Replace(text, []byte(`"n":1`), []byte(`"n":1e0`), 1))
	f.Add([]byte("redoubt.parcel/v1 s\n1\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := ParseManifest(b)
		if err != nil {
			if !errors.Is(err, ErrManifest) && !errors.Is(err, ErrTooNew) {
				t.Fatal(err)
			}
			return
		}
		if again, err := m.Text(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("read and written differ: %v", err)
		}
	})
}

// FuzzHead: the first frame of a volume is read only in the form it is written.
func FuzzHead(f *testing.F) {
	f.Add(HeadFrame([]byte("a note\n")))
	f.Add(HeadFrame(make([]byte, 200_000)))
	f.Add([]byte{0x28, 0xB5, 0x2F, 0xFD, 0xA0, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		signed, n, err := readHead(bytes.NewReader(b))
		if err == nil && !bytes.Equal(HeadFrame(signed), b[:n]) {
			t.Fatal("two forms of one head")
		}
	})
}

// FuzzReader offers any bytes as a payload that a known exporter signed, compressed or as tar. Whatever comes out has a name
// of the list, in order, within its limit.
func FuzzReader(f *testing.F) {
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		f.Fatal(err)
	}
	h := tarHeader("logs/0/checkpoint", 3)
	good := append(h[:], append([]byte("abc"), make([]byte, 509+1024)...)...)
	f.Add(good, true, int64(1))
	f.Add(enc.EncodeAll(good, nil), false, int64(1))
	f.Add(stored(good), false, int64(1))
	f.Add(good[:600], true, int64(1))
	dir := f.TempDir()
	key, v := testKey(f)
	f.Fuzz(func(t *testing.T, b []byte, compress bool, files int64) {
		unpacked := int64(len(good))
		if compress {
			unpacked = int64(len(b))
			b = enc.EncodeAll(b, nil)
		}
		m := testManifest(2000)
		m.MinImporter, m.Exporter = 1, v.ID()
		m.Volumes = []Volume{{N: 1, Bytes: int64(len(b)), Files: files & 15, Unpacked: unpacked, SHA256: Sum(b)}}
		text, err := m.Text()
		if err != nil {
			return
		}
		signed, err := SignNote(text, v.Name(), key)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "x.001.rdp")
		if err := os.WriteFile(path, append(HeadFrame(signed), b...), 0o644); err != nil {
			t.Fatal(err)
		}
		list, err := Scan([]string{path}, []*Verifier{v})
		if err != nil {
			t.Fatal(err)
		}
		defer list[0].Close()
		if err := list[0].Check(context.Background()); err != nil {
			t.Fatal(err)
		}
		r, err := list[0].Files(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var last *Name
		for {
			n, data, err := r.Next(nil)
			if err == io.EOF {
				return
			}
			if err != nil {
				if !errors.Is(err, ErrVolume) {
					t.Fatalf("an error that names no volume: %v", err)
				}
				return
			}
			if again, err := ParseName(n.String()); err != nil || again != n || int64(len(data)) > n.Limit() || last != nil && Compare(*last, n) >= 0 {
				t.Fatalf("%s of %d bytes came out", n, len(data))
			}
			last = &n
		}
	})
}

// FuzzKey: a key that is read has one spelling.
func FuzzKey(f *testing.F) {
	_, v := testKey(f)
	f.Add(v.VKey())
	f.Add("github.com/AlCutter/serverless-test/log+28035191+AVtQ/9lW+g90rQY3+pODJvMQ8X/tTvh/EuvCDLSmUk4S")
	f.Fuzz(func(t *testing.T, s string) {
		v, err := NewVerifier(s)
		if err != nil {
			if !errors.Is(err, ErrKey) {
				t.Fatal(err)
			}
			return
		}
		if again, err := NewVerifier(v.VKey()); err != nil || again.ID() != v.ID() {
			t.Fatal(err)
		}
	})
}

func FuzzName(f *testing.F) {
	f.Add("logs/0/checkpoint")
	f.Add(Name{Log: 63, Tile: tiles.Tile{Level: 5, Index: 1 << 30, Width: 3}}.String())
	f.Add("logs/0/../../x")
	f.Add(Blob{SHA256: Sum(nil)}.Name().String())
	for _, n := range tufManifest().TUF[0].Names(15) {
		f.Add(n.String())
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := ParseName(s)
		if err == nil && (n.String() != s || Compare(n, n) != 0) {
			t.Fatalf("%q and %q are one name", s, n)
		}
		if err == nil && len(s) >= 100 {
			t.Fatalf("%q does not fit a tar header", s)
		}
	})
}
