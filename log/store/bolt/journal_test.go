package bolt

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	bbolt "go.etcd.io/bbolt"

	"redoubt.internal/log/store"
)

const pageBytes = 4096

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// used reads the pages that are in use.
func used(t *testing.T, db *DB) []byte {
	t.Helper()
	var size int64
	if err := db.b.View(func(tx *bbolt.Tx) error { size = tx.Size(); return nil }); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, size)
	if _, err := db.journal.file.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// contents reads everything, after bbolt has found the pages in order.
func contents(t *testing.T, db *DB) map[string]string {
	t.Helper()
	all := map[string]string{}
	if err := db.View(func(tx store.Tx) error {
		return tx.Scan(nil, nil, func(k, v []byte) bool { all[string(k)] = string(v); return true })
	}); err != nil {
		t.Fatal(err)
	}
	if err := db.b.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			return err
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return all
}

// cut makes what a power cut may leave: each page of the database from one of the given moments, from each meta page on its
// own; the journal as it was flushed, with some of the next record's bytes behind it.
type cut struct {
	dir     string
	rnd     *rand.Rand
	images  int
	journal bool // false: the negative control goes without
}

func (c *cut) open(t *testing.T, journal []byte, at int64, pages, metas [][]byte) (*DB, error) {
	t.Helper()
	c.images++
	path := filepath.Join(c.dir, fmt.Sprint(c.images))
	size := 0
	for _, m := range pages {
		size = max(size, len(m))
	}
	image := make([]byte, size)
	for p := 0; p < size; p += pageBytes {
		from := pages
		if p < 2*pageBytes {
			from = metas
		}
		if m := from[c.rnd.IntN(len(from))]; p < len(m) {
			copy(image[p:], m[p:p+pageBytes])
		}
	}
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if c.journal {
		j := bytes.Clone(journal)
		if torn := c.rnd.IntN(3 * journalBlock); c.rnd.IntN(2) == 0 && at+int64(torn) < int64(len(j)) {
			copy(j[at:], journal[:torn]) // bytes that look like the beginning of a record, and are none here
		}
		if err := os.WriteFile(journalPath(path), j, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return Open(path)
}

// change makes one transaction on a database and on a map.
func change(t *testing.T, rnd *rand.Rand, db *DB, model map[string]string) {
	t.Helper()
	n, size := 1+rnd.IntN(4), 1+rnd.IntN(3000)
	if rnd.IntN(40) == 0 {
		n, size = 20, 8000 // more than a record holds
	}
	drop := rnd.IntN(20) == 0
	next := maps.Clone(model)
	dropped := errors.New("dropped")
	err := db.Update(func(tx store.Tx) error {
		for range n {
			k := fmt.Sprintf("key %d", rnd.IntN(300))
			if rnd.IntN(4) == 0 {
				delete(next, k)
				if err := tx.Delete([]byte(k)); err != nil {
					return err
				}
				continue
			}
			v := bytes.Repeat([]byte{byte(rnd.Uint32())}, rnd.IntN(size))
			next[k] = string(v)
			if err := tx.Put([]byte(k), v); err != nil {
				return err
			}
		}
		if drop {
			return dropped
		}
		return nil
	})
	if drop && errors.Is(err, dropped) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(model, next)
	for k := range model {
		if _, ok := next[k]; !ok {
			delete(model, k)
		}
	}
}

// powerCuts returns how many images there were, and how many opened with something else than what was acknowledged.
func powerCuts(t *testing.T, journal bool) (images, wrong int) {
	t.Helper()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	c := &cut{dir: t.TempDir(), rnd: rnd, journal: journal}
	model := map[string]string{}
	base := used(t, db) // at the last flushed commit
	check := func(want map[string]string, at int64, pages, metas [][]byte) {
		got, err := c.open(t, readFile(t, journalPath(path)), at, pages, metas)
		if err == nil {
			defer got.Close()
		}
		if !journal {
			if err != nil {
				wrong++
				return
			}
			var all map[string]string
			if err := got.View(func(tx store.Tx) error {
				all = map[string]string{}
				return tx.Scan(nil, nil, func(k, v []byte) bool { all[string(k)] = string(v); return true })
			}); err != nil || !maps.Equal(all, want) {
				wrong++
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(contents(t, got), want) {
			wrong++
			return
		}
		// It goes on, and again after another start.
		want = maps.Clone(want)
		change(t, rnd, got, want)
		if err := got.Close(); err != nil {
			t.Fatal(err)
		}
		again, err := Open(got.path)
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		if !maps.Equal(contents(t, again), want) {
			wrong++
		}
	}
	for step := range 500 {
		before, at, want := []byte(nil), db.journal.at, maps.Clone(model)
		look := rnd.IntN(6) == 0
		if look {
			before = used(t, db)
		}
		change(t, rnd, db, model)
		after := used(t, db)
		if db.journal.n > 0 {
			if look {
				check(model, db.journal.at, [][]byte{base, after}, [][]byte{base, after})
			}
			continue
		}
		// A flushed commit: a cut before its meta page may have left any of its other pages.
		if look {
			check(want, at, [][]byte{base, before, after}, [][]byte{base, before})
			check(model, 0, [][]byte{after}, [][]byte{after})
		}
		base = after
		if step%50 == 0 {
			if err := db.Close(); err != nil {
				t.Fatal(err)
			}
			if db, err = Open(path); err != nil {
				t.Fatal(err)
			}
			base = used(t, db)
		}
	}
	db.Close()
	return c.images, wrong
}

// A power cut loses any of the pages that were not flushed: what was acknowledged is there all the same, nothing else, and
// the database goes on.
func TestPowerCut(t *testing.T) {
	images, wrong := powerCuts(t, true)
	t.Logf("%d images of a disk after a power cut, %d with something else than what was acknowledged", images, wrong)
	if wrong != 0 || images < 30 {
		t.Fail()
	}
}

// The negative control: without the journal the same images lose something.
func TestPowerCutControl(t *testing.T) {
	images, wrong := powerCuts(t, false)
	t.Logf("%d images, %d with something else than what was acknowledged", images, wrong)
	if wrong == 0 {
		t.Error("nothing was lost: the images prove nothing")
	}
}

// crashed is a database with some records in its journal, as a killed process leaves it.
func crashed(t *testing.T, n int) (path string, model map[string]string) {
	t.Helper()
	live := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(live)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	model = map[string]string{"first": fmt.Sprint(rand.Uint64()) + strings.Repeat("x", journalMost)}
	if err := db.Update(func(tx store.Tx) error { return tx.Put([]byte("first"), []byte(model["first"])) }); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		k := fmt.Sprintf("key %d", i)
		model[k] = k
		if err := db.Update(func(tx store.Tx) error { return tx.Put([]byte(k), []byte(k)) }); err != nil {
			t.Fatal(err)
		}
	}
	if db.journal.n != n {
		t.Fatalf("%d records of %d", db.journal.n, n)
	}
	path = filepath.Join(t.TempDir(), "kv.db")
	copyTo(t, live, path)
	copyTo(t, journalPath(live), journalPath(path))
	return path, model
}

func copyTo(t *testing.T, from, to string) {
	t.Helper()
	if err := os.WriteFile(to, readFile(t, from), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A crash in the middle of the recovery, at each of its writes: the next start begins it again.
func TestCrashInRecovery(t *testing.T) {
	path, model := crashed(t, 20)
	journal := readFile(t, journalPath(path))
	j, err := openJournal(path)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := restore(path, j); err != nil || len(all.changes) != 20 {
		t.Fatal(all, err)
	}
	j.Close()
	for range 3 {
		db, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if !maps.Equal(contents(t, db), model) {
			t.Error("something is lost")
		}
		if err := db.Close(); err != nil {
			t.Fatal(err)
		}
		// As if the journal had not been emptied after it was applied.
		if err := os.WriteFile(journalPath(path), journal, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A database file and a journal of two moments are refused, and neither is changed.
func TestJournalOfAnotherMoment(t *testing.T) {
	old, _ := crashed(t, 3)
	db, err := Open(old)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	path, _ := crashed(t, 5)
	journal := readFile(t, journalPath(path))
	for name, file := range map[string][]byte{"another database": readFile(t, old), "zeros": make([]byte, 65536)} {
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		if db, err := Open(path); !errors.Is(err, store.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
			db.Close()
		} else if strings.Contains(err.Error(), "%!") {
			t.Error(err)
		}
		if !bytes.Equal(readFile(t, path), file) || !bytes.Equal(readFile(t, journalPath(path)), journal) {
			t.Errorf("%s: something was changed", name)
		}
	}
}

// A copy of the file of a stopped database is whole without its journal, and beside an old one.
func TestCopyOfStoppedDatabase(t *testing.T) {
	path, model := crashed(t, 5)
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(func(tx store.Tx) error { return tx.Put([]byte("more"), nil) }); err != nil {
		t.Fatal(err)
	}
	model["more"] = ""
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(t.TempDir(), "kv.db")
	copyTo(t, path, alone)
	if db, err = Open(alone); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !maps.Equal(contents(t, db), model) {
		t.Error("the copy lacks something")
	}
}

// A transaction that changes nothing writes nothing.
func TestNothingChanged(t *testing.T) {
	path, _ := crashed(t, 1)
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	before := append(readFile(t, path), readFile(t, journalPath(path))...)
	if err := db.Update(func(tx store.Tx) error { _, err := tx.Get([]byte("key 0")); return err }); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(append(readFile(t, path), readFile(t, journalPath(path))...), before) {
		t.Error("something was written")
	}
}

// Whatever lies in a journal, reading it is an error or a database, never a crash.
func FuzzJournal(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{1, 3, 'k', 'e', 'y', 5, 'v', 'a', 'l', 'u', 'e', 0, 3, 'k', 'e', 'y'}, uint16(100))
	f.Fuzz(func(t *testing.T, b []byte, at uint16) {
		puts := 0
		apply(b, func(k, v []byte) error { puts++; return checkKey(k) }, checkKey)
		j := make([]byte, 16*journalBlock)
		rec := j[:min(journalHeader+metasBytes+len(b), len(j))]
		copy(rec[journalHeader+metasBytes:], b)
		copy(rec, journalMagic)
		rec[31], rec[39] = 1, 2
		rec[46], rec[47] = byte((len(rec)-journalHeader)>>8), byte(len(rec)-journalHeader)
		sum := recordSum(rec)
		copy(rec[journalSum:], sum[:])
		if all := readJournal(j); all == nil || len(all.changes) != 1 {
			t.Fatal("a whole record was not read")
		}
		rec[int(at)%len(rec)] ^= 1
		if all := readJournal(j); all != nil {
			t.Fatal("a damaged record was read")
		}
		readJournal(b)
	})
}

// cutAtBase is a database after a power cut that left none of the pages written since the last flushed commit: 20 records
// of its journal are all there is of what was acknowledged. A record takes one block.
func cutAtBase(t *testing.T) (path string, model map[string]string) {
	t.Helper()
	live := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(live)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	path = filepath.Join(t.TempDir(), "kv.db")
	copyTo(t, live, path)
	model = map[string]string{}
	for i := range 20 {
		k := fmt.Sprintf("key %d", i)
		model[k] = k
		if err := db.Update(func(tx store.Tx) error { return tx.Put([]byte(k), []byte(k)) }); err != nil {
			t.Fatal(err)
		}
	}
	if db.journal.at != 20*journalBlock {
		t.Fatal(db.journal.at)
	}
	copyTo(t, journalPath(live), journalPath(path))
	return path, model
}

// Damage to a record with others of the same base behind it is no torn write: what was acknowledged is not taken back.
func TestDamagedRecord(t *testing.T) {
	path, _ := cutAtBase(t)
	file, journal := readFile(t, path), readFile(t, journalPath(path))
	for _, at := range []int{
		0, 47, journalHeader, journalHeader + 210, 10 * journalBlock, 10*journalBlock + 35, 10*journalBlock + 85, 18*journalBlock + 60,
	} {
		bad := bytes.Clone(journal)
		bad[at] ^= 1
		os.WriteFile(journalPath(path), bad, 0o600)
		if db, err := Open(path); !errors.Is(err, store.ErrCorrupt) {
			if err == nil {
				t.Errorf("damage at %d: opened with %d of 20", at, len(contents(t, db)))
				db.Close()
			}
			t.Fatal(err)
		}
		if !bytes.Equal(readFile(t, path), file) || !bytes.Equal(readFile(t, journalPath(path)), bad) {
			t.Errorf("damage at %d: something was changed", at)
		}
	}
	// The last record alone may be torn.
	bad := bytes.Clone(journal)
	bad[19*journalBlock+60] ^= 1
	os.WriteFile(journalPath(path), bad, 0o600)
	db, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(contents(t, db)); n != 19 {
		t.Error(n)
	}
	db.Close()
	// A file that stands for itself needs no record.
	db, err = Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 { // more transactions than there are records
		if err := db.Update(func(tx store.Tx) error { return tx.Put([]byte("large"), make([]byte, journalMost)) }); err != nil {
			t.Fatal(err)
		}
	}
	db.Close()
	for _, at := range []int{85, 10*journalBlock + 85} {
		bad := bytes.Clone(journal)
		bad[at] ^= 1
		os.WriteFile(journalPath(path), bad, 0o600)
		if db, err = Open(path); err != nil {
			t.Fatal(err)
		}
		db.Close()
	}
}

// A record goes to the journal only where recovery will find it: next to that of the transaction before.
func TestRecordOutOfOrder(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	put := func() error {
		return db.Update(func(tx store.Tx) error { return tx.Put([]byte("k"), []byte("v")) })
	}
	if err := errors.Join(put(), put()); err != nil {
		t.Fatal(err)
	}
	if err := db.b.Update(func(*bbolt.Tx) error { return nil }); err != nil { // a commit that is in no record
		t.Fatal(err)
	}
	if err := put(); !errors.Is(err, store.ErrSync) {
		t.Error(err)
	}
}

// The journal of a database is the same by whatever name the file is opened.
func TestJournalOfLink(t *testing.T) {
	path, model := cutAtBase(t)
	link := filepath.Join(t.TempDir(), "link.db")
	if err := os.Symlink(path, link); err != nil {
		t.Fatal(err)
	}
	db, err := Open(link)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if !maps.Equal(contents(t, db), model) {
		t.Error("something is lost")
	}
}

// What the last process did without seeing the end of it, Open flushes: a record it took back, the name of the journal.
func TestOpenFlushes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	cmd := exec.Command("strace", "-f", "-qq", "-y", "-e", "trace=fsync,fdatasync", os.Args[0])
	cmd.Env = append(os.Environ(), "BOLT_TEST_HOLD="+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Skipf("NOT TESTED: this machine lets no test watch system calls with strace: %v %s", err, out)
	}
	for _, name := range []string{path, journalPath(path), filepath.Dir(path)} {
		if !bytes.Contains(out, []byte("<"+name+">")) {
			t.Errorf("%s was not flushed:\n%s", name, out)
		}
	}
}

// A journal that root makes, looking into a database of a service user, belongs to that user: it opens the file next.
func TestJournalOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: only root makes files for others")
	}
	path := filepath.Join(t.TempDir(), "kv.db")
	db, err := Create(path)
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	if err := errors.Join(os.Remove(journalPath(path)), os.Chown(path, 1234, 2345)); err != nil {
		t.Fatal(err)
	}
	if db, err = Open(path); err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	info, err := os.Stat(journalPath(path))
	if err != nil {
		t.Fatal(err)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 1234 || st.Gid != 2345 {
		t.Errorf("the journal belongs to %d:%d", st.Uid, st.Gid)
	}
}
