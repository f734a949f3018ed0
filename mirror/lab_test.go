package mirror

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// lab is an outside and an inside with a folder between them that plays the medium.
type lab struct {
	t      testing.TB
	dir    string
	now    time.Time
	key    crypto.Signer
	vkey   string
	out    *Exporter
	in     *Mirror
	outDB  store.DB
	inDB   store.DB
	medium string
	ec     ExporterConfig
	mc     Config

	filesBase string // folder of the mirror if not <dir>/in
}

const labStream = "outside"

func labKey(n byte) ed25519.PrivateKey {
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{n}, ed25519.SeedSize))
}

func newLab(t testing.TB, logs ...LogConfig) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC), key: labKey(1)}
	var err error
	if l.vkey, err = parcel.VerifierKey("exporter.outside", l.key.Public()); err != nil {
		t.Fatal(err)
	}
	l.medium = l.sub("medium")
	l.outDB, l.inDB = newDB(t, filepath.Join(l.dir, "out.db")), newDB(t, filepath.Join(l.dir, "in.db"))
	now := func() time.Time { return l.now }
	l.ec = ExporterConfig{DB: l.outDB, Dir: filepath.Join(l.dir, "out"), Stream: labStream, Name: "exporter.outside", Signer: l.key, Logs: logs, Now: now}
	l.mc = Config{DB: l.inDB, Dir: filepath.Join(l.dir, "in"), Stream: labStream, Exporters: []string{l.vkey}, Logs: logs, Now: now, Signer: labKey(9), Name: "inside"}
	l.reopen()
	return l
}

func newDB(t testing.TB, path string) store.DB {
	t.Helper()
	db, err := bolt.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

func (l *lab) sub(name string) string {
	p := filepath.Join(l.dir, name)
	if err := os.MkdirAll(p, 0o755); err != nil {
		l.t.Fatal(err)
	}
	return p
}

// reopen opens both sides from their configurations.
func (l *lab) reopen() {
	l.t.Helper()
	var err error
	if l.out, err = OpenExporter(l.ec); err != nil {
		l.t.Fatal(err)
	}
	if l.in, err = Open(l.mc); err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) pull() {
	l.t.Helper()
	if r, err := l.out.Pull(context.Background()); err != nil {
		l.t.Fatalf("pull: %v (%+v)", err, r)
	}
}

// export packs a parcel onto the medium and returns its volumes.
func (l *lab) export(volume int64) []string {
	l.t.Helper()
	p, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium, VolumeSize: volume})
	if err != nil {
		l.t.Fatalf("export: %v", err)
	}
	var out []string
	for _, f := range p.Files {
		out = append(out, filepath.Join(l.medium, f))
	}
	return out
}

func (l *lab) load(files []string) Report {
	l.t.Helper()
	r, err := l.in.Import(context.Background(), files)
	if err != nil {
		l.t.Fatalf("import: %v", err)
	}
	return r
}

// refused imports files that must be refused with an exit code, and nothing of the mirrored state may move.
func (l *lab) refused(code int, files ...string) error {
	l.t.Helper()
	before := l.fingerprint()
	_, err := l.in.Import(context.Background(), files)
	if ExitCode(err) != code {
		l.t.Fatalf("exit code %d instead of %d: %v", ExitCode(err), code, err)
	}
	if after := l.fingerprint(); after != before {
		l.t.Fatalf("a refused import (%v) moved the state", err)
	}
	return err
}

// fingerprint digests everything readers can see: all state in the database but the record of refusals and the import under
// way, and every file but those staged for it.
func (l *lab) fingerprint() string {
	l.t.Helper()
	h := sha256.New()
	err := l.inDB.View(func(tx store.Tx) error {
		return tx.Scan(nil, nil, func(k, v []byte) bool {
			if !strings.HasPrefix(string(k), keyIncident) && string(k) != keyPending {
				fmt.Fprintf(h, "%q=%q\n", k, v)
			}
			return true
		})
	})
	if err != nil {
		l.t.Fatal(err)
	}
	l.files(func(name string, b []byte) { fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b)) })
	return hex.EncodeToString(h.Sum(nil))
}

// content digests what an import brought: heads without local times, and all files.
func (l *lab) content() string {
	l.t.Helper()
	h := sha256.New()
	heads, err := readHeads(l.inDB)
	if err != nil {
		l.t.Fatal(err)
	}
	origins, _ := l.in.Origins()
	for _, o := range origins {
		x := heads[o]
		fmt.Fprintf(h, "%q %d %s %q %d\n", o, x.Size, x.Root, x.Note, x.Sequence)
	}
	s, err := l.in.snapshot()
	if err != nil {
		l.t.Fatal(err)
	}
	fmt.Fprintf(h, "%d %s %v\n", s.stream.Sequence, s.stream.Digest, s.pending == nil)
	vouched, err := l.in.Images()
	if err != nil {
		l.t.Fatal(err)
	}
	text, _ := json.Marshal(vouched)
	fmt.Fprintf(h, "%s\n", text)
	l.files(func(name string, b []byte) { fmt.Fprintf(h, "%s %x\n", name, sha256.Sum256(b)) })
	return hex.EncodeToString(h.Sum(nil))
}

func (l *lab) files(fn func(name string, b []byte)) {
	base := cmp.Or(l.filesBase, filepath.Join(l.dir, "in"))
	err := filepath.WalkDir(base, func(p string, d fs.DirEntry, err error) error {
		name, _ := filepath.Rel(base, p)
		if err != nil || d.IsDir() || name == "lock" || strings.HasPrefix(name, "staging") {
			return err
		}
		b, err := os.ReadFile(p)
		fn(name, b)
		return err
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

// flipBit copies a file with one bit flipped near an offset from its end.
func (l *lab) flipBit(path string, fromEnd int) string {
	l.t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		l.t.Fatal(err)
	}
	b[len(b)-fromEnd] ^= 1
	out := filepath.Join(l.sub("flipped"), filepath.Base(path))
	if err := os.WriteFile(out, b, 0o644); err != nil {
		l.t.Fatal(err)
	}
	return out
}

// makeLog makes a generated log outside any lab.
func makeLog(t testing.TB, c generate.Config) (*generate.Log, LogConfig) {
	t.Helper()
	g, err := generate.Write(context.Background(), filepath.Join(t.TempDir(), "log"), c)
	if err != nil {
		t.Fatal(err)
	}
	if err := generate.Rewind(g.Dir, c.Sizes[0]); err != nil {
		t.Fatal(err)
	}
	return g, LogConfig{Origin: g.Origin, VKey: g.VKey, Source: g.Dir}
}

func show(t testing.TB, g *generate.Log, size uint64) {
	t.Helper()
	if err := generate.Rewind(g.Dir, size); err != nil {
		t.Fatal(err)
	}
}

// publicData finds the real log data these tests read.
func publicData(t testing.TB, folder string) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "shared", "public-log-data")
	}
	dir = filepath.Join(dir, folder)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("public log data absent: %v (set REDOUBT_PUBLIC_LOG_DATA)", err)
	}
	return dir
}

// serverlessLog rebuilds the real small log as a tiled directory from its entries, publishing each real checkpoint in turn.
func serverlessLog(t testing.TB) (dir string, c LogConfig, sizes []uint64) {
	t.Helper()
	data := publicData(t, "serverless-test-log")
	key, err := os.ReadFile(filepath.Join(data, "KEY.txt"))
	if err != nil {
		t.Fatal(err)
	}
	notes := make(map[uint64][]byte)
	names, _ := filepath.Glob(filepath.Join(data, "checkpoints", "*"))
	for _, n := range names {
		var size uint64
		fmt.Sscanf(filepath.Base(n), "%d.", &size)
		if notes[size], err = os.ReadFile(n); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, size)
	}
	if len(sizes) != 21 {
		t.Fatalf("%d checkpoints", len(sizes))
	}
	dir = filepath.Join(t.TempDir(), "serverless")
	b, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	f, err := os.Open(filepath.Join(data, "entries.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct {
			Index uint64 `json:"index"`
			Leaf  []byte `json:"leaf"`
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil || e.Index != b.Size() {
			t.Fatal(e.Index, err)
		}
		if err := b.Add(e.Leaf); err != nil {
			t.Fatal(err)
		}
		if note := notes[b.Size()]; note != nil {
			if err := b.Publish(note); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir, LogConfig{
		Origin: "github.com/AlCutter/serverless-test/log", FormerOrigins: []string{"Log Checkpoint v0"},
		VKey: strings.TrimSpace(string(key)), Source: dir,
	}, sizes
}

func readFile(t testing.TB, dir string, size uint64) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "checkpoints", fmt.Sprint(size)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// shown is the size of the newest checkpoint of a directory.
func shown(t testing.TB, dir string) (size uint64) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCheckpoint(bytes.SplitAfter(b, []byte("\n\n"))[0][:bytes.Index(b, []byte("\n\n"))+1])
	if err != nil {
		t.Fatal(err)
	}
	return c.Size
}

// setSent overwrites what an exporter believes it sent.
func (e *Exporter) setSent(stream streamState, heads ...Head) error {
	return e.c.DB.Update(func(tx store.Tx) error {
		for _, h := range heads {
			if h.Origin == "" {
				continue
			}
			if err := put(tx, keySent+h.Origin, h); err != nil {
				return err
			}
		}
		return put(tx, keyExported, stream)
	})
}

// tinyLog makes a log of entries of a few bytes with checkpoints at sizes: many tiles, little data.
func tinyLog(t testing.TB, sizes ...uint64) LogConfig {
	return signedLog(t, 4, tiles.MaxSize, sizes...)
}

// signedLog is tinyLog under another key, with other entries from forkAt on.
func signedLog(t testing.TB, key byte, forkAt uint64, sizes ...uint64) LogConfig {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "tiny")
	w, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	for _, size := range sizes {
		for w.Size() < size {
			if err := w.Add(fmt.Appendf(nil, "entry %d%s", w.Size(), strings.Repeat("!", min(1, int(w.Size()/forkAt))))); err != nil {
				t.Fatal(err)
			}
		}
		note, err := parcel.SignNote(generate.CheckpointText("log.example", size, w.Root()), "log.example", labKey(key))
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Publish(note); err != nil {
			t.Fatal(err)
		}
	}
	vkey, err := parcel.VerifierKey("log.example", labKey(key).Public())
	if err != nil {
		t.Fatal(err)
	}
	return LogConfig{Origin: "log.example", VKey: vkey, Source: dir}
}
