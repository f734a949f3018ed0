package parcel

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// rewrapped is a folder with the volumes of one parcel and a function that writes into it.
func rewrapped(t *testing.T) (dir string, volumes [][]byte, put func(name string, b []byte)) {
	t.Helper()
	from := t.TempDir()
	p := pack(t, from, testManifest(2000), testFiles(), 300_000)
	for _, f := range paths(from, p) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		volumes = append(volumes, b)
	}
	if len(volumes) < 3 {
		t.Fatalf("%d volumes", len(volumes))
	}
	dir = t.TempDir()
	return dir, volumes, func(name string, b []byte) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestHarmlessRewrapping: what gates, scanners and people do to a medium without touching a volume's bytes does not matter.
func TestHarmlessRewrapping(t *testing.T) {
	for name, wrap := range map[string]func(t *testing.T, dir string, volumes [][]byte, put func(string, []byte)){
		"upper case": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			put("OUTSIDE-000001.001.RDP", v[0])
			put("OUTSIDE-000001.002.RDP", v[1])
			put("OUTSIDE-000001.003.RDP", v[2])
		},
		"8.3 names": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			put("OUTSID~1.RDP", v[0])
			put("OUTSID~2.RDP", v[1])
			put("OUTSID~3.RDP", v[2])
		},
		"names that say nothing": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			put("b5f0", v[0])
			put("scan-result.bin", v[1])
			put("x.dat", v[2])
		},
		"numbers swapped": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			put("outside-000001.003.rdp", v[0])
			put("outside-000001.001.rdp", v[1])
			put("outside-000001.002.rdp", v[2])
		},
		"in folders": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			put("disc 1/outside-000001.001.rdp", v[0])
			put("disc 2/outside-000001.001.rdp", v[1])
			put("a/b/c/d/outside.rdp", v[2])
		},
		"other files beside": func(_ *testing.T, dir string, v [][]byte, put func(string, []byte)) {
			for i := range v {
				put("v"+string(rune('0'+i)), v[i])
			}
			put("autorun.inf", []byte("[autorun]\r\n"))
			put("report.xml", []byte("<clean/>"))
			put(".Trash/old.001.rdp", []byte("half a volume"))
			put("empty.txt", nil)
			put("other.tar.zst", []byte{0x28, 0xB5, 0x2F, 0xFD, 0x04, 0, 1, 2, 3})
			if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link.rdp")); err != nil {
				t.Fatal(err)
			}
		},
		"twice, once damaged": func(_ *testing.T, _ string, v [][]byte, put func(string, []byte)) {
			for i := range v {
				put("v"+string(rune('0'+i)), v[i])
			}
			bad := bytes.Clone(v[1])
			bad[len(bad)-900] ^= 1
			put("copy/v1", bad)
		},
		"out of a tar": func(t *testing.T, dir string, v [][]byte, put func(string, []byte)) {
			var b bytes.Buffer
			w := tar.NewWriter(&b)
			for i := range v {
				if err := w.WriteHeader(&tar.Header{Name: "in/v" + string(rune('0'+i)), Mode: 0o600, Size: int64(len(v[i]))}); err != nil {
					t.Fatal(err)
				}
				w.Write(v[i])
			}
			w.Close()
			for r := tar.NewReader(&b); ; {
				h, err := r.Next()
				if err == io.EOF {
					return
				}
				body, rerr := io.ReadAll(r)
				if err != nil || rerr != nil {
					t.Fatal(err, rerr)
				}
				put(h.Name, body)
			}
		},
		"out of a zip": func(t *testing.T, dir string, v [][]byte, put func(string, []byte)) {
			var b bytes.Buffer
			w := zip.NewWriter(&b)
			for i := range v {
				f, err := w.Create("in/v" + string(rune('0'+i)))
				if err != nil {
					t.Fatal(err)
				}
				f.Write(v[i])
			}
			w.Close()
			r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range r.File {
				in, err := f.Open()
				if err != nil {
					t.Fatal(err)
				}
				body, err := io.ReadAll(in)
				if err != nil {
					t.Fatal(err)
				}
				put(f.Name, body)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir, volumes, put := rewrapped(t)
			wrap(t, dir, volumes[:3], put)
			for i := 3; i < len(volumes); i++ {
				put("rest/v"+string(rune('0'+i)), volumes[i])
			}
			got, err := readAll(t, []string{dir})
			if err != nil || len(got) != len(testFiles()) {
				t.Fatalf("%d files: %v", len(got), err)
			}
		})
	}
}

// TestHarmfulRewrapping: what changes a volume's bytes is refused, by name, with a word on what seems to have happened.
func TestHarmfulRewrapping(t *testing.T) {
	gz := func(b []byte) []byte {
		var out bytes.Buffer
		w := gzip.NewWriter(&out)
		w.Write(b)
		w.Close()
		return out.Bytes()
	}
	unzstd := func(b []byte) []byte {
		r, err := zstd.NewReader(bytes.NewReader(b))
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		out, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	rezstd := func(b []byte) []byte {
		w, err := zstd.NewWriter(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		return w.EncodeAll(unzstd(b), nil)
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		hint   string
	}{
		"LF to CRLF":         {func(b []byte) []byte { return bytes.ReplaceAll(b, []byte("\n"), []byte("\r\n")) }, "line ends were changed"},
		"compressed anew":    {rezstd, "compressed anew"},
		"decompressed":       {unzstd, "decompressed on its way"},
		"gzipped":            {gz, "unpack it"},
		"base64":             {func(b []byte) []byte { return []byte(base64.StdEncoding.EncodeToString(b)) }, "decode it"},
		"emptied":            {func([]byte) []byte { return nil }, "it is empty"},
		"cut, first part":    {func(b []byte) []byte { return b[:len(b)/2] }, "which no volume of parcel 1 has"},
		"padded to a block":  {func(b []byte) []byte { return append(b, make([]byte, 2048-len(b)%2048)...) }, "which no volume of parcel 1 has"},
		"a byte order mark":  {func(b []byte) []byte { return append([]byte("\xef\xbb\xbf"), b...) }, "does not begin as a volume"},
		"a watermark behind": {func(b []byte) []byte { return append(b, "scanned by the gate"...) }, "which no volume of parcel 1 has"},
		"one bit":            {func(b []byte) []byte { b[len(b)-500] ^= 1; return b }, "which no volume of parcel 1 has"},
	} {
		t.Run(name, func(t *testing.T) {
			dir, volumes, put := rewrapped(t)
			for i := range volumes {
				put("v"+string(rune('0'+i))+".rdp", volumes[i])
			}
			put("v1.rdp", c.change(bytes.Clone(volumes[1])))
			_, err := readAll(t, []string{dir})
			if !errors.Is(err, ErrVolume) || !strings.Contains(err.Error(), "v1.rdp") || !strings.Contains(err.Error(), c.hint) {
				t.Fatalf("%v", err)
			}
		})
	}
}
