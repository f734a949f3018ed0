package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/storetest"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("BOLT_TEST_HOLD"); path != "" {
		db, err := Open(path)
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println("held")
		bytes.NewBuffer(nil).ReadFrom(os.Stdin) // until the parent closes it
		db.Close()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestConformance(t *testing.T) {
	storetest.Run(t, storetest.Engine{
		Create: func(dir string) (store.DB, error) { return Create(filepath.Join(dir, "kv.db")) },
		Open:   func(dir string) (store.DB, error) { return Open(filepath.Join(dir, "kv.db")) },
	})
}

func TestCreateRefusesExisting(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if _, err := Create(path); !errors.Is(err, store.ErrExists) {
		t.Fatal(err)
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestOpenRefuses(t *testing.T) {
	dir := t.TempDir()
	if _, err := Open(filepath.Join(dir, "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	for name, content := range map[string][]byte{
		"empty": {}, "zeros": make([]byte, 65536), "text": []byte("hello"), "noise": bytes.Repeat([]byte("noise"), 9999),
	} {
		path := filepath.Join(dir, name)
		os.WriteFile(path, content, 0o600)
		if _, err := Open(path); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, content) {
			t.Errorf("%s was changed", name)
		}
	}
}

// A second process waits a bounded time and is told who is in the way.
func TestSecondProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "BOLT_TEST_HOLD="+path)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 5)
	if _, err := out.Read(line); err != nil || string(line[:4]) != "held" {
		t.Fatalf("%s %v", line, err)
	}
	if _, err := Open(path); !errors.Is(err, store.ErrLocked) {
		t.Errorf("a second opening: %v", err)
	}
	in.Close()
	cmd.Wait()
	db, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
}

// A failed commit latches the file; a full disk does not.
func TestCommitFailure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put := func(n int) error {
		return db.Update(func(tx store.Tx) error { return tx.Put([]byte("k"), make([]byte, n)) })
	}
	full := &os.PathError{Op: "write", Path: path, Err: syscall.ENOSPC}
	if err := db.commitFailed(full, 0); !errors.Is(err, store.ErrFull) || errors.Is(err, store.ErrSync) {
		t.Error(err)
	}
	if err := put(10); err != nil {
		t.Fatal(err)
	}
	// ENOSPC out of fdatasync is no PathError: the flush was tried, so the disk is not to be trusted.
	if err := db.commitFailed(syscall.ENOSPC, 0); !errors.Is(err, store.ErrSync) {
		t.Error(err)
	}
	if err := put(10); !errors.Is(err, store.ErrSync) {
		t.Errorf("a write after a failed flush: %v", err)
	}
	if err := db.View(func(store.Tx) error { return nil }); err != nil {
		t.Errorf("reading after a failed flush: %v", err)
	}
}

// Damaged pages are errors, never the end of the process.
func TestFlippedBits(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		db.Update(func(tx store.Tx) error {
			for j := range 50 {
				tx.Put(fmt.Appendf(nil, "%d-%d", i, j), bytes.Repeat([]byte("v"), 100+j*30))
			}
			return nil
		})
	}
	db.Close()
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	refused := 0
	bad := filepath.Join(dir, "bad.db")
	for range 120 {
		b := bytes.Clone(good)
		for range 1 + r.IntN(3) {
			// Page headers and element tables are where a flip hurts bbolt most.
			at := r.IntN(len(b)/4096)*4096 + r.IntN(64)
			b[at] ^= 1 << r.IntN(8)
		}
		os.WriteFile(bad, b, 0o600)
		db, err := Open(bad)
		if err != nil {
			refused++
			continue
		}
		err = db.View(func(tx store.Tx) error {
			return tx.Scan(nil, nil, func(k, v []byte) bool {
				for _, c := range v {
					_ = c
				}
				return true
			})
		})
		if err == nil {
			err = db.Update(func(tx store.Tx) error { return tx.Put([]byte("new"), make([]byte, 5000)) })
		}
		if err != nil {
			refused++
		}
		db.Close()
	}
	t.Logf("120 damaged files, %d noticed by the engine itself, 0 crashes", refused)
	if refused == 0 {
		t.Error("no damage was noticed")
	}
}

// Where address space is limited the file opens all the same, with less of it mapped.
func TestLimitedAddressSpace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	cmd := exec.Command("sh", "-c", `ulimit -v 6000000 && exec "$0"`, os.Args[0])
	cmd.Env = append(os.Environ(), "BOLT_TEST_HOLD="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// The mapping is address space, not memory.
func TestMappingIsNotResident(t *testing.T) {
	resident := func() (pages int64) {
		b, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Skipf("NOT TESTED: no /proc here: %v", err)
		}
		var size int64
		fmt.Sscan(string(b), &size, &pages)
		return pages
	}
	before := resident()
	db, err := Create(filepath.Join(t.TempDir(), "kv.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if grown := (resident() - before) * int64(os.Getpagesize()); grown > 64<<20 {
		t.Errorf("opening an empty database made %d bytes resident", grown)
	}
}

// A file that was filled is a whole one, as long as its meta page says, where its last pages were given back too.
func TestFilled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Fill()
	for i := range 40 {
		err = errors.Join(err, db.Update(func(tx store.Tx) error { return tx.Put(fmt.Appendf(nil, "%02d", i), make([]byte, 100_000)) }))
	}
	// A transaction writes at the end of the file, the next one frees that.
	err = errors.Join(err, db.Update(func(tx store.Tx) error { return tx.Delete([]byte("39")) }), db.Update(func(tx store.Tx) error { return tx.Put([]byte("40"), nil) }))
	if err := errors.Join(err, db.Close()); err != nil {
		t.Fatal(err)
	}
	db, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	err = db.view(func(tx *bbolt.Tx) error {
		info, err := os.Stat(path)
		if err == nil && info.Size() < tx.Size() {
			t.Errorf("%d bytes, the meta page says %d", info.Size(), tx.Size())
		}
		for e := range tx.Check() {
			t.Error(e)
		}
		if n := tx.Bucket(bucket).Stats().KeyN; n < 40 {
			t.Errorf("%d keys", n)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
