package parcel

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"redoubt.internal/mirror/tiles"
)

var update = flag.Bool("update", false, "write the golden parcel of this format version anew; never for a released one")

func goldenFiles() []file {
	return []file{
		{Name{Checkpoint: true}, []byte("log.example\n2000\nAAAA\n\n— log.example AAAAAAAA\n")},
		{Name{Tile: tiles.Tile{Level: 1, Width: 7}}, bytes.Repeat([]byte{1}, 7*32)},
		{Name{Tile: tiles.Tile{Level: tiles.Entries, Width: 256}}, bytes.Repeat([]byte{0, 2, 'o', 'k'}, 256)},
		{Name{Tile: tiles.Tile{Level: tiles.Entries, Index: 7, Width: 208}}, bytes.Repeat([]byte{0, 0}, 208)},
	}
}

// TestGoldenParcel reads the parcel of format v1 that stands in testdata. Every later version must.
func TestGoldenParcel(t *testing.T) {
	const digest = "4fd6f54b09dc2ec78dc4671961c044bbb76a24bf08401f9a55e376e6aebe6109"
	dir := filepath.Join("testdata", "v1")
	if *update {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p := pack(t, dir, testManifest(2000), goldenFiles(), 0)
		t.Logf("digest %s", p.Digest)
	}
	path := filepath.Join(dir, "outside-000001.001.rdp")
	_, v := testKey(t)
	list, err := Scan([]string{path}, []*Verifier{v})
	if err != nil {
		t.Fatal(err)
	}
	defer list[0].Close()
	if got := list[0].Digest.String(); got != digest {
		t.Fatalf("digest %s", got)
	}
	got, err := readAll(t, []string{path})
	if err != nil {
		t.Fatal(err)
	}
	want := goldenFiles()
	if len(got) != len(want) {
		t.Fatalf("%d files", len(got))
	}
	for i := range want {
		if got[i].name != want[i].name || !bytes.Equal(got[i].data, want[i].data) {
			t.Fatalf("%s differs", want[i].name)
		}
	}
}
