package verify

import (
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strings"

	"redoubt.internal/appliance/verify/verifytest"
)

// incomplete are attacks that leave something out, or name it wrongly.
var incomplete = []attack{
	{name: "promise without an entry", want: 26, make: spoil(1, func(b map[string]any) {
		set(b, nil, in(entryPath, "canonicalizedBody")...)
		set(b, nil, in(entryPath, "inclusionProof")...)
	})},
	{name: "promise without an entry, the rest of the entry gone too", want: 26, make: spoil(1, func(b map[string]any) {
		set(b, map[string]any{"inclusionPromise": at(b, in(entryPath, "inclusionPromise")...)}, entryPath...)
	})},
	{name: "checkpoint without its signature", want: 22, make: spoil(2, func(b map[string]any) {
		text, _, _ := strings.Cut(at(b, in(proofPath, "checkpoint", "envelope")...).(string), "\n\n")
		set(b, text+"\n\n", in(proofPath, "checkpoint", "envelope")...)
	})},
	{name: "v1 checkpoint without its signature, promise good", want: 22, make: spoil(1, func(b map[string]any) {
		text, _, _ := strings.Cut(at(b, in(proofPath, "checkpoint", "envelope")...).(string), "\n\n")
		set(b, text+"\n", in(proofPath, "checkpoint", "envelope")...)
	})},
	{name: "carriage return in a checkpoint's signature line", want: 22, upstream: true, make: spoil(1, func(b map[string]any) {
		note := at(b, in(proofPath, "checkpoint", "envelope")...).(string)
		set(b, strings.TrimSuffix(note, "\n")+"\r\n", in(proofPath, "checkpoint", "envelope")...)
	})},
	{name: "CVE-2026-56864 hashes beside the proof that it does not ask for", want: 22, make: spoil(2, func(b map[string]any) {
		hashes := at(b, in(proofPath, "hashes")...).([]any)
		set(b, append(hashes, b64(make([]byte, 32))), in(proofPath, "hashes")...)
	})},
	{name: "CVE-2026-56864 lines beside the checkpoint that nobody signed", want: 22, make: spoil(1, func(b map[string]any) {
		note := at(b, in(proofPath, "checkpoint", "envelope")...).(string)
		set(b, strings.Replace(note, "\n\n", "\n"+b64(make([]byte, 32))+"\n\n", 1), in(proofPath, "checkpoint", "envelope")...)
	})},
	{name: "GHSA-fx35-mq7g-6g98 key beside the certificate", want: 26, make: spoil(1, func(b map[string]any) {
		set(b, map[string]any{"hint": "x"}, "verificationMaterial", "publicKey")
	})},
	{name: "CVE-2023-42816 signature of a megabyte", want: 12, make: spoil(2, func(b map[string]any) { set(b, b64(make([]byte, 1<<20)), "messageSignature", "signature") })},
	{name: "root without a key of a certificate log", want: 22, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		root := parseTree(d.T, s.root)
		delete(root, "ctlogs")
		s.root = verifytest.Encode(d.T, root)
		return s
	}},
	{name: "certificate timestamp of a known log that does not verify", want: 22, make: falseCTKey("")},
	{name: "certificate timestamp of a known log, made before its key ended, that does not verify", want: 22, make: falseCTKey("2026-06-01T12:00:00Z")},
	{name: "certificate timestamp of a known log, made after its key ended", want: 24, make: falseCTKey("2026-06-01T11:59:59Z")},
	{name: "statement without a subject", want: 26, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[]}`)))
	}},
	{name: "subject without a digest", want: 12, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[{"name":"artifact","digest":{}}]}`)))
	}},
	{name: "sha256 digest under the name of sha512", want: 12, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[{"name":"a","digest":{"sha512":"%x"}}]}`, sha256.Sum256([]byte("artifact")))))
	}},
	{name: "sha512 named for a sha256 digest", want: 26, upstream: true, make: spoil(2, func(b map[string]any) { set(b, "SHA2_512", "messageSignature", "messageDigest", "algorithm") })},
}

// falseCTKey is a root that has another key under the id of its certificate log, which ended then; it is still in use where end is empty.
func falseCTKey(end string) func(d *verifytest.Deployment) sample {
	return func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		root := parseTree(d.T, s.root)
		der, err := x509.MarshalPKIXPublicKey(&verifytest.ECKey(d.T).PublicKey)
		if err != nil {
			d.T.Fatal(err)
		}
		set(root, b64(der), "ctlogs", 0, "publicKey", "rawBytes")
		if end != "" {
			set(root, end, "ctlogs", 0, "publicKey", "validFor", "end")
		}
		s.root = verifytest.Encode(d.T, root)
		return s
	}
}
