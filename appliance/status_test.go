package main

import (
	"strings"
	"testing"
	"time"

	"redoubt.internal/mirror"
)

// TestConsoleShowsTheMirror: what the last reconcile found, how old and how far behind each log is, and what is not mirrored. What a log's
// origin says is text, whatever it says.
func TestConsoleShowsTheMirror(t *testing.T) {
	at := time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)
	page := func(s mirror.Status) string {
		t.Helper()
		var out strings.Builder
		if err := consolePage.Execute(&out, &statusReport{Domain: "corp.internal", Mirror: &s}); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	text := page(mirror.Status{
		Sequence: 7, Missing: []mirror.Range{{First: 8, Last: 9}},
		Logs: []mirror.LogStatus{
			{Origin: "log.example<script>", Size: 700, Age: "50h0m0s", Lag: 12, Stale: true, Level: "deny-new"},
			{Origin: "frozen.example", Size: 300, Age: "1h0m0s", Frozen: &mirror.Freeze{}},
		},
		Absent:    &mirror.Absence{Unmirrored: []mirror.UnmirroredLog{{Origin: "rekor.example", Repository: "public-good"}}},
		Reconcile: &mirror.Reconciled{Time: at, Outcome: mirror.Findings, Finding: "log frozen.example showed two histories"},
	})
	for _, want := range []string{"last parcel 7", "parcels 8 to 9 are missing", "log.example&lt;script&gt;", "700 entries, 12 more upstream", "observed 50h0m0s ago: deny-new",
		"300 entries, frozen: it showed two histories", "rekor.example is named by public-good and not mirrored", "Reconciled 2026-11-28 12:00:00Z: findings", "frozen.example showed two histories"} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if text := page(mirror.Status{}); !strings.Contains(text, "Never reconciled") {
		t.Error(text)
	}
	if text := page(mirror.Status{Reconcile: &mirror.Reconciled{Time: at, Outcome: mirror.Clean}}); strings.Contains(text, `class="bad">Reconciled`) || !strings.Contains(text, ": clean") {
		t.Error(text)
	}
}
