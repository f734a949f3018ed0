package mirror

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"

	rootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/mirror/parcel"
)

// maxTrustedRoot is the longest trusted_root.json in bytes.
const maxTrustedRoot = 4 << 20

// LogsOf returns the transparency logs of a trusted_root.json that can be mirrored, by origin: the host of baseUrl, as Rekor v2
// names its logs (contract: origin = host name). Logs with keys that no checkpoint of a tiled log uses are left out, with the
// reason in skipped. The caller has verified the file: whoever writes it decides whom this mirror believes.
//
// Two entries of one host are refused: a log is known by its origin, and one of the two keys would win by chance.
func LogsOf(trustedRoot []byte) (logs []LogConfig, skipped map[string]string, err error) {
	if len(trustedRoot) > maxTrustedRoot {
		return nil, nil, fmt.Errorf("%w: a trusted root of %d bytes", ErrConfig, len(trustedRoot))
	}
	var root rootv1.TrustedRoot
	if err := protojson.Unmarshal(trustedRoot, &root); err != nil {
		return nil, nil, fmt.Errorf("%w: reading the trusted root: %v", ErrConfig, err)
	}
	skipped = make(map[string]string)
	seen := make(map[string]bool)
	for _, t := range root.GetTlogs() {
		u, err := url.Parse(t.GetBaseUrl())
		if err != nil || u.Hostname() == "" {
			return nil, nil, fmt.Errorf("%w: a log with base URL %.200q", ErrConfig, t.GetBaseUrl())
		}
		origin := strings.ToLower(u.Hostname())
		if seen[origin] {
			return nil, nil, fmt.Errorf("%w: the trusted root has two logs at %s", ErrConfig, origin)
		}
		seen[origin] = true
		pub, err := x509.ParsePKIXPublicKey(t.GetPublicKey().GetRawBytes())
		if err != nil {
			skipped[origin] = err.Error()
			continue
		}
		vkey, err := parcel.VerifierKey(origin, pub)
		if err != nil {
			skipped[origin] = err.Error()
			continue
		}
		logs = append(logs, LogConfig{Origin: origin, VKey: vkey})
	}
	return logs, skipped, nil
}
