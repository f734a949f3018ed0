package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/tiles"
)

// dumped is a log of n entries, how to ask it, and an empty place for its export.
func dumped(t *testing.T, n int) (grow func(int), ask func(copyArgs) (copyAnswer, error), out string) {
	t.Helper()
	from, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if err := copyState(filepath.Join(from, "state"), dir); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(layout{dir}.config())
	if err != nil {
		t.Fatal(err)
	}
	in, err := openInstance(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.close)
	l, err := in.pick("rekor")
	if err != nil {
		t.Fatal(err)
	}
	size := 0
	grow = func(n int) {
		done := make(chan error, n)
		for i := size; i < size+n; i++ {
			go func() {
				_, err := l.Add(t.Context(), fmt.Appendf(nil, `{"entry":%d}`, i), nil, nil)
				done <- err
			}()
		}
		for range n {
			if err := <-done; err != nil {
				t.Fatal(err)
			}
		}
		size += n
	}
	grow(n)
	return grow, func(a copyArgs) (copyAnswer, error) { return logCopy.run(t.Context(), in, "test", a) }, filepath.Join(t.TempDir(), "dump")
}

func export(t *testing.T, ask func(copyArgs) (copyAnswer, error), out string) logExport {
	t.Helper()
	r, err := exportLog(t.Context(), "rekor", out, ask, io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// filesBelow lists the files of an export.
func filesBelow(t *testing.T, dir string) (names []string) {
	t.Helper()
	if err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, dir+"/"))
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return names
}

func verifyDump(r logExport) error {
	_, err := mirror.VerifyCopy(context.Background(), mirror.LogConfig{Origin: r.Origin, VKey: r.VKey, Source: r.Dir}, 2)
	return badDump(err)
}

// The independent reader, golang.org/x/mod/sumdb/tlog, finds the signed root and every entry's proof in the exported files.
func TestLogExportReadByTlog(t *testing.T) {
	_, ask, out := dumped(t, 700)
	r := export(t, ask, out)
	note, err := os.ReadFile(filepath.Join(out, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	rootLine, err := base64.StdEncoding.DecodeString(strings.Split(string(note), "\n")[2])
	if err != nil || hex.EncodeToString(rootLine) != r.RootHash || r.Size != 700 {
		t.Fatal(r, rootLine, err)
	}
	tree := tlog.Tree{N: 700, Hash: tlog.Hash(rootLine)}
	reader := tlog.TileHashReader(tree, tlogFiles{out})
	if root, err := tlog.TreeHash(tree.N, reader); err != nil || root != tree.Hash {
		t.Fatal(root, err)
	}
	n := int64(0)
	for index := range uint64(3) {
		bundle, ok := tiles.At(tiles.Entries, index, 700)
		data, err := os.ReadFile(filepath.Join(out, bundle.Path()))
		if err != nil || !ok {
			t.Fatal(err, ok)
		}
		if err := tiles.SplitBundle(data, bundle.Width, func(_ int, entry []byte) error {
			proof, err := tlog.ProveRecord(tree.N, n, reader)
			if err == nil {
				err = tlog.CheckRecord(proof, tree.N, tree.Hash, n, tlog.RecordHash(entry))
			}
			n++
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if files := filesBelow(t, out); n != 700 || uint64(len(files)) != r.Files || countTiles(700) != r.Files {
		t.Fatal(n, r.Files, files)
	}
}

// The line the export printed stands for the key, as it is or in a file; another log's line does not.
func TestLogVerifyByLine(t *testing.T) {
	_, ask, out := dumped(t, 5)
	r := export(t, ask, out)
	file := filepath.Join(t.TempDir(), "rekor.vkey")
	if err := os.WriteFile(file, []byte(r.VKey+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	other, err := ask(copyArgs{Log: "audit"})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]int{r.VKey: cmdline.ExitOK, file: cmdline.ExitOK, other.VKey: exitBadProof, r.VKey + "x": cmdline.ExitLocal} {
		var stdout, stderr bytes.Buffer
		if code := run([]string{"redoubt", "log", "verify", out, "--key", key}, &stdout, &stderr); code != want || (want == cmdline.ExitOK) != strings.Contains(stdout.String(), r.RootHash) {
			t.Errorf("--key %s: code %d, %s%s", key, code, &stdout, &stderr)
		}
	}
}

// tlogFiles hands exported hash tiles to tlog, which has the same tiles under other names.
type tlogFiles struct{ dir string }

func (tlogFiles) Height() int                     { return 8 }
func (tlogFiles) SaveTiles([]tlog.Tile, [][]byte) {}
func (f tlogFiles) ReadTiles(want []tlog.Tile) (data [][]byte, err error) {
	for _, t := range want {
		b, err := os.ReadFile(filepath.Join(f.dir, tiles.Tile{Level: t.L, Index: uint64(t.N), Width: t.W}.Path()))
		if err != nil {
			return nil, err
		}
		data = append(data, b)
	}
	return data, nil
}

// Whatever byte of whatever file changes, the folder is refused; for a tile its name is in the error.
func TestLogExportEveryFileCounts(t *testing.T) {
	_, ask, out := dumped(t, 600)
	r := export(t, ask, out)
	if err := verifyDump(r); err != nil {
		t.Fatal(err)
	}
	for _, name := range filesBelow(t, out) {
		path := filepath.Join(out, name)
		good, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for what, bad := range map[string][]byte{"cut": good[:len(good)-1], "longer": append(append([]byte{}, good...), 'x'), "empty": {}, "gone": nil,
			"flipped": append(append(append([]byte{}, good[:len(good)/2]...), good[len(good)/2]^1), good[len(good)/2+1:]...)} {
			if err := os.WriteFile(path, bad, 0o644); err != nil {
				t.Fatal(err)
			}
			if bad == nil {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
			}
			if err := verifyDump(r); cmdline.ExitCode(err) != exitBadProof || !strings.Contains(err.Error(), name) {
				t.Errorf("%s %s: code %d, %v", name, what, cmdline.ExitCode(err), err)
			}
		}
		if err := os.WriteFile(path, good, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := verifyDump(r); err != nil {
		t.Fatal(err)
	}
}

// An export that was cut short goes on, keeps what is whole, and has no checkpoint before the end.
func TestLogExportGoesOn(t *testing.T) {
	grow, ask, out := dumped(t, 600)
	asked := 0
	torn := errors.New("torn")
	_, err := exportLog(t.Context(), "rekor", out, func(a copyArgs) (copyAnswer, error) {
		if len(a.Tiles) == 0 {
			return ask(a)
		}
		if asked++; asked > 3 {
			return copyAnswer{}, torn
		}
		r, err := ask(a)
		r.Data = r.Data[:1] // the least an answer holds
		return r, err
	}, io.Discard)
	if !errors.Is(err, torn) {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(out, "checkpoint")); !errors.Is(err, os.ErrNotExist) {
		t.Fatal("there is a checkpoint before its tiles", err)
	}
	grow(300) // meanwhile
	r := export(t, ask, out)
	if r.Size != 900 || r.Kept != 2 { // two full bundles; the third file was partial
		t.Fatalf("%+v", r)
	}
	if files := filesBelow(t, out); uint64(len(files)) != r.Files {
		t.Fatal(files)
	}
	again := export(t, ask, out)
	if again.Kept != again.Files-1 {
		t.Fatalf("%+v", again)
	}
}

// A log that lost entries, or shows another history, is refused and the export stays as it is.
func TestLogExportRefusesAnotherHistory(t *testing.T) {
	_, ask, out := dumped(t, 300)
	export(t, ask, out)
	before := filesBelow(t, out)
	for name, twist := range map[string]func(*copyAnswer){
		"rolled back": func(a *copyAnswer) { a.RootAt, a.Size = "", 200 },
		"forked":      func(a *copyAnswer) { a.RootAt = strings.Repeat("0", 64) },
	} {
		_, err := exportLog(t.Context(), "rekor", out, func(a copyArgs) (copyAnswer, error) {
			r, err := ask(a)
			twist(&r)
			return r, err
		}, io.Discard)
		if !errors.Is(err, errTwoFace) || cmdline.ExitCode(err) != exitBadProof {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := filesBelow(t, out); len(after) != len(before) {
		t.Fatal(after)
	}
}

func TestLogCopyBounds(t *testing.T) {
	_, ask, _ := dumped(t, 1)
	for name, want := range map[string][]tiles.Tile{
		"too many":   make([]tiles.Tile, copyTiles+1),
		"no width":   {{Level: 0}},
		"too wide":   {{Level: 0, Width: 2}},
		"no level":   {{Level: -2, Width: 1}},
		"far beyond": {{Level: tiles.Entries, Index: 1 << 60, Width: 1}},
	} {
		if _, err := ask(copyArgs{Log: "rekor", Tiles: want}); err == nil {
			t.Errorf("%s: answered", name)
		}
	}
}
