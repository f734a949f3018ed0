package bolt

import (
	"errors"
	"path/filepath"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

// TestFormat: a new file has the number of this program, one without a number is of the first format, one with a higher number is
// not opened, and changes come with the number or not at all.
func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	want := func(format uint64, value string) {
		t.Helper()
		n, err := db.Format()
		if err != nil || n != format {
			t.Fatalf("format %d, %v; want %d", n, err, format)
		}
		err = db.View(func(tx store.Tx) error {
			v, err := tx.Get([]byte("k"))
			if string(v) != value {
				t.Fatalf("value %q, want %q", v, value)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	reopen := func() {
		t.Helper()
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		if db, err = Open(path); err != nil {
			t.Fatal(err)
		}
	}
	put := func(value string) func(store.Tx) error {
		return func(tx store.Tx) error { return tx.Put([]byte("k"), []byte(value)) }
	}
	want(store.Format, "")
	if err := db.Update(put("by the journal")); err != nil { // a record that the commit of the number ends
		t.Fatal(err)
	}
	if err := db.Migrate(1, put("down")); err != nil {
		t.Fatal(err)
	}
	want(1, "down")
	if err := db.Update(put("after")); err != nil {
		t.Fatal(err)
	}
	reopen()
	want(1, "after")
	failed := errors.New("no")
	if err := db.Migrate(store.Format, func(tx store.Tx) error { return errors.Join(put("lost")(tx), failed) }); !errors.Is(err, failed) {
		t.Fatal(err)
	}
	want(1, "after")
	if err := db.b.Update(func(tx *bbolt.Tx) error { return tx.DeleteBucket(formatBucket) }); err != nil {
		t.Fatal(err)
	}
	reopen()
	want(store.FirstFormat, "after")
	if err := db.Migrate(store.Format+1, func(store.Tx) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(path); !errors.Is(err, store.ErrNewer) {
		t.Fatal(err)
	}
}
