package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store"
)

// shardRecord is what the database of an artifact log says of it beside the entries: what must not change, whatever the
// configuration says. It is written when the log is opened, and anew for as long as the log is empty.
type shardRecord struct {
	Serves     []rekor.Generation `json:"serves"`
	FirstIndex uint64             `json:"firstIndex"` // v1 logIndex of its first entry
	Frozen     bool               `json:"frozen,omitempty"`
}

// shardKey stands outside the keys of the Merkle log, which begin with "log/".
var shardKey = []byte("shard")

var errShard = errors.New("the configuration contradicts the artifact log")

// settleShards compares each artifact log with its record and gives it its place in the row of v1 log indexes: after the
// logs that were frozen before it. Logs must be open. Nothing is written unless all agree.
func (in *instance) settleShards() error {
	var next uint64 // the first v1 log index no frozen log has
	changed := map[*artifactLog][]byte{}
	for _, frozen := range []bool{true, false} {
		for _, a := range in.artifacts {
			if a.Frozen != frozen {
				continue
			}
			size := a.log.Head().Size
			record, stored, err := settleShard(a.db, shardRecord{a.Serves, next, a.Frozen}, size)
			if err != nil {
				return cmdline.Hinted(fmt.Errorf("log.artifact: %s: %w", a.Name, err), "put back what stood in redoubt.yaml; another answer needs another log")
			}
			text, err := json.Marshal(record)
			if err != nil {
				return err
			}
			if !bytes.Equal(text, stored) {
				changed[a] = text
			}
			a.firstIndex = record.FirstIndex
			if slices.Contains(a.Serves, rekor.V1) {
				next = max(next, record.FirstIndex+max(size, a.log.StoredAtOpen())) // a head may follow when the key is back
				if lost := in.lost(a.Name); lost != nil {
					next = max(next, record.FirstIndex+lost.taken())
				}
			}
		}
	}
	for a, text := range changed {
		if err := a.db.Update(func(tx store.Tx) error { return tx.Put(shardKey, text) }); err != nil {
			return fmt.Errorf("recording what the %s log serves: %w", a.Name, err)
		}
	}
	return nil
}

// settleShard returns the record for the log in db, which has size entries and which the configuration describes as now, and
// the one stored.
func settleShard(db store.DB, now shardRecord, size uint64) (record shardRecord, stored []byte, err error) {
	err = db.View(func(tx store.Tx) error {
		value, err := tx.Get(shardKey)
		stored = slices.Clone(value)
		return err
	})
	if err != nil {
		return now, nil, err
	}
	if stored == nil {
		if size > 0 {
			now.FirstIndex = 0 // from before logs had records: there was one of each generation
		}
		return now, nil, nil
	}
	if err := json.Unmarshal(stored, &record); err != nil {
		return now, nil, fmt.Errorf("%w: reading its record of what it serves: %w", store.ErrCorrupt, err)
	}
	now.FirstIndex = max(now.FirstIndex, record.FirstIndex) // a frozen log's newest copy may not be there today
	if size > 0 {
		now.FirstIndex = record.FirstIndex
		if !sameGenerations(record.Serves, now.Serves) {
			return now, nil, fmt.Errorf("%w: it has %d entries and serves %v; the configuration says %v", errShard, size, record.Serves, now.Serves)
		}
	}
	if record.Frozen && !now.Frozen {
		return now, nil, fmt.Errorf("%w: it was frozen at %d entries and stays so", errShard, size)
	}
	return now, stored, nil
}

func sameGenerations(a, b []rekor.Generation) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}
