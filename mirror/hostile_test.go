package mirror

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// tarFile is a file of a tar as it is written: header block and padded body.
type tarFile struct {
	head [512]byte
	body []byte
}

func (e tarFile) name() string { return string(e.head[:bytes.IndexByte(e.head[:100], 0)]) }

// rename gives the entry another name and a right checksum.
func (e tarFile) rename(name string) tarFile {
	e.head = [512]byte(append(append([]byte(name), make([]byte, 100-len(name))...), e.head[100:]...))
	return e.summed()
}

// kind gives the entry another type flag and a link target.
func (e tarFile) kind(flag byte, link string) tarFile {
	e.head[156] = flag
	copy(e.head[157:257], append([]byte(link), make([]byte, 100-len(link))...))
	return e.summed()
}

func (e tarFile) field(at int, s string) tarFile {
	copy(e.head[at:], s)
	return e.summed()
}

func (e tarFile) summed() tarFile {
	copy(e.head[148:156], "        ")
	sum := 0
	for _, b := range e.head {
		sum += int(b)
	}
	copy(e.head[148:156], fmt.Sprintf("%06o\x00 ", sum))
	return e
}

func joined(list []tarFile) []byte {
	var b []byte
	for _, e := range list {
		b = append(append(b, e.head[:]...), e.body...)
	}
	return append(b, make([]byte, 1024)...)
}

func packed(b []byte, o ...zstd.EOption) []byte {
	enc, err := zstd.NewWriter(nil, o...)
	if err != nil {
		panic(err)
	}
	defer enc.Close()
	return enc.EncodeAll(b, nil)
}

// archive is what a hostile exporter signs: any payload, and what the manifest says of it.
type archive struct {
	payload         []byte
	files, unpacked int64
}

func honest(list []tarFile) archive {
	b := joined(list)
	return archive{packed(b), int64(len(list)), int64(len(b))}
}

func with(b []byte, files int) archive { return archive{packed(b), int64(files), int64(len(b))} }

// standardTar writes entries with archive/tar, in whatever form it chooses.
func standardTar(heads ...*tar.Header) archive {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range heads {
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		w.Write(make([]byte, h.Size))
	}
	w.Close()
	return with(b.Bytes(), len(heads))
}

// hostileArchives are payloads that carry a good signature of a known exporter.
func hostileArchives(good []tarFile) map[string]archive {
	one := func(i int, e tarFile) archive { c := slices.Clone(good); c[i] = e; return honest(c) }
	raw := joined(good)
	long := strings.Repeat("a/", 120) + "x"
	out := map[string]archive{
		"name: up and out":           one(1, good[1].rename("../../../evil")),
		"name: absolute":             one(1, good[1].rename("/tmp/redoubt-evil")),
		"name: up from inside":       one(1, good[1].rename("logs/0/tile/../../../../evil")),
		"name: dot":                  one(1, good[1].rename("logs/0/./checkpoint")),
		"name: double slash":         one(1, good[1].rename("logs//0/checkpoint")),
		"name: trailing slash":       one(1, good[1].rename("logs/0/checkpoint/")),
		"name: backslash":            one(1, good[1].rename(`logs\0\checkpoint`)),
		"name: case twin":            one(0, good[0].rename("logs/0/Checkpoint")),
		"name: leading zero":         one(0, good[0].rename("logs/00/checkpoint")),
		"name: another log":          one(1, good[1].rename("logs/1/checkpoint")),
		"name: log 65":               one(1, good[1].rename("logs/65/checkpoint")),
		"name: unknown file":         one(1, good[1].rename("logs/0/readme")),
		"name: the manifest again":   one(0, good[0].rename("manifest.note")),
		"name: level too high":       one(1, good[1].rename("logs/0/tile/9/000")),
		"name: beyond the tree":      one(1, good[1].rename("logs/0/tile/0/999")),
		"name: empty":                one(1, good[1].rename("")),
		"name: newline":              one(1, good[1].rename("logs/0/checkpoint\n")),
		"name: bytes behind its end": one(1, good[1].field(60, "hidden")),
		"name: in the prefix field":  one(0, good[0].rename("checkpoint").field(345, "logs/0")),
		"type: symlink":              one(1, good[1].kind('2', "/etc/passwd")),
		"type: symlink, right name":  one(0, good[0].kind('2', "../../evil")),
		"type: hard link":            one(1, good[1].kind('1', "/etc/passwd")),
		"type: character device":     one(1, good[1].kind('3', "")),
		"type: block device":         one(1, good[1].kind('4', "")),
		"type: folder":               one(1, good[1].kind('5', "")),
		"type: FIFO":                 one(1, good[1].kind('6', "")),
		"type: contiguous":           one(1, good[1].kind('7', "")),
		"type: GNU long name":        one(1, good[1].kind('L', "")),
		"type: GNU sparse":           one(1, good[1].kind('S', "")),
		"type: PAX":                  one(1, good[1].kind('x', "")),
		"type: PAX global":           one(1, good[1].kind('g', "")),
		"type: old regular":          one(1, good[1].kind(0, "")),
		"header: set-user-id":        one(1, good[1].field(100, "0004755")),
		"header: owner":              one(1, good[1].field(108, "0001750")),
		"header: time":               one(1, good[1].field(136, "14000000000")),
		"header: owner name":         one(1, good[1].field(265, "root")),
		"header: old magic":          one(1, good[1].field(257, "ustar  \x00")),
		"header: size in base 256":   one(1, good[1].field(124, "\x80\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00")),
		"header: size of 8 GB":       one(1, good[1].field(124, "77777777777")),
		"header: size with a sign":   one(1, good[1].field(124, "-0000000100")),
		"header: wrong checksum":     one(1, func() tarFile { e := good[1]; e.head[150] ^= 1; return e }()),
		"order: twice the same":      honest(append([]tarFile{good[0]}, good...)),
		"order: first two swapped":   honest(append([]tarFile{good[1], good[0]}, good[2:]...)),
		"order: last two swapped":    honest(append(slices.Clone(good[:len(good)-2]), good[len(good)-1], good[len(good)-2])),
		"count: one missing":         honest(slices.Delete(slices.Clone(good), 2, 3)),
		"count: last missing":        honest(good[:len(good)-1]),
		"count: more than declared":  {packed(raw), int64(len(good)) - 1, int64(len(raw))},
		"count: fewer than declared": {packed(raw), int64(len(good)) + 1, int64(len(raw))},
		"count: none":                {packed(nil), 0, 0},
		"size: more than declared":   {packed(raw), int64(len(good)), int64(len(raw)) - 512},
		"size: less than declared":   {packed(raw), int64(len(good)), int64(len(raw)) + 512},
		"tar: no end":                {packed(raw[:len(raw)-1024]), int64(len(good)), int64(len(raw)) - 1024},
		"tar: cut in a file":         {packed(raw[:len(raw)-1024-700]), int64(len(good)), int64(len(raw)) - 1024 - 700},
		"tar: cut in a header":       {packed(raw[:100]), int64(len(good)), int64(len(raw))},
		"tar: another behind it":     with(append(slices.Clone(raw), raw...), len(good)),
		"tar: junk in the padding":   one(0, func() tarFile { e := good[0]; e.body = slices.Clone(e.body); e.body[len(e.body)-1] = 1; return e }()),
		"tar: junk in the end":       with(append(slices.Clone(raw[:len(raw)-1]), 1), len(good)),
		"zstd: window of 128 MiB":    {packed(make([]byte, 64<<20), zstd.WithWindowSize(128<<20), zstd.WithSingleSegment(false)), int64(len(good)), int64(len(raw))},
		"zstd: a dictionary":         {append([]byte{0x28, 0xB5, 0x2F, 0xFD, 0x21, 0x07, 0x00}, make([]byte, 40)...), int64(len(good)), int64(len(raw))},
		"zstd: bomb":                 {packed(make([]byte, 256<<20)), int64(len(good)), 1 << 20},
		"zstd: 200,000 empty frames": {bytes.Repeat([]byte{0x28, 0xB5, 0x2F, 0xFD, 0x20, 0x00, 0x01, 0x00, 0x00}, 200_000), int64(len(good)), int64(len(raw))},
		"zstd: cut short":            {packed(raw)[:1000], int64(len(good)), int64(len(raw))},
		"zstd: junk behind it":       {append(packed(raw), "junk behind the end"...), int64(len(good)), int64(len(raw))},
		"not zstd: random":           {bytes.Repeat([]byte("\x07redoubt"), 500), int64(len(good)), int64(len(raw))},
		"standard: long PAX name":    standardTar(&tar.Header{Name: long, Mode: 0o644, Format: tar.FormatPAX}),
		"standard: long GNU name":    standardTar(&tar.Header{Name: long, Mode: 0o644, Format: tar.FormatGNU}),
		"standard: PAX path record":  standardTar(&tar.Header{Name: "logs/0/checkpoint", Mode: 0o644, PAXRecords: map[string]string{"comment": "x"}, Format: tar.FormatPAX}),
		"standard: escaping link":    standardTar(&tar.Header{Name: "logs", Linkname: "/tmp", Typeflag: tar.TypeSymlink}, &tar.Header{Name: "logs/evil", Mode: 0o644, Size: 3}),
	}
	var gz bytes.Buffer
	w := gzip.NewWriter(&gz)
	w.Write(raw)
	w.Close()
	out["not zstd: gzip"] = archive{gz.Bytes(), int64(len(good)), int64(len(raw))}
	var many []tarFile
	for i := range 100_000 {
		many = append(many, tarFile{head: good[0].rename(fmt.Sprintf("logs/0/tile/0/x%03d/%03d", i/1000, i%1000)).field(124, "00000000000").head})
	}
	out["count: 100,000 empty files"] = honest(many)
	return out
}

// TestHostileArchives offers archives that a known exporter signed and that are not what the format allows. None is taken,
// nothing moves, and nothing is written outside the mirror's folder.
func TestHostileArchives(t *testing.T) {
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{600}})
	l := newLab(t, c)
	l.pull()
	files := l.export(0)
	p, good := openParcel(t, l, files[0])
	archives := hostileArchives(good)
	if len(archives) < 40 {
		t.Fatalf("only %d archives", len(archives))
	}
	for name, a := range archives {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(l.sub("hostile"), "h.001.rdp")
			m := *p.Manifest
			a.unpacked = min(a.unpacked, 64<<10+100*int64(len(a.payload))) // no manifest may claim a higher ratio
			a.files = min(a.files, a.unpacked/512)                         // nor more files than tar headers fit
			m.Volumes = []parcel.Volume{{N: 1, Bytes: int64(len(a.payload)), Files: a.files, Unpacked: a.unpacked, SHA256: parcel.Sum(a.payload)}}
			text, err := m.Text()
			if err != nil {
				t.Fatal(err)
			}
			note, err := parcel.SignNote(text, "exporter.outside", l.key)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, append(parcel.HeadFrame(note), a.payload...), 0o644); err != nil {
				t.Fatal(err)
			}
			before, outside, start := l.fingerprint(), listing(t, l.dir), time.Now()
			_, err = l.in.Import(context.Background(), []string{path})
			if code := ExitCode(err); code != 40 && code != 31 {
				t.Fatalf("exit code %d: %v", code, err)
			}
			if l.fingerprint() != before {
				t.Fatal("it moved the state")
			}
			if got := listing(t, l.dir); got != outside {
				t.Fatalf("it wrote outside:\n%s\n%s", outside, got)
			}
			if d := time.Since(start); d > time.Minute {
				t.Errorf("it took %v", d)
			}
		})
	}
	if _, err := os.Stat("/tmp/redoubt-evil"); err == nil {
		t.Fatal("/tmp/redoubt-evil was written")
	}
	l.load(files)
}

// openParcel returns a good parcel and the entries of its tar but for the manifest.
func openParcel(t *testing.T, l *lab, path string) (*parcel.Parcel, []tarFile) {
	t.Helper()
	v, err := parcel.NewVerifier(l.vkey)
	if err != nil {
		t.Fatal(err)
	}
	list, err := parcel.Scan([]string{path}, []*parcel.Verifier{v})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { list[0].Close() })
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
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	var out []tarFile
	for len(raw) > 1024 {
		var size int
		fmt.Sscanf(string(raw[124:135]), "%o", &size)
		body := (size + 511) / 512 * 512
		out = append(out, tarFile{[512]byte(raw), raw[512 : 512+body]})
		raw = raw[512+body:]
	}
	if out[0].name() != "manifest.note" || out[1].name() != "logs/0/checkpoint" {
		t.Fatal(out[0].name(), out[1].name())
	}
	return list[0], out[1:]
}

// listing names everything below dir but what is inside the mirror's folder and the databases.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if name == "in" {
			return fs.SkipDir
		}
		fmt.Fprintln(&b, name, d.Type())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// TestHostileMedium offers files that are no volumes at all.
func TestHostileMedium(t *testing.T) {
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{100}})
	l := newLab(t, c)
	l.pull()
	good, err := os.ReadFile(l.export(0)[0])
	if err != nil {
		t.Fatal(err)
	}
	dir := l.sub("medium2")
	at := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		if err := os.WriteFile(at(name), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return at(name)
	}
	huge := slices.Clone(good)
	copy(huge[5:9], "\xff\xff\xff\xff")
	if err := syscall.Mkfifo(at("fifo.001.rdp"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", at("link.001.rdp")); err != nil {
		t.Fatal(err)
	}
	for name, path := range map[string]string{
		"empty":                  write("empty.001.rdp", nil),
		"one byte":               write("one.001.rdp", []byte{0x28}),
		"cut in the head":        write("head.001.rdp", good[:300]),
		"head of 4 GB":           write("huge.001.rdp", huge),
		"compressed head":        write("z.001.rdp", packed(make([]byte, 4096))),
		"text":                   write("text.001.rdp", []byte("logs/0/checkpoint")),
		"FIFO":                   at("fifo.001.rdp"),
		"link to another file":   at("link.001.rdp"),
		"device":                 "/dev/zero",
		"nothing but the head":   write("nothing.001.rdp", good[:bytes.Index(good, []byte("\n—"))+700]),
		"head, then other bytes": write("other.001.rdp", append(slices.Clone(good[:len(good)-500]), bytes.Repeat([]byte{0x55}, 500)...)),
	} {
		t.Run(name, func(t *testing.T) {
			if err := l.refused(40, path); !strings.Contains(err.Error(), path) {
				t.Fatalf("the error does not name the file: %v", err)
			}
		})
	}
}
