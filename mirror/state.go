package mirror

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Keys in the database, each with a JSON value. <origin> is the log's origin line as it is; it holds no byte 0.
//
//	mirror/stream                   streamState   the last parcel committed
//	mirror/transfer/<sequence>      Transfer      each parcel committed
//	mirror/head/<origin>            Head          the last good head: what readers follow
//	mirror/seen/<origin>\x00<size>  seenHead      each checkpoint ever accepted
//	mirror/record/<origin>\x00<index> recordState each record of a sparse log
//	mirror/node/<origin>\x00...     (see nodes.go) each subtree hash that was ever accepted
//	mirror/frozen/<origin>          Freeze        the log showed two histories
//	mirror/vouched/<origin>         vouched       a log whose key people took on their own word
//	mirror/settled/<origin>\x00<t>  Settled       a freeze that people decided about
//	mirror/pending                  pendingState  the import that is under way
//	mirror/incident/<kind>/<digest> Incident      a parcel that was refused; not part of the mirrored state
//	mirror/upstream/<origin>        Upstream      the largest checkpoint of the log that anybody showed
//	mirror/scrub/<origin>           scrubState    how far the checks of what is stored are
//	mirror/reconcile/last           Reconciled    how the last reconcile ended
const (
	keyStream   = "mirror/stream"
	keyPending  = "mirror/pending"
	keyHead     = "mirror/head/"
	keySeen     = "mirror/seen/"
	keyTransfer = "mirror/transfer/"
	keyRecord   = "mirror/record/"
	keyFrozen   = "mirror/frozen/"
	keyIncident = "mirror/incident/"
)

// maxIncidents bounds how many refusals are remembered: whoever feeds us bad parcels must not fill the disk.
const maxIncidents = 1000

type streamState struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Floor    time.Time     `json:"floor"`           // latest local time at which anything was committed
	Signed   signedAt      `json:"signed,omitzero"` // latest time that logs and witnesses signed, of all that was committed
}

// Head is the last good head of a log.
type Head struct {
	Origin   string     `json:"origin"`
	Scope    string     `json:"scope"`
	Size     uint64     `json:"size"`
	Root     tiles.Hash `json:"root"`
	Note     []byte     `json:"note"`                        // the signed checkpoint as the log gave it
	VKey     string     `json:"vkey,omitempty"`              // the key it was accepted under
	Observed time.Time  `json:"observed"`                    // when the exporter says it last saw the log there; unproven
	Proven   time.Time  `json:"observed_proven_by,omitzero"` // a quorum of its witnesses saw it there then or later
	Imported time.Time  `json:"imported"`                    // local time
	Sequence uint64     `json:"sequence"`                    // parcel that brought it; 0 on the exporter's side
	Records  []uint64   `json:"records,omitempty"`
}

// State is the head as a manifest writes it.
func (h Head) state() parcel.State {
	return parcel.State{Size: h.Size, Root: parcel.Digest(slices.Clone(h.Root[:]))}
}

// vkey is the key the head was accepted under.
func (h Head) vkey(log *knownLog) string { return cmp.Or(h.VKey, log.key.VKey()) }

// seenHead is a checkpoint that was accepted once, with the one it was proven against.
type seenHead struct {
	Size     uint64     `json:"size"`
	Root     tiles.Hash `json:"root"`
	Note     []byte     `json:"note"`
	VKey     string     `json:"vkey,omitempty"` // the key it was accepted under
	From     uint64     `json:"from"`
	Scope    string     `json:"scope"`
	Sequence uint64     `json:"sequence"`
}

// Freeze says why a log stands still.
type Freeze struct {
	Origin   string    `json:"origin"`
	Since    time.Time `json:"since"`
	Reason   string    `json:"reason"`
	Evidence string    `json:"evidence"` // file in the mirror's folder
	// Retired says that people decided to leave the log where it stands.
	Retired *Retirement `json:"retired,omitempty"`
}

// Retirement is the end of a log that showed two histories: it stays readable at its last good head and takes nothing more.
type Retirement struct {
	Since     time.Time `json:"since"`
	Successor string    `json:"successor,omitempty"` // origin of the log that takes its place
}

// Transfer is a committed parcel.
type Transfer struct {
	Sequence  uint64         `json:"sequence"`
	Digest    parcel.Digest  `json:"digest"`
	Exporter  string         `json:"exporter"`
	Created   time.Time      `json:"created"`
	Imported  time.Time      `json:"imported"`
	Outcome   string         `json:"outcome"`                  // "committed", "already imported", "proven, not imported"
	Announced []string       `json:"announced_keys,omitempty"` // verifier keys that may sign from the next parcel on
	Retired   []string       `json:"retired_keys,omitempty"`   // keys that may not sign any more
	Logs      []TransferStep `json:"logs"`
	TUF       []TUFStep      `json:"tuf,omitempty"`
	// Images are those of which the parcel brought something, in so many files.
	Images []TransferImage `json:"images,omitempty"`
	Blobs  int             `json:"blobs,omitempty"`
}

// TransferStep is what a parcel did to a log.
type TransferStep struct {
	Origin  string `json:"origin"`
	Scope   string `json:"scope"`
	From    uint64 `json:"from"`
	To      uint64 `json:"to"`
	Root    string `json:"root"`
	Entries uint64 `json:"entries"` // leaves whose bytes were carried and hashed: all new ones, or at scope sparse the records
	Frozen  bool   `json:"frozen,omitempty"`
	// Quarantined says that the log or its key is not known here: what was carried of it waits.
	Quarantined bool `json:"quarantined,omitempty"`
}

// Incident is a parcel that was refused.
type Incident struct {
	Kind     string        `json:"kind"`
	Digest   parcel.Digest `json:"digest,omitempty"`
	Sequence uint64        `json:"sequence,omitempty"`
	First    uint64        `json:"first_missing,omitempty"`
	Last     uint64        `json:"last_missing,omitempty"`
	Detail   string        `json:"detail"`
	Seen     time.Time     `json:"seen"`
	Times    int           `json:"times"`
	Heads    []ClaimedHead `json:"heads,omitempty"` // of a gap: what the parcel says the logs had grown to
}

type pendingState struct {
	Digest   parcel.Digest `json:"digest"`
	Sequence uint64        `json:"sequence"`
	Paths    []string      `json:"paths,omitempty"` // what the import was called with
	Done     []uint64      `json:"done"`            // packages staged and flushed, per log of the manifest
	Publish  bool          `json:"publish"`         // all is staged and proven; only renames and the last transaction are left
	Heads    []Head        `json:"heads,omitempty"`
	Transfer *Transfer     `json:"transfer,omitempty"`
	TUF      []TUFHead     `json:"tuf,omitempty"`
	Trust    []TrustChange `json:"trust,omitempty"`  // what each of TUF changes
	Blobs    []parcel.Blob `json:"blobs,omitempty"`  // what vouches for images
	Images   parcel.Digest `json:"images,omitempty"` // the one of Blobs that lists them
	Signed   signedAt      `json:"signed,omitzero"`  // latest time that logs and witnesses signed, of what is staged
	// Quarantined are the parts that wait for their log to be known; Release is the log whose waiting part this takes in.
	Quarantined []Quarantined `json:"quarantined,omitempty"`
	Release     string        `json:"release,omitempty"`
}

// recordState is a record that lies on the shelf.
type recordState struct {
	Index    uint64 `json:"index"`
	Sequence uint64 `json:"sequence"` // parcel that brought it, or that it left with; 0 for one that was not exported yet
}

func recordKey(prefix, origin string, index uint64) string {
	return fmt.Sprintf("%s%s\x00%020d", prefix, origin, index)
}

func seenKey(origin string, size uint64) string {
	return fmt.Sprintf("%s%s\x00%020d", keySeen, origin, size)
}

func transferKey(sequence uint64) string { return fmt.Sprintf("%s%020d", keyTransfer, sequence) }

// get reads the JSON value of key into v; false when there is none.
func get(tx store.Tx, key string, v any) (bool, error) {
	b, err := tx.Get([]byte(key))
	if err != nil || b == nil {
		return false, err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return false, fmt.Errorf("%w: %q: %v", ErrDamaged, key, err)
	}
	return true, nil
}

func put(tx store.Tx, key string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return tx.Put([]byte(key), b)
}

// scan calls fn with each JSON value whose key begins with prefix.
func scan[T any](tx store.Tx, prefix string, fn func(key string, v T) error) error {
	var inner error
	err := tx.Scan([]byte(prefix), after(prefix), func(k, b []byte) bool {
		var v T
		if err := json.Unmarshal(b, &v); err != nil {
			inner = fmt.Errorf("%w: %q: %v", ErrDamaged, k, err)
		} else {
			inner = fn(string(k), v)
		}
		return inner == nil
	})
	return errors.Join(err, inner)
}

// after is the first key that does not begin with prefix.
func after(prefix string) []byte {
	b := []byte(prefix)
	b[len(b)-1]++
	return b
}

func readHeads(db store.DB) (map[string]Head, error) {
	out := make(map[string]Head)
	err := db.View(func(tx store.Tx) error {
		return scan(tx, keyHead, func(_ string, h Head) error {
			out[h.Origin] = h
			return nil
		})
	})
	return out, err
}

// Head returns the last good head of a log, ErrNotFound when there is none.
func (m *Mirror) Head(origin string) (Head, error) {
	var h Head
	err := m.c.DB.View(func(tx store.Tx) error {
		ok, err := get(tx, keyHead+origin, &h)
		if err == nil && !ok {
			err = fmt.Errorf("%w: log %q", ErrNotFound, origin)
		}
		return err
	})
	return h, err
}

// snapshot is the state an import is judged by, read in one transaction.
type snapshot struct {
	stream  streamState
	heads   map[string]Head
	frozen  map[string]Freeze
	pending *pendingState

	quarantined map[string]bool      // origins of which something waits
	scrubbed    map[string]time.Time // when everything of a log was hashed
	upstream    map[string]Upstream  // the largest checkpoint of each log that was shown
}

func (m *Mirror) snapshot() (*snapshot, error) {
	s := &snapshot{heads: make(map[string]Head), frozen: make(map[string]Freeze), quarantined: make(map[string]bool), upstream: make(map[string]Upstream), scrubbed: make(map[string]time.Time)}
	err := m.c.DB.View(func(tx store.Tx) error {
		if _, err := get(tx, keyStream, &s.stream); err != nil {
			return err
		}
		var p pendingState
		if ok, err := get(tx, keyPending, &p); err != nil {
			return err
		} else if ok {
			s.pending = &p
		}
		if err := scan(tx, keyQuarantine, func(_ string, q Quarantined) error { s.quarantined[q.Origin] = true; return nil }); err != nil {
			return err
		}
		if err := scan(tx, keyScrub, func(key string, st scrubState) error {
			s.scrubbed[strings.TrimPrefix(key, keyScrub)] = st.Seen
			return nil
		}); err != nil {
			return err
		}
		if err := scan(tx, keyUpstream, func(key string, u Upstream) error { s.upstream[strings.TrimPrefix(key, keyUpstream)] = u; return nil }); err != nil {
			return err
		}
		if err := scan(tx, keyFrozen, func(_ string, f Freeze) error { s.frozen[f.Origin] = f; return nil }); err != nil {
			return err
		}
		return scan(tx, keyHead, func(_ string, h Head) error { s.heads[h.Origin] = h; return nil })
	})
	return s, err
}

// head is the log's last good head, or the empty tree.
func (s *snapshot) head(origin string) Head {
	if h, ok := s.heads[origin]; ok {
		return h
	}
	return Head{Origin: origin, Root: tiles.EmptyRoot()}
}
