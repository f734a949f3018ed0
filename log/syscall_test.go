package log

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log/store/bolt"
)

// makeVictim creates an empty log for victim to append to.
func makeVictim(t *testing.T, dir string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "key"), der, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Create(filepath.Join(dir, "log.db"))
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	c, closeAll, err := openVictim(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer closeAll()
	if err := Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
}

// Single system calls of a log under load fail, one at a time, or kill it: nothing acknowledged is lost, nothing is signed
// after a failed flush, and after an operator's Resume the log is whole.
func TestTortureSystemCalls(t *testing.T) {
	t.Parallel()
	if out, err := exec.Command("strace", "-qq", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: this machine lets no test inject faults with strace: %v %s", err, out)
	}
	points := []int{3, 30}
	if os.Getenv("REDOUBT_TORTURE") != "" {
		points = nil
		for k := 1; k <= 50; k++ {
			points = append(points, k)
		}
	}
	runs, acked, halted, lost := 0, 0, 0, 0
	for _, fault := range []string{"pwrite64:error=EIO", "pwrite64:error=ENOSPC", "pwrite64:signal=KILL", "fdatasync:error=EIO", "fdatasync:error=ENOSPC", "fdatasync:signal=KILL"} {
		for _, k := range points {
			runs++
			dir := t.TempDir()
			makeVictim(t, dir)
			acks := faulted(t, dir, fmt.Sprintf("%s:when=%d", fault, k))
			acked += len(acks)
			c, closeAll, err := openVictim(dir)
			if err != nil {
				t.Fatalf("%s at %d: %v", fault, k, err)
			}
			l, err := Open(t.Context(), c)
			if err != nil {
				t.Fatalf("%s at %d: %v", fault, k, err)
			}
			if l.Err() != nil {
				halted++
				if !strings.Contains(fault, "error") {
					t.Errorf("%s at %d: %v", fault, k, l.Err())
				}
				l.leaves.await()
				if _, err := Resume(context.Background(), c); err != nil {
					t.Fatalf("%s at %d: %v", fault, k, err)
				}
			}
			closeAll()
			a, b := checkAcks(t, dir, acks, false)
			lost += a + b
			a, b = checkAcks(t, dir, acks, true)
			lost += a + b
		}
	}
	t.Logf("%d faults in system calls, %d acknowledged entries, %d logs halted until resumed, %d lost", runs, acked, halted, lost)
	if lost != 0 || acked == 0 || halted == 0 {
		t.Fail()
	}
}

// faulted runs the victim with one fault until it ends by it, and returns what it acknowledged. A busy machine takes seconds for what
// an idle one does in a tenth.
func faulted(t *testing.T, dir, inject string) []ack {
	t.Helper()
	name, _, _ := strings.Cut(inject, ":")
	cmd := exec.Command("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace="+name, "-e", "inject="+inject, os.Args[0])
	cmd.Env = append(os.Environ(), "LOG_TEST_VICTIM="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(30*time.Second, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer timer.Stop()
	var acks []ack
	for in := bufio.NewScanner(out); in.Scan(); {
		var a ack
		if n, _ := fmt.Sscanf(in.Text(), "ack %d %d %s %s", &a.index, &a.size, &a.root, &a.leaf); n == 4 && len(a.leaf) == 64 {
			acks = append(acks, a)
		}
	}
	cmd.Wait()
	return acks
}
