package mirror

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Where a parcel's files wait until they are committed: those of known logs, and those that go to quarantine.
func stagingDir(d parcel.Digest) string { return "staging/" + d.String() }

func (in *importing) stagedLog(origin string) string {
	return path.Join(stagingDir(in.digest), "logs", escape(origin))
}

func stagedQuarantine(d parcel.Digest, origin string) string {
	return path.Join(stagingDir(d), "quarantine", escape(origin))
}

// commit renames the staged files into place (step 8) and moves heads, stream and history in one transaction (step 9).
// Files beyond a head are invisible to readers, so a crash between the two shows nothing.
func (m *Mirror) commit(ctx context.Context, p *pendingState) error {
	for _, h := range p.Heads {
		if err := moveTree(m.root, path.Join(stagingDir(p.Digest), "logs", escape(h.Origin)), logDir(h.Origin)); err != nil {
			return fmt.Errorf("publishing %q: %w", h.Origin, err)
		}
	}
	for _, q := range p.Quarantined {
		if err := moveTree(m.root, stagedQuarantine(p.Digest, q.Origin), quarantineDir(q.Origin, q.Sequence)); err != nil {
			return fmt.Errorf("putting %q into quarantine: %w", q.Origin, err)
		}
	}
	if err := errors.Join(m.moveTUF(p), m.moveBlobs(p)); err != nil {
		return err
	}
	if err := syncfs(m.root); err != nil {
		return err
	}
	for _, c := range p.Trust {
		if err := m.recordTrust(ctx, c); err != nil {
			return err
		}
	}
	m.progress(Progress{Stage: "commit"})
	if err := m.record(ctx, p.event(), func(tx store.Tx) error { return m.commitTx(tx, p) }); err != nil {
		return err
	}
	m.progress(Progress{Stage: "committed"})
	if len(p.TUF) > 0 { // a parcel that was finished at a later start taught nobody yet
		if err := m.relearn(); err != nil {
			return err
		}
	}
	if err := m.root.RemoveAll(stagingDir(p.Digest)); err != nil {
		m.c.Logger.WarnContext(ctx, "removing staged files", "error", err)
	}
	if p.Release != "" {
		m.c.Logger.InfoContext(ctx, "log released from quarantine", "origin", p.Release, "sequence", p.Sequence)
		return m.root.RemoveAll(quarantineDir(p.Release, p.Sequence))
	}
	m.c.Logger.InfoContext(ctx, "parcel imported", "stream", m.c.Stream, "sequence", p.Sequence, "digest", p.Digest.String())
	return nil
}

// event is what the audit log learns of a commit.
func (p *pendingState) event() Event {
	detail := map[string]string{"sequence": fmt.Sprint(p.Sequence), "exporter": p.Transfer.Exporter, "logs": fmt.Sprint(len(p.Transfer.Logs))}
	for i, l := range p.Transfer.Logs[:min(len(p.Transfer.Logs), 32)] { // an event holds so many details; the transfer holds all
		detail[fmt.Sprintf("log.%d", i)] = fmt.Sprintf("%s: %d to %d, root %s", l.Origin, l.From, l.To, l.Root)
	}
	if n := len(p.Transfer.Images); n > 0 {
		detail["images"], detail["blobs"] = fmt.Sprint(n), fmt.Sprint(p.Transfer.Blobs)
	}
	action := "mirror.import"
	if p.Release != "" {
		action = "mirror.release"
	}
	return Event{Action: action, Object: p.Digest.String(), Outcome: "success", Detail: detail}
}

func (m *Mirror) commitTx(tx store.Tx, p *pendingState) error {
	if p.Release == "" {
		if err := commitStream(tx, p); err != nil {
			return err
		}
		if err := m.applyKeys(tx, p.Transfer); err != nil {
			return err
		}
	}
	for _, h := range p.Heads {
		if err := put(tx, keyHead+h.Origin, h); err != nil {
			return err
		}
		step := p.Transfer.Logs[slices.IndexFunc(p.Transfer.Logs, func(s TransferStep) bool { return s.Origin == h.Origin })]
		seen := seenHead{Size: h.Size, Root: h.Root, Note: h.Note, VKey: h.VKey, From: step.From, Scope: h.Scope, Sequence: h.Sequence}
		if err := put(tx, seenKey(h.Origin, h.Size), seen); err != nil {
			return err
		}
		if carriesRecords(h.Scope) {
			if err := m.commitRecords(tx, h); err != nil {
				return err
			}
		}
	}
	for _, q := range p.Quarantined {
		if err := put(tx, quarantineKey(q.Origin, q.Sequence), q); err != nil {
			return err
		}
	}
	if err := errors.Join(commitTUF(tx, p), m.commitBlobs(tx, p)); err != nil {
		return err
	}
	if p.Release != "" {
		if err := tx.Delete([]byte(quarantineKey(p.Release, p.Sequence))); err != nil {
			return err
		}
	}
	return tx.Delete([]byte(keyPending))
}

// commitStream moves the stream on by one parcel.
func commitStream(tx store.Tx, p *pendingState) error {
	var last streamState
	if _, err := get(tx, keyStream, &last); err != nil {
		return err
	}
	if last.Sequence+1 != p.Sequence {
		return fmt.Errorf("committing parcel %d after %d: %w", p.Sequence, last.Sequence, store.ErrConflict)
	}
	last = streamState{Sequence: p.Sequence, Digest: p.Digest, Floor: laterOf(last.Floor, p.Transfer.Imported), Signed: last.Signed.later(p.Signed)}
	if err := put(tx, keyStream, last); err != nil {
		return err
	}
	return put(tx, transferKey(p.Sequence), p.Transfer)
}

// commitRecords makes the records and subtree hashes that a sparse step brought visible. They lie on the shelf.
func (m *Mirror) commitRecords(tx store.Tx, h Head) error {
	sh, err := m.shelf(h.Origin)
	if err != nil {
		return err
	}
	b, err := sh.readNamed(nodesName(h.Sequence), maxNodes)
	if err != nil {
		return err
	}
	nodes, err := decodeNodes(b)
	if err != nil {
		return err
	}
	for _, n := range nodes {
		if n.Level > 0 {
			continue
		}
		if sh.exists(recordName(n.Index)) {
			if err := put(tx, recordKey(keyRecord, h.Origin, n.Index), recordState{Index: n.Index, Sequence: h.Sequence}); err != nil {
				return err
			}
		}
	}
	return putNodes(tx, keyNode, h.Origin, nodes, h.Sequence)
}

// maxNodes is the longest file of subtree hashes: those carried, and those that follow from them.
const maxNodes = 3 * (parcel.MaxRecords + 2) * 45 * nodeSize
