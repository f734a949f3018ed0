package worker

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

var digest = sha256.Sum256([]byte("worker"))

// A token behind a pipe is a token: the conformance test of every kind.
func TestConformance(t *testing.T) {
	b := newFake(t)
	hsmtest.Run(t, hsmtest.Kind{
		Open:       func(t testing.TB) hsm.Token { tok, err := Open(b.config); must(t, err); return tok },
		URI:        func(name string) string { return "fake:" + name },
		Algorithms: []hsm.Algorithm{hsm.ECDSAP256},
	})
}

func generate(t testing.TB, tok *Token, name string) *hsm.Key {
	t.Helper()
	key, err := tok.Generate(t.Context(), "fake:"+name, hsm.ECDSAP256)
	must(t, err)
	return key
}

// A crash of the driver is ErrUnavailable with the signal's name, and the next
// child serves the same key.
func TestCrash(t *testing.T) {
	b := newFake(t)
	key := generate(t, b.open(t), "k")
	first := b.pid(t)
	b.faults(t, "crash")
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable, "ended by itself", "segmentation")
	b.faults(t, "")
	t.Logf("healed within %s", heals(t, key))
	if b.pid(t) == first {
		t.Error("the child is still the first")
	}
}

// A child that is killed from outside costs nobody a failure: the signature is
// asked for once more.
func TestKilledChildIsReplacedUnseen(t *testing.T) {
	b := newFake(t)
	key := generate(t, b.open(t), "k")
	for range 3 {
		var pid int
		_, err := fmt.Sscan(b.pid(t), &pid)
		must(t, err)
		must(t, syscall.Kill(pid, syscall.SIGKILL))
		must(t, key.Check(t.Context()))
	}
}

// A hung call is answered within the deadline, whether the driver notices or
// not, the child is killed, and one caller starts the next for all.
func TestHungCall(t *testing.T) {
	for _, fault := range []string{"held", "deaf"} {
		t.Run(fault, func(t *testing.T) {
			b := newFake(t)
			tok := b.open(t)
			key := generate(t, tok, "k")
			b.faults(t, fault)
			var wg sync.WaitGroup
			began := time.Now()
			for range 16 {
				wg.Go(func() {
					_, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
					failsWith(t, err, hsm.ErrUnavailable)
				})
			}
			wg.Wait()
			took := time.Since(began)
			t.Logf("16 callers answered within %s, the bound is %s", took, b.config.Timeout)
			if took > 20*b.config.Timeout {
				t.Errorf("answered after %s", took)
			}
			b.faults(t, "")
			t.Logf("healed within %s", heals(t, key))
			tok.mu.Lock()
			starts := tok.starts
			tok.mu.Unlock()
			if starts > 4 { // the first, and one or two while the fault stood
				t.Errorf("%d starts", starts)
			}
		})
	}
}

// A caller in a hurry leaves alone: the child is not killed for it.
func TestHurriedCallerLeavesTheChildAlone(t *testing.T) {
	b := newFake(t)
	b.config.Timeout = time.Hour
	key := generate(t, b.open(t), "k")
	pid := b.pid(t)
	b.faults(t, "slow")
	for range 20 {
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		_, err := key.SignContext(ctx, digest[:], crypto.SHA256)
		cancel()
		failsWith(t, err, hsm.ErrUnavailable)
		failsWith(t, err, context.DeadlineExceeded)
	}
	must(t, key.Check(t.Context()))
	if b.pid(t) != pid {
		t.Error("the child was replaced")
	}
}

// Under its name there is now another key: it does not sign in its place.
func TestReplacedKeyIsRefused(t *testing.T) {
	b := newFake(t)
	tok := b.open(t)
	key := generate(t, tok, "k")
	must(t, os.Remove(filepath.Join(b.dir, "k.key")))
	other := generate(t, tok, "k")
	must(t, key.Check(t.Context())) // this child still has the old one open
	b.faults(t, "crash")
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
	b.faults(t, "")
	heals(t, other)
	err := key.Check(t.Context())
	failsWith(t, err, hsm.ErrUnavailable, "another public key")
	failsWith(t, err, hsm.ErrInsecureKey)
}

func TestWrongSignatureIsCaughtInTheParent(t *testing.T) {
	b := newFake(t)
	key := generate(t, b.open(t), "k")
	b.faults(t, "flip")
	failsWith(t, key.Check(t.Context()), hsm.ErrBadSignature)
}

// What opening fails with crosses the pipe, at the first start and later.
func TestOpenErrors(t *testing.T) {
	b := newFake(t)
	b.faults(t, "bad-pin")
	_, err := Open(b.config)
	failsWith(t, err, hsm.ErrBadPIN, "the fake says")
	b.faults(t, "")
	key := generate(t, b.open(t), "k")
	b.faults(t, "crash bad-pin")
	for range 3 {
		err = key.Check(t.Context())
		failsWith(t, err, hsm.ErrUnavailable)
	}
	failsWith(t, err, hsm.ErrBadPIN)
	b.faults(t, "")
	heals(t, key)

	for name, path := range map[string]string{"nothing": "", "relative": "redoubt", "absent": "/nonexistent/redoubt", "one that says nothing": "/bin/true"} {
		c := b.config
		c.Path = path
		if _, err := Open(c); err == nil {
			t.Errorf("started %s", name)
		} else {
			t.Logf("%s: %v", name, err)
		}
	}
}

// Opening may hang as well; callers get their answer meanwhile.
func TestHungOpen(t *testing.T) {
	b := newFake(t)
	tok := b.open(t)
	key := generate(t, tok, "k")
	tok.mu.Lock()
	tok.bound = 300 * time.Millisecond
	tok.mu.Unlock()
	b.faults(t, "crash open-hangs")
	for range 3 {
		failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
	}
	b.faults(t, "")
	heals(t, key)
}

// Start does not wait, the calls do, each as long as it may; Close ends a start
// under way.
func TestStartDoesNotWait(t *testing.T) {
	b := newFake(t)
	b.faults(t, "open-hangs")
	tok, err := Start(b.config)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err = tok.Signer(ctx, "fake:k")
	failsWith(t, err, hsm.ErrUnavailable, "waiting for the token worker to start")
	began := time.Now()
	must(t, tok.Close())
	if took := time.Since(began); took > openTimeout/2 {
		t.Errorf("Close took %s", took)
	}
	b.faults(t, "bad-pin")
	tok, err = Start(b.config)
	must(t, err)
	defer tok.Close()
	_, err = tok.Signer(t.Context(), "fake:k")
	failsWith(t, err, hsm.ErrBadPIN)
}

// The child has the variables it was given, no other descriptor than its own,
// nothing in its arguments, a group of its own and this process as parent.
func TestChildIsBare(t *testing.T) {
	t.Setenv("WORKER_TEST_GIVEN", "1")
	t.Setenv("WORKER_TEST_PREFIX_A", "2")
	t.Setenv("WORKER_TEST_SECRET", "3")
	leak, err := unix.Open("/dev/null", unix.O_RDONLY, 0) // without close-on-exec, as a service manager hands them down
	must(t, err)
	defer unix.Close(leak)
	high, err := unix.FcntlInt(uintptr(leak), unix.F_DUPFD, 200)
	must(t, err)
	defer unix.Close(high)
	b := newFake(t)
	b.config.Env = []string{"WORKER_TEST_GIVEN", "WORKER_TEST_PREFIX*", "*", "", "WORKER_TEST_ABSENT"}
	must(t, generate(t, b.open(t), "k").Check(t.Context()))
	proc := filepath.Join("/proc", b.pid(t))
	// The child tells itself what only it may see.
	env, err := os.ReadFile(filepath.Join(b.dir, "environ"))
	must(t, err)
	if got := strings.Split(string(env), "\n"); len(got) != 2 || !bytes.Contains(env, []byte("GIVEN=1")) || !bytes.Contains(env, []byte("PREFIX_A=2")) {
		t.Errorf("environment %q", got)
	}
	if _, err := os.ReadFile(filepath.Join(proc, "environ")); err == nil && os.Getuid() != 0 {
		t.Error("another process of the same user may look into the child")
	}
	args, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	must(t, err)
	if !strings.HasSuffix(string(args), "\x00"+childArg+"\x00") || strings.Contains(string(args), b.dir) {
		t.Errorf("arguments %q", args)
	}
	fds, err := os.ReadFile(filepath.Join(b.dir, "descriptors"))
	must(t, err)
	if len(fds) == 0 {
		t.Error("the child could not list its descriptors")
	}
	for line := range strings.Lines(string(fds)) {
		fd, target, _ := strings.Cut(strings.TrimSpace(line), " ")
		// The Go runtime watches its cgroup's limits; the last one is the listing itself.
		known := target == "" || strings.HasPrefix(target, "/proc/") && strings.HasSuffix(target, "/fd")
		for _, prefix := range []string{"/sys/fs/cgroup/", "pipe:", "socket:", "anon_inode:"} {
			known = known || strings.HasPrefix(target, prefix)
		}
		if !known && (target != "/dev/null" || fd != "0") {
			t.Errorf("descriptor %s is %s", fd, target)
		}
	}
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	must(t, err)
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	if fields[1] != fmt.Sprint(os.Getpid()) || fields[2] != b.pid(t) {
		t.Errorf("parent %s, group %s of %s", fields[1], fields[2], b.pid(t))
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	must(t, err)
	if !bytes.Contains(limits, []byte("Max core file size        0                    0")) {
		t.Errorf("core dumps are allowed:\n%s", limits)
	}
}

// What a module prints reaches the logger and never the pipe.
func TestPrintedTextIsLogged(t *testing.T) {
	b := newFake(t)
	log := &testLog{t: t}
	b.config.Logger = newLogger(log)
	b.faults(t, "noise")
	must(t, generate(t, b.open(t), "k").Check(t.Context()))
	for began := time.Now(); !strings.Contains(log.String(), "noise on stdout") || !strings.Contains(log.String(), "noise on stderr"); time.Sleep(time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatalf("log: %s", log)
		}
	}
}

// Close ends the child, also one that hangs, and everything after it fails.
func TestCloseEndsTheChild(t *testing.T) {
	b := newFake(t)
	tok := b.open(t)
	key := generate(t, tok, "k")
	pid := b.pid(t)
	must(t, tok.Close())
	must(t, tok.Close())
	if _, err := os.Stat("/proc/" + pid); err == nil {
		t.Error("the child is still there")
	}
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable, "closed")
	_, err := tok.Signer(t.Context(), "fake:k")
	failsWith(t, err, hsm.ErrUnavailable)
}

// The child ends when the thread, and so the process, of its parent ends: seen
// through a parent that is killed.
func TestChildDiesWithItsParent(t *testing.T) {
	b := newFake(t)
	parent := startParent(t, b)
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(filepath.Join(b.dir, "pid")); err == nil {
			break
		}
		if time.Since(began) > 20*time.Second {
			t.Fatal("the parent started no child")
		}
	}
	time.Sleep(20 * time.Millisecond)
	pid := b.pid(t)
	must(t, parent.Process.Kill())
	_ = parent.Wait()
	for began := time.Now(); ; time.Sleep(5 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			return
		}
		if time.Since(began) > 20*time.Second {
			t.Fatalf("the child lives on: %s", stat)
		}
	}
}
