package parcel

import (
	"errors"
	"slices"
	"testing"
)

// tufManifest is a parcel of one TUF repository and no log.
func tufManifest() Manifest {
	m := testManifest(0)
	m.Logs = nil
	files := []Digest{Sum([]byte("one")), Sum([]byte("two"))}
	slices.SortFunc(files, func(a, b Digest) int { return slices.Compare(a, b) })
	m.TUF = []TUF{{
		Name: "public-good", Files: files, Roles: []string{"registry.example"}, Observed: created,
		From: Versions{Root: 5}, To: Versions{Root: 7, Timestamp: 78, Snapshot: 77, Targets: 6},
	}}
	return m
}

// TestTUFParcel packs and reads a parcel that holds a TUF repository and no log, in the one order its names have.
func TestTUFParcel(t *testing.T) {
	m := tufManifest()
	var files []file
	for _, n := range m.TUF[0].Names(0) {
		files = append(files, file{n, []byte(n.String())})
	}
	if len(files) != 2+3+1+2 || !slices.IsSortedFunc(files, func(a, b file) int { return Compare(a.name, b.name) }) {
		t.Fatalf("%d files", len(files))
	}
	dir := t.TempDir()
	p := pack(t, dir, m, files, 0)
	got, err := readAll(t, []string{dir + "/" + p.Files[0]})
	if err != nil || len(got) != len(files) {
		t.Fatal(len(got), err)
	}
	for i := range files {
		if got[i].name != files[i].name || string(got[i].data) != string(files[i].data) {
			t.Fatalf("%s came out as %s", files[i].name, got[i].name)
		}
	}
	w, err := NewWriter(t.TempDir(), "x", m, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abandon()
	for _, foreign := range []TUFName{{Kind: TUFRoot, N: 5}, {Kind: TUFRoot, N: 8}, {Kind: TUFRole, N: 1}, {Kind: TUFTarget}, {Repo: 1, Kind: TUFTargets}, {Repo: -1, Kind: TUFTargets}} {
		if err := w.Add(Name{TUF: foreign}, nil); !errors.Is(err, ErrManifest) {
			t.Errorf("%s was taken: %v", foreign, err)
		}
	}
	for _, s := range []string{"tuf/0/06.root.json", "tuf/16/targets.json", "tuf/0/role/32.json", "tuf/0/role/0", "tuf/0/0.root.json", "tuf/0/targets/AB", "tuf/0/root.json", "tuf/0/"} {
		if n, err := ParseName(s); err == nil {
			t.Errorf("%q is the name %+v", s, n)
		}
	}
}

// TestTUFManifestRefused breaks the rules of a TUF step one by one.
func TestTUFManifestRefused(t *testing.T) {
	for name, spoil := range map[string]func(m *TUF){
		"name":         func(u *TUF) { u.Name = "Public" },
		"rollback":     func(u *TUF) { u.From.Timestamp = 79 },
		"no root":      func(u *TUF) { u.From.Root = 0 },
		"no version":   func(u *TUF) { u.To.Snapshot = 0 },
		"many roots":   func(u *TUF) { u.To.Root = 5 + MaxTUFRoots + 1 },
		"future":       func(u *TUF) { u.Observed.Time = created.AddDate(0, 0, 1) },
		"order":        func(u *TUF) { slices.Reverse(u.Files) },
		"twice":        func(u *TUF) { u.Files[1] = u.Files[0] },
		"role":         func(u *TUF) { u.Roles = []string{"a/b"} },
		"no file list": func(u *TUF) { u.Files = nil },
		"huge":         func(u *TUF) { u.To.Timestamp = 1 << 60 },
	} {
		m := tufManifest()
		m.Logs, m.MinImporter, m.Exporter = []Log{}, 1, "exporter.example+00000000"
		m.Volumes = []Volume{{N: 1, Bytes: 10, Files: 1, Unpacked: 1024, SHA256: Sum(nil)}}
		if _, err := m.Text(); err != nil {
			t.Fatal(err)
		}
		spoil(&m.TUF[0])
		if _, err := m.Text(); !errors.Is(err, ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
