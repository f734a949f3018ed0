package rekor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"encoding/hex"
	"encoding/json"

	"redoubt.internal/log"
)

func TestExtra(t *testing.T) {
	many := make([]string, maxKeys)
	for i := range many {
		many[i] = fmt.Sprint("subject ", i)
	}
	for name, x := range map[string]extra{
		"empty":     {},
		"keys":      {time: 1780000000, keys: hashKeys([]string{"a", "B", "b", "a"})},
		"full":      {time: 1, keys: hashKeys(many), attestation: bytes.Repeat([]byte("x"), 32000)},
		"attested":  {time: 1 << 40, attestation: []byte("{}")},
		"too large": {time: 7, keys: hashKeys(many[:2]), attestation: bytes.Repeat([]byte("x"), log.MaxExtra)},
	} {
		b, err := encodeExtra(x)
		if err != nil || len(b) > log.MaxExtra {
			t.Fatalf("%s: %d bytes, %v", name, len(b), err)
		}
		got, err := parseExtra(b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if name == "too large" {
			x.attestation = nil // the entry is kept, the attestation is not
		}
		if x.keys == nil {
			x.keys = []searchKey{}
		}
		if !reflect.DeepEqual(got, x) {
			t.Errorf("%s: %+v became %+v", name, x, got)
		}
		if keys := IndexKeys(nil, b); len(keys) != len(x.keys) {
			t.Errorf("%s: %d index keys for %d", name, len(keys), len(x.keys))
		}
		for i := range len(b) { // no part of it may be missing
			if i > 0 && i%97 != 0 && i < len(b)-40 {
				continue
			}
			if _, err := parseExtra(b[:i]); !errors.Is(err, ErrExtra) {
				t.Fatalf("%s: accepted %d of %d bytes", name, i, len(b))
			}
		}
		if _, err := parseExtra(append(b, 0)); err == nil {
			t.Errorf("%s: accepted a byte too many", name)
		}
	}
	if n := len(hashKeys([]string{"A@b", "a@B", "c"})); n != 2 {
		t.Errorf("%d keys of two names", n)
	}
	if _, err := encodeExtra(extra{keys: hashKeys(append(many, "one more"))}); !errors.Is(err, ErrEntry) {
		t.Errorf("too many keys: %v", err)
	}
	if _, err := encodeExtra(extra{time: -1}); err == nil {
		t.Error("a time before 1970")
	}
	if keys := IndexKeys([]byte("leaf"), []byte("foreign")); keys != nil {
		t.Error("index keys of a foreign entry")
	}
}

// FuzzExtra: what parseExtra accepts, encodeExtra writes back byte for byte.
func FuzzExtra(f *testing.F) {
	for _, x := range []extra{{}, {time: 5, keys: hashKeys([]string{"a", "b"}), attestation: []byte("x")}} {
		b, err := encodeExtra(x)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		IndexKeys(nil, b)
		x, err := parseExtra(b)
		if err != nil {
			if !errors.Is(err, ErrExtra) {
				t.Fatal(err)
			}
			return
		}
		again, err := encodeExtra(x)
		if err != nil || !bytes.Equal(again, b) && len(b) < log.MaxExtra-8 {
			t.Fatalf("%x became %x (%v)", b, again, err)
		}
	})
}

// FuzzTilePath: a path that parses is the only spelling of what it names.
func FuzzTilePath(f *testing.F) {
	for _, s := range []string{"0/000", "3/x001/234.p/5", "entries/x123/x456/789", "0/x000/001", "entries/001.p/255"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		p, ok := parseTilePath(path)
		if !ok {
			return
		}
		n := fmt.Sprintf("%03d", p.index%1000)
		for rest := p.index / 1000; rest > 0; rest /= 1000 {
			n = fmt.Sprintf("x%03d/", rest%1000) + n
		}
		want := fmt.Sprint(p.level) + "/" + n
		if p.level < 0 {
			want = "entries/" + n
		}
		if p.width < tileWidth {
			want += fmt.Sprint(".p/", p.width)
		}
		if path != want {
			t.Fatalf("%q also names %q", path, want)
		}
	})
}

// TestTimestampPayload: the payload written by hand is what the JCS library makes of the same object.
func TestTimestampPayload(t *testing.T) {
	for _, c := range []struct {
		body  []byte
		time  int64
		index uint64
	}{{nil, 0, 0}, {[]byte("\xff\xfe>>>???"), 1780000000, 1<<53 - 1}, {bytes.Repeat([]byte("x"), 5000), 1, 1000}} {
		id := hashLeaf(c.body)
		raw, err := json.Marshal(map[string]any{"logIndex": c.index, "body": c.body, "logID": hex.EncodeToString(id[:]), "integratedTime": c.time})
		if err != nil {
			t.Fatal(err)
		}
		if c.body == nil {
			raw = bytes.Replace(raw, []byte(`null`), []byte(`""`), 1)
		}
		want, err := jsoncanonicalizer.Transform(raw)
		if err != nil {
			t.Fatal(err)
		}
		if got := TimestampPayload(c.body, c.time, id, c.index); !bytes.Equal(got, want) {
			t.Errorf("got  %.200s\nwant %.200s", got, want)
		}
	}
}

// TestUnknownKindIsShort: a hostile kind is not echoed at length.
func TestUnknownKindIsShort(t *testing.T) {
	_, err := parseV1(context.Background(), []byte(`{"kind":"`+strings.Repeat("k", 10000)+`","apiVersion":"1","spec":{}}`))
	if !errors.Is(err, ErrEntry) || len(err.Error()) > 300 {
		t.Errorf("%d bytes: %.100v", len(err.Error()), err)
	}
}
