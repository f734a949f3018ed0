//go:build cgo

package pkcs11

import (
	"fmt"
	"strings"

	"github.com/miekg/pkcs11"
)

// Survey loads a module into this process and looks at its tokens, without a session and without a login. Whoever calls it expects that the
// module may crash or hang: it belongs into a process of its own.
func Survey(path string) (seen Seen, err error) {
	m, err := loadModule(path, "")
	if err != nil {
		return seen, err
	}
	defer m.release()
	seen = Seen{Module: path, Tokens: []SeenToken{}}
	if info, err := m.ctx.GetInfo(); err == nil {
		seen.Library = fmt.Sprintf("%s, %s %d.%d", strings.TrimSpace(trim(info.ManufacturerID)), strings.TrimSpace(trim(info.LibraryDescription)), info.LibraryVersion.Major, info.LibraryVersion.Minor)
	}
	slots, err := m.ctx.GetSlotList(true)
	if err != nil {
		return seen, fmt.Errorf("listing slots: %w", err)
	}
	for _, slot := range slots {
		ti, err := m.ctx.GetTokenInfo(slot)
		if err != nil {
			continue // a slot that is not answered is no token to propose
		}
		has := func(flag uint) bool { return ti.Flags&flag != 0 }
		seen.Tokens = append(seen.Tokens, SeenToken{
			Label: trim(ti.Label), Serial: trim(ti.SerialNumber), Manufacturer: trim(ti.ManufacturerID), Model: trim(ti.Model),
			Initialized: has(pkcs11.CKF_TOKEN_INITIALIZED), PIN: has(pkcs11.CKF_USER_PIN_INITIALIZED), Locked: has(pkcs11.CKF_USER_PIN_LOCKED), LastTry: has(pkcs11.CKF_USER_PIN_FINAL_TRY),
			Software: isSoftware(ti, path),
		})
	}
	return seen, nil
}
