package policy

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
)

// TestDeniedList: a list of denied identities holds for its root, within its windows, and nothing under that root counts while the list is
// older than the policy takes.
func TestDeniedList(t *testing.T) {
	b := newBench(t)
	ours, theirs := evidence("ours", b.own.SignMessage(2, "artifact"), t), evidence("theirs", b.them.SignMessage(1, "artifact"), t)
	hour := time.Hour
	for name, test := range map[string]struct {
		entry    denied.Entry
		bounds   string
		evidence []Evidence
		code     int
		says     string
	}{
		"nobody of them":      {denied.Entry{Identity: "eve@corp.internal"}, "", []Evidence{ours}, 0, ""},
		"denied":              {denied.Entry{Identity: "dev@corp.internal"}, "", []Evidence{ours}, 25, "denied under root own"},
		"spoils what is good": {denied.Entry{Identity: "dev@corp.internal"}, "", []Evidence{theirs, ours}, 25, "denied under root own"},
		"since then":          {denied.Entry{Identity: "dev@corp.internal", Since: verifytest.Epoch.Add(-hour)}, "", []Evidence{ours}, 25, "since"},
		"since a day later":   {denied.Entry{Identity: "dev@corp.internal", Since: verifytest.Epoch.Add(24 * hour)}, "", []Evidence{ours}, 0, ""},
		"under another root":  {denied.Entry{Identity: "dev@vendor.internal"}, "", []Evidence{theirs}, 0, ""},
		"young enough":        {denied.Entry{Identity: "eve@corp.internal"}, ", min-version: 2, max-age: 2d", []Evidence{ours}, 0, ""},
		"too old":             {denied.Entry{Identity: "eve@corp.internal"}, ", max-age: 1s", []Evidence{ours}, 23, "too old"},
		"an earlier version":  {denied.Entry{Identity: "eve@corp.internal"}, ", min-version: 3", []Evidence{ours}, 23, "at least 3"},
	} {
		t.Run(name, func(t *testing.T) {
			test.entry.Issuer, test.entry.Reason = "https://oidc.corp.internal", "left"
			list, err := denied.New("corp.internal").With(test.entry, 0)
			if err != nil {
				t.Fatal(err)
			}
			data, err := list.Dated(verifytest.Epoch)
			if err != nil {
				t.Fatal(err)
			}
			b.file("denied.json", data)
			text := strings.Replace(header, "file: own.json", "file: own.json, denied: {file: denied.json"+test.bounds+"}", 1)
			now := func() time.Time { return verifytest.Epoch.Add(hour) }
			p, err := Parse([]byte(text+"rules:\n- {name: all, images: ['**'], signatures: {by: [us, vendor]}}\n"), b.dir, Config{Now: now})
			if err != nil {
				t.Fatal(err)
			}
			d := p.Decide(t.Context(), theImage(), test.evidence...)
			if d.Code != test.code || d.Allow != (test.code == 0) || !strings.Contains(d.explain(), test.says) {
				t.Errorf("code %d, want %d: %s", d.Code, test.code, d.explain())
			}
			if got := p.DeniedVersions(); len(got) != 1 || got["own"] != 2 {
				t.Errorf("versions %v", got)
			}
			b.file("denied.json", append(data, "\n"...))
			if again, err := Parse([]byte(text+"rules:\n- {name: all, images: ['**'], signatures: {by: [us, vendor]}}\n"), b.dir, Config{Now: now}); err != nil || again.Version() == p.Version() {
				t.Errorf("another list, the same version of the policy: %v", err)
			}
		})
	}
}

// TestEarliestOfTwoTimes: of a signature that bears the log's time and an authority's the earlier one counts for its age.
func TestEarliestOfTwoTimes(t *testing.T) {
	b := newBench(t)
	for after, ages := range map[time.Duration]map[string]bool{
		2 * time.Minute: {"59m": true, "58m59s": false}, 30 * time.Second: {"59m30s": true, "59m": false}, // the log's time is a minute after the epoch
	} {
		p := b.own.SignMessage(1, "artifact")
		p.Stamps = []any{map[string]any{"signedTimestamp": base64.StdEncoding.EncodeToString(b.own.Token(p.Signature, verifytest.Epoch.Add(after), false))}}
		for age, want := range ages {
			d := b.policy("rules: [{name: r, images: ['**'], signatures: {by: [us], max-age: "+age+"}}]\n").Decide(t.Context(), theImage(), evidence("stamped", p, t))
			if d.Allow != want {
				t.Errorf("stamped after %s, at most %s old: %s", after, age, d.explain())
			}
		}
	}
}

// TestRootAgeAtItsBound: a root is as old as it may be, and a second older.
func TestRootAgeAtItsBound(t *testing.T) {
	b := newBench(t)
	ours := evidence("ours", b.own.SignMessage(2, "artifact"), t)
	text := strings.Replace(header, "{file: own.json}", "{max-age: 30d}", 1) + "rules: [{name: r, images: ['**'], signatures: {by: [us]}}]\n"
	now := verifytest.Epoch.Add(time.Hour)
	for age, want := range map[time.Duration]bool{720 * time.Hour: true, 720*time.Hour + time.Second: false, -1: false} {
		root := verify.Root{Name: "own", JSON: b.own.Root(), AsOf: now.Add(-age)}
		if age < 0 {
			root.AsOf = time.Time{} // of unknown age
		}
		for _, anyAge := range []bool{false, true} {
			p, err := Parse([]byte(text), b.dir, Config{Roots: []verify.Root{root}, AnyAge: anyAge, Now: func() time.Time { return now }})
			if err != nil {
				t.Fatal(err)
			}
			if d := p.Decide(t.Context(), theImage(), ours); d.Allow != (want || anyAge) {
				t.Errorf("%s old, any age %t: %s", age, anyAge, d.explain())
			}
		}
	}
}
