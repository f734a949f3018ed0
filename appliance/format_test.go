package main

import (
	"archive/tar"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// firstFormat unpacks the state directory that a program of the first format left, with one signature in it.
func firstFormat(t *testing.T) layout {
	t.Helper()
	f, err := os.Open("testdata/state-1.tar.zst")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	unpacked, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer unpacked.Close()
	to := t.TempDir()
	for archive := tar.NewReader(unpacked); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return layout{filepath.Join(to, "state")}
		}
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(to, h.Name)
		if h.Typeflag == tar.TypeDir {
			err = os.Mkdir(path, 0o700)
		} else {
			var data []byte
			if data, err = io.ReadAll(archive); err == nil {
				err = os.WriteFile(path, data, fs.FileMode(h.Mode))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func stateOf(t *testing.T, dir layout) stateResult {
	t.Helper()
	r, err := showState(dir)
	must(t, err)
	return r
}

// TestFirstFormat: what a program without numbers left is refused by verbs, brought up by serve, and whole; the audit log says so.
func TestFirstFormat(t *testing.T) {
	dir := firstFormat(t)
	if code, _ := redoubt(t, dir, "", "log", "fsck"); code != cmdline.ExitLocal {
		t.Errorf("a verb that is not asked to migrate: %d", code)
	}
	if err := migrateToServe(t.Context(), dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(dir.config())
	if err != nil {
		t.Fatal(err)
	}
	in, err := openInstance(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // once
		if err := in.recordMoves(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	in.close()
	if code, out := redoubt(t, dir, "", "log", "fsck"); code != 0 {
		t.Errorf("fsck: %d %s", code, out)
	}
	if _, out := redoubt(t, dir, "", "audit", "list"); strings.Count(string(out), "state.migrate") != 1 {
		t.Errorf("%s", out)
	}
	if _, out := redoubt(t, dir, "", "log", "get", "0", "--log", "rekor"); len(out) == 0 {
		if _, out = redoubt(t, dir, "", "log", "get", "0", "--log", "rekor-2"); len(out) == 0 {
			t.Error("the entry is gone")
		}
	}
}

// TestMigrationKilled ends a migration at each of its points, both ways: what is there then is taken up by the next run, and not by
// anything else.
func TestMigrationKilled(t *testing.T) {
	dir := firstFormat(t)
	for _, point := range []string{"migrated a step", "numbered the directory"} {
		for _, to := range []string{"2", "1"} {
			if code, _ := redoubt(t, dir, point, "state", "migrate", "--to", to); code != exitDied {
				t.Fatalf("%s %s: it did not die: %d", point, to, code)
			}
			r := stateOf(t, dir)
			for name, n := range r.Databases {
				if n < r.Format {
					t.Errorf("%s %s: %s is of format %d below that of the directory, %d", point, to, name, n, r.Format)
				}
			}
			if point == "migrated a step" && to == "2" { // control: a directory that claims what its databases are not
				must(t, dir.writeState(stateRecord{Format: 2}))
				if code, _ := redoubt(t, dir, "", "log", "info"); code != cmdline.ExitLocal {
					t.Errorf("half a migration is used: %d", code)
				}
				must(t, dir.writeState(stateRecord{Format: 1}))
			}
			if code, out := redoubt(t, dir, "", "state", "migrate", "--to", to); code != 0 {
				t.Fatalf("%s %s: the second run: %d %s", point, to, code, out)
			}
			r = stateOf(t, dir)
			for name, n := range r.Databases {
				if n != r.Format || len(r.Databases) != 3 {
					t.Errorf("%s is of format %d, the directory of %d", name, n, r.Format)
				}
			}
			if to == "2" && r.Format != 2 || to == "1" && r.Format != 1 {
				t.Fatalf("%+v", r)
			}
		}
	}
	if code, out := redoubt(t, dir, "", "state", "migrate"); code != 0 {
		t.Fatalf("%d %s", code, out)
	}
	if code, out := redoubt(t, dir, "", "log", "fsck"); code != 0 {
		t.Errorf("fsck: %d %s", code, out)
	}
}

// TestNewerState: a directory or a database that a later program wrote is touched by nothing.
func TestNewerState(t *testing.T) {
	dir := firstFormat(t)
	must(t, os.WriteFile(dir.stateFile(), []byte(`{"format": 99, "program": "9.0", "later": true}`), 0o600))
	for _, verb := range [][]string{{"serve"}, {"log", "fsck"}, {"state", "migrate"}, {"status"}} {
		if code, _ := redoubt(t, dir, "", verb...); code != cmdline.ExitLocal {
			t.Errorf("%s on a newer directory: %d", strings.Join(verb, " "), code)
		}
	}
	must(t, os.Remove(dir.stateFile()))
	must(t, migrateToServe(t.Context(), dir, slog.New(slog.DiscardHandler)))
	db, err := bolt.Open(dir.authorityDB())
	must(t, err)
	must(t, errors.Join(db.Migrate(store.Format+1, func(store.Tx) error { return nil }), db.Close()))
	if code, _ := redoubt(t, dir, "", "log", "info"); code != cmdline.ExitLocal {
		t.Errorf("a newer database: %d", code)
	}
	must(t, os.WriteFile(dir.stateFile(), []byte(`{"format": 0}`), 0o600))
	if _, err := dir.readState(); err == nil {
		t.Error("format 0 is read")
	}
}

// TestMigrationTable: there is a step for every format.
func TestMigrationTable(t *testing.T) {
	for i, m := range migrations {
		if m.to != uint64(i)+store.FirstFormat+1 {
			t.Errorf("row %d is of format %d", i, m.to)
		}
	}
	if len(migrations) != store.Format-store.FirstFormat {
		t.Errorf("%d steps to format %d", len(migrations), store.Format)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
