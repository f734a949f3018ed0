package entry_test

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror/entry"
)

// logKeys are the keys of the public logs by log id.
func logKeys(t testing.TB) map[string]crypto.PublicKey {
	t.Helper()
	out := make(map[string]crypto.PublicKey)
	for _, name := range []string{"public-good", "staging"} {
		r, err := root.NewTrustedRootFromPath(filepath.Join(publicData(t), "roots", "trusted_root."+name+".json"))
		if err != nil {
			t.Fatal(err)
		}
		for id, l := range r.RekorLogs() {
			out[id] = l.PublicKey
		}
	}
	return out
}

// promised are all entries in the shared bundles and answers of the v1 API that a log signed a time for.
func promised(t testing.TB) (out []rekor.LogEntry) {
	t.Helper()
	var find func(v any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			raw, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			var api rekor.LogEntry
			if json.Unmarshal(raw, &api) == nil && len(api.Verification.SignedEntryTimestamp) > 0 {
				out = append(out, api)
				return
			}
			var b struct {
				LogIndex       int64 `json:",string"`
				LogID          struct{ KeyID []byte }
				IntegratedTime int64                                 `json:",string"`
				Promise        struct{ SignedEntryTimestamp []byte } `json:"inclusionPromise"`
				Body           []byte                                `json:"canonicalizedBody"`
			}
			if json.Unmarshal(raw, &b) == nil && len(b.Promise.SignedEntryTimestamp) > 0 {
				e := rekor.LogEntry{Body: b.Body, IntegratedTime: b.IntegratedTime, LogID: hex.EncodeToString(b.LogID.KeyID), LogIndex: uint64(b.LogIndex)}
				e.Verification.SignedEntryTimestamp = b.Promise.SignedEntryTimestamp
				out = append(out, e)
				return
			}
			for _, inner := range v {
				find(inner)
			}
		case []any:
			for _, inner := range v {
				find(inner)
			}
		}
	}
	for _, dir := range []string{"bundles", "entries"} {
		err := filepath.WalkDir(filepath.Join(publicData(t), dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var tree any
			if err := json.Unmarshal(raw, &tree); err != nil {
				return err
			}
			find(tree)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestExtraOfRealEntries: every signed entry timestamp of a public log keeps through the one form, and nothing changed does.
func TestExtraOfRealEntries(t *testing.T) {
	keys, checked := logKeys(t), 0
	for _, e := range promised(t) {
		key := keys[e.LogID]
		if key == nil {
			continue // of a test instance
		}
		x := entry.Extra{IntegratedTime: e.IntegratedTime, LogID: e.LogID, LogIndex: e.LogIndex, SignedEntryTimestamp: e.Verification.SignedEntryTimestamp}
		b, err := x.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := entry.ParseExtra(b)
		if err != nil {
			t.Fatalf("%d: %v", e.LogIndex, err)
		}
		if err := again.Verify(e.Body, key); err != nil {
			t.Errorf("%d: %v", e.LogIndex, err)
			continue
		}
		checked++
		for _, change := range []func(*entry.Extra){
			func(x *entry.Extra) { x.IntegratedTime++ },
			func(x *entry.Extra) { x.LogIndex++ },
			func(x *entry.Extra) { x.LogID = strings.Repeat("0", 64) },
			func(x *entry.Extra) {
				x.SignedEntryTimestamp = bytes.Clone(x.SignedEntryTimestamp)
				x.SignedEntryTimestamp[9] ^= 1
			},
			func(x *entry.Extra) { x.Attestation = []byte("another") },
		} {
			bad := again
			change(&bad)
			if err := bad.Verify(e.Body, key); !errors.Is(err, entry.ErrUnvouched) {
				t.Errorf("%d: changed, and verified: %v", e.LogIndex, err)
			}
		}
		if err := again.Verify(append([]byte(" "), e.Body...), key); !errors.Is(err, entry.ErrUnvouched) {
			t.Errorf("%d: of another entry, and verified: %v", e.LogIndex, err)
		}
	}
	if checked < 60 {
		t.Errorf("only %d real entry timestamps were found", checked)
	}
	t.Logf("%d real signed entry timestamps", checked)
}

func TestParseExtraRefuses(t *testing.T) {
	good := `{"integratedTime":1,"logID":"` + strings.Repeat("ab", 32) + `","logIndex":2,"signedEntryTimestamp":"AAAA"}`
	if _, err := entry.ParseExtra([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]string{
		"empty":          "",
		"spaces":         strings.Replace(good, ",", ", ", 1),
		"another order":  `{"logIndex":2,"integratedTime":1,"logID":"` + strings.Repeat("ab", 32) + `","signedEntryTimestamp":"AAAA"}`,
		"upper case":     strings.Replace(good, "ab", "AB", 1),
		"negative":       strings.Replace(good, `"integratedTime":1`, `"integratedTime":-1`, 1),
		"too far":        strings.Replace(good, `"logIndex":2`, `"logIndex":9007199254740992`, 1),
		"no signature":   strings.Replace(good, "AAAA", "", 1),
		"one more":       strings.Replace(good, "{", `{"a":1,`, 1),
		"twice":          strings.Replace(good, "{", `{"integratedTime":1,`, 1),
		"short id":       strings.Replace(good, "abab", "ab", 1),
		"too long":       good + strings.Repeat(" ", entry.MaxExtra),
		"empty attested": strings.Replace(good, "{", `{"attestation":"",`, 1),
	} {
		if x, err := entry.ParseExtra([]byte(b)); !errors.Is(err, entry.ErrExtra) {
			t.Errorf("%s: %+v, %v", name, x, err)
		}
	}
}

func FuzzParseExtra(f *testing.F) {
	f.Add([]byte(`{"integratedTime":1,"logID":"` + strings.Repeat("ab", 32) + `","logIndex":2,"signedEntryTimestamp":"AAAA"}`))
	f.Add([]byte(`{"attestation":"AA==","integratedTime":1,"logID":"` + hex.EncodeToString(make([]byte, 32)) + `","logIndex":2,"signedEntryTimestamp":"AAAA"}`))
	block, _ := pem.Decode([]byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr\nkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==\n-----END PUBLIC KEY-----\n"))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := entry.ParseExtra(b)
		if err != nil {
			return
		}
		if again, err := x.Encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("two spellings: %q, %q", b, again)
		}
		if x.Verify(sample, key) == nil {
			t.Fatal("nobody signed this")
		}
	})
}
