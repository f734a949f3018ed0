package entry_test

import (
	"bytes"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	dsse "github.com/sigstore/rekor/pkg/types/dsse/v0.0.1"
	hashedrekord "github.com/sigstore/rekor/pkg/types/hashedrekord/v0.0.1"
	intoto "github.com/sigstore/rekor/pkg/types/intoto/v0.0.2"
	rekord "github.com/sigstore/rekor/pkg/types/rekord/v0.0.1"

	"redoubt.internal/mirror/entry"
)

// TestReadRealEntries: every real entry is read, and whatever Rekor itself would index an entry of v1 by is among what was read.
func TestReadRealEntries(t *testing.T) {
	kinds := make(map[string]int)
	indexed, signers := 0, 0
	for file, leaf := range realLeaves(t) {
		f, err := entry.Read(leaf)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		kinds[f.Kind+" "+f.APIVersion]++
		if f.Kind == "jar" { // not understood, and it says so
			if !f.Opaque || len(f.Terms()) != 0 {
				t.Errorf("%s: a kind that is not understood reads %+v", file, f)
			}
			continue
		}
		if f.Opaque || len(f.Keys) == 0 || len(f.Digests) == 0 || len(f.Signers) == 0 {
			t.Errorf("%s: incomplete: %+v", file, f)
		}
		for _, s := range f.Signers {
			signers++
			if len(s.Identities) > 0 && (s.NotAfter.IsZero() || !s.NotBefore.Before(s.NotAfter)) {
				t.Errorf("%s: a certificate without a window of time: %+v", file, s)
			}
		}
		keys := rekorKeys(t, leaf)
		for _, k := range keys {
			indexed++
			if !slices.ContainsFunc(f.Terms(), func(have string) bool { return strings.EqualFold(have, k) }) {
				t.Errorf("%s: Rekor finds it by %q, we by %q", file, k, f.Terms())
			}
		}
		if len(keys) == 0 && f.APIVersion == "0.0.1" {
			t.Errorf("%s: Rekor indexes nothing, so nothing was compared", file)
		}
	}
	t.Logf("%d signers, %d of Rekor's index keys found, kinds %v", signers, indexed, kinds)
	for _, kind := range []string{"hashedrekord 0.0.1", "hashedrekord 0.0.2", "dsse 0.0.1", "intoto 0.0.2", "rekord 0.0.1", "jar 0.0.1"} {
		if kinds[kind] == 0 {
			t.Errorf("no real entry of kind %s was read", kind)
		}
	}
}

// rekorKeys is what Rekor's own type packages index a stored v1 entry by; nothing for kinds they do not have.
func rekorKeys(t *testing.T, leaf []byte) []string {
	t.Helper()
	pe, err := models.UnmarshalProposedEntry(bytes.NewReader(leaf), nil)
	if err != nil {
		return nil
	}
	var v types.EntryImpl
	switch pe := pe.(type) {
	case *models.Hashedrekord:
		e := new(hashedrekord.V001Entry)
		if *pe.APIVersion != "0.0.1" || hashedrekord.DecodeEntry(pe.Spec, &e.HashedRekordObj) != nil {
			return nil
		}
		v = e
	case *models.DSSE:
		e := new(dsse.V001Entry)
		if dsse.DecodeEntry(pe.Spec, &e.DSSEObj) != nil {
			return nil
		}
		v = e
	case *models.Intoto:
		e := new(intoto.V002Entry)
		if intoto.DecodeEntry(pe.Spec, &e.IntotoObj) != nil {
			return nil
		}
		v = e
	case *models.Rekord:
		e := new(rekord.V001Entry)
		if rekord.DecodeEntry(pe.Spec, &e.RekordObj) != nil {
			return nil
		}
		v = e
	default:
		return nil
	}
	keys, err := v.IndexKeys()
	if err != nil {
		t.Fatalf("Rekor's own index keys: %v", err)
	}
	return keys
}

// TestReadNames: identities of every form, issuers of both extensions.
func TestReadNames(t *testing.T) {
	identities, issuers := map[string]int{}, map[string]int{}
	for _, leaf := range realLeaves(t) {
		f, err := entry.Read(leaf)
		if err != nil {
			continue
		}
		for _, n := range f.Identities {
			switch {
			case strings.Contains(n, "://"):
				identities["uri"]++
			case strings.Contains(n, "@"):
				identities["email"]++
			default:
				identities["other"]++
			}
		}
		issuers[f.Issuer]++
	}
	t.Logf("identities %v, issuers %v", identities, issuers)
	if identities["uri"] == 0 || identities["email"] == 0 {
		t.Errorf("identities of the real entries: %v", identities)
	}
	for _, want := range []string{"https://token.actions.githubusercontent.com", "https://github.com/login/oauth"} {
		if issuers[want] == 0 {
			t.Errorf("no entry of issuer %s; have %v", want, slices.Collect(maps.Keys(issuers)))
		}
	}
}

// TestReadRare: the bodies of which no real one is at hand, laid out as Rekor's openapi.yaml and rekor-tiles' protobuf have them.
func TestReadRare(t *testing.T) {
	key := entry.Facts{}
	if f, err := entry.Read(sample); err != nil {
		t.Fatal(err)
	} else {
		key = f
	}
	raw, _ := base64.StdEncoding.DecodeString(sampleKey)
	block, _ := pem.Decode(raw)
	der := base64.StdEncoding.EncodeToString(block.Bytes)
	for body, digests := range map[string][]string{
		`{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"AA"},"payloadHash":{"algorithm":"sha256","value":"bb"}},"publicKey":"` + sampleKey + `"}}`:                                                             {"sha256:aa", "sha256:bb"},
		`{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"aa"}},"publicKey":"` + sampleKey + `"}}`:                                                                                                               {"sha256:aa"},
		`{"apiVersion":"0.0.2","kind":"dsse","spec":{"dsseV002":{"payloadHash":{"algorithm":"SHA2_384","digest":"qg=="},"signatures":[{"content":"AA==","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":"` + der + `"}}}]}}}`:       {"sha384:aa"},
		`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"qg=="},"signature":{"content":"AA==","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","publicKey":{"rawBytes":"` + der + `"}}}}}}`: {"sha256:aa"},
		`{"apiVersion":"0.0.1","kind":"rekord","spec":{"extraData":{},"data":{"hash":{"algorithm":"sha256","value":"aa"}},"signature":{"content":"AA==","format":"x509","publicKey":{"content":"` + sampleKey + `"}}}}`:                                        {"sha256:aa"},
	} {
		f, err := entry.Read([]byte(body))
		if err != nil || f.Opaque || !slices.Equal(f.Digests, digests) || !slices.Equal(f.Keys, key.Keys) {
			t.Errorf("%.80s: %+v, %v", body, f, err)
		}
	}
}

// TestReadRefuses: what is not an entry is named so, member by member.
func TestReadRefuses(t *testing.T) {
	good := string(sample)
	if _, err := entry.Read(sample); err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) string {
		if !strings.Contains(good, old) {
			t.Fatalf("the sample holds no %s", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, leaf := range map[string]string{
		"empty":             "",
		"no object":         `[]`,
		"no kind":           `{"apiVersion":"0.0.1","spec":{}}`,
		"kind of a number":  `{"apiVersion":"0.0.1","kind":1,"spec":{}}`,
		"no version":        `{"kind":"hashedrekord","spec":{}}`,
		"no spec":           `{"apiVersion":"0.0.1","kind":"hashedrekord"}`,
		"a second entry":    good + good,
		"a name twice":      change(`"algorithm":"sha256",`, `"algorithm":"sha256","algorithm":"sha256",`),
		"a member too many": change(`"algorithm":"sha256",`, `"algorithm":"sha256","url":"x",`),
		"one at the top":    change(`"kind":`, `"more":1,"kind":`),
		"not base64":        change(`"content":"`, `"content":"%`),
		"a number as text":  change(`"algorithm":"sha256"`, `"algorithm":7`),
		"no key":            change(`"publicKey"`, `"publickey"`),
		"too many signers":  dsseOf(65),
		"no signer":         dsseOf(0),
		"too long":          `{"apiVersion":"0.0.1","kind":"x","spec":{"a":"` + strings.Repeat("a", entry.MaxLeaf) + `"}}`,
		"an unknown digest": `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"MD5","digest":"AAAA"},"signature":{"content":"AA==","verifier":{"keyDetails":"x","publicKey":{"rawBytes":"AAAA"}}}}}}`,
	} {
		if f, err := entry.Read([]byte(leaf)); !errors.Is(err, entry.ErrEntry) {
			t.Errorf("%s: read as %+v, %v", name, f, err)
		}
	}
}

// TestReadOpaque: a certificate nobody can parse leaves the digest, the hash of the key, and the word that there may be more.
func TestReadOpaque(t *testing.T) {
	f, err := entry.Read([]byte(strings.Replace(string(sample), sampleKey, base64.StdEncoding.EncodeToString([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")), 1)))
	if err != nil || !f.Opaque || len(f.Digests) != 1 || len(f.Keys) != 1 || len(f.Identities) != 0 {
		t.Errorf("%+v, %v", f, err)
	}
	if f, err = entry.Read([]byte(`{"apiVersion":"9.9.9","kind":"hashedrekord","spec":{"whatever":[1,2]}}`)); err != nil || !f.Opaque || f.Kind != "hashedrekord" {
		t.Errorf("a version from the future: %+v, %v", f, err)
	}
}

// TestMatch: a selector's fields must agree with one signer; a name of the first and the issuer of the second are nobody's.
func TestMatch(t *testing.T) {
	f := entry.Facts{Kind: "dsse", Digests: []string{"sha256:aa"}, Signers: []entry.Signer{
		{Key: "01", Identities: []string{"Alice@example.com"}, Issuer: "https://one"},
		{Key: "02", Identities: []string{"https://ci.example.com/build"}, Issuer: "https://two"},
	}}
	for _, test := range []struct {
		s    entry.Selector
		want bool
	}{
		{entry.Selector{}, false},
		{entry.Selector{Digest: "SHA256:AA"}, true},
		{entry.Selector{Digest: "sha256:bb"}, false},
		{entry.Selector{Identity: "alice@example.com"}, true},
		{entry.Selector{Identity: "alice@example.com", Issuer: "https://one"}, true},
		{entry.Selector{Identity: "alice@example.com", Issuer: "https://two"}, false},
		{entry.Selector{Pattern: regexp.MustCompile(`^https://ci\.`), Issuer: "https://two", Digest: "sha256:aa"}, true},
		{entry.Selector{Key: "02", Issuer: "https://one"}, false},
		{entry.Selector{Issuer: "https://two"}, true},
	} {
		if got := f.Match(test.s); got != test.want {
			t.Errorf("%+v: %v", test.s, got)
		}
	}
}

func dsseOf(signers int) string {
	one := `{"signature":"x","verifier":"` + sampleKey + `"}`
	list := strings.TrimSuffix(strings.Repeat(one+",", signers), ",")
	return fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"aa"},"payloadHash":{"algorithm":"sha256","value":"bb"},"signatures":[%s]}}`, list)
}

func FuzzRead(f *testing.F) {
	f.Add(sample)
	f.Add([]byte(dsseOf(1)))
	f.Add([]byte(`{"apiVersion":"0.0.1","kind":"intoto","spec":{"content":{"hash":{"algorithm":"sha256","value":"aa"}},"publicKey":"` + sampleKey + `"}}`))
	f.Add([]byte(`{"apiVersion":"0.0.2","kind":"intoto","spec":{"content":{"envelope":{"payload":"ZXlKOQ==","payloadType":"x","signatures":[{"publicKey":"` + sampleKey + `","sig":"AA=="}]},"hash":{"algorithm":"sha256","value":"aa"},"payloadHash":{"algorithm":"sha256","value":"bb"}}}}`))
	f.Add([]byte(`{"apiVersion":"0.0.1","kind":"rekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"aa"}},"signature":{"content":"AA==","format":"pgp","publicKey":{"content":"` + sampleKey + `"}}}}`))
	f.Add([]byte(`{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"AAAA"},"signature":{"content":"AA==","verifier":{"keyDetails":"x","publicKey":{"rawBytes":"AAAA"}}}}}}`))
	f.Fuzz(func(t *testing.T, leaf []byte) {
		facts, err := entry.Read(leaf)
		if err != nil {
			if !errors.Is(err, entry.ErrEntry) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		again, err := entry.Read(bytes.Clone(leaf))
		if err != nil || fmt.Sprint(again) != fmt.Sprint(facts) {
			t.Fatalf("read twice, two meanings: %+v, %+v, %v", facts, again, err)
		}
		if facts.Kind == "" || len(facts.Keys) > 2*len(facts.Signers) {
			t.Fatalf("%+v", facts)
		}
	})
}

// sample is an entry of a bare P-256 key. It is no real one: its signature is not read here.
var (
	sampleKey = base64.StdEncoding.EncodeToString([]byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE2G2Y+2tabdTV5BcGiBIx0a9fAFwr\nkBbmLSGtks4L3qX6yYY0zufBnhC8Ur/iy55GhWP/9A/bY2LhC30M9+RYtw==\n-----END PUBLIC KEY-----\n"))
	sample    = []byte(`{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"632579b5183d418ff3dc443994fd35e0e1a2a6ce89a1ee22fdca577f8e8bc9c3"}},"signature":{"content":"MEUCIQDU","publicKey":{"content":"` + sampleKey + `"}}}}`)
)
