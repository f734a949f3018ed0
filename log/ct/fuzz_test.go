package ct_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"

	"redoubt.internal/log"
	"redoubt.internal/log/ct"
)

// stuckMark claims a head the log never had.
type stuckMark struct{}

func (stuckMark) Read(context.Context) (log.Mark, error) {
	return log.Mark{Origin: "ct.example.test", Size: 1 << 40}, nil
}
func (stuckMark) Raise(context.Context, log.Mark) error { return errors.New("stuck") }

func httptestServer(t testing.TB, h http.Handler) string {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s.URL
}

// FuzzAddPreChain gives arbitrary bodies to everything that stands before the log: JSON, certificates, chain. Nothing but the seeds is ever accepted,
// for the fuzzer has no key.
func FuzzAddPreChain(f *testing.F) {
	r := newRig(f)
	good := r.precert(nil)
	body, err := json.Marshal(map[string]any{"chain": r.chain(good)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(body)
	f.Add([]byte(`{"chain":["` + base64.StdEncoding.EncodeToString(good.Raw) + `"]}`))
	f.Add([]byte(`{"chain":[null]}`))
	f.Add([]byte(`{"chain":["MAA="]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := r.ct.CheckBody(body); err == nil && !bytes.Contains(body, []byte(base64.StdEncoding.EncodeToString(good.Raw)[:200])) {
			t.Fatalf("accepted %q", body)
		} else if err != nil && !errors.Is(err, ct.ErrChain) && len(err.Error()) > 200 {
			t.Fatalf("%v", err)
		}
	})
}

// FuzzIndexKeys: the index function never fails, whatever is in the log, and depends on nothing but the leaf.
func FuzzIndexKeys(f *testing.F) {
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 2, 3}, []byte{})
	f.Add([]byte{}, []byte{1})
	f.Fuzz(func(t *testing.T, leaf, extra []byte) {
		a, b := ct.IndexKeys(leaf, extra), ct.IndexKeys(leaf, nil)
		if len(a) != len(b) || len(a) > 1 {
			t.Fatalf("%d and %d keys", len(a), len(b))
		}
	})
}
