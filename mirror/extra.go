package mirror

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
)

// maxIndex bounds an index over all shards of a Rekor v1 site: every JSON reader can repeat it.
const maxIndex = 1 << 53

// isRekor1 tells whether logs of that origin are Rekor v1's: "<host> - <tree id>", which is how every Sigstore client tells.
func isRekor1(origin string) bool {
	_, _, ok := RekorTree(origin)
	return ok
}

// RekorTree reads the origin of a Rekor v1 tree: "<host> - <tree id>".
func RekorTree(origin string) (host string, tree int64, ok bool) {
	host, tree, ok = rekor1Origin(origin)
	return host, tree, ok && tree > 0
}

func rekor1Origin(origin string) (host string, tree int64, ok bool) {
	host, id, ok := strings.Cut(origin, " - ")
	tree, err := strconv.ParseInt(id, 10, 64)
	return host, tree, ok && err == nil && host != "" && !strings.Contains(host, " ") && strconv.FormatInt(tree, 10) == id
}

// extras tells whether the log's entries have something beside them that is not hashed.
func (l *knownLog) extras() bool { return isRekor1(l.Origin) }

// checkExtra verifies what stands beside an entry, by the kind of the log. A log without extras has none.
func (l *knownLog) checkExtra(r Record) error {
	if !l.extras() {
		if len(r.Extra) > 0 {
			return fmt.Errorf("%w: entry %d has something beside it, which this log's entries have not", ErrProof, r.Index)
		}
		return nil
	}
	x, err := entry.ParseExtra(r.Extra)
	if err == nil {
		err = l.checkRekor(r, x)
	}
	if err != nil {
		return fmt.Errorf("entry %d: %w: %w", r.Index, ErrProof, err)
	}
	return nil
}

// checkRekor verifies the signed entry timestamp by the log's key, or one it had, and that it is for an entry of this shard.
func (l *knownLog) checkRekor(r Record, x entry.Extra) error {
	if x.LogIndex < r.Index || l.FirstIndex != nil && x.LogIndex-r.Index != *l.FirstIndex {
		return fmt.Errorf("%w: number %d over all shards is not that of entry %d of this one", ErrProof, x.LogIndex, r.Index)
	}
	errs := []error{fmt.Errorf("%w: no key of the log made its timestamp", ErrProof)}
	for _, k := range append([]*parcel.Verifier{l.key}, l.former...) {
		if k == nil {
			continue
		}
		err := x.Verify(r.Leaf, k.Public())
		if err == nil {
			l.signed.saw(x.Time(), "an entry of log "+strconv.Quote(l.Origin))
			return nil
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}
