package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
)

// TestGateKeepsDenied: a gate takes later lists of denied identities, and no earlier one, over restarts.
func TestGateKeepsDenied(t *testing.T) {
	a := &Admission{Policy: "policy.yaml", State: "state", dir: t.TempDir()}
	put := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(a.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("root.json", verifytest.New(t, "corp.internal").Root())
	put("policy.yaml", []byte(`version: redoubt.policy/v1
roots:
  own: {file: root.json, denied: {file: denied.json}}
signers:
  all: [{root: own, identity-regexp: .*, issuer: https://oidc.corp.internal}]
rules:
- {name: all, images: ["**"], signatures: {by: [all]}}
`))
	list := denied.New("corp.internal")
	later, err := list.With(denied.Entry{Issuer: "https://oidc.corp.internal", Identity: "eve@corp.internal", Reason: "left"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	use := func(l *denied.List) error {
		data, err := l.Dated(time.Now())
		if err != nil {
			t.Fatal(err)
		}
		put("denied.json", data)
		_, err = a.rules(slog.New(slog.DiscardHandler))
		return err
	}
	for _, l := range []*denied.List{list, later, later} {
		if err := use(l); err != nil {
			t.Fatal(err)
		}
	}
	if err := use(list); !errors.Is(err, denied.ErrOld) {
		t.Errorf("an earlier list: %v", err)
	}
	if err := os.WriteFile(filepath.Join(a.dir, "state", "denied-versions.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := use(later); err == nil {
		t.Error("what was seen cannot be read, and the list is taken")
	}
}
