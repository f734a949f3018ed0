package verifytest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Mutant is a changed bundle and where it was changed.
type Mutant struct {
	Path   string
	Bundle []byte
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

// Mutate makes structured mutants of bundle, each once: every value dropped, nulled, emptied, doubled, put in capitals, replaced by the one at the same place of
// another valid bundle or by another of its own kind in this one; what the other has and this one lacks; lists reversed and shortened; enumerations run through; numbers off by one and
// beyond; bits flipped in every byte field and text (all of them when every is set); what stands inside a byte field or a note taken apart
// (mutants_inner_test.go); one bit in every stretch of the JSON text. Of all these it makes one of each stride, until emit returns false.
func Mutate(t testing.TB, bundle []byte, others [][]byte, every bool, stride int, emit func(Mutant) bool) {
	t.Helper()
	tree := ParseTree(t, bundle)
	seen := map[[32]byte]bool{sha256.Sum256(bundle): true, sha256.Sum256(Encode(t, tree)): true}
	rnd := rand.New(rand.NewPCG(1, 2))
	turn, enough := len(bundle), false
	picked := func() bool { turn++; return !enough && turn%stride == 0 }
	once := func(path string, bundle []byte) {
		if sum := sha256.Sum256(bundle); !seen[sum] {
			seen[sum] = true
			enough = !emit(Mutant{path, bundle})
		}
	}
	change := func(path []any, value any, what string) {
		if !picked() {
			return
		}
		c := ParseTree(t, bundle)
		Set(c, value, path...)
		once(fmt.Sprint(path)+" "+what, Encode(t, c))
	}
	var texts []string // what a string elsewhere in the bundle may become
	leafPaths(tree, nil, func(_ []any, v any) {
		if s, ok := v.(string); ok {
			texts = append(texts, s)
		}
	})
	var foreign []map[string]any
	for _, other := range others {
		foreign = append(foreign, ParseTree(t, other))
	}
	leafPaths(tree, nil, func(path []any, v any) {
		if _, inList := path[len(path)-1].(int); !inList {
			change(path, nil, "dropped")
		}
		change(path, json.RawMessage("null"), "null")
		for _, other := range foreign {
			if o, ok := Find(other, path); ok {
				change(path, o, "swapped")
			}
		}
		switch v := v.(type) {
		case []any:
			change(path, []any{}, "emptied")
			for i := range v {
				change(path, slices.Delete(slices.Clone(v), i, i+1), fmt.Sprintf("without %d", i))
				change(path, append(slices.Clone(v), v[i]), fmt.Sprintf("doubled %d", i))
			}
			back := slices.Clone(v)
			slices.Reverse(back)
			change(path, back, "reversed")
		case map[string]any:
			change(path, map[string]any{}, "emptied")
		case string:
			change(path, "", "emptied")
			change(path, strings.ToUpper(v), "in capitals")
			for _, s := range texts {
				change(path, s, "transplanted")
			}
			for _, s := range enumerations[fmt.Sprint(path[len(path)-1])] {
				change(path, s, "to "+s)
			}
			flips(path, v, every, rnd, change)
			inner(v, foreign, path, func(s, what string) { change(path, s, what) })
		}
	})
	for _, other := range foreign {
		leafPaths(other, nil, func(path []any, v any) { // what the other has and this one lacks
			_, here := Find(tree, path)
			parent, _ := Find(tree, path[:len(path)-1])
			if _, object := parent.(map[string]any); object && !here {
				change(path, v, "added")
			}
		})
	}
	for i := range bundle {
		if (every || i%23 == 0) && picked() {
			c := slices.Clone(bundle)
			c[i] ^= 1 << rnd.IntN(8)
			once(fmt.Sprintf("byte %d", i), c)
		}
	}
}

// enumerations are the values a member may have.
var enumerations = map[string][]string{
	"mediaType": {MediaV01, "application/vnd.dev.sigstore.bundle+json;version=0.2", "application/vnd.dev.sigstore.bundle+json;version=0.3", MediaV03},
	"algorithm": {"HASH_ALGORITHM_UNSPECIFIED", "SHA2_256", "SHA2_384", "SHA2_512", "SHA3_256", "SHA3_384"},
	"kind":      {"hashedrekord", "dsse", "intoto", "rekord"},
	"version":   {"0.0.1", "0.0.2"},
}

// Find is At for a path that may not be there.
func Find(v any, path []any) (any, bool) {
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
	enc := func(b []byte) string { return base64.StdEncoding.EncodeToString(b) }
	if err != nil || len(v) < 16 {
		raw, enc = []byte(v), func(b []byte) string { return string(b) }
	} else if s := Stray(v); strings.HasSuffix(v, "=") {
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

// At walks into nested maps and slices: keys are strings, indices ints.
func At(v any, path ...any) any {
	for _, k := range path {
		switch k := k.(type) {
		case string:
			v = v.(map[string]any)[k]
		case int:
			v = v.([]any)[k]
		}
	}
	return v
}

// Set replaces the member of the object at path.
func Set(v any, value any, path ...any) {
	last := len(path) - 1
	switch parent := At(v, path[:last]...).(type) {
	case map[string]any:
		if value == nil {
			delete(parent, path[last].(string))
		} else {
			parent[path[last].(string)] = value
		}
	case []any:
		parent[path[last].(int)] = value
	}
}

// ParseTree reads a bundle as nested maps.
func ParseTree(t testing.TB, bundle []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(bundle, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Stray sets an unused bit of the last digit of padded base64.
func Stray(s string) string {
	const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
	i := len(strings.TrimRight(s, "=")) - 1
	return s[:i] + string(digits[strings.IndexByte(digits, s[i])|1]) + s[i+1:]
}
