package inventory

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

// TestMetrics: the counter goes on from scan to scan, the gauges do not, and a file of something else is not overwritten.
func TestMetrics(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redoubt.prom")
	reason := []policy.Refused{{Reasons: []verify.Reason{{ID: "time"}, {ID: "identity"}}}, {Reasons: []verify.Reason{{ID: "time"}}}}
	r := Report{Time: time.Unix(1000, 0), Ratio: 0.25, Counts: map[Status]int{Allowed: 1, Unverified: 1}, Images: []Image{
		{Status: Allowed}, {Status: Unverified, Code: 23, Refused: reason}, {Status: Denied, Code: 25}, {Status: Denied, Code: 23}, {Status: Unsigned, Code: 23}, {Status: Unreadable, Code: 3}}}
	for scan := 1; scan <= 2; scan++ {
		if err := r.WriteMetrics(path); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for labels, want := range map[string]int{
			`{reason="policy",result="allowed"}`: 1, `{reason="time",result="refused"}`: 1, `{reason="identity",result="refused"}`: 1, `{reason="denied",result="refused"}`: 1,
			`{reason="policy",result="refused"}`: 1, `{reason="no_signature",result="refused"}`: 1, `{reason="unanswered",result="refused"}`: 1,
		} {
			if line := fmt.Sprintf("\nredoubt_verify_total%s %d\n", labels, want*scan); !strings.Contains(string(text), line) {
				t.Errorf("scan %d: no %q in\n%s", scan, line, text)
			}
		}
		if !strings.Contains(string(text), "\nredoubt_signing_coverage_ratio 0.25\n") || !strings.Contains(string(text), "\nredoubt_signing_coverage_images{status=\"unverified\"} 1\n") {
			t.Errorf("scan %d:\n%s", scan, text)
		}
	}
	if err := os.WriteFile(path, []byte("no page of metrics {"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.WriteMetrics(path); err == nil {
		t.Error("another file was overwritten")
	}
}

// TestLookUnreadable: what could not be looked at is told, with where it is used, and never left out.
func TestLookUnreadable(t *testing.T) {
	i := look(t.Context(), nil, Target{Reference: "reg/app:1", Problem: "its registry is not named", Places: make([]string, maxPlaces+2)}, nil)
	if i.Status != Unreadable || i.Code != 3 || i.Reasons[0] != "its registry is not named" || len(i.Places) != maxPlaces+1 || i.Places[maxPlaces] != "2 more" {
		t.Errorf("%+v", i)
	}
}

func bundleOf(statement string) string {
	return `{"dsseEnvelope":{"payload":"` + base64.StdEncoding.EncodeToString([]byte(statement)) + `"}}`
}

func TestReadReceipts(t *testing.T) {
	dir := t.TempDir()
	hex := strings.Repeat("a", 64)
	two := bundleOf(`{"subject":[{"digest":{"sha256":"`+hex+`"}},{"digest":{"sha256":"b"}}]}`) + "\n" + bundleOf(`{"subject":[{"digest":{"sha256":"`+hex+`"}}]}`)
	for name, text := range map[string]string{"two.json": two, "left.txt": "out"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	all, err := ReadReceipts(dir)
	if err != nil || len(all["sha256:"+hex]) != 2 || len(all["sha256:b"]) != 1 || len(all) != 2 {
		t.Fatalf("%v %v", all, err)
	}
	for _, bad := range []string{"", "{}", "[]", bundleOf(""), bundleOf(`{"subject":[]}`), bundleOf(`{"subject":[{"digest":{"sha512":"a"}}]}`), bundleOf(`{"subject":[],"subject":[]}`)} {
		if err := os.WriteFile(filepath.Join(dir, "bad.json"), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadReceipts(dir); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
	if _, err := ReadReceipts(filepath.Join(dir, "nosuch")); err == nil {
		t.Error("a folder that is not there is read")
	}
}

func FuzzSubjects(f *testing.F) {
	f.Add([]byte(bundleOf(`{"subject":[{"digest":{"sha256":"aa"}}]}`)))
	f.Add([]byte(`{"dsseEnvelope":null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := subjects(data)
		if (err == nil) != (len(all) > 0) || slices.Contains(all, "sha256:") {
			t.Errorf("%q %v", all, err)
		}
	})
}
