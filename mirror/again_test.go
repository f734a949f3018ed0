package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// TestExportAgain makes parcels again whose volumes were lost, after the collection has moved on: the same bytes, which the
// inside takes, mixed with volumes of the first making.
func TestExportAgain(t *testing.T) {
	ctx := context.Background()
	g, c := makeLog(t, smallLog)
	c2 := generate.Config{Seed: 3, Origin: "other.example", Sizes: []uint64{10, 2000}}
	o, oc := makeLog(t, c2)
	oc.Scope, oc.Records = parcel.ScopeSparse, []uint64{7}
	l := newLab(t, c, oc)
	l.pull()
	parcels := [][]string{l.export(600_000)}
	show(t, g, 700)
	show(t, o, 2000)
	l.pull()
	l.now = l.now.AddDate(0, 0, 3)
	parcels = append(parcels, l.export(600_000))
	show(t, g, 1500)
	l.pull()
	parcels = append(parcels, l.export(0))
	l.now = l.now.AddDate(0, 0, 3)
	for i, files := range parcels {
		again := l.sub(fmt.Sprint("again", i))
		made, err := l.out.ExportAgain(ctx, uint64(i+1), again)
		if err != nil || made.Sequence != uint64(i+1) || len(made.Files) != len(files) || len(made.Logs) != 2 {
			t.Fatalf("%v, %+v", err, made)
		}
		for k, f := range files {
			was, err1 := os.ReadFile(f)
			is, err2 := os.ReadFile(filepath.Join(again, made.Files[k]))
			if err1 != nil || err2 != nil || !bytes.Equal(was, is) {
				t.Fatalf("%s came out another way: %v, %v", f, err1, err2)
			}
			parcels[i][k] = filepath.Join(again, made.Files[k])
		}
	}
	l.load(slices.Concat(parcels...))
	if _, err := l.out.ExportAgain(ctx, 4, l.medium); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
	// A collection that was changed does not pass for the parcel.
	bundle := filepath.Join(l.dir, "out", "logs", "log.example", "tile", "entries", "000")
	b, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	os.WriteFile(bundle, flipped(b), 0o644)
	empty := l.sub("empty")
	if _, err := l.out.ExportAgain(ctx, 1, empty); ExitCode(err) != 31 {
		t.Fatal(err)
	}
	if left, _ := os.ReadDir(empty); len(left) != 0 {
		t.Fatal("something is left behind", left)
	}
}

// TestLostVolumesAreNamed loses a parcel between the state and the names of its volumes, as a power cut can. The next export
// says so, by number; made again, the parcel is not missing any more, and volumes that were carried away are no matter.
func TestLostVolumesAreNamed(t *testing.T) {
	ctx := context.Background()
	l, g, first, second := twoParcels(t)
	var said bytes.Buffer
	l.ec.Logger = slog.New(slog.NewTextHandler(&said, nil))
	l.reopen()
	for _, f := range second {
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	export := func() string {
		said.Reset()
		if _, err := l.out.Export(ctx, ExportOptions{Out: l.medium}); !errors.Is(err, ErrNothing) {
			t.Fatal(err)
		}
		return said.String()
	}
	if s := export(); s != "" {
		t.Fatal("carrying volumes away is worth a warning:", s)
	}
	unname(t, l, 2)
	if s := export(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, "parcel=2") || !strings.Contains(s, "--again 2") {
		t.Fatalf("a lost parcel is not named: %q", s)
	}
	if _, err := l.out.ExportAgain(ctx, 2, l.medium); err != nil {
		t.Fatal(err)
	}
	if s := export(); s != "" {
		t.Fatal(s)
	}
	show(t, g, 1500)
	l.pull()
	l.load(slices.Concat(first, second, l.export(0)))
}

// unname takes back that the volumes of a parcel were seen named, as if the process had died before.
func unname(t *testing.T, l *lab, n uint64) {
	t.Helper()
	err := l.outDB.Update(func(tx store.Tx) error {
		var s packedState
		if _, err := get(tx, packedKey(n), &s); err != nil {
			return err
		}
		s.Named = false
		return put(tx, packedKey(n), s)
	})
	if err != nil {
		t.Fatal(err)
	}
}
