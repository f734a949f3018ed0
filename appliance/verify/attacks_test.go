package verify

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// attack is a bundle made to be refused.
type attack struct {
	name string
	make func(d *verifytest.Deployment) sample
	// want is the exit code of the refusal.
	want int
	// upstream is true where sigstore-go 1.3.0 accepts; each such case is a gap
	// this package closes and stands in docs/adr/0017-verify-closes-the-gaps.md.
	upstream bool
}

// spoil is a v1, v2 or attestation bundle with one change.
func spoil(generation int, change func(b map[string]any)) func(*verifytest.Deployment) sample {
	return func(d *verifytest.Deployment) sample {
		p := d.Attest("artifact", verifytest.CustomPredicate)
		if generation < 3 {
			p = d.SignMessage(generation, "artifact")
		}
		s := sampleOf(d, p)
		b := p.Tree()
		change(b)
		s.bundle = verifytest.Encode(d.T, b)
		return s
	}
}

// Paths into a bundle.
var (
	entryPath = []any{"verificationMaterial", "tlogEntries", 0}
	proofPath = append(entryPath[:3:3], "inclusionProof")
)

func in(base []any, more ...any) []any { return append(base[:len(base):len(base)], more...) }

// signedAs is a bundle whose checkpoint has another name in its signature line.
func signedAs(generation int, name string) func(*verifytest.Deployment) sample {
	return spoil(generation, func(b map[string]any) {
		text, line, _ := strings.Cut(at(b, in(proofPath, "checkpoint", "envelope")...).(string), "\n\n")
		set(b, text+"\n\n"+strings.Replace(line, "rekor.corp.internal", name, 1), in(proofPath, "checkpoint", "envelope")...)
	})
}

// attacks replays published failures of this family of software and the gaps
// found while writing this package. The identifiers are those of the advisories.
var attacks = []attack{
	{name: "CVE-2026-22703 entry of another signature", want: 22, make: func(d *verifytest.Deployment) sample {
		other, p := d.SignMessage(1, "other"), d.SignMessage(1, "artifact")
		p.Entries = other.Entries
		return sampleOf(d, p)
	}},
	{name: "CVE-2026-22703 entry of another signature, Rekor v2", want: 22, make: func(d *verifytest.Deployment) sample {
		other, p := d.SignMessage(2, "other"), d.SignMessage(2, "artifact")
		p.Entries = other.Entries
		return sampleOf(d, p)
	}},
	{name: "somebody's v2 entry under the v1 face of one tree", want: 22, upstream: true, make: func(d *verifytest.Deployment) sample {
		// The signature was never logged: the proof is that of another entry.
		other, p := d.SignMessage(2, "other"), d.SignMessage(2, "artifact")
		body := decodeB64(d.T, at(other.Tree(), in(entryPath, "canonicalizedBody")...).(string))
		p.Entries = []any{d.Entry(body, time.Time{}, true)}
		return sampleOf(d, p)
	}},
	// The name in a signature line is not signed: anybody can write another one in front of a log's good signature.
	{name: "v1 checkpoint signed under another name", want: 22, upstream: true, make: signedAs(1, "rekor.elsewhere.internal")},
	{name: "v1 checkpoint signed under the name of the v2 log", want: 22, upstream: true, make: signedAs(1, "rekor-2.corp.internal")},
	{name: "v1 checkpoint signed under no name", want: 22, make: signedAs(1, "")},
	{name: "v2 checkpoint signed under another name", want: 22, make: signedAs(2, "rekor.elsewhere.internal")},
	{name: "v2 checkpoint with a second line of the log's key under another name", want: 22, upstream: true, make: spoil(2, func(b map[string]any) {
		note := at(b, in(proofPath, "checkpoint", "envelope")...).(string)
		_, line, _ := strings.Cut(note, "\n\n")
		set(b, note+strings.Replace(line, "rekor.corp.internal", "rekor.elsewhere.internal", 1), in(proofPath, "checkpoint", "envelope")...)
	})},
	{name: "CVE-2022-36056 entry unbound, identity wrong", want: 11, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(1, "artifact"))
		s.policy.Identities[0].SAN = "other@corp.internal"
		return s
	}},
	{name: "CVE-2022-36056 entry that is no entry", want: 26, make: spoil(1, func(b map[string]any) { set(b, b64([]byte(`{}`)), in(entryPath, "canonicalizedBody")...) })},
	{name: "CVE-2022-36056 entry without promise and proof", want: 26, make: spoil(1, func(b map[string]any) {
		set(b, nil, in(entryPath, "inclusionProof")...)
		set(b, nil, in(entryPath, "inclusionPromise")...)
	})},
	{name: "CVE-2022-23649 promise over another payload", want: 22, make: func(d *verifytest.Deployment) sample {
		other, p := d.SignMessage(1, "other"), d.SignMessage(1, "artifact")
		b := p.Tree()
		set(b, at(other.Tree(), in(entryPath, "inclusionPromise")...), in(entryPath, "inclusionPromise")...)
		s := sampleOf(d, p)
		s.bundle = verifytest.Encode(d.T, b)
		return s
	}},
	{name: "CVE-2022-35929 wrong predicate type", want: 23, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.Attest("artifact", "https://example.com/other"))
		s.policy.PredicateTypes = []string{verifytest.CustomPredicate}
		return s
	}},
	{name: "CVE-2026-39395 unparsable payload", want: 26, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", []byte(`{"_type":"https://in-toto.io/Statement/v1","subject":`)))
	}},
	{name: "CVE-2026-39395 plain signature where an attestation is wanted", want: 10, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.policy.PredicateTypes = []string{verifytest.CustomPredicate}
		return s
	}},
	{name: "CVE-2026-24122 issuing certificate expired at signing", want: 24, make: func(d *verifytest.Deployment) sample {
		d.Now = verifytest.Epoch.AddDate(9, 0, 0).Add(-5 * time.Minute) // the authority ends within the leaf's validity
		p := d.SignMessage(2, "artifact")
		p.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, d.Now.Add(6*time.Minute), false))}}
		d.Material.TSAs[0].Chain = d.TSAChain
		return sampleOf(d, p)
	}},
	{name: "GHSA-fx35-mq7g-6g98 certificate of the entry differs from the bundle's", want: 22, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		again := d.IssueFor(p.Signer.Key, d.Now, nil) // the same key, so that the signature fits both
		digest := sha256.Sum256(p.Artifact)
		p.Entries = []any{d.Entry(verifytest.BodyV1(again, digest[:], p.Signature), d.Now.Add(time.Minute), true)}
		return sampleOf(d, p)
	}},
	{name: "CVE-2026-49834 the same entry twice", want: 22, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		p.Entries = append(p.Entries, p.Entries[0])
		return sampleOf(d, p)
	}},
	{name: "second entry of a known log does not verify", want: 22, upstream: true, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		digest := sha256.Sum256(p.Artifact)
		bad := d.Entry(verifytest.BodyV1(p.Signer, digest[:], p.Signature), d.Now.Add(time.Minute), true)
		bad["integratedTime"] = fmt.Sprint(d.Now.Add(2 * time.Minute).Unix()) // promise broken: sigstore-go skips it
		p.Entries = append(p.Entries, bad)
		return sampleOf(d, p)
	}},
	{name: "CVE-2026-54787 time outside the managed key's validity", want: 24, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		s := keySample(d, p)
		s.policy.Key.NotAfter = d.Now.Add(-time.Hour)
		return s
	}},
	{name: "sigstore-go#609 no artifact and no digest", want: 2, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.digest = "sha256:"
		return s
	}},
	{name: "CVE-2024-45395 33 log entries", want: 26, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		for range 32 {
			p.Entries = append(p.Entries, p.Entries[0])
		}
		return sampleOf(d, p)
	}},
	{name: "CVE-2024-45395 33 timestamps", want: 26, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(2, "artifact")
		for range 32 {
			p.Stamps = append(p.Stamps, p.Stamps[0])
		}
		return sampleOf(d, p)
	}},
	{name: "CVE-2024-45395 1025 subjects", want: 26, make: func(d *verifytest.Deployment) sample {
		subject := fmt.Sprintf(`{"name":"a","digest":{"sha256":"%x"}}`, sha256.Sum256([]byte("artifact")))
		return sampleOf(d, d.AttestPayload("artifact", []byte(`{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[`+strings.Repeat(subject+",", 1024)+subject+`]}`)))
	}},
	{name: "CVE-2024-45395 33 digests of a subject", want: 26, make: func(d *verifytest.Deployment) sample {
		var more strings.Builder
		for i := range 32 {
			fmt.Fprintf(&more, `"x%d":"00",`, i)
		}
		return sampleOf(d, d.AttestPayload("artifact", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[{"name":"a","digest":{%s"sha256":"%x"}}]}`, more.String(), sha256.Sum256([]byte("artifact")))))
	}},
	{name: "CVE-2024-53267 entry of another attestation", want: 22, make: func(d *verifytest.Deployment) sample {
		other, p := d.Attest("other", verifytest.CustomPredicate), d.Attest("artifact", verifytest.CustomPredicate)
		p.Entries = other.Entries
		return sampleOf(d, p)
	}},
	{name: "CVE-2024-54140 checkpoint signature invalid, promise good", want: 22, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		b := p.Tree()
		note := at(b, in(proofPath, "checkpoint", "envelope")...).(string)
		i := strings.LastIndex(note, " ") + 1
		raw := decodeB64(d.T, strings.TrimSpace(note[i:]))
		raw[len(raw)-1] ^= 1
		set(b, note[:i]+b64(raw)+"\n", in(proofPath, "checkpoint", "envelope")...)
		s := sampleOf(d, p)
		s.bundle = verifytest.Encode(d.T, b)
		return s
	}},
	{name: "CVE-2024-55655 time of the entry without the log's promise", want: 24, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		b := p.Tree()
		set(b, nil, in(entryPath, "inclusionPromise")...)
		s := sampleOf(d, p)
		s.bundle = verifytest.Encode(d.T, b)
		return s
	}},
	{name: "CVE-2026-48816 chosen time beside a proof, Rekor v2", want: 24, upstream: true, make: spoil(2, func(b map[string]any) {
		set(b, fmt.Sprint(verifytest.Epoch.Add(5*time.Minute).Unix()), in(entryPath, "integratedTime")...)
	})},
	{name: "CVE-2026-31830 attestation of another artifact", want: 12, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
		s.artifact = []byte("artefact")
		return s
	}},
	{name: "GHSA-7rmh-48mx-2vwc signature over a re-encoded statement", want: 12, make: spoil(3, func(b map[string]any) {
		var compact bytes.Buffer
		raw, _ := base64.StdEncoding.DecodeString(at(b, "dsseEnvelope", "payload").(string))
		if json.Indent(&compact, raw, "", " ") == nil {
			set(b, b64(compact.Bytes()), "dsseEnvelope", "payload")
		}
	})},
	{name: "CVE-2026-39984 timestamp signed by a foreign leaf placed first", want: 24, make: func(d *verifytest.Deployment) sample {
		foreign := verifytest.New(d.T, "foreign.example")
		p := d.SignMessage(2, "artifact")
		p.Stamps = []any{map[string]any{"signedTimestamp": b64(foreign.Token(p.Signature, d.Now.Add(time.Minute), true))}}
		return sampleOf(d, p)
	}},
	{name: "foreign certificate embedded in a good timestamp", want: 20, upstream: true, make: func(d *verifytest.Deployment) sample {
		foreign := verifytest.New(d.T, "foreign.example")
		p := d.SignMessage(2, "artifact")
		p.Stamps = []any{map[string]any{"signedTimestamp": b64(addCert(d.T, d.Token(p.Signature, d.Now.Add(time.Minute), true), foreign.TSAChain[0].Raw))}}
		return sampleOf(d, p)
	}},
	{name: "second timestamp of the known authority does not verify", want: 24, upstream: true, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(2, "artifact")
		p.Stamps = append(p.Stamps, map[string]any{"signedTimestamp": b64(d.Token([]byte("other"), d.Now.Add(time.Minute), false))})
		return sampleOf(d, p)
	}},
	{name: "signature swapped, entry good", want: 12, make: func(d *verifytest.Deployment) sample {
		p, other := d.SignMessage(2, "artifact"), d.SignMessage(2, "other")
		p.Signature = other.Signature
		return sampleOf(d, p)
	}},
	{name: "unlogged", want: 22, make: spoil(2, func(b map[string]any) { set(b, []any{}, "verificationMaterial", "tlogEntries") })},
	{name: "no timestamp, Rekor v2", want: 24, make: spoil(2, func(b map[string]any) { set(b, nil, "verificationMaterial", "timestampVerificationData") })},
	{name: "bundle of another deployment", want: 20, make: func(d *verifytest.Deployment) sample {
		foreign := verifytest.New(d.T, d.Domain) // same names, other keys
		s := sampleOf(foreign, foreign.SignMessage(2, "artifact"))
		s.root = d.Root()
		return s
	}},
	{name: "certificate of another deployment in our log", want: 20, make: func(d *verifytest.Deployment) sample {
		foreign := verifytest.New(d.T, d.Domain)
		p := foreign.SignMessage(2, "artifact")
		digest := sha256.Sum256(p.Artifact)
		p.Entries = []any{d.Entry(verifytest.BodyV2(p.Signer, digest[:], p.Signature), time.Time{}, false)}
		p.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, d.Now.Add(time.Minute), false))}}
		return sampleOf(d, p)
	}},
	{name: "no SCT of a known log", want: 22, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(2, "artifact")
		s := sampleOf(d, p)
		d.Material.CTLogs[0].Key = &verifytest.ECKey(d.T).PublicKey
		s.root = d.Root()
		return s
	}},
	{name: "checkpoint of another origin", want: 22, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(2, "artifact")
		s := sampleOf(d, p)
		d.Material.Rekor[0].Host = "rekor-2.corp.internal"
		s.root = d.Root()
		return s
	}},
	{name: "log key ended before the signing time", want: 24, upstream: true, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(2, "artifact")
		s := sampleOf(d, p)
		d.Material.Rekor[0].End = d.Now.Add(-time.Hour)
		s.root = d.Root()
		return s
	}},
	{name: "kind claims otherwise than the body", want: 22, upstream: true, make: spoil(2, func(b map[string]any) { set(b, "dsse", in(entryPath, "kindVersion", "kind")...) })},
	{name: "tree size of the proof is not the checkpoint's", want: 22, upstream: true, make: spoil(2, func(b map[string]any) { set(b, "9000", in(proofPath, "treeSize")...) })},
	{name: "root of the proof is not the checkpoint's", want: 22, upstream: true, make: spoil(2, func(b map[string]any) { set(b, b64(make([]byte, 32)), in(proofPath, "rootHash")...) })},
	{name: "index of the proof is not the entry's", want: 22, upstream: true, make: spoil(2, func(b map[string]any) { set(b, "1", in(proofPath, "logIndex")...) })},
	{name: "chain with a foreign certificate", want: 20, upstream: true, make: func(d *verifytest.Deployment) sample {
		p := d.SignMessage(1, "artifact")
		p.MediaType = verifytest.MediaV01
		b := p.Tree()
		foreign := verifytest.New(d.T, "foreign.example")
		certs := at(b, "verificationMaterial", "x509CertificateChain", "certificates").([]any)
		set(b, append(certs, map[string]any{"rawBytes": b64(foreign.CAChain[1].Raw)}), "verificationMaterial", "x509CertificateChain", "certificates")
		s := sampleOf(d, p)
		s.bundle = verifytest.Encode(d.T, b)
		return s
	}},
	{name: "subject matches by sha256 and not by sha512", want: 12, upstream: true, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[{"name":"a","digest":{"sha256":"%x","sha512":"%x"}}]}`, sha256.Sum256([]byte("artifact")), make([]byte, 64))))
	}},
	{name: "digest of another hash of the same length class", want: 12, upstream: false, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.digest = fmt.Sprintf("sha512:%x", make([]byte, 64))
		return s
	}},
	{name: "duplicate name in the bundle", want: 26, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.bundle = append([]byte(`{"mediaType":"`+verifytest.MediaV03+`",`), s.bundle[1:]...)
		return s
	}},
	{name: "duplicate name in the predicate", want: 26, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{"builder":"good","builder":"evil"},"subject":[{"name":"a","digest":{"sha256":"%x"}}]}`, sha256.Sum256([]byte("artifact")))))
	}},
	{name: "subject under a folded name", want: 26, make: func(d *verifytest.Deployment) sample {
		return sampleOf(d, d.AttestPayload("artifact", fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicateType":"x","predicate":{},"subject":[{"name":"a","digest":{"sha256":"%x"}}],"Subject":[{"name":"a","digest":{"sha256":"%x"}}]}`, sha256.Sum256([]byte("other")), sha256.Sum256([]byte("artifact")))))
	}},
	{name: "data after the bundle", want: 26, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.bundle = append(s.bundle, "{}"...)
		return s
	}},
	{name: "unknown field", want: 26, make: spoil(2, func(b map[string]any) { set(b, "x", "comment") })},
	{name: "base64 with stray bits", want: 26, upstream: true, make: spoil(2, func(b map[string]any) {
		id := at(b, in(entryPath, "logId", "keyId")...).(string) // 32 bytes: the last digit holds two unused bits
		set(b, stray(id), in(entryPath, "logId", "keyId")...)
	})},
	{name: "two DSSE signatures", want: 26, make: spoil(3, func(b map[string]any) {
		sigs := at(b, "dsseEnvelope", "signatures").([]any)
		set(b, append(sigs, sigs[0]), "dsseEnvelope", "signatures")
	})},
	{name: "no DSSE signature", want: 26, make: spoil(3, func(b map[string]any) { set(b, []any{}, "dsseEnvelope", "signatures") })},
	{name: "33 MiB bundle", want: 26, upstream: true, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.bundle = append(bytes.Repeat([]byte(" "), 33<<20), s.bundle...)
		return s
	}},
	{name: "nesting", want: 26, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.bundle = []byte(strings.Repeat("[", 1<<20))
		return s
	}},
	{name: "empty", want: 26, make: func(d *verifytest.Deployment) sample {
		s := sampleOf(d, d.SignMessage(2, "artifact"))
		s.bundle = nil
		return s
	}},
}

func TestAttacks(t *testing.T) {
	for _, a := range slices.Concat(attacks, incomplete) {
		t.Run(a.name, func(t *testing.T) {
			d := verifytest.New(t, "corp.internal")
			s := a.make(d)
			res, err := s.verify(t)
			if res != nil || err == nil || ExitCode(err) != a.want {
				t.Errorf("exit %d, want %d: %v", ExitCode(err), a.want, err)
			}
			// The differential half: where sigstore-go refuses too, or not.
			if s.policy.Key != nil || len(s.policy.PredicateTypes) > 0 || s.digest != "" {
				return // asks for what upstream has no word for
			}
			if up := upstream(t, s); (up == nil) != a.upstream {
				t.Errorf("sigstore-go: %v, expected to accept: %v", up, a.upstream)
			}
		})
	}
}
