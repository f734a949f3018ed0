package mirror

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/mirror/tiles"
)

// BundledEntries are entries of logs that bundles name, by the origin of the log.
type BundledEntries map[string][]uint64

// maxBundleFile is the longest bundle read, in bytes.
const maxBundleFile = 16 << 20

// ReadBundles reads Sigstore bundles, files or folders of files ending in .json, .sigstore or .bundle, and returns the entries
// their inclusion proofs name. Nothing is verified: a wrong name picks an entry that nobody needs. An entry without inclusion
// proof, as the oldest bundles have it, does not say which log it is in; unnamed counts those.
func ReadBundles(paths ...string) (named BundledEntries, unnamed int, err error) {
	named = make(BundledEntries)
	for _, p := range paths {
		single := true
		err := filepath.WalkDir(p, func(file string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				single = false
				return err
			}
			if ext := filepath.Ext(file); !d.Type().IsRegular() || !single && ext != ".json" && ext != ".sigstore" && ext != ".bundle" {
				return nil
			}
			n, err := named.read(file)
			unnamed += n
			if err != nil && !single { // a folder may hold other files
				return nil
			}
			return err
		})
		if err != nil {
			return nil, 0, fmt.Errorf("reading bundles: %w", err)
		}
	}
	return named, unnamed, nil
}

func (named BundledEntries) read(file string) (unnamed int, err error) {
	st, err := os.Stat(file)
	if err != nil {
		return 0, err
	}
	if st.Size() > maxBundleFile {
		return 0, fmt.Errorf("%w: %s has %d bytes", ErrConfig, file, st.Size())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	var b protobundle.Bundle
	if err := protojson.Unmarshal(text, &b); err != nil {
		return 0, fmt.Errorf("%w: %s is no Sigstore bundle: %v", ErrConfig, file, err)
	}
	entries := b.GetVerificationMaterial().GetTlogEntries()
	if len(entries) == 0 {
		return 0, errors.Join(ErrConfig, fmt.Errorf("%s names no log entry", file))
	}
	for _, e := range entries {
		p := e.GetInclusionProof()
		origin, _, _ := strings.Cut(p.GetCheckpoint().GetEnvelope(), "\n")
		if origin == "" || p.GetLogIndex() < 0 || p.GetLogIndex() >= tiles.MaxSize {
			unnamed++
			continue
		}
		named[origin] = append(named[origin], uint64(p.GetLogIndex()))
	}
	return unnamed, nil
}
