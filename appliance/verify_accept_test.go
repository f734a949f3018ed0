package main

import (
	"errors"
	"strings"
	"testing"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
)

// FuzzAccept: whatever stands in a file of --accept, it is read or a mistake of the caller's, and whoever is accepted is accepted under one root.
func FuzzAccept(f *testing.F) {
	f.Add([]byte("accept:\n  - {root: own.json, identity-regexp: '.*@corp\\.internal$', issuer: https://sso.corp.internal}\n"))
	f.Add([]byte("accept: [{root: gh.json, identity: a, issuer-regexp: '', without-log: true}]\n"))
	f.Add([]byte("accept: [{identity: a, issuer: b}]\n"))                             // under every root
	f.Add([]byte("accept: [{root: '', identity: a, issuer: b}]\n"))                   // the same in so many words
	f.Add([]byte("accept: [{root: a, identity: x, identity: y, issuer: b}]\n"))       // a name twice
	f.Add([]byte("accept: [{root: a, identity-regexp: '(', issuer: b}]\n"))           // no expression
	f.Add([]byte("accept: [{root: a, identity-regexp: '((a*)*)*$', issuer: b}]\n"))   // one that other engines never finish
	f.Add([]byte("accept: []\n"))                                                     // nobody
	f.Add([]byte("accept: [{rot: a, identity: x, issuer: b}]\n"))                     // an unknown key
	f.Add([]byte("accept: &a [*a]\n"))                                                // in itself
	f.Add([]byte("x: &x [y, y, y, y]\naccept: [{root: a, identity: *x, issuer: b}]")) // another type
	f.Add([]byte("accept: [{root: a, identity: x, issuer: b}]\n---\naccept: []\n"))   // two documents
	f.Add([]byte("accept: [" + strings.Repeat("{root: a, identity: x, issuer: b}, ", 2000) + "]\n"))
	d := verifytest.New(f, "corp.internal")
	v, err := verify.New(verify.Config{Roots: []verify.Root{{Name: "own.json", JSON: d.Root()}}})
	if err != nil {
		f.Fatal(err)
	}
	bundle := d.SignMessage(2, "artifact").Bundle(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		accepted, err := parseAccept("accept.yaml", data)
		if err != nil {
			if accepted != nil || !errors.Is(err, verify.ErrUsage) {
				t.Fatalf("%v, %v", accepted, err)
			}
			return
		}
		for _, a := range accepted {
			if a.Root == "" {
				t.Fatalf("accepted under every root: %+v", a)
			}
		}
		r, err := v.Verify(t.Context(), verify.Request{Bundle: bundle, Artifact: verify.Artifact{Reader: strings.NewReader("artifact")}, Policy: verify.Policy{Identities: accepted}})
		if err == nil && r.Root() != "own.json" || errors.Is(err, verify.ErrInternal) || len(accepted) == 0 && err == nil {
			t.Fatalf("%v", err)
		}
	})
}
