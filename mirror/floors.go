package mirror

import "fmt"

// KnownSize is what is known of the size of a public log.
type KnownSize struct {
	Size  uint64
	Ended bool // the log takes no more entries: this is its size for good
}

// ShippedSizes are sizes that public logs are known to have reached, by origin. A fresh installation has no head of its own to compare with; it takes
// no first state below these, so that it cannot be begun years in the past. Each is the largest that a checkpoint signed by the log shows, or, of
// the shards of Rekor v1 that ended, their length as the log's index over all shards counts it.
var ShippedSizes = map[string]KnownSize{
	"rekor.sigstore.dev - 3904496407287907110": {Size: 4_163_431, Ended: true},   // checkpoint of an entry that was read after the end
	"rekor.sigstore.dev - 2605736670972794746": {Size: 117_740_831, Ended: true}, // first index of the next shard, 121,904,262, less the shard before
	"rekor.sigstore.dev - 1193050959916656506": {Size: 1_511_665_068},            // checkpoint in a bundle of sigstore-java's test data
	"log2025-1.rekor.sigstore.dev":             {Size: 34_356_369},               // checkpoint read on 2026-07-20
	"go.sum database tree":                     {Size: 71_769_961},               // tree head of sum.golang.org, newest of five that are consistent
}

// floors are the sizes that are set by configuration in place of those shipped, by origin.
type floors map[string]uint64

// admit refuses the first state of a log below its floor, and one above the end of a log that has ended. Later states are held against the head
// alone, which never goes back.
func (f floors) admit(origin string, own Head, size uint64) error {
	known, shipped := ShippedSizes[origin]
	if shipped && known.Ended && size > known.Size {
		return fmt.Errorf("log %q: %w: %d entries, it ended at %d", origin, ErrThawed, size, known.Size)
	}
	if own.Note != nil {
		return nil
	}
	least, from := known.Size, "shipped"
	if set, ok := f[origin]; ok {
		least, from = set, "mirror.floors"
	}
	if size >= least {
		return nil
	}
	return fmt.Errorf("log %q: %w: it would begin here at %d entries, the floor is %d (%s; mirror.floors in redoubt.yaml sets another); "+
		"run redoubt mirror pull and export outside again, against the log's own server", origin, ErrFloor, size, least, from)
}
