package mirror

import (
	"bytes"
	"context"
	"crypto"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// desk is a lab whose inside holds parcel 1 of two logs, with parcels 2 and 3 at hand, and what it takes to make bad ones of them.
type desk struct {
	*lab
	t           *testing.T
	g           *generate.Log
	one         []string // parcel 1
	two         []string // parcel 2, in one volume
	three       []string // parcel 3
	two2        *parcel.Parcel
	entries     []tarFile // of parcel 2
	filesNumber int
	unlock      func()
	rows        strings.Builder
}

func (d *desk) write(name string, b []byte) string {
	d.t.Helper()
	path := filepath.Join(d.sub("bad"), name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		d.t.Fatal(err)
	}
	return path
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 1200, 1300}})
	d := &desk{lab: newLab(t, c), t: t, g: g}
	d.pull()
	d.one = d.export(0)
	show(t, g, 1200)
	d.pull()
	d.two = d.export(0)
	show(t, g, 1300)
	d.pull()
	d.three = d.export(0)
	d.load(d.one)
	d.two2, d.entries = openParcel(t, d.lab, d.two[0])
	return d
}

// signed writes a volume with any payload under a manifest changed at will, signed by a key, and returns its path.
func (d *desk) signed(list []tarFile, key crypto.Signer, change func(m *parcel.Manifest)) string {
	d.t.Helper()
	return d.signedPayload(honest(list), key, change)
}

func (d *desk) signedPayload(a archive, key crypto.Signer, change func(m *parcel.Manifest)) string {
	d.t.Helper()
	m := *d.two2.Manifest
	m.Logs = slices.Clone(m.Logs)
	m.Volumes = []parcel.Volume{{N: 1, Bytes: int64(len(a.payload)), Files: a.files, Unpacked: a.unpacked, SHA256: parcel.Sum(a.payload)}}
	vkey, err := parcel.VerifierKey("exporter.outside", key.Public())
	if err != nil {
		d.t.Fatal(err)
	}
	m.Exporter = keyID(vkey)
	if change != nil {
		change(&m)
	}
	text, err := m.Text()
	if err != nil {
		d.t.Fatal(err)
	}
	return d.signedText(text, a.payload, key)
}

func (d *desk) signedText(text, payload []byte, key crypto.Signer) string {
	d.t.Helper()
	note, err := parcel.SignNote(text, "exporter.outside", key)
	if err != nil {
		d.t.Fatal(err)
	}
	d.filesNumber++
	path := filepath.Join(d.sub("bad"), fmt.Sprintf("bad-%03d.001.rdp", d.filesNumber))
	if err := os.WriteFile(path, append(parcel.HeadFrame(note), payload...), 0o644); err != nil {
		d.t.Fatal(err)
	}
	return path
}

// changed is parcel 2 with one of its files changed, and a manifest that says so.
func (d *desk) changed(suffix string, change func(b []byte)) string {
	d.t.Helper()
	list := slices.Clone(d.entries)
	i := slices.IndexFunc(list, func(e tarFile) bool { return strings.HasSuffix(e.name(), suffix) })
	if i < 0 {
		d.t.Fatalf("no %s", suffix)
	}
	list[i].body = bytes.Clone(list[i].body)
	change(list[i].body)
	return d.signed(list, d.key, nil)
}

// text is the manifest of parcel 2 with one piece of its text replaced, signed by the exporter.
func (d *desk) text(old, with string) string {
	d.t.Helper()
	text, err := d.two2.Manifest.Text()
	if err != nil {
		d.t.Fatal(err)
	}
	if !bytes.Contains(text, []byte(old)) {
		d.t.Fatalf("%q is not in %s", old, text)
	}
	return d.signedText(bytes.Replace(text, []byte(old), []byte(with), 1), mustRead(d.t, d.two[0]), d.key)
}

// TestBadInput is the list of what may be put in and what comes of it: guarantees 1, 2, 4 and 7 row by row, each with its exit code. Every
// row is refused with that code, the message says the words, and nothing of the mirrored state moves. What is not refused for ever is taken in at
// the end all the same. More of the same kind: TestHostileArchives (archives), TestHarmfulRewrapping (what gates do), TestVolumes,
// TestForkInside, TestSplitView.
func TestBadInput(t *testing.T) {
	d := newDesk(t)
	key := d.key
	year := 365 * 24 * time.Hour
	root := tiles.LeafHash([]byte("another"))
	at := func(by time.Duration, files []string) func() []string {
		return func() []string { d.now = d.now.Add(by); return files }
	}
	files := func(f ...string) func() []string { return func() []string { return f } }
	for _, row := range []struct {
		guarantee string
		what      string
		code      int
		says      string
		offer     func() []string
	}{
		{"1 stream", "a parcel before the next is missing", 20, "2 missing", files(d.three...)},
		{"1 stream", "the number that is held, made anew", 22, "parcel 1 has digest", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Sequence, m.Previous = 1, nil }))},
		{"1 stream", "the next number, of another parcel before", 22, "follows", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Previous = parcel.Sum([]byte("x")) }))},
		{"1 stream", "another stream", 23, `"elsewhere" instead of "outside"`, files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Stream = "elsewhere" }))},
		{"1 base", "a base ahead of what is held", 31, "starts at 400 leaves, 300 are held", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Logs[0].From.Size = 400 }))},
		{"1 base", "a base behind what is held", 21, "starts at 200 leaves, 300 are held", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Logs[0].From.Size = 200 }))},
		{"1 signature", "nobody known signed", 61, "no known key signed it", files(d.signed(d.entries, labKey(2), nil))},
		{"1 signature", "a key this very parcel announces", 61, "no known key signed it", files(d.signed(d.entries, labKey(2), func(m *parcel.Manifest) { m.Announce = []string{exporterKey(t, 2)} }), d.one[0])},
		{"1 signature", "the exporter's name, another's signature", 61, "signed by", files(d.signed(d.entries, labKey(2), func(m *parcel.Manifest) { m.Exporter = keyID(d.vkey) }))},
		{"1 signature", "signed by a known key, made by another", 40, "made by", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Exporter = "other+00000001" }))},
		{"1 version", "a newer format", 40, "newer version", files(d.text("redoubt.parcel/v1", "redoubt.parcel/v2"))},
		{"1 version", "a newer importer wanted", 40, "newer version", files(d.text(`"min_importer":1`, `"min_importer":2`))},
		{"1 version", "a member nobody knows", 40, "unknown field", files(d.text(`{"created"`, `{"also":1,"created"`))},
		{"1 version", "a number spelt otherwise", 40, "rules of the format", files(d.text(`"n":1`, `"n":1.0`))},
		{"1 version", "a member twice", 40, "not canonical", files(d.text(`"n":1`, `"n":1,"n":1`))},
		{"1 clock", "the clock a year back", 51, "the last import was at", at(-year, d.two)},
		{"1 clock", "the clock a year ahead", 51, "accept-clock", at(2*year, d.two)},
		{"1 clock", "a parcel of next year", 51, "the parcel was made at", func() []string {
			d.now = d.now.Add(-year)
			return []string{d.signed(d.entries, key, func(m *parcel.Manifest) { m.Created.Time = d.now.Add(year) })}
		}},
		{"2 volume", "one bit of a volume", 40, "which no volume of parcel 2 has", files(d.flipBit(d.two[0], 5000))},
		{"2 volume", "one bit of a manifest", 40, "head.001.rdp", func() []string {
			b := mustRead(t, d.two[0])
			b[700] ^= 1
			return []string{d.write("head.001.rdp", b)}
		}},
		{"2 volume", "a volume cut short", 40, "which no volume of parcel 2 has", func() []string {
			b := mustRead(t, d.two[0])
			return []string{d.write("cut.001.rdp", b[:len(b)-1])}
		}},
		{"2 volume", "an empty file", 40, "it is empty", func() []string { return []string{d.write("empty.001.rdp", nil)} }},
		{"2 volume", "a volume that is missing", 40, "it is missing", func() []string {
			return []string{d.signed(d.entries, key, func(m *parcel.Manifest) {
				v := m.Volumes[0]
				v.N, v.SHA256 = 2, parcel.Sum([]byte("x"))
				m.Volumes = append(m.Volumes, v)
			})}
		}},
		{"2 medium", "a medium that is not there", 41, "cannot be read", files(filepath.Join(d.dir, "nowhere"))},
		{"2 medium", "a medium that fails at the first byte", 41, "/proc/self/mem", files("/proc/self/mem")},
		{"2 archive", "a path out of the folder", 40, "not on the list of names", files(d.signed(slices.Insert(slices.Clone(d.entries), 1, d.entries[1].rename("../../evil")), key, nil))},
		{"2 archive", "a link", 40, "tar header of another form", files(d.signed(slices.Insert(slices.Clone(d.entries), 1, d.entries[1].kind('2', "/etc/passwd")), key, nil))},
		{"2 archive", "a device", 40, "tar header of another form", files(d.signed(slices.Insert(slices.Clone(d.entries), 1, d.entries[1].kind('3', "")), key, nil))},
		{"2 archive", "a name twice", 40, "comes after", files(d.signed(slices.Insert(slices.Clone(d.entries), 1, d.entries[0]), key, nil))},
		{"2 archive", "more than it says it unpacks to", 40, "more than the manifest says", files(d.signedPayload(func() archive { a := honest(d.entries); a.unpacked -= 512; return a }(), key, nil))},
		{"2 archive", "a file fewer than the step needs", 40, "belongs", files(d.signed(slices.Delete(slices.Clone(d.entries), 2, 3), key, nil))},
		{"2 quota", "more than the quota", 42, "the quota is 1000", func() []string { d.mc.Quota = 1000; d.reopen(); return d.two }},
		{"4 proof", "a leaf that was changed", 31, "proof does not hold", func() []string {
			d.mc.Quota = 0
			d.reopen()
			return []string{d.changed("tile/entries/003", func(b []byte) { b[1000] ^= 1 })}
		}},
		{"4 proof", "a hash tile that was changed", 31, "proof does not hold", files(d.changed("tile/1/000.p/4", func(b []byte) { b[70] ^= 1 }))},
		{"4 proof", "fewer leaves than its files have", 40, "rules of the format", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Logs[0].To.Size = 1199 }))},
		{"4 proof", "another root of the same size", 31, "the manifest ends at", files(d.signed(d.entries, key, func(m *parcel.Manifest) { m.Logs[0].To.Root = root[:] }))},
		{"4 proof", "a checkpoint with a broken signature", 31, "log.example", files(d.changed("logs/0/checkpoint", func(b []byte) {
			b[bytes.LastIndexByte(bytes.TrimRight(b, "\x00"), ' ')+12] ^= 2
		}))},
		{"4 scope", "another scope than is required", 31, "is required", func() []string {
			return []string{d.signed(d.entries, key, func(m *parcel.Manifest) { m.Logs[0].Scope = parcel.ScopeSpine })}
		}},
		{"busy", "while another import runs", 75, "another transfer is running", func() []string {
			unlock, err := lockDir(d.in.root)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(unlock)
			d.unlock = unlock
			return d.two
		}},
		{"nothing", "a folder without volumes", 10, "nothing to do", func() []string { d.unlock(); return []string{d.sub("no volumes")} }},
	} {
		offered := row.offer()
		t.Run(row.guarantee+": "+row.what, func(t *testing.T) {
			d.lab.t = t
			defer func() { d.lab.t = d.t }()
			err := d.refused(row.code, offered...)
			if !strings.Contains(err.Error(), row.says) {
				t.Errorf("it does not say %q: %v", row.says, err)
			}
			fmt.Fprintf(&d.rows, "%-12s %-45s %d\n", row.guarantee, row.what, row.code)
		})
	}
	d.load(d.two)
	d.load(d.three)
	d.refused(21, d.two...)
	if r := d.load(d.three); r.Transfers[0].Outcome != "already imported" {
		t.Errorf("%+v", r)
	}
	t.Logf("%d rows:\n%s", strings.Count(d.rows.String(), "\n"), d.rows.String())
}

// TestBadLogs are the rows of guarantees 4 and 7 after which something is kept: a parcel with such a log is one the stream has seen. The log does not
// move; the code says why.
func TestBadLogs(t *testing.T) {
	ctx := context.Background()
	for _, row := range []struct {
		guarantee, what string
		code            int
		prepare         func(t *testing.T, l *lab, c LogConfig)
	}{
		{"7 origin", "a log that is not known", 60, func(_ *testing.T, l *lab, c LogConfig) { l.mc.Logs = nil }},
		{"7 key", "a log key that is not known", 60, func(t *testing.T, l *lab, c LogConfig) {
			l.mc.Logs = []LogConfig{{Origin: c.Origin, VKey: mustKey(t, c.Origin, 5)}}
		}},
	} {
		t.Run(row.guarantee+": "+row.what, func(t *testing.T) {
			_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300}})
			l := newLab(t, c)
			l.pull()
			files := l.export(0)
			row.prepare(t, l, c)
			l.reopen()
			r, err := l.in.Import(ctx, files)
			if ExitCode(err) != row.code || len(r.Transfers) != 1 {
				t.Fatalf("exit code %d instead of %d: %v", ExitCode(err), row.code, err)
			}
			if h, err := l.in.Head(c.Origin); err == nil {
				t.Fatalf("the log stands at %d", h.Size)
			}
		})
	}
}
