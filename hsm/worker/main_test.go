package worker

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// The test binary is its own child: started with childArg it serves a token as
// testConfig says.
const childArg = "serve-a-token"

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == childArg {
		os.Exit(child())
	}
	if len(os.Args) == 3 && os.Args[1] == parentArg {
		os.Exit(parent(os.Args[2]))
	}
	code := m.Run()
	if shimDir != "" {
		_ = os.RemoveAll(shimDir)
	}
	os.Exit(code)
}

// testConfig is what the children of the tests are told.
type testConfig struct {
	Dir    string // of the fake token: its keys and its faults
	PKCS11 *pkcs11Config
}

func child() int {
	conn, err := ChildConn()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	err = Serve(context.Background(), conn, conn, func(ctx context.Context, config []byte) (hsm.Token, error) {
		var c testConfig
		if err := json.Unmarshal(config, &c); err != nil {
			return nil, err
		}
		if c.PKCS11 != nil {
			return c.PKCS11.open(ctx)
		}
		return openFake(c.Dir)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// parentArg makes the test binary the parent of a child, until it is killed.
const parentArg = "be-a-parent"

func parent(dir string) int {
	self, err := os.Executable()
	if err == nil {
		config, _ := json.Marshal(testConfig{Dir: dir})
		_, err = Open(Config{Path: self, Args: []string{"worker.test", childArg}, Config: config})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	select {}
}

func startParent(t testing.TB, b *bench) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(b.config.Path, parentArg, b.dir)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	return cmd
}

func newLogger(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// fake is a token of files: DIR/NAME is a key. The file DIR/faults holds the
// words of what goes wrong.
type fake struct {
	dir    string
	mu     sync.Mutex
	closed bool
}

func openFake(dir string) (hsm.Token, error) {
	f := &fake{dir: dir}
	_ = os.WriteFile(filepath.Join(dir, "environ"), []byte(strings.Join(os.Environ(), "\n")), 0o600)
	if entries, err := os.ReadDir("/proc/self/fd"); err == nil {
		var list strings.Builder
		for _, e := range entries {
			target, _ := os.Readlink("/proc/self/fd/" + e.Name())
			fmt.Fprintf(&list, "%s %s\n", e.Name(), target)
		}
		_ = os.WriteFile(filepath.Join(dir, "descriptors"), []byte(list.String()), 0o600)
	}
	_ = os.WriteFile(filepath.Join(dir, "pid"), fmt.Append(nil, os.Getpid()), 0o600)
	switch {
	case f.fault("bad-pin"):
		return nil, fmt.Errorf("the fake says: %w", hsm.ErrBadPIN)
	case f.fault("away"):
		return nil, fmt.Errorf("the fake is away: %w", hsm.ErrUnavailable)
	case f.fault("open-hangs"):
		time.Sleep(time.Hour)
	case f.fault("noise"):
		fmt.Println("noise on stdout")
		fmt.Fprintln(os.Stderr, "noise on stderr")
	}
	return f, nil
}

func (f *fake) fault(word string) bool {
	b, _ := os.ReadFile(filepath.Join(f.dir, "faults"))
	return strings.Contains(string(b), word)
}

func (f *fake) path(uri string) (string, error) {
	name, ok := strings.CutPrefix(uri, "fake:")
	if !ok || name == "" || strings.ContainsAny(name, "/\x00") {
		return "", fmt.Errorf("URI %.20q: %w", uri, hsm.ErrUnsupported)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return "", hsm.ErrUnavailable
	}
	return filepath.Join(f.dir, name+".key"), nil
}

func (f *fake) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	path, err := f.path(uri)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrNotFound, err)
	}
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), data)
	if err != nil {
		return nil, err
	}
	info := hsm.Info{URI: uri, Kind: "fake", Evidence: []string{"none"}, Attributes: map[string]string{"a": "b"}}
	return hsm.NewKey(info, k.Public(), func(ctx context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
		switch f.mu.Lock(); {
		case f.closed:
			f.mu.Unlock()
			return nil, hsm.ErrUnavailable
		default:
			f.mu.Unlock()
		}
		switch {
		case f.fault("crash"):
			_ = syscall.Kill(os.Getpid(), syscall.SIGSEGV)
			time.Sleep(time.Hour)
		case f.fault("held"): // a driver that says so at the deadline
			<-ctx.Done()
			return nil, fmt.Errorf("%w: %w", ctx.Err(), hsm.ErrHung)
		case f.fault("deaf"): // one that does not even see its deadline
			time.Sleep(time.Hour)
		case f.fault("slow"):
			time.Sleep(5 * time.Millisecond)
		case f.fault("flip"):
			sig, err := k.Sign(rand.Reader, d, o)
			sig[len(sig)-1] ^= 1
			return sig, err
		}
		return k.Sign(rand.Reader, d, o)
	})
}

func (f *fake) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	if alg != hsm.ECDSAP256 {
		return nil, fmt.Errorf("algorithm %q: %w", alg, hsm.ErrUnsupported)
	}
	path, err := f.path(uri)
	if err != nil {
		return nil, err
	}
	if ctx.Err() != nil {
		return nil, hsm.ErrUnavailable
	}
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	raw, err := k.Bytes()
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrExists, err)
	}
	_, err = file.Write(raw)
	if err := errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	return f.Signer(ctx, uri)
}

func (f *fake) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	return nil
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bench is the parent's end of a fake token.
type bench struct {
	dir    string
	config Config
}

func newFake(t testing.TB) *bench {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	dir := t.TempDir()
	config, err := json.Marshal(testConfig{Dir: dir})
	must(t, err)
	return &bench{dir, Config{Path: self, Args: []string{"worker.test", childArg}, Config: config, Timeout: 400 * time.Millisecond, Logger: newLogger(&testLog{t: t})}}
}

// testLog passes the logger's lines to the test while it runs.
type testLog struct {
	t  testing.TB
	mu sync.Mutex
	b  strings.Builder
}

func (l *testLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *testLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (b *bench) faults(t testing.TB, words string) {
	t.Helper()
	must(t, os.WriteFile(filepath.Join(b.dir, "new"), []byte(words), 0o600))
	must(t, os.Rename(filepath.Join(b.dir, "new"), filepath.Join(b.dir, "faults")))
}

func (b *bench) open(t testing.TB) *Token {
	t.Helper()
	tok, err := Open(b.config)
	must(t, err)
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

// pid of the child that opened last.
func (b *bench) pid(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "pid"))
	must(t, err)
	return string(data)
}

// failsWith checks an error and that it names every part.
func failsWith(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("error %q does not say %q", err, p)
		}
	}
}

// heals waits until the key signs again.
func heals(t testing.TB, key *hsm.Key) time.Duration {
	t.Helper()
	took := heal(t, key)
	if t.Failed() {
		t.FailNow()
	}
	return took
}

// heal is heals for goroutines.
func heal(t testing.TB, key *hsm.Key) time.Duration {
	began := time.Now()
	err := key.Check(t.Context())
	for err != nil && time.Since(began) < 30*time.Second {
		time.Sleep(5 * time.Millisecond)
		err = key.Check(t.Context())
	}
	if err != nil {
		t.Errorf("did not heal: %v", err)
	}
	return time.Since(began)
}
