//go:build e2e

package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
)

// pushImage pushes a small image nobody has seen before and returns its reference by digest.
func pushImage(t *testing.T, registry, name string) string {
	t.Helper()
	layer := tarOf(t, "app", rand.Text())
	config := []byte(`{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["` + digest(layer) + `"]}}`)
	for _, blob := range [][]byte{layer, config} {
		url := fmt.Sprintf("http://%s/v2/%s/blobs/uploads/?digest=%s", registry, name, digest(blob))
		send(t, http.MethodPost, url, "application/octet-stream", blob)
	}
	type descriptor struct {
		MediaType string `json:"mediaType"`
		Digest    string `json:"digest"`
		Size      int    `json:"size"`
	}
	manifest, err := json.Marshal(map[string]any{
		"schemaVersion": 2,
		"mediaType":     "application/vnd.oci.image.manifest.v1+json",
		"config":        descriptor{"application/vnd.oci.image.config.v1+json", digest(config), len(config)},
		"layers":        []descriptor{{"application/vnd.oci.image.layer.v1.tar", digest(layer), len(layer)}},
	})
	if err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://%s/v2/%s/manifests/%s", registry, name, digest(manifest))
	send(t, http.MethodPut, url, "application/vnd.oci.image.manifest.v1+json", manifest)
	return fmt.Sprintf("%s/%s@%s", registry, name, digest(manifest))
}

// tarOf is a tar of one file.
func tarOf(t *testing.T, name, content string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(content)), Mode: 0o644, Typeflag: tar.TypeReg}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(content)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func digest(content []byte) string {
	sum := sha256.Sum256(content)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// send wants 201 Created.
func send(t *testing.T, method, url, contentType string, body []byte) {
	t.Helper()
	request, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", contentType)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusCreated {
		t.Fatalf("%s %s: %s", method, url, response.Status)
	}
}
