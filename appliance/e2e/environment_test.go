//go:build e2e

package e2e

import (
	"testing"
)

// testEnvironment: after sourcing env.sh a user of the older clients types no URL and no key file.
func testEnvironment(t *testing.T, l *lab) {
	cosign := client(t, cosign2)
	s := l.session(t, "TOKEN="+l.token(t), "COSIGN="+cosign, "SETUP="+l.setup)
	s.write(t, "blob", "signed by what env.sh says\n")
	s.run(t, "sh", "-euc", `
		. "$SETUP/env.sh"
		"$COSIGN" sign-blob -y --fulcio-url "$REDOUBT_FULCIO_URL" --rekor-url "$REDOUBT_REKOR_URL" --oidc-issuer "$REDOUBT_OIDC_URL" --identity-token "$TOKEN" --bundle legacy.json blob
		"$COSIGN" verify-blob --bundle legacy.json --certificate-identity `+identity+` --certificate-oidc-issuer "$REDOUBT_OIDC_URL" blob`)
}
