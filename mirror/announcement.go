package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log/store"
	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// keyChanges are the keys a parcel announces and retires, in the order a manifest has them.
func (e *Exporter) keyChanges(o ExportOptions) (announce, retire []string, err error) {
	for _, k := range o.Announce {
		v, err := parcel.NewVerifier(k)
		if err != nil {
			return nil, nil, fmt.Errorf("announcing a key: %w", err)
		}
		announce = append(announce, v.VKey())
	}
	retire = slices.Clone(o.Retire)
	own, err := parcel.VerifierKey(e.c.Name, e.c.Signer.Public())
	if err != nil {
		return nil, nil, err
	}
	for _, id := range retire {
		if !parcel.IsKeyID(id) {
			return nil, nil, fmt.Errorf("%w: retiring %.80q; NAME+HASH is needed, the first two parts of a verifier key", parcel.ErrKey, id)
		}
		if strings.HasPrefix(own, id+"+") && len(announce) == 0 {
			return nil, nil, fmt.Errorf("%w: a parcel that retires its own key and announces none ends the stream", ErrConfig)
		}
	}
	slices.Sort(announce)
	slices.Sort(retire)
	return slices.Compact(announce), slices.Compact(retire), nil
}

// Announcement says that an exporter with another key continues a stream where the inside stands, because the one before was lost. It is made
// inside, of what is held there; people approve its text; the new exporter takes the same file to begin from. It proves nothing by
// itself: the approvals admit it inside, and outside the parcels that follow are good or are refused.
type Announcement struct {
	Stream string          `json:"stream"`
	Key    string          `json:"key"`              // verifier key of the new exporter
	Last   AnnouncedParcel `json:"last"`             // the last parcel imported
	Heads  []AnnouncedHead `json:"heads"`            // where the logs stand, by origin
	Retire []string        `json:"retire,omitempty"` // NAME+HASH of the keys that do not count any more, ascending
}

// AnnouncedParcel is a place in a stream.
type AnnouncedParcel struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
}

// AnnouncedHead is where a log stands.
type AnnouncedHead struct {
	Origin string        `json:"origin"`
	Size   uint64        `json:"size"`
	Root   parcel.Digest `json:"root"`
}

const (
	announcementLine = "redoubt.exporter/v1"
	maxAnnouncement  = 256 << 10
)

// Text is what people approve: one line that names the format, one of canonical JSON (RFC 8785).
func (a Announcement) Text() ([]byte, error) {
	if err := a.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	line, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "%s\n%s\n", announcementLine, line), nil
}

// ParseAnnouncement reads what Text writes and nothing else: ErrAnnouncement.
func ParseAnnouncement(text []byte) (a Announcement, err error) {
	first, rest, _ := bytes.Cut(text, []byte("\n"))
	if len(text) > maxAnnouncement || string(first) != announcementLine {
		return a, fmt.Errorf("%w: its first line is %.40q", ErrAnnouncement, first)
	}
	if err := strictjson.Decode(bytes.TrimSuffix(rest, []byte("\n")), strictjson.Limits{Bytes: maxAnnouncement}, &a); err != nil {
		return a, fmt.Errorf("%w: %v", ErrAnnouncement, err)
	}
	again, err := a.Text()
	if err != nil {
		return a, err
	}
	if !bytes.Equal(again, text) {
		return a, fmt.Errorf("%w: it is not spelt as it was written; carry the file itself", ErrAnnouncement)
	}
	return a, nil
}

func (a Announcement) check() error {
	bad := func(format string, v ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrAnnouncement}, v...)...)
	}
	v, err := parcel.NewVerifier(a.Key)
	switch {
	case !parcel.IsStream(a.Stream):
		return bad("stream %.80q", a.Stream)
	case err != nil || v.VKey() != a.Key:
		return bad("key %.80q", a.Key)
	case (a.Last.Sequence == 0) != (len(a.Last.Digest) == 0) || a.Last.Sequence >= 1<<53:
		return bad("parcel %d with a digest of %d bytes", a.Last.Sequence, len(a.Last.Digest))
	case len(a.Heads) > parcel.MaxLogs || a.Heads == nil:
		return bad("%d logs", len(a.Heads))
	case len(a.Retire) > parcel.MaxAnnounced || slices.Contains(a.Retire, v.ID()):
		return bad("%d keys retired", len(a.Retire))
	}
	for i, id := range a.Retire {
		if !parcel.IsKeyID(id) || i > 0 && a.Retire[i-1] >= id {
			return bad("retired key %.80q", id)
		}
	}
	for i, h := range a.Heads {
		if h.Origin == "" || len(h.Origin) > 255 || i > 0 && a.Heads[i-1].Origin >= h.Origin || h.Size > tiles.MaxSize || len(h.Root) != sha256.Size {
			return bad("log %.80q at %d", h.Origin, h.Size)
		}
	}
	return nil
}

// Announce makes the announcement of a new exporter key at the place where the mirror stands. With retire every other key stops
// counting.
func (m *Mirror) Announce(_ context.Context, key string, retire bool) (Announcement, error) {
	v, err := parcel.NewVerifier(key)
	if err != nil {
		return Announcement{}, err
	}
	s, err := m.snapshot()
	if err != nil {
		return Announcement{}, err
	}
	a := Announcement{Stream: m.c.Stream, Key: v.VKey(), Last: AnnouncedParcel{s.stream.Sequence, s.stream.Digest}, Heads: []AnnouncedHead{}}
	for _, h := range s.heads {
		a.Heads = append(a.Heads, AnnouncedHead{h.Origin, h.Size, h.state().Root})
	}
	slices.SortFunc(a.Heads, func(x, y AnnouncedHead) int { return strings.Compare(x.Origin, y.Origin) })
	if retire {
		keys, err := m.exporterKeys()
		if err != nil {
			return a, err
		}
		for _, k := range keys {
			if k.ID() != v.ID() {
				a.Retire = append(a.Retire, k.ID())
			}
		}
		slices.Sort(a.Retire)
	}
	return a, a.check()
}

// AcceptExporter takes an announced exporter key, from the next parcel on. Whether enough people approved is the caller's to know;
// approvedBy and act, the digest of what they approved, go on record, and spend runs in the same transaction. The mirror must
// stand where the announcement says: ErrAnnouncement if parcels came in since.
func (m *Mirror) AcceptExporter(ctx context.Context, a Announcement, approvedBy []string, act string, spend func(store.Tx) error) (ExporterKey, error) {
	if err := a.check(); err != nil {
		return ExporterKey{}, err
	}
	if len(approvedBy) == 0 {
		return ExporterKey{}, fmt.Errorf("%w: nobody approved it", ErrAnnouncement)
	}
	unlock, err := lockDir(m.root)
	if err != nil {
		return ExporterKey{}, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return ExporterKey{}, full(err)
	}
	v, err := parcel.NewVerifier(a.Key)
	if err != nil {
		return ExporterKey{}, err
	}
	k := ExporterKey{Key: a.Key, First: a.Last.Sequence + 1, Approved: approvedBy, Act: act, At: m.c.Now().UTC()}
	e := Event{Action: "mirror.exporter", Object: v.ID(), Outcome: "success", Detail: map[string]string{
		"stream": a.Stream, "first": fmt.Sprint(k.First), "approved": strings.Join(approvedBy, " "), "act": act, "retired": strings.Join(a.Retire, " "),
	}}
	err = m.record(ctx, e, func(tx store.Tx) error {
		var last streamState
		if _, err := get(tx, keyStream, &last); err != nil {
			return err
		}
		if a.Stream != m.c.Stream || a.Last.Sequence != last.Sequence || !a.Last.Digest.Equal(last.Digest) {
			return fmt.Errorf("%w: it is of parcel %d of %q, the mirror stands at parcel %d of %q; draw up a new one",
				ErrAnnouncement, a.Last.Sequence, a.Stream, last.Sequence, m.c.Stream)
		}
		if spend != nil {
			if err := spend(tx); err != nil {
				return err
			}
		}
		if err := m.retire(tx, a.Retire, last.Sequence); err != nil {
			return err
		}
		return put(tx, keyExporter+v.ID(), k)
	})
	return k, err
}

// Continue makes this exporter go on where an announcement says that the inside stands: the next parcel has the next number, names the
// last digest, and starts at the inside's heads. The announcement must be of this exporter's key and stream; what was exported here
// before must not go beyond it.
func (e *Exporter) Continue(ctx context.Context, a Announcement) error {
	if err := a.check(); err != nil {
		return err
	}
	unlock, err := lockDir(e.root)
	if err != nil {
		return err
	}
	defer unlock()
	own, err := parcel.VerifierKey(e.c.Name, e.c.Signer.Public())
	if err != nil {
		return err
	}
	if a.Key != own || a.Stream != e.c.Stream {
		return fmt.Errorf("%w: it names key %.80q and stream %q, this exporter has %.80q and %q", ErrAnnouncement, a.Key, a.Stream, own, e.c.Stream)
	}
	return e.c.DB.Update(func(tx store.Tx) error {
		var sent streamState
		if _, err := get(tx, keyExported, &sent); err != nil {
			return err
		}
		if sent.Sequence > a.Last.Sequence || sent.Sequence == a.Last.Sequence && !sent.Digest.Equal(a.Last.Digest) {
			return fmt.Errorf("%w: it is of parcel %d, and parcel %d was made here", ErrAnnouncement, a.Last.Sequence, sent.Sequence)
		}
		for _, h := range a.Heads {
			scope := ""
			if log := e.logs[h.Origin]; log != nil {
				scope = log.Scope
			}
			if err := put(tx, keySent+h.Origin, Head{Origin: h.Origin, Scope: scope, Size: h.Size, Root: tiles.Hash(h.Root)}); err != nil {
				return err
			}
		}
		return put(tx, keyExported, streamState{Sequence: a.Last.Sequence, Digest: a.Last.Digest, Floor: e.c.Now().UTC()})
	})
}
