package bolt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/storetest"
)

// paired is a new database with a second file.
func paired(t *testing.T, required bool) (d *DB, second string) {
	t.Helper()
	d, err := Create(filepath.Join(t.TempDir(), "first.db"))
	ok(t, err)
	second = filepath.Join(t.TempDir(), "second.db")
	ok(t, d.Pair(second, required))
	return d, second
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func set(d *DB, key, value string) error {
	return d.Update(func(tx store.Tx) error { return tx.Put([]byte(key), []byte(value)) })
}

// whole is everything in a database but for its count, as one text.
func whole(t *testing.T, d *DB) string {
	t.Helper()
	var b strings.Builder
	ok(t, d.View(func(tx store.Tx) error {
		return tx.Scan(nil, nil, func(k, v []byte) bool {
			if string(k) != pairKey {
				fmt.Fprintf(&b, "%q=%q\n", k, v)
			}
			return true
		})
	}))
	return b.String()
}

// same demands that the second file at path, opened by itself, holds what d holds.
func same(t *testing.T, d *DB, path string) {
	t.Helper()
	want := whole(t, d)
	ok(t, d.Close())
	s, err := Open(path)
	ok(t, err)
	defer s.Close()
	if got := whole(t, s); got != want {
		t.Fatalf("the second file holds\n%s\nand the first\n%s", got, want)
	}
}

func TestPairPassesTheConformanceTest(t *testing.T) {
	pair := func(open func(string) (*DB, error)) func(string) (store.DB, error) {
		return func(dir string) (store.DB, error) {
			d, err := open(filepath.Join(dir, "kv.db"))
			if err != nil {
				return nil, err
			}
			return unpaired{d}, d.Pair(filepath.Join(dir, "second.db"), true)
		}
	}
	storetest.Run(t, storetest.Engine{Create: pair(Create), Open: pair(Open)})
}

// unpaired hides the count of a pair, which callers that scan everything see.
type unpaired struct{ *DB }

func (u unpaired) View(fn func(store.Tx) error) error {
	return u.DB.View(func(tx store.Tx) error { return fn(hidden{tx}) })
}
func (u unpaired) Update(fn func(store.Tx) error) error {
	return u.DB.Update(func(tx store.Tx) error { return fn(hidden{tx}) })
}

func (u unpaired) Snapshot(w io.Writer) error {
	return u.View(func(tx store.Tx) error { return store.WriteSnapshot(w, tx) })
}

type hidden struct{ store.Tx }

func (h hidden) Scan(from, to []byte, fn func(k, v []byte) bool) error {
	return h.Tx.Scan(from, to, func(k, v []byte) bool { return string(k) == pairKey || fn(k, v) })
}

func TestSecondHoldsEverything(t *testing.T) {
	d, second := paired(t, true)
	for i := range 50 {
		ok(t, set(d, fmt.Sprintf("key %d", i), strings.Repeat("x", i*i*60))) // small ones by the journal, large ones past it
	}
	ok(t, d.Update(func(tx store.Tx) error { return tx.Delete([]byte("key 7")) }))
	boom := errors.New("boom")
	if err := d.Update(func(tx store.Tx) error { tx.Put([]byte("dropped"), nil); return boom }); !errors.Is(err, boom) {
		t.Fatal(err)
	}
	same(t, d, second)
}

// A file that had no second one gets one, and one that was away is brought up to date.
func TestSecondComesLater(t *testing.T) {
	d, err := Create(filepath.Join(t.TempDir(), "first.db"))
	ok(t, err)
	ok(t, set(d, "before", "1"))
	ok(t, d.Update(func(tx store.Tx) error { // more than one transaction copies
		for i := range 5 {
			if err := tx.Put([]byte{'l', byte(i)}, make([]byte, matchBytes/2)); err != nil {
				return err
			}
		}
		return nil
	}))
	second := filepath.Join(t.TempDir(), "second.db")
	ok(t, d.Pair(second, false))
	ok(t, d.Close())
	d, err = Open(d.path)
	ok(t, err)
	ok(t, set(d, "alone", "2"))
	ok(t, d.Update(func(tx store.Tx) error { return tx.Delete([]byte("before")) }))
	ok(t, d.Pair(second, false))
	ok(t, set(d, "after", "3"))
	same(t, d, second)
}

// What the second disk has of a transaction that was not acknowledged is taken over; what is further ahead shows an older copy, and
// nothing is changed.
func TestSecondAhead(t *testing.T) {
	for _, c := range []struct {
		ahead uint64
		want  error
	}{{0, ErrSecondForeign}, {1, nil}, {2, ErrSecondAhead}} {
		d, second := paired(t, true)
		ok(t, set(d, "a", "1"))
		var count []byte
		ok(t, d.View(func(tx store.Tx) error {
			v, err := tx.Get([]byte(pairKey))
			count = counted(binary.BigEndian.Uint64(v) + c.ahead)
			return err
		}))
		ok(t, d.Close())
		s, err := Open(second)
		ok(t, err)
		ok(t, s.take([]edit{{key: []byte("b"), value: []byte("2")}, {key: []byte("a"), del: true}, {key: []byte(pairKey), value: count}}))
		ok(t, s.Close())
		d, err = Open(d.path)
		ok(t, err)
		err = d.Pair(second, true)
		if !errors.Is(err, c.want) {
			t.Fatalf("%d ahead: %v, want %v", c.ahead, err, c.want)
		}
		want := "\"a\"=\"1\"\n"
		if c.want == nil {
			want = "\"b\"=\"2\"\n"
		}
		if got := whole(t, d); got != want {
			t.Fatalf("%d ahead: the first file holds %s", c.ahead, got)
		}
		ok(t, d.Close())
	}
}

// A second disk that fails: where it is required nothing is committed that it does not take, and reads go on; else it is left behind,
// which can be seen, and the next pairing brings it up to date.
func TestSecondFails(t *testing.T) {
	for _, required := range []bool{true, false} {
		d, second := paired(t, required)
		ok(t, set(d, "a", "1"))
		broken := fmt.Errorf("%w: the disk is gone", store.ErrSync)
		d.second.db.broken.Store(&broken)
		err := set(d, "a", "2")
		if required != errors.Is(err, ErrSecond) || !errors.Is(d.SecondErr(), ErrSecond) {
			t.Fatalf("required %v: %v, %v", required, err, d.SecondErr())
		}
		want := map[bool]string{true: "\"a\"=\"1\"\n", false: "\"a\"=\"2\"\n"}[required]
		if got := whole(t, d); got != want {
			t.Fatalf("required %v: it holds %s", required, got)
		}
		if err := set(d, "c", "3"); required != (err != nil) {
			t.Fatalf("required %v: %v", required, err)
		}
		d.Close() // the second one cannot
		d, err = Open(d.path)
		ok(t, err)
		ok(t, d.Pair(second, required))
		ok(t, set(d, "d", "4"))
		same(t, d, second)
	}
}

// A transaction that the second disk has and the first one could not commit is taken back.
func TestSecondTakesBack(t *testing.T) {
	d, second := paired(t, true)
	ok(t, set(d, "a", "1"))
	key := []byte("b")
	d.second.undo = []edit{{key: key}, {key: []byte("a")}}
	ok(t, d.second.db.take([]edit{{key: key, value: []byte("2")}, {key: []byte("a"), del: true}}))
	ok(t, set(d, "c", "3"))
	same(t, d, second)
}

// Either disk is full for a while: no transaction is half done, both agree afterwards.
func TestSecondFullDisks(t *testing.T) {
	if dir := os.Getenv("SECOND_TEST_FULL"); dir != "" {
		fillDisks(t, dir)
		return
	}
	dir := t.TempDir()
	cmd := exec.Command("unshare", "-rm", "sh", "-c", `mkdir "$1/a" "$1/b" && mount -t tmpfs -o size=4m tmpfs "$1/a" && mount -t tmpfs -o size=4m tmpfs "$1/b" && exec "$2" -test.v -test.run '^TestSecondFullDisks$'`, "sh", dir, os.Args[0])
	cmd.Env = append(os.Environ(), "SECOND_TEST_FULL="+dir)
	out, err := cmd.CombinedOutput()
	if bytes.Contains(out, []byte("unshare:")) || bytes.Contains(out, []byte("mount:")) || errors.Is(err, exec.ErrNotFound) {
		t.Skipf("NOT TESTED: this machine lets no test mount a small disk of its own: %v %s", err, out)
	}
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func fillDisks(t *testing.T, dir string) {
	for _, full := range []string{"a", "b"} {
		d, err := Create(filepath.Join(dir, "a", "first.db"))
		ok(t, err)
		second := filepath.Join(dir, "b", "second.db")
		ok(t, d.Pair(second, true))
		ok(t, set(d, "before", "1"))
		filler := filepath.Join(dir, full, "filler")
		f, err := os.Create(filler)
		ok(t, err)
		for err == nil {
			_, err = f.Write(make([]byte, 4096))
		}
		f.Close()
		refused := 0
		for i := range 40 {
			key := fmt.Sprintf("key %d", i)
			err := set(d, key, strings.Repeat("y", 100<<10))
			if err != nil && !errors.Is(err, store.ErrFull) {
				t.Fatalf("%s full: %v", full, err)
			}
			if err != nil {
				refused++
				ok(t, os.Remove(filler)) // room again
				ok(t, set(d, key+" again", "z"))
				break
			}
		}
		if refused == 0 {
			t.Fatal("nothing was refused: the test fills nothing")
		}
		same(t, d, second)
		ok(t, os.RemoveAll(filepath.Join(dir, "a", "first.db")))
		ok(t, os.RemoveAll(second))
	}
}

// killed is a process that writes to a pair, says each key when it is acknowledged, and is killed.
func TestSecondAfterAKill(t *testing.T) {
	if dir := os.Getenv("SECOND_TEST_KILL"); dir != "" {
		d, err := Open(filepath.Join(dir, "first", "x.db"))
		ok(t, err)
		if os.Getenv("SECOND_TEST_ALONE") == "" {
			ok(t, d.Pair(filepath.Join(dir, "second", "x.db"), true))
		}
		for i := 0; ; i++ {
			key := fmt.Sprintf("%s-%d", os.Getenv("SECOND_TEST_RUN"), i)
			ok(t, set(d, key, strings.Repeat("v", i%9*9000)))
			fmt.Println("acknowledged", key)
		}
	}
	for _, alone := range []string{"", "1"} {
		lost := 0
		for run := range 3 {
			lost += killOnce(t, run, alone)
		}
		if alone == "" && lost > 0 {
			t.Fatalf("%d acknowledged transactions are not on the second disk", lost)
		}
		if alone != "" && lost == 0 {
			t.Fatal("the control lost nothing without the pair")
		}
		t.Logf("without the pair: %q, lost %d", alone, lost)
	}
}

// killOnce kills a writer, loses its first disk, and counts what was acknowledged and is not on the second.
func killOnce(t *testing.T, run int, alone string) (lost int) {
	dir := t.TempDir()
	for _, name := range []string{"first", "second"} {
		ok(t, os.Mkdir(filepath.Join(dir, name), 0o700))
	}
	d, err := Create(filepath.Join(dir, "first", "x.db"))
	ok(t, err)
	ok(t, d.Pair(filepath.Join(dir, "second", "x.db"), true))
	ok(t, d.Close())
	cmd := exec.Command(os.Args[0], "-test.run", "^TestSecondAfterAKill$")
	cmd.Env = append(os.Environ(), "SECOND_TEST_KILL="+dir, fmt.Sprintf("SECOND_TEST_RUN=%d", run), "SECOND_TEST_ALONE="+alone)
	out, err := cmd.StdoutPipe()
	ok(t, err)
	ok(t, cmd.Start())
	var said bytes.Buffer
	for deadline := time.Now().Add(time.Minute); bytes.Count(said.Bytes(), []byte("\n")) < 20+17*run; {
		if time.Now().After(deadline) {
			t.Fatal("the writer acknowledges nothing")
		}
		if _, err := io.CopyN(&said, out, 1); err != nil {
			t.Fatalf("the writer ended: %v %s", err, said.Bytes())
		}
	}
	ok(t, cmd.Process.Kill())
	io.Copy(&said, out)
	cmd.Wait()
	ok(t, os.RemoveAll(filepath.Join(dir, "first")))
	s, err := Open(filepath.Join(dir, "second", "x.db"))
	ok(t, err)
	defer s.Close()
	for line := range strings.Lines(said.String()) {
		key, found := strings.CutPrefix(line, "acknowledged ")
		if !found || !strings.HasSuffix(line, "\n") {
			continue
		}
		ok(t, s.View(func(tx store.Tx) error {
			v, err := tx.Get([]byte(strings.TrimSpace(key)))
			if v == nil {
				lost++
			}
			return err
		}))
	}
	return lost
}
