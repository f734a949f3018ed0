package mirror

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// TestLogsOfTrustedRoot reads the public-good trusted root and verifies real checkpoints of Rekor v2 by the keys it gives.
func TestLogsOfTrustedRoot(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(publicData(t, "roots"), "trusted_root.public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	logs, skipped, err := LogsOf(data)
	if err != nil {
		t.Fatal(err)
	}
	known, err := knownLogs(logs)
	if err != nil {
		t.Fatal(err)
	}
	v2 := known["log2025-1.rekor.sigstore.dev"]
	if v2 == nil || known["rekor.sigstore.dev"] == nil {
		t.Fatal(logs, skipped)
	}
	notes, _ := filepath.Glob(filepath.Join(publicData(t, "rekor-v2-checkpoints"), "*"))
	opened := 0
	for _, n := range notes {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := v2.open(b); err == nil && c.Size > 0 {
			opened++
		} else {
			t.Logf("%s: %v", filepath.Base(n), err)
		}
	}
	if opened < 3 {
		t.Fatalf("%d of %d checkpoints open", opened, len(notes))
	}
	for _, bad := range []string{"", "{", `{"tlogs":[{"baseUrl":"::"}]}`} {
		if _, _, err := LogsOf([]byte(bad)); !errors.Is(err, ErrConfig) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
