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
	"time"

	"redoubt.internal/mirror/diode"
	"redoubt.internal/mirror/parcel"
)

// looks looks at an inbox once and demands an exit code.
func (l *lab) looks(c Inbox, code int) InboxReport {
	l.t.Helper()
	r, err := l.in.Look(context.Background(), c)
	if ExitCode(err) != code {
		l.t.Fatalf("exit code %d instead of %d: %v (%+v)", ExitCode(err), code, err, r)
	}
	return r
}

// arrive copies files into a folder under names of their own.
func (l *lab) arrive(dir string, files ...string) {
	l.t.Helper()
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "arrived "+filepath.Base(f)), b, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
}

func (l *lab) stands(sequence uint64) {
	l.t.Helper()
	st, err := l.in.Status(context.Background())
	if err != nil || st.Sequence != sequence {
		l.t.Fatalf("it stands at parcel %d instead of %d: %v", st.Sequence, sequence, err)
	}
}

// TestInboxWaitsForAll: volumes and parcels arrive in the wrong order; nothing is taken before it can be, everything in order then,
// what is missing is said, and every file stays where it is.
func TestInboxWaitsForAll(t *testing.T) {
	g, c := makeLog(t, smallLog)
	l := newLab(t, c)
	l.pull()
	one := l.export(0)
	show(t, g, 1500)
	l.pull()
	two := l.export(600_000)
	l.medium = l.sub("later")
	three := l.exportWith(ExportOptions{Refresh: true})
	if len(two) < 3 {
		t.Fatalf("%d volumes", len(two))
	}
	box := Inbox{Dir: l.sub("inbox")}
	l.looks(box, 10)
	l.arrive(box.Dir, two[0], two[len(two)-1])
	l.arrive(box.Dir, three...)
	if err := os.WriteFile(filepath.Join(box.Dir, "readme.txt"), []byte("not for us"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := l.looks(box, 10)
	if len(r.Parcels) != 2 || !strings.HasPrefix(r.Parcels[0].State, "waiting for volumes 2") || r.Parcels[1].State != "waiting for parcels 1 to 2" || len(r.Files) != 0 {
		t.Fatalf("%+v", r)
	}
	st, err := l.in.Status(context.Background())
	if err != nil || st.Inbox == nil || len(st.Inbox.Parcels) != 2 || st.Inbox.Parcels[0].State != r.Parcels[0].State || len(st.Missing) != 1 {
		t.Fatalf("%+v, %v", st, err)
	}
	incidents, _ := l.in.Incidents()
	l.looks(box, 10)
	if again, _ := l.in.Incidents(); len(again) != 1 || again[0].Times != incidents[0].Times {
		t.Fatalf("a gap that is known is noted again: %+v", again)
	}
	l.arrive(box.Dir, two[1:]...)
	l.looks(box, 10)
	l.stands(0)
	l.arrive(box.Dir, one...)
	r = l.looks(box, 0)
	if l.stands(3); len(r.Transfers) != 3 || r.Transfers[0].Sequence != 1 || r.Transfers[2].Sequence != 3 {
		t.Fatalf("%+v", r.Transfers)
	}
	r = l.looks(box, 10)
	for _, p := range r.Parcels {
		if p.State != FileImported {
			t.Fatalf("%+v", p)
		}
	}
	if list, _ := os.ReadDir(box.Dir); len(list) != len(one)+len(two)+len(three)+1 {
		t.Fatal("something was taken away", list)
	}
	media, err := l.in.Media()
	if err != nil || len(media) != 3 || media[0].Who != "inbox" || media[2].Outcome != "imported" || media[1].Files != len(two) {
		t.Fatalf("%+v, %v", media, err)
	}
}

// TestInboxRefusesOnce: a file that was refused is read again only when its bytes change, or what it was judged by does; the outcome
// of every file is kept over a restart.
func TestInboxRefusesOnce(t *testing.T) {
	l, _, first, second := twoParcels(t)
	box := Inbox{Dir: l.sub("inbox")}
	bad := l.flipBit(first[0], 3000)
	l.arrive(box.Dir, bad)
	foreign := *l
	foreign.ec.DB, foreign.ec.Dir = newDB(t, filepath.Join(l.dir, "f.db")), filepath.Join(l.dir, "f")
	foreign.medium = l.sub("foreign")
	foreign.signAs(2)
	foreign.pull()
	strange := foreign.export(0)
	if err := os.Rename(strange[0], filepath.Join(box.Dir, "strange.rdp")); err != nil {
		t.Fatal(err)
	}
	l.signAs(1)
	if err := os.WriteFile(filepath.Join(box.Dir, "text.RDP"), []byte("no volume"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := l.looks(box, 10)
	codes := map[string]int{}
	for _, f := range r.Files {
		codes[filepath.Base(f.Path)] = f.Code
		if f.State != FileRefused || f.Detail == "" || len(f.SHA256) == 0 {
			t.Fatalf("%+v", f)
		}
	}
	if len(codes) != 3 || codes["strange.rdp"] != 61 || codes["text.RDP"] != 40 || codes["arrived "+filepath.Base(bad)] != 40 {
		t.Fatalf("%v", codes)
	}
	refused, _ := l.in.Incidents()
	if len(refused) != 3 {
		t.Fatalf("%+v", refused)
	}
	l.reopen()
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(filepath.Join(box.Dir, "text.RDP"), later, later); err != nil { // touched, the same bytes
		t.Fatal(err)
	}
	l.looks(box, 10)
	if again, _ := l.in.Incidents(); len(again) != 3 || again[0].Times+again[1].Times+again[2].Times != 3 {
		t.Fatalf("a refused file was tried again: %+v", again)
	}
	// Its bytes change: the good volume is written over the bad one.
	good, err := os.ReadFile(first[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(box.Dir, "arrived "+filepath.Base(bad)), good, 0o644); err != nil {
		t.Fatal(err)
	}
	l.looks(box, 0)
	l.stands(1)
	// What it is judged by changes: the stranger's key is accepted; now it is a parcel, of a forked stream.
	l.mc.Exporters = append(slices.Clone(l.mc.Exporters), exporterKey(t, 2))
	l.reopen()
	l.looks(box, 22)
	l.looks(box, 10)
	l.arrive(box.Dir, second...)
	l.looks(box, 0)
	l.stands(2)
}

// TestInboxOfShards: shards of two parcels arrive over a diode, some lost; the volumes are put together, go through the ordinary
// import, and are swept only then. Late copies are known to be done.
func TestInboxOfShards(t *testing.T) {
	ctx := context.Background()
	l, _, first, second := twoParcels(t)
	out := l.sub("line")
	if _, err := diode.Send(ctx, diode.Settings{Out: out, Parity: 50, ShardSize: 64 << 10, Repeat: 1}, slices.Concat(second, first)); err != nil {
		t.Fatal(err)
	}
	r, err := diode.Open(filepath.Join(l.dir, "received"), 0)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	box := Inbox{Dir: l.sub("inbox"), Receiver: r, Sweep: true}
	shards, err := filepath.Glob(filepath.Join(out, "*.rds"))
	if err != nil || len(shards) < 9 {
		t.Fatal(shards, err)
	}
	l.arrive(box.Dir, shards[0], shards[len(shards)-1])
	if rep := l.looks(box, 10); len(rep.Diode.Volumes) != 2 || rep.Diode.Volumes[0].State != diode.Waiting || rep.Swept != nil {
		t.Fatalf("%+v", rep)
	}
	for i, s := range shards {
		if i%4 != 1 { // a quarter is lost
			l.arrive(box.Dir, s)
		}
	}
	rep := l.looks(box, 0)
	if l.stands(2); len(rep.Transfers) != 2 || rep.Swept == nil || rep.Swept.Volumes != 2 {
		t.Fatalf("%+v", rep)
	}
	for _, dir := range []string{box.Dir, filepath.Join(l.dir, "received")} {
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Fatalf("%s holds %v", dir, left)
		}
	}
	l.arrive(box.Dir, shards...)
	if rep = l.looks(box, 10); rep.Swept == nil || rep.Swept.Shards != len(shards) || rep.Swept.Volumes != 0 || rep.Diode.Volumes[0].State != diode.Done {
		t.Fatalf("%+v", rep)
	}
	// Nothing is trusted because of the code: a volume that a stranger signed comes out whole and is refused.
	foreign := *l
	foreign.ec.DB, foreign.ec.Dir = newDB(t, filepath.Join(l.dir, "f.db")), filepath.Join(l.dir, "f")
	foreign.medium = l.sub("foreign")
	foreign.signAs(2)
	foreign.pull()
	if _, err := diode.Send(ctx, diode.Settings{Out: box.Dir, ShardSize: 64 << 10, Repeat: 1}, foreign.export(0)); err != nil {
		t.Fatal(err)
	}
	rep = l.looks(box, 10)
	if len(rep.Files) != 1 || rep.Files[0].Code != 61 || rep.Diode.Volumes[0].State != diode.Assembled || rep.Swept != nil {
		t.Fatalf("%+v", rep)
	}
	l.stands(2)
}

// TestInboxLetsFilesSettle: a file that may still be written to is not read, and one that looks as before is. Imported volumes are moved
// where that is configured.
func TestInboxLetsFilesSettle(t *testing.T) {
	l, _, first, second := twoParcels(t)
	box := Inbox{Dir: l.sub("inbox"), Settle: time.Hour, Done: l.sub("done")}
	l.arrive(box.Dir, first...)
	if r := l.looks(box, 10); len(r.Files) != 1 || r.Files[0].State != FileSettling {
		t.Fatalf("%+v", r)
	}
	r := l.looks(box, 0)
	if l.stands(1); r.Moved != 1 {
		t.Fatalf("%+v", r)
	}
	if left, _ := os.ReadDir(box.Dir); len(left) != 0 {
		t.Fatal(left)
	}
	moved, err := filepath.Glob(filepath.Join(box.Done, "000001-arrived *.rdp"))
	if err != nil || len(moved) != 1 {
		t.Fatal(moved, err)
	}
	if got, _ := os.ReadFile(moved[0]); !bytes.Equal(got, mustRead(t, first[0])) {
		t.Fatal("another file")
	}
	l.arrive(box.Dir, second...)
	old := time.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(filepath.Join(box.Dir, "arrived "+filepath.Base(second[0])), old, old); err != nil {
		t.Fatal(err)
	}
	l.looks(box, 0)
	l.stands(2)
}

func mustRead(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestMediaAreRegistered: each medium has a number, a label, a digest that does not depend on names, and an outcome.
func TestMediaAreRegistered(t *testing.T) {
	ctx := context.Background()
	l, _, first, second := twoParcels(t)
	put := func(label string, code int, paths ...string) {
		t.Helper()
		if _, err := l.in.ImportMedium(ctx, "uid:1000", label, paths); ExitCode(err) != code {
			t.Fatal(err)
		}
	}
	renamed := filepath.Join(l.sub("copy"), "x")
	if err := os.WriteFile(renamed, mustRead(t, first[0]), 0o644); err != nil {
		t.Fatal(err)
	}
	put("DISC 7", 0, first...)
	put("DISC 7 again", 0, renamed)
	put("bad disc", 40, l.flipBit(second[0], 3000))
	put("", 10, l.sub("empty"))
	put("gone", 41, filepath.Join(l.dir, "nowhere"))
	if _, err := l.in.ImportMedium(ctx, "x", strings.Repeat("x", 101), first); !errors.Is(err, ErrLabel) {
		t.Fatal(err)
	}
	if _, err := l.in.ImportMedium(ctx, "x", "a\nb", first); !errors.Is(err, ErrLabel) {
		t.Fatal(err)
	}
	media, err := l.in.Media()
	if err != nil || len(media) != 5 {
		t.Fatalf("%+v, %v", media, err)
	}
	for i, want := range []string{"imported", "already imported", "refused", "nothing there", "refused"} {
		if m := media[i]; m.Outcome != want || m.Number != uint64(i+1) || m.Who != "uid:1000" || m.Ended.IsZero() {
			t.Errorf("%+v instead of %q", m, want)
		}
	}
	if media[0].Digest != media[1].Digest || media[0].Digest == media[2].Digest || media[0].Bytes == 0 || media[2].Code != 40 {
		t.Errorf("%+v", media)
	}
	if len(media[0].Parcels) != 1 || !media[0].Parcels[0].Digest.Equal(parcelDigest(t, l, first[0])) {
		t.Errorf("%+v", media[0])
	}
}

func parcelDigest(t *testing.T, l *lab, path string) parcel.Digest {
	p, _ := openParcel(t, l, path)
	return p.Digest
}
