package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

const defaultTPM = "/dev/tpmrm0"

// foundToken is a place for keys that `redoubt init` found on this machine.
type foundToken struct {
	// Keys is what --keys takes; for a PKCS#11 token without where its PIN is.
	Keys string
	// Says describes it in one line.
	Says string
	// Software keeps keys in files of this machine.
	Software bool
	// Why it cannot be used as it is; "" if it can.
	Why string
}

// findTokens lists TPMs and the tokens of PKCS#11 modules, hardware first. Nothing is logged in to, nothing is tried. A TPM of
// software is looked at only where device names it.
func findTokens(ctx context.Context, device string) (found []foundToken) {
	for _, path := range []string{defaultTPM, device} {
		info, err := os.Stat(path)
		if path == "" || err != nil || path == device && device == defaultTPM {
			continue
		}
		f := foundToken{Keys: "tpm:device=" + path, Says: "TPM at " + path, Software: info.Mode()&os.ModeSocket != 0}
		if file, err := os.OpenFile(path, os.O_RDWR, 0); err == nil {
			file.Close()
		} else if !f.Software {
			f.Why = err.Error()
		}
		found = append(found, f)
	}
	var soft []foundToken
	for _, module := range findModules(ctx) {
		for _, t := range module.Tokens {
			if !t.Initialized {
				continue
			}
			f := foundToken{Keys: fmt.Sprintf("pkcs11:token=%s;serial=%s?module-path=%s", escapeURI(t.Label), escapeURI(t.Serial), escapeURI(module.Module)), Software: t.Software,
				Says: fmt.Sprintf("token %q, %s %s, serial %s, module %s", t.Label, t.Manufacturer, t.Model, t.Serial, module.Module)}
			switch {
			case t.Locked:
				f.Why = "its PIN is locked"
			case t.LastTry:
				f.Why = "one try of its PIN is left"
			case !t.PIN:
				f.Why = "it has no PIN yet"
			}
			if f.Software {
				soft = append(soft, f)
			} else {
				found = append(found, f)
			}
		}
	}
	return append(found, soft...)
}

// escapeURI writes a value as RFC 7512 wants it; a path keeps its slashes.
func escapeURI(value string) string {
	var b strings.Builder
	for _, c := range []byte(value) {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-._~/", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
