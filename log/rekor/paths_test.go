package rekor_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// TestCrookedPaths: what a mux would redirect in HTML is not found in JSON.
func TestCrookedPaths(t *testing.T) {
	h := newRig(t).log.Handler()
	for _, path := range []string{"/api/v2/tile/0/../000", "/api/v2/../v1/log", "/api/v1//log", "/api/v1/./log", "/api/v1/log/.."} {
		w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil)
		r.URL.Path = path
		h.ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// TestAllowOnRefusalsOnly: an answer that took the method does not list others.
func TestAllowOnRefusalsOnly(t *testing.T) {
	h := newRig(t).log.Handler()
	w, r := httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/api/v1/log/entries", strings.NewReader("{}"))
	h.ServeHTTP(w, r)
	if w.Code != http.StatusBadRequest || w.Header().Get("Allow") != "" {
		t.Errorf("%d, Allow %q", w.Code, w.Header().Values("Allow"))
	}
}
