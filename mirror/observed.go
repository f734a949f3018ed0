package mirror

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/tiles"
)

// States of a sighting. Only a proof moves it from the first.
const (
	Observed   = "observed"   // signed, and no more: nothing shows that it is of the tree held here
	Consistent = "consistent" // its tree is a prefix of the one held here, computed from what is stored
	Conflict   = "conflict"   // its tree is another one
)

// maxSightings bounds how many are kept of one log; beyond it the oldest that was proven consistent goes first.
const maxSightings = 4096

// Sighting is a checkpoint that came another way than by a parcel: from a witness, a bundle, another enclave. Its JSON form is
// stable.
type Sighting struct {
	Origin    string     `json:"origin"`
	Size      uint64     `json:"size"`
	Root      tiles.Hash `json:"root"`
	State     string     `json:"state"`               // observed, consistent or conflict
	Note      []byte     `json:"note,omitempty"`      // the log's signed checkpoint
	Statement []byte     `json:"statement,omitempty"` // or, without that, what an enclave signed
	VKey      string     `json:"vkey,omitempty"`      // of who signed it: the log, or the enclave
	Witnesses []string   `json:"witnesses,omitempty"` // of the log's policy, that cosigned
	Proven    time.Time  `json:"proven_by,omitzero"`  // a quorum of them saw it then or later
	Source    string     `json:"source"`              // what brought it first
	Seen      time.Time  `json:"seen"`                // local time
	Evidence  string     `json:"evidence,omitempty"`  // file that proves the conflict
	Settled   time.Time  `json:"settled_at,omitzero"` // when a proof moved it
}

// keySighting holds a Sighting per origin, size and root.
const keySighting = "mirror/observed/"

func sightingKey(s Sighting) string {
	return fmt.Sprintf("%s%s\x00%020d\x00%s", keySighting, s.Origin, s.Size, s.Root)
}

// ObserveCheckpoint takes in a log's signed checkpoint from anywhere, and tells whether it is of the tree held here: by the size
// and root of a checkpoint that was accepted, or by computing the root of that size. Without either it stays observed, however
// well witnessed it is; a later import settles it. Two checkpoints of one size with different roots freeze the log, and so does
// one that is not of our tree: the error is a *ForkError.
func (m *Mirror) ObserveCheckpoint(ctx context.Context, note []byte, source string) (Sighting, error) {
	unlock, err := lockDir(m.root)
	if err != nil {
		return Sighting{}, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return Sighting{}, full(err)
	}
	c, err := ParseCheckpoint(noteText(note))
	if err != nil {
		return Sighting{}, err
	}
	log := m.named(c.Origin)
	if log == nil {
		return Sighting{}, fmt.Errorf("%w: %q", ErrUnknownOrigin, c.Origin)
	}
	_, by, err := log.openAny(note)
	if err != nil {
		return Sighting{}, err
	}
	return m.sight(ctx, log, claim{size: c.Size, root: c.Root, note: note, vkey: by}, source)
}

// named is the log of an origin, or of one it had formerly.
func (m *Mirror) named(origin string) *knownLog {
	if l := m.log(origin); l != nil {
		return l
	}
	for _, l := range m.logs {
		if slices.Contains(l.FormerOrigins, origin) {
			return l
		}
	}
	return nil
}

// sight weighs a claim, remembers it, and freezes the log on a conflict. It returns what is remembered.
func (m *Mirror) sight(ctx context.Context, log *knownLog, c claim, source string) (Sighting, error) {
	s := Sighting{Origin: log.Origin, Size: c.size, Root: c.root, Note: c.note, VKey: c.vkey, Source: source, Seen: m.c.Now().UTC()}
	if c.note == nil {
		s.Statement = c.statement
	} else if log.policy != nil {
		by, err := log.policy.cosigned(c.note)
		if err != nil {
			return s, fmt.Errorf("log %q: %w", log.Origin, err)
		}
		s.Witnesses, s.Proven = by.By, by.Time
	}
	var old Sighting
	var known bool
	if err := m.c.DB.View(func(tx store.Tx) (err error) { known, err = get(tx, sightingKey(s), &old); return err }); err != nil {
		return s, err
	}
	if known {
		s = old.with(s)
	}
	return s, m.settleOne(ctx, log, &s, c)
}

// with is a sighting that was seen again: the log's own checkpoint is better than an enclave's word, more witnesses than fewer.
func (s Sighting) with(again Sighting) Sighting {
	if again.Note != nil && (s.Note == nil || len(again.Witnesses) > len(s.Witnesses)) {
		s.Note, s.Statement, s.VKey, s.Witnesses, s.Proven = again.Note, nil, again.VKey, again.Witnesses, again.Proven
	}
	return s
}

// settleOne judges a sighting by what is held now and stores it: evidence first, then the record.
func (m *Mirror) settleOne(ctx context.Context, log *knownLog, s *Sighting, c claim) error {
	stands, against, err := m.weigh(ctx, log, c)
	if err != nil {
		return err
	}
	var fork error
	state := Observed
	switch {
	case stands == StandsSame || stands == StandsBehind:
		state = Consistent
	case stands == StandsConflict:
		state = Conflict
		f, err := m.stop(ctx, log, *against)
		if err != nil {
			return err
		}
		s.Evidence = m.path(f.Evidence)
		fork = &ForkError{Origin: log.Origin, Evidence: s.Evidence}
	}
	if s.State != state {
		if s.State != "" {
			s.Settled = m.c.Now().UTC()
		}
		s.State = state
	}
	err = m.c.DB.Update(func(tx store.Tx) error {
		if err := dropSightings(tx, log.Origin, sightingKey(*s)); err != nil {
			return err
		}
		if s.Note != nil && s.State != Conflict {
			u := Upstream{Size: s.Size, By: ByCheckpoint, Source: oneLine(errors.New(s.Source)), Seen: s.Seen}
			if err := noteUpstream(tx, log.Origin, u); err != nil {
				return err
			}
		}
		return put(tx, sightingKey(*s), *s)
	})
	if err != nil {
		return full(err)
	}
	return fork
}

// weigh compares a claim with every checkpoint accepted of a log, with its stored tree, and with what else was seen of that size.
func (m *Mirror) weigh(ctx context.Context, log *knownLog, c claim) (stands string, against *Evidence, err error) {
	held, err := m.heldHeads(log.Origin)
	if err != nil {
		return "", nil, err
	}
	var of prefix
	if len(held) > 0 {
		sh, err := m.shelf(log.Origin)
		if err != nil {
			return "", nil, err
		}
		of = prefixOf(m.c.DB, keyNode, held[len(held)-1], sh)
	}
	if stands, against, err = weigh(ctx, log, held, of, c); err != nil || stands == StandsSame || stands == StandsBehind || stands == StandsConflict {
		return stands, against, err
	}
	err = m.c.DB.View(func(tx store.Tx) error {
		return scan(tx, fmt.Sprintf("%s%s\x00%020d\x00", keySighting, log.Origin, c.size), func(_ string, o Sighting) error {
			if o.Root == c.root || o.Note == nil || against != nil {
				return nil
			}
			if _, err := log.openHeld(o.Note, o.VKey); err == nil {
				stands, against = StandsConflict, log.against(c, Head{Note: o.Note, VKey: o.VKey}, nil)
			}
			return nil
		})
	})
	return stands, against, err
}

// heldHeads lists the checkpoints that were ever accepted of a log, ascending by size; the last is its head.
func (m *Mirror) heldHeads(origin string) (held []Head, err error) {
	err = m.c.DB.View(func(tx store.Tx) error {
		held = held[:0]
		var h Head
		ok, err := get(tx, keyHead+origin, &h)
		if err != nil || !ok {
			return err
		}
		err = scan(tx, keySeen+origin+"\x00", func(_ string, s seenHead) error {
			if s.Size < h.Size {
				held = append(held, Head{Origin: origin, Scope: s.Scope, Size: s.Size, Root: s.Root, Note: s.Note, VKey: s.VKey})
			}
			return nil
		})
		held = append(held, h)
		return err
	})
	return held, err
}

// stop freezes a log at its head. One that is frozen stays so for its first reason; the new evidence is kept beside the old.
func (m *Mirror) stop(ctx context.Context, log *knownLog, against Evidence) (Freeze, error) {
	var f Freeze
	var frozen bool
	if err := m.c.DB.View(func(tx store.Tx) (err error) { frozen, err = get(tx, keyFrozen+log.Origin, &f); return err }); err != nil {
		return f, err
	}
	if frozen {
		file, err := writeEvidence(m.root, against)
		return Freeze{Evidence: file}, err
	}
	record := func(e Event, with func(store.Tx) error) error { return m.record(ctx, e, with) }
	f, err := freezeLog(ctx, m.root, log, against, m.c.Now().UTC(), record, keyFrozen)
	if err == nil {
		m.c.Logger.ErrorContext(ctx, "log frozen: another tree of it was seen", "origin", log.Origin, "evidence", f.Evidence)
	}
	return f, err
}

// dropSightings makes room for one more sighting of a log.
func dropSightings(tx store.Tx, origin, but string) error {
	type entry struct {
		key   string
		state string
		seen  time.Time
	}
	var all []entry
	err := scan(tx, keySighting+origin+"\x00", func(key string, s Sighting) error {
		if key != but && s.State != Conflict {
			all = append(all, entry{key, s.State, s.Seen})
		}
		return nil
	})
	if err != nil || len(all) < maxSightings {
		return err
	}
	slices.SortFunc(all, func(a, b entry) int { return cmp.Or(cmp.Compare(a.state, b.state), a.seen.Compare(b.seen)) }) // consistent ones first
	return tx.Delete([]byte(all[0].key))
}

// Sightings lists what was seen of all logs beside the parcels, by origin and size.
func (m *Mirror) Sightings() ([]Sighting, error) {
	out := []Sighting{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keySighting, func(_ string, s Sighting) error { out = append(out, s); return nil })
	})
	return out, err
}

// settle judges every open sighting by what an import brought. The error joins the forks it finds.
func (m *Mirror) settle(ctx context.Context) error {
	list, err := m.Sightings()
	if err != nil {
		return err
	}
	var forks []error
	for _, s := range list {
		log := m.log(s.Origin)
		if s.State != Observed || log == nil {
			continue
		}
		err := m.settleOne(ctx, log, &s, claim{size: s.Size, root: s.Root, note: s.Note, statement: s.Statement, vkey: s.VKey})
		if ExitCode(err) == 30 {
			forks = append(forks, err)
		} else if err != nil {
			return full(errors.Join(append(forks, err)...))
		}
	}
	return errors.Join(forks...)
}
