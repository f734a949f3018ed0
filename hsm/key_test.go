package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var sum = sha256.Sum256([]byte("m"))

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type signFunc = func(context.Context, []byte, crypto.SignerOpts) ([]byte, error)

func newKey(t testing.TB, pub crypto.PublicKey, sign signFunc) *Key {
	t.Helper()
	k, err := NewKey(Info{URI: "test:k"}, pub, sign)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// A token that returns something else than its key's signature is caught.
func TestBadSignatureNeverLeaves(t *testing.T) {
	right, wrong := ecKey(t), ecKey(t)
	other := sha256.Sum256([]byte("another message"))
	for name, sign := range map[string]signFunc{
		"another key": func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
			return wrong.Sign(rand.Reader, d, o)
		},
		"another message": func(_ context.Context, _ []byte, o crypto.SignerOpts) ([]byte, error) {
			return right.Sign(rand.Reader, other[:], o)
		},
		"nothing": func(context.Context, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil },
		"noise":   func(context.Context, []byte, crypto.SignerOpts) ([]byte, error) { return make([]byte, 70), nil },
	} {
		key := newKey(t, right.Public(), sign)
		if sig, err := key.Sign(nil, sum[:], crypto.SHA256); !errors.Is(err, ErrBadSignature) || sig != nil {
			t.Errorf("%s: %x, %v", name, sig, err)
		}
		if err := key.Check(t.Context()); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: Check says %v", name, err)
		}
		if err := key.Unverified().Check(t.Context()); !errors.Is(err, ErrBadSignature) {
			t.Errorf("%s: Check of the unverified key says %v", name, err)
		}
	}
}

// A RSA signature over a DigestInfo without its prefix is the fault a real
// token showed.
func TestMissingDigestInfoIsCaught(t *testing.T) {
	k, err := rsa.GenerateKey(rand.Reader, 3072)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t, k.Public(), func(_ context.Context, d []byte, o crypto.SignerOpts) (sig []byte, err error) {
		fips140.WithoutEnforcement(func() { sig, err = rsa.SignPKCS1v15(rand.Reader, k, 0, d) }) // as a faulty token would
		return sig, err
	})
	if _, err := key.Sign(nil, sum[:], crypto.SHA256); !errors.Is(err, ErrBadSignature) {
		t.Errorf("got %v", err)
	}
}

func TestTimeoutIsUnavailable(t *testing.T) {
	k := ecKey(t)
	key := newKey(t, k.Public(), func(ctx context.Context, _ []byte, _ crypto.SignerOpts) ([]byte, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}).WithTimeout(time.Millisecond)
	if _, err := key.Sign(nil, sum[:], crypto.SHA256); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestNewKeyRefuses(t *testing.T) {
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	small, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(context.Context, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil }
	for name, pub := range map[string]crypto.PublicKey{"P-224": p224.Public(), "RSA-2048": small.Public(), "nil": nil, "a private key": ecKey(t)} {
		if _, err := NewKey(Info{}, pub, sign); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := NewKey(Info{Algorithm: ECDSAP384}, ecKey(t).Public(), sign); !errors.Is(err, ErrUnsupported) {
		t.Errorf("another algorithm than said: %v", err)
	}
	if _, err := NewKey(Info{}, ecKey(t).Public(), nil); err == nil {
		t.Error("took a key that cannot sign")
	}
}

func TestEd25519IsOverMessages(t *testing.T) {
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t, pub, func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) { return priv.Sign(nil, d, o) })
	for _, opts := range []crypto.SignerOpts{crypto.SHA256, crypto.SHA512, &ed25519.Options{Hash: crypto.SHA512}, &ed25519.Options{Context: "x"}} {
		if _, err := key.Sign(nil, sum[:], opts); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%v: %v", opts, err)
		}
	}
}

// What a caller does to its copy of Info does not reach the key.
func TestInfoIsACopy(t *testing.T) {
	k := ecKey(t)
	key, err := NewKey(Info{Attributes: map[string]string{"a": "1"}, Evidence: []string{"e"}}, k.Public(), func(context.Context, []byte, crypto.SignerOpts) ([]byte, error) { return nil, nil })
	if err != nil {
		t.Fatal(err)
	}
	info := key.Info()
	info.Attributes["a"], info.Evidence[0] = "2", "x"
	if again := key.Info(); again.Attributes["a"] != "1" || again.Evidence[0] != "e" {
		t.Errorf("got %+v", again)
	}
}

func TestReadPrivate(t *testing.T) {
	dir := t.TempDir()
	file := func(mode os.FileMode) string {
		p := filepath.Join(dir, mode.String())
		if err := os.WriteFile(p, []byte("secret\r\n"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for mode, ok := range map[os.FileMode]bool{0o600: true, 0o400: true, 0o640: false, 0o604: false, 0o660: false, 0o601: false} {
		_, err := ReadPrivate(file(mode), 100)
		if ok != (err == nil) || err != nil && !errors.Is(err, ErrInsecureKey) {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	if got, err := ReadSecret(file(0o600), 100); err != nil || string(got) != "secret" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := ReadPrivate(file(0o600), 7); err == nil || !strings.Contains(err.Error(), "limit 7") {
		t.Errorf("too long: %v", err)
	}
	if _, err := ReadPrivate(filepath.Join(dir, "absent"), 7); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("absent: %v", err)
	}
	if _, err := ReadPrivate(dir, 7); err == nil {
		t.Error("read a directory")
	}
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if _, err := ReadPrivate(file(0o440), 100); err != nil {
		t.Errorf("credential: %v", err)
	}
	if _, err := ReadPrivate(file(0o444), 100); !errors.Is(err, ErrInsecureKey) {
		t.Errorf("credential open to all: %v", err)
	}
	for _, name := range []string{"", "..", "a/b"} {
		if _, err := CredentialPath(name); err == nil {
			t.Errorf("took credential name %q", name)
		}
	}
}

func BenchmarkVerifyOverhead(b *testing.B) {
	k := ecKey(b)
	key := newKey(b, k.Public(), func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
		return k.Sign(rand.Reader, d, o)
	})
	for name, signer := range map[string]crypto.Signer{"bare": k, "key": key, "unverified": key.Unverified()} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if _, err := signer.Sign(rand.Reader, sum[:], crypto.SHA256); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// Any digest and any options yield a verified signature or an error.
func FuzzSignOptions(f *testing.F) {
	k := ecKey(f)
	key := newKey(f, k.Public(), func(_ context.Context, d []byte, o crypto.SignerOpts) ([]byte, error) {
		return k.Sign(rand.Reader, d, o)
	})
	f.Add(sum[:], uint8(crypto.SHA256), false)
	f.Add([]byte{}, uint8(0), true)
	f.Fuzz(func(t *testing.T, digest []byte, hash uint8, pss bool) {
		var opts crypto.SignerOpts = crypto.Hash(hash % 24)
		if pss {
			opts = &rsa.PSSOptions{Hash: crypto.Hash(hash % 24)}
		}
		sig, err := key.Sign(nil, digest, opts)
		if err == nil && (len(digest) != opts.HashFunc().Size() || !ecdsa.VerifyASN1(&k.PublicKey, digest, sig) || bytes.Equal(sig, nil)) {
			t.Fatalf("signed %x under %v", digest, opts)
		}
	})
}
