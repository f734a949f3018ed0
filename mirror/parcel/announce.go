package parcel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// MaxAnnounced is the largest number of keys a parcel announces, and of those it retires.
const MaxAnnounced = 8

// checkKeys holds the announced and retired keys to one spelling.
func (m *Manifest) checkKeys() error {
	if len(m.Announce) > MaxAnnounced || len(m.Retire) > MaxAnnounced {
		return fmt.Errorf("%w: %d keys announced and %d retired, allowed are %d", ErrManifest, len(m.Announce), len(m.Retire), MaxAnnounced)
	}
	for i, k := range m.Announce {
		v, err := NewVerifier(k)
		if err != nil {
			return fmt.Errorf("%w: announced: %w", ErrManifest, err)
		}
		if v.VKey() != k || i > 0 && m.Announce[i-1] >= k || slices.Contains(m.Retire, v.ID()) {
			return fmt.Errorf("%w: announced key %.80q", ErrManifest, k)
		}
	}
	for i, id := range m.Retire {
		if !IsKeyID(id) || i > 0 && m.Retire[i-1] >= id {
			return fmt.Errorf("%w: retired key %.80q", ErrManifest, id)
		}
	}
	return nil
}

// IsKeyID tells whether s is the id of a key, NAME+HASH.
func IsKeyID(s string) bool {
	name, hash, ok := strings.Cut(s, "+")
	n, err := strconv.ParseUint(hash, 16, 32)
	return ok && err == nil && fmt.Sprintf("%08x", n) == hash && name != "" && len(s) <= 300 && printable(s)
}

// Announced returns the keys that parcels among the volumes announce, where one of keys signed them. It decides nothing: whether a key
// may sign a parcel is known when the parcel that announces it was imported. Volumes of other keys are passed over.
func Announced(paths []string, keys []*Verifier) (out []*Verifier, err error) {
	files, err := expand(paths)
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		list, err := Scan([]string{path}, keys)
		if err != nil {
			continue
		}
		for _, k := range list[0].Manifest.Announce {
			if v, err := NewVerifier(k); err == nil {
				out = append(out, v)
			}
		}
		list[0].Close()
	}
	return out, nil
}
