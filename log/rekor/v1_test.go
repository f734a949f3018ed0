package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/go-openapi/runtime"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
)

func (r *rig) verifier() signature.Verifier {
	return must(signature.LoadVerifier(r.key.Public(), crypto.SHA256))
}

// one decodes a LogEntry answer and verifies it with Rekor's own verify package: inclusion, checkpoint and entry timestamp.
func (r *rig) one(a answer) (string, *models.LogEntryAnon) {
	r.t.Helper()
	var m map[string]json.RawMessage
	if err := json.Unmarshal(a.body, &m); err != nil || len(m) != 1 {
		r.t.Fatalf("HTTP %d, %d entries, %v: %s", a.code, len(m), err, a.body)
	}
	for id, raw := range m {
		var e models.LogEntryAnon
		if err := json.Unmarshal(raw, &e); err != nil {
			r.t.Fatal(err)
		}
		if err := e.Validate(nil); err != nil {
			r.t.Fatal(err)
		}
		if err := verify.VerifyLogEntry(context.Background(), &e, r.verifier()); err != nil {
			r.t.Fatalf("entry %s: %v", id, err)
		}
		body := must(base64.StdEncoding.DecodeString(e.Body.(string)))
		if want := fmt.Sprintf("%016x%x", uint64(treeID), rfc6962.DefaultHasher.HashLeaf(body)); id != want {
			r.t.Fatalf("entry id %s, want %s", id, want)
		}
		if !strings.HasPrefix(*e.Verification.InclusionProof.Checkpoint, fmt.Sprintf("%s - %d\n", host, int64(treeID))) {
			r.t.Fatalf("checkpoint %q", *e.Verification.InclusionProof.Checkpoint)
		}
		return id, &e
	}
	panic("unreachable")
}

// samples is one valid entry of every v1 kind, and of v2, each by another artifact.
func samples(t testing.TB) map[string]object {
	key := generate(t)
	cert := pemCert(certify(t, key.Public(), "Dev@Corp.example", "https://ci.corp.example/Build"))
	return map[string]object{
		"hashedrekord":      hashedrekord(key, pemKey(key.Public()), "blob by key"),
		"hashedrekord cert": hashedrekord(key, cert, "blob by certificate"),
		"dsse":              dsse(key, cert, statement(strings.Repeat("1", 64))),
		"intoto":            intoto(key, cert, statement(strings.Repeat("2", 64))),
		"intoto 0.0.1":      intoto1(key, cert, statement(strings.Repeat("2", 64))),
		"rekord":            rekord(key, pemKey(key.Public()), "file by key"),
	}
}

func TestCreateAndRead(t *testing.T) {
	r := newRig(t)
	n := int64(0)
	for name, entry := range samples(t) {
		a := r.post("/api/v1/log/entries", encode(entry))
		if a.code != http.StatusCreated {
			t.Fatalf("%s: %d %s", name, a.code, a.body)
		}
		id, e := r.one(a)
		if a.header.Get("ETag") != id || a.header.Get("Location") != "/api/v1/log/entries/"+id || a.header.Get("Content-Type") != "application/json" {
			t.Errorf("%s: headers %v", name, a.header)
		}
		if *e.LogIndex != n {
			t.Errorf("%s: index %d, want %d", name, *e.LogIndex, n)
		}
		n++
		var stored struct{ Kind, APIVersion string }
		if err := json.Unmarshal(must(base64.StdEncoding.DecodeString(e.Body.(string))), &stored); err != nil || stored.Kind != entry["kind"] || stored.APIVersion != entry["apiVersion"] {
			t.Errorf("%s: stored %+v, %v", name, stored, err)
		}
		for _, path := range []string{
			fmt.Sprintf("/api/v1/log/entries?logIndex=%d", *e.LogIndex), fmt.Sprintf("/api/v1/log/entries/?logIndex=%d", *e.LogIndex),
			"/api/v1/log/entries/" + id, "/api/v1/log/entries/" + id[16:], "/api/v1/log/entries/" + strings.ToUpper(id), "/api/v1/log/entries/" + id + "/",
		} {
			got := r.get(path)
			if got.code != http.StatusOK {
				t.Fatalf("%s: GET %s: %d %s", name, path, got.code, got.body)
			}
			gotID, ge := r.one(got)
			if gotID != id || ge.Body != e.Body || *ge.IntegratedTime != *e.IntegratedTime || *ge.LogIndex != *e.LogIndex || *ge.LogID != *e.LogID {
				t.Fatalf("%s: GET %s differs from POST", name, path)
			}
			if (ge.Attestation != nil) != (entry["kind"] == "intoto") {
				t.Errorf("%s: attestation %v", name, ge.Attestation)
			}
			if ge.Attestation != nil && !bytes.Equal(ge.Attestation.Data, statement(strings.Repeat("2", 64))) {
				t.Errorf("attestation is %q", ge.Attestation.Data)
			}
		}
		// The same entry again is a conflict that names the first. (An ECDSA signature made anew would be another entry.)
		dup := r.post("/api/v1/log/entries/", encode(entry))
		want := `{"code":409,"message":"an equivalent entry already exists in the transparency log with UUID ` + id + `"}`
		if dup.code != http.StatusConflict || dup.header.Get("Location") != "/api/v1/log/entries/"+id || string(dup.body) != want {
			t.Errorf("%s again: %d %v %s", name, dup.code, dup.header, dup.body)
		}
	}
	if int64(r.merkle.Head().Size) != n {
		t.Errorf("%d entries, want %d", r.merkle.Head().Size, n)
	}
}

// TestAsStockRekor: of every kind the leaf is, to the byte, what Rekor's server makes of the proposal by its registries.
func TestAsStockRekor(t *testing.T) {
	r := newRig(t)
	for name, entry := range samples(t) {
		proposed := must(models.UnmarshalProposedEntry(bytes.NewReader(encode(entry)), runtime.JSONConsumer()))
		want := must(types.CanonicalizeEntry(t.Context(), must(types.UnmarshalEntry(proposed))))
		_, e := r.one(r.post("/api/v1/log/entries", encode(entry)))
		if got := must(base64.StdEncoding.DecodeString(e.Body.(string))); !bytes.Equal(got, want) {
			t.Errorf("%s:\nours   %s\nRekor's %s", name, got, want)
		}
	}
}

// TestAfterRestart: what POST promised is what GET says after a restart: the same time, the same index, a valid timestamp over both.
func TestAfterRestart(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	a := r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "x")))
	id, e := r.one(a)
	digest := sha256.Sum256([]byte("x"))
	r.reopen()
	_, again := r.one(r.get("/api/v1/log/entries/" + id))
	if *again.IntegratedTime != *e.IntegratedTime || again.Body != e.Body {
		t.Error("the entry changed")
	}
	if ids := r.search(object{"hash": "sha256:" + hex.EncodeToString(digest[:])}); len(ids) != 1 || ids[0] != id {
		t.Errorf("search after a restart: %v", ids)
	}
	if a := r.post("/api/v1/log/entries", nil); a.code != http.StatusBadRequest {
		t.Errorf("empty POST: %d", a.code)
	}
}

// TestLogInfoAndProofs walks a log as rekor-cli loginfo and logproof do.
func TestLogInfoAndProofs(t *testing.T) {
	r := newRig(t)
	info := func() (models.LogInfo, *util.SignedCheckpoint) {
		t.Helper()
		a := r.get("/api/v1/log")
		var i models.LogInfo
		if err := json.Unmarshal(a.body, &i); err != nil || a.code != 200 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		var c util.SignedCheckpoint
		if err := c.UnmarshalText([]byte(*i.SignedTreeHead)); err != nil || !c.Verify(r.verifier()) {
			t.Fatalf("signedTreeHead %q: %v", *i.SignedTreeHead, err)
		}
		if *i.TreeID != fmt.Sprint(int64(treeID)) || *i.TreeSize != int64(c.Size) || *i.RootHash != hex.EncodeToString(c.Hash) || !bytes.Contains(a.body, []byte(`"inactiveShards":[]`)) {
			t.Fatalf("%s", a.body)
		}
		return i, &c
	}
	if i, _ := info(); *i.TreeSize != 0 {
		t.Fatalf("empty log of size %d", *i.TreeSize)
	}
	key := generate(t)
	var heads []*util.SignedCheckpoint
	for i := range 7 {
		if a := r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), fmt.Sprint(i)))); a.code != 201 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		_, c := info()
		heads = append(heads, c)
	}
	for i := range heads {
		for j := i; j < len(heads); j++ {
			a := r.get(fmt.Sprintf("/api/v1/log/proof?firstSize=%d&lastSize=%d&treeID=%d", heads[i].Size, heads[j].Size, int64(treeID)))
			var p models.ConsistencyProof
			if err := json.Unmarshal(a.body, &p); err != nil || a.code != 200 || p.Validate(nil) != nil {
				t.Fatalf("%d %s", a.code, a.body)
			}
			var hashes [][]byte
			for _, h := range p.Hashes {
				hashes = append(hashes, must(hex.DecodeString(h)))
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, heads[i].Size, heads[j].Size, hashes, heads[i].Hash, heads[j].Hash); err != nil {
				t.Fatalf("%d to %d: %v", i, j, err)
			}
		}
	}
	if a := r.get("/api/v1/log/proof?lastSize=3"); a.code != 200 { // firstSize defaults to 1
		t.Errorf("without firstSize: %d %s", a.code, a.body)
	}
	for path, want := range map[string]string{
		"/api/v1/log/proof?firstSize=3&lastSize=2":           `{"code":400,"message":"firstSize(3) must be less than lastSize(2)"}`,
		"/api/v1/log/proof?firstSize=1&lastSize=8":           `{"code":400,"message":"the tree size requested(8) was greater than what is currently observable(7)"}`,
		"/api/v1/log/proof?firstSize=0&lastSize=8":           `{"code":400`,
		"/api/v1/log/proof?firstSize=1&lastSize=0":           `{"code":400`,
		"/api/v1/log/proof":                                  `{"code":400,"message":"lastSize in query is required"}`,
		"/api/v1/log/proof?lastSize=":                        `{"code":400`,
		"/api/v1/log/proof?lastSize=-1":                      `{"code":400`,
		"/api/v1/log/proof?lastSize=1e3":                     `{"code":400`,
		"/api/v1/log/proof?lastSize=2&lastSize=3":            `{"code":400`,
		"/api/v1/log/proof?lastSize=99999999999999999999999": `{"code":400`,
		"/api/v1/log/proof?lastSize=2&treeID=7":              `{"code":400`,
		"/api/v1/log/proof?lastSize=2&treeID=x":              `{"code":400`,
		"/api/v1/log/publicKey?treeID=7":                     `{"code":400`,
		"/api/v1/log/publicKey?treeID=x":                     `{"code":400`,
		"/api/v1/log/entries":                                `{"code":400`,
		"/api/v1/log/entries?logIndex=-1":                    `{"code":400`,
		"/api/v1/log/entries?logIndex=x":                     `{"code":400`,
		"/api/v1/log/entries/abc":                            `{"code":400`,
		"/api/v1/log/entries/" + strings.Repeat("g", 64):     `{"code":400`,
		"/api/v1/log/entries/" + strings.Repeat("f", 80):     `{"code":400`,
		"/api/v1/log/entries/" + strings.Repeat("a", 72):     `{"code":400`,
	} {
		if a := r.get(path); a.code != 400 || !strings.HasPrefix(string(a.body), want) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	for _, path := range []string{
		"/api/v1/log/entries?logIndex=7", "/api/v1/log/entries?logIndex=9007199254740991",
		"/api/v1/log/entries/" + strings.Repeat("a", 64), fmt.Sprintf("/api/v1/log/entries/%016x", uint64(treeID)) + strings.Repeat("a", 64),
		"/api/v1/log/entries/0000000000000001" + strings.Repeat("a", 64), "/api/v1/log/entries/0000000000000000" + strings.Repeat("a", 64),
	} {
		if a := r.get(path); a.code != 404 || len(a.body) != 0 {
			t.Errorf("%s: %d %q; want 404 without a body", path, a.code, a.body)
		}
	}
	for _, path := range []string{"/api/v1/log/publicKey", fmt.Sprintf("/api/v1/log/publicKey?treeID=%d", int64(treeID)), "/api/v1/log/publicKey/"} {
		a := r.get(path)
		if a.code != 200 || a.header.Get("Content-Type") != "application/x-pem-file" || !bytes.Equal(a.body, pemKey(r.key.Public())) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if a := r.get("/ping"); a.code != 200 {
		t.Errorf("/ping: %d", a.code)
	}
}

// TestMethodsAndPaths: each route knows its methods, and an unknown path says so in Rekor's words.
func TestMethodsAndPaths(t *testing.T) {
	r := newRig(t)
	for path, allowed := range map[string]string{
		"/api/v1/log/entries": "GET POST", "/api/v1/log/entries/retrieve": "POST", "/api/v1/index/retrieve": "POST", "/api/v1/log": "GET",
		"/api/v1/log/proof": "GET", "/api/v1/log/publicKey": "GET", "/api/v1/log/entries/" + strings.Repeat("a", 64): "GET",
		"/api/v2/log/entries": "POST", "/api/v2/checkpoint": "GET", "/checkpoint": "GET", "/tile/0/000": "GET", "/api/v2/tile/0/000": "GET", "/healthz": "GET",
	} {
		for _, m := range []string{"GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"} {
			a := r.do(m, path, nil)
			if ok := strings.Contains(allowed, m); ok == (a.code == 405) {
				t.Errorf("%s %s: %d", m, path, a.code)
			} else if !ok && (a.header.Get("Allow") == "" || !json.Valid(a.body)) {
				t.Errorf("%s %s: Allow %q, body %s", m, path, a.header.Values("Allow"), a.body)
			}
		}
	}
	for _, path := range []string{"/", "/api", "/api/v1", "/api/v1/log/entries/retrieve/x/y", "/api/v3/log/entries", "/api/v1/version", "/index.html"} {
		if a := r.get(path); a.code != 404 || !bytes.HasPrefix(a.body, []byte(`{"code":404,"message":"path `)) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if a := r.get("/api/v2/log/nothing"); a.code != 404 || !bytes.HasPrefix(a.body, []byte(`{"code":5,"message":"path `)) || !bytes.HasSuffix(a.body, []byte(`"details":[]}`)) {
		t.Errorf("v2: %d %s", a.code, a.body)
	}
	if a := r.do("HEAD", "/api/v1/log", nil); a.code != 200 || len(a.body) != 0 {
		t.Errorf("HEAD: %d", a.code)
	}
	if a := r.do("POST", "/api/v1/log/entries", []byte("x"), "Content-Type", "text/plain"); a.code != 415 {
		t.Errorf("text/plain: %d %s", a.code, a.body)
	}
}
