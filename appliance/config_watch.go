package main

import "redoubt.internal/mirror"

// MirrorWatch names entries by who signed what. Every field that is set must agree with an entry.
type MirrorWatch struct {
	// Name of the watch: lower-case letters, digits, dot and hyphen.
	Name string `yaml:"name"`
	// Identity is a regular expression, matched anywhere in a name of the certificate (e-mail, URI).
	Identity string `yaml:"identity,omitempty"`
	// Issuer is a regular expression, matched anywhere in the issuer of the identity token.
	Issuer string `yaml:"issuer,omitempty"`
	// Digests are digests of artefacts, sha256:<hex>; one of them has to be in the entry.
	Digests []string `yaml:"digests,omitempty"`
	// Keys are SHA-256 digests of the PEM of public keys, in hex; one of them has to have signed.
	Keys []string `yaml:"keys,omitempty"`
}

func (m Mirror) watch() (out []mirror.WatchConfig) {
	for _, w := range m.Watch {
		out = append(out, mirror.WatchConfig{Name: w.Name, Identity: w.Identity, Issuer: w.Issuer, Digests: w.Digests, Keys: w.Keys})
	}
	return out
}
