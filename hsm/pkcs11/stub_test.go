//go:build !cgo

package pkcs11

import (
	"errors"
	"strings"
	"testing"

	"redoubt.internal/hsm"
)

// The binary without cgo says what is missing.
func TestStubNamesTheCgoBuild(t *testing.T) {
	_, err := Open(Config{URI: "pkcs11:token=a"})
	if !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "CGO_ENABLED=1") {
		t.Errorf("got %v", err)
	}
	var _ hsm.Token = (*Token)(nil)
}
