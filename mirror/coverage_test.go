package mirror

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/inventory"
	"redoubt.internal/mirror/parcel"
)

// TestSignaturesOf: an entry signs the digest it names, and a statement only what the statement is about.
func TestSignaturesOf(t *testing.T) {
	leaf := rekorLeaf(t, "release@corp.internal", "https://issuer.corp.internal", 7)
	image := fmt.Sprintf("sha256:%064x", 7)
	got := SignaturesOf("log.example", Record{Index: 3, Leaf: leaf}, image, "")
	if len(got) != 1 || got[0].Identities[0] != "release@corp.internal" || got[0].Issuer != "https://issuer.corp.internal" || got[0].Index != 3 || got[0].Signed.IsZero() {
		t.Fatalf("%+v", got)
	}
	for name, r := range map[string]struct {
		leaf             []byte
		image, statement string
	}{
		"another digest":    {leaf, fmt.Sprintf("sha256:%064x", 8), ""},
		"another statement": {leaf, image, fmt.Sprintf("sha256:%064x", 8)},
		"no entry":          {[]byte("x"), image, ""},
		"a statement's own digest": {[]byte(fmt.Sprintf(`{"apiVersion":"0.0.1","kind":"dsse","spec":{"envelopeHash":{"algorithm":"sha256","value":"%064x"},"payloadHash":{"algorithm":"sha256","value":"%064x"},"signatures":[]}}`, 7, 8)),
			image, ""},
	} {
		if got := SignaturesOf("log.example", Record{Leaf: r.leaf}, r.image, r.statement); len(got) != 0 {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestStatementsOfRealBundles: whatever image a real bundle's statement names is found by that statement in the bundle's own entry.
func TestStatementsOfRealBundles(t *testing.T) {
	named, found, kinds := 0, 0, map[string]int{}
	err := filepath.WalkDir(publicData(t, "bundles"), func(file string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		of, _, err := inventory.Statements(file)
		if err != nil || len(of) == 0 {
			return err
		}
		raw, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		var b struct {
			VerificationMaterial struct {
				TlogEntries []struct {
					CanonicalizedBody []byte `json:"canonicalizedBody"`
				} `json:"tlogEntries"`
			} `json:"verificationMaterial"`
		}
		if json.Unmarshal(raw, &b) != nil {
			return nil
		}
		for image, statements := range of {
			for _, e := range b.VerificationMaterial.TlogEntries {
				if len(e.CanonicalizedBody) == 0 {
					continue
				}
				named++
				var s []ImageSignature
				for _, statement := range statements {
					s = append(s, SignaturesOf("real", Record{Leaf: e.CanonicalizedBody}, image, statement)...)
				}
				if len(s) > 0 {
					found++
					kinds[s[0].Kind]++
				} else if !strings.Contains(file, "fail") {
					t.Logf("not by the statement: %s", filepath.Base(file))
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d of %d subjects of real bundles found by their statement, kinds %v", found, named, kinds)
	if found < 10 {
		t.Fatal("too few real bundles were read")
	}
}

// TestCover: unsigned is said only where every log is held whole.
func TestCover(t *testing.T) {
	image := inventory.Image{Digest: fmt.Sprintf("sha256:%064x", 1), Names: []string{"a", "b", "c"}, Places: 3}
	signature := ImageSignature{Log: "log.example"}
	whole, part := SearchedLog{"log.example", 5, true}, SearchedLog{"other.example", 5, false}
	r := &CoverageReport{}
	for _, c := range []struct {
		found []ImageSignature
		logs  []SearchedLog
		want  string
	}{{nil, []SearchedLog{whole}, CoverUnsigned}, {nil, []SearchedLog{whole, part}, CoverNotCarried}, {[]ImageSignature{signature}, []SearchedLog{part}, CoverSigned}} {
		got := Cover(image, c.found, c.logs)
		if got.State != c.want {
			t.Errorf("%+v", got)
		}
		r.Add(got)
	}
	if share, ok := r.Ratio(); !ok || share != 1.0/3 || r.Digests != 3 {
		t.Errorf("%v %v %+v", share, ok, r)
	}
	if s := r.short(); len(s.Images) != 2 || len(s.Images[0].Names) != 2 || len(r.Images) != 3 || len(r.Images[0].Names) != 3 {
		t.Errorf("%+v", s)
	}
	r.Inventories = []InventoryRead{{Path: "x", Error: "it is gone"}}
	if _, ok := r.Ratio(); ok {
		t.Error("a share of half of what runs")
	}
}

// TestCoverageInReport: the report says what was found, in its signed text; a failure to ask is one to make the report.
func TestCoverageInReport(t *testing.T) {
	l := claimLab(t, parcel.ScopeSparse)
	logs, err := l.in.SignatureLogs()
	if err != nil || len(logs) != 1 || logs[0] != (SearchedLog{"log.example", 700, false}) {
		t.Fatalf("%v %+v", err, logs)
	}
	r := &CoverageReport{Time: l.now}
	for n := range 300 {
		r.Add(Cover(inventory.Image{Digest: fmt.Sprintf("sha256:%064x", n), Places: 1}, nil, logs))
	}
	var fails error
	l.mc.Cover = func(context.Context) (*CoverageReport, error) { return r, fails }
	l.reopen()
	rec, err := l.in.Reconcile(t.Context())
	if err != nil || rec.Coverage.NotCarried != 300 || len(rec.Coverage.Images) != maxUncovered || !strings.Contains(string(rec.Note), `"not_carried":300`) {
		t.Fatalf("%v %+v", err, rec.Coverage)
	}
	if g, err := l.in.Gauges(t.Context()); err != nil || g.Coverage.NotCarried != 300 || len(g.Coverage.Images) != 0 {
		t.Fatalf("%v %+v", err, g.Coverage)
	}
	fails = errors.New("the index is gone")
	if _, err := l.in.Reconcile(t.Context()); !errors.Is(err, fails) {
		t.Fatal(err)
	}
}

// TestStatementsAbout: what vouches for an image was carried with it, and says which statement its entry names.
func TestStatementsAbout(t *testing.T) {
	l, s, wanted, other := imageLab(t, true)
	payload := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":%q}}]}`, strings.TrimPrefix(wanted.Digest, "sha256:"))
	bundle := s.blob("team/app", "application/vnd.dev.sigstore.bundle.v0.3+json",
		fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{},"dsseEnvelope":{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[]}}`, base64.StdEncoding.EncodeToString(payload)))
	empty := s.blob("team/app", "application/vnd.oci.empty.v1+json", []byte("{}"))
	s.put("team/app", "", map[string]any{"artifactType": bundle.MediaType, "config": empty, "layers": []layer{bundle}, "subject": wanted})
	l.pull()
	l.load(l.export(0))
	of, err := l.in.StatementsAbout([]string{wanted.Digest, other.Digest})
	if err != nil || len(of) != 1 || !slices.Contains(of[wanted.Digest], images.DigestOf(payload)) {
		t.Fatalf("%v %v", err, of)
	}
	if of, err = l.in.StatementsAbout([]string{other.Digest}); err != nil || len(of) != 0 {
		t.Fatalf("%v %v", err, of)
	}
}
