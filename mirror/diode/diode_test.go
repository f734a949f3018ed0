package diode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "write the golden shards of this format version anew; never for a released one")

func needed(Digest) bool { return false }

// randomBytes are the same for the same seed.
func randomBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// line is a diode: a folder that is sent from, one that is received into, and the receiver's own.
type line struct {
	t            *testing.T
	dir, out, in string
	r            *Receiver
	quota        int64
	copied       []string
}

func newLine(t *testing.T) *line {
	t.Helper()
	l := &line{t: t, dir: t.TempDir()}
	l.out, l.in = filepath.Join(l.dir, "out"), filepath.Join(l.dir, "in")
	for _, d := range []string{l.out, l.in} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l.reopen()
	return l
}

func (l *line) reopen() {
	l.t.Helper()
	if l.r != nil {
		l.r.Close()
	}
	var err error
	if l.r, err = Open(filepath.Join(l.dir, "received"), l.quota); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { l.r.Close() })
}

func (l *line) volume(name string, b []byte) string {
	l.t.Helper()
	path := filepath.Join(l.dir, name)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return path
}

func (l *line) send(s Settings, volumes ...string) []Sent {
	l.t.Helper()
	s.Out, s.Repeat = l.out, max(s.Repeat, 1)
	sent, err := Send(context.Background(), s, volumes)
	if err != nil {
		l.t.Fatal(err)
	}
	return sent
}

// shards lists what lies in the sending folder.
func (l *line) shards() (out []string) {
	l.t.Helper()
	list, err := os.ReadDir(l.out)
	if err != nil {
		l.t.Fatal(err)
	}
	for _, e := range list {
		out = append(out, e.Name())
	}
	return out
}

// pass copies shards to the other side under names that say nothing.
func (l *line) pass(names ...string) {
	l.t.Helper()
	for i, n := range names {
		b, err := os.ReadFile(filepath.Join(l.out, n))
		if err != nil {
			l.t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.in, fmt.Sprintf("%d-%d", len(l.copied), i)), b, 0o644); err != nil {
			l.t.Fatal(err)
		}
	}
	l.copied = append(l.copied, names...)
}

func (l *line) collect() Report {
	l.t.Helper()
	report, err := l.r.Collect(context.Background(), l.in, needed)
	if err != nil {
		l.t.Fatal(err)
	}
	return report
}

// holds demands that the one volume of a report lies there whole.
func (l *line) holds(report Report, want []byte) {
	l.t.Helper()
	if len(report.Volumes) != 1 || report.Volumes[0].State != Assembled {
		l.t.Fatalf("%+v", report)
	}
	if got, err := os.ReadFile(report.Volumes[0].File); err != nil || !bytes.Equal(got, want) {
		l.t.Fatalf("another volume came out: %v", err)
	}
}

// TestAnySufficientSubset sends volumes of many sizes, loses as many shards as there are parity shards, any of them, and puts the
// volumes together from the rest; with one more lost each waits and names what is missing.
func TestAnySufficientSubset(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	lost, whole := 0, 0
	for _, parity := range []int{0, 10, 100} {
		l := newLine(t)
		want, volumes := make(map[Digest][]byte), []string(nil)
		for i, size := range []int{1, 4096, 4097, 65_536 * 3, 65_537*3 + 1, 300_000} {
			data := randomBytes(byte(i), size)
			want[sha256.Sum256(data)] = data
			volumes = append(volumes, l.volume(fmt.Sprintf("v.%03d.rdp", i), data))
		}
		var last []string
		for _, sent := range l.send(Settings{Parity: parity, ShardSize: 4096}, volumes...) {
			own := slices.DeleteFunc(l.shards(), func(n string) bool { return !strings.HasPrefix(n, sent.Volume.String()[:16]) })
			if len(own) != sent.Data+sent.Parity || sent.Parity < sent.Data*parity/100 {
				t.Fatalf("%d shards, %+v", len(own), sent)
			}
			rng.Shuffle(len(own), func(i, j int) { own[i], own[j] = own[j], own[i] })
			l.pass(own[:sent.Data-1]...)
			last = append(last, own[sent.Data-1])
			lost += sent.Parity
		}
		for _, v := range l.collect().Volumes {
			if v.State != Waiting || v.Have != v.Data-1 || len(v.Missing) != v.Parity+1 {
				t.Fatalf("%+v", v)
			}
		}
		l.pass(last...)
		for _, v := range l.collect().Volumes {
			if got, err := os.ReadFile(v.File); v.State != Assembled || err != nil || !bytes.Equal(got, want[v.Volume]) {
				t.Fatalf("%+v: %v", v, err)
			}
			whole++
		}
	}
	if whole != 18 {
		t.Fatalf("%d volumes", whole)
	}
	t.Logf("%d volumes whole again, %d shards lost", whole, lost)
}

// TestDamagedShardsAreNamed damages shards in every way; each is named with its number, none is used, and copies heal it.
func TestDamagedShardsAreNamed(t *testing.T) {
	l := newLine(t)
	data := randomBytes(7, 40_000)
	sent := l.send(Settings{Parity: 30, ShardSize: 4096, Repeat: 2}, l.volume("v.001.rdp", data))[0]
	all := l.shards()
	if sent.Data != 10 || sent.Parity != 3 || len(all) != 26 {
		t.Fatalf("%+v, %v", sent, all)
	}
	damage := func(name string, change func([]byte) []byte) {
		b, err := os.ReadFile(filepath.Join(l.out, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(l.in, name), change(b), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	first := slices.DeleteFunc(slices.Clone(all), func(n string) bool { return !strings.Contains(n, ".p1.") })
	damage(first[0], func(b []byte) []byte { b[len(b)-7] ^= 1; return b })
	damage(first[1], func(b []byte) []byte { return b[:len(b)-1] })
	damage(first[2], func(b []byte) []byte { return append(b, 0) })
	damage(first[3], func(b []byte) []byte { b[70] ^= 0x80; return b })
	damage(first[4], func(b []byte) []byte { return b[:30] })
	if err := os.WriteFile(filepath.Join(l.in, "readme.txt"), []byte("not a shard"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.pass(first[5:]...)
	report := l.collect()
	if len(report.Damaged) != 5 || report.Others != 1 || len(report.Volumes) != 1 || report.Volumes[0].State != Waiting || !slices.Equal(report.Volumes[0].Missing, []int{0, 1, 2, 3, 4}) {
		t.Fatalf("%+v", report)
	}
	for i, want := range []string{"number 0", "number 1", "number 2", "header has another SHA-256", "cut short in its header"} {
		if !strings.Contains(report.Damaged[i].Reason, want) || filepath.Base(report.Damaged[i].File) != first[i] {
			t.Errorf("%+v instead of %q", report.Damaged[i], want)
		}
	}
	again := l.collect() // nothing changed, nothing is read again, the same is said
	if len(again.Damaged) != 5 || again.Volumes[0].Have != 8 {
		t.Fatalf("%+v", again)
	}
	// The second round brings two of the lost ones, and one that was there.
	l.pass(strings.Replace(first[1], ".p1.", ".p2.", 1), strings.Replace(first[3], ".p1.", ".p2.", 1), strings.Replace(first[9], ".p1.", ".p2.", 1))
	report = l.collect()
	l.holds(report, data)
	if report.Volumes[0].Copies != 1 {
		t.Fatalf("%+v", report.Volumes[0])
	}
}

// TestForgedShardsSpoilNothing mixes in shards of a stranger who knows everything: another set for the same volume, whole by their
// own digests and wrong. The honest set comes out, the forged one is called broken.
func TestForgedShardsSpoilNothing(t *testing.T) {
	l := newLine(t)
	data := randomBytes(8, 20_000)
	l.send(Settings{Parity: 50, ShardSize: 4096}, l.volume("v.001.rdp", data))
	l.pass(l.shards()...)
	forged := Header{Volume: sha256.Sum256(data), Size: int64(len(data)), Data: 5, Parity: 3, Sums: make([]Digest, 8)}
	payload := make([][]byte, 8)
	for i := range payload {
		payload[i] = randomBytes(byte(i), int(forged.payload()))
		forged.Sums[i] = sha256.Sum256(payload[i])
	}
	for i := range payload {
		forged.Index = i
		if err := os.WriteFile(filepath.Join(l.in, fmt.Sprintf("0-forged-%d", i)), append(forged.bytes(), payload[i]...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	report := l.collect()
	var states []string
	for _, v := range report.Volumes {
		states = append(states, v.State)
	}
	slices.Sort(states)
	// Which set comes first is no matter: the forged one is broken, or is not needed any more.
	if !slices.Contains(states, Assembled) || len(states) != 2 {
		t.Fatalf("%+v", report)
	}
	got, err := os.ReadFile(filepath.Join(l.dir, "received", fileName(sha256.Sum256(data))))
	if err != nil || !bytes.Equal(got, data) {
		t.Fatal("the forged shards won", err)
	}
	// Alone the forged set gives nothing.
	only := newLine(t)
	for i := range payload {
		forged.Index = i
		if err := os.WriteFile(filepath.Join(only.in, fmt.Sprint(i)), append(forged.bytes(), payload[i]...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	report = only.collect()
	if len(report.Volumes) != 1 || report.Volumes[0].State != Broken {
		t.Fatalf("%+v", report)
	}
	if left, _ := os.ReadDir(filepath.Join(only.dir, "received")); len(left) != 0 {
		t.Fatalf("a broken volume was kept: %v", left)
	}
}

// TestQuotaForReceived: what is put together never passes the quota, and goes on when there is room.
func TestQuotaForReceived(t *testing.T) {
	l := newLine(t)
	a, b := randomBytes(1, 30_000), randomBytes(2, 30_000)
	l.send(Settings{ShardSize: 4096}, l.volume("a.001.rdp", a), l.volume("b.001.rdp", b))
	l.pass(l.shards()...)
	l.quota = 59_999
	l.reopen()
	report, err := l.r.Collect(context.Background(), l.in, needed)
	if !errors.Is(err, ErrFull) || len(report.Volumes) != 2 {
		t.Fatalf("%v, %+v", err, report)
	}
	var used int64
	list, _ := os.ReadDir(filepath.Join(l.dir, "received"))
	for _, e := range list {
		i, _ := e.Info()
		used += i.Size()
	}
	if used != 30_000 {
		t.Fatalf("%d bytes", used)
	}
	l.quota = 60_000
	l.reopen()
	if report = l.collect(); report.Volumes[0].State != Assembled || report.Volumes[1].State != Assembled {
		t.Fatalf("%+v", report)
	}
}

// TestSweep removes shards of volumes that are done, and old ones, and nothing else.
func TestSweep(t *testing.T) {
	ctx := context.Background()
	l := newLine(t)
	a, b := randomBytes(1, 10_000), randomBytes(2, 10_000)
	l.send(Settings{Parity: 20, ShardSize: 4096}, l.volume("a.001.rdp", a), l.volume("b.001.rdp", b))
	l.pass(l.shards()...)
	if err := os.WriteFile(filepath.Join(l.in, "letter.txt"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	l.collect()
	if s, err := l.r.Sweep(ctx, l.in, needed, time.Time{}); err != nil || s != (Swept{}) {
		t.Fatal("something that is needed was removed", s, err)
	}
	doneA := func(d Digest) bool { return d == sha256.Sum256(a) }
	s, err := l.r.Sweep(ctx, l.in, doneA, time.Time{})
	if err != nil || s.Shards != 4 || s.Volumes != 1 {
		t.Fatal(s, err)
	}
	report, err := l.r.Collect(ctx, l.in, doneA)
	if err != nil || len(report.Volumes) != 1 || report.Volumes[0].Volume != sha256.Sum256(b) || report.Others != 1 {
		t.Fatalf("%+v, %v", report, err)
	}
	// A late copy of what is done is neither hashed nor put together.
	l.pass(l.shards()...)
	if report, err = l.r.Collect(ctx, l.in, doneA); err != nil || len(report.Volumes) != 2 {
		t.Fatalf("%+v, %v", report, err)
	}
	for _, v := range report.Volumes {
		if doneA(v.Volume) != (v.State == Done) {
			t.Fatalf("%+v", v)
		}
	}
	s, err = l.r.Sweep(ctx, l.in, needed, time.Now().Add(time.Hour))
	if err != nil || s.Shards != 12 || s.Volumes != 0 {
		t.Fatal(s, err)
	}
	if _, err := os.Stat(filepath.Join(l.in, "letter.txt")); err != nil {
		t.Fatal("what is no shard was removed", err)
	}
}

// TestCarousel sends three rounds, one at a time: the folder never holds two.
func TestCarousel(t *testing.T) {
	l := newLine(t)
	data := randomBytes(3, 9000)
	sent := l.send(Settings{Parity: 50, ShardSize: 4096, Repeat: 3, Every: time.Millisecond}, l.volume("v.001.rdp", data))[0]
	all := l.shards()
	if len(all) != sent.Data+sent.Parity || sent.Rounds != 3 || !strings.Contains(all[0], ".p3.") {
		t.Fatalf("%v, %+v", all, sent)
	}
	l.pass(all...)
	l.holds(l.collect(), data)
	// A line that stops after the first round was interrupted by its operator: what is shown is whole.
	ctx, cancel := context.WithCancel(context.Background())
	time.AfterFunc(50*time.Millisecond, cancel)
	other := newLine(t)
	if _, err := Send(ctx, Settings{Out: other.out, ShardSize: 4096, Repeat: 9, Every: time.Hour}, []string{l.volume("w.001.rdp", data)}); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	other.pass(other.shards()...)
	other.holds(other.collect(), data)
}

// TestSettings: what cannot be done is refused before anything is written.
func TestSettings(t *testing.T) {
	l := newLine(t)
	v := l.volume("v.001.rdp", []byte("x"))
	for _, s := range []Settings{
		{Out: l.out, ShardSize: 4096}, {Out: l.out, ShardSize: 10, Repeat: 1}, {Out: l.out, ShardSize: 4096, Repeat: 1, Parity: 401},
		{Out: l.out, ShardSize: 4096, Repeat: 1000}, {Out: l.out, ShardSize: 4096, Repeat: 1, Every: -1},
	} {
		if _, err := Send(context.Background(), s, []string{v}); !errors.Is(err, ErrSettings) {
			t.Errorf("%+v: %v", s, err)
		}
	}
	if _, err := Send(context.Background(), Settings{Out: l.out, ShardSize: 4096, Repeat: 1}, []string{l.volume("empty", nil)}); !errors.Is(err, ErrSettings) {
		t.Error(err)
	}
	if got := l.shards(); len(got) != 0 {
		t.Fatalf("something was written: %v", got)
	}
	if _, err := Open(filepath.Join(l.dir, "received"), 0); !errors.Is(err, ErrBusy) {
		t.Fatal("two receivers in one folder", err)
	}
}

// TestGoldenShards puts a volume together from the shards of format v1 that stand in testdata, the data shards but one lost. Every
// later version must, and must cut the same shards.
func TestGoldenShards(t *testing.T) {
	data := randomBytes(1, 4000)
	golden := filepath.Join("testdata", "v1")
	l := newLine(t)
	l.send(Settings{Parity: 100, ShardSize: 1024}, l.volume("v.001.rdp", data))
	if *update {
		if err := os.RemoveAll(golden); err != nil {
			t.Fatal(err)
		}
		if err := os.CopyFS(golden, os.DirFS(l.out)); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range l.shards() {
		want, err := os.ReadFile(filepath.Join(golden, name))
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(l.out, name)); !bytes.Equal(got, want) {
			t.Fatalf("%s is cut another way than it was", name)
		}
		if i == 0 || i > 4 {
			if err := os.WriteFile(filepath.Join(l.in, name), want, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	l.holds(l.collect(), data)
}

// FuzzShard: a header that is read has one spelling, and claims nothing out of bounds.
func FuzzShard(f *testing.F) {
	h := Header{Volume: sha256.Sum256(nil), Size: 5000, Data: 2, Parity: 1, Index: 2, Sums: make([]Digest, 3)}
	f.Add(h.bytes())
	f.Add(append(h.bytes(), "payload"...))
	f.Add(h.bytes()[:100])
	f.Add([]byte(magic))
	big := h
	big.Data, big.Parity, big.Sums = 200, 55, make([]Digest, 255)
	big.Size = maxVolume
	f.Add(big.bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ReadHeader(bytes.NewReader(b))
		if err != nil {
			if !errors.Is(err, ErrShard) && !errors.Is(err, ErrNoShard) {
				t.Fatal(err)
			}
			return
		}
		if again := h.bytes(); !bytes.HasPrefix(b, again) || h.check() != nil || len(h.Sums) != h.Data+h.Parity || h.length() > maxVolume+1<<20 {
			t.Fatalf("%+v", h)
		}
		fixed := slices.Clone(b)
		fixed[20] ^= 1
		if _, err := ReadHeader(bytes.NewReader(fixed)); err == nil {
			t.Fatal("two headers with one digest")
		}
	})
}
