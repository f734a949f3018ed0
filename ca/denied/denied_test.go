package denied

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

const issuer = "https://login.corp.internal"

var noon = time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC)

// TestWindows: a denial holds for the identity in any spelling, for its issuer alone, and for signed times within its window.
func TestWindows(t *testing.T) {
	day := 24 * time.Hour
	list := New("corp.internal")
	for _, e := range []Entry{
		{Issuer: issuer, Identity: "Eve@corp.internal", Reason: "left"},
		{Issuer: issuer, Identity: "mal@corp.internal", Since: noon, Reason: "laptop stolen"},
		{Issuer: issuer, Identity: "rob@corp.internal", Since: noon, Until: noon.Add(day), Reason: "account taken over"},
		{Issuer: issuer, IdentityRegexp: "https://ci\\.corp\\.internal/old/.*|bot", Reason: "retired"},
	} {
		var err error
		if list, err = list.With(e, 0); err != nil {
			t.Fatal(err)
		}
	}
	data, err := list.Dated(noon)
	if err != nil {
		t.Fatal(err)
	}
	if list, err = Parse(data); err != nil {
		t.Fatal(err)
	}
	if list.Version != 5 || !list.Date.Equal(noon.Truncate(day)) {
		t.Errorf("version %d of %s", list.Version, list.Date)
	}
	for _, test := range []struct {
		issuer, identity string
		at               []time.Time
		denied           bool
	}{
		{issuer, "eve@corp.internal", []time.Time{noon}, true},
		{issuer, "EVE@corp.internal", nil, true},
		{"https://other.example", "eve@corp.internal", nil, false},
		{issuer, "steve@corp.internal", nil, false},
		{issuer, "mal@corp.internal", []time.Time{noon.Add(-time.Second)}, false},
		{issuer, "mal@corp.internal", []time.Time{noon}, true},
		{issuer, "mal@corp.internal", nil, true},
		{issuer, "rob@corp.internal", []time.Time{noon.Add(day)}, true},
		{issuer, "rob@corp.internal", []time.Time{noon.Add(day + time.Second)}, false},
		{issuer, "rob@corp.internal", []time.Time{noon.Add(-day), noon}, true},
		{issuer, "https://ci.corp.internal/OLD/7", nil, true},
		{issuer, "https://ci.corp.internal/new/7", nil, false},
		{issuer, "robot", nil, false}, // the whole of it
	} {
		if got := list.Match(test.issuer, test.identity, test.at...); (got != nil) != test.denied {
			t.Errorf("%s of %s at %v: %v", test.identity, test.issuer, test.at, got)
		}
	}
	if (*List)(nil).Match(issuer, "eve@corp.internal") != nil {
		t.Error("no list denies somebody")
	}
}

// TestVersions: each change is a higher version, what stands there is not added again, and what does not is not taken out.
func TestVersions(t *testing.T) {
	first := New("corp.internal")
	e := Entry{Issuer: issuer, Identity: "eve@corp.internal", Reason: "left"}
	with, err := first.With(e, 0)
	if err != nil || with.Version != 2 || len(first.Entries) != 0 {
		t.Fatal(with, err)
	}
	if _, err := with.With(e, 0); !errors.Is(err, ErrEntry) {
		t.Errorf("twice: %v", err)
	}
	if _, err := first.Without(e, 0); !errors.Is(err, ErrEntry) {
		t.Errorf("taken out of an empty list: %v", err)
	}
	without, err := with.Without(Entry{Issuer: e.Issuer, Identity: e.Identity}, 1000)
	if err != nil || without.Version != 1000 || len(without.Entries) != 0 || len(with.Entries) != 1 {
		t.Fatal(without, err)
	}
}

func TestCheck(t *testing.T) {
	l := New("corp.internal")
	l.Version, l.Date = 7, noon
	for _, test := range []struct {
		bounds Bounds
		old    bool
	}{{Bounds{}, false}, {Bounds{7, time.Hour}, false}, {Bounds{8, 0}, true}, {Bounds{0, time.Minute}, true}} {
		if err := l.Check(test.bounds, noon.Add(time.Hour)); errors.Is(err, ErrOld) != test.old {
			t.Errorf("%+v: %v", test.bounds, err)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	whole := `{"schema":"redoubt.denied/v1","domain":"d","version":1,"date":"2026-03-04T00:00:00Z","entries":[%s]}`
	if _, err := Parse(fmt.Appendf(nil, whole, `{"issuer":"i","identity":"a","reason":"r"}`)); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing":          ``,
		"another schema":   strings.Replace(fmt.Sprintf(whole, ""), "v1", "v2", 1),
		"version 0":        strings.Replace(fmt.Sprintf(whole, ""), `"version":1`, `"version":0`, 1),
		"no entries":       `{"schema":"redoubt.denied/v1","domain":"d","version":1,"date":"2026-03-04T00:00:00Z"}`,
		"unknown member":   strings.Replace(fmt.Sprintf(whole, ""), `"domain"`, `"more":1,"domain"`, 1),
		"no issuer":        fmt.Sprintf(whole, `{"identity":"a","reason":"r"}`),
		"no identity":      fmt.Sprintf(whole, `{"issuer":"i","reason":"r"}`),
		"no reason":        fmt.Sprintf(whole, `{"issuer":"i","identity":"a"}`),
		"both":             fmt.Sprintf(whole, `{"issuer":"i","identity":"a","identityRegexp":"a","reason":"r"}`),
		"a bad expression": fmt.Sprintf(whole, `{"issuer":"i","identityRegexp":"(","reason":"r"}`),
		"an empty window":  fmt.Sprintf(whole, `{"issuer":"i","identity":"a","since":"2026-03-04T00:00:00Z","until":"2026-03-03T00:00:00Z","reason":"r"}`),
	} {
		if _, err := Parse([]byte(text)); !errors.Is(err, ErrList) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzParse: whatever a list says, it is refused, or reads back as the same list.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schema":"redoubt.denied/v1","domain":"d","version":1,"date":"2026-03-04T00:00:00Z","entries":[{"issuer":"i","identity":"a","reason":"r","since":"2026-03-04T00:00:00Z"},{"issuer":"i","identityRegexp":"a|b","reason":"r"}]}`))
	f.Add([]byte(`{"entries":[{}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Parse(data)
		if err != nil {
			return
		}
		l.Match("i", "a")
		text, err := l.Dated(noon)
		if err != nil {
			return // a year that JSON cannot write
		}
		again, err := Parse(text)
		if err != nil && len(text) <= MaxBytes {
			t.Fatal(err)
		}
		if err == nil && (again.Version != l.Version || len(again.Entries) != len(l.Entries)) {
			t.Fatalf("%+v became %+v", l, again)
		}
	})
}
