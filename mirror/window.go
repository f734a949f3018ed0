package mirror

import (
	"context"
	"errors"
	"fmt"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Again is a parcel that was put on the medium once more.
type Again struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Files    []string      `json:"files"`
	Bytes    int64         `json:"bytes"`
}

// receipts are the newest receipt of each configured receiver; one that was never heard of has sequence 0.
func (e *Exporter) receipts() ([]acked, error) {
	out := make([]acked, len(e.receivers))
	err := e.c.DB.View(func(tx store.Tx) error {
		for i, r := range e.receivers {
			out[i] = acked{Receiver: r.ID()}
			if _, err := get(tx, keyAcked+r.ID(), &out[i]); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// window is the last parcel that every receiver acknowledged, and the last one made.
func (e *Exporter) window() (acknowledged, sent uint64, err error) {
	s, err := e.state()
	if err != nil {
		return 0, 0, err
	}
	list, err := e.receipts()
	if err != nil {
		return 0, 0, err
	}
	acknowledged = s.stream.Sequence
	for _, r := range list {
		acknowledged = min(acknowledged, r.Sequence)
	}
	return acknowledged, s.stream.Sequence, nil
}

// unacknowledged counts the parcels sent that not every receiver acknowledged: 0 without receivers, of whom nothing is expected.
func (e *Exporter) unacknowledged() (uint64, error) {
	acknowledged, sent, err := e.window()
	return sent - acknowledged, err
}

// warnWindow tells the operator when more parcels wait for a receipt than is configured.
func (e *Exporter) warnWindow(ctx context.Context) (uint64, error) {
	n, err := e.unacknowledged()
	if err == nil && e.c.WarnUnacknowledged > 0 && n > e.c.WarnUnacknowledged {
		e.c.Logger.WarnContext(ctx, "parcels wait for a receipt: read one, or carry them all again", "parcels", n, "limit", e.c.WarnUnacknowledged,
			"command", "redoubt mirror receipt read FILE; redoubt mirror export --unacknowledged")
	}
	return n, err
}

// ExportUnacknowledged puts every parcel after the last one that all receivers acknowledged on the medium again, byte for byte, and
// then the new one, if anything was collected. Whoever imports the folder passes over what it has. ErrNothing when there is
// neither.
func (e *Exporter) ExportUnacknowledged(ctx context.Context, o ExportOptions) (Packed, error) {
	out := Packed{Stream: e.c.Stream}
	if len(e.receivers) == 0 {
		return out, fmt.Errorf("%w: no receivers are configured, so nothing is ever acknowledged", ErrConfig)
	}
	acknowledged, sent, err := e.window()
	if err != nil {
		return out, err
	}
	var again []Again
	for n := acknowledged + 1; n <= sent; n++ {
		made, err := e.ExportAgain(ctx, n, o.Out)
		if err != nil {
			return out, fmt.Errorf("making parcel %d again: %w", n, err)
		}
		again = append(again, Again{made.Sequence, made.Digest, made.Files, made.Bytes})
		out.Sequence, out.Digest = made.Sequence, made.Digest
	}
	made, err := e.Export(ctx, o)
	if errors.Is(err, ErrNothing) && len(again) > 0 {
		made, err = out, nil
	}
	made.Again = again
	return made, err
}

// ExporterStatus says where the outside stands. Its JSON form is stable.
type ExporterStatus struct {
	Stream         string         `json:"stream"`
	Sent           uint64         `json:"sent"` // the last parcel made
	Digest         parcel.Digest  `json:"digest"`
	Acknowledged   uint64         `json:"acknowledged"` // the last parcel that every receiver acknowledged; what was sent, if there are none
	Unacknowledged uint64         `json:"unacknowledged"`
	Limit          uint64         `json:"limit,omitempty"` // more than so many unacknowledged are worth a warning
	Receivers      []ReceiverSeen `json:"receivers"`
	Logs           []SentLog      `json:"logs"`
}

// ReceiverSeen is what was heard of one receiver last.
type ReceiverSeen struct {
	Receiver     string    `json:"receiver"`
	Acknowledged uint64    `json:"acknowledged"` // 0: never
	Time         time.Time `json:"time,omitzero"`
	Read         time.Time `json:"read,omitzero"`
}

// SentLog is where one log stands outside.
type SentLog struct {
	Origin    string  `json:"origin"`
	Scope     string  `json:"scope"`
	Collected uint64  `json:"collected"` // entries of the head pulled last
	Sent      uint64  `json:"sent"`      // entries of the head exported last
	Frozen    *Freeze `json:"frozen,omitempty"`
}

// Status reads where the outside stands. It proves nothing.
func (e *Exporter) Status() (ExporterStatus, error) {
	s, err := e.state()
	if err != nil {
		return ExporterStatus{}, err
	}
	out := ExporterStatus{
		Stream: e.c.Stream, Sent: s.stream.Sequence, Digest: s.stream.Digest, Limit: e.c.WarnUnacknowledged, Receivers: []ReceiverSeen{}, Logs: []SentLog{},
	}
	list, err := e.receipts()
	if err != nil {
		return out, err
	}
	for _, r := range list {
		out.Receivers = append(out.Receivers, ReceiverSeen{r.Receiver, r.Sequence, r.Time, r.Read})
	}
	for _, origin := range sortedKeys(e.logs) {
		l := SentLog{Origin: origin, Scope: e.logs[origin].Scope, Collected: s.collected[origin].Size, Sent: s.sent[origin].Size}
		if f, ok := s.frozen[origin]; ok {
			l.Frozen = &f
		}
		out.Logs = append(out.Logs, l)
	}
	var sent uint64
	out.Acknowledged, sent, err = e.window()
	out.Unacknowledged = sent - out.Acknowledged
	return out, err
}
