package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pbs "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	tilesclient "github.com/sigstore/rekor-tiles/v2/pkg/client"
	"github.com/sigstore/rekor-tiles/v2/pkg/client/write"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	tilesnote "github.com/sigstore/rekor-tiles/v2/pkg/note"
	tileshashedrekord "github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	tilesverify "github.com/sigstore/rekor-tiles/v2/pkg/verify"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/note"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
)

func (r *rig) noteVerifier() note.Verifier {
	return must(tilesnote.NewNoteVerifier(host, r.verifier()))
}

// tle decodes a v2 answer with the strict protobuf parser and verifies it with rekor-tiles' own verify package.
func (r *rig) tle(a answer) *pbs.TransparencyLogEntry {
	r.t.Helper()
	var e pbs.TransparencyLogEntry
	if err := protojson.Unmarshal(a.body, &e); err != nil || a.code != http.StatusCreated {
		r.t.Fatalf("HTTP %d, %v: %s", a.code, err, a.body)
	}
	if err := tilesverify.VerifyLogEntry(&e, r.noteVerifier()); err != nil {
		r.t.Fatal(err)
	}
	return &e
}

// TestWriteClient posts through rekor-tiles' write client and verifies what comes back.
func TestWriteClient(t *testing.T) {
	r := newRig(t)
	c, err := write.NewWriter(r.url, tilesclient.WithUserAgent("test"))
	if err != nil {
		t.Fatal(err)
	}
	key := generate(t)
	digest := sha256.Sum256([]byte("artifact"))
	req := &pb.HashedRekordRequestV002{
		Digest: digest[:],
		Signature: &pb.Signature{Content: signDigest(key, digest[:], crypto.SHA256), Verifier: &pb.Verifier{
			Verifier:   &pb.Verifier_X509Certificate{X509Certificate: &common.X509Certificate{RawBytes: certify(t, key.Public(), "dev@corp.example")}},
			KeyDetails: common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
		}},
	}
	e, err := c.Add(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if err := tilesverify.VerifyLogEntry(e, r.noteVerifier()); err != nil {
		t.Fatal(err)
	}
	// A client that keeps no body rebuilds its hash; it must be ours.
	hash, err := tileshashedrekord.ToEntryHash(digest[:], req.Signature)
	if err != nil {
		t.Fatal(err)
	}
	if err := tilesverify.VerifyLogEntryWithHash(e, r.noteVerifier(), hash); err != nil {
		t.Fatal(err)
	}
	if id := r.log.ID(); !bytes.Equal(e.LogId.KeyId, id[:]) || e.KindVersion.Kind != "hashedrekord" || e.KindVersion.Version != "0.0.2" {
		t.Errorf("%v", e)
	}
	// The gateway's duplicate: status, code, header.
	if _, err := c.Add(t.Context(), req); err == nil || !strings.Contains(err.Error(), "409") {
		t.Errorf("again: %v", err)
	}
}

// TestWireShapeV2 compares the answer with the protobuf encoder of the gateway, member by member.
func TestWireShapeV2(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	for i := range 3 {
		body := encode(requestV2(key, keyV2(key.Public()), fmt.Sprint(i)))
		a := r.post("/api/v2/log/entries", body)
		e := r.tle(a)
		var got, want any
		if err := json.Unmarshal(a.body, &got); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(must(protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(e)), &want); err != nil {
			t.Fatal(err)
		}
		if g, w := encode(got), encode(want); !bytes.Equal(g, w) {
			t.Errorf("got  %s\nwant %s", g, w)
		}
		if !bytes.Contains(a.body, []byte(`"integratedTime":"0","inclusionPromise":null`)) || e.LogIndex != int64(i) {
			t.Errorf("%s", a.body)
		}
		dup := r.post("/api/v2/log/entries/", body)
		wantDup := fmt.Sprintf(`{"code":6,"message":"an equivalent entry already exists in the transparency log with index %d","details":[]}`, i)
		if dup.code != 409 || dup.header.Get("x-log-index") != fmt.Sprint(i) || string(dup.body) != wantDup {
			t.Errorf("again: %d %v %s", dup.code, dup.header, dup.body)
		}
		// The same entry through v1: verified there with entry timestamp, v1 checkpoint and inclusion.
		_, v1 := r.one(r.get(fmt.Sprintf("/api/v1/log/entries?logIndex=%d", i)))
		if v1.Body != b64(e.CanonicalizedBody) || *v1.IntegratedTime == 0 {
			t.Errorf("v1 says %v", v1.Body)
		}
	}
}

// TestOneTree: entries of both generations alternate in one tree, and each generation's checkpoint states the same head.
func TestOneTree(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	for i := range 6 {
		var a answer
		if i%2 == 0 {
			a = r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), fmt.Sprint(i))))
			_, e := r.one(a)
			if *e.LogIndex != int64(i) {
				t.Fatalf("v1 index %d, want %d", *e.LogIndex, i)
			}
		} else if e := r.tle(r.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), fmt.Sprint(i))))); e.LogIndex != int64(i) {
			t.Fatalf("v2 index %d, want %d", e.LogIndex, i)
		}
		v2 := strings.Split(string(r.get("/api/v2/checkpoint").body), "\n")
		var info struct{ SignedTreeHead string }
		if err := json.Unmarshal(r.get("/api/v1/log").body, &info); err != nil {
			t.Fatal(err)
		}
		v1 := strings.Split(info.SignedTreeHead, "\n")
		if v2[0] != host || v1[0] != fmt.Sprintf("%s - %d", host, int64(treeID)) || v1[1] != v2[1] || v1[2] != v2[2] {
			t.Fatalf("heads differ: %q and %q", v1, v2)
		}
		// One head, one v1 signature.
		if again := r.get("/api/v1/log"); !bytes.Contains(again.body, encode(info.SignedTreeHead)) {
			t.Error("the v1 checkpoint was signed twice for one head")
		}
	}
}

// algorithms is one request for each keyDetails the log takes.
func algorithms(t *testing.T) map[string]object {
	t.Helper()
	out := make(map[string]object)
	add := func(details string, key crypto.Signer, h crypto.Hash) {
		w := h.New()
		w.Write([]byte(details))
		digest := w.Sum(nil)
		opts := crypto.SignerOpts(h)
		if _, ok := key.(ed25519.PrivateKey); ok {
			opts = &ed25519.Options{Hash: crypto.SHA512}
		}
		v := keyV2(key.Public())
		v["keyDetails"] = details
		out[details] = object{"hashedRekordRequestV002": object{
			"digest": b64(digest), "signature": object{"content": b64(must(key.Sign(rand.Reader, digest, opts))), "verifier": v},
		}}
	}
	add("PKIX_ECDSA_P256_SHA_256", generate(t), crypto.SHA256)
	add("PKIX_ECDSA_P384_SHA_384", must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader)), crypto.SHA384)
	add("PKIX_ECDSA_P521_SHA_512", must(ecdsa.GenerateKey(elliptic.P521(), rand.Reader)), crypto.SHA512)
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	add("PKIX_ED25519_PH", ed, crypto.SHA512)
	for _, bits := range []int{2048, 3072, 4096} {
		add(fmt.Sprintf("PKIX_RSA_PKCS1V15_%d_SHA256", bits), must(rsa.GenerateKey(rand.Reader, bits)), crypto.SHA256)
	}
	return out
}

func TestAlgorithmsV2(t *testing.T) {
	r := newRig(t)
	good := algorithms(t)
	for details, req := range good {
		if a := r.post("/api/v2/log/entries", encode(req)); a.code != 201 {
			t.Errorf("%s: %d %s", details, a.code, a.body)
		} else {
			r.tle(a)
		}
	}
	n := r.merkle.Head().Size
	// Every other name for a key is refused: another size, another curve, another kind, plain Ed25519, PSS, numbers, nonsense.
	for details, req := range good {
		for other := range common.PublicKeyDetails_value {
			if other == details {
				continue
			}
			hr := req["hashedRekordRequestV002"].(object)
			v := hr["signature"].(object)["verifier"].(object)
			v["keyDetails"] = other
			if a := r.post("/api/v2/log/entries", encode(req)); a.code != 400 || !bytes.HasPrefix(a.body, []byte(`{"code":3,"message":"`)) {
				t.Errorf("a %s key called %s: %d %s", details, other, a.code, a.body)
			}
			v["keyDetails"] = details
		}
	}
	if r.merkle.Head().Size != n {
		t.Error("a refused entry was logged")
	}
}

func TestBadInputV2(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	good := requestV2(key, keyV2(key.Public()), "artifact")
	refused := func(name string, body []byte, contains string) {
		t.Helper()
		a := r.post("/api/v2/log/entries", body)
		var e struct {
			Code    int
			Message string
			Details []any
		}
		if err := json.Unmarshal(a.body, &e); err != nil || a.code != 400 || e.Code != 3 || e.Details == nil || !strings.Contains(e.Message, contains) {
			t.Errorf("%s: %d %s; want 400 with %q", name, a.code, a.body, contains)
		}
	}
	for name, body := range fieldFaults(t, good, nil) {
		refused(name, body, "")
	}
	env := object{"dsseRequestV002": object{
		"envelope":  object{"payload": "e30=", "payloadType": inTotoType, "signatures": []object{{"sig": "AAAA"}}},
		"verifiers": []object{good["hashedRekordRequestV002"].(object)["signature"].(object)["verifier"].(object)},
	}}
	refused("dsse", encode(env), "dsseRequestV002 is no longer taken")
	refused("empty dsse", []byte(`{"dsseRequestV002":{}}`), "dsseRequestV002 is no longer taken")
	text := string(encode(good))
	for name, body := range map[string]string{
		"nothing": "", "null": "null", "list": "[]", "empty": "{}", "not JSON": "{", "trailing": text + "x", "two": text + text,
		"unknown field":  strings.Replace(text, `{"hashedRekordRequestV002"`, `{"x":1,"hashedRekordRequestV002"`, 1),
		"unknown inside": strings.Replace(text, `"digest"`, `"url":"http://127.0.0.1:1/x","digest"`, 1),
		"twice":          strings.Replace(text, `{"hashedRekordRequestV002"`, `{"hashedRekordRequestV002":{},"hashedRekordRequestV002"`, 1),
		"both spellings": strings.Replace(text, `"keyDetails"`, `"key_details":"PKIX_ECDSA_P256_SHA_256","keyDetails"`, 1),
		"both verifiers": strings.Replace(text, `"keyDetails"`, `"x509Certificate":{"rawBytes":"AAAA"},"keyDetails"`, 1),
		"deep":           strings.Repeat(`{"a":`, 100000),
	} {
		refused(name, []byte(body), "")
	}
	other := generate(t)
	t.Setenv("GODEBUG", weakRSA)
	weakReq := unbound(func() object {
		weak := must(rsa.GenerateKey(rand.Reader, 1024))
		return requestV2(weak, keyV2(weak.Public()), "artifact")
	})
	refused("RSA 1024 called P-256", encode(weakReq), "weak key")
	weakReq["hashedRekordRequestV002"].(object)["signature"].(object)["verifier"].(object)["keyDetails"] = "PKIX_RSA_PKCS1V15_2048_SHA256"
	refused("RSA 1024", encode(weakReq), "weak key")
	refused("off curve", encode(requestV2(key, object{"publicKey": object{"rawBytes": b64(offCurve(t))}}, "artifact")), "public key")
	refused("another key", encode(requestV2(key, keyV2(other.Public()), "artifact")), "verifying signature")
	wrong := requestV2(key, keyV2(key.Public()), "artifact")
	sum := sha512.Sum512([]byte("artifact"))
	wrong["hashedRekordRequestV002"].(object)["digest"] = b64(sum[:])
	refused("digest of another size", encode(wrong), "digest length")
	if a := r.post("/api/v2/log/entries", bytes.Repeat([]byte("A"), 5<<20)); a.code != 413 || !bytes.HasPrefix(a.body, []byte(`{"code":8,"message":"the body is `)) {
		t.Errorf("5 MiB: %d %s", a.code, a.body)
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries of refused requests", n)
	}
	if a := r.post("/api/v2/log/entries", encode(good)); a.code != 201 {
		t.Fatalf("the good one: %d %s", a.code, a.body)
	}
}

// TestTiles reads the log back as a monitor does: checkpoint, bundles, hash tiles, and recomputes the root.
func TestTiles(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	const n = 300
	ctx := context.Background()
	for i := range n {
		e := &rekor.Entry{Kind: "hashedrekord", Version: "0.0.1", Body: fmt.Appendf(nil, `{"n":%d}`, i)}
		if _, _, err := r.log.Add(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	r.tle(r.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "last"))))
	for _, prefix := range []string{"", "/api/v2"} {
		cp := r.get(prefix + "/checkpoint")
		c, err := tilesverify.VerifyCheckpoint(string(cp.body), r.noteVerifier())
		if err != nil || c.Size != n+1 || c.Origin != host || !strings.HasPrefix(cp.header.Get("Content-Type"), "text/plain") {
			t.Fatalf("%v, %+v, %v", err, c, cp.header)
		}
		var leaves [][]byte
		for _, path := range []string{"entries/000", "entries/001.p/45"} {
			a := r.get(prefix + "/tile/" + path)
			if a.code != 200 || a.header.Get("Content-Type") != "application/octet-stream" || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
				t.Fatalf("%s: %d %v", path, a.code, a.header)
			}
			bundle, err := log.ParseBundle(a.body, map[string]int{"entries/000": 256, "entries/001.p/45": 45}[path])
			if err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, bundle...)
		}
		tile0, tile1, top := r.get(prefix+"/tile/0/000"), r.get(prefix+"/tile/0/001.p/45"), r.get(prefix+"/tile/1/000.p/1")
		if tile0.code != 200 || tile1.code != 200 || top.code != 200 || len(tile0.body) != 256*32 || len(tile1.body) != 45*32 || len(top.body) != 32 {
			t.Fatalf("tiles: %d %d %d", tile0.code, tile1.code, top.code)
		}
		hashes := append(bytes.Clone(tile0.body), tile1.body...)
		for i, leaf := range leaves {
			if !bytes.Equal(rfc6962.DefaultHasher.HashLeaf(leaf), hashes[32*i:32*i+32]) {
				t.Fatalf("leaf %d is not what its tile says", i)
			}
		}
		inclusion, err := r.merkle.InclusionProof(ctx, 7, c.Size)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, 7, c.Size, rfc6962.DefaultHasher.HashLeaf(leaves[7]), inclusion, c.Hash); err != nil {
			t.Fatal(err)
		}
		// A narrower tile that a slower reader asks for is a prefix of the wider one.
		if a := r.get(prefix + "/tile/0/001.p/3"); a.code != 200 || !bytes.Equal(a.body, tile1.body[:96]) {
			t.Errorf("narrower tile: %d", a.code)
		}
		for _, path := range []string{
			"0/001", "0/001.p/46", "0/001.p/0", "0/001.p/256", "0/001.p/01", "0/001.p/+1", "0/001.p/", "0/001.p/-1", "0/002", "0/000.p/256", "1/000", "1/000.p/2",
			"2/000", "63/000", "64/000", "00/000", "-1/000", "x/000", "0/0", "0/00", "0/0000", "0/x000", "0/x000/001", "0/x001/000", "0/x001/x000", "0/000/001",
			"0/", "0", "", "entries/", "entries", "entries/001", "entries/001.p/46", "entries/002", "entries/x000/000", "entries/0", "entries/000.p/0", "data/000",
			"0/999", "7/000", "8/000", "0/x999/x999/x999/x999/x999/x999/999", "0/x18446744073709551615/000", "0/000.p/1/2", "0/000.p/1.p/1", "0/%30%30%30/1",
		} {
			if a := r.get(prefix + "/tile/" + path); a.code != 404 || strings.Contains(a.header.Get("Cache-Control"), "immutable") {
				t.Errorf("%s: %d, cached as %q", path, a.code, a.header.Get("Cache-Control"))
			}
		}
	}
	if a := r.get("/healthz"); a.code != 200 || string(a.body) != `{"status":"SERVING"}` {
		t.Errorf("healthz: %d %s", a.code, a.body)
	}
}

// stuckMark claims a head the log never had.
type stuckMark struct{}

func (stuckMark) Read(context.Context) (log.Mark, error) {
	return log.Mark{Origin: host, Size: 1 << 40}, nil
}
func (stuckMark) Raise(context.Context, log.Mark) error { return log.ErrRolledBack }

// TestReadOnly: a log behind its high-water mark refuses writes with 503 and the reason, on both faces, and serves what it holds.
func TestReadOnly(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	id, _ := r.one(r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "x"))))
	r.stop()
	conf := r.conf
	conf.HighWater = []log.HighWater{stuckMark{}}
	l, err := log.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	rk, err := rekor.New(rekor.Config{Log: l, Signer: r.key, Hostname: host, TreeID: treeID, Serves: both})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(rk.Handler())
	defer server.Close()
	r.url = server.URL
	a := r.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "y")))
	if a.code != 503 || !bytes.HasPrefix(a.body, []byte(`{"code":503,"message":"`)) || !bytes.Contains(a.body, []byte("high-water")) && !bytes.Contains(a.body, []byte("behind")) {
		t.Errorf("v1: %d %s", a.code, a.body)
	}
	a = r.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "y")))
	if a.code != 503 || !bytes.HasPrefix(a.body, []byte(`{"code":14,"message":"`)) {
		t.Errorf("v2: %d %s", a.code, a.body)
	}
	if a := r.get("/healthz"); a.code != 503 {
		t.Errorf("healthz: %d", a.code)
	}
	if got, _ := r.one(r.get("/api/v1/log/entries/" + id)); got != id {
		t.Error("the entry is no longer served")
	}
}

// TestDisabled: an operation switched off answers 501 in v1; a frozen log answers 405 in v2.
func TestDisabled(t *testing.T) {
	r := newRigWith(t, generate(t), func(c *rekor.Config) { c.Disabled = []string{"createLogEntry", "searchIndex", "getLogProof"} })
	for path, body := range map[string]string{"/api/v1/log/entries": "{}", "/api/v1/index/retrieve": "{}", "/api/v1/log/proof?lastSize=1": ""} {
		a := r.get(path)
		if body != "" {
			a = r.post(path, []byte(body))
		}
		if a.code != 501 || !bytes.HasPrefix(a.body, []byte(`{"code":501,"message":"`)) {
			t.Errorf("%s: %d %s", path, a.code, a.body)
		}
	}
	if a := r.get("/api/v1/log"); a.code != 200 {
		t.Errorf("log info: %d", a.code)
	}
	a := r.post("/api/v2/log/entries", []byte("{}"))
	if a.code != 405 || string(a.body) != "This log has been frozen, please switch to the latest log.\n" {
		t.Errorf("frozen: %d %s", a.code, a.body)
	}
	if _, err := rekor.New(rekor.Config{Log: r.merkle, Signer: r.key, Hostname: host, TreeID: treeID, Serves: both, Disabled: []string{"createEntry"}}); err == nil {
		t.Error("an unknown operation was disabled")
	}
}

// TestOneGeneration: a log of one generation takes nothing of the other, and one of v2 signs nothing in the v1 form.
func TestOneGeneration(t *testing.T) {
	key := generate(t)
	v1, v2 := encode(hashedrekord(key, pemKey(key.Public()), "x")), encode(requestV2(key, keyV2(key.Public()), "x"))
	r := newRigWith(t, generate(t), func(c *rekor.Config) { c.Serves = []rekor.Generation{rekor.V1} })
	r.one(r.post("/api/v1/log/entries", v1))
	if a := r.post("/api/v2/log/entries", v2); a.code != 501 || !bytes.HasPrefix(a.body, []byte(`{"code":12,"message":"`)) {
		t.Errorf("v2 to a v1 log: %d %s", a.code, a.body)
	}
	if a := r.get("/checkpoint"); a.code != 200 {
		t.Errorf("checkpoint of a v1 log: %d", a.code)
	}
	r = newRigWith(t, generate(t), func(c *rekor.Config) { c.Serves = []rekor.Generation{rekor.V2} })
	r.tle(r.post("/api/v2/log/entries", v2))
	for _, path := range []string{
		"/api/v1/log", "/api/v1/log/entries?logIndex=0", "/api/v1/log/publicKey", "/api/v1/log/proof?lastSize=1", "/api/v1/log/entries/" + strings.Repeat("a", 64),
	} {
		if a := r.get(path); a.code != 501 {
			t.Errorf("%s of a v2 log: %d %s", path, a.code, a.body)
		}
	}
	for _, path := range []string{"/api/v1/log/entries", "/api/v1/log/entries/retrieve", "/api/v1/index/retrieve"} {
		if a := r.post(path, v1); a.code != 501 {
			t.Errorf("%s of a v2 log: %d %s", path, a.code, a.body)
		}
	}
}

func TestNew(t *testing.T) {
	r := newRig(t)
	p384 := must(ecdsa.GenerateKey(elliptic.P384(), rand.Reader))
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	for name, c := range map[string]rekor.Config{
		"no log":        {Signer: r.key, Hostname: host, TreeID: treeID, Serves: both},
		"no signer":     {Log: r.merkle, Hostname: host, TreeID: treeID, Serves: both},
		"P-384":         {Log: r.merkle, Signer: p384, Hostname: host, TreeID: treeID, Serves: both},
		"Ed25519":       {Log: r.merkle, Signer: ed, Hostname: host, TreeID: treeID, Serves: both},
		"no host":       {Log: r.merkle, Signer: r.key, TreeID: treeID, Serves: both},
		"no tree":       {Log: r.merkle, Signer: r.key, Hostname: host, Serves: both},
		"negative tree": {Log: r.merkle, Signer: r.key, Hostname: host, TreeID: -1, Serves: both},
		"generation 3":  {Log: r.merkle, Signer: r.key, Hostname: host, TreeID: treeID, Serves: []rekor.Generation{"v3"}},
		"no generation": {Log: r.merkle, Signer: r.key, Hostname: host, TreeID: treeID},
		"other host":    {Log: r.merkle, Signer: r.key, Hostname: "rekor.other.example", TreeID: treeID, Serves: both},
		"other key":     {Log: r.merkle, Signer: generate(t), Hostname: host, TreeID: treeID, Serves: both},
	} {
		if _, err := rekor.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
