package rekor_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"errors"
	"io"
	"sync/atomic"
	"testing"
)

// flaky is a token that can be pulled out.
type flaky struct {
	*ecdsa.PrivateKey
	out atomic.Bool
}

func (k *flaky) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.out.Load() {
		return nil, errors.New("the token is not there")
	}
	return k.PrivateKey.Sign(r, digest, o)
}

// TestTokenPulledOut: without its key the log answers 503 and says why, serves what needs no signature, and heals when the key is back.
func TestTokenPulledOut(t *testing.T) {
	token := &flaky{PrivateKey: generate(t)}
	r := newRigWith(t, token, nil)
	key := generate(t)
	first, _ := r.one(r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "before"))))
	token.out.Store(true)
	during := encode(hashedrekord(key, pemKey(key.Public()), "during"))
	for path, body := range map[string][]byte{
		"/api/v1/log/entries": during,
		"/api/v2/log/entries": encode(requestV2(key, keyV2(key.Public()), "during")),
	} {
		if a := r.post(path, body); a.code != 503 || !bytes.Contains(a.body, []byte("the log's key is unavailable")) || bytes.Contains(a.body, []byte("token")) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if got, _ := r.one(r.get("/api/v1/log/entries/" + first)); got != first {
		t.Error("an entry read before is no longer served")
	}
	if a := r.get("/api/v2/checkpoint"); a.code != 200 {
		t.Errorf("checkpoint: %d", a.code)
	}
	token.out.Store(false)
	r.one(r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "after"))))
	// What was submitted during the outage may be in the log by now; submitting it again settles the matter.
	if a := r.post("/api/v1/log/entries", during); a.code != 201 && a.code != 409 {
		t.Errorf("again: %d %s", a.code, a.body)
	}
	r.tle(r.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "after"))))
}
