package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

var smallLog = generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700, 1500}}

// TestGoChecksumDatabase moves the head of the Go checksum database from 56.9 to 71.8 million records by carried hash tiles,
// over all five real heads, and proves nine real look-ups inside.
func TestGoChecksumDatabase(t *testing.T) {
	data := publicData(t, "gosumdb")
	dir := filepath.Join(t.TempDir(), "sumdb")
	if err := os.CopyFS(dir, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	c := LogConfig{
		Origin: "go.sum database tree", VKey: "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
		Scope: parcel.ScopeSparse, Source: dir, Layout: "sumdb",
	}
	l := newLab(t, c)
	l.beginBelow(c.Origin)
	heads, _ := filepath.Glob(filepath.Join(data, "checkpoints", "*"))
	if len(heads) != 5 {
		t.Fatalf("%d heads", len(heads))
	}
	// The stored tiles are those of the newest head; the one tile it has wider than the heads before is cut for them.
	wide, err := os.ReadFile(filepath.Join(data, "tile/8/3/000.p/4"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "tile/8/3/000.p/3"), wide[:3*tiles.HashSize], 0o644); err != nil {
		t.Fatal(err)
	}
	showHead := func(from string) {
		b, err := os.ReadFile(from)
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(filepath.Join(dir, "latest"))
		if err := os.WriteFile(filepath.Join(dir, "latest"), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range heads {
		showHead(h)
		l.pull()
		l.load(l.export(0))
	}
	h, err := l.in.Head(c.Origin)
	if err != nil || h.Size != 71769961 {
		t.Fatal(h.Size, err)
	}
	// A second transfer at the same head carries nine records that were looked up; each is then proven from what lies inside.
	want := make(map[uint64]string)
	err = filepath.WalkDir(filepath.Join(data, "lookup"), func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(p)
		id, rest, _ := strings.Cut(string(b), "\n")
		record, _, _ := strings.Cut(rest, "\n\n")
		n, perr := strconv.ParseUint(id, 10, 64)
		want[n] = record + "\n"
		module, version, _ := strings.Cut(record, " ")
		version, _, _ = strings.Cut(version, " ")
		c.Lookups = append(c.Lookups, module+"@"+version)
		return errors.Join(err, perr)
	})
	if err != nil || len(want) != 9 {
		t.Fatal(len(want), err)
	}
	l.ec.Logs = []LogConfig{c}
	l.reopen()
	l.pull()
	l.load(l.export(0))
	for n, text := range want {
		leaf := tiles.LeafHash([]byte(text))
		got, proof, head, err := l.in.Inclusion(context.Background(), c.Origin, n)
		if err != nil || got != leaf {
			t.Fatalf("record %d: %v, %v", n, got, err)
		}
		proven(t, n, head, leaf, proof)
		if r, err := l.in.Record(c.Origin, n); err != nil || string(r.Leaf) != text {
			t.Fatalf("record %d: %q, %v", n, r.Leaf, err)
		}
	}
	r, err := l.in.Reconcile(context.Background())
	if err != nil || r.Err() != nil || r.Logs[0].Heads != 5 {
		t.Fatalf("%v, %v, %+v", err, r.Err(), r)
	}
	// A head of another history: the same size, another root, and no key to sign it.
	b, _ := os.ReadFile(heads[4])
	bad := bytes.Replace(b, []byte("O0jlIxw"), []byte("O0jlIxx"), 1)
	if err := os.WriteFile(filepath.Join(dir, "latest"), bad, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 31 {
		t.Fatal(err)
	}
}

// twoParcels is a lab that imported the first parcel of the small log and holds the second.
func twoParcels(t *testing.T) (l *lab, g *generate.Log, first, second []string) {
	t.Helper()
	g, c := makeLog(t, smallLog)
	l = newLab(t, c)
	l.pull()
	first = l.export(0)
	show(t, g, 700)
	l.pull()
	second = l.export(0)
	return l, g, first, second
}

func TestReplayAndNoOp(t *testing.T) {
	l, _, first, second := twoParcels(t)
	l.load(first)
	before := l.fingerprint()
	r := l.load(first) // the same again
	if r.Transfers[0].Outcome != "already imported" || l.fingerprint() != before {
		t.Fatal("the same parcel again is not a no-op")
	}
	l.load(second)
	l.refused(21, first...)
	l.load(append(slices.Clone(first), second...)) // among newer ones it is passed over
}

func TestGapNamesWhatIsMissing(t *testing.T) {
	l, g, first, second := twoParcels(t)
	show(t, g, 1500)
	l.pull()
	third := l.export(0)
	err := l.refused(20, third...)
	if !strings.Contains(err.Error(), "1 to 2 missing") {
		t.Fatal(err)
	}
	st, err := l.in.Status(context.Background())
	if err != nil || len(st.Missing) != 1 || st.Missing[0] != (Range{1, 2}) {
		t.Fatalf("%+v, %v", st, err)
	}
	l.load(first)
	if st, _ = l.in.Status(context.Background()); len(st.Missing) != 1 || st.Missing[0] != (Range{2, 2}) {
		t.Fatalf("%+v", st)
	}
	l.load(append(slices.Clone(third), second...)) // in any order
	if st, _ = l.in.Status(context.Background()); len(st.Missing) != 0 || st.Sequence != 3 {
		t.Fatalf("%+v", st)
	}
}

func TestForkedStream(t *testing.T) {
	l, g, first, second := twoParcels(t)
	// The exporter's state is lost and it starts the stream anew: number 1 again, at another time.
	l.now = l.now.Add(time.Hour)
	l.ec.DB = newDB(t, filepath.Join(l.dir, "again.db"))
	l.medium = l.sub("again")
	l.ec.Dir = filepath.Join(l.dir, "again-out")
	l.reopen()
	show(t, g, 300)
	l.pull()
	other := l.export(0)
	l.load(first)
	l.refused(22, other...)
	show(t, g, 700)
	l.pull()
	l.refused(22, l.export(0)...) // number 2, but it follows the other number 1
	l.load(second)
}

func TestForeignExporterAndWrongStream(t *testing.T) {
	l, _, first, _ := twoParcels(t)
	foreign := *l
	foreign.ec.Signer, foreign.ec.DB, foreign.ec.Dir = labKey(2), newDB(t, filepath.Join(l.dir, "f.db")), filepath.Join(l.dir, "f")
	foreign.medium = l.sub("foreign")
	foreign.reopen()
	foreign.pull()
	l.refused(61, foreign.export(0)...)

	wrong := *l
	wrong.ec.Stream, wrong.ec.DB, wrong.ec.Dir = "elsewhere", newDB(t, filepath.Join(l.dir, "w.db")), filepath.Join(l.dir, "w")
	wrong.medium = l.sub("wrong")
	wrong.reopen()
	wrong.pull()
	l.refused(23, wrong.export(0)...)
	l.load(first)
}

func TestFlippedBitsAreRefused(t *testing.T) {
	l, _, first, second := twoParcels(t)
	l.load(first)
	st, err := os.Stat(second[0])
	if err != nil {
		t.Fatal(err)
	}
	for at := 1; at < int(st.Size()); at += int(st.Size()) / 60 {
		err := l.refused(40, l.flipBit(second[0], at))
		if !strings.Contains(err.Error(), filepath.Base(second[0])) {
			t.Fatalf("the error does not name the volume: %v", err)
		}
	}
	l.load(second)
}

func TestClockAndQuota(t *testing.T) {
	l, _, first, second := twoParcels(t)
	l.mc.Quota = 1000
	l.reopen()
	l.refused(42, first...)
	l.mc.Quota = 0
	l.reopen()
	l.load(first)
	l.now = l.now.Add(-time.Hour)
	l.refused(51, second...)
	l.now = l.now.Add(-48 * time.Hour)
	l.refused(51, second...)
	l.now = l.now.Add(49 * time.Hour)
	l.load(second)
	l.refused(41, filepath.Join(l.dir, "not", "there.001.rdp"))
}

func mustKey(t testing.TB, name string, n byte) string {
	t.Helper()
	k, err := parcel.VerifierKey(name, labKey(n).Public())
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestVolumes cuts a parcel into volumes, gives them in any order, and heals a bad one by burning it again.
func TestVolumes(t *testing.T) {
	g, c := makeLog(t, smallLog)
	show(t, g, 1500)
	l := newLab(t, c)
	l.pull()
	all := l.export(600_000)
	if len(all) < 3 {
		t.Fatalf("%d volumes", len(all))
	}
	slices.Reverse(all)
	bad := slices.Clone(all)
	bad[1] = l.flipBit(all[1], 5000)
	if err := l.refused(40, bad...); !strings.Contains(err.Error(), filepath.Base(all[1])) {
		t.Fatal(err)
	}
	if err := l.refused(40, all[1:]...); !strings.Contains(err.Error(), filepath.Base(all[0])) {
		t.Fatal(err)
	}
	l.load(all)
	for _, f := range all {
		if _, err := os.Stat(f); err != nil {
			t.Fatalf("a volume is gone: %v", err)
		}
	}
}

// TestTwoImportsAtOnce starts a second import from within the first.
func TestTwoImportsAtOnce(t *testing.T) {
	_, c := makeLog(t, smallLog)
	l := newLab(t, c)
	l.pull()
	files := l.export(0)
	var second error
	other, err := Open(l.mc)
	if err != nil {
		t.Fatal(err)
	}
	l.mc.Progress = func(p Progress) {
		if p.Stage == "quarantined" {
			_, second = other.Import(context.Background(), files)
		}
	}
	l.reopen()
	l.load(files)
	if !errors.Is(second, ErrBusy) || ExitCode(second) != 75 {
		t.Fatal(second)
	}
}

// TestForkInside gives the inside a fork that the exporter did not notice: its own log forks at entry 500, after the first
// parcel. The log is frozen, the evidence holds on its own, and a second log of the stream moves on.
func TestForkInside(t *testing.T) {
	ctx := context.Background()
	for _, size := range []uint64{1500, 700} { // the larger tree does not hold the smaller; the same size with another root
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			good, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{700}})
			forked, fc := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{700, size}, ForkAt: 500})
			other, oc := makeLog(t, generate.Config{Seed: 2, Origin: "other.example", Sizes: []uint64{10, 20}})
			if good.VKey != forked.VKey {
				t.Fatal("two keys")
			}
			l := newLab(t, c, oc)
			l.pull()
			l.load(l.export(0))
			// The exporter is a liar's: its state claims that the forked log is what was sent.
			show(t, forked, size)
			show(t, other, 20)
			l.ec.Logs = []LogConfig{fc, oc}
			liar(t, l, fc)
			l.reopen()
			if _, err := l.out.Pull(ctx); err != nil && !errors.Is(err, ErrNothing) {
				t.Fatal(err)
			}
			files := l.export(0)
			before, _ := l.in.Head("log.example")
			r, err := l.in.Import(ctx, files)
			var fork *ForkError
			if ExitCode(err) != 30 || !errors.As(err, &fork) || fork.Origin != "log.example" || len(r.Transfers) != 1 {
				t.Fatalf("%v, %+v", err, r)
			}
			after, _ := l.in.Head("log.example")
			if after.Root != before.Root || after.Size != before.Size {
				t.Fatal("the forked log moved")
			}
			if h, _ := l.in.Head("other.example"); h.Size != 20 {
				t.Fatal("the healthy log did not move on")
			}
			data, err := os.ReadFile(fork.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := CheckEvidence(data, c); err != nil {
				t.Fatal(err)
			}
			if _, err := CheckEvidence(data, LogConfig{Origin: c.Origin, VKey: mustKey(t, "log.example", 3)}); err == nil {
				t.Fatal("evidence holds under another key")
			}
			if _, err := CheckEvidence(bytes.Replace(data, []byte(`"larger": "`), []byte(`"larger": "x`), 1), c); err == nil {
				t.Fatal("changed evidence holds")
			}
			l.reopen()
			if st, err := l.in.Status(ctx); err != nil || st.Logs[0].Frozen == nil || st.Logs[1].Frozen != nil {
				t.Fatalf("%+v, %v", st, err)
			}
		})
	}
}

// liar makes the exporter forget what it collected of a log, and makes its record of what it sent the first head of the log
// it reads now, so that it finds nothing wrong.
func liar(t *testing.T, l *lab, c LogConfig) {
	t.Helper()
	honest := l.ec
	l.ec.DB, l.ec.Dir = newDB(t, filepath.Join(l.dir, "liar.db")), filepath.Join(l.dir, "liar")
	l.reopen()
	size := shown(t, c.Source)
	if err := generate.Rewind(c.Source, 700); err != nil {
		t.Fatal(err)
	}
	l.pull()
	s, err := l.out.state()
	if err != nil {
		t.Fatal(err)
	}
	old := &Exporter{c: honest}
	was, err := old.state()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.out.setSent(was.stream, s.collected[c.Origin], was.sent["other.example"]); err != nil {
		t.Fatal(err)
	}
	if err := generate.Rewind(c.Source, size); err != nil {
		t.Fatal(err)
	}
}

// TestSameExportTwice makes one parcel on two machines: same log, same key, same time, same bytes.
func TestSameExportTwice(t *testing.T) {
	_, c := makeLog(t, smallLog)
	a, b := newLab(t, c), newLab(t, c)
	a.pull()
	b.pull()
	b.now = b.now.Add(time.Minute) // packed later, with the same created time
	var packed [2]Packed
	for i, l := range []*lab{a, b} {
		var err error
		packed[i], err = l.out.Export(context.Background(), ExportOptions{Out: l.medium, Created: a.now, VolumeSize: 600_000})
		if err != nil {
			t.Fatal(err)
		}
	}
	if !packed[0].Digest.Equal(packed[1].Digest) || len(packed[0].Files) < 1 {
		t.Fatalf("%+v", packed)
	}
	for _, f := range packed[0].Files {
		x, err1 := os.ReadFile(filepath.Join(a.medium, f))
		y, err2 := os.ReadFile(filepath.Join(b.medium, f))
		if err1 != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Fatalf("%s differs: %v, %v", f, err1, err2)
		}
	}
	if _, err := a.out.Export(context.Background(), ExportOptions{Out: a.medium}); ExitCode(err) != 10 {
		t.Fatal(err)
	}
	if _, err := a.out.Pull(context.Background()); ExitCode(err) != 10 {
		t.Fatal(err)
	}
	if _, err := a.in.Import(context.Background(), []string{t.TempDir()}); ExitCode(err) != 10 {
		t.Fatal(err)
	}
}

// TestInspect reads a parcel without importing it.
func TestInspect(t *testing.T) {
	l, _, first, second := twoParcels(t)
	list, err := Inspect(context.Background(), append(second, first...), []string{l.vkey})
	if err != nil || len(list) != 2 || !list[0].Whole || list[0].Sequence != 1 || list[1].Manifest.Logs[0].To.Size != 700 {
		t.Fatalf("%+v, %v", list, err)
	}
	list, err = Inspect(context.Background(), []string{l.flipBit(first[0], 3000)}, []string{l.vkey})
	if ExitCode(err) != 40 || len(list) != 1 || list[0].Whole {
		t.Fatalf("%+v, %v", list, err)
	}
	if _, err := Inspect(context.Background(), first, []string{mustKey(t, "x", 3)}); ExitCode(err) != 61 {
		t.Fatal(err)
	}
	if _, err := l.in.Head(smallLog.Origin); !errors.Is(err, ErrNotFound) {
		t.Fatal("inspecting moved something", err)
	}
}

// TestExportIsNamedAfterACrash loses the process between the state and the names of the volumes.
func TestExportIsNamedAfterACrash(t *testing.T) {
	l, _, first, second := twoParcels(t)
	hidden := filepath.Join(l.medium, "."+filepath.Base(second[0])+".partial")
	if err := os.Rename(second[0], hidden); err != nil {
		t.Fatal(err)
	}
	unname(t, l, 2)
	if _, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium}); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
	l.load(append(first, second...))
}

// TestHugeStepIsRefused offers a manifest that claims more leaves than memory holds tiles for.
func TestHugeStepIsRefused(t *testing.T) {
	l, _, first, _ := twoParcels(t)
	p, _ := openParcel(t, l, first[0])
	m := *p.Manifest
	m.Logs = slices.Clone(m.Logs)
	m.Logs[0].To.Size = tiles.MaxSize
	text, err := m.Text()
	if err != nil {
		t.Fatal(err)
	}
	note, err := parcel.SignNote(text, "exporter.outside", l.key)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.sub("huge"), "h.001.rdp")
	if err := os.WriteFile(path, append(parcel.HeadFrame(note), make([]byte, m.Volumes[0].Bytes)...), 0o644); err != nil {
		t.Fatal(err)
	}
	l.refused(40, path)
}

// TestForeignParcelAmongGood offers a folder with a stranger's parcel in it: nothing of the folder is taken, and the file is named.
func TestForeignParcelAmongGood(t *testing.T) {
	l, _, first, second := twoParcels(t)
	foreign := *l
	foreign.ec.Signer, foreign.ec.DB, foreign.ec.Dir = labKey(2), newDB(t, filepath.Join(l.dir, "f.db")), filepath.Join(l.dir, "f")
	foreign.medium = l.sub("foreign")
	foreign.reopen()
	foreign.pull()
	strange := foreign.export(0)[0]
	if err := l.refused(61, first[0], strange, second[0]); !strings.Contains(err.Error(), strange) {
		t.Fatal(err)
	}
	st, err := l.in.Status(context.Background())
	if err != nil || len(st.Missing) != 0 {
		t.Fatal("a stranger's parcel opens a gap", st, err)
	}
}

// TestRehearsal: a dry run proves and refuses as an import does, and leaves no trace; what it proved can be imported then.
func TestRehearsal(t *testing.T) {
	l, _, first, second := twoParcels(t)
	if _, err := l.in.Rehearse(t.Context(), nil); ExitCode(err) != 10 { // makes the lock file
		t.Fatal(err)
	}
	before := l.everything()
	r, err := l.in.Rehearse(t.Context(), append(slices.Clone(first), second...))
	if err != nil || len(r.Transfers) != 1 || r.Transfers[0].Outcome != "proven, not imported" || r.Transfers[0].Logs[0].To != 300 {
		t.Fatalf("%v, %+v", err, r)
	}
	if _, err := l.in.Rehearse(t.Context(), second); ExitCode(err) != 20 {
		t.Fatal(err)
	}
	if _, err := l.in.Rehearse(t.Context(), []string{l.flipBit(first[0], 60)}); ExitCode(err) != 40 {
		t.Fatal(err)
	}
	if l.everything() != before {
		t.Fatal("a dry run left something behind")
	}
	l.load(first)
	if r, err := l.in.Rehearse(t.Context(), append(slices.Clone(first), second...)); err != nil || len(r.Transfers) != 2 {
		t.Fatalf("%v, %+v", err, r)
	}
	if _, err := l.in.Rehearse(t.Context(), first); ExitCode(err) != 10 {
		t.Fatal(err)
	}
	if _, err := l.in.Resume(t.Context()); ExitCode(err) != 10 {
		t.Fatal(err)
	}
	l.load(second)
}

// everything digests all state and all files, also those nobody reads.
func (l *lab) everything() string {
	l.t.Helper()
	h := sha256.New()
	err := l.inDB.View(func(tx store.Tx) error {
		return tx.Scan(nil, nil, func(k, v []byte) bool { fmt.Fprintf(h, "%q=%q\n", k, v); return true })
	})
	if err == nil {
		err = filepath.WalkDir(l.mc.Dir, func(p string, d os.DirEntry, err error) error { fmt.Fprintln(h, p); return err })
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return hex.EncodeToString(h.Sum(nil))
}
