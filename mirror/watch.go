package mirror

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Did anyone sign as us outside? Each entry that was mirrored is looked at once for each watch: what agrees is a hit, and stays an alarm
// until somebody acknowledges it. How far each watch came is kept, so that a report looks at what is new only; a watch that was changed
// starts again. What a sparse or spine log does not hold is not looked at, and the report says so.

// WatchConfig names entries that must not appear unnoticed. Every field that is set must agree with the entry; of Digests one.
type WatchConfig struct {
	Name     string   // of the watch
	Identity string   // regular expression, matched anywhere in a name of the certificate
	Issuer   string   // regular expression, matched anywhere in the issuer of the identity token
	Digests  []string // "sha256:<hex>"
	Keys     []string // SHA-256 of a key's PEM, in hex
}

// watch is a WatchConfig that was checked.
type watch struct {
	WatchConfig
	rule             string // digest of all that decides what agrees
	identity, issuer *regexp.Regexp
}

var watchName = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$`) })

func watches(configs []WatchConfig) (out []watch, err error) {
	for i, c := range configs {
		w := watch{WatchConfig: c, rule: parcel.Sum(fmt.Appendf(nil, "%q %q %q %q", c.Identity, c.Issuer, c.Digests, c.Keys)).String()}
		switch {
		case !watchName().MatchString(c.Name):
			return nil, fmt.Errorf("%w: watch name %.80q; up to 64 of a-z, 0-9, dot and hyphen are allowed", ErrConfig, c.Name)
		case slices.ContainsFunc(configs[:i], func(o WatchConfig) bool { return o.Name == c.Name }):
			return nil, fmt.Errorf("%w: watch %q is there twice", ErrConfig, c.Name)
		case c.Identity == "" && c.Issuer == "" && len(c.Digests)+len(c.Keys) == 0:
			return nil, fmt.Errorf("%w: watch %q watches nothing", ErrConfig, c.Name)
		}
		if w.identity, err = regexp.Compile(c.Identity); err == nil {
			w.issuer, err = regexp.Compile(c.Issuer)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: watch %q: %w", ErrConfig, c.Name, err)
		}
		out = append(out, w)
	}
	return out, nil
}

// CheckWatches says what is wrong with watches that are configured.
func CheckWatches(configs []WatchConfig) error {
	_, err := watches(configs)
	return err
}

// agrees reports whether the watch names the entry. Key, identity and issuer must be those of one signer.
func (w *watch) agrees(f *entry.Facts) bool {
	if len(w.Digests) > 0 && !slices.ContainsFunc(w.Digests, func(d string) bool { return slices.Contains(f.Digests, strings.ToLower(d)) }) {
		return false
	}
	if w.Identity == "" && w.Issuer == "" && len(w.Keys) == 0 {
		return true
	}
	return slices.ContainsFunc(f.Signers, func(s entry.Signer) bool {
		return (w.Identity == "" || slices.ContainsFunc(s.Identities, w.identity.MatchString)) && (w.Issuer == "" || w.issuer.MatchString(s.Issuer)) &&
			(len(w.Keys) == 0 || slices.ContainsFunc(w.Keys, func(k string) bool { return strings.EqualFold(k, s.Key) }))
	})
}

// Hit is a mirrored entry that a watch names. Its JSON form is stable.
type Hit struct {
	Watch      string     `json:"watch"`
	Origin     string     `json:"origin"`
	Index      uint64     `json:"index"`
	Leaf       tiles.Hash `json:"leaf"`
	Kind       string     `json:"kind"`
	Identities []string   `json:"identities"`
	Issuer     string     `json:"issuer,omitempty"`
	Digests    []string   `json:"digests"`
	Signed     time.Time  `json:"signed,omitzero"` // start of the certificate's validity
	Found      time.Time  `json:"found"`
	Acked      *Ack       `json:"acknowledged,omitempty"`
}

// Ack is somebody's word that a hit is known about.
type Ack struct {
	By   string    `json:"by"`
	At   time.Time `json:"at"`
	Note string    `json:"note,omitempty"`
}

// Keys in the database:
//
//	mirror/watch/<name>\x00<origin>           watchState  how far a watch came
//	mirror/hit/<name>\x00<origin>\x00<index>  Hit
const (
	keyWatch = "mirror/watch/"
	keyHit   = "mirror/hit/"
)

// Bounds of what watches keep: whoever fills a public log must not fill our disk.
const (
	maxHits     = 20_000 // hits kept of one watch and log; more are counted
	maxShown    = 50     // unacknowledged hits in a report
	maxHitNames = 20     // names and digests of one hit
)

type watchState struct {
	Rule     string `json:"rule"`
	Next     uint64 `json:"next"`     // scope full: entries before it were looked at
	Sequence uint64 `json:"sequence"` // scope sparse: records of parcels up to this one were
	Looked   uint64 `json:"looked"`   // entries looked at
	Hits     int    `json:"hits"`
	Dropped  int    `json:"dropped"` // hits beyond the bound
	Opaque   uint64 `json:"opaque"`  // entries that do not say all of who signed
}

// WatchReport says what the watches found. Its JSON form is stable.
type WatchReport struct {
	Watches  int         `json:"watches"`
	Hits     int         `json:"hits_unacknowledged"`
	Newest   []Hit       `json:"newest"` // of those, the newest
	Dropped  int         `json:"hits_dropped"`
	Coverage []WatchedOf `json:"logs"`
}

// WatchedOf says how much of a log the watches could look at.
type WatchedOf struct {
	Origin string `json:"origin"`
	Scope  string `json:"scope"`
	Looked uint64 `json:"looked"` // entries, by the watch that looked at fewest
	Size   uint64 `json:"size"`
	Opaque uint64 `json:"opaque"`  // entries whose signer cannot be read: a hit may hide there
	Proves bool   `json:"absence"` // that no other entry agrees can be said: every entry was looked at and could be read
}

func hitKey(h Hit) string {
	return fmt.Sprintf("%s%s\x00%s\x00%020d", keyHit, h.Watch, h.Origin, h.Index)
}

func watchKey(name, origin string) string { return keyWatch + name + "\x00" + origin }

// Hits lists the hits, all or those nobody acknowledged, in the order of watch, log and index.
func (m *Mirror) Hits(all bool) ([]Hit, error) {
	out := []Hit{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyHit, func(_ string, h Hit) error {
			if all || h.Acked == nil {
				out = append(out, h)
			}
			return nil
		})
	})
	return out, err
}

// AckFilter says which hits are acknowledged; a field that is not set agrees with any.
type AckFilter struct {
	Watch  string  `json:"watch,omitempty"`
	Origin string  `json:"origin,omitempty"`
	Index  *uint64 `json:"index,omitempty"`
}

// Acknowledge marks unacknowledged hits and returns how many. ErrNotFound when there are none.
func (m *Mirror) Acknowledge(ctx context.Context, f AckFilter, by, note string) (int, error) {
	n := 0
	now := m.c.Now().UTC()
	detail := map[string]string{"watch": f.Watch, "origin": f.Origin, "by": by, "note": note}
	err := m.record(ctx, Event{Action: "mirror.watch.ack", Object: f.Watch, Outcome: "success", Detail: detail}, func(tx store.Tx) error {
		var marked []Hit
		err := scan(tx, keyHit, func(_ string, h Hit) error {
			if h.Acked == nil && (f.Watch == "" || f.Watch == h.Watch) && (f.Origin == "" || f.Origin == h.Origin) && (f.Index == nil || *f.Index == h.Index) {
				h.Acked = &Ack{by, now, note}
				marked = append(marked, h)
			}
			return nil
		})
		if n = len(marked); err == nil && n == 0 {
			err = fmt.Errorf("%w: a hit that waits to be acknowledged", ErrNotFound)
		}
		for _, h := range marked {
			err = errors.Join(err, put(tx, hitKey(h), h))
		}
		return err
	})
	return n, err
}

// Rewatch forgets how far the watches came, so that the next report looks at every entry again. Hits and acknowledgements stay.
func (m *Mirror) Rewatch() error {
	return m.c.DB.Update(func(tx store.Tx) error {
		var keys []string
		err := scan(tx, keyWatch, func(key string, _ watchState) error { keys = append(keys, key); return nil })
		for _, k := range keys {
			err = errors.Join(err, tx.Delete([]byte(k)))
		}
		return err
	})
}
