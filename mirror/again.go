package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// publish names the volumes and remembers that they were named: from then on whoever carries them away may.
func (e *Exporter) publish(p *parcel.Packed, s packedState) error {
	if err := p.Publish(); err != nil {
		return err
	}
	s.Named = true
	return e.c.DB.Update(func(tx store.Tx) error { return put(tx, packedKey(s.Sequence), s) })
}

// finishNaming names the volumes of the last parcel if a crash came between the state and their names. Volumes that are gone
// without ever having been seen named are lost: the operator is told, because the next parcel cannot be imported without them.
func (e *Exporter) finishNaming(ctx context.Context, s packedState) error {
	if s.Named {
		return nil
	}
	lost := s.Files
	p, err := parcel.Reopen(s.Dir, s.Files)
	if err == nil {
		defer p.Close()
		lost = p.Missing()
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(lost) > 0 {
		e.c.Logger.WarnContext(ctx, "volumes of a parcel are missing and may never have been complete: carry them if you have them, or make the parcel again",
			"parcel", s.Sequence, "folder", s.Dir, "missing", lost, "command", fmt.Sprintf("redoubt mirror export --again %d", s.Sequence))
	}
	switch {
	case len(lost) == 0:
		return e.publish(p, s)
	case p == nil:
		return nil
	}
	return p.Publish()
}

// ExportAgain makes parcel n once more in folder out, byte for byte, from the collection and what was remembered of it: for a
// parcel whose volumes were lost. Nothing is signed and the stream does not move. Where the same bytes do not come out again,
// the error matches parcel.ErrManifest and nothing is left behind; ErrNotFound says that no such parcel was made.
func (e *Exporter) ExportAgain(ctx context.Context, n uint64, out string) (made Packed, err error) {
	unlock, err := lockDir(e.root)
	if err != nil {
		return made, err
	}
	defer unlock()
	var s packedState
	var found bool
	if err := e.c.DB.View(func(tx store.Tx) error { found, err = get(tx, packedKey(n), &s); return err }); err != nil {
		return made, err
	}
	if !found || len(s.Note) == 0 {
		return made, fmt.Errorf("%w: parcel %d, or what it was made from", ErrNotFound, n)
	}
	text, _, _ := bytes.Cut(s.Note, []byte("\n\n"))
	m, err := parcel.ParseManifest(append(text[:len(text):len(text)], '\n'))
	if err != nil {
		return made, fmt.Errorf("reading the manifest of parcel %d: %w", n, err)
	}
	if len(m.Logs) != len(s.Heads) || len(m.TUF) != len(s.TUF) {
		return made, fmt.Errorf("%w: parcel %d has %d logs and %d TUF repositories, %d and %d are remembered", ErrDamaged, n, len(m.Logs), len(m.TUF), len(s.Heads), len(s.TUF))
	}
	w, err := parcel.NewWriter(out, s.Name, *m, s.VolumeSize)
	if err != nil {
		return made, err
	}
	for i, t := range m.TUF {
		if err := e.packTUF(w, i, t, s.TUF[i]); err != nil {
			w.Abandon()
			return made, full(err)
		}
		made.TUF = append(made.TUF, newTUFStep(&TUFHead{Versions: t.From}, s.TUF[i], e.c.Now()))
	}
	for i, l := range m.Logs {
		step, err := e.packAgain(ctx, w, i, l, s.Heads[i])
		if err != nil {
			w.Abandon()
			return made, full(fmt.Errorf("packing %q: %w", l.Origin, err))
		}
		made.Logs = append(made.Logs, step)
	}
	if err := e.packBlobs(w, m.Blobs); err != nil {
		w.Abandon()
		return made, full(err)
	}
	p, err := w.FinishAs(s.Exporter, s.Note)
	if err != nil {
		w.Abandon()
		return made, full(err)
	}
	defer p.Close()
	made.add(p)
	return made, e.publish(p, s)
}

func (e *Exporter) packAgain(ctx context.Context, w *parcel.Writer, i int, l parcel.Log, to Head) (TransferStep, error) {
	log := e.logs[l.Origin]
	if log == nil {
		return TransferStep{}, fmt.Errorf("%w: it is not configured any more", ErrUnknownOrigin)
	}
	log, err := log.as(to.VKey)
	if err != nil {
		return TransferStep{}, err
	}
	from := Head{Origin: l.Origin, Size: l.From.Size, Root: tiles.Hash(l.From.Root)}
	return e.packLog(ctx, w, i, l, log, from, to)
}
