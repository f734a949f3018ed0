package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/mirror/images"
)

// shelve OUTSIDE INSIDE FOLDER REFERENCE BUNDLE makes an OCI layout with an image that the bundle vouches for. OUTSIDE looks there, INSIDE
// wants the image.
func shelve(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 5, "shelve OUTSIDE INSIDE FOLDER REFERENCE BUNDLE")
	dir := ts.MkAbs(args[2])
	writeLayout(ts, dir, args[3], ts.ReadFile(args[4]))
	reconfigure(ts, args[0], func(c *Config) { c.Mirror.Images = []MirrorImages{{Layout: dir}} })
	reconfigure(ts, args[1], func(c *Config) { c.Mirror.Images = []MirrorImages{{References: []string{args[3]}}} })
}

// writeLayout makes an OCI layout with an image of no layers, that the bundle vouches for if there is one. The image's manifest stands in
// manifest.json too, to be signed.
func writeLayout(ts *testscript.TestScript, dir, reference, bundle string) {
	ts.Check(os.MkdirAll(filepath.Join(dir, "blobs", "sha256"), 0o755))
	type part map[string]any
	keep := func(mediaType string, b []byte) part {
		digest := images.DigestOf(b)
		ts.Check(os.WriteFile(filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(digest, "sha256:")), b, 0o644))
		return part{"mediaType": mediaType, "digest": digest, "size": len(b)}
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		ts.Check(err)
		return b
	}
	const manifest, bundleType = "application/vnd.oci.image.manifest.v1+json", "application/vnd.dev.sigstore.bundle.v0.3+json"
	config := keep("application/vnd.oci.image.config.v1+json", []byte(`{"architecture":"amd64","os":"linux"}`))
	image := keep(manifest, encode(part{"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": []part{}}))
	ts.Check(os.WriteFile(filepath.Join(dir, "manifest.json"), encode(part{"schemaVersion": 2, "mediaType": manifest, "config": config, "layers": []part{}}), 0o644))
	image["annotations"] = part{"org.opencontainers.image.ref.name": reference}
	list := []part{image}
	if bundle != "" {
		vouches := keep(manifest, encode(part{"schemaVersion": 2, "mediaType": manifest, "artifactType": bundleType, "config": keep("application/vnd.oci.empty.v1+json", []byte("{}")),
			"layers": []part{keep(bundleType, []byte(bundle))}, "subject": part{"mediaType": manifest, "digest": image["digest"], "size": image["size"]}}))
		list = append(list, vouches)
	}
	ts.Check(os.WriteFile(filepath.Join(dir, "index.json"), encode(part{"schemaVersion": 2, "manifests": list}), 0o644))
	ts.Check(os.WriteFile(filepath.Join(dir, "oci-layout"), []byte(`{"imageLayoutVersion":"1.0.0"}`), 0o644))
}
