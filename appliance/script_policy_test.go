package main

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/mirror/images"
)

// imageLayout FOLDER REFERENCE [BUNDLE] makes an OCI layout with an image, that a bundle vouches for if there is one. What is to be signed is
// FOLDER/manifest.json, always the same; $IMAGE is its digest.
func imageLayout(ts *testscript.TestScript, neg bool, args []string) {
	bundle := ""
	if len(args) == 3 {
		bundle = ts.ReadFile(args[2])
		args = args[:2]
	}
	arguments(ts, neg, args, 2, "layout FOLDER REFERENCE [BUNDLE]")
	dir := ts.MkAbs(args[0])
	writeLayout(ts, dir, args[1], bundle)
	manifest, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	ts.Check(err)
	ts.Setenv("IMAGE", images.DigestOf(manifest))
}

// serveLayout FOLDER NAME serves the image of a layout from a registry on loopback, as $REGISTRY/NAME:v1, until the script ends.
func serveLayout(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "registry FOLDER NAME")
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(true), registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	ts.Defer(server.Close)
	send := func(method, path, mediaType string, b []byte) {
		q, err := http.NewRequest(method, server.URL+"/v2/"+args[1]+path, bytes.NewReader(b))
		ts.Check(err)
		q.Header.Set("Content-Type", mediaType)
		res, err := server.Client().Do(q)
		ts.Check(err)
		res.Body.Close()
		if res.StatusCode/100 != 2 {
			ts.Fatalf("%s %s: %s", method, path, res.Status)
		}
	}
	dir := ts.MkAbs(args[0])
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	ts.Check(err)
	read := func(hex string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", hex))
		ts.Check(err)
		return b
	}
	for _, b := range blobs {
		send(http.MethodPost, "/blobs/uploads/?digest=sha256:"+b.Name(), "application/octet-stream", read(b.Name()))
	}
	var index struct {
		Manifests []struct{ MediaType, Digest string }
	}
	text, err := os.ReadFile(filepath.Join(dir, "index.json"))
	ts.Check(err)
	ts.Check(json.Unmarshal(text, &index))
	for i, m := range index.Manifests {
		at := m.Digest
		if i == 0 {
			at = "v1"
		}
		send(http.MethodPut, "/manifests/"+at, m.MediaType, read(strings.TrimPrefix(m.Digest, "sha256:")))
	}
	ts.Setenv("REGISTRY", strings.TrimPrefix(server.URL, "http://"))
}
