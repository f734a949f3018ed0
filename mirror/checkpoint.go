package mirror

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// LogConfig names a log to mirror and the one key it is believed by.
type LogConfig struct {
	// Origin is the first line of the log's checkpoints. A log is told from others by it, never by its key: one key may
	// sign for several logs.
	Origin string
	// FormerOrigins are first lines under which the same log signed earlier.
	FormerOrigins []string
	// VKey is the key that signs the checkpoints, as NAME+HASH+BASE64 (see parcel.NewVerifier).
	VKey string
	// FormerKeys signed for the same log earlier, each as VKey. Nothing new is taken under them; what was taken under them can
	// be verified again, and a fork across the change of keys be proven.
	FormerKeys []string
	// Scope is parcel.ScopeFull (the default), parcel.ScopeSparse or parcel.ScopeSpine. An importer refuses a parcel of another.
	Scope string
	// Records are leaves to carry at ScopeSparse. Exporter only.
	Records []uint64
	// Lookups are modules of the Go checksum database to carry the records of at ScopeSparse, as "module@version". Exporter only.
	Lookups []string
	// Select picks more leaves to carry at ScopeSparse, by what they say. Exporter only.
	Select Select
	// Source is where the exporter reads the log: an http or https URL, or a directory. Exporter only.
	Source string
	// Layout is "tiles" (C2SP tlog-tiles, the default), "sumdb" (the Go checksum database), "static-ct" (Certificate
	// Transparency, C2SP static-ct-api) or "rekor1" (the API of Rekor v1). Exporter only.
	Layout string
	// FirstIndex is the number over all shards of a Rekor v1 site that the shard's first entry has, nil when it is not known.
	FirstIndex *uint64
	// Frozen is where a shard that takes no more entries stopped, nil for a log that grows.
	Frozen *parcel.State
	// Witnesses is a witness policy (C2SP tlog-policy): who has to cosign a checkpoint before it becomes the log's head. Empty
	// asks for nobody.
	Witnesses string
	// Trust names the TUF repository whose imported trusted root says by which key the log is believed, in place of VKey.
	Trust string
	// BaseURL, NotBefore and NotAfter are what a trusted root says of the log; Followed is the repository of one that is mirrored
	// because it stands there.
	BaseURL             string
	NotBefore, NotAfter time.Time
	Followed            string
	// Stale says how old the last observed state may be.
	Stale freshness.Thresholds
	// MaxAge is how old the last observed state may be before Status and Reconcile call the log stale; 0 sets no limit.
	MaxAge time.Duration
}

// knownLog is a LogConfig that was checked.
type knownLog struct {
	LogConfig
	key      *parcel.Verifier
	former   []*parcel.Verifier
	selected *selection
	policy   *Policy      // nil: no witnesses are asked for
	signed   *signedTimes // told what was signed when, while a parcel is proven
}

func knownLogs(configs []LogConfig) (map[string]*knownLog, error) {
	out := make(map[string]*knownLog)
	for _, c := range configs {
		if c.Origin == "" || len(c.Origin) > 255 || strings.ContainsAny(c.Origin, "\n\r\x00") {
			return nil, fmt.Errorf("%w: log origin %.80q", ErrConfig, c.Origin)
		}
		if out[c.Origin] != nil {
			return nil, fmt.Errorf("%w: log %q is configured twice", ErrConfig, c.Origin)
		}
		if c.Scope == "" {
			c.Scope = parcel.ScopeFull
		}
		if !parcel.IsScope(c.Scope) {
			return nil, fmt.Errorf("%w: log %q: scope %q; %q, %q or %q is needed", ErrConfig, c.Origin, c.Scope, parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine)
		}
		if (len(c.Records) > 0 || len(c.Lookups) > 0 || !c.Select.Empty()) && c.Scope != parcel.ScopeSparse {
			return nil, fmt.Errorf("%w: log %q: records are picked at scope %q, not %q", ErrConfig, c.Origin, parcel.ScopeSparse, c.Scope)
		}
		if err := c.Stale.Check(); err != nil {
			return nil, fmt.Errorf("%w: log %q: %w", ErrConfig, c.Origin, err)
		}
		selected, err := c.Select.check()
		if err != nil {
			return nil, fmt.Errorf("log %q: %w", c.Origin, err)
		}
		known := &knownLog{selected: selected}
		if c.VKey != "" || c.Trust == "" {
			if known.key, err = parcel.NewVerifier(c.VKey); err != nil {
				return nil, fmt.Errorf("%w: log %q: %w", ErrConfig, c.Origin, err)
			}
		}
		for _, f := range c.FormerKeys {
			k, err := parcel.NewVerifier(f)
			if err != nil {
				return nil, fmt.Errorf("%w: log %q: former key: %w", ErrConfig, c.Origin, err)
			}
			known.former = append(known.former, k)
		}
		if c.Frozen != nil && (c.Frozen.Size > tiles.MaxSize || len(c.Frozen.Root) != tiles.HashSize) {
			return nil, fmt.Errorf("%w: log %q: a frozen shard has a size and a root of %d bytes", ErrConfig, c.Origin, tiles.HashSize)
		}
		if c.Layout == layoutRekor1 && !isRekor1(c.Origin) {
			return nil, fmt.Errorf("%w: log %q: the origin of a Rekor v1 log is \"<host> - <tree id>\"", ErrConfig, c.Origin)
		}
		c.Records = slices.Compact(slices.Sorted(slices.Values(c.Records)))
		known.LogConfig = c
		if c.Witnesses != "" {
			if err := known.adopt(c.Witnesses); err != nil {
				return nil, err
			}
		}
		out[c.Origin] = known
	}
	return out, nil
}

// Checkpoint is what a log signs: the root of its first Size leaves (C2SP tlog-checkpoint).
type Checkpoint struct {
	Origin string
	Size   uint64
	Root   tiles.Hash
}

// ParseCheckpoint reads the text of a checkpoint, without its signature lines. Extension lines are allowed and ignored.
// Errors match ErrProof.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) < 4 || lines[len(lines)-1] != "" || lines[0] == "" || len(text) > parcel.MaxCheckpoint || slices.Contains(lines[3:len(lines)-1], "") {
		return Checkpoint{}, fmt.Errorf("%w: this is no checkpoint", ErrProof)
	}
	c := Checkpoint{Origin: lines[0]}
	var err error
	if c.Size, err = strconv.ParseUint(lines[1], 10, 63); err != nil || strconv.FormatUint(c.Size, 10) != lines[1] || c.Size > tiles.MaxSize {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint of size %.40q", ErrProof, lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(root) != tiles.HashSize {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint with root %.80q", ErrProof, lines[2])
	}
	c.Root = tiles.Hash(root)
	if c.Size == 0 && c.Root != tiles.EmptyRoot() {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint of no leaves with root %s", ErrProof, c.Root)
	}
	return c, nil
}

// openHeld is open for a checkpoint that was accepted under vkey, which must be configured, now or as a former key. An empty
// vkey stands for the present one.
func (l *knownLog) openHeld(note []byte, vkey string) (Checkpoint, error) {
	as, err := l.as(vkey)
	if err != nil {
		return Checkpoint{}, err
	}
	return as.open(note)
}

// as is the log as it was under vkey.
func (l *knownLog) as(vkey string) (*knownLog, error) {
	for _, k := range append([]*parcel.Verifier{l.key}, l.former...) {
		if vkey == "" || k.VKey() == vkey {
			c := *l
			c.key, c.policy = k, nil // what was taken once is not judged by a policy that came later
			return &c, nil
		}
	}
	return nil, fmt.Errorf("checkpoint of %q: %w: %.300q is neither the log's key nor one of its former keys", l.Origin, ErrUnknownOrigin, vkey)
}

// open verifies the signature of a checkpoint by the log's present key and reads it. A wrong or missing signature is ErrProof,
// an unknown key ErrUnknownOrigin, another origin ErrUnknownOrigin.
func (l *knownLog) open(note []byte) (Checkpoint, error) {
	if len(note) > parcel.MaxCheckpoint {
		return Checkpoint{}, fmt.Errorf("%w: a checkpoint of %d bytes", ErrProof, len(note))
	}
	text, _, err := parcel.OpenNote(note, []*parcel.Verifier{l.key})
	if isForeign(err) {
		return Checkpoint{}, fmt.Errorf("checkpoint of %q: %w: not signed by %s", l.Origin, ErrUnknownOrigin, l.key.ID())
	}
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint of %q: %w: %v", l.Origin, ErrProof, err)
	}
	c, err := ParseCheckpoint(text)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("checkpoint of %q: %w", l.Origin, err)
	}
	if c.Origin != l.Origin && !slices.Contains(l.FormerOrigins, c.Origin) {
		return Checkpoint{}, fmt.Errorf("checkpoint of %q: %w: its first line is %.100q", l.Origin, ErrUnknownOrigin, c.Origin)
	}
	return c, nil
}
