package entry

import (
	"bytes"
	"crypto/fips140"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"

	"redoubt.internal/log/rekor"
)

// readers are the bodies that are understood, by kind and version.
var readers = map[string]func(*Facts, *object){
	"hashedrekord 0.0.1": readHashedrekord1,
	"hashedrekord 0.0.2": readHashedrekord2,
	"dsse 0.0.1":         readDSSE1,
	"dsse 0.0.2":         readDSSE2,
	"intoto 0.0.1":       readIntoto1,
	"intoto 0.0.2":       readIntoto2,
	"rekord 0.0.1":       readRekord,
}

// readHashedrekord1: {data: {hash}, signature: {content, publicKey: {content}}}
func readHashedrekord1(f *Facts, spec *object) {
	spec.only("data", "signature")
	data := spec.object("data")
	data.only("hash")
	f.hash(data.object("hash"))
	signature := spec.object("signature")
	signature.only("content", "publicKey")
	signature.bytes("content")
	key := signature.object("publicKey")
	key.only("content")
	f.pem(key.bytes("content"))
}

// readHashedrekord2: {hashedRekordV002: {data: {algorithm, digest}, signature: {content, verifier}}}
func readHashedrekord2(f *Facts, spec *object) {
	spec.only("hashedRekordV002")
	v := spec.object("hashedRekordV002")
	v.only("data", "signature")
	f.hashV2(v.object("data"))
	f.signatureV2(v.object("signature"))
}

// readDSSE1: {envelopeHash, payloadHash, signatures: [{signature, verifier}]}
func readDSSE1(f *Facts, spec *object) {
	spec.only("envelopeHash", "payloadHash", "signatures")
	f.hash(spec.object("payloadHash"))
	f.hash(spec.object("envelopeHash"))
	for _, s := range spec.objects("signatures") {
		s.only("signature", "verifier")
		f.pem(s.bytes("verifier"))
	}
}

// readDSSE2: {dsseV002: {payloadHash: {algorithm, digest}, signatures: [{content, verifier}]}}
func readDSSE2(f *Facts, spec *object) {
	spec.only("dsseV002")
	v := spec.object("dsseV002")
	v.only("payloadHash", "signatures")
	f.hashV2(v.object("payloadHash"))
	for _, s := range v.objects("signatures") {
		f.signatureV2(s)
	}
}

// readIntoto1: {content: {hash, payloadHash}, publicKey}
func readIntoto1(f *Facts, spec *object) {
	spec.only("content", "publicKey")
	content := spec.object("content")
	content.only("hash", "payloadHash")
	f.hash(content.object("hash"))
	if content.has("payloadHash") { // entries from before 2022 have none
		f.hash(content.object("payloadHash"))
	}
	f.pem(spec.bytes("publicKey"))
}

// readIntoto2: {content: {envelope: {payload?, payloadType, signatures: [{keyid?, publicKey, sig}]}, hash, payloadHash}}. The hash is the client's
// word for its envelope.
func readIntoto2(f *Facts, spec *object) {
	spec.only("content")
	content := spec.object("content")
	content.only("envelope", "hash", "payloadHash")
	f.hash(content.object("payloadHash"))
	f.hash(content.object("hash"))
	envelope := content.object("envelope")
	envelope.only("payload", "payloadType", "signatures")
	if envelope.has("payload") { // base64 of the base64 that stood in the envelope
		if payload, err := base64.StdEncoding.DecodeString(string(envelope.bytes("payload"))); err == nil {
			f.Digests = appendNew(f.Digests, Subjects(payload)...)
		}
	}
	for _, s := range envelope.objects("signatures") {
		s.only("keyid", "publicKey", "sig")
		f.pem(s.bytes("publicKey"))
	}
}

// readRekord: {data: {hash}, signature: {content, format, publicKey: {content}}}; entries of the first weeks hold an extraData of any form.
func readRekord(f *Facts, spec *object) {
	spec.only("data", "signature", "extraData")
	data := spec.object("data")
	data.only("hash")
	f.hash(data.object("hash"))
	signature := spec.object("signature")
	signature.only("content", "format", "publicKey")
	key := signature.object("publicKey")
	key.only("content")
	content := key.bytes("content")
	switch signature.text("format") {
	case "x509":
		f.pem(content)
	case "pgp":
		subjects, err := pgpSubjects(content)
		f.Opaque = f.Opaque || err != nil
		f.addKey(content, Signer{Identities: subjects})
	default: // ssh and minisign keys name nobody
		f.addKey(content, Signer{})
	}
}

// pgpSubjects are the e-mail addresses of an OpenPGP key. In FIPS 140-3 mode they stay unread: such keys are named by SHA-1.
func pgpSubjects(content []byte) ([]string, error) {
	if fips140.Enforced() {
		return nil, ErrEntry
	}
	return rekor.Subjects("pgp", content)
}

// hash reads {algorithm, value}.
func (f *Facts) hash(o *object) {
	o.only("algorithm", "value")
	f.addDigest(o.text("algorithm"), o.text("value"))
}

// hashV2 reads {algorithm: "SHA2_256", digest}.
func (f *Facts) hashV2(o *object) {
	o.only("algorithm", "digest")
	name := map[string]string{"SHA2_256": "sha256", "SHA2_384": "sha384", "SHA2_512": "sha512"}[o.text("algorithm")]
	if name == "" {
		o.fail("algorithm", "a SHA-2 algorithm")
		return
	}
	f.addDigest(name, hex.EncodeToString(o.bytes("digest")))
}

// signatureV2 reads {content, verifier: {keyDetails, x509Certificate|publicKey: {rawBytes}}}.
func (f *Facts) signatureV2(o *object) {
	o.only("content", "verifier")
	o.bytes("content")
	verifier := o.object("verifier")
	verifier.only("keyDetails", "x509Certificate", "publicKey")
	kind, member := "PUBLIC KEY", "publicKey"
	if verifier.has("x509Certificate") {
		kind, member = "CERTIFICATE", "x509Certificate"
	}
	raw := verifier.object(member)
	raw.only("rawBytes")
	f.pem(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: raw.bytes("rawBytes")}))
}

// pem takes in a key or certificate in PEM, or a chain of which the first counts. Some bodies hold PEM that is wrapped otherwise than Go wraps it;
// Rekor indexes some kinds by the text as it stands and others by its own spelling, so both are keys of the entry.
func (f *Facts) pem(text []byte) {
	var s Signer
	canonical, first := canonicalPEM(text)
	switch {
	case first == nil:
		f.Opaque = true
	case first.Type == "CERTIFICATE":
		var err error
		if s, err = readCertificate(first.Bytes); err != nil {
			f.Opaque = true
		}
	}
	f.addKey(canonical, s)
	f.Keys = appendNew(f.Keys, digestOf(text))
}

// canonicalPEM writes PEM anew, and returns its first block; text that is no PEM comes back as it is.
func canonicalPEM(text []byte) (canonical []byte, first *pem.Block) {
	for rest := bytes.TrimSpace(text); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if first == nil {
			first = block
		}
		canonical = append(canonical, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
	}
	if first == nil {
		return text, nil
	}
	return canonical, first
}

func digestOf(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}
