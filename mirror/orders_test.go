package mirror

import (
	"context"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"redoubt.internal/mirror/generate"
)

// TestAnyOrderOfTwentyMedia imports the last twenty media of a stream in random orders, medium after medium, into mirrors that hold
// nothing, some, or all of them. What is held never goes back: not the sequence, not a head, not the record of transfers; only the next medium
// moves anything; and in the end everything is there. 100 orders, or as many as REDOUBT_TORTURE says; a seed makes them the same each time.
func TestAnyOrderOfTwentyMedia(t *testing.T) {
	inMemory(t)
	ctx := context.Background()
	orders := 100
	if n, err := strconv.Atoi(os.Getenv("REDOUBT_TORTURE")); err == nil {
		orders = max(n, 1000)
	}
	const media = 20
	var sizes []uint64
	for i := range media {
		sizes = append(sizes, uint64(10+7*i))
	}
	lc := tinyLog(t, sizes...)
	maker := newLab(t, lc)
	var files [media][]string
	for i, size := range sizes {
		if err := generate.Rewind(lc.Source, size); err != nil {
			t.Fatal(err)
		}
		maker.pull()
		files[i] = maker.export(0)
	}
	rng := rand.New(rand.NewPCG(20, 1000))
	var l *lab
	imports, moved, rollbacks, fresh := 0, 0, 0, 0
	for order := range orders {
		if order%20 == 0 { // a mirror sees 20 orders: it begins with nothing and soon holds all
			l = newLab(t, lc)
			fresh++
		}
		for _, k := range rng.Perm(media) {
			before, err := l.in.snapshot()
			if err != nil {
				t.Fatal(err)
			}
			_, err = l.in.Import(ctx, files[k])
			after, serr := l.in.snapshot()
			if serr != nil {
				t.Fatal(serr)
			}
			imports++
			last, n := before.stream.Sequence, uint64(k+1)
			code, next := 20, last
			switch {
			case n == last+1:
				code, next = 0, n
				moved++
			case n == last:
				code = 0
			case n < last:
				code = 21
			}
			if ExitCode(err) != code {
				t.Fatalf("order %d: medium %d after parcel %d: exit code %d instead of %d: %v", order, n, last, ExitCode(err), code, err)
			}
			h, hb := after.heads[lc.Origin], before.heads[lc.Origin]
			if after.stream.Sequence != next || h.Size < hb.Size || after.stream.Floor.Before(before.stream.Floor) || next > 0 && h.Size != sizes[next-1] {
				rollbacks++
				t.Errorf("order %d: medium %d took parcel %d to %d, size %d to %d", order, n, last, after.stream.Sequence, hb.Size, h.Size)
			}
		}
	}
	for _, f := range files { // in their own order once more: all is there
		if _, err := l.in.Import(ctx, f); err != nil && !errors.Is(err, ErrReplay) {
			t.Fatal(err)
		}
	}
	if h, err := l.in.Head(lc.Origin); err != nil || h.Size != sizes[media-1] {
		t.Fatal(h.Size, err)
	}
	if r, err := l.in.Reconcile(ctx); err != nil || r.Err() != nil || r.Logs[0].Heads != media {
		t.Fatal(err, r.Err())
	}
	t.Logf("%d orders of %d media into %d mirrors: %d imports, %d moved the state on, %d rollbacks", orders, media, fresh, imports, moved, rollbacks)
}

// TestQuotaIsExact: a parcel that unpacks to the quota is taken, one byte less of quota refuses it with 42 and leaves nothing behind.
func TestQuotaIsExact(t *testing.T) {
	_, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{600}})
	l := newLab(t, c)
	l.pull()
	files := l.export(0)
	p, _ := openParcel(t, l, files[0])
	var unpacked int64
	for _, v := range p.Manifest.Volumes {
		unpacked += v.Unpacked
	}
	l.mc.Quota = unpacked - 1
	l.reopen()
	l.refused(42, files...)
	if left, err := os.ReadDir(filepath.Join(l.mc.Dir, "staging")); err == nil && len(left) > 0 {
		t.Fatalf("something was staged: %v", left)
	}
	l.mc.Quota = unpacked
	l.reopen()
	l.load(files)
	var held int64
	l.files(func(_ string, b []byte) { held += int64(len(b)) })
	if held > unpacked+unpacked/100 {
		t.Fatalf("%d bytes are held of a parcel that unpacks to %d", held, unpacked)
	}
}
