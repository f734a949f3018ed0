package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// scaled is a lab whose every act runs in a process of its own, so that what it cost in memory can be seen.
type scaled struct {
	Dir, VKey string
	Logs      []LogConfig
	Act       string   // "pull", "export", "import", "reconcile", "prove", or "hold"
	Prove     []uint64 // leaves that "prove" proves inside

	t testing.TB
}

// spent is what an act cost.
type spent struct {
	Wall, CPU time.Duration
	Peak      int64 // bytes resident at most, VmHWM
}

func newScaled(t testing.TB, logs ...LogConfig) *scaled {
	t.Helper()
	s := &scaled{t: t, Dir: t.TempDir(), Logs: logs}
	var err error
	if s.VKey, err = parcel.VerifierKey("exporter.outside", labKey(1).Public()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"out.db", "in.db"} {
		db, err := bolt.Create(filepath.Join(s.Dir, name))
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(s.Dir, "medium"), 0o755); err != nil {
		t.Fatal(err)
	}
	return s
}

// run runs an act over entries entries and prints what it cost. It may hold at most bound bytes.
func (s *scaled) run(act string, entries uint64, bound int64, env ...string) spent {
	s.t.Helper()
	out, said, err := s.start(act, env...)
	if err != nil {
		s.t.Fatalf("%s: %v: %s", act, err, said)
	}
	rate := ""
	if entries > 0 {
		rate = fmt.Sprintf(", %8.0f entries/s, %8.0f entries/CPU-s", float64(entries)/out.Wall.Seconds(), float64(entries)/out.CPU.Seconds())
	}
	s.t.Logf("%-10s %7.1f s wall, %6.1f s CPU, %4d MiB at most%s%s", act, out.Wall.Seconds(), out.CPU.Seconds(), out.Peak>>20, rate, strings.TrimRight("; "+said, "; \n"))
	if out.Peak > bound {
		s.t.Errorf("%s held %d MiB, allowed are %d", act, out.Peak>>20, bound>>20)
	}
	return out
}

func (s *scaled) start(act string, env ...string) (out spent, said string, err error) {
	s.t.Helper()
	spec := *s
	spec.Act = act
	b, err := json.Marshal(spec)
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Stdin = bytes.NewReader(b)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "GOMEMLIMIT=") }), append(env, "REDOUBT_TEST_SCALE=1")...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	answer, err := cmd.Output()
	if err == nil {
		err = json.Unmarshal(answer, &out)
	}
	return out, stderr.String(), err
}

// actScaled is the process of an act: it reads a scaled from standard input and writes a spent.
func actScaled() int {
	var s scaled
	start := time.Now()
	err := json.NewDecoder(os.Stdin).Decode(&s)
	if err == nil {
		err = s.act(context.Background())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	json.NewEncoder(os.Stdout).Encode(spent{Wall: time.Since(start), CPU: cpuTime(), Peak: peak()})
	return 0
}

// peak is the most memory this process had resident (proc(5), VmHWM of /proc/self/status).
func peak() (bytes int64) {
	b, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	fmt.Sscan(rest, &bytes)
	return bytes << 10
}

func (s *scaled) act(ctx context.Context) error {
	name := "in"
	if slices.Contains([]string{"pull", "export", "hold"}, s.Act) {
		name = "out"
	}
	db, err := bolt.Open(filepath.Join(s.Dir, name+".db"))
	if err != nil {
		return err
	}
	defer db.Close()
	dir, medium := filepath.Join(s.Dir, name), filepath.Join(s.Dir, "medium")
	if name == "out" {
		e, err := OpenExporter(ExporterConfig{DB: db, Dir: dir, Stream: labStream, Name: "exporter.outside", Signer: labKey(1), Logs: s.Logs})
		if err != nil {
			return err
		}
		defer e.Close()
		switch s.Act {
		case "pull":
			_, err = e.Pull(ctx)
		case "export":
			var p Packed
			if p, err = e.Export(ctx, ExportOptions{Out: medium, VolumeSize: 700_000_000}); err == nil {
				fmt.Fprintf(os.Stderr, "%d bytes in %d volumes", p.Bytes, len(p.Files))
			}
		default:
			err = s.hold(ctx, e)
		}
		return err
	}
	m, err := Open(Config{DB: db, Dir: dir, Stream: labStream, Exporters: []string{s.VKey}, Logs: s.Logs})
	if err != nil {
		return err
	}
	defer m.Close()
	switch s.Act {
	case "import":
		_, err = m.Import(ctx, []string{medium})
	case "reconcile":
		var r *ReconcileReport
		if r, err = m.Reconcile(ctx); err == nil {
			err = r.Err()
			fmt.Fprintf(os.Stderr, "%d leaves and %d tiles hashed, %d heads reproduced", r.Logs[0].Leaves, r.Logs[0].Tiles, r.Logs[0].Heads)
		}
	case "prove":
		for _, i := range s.Prove {
			if err = errors.Join(err, provesInside(ctx, m, s.Logs[0].Origin, i)); err != nil {
				break
			}
		}
		fmt.Fprintf(os.Stderr, "%d entries proven", len(s.Prove))
	}
	return err
}

// hold is the negative control: it reads what a pull at scope spine reads, and the level below each tile once, and lets go of none.
func (s *scaled) hold(ctx context.Context, e *Exporter) error {
	log := e.logs[s.Logs[0].Origin]
	src, err := OpenSource(log.Source, "", nil)
	if err != nil {
		return err
	}
	note, err := src.Checkpoint(ctx)
	if err != nil {
		return err
	}
	to, err := log.open(note)
	if err != nil {
		return err
	}
	tree := tiles.NewTree(to.Size, to.Root, func(ctx context.Context, t tiles.Tile) ([]byte, error) { return src.Tile(ctx, t, nil) })
	for i := range tiles.Count(2, to.Size) {
		if _, err := tree.Tile(ctx, 1, i); err != nil {
			return err
		}
		if _, err := tree.Tile(ctx, 0, i*tiles.Width); err != nil {
			return err
		}
	}
	fmt.Fprintf(os.Stderr, "%d tiles held", tree.Held())
	return nil
}

// provesInside takes an entry and its proof from the mirror and has a verifier that is not ours look at both.
func provesInside(ctx context.Context, m *Mirror, origin string, index uint64) error {
	r, err := m.Record(origin, index)
	if err != nil {
		return err
	}
	leaf, list, head, err := m.Inclusion(ctx, origin, index)
	if err != nil {
		return err
	}
	if leaf != tiles.LeafHash(r.Leaf) {
		return fmt.Errorf("entry %d is not the leaf that is proven", index)
	}
	return verifyElsewhere(index, head, leaf, list)
}

// verifyElsewhere verifies an inclusion proof with code that is not ours.
func verifyElsewhere(index uint64, head Head, leaf tiles.Hash, list []tiles.Hash) error {
	octets := make([][]byte, len(list))
	for i := range list {
		octets[i] = list[i][:]
	}
	return proof.VerifyInclusion(rfc6962.DefaultHasher, index, head.Size, leaf[:], octets, head.Root[:])
}

// picks are n different numbers below size, always the same.
func picks(n int, size uint64) (out []uint64) {
	r := rand.New(rand.NewChaCha8([32]byte{5}))
	for len(out) < n {
		for len(out) < n {
			out = append(out, r.Uint64N(size))
		}
		out = slices.Compact(slices.Sorted(slices.Values(out)))
	}
	return out
}

// carryAll pulls, exports, imports, proves and reconciles a generated log of n entries of so many bytes at scope full.
func carryAll(t *testing.T, n uint64, smallest, largest int, bound int64) {
	g, c := makeLog(t, generate.Config{Seed: n, Origin: "log.example", Sizes: []uint64{n}, Smallest: smallest, Largest: largest})
	t.Logf("%d entries of %d to %d bytes, %d bytes in all", n, smallest, largest, g.Bytes)
	s := newScaled(t, c)
	s.Prove = picks(1000, n)
	for _, act := range []string{"pull", "export", "import", "prove", "reconcile"} {
		entries := n
		if act == "prove" {
			entries = uint64(len(s.Prove))
		}
		s.run(act, entries, bound)
	}
}

// fullBound is what a transfer at scope full may hold, whatever the log's size.
const fullBound = 256 << 20

// TestScaleFull is TestTortureScale in small.
func TestScaleFull(t *testing.T) { carryAll(t, 20_000, 100, 200, fullBound) }

// TestTortureScale carries ten million small entries and a million of 1 to 2 KiB, and prints what each step cost.
func TestTortureScale(t *testing.T) {
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("set REDOUBT_TORTURE to carry ten million entries (needs 12 GB of disk)")
	}
	t.Run("10 M of 100 to 200 bytes", func(t *testing.T) { carryAll(t, 10_000_000, 100, 200, fullBound) })
	t.Run("1 M of 1 to 2 KiB", func(t *testing.T) { carryAll(t, 1_000_000, 1024, 2048, fullBound) })
}

// vastSize is about the size of the public signature log.
const vastSize = 1_500_000_000

// vastBound is what a transfer of a vast log may hold at the scopes sparse and spine.
const vastBound = 256 << 20

// serveVast serves a vast log whose newest checkpoint is at shown, and counts the files that were read.
func serveVast(t testing.TB, v *generate.Vast, shown, files *atomic.Uint64) string {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := v.File(strings.TrimPrefix(r.URL.Path, "/"), shown.Load())
		if errors.Is(err, fs.ErrNotExist) {
			http.NotFound(w, r)
			return
		}
		files.Add(1)
		w.Write(b)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

// carryVast carries n records out of a log of two sizes, a part with each transfer, or its spine, and returns the lab.
func carryVast(t *testing.T, scope string, sizes []uint64, n int) *scaled {
	c := generate.Config{Seed: 8, Origin: "vast.example", Sizes: sizes, Smallest: 1000, Largest: 3000}
	records := picks(n, sizes[1])
	vkey, err := parcel.VerifierKey(c.Origin, c.Key().Public())
	if err != nil {
		t.Fatal(err)
	}
	var shown, files atomic.Uint64
	lc := LogConfig{Origin: c.Origin, VKey: vkey, Scope: scope, Source: serveVast(t, generate.NewVast(c, records), &shown, &files)}
	if scope == parcel.ScopeSparse {
		lc.Records = records
	}
	s := newScaled(t, lc)
	for _, size := range sizes {
		shown.Store(size)
		t.Logf("%s of %d leaves", scope, size)
		s.run("pull", 0, vastBound)
		t.Logf("%d files read in all", files.Load())
		s.run("export", 0, vastBound)
		s.run("import", 0, vastBound)
	}
	if scope == parcel.ScopeSparse {
		s.Prove = records
		s.run("prove", uint64(n), vastBound)
	}
	s.run("reconcile", 0, vastBound)
	return s
}

// TestScaleSparse carries records out of a log of 1.5 billion leaves, and proves each inside.
func TestScaleSparse(t *testing.T) {
	carryVast(t, parcel.ScopeSparse, []uint64{vastSize - 98_765_432, vastSize}, 30)
}

// TestScaleSpine carries the spine of a smaller log; see TestTortureVast.
func TestScaleSpine(t *testing.T) {
	carryVast(t, parcel.ScopeSpine, []uint64{1_000_000, 9_000_000}, 10)
}

// TestTortureVast carries 1,000 records and then the spine of a log of 1.5 billion leaves, within 256 MiB of memory each step; what
// holds all it reads does not stay within them, whatever limit its garbage collector is given.
func TestTortureVast(t *testing.T) {
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("set REDOUBT_TORTURE to carry the spine of a log of 1.5 billion leaves")
	}
	sizes := []uint64{vastSize - 98_765_432, vastSize}
	t.Run("sparse", func(t *testing.T) { carryVast(t, parcel.ScopeSparse, sizes, 1000) })
	t.Run("spine", func(t *testing.T) {
		s := carryVast(t, parcel.ScopeSpine, sizes, 1000)
		held, said, err := s.start("hold", "GOMEMLIMIT=256MiB")
		if err != nil {
			t.Fatal(err, said)
		}
		t.Logf("control: %s, %d MiB at most", said, held.Peak>>20)
		if held.Peak <= vastBound {
			t.Error("the bound does not see a process that holds everything")
		}
	})
}
