package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// TestRotateKey: at every step of two rotations clients of every age follow, and a restart finds the state it left.
func TestRotateKey(t *testing.T) {
	ctx := context.Background()
	m := newMaterial(t)
	r, c := newRepo(t, m, time.Now)
	first := r.Root()
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	old, regular := c, t.TempDir()
	follow := func(at string) {
		t.Helper()
		for name, dir := range map[string]string{"a client of the first root": t.TempDir(), "one that was there at each step": regular} {
			u := client(t, srv.URL, dir, first)
			if err := u.Refresh(); err != nil {
				t.Fatalf("%s: %s: %v", at, name, err)
			}
			info, err := u.GetTargetInfo(TrustedRootName)
			if err != nil {
				t.Fatalf("%s: %s: %v", at, name, err)
			}
			if _, _, err := u.DownloadTarget(info, "", ""); err != nil {
				t.Fatalf("%s: %s: %v", at, name, err)
			}
		}
		if _, err := Open(c); err != nil {
			t.Fatalf("%s: after a restart: %v", at, err)
		}
	}
	keys := func() int {
		root, err := (&metadata.Metadata[metadata.RootType]{}).FromBytes(r.Root())
		if err != nil {
			t.Fatal(err)
		}
		return len(root.Signed.Keys)
	}
	follow("before")
	for range 2 {
		next := newKey(t)
		var err error
		for range 2 { // the second does nothing
			if err := r.Introduce(ctx, next); err != nil {
				t.Fatal(err)
			}
		}
		if keys() != 2 || !r.Shared() {
			t.Fatalf("%d keys after Introduce", keys())
		}
		follow("introduced")
		old, c.Signer = c, next
		if r, err = Open(c); err != nil {
			t.Fatal(err)
		}
		if err := r.Renew(ctx); err != nil { // a server that was started between the two
			t.Fatal(err)
		}
		follow("renewed by the new key")
		for range 2 {
			if err := r.Settle(ctx); err != nil {
				t.Fatal(err)
			}
		}
		if keys() != 1 || r.Shared() {
			t.Fatalf("%d keys after Settle", keys())
		}
		follow("settled")
		if _, err := Open(old); !errors.Is(err, ErrKey) {
			t.Fatalf("the old key opens the repository: %v", err)
		}
	}
	if got := r.Status()[3].Version; got != 5 {
		t.Errorf("root %d after two rotations, want 5", got)
	}
}

// TestInterruptedSettle: a crash before each file of Settle leaves a repository clients take and Settle completes.
func TestInterruptedSettle(t *testing.T) {
	ctx := context.Background()
	r, c := newRepo(t, newMaterial(t), time.Now)
	first, next := r.Root(), newKey(t)
	if err := r.Introduce(ctx, next); err != nil {
		t.Fatal(err)
	}
	c.Signer = next
	for allowed := 0; ; allowed++ {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(c.Dir)); err != nil {
			t.Fatal(err)
		}
		broken := c
		signs := 0
		broken.Dir = dir
		broken.Signer = signerFunc{next.Public(), func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
			if signs++; signs > allowed {
				return nil, errors.New("token gone")
			}
			return next.Sign(rand.Reader, digest, opts)
		}}
		r, err := Open(broken)
		if err != nil {
			t.Fatal(err)
		}
		interrupted := r.Settle(ctx)
		srv := httptest.NewServer(r.Handler())
		if err := client(t, srv.URL, t.TempDir(), first).Refresh(); err != nil {
			t.Fatalf("after %d signatures: %v", allowed, err)
		}
		broken.Signer = next
		if r, err = Open(broken); err != nil {
			t.Fatalf("after %d signatures: %v", allowed, err)
		}
		if err := r.Settle(ctx); err != nil || r.Shared() {
			t.Fatalf("after %d signatures: %v", allowed, err)
		}
		if err := client(t, srv.URL, t.TempDir(), first).Refresh(); err != nil {
			t.Fatalf("after %d signatures and the rest: %v", allowed, err)
		}
		srv.Close()
		if interrupted == nil {
			if allowed != 4 {
				t.Errorf("Settle made %d signatures, want 4", allowed)
			}
			return
		}
	}
}

// TestIntroduceRefuses: a key that does not sign, or is of another kind, changes nothing.
func TestIntroduceRefuses(t *testing.T) {
	r, c := newRepo(t, newMaterial(t), time.Now)
	before := r.Root()
	dead := signerFunc{newKey(t).Public(), func([]byte, crypto.SignerOpts) ([]byte, error) { return nil, errors.New("token gone") }}
	if err := r.Introduce(context.Background(), dead); err == nil {
		t.Error("introduced a key that does not sign")
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Introduce(context.Background(), p384); !errors.Is(err, ErrKey) {
		t.Errorf("a P-384 key: %v", err)
	}
	if _, err := os.Stat(filepath.Join(c.Dir, "2.root.json")); err == nil || !bytes.Equal(before, r.Root()) {
		t.Error("a root was made")
	}
	if err := r.Introduce(context.Background(), newKey(t)); err != nil {
		t.Errorf("after that: %v", err)
	}
}

// signerFunc is a key whose signatures a test makes.
type signerFunc struct {
	public crypto.PublicKey
	sign   func(digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

func (s signerFunc) Public() crypto.PublicKey { return s.public }
func (s signerFunc) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return s.sign(digest, opts)
}
