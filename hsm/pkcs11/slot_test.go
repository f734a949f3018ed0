//go:build cgo

package pkcs11

import (
	"testing"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// A login that could lock the token is refused from its flags alone; SoftHSM
// never locks, so the flags are set here by hand.
func TestNoLoginAtTheLastTry(t *testing.T) {
	const ready = pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_USER_PIN_INITIALIZED | pkcs11.CKF_TOKEN_INITIALIZED
	for name, c := range map[string]struct {
		flags uint
		want  error
		says  string
	}{
		"final try":  {ready | pkcs11.CKF_USER_PIN_COUNT_LOW | pkcs11.CKF_USER_PIN_FINAL_TRY, hsm.ErrBadPIN, "one PIN try left"},
		"locked":     {ready | pkcs11.CKF_USER_PIN_LOCKED, hsm.ErrBadPIN, "locked"},
		"no PIN yet": {pkcs11.CKF_LOGIN_REQUIRED | pkcs11.CKF_TOKEN_INITIALIZED, hsm.ErrUnavailable, "no user PIN"},
	} {
		info := pkcs11.TokenInfo{Label: "t", Flags: c.flags}
		failsWith(t, mayLogin(info), c.want, c.says)
		// The PIN source is nil: reading it would crash, so it is not even read.
		err := (&connection{info: info}).authenticate(t.Context(), nil, nil)
		if err == nil {
			t.Errorf("%s: logged in", name)
		}
	}
	if err := mayLogin(pkcs11.TokenInfo{Flags: ready | pkcs11.CKF_USER_PIN_COUNT_LOW}); err != nil {
		t.Errorf("count low alone: %v", err)
	}
}
