package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/transparency-dev/tessera"
	tlog "github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"

	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// crossing is a log on its way over the gap: one parcel of it, and how to import that anew.
type crossing struct {
	dir      string
	log      mirror.LogConfig
	key      crypto.Signer
	exporter string
	medium   string
	bytes    int64 // of the parcel
	turn     int
	took     time.Duration // of the last export
	used     time.Duration
}

// benchCross measures what an operator waits for: the parcel being made, and being proven and stored inside.
func benchCross(ctx context.Context, dir string) ([]*row, error) {
	rows, err := benchVouched()
	if err != nil || !wanted("import", "export", "again") {
		return rows, err
	}
	c, err := newCrossing(ctx, filepath.Join(dir, "cross"))
	if err != nil {
		return rows, fmt.Errorf("making a log to carry: %w", err)
	}
	for _, bench := range []func(context.Context) (*row, error){c.benchImport, c.benchExport, c.benchAgain} {
		r, err := bench(ctx)
		if r != nil {
			rows = append(rows, r)
		}
		if err != nil {
			return rows, err
		}
	}
	return rows, nil
}

func newCrossing(ctx context.Context, dir string) (*crossing, error) {
	c := &crossing{dir: dir, medium: filepath.Join(dir, "medium")}
	if err := os.MkdirAll(c.medium, 0o755); err != nil {
		return nil, err
	}
	g, err := generate.Write(ctx, filepath.Join(dir, "log"), generate.Config{Seed: 1, Origin: "log.bench.example", Sizes: []uint64{verifyLeaves}, Smallest: leafSize, Largest: leafSize})
	if err != nil {
		return nil, err
	}
	c.log = mirror.LogConfig{Origin: g.Origin, VKey: g.VKey, Source: g.Dir}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	c.key = key
	if c.exporter, err = parcel.VerifierKey("exporter.bench", key.Public()); err != nil {
		return nil, err
	}
	p, err := c.export(ctx, c.medium)
	c.bytes = p.Bytes
	return c, err
}

// export packs the log into out, from a collection that is made once.
func (c *crossing) export(ctx context.Context, out string) (mirror.Packed, error) {
	c.turn++
	path := filepath.Join(c.dir, fmt.Sprintf("out%d.db", c.turn))
	db, err := bolt.Create(path)
	if err != nil {
		return mirror.Packed{}, err
	}
	defer db.Close()
	e, err := mirror.OpenExporter(mirror.ExporterConfig{DB: db, Dir: filepath.Join(c.dir, "out"), Stream: "bench", Name: "exporter.bench", Signer: c.key, Logs: []mirror.LogConfig{c.log}})
	if err != nil {
		return mirror.Packed{}, err
	}
	defer e.Close()
	if _, err := e.Pull(ctx); err != nil { // what lies there is proven again, not copied again
		return mirror.Packed{}, err
	}
	start, cpu := time.Now(), selfCPU()
	p, err := e.Export(ctx, mirror.ExportOptions{Out: out})
	c.took, c.used = time.Since(start), selfCPU()-cpu
	return p, err
}

// benchImport compares an import with what tessera calls a migration: both take a log of others, prove it, and keep it durably. Ours
// reads a signed and compressed parcel; the peer reads the source's files as they are.
func (c *crossing) benchImport(ctx context.Context) (*row, error) {
	if !wanted("import") {
		return nil, nil
	}
	result1 := func(took, cpu time.Duration) result {
		return result{rate: verifyLeaves / took.Seconds(), cpu: float64(cpu.Microseconds()) / verifyLeaves}
	}
	ours := &side{cpu: selfCPU, run: func() (result, error) {
		m, done, err := c.mirror()
		if err != nil {
			return result{}, err
		}
		defer done()
		start, cpu := time.Now(), selfCPU()
		_, err = m.Import(ctx, []string{c.medium})
		r := result1(time.Since(start), selfCPU()-cpu)
		if h, herr := m.Head(c.log.Origin); err == nil && (herr != nil || h.Size != verifyLeaves) {
			err = errors.Join(errors.New("not all of it was imported"), herr)
		}
		return r, err
	}}
	var used time.Duration
	theirs := &side{cpu: func() time.Duration { return used }, own: selfCPU, run: func() (result, error) {
		c.turn++
		target := filepath.Join(c.dir, fmt.Sprintf("peer%d", c.turn))
		defer os.RemoveAll(target)
		start := time.Now()
		cmd := exec.CommandContext(ctx, "/proc/self/exe", migrateArg, c.log.Source, target)
		said, err := cmd.CombinedOutput()
		took := time.Since(start)
		if err != nil {
			return result{}, fmt.Errorf("%w: %.200s", err, said)
		}
		cpu := cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
		used += cpu
		return result1(took, cpu), nil
	}}
	r := &row{name: "import (verify and store), leaves", clients: 1, peer: "tessera v1.0.4 POSIX MigrationTarget, from files"}
	return r, turns(r, *rounds, *step, ours, theirs)
}

// mirror opens an inside that holds nothing yet.
func (c *crossing) mirror() (*mirror.Mirror, func(), error) {
	c.turn++
	dir := filepath.Join(c.dir, fmt.Sprintf("in%d", c.turn))
	db, err := bolt.Create(dir + ".db")
	if err != nil {
		return nil, nil, err
	}
	l := c.log
	l.Source = ""
	m, err := mirror.Open(mirror.Config{DB: db, Dir: dir, Stream: "bench", Exporters: []string{c.exporter}, Logs: []mirror.LogConfig{l}})
	if err != nil {
		db.Close()
		return nil, nil, err
	}
	return m, func() { m.Close(); db.Close(); os.RemoveAll(dir); os.Remove(dir + ".db") }, nil
}

// benchExport measures the making of a parcel, in megabytes of parcel.
func (c *crossing) benchExport(ctx context.Context) (*row, error) {
	if !wanted("export") {
		return nil, nil
	}
	ours := &side{cpu: selfCPU, run: func() (result, error) {
		out := filepath.Join(c.dir, "again")
		if err := os.Mkdir(out, 0o755); err != nil {
			return result{}, err
		}
		defer os.RemoveAll(out)
		_, err := c.export(ctx, out)
		mb := float64(verifyLeaves) * leafSize / 1e6
		return result{rate: mb / c.took.Seconds(), cpu: float64(c.used.Microseconds()) / mb}, err
	}}
	r := &row{name: "export, MB of entries", clients: 1, peer: fmt.Sprintf("none; the parcel has %.0f MB", float64(c.bytes)/1e6)}
	return r, turns(r, *rounds, *step, ours, nil)
}

// benchAgain imports a parcel that is known.
func (c *crossing) benchAgain(ctx context.Context) (*row, error) {
	if !wanted("again") {
		return nil, nil
	}
	m, done, err := c.mirror()
	if err != nil {
		return nil, err
	}
	defer done()
	if _, err := m.Import(ctx, []string{c.medium}); err != nil {
		return nil, err
	}
	r := &row{name: "import of a known parcel", clients: 1, peer: "none"}
	return r, turns(r, *rounds, *step, &side{cpu: selfCPU, do: func() error { _, err := m.Import(ctx, []string{c.medium}); return err }}, nil)
}

// benchVouched measures what is paid on top, once an entry, where entries of Rekor v1 are carried: the log's signature over time and
// index is verified outside and inside.
func benchVouched() ([]*row, error) {
	if !wanted("vouched") {
		return nil, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	id, leaf := sha256.Sum256(spki), []byte(`{"apiVersion":"0.0.1","kind":"rekord","spec":"`+strings.Repeat("x", leafSize)+`"}`)
	digest := sha256.Sum256(rekor.TimestampPayload(leaf, 1, id, 2))
	x := entry.Extra{IntegratedTime: 1, LogID: hex.EncodeToString(id[:]), LogIndex: 2}
	if x.SignedEntryTimestamp, err = ecdsa.SignASN1(rand.Reader, key, digest[:]); err != nil {
		return nil, err
	}
	r := &row{name: "entry timestamp of Rekor v1, verified", clients: 1, peer: "bare P-256 verification"}
	ours := &side{cpu: selfCPU, do: func() error { return x.Verify(leaf, key.Public()) }}
	bare := &side{cpu: selfCPU, do: func() error {
		if !ecdsa.VerifyASN1(&key.PublicKey, digest[:], x.SignedEntryTimestamp) {
			return errors.New("not verified")
		}
		return nil
	}}
	return []*row{r}, turns(r, *rounds, *step, ours, bare)
}

// migrateArg makes this program the peer of benchImport, in a process of its own.
const migrateArg = "migrate"

// migrate is tessera's migration of a log in a directory to its POSIX storage, with the worker count of its own tool.
func migrate(source, target string) int {
	ctx := context.Background()
	err := func() error {
		note, err := tlog.FileFetcher{Root: source}.ReadCheckpoint(ctx)
		if err != nil {
			return err
		}
		at, err := mirror.ParseCheckpoint(note[:strings.Index(string(note), "\n\n")+1])
		if err != nil {
			return err
		}
		driver, err := posix.New(ctx, posix.Config{Path: target})
		if err != nil {
			return err
		}
		m, err := tessera.NewMigrationTarget(ctx, driver, tessera.NewMigrationOptions())
		if err != nil {
			return err
		}
		return m.Migrate(ctx, 30, at.Size, at.Root[:], tlog.FileFetcher{Root: source}.ReadEntryBundle)
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
