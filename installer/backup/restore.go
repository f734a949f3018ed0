package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// batchBytes is what one transaction of a restore holds.
const batchBytes = 32 << 20

// Restore makes dir, which is empty or not there, the state directory of a run. Everything is checked on the way, as Verify does; the
// databases get their names when all of them are whole, and the configuration file comes last, so that what was not restored to the
// end is no state directory.
func Restore(ctx context.Context, c ReadConfig, dir string) (Report, error) {
	started := time.Now()
	if c.Appliance == "" {
		return Report{}, fmt.Errorf("%w: its fingerprint must be named", ErrForeign)
	}
	r, err := openChain(&c)
	if err != nil {
		return Report{}, failure(err)
	}
	defer r.repo.close()
	if r.m.Encryption == EncryptionAge && len(c.Identities) == 0 {
		return Report{}, failure(fmt.Errorf("%w: it is sealed for %s", ErrKey, strings.Join(r.m.Recipients, ", ")))
	}
	if r.c, err = r.repo.contentsOf(r.m, r.keys); err != nil {
		return Report{}, failure(err)
	}
	w, err := newWriter(dir)
	if err != nil {
		return Report{}, failure(err)
	}
	defer w.close()
	r.to = target{record: w.record, piece: w.piece, folder: w.folder}
	if err = r.run(ctx); err == nil {
		err = w.finish(r.c.Databases)
	}
	if err != nil {
		return Report{}, failure(fmt.Errorf("restoring into %s, which is to be emptied before another try: %w", dir, writing(err)))
	}
	report := Report{Objects: r.objects, Bytes: r.bytes, Files: len(r.c.Files), Contents: true}
	report.describe(r.repo, r.m)
	report.Seconds = time.Since(started).Seconds()
	return report, nil
}

// configFile is the file that makes a directory a state directory.
const configFile = "redoubt.yaml"

// stateFile says of which format a state directory is: {"format": N, ...}. Those of the first format have none.
const stateFile = "state.json"

// format is the format of what is being restored, which is not the one that new databases are given.
func (w *writer) format() (uint64, error) {
	state := struct {
		Format uint64 `json:"format"`
	}{store.FirstFormat}
	if w.state == nil {
		return state.Format, nil
	}
	if err := json.Unmarshal(w.state, &state); err != nil {
		return 0, fmt.Errorf("%w: %s: %w", ErrDamaged, stateFile, err)
	}
	if state.Format > store.Format {
		return 0, fmt.Errorf("%w: it is of format %d, this program knows formats up to %d", store.ErrNewer, state.Format, store.Format)
	}
	return state.Format, nil
}

// writer is the directory being restored.
type writer struct {
	root   *os.Root
	dir    string
	dbs    map[string]*bolt.DB
	batch  []pair
	of     string // the database of the batch
	bytes  int
	done   chan error // of the commit under way
	open   *os.File   // a file of several pieces
	config []byte
	state  []byte
	mode   fs.FileMode
	modes  []*file // of folders
}

type pair struct{ k, v []byte }

// emptyDir makes dir, unless it is there and empty.
func emptyDir(dir string) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range names {
		if e.Name() != "lost+found" {
			return fmt.Errorf("%s: %w: it holds %s", dir, ErrNotEmpty, e.Name())
		}
	}
	return nil
}

func newWriter(dir string) (*writer, error) {
	if err := emptyDir(dir); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	if err := root.MkdirAll("db", 0o700); err != nil {
		return nil, err
	}
	return &writer{root: root, dir: dir, dbs: map[string]*bolt.DB{}}, nil
}

// partName is what a database is called until all are whole.
func partName(name string) string { return ".restored-" + name }

func (w *writer) record(name string, k, v []byte) error {
	if w.of != name || w.bytes >= batchBytes {
		if err := w.commit(); err != nil {
			return err
		}
		w.of = name
	}
	w.batch = append(w.batch, pair{k, v})
	w.bytes += len(k) + len(v)
	return nil
}

// database is a database being restored; one without a record is made too.
func (w *writer) database(name string) (*bolt.DB, error) {
	if db := w.dbs[name]; db != nil {
		return db, nil
	}
	db, err := bolt.Create(filepath.Join(w.dir, "db", partName(name)))
	if err != nil {
		return nil, err
	}
	db.Fill() // finish flushes everything before the names count
	w.dbs[name] = db
	return db, nil
}

// commit begins to write the batch, in the order of its keys, when the one before is written.
func (w *writer) commit() error {
	if w.of == "" {
		return nil
	}
	db, err := w.database(w.of)
	if err != nil {
		return err
	}
	if err := w.settled(); err != nil {
		return err
	}
	batch := w.batch
	w.batch, w.bytes, w.done = nil, 0, make(chan error, 1)
	go func() {
		slices.SortFunc(batch, func(a, b pair) int { return bytes.Compare(a.k, b.k) })
		w.done <- db.Update(func(tx store.Tx) error {
			for _, p := range batch {
				if err := tx.Put(p.k, p.v); err != nil {
					return err
				}
			}
			return nil
		})
	}()
	return nil
}

// settled waits for the commit under way.
func (w *writer) settled() error {
	if w.done == nil {
		return nil
	}
	err := <-w.done
	w.done = nil
	return err
}

func (w *writer) folder(f *file) error {
	w.modes = append(w.modes, f)
	return w.root.MkdirAll(f.Path, 0o700)
}

func (w *writer) piece(f *file, data []byte, first, last bool) (err error) {
	if f.Path == configFile {
		w.config, w.mode = append(w.config, data...), f.Mode
		return nil
	}
	if f.Path == stateFile {
		w.state = append(w.state, data...)
	}
	if first {
		if folder := filepath.Dir(f.Path); folder != "." {
			if err := w.root.MkdirAll(folder, 0o700); err != nil {
				return err
			}
		}
		if w.open, err = w.root.OpenFile(f.Path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode.Perm()); err != nil {
			return err
		}
	}
	if _, err := w.open.Write(data); err != nil {
		return err
	}
	if !last {
		return nil
	}
	err = errors.Join(w.open.Chmod(f.Mode.Perm()), w.open.Close())
	w.open = nil
	return err
}

// finish makes everything durable, then gives the databases and last the configuration their names.
func (w *writer) finish(databases []*database) error {
	if err := errors.Join(w.commit(), w.settled()); err != nil {
		return err
	}
	for _, d := range databases {
		if _, err := w.database(d.Name); err != nil {
			return err
		}
	}
	format, err := w.format()
	if err != nil {
		return err
	}
	for name, db := range w.dbs {
		err := errors.Join(db.Migrate(format, func(store.Tx) error { return nil }), db.Close())
		delete(w.dbs, name)
		if err == nil {
			err = w.root.Remove("db/" + partName(name) + "-journal") // closing emptied it
		}
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err == nil {
			err = w.root.Rename("db/"+partName(name), "db/"+name)
		}
		if err != nil {
			return err
		}
	}
	slices.SortFunc(w.modes, func(a, b *file) int { return strings.Compare(b.Path, a.Path) }) // what is inside comes first
	for _, f := range w.modes {
		if err := w.root.Chmod(f.Path, f.Mode.Perm()); err != nil {
			return err
		}
	}
	if err := w.sync(); err != nil {
		return err
	}
	if w.config == nil {
		return fmt.Errorf("%w: it holds no %s", ErrDamaged, configFile)
	}
	return place(w.dir, configFile, bytes.NewReader(w.config), w.mode.Perm())
}

func (w *writer) sync() error {
	d, err := w.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("flushing %s: %w", w.dir, err)
	}
	return nil
}

func (w *writer) close() {
	w.settled()
	for _, db := range w.dbs {
		db.Close()
	}
	if w.open != nil {
		w.open.Close()
	}
	w.root.Close()
}
