package mirror

import (
	"cmp"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"redoubt.internal/mirror/parcel"
)

// Outbound is what leaves an enclave, still unsigned so that people can look at it first: the same state gives the same bytes.
type Outbound struct {
	Statement  *Statement // the receipt, or the list of heads
	Whole      *Statement // of a receipt that does not hold everything: the list that does
	Uncosigned string     // why no copy was cosigned, "" when each whole one was

	notes map[string][]byte // checkpoints by origin, for the file of heads
	moved map[string]bool   // origins the last parcel was about
}

// Receipt drafts what tells the outside where this enclave stands: the last parcel, size and root of every log, which of them
// showed two histories. Before the first import it is ErrNothing.
//
// Where the copy of a log is whole and the key is Ed25519, its head is cosigned as a C2SP tlog-mirror does: whoever trusts this
// enclave's key can count it among the log's witnesses.
func (m *Mirror) Receipt() (*Outbound, error) {
	o, err := m.Heads()
	if err != nil {
		return nil, err
	}
	return o, o.fit(MaxReceipt - m.signatureLength())
}

// Heads drafts the list of all heads.
func (m *Mirror) Heads() (*Outbound, error) {
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	if s.stream.Sequence == 0 {
		return nil, fmt.Errorf("%w: no parcel was imported yet", ErrNothing)
	}
	if m.c.Signer == nil || m.c.Name == "" {
		return nil, fmt.Errorf("%w: no key to sign with", ErrConfig)
	}
	o := &Outbound{notes: make(map[string][]byte), moved: make(map[string]bool), Statement: &Statement{
		Kind: KindHeads, Stream: m.c.Stream, Sequence: s.stream.Sequence, Digest: s.stream.Digest, Time: s.stream.Floor.UTC().Truncate(time.Second), Heads: []StatementHead{},
	}}
	if _, ok := m.c.Signer.Public().(ed25519.PublicKey); !ok {
		o.Uncosigned = fmt.Sprintf("%v; this appliance's is a %T", parcel.ErrNoCosigner, m.c.Signer.Public())
	}
	for origin := range s.frozen {
		if _, ok := s.heads[origin]; !ok {
			s.heads[origin] = s.head(origin)
		}
	}
	for _, h := range s.heads {
		if !isOrigin(h.Origin) {
			continue // such a log is refused before it has a head
		}
		line := StatementHead{Origin: h.Origin, Size: h.Size, Root: h.Root}
		_, line.Forked = s.frozen[h.Origin]
		if line.Cosignature, err = m.cosign(o, h, line.Forked); err != nil {
			return nil, fmt.Errorf("log %q: %w", h.Origin, err)
		}
		if h.Note != nil {
			o.notes[h.Origin] = h.Note
		}
		o.moved[h.Origin] = h.Sequence == s.stream.Sequence
		o.Statement.Heads = append(o.Statement.Heads, line)
	}
	slices.SortFunc(o.Statement.Heads, func(a, b StatementHead) int { return strings.Compare(a.Origin, b.Origin) })
	return o, nil
}

// cosign states, as of the time the head was taken in, that this copy of the log is whole up to it. Only a whole copy is, and not
// one of a log that showed two histories. The time is not that of this call: what was true then is said in the same bytes always.
func (m *Mirror) cosign(o *Outbound, h Head, forked bool) ([]byte, error) {
	if o.Uncosigned != "" || forked || h.Scope != parcel.ScopeFull || h.Note == nil {
		return nil, nil
	}
	return parcel.Cosign(noteText(h.Note), m.c.Name, m.c.Signer, h.Imported)
}

// noteText is the text of a signed note, without its signature lines.
func noteText(signed []byte) []byte {
	text, _, _ := strings.Cut(string(signed), "\n\n")
	return []byte(text + "\n")
}

// signatureLength is the length of the empty line and the signature line of a note by this mirror, at most.
func (m *Mirror) signatureLength() int {
	longest := 4 + 72 // key id and the longest ASN.1 signature of P-256
	return 1 + len(parcel.SignatureLine(m.c.Name, make([]byte, longest)))
}

// fit makes a receipt of at most limit bytes out of the list. What does not fit is left out, the least pressing first: a fork is
// told before anything else, then what moved in the last parcel, then the rest by name; cosignatures come after all heads. Then
// a line names the digest of the whole list, which is a text of its own.
func (o *Outbound) fit(limit int) error {
	whole := o.Statement
	short := *whole
	short.Kind = KindReceipt
	if len(short.Text()) <= limit {
		o.Statement = &short
		return nil
	}
	short.Total, short.List = len(whole.Heads), parcel.Sum(whole.Text())
	short.Heads = nil
	room := limit - len(short.Text())
	order := slices.Clone(whole.Heads)
	slices.SortStableFunc(order, func(a, b StatementHead) int { return cmp.Compare(o.pressing(a), o.pressing(b)) })
	var kept []StatementHead
	for _, h := range order {
		bare := h
		bare.Cosignature = nil
		if n := len(bare.append(nil)); n <= room {
			room -= n
			kept = append(kept, bare)
		}
	}
	for i, h := range order {
		at := slices.IndexFunc(kept, func(k StatementHead) bool { return k.Origin == h.Origin })
		if at < 0 || h.Cosignature == nil {
			continue
		}
		bare := kept[at]
		if n := len(order[i].append(nil)) - len(bare.append(nil)); n <= room {
			room -= n
			kept[at].Cosignature = h.Cosignature
		}
	}
	slices.SortFunc(kept, func(a, b StatementHead) int { return strings.Compare(a.Origin, b.Origin) })
	short.Heads = kept
	if len(short.Text()) > limit {
		return errors.New("a receipt that does not fit into its own limit")
	}
	o.Statement, o.Whole = &short, whole
	return nil
}

// pressing orders heads by how soon the outside has to know of them.
func (o *Outbound) pressing(h StatementHead) int {
	switch {
	case h.Forked:
		return 0
	case o.moved[h.Origin]:
		return 1
	}
	return 2
}

// Sign signs the statement, and the whole list where there is one apart (nil otherwise).
func (m *Mirror) Sign(o *Outbound) (signed, whole []byte, err error) {
	if signed, err = parcel.SignNote(o.Statement.Text(), m.c.Name, m.c.Signer); err != nil {
		return nil, nil, err
	}
	if o.Whole != nil {
		whole, err = parcel.SignNote(o.Whole.Text(), m.c.Name, m.c.Signer)
	}
	return signed, whole, err
}
