package mirror

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// realBodies are entries of public logs, and what they say.
func realBodies(t testing.TB) (leaves [][]byte, facts []entry.Facts) {
	t.Helper()
	m := newMockRekor(t)
	for _, one := range m.entries {
		for id, v := range one {
			leaf, err := base64.StdEncoding.DecodeString(v.(map[string]any)["body"].(string))
			if h := tiles.LeafHash(leaf); err != nil || !strings.HasSuffix(id, hex.EncodeToString(h[:])) {
				t.Fatal(id, err)
			}
			leaves = append(leaves, leaf)
		}
	}
	slices.SortFunc(leaves, bytes.Compare)
	leaves = slices.CompactFunc(leaves, bytes.Equal)
	for _, l := range leaves {
		f, err := entry.Read(l)
		if err != nil {
			t.Fatal(err)
		}
		facts = append(facts, f)
	}
	return leaves, facts
}

// TestSelectFromTiledLog hides real entries in a log of many, and picks them by digest, by identity and by issuer: exactly those are
// carried, the log's server sees no difference to a reader of everything, and what was looked through is not looked through again.
func TestSelectFromTiledLog(t *testing.T) {
	leaves, facts := realBodies(t)
	dir := t.TempDir()
	b, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	key := labKey(7)
	vkey, err := parcel.VerifierKey("select.example", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	grow := func(n int, at map[int][]byte) {
		for i := range n {
			leaf := at[i]
			if leaf == nil {
				leaf = []byte(`{"apiVersion":"9","kind":"other","spec":{}}`)
			}
			if err := b.Add(leaf); err != nil {
				t.Fatal(err)
			}
		}
		note, err := parcel.SignNote(generate.CheckpointText("select.example", b.Size(), b.Root()), "select.example", key)
		if err == nil {
			err = b.Publish(note)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	hidden, where := make(map[int][]byte), make(map[string]uint64)
	for i, l := range leaves {
		hidden[7+i*31] = l
		where[string(l)] = uint64(7 + i*31)
	}
	grow(1500, hidden)
	var asked []string
	files := http.FileServer(http.Dir(dir))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Path)
		files.ServeHTTP(w, r)
	}))
	defer srv.Close()
	signed := slices.IndexFunc(facts, func(f entry.Facts) bool { return len(f.Identities) > 0 && f.Issuer != "" })
	plainOne := slices.IndexFunc(facts, func(f entry.Facts) bool { return len(f.Digests) > 0 && len(f.Identities) == 0 })
	sel := Select{Digests: []string{facts[plainOne].Digests[0]}, Issuers: []string{regexpQuote(facts[signed].Issuer)}}
	checked, err := sel.check()
	if err != nil {
		t.Fatal(err)
	}
	var want []uint64
	for i, l := range leaves {
		if checked.match(l) {
			want = append(want, where[string(l)])
		}
		if got := slices.Contains(facts[i].Digests, sel.Digests[0]) || facts[i].Issuer == facts[signed].Issuer; got != checked.match(l) && len(facts[i].Signers) < 2 {
			t.Errorf("entry %d: %+v", i, facts[i])
		}
	}
	slices.Sort(want)
	if len(want) < 2 || len(want) == len(leaves) {
		t.Fatalf("%d of %d real entries are selected", len(want), len(leaves))
	}
	c := LogConfig{Origin: "select.example", VKey: vkey, Scope: parcel.ScopeSparse, Source: srv.URL, Select: sel}
	l := newLab(t, c)
	l.ec.Network, _ = quietNetwork(t, Access{AtOnce: 1})
	l.reopen()
	plan, err := l.out.Plan(t.Context())
	if err != nil || len(plan.Logs) != 1 || len(plan.Logs[0].Reveals) > 0 || plan.Logs[0].To != 1500 || len(plan.Logs[0].Estimates) != 3 {
		t.Fatalf("%v, %+v", err, plan)
	}
	asked = nil
	l.pull()
	if got := len(slices.DeleteFunc(slices.Clone(asked), func(p string) bool { return !strings.Contains(p, "entries") })); got < 6 {
		t.Errorf("only %d of 6 bundles were read: %v", got, asked)
	}
	l.load(l.export(0))
	if got, err := l.in.Records(c.Origin); err != nil || !slices.Equal(got, want) {
		t.Fatalf("%v: %v instead of %v", err, got, want)
	}
	grow(300, map[int][]byte{200: leaves[signed]})
	asked = nil
	l.pull()
	if slices.ContainsFunc(asked, func(p string) bool { return strings.HasSuffix(p, "entries/001") }) {
		t.Errorf("a bundle that was looked through is looked through again: %v", asked)
	}
	l.load(l.export(0))
	if got, err := l.in.Records(c.Origin); err != nil || !slices.Equal(got, append(want, 1700)) {
		t.Fatal(got, err)
	}
	// A source that hides an entry behind another bundle is found out.
	grow(40, map[int][]byte{3: leaves[signed]})
	name := filepath.Join(dir, "tile", "entries", "007.p", "48")
	bundle, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, bytes.ReplaceAll(bundle, []byte(`"hashedrekord"`), []byte(`"hashedrekorD"`)), 0o644); err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(bundle, []byte(`"hashedrekord"`)) {
		if _, err := l.out.Pull(t.Context()); ExitCode(err) != 31 {
			t.Fatal(err)
		}
	}
}

func regexpQuote(s string) string {
	return strings.NewReplacer(".", `\.`, "+", `\+`, "?", `\?`).Replace(s)
}

// TestSelectFromRekor1 picks entries of a Rekor v1 log by digest through its index, hidden among others where they are known by number.
func TestSelectFromRekor1(t *testing.T) {
	leaves, facts := realBodies(t)
	s := newShard(t, 7)
	for i, l := range leaves {
		f := facts[i]
		if _, _, err := s.log.Add(t.Context(), &rekor.Entry{Kind: f.Kind, Version: f.APIVersion, Body: l, Keys: f.Terms()}); err != nil {
			t.Fatal(err)
		}
	}
	url, _ := v1Server(t, s, nil)
	c := s.config(url, parcel.ScopeSparse)
	at := slices.IndexFunc(facts, func(f entry.Facts) bool { return len(f.Digests) > 0 && strings.HasPrefix(f.Digests[0], "sha256:") })
	c.Select = Select{Digests: []string{facts[at].Digests[0], "sha256:" + strings.Repeat("00", 32)}}
	l := newLab(t, c)
	plan, err := l.out.Plan(t.Context())
	if err != nil || len(plan.Logs[0].Reveals) != 1 {
		t.Fatalf("%v, %+v", err, plan)
	}
	l.pull()
	l.load(l.export(0))
	got, err := l.in.Records(c.Origin)
	if err != nil || !slices.Contains(got, uint64(at)) {
		t.Fatal(got, at, err)
	}
	for _, i := range got {
		r, err := l.in.Record(c.Origin, i)
		if f, ferr := entry.Read(r.Leaf); err != nil || ferr != nil || !slices.Contains(f.Digests, facts[at].Digests[0]) {
			t.Fatal(i, err, ferr)
		}
	}
	padded := s.config(url, parcel.ScopeSparse)
	padded.Select = Select{Indexes: []uint64{3}, Pad: 5}
	l2 := newLab(t, padded)
	l2.pull()
	l2.load(l2.export(0))
	if got, err := l2.in.Records(c.Origin); err != nil || len(got) < 3 || len(got) > 6 || !slices.Contains(got, 3) {
		t.Fatal(got, err)
	}
	padded.Select = Select{Issuers: []string{"x"}}
	l3 := newLab(t, padded)
	if _, err := l3.out.Pull(t.Context()); !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
}

func TestPadIsDrawnBySeed(t *testing.T) {
	seed := [32]byte{1}
	a, b := pad([]uint64{5, 9}, 1<<20, 4, seed), pad([]uint64{5, 9}, 1<<20, 4, seed)
	if !slices.Equal(a, b) || len(a) != 10 || slices.Equal(a, pad([]uint64{5, 9}, 1<<20, 4, [32]byte{2})) {
		t.Fatal(a, b)
	}
}

func TestPurls(t *testing.T) {
	hash := strings.Repeat("ab", 32)
	for purl, want := range map[string]Select{
		"pkg:golang/golang.org/x/mod@v0.42.0":                              {Modules: []string{"golang.org/x/mod@v0.42.0"}},
		"pkg:golang/github.com/Azure/x@v1.0.0%2Bincompatible":              {Modules: []string{"github.com/Azure/x@v1.0.0+incompatible"}},
		"pkg:oci/debian@sha256%3A" + hash + "?arch=amd64":                  {Digests: []string{"sha256:" + hash}},
		"pkg:docker/cassandra@sha256:" + strings.ToUpper(hash):             {Digests: []string{"sha256:" + hash}},
		"pkg:pypi/django@1.11.1?checksum=sha1:" + hash + ",sha256:" + hash: {Digests: []string{"sha256:" + hash}},
	} {
		var s Select
		if err := s.AddPurl(purl); err != nil || !slices.Equal(s.Digests, want.Digests) || !slices.Equal(s.Modules, want.Modules) {
			t.Errorf("%s: %+v, %v", purl, s, err)
		}
	}
	for _, bad := range []string{"", "golang/x@v1", "pkg:golang/x", "pkg:npm/x@1", "pkg:oci/x@latest", "pkg:oci/%zz@sha256:" + hash, "pkg:x?%zz"} {
		if err := new(Select).AddPurl(bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// TestReadBundles reads every real bundle at hand, and what is beside them.
func TestReadBundles(t *testing.T) {
	named, unnamed, err := ReadBundles(publicData(t, "bundles"))
	if err != nil || len(named["rekor.sigstore.dev - 2605736670972794746"]) < 10 || len(named["log2025-1.rekor.sigstore.dev"]) == 0 || unnamed == 0 {
		t.Fatal(err, len(named), unnamed)
	}
	if _, _, err := ReadBundles(filepath.Join(publicData(t, "."), "MANIFEST.md")); !errors.Is(err, ErrConfig) {
		t.Fatal(err)
	}
	if _, _, err := ReadBundles(filepath.Join(t.TempDir(), "absent")); err == nil {
		t.Fatal("read")
	}
	total := 0
	for _, l := range named {
		total += len(l)
	}
	t.Logf("%d entries of %d logs named, %d without inclusion proof", total, len(named), unnamed)
}

func TestPicklist(t *testing.T) {
	hash := "sha256:" + strings.Repeat("ab", 32)
	logs := []LogConfig{
		{Origin: "z.example", Select: Select{Digests: []string{hash}, Identities: []string{".*@corp", "a@b"}, Issuers: []string{"https://x"}, Indexes: []uint64{7, 3}, Pad: 4}},
		{Origin: "a.example", Select: Select{Modules: []string{"golang.org/x/mod@v0.42.0"}}},
		{Origin: "none.example"},
	}
	p, err := NewPicklist("corp.internal", logs, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := "redoubt.mirror.picklist/v1 corp.internal\nlog a.example\nmodule golang.org/x/mod@v0.42.0\nlog z.example\ndigest " + hash +
		"\nidentity .*@corp\nidentity a@b\nissuer https://x\nindex 3\nindex 7\npad 4\n"
	if string(p.Text()) != want {
		t.Fatalf("%s", p.Text())
	}
	out, err := p.Apply([]LogConfig{{Origin: "a.example"}, {Origin: "z.example"}})
	if err != nil || out[1].Select.Pad != 4 || len(out[0].Select.Modules) != 1 {
		t.Fatal(err)
	}
	if _, err := p.Apply(logs[:1]); !errors.Is(err, ErrUnknownOrigin) {
		t.Fatal(err)
	}
	if _, err := NewPicklist("corp.internal", logs[2:], nil); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
	for _, change := range [][2]string{
		{"log a.example\n", ""}, {"module golang.org/x/mod@v0.42.0\n", ""}, {"index 3\nindex 7", "index 7\nindex 3"}, {"index 3", "index 03"}, {"pad 4", "pad 65"},
		{"pad 4\n", "pad 4"}, {"digest ", "digests "}, {".*@corp", "(*"}, {"sha256:ab", "sha256:AB"}, {"/v1", "/v2"}, {"log z.example", "log a.example"}, {"\npad", "\r\npad"},
	} {
		if _, err := ParsePicklist([]byte(strings.Replace(want, change[0], change[1], 1))); !errors.Is(err, ErrConfig) {
			t.Errorf("%q for %q: %v", change[1], change[0], err)
		}
	}
}

// FuzzPicklist: a picklist that is read is written the same.
func FuzzPicklist(f *testing.F) {
	f.Add([]byte("redoubt.mirror.picklist/v1 corp\nlog a\nindex 3\npad 1\n"))
	f.Add([]byte("redoubt.mirror.picklist/v1 corp\nlog a\nidentity .*\nlog b\nmodule x@v1\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if p, err := ParsePicklist(b); err == nil && !bytes.Equal(p.Text(), b) {
			t.Fatalf("%q", b)
		}
	})
}
