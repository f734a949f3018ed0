package verify

import (
	"encoding/json"
	"fmt"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// meaning is what a result says, without the bundle's own digest and the media type, which the bundle only calls itself.
func meaning(t testing.TB, r *Result) string {
	t.Helper()
	c := r.report
	c.BundleSHA256, c.MediaType = "", ""
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// sameMeaning allows a changed bundle to say less: fewer signed times, or more
// ignored entries, never another.
func sameMeaning(want, got string) bool {
	var w, g report
	if json.Unmarshal([]byte(want), &w) != nil || json.Unmarshal([]byte(got), &g) != nil {
		return false
	}
	for _, x := range g.Times {
		if !slices.Contains(w.Times, x) {
			return false
		}
	}
	for i := range g.Log.Proven { // a v0.1 entry may rest on its promise alone
		if x := &g.Log.Proven[i]; x.Index == nil && x.Promise && i < len(w.Log.Proven) {
			y := w.Log.Proven[i]
			x.Index, x.TreeSize, x.RootHash, x.Origin = y.Index, y.TreeSize, y.RootHash, y.Origin
		}
	}
	g.Times, w.Times, g.TimesIgnored, w.TimesIgnored = nil, nil, 0, 0
	a, errA := json.Marshal(w)
	b, errB := json.Marshal(g)
	return errA == nil && errB == nil && string(a) == string(b)
}

// unbound are the fields a bundle may differ in and still be accepted, with the reason. Everything else in a bundle is held to something
// signed. same, where set, says which differences are meant: whether two values of the field are alike in all that counts.
var unbound = []looseField{
	{field: regexp.MustCompile(`^mediaType$`), why: "nothing signed names the form; the verdict gives it as the bundle's own word"},
	{field: regexp.MustCompile(`^verificationMaterial\.publicKey(\.hint)?$`), why: "the hint is for finding a key; the caller gives the key"},
	{field: regexp.MustCompile(`^verificationMaterial\.tlogEntries\.\d+\.logIndex$`), why: "the index across shards, unsigned where there is no promise; the verdict gives the proof's index"},
	{field: regexp.MustCompile(`^verificationMaterial\.tlogEntries\.\d+\.inclusionProof\.checkpoint\.envelope$`), same: sameNote, why: "cosignature lines of other keys"},
	{field: regexp.MustCompile(`^verificationMaterial\.tlogEntries\.\d+\.inclusionProof$`), same: lost, why: "a v0.1 entry may rest on its promise; the verdict shows no proof then"},
	{field: regexp.MustCompile(`^verificationMaterial\.timestampVerificationData(\.rfc3161Timestamps(\.\d+(\.signedTimestamp)?)?)?$`),
		why: "a token left out, of an authority unknown, or with another sentence for people: the times that remain are among the original's"},
	{field: regexp.MustCompile(`^verificationMaterial\.x509CertificateChain\.certificates$`), same: sameLeaf, why: chainWhy},
	{field: regexp.MustCompile(`^verificationMaterial\.x509CertificateChain\.certificates\.[1-9]\d*(\.rawBytes)?$`), why: chainWhy},
}

const chainWhy = "certificates beside the leaf are the trusted root's; which of them are repeated bears no weight"

type looseField struct {
	field *regexp.Regexp
	why   string
	same  func(was, is any) bool
}

func lost(_, is any) bool { return is == nil }

func sameLeaf(was, is any) bool {
	a, _ := was.([]any)
	b, _ := is.([]any)
	return len(a) > 0 && len(b) > 0 && fmt.Sprint(a[0]) == fmt.Sprint(b[0])
}

// sameNote compares the signed text and the signature lines that bear the name of the origin.
func sameNote(was, is any) bool {
	part := func(v any) string {
		s, _ := v.(string)
		text, lines, _ := strings.Cut(s, "\n\n")
		name, _, _ := strings.Cut(text, "\n")
		name, _, _ = strings.Cut(name, " - ")
		kept := []string{}
		for line := range strings.Lines(lines) {
			if strings.HasPrefix(line, "\u2014 "+name+" ") {
				kept = append(kept, line)
			}
		}
		return text + "\n\n" + strings.Join(slices.Compact(kept), "")
	}
	return part(was) == part(is)
}

func asTree(b *protobundle.Bundle) (tree any) {
	raw, err := protojson.Marshal(b)
	if err != nil || json.Unmarshal(raw, &tree) != nil {
		return nil
	}
	return tree
}

// differing lists where two trees differ, as high up as one side lacks the member or the lists differ in length.
func differing(path string, was, is any) map[string][2]any {
	out := map[string][2]any{}
	below := func(name string, a, b any) {
		maps.Copy(out, differing(strings.TrimPrefix(path+"."+name, "."), a, b))
	}
	switch w := was.(type) {
	case map[string]any:
		if i, ok := is.(map[string]any); ok {
			for _, name := range slices.Sorted(maps.Keys(w)) {
				below(name, w[name], i[name])
			}
			for name := range i {
				if _, ok := w[name]; !ok {
					below(name, nil, i[name])
				}
			}
			return out
		}
	case []any:
		if i, ok := is.([]any); ok && len(i) == len(w) {
			for k := range w {
				below(fmt.Sprint(k), w[k], i[k])
			}
			return out
		}
	}
	if fmt.Sprint(was) != fmt.Sprint(is) {
		out[path] = [2]any{was, is}
	}
	return out
}
