package main

import "embed"

// A bundle of the public-good instance and its trusted root, as the sigstore-go module carries them for tests
// (pkg/testing/data): npm's provenance attestation of sigstore 2.0.0. They are data, embedded so that the demo has a real
// signature from outside to verify without a network.
//
//go:embed testdata/public-good
var publicGood embed.FS

const (
	publicBundle = "testdata/public-good/sigstore-js-2.0.0.sigstore.json"
	publicRoot   = "testdata/public-good/trusted_root.json"
	publicDigest = "sha512:46d4e2f74c4877316640000a6fdf8a8b59f1e0847667973e9859f774dd31b8f1e0937813b777fb66a2ac67d50540fe34640966eee9fc2ccca387082b4c85cd3c"
)
