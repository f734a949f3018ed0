package log

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv("LOG_TEST_VICTIM"); dir != "" {
		victim(dir, os.Getenv("LOG_TEST_PROMISE") != "")
		return
	}
	if dir := os.Getenv("LOG_TEST_FULL"); dir != "" {
		if err := fullDisk(dir); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

func victimConfig(dir string, db *bolt.DB, hw *File) (Config, error) {
	der, err := os.ReadFile(filepath.Join(dir, "key"))
	if err != nil {
		return Config{}, err
	}
	key, err := x509.ParseECPrivateKey(der)
	return Config{DB: db, Origin: "kill.example.test", Signer: key, HighWater: []HighWater{hw.For("kill.example.test")}}, err
}

func openVictim(dir string) (Config, func(), error) {
	db, err := bolt.Open(filepath.Join(dir, "log.db"))
	if err != nil {
		return Config{}, nil, err
	}
	hw, err := OpenHighWaterFile(filepath.Join(dir, "highwater"))
	if err != nil {
		return Config{}, nil, err
	}
	c, err := victimConfig(dir, db, hw)
	return c, func() { db.Close(); hw.Close() }, err
}

// victim appends under load and prints a line per acknowledgement until it is killed: index, size, root, digest of the
// leaf. promise makes it the negative control: it acknowledges before the commit.
func victim(dir string, promise bool) {
	die := func(err error) {
		fmt.Println("dead", err)
		os.Exit(1)
	}
	c, _, err := openVictim(dir)
	if err != nil {
		die(err)
	}
	if promise {
		c.DB = newEarlyDB(c.DB)
		c.HighWater = nil // it would refuse what the control lost
	}
	l, err := Open(context.Background(), c)
	if err != nil {
		die(err)
	}
	if err := l.Err(); err != nil {
		die(err)
	}
	go func() { die(l.Run(context.Background())) }()
	fmt.Println("open", l.Head().Size)
	var mu sync.Mutex
	out := bufio.NewWriter(os.Stdout)
	for g := range 24 {
		go func() {
			rnd := rand.New(rand.NewPCG(uint64(os.Getpid()), uint64(g)))
			for {
				leaf := make([]byte, 1+rnd.IntN(1500))
				for i := range leaf {
					leaf[i] = byte(rnd.Uint32())
				}
				rc, err := l.Add(context.Background(), leaf, leaf[:len(leaf)/3], nil)
				if err != nil {
					die(err)
				}
				d := sha256.Sum256(leaf)
				mu.Lock()
				fmt.Fprintf(out, "ack %d %d %x %x\n", rc.Index, rc.Checkpoint.Size, rc.Checkpoint.Root, d)
				out.Flush()
				mu.Unlock()
			}
		}()
	}
	select {}
}

// earlyDB is the negative control: it says that a transaction is durable as soon as its function has returned. The commit
// follows for some at a time.
type earlyDB struct {
	store.DB
	work chan func(store.Tx)
}

func newEarlyDB(db store.DB) *earlyDB {
	d := &earlyDB{db, make(chan func(store.Tx))}
	go func() {
		for {
			if err := db.Update(func(tx store.Tx) error {
				for end := time.After(50 * time.Millisecond); ; {
					select {
					case fn := <-d.work:
						fn(tx)
					case <-end:
						return nil
					}
				}
			}); err != nil {
				return
			}
		}
	}()
	return d
}

func (d *earlyDB) Update(fn func(store.Tx) error) error {
	done := make(chan error)
	d.work <- func(tx store.Tx) { done <- fn(tx) }
	return <-done
}

func (d *earlyDB) View(fn func(store.Tx) error) error { return d.Update(fn) }

// ack is one line of the oracle: what the victim promised, kept outside its disk.
type ack struct {
	index, size uint64
	root, leaf  string
}

type killRun struct{ cycles, acks, lost, mismatches int }

// kills runs cycles of: start, load, SIGKILL at a random moment, reopen, check every promise of that cycle; at the end
// every promise ever made, and Fsck.
func kills(t *testing.T, cycles int, promise bool) (run killRun) {
	t.Helper()
	dir := t.TempDir()
	makeVictim(t, dir)
	seed := uint64(time.Now().UnixNano())
	rnd := rand.New(rand.NewPCG(seed, 0))
	var all []ack
	for cycle := range cycles {
		run.cycles++
		acks := killOnce(t, dir, promise, promise || cycle%2 == 0, time.Duration(10+rnd.IntN(281))*time.Millisecond)
		run.acks += len(acks)
		all = append(all, acks...)
		lost, mismatches := checkAcks(t, dir, acks, false)
		run.lost += lost
		run.mismatches += mismatches
		if promise && lost+mismatches > 0 {
			return run
		}
	}
	lost, mismatches := checkAcks(t, dir, all, true)
	run.lost += lost
	run.mismatches += mismatches
	t.Logf("seed %d", seed)
	return run
}

// killOnce kills the victim some time after it has opened its log or, amid promises, after its first acknowledgement,
// however long a busy machine takes to get there.
func killOnce(t *testing.T, dir string, promise, amid bool, after time.Duration) []ack {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "LOG_TEST_VICTIM="+dir)
	if promise {
		cmd.Env = append(cmd.Env, "LOG_TEST_PROMISE=1")
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewScanner(out)
	if !in.Scan() || !strings.HasPrefix(in.Text(), "open ") {
		t.Fatalf("the victim says %q", in.Text())
	}
	kill := func() { cmd.Process.Signal(syscall.SIGKILL) }
	if amid {
		defer time.AfterFunc(time.Minute, kill).Stop()
	} else {
		time.AfterFunc(after, kill)
	}
	var acks []ack
	for in.Scan() {
		if amid && len(acks) == 1 {
			time.AfterFunc(after, kill)
		}
		var a ack
		if n, _ := fmt.Sscanf(in.Text(), "ack %d %d %s %s", &a.index, &a.size, &a.root, &a.leaf); n == 4 && len(a.leaf) == 64 {
			acks = append(acks, a)
		} else if strings.HasPrefix(in.Text(), "dead") {
			t.Fatalf("the victim says %q", in.Text())
		}
	}
	cmd.Wait()
	return acks
}

// checkAcks opens what the kill left and compares it with the promises. It recomputes roots from the entries' bytes with
// a tree of its own, in one pass.
func checkAcks(t *testing.T, dir string, acks []ack, whole bool) (lost, mismatches int) {
	t.Helper()
	c, closeAll, err := openVictim(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	l, err := Open(t.Context(), c)
	if err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	if err := l.Err(); err != nil {
		t.Fatalf("after a kill: %v", err)
	}
	size := l.Head().Size
	if !whole {
		// Every acknowledged size of this cycle, by the log's own tree; contents of each acknowledged entry.
		roots := map[uint64]string{}
		for _, a := range acks {
			if a.index >= size || a.size > size {
				lost++
				continue
			}
			if _, ok := roots[a.size]; !ok {
				root, err := l.Root(t.Context(), a.size)
				if err != nil {
					t.Fatal(err)
				}
				roots[a.size] = hex.EncodeToString(root[:])
			}
			e, err := l.Entry(t.Context(), a.index)
			if err != nil {
				t.Fatal(err)
			}
			if d := sha256.Sum256(e.Leaf); hex.EncodeToString(d[:]) != a.leaf {
				lost++
			} else if !bytes.Equal(e.Extra, e.Leaf[:len(e.Leaf)/3]) || roots[a.size] != a.root {
				mismatches++
			}
		}
		return lost, mismatches
	}
	want := map[uint64]string{}
	for _, a := range acks {
		want[a.size] = a.root
	}
	var grow tree
	for first := uint64(0); first < size; first += tileWidth {
		w := int(min(tileWidth, size-first))
		b, err := l.EntryBundle(t.Context(), first/tileWidth, w)
		if err != nil {
			t.Fatal(err)
		}
		for _, leaf := range must(ParseBundle(b, w)) {
			grow.append(leafHash(leaf), nil)
			if root := grow.root(); want[grow.size] != "" && want[grow.size] != hex.EncodeToString(root[:]) {
				mismatches++
			}
		}
	}
	rep, err := Fsck(t.Context(), c, nil)
	if err != nil {
		t.Errorf("Fsck: %v", err)
	}
	t.Logf("Fsck: %d entries, %d heads, %d tiles, 0 problems", rep.Entries, rep.Heads, rep.Tiles)
	return lost, mismatches
}

// 100 SIGKILLs under load: nothing acknowledged is lost and no acknowledged root changes.
func TestKill(t *testing.T) {
	t.Parallel()
	cycles := 100
	if testing.Short() {
		cycles = 10
	}
	if os.Getenv("REDOUBT_TORTURE") != "" {
		cycles = 1000
	}
	start := time.Now()
	run := kills(t, cycles, false)
	t.Logf("kill test: %d cycles, %d acks, %d lost, %d root mismatches, %.0f s", run.cycles, run.acks, run.lost, run.mismatches, time.Since(start).Seconds())
	if run.lost != 0 || run.mismatches != 0 || run.acks == 0 {
		t.Fail()
	}
}

// The negative control: a log that acknowledges before its commit must fail the same test, or the test proves nothing.
func TestKillControl(t *testing.T) {
	run := kills(t, 40, true)
	t.Logf("negative control, acknowledging before the commit: %d cycles, %d acks, %d lost, %d root mismatches", run.cycles, run.acks, run.lost, run.mismatches)
	if run.lost == 0 {
		t.Error("the control lost nothing: the kill test does not bite")
	}
}
