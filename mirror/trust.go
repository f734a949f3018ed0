package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// TrustChange says what a parcel changed of whom a TUF repository has us trust, line by line, for people. Its JSON form is stable.
type TrustChange struct {
	Name     string          `json:"name"`
	Sequence uint64          `json:"sequence"`
	Parcel   parcel.Digest   `json:"parcel,omitempty"`
	Time     time.Time       `json:"time"`                 // local time
	Observed time.Time       `json:"upstream_observed_at"` // when the exporter says it saw this
	From     parcel.Versions `json:"from"`
	To       parcel.Versions `json:"to"`
	Changes  []string        `json:"changes"`
}

func trustKey(name string, sequence uint64) string {
	return fmt.Sprintf("%s%s\x00%020d", keyTrust, name, sequence)
}

// trustChange compares what a repository said before with what it says now.
func (m *Mirror) trustChange(held *TUFHead, head TUFHead, root *metadata.Metadata[metadata.RootType], trustedRoot []byte) (TrustChange, error) {
	c := TrustChange{Name: head.Name, Sequence: head.Sequence, Time: head.Imported, Observed: head.Observed, To: head.Versions, Changes: []string{}}
	var before trusted
	var oldTargets []TUFTarget
	if held != nil {
		c.From = held.Versions
		oldTargets = held.Targets
		oldRoot, err := held.readMeta(m.root, tufAsk{metadata.ROOT, held.Versions.Root}.name())
		if err != nil {
			return c, err
		}
		parsed, err := metadata.Root().FromBytes(oldRoot)
		if err != nil {
			return c, fmt.Errorf("%w: root %d: %v", ErrDamaged, held.Versions.Root, err)
		}
		c.Changes = append(c.Changes, rootChanges(parsed, root)...)
		if old, err := held.readTarget(m.root, trustedRootName); err == nil {
			before, _ = readTrusted(old)
		} else if !errors.Is(err, ErrNotFound) {
			return c, err
		}
	} else {
		c.Changes = append(c.Changes, fmt.Sprintf("repository begins at %v", head.Versions))
	}
	var after trusted
	if trustedRoot != nil {
		var err error
		if after, err = readTrusted(trustedRoot); err != nil { // kept and served as it is; nothing is learnt from it
			c.Changes = append(c.Changes, oneLine(fmt.Errorf("target %s cannot be read here: %w", trustedRootName, err)))
		}
	}
	c.Changes = append(c.Changes, itemChanges(before.items(), after.items())...)
	c.Changes = append(c.Changes, targetChanges(oldTargets, head.Targets)...)
	return c, nil
}

// recordTrust writes a change to the audit log and into the history, once, before the heads move: everything is proven by then, and
// an import that was cut short here is finished by the next start.
func (m *Mirror) recordTrust(ctx context.Context, c TrustChange) error {
	if len(c.Changes) == 0 {
		return nil
	}
	var there bool
	key := trustKey(c.Name, c.Sequence)
	if err := m.c.DB.View(func(tx store.Tx) (err error) {
		b, err := tx.Get([]byte(key))
		there = b != nil
		return err
	}); err != nil || there {
		return err
	}
	detail := map[string]string{"sequence": fmt.Sprint(c.Sequence), "from": c.From.String(), "to": c.To.String(), "changes": fmt.Sprint(len(c.Changes))}
	for i, line := range c.Changes[:min(len(c.Changes), 24)] { // an event holds so many details; the history holds all
		detail[fmt.Sprintf("change.%02d", i)] = line
	}
	for _, line := range c.Changes {
		m.c.Logger.WarnContext(ctx, "trust changed", "repository", c.Name, "change", line)
	}
	return m.record(ctx, Event{Action: "mirror.trust", Object: c.Name, Outcome: "success", Detail: detail}, func(tx store.Tx) error { return put(tx, key, c) })
}

// TrustHistory lists what changed, the oldest first; of every repository when name is empty.
func (m *Mirror) TrustHistory(name string) ([]TrustChange, error) {
	out := []TrustChange{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyTrust, func(_ string, c TrustChange) error {
			if name == "" || c.Name == name {
				out = append(out, c)
			}
			return nil
		})
	})
	slices.SortStableFunc(out, func(a, b TrustChange) int { return a.Time.Compare(b.Time) })
	return out, err
}

// rootChanges compares the keys and thresholds of two roots.
func rootChanges(a, b *metadata.Metadata[metadata.RootType]) (lines []string) {
	if a.Signed.Version != b.Signed.Version {
		lines = append(lines, fmt.Sprintf("TUF root %d became %d", a.Signed.Version, b.Signed.Version))
	}
	for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
		x, y := a.Signed.Roles[role], b.Signed.Roles[role]
		if x == nil || y == nil {
			continue
		}
		for _, k := range x.KeyIDs {
			if !slices.Contains(y.KeyIDs, k) {
				lines = append(lines, fmt.Sprintf("TUF role %s: key %.16s left", role, k))
			}
		}
		for _, k := range y.KeyIDs {
			if !slices.Contains(x.KeyIDs, k) {
				lines = append(lines, fmt.Sprintf("TUF role %s: key %.16s came", role, k))
			}
		}
		if x.Threshold != y.Threshold {
			lines = append(lines, fmt.Sprintf("TUF role %s: %d signatures are needed instead of %d", role, y.Threshold, x.Threshold))
		}
	}
	return lines
}

// itemChanges compares two sets of trusted things, each named for good and with a validity.
func itemChanges(a, b map[string]string) (lines []string) {
	for _, k := range slices.Sorted(maps.Keys(a)) {
		switch now, ok := b[k]; {
		case !ok:
			lines = append(lines, k+" left")
		case now != a[k]:
			lines = append(lines, fmt.Sprintf("%s: %s instead of %s", k, now, a[k]))
		}
	}
	for _, k := range slices.Sorted(maps.Keys(b)) {
		if _, ok := a[k]; !ok {
			lines = append(lines, fmt.Sprintf("%s came, %s", k, b[k]))
		}
	}
	return lines
}

func targetChanges(a, b []TUFTarget) []string {
	set := func(all []TUFTarget) map[string]string {
		out := make(map[string]string)
		for _, t := range all {
			out["target "+t.Name] = "SHA-256 " + t.SHA256.String()[:16]
		}
		return out
	}
	return itemChanges(set(a), set(b))
}

func validity(start, end time.Time) string {
	text := []string{"valid"}
	if !start.IsZero() {
		text = append(text, "from", start.UTC().Format(time.RFC3339))
	}
	if !end.IsZero() {
		text = append(text, "until", end.UTC().Format(time.RFC3339))
	}
	return strings.Join(text, " ")
}
