package mirror

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// exporterKey is the verifier key of the lab's exporter under another private key.
func exporterKey(t testing.TB, n byte) string {
	t.Helper()
	k, err := parcel.VerifierKey("exporter.outside", labKey(n).Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func keyID(vkey string) string { return vkey[:strings.LastIndexByte(vkey, '+')] }

// signAs gives the exporter another key.
func (l *lab) signAs(n byte) {
	l.t.Helper()
	l.ec.Signer = labKey(n)
	l.reopen()
}

func (l *lab) exportWith(o ExportOptions) []string {
	l.t.Helper()
	o.Out = l.medium
	p, err := l.out.Export(context.Background(), o)
	if err != nil {
		l.t.Fatal(err)
	}
	var out []string
	for _, f := range p.Files {
		out = append(out, filepath.Join(l.medium, f))
	}
	return out
}

// TestAnnouncedKeyTakesOver: a parcel announces the next key, the next one is signed by it and retires the one before. A key that
// nobody announced, one that comes too early and one that is retired are foreign.
func TestAnnouncedKeyTakesOver(t *testing.T) {
	_, c := makeLog(t, smallLog)
	l := newLab(t, c)
	l.pull()
	unannounced := *l // the same first parcel, by key 2
	unannounced.medium = l.sub("early")
	unannounced.ec.DB, unannounced.ec.Dir = newDB(t, filepath.Join(l.dir, "e.db")), filepath.Join(l.dir, "e")
	unannounced.signAs(2)
	unannounced.pull()
	l.refused(61, unannounced.export(0)...)

	l.signAs(1)
	one := l.exportWith(ExportOptions{Announce: []string{exporterKey(t, 2)}})
	l.signAs(2)
	two := l.exportWith(ExportOptions{Retire: []string{keyID(exporterKey(t, 1))}})
	l.signAs(1)
	late := l.exportWith(ExportOptions{Refresh: true})
	l.refused(61, two...) // alone: nobody has announced it yet
	l.load(one)
	l.load(two)
	if err := l.refused(61, late...); !strings.Contains(err.Error(), "retired after parcel 2") {
		t.Fatal(err)
	}
	l.reopen() // the standing of keys is state, not configuration
	keys, err := l.in.Exporters(context.Background())
	if err != nil || len(keys) != 2 {
		t.Fatalf("%+v, %v", keys, err)
	}
	for _, k := range keys {
		if old := k.ID == keyID(exporterKey(t, 1)); k.Valid == old || k.Configured != old || old && k.Last != 2 || !old && (k.First != 2 || k.By != keyID(l.vkey)) {
			t.Fatalf("%+v", k)
		}
	}

	// All at once on one medium, into an inside that has seen nothing.
	fresh := newLab(t, c)
	fresh.load(slices.Concat(two, one))
	fresh.refused(61, late...)
	// The one before is refused even where the medium brings what it would need.
	again := newLab(t, c)
	again.refusedAfter(61, 2, slices.Concat(late, two, one)...)
}

// refusedAfter imports files of which so many parcels are good and the next must be refused with an exit code.
func (l *lab) refusedAfter(code int, good uint64, files ...string) {
	l.t.Helper()
	_, err := l.in.Import(context.Background(), files)
	if ExitCode(err) != code {
		l.t.Fatalf("exit code %d instead of %d: %v", ExitCode(err), code, err)
	}
	if st, err := l.in.Status(context.Background()); err != nil || st.Sequence != good {
		l.t.Fatalf("it stands at parcel %d instead of %d: %v", st.Sequence, good, err)
	}
}

// TestExporterEndsNoStream: an exporter does not retire its own key without a next one, nor announce what is no key.
func TestExporterEndsNoStream(t *testing.T) {
	_, c := makeLog(t, smallLog)
	l := newLab(t, c)
	l.pull()
	for _, o := range []ExportOptions{
		{Retire: []string{keyID(l.vkey)}}, {Retire: []string{"nonsense"}}, {Announce: []string{"nonsense"}}, {Announce: []string{keyID(l.vkey)}},
	} {
		o.Out = l.medium
		if _, err := l.out.Export(context.Background(), o); err == nil {
			t.Errorf("%+v was exported", o)
		}
	}
	if left, _ := os.ReadDir(l.medium); len(left) != 0 {
		t.Fatal(left)
	}
}

// TestExporterHostIsLost: the exporter is gone with its key and its state. The inside draws up an announcement of the new key, people approve
// it, the new exporter goes on from it, and what the old key signs does not count any more.
func TestExporterHostIsLost(t *testing.T) {
	ctx := context.Background()
	l, g, first, second := twoParcels(t)
	l.load(first)
	// Another machine, which knows nothing but the logs.
	lost := l.ec
	l.ec.DB, l.ec.Dir, l.ec.Signer = newDB(t, filepath.Join(l.dir, "new.db")), filepath.Join(l.dir, "new"), labKey(2)
	l.medium = l.sub("new-medium")
	l.reopen()
	show(t, g, 700)
	l.pull()
	a, err := l.in.Announce(ctx, exporterKey(t, 2), true)
	if err != nil {
		t.Fatal(err)
	}
	text, err := a.Text()
	if err != nil {
		t.Fatal(err)
	}
	if a, err = ParseAnnouncement(text); err != nil {
		t.Fatal(err)
	}
	if err := l.out.Continue(ctx, a); err != nil {
		t.Fatal(err)
	}
	next := l.export(0)
	l.refused(61, next...)
	if _, err := l.in.AcceptExporter(ctx, a, nil, "", nil); !errors.Is(err, ErrAnnouncement) {
		t.Fatal("accepted by nobody", err)
	}
	other := a
	other.Last.Sequence, other.Last.Digest = 2, parcel.Sum(nil)
	if _, err := l.in.AcceptExporter(ctx, other, []string{"ada", "grace"}, "act", nil); !errors.Is(err, ErrAnnouncement) {
		t.Fatal("accepted at another place in the stream", err)
	}
	if err := l.out.Continue(ctx, other); !errors.Is(err, ErrAnnouncement) && err != nil {
		t.Fatal(err)
	}
	if _, err := l.in.AcceptExporter(ctx, a, []string{"ada", "grace"}, "act", nil); err != nil {
		t.Fatal(err)
	}
	l.refused(61, second...) // of the lost host, found again
	l.load(next)
	if h, err := l.in.Head(smallLog.Origin); err != nil || h.Size != 700 || h.Sequence != 2 {
		t.Fatal(h.Size, h.Sequence, err)
	}
	// A host that made a parcel beyond the announcement does not go back.
	stale := *l
	stale.ec = lost
	stale.ec.Signer = labKey(2)
	stale.reopen()
	if err := stale.out.Continue(ctx, a); !errors.Is(err, ErrAnnouncement) {
		t.Fatal(err)
	}
	if _, err := l.in.AcceptExporter(ctx, a, []string{"ada", "grace"}, "act", nil); !errors.Is(err, ErrAnnouncement) {
		t.Fatal("accepted twice", err)
	}
}

// FuzzAnnouncement: what is read can be written again to the same bytes.
func FuzzAnnouncement(f *testing.F) {
	a := Announcement{Stream: "outside", Key: exporterKey(f, 2), Heads: []AnnouncedHead{{"log.example", 7, parcel.Sum(nil)}}, Last: AnnouncedParcel{3, parcel.Sum(nil)}, Retire: []string{"x+00000001"}}
	text, err := a.Text()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(bytes.Replace(text, []byte(`"size":7`), []byte(`"size":7.0`), 1))
	f.Add([]byte("redoubt.exporter/v1\n{}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := ParseAnnouncement(b)
		if err != nil {
			if !errors.Is(err, ErrAnnouncement) {
				t.Fatal(err)
			}
			return
		}
		if again, err := a.Text(); err != nil || !bytes.Equal(again, b) {
			t.Fatal("two spellings", err)
		}
	})
}

// TestManifestKeys: announced and retired keys have one spelling.
func TestManifestKeys(t *testing.T) {
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10}})
	l := newLab(t, c)
	l.pull()
	p, _ := openParcel(t, l, l.export(0)[0])
	x, y := exporterKey(t, 2), exporterKey(t, 3)
	if x > y {
		x, y = y, x
	}
	for name, m := range map[string]func(*parcel.Manifest){
		"good":             func(m *parcel.Manifest) { m.Announce, m.Retire = []string{x, y}, []string{"a+00000001", "b+00000001"} },
		"twice":            func(m *parcel.Manifest) { m.Announce = []string{x, x} },
		"descending":       func(m *parcel.Manifest) { m.Announce = []string{y, x} },
		"spaces":           func(m *parcel.Manifest) { m.Announce = []string{x + " "} },
		"no key":           func(m *parcel.Manifest) { m.Announce = []string{"x"} },
		"nine":             func(m *parcel.Manifest) { m.Retire = make([]string, 9) },
		"both":             func(m *parcel.Manifest) { m.Announce, m.Retire = []string{x}, []string{keyID(x)} },
		"retired key":      func(m *parcel.Manifest) { m.Retire = []string{x} },
		"upper-case hash":  func(m *parcel.Manifest) { m.Retire = []string{"a+0000000A"} },
		"retired, no name": func(m *parcel.Manifest) { m.Retire = []string{"+00000001"} },
	} {
		changed := *p.Manifest
		m(&changed)
		text, err := changed.Text()
		if (err == nil) != (name == "good") {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err != nil {
			continue
		}
		if again, err := parcel.ParseManifest(text); err != nil || len(again.Announce) != 2 || len(again.Retire) != 2 {
			t.Errorf("%s: %v", name, err)
		}
	}
}
