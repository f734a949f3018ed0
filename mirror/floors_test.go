package mirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// beginBelow lets a log begin at any size on both sides.
func (l *lab) beginBelow(origins ...string) {
	l.ec.Floors = map[string]uint64{}
	for _, o := range origins {
		l.ec.Floors[o] = 0
	}
	l.mc.Floors = l.ec.Floors
	l.reopen()
}

// TestShippedSizes offers a fresh installation a real head of the Go checksum database that is 15 million records old: refused outside by the
// shipped floor; made all the same by an outside without it, refused inside, and nothing moves. The newest head is taken by both.
func TestShippedSizes(t *testing.T) {
	data := publicData(t, "gosumdb")
	dir := filepath.Join(t.TempDir(), "sumdb")
	if err := os.CopyFS(dir, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	os.Chmod(dir, 0o755)
	c := LogConfig{
		Origin: "go.sum database tree", VKey: "sum.golang.org+033de0ae+Ac4zctda0e5eza+HJyk9SxEdh+s3Ux18htTTAD8OuAn8",
		Scope: parcel.ScopeSparse, Source: dir, Layout: "sumdb",
	}
	latest := filepath.Join(dir, "latest")
	newest, err := os.ReadFile(latest)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(filepath.Join(data, "checkpoints", "000056925295"))
	if err != nil {
		t.Fatal(err)
	}
	wide, err := os.ReadFile(filepath.Join(data, "tile/8/3/000.p/4"))
	if err == nil { // the stored tile is that of the newest head
		err = os.WriteFile(filepath.Join(dir, "tile/8/3/000.p/3"), wide[:3*tiles.HashSize], 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	offer := func(note []byte) {
		os.Remove(latest)
		if err := os.WriteFile(latest, note, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	l := newLab(t, c)
	offer(old)
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 21 || !errors.Is(err, ErrFloor) {
		t.Fatal(err)
	}
	l.ec.Floors = map[string]uint64{c.Origin: 56_925_295}
	l.reopen()
	l.pull()
	err = l.refused(21, l.export(0)...)
	t.Log(err)
	for _, want := range []string{"56925295 entries", "the floor is 71769961", "shipped", "mirror.floors in redoubt.yaml", "redoubt mirror pull"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the refusal does not say %q", want)
		}
	}
	fresh := newLab(t, c)
	offer(newest)
	fresh.pull()
	fresh.load(fresh.export(0))
	if h, err := fresh.in.Head(c.Origin); err != nil || h.Size != 71_769_961 {
		t.Fatal(h.Size, err)
	}
}

// TestShippedShards: a shard that ended begins at its end and nowhere else; one that goes on begins at its floor or later; a head that is
// held is all that a later state is compared with.
func TestShippedShards(t *testing.T) {
	held := Head{Note: []byte("held")}
	for _, c := range []struct {
		origin string
		own    Head
		size   uint64
		want   error
	}{
		{"rekor.sigstore.dev - 3904496407287907110", Head{}, 4_163_430, ErrFloor},
		{"rekor.sigstore.dev - 3904496407287907110", Head{}, 4_163_431, nil},
		{"rekor.sigstore.dev - 3904496407287907110", held, 4_163_432, ErrThawed},
		{"rekor.sigstore.dev - 2605736670972794746", Head{}, 117_740_830, ErrFloor},
		{"rekor.sigstore.dev - 2605736670972794746", Head{}, 117_740_831, nil},
		{"rekor.sigstore.dev - 2605736670972794746", held, 31_915_941, nil},
		{"rekor.sigstore.dev - 2605736670972794746", Head{}, 117_740_832, ErrThawed},
		{"rekor.sigstore.dev - 1193050959916656506", Head{}, 1_511_665_067, ErrFloor},
		{"rekor.sigstore.dev - 1193050959916656506", Head{}, 1_700_000_000, nil},
		{"log2025-1.rekor.sigstore.dev", Head{}, 22_578_297, ErrFloor},
		{"log2025-1.rekor.sigstore.dev", Head{}, 34_356_369, nil},
		{"log.example", Head{}, 0, nil},
		{"own.example", Head{}, 9, ErrFloor},
		{"own.example", Head{}, 10, nil},
	} {
		if err := (floors{"own.example": 10}).admit(c.origin, c.own, c.size); !errors.Is(err, c.want) {
			t.Errorf("%s at %d: %v instead of %v", c.origin, c.size, err, c.want)
		}
	}
}
