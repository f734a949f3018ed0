package mirror

import (
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// TestFsck hashes a full, a sparse and a spine log, and finds a changed byte of each kind of file and a changed hash.
func TestFsck(t *testing.T) {
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine} {
		c := signedLog(t, 4, tiles.MaxSize, 700, 70_000)
		c.Scope = scope
		if scope == parcel.ScopeSparse {
			c.Records = []uint64{1, 400, 66_000}
		}
		l := newLab(t, c)
		for _, size := range []uint64{700, 70_000} {
			rewind(t, c.Source, size)
			l.pull()
			l.load(l.export(0))
		}
		h := newHistory(1500, tiles.MaxSize)
		if _, err := l.in.Observe(t.Context(), h.shows(t, 900, 1200)); err != nil {
			t.Fatal(err)
		}
		r, err := l.in.Fsck(t.Context())
		if err != nil || FsckErr(r) != nil || r[0].Heads != 2 || scope != parcel.ScopeFull && r[0].Subtrees == 0 {
			t.Fatalf("%s: %v, %v, %+v", scope, err, FsckErr(r), r)
		}
		found := 0
		for _, pattern := range []string{"tile/entries/*", "tile/entries/*.p/*", "tile/0/*", "tile/1/*", "tile/2/*.p/*", "record/0*"} {
			files, _ := filepath.Glob(filepath.Join(l.mc.Dir, logDir(c.Origin), filepath.FromSlash(pattern)))
			for _, f := range files[max(0, len(files)-1):] {
				b, err := os.ReadFile(f)
				if err != nil {
					continue // a folder
				}
				b[len(b)/2] ^= 1
				if err := os.WriteFile(f, b, 0o644); err != nil {
					t.Fatal(err)
				}
				if r, err := l.in.Fsck(t.Context()); err != nil || ExitCode(FsckErr(r)) != 31 {
					t.Fatalf("%s: a changed byte of %s: %v, %v", scope, pattern, err, FsckErr(r))
				}
				b[len(b)/2] ^= 1
				if err := os.WriteFile(f, b, 0o644); err != nil {
					t.Fatal(err)
				}
				found++
			}
		}
		if found == 0 {
			t.Fatalf("%s: nothing was spoilt", scope)
		}
		if scope == parcel.ScopeFull {
			continue
		}
		var key, value []byte
		if err := l.inDB.View(func(tx store.Tx) error {
			return tx.Scan([]byte(keyNode), after(keyNode), func(k, v []byte) bool {
				key, value = append([]byte(nil), k...), append([]byte(nil), v...)
				return k[len(keyNode+c.Origin)+1] < 3
			})
		}); err != nil {
			t.Fatal(err)
		}
		value[0] ^= 1
		if err := l.inDB.Update(func(tx store.Tx) error { return tx.Put(key, value) }); err != nil {
			t.Fatal(err)
		}
		if r, err := l.in.Fsck(t.Context()); err != nil || ExitCode(FsckErr(r)) != 31 {
			t.Fatalf("%s: a changed hash: %v, %v", scope, err, FsckErr(r))
		}
	}
}
