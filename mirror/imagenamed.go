package mirror

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"slices"

	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// namedEntries are the entries of a log that what vouches for images names.
type namedEntries struct {
	indexes []uint64 // in the log
	numbers []uint64 // over all shards of a Rekor v1 site
	digests []string // of what was signed, to be looked up; asked of the index of a Rekor v1 log alone
}

// nameEntries has the next pull of the logs at scope sparse pick the entries that an image names, and returns what names the logs
// of those that no configured log has: an entry that is carried anyway, at scope full, is not one of them.
func (e *Exporter) nameEntries(i images.Image) (unknown []string) {
	for _, n := range i.Entries {
		if e.nameEntry(n) {
			continue
		}
		who := n.Origin
		if who == "" && n.LogID != "" {
			who = "log id " + n.LogID
		} else if who == "" {
			who = "no log; signed was " + n.Digest
		}
		if !slices.Contains(unknown, who) {
			unknown = append(unknown, who)
		}
	}
	return unknown
}

func (e *Exporter) nameEntry(n images.Entry) (known bool) {
	if e.named == nil {
		e.named = make(map[string]*namedEntries)
	}
	of := func(log *knownLog) *namedEntries {
		if e.named[log.Origin] == nil {
			e.named[log.Origin] = &namedEntries{}
		}
		return e.named[log.Origin]
	}
	for _, origin := range sortedKeys(e.logs) {
		log := e.logs[origin]
		sparse := log.Scope == parcel.ScopeSparse
		switch {
		case n.Origin != "":
			if n.Origin == origin || slices.Contains(log.FormerOrigins, n.Origin) {
				known = true
				if sparse {
					of(log).indexes = append(of(log).indexes, *n.Index)
				}
			}
		case n.LogID != "" && n.LogID != log.keyID(): // every shard of a site has its one key
		case n.LogID != "" && n.Number != nil && log.Layout == layoutRekor1:
			known = true
			if sparse {
				of(log).numbers = append(of(log).numbers, *n.Number)
			}
		case n.Digest != "" && log.Layout == layoutRekor1:
			known = true
			if sparse {
				of(log).digests = append(of(log).digests, n.Digest)
			}
		case n.LogID != "":
			known = known || !sparse
		}
	}
	return known
}

// keyID is what Sigstore bundles call a log by: the SHA-256 of its key.
func (l *knownLog) keyID() string {
	if l.key == nil {
		return ""
	}
	der, err := x509.MarshalPKIXPublicKey(l.key.Public())
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// asked is what is picked of a log by content: what is configured, and the digests that images name.
func (e *Exporter) asked(log *knownLog) *selection {
	n := e.named[log.Origin]
	if n == nil || len(n.digests) == 0 {
		return log.selected
	}
	s := *log.selected
	s.digests = make(map[string]bool)
	s.Digests = slices.Compact(slices.Sorted(slices.Values(slices.Concat(s.Digests, n.digests))))
	for _, d := range s.Digests {
		s.digests[d] = true
	}
	return &s
}

// numbered turns numbers over all shards into those of the shard that begins with first.
func (e *Exporter) numbered(origin string, first uint64) {
	if n := e.named[origin]; n != nil {
		for _, number := range n.numbers {
			if number >= first {
				n.indexes = append(n.indexes, number-first)
			}
		}
		n.numbers = nil
	}
}

// namedIndexes are the entries of a log that images name by their number in it.
func (e *Exporter) namedIndexes(origin string) []uint64 {
	if n := e.named[origin]; n != nil {
		return n.indexes
	}
	return nil
}
