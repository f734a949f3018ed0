package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// A log that showed two histories stands still until people decide how it goes on: with the history that is held here, which any
// later parcel then has to continue, or not at all, in favour of another log. Either way what is served stays: one root for one
// size, for ever. The freeze itself, its evidence and the decision are kept.

// Resolution says how a frozen log goes on.
type Resolution struct {
	Retire    bool   `json:"retire"`              // it takes nothing more; false: it goes on from the head that is held
	Successor string `json:"successor,omitempty"` // origin of the log that takes its place, "" for none
}

func (r Resolution) check(origin string) error {
	switch {
	case !r.Retire && r.Successor != "":
		return fmt.Errorf("%w: a log that keeps its history has no successor", ErrConfig)
	case r.Successor == origin:
		return fmt.Errorf("%w: a log is not its own successor", ErrConfig)
	}
	return nil
}

func (r Resolution) String() string {
	switch {
	case !r.Retire:
		return "keep own history"
	case r.Successor == "":
		return "retire"
	}
	return "retire for " + r.Successor
}

// Settled is a freeze that people decided about.
type Settled struct {
	Freeze
	Resolution
	Size uint64    `json:"size"` // of the head that was kept
	Root string    `json:"root"`
	By   []string  `json:"approved_by"`
	At   time.Time `json:"settled"`
}

const (
	keySettled        = "mirror/settled/"
	keySettledOutside = "exporter/settled/"
)

// side is what the two ends of the gap have in common when a log is unfrozen.
type side struct {
	db                    store.DB
	root                  *os.Root
	log                   func(origin string) *knownLog
	claimants             []string // keys of the enclaves whose word is believed
	frozen, head, settled string   // prefixes of keys
	now                   func() time.Time
	record                func(context.Context, Event, func(store.Tx) error) error
}

func (m *Mirror) side() side {
	return side{m.c.DB, m.root, m.log, m.c.Peers, keyFrozen, keyHead, keySettled, m.c.Now, m.record}
}

func (e *Exporter) side() side {
	record := func(_ context.Context, _ Event, with func(store.Tx) error) error { return e.c.DB.Update(with) }
	return side{e.c.DB, e.root, func(o string) *knownLog { return e.logs[o] }, e.c.Receivers, keyStopped, keyCollected, keySettledOutside, e.c.Now, record}
}

// UnfreezeText is what people agree to when they unfreeze a log: which head stays, what proves the two histories, how the log goes
// on. ErrNotFound when the log is not frozen.
func (m *Mirror) UnfreezeText(origin string, r Resolution) ([]string, error) {
	return m.side().text(origin, r)
}

// Unfreeze does what people agreed to. agreed is the text they approved; if it is not what UnfreezeText says now, because the log
// moved or more evidence came, nothing is done. with runs in the same transaction.
func (m *Mirror) Unfreeze(ctx context.Context, origin string, r Resolution, agreed, by []string, with func(store.Tx) error) (Settled, error) {
	return m.side().settle(ctx, origin, r, agreed, by, with)
}

// UnfreezeText is that of the outside end.
func (e *Exporter) UnfreezeText(origin string, r Resolution) ([]string, error) {
	return e.side().text(origin, r)
}

// Unfreeze is that of the outside end.
func (e *Exporter) Unfreeze(ctx context.Context, origin string, r Resolution, agreed, by []string, with func(store.Tx) error) (Settled, error) {
	return e.side().settle(ctx, origin, r, agreed, by, with)
}

// frozenLog reads a frozen log's state.
func (s side) frozenLog(tx store.Tx, origin string) (f Freeze, h Head, err error) {
	ok, err := get(tx, s.frozen+origin, &f)
	if err != nil {
		return f, h, err
	}
	if !ok || f.Retired != nil {
		return f, h, fmt.Errorf("%w: log %q is not frozen", ErrNotFound, origin)
	}
	if ok, err = get(tx, s.head+origin, &h); err == nil && !ok { // bundles contradicted each other before any parcel came
		h.Root = tiles.EmptyRoot()
	}
	return f, h, err
}

func (s side) text(origin string, r Resolution) ([]string, error) {
	if err := r.check(origin); err != nil {
		return nil, err
	}
	var f Freeze
	var h Head
	if err := s.db.View(func(tx store.Tx) (err error) { f, h, err = s.frozenLog(tx, origin); return err }); err != nil {
		return nil, err
	}
	lines := []string{
		"origin " + approval.Value(origin),
		"key " + approval.Value(cmp.Or(h.VKey, "none")),
		fmt.Sprintf("kept %d %s", h.Size, h.Root),
		"frozen " + f.Since.UTC().Format(time.RFC3339Nano),
		"reason " + approval.Value(f.Reason),
	}
	all, err := s.evidence()
	if err != nil {
		return nil, err
	}
	found := false
	for _, e := range all {
		if e.Origin != origin {
			continue
		}
		found = found || e.Name == f.Evidence
		verdict := "proven"
		if e.Problem != "" {
			verdict = "unproven"
		}
		lines = append(lines, fmt.Sprintf("evidence %s sha256:%s %s", approval.Value(e.Name), e.SHA256, verdict))
	}
	if !found {
		return nil, fmt.Errorf("%w: the evidence %s that %q was frozen by is gone", ErrDamaged, f.Evidence, origin)
	}
	return append(lines, "continue "+approval.Value(r.String())), nil
}

func (s side) settle(ctx context.Context, origin string, r Resolution, agreed, by []string, with func(store.Tx) error) (out Settled, err error) {
	unlock, err := lockDir(s.root)
	if err != nil {
		return out, err
	}
	defer unlock()
	now, err := s.text(origin, r)
	if err != nil {
		return out, err
	}
	if !slices.Equal(now, agreed) {
		return out, fmt.Errorf("%w: what was agreed on is not how %q stands now", ErrChanged, origin)
	}
	when := s.now().UTC()
	detail := map[string]string{"continue": r.String(), "by": fmt.Sprint(by)}
	err = s.record(ctx, Event{Action: "mirror.unfreeze", Object: origin, Outcome: "success", Detail: detail}, func(tx store.Tx) error {
		f, h, err := s.frozenLog(tx, origin)
		if err != nil {
			return err
		}
		out = Settled{Freeze: f, Resolution: r, Size: h.Size, Root: h.Root.String(), By: by, At: when}
		if err := put(tx, fmt.Sprintf("%s%s\x00%020d", s.settled, origin, when.UnixNano()), out); err != nil {
			return err
		}
		if r.Retire {
			f.Retired = &Retirement{Since: when, Successor: r.Successor}
			err = put(tx, s.frozen+origin, f)
		} else {
			err = tx.Delete([]byte(s.frozen + origin))
		}
		return errors.Join(err, with(tx))
	})
	return out, err
}

// Conflicts lists the freezes that people decided about, by log, the oldest first.
func (m *Mirror) Conflicts() ([]Settled, error) {
	out := []Settled{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keySettled, func(_ string, s Settled) error { out = append(out, s); return nil })
	})
	return out, err
}
