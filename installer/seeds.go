package installer

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/mirror"
)

// floors is trust/floors.json: how far what is trusted had come when the bundle was made. Nothing older is a beginning.
type floors struct {
	TUF  []tufFloor `json:"tuf"`
	Logs []logFloor `json:"logs"`
}

// tufFloor is a root of trust, by the file that holds it, with its version.
type tufFloor struct {
	Name    string `json:"name"`
	File    string `json:"file"`
	Version int64  `json:"version"` // of the root; one below it is refused
	SHA256  string `json:"sha256"`
}

// logFloor is a size that a log is known to have reached.
type logFloor struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Ended  bool   `json:"ended"` // the log takes no more entries: this is its size for good
}

// addSeeds adds the roots of trust that a fresh installation begins with, and their floors: the root of the public-good Sigstore, as the
// library that verifies it ships it, and the sizes of public logs that the mirror knows.
func addSeeds(_ string, members map[string]member) error {
	root := tuf.DefaultRoot()
	parsed, err := metadata.Root().FromBytes(root)
	if err != nil {
		return fmt.Errorf("reading the root of trust: %w", err)
	}
	digest := sha256.Sum256(root)
	f := floors{TUF: []tufFloor{{Name: "public-good", File: "sigstore-root.json", Version: parsed.Signed.Version, SHA256: hex.EncodeToString(digest[:])}}}
	for _, origin := range slices.Sorted(maps.Keys(mirror.ShippedSizes)) {
		known := mirror.ShippedSizes[origin]
		f.Logs = append(f.Logs, logFloor{origin, known.Size, known.Ended})
	}
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	members["trust/sigstore-root.json"] = member{mode: 0o644, data: root}
	members["trust/floors.json"] = member{mode: 0o644, data: append(data, '\n')}
	return nil
}
