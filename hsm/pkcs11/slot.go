//go:build cgo

package pkcs11

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"

	"redoubt.internal/hsm"
)

// findSlot returns the slot of the one token the URI matches. The error of any
// other outcome says what was seen and where the module looked.
func findSlot(c *pkcs11.Ctx, u *uri, path string) (uint, pkcs11.TokenInfo, error) {
	if u.token == "" && u.serial == "" {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("PKCS#11 URI names neither token nor serial: %w", hsm.ErrUnsupported)
	}
	slots, err := c.GetSlotList(true)
	if err != nil {
		return 0, pkcs11.TokenInfo{}, fmt.Errorf("listing slots: %w", err)
	}
	var found []uint
	var info pkcs11.TokenInfo
	var seen, matched []string
	for _, s := range slots {
		ti, err := c.GetTokenInfo(s)
		if err != nil {
			seen = append(seen, fmt.Sprintf("(slot without an answer: %v)", err))
			continue
		}
		name := fmt.Sprintf("%q serial %s", trim(ti.Label), trim(ti.SerialNumber))
		if ti.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		seen = append(seen, name)
		if matches(u.token, ti.Label) && matches(u.serial, ti.SerialNumber) && matches(u.manufacturer, ti.ManufacturerID) && matches(u.model, ti.Model) {
			found, info, matched = append(found, s), ti, append(matched, name)
		}
	}
	where := fmt.Sprintf("in module %s%s", path, configHint(path))
	switch len(found) {
	case 0:
		if len(seen) == 0 {
			seen = []string{"none"}
		}
		return 0, info, fmt.Errorf("no token matches %s %s; tokens seen: %s: %w", wanted(u), where, strings.Join(seen, ", "), hsm.ErrNotFound)
	case 1:
		return found[0], info, nil
	}
	return 0, info, fmt.Errorf("%d tokens match %s %s: %s; add serial= to the URI: %w", len(found), wanted(u), where, strings.Join(matched, ", "), hsm.ErrAmbiguous)
}

// matches compares a URI attribute with a blank-padded token field.
func matches(want, have string) bool { return want == "" || want == trim(have) }

// trim removes the padding of token fields (blanks; some modules pad with NUL).
func trim(s string) string { return strings.TrimRight(s, " \x00") }

// wanted shows the token part of a URI.
func wanted(u *uri) string {
	var parts []string
	for _, a := range [][2]string{{"token", u.token}, {"serial", u.serial}, {"manufacturer", u.manufacturer}, {"model", u.model}} {
		if a[1] != "" {
			parts = append(parts, fmt.Sprintf("%s=%q", a[0], a[1]))
		}
	}
	return strings.Join(parts, " ")
}

// mayLogin refuses a login that could lock the token or cannot succeed.
func mayLogin(ti pkcs11.TokenInfo) error {
	switch {
	case ti.Flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: the user PIN of token %q is locked; its security officer must reset it", hsm.ErrBadPIN, trim(ti.Label))
	case ti.Flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: token %q has one PIN try left and it is not taken; log in by hand with the right PIN first", hsm.ErrBadPIN, trim(ti.Label))
	case ti.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return fmt.Errorf("token %q has no user PIN yet: %w", trim(ti.Label), hsm.ErrUnavailable)
	}
	return nil
}

// tokenState is what Info shows of the token.
func tokenState(ti pkcs11.TokenInfo) map[string]string {
	var flags []string
	for _, f := range []struct {
		bit  uint
		name string
	}{
		{pkcs11.CKF_RNG, "rng"}, {pkcs11.CKF_WRITE_PROTECTED, "write-protected"}, {pkcs11.CKF_LOGIN_REQUIRED, "login-required"},
		{pkcs11.CKF_PROTECTED_AUTHENTICATION_PATH, "protected-authentication-path"}, {pkcs11.CKF_USER_PIN_COUNT_LOW, "user-pin-count-low"},
		{pkcs11.CKF_USER_PIN_FINAL_TRY, "user-pin-final-try"}, {pkcs11.CKF_USER_PIN_LOCKED, "user-pin-locked"},
		{pkcs11.CKF_USER_PIN_TO_BE_CHANGED, "user-pin-to-be-changed"},
	} {
		if ti.Flags&f.bit != 0 {
			flags = append(flags, f.name)
		}
	}
	return map[string]string{
		"label":        trim(ti.Label),
		"serial":       trim(ti.SerialNumber),
		"manufacturer": trim(ti.ManufacturerID),
		"model":        trim(ti.Model),
		"hardware":     fmt.Sprintf("%d.%d", ti.HardwareVersion.Major, ti.HardwareVersion.Minor),
		"firmware":     fmt.Sprintf("%d.%d", ti.FirmwareVersion.Major, ti.FirmwareVersion.Minor),
		"flags":        strings.Join(flags, " "),
	}
}

// isSoftware reports tokens known to keep keys in files of this machine.
func isSoftware(ti pkcs11.TokenInfo, path string) bool {
	for _, s := range []string{ti.Model, ti.ManufacturerID, ti.Label, path} {
		s = strings.ToLower(s)
		for _, known := range []string{"softhsm", "softokn", "nss", "kryoptic", "opencryptoki", "soft token", "swtpm"} {
			if strings.Contains(s, known) {
				return true
			}
		}
	}
	return false
}
