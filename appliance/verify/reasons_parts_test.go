package verify

import (
	"crypto/sha256"
	"crypto/sha512"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/mirror/freshness"
)

// TestEveryReasonOfAPart: each part of a bundle is judged for itself, whatever is wrong with another.
func TestEveryReasonOfAPart(t *testing.T) {
	stranger := []Identity{{SAN: "nobody@corp.internal", Issuer: "https://nobody.internal"}}
	day := 24 * time.Hour
	for name, c := range map[string]struct {
		make func(d *verifytest.Deployment) sample
		want []string
	}{
		"a key's window and the artifact": {func(d *verifytest.Deployment) sample {
			s := keySample(d, d.SignMessage(1, "artifact"))
			s.policy.Key.NotAfter, s.artifact = d.Now, []byte("another")
			return s
		}, []string{"signature", "time"}},
		"a key in its window, and the artifact": {func(d *verifytest.Deployment) sample {
			s := keySample(d, d.SignMessage(1, "artifact"))
			s.policy.Key.NotAfter, s.artifact = d.Now.Add(day), []byte("another")
			return s
		}, []string{"signature"}},
		"the certificate's time and identity": {func(d *verifytest.Deployment) sample {
			p := d.SignMessage(2, "artifact")
			p.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, d.Now.Add(time.Hour), false))}}
			s := sampleOf(d, p)
			s.policy.Identities = stranger
			return s
		}, []string{"identity", "time"}},
		"the log's time and identity": {func(d *verifytest.Deployment) sample {
			p := d.SignMessage(1, "artifact")
			digest := sha256.Sum256(p.Artifact)
			p.Entries = []any{d.Entry(verifytest.BodyV1(p.Signer, digest[:], p.Signature), d.Now.Add(time.Hour), true)}
			s := sampleOf(d, p)
			s.policy.Identities = stranger
			return s
		}, []string{"identity", "time"}},
		"no certificate log and identity": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			d.Material.CTLogs[0].Key = &verifytest.ECKey(d.T).PublicKey
			s.root, s.policy.Identities = d.Root(), stranger
			return s
		}, []string{"identity", "log_proof"}},
		"no certificate log and the artifact": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			d.Material.CTLogs[0].Key = &verifytest.ECKey(d.T).PublicKey
			s.root, s.artifact = d.Root(), []byte("another")
			return s
		}, []string{"log_proof", "signature"}},
		"a root that names no log, and the artifact": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			root := parseTree(d.T, s.root)
			delete(root, "tlogs")
			delete(root, "ctlogs")
			s.root, s.artifact = verifytest.Encode(d.T, root), []byte("another")
			s.policy.Identities = []Identity{{Root: "root", SAN: d.Identity, Issuer: d.Issuer, WithoutLog: true}}
			return s
		}, []string{"signature"}},
		"an old root and the artifact": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(1, "artifact"))
			s.policy.MaxTrustAge, s.artifact = time.Hour, []byte("another")
			return s
		}, []string{"signature", "stale"}},
		"who was denied before the log's time, and the artifact": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(1, "artifact"))
			list, err := denied.New("corp.internal").With(denied.Entry{Issuer: d.Issuer, Identity: d.Identity, Reason: "left", Until: d.Now.Add(-time.Hour)}, 0)
			if err != nil {
				d.T.Fatal(err)
			}
			s.policy.Denied, s.artifact = list, []byte("another")
			return s
		}, []string{"signature"}},
		"no log and identity": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			s.policy.Identities = stranger
			b := parseTree(d.T, s.bundle)
			set(b, []any{}, "verificationMaterial", "tlogEntries")
			s.bundle = verifytest.Encode(d.T, b)
			return s
		}, []string{"identity", "log_proof"}},
		"no log is asked for, and identity": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(2, "artifact"))
			s.policy.Identities, s.policy.WithoutLog = stranger, true
			b := parseTree(d.T, s.bundle)
			set(b, []any{}, "verificationMaterial", "tlogEntries")
			s.bundle = verifytest.Encode(d.T, b)
			return s
		}, []string{"identity"}},
		"the chain and identity": {func(d *verifytest.Deployment) sample {
			p := d.SignMessage(1, "artifact")
			p.MediaType = verifytest.MediaV01
			b := p.Tree()
			certs := at(b, "verificationMaterial", "x509CertificateChain", "certificates").([]any)
			set(b, append(certs, map[string]any{"rawBytes": b64(verifytest.New(d.T, "foreign.example").CAChain[1].Raw)}), "verificationMaterial", "x509CertificateChain", "certificates")
			s := sampleOf(d, p)
			s.bundle, s.policy.Identities = verifytest.Encode(d.T, b), stranger
			return s
		}, []string{"identity", "untrusted"}},
		"a foreign certificate in the timestamp, and identity": {func(d *verifytest.Deployment) sample {
			p := d.SignMessage(2, "artifact")
			p.Stamps = []any{map[string]any{"signedTimestamp": b64(addCert(d.T, d.Token(p.Signature, d.Now.Add(time.Minute), true), verifytest.New(d.T, "foreign.example").TSAChain[0].Raw))}}
			s := sampleOf(d, p)
			s.policy.Identities = stranger
			return s
		}, []string{"identity", "untrusted"}},
		"two timestamps, one of another signature, and identity": {func(d *verifytest.Deployment) sample {
			p := d.SignMessage(2, "artifact")
			p.Stamps = append(p.Stamps, map[string]any{"signedTimestamp": b64(d.Token([]byte("other"), d.Now.Add(time.Minute), false))})
			s := sampleOf(d, p)
			s.policy.Identities = stranger
			return s
		}, []string{"identity", "time"}},
		"a certificate of another authority, and the type": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
			d.Material.CAs = verifytest.New(d.T, "corp.internal").Material.CAs
			s.root, s.policy.PredicateTypes = d.Root(), []string{"https://example.com/other"}
			return s
		}, []string{"policy", "untrusted"}},
		"no subject and identity": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
			s.artifact, s.policy.Identities = []byte("another"), stranger
			return s
		}, []string{"identity", "signature"}},
		"identity alone, of several accepted": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(1, "artifact"))
			s.policy.Identities = append(slices.Clone(stranger), Identity{SAN: "other@corp.internal", Issuer: d.Issuer})
			return s
		}, []string{"identity"}},
		"an accepted signer's other artifact": {func(d *verifytest.Deployment) sample {
			s := sampleOf(d, d.SignMessage(1, "artifact"))
			s.policy.Identities, s.artifact = append(slices.Clone(stranger), s.policy.Identities...), []byte("another")
			return s
		}, []string{"signature"}},
	} {
		t.Run(name, func(t *testing.T) {
			s := c.make(verifytest.New(t, "corp.internal"))
			_, err := s.every(t)
			if got := slices.Sorted(slices.Values(ids(err))); !slices.Equal(got, c.want) {
				t.Errorf("%v, want %v: %v", got, c.want, Reasons(err))
			}
		})
	}
}

// TestEveryReasonOfAStaleLog: what a mirror says of the log speaks against a bundle beside everything else.
func TestEveryReasonOfAStaleLog(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := sampleOf(d, d.SignMessage(1, "artifact"))
	r, err := s.verify(t)
	if err != nil {
		t.Fatal(err)
	}
	now := d.Now.Add(48 * time.Hour)
	known := knows(r, d.Now.Add(-time.Hour), freshness.Limits{DenyNew: 60, DenyAll: 120})
	s.policy.Identities[0].SAN = "nobody@corp.internal"
	for upstream, want := range map[*freshness.State][]string{known: {"identity", "stale"}, nil: {"identity"}} {
		v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}, EveryReason: true, Upstream: upstream, Now: func() time.Time { return now }})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Verify(t.Context(), s.request()); !slices.Equal(slices.Sorted(slices.Values(ids(err))), want) {
			t.Errorf("%v, want %v", Reasons(err), want)
		}
	}
}

// TestSubjects: an attestation is over an artifact that one of its subjects bears, by whatever hash, and its verdict says by which.
func TestSubjects(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s256, s512 := fmt.Sprintf("%x", sha256.Sum256([]byte("artifact"))), fmt.Sprintf("%x", sha512.Sum512([]byte("artifact")))
	other := strings.Repeat("0", 64)
	for name, c := range map[string]struct {
		subjects, digest, want string // want is the digest in the verdict, empty for a refusal
	}{
		"by sha512 alone":                          {`{"digest":{"sha512":"` + s512 + `"}}`, "", "sha512:" + s512},
		"by both":                                  {`{"digest":{"sha256":"` + s256 + `","sha512":"` + s512 + `"}}`, "", "sha512:" + s512},
		"by sha512, given as such":                 {`{"digest":{"sha512":"` + s512 + `"}}`, "sha512:" + s512, "sha512:" + s512},
		"by sha512, given by sha256":               {`{"digest":{"sha512":"` + s512 + `"}}`, "sha256:" + s256, ""},
		"the second of two":                        {`{"digest":{"sha256":"` + other + `"}},{"digest":{"sha256":"` + s256 + `"}}`, "", "sha256:" + s256},
		"the first of two":                         {`{"digest":{"sha256":"` + s256 + `"}},{"digest":{"sha256":"` + other + `"}}`, "", "sha256:" + s256},
		"neither of two":                           {`{"digest":{"sha256":"` + other + `"}},{"digest":{"sha512":"` + other + `"}}`, "", ""},
		"one by sha256, one by sha512":             {`{"digest":{"sha512":"` + s512 + `"}},{"digest":{"sha256":"` + other + `"}}`, "", "sha512:" + s512},
		"one that contradicts itself":              {`{"digest":{"sha256":"` + s256 + `","sha512":"` + other + other + `"}}`, "", ""},
		"beside a hash that nobody knows":          {`{"digest":{"sha256":"` + s256 + `","md5":"00"}}`, "", "sha256:" + s256},
		"by a hash that nobody knows, alone":       {`{"digest":{"gitCommit":"` + s256 + `"}}`, "", ""},
		"by sha256 and sha512 of different things": {`{"digest":{"sha256":"` + other + `"}},{"digest":{"sha512":"` + other + other + `"}}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := sampleOf(d, d.AttestPayload("artifact", []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[`+c.subjects+`]}`)))
			s.digest = c.digest
			res, err := s.verify(t)
			switch {
			case c.want == "" && (ExitCode(err) != 12 || res != nil):
				t.Errorf("%v, %v", res, err)
			case c.want != "" && (err != nil || res.Artifact() != c.want):
				t.Errorf("%v, want %s: %v", res, c.want, err)
			case err == nil && res.report.Artifact.Bytes != (c.digest == ""):
				t.Errorf("it says of the bytes that they were seen: %t", res.report.Artifact.Bytes)
			case err != nil && NewFailure(err).Verified:
				t.Error("a failure that is verified")
			}
			if _, err := s.every(t); err != nil && c.digest == "" && NewFailure(err).Artifact.String() != "sha256:"+s256 {
				t.Errorf("the refusal is of %v", NewFailure(err).Artifact)
			}
		})
	}
}

// TestReasonsOfSeveral: reasons against several things that vouch take the place of one's own, and leave what was judged, and under which roots.
func TestReasonsOfSeveral(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	s.policy.Identities[0].SAN = "nobody@corp.internal"
	_, err := s.every(t)
	all := slices.Concat(ReasonsOf("a.json", err), ReasonsBy("release", ErrSignature))
	if len(all) != 2 || all[0].Source != "a.json" || all[0].ID != "identity" || all[1].Key != "release" || all[1].Source != "" {
		t.Errorf("%+v", all)
	}
	f := NewFailure(WithReasons(fmt.Errorf("%w and more", err), all))
	if f.Code != 11 || !strings.HasSuffix(f.Detail, "and more") || !slices.Equal(f.Reasons, all) || f.Bundle != hexSum(s.bundle) || f.Artifact == nil || len(f.Roots) != 1 {
		t.Errorf("%+v", f)
	}
	if f := NewFailure(WithReasons(ErrSignature, all)); f.Code != 12 || !slices.Equal(f.Reasons, all) || f.Bundle != "" {
		t.Errorf("of an error that judged nothing: %+v", f)
	}
	if kept := WithReasons(err, nil); !slices.Equal(Reasons(kept), Reasons(err)) || len(Reasons(err)) != 1 {
		t.Errorf("without others: %+v", Reasons(kept))
	}
	all[0].ID = "changed"
	if Reasons(err)[0].ID != "identity" {
		t.Error("the reasons of an error can be changed from outside")
	}
}
