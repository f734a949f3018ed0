package hsm

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func laterKey(t *testing.T, private *ecdsa.PrivateKey) *Key {
	t.Helper()
	k, err := NewKey(Info{URI: "test:opened", Kind: "test"}, private.Public(), func(_ context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return private.Sign(rand.Reader, digest, opts)
	})
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// TestLater: the key is known before its token is asked, says why it does not sign while the token is away, is not dialled by everybody,
// and signs when the token is back.
func TestLater(t *testing.T) {
	bubble(t, func(t *testing.T) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		var opened atomic.Int32
		var there atomic.Bool
		away := errors.New("nobody answers")
		k, err := Later(Info{URI: "test:recorded", Kind: "test"}, private.Public(), func(context.Context) (*Key, error) {
			opened.Add(1)
			if !there.Load() {
				return nil, away
			}
			return laterKey(t, private), nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !private.PublicKey.Equal(k.Public()) || k.Info().URI != "test:recorded" || k.Info().Algorithm != ECDSAP256 || opened.Load() != 0 {
			t.Fatalf("%+v, opened %d times", k.Info(), opened.Load())
		}
		for range 5 {
			if err := k.Check(t.Context()); !errors.Is(err, ErrUnavailable) || !errors.Is(err, away) || strings.Count(err.Error(), "signing with") != 1 {
				t.Errorf("away: %v", err)
			}
		}
		if opened.Load() != 1 {
			t.Errorf("opened %d times within a second", opened.Load())
		}
		there.Store(true)
		if err := k.Check(t.Context()); !errors.Is(err, away) {
			t.Errorf("at once: %v", err)
		}
		time.Sleep(openAgainAfter)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				if err := k.Check(t.Context()); err != nil {
					t.Errorf("back: %v", err)
				}
			})
		}
		all.Wait()
		if opened.Load() != 2 {
			t.Errorf("opened %d times", opened.Load())
		}
		if _, err := k.Attest(t.Context(), nil); !errors.Is(err, ErrUnsupported) {
			t.Errorf("attesting: %v", err)
		}
	})
}

// TestLaterAnotherKey: what the token answers with is compared with the record, and another key never signs.
func TestLaterAnotherKey(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	k, err := Later(Info{URI: "test:recorded"}, private.Public(), func(context.Context) (*Key, error) { return laterKey(t, other), nil })
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []*Key{k, k.Unverified()} {
		if err := k.Check(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "not the one on record") {
			t.Errorf("%v", err)
		}
	}
}

// TestLaterWaits: a caller's context ends its wait for another's attempt.
func TestLaterWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		release := make(chan struct{})
		k, err := Later(Info{URI: "test:recorded"}, private.Public(), func(context.Context) (*Key, error) { <-release; return laterKey(t, private), nil })
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- k.Check(t.Context()) }()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := k.Check(ctx); !errors.Is(err, ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("waiting: %v", err)
		}
		close(release)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// bubble runs f under a clock of its own. In FIPS 140-3 mode randomness begins with measurements of the real one.
func bubble(t *testing.T, f func(*testing.T)) {
	if fips140.Enabled() {
		t.Skip("FIPS 140-3 mode: the cryptographic module's entropy source needs real time")
	}
	synctest.Test(t, f)
}
