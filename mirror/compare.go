package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"redoubt.internal/mirror/parcel"
)

// maxRemembered is the longest statement that is kept with each head it names, for want of the log's own checkpoint.
const maxRemembered = 16 << 10

// Comparison says how another enclave's heads stand to those held here. Its JSON form is stable.
type Comparison struct {
	Kind     string      `json:"kind"` // receipt, heads, or checkpoint for a single one of a log
	By       string      `json:"by"`   // name and key id of the enclave, or of the log
	Sequence uint64      `json:"sequence,omitempty"`
	Time     time.Time   `json:"time,omitzero"`
	Heads    []HeadStand `json:"heads"`
}

// HeadsFile writes the heads for other enclaves: the signed list, then the log's signed checkpoint for each line of it, with this
// enclave's cosignature where the copy is whole. Each part is a note of its own after a line "heads <bytes>" or "checkpoint <bytes>".
func (m *Mirror) HeadsFile(o *Outbound) ([]byte, error) {
	list, _, err := m.Sign(o)
	if err != nil {
		return nil, err
	}
	out := append(fmt.Appendf(nil, "heads %d\n", len(list)), list...)
	for _, h := range o.Statement.Heads {
		note := o.notes[h.Origin]
		if note == nil {
			continue
		}
		if h.Cosignature != nil {
			note = append(bytes.Clone(note), parcel.SignatureLine(m.c.Name, h.Cosignature)...)
		}
		out = append(fmt.Appendf(out, "checkpoint %d\n", len(note)), note...)
	}
	return out, nil
}

// ParseHeadsFile takes a file of heads apart. It verifies nothing. Errors are ErrStatement.
func ParseHeadsFile(data []byte) (list []byte, checkpoints [][]byte, err error) {
	if len(data) > maxStatement+maxHeads*parcel.MaxCheckpoint {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrStatement, len(data))
	}
	for len(data) > 0 {
		line, rest, _ := bytes.Cut(data, []byte("\n"))
		what, number, _ := bytes.Cut(line[:min(len(line), 40)], []byte(" "))
		n, err := strconv.ParseUint(string(number), 10, 31)
		kind := "checkpoint"
		if list == nil {
			kind = "heads"
		}
		if err != nil || string(what) != kind || n == 0 || n > uint64(len(rest)) || strconv.FormatUint(n, 10) != string(number) || len(checkpoints) == maxHeads {
			return nil, nil, fmt.Errorf("%w: %.40q where a line \"%s BYTES\" belongs", ErrStatement, line, kind)
		}
		if list == nil {
			list = rest[:n:n]
		} else {
			checkpoints = append(checkpoints, rest[:n:n])
		}
		data = rest[n:]
	}
	if list == nil {
		return nil, nil, fmt.Errorf("%w: it is empty", ErrStatement)
	}
	return list, checkpoints, nil
}

// Compare takes what another enclave says it holds, a receipt or a file of heads signed by one of the configured peers, or a single
// checkpoint of a log, and says of each head how it stands to the tree held here. What cannot be told yet is remembered and settled
// by a later import. A contradiction freezes the log, with evidence, and is a *ForkError; so is the word of a peer that it saw
// two histories.
func (m *Mirror) Compare(ctx context.Context, data []byte, source string) (Comparison, error) {
	switch {
	case bytes.HasPrefix(data, []byte("heads ")):
		list, checkpoints, err := ParseHeadsFile(data)
		if err != nil {
			return Comparison{}, err
		}
		return m.compareStatement(ctx, list, checkpoints, source)
	case bytes.HasPrefix(bytes.TrimSpace(data), []byte("redoubt.")):
		return m.compareStatement(ctx, data, nil, source)
	}
	s, err := m.ObserveCheckpoint(ctx, data, source)
	out := Comparison{Kind: "checkpoint", By: s.Origin, Heads: []HeadStand{}}
	if s.State != "" {
		stands := map[string]string{Observed: StandsUnproven, Consistent: StandsBehind, Conflict: StandsConflict}[s.State]
		out.Heads = append(out.Heads, HeadStand{Origin: s.Origin, Size: s.Size, Root: s.Root.String(), Stands: stands, Evidence: s.Evidence})
	}
	return out, err
}

func (m *Mirror) compareStatement(ctx context.Context, signed []byte, checkpoints [][]byte, source string) (Comparison, error) {
	unlock, err := lockDir(m.root)
	if err != nil {
		return Comparison{}, err
	}
	defer unlock()
	if err := m.finishPublish(ctx); err != nil {
		return Comparison{}, full(err)
	}
	if len(m.peers) == 0 {
		return Comparison{}, fmt.Errorf("%w: no peers are configured, so no enclave's word can be believed", ErrConfig)
	}
	s, by, err := OpenStatement(signed, m.peers)
	if err != nil {
		return Comparison{}, err
	}
	out := Comparison{Kind: s.Kind, By: by.ID(), Sequence: s.Sequence, Time: s.Time, Heads: []HeadStand{}}
	notes, keys, err := m.notesOf(s, checkpoints)
	if err != nil {
		return out, err
	}
	var forks []error
	for _, h := range s.Heads {
		c := claim{size: h.Size, root: h.Root, statement: trimmed(signed), vkey: by.VKey()}
		if note := notes[h.Origin]; note != nil {
			c.note, c.vkey = note, keys[h.Origin]
		}
		stand, err := m.compareHead(ctx, h, c, by, source)
		if ExitCode(err) == 30 {
			forks = append(forks, err)
		} else if err != nil {
			return out, err
		}
		out.Heads = append(out.Heads, stand)
	}
	return out, errors.Join(forks...)
}

// notesOf assigns checkpoints to the heads of a statement: each is signed by a key of its log and says what the statement says.
func (m *Mirror) notesOf(s *Statement, checkpoints [][]byte) (notes map[string][]byte, keys map[string]string, err error) {
	notes, keys = make(map[string][]byte), make(map[string]string)
	for _, note := range checkpoints {
		c, err := ParseCheckpoint(noteText(note))
		if err != nil {
			return nil, nil, err
		}
		origin := c.Origin
		log := m.named(origin)
		if log != nil {
			origin = log.Origin
		}
		i := slices.IndexFunc(s.Heads, func(h StatementHead) bool { return h.Origin == origin })
		if i < 0 || notes[origin] != nil || s.Heads[i].Size != c.Size || s.Heads[i].Root != c.Root {
			return nil, nil, fmt.Errorf("%w: a checkpoint of %.100q at %d leaves that the list does not name", ErrProof, c.Origin, c.Size)
		}
		if log == nil {
			continue
		}
		if _, keys[origin], err = log.openAny(note); err != nil {
			return nil, nil, err
		}
		notes[origin] = note
	}
	return notes, keys, nil
}

func (m *Mirror) compareHead(ctx context.Context, h StatementHead, c claim, by *parcel.Verifier, source string) (HeadStand, error) {
	stand := HeadStand{Origin: h.Origin, Size: h.Size, Root: h.Root.String(), Forked: h.Forked, Stands: StandsUnknown}
	log := m.log(h.Origin)
	if log == nil {
		return stand, nil
	}
	held, err := m.heldHeads(h.Origin)
	if err != nil {
		return stand, err
	}
	if c.note != nil {
		held = append(held, Head{Size: h.Size, Root: h.Root, Note: c.note})
	}
	if stand.Cosigned, err = cosignedAt(h, held, by); err != nil {
		return stand, err
	}
	if stand.Stands, _, err = m.weigh(ctx, log, c); err != nil {
		return stand, err
	}
	keep := h.Size > 0 && (c.note != nil || len(c.statement) <= maxRemembered)
	if keep || stand.Stands == StandsConflict {
		s, err := m.sight(ctx, log, c, source)
		if stand.Evidence = s.Evidence; err != nil {
			return stand, err
		}
	}
	if h.Forked {
		return stand, fmt.Errorf("%w: %s says that %q did, and left it at %d leaves; ask there for the evidence: redoubt mirror status", ErrFork, by.Name(), h.Origin, h.Size)
	}
	return stand, nil
}
