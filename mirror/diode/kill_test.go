package diode

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets the test binary be the process that is killed.
func TestMain(m *testing.M) {
	if spec := os.Getenv("REDOUBT_TEST_KILL"); spec != "" {
		os.Exit(killed(strings.Split(spec, "\t")))
	}
	os.Exit(m.Run())
}

// mortal is a context that kills its process with SIGKILL at the n-th time somebody asks whether it ended.
type mortal struct {
	context.Context
	left *int
}

func (m mortal) Err() error {
	if *m.left--; *m.left == 0 {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	return m.Context.Err()
}

// killed sends or collects, and dies at the n-th question. f is what, n, folders.
func killed(f []string) int {
	n, _ := strconv.Atoi(f[1])
	ctx := mortal{context.Background(), &n}
	var err error
	if f[0] == "send" {
		_, err = Send(ctx, Settings{Out: f[2], Parity: 40, ShardSize: 32 << 10, Repeat: 2}, []string{f[3]})
	} else {
		var r *Receiver
		if r, err = Open(f[3], 0); err == nil {
			_, err = r.Collect(ctx, f[2], needed)
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// TestKilledSendingAndCollecting kills both ends with SIGKILL at every point where they look up, one after the other, runs them
// again, and finds the one volume there is. Whatever a killed sender shows is a whole shard; whatever a killed receiver shows is
// the whole volume.
func TestKilledSendingAndCollecting(t *testing.T) {
	l := newLine(t)
	data := randomBytes(5, 700_000)
	v := l.volume("v.001.rdp", data)
	run := func(what string, n int, folder, other string) bool {
		t.Helper()
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL="+strings.Join([]string{what, strconv.Itoa(n), folder, other}, "\t"))
		out, err := cmd.CombinedOutput()
		if exit, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); ok && exit.Signaled() && exit.Signal() == syscall.SIGKILL {
			return false
		}
		if err != nil {
			t.Fatalf("%s, run %d: %v: %s", what, n, err, out)
		}
		return true
	}
	kills := 0
	for n := 1; !run("send", n, l.out, v); n += 1 + n/6 {
		kills++
		for _, name := range l.shards() {
			if strings.HasPrefix(name, ".") {
				continue
			}
			f, err := os.Open(filepath.Join(l.out, name))
			if err != nil {
				t.Fatal(err)
			}
			h, err := ReadHeader(f)
			f.Close()
			st, _ := os.Stat(filepath.Join(l.out, name))
			if err != nil || h.length() != st.Size() || h.Volume != sha256.Sum256(data) {
				t.Fatalf("a killed sender shows %s: %v", name, err)
			}
		}
	}
	l.r.Close()
	all := l.shards()
	if len(all) != 62 || strings.HasPrefix(all[0], ".") {
		t.Fatalf("%d shards: %v", len(all), all[0])
	}
	for i := 9; i < 31; i++ {
		l.pass(all[2*i]) // one of the two copies
	}
	work := filepath.Join(l.dir, "received")
	for n := 1; !run("collect", n, l.in, work); n += 1 + n/6 {
		kills++
		got, err := os.ReadFile(filepath.Join(work, fileName(sha256.Sum256(data))))
		if err == nil && !bytes.Equal(got, data) {
			t.Fatal("a killed receiver shows another volume")
		}
	}
	l.reopen()
	l.holds(l.collect(), data)
	if list, _ := os.ReadDir(work); len(list) != 1 {
		t.Fatalf("something was left behind: %v", list)
	}
	if kills < 20 {
		t.Fatalf("only %d kills", kills)
	}
	t.Logf("%d kills", kills)
}
