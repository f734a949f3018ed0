package mirror

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Which keys may sign parcels changes in three ways: a key is configured; the parcel before announces it, signed by one that may
// sign; or people approve an announcement made of our own state (announcement.go), because the exporter's host was lost. A key
// that is configured and nothing else may sign every parcel; a retired one none after the parcel that retires it.

// ExporterKey is a key whose standing the stream or people changed. Its JSON form is stable.
type ExporterKey struct {
	Key      string        `json:"key"`                  // verifier key
	First    uint64        `json:"first"`                // number of the first parcel it may sign; 0 when it is configured
	Last     uint64        `json:"last,omitempty"`       // number of the last one, 0 while it is in use
	By       string        `json:"by,omitempty"`         // the exporter key that announced it
	Parcel   parcel.Digest `json:"parcel,omitempty"`     // the parcel that did
	Approved []string      `json:"approved,omitempty"`   // who approved it
	Act      string        `json:"act,omitempty"`        // digest of what they approved
	At       time.Time     `json:"accepted_at,omitzero"` // local time
}

// keyExporter begins the keys of exporter keys, by NAME+HASH.
const keyExporter = "mirror/exporter/"

// exporterKeys are all keys that may sign some parcel, configured or accepted.
func (m *Mirror) exporterKeys() ([]*parcel.Verifier, error) {
	keys := slices.Clone(m.exporters)
	err := m.c.DB.View(func(tx store.Tx) error {
		keys = keys[:len(m.exporters)]
		return scan(tx, keyExporter, func(_ string, k ExporterKey) error {
			v, err := parcel.NewVerifier(k.Key)
			if err != nil {
				return fmt.Errorf("%w: exporter key: %w", ErrDamaged, err)
			}
			if !slices.ContainsFunc(keys, func(o *parcel.Verifier) bool { return o.ID() == v.ID() }) {
				keys = append(keys, v)
			}
			return nil
		})
	})
	return keys, err
}

// scan opens the volumes named. A parcel by a key that another parcel among them announces is opened too: judge decides whether
// that one was imported first.
func (m *Mirror) scan(paths []string) ([]*parcel.Parcel, error) {
	keys, err := m.exporterKeys()
	if err != nil {
		return nil, err
	}
	for {
		parcels, err := parcel.Scan(paths, keys)
		if !errors.Is(err, parcel.ErrForeignKey) {
			return parcels, err
		}
		announced, aerr := parcel.Announced(paths, keys)
		if aerr != nil {
			return nil, aerr
		}
		known := len(keys)
		for _, v := range announced {
			if !slices.ContainsFunc(keys, func(o *parcel.Verifier) bool { return o.ID() == v.ID() }) {
				keys = append(keys, v)
			}
		}
		if len(keys) == known {
			return nil, err
		}
	}
}

// mayExport refuses a parcel whose key may not sign one of its number.
func (m *Mirror) mayExport(p *parcel.Parcel) error {
	id, n := p.By.ID(), p.Manifest.Sequence
	var k ExporterKey
	var found bool
	if err := m.c.DB.View(func(tx store.Tx) (err error) { found, err = get(tx, keyExporter+id, &k); return err }); err != nil {
		return err
	}
	configured := slices.ContainsFunc(m.exporters, func(v *parcel.Verifier) bool { return v.VKey() == p.By.VKey() })
	switch {
	case !found && !configured, found && k.Key != p.By.VKey():
		return fmt.Errorf("%w: parcel %d is signed by %s, which no parcel before announced", parcel.ErrForeignKey, n, id)
	case found && n < k.First:
		return fmt.Errorf("%w: parcel %d is signed by %s, which may sign from parcel %d on", parcel.ErrForeignKey, n, id, k.First)
	case found && k.Last != 0 && n > k.Last:
		return fmt.Errorf("%w: parcel %d is signed by %s, which was retired after parcel %d", parcel.ErrForeignKey, n, id, k.Last)
	}
	return nil
}

// applyKeys puts into the committing transaction what the parcel says about keys.
func (m *Mirror) applyKeys(tx store.Tx, t *Transfer) error {
	for _, key := range t.Announced {
		v, err := parcel.NewVerifier(key)
		if err != nil {
			return err
		}
		var old ExporterKey
		if found, err := get(tx, keyExporter+v.ID(), &old); err != nil {
			return err
		} else if found && old.Last == 0 || slices.ContainsFunc(m.exporters, func(o *parcel.Verifier) bool { return o.ID() == v.ID() }) && !found {
			continue // in use already; another key of the same id never takes its place
		}
		k := ExporterKey{Key: key, First: t.Sequence + 1, By: t.Exporter, Parcel: t.Digest, At: t.Imported}
		if err := put(tx, keyExporter+v.ID(), k); err != nil {
			return err
		}
	}
	return m.retire(tx, t.Retired, t.Sequence)
}

// retire ends the use of keys with parcel last.
func (m *Mirror) retire(tx store.Tx, ids []string, last uint64) error {
	for _, id := range ids {
		var k ExporterKey
		found, err := get(tx, keyExporter+id, &k)
		if err != nil {
			return err
		}
		if i := slices.IndexFunc(m.exporters, func(v *parcel.Verifier) bool { return v.ID() == id }); !found && i >= 0 {
			k, found = ExporterKey{Key: m.exporters[i].VKey()}, true
		}
		if !found || k.Last != 0 {
			continue
		}
		if k.Last = last; last == 0 {
			k.Last, k.First = 1, 2 // retired before it signed anything: no number is right
		}
		if err := put(tx, keyExporter+id, k); err != nil {
			return err
		}
	}
	return nil
}

// ExporterStanding is an exporter key as the mirror stands now. Its JSON form is stable.
type ExporterStanding struct {
	ID string `json:"id"`
	ExporterKey
	Configured bool `json:"configured"`
	Valid      bool `json:"valid"` // it may sign the next parcel
}

// Exporters lists every key that may or might sign parcels, by id.
func (m *Mirror) Exporters(context.Context) ([]ExporterStanding, error) {
	byID := make(map[string]ExporterStanding)
	var last streamState
	err := m.c.DB.View(func(tx store.Tx) error {
		clear(byID)
		for _, v := range m.exporters {
			byID[v.ID()] = ExporterStanding{ID: v.ID(), ExporterKey: ExporterKey{Key: v.VKey()}, Configured: true}
		}
		if _, err := get(tx, keyStream, &last); err != nil {
			return err
		}
		return scan(tx, keyExporter, func(key string, k ExporterKey) error {
			id := key[len(keyExporter):]
			byID[id] = ExporterStanding{ID: id, ExporterKey: k, Configured: byID[id].Configured}
			return nil
		})
	})
	out := []ExporterStanding{}
	for _, id := range sortedIDs(byID) {
		k := byID[id]
		k.Valid = last.Sequence+1 >= k.First && (k.Last == 0 || last.Sequence+1 <= k.Last)
		out = append(out, k)
	}
	return out, err
}

func sortedIDs(m map[string]ExporterStanding) (out []string) {
	for id := range m {
		out = append(out, id)
	}
	slices.Sort(out)
	return out
}
