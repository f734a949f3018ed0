//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/verify"

	"redoubt.internal/mirror/tiles"
)

// TestOneTree: the other shape a site may choose, one artifact log under both wire formats: one key, one entry in the trusted root. Stock
// clients of both generations sign and verify over both faces, and each API shows what the other took in. What such a site gives up is
// TestUnloggedSignature.
func TestOneTree(t *testing.T) {
	l := newLab(t, nil, "--one-tree")
	t.Run("one key, one log in the trusted root", func(t *testing.T) { oneLogForClients(t, l) })
	t.Run("cosign3", func(t *testing.T) { testCosign3(t, l) })
	t.Run("cosign3 with own keys", func(t *testing.T) { testCosign3Keys(t, l) })
	t.Run("cosign2", func(t *testing.T) { testCosign2(t, l) })
	t.Run("cosign across versions", func(t *testing.T) { testAcrossVersions(t, l) })
	t.Run("rekor-cli", func(t *testing.T) { testRekorCLI(t, l) })
	t.Run("sigstore-js", func(t *testing.T) { testJS(t, l) })
	t.Run("sigstore-go", func(t *testing.T) { testSigstoreGo(t, l) })
	t.Run("gitsign", func(t *testing.T) { testGitsign(t, l) })
	t.Run("each API shows the other's entries", func(t *testing.T) { eachShowsTheOthers(t, l) })
	t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
}

func oneLogForClients(t *testing.T, l *lab) {
	content, err := os.ReadFile(l.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	var trusted struct{ Tlogs []struct{ BaseURL string } }
	if err := json.Unmarshal(content, &trusted); err != nil {
		t.Fatal(err)
	}
	if len(trusted.Tlogs) != 1 || trusted.Tlogs[0].BaseURL != "https://rekor."+domain {
		t.Errorf("logs in the trusted root: %+v", trusted.Tlogs)
	}
	if _, err := os.Stat(l.in("rekor-2.pub")); !os.IsNotExist(err) {
		t.Errorf("rekor-2.pub: %v", err)
	}
	s := l.session(t)
	if keys := s.output(t, l.binary, "--config", l.config, "keys", "list"); strings.Contains(keys, "rekor-2") {
		t.Errorf("keys list:\n%s", keys)
	}
}

// testSigstoreGo signs and verifies with the library itself, at every choice of what is demanded of a bundle.
func testSigstoreGo(t *testing.T, l *lab) {
	trusted, err := root.NewTrustedRootFromPath(l.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	demands := map[string][]verify.VerifierOption{
		rekorV1: {verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithIntegratedTimestamps(1)},
		rekorV2: {verify.WithSignedCertificateTimestamps(1), verify.WithTransparencyLog(1), verify.WithSignedTimestamps(1)},
	}
	for name, flags := range map[string][]string{rekorV1: nil, rekorV2: {"--rekor-v2"}} {
		t.Run(name, func(t *testing.T) {
			s := l.session(t)
			blob := s.write(t, "blob", "signed by the library on "+name+"\n")
			s.run(t, l.binary, join([]string{"sign", blob, "--setup", l.setup, "--identity-token", s.write(t, "token", l.token(t)), "--bundle", "bundle.json"}, flags)...)
			b, err := bundle.LoadJSONFromPath(s.path("bundle.json"))
			if err != nil {
				t.Fatal(err)
			}
			verifier, err := verify.NewVerifier(trusted, demands[name]...)
			if err != nil {
				t.Fatal(err)
			}
			check := func(san, content string) error {
				who, err := verify.NewShortCertificateIdentity(l.urls.OIDC, "", san, "")
				if err != nil {
					t.Fatal(err)
				}
				_, err = verifier.Verify(b, verify.NewPolicy(verify.WithArtifact(strings.NewReader(content)), verify.WithCertificateIdentity(who)))
				return err
			}
			if err := check(identity, "signed by the library on "+name+"\n"); err != nil {
				t.Error(err)
			}
			if check("mallory@corp.internal", "signed by the library on "+name+"\n") == nil {
				t.Error("another identity is taken")
			}
			if check(identity, "signed by nobody\n") == nil {
				t.Error("another artifact is taken")
			}
		})
	}
}

// eachShowsTheOthers signs a file in each generation and looks for both entries through both APIs: one tree, two faces.
func eachShowsTheOthers(t *testing.T, l *lab) {
	s := l.session(t)
	versions := map[string]string{rekorV1: "0.0.1", rekorV2: "0.0.2"}
	digests := map[string]string{} // version to digest of the signed file
	for _, g := range generations {
		blob := s.write(t, "blob", "to be found from both sides, "+g.name+"\n")
		content, err := os.ReadFile(blob)
		if err != nil {
			t.Fatal(err)
		}
		digests[versions[g.name]] = fmt.Sprintf("%x", sha256.Sum256(content))
		s.run(t, client(t, cosign3), "sign-blob", "-y", "--signing-config", l.in(g.signingConfig), "--trusted-root", l.in("trusted_root.json"),
			"--identity-token", l.token(t), "--bundle", "bundle.json", blob)
	}

	// Both checkpoints state one tree.
	f := &forgery{lab: l, session: s}
	var info struct {
		RootHash, SignedTreeHead, TreeID string
		TreeSize                         uint64
		InactiveShards                   []any
	}
	f.ask(t, http.MethodGet, "/api/v1/log", "", &info)
	checkpoint := strings.Split(string(fetch(t, l.urls.Rekor+"/api/v2/checkpoint")), "\n")
	first := strings.Split(info.SignedTreeHead, "\n")
	root, err := base64.StdEncoding.DecodeString(checkpoint[2])
	if err != nil {
		t.Fatal(err)
	}
	if first[0] != "rekor."+domain+" - "+info.TreeID || checkpoint[0] != "rekor."+domain {
		t.Errorf("origins %q and %q", first[0], checkpoint[0])
	}
	if !slices.Equal(first[1:3], checkpoint[1:3]) || checkpoint[1] != strconv.FormatUint(info.TreeSize, 10) || hex.EncodeToString(root) != info.RootHash {
		t.Errorf("v1 says size %d root %s,\n%s\nv2 says\n%s", info.TreeSize, info.RootHash, info.SignedTreeHead, checkpoint)
	}
	if len(info.InactiveShards) > 0 {
		t.Errorf("inactive shards: %v", info.InactiveShards)
	}

	// The tiles hold what v1 reads give, leaf for leaf, and so the entries of both.
	leaves := readTiles(t, l, info.TreeSize)
	counted := map[string]int{}
	for i, leaf := range leaves {
		var kind struct{ APIVersion string }
		if err := json.Unmarshal(leaf, &kind); err != nil {
			t.Fatal(err)
		}
		counted[kind.APIVersion]++
		answer := map[string]v1Entry{}
		f.ask(t, http.MethodGet, fmt.Sprintf("/api/v1/log/entries?logIndex=%d", i), "", &answer)
		for id, e := range answer {
			if hash := tiles.LeafHash(leaf); !bytes.Equal(e.Body, leaf) || id[16:] != hex.EncodeToString(hash[:]) || e.LogIndex != uint64(i) || e.Verification.SignedEntryTimestamp == nil {
				t.Errorf("entry %d by v1 is not the leaf in the tiles: %s", i, e.Body)
			}
		}
	}
	if counted["0.0.1"] == 0 || counted["0.0.2"] == 0 {
		t.Errorf("the tiles hold %v", counted)
	}

	// rekor-cli searches and reads v1's; what it has no type for, any v1 client reads.
	rekor := client(t, "rekor-cli-v1.5.4")
	for version, digest := range digests {
		search := s.run(t, rekor, "search", "--rekor_server", l.urls.Rekor, "--sha", digest)
		id := ""
		for _, line := range strings.Fields(search) {
			if len(line) == 80 {
				id = line
			}
		}
		answer := map[string]v1Entry{}
		f.ask(t, http.MethodGet, "/api/v1/log/entries/"+id, "", &answer)
		if e := answer[id]; !bytes.Contains(e.Body, []byte(`"apiVersion":"`+version+`"`)) {
			t.Errorf("search for the %s entry: %s\n%s", version, search, e.Body)
		}
		if !slices.ContainsFunc(leaves, func(leaf []byte) bool { return bytes.Equal(leaf, answer[id].Body) }) {
			t.Errorf("the %s entry is not in the tiles", version)
		}
		if version == "0.0.1" {
			if out := s.run(t, rekor, "get", "--rekor_server", l.urls.Rekor, "--uuid", id); !strings.Contains(out, digest) {
				t.Errorf("rekor-cli get:\n%s", out)
			}
		} else {
			// It verifies timestamp and proof before it finds that it has no type for the body.
			s.refuse(t, []string{"implementation for version '0.0.2' not found"}, rekor, "get", "--rekor_server", l.urls.Rekor, "--uuid", id)
		}
	}
}

// readTiles returns the entries of the tree as v2 serves it.
func readTiles(t *testing.T, l *lab, size uint64) (leaves [][]byte) {
	t.Helper()
	for n := uint64(0); n*256 < size; n++ {
		width := min(size-n*256, 256)
		path := fmt.Sprintf("%s/api/v2/tile/entries/%03d", l.urls.Rekor, n)
		if width < 256 {
			path += fmt.Sprintf(".p/%d", width)
		}
		if err := tiles.SplitBundle(fetch(t, path), int(width), func(_ int, entry []byte) error {
			leaves = append(leaves, bytes.Clone(entry))
			return nil
		}); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
	}
	return leaves
}

// fetch asks as every client of a registry does, which give manifests to nobody else.
func fetch(t *testing.T, url string) []byte {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept", imageManifest+", application/vnd.oci.image.index.v1+json, */*")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s, %v: %s", url, response.Status, err, body)
	}
	return body
}
