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

// FuzzAddPreChain posts arbitrary bodies: the answer is 200 for the one good precertificate, a 4xx for everything else, never a 5xx, and nothing
// refused is logged.
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
	h := r.ct.Handler()
	f.Fuzz(func(t *testing.T, body []byte) {
		before := r.merkle.Head().Size
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/ct/v1/add-pre-chain", bytes.NewReader(body)))
		if w.Code != 200 && (w.Code < 400 || w.Code > 499) {
			t.Fatalf("%d %s for %q", w.Code, w.Body, body)
		}
		if after := r.merkle.Head().Size; w.Code != 200 && after != before {
			t.Fatalf("refused, yet logged: %q", body)
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
