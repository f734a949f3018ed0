package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/appliance/verify/verifytest"
)

// The commits of testdata/gitsign are those of gitsign's own tests (github.com/sigstore/gitsign, internal/e2e/testdata), made with it in 2023.
const realCommit = "529ee14c05ac4640c599d6b34298b940d8a977f3"

var realSigner = Identity{SAN: "billy@chainguard.dev", Issuer: "https://accounts.google.com"}

func readCommit(t testing.TB, name string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join("testdata", "gitsign", name))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func publicGood(t testing.TB) *Verifier {
	t.Helper()
	v, err := New(Config{Roots: []Root{{Name: "public-good", JSON: read(t, dataDir(t), "roots", "trusted_root.public-good.json")}}})
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func gitRequest(kind string, body []byte, id Identity) Request {
	return Request{Artifact: Artifact{Git: &GitObject{Kind: kind, Body: body}}, Policy: Policy{Identities: []Identity{id}}}
}

// TestRealCommit verifies a commit that gitsign signed, under the public deployment's root, and refuses it changed.
func TestRealCommit(t *testing.T) {
	v, body := publicGood(t), readCommit(t, "offline.commit")
	r, err := v.Verify(t.Context(), gitRequest("commit", body, realSigner))
	if err != nil {
		t.Fatal(err)
	}
	if r.Artifact() != "gitCommit:"+realCommit {
		t.Errorf("it is %s, want %s", r.Artifact(), realCommit)
	}
	if len(r.Log()) != 1 || len(r.Times()) != 1 || !strings.HasPrefix(r.Times()[0].Time.Format(time.RFC3339), "2023-06-05T16:11:20") {
		t.Errorf("log %+v, times %+v", r.Log(), r.Times())
	}
	changed := func(old, new string) []byte {
		out := bytes.Replace(body, []byte(old), []byte(new), 1)
		if bytes.Equal(out, body) {
			t.Fatalf("there is no %q", old)
		}
		return out
	}
	headers, message, _ := bytes.Cut(body, []byte("\n\n"))
	before, signature, _ := bytes.Cut(headers, []byte("gpgsig "))
	for name, c := range map[string]struct {
		kind string
		body []byte
		id   Identity
		want error
	}{
		"another message":      {"commit", changed("12:11:17", "12:11:18"), realSigner, ErrSignature},
		"another tree":         {"commit", changed("tree 0", "tree 1"), realSigner, ErrSignature},
		"another signer":       {"commit", body, Identity{SAN: "eve@chainguard.dev", Issuer: realSigner.Issuer}, ErrIdentity},
		"as a tag":             {"tag", body, realSigner, ErrNoSignature},
		"as a blob":            {"blob", body, realSigner, ErrUsage},
		"not signed":           {"commit", bytes.Join([][]byte{before[:len(before)-1], message}, []byte("\n\n")), realSigner, ErrNoSignature},
		"signed twice":         {"commit", bytes.Join([][]byte{headers, []byte("\ngpgsig "), signature, []byte("\n\n"), message}, nil), realSigner, ErrMalformed},
		"signed by PGP":        {"commit", bytes.ReplaceAll(body, []byte(armorType), []byte("PGP SIGNATURE")), realSigner, ErrNoSignature},
		"more after the armor": {"commit", changed("-----END SIGNED MESSAGE-----\n", "-----END SIGNED MESSAGE-----\n more\n"), realSigner, ErrMalformed},
		"signed online":        {"commit", readCommit(t, "online.commit"), realSigner, ErrLogProof},
		"no headers":           {"commit", []byte("tree"), realSigner, ErrMalformed},
		"as large as may be":   {"tag", make([]byte, maxGitObject), realSigner, ErrNoSignature},
		"too large":            {"tag", make([]byte, maxGitObject+1), realSigner, ErrMalformed},
	} {
		if _, err := v.Verify(t.Context(), gitRequest(c.kind, c.body, c.id)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	for name, add := range map[string]func(*Request){
		"a bundle": func(q *Request) { q.Bundle = []byte("{}") },
		"bytes":    func(q *Request) { q.Artifact.Reader = strings.NewReader("x") },
		"a digest": func(q *Request) { q.Artifact.Digest = manifest },
	} {
		q := gitRequest("commit", body, realSigner)
		add(&q)
		if _, err := v.Verify(t.Context(), q); !errors.Is(err, ErrUsage) {
			t.Errorf("with %s: %v", name, err)
		}
	}
	key := Request{Artifact: Artifact{Git: &GitObject{Kind: "commit", Body: body}}, Policy: Policy{Key: &Key{Public: verifytest.ECKey(t).Public()}}}
	if _, err := v.Verify(t.Context(), key); !errors.Is(err, ErrNoSignature) {
		t.Errorf("by a key: %v", err)
	}
}

// TestRealCommitFlipped changes each byte of the signature and of what was signed: nothing of it is accepted.
func TestRealCommitFlipped(t *testing.T) {
	v, body := publicGood(t), readCommit(t, "offline.commit")
	payload, armor, err := GitObject{Kind: "commit", Body: body}.split()
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(armor)
	tried := 0
	try := func(at int, payload, der []byte) {
		tried++
		if r, err := v.Verify(t.Context(), gitRequest("commit", signedCommit(payload, der), realSigner)); err == nil {
			raw, _ := r.MarshalJSON()
			t.Errorf("byte %d: accepted: %s", at, raw)
		}
	}
	for at := range block.Bytes {
		der := bytes.Clone(block.Bytes)
		der[at] ^= 1 << (at % 8)
		try(at, payload, der)
	}
	for at := range payload {
		other := bytes.Clone(payload)
		other[at] ^= 1
		try(at, other, block.Bytes)
	}
	t.Logf("%d changed commits refused", tried)
}

// signedCommit puts a signature into a commit.
func signedCommit(payload, der []byte) []byte {
	headers, message, _ := bytes.Cut(payload, []byte("\n\n"))
	armor := bytes.TrimSuffix(pem.EncodeToMemory(&pem.Block{Type: armorType, Bytes: der}), []byte("\n"))
	return bytes.Join([][]byte{headers, []byte("\ngpgsig "), bytes.ReplaceAll(armor, []byte("\n"), []byte("\n ")), []byte("\n\n"), message}, nil)
}

// gitSigned is what gitsign would make, open to any change.
type gitSigned struct {
	parts    verifytest.Parts
	signed   [][]byte // attributes
	unsigned [][]byte
	bare     bool // leaves the certificate out
}

func attribute(t testing.TB, oid []byte, value []byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(asn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1(asn1.OBJECT_IDENTIFIER, func(b *cryptobyte.Builder) { b.AddBytes(oid) })
		b.AddASN1(asn1.SET, func(b *cryptobyte.Builder) { b.AddBytes(value) })
	})
	return must(t, b)
}

func element(t testing.TB, tag asn1.Tag, parts ...[]byte) []byte {
	var b cryptobyte.Builder
	b.AddASN1(tag, func(b *cryptobyte.Builder) { b.AddBytes(bytes.Join(parts, nil)) })
	return must(t, b)
}

func must(t testing.TB, b cryptobyte.Builder) []byte {
	t.Helper()
	out, err := b.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// signGit signs payload as gitsign does in offline mode.
func signGit(t testing.TB, d *verifytest.Deployment, payload []byte) gitSigned {
	return signGitIn(t, d, payload, 1, func(*protorekor.TransparencyLogEntry) {})
}

// signGitV2 does so into Rekor v2, with a timestamp. gitsign names the version of v1 all the same, and an empty promise.
func signGitV2(t testing.TB, d *verifytest.Deployment, payload []byte, edit func(*protorekor.TransparencyLogEntry)) gitSigned {
	s := signGitIn(t, d, payload, 2, func(e *protorekor.TransparencyLogEntry) {
		e.KindVersion.Version, e.InclusionPromise = bodyV1, &protorekor.InclusionPromise{}
		edit(e)
	})
	s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now))
	return s
}

func signGitIn(t testing.TB, d *verifytest.Deployment, payload []byte, generation int, edit func(*protorekor.TransparencyLogEntry)) gitSigned {
	sum := sha256.Sum256(payload)
	s := gitSigned{signed: [][]byte{attribute(t, oidContentType, element(t, asn1.OBJECT_IDENTIFIER, oidData)), attribute(t, oidMessageDigest, element(t, asn1.OCTET_STRING, sum[:]))}}
	s.parts = d.SignMessage(generation, string(element(t, asn1.SET, s.signed...)))
	s.log(t, s.parts.Entries[0], edit)
	return s
}

// log puts a log entry into the signature, in protobuf and without its body.
func (s *gitSigned) log(t testing.TB, entry any, edit func(*protorekor.TransparencyLogEntry)) {
	t.Helper()
	e := &protorekor.TransparencyLogEntry{}
	if err := protojson.Unmarshal(verifytest.Encode(t, entry), e); err != nil {
		t.Fatal(err)
	}
	e.CanonicalizedBody = nil
	edit(e)
	raw, err := proto.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	s.unsigned = [][]byte{attribute(t, oidLogEntry, element(t, asn1.OCTET_STRING, raw))}
}

func (s gitSigned) der(t testing.TB) []byte {
	c := s.parts.Signer.Cert
	certificates := c.Raw
	if s.bare {
		certificates = nil
	}
	number := func(n byte) []byte { return element(t, asn1.INTEGER, []byte{n}) }
	algorithm := func(oid []byte) []byte { return element(t, asn1.SEQUENCE, element(t, asn1.OBJECT_IDENTIFIER, oid)) }
	signer := element(t, asn1.SEQUENCE, number(1), element(t, asn1.SEQUENCE, c.RawIssuer, verifytest.MustDER(t, c.SerialNumber)), algorithm(oidSHA256),
		element(t, asn1.Tag(0).Constructed().ContextSpecific(), s.signed...), algorithm(oidECDSASHA256), element(t, asn1.OCTET_STRING, s.parts.Signature),
		element(t, asn1.Tag(1).Constructed().ContextSpecific(), s.unsigned...))
	sd := element(t, asn1.SEQUENCE, number(1), element(t, asn1.SET, algorithm(oidSHA256)), algorithm(oidData), element(t, asn1.Tag(0).Constructed().ContextSpecific(), certificates), element(t, asn1.SET, signer))
	return element(t, asn1.SEQUENCE, element(t, asn1.OBJECT_IDENTIFIER, oidSignedData), element(t, asn1.Tag(0).Constructed().ContextSpecific(), sd))
}

// timestampAttribute is d's timestamp over the signature.
func (s gitSigned) timestampAttribute(t testing.TB, d *verifytest.Deployment, at time.Time) []byte {
	in := cryptobyte.String(d.Token(s.parts.Signature, at, true))
	var response, token cryptobyte.String
	if !in.ReadASN1(&response, asn1.SEQUENCE) || !response.SkipASN1(asn1.SEQUENCE) || !response.ReadASN1Element(&token, asn1.SEQUENCE) {
		t.Fatal("no token")
	}
	return attribute(t, oidTimeStamp, token)
}

const tagText = "object 045f683042529876c1fe28f97f416c1501ffa433\ntype commit\ntag v1\ntagger Dev <dev@corp.internal> 1685981477 +0000\n\nA release\n"

func signedTag(payload string, der []byte) []byte {
	return append([]byte(payload), pem.EncodeToMemory(&pem.Block{Type: armorType, Bytes: der})...)
}

// TestTag verifies tags, with the log's time and an authority's, and refuses signatures of which a part is missing, doubled or of another.
func TestTag(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "own", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change  func(s, other *gitSigned)
		logless bool
		want    error
	}{
		"as gitsign signs":    {},
		"with a timestamp":    {change: func(s, _ *gitSigned) { s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now)) }},
		"a timestamp, no log": {change: func(s, _ *gitSigned) { s.unsigned = [][]byte{s.timestampAttribute(t, d, d.Now)} }, logless: true},
		"no log":              {func(s, _ *gitSigned) { s.unsigned = [][]byte{s.timestampAttribute(t, d, d.Now)} }, false, ErrLogProof},
		"a timestamp of another signature": {func(s, other *gitSigned) {
			s.unsigned = append(s.unsigned, other.timestampAttribute(t, d, d.Now))
		}, false, ErrTime},
		"a timestamp after the certificate": {func(s, _ *gitSigned) {
			s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now.Add(time.Hour)))
		}, false, ErrTime},
		"the entry of another signature": {func(s, other *gitSigned) { s.unsigned = other.unsigned }, false, ErrLogProof},
		"another signature":              {func(s, other *gitSigned) { s.parts.Signature = other.parts.Signature }, false, ErrSignature},
		"another certificate":            {func(s, other *gitSigned) { s.parts.Signer = other.parts.Signer }, false, ErrSignature},
		"two entries":                    {func(s, other *gitSigned) { s.unsigned = append(s.unsigned, other.unsigned...) }, false, ErrMalformed},
		"CVE-2024-51746 two entries, the first of another signature": {func(s, other *gitSigned) {
			s.unsigned = append(other.unsigned[:1:1], s.unsigned...)
		}, false, ErrMalformed},
		"CVE-2023-47122 an entry of a log that brings its own key": {func(s, _ *gitSigned) {
			foreign := verifytest.New(t, "corp.internal") // same names, other keys
			sum := sha256.Sum256(s.parts.Artifact)
			s.log(t, foreign.Entry(verifytest.BodyV1(s.parts.Signer, sum[:], s.parts.Signature), d.Now, true), func(*protorekor.TransparencyLogEntry) {})
		}, false, ErrUntrusted},
		"the log's promise alone": {func(s, _ *gitSigned) {
			s.log(t, s.parts.Entries[0], func(e *protorekor.TransparencyLogEntry) { e.InclusionProof = nil })
		}, false, nil},
		"neither promise nor proof": {func(s, _ *gitSigned) {
			s.log(t, s.parts.Entries[0], func(e *protorekor.TransparencyLogEntry) { e.InclusionProof, e.InclusionPromise = nil, nil })
		}, false, ErrMalformed},
		"CVE-2026-44310 no certificate": {func(s, _ *gitSigned) { s.bare = true }, false, ErrMalformed},
		"CVE-2026-44309 over the tag as it would be written again": {func(s, _ *gitSigned) {
			*s = signGit(t, d, []byte(strings.TrimSuffix(tagText, "\n")))
		}, false, ErrSignature},
		"CVE-2026-44309 over other line ends": {func(s, _ *gitSigned) {
			*s = signGit(t, d, []byte(strings.ReplaceAll(tagText, "\n", "\r\n")))
		}, false, ErrSignature},
		"an unknown attribute": {func(s, _ *gitSigned) { s.unsigned = append(s.unsigned, s.signed[0]) }, false, ErrMalformed},
		"an unknown attribute beside a timestamp": {func(s, _ *gitSigned) {
			s.unsigned = append(s.unsigned, s.timestampAttribute(t, d, d.Now), s.signed[0])
		}, false, ErrMalformed},
		"no digest":       {func(s, _ *gitSigned) { s.signed = s.signed[:1] }, false, ErrMalformed},
		"two digests":     {func(s, _ *gitSigned) { s.signed = append(s.signed, s.signed[1]) }, false, ErrMalformed},
		"no content type": {func(s, _ *gitSigned) { s.signed = s.signed[1:] }, false, ErrMalformed},
		"an unknown field in the entry": {func(s, _ *gitSigned) {
			s.unsigned = [][]byte{attribute(t, oidLogEntry, element(t, asn1.OCTET_STRING, []byte{0xf8, 0x07, 1}))}
		}, false, ErrMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			s, other := signGit(t, d, []byte(tagText)), signGit(t, d, []byte(tagText))
			if c.change != nil {
				c.change(&s, &other)
			}
			q := gitRequest("tag", signedTag(tagText, s.der(t)), Identity{SAN: d.Identity, Issuer: d.Issuer})
			q.Policy.WithoutLog = c.logless
			r, err := v.Verify(t.Context(), q)
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
			if err == nil {
				if !strings.HasPrefix(r.Artifact(), "gitTag:") {
					t.Errorf("it is a %s", r.Artifact())
				}
			}
		})
	}
}

// TestTagInV2: the body of an entry of Rekor v2 is made anew, and the log's proof says whether it is this signature's.
func TestTagInV2(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "own", JSON: d.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	type entry = *protorekor.TransparencyLogEntry
	none := func(entry) {}
	for name, c := range map[string]struct {
		edit   func(entry)
		change func(s, other *gitSigned)
		want   error
	}{
		"as gitsign writes it":           {edit: none},
		"by its own version":             {edit: func(e entry) { e.KindVersion.Version = bodyV2 }},
		"of another version":             {func(e entry) { e.KindVersion.Version = "0.0.3" }, nil, ErrMalformed},
		"without a timestamp":            {none, func(s, _ *gitSigned) { s.unsigned = s.unsigned[:1] }, ErrTime},
		"the entry of another signature": {none, func(s, other *gitSigned) { s.unsigned[0] = other.unsigned[0] }, ErrLogProof},
		"a time that nobody signed":      {func(e entry) { e.IntegratedTime = d.Now.Unix() }, nil, ErrTime},
		"a promise":                      {func(e entry) { e.InclusionPromise.SignedEntryTimestamp, e.KindVersion.Version = []byte{1}, bodyV2 }, nil, ErrMalformed},
		"without its proof":              {func(e entry) { e.InclusionProof = nil }, nil, ErrMalformed},
		"another root":                   {func(e entry) { e.InclusionProof.RootHash = make([]byte, 32) }, nil, ErrLogProof},
	} {
		t.Run(name, func(t *testing.T) {
			s, other := signGitV2(t, d, []byte(tagText), c.edit), signGitV2(t, d, []byte(tagText), none)
			if c.change != nil {
				c.change(&s, &other)
			}
			_, err := v.Verify(t.Context(), gitRequest("tag", signedTag(tagText, s.der(t)), Identity{SAN: d.Identity, Issuer: d.Issuer}))
			if !errors.Is(err, c.want) {
				t.Fatalf("%v, want %v", err, c.want)
			}
		})
	}
}

// FuzzGitObject: whatever stands in a commit or a tag, a verdict is reached, and a yes is over what was signed.
func FuzzGitObject(f *testing.F) {
	d := verifytest.New(f, "corp.internal")
	v, err := New(Config{Roots: []Root{{Name: "own", JSON: d.Root()}}})
	if err != nil {
		f.Fatal(err)
	}
	const commitText = "tree 045f683042529876c1fe28f97f416c1501ffa433\nauthor Dev <dev@corp.internal> 1685981477 +0000\n\nA change\n"
	f.Add(signedCommit([]byte(commitText), signGit(f, d, []byte(commitText)).der(f)), false)
	f.Add(signedTag(tagText, signGit(f, d, []byte(tagText)).der(f)), true)
	f.Add(signedTag(tagText, signGitV2(f, d, []byte(tagText), func(*protorekor.TransparencyLogEntry) {}).der(f)), true)
	f.Add([]byte("tree\ngpgsig -----BEGIN SIGNED MESSAGE-----\n MAA=\n -----END SIGNED MESSAGE-----\n\n"), false)
	f.Add([]byte("object\n\n-----BEGIN SIGNED MESSAGE-----\nMAA=\n-----END SIGNED MESSAGE-----\n"), true)
	f.Fuzz(func(t *testing.T, body []byte, tag bool) {
		kind := "commit"
		if tag {
			kind = "tag"
		}
		r, err := v.Verify(t.Context(), gitRequest(kind, body, Identity{SAN: d.Identity, Issuer: d.Issuer}))
		if errors.Is(err, ErrInternal) {
			t.Fatal(err)
		}
		if err == nil {
			if payload, _, _ := (GitObject{Kind: kind, Body: body}).split(); string(payload) != commitText && string(payload) != tagText {
				t.Fatalf("accepted over %q: %v", payload, r)
			}
		}
	})
}
