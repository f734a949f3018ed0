//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"redoubt.internal/mirror/images"
)

// TestCarriedImage plays an enclave that runs images somebody outside signed, one of them the old way. Of their names follows everything
// that has to cross: what vouches for them, and the log entries that names. The images themselves cross another way. Stock cosign verifies
// them inside, with the outside switched off; an image that was not named stays without signatures.
func TestCarriedImage(t *testing.T) {
	outside := newLab(t, nil)
	new, old := client(t, cosign3), client(t, cosign2)
	s := outside.session(t, outside.legacyEnv()...)
	wanted, legacy, other := pushImage(t, outside.registry, "team/app"), pushImage(t, outside.registry, "team/legacy"), pushImage(t, outside.registry, "team/other")
	for _, image := range []string{wanted, legacy, other} {
		for _, g := range generations {
			if image == legacy {
				break
			}
			s.run(t, new, "sign", "-y", "--allow-http-registry", "--signing-config", outside.in(g.signingConfig), "--trusted-root", outside.in("trusted_root.json"), "--identity-token", outside.token(t), image)
		}
		if image == wanted {
			continue
		}
		s.run(t, old, join([]string{"sign", "-y", "--allow-http-registry"}, outside.legacyServices(), []string{"--identity-token", outside.token(t), image})...)
		s.run(t, old, join([]string{"attest", "-y", "--allow-http-registry", "--type", "custom", "--predicate", s.write(t, "predicate.json", `{"tests":"green"}`)}, outside.legacyServices(), []string{"--identity-token", outside.token(t), image})...)
	}
	savedByCosign(t, s, old, legacy)
	inside := newLab(t, nil, "--domain", "inside.internal")
	imported := carryImages(t, outside, inside, s, wanted, legacy)
	who := outside.who()
	outside.stop(t)

	state := []string{"--config", inside.config}
	t.Run("what crossed", func(t *testing.T) {
		if n := imported["rekor."]; n != 3 { // two signatures and an attestation
			t.Errorf("%d entries of the v1 log instead of 3", n)
		}
		if n := imported["rekor-2."]; n != 1 {
			t.Errorf("%d entries of the v2 log instead of 1", n)
		}
		var list []struct {
			Reference, Digest string
			Artifacts         []struct{ Kind string }
		}
		said := s.output(t, inside.binary, join([]string{"mirror", "artifacts", "list", "-o", "json"}, state)...)
		if err := json.Unmarshal([]byte(said), &list); err != nil {
			t.Fatalf("%v: %s", err, said)
		}
		if len(list) != 2 || list[0].Reference != wanted || len(list[0].Artifacts) != 3 || list[1].Reference != legacy || len(list[1].Artifacts) != 3 {
			t.Fatalf("%+v", list)
		}
		s.run(t, inside.binary, join([]string{"mirror", "artifacts", "check"}, state)...)
	})
	t.Run("from a folder", func(t *testing.T) {
		folder := filepath.Join(t.TempDir(), "layout")
		s.run(t, inside.binary, join([]string{"mirror", "artifacts", "get", "--out", folder}, state, []string{legacy})...)
		verify := []string{"verify", "--offline", "--local-image"}
		s.run(t, old, join(verify, who, []string{folder})...)
		s.refuse(t, wrongIdentity, old, join(verify, []string{"--certificate-identity", "else@corp.internal", "--certificate-oidc-issuer", outside.urls.OIDC, folder})...)
	})
	here, old1 := copyImage(t, wanted, inside.registry), copyImage(t, legacy, inside.registry) // as they were carried, by whatever way images go
	unnamed := copyImage(t, other, inside.registry)
	verify := join([]string{"verify", "--allow-http-registry", "--trusted-root", outside.in("trusted_root.json")}, who)
	tagged := join([]string{"verify", "--allow-http-registry", "--offline"}, who)
	attested := join([]string{"verify-attestation", "--allow-http-registry", "--offline", "--type", "custom"}, who)
	s.refuse(t, nil, new, join(verify, []string{here})...) // the control: nothing vouches for them yet
	s.refuse(t, nil, old, join(tagged, []string{old1})...)
	push := func(image, to string) []string {
		repository, _, _ := strings.Cut(to, "@")
		return join([]string{"mirror", "artifacts", "push", "--to", repository}, state, []string{image})
	}
	t.Run("from a registry", func(t *testing.T) {
		for range 2 { // again is no harm
			s.run(t, inside.binary, push(wanted, here)...)
			s.run(t, inside.binary, push(legacy, old1)...)
		}
		s.run(t, new, join(verify, []string{here})...)
		s.run(t, old, join(tagged, []string{old1})...)
		s.run(t, old, join(attested, []string{old1})...)
		s.refuse(t, []string{"no matching CertificateIdentity"}, new, "verify", "--allow-http-registry", "--trusted-root", outside.in("trusted_root.json"),
			"--certificate-identity", "else@corp.internal", "--certificate-oidc-issuer", outside.urls.OIDC, here)
	})
	t.Run("not named", func(t *testing.T) {
		s.refuse(t, nil, new, join(verify, []string{unnamed})...)
		s.refuse(t, nil, old, join(tagged, []string{unnamed})...)
		s.refuse(t, []string{"artifacts list"}, inside.binary, push(other, unnamed)...)
	})
}

// savedByCosign: the folder that cosign saves an image in says the same as the registry.
func savedByCosign(t *testing.T, s *session, cosign, image string) {
	t.Helper()
	s.run(t, cosign, "save", "--allow-http-registry", "--dir", "saved", image)
	src, all, err := images.OpenLayout(s.path("saved"))
	if err != nil || len(all) != 1 {
		t.Fatal(err, all)
	}
	defer src.Close()
	none := images.Shelf{Held: func(string) []byte { return nil }, Keep: func(string, []byte) error { return nil }}
	found, err := src.Gather(t.Context(), all[0], none)
	if err != nil || len(found.Artifacts) != 3 || len(found.Entries) != 2 || !strings.HasSuffix(image, found.Digest) {
		t.Fatalf("%v, %+v", err, found)
	}
}

// carryImages carries what vouches for images from their names alone, at scope sparse, and returns how many entries of each log came, by the
// beginning of its origin.
func carryImages(t *testing.T, outside, inside *lab, s *session, names ...string) map[string]int {
	t.Helper()
	info := s.run(t, client(t, "rekor-cli-v1.5.4"), "loginfo", "--rekor_server", outside.urls.Rekor, "--format", "json", "--store_tree_state=false")
	tree := regexp.MustCompile(`"TreeID":"(\d+)"`).FindStringSubmatch(info)
	if tree == nil {
		t.Fatalf("no tree id: %s", info)
	}
	key := func(name string) string {
		b, err := os.ReadFile(outside.in(name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	logs := func(source bool) []map[string]any {
		v1 := map[string]any{"origin": "rekor." + domain + " - " + tree[1], "key": key("rekor.pub"), "layout": "rekor1", "scope": "sparse"}
		v2 := map[string]any{"origin": "rekor-2." + domain, "key": key("rekor-2.pub"), "scope": "sparse"}
		if source {
			v1["source"], v2["source"] = outside.urls.Rekor, outside.urls.Rekor+"/api/v2"
		}
		return []map[string]any{v1, v2}
	}
	config := readYAML(t, outside.config)
	config["mirror"] = map[string]any{"logs": logs(true), "images": []map[string]any{{"registry": outside.registry, "references": names}}}
	writeYAML(t, outside.config, config)
	outside.stop(t)
	outside.serve(t)
	var exporter struct{ Key, Stream string }
	decode(t, s.output(t, outside.binary, "--config", outside.config, "mirror", "key", "-o", "json"), &exporter)
	if plan := s.run(t, outside.binary, "--config", outside.config, "mirror", "plan"); !strings.Contains(plan, names[0]+"\n  stands for sha256:") {
		t.Errorf("the plan does not say what the image stands for:\n%s", plan)
	}
	s.run(t, outside.binary, "--config", outside.config, "mirror", "pull")
	medium := t.TempDir()
	s.run(t, outside.binary, "--config", outside.config, "mirror", "export", "--out", medium)
	inside.stop(t)
	config = readYAML(t, inside.config)
	config["mirror"] = map[string]any{"stream": exporter.Stream, "exporters": []string{exporter.Key}, "logs": logs(false)}
	writeYAML(t, inside.config, config)
	inside.serve(t)
	var report struct {
		Transfers []struct {
			Logs []struct {
				Origin  string
				Entries int
			}
		}
	}
	decode(t, s.output(t, inside.binary, "--config", inside.config, "mirror", "import", "-o", "json", medium), &report)
	entries := make(map[string]int)
	for _, l := range report.Transfers[0].Logs {
		name, _, _ := strings.Cut(l.Origin, ".")
		entries[name+"."] = l.Entries
	}
	return entries
}

// copyImage copies an image and its layers to another registry, and nothing that vouches for it.
func copyImage(t *testing.T, image, to string) string {
	t.Helper()
	host, rest, _ := strings.Cut(image, "/")
	name, at, _ := strings.Cut(rest, "@")
	fetch := func(kind, digest string) []byte {
		q, err := http.NewRequest(http.MethodGet, fmt.Sprintf("http://%s/v2/%s/%s/%s", host, name, kind, digest), nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		var b bytes.Buffer
		if _, err := io.Copy(&b, res.Body); err != nil || res.StatusCode != http.StatusOK {
			t.Fatal(res.Status, err)
		}
		return b.Bytes()
	}
	manifest := fetch("manifests", at)
	var m struct {
		Config struct{ Digest string }
		Layers []struct{ Digest string }
	}
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	for _, l := range append(m.Layers, m.Config) {
		send(t, http.MethodPost, fmt.Sprintf("http://%s/v2/%s/blobs/uploads/?digest=%s", to, name, l.Digest), "application/octet-stream", fetch("blobs", l.Digest))
	}
	send(t, http.MethodPut, fmt.Sprintf("http://%s/v2/%s/manifests/%s", to, name, at), "application/vnd.oci.image.manifest.v1+json", manifest)
	return fmt.Sprintf("%s/%s@%s", to, name, at)
}
