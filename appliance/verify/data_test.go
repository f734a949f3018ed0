package verify

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/fulcio/certificate"
)

// dataDir finds the public log data.
func dataDir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skip("public log data absent: " + dir)
	}
	return dir
}

func read(t testing.TB, path ...string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Defaults of the conformance suite (its bundle-verify/README.md).
const (
	beaconIdentity = "https://github.com/sigstore-conformance/extremely-dangerous-public-oidc-beacon/.github/workflows/extremely-dangerous-oidc-beacon.yml@refs/heads/main"
	beaconIssuer   = "https://token.actions.githubusercontent.com"
)

// sample is something to verify, from the public data.
type sample struct {
	name     string
	root     []byte
	artifact []byte
	digest   string
	bundle   []byte
	policy   Policy
	err      error // of the key file
}

func (s sample) verify(t testing.TB) (*Result, error) {
	t.Helper()
	if s.err != nil {
		return nil, s.err
	}
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}})
	if err != nil {
		return nil, err
	}
	return v.Verify(context.Background(), s.request())
}

func (s sample) request() Request {
	r := Request{Bundle: s.bundle, Policy: s.policy}
	if s.digest != "" {
		r.Artifact.Digest = s.digest
	} else {
		r.Artifact.Reader = newReader(s.artifact)
	}
	return r
}

// conformanceCase loads one folder of the suite by its conventions.
func conformanceCase(t testing.TB, data, dir string) sample {
	t.Helper()
	s := sample{name: filepath.Base(dir), bundle: read(t, dir, "bundle.sigstore.json")}
	or := func(name string, def func() []byte) []byte {
		if b, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
			return b
		}
		return def()
	}
	s.root = or("trusted_root.json", func() []byte { return read(t, data, "roots", "trusted_root.public-good.json") })
	s.artifact = or("artifact", func() []byte { return read(t, dir, "..", "a.txt") })
	if key, err := os.ReadFile(filepath.Join(dir, "key.pub")); err == nil {
		s.policy.Key, s.err = ParseKey(key)
		return s
	}
	s.policy.Identities = []Identity{{
		SAN:    strings.TrimSpace(string(or("identity", func() []byte { return []byte(beaconIdentity) }))),
		Issuer: strings.TrimSpace(string(or("issuer", func() []byte { return []byte(beaconIssuer) }))),
	}}
	return s
}

func conformanceDirs(t testing.TB, data string) []string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(data, "conformance/test/assets/bundle-verify/*/bundle.sigstore.json"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		all[i] = filepath.Dir(all[i])
	}
	return all
}

func TestConformance(t *testing.T) {
	data := dataDir(t)
	accepted, refused := 0, 0
	for _, dir := range conformanceDirs(t, data) {
		s := conformanceCase(t, data, dir)
		mustFail := strings.HasSuffix(s.name, "_fail")
		t.Run(s.name, func(t *testing.T) {
			inputs := []sample{s}
			if !mustFail || strings.Contains(s.name, "mismatch") { // by digest as well, as the suite's protocol allows
				d := s
				sum := sha256.Sum256(s.artifact)
				d.digest = "sha256:" + hex.EncodeToString(sum[:])
				inputs = append(inputs, d)
			}
			for _, in := range inputs {
				res, err := in.verify(t)
				if (err != nil) != mustFail || res.Verified() == mustFail {
					t.Fatalf("got %v, %v", res, err)
				}
				if err != nil {
					t.Logf("exit %d: %v", ExitCode(err), err)
				}
			}
		})
		if mustFail {
			refused++
		} else {
			accepted++
		}
	}
	t.Logf("%d accepted, %d refused", accepted, refused)
	if accepted != 21 || refused != 49 {
		t.Errorf("%d cases to accept and %d to refuse, want 21 and 49", accepted, refused)
	}
}

// manifestEntry is a row of entries_manifest.json.
type manifestEntry struct {
	File, Mode, Path string
	Root             string `json:"trusted_root"`
}

// rootOf finds the trusted root the manifest names.
func rootOf(t testing.TB, data string, e manifestEntry) []byte {
	t.Helper()
	name := map[string]string{
		"public-good": "public-good", "staging": "staging", "x-01-sigstore-conformance": "conformance-sct-ext",
		"x-02-sigstore-conformance": "conformance-custom", "x-05-sigstore-conformance": "conformance-tsa-expired-chain", "x-09-sigstore-go": "scaffolding",
	}[e.Root]
	if name == "" {
		t.Fatalf("unknown root %q", e.Root)
	}
	return read(t, data, "roots", "trusted_root."+name+".json")
}

// realSamples are the 80 real bundles. Their artifacts are not at hand: the
// digest comes from the bundle, the identity from the certificate.
func realSamples(t testing.TB, data string) (samples []sample, modes []string) {
	t.Helper()
	var entries []manifestEntry
	if err := json.Unmarshal(read(t, data, "entries_manifest.json"), &entries); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.File, "bundles/") {
			continue
		}
		s := sample{name: e.File, root: rootOf(t, data, e), bundle: read(t, data, e.File)}
		b, err := decode(s.bundle)
		if err != nil {
			t.Fatalf("%s: %v", e.File, err)
		}
		if m := b.GetMessageSignature(); m != nil {
			s.digest = b.message + ":" + hex.EncodeToString(m.GetMessageDigest().GetDigest())
		} else {
			for _, name := range []string{"sha256", "sha512"} {
				if d, ok := b.subjects[0][name]; ok {
					s.digest = name + ":" + d
				}
			}
		}
		sum, err := certificate.SummarizeCertificate(b.content.Certificate())
		if err != nil {
			t.Fatal(err)
		}
		s.policy.Identities = []Identity{{SAN: sum.SubjectAlternativeName, Issuer: sum.Issuer}}
		samples, modes = append(samples, s), append(modes, e.Mode)
	}
	return samples, modes
}

// TestRealBundles: 70 bundles verify in full; the 10 whose log part is broken
// on purpose, or unknown to sigstore-go, verify as far as the manifest says
// (certificate, timestamp, signature) and are refused in full.
func TestRealBundles(t *testing.T) {
	data := dataDir(t)
	samples, modes := realSamples(t, data)
	full, partial := 0, 0
	for i, s := range samples {
		t.Run(s.name, func(t *testing.T) {
			res, err := s.verify(t)
			switch modes[i] {
			case "tlog+obsTS+SCT":
				full++
				if err != nil {
					t.Fatal(err)
				}
			case "signedTS":
				partial++
				if ExitCode(err) != 22 {
					t.Fatalf("exit %d, want 22: %v", ExitCode(err), err)
				}
				s.policy.WithoutLog = true
				if res, err = s.verify(t); err != nil {
					t.Fatal(err)
				}
			default:
				t.Fatalf("mode %q", modes[i])
			}
			checkResult(t, res, s)
			s.policy.Identities[0].SAN += "x"
			if _, err := s.verify(t); ExitCode(err) != 11 {
				t.Errorf("wrong identity: exit %d: %v", ExitCode(err), err)
			}
			s.digest = s.digest[:len(s.digest)-2] + "00"
			if _, err := s.verify(t); ExitCode(err) != 12 {
				t.Errorf("wrong artifact: exit %d: %v", ExitCode(err), err)
			}
		})
	}
	t.Logf("%d in full, %d without the log", full, partial)
	if full != 70 || partial != 10 {
		t.Errorf("%d bundles in full and %d without the log, want 70 and 10", full, partial)
	}
}

// TestRealCheckpointNames records how the public logs name themselves. The line of the log's own key bears the host of the origin in both
// generations, so holding it to that costs no real bundle. The host itself is not always that of the trusted root's baseUrl: Rekor v1
// took it from the machine ("localhost:8000", "rekor-00001-deployment-..."), so a v1 origin cannot be held to the root.
func TestRealCheckpointNames(t *testing.T) {
	data := dataDir(t)
	samples, modes := realSamples(t, data)
	names, elsewhere := map[string]int{}, 0
	for i, s := range samples {
		if modes[i] != "tlog+obsTS+SCT" {
			continue
		}
		b, err := decode(s.bundle)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range b.GetVerificationMaterial().GetTlogEntries() {
			note := e.GetInclusionProof().GetCheckpoint().GetEnvelope()
			if note == "" {
				names["a promise alone"]++
				continue
			}
			origin, _, _, err := parseCheckpoint(note)
			if err != nil {
				t.Fatal(err)
			}
			if err := checkNoteName(note, origin, e.GetLogId().GetKeyId()); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
			host, _, v1 := strings.Cut(origin, " - ")
			names[fmt.Sprintf("%s, v1 %v", host, v1)]++
			if v1 && !bytes.Contains(s.root, []byte(`"https://`+host+`"`)) {
				elsewhere++
			}
		}
	}
	t.Logf("%v", names)
	if len(names) < 5 || elsewhere == 0 {
		t.Errorf("%d names, %d v1 origins that are not the log's host: the real logs are others than when this was written", len(names), elsewhere)
	}
}

// checkResult holds a result to its schema and to the input.
func checkResult(t testing.TB, res *Result, s sample) {
	t.Helper()
	raw, err := json.Marshal(res)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Schema   string
		Verified bool
		Root     struct{ SHA256 string }
		Artifact struct{ Algorithm, Digest string }
		Times    []SignedTime
		Signer   struct{ Kind, Identity, Issuer string }
		Log      struct{ Proven []map[string]any }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.Schema != "redoubt.verify/v1" || !doc.Verified || doc.Root.SHA256 != hexSum(s.root) || len(doc.Times) == 0 ||
		doc.Artifact.Algorithm+":"+doc.Artifact.Digest != s.digest || doc.Signer.Identity != s.policy.Identities[0].SAN ||
		(len(doc.Log.Proven) == 0) != s.policy.WithoutLog {
		t.Errorf("result %s", raw)
	}
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
