package verify

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// mutant is a changed bundle and where it was changed.
type mutant struct {
	path   string
	bundle []byte
}

// meaning is what a result says, without the bundle's own digest.
func meaning(t testing.TB, r *Result) string {
	t.Helper()
	c := r.report
	c.BundleSHA256 = ""
	raw, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(raw)
}

// leafPaths lists every value of a bundle tree that is no container, and every
// container, by path.
func leafPaths(v any, path []any, visit func(path []any, v any)) {
	if len(path) > 0 {
		visit(slices.Clone(path), v)
	}
	switch v := v.(type) {
	case map[string]any:
		keys := []string{}
		for k := range v {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for _, k := range keys {
			leafPaths(v[k], append(path, k), visit)
		}
	case []any:
		for i := range v {
			leafPaths(v[i], append(path, i), visit)
		}
	}
}

// mutate makes structured mutants of bundle: every value dropped, nulled,
// emptied, doubled or swapped with the one at the same place of another valid
// bundle; numbers off by one and beyond; one bit flipped in every byte of every
// byte field and text, every second byte of long ones (all bits when every is set); one bit in every stretch of the JSON text.
func mutate(t testing.TB, bundle []byte, others [][]byte, every bool, rnd *rand.Rand, emit func(mutant)) {
	t.Helper()
	tree := parseTree(t, bundle)
	change := func(path []any, value any, what string) {
		c := parseTree(t, bundle)
		set(c, value, path...)
		if raw := verifytest.Encode(t, c); string(raw) != string(verifytest.Encode(t, tree)) {
			emit(mutant{fmt.Sprint(path) + " " + what, raw})
		}
	}
	leafPaths(tree, nil, func(path []any, v any) {
		_, inList := path[len(path)-1].(int)
		if !inList {
			change(path, nil, "dropped")
		}
		change(path, json.RawMessage("null"), "null")
		for _, other := range others {
			if o, ok := find(parseTree(t, other), path); ok {
				change(path, o, "swapped")
			}
		}
		switch v := v.(type) {
		case []any:
			change(path, []any{}, "emptied")
			if len(v) > 0 {
				change(path, append(slices.Clone(v), v[0]), "doubled")
			}
		case map[string]any:
			change(path, map[string]any{}, "emptied")
		case string:
			change(path, "", "emptied")
			flips(path, v, every, rnd, change)
		}
	})
	for i := range bundle {
		if every || i%23 == 0 {
			c := slices.Clone(bundle)
			c[i] ^= 1 << rnd.IntN(8)
			emit(mutant{fmt.Sprintf("byte %d", i), c})
		}
	}
}

func find(v any, path []any) (any, bool) {
	for _, k := range path {
		switch c := v.(type) {
		case map[string]any:
			name, _ := k.(string)
			member, ok := c[name]
			if v = member; !ok {
				return nil, false
			}
		case []any:
			i, ok := k.(int)
			if !ok || i >= len(c) {
				return nil, false
			}
			v = c[i]
		default:
			return nil, false
		}
	}
	return v, true
}

// flips changes bits of what a string stands for: bytes, a number, or text.
func flips(path []any, v string, every bool, rnd *rand.Rand, change func([]any, any, string)) {
	if n, err := strconv.ParseInt(v, 10, 64); err == nil {
		for _, m := range []int64{n + 1, n - 1, 0, -1, -n, 1 << 62} {
			change(path, strconv.FormatInt(m, 10), fmt.Sprintf("%d for %d", m, n))
		}
		return
	}
	raw, err := base64.StdEncoding.DecodeString(v)
	enc := func(b []byte) string { return b64(b) }
	if err != nil || len(v) < 16 {
		raw, enc = []byte(v), func(b []byte) string { return string(b) }
	} else if s := stray(v); strings.HasSuffix(v, "=") {
		change(path, s, "stray bit")
	}
	for i := range raw {
		for bit := range 8 {
			if !every && (bit != (i*5+3)%8 || len(raw) > 900 && i%2 == 1) {
				continue
			}
			c := slices.Clone(raw)
			c[i] ^= 1 << bit
			change(path, enc(c), fmt.Sprintf("bit %d of byte %d", bit, i))
		}
	}
	if len(raw) > 1 {
		change(path, enc(raw[:len(raw)-1]), "cut")
		change(path, enc(append(slices.Clone(raw), 0)), "zero appended")
		i := rnd.IntN(len(raw))
		change(path, enc(append(slices.Clone(raw[:i]), raw[i+1:]...)), "byte lost")
	}
}

// TestMutants: no change to a bundle is accepted that changes what the result
// says. REDOUBT_MUTANTS=all flips every bit.
func TestMutants(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	every := os.Getenv("REDOUBT_MUTANTS") == "all"
	rnd := rand.New(rand.NewPCG(1, 2))
	v01 := d.SignMessage(1, "artifact")
	v01.MediaType = verifytest.MediaV01
	stamped := d.SignMessage(1, "artifact") // promise and timestamp
	stamped.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(stamped.Signature, d.Now.Add(2*time.Minute), true))}}
	originals := map[string]sample{
		"v1 chain": sampleOf(d, v01), "v1 stamped": sampleOf(d, stamped), "v2 message": sampleOf(d, d.SignMessage(2, "artifact")),
		"v2 attestation": sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate)), "key": keySample(d, d.SignMessage(1, "artifact")),
	}
	var others [][]byte
	for _, p := range []verifytest.Parts{d.SignMessage(1, "other"), d.SignMessage(2, "other"), d.Attest("other", verifytest.CustomPredicate)} {
		others = append(others, p.Bundle(t))
	}
	total, unchanged := 0, map[string]int{}
	for name, s := range originals {
		v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}})
		if err != nil {
			t.Fatal(err)
		}
		res, err := v.Verify(context.Background(), s.request())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		want := meaning(t, res)
		var mutants []mutant
		mutate(t, s.bundle, others, every, rnd, func(m mutant) { mutants = append(mutants, m) })
		total += len(mutants)
		var wg sync.WaitGroup
		var mu sync.Mutex
		next := make(chan mutant)
		for range 2 {
			wg.Go(func() {
				for m := range next {
					in := s
					in.bundle = m.bundle
					got, err := v.Verify(context.Background(), in.request())
					if err != nil {
						if code := ExitCode(err); code < 10 || code == 70 {
							t.Errorf("%s, %s: exit %d: %v", name, m.path, code, err)
						}
						continue
					}
					if !sameMeaning(want, meaning(t, got)) {
						t.Errorf("%s, %s: accepted with another meaning\n%s\n%s", name, m.path, want, meaning(t, got))
					}
					mu.Lock()
					unchanged[name+": "+generalise(m.path)]++
					mu.Unlock()
				}
			})
		}
		for _, m := range mutants {
			next <- m
		}
		close(next)
		wg.Wait()
	}
	for path, n := range unchanged {
		t.Logf("%4d accepted, same meaning: %s", n, path)
	}
	t.Logf("%d mutants", total)
	if total < 10_000 {
		t.Errorf("only %d mutants", total)
	}
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

// generalise drops offsets from a mutant's path, so that a report is readable.
func generalise(path string) string {
	path, what, _ := strings.Cut(path, "] ")
	if strings.HasPrefix(path, "byte") {
		return "JSON text"
	}
	if strings.HasPrefix(what, "bit ") && os.Getenv("REDOUBT_MUTANTS") != "show" {
		what = "bit"
	}
	return path + "] " + what
}
