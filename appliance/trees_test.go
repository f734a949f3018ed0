package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"redoubt.internal/log/rekor"
)

// rekorCall sends one request to the address of the artifact logs, under a host name.
func (s *served) rekorCall(t *testing.T, host, method, path string, body []byte) (int, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, s.cfg.Services.Rekor.URL+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if host != "" {
		request.Host = host
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, answer
}

// proposals are the two wire formats of one signature.
func proposals(t *testing.T, artifact string) (v1, v2 []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte(artifact))
	sig, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	b64 := base64.StdEncoding.EncodeToString
	v1 = fmt.Appendf(nil, `{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":%q,"publicKey":{"content":%q}}}}`,
		digest, b64(sig), b64(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})))
	v2 = fmt.Appendf(nil, `{"hashedRekordRequestV002":{"digest":%q,"signature":{"content":%q,"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":%q}}}}}`,
		b64(digest[:]), b64(sig), b64(der))
	return v1, v2
}

// v1Vouches returns what of an answer vouches in Rekor v1's way for a tree that holds v2 entries: checkpoints named "<host> - <tree id>"
// over one of its roots, and entry timestamps beside a v2 body.
func v1Vouches(answer []byte, roots []string) (found []string) {
	var document any
	if json.Unmarshal(answer, &document) != nil {
		document = string(answer)
	}
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case map[string]any:
			body, _ := base64.StdEncoding.DecodeString(fmt.Sprint(node["body"]))
			v, _ := node["verification"].(map[string]any)
			if set := v["signedEntryTimestamp"]; set != nil && bytes.Contains(body, []byte(`"apiVersion":"0.0.2"`)) {
				found = append(found, fmt.Sprintf("entry timestamp %v", set))
			}
			for _, child := range node {
				walk(child)
			}
		case []any:
			for _, child := range node {
				walk(child)
			}
		case string:
			lines := strings.Split(node, "\n")
			for i := 0; i+2 < len(lines); i++ {
				if strings.Contains(lines[i], " - ") && strings.Contains(strings.Join(roots, " "), lines[i+2]) {
					found = append(found, strings.Join(lines[i:i+3], " / "))
				}
			}
		}
	}
	walk(document)
	return found
}

// crawl asks for everything the artifact logs give out, by paths meant and not meant, and returns every answer by its request.
func (s *served) crawl(t *testing.T, v1, v2 []byte) map[string][]byte {
	t.Helper()
	var ids []string
	for _, l := range s.in.artifacts {
		for i := range l.log.Head().Size {
			e, err := l.log.Entry(t.Context(), i)
			if err != nil {
				t.Fatal(err)
			}
			hash := leafHash(e.Leaf)
			ids = append(ids, fmt.Sprintf("%016x%x", l.TreeID, hash), hex.EncodeToString(hash[:]))
		}
	}
	gets := []string{"/api/v1/log", "/api/v1/log/", "/api/v1/log/publicKey", "/checkpoint", "/api/v2/checkpoint", "/tile/0/000.p/2", "/api/v2/tile/0/000.p/2",
		"/tile/entries/000.p/2", "/api/v2/tile/entries/000.p/2", "/api/v2/../v1/log", "//api/v1/log", "/api/v2/api/v1/log", "/api/v1/../v2/checkpoint", "/api/v2/%2e%2e/v1/log",
		"/api/v2/log", "/api/v2/log/entries", "/api/v1/log/proof?lastSize=1", "/api/v1/log/proof?lastSize=2"}
	for _, a := range s.in.artifacts {
		gets = append(gets, fmt.Sprintf("/api/v1/log?treeID=%d", a.TreeID), fmt.Sprintf("/api/v1/log/proof?lastSize=1&treeID=%d", a.TreeID))
	}
	for i := range 4 {
		gets = append(gets, fmt.Sprintf("/api/v1/log/entries?logIndex=%d", i), fmt.Sprintf("/api/v2/log/entries?logIndex=%d", i))
	}
	posts := map[string][]string{"/api/v1/log/entries/retrieve": {`{"logIndexes":[0,1,2,3]}`, fmt.Sprintf(`{"entries":[%s]}`, v1)}}
	for _, id := range ids {
		gets = append(gets, "/api/v1/log/entries/"+id, "/api/v2/log/entries/"+id)
		posts["/api/v1/log/entries/retrieve"] = append(posts["/api/v1/log/entries/retrieve"], fmt.Sprintf(`{"entryUUIDs":[%q]}`, id))
	}
	// Both again, and each where the other belongs.
	for _, path := range []string{"/api/v1/log/entries", "/api/v2/log/entries", "/api/v2/../v1/log/entries"} {
		posts[path] = []string{string(v1), string(v2)}
	}
	answers := map[string][]byte{}
	for _, host := range []string{"", "rekor.corp.internal", "rekor-2.corp.internal"} {
		for _, path := range gets {
			_, answer := s.rekorCall(t, host, http.MethodGet, path, nil)
			answers[host+" GET "+path] = answer
		}
		for path, bodies := range posts {
			for _, body := range bodies {
				_, answer := s.rekorCall(t, host, http.MethodPost, path, []byte(body))
				answers[host+" POST "+path+" "+body] = answer
			}
		}
	}
	return answers
}

// TestNoV1CheckpointOverV2Entries: whatever is asked, nothing vouches in Rekor v1's way for the tree of v2 entries, and no entry of one
// generation lands in the other's tree. The control is one tree for both, where the same questions must find it.
func TestNoV1CheckpointOverV2Entries(t *testing.T) {
	for name, oneTree := range map[string]bool{"two trees": false, "control: one tree": true} {
		t.Run(name, func(t *testing.T) {
			s := serveState(t, func(c *Config) {
				if oneTree {
					c.Log.Artifact = []ArtifactLog{{Name: roleRekor, TreeID: c.Log.Artifact[0].TreeID, Serves: []rekor.Generation{rekor.V1, rekor.V2}}}
				}
			})
			var v1, v2 []byte
			for i := range 2 {
				v1, v2 = proposals(t, fmt.Sprint("artifact ", i))
				for path, body := range map[string][]byte{"/api/v2/log/entries": v2, "/api/v1/log/entries": v1} {
					if status, answer := s.rekorCall(t, "", http.MethodPost, path, body); status != http.StatusCreated {
						t.Fatalf("%s: %d %s", path, status, answer)
					}
				}
			}
			tree := s.in.serving(rekor.V2).log
			var roots []string
			for size := uint64(1); size <= tree.Head().Size; size++ {
				root, err := tree.Root(t.Context(), size)
				if err != nil {
					t.Fatal(err)
				}
				roots = append(roots, base64.StdEncoding.EncodeToString(root[:]))
			}
			vouched := 0
			for request, answer := range s.crawl(t, v1, v2) {
				for _, what := range v1Vouches(answer, roots) {
					vouched++
					if !oneTree {
						t.Errorf("%s: %s", request, what)
					}
				}
			}
			if oneTree && vouched == 0 {
				t.Error("the questions find nothing where there is something to find")
			}
			for _, l := range s.in.artifacts {
				want := uint64(2)
				if oneTree {
					want = 4
				}
				if size := l.log.Head().Size; size != want {
					t.Errorf("the %s log has %d entries, want %d", l.Name, size, want)
				}
				for i := range l.log.Head().Size {
					e, err := l.log.Entry(t.Context(), i)
					if err != nil {
						t.Fatal(err)
					}
					var kind struct{ APIVersion string }
					if err := json.Unmarshal(e.Leaf, &kind); err != nil {
						t.Fatal(err)
					}
					if version := map[string]string{roleRekor: "0.0.1", roleRekor2: "0.0.2"}[l.Name]; !oneTree && kind.APIVersion != version {
						t.Errorf("the %s log holds a hashedrekord %s", l.Name, kind.APIVersion)
					}
				}
			}
		})
	}
}

// TestTwoTreesForClients: the trusted root names both logs, each with its key; both signing configs dial one address; the v1 log's key
// is the only one older clients get.
func TestTwoTreesForClients(t *testing.T) {
	s := serveState(t, nil)
	published, err := clientTrust.run(t.Context(), s.in, "test", struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	m, err := published.material() // as client setup has it, over the control socket
	if err != nil {
		t.Fatal(err)
	}
	raw, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	var root struct {
		Tlogs []struct {
			BaseURL   string `json:"baseUrl"`
			PublicKey struct {
				RawBytes []byte `json:"rawBytes"`
			} `json:"publicKey"`
		} `json:"tlogs"`
	}
	if err := json.Unmarshal(raw, &root); err != nil {
		t.Fatal(err)
	}
	if len(root.Tlogs) != 2 {
		t.Fatalf("%d logs in the trusted root", len(root.Tlogs))
	}
	for i, role := range []string{roleRekor, roleRekor2} {
		der, err := x509.MarshalPKIXPublicKey(s.in.roleKeys[role].Public())
		if err != nil {
			t.Fatal(err)
		}
		if l := root.Tlogs[i]; l.BaseURL != "https://"+role+".corp.internal" || !bytes.Equal(l.PublicKey.RawBytes, der) {
			t.Errorf("log %d is %s, or has another key than %s", i, l.BaseURL, role)
		}
	}
	for _, major := range []uint32{1, 2} {
		config, err := m.SigningConfig(major)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(config, fmt.Appendf(nil, `"url": %q,
      "majorApiVersion": %d`, s.cfg.Services.Rekor.URL, major)) {
			t.Errorf("signing config for v%d:\n%s", major, config)
		}
	}
	files, err := m.LegacyFiles()
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(s.in.roleKeys[roleRekor].Public())
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == "rekor.pub" && !bytes.Equal(f.Data, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})) {
			t.Errorf("rekor.pub holds\n%s", f.Data)
		}
	}
}
