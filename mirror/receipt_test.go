package mirror

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// receipt drafts and signs a receipt of the inside.
func (l *lab) receipt() (signed, whole []byte) {
	l.t.Helper()
	o, err := l.in.Receipt()
	if err != nil {
		l.t.Fatal(err)
	}
	if signed, whole, err = l.in.Sign(o); err != nil {
		l.t.Fatal(err)
	}
	return signed, whole
}

// listening is a lab whose outside believes the receipts of its inside.
func listening(t testing.TB, logs ...LogConfig) *lab {
	l := newLab(t, logs...)
	l.ec.Receivers = []string{mustKey(t, "inside", 9)}
	l.reopen()
	return l
}

// TestReceiptRoundTrip sends parcels, reads their receipts outside, and carries again what no receipt acknowledges.
func TestReceiptRoundTrip(t *testing.T) {
	ctx := context.Background()
	c := tinyLog(t, 300, 700, 1500, 2000)
	setCheckpoint(t, c.Source, 300)
	l := listening(t, c)
	if _, err := l.in.Receipt(); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
	l.pull()
	l.load(l.export(0))
	signed, whole := l.receipt()
	if whole != nil || len(signed) > MaxReceipt {
		t.Fatalf("%d bytes, whole %q", len(signed), whole)
	}
	t.Logf("%d bytes\n%s", len(signed), signed)
	r, err := l.out.ReadReceipt(ctx, bytes.TrimSpace(signed), nil)
	if err != nil || r.Sequence != 1 || r.Acknowledged != 1 || r.Unacknowledged != 0 || len(r.Heads) != 1 {
		t.Fatalf("%+v, %v", r, err)
	}
	if h := r.Heads[0]; h.Stands != StandsSame || !h.Cosigned.Equal(l.now.Truncate(time.Second)) {
		t.Fatalf("%+v", h)
	}
	again, _ := l.receipt()
	if !bytes.Equal(again, signed) {
		t.Fatal("the same state gives another receipt")
	}
	// Three parcels are lost on their way. The next medium holds them all.
	var lost []string
	for _, size := range []uint64{700, 1500, 2000} {
		setCheckpoint(t, c.Source, size)
		if l.pull(); size < 2000 {
			lost = append(lost, l.export(0)...)
		}
	}
	if s, err := l.out.Status(); err != nil || s.Sent != 3 || s.Acknowledged != 1 || s.Unacknowledged != 2 || s.Logs[0].Collected != 2000 || s.Logs[0].Sent != 1500 {
		t.Fatalf("%+v, %v", s, err)
	}
	medium := l.sub("second")
	p, err := l.out.ExportUnacknowledged(ctx, ExportOptions{Out: medium})
	if err != nil || p.Sequence != 4 || len(p.Again) != 2 || p.Unacknowledged != 3 {
		t.Fatalf("%+v, %v", p, err)
	}
	for i, a := range p.Again {
		was, err1 := os.ReadFile(lost[i])
		is, err2 := os.ReadFile(medium + "/" + a.Files[0])
		if err1 != nil || err2 != nil || !bytes.Equal(was, is) {
			t.Fatalf("parcel %d came out another way: %v, %v", a.Sequence, err1, err2)
		}
	}
	if got := l.load([]string{medium}); len(got.Transfers) != 3 {
		t.Fatalf("%+v", got)
	}
	// The medium is read once more, mixed with the one before: nothing moves.
	before := l.fingerprint()
	l.load([]string{medium, l.medium})
	if l.fingerprint() != before {
		t.Fatal("overlap moved the state")
	}
	newest, _ := l.receipt()
	if r, err = l.out.ReadReceipt(ctx, newest, nil); err != nil || r.Acknowledged != 4 || r.Unacknowledged != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	// An older receipt that turns up late is read, and takes nothing back.
	if r, err = l.out.ReadReceipt(ctx, signed, nil); err != nil || r.Sequence != 1 || r.Acknowledged != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := l.out.ExportUnacknowledged(ctx, ExportOptions{Out: medium}); !errors.Is(err, ErrNothing) {
		t.Fatal(err)
	}
}

// TestReceiptCosignature lets the library of the transparency.dev witnesses check the cosignature of a receipt.
func TestReceiptCosignature(t *testing.T) {
	l := listening(t, tinyLog(t, 300))
	l.pull()
	l.load(l.export(0))
	signed, _ := l.receipt()
	s, _, err := OpenStatement(signed, l.out.receivers)
	if err != nil {
		t.Fatal(err)
	}
	h, err := l.in.Head("log.example")
	if err != nil {
		t.Fatal(err)
	}
	v, err := formats.NewVerifierForCosignatureV1(mustKey(t, "inside", 9))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(append(h.Note, parcel.SignatureLine("inside", s.Heads[0].Cosignature)...), note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatal(n, err)
	}
	if at, err := formats.CoSigV1Timestamp(n.Sigs[0]); err != nil || !at.Equal(l.now.Truncate(time.Second)) {
		t.Fatal(at, err)
	}
}

// TestReceiptRefusals: a receipt is believed by a pinned key only, for what this exporter made, as it was signed.
func TestReceiptRefusals(t *testing.T) {
	ctx := context.Background()
	_, c := makeLog(t, smallLog)
	l := listening(t, c)
	l.pull()
	l.load(l.export(0))
	signed, _ := l.receipt()
	s, _, err := OpenStatement(signed, l.out.receivers)
	if err != nil {
		t.Fatal(err)
	}
	by := func(n byte, name string, change func(s *Statement)) []byte {
		other := *s
		other.Heads = slices.Clone(s.Heads)
		change(&other)
		b, err := parcel.SignNote(other.Text(), name, labKey(n))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, r := range []struct {
		why  string
		note []byte
		want error
		code int
	}{
		{"a foreign key", by(8, "inside", func(*Statement) {}), parcel.ErrForeignKey, 61},
		{"a foreign name", by(9, "elsewhere", func(*Statement) {}), parcel.ErrForeignKey, 61},
		{"a changed digit", bytes.Replace(signed, []byte("\n1 "), []byte("\n2 "), 1), ErrProof, 31},
		{"another stream", by(9, "inside", func(s *Statement) { s.Stream = "else" }), ErrWrongStream, 23},
		{"a parcel never made", by(9, "inside", func(s *Statement) { s.Sequence = 2 }), ErrForkedStream, 22},
		{"another parcel of that number", by(9, "inside", func(s *Statement) { s.Digest = parcel.Sum(nil) }), ErrForkedStream, 22},
		{"a list instead", by(9, "inside", func(s *Statement) { s.Kind = KindHeads }), ErrStatement, 40},
		{"a wrong cosignature", by(9, "inside", func(s *Statement) { s.Heads[0].Cosignature = flipped(s.Heads[0].Cosignature) }), ErrProof, 31},
		{"no receipt", []byte("redoubt.receipt/v1 outside\n"), ErrProof, 31},
		{"nothing", nil, ErrProof, 31},
	} {
		if _, err := l.out.ReadReceipt(ctx, r.note, nil); !errors.Is(err, r.want) || ExitCode(err) != r.code {
			t.Errorf("%s: %d, %v", r.why, ExitCode(err), err)
		}
	}
	if st, err := l.out.Status(); err != nil || st.Acknowledged != 0 {
		t.Fatalf("a refused receipt acknowledges: %+v, %v", st, err)
	}
	l.ec.Receivers = nil
	l.reopen()
	if _, err := l.out.ReadReceipt(ctx, signed, nil); !errors.Is(err, ErrConfig) {
		t.Error(err)
	}
}

// TestReceiptOfAnotherTree: the inside holds another root at a size the outside holds, or stands still. Both are told as a fork; a
// root that contradicts freezes the log outside, with evidence that anybody can check who knows the two keys.
func TestReceiptOfAnotherTree(t *testing.T) {
	ctx := context.Background()
	for _, size := range []uint64{700, 1500, 300} { // exported, exported and newest, neither: computed from the collection
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := tinyLog(t, 700, 1500)
			l := listening(t, c)
			setCheckpoint(t, c.Source, 700)
			l.pull()
			l.load(l.export(0))
			setCheckpoint(t, c.Source, 1500)
			l.pull()
			l.load(l.export(0))
			signed, _ := l.receipt()
			s, _, err := OpenStatement(signed, l.out.receivers)
			if err != nil {
				t.Fatal(err)
			}
			s.Heads[0].Size, s.Heads[0].Root, s.Heads[0].Cosignature = size, tiles.LeafHash([]byte("another tree")), nil
			lie, err := parcel.SignNote(s.Text(), "inside", labKey(9))
			if err != nil {
				t.Fatal(err)
			}
			r, err := l.out.ReadReceipt(ctx, lie, nil)
			var fork *ForkError
			if ExitCode(err) != 30 || !errors.As(err, &fork) || r.Heads[0].Stands != StandsConflict || r.Heads[0].Evidence != fork.Evidence || r.Acknowledged != 2 {
				t.Fatalf("%+v, %v", r, err)
			}
			data, err := os.ReadFile(fork.Evidence)
			if err != nil {
				t.Fatal(err)
			}
			e, err := CheckEvidence(data, c, l.ec.Receivers...)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := CheckEvidence(data, c); !errors.Is(err, ErrUnknownOrigin) {
				t.Error("evidence brings the key of its claimant:", err)
			}
			if _, err := CheckEvidence(data, c, mustKey(t, "inside", 8)); !errors.Is(err, ErrUnknownOrigin) {
				t.Error(err)
			}
			e.Claim = string(signed) // what the inside really holds
			truth, _ := json.Marshal(e)
			if _, err := CheckEvidence(truth, c, l.ec.Receivers...); err == nil {
				t.Error("the truth is evidence")
			}
			if _, err := l.out.Pull(ctx); !errors.Is(err, ErrFrozen) {
				t.Error("the log moves on outside:", err)
			}
			if st, err := l.out.Status(); err != nil || st.Logs[0].Frozen == nil {
				t.Fatalf("%+v, %v", st, err)
			}
		})
	}
}

// setCheckpoint lets a log's directory show its checkpoint of that size.
func setCheckpoint(t testing.TB, dir string, size uint64) {
	t.Helper()
	if err := os.WriteFile(dir+"/checkpoint", readFile(t, dir, size), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestReceiptOfAFrozenLog tells the outside that a log showed two histories inside.
func TestReceiptOfAFrozenLog(t *testing.T) {
	c := tinyLog(t, 700, 1500)
	l := listening(t, c)
	setCheckpoint(t, c.Source, 700)
	l.pull()
	l.load(l.export(0))
	other := signedLog(t, 4, 500, 700)
	if _, err := l.in.ObserveCheckpoint(context.Background(), readFile(t, other.Source, 700), "a witness"); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	signed, _ := l.receipt()
	if !bytes.Contains(signed, []byte(" fork log.example\n")) || bytes.Contains(signed, []byte("cosignature")) {
		t.Fatalf("%s", signed)
	}
	r, err := l.out.ReadReceipt(context.Background(), signed, nil)
	if ExitCode(err) != 30 || !r.Heads[0].Forked || r.Heads[0].Stands != StandsSame {
		t.Fatalf("%+v, %v", r, err)
	}
}

// TestReceiptFits makes receipts of up to 60 logs: never more than the limit, forks first, and the whole list by its digest.
func TestReceiptFits(t *testing.T) {
	for _, n := range []int{1, 3, 5, 8, 20, 60} {
		for _, ed := range []bool{true, false} {
			l := listening(t, tinyLog(t, 3))
			if !ed {
				key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
				if err != nil {
					t.Fatal(err)
				}
				l.mc.Signer = crypto.Signer(key)
				vkey, err := parcel.VerifierKey("inside", key.Public())
				if err != nil {
					t.Fatal(err)
				}
				l.ec.Receivers = []string{vkey}
				l.reopen()
			}
			l.pull()
			l.load(l.export(0))
			forked := fmt.Sprintf("log%02d.example/with/a/longer/name", n-1)
			err := l.inDB.Update(func(tx store.Tx) error {
				for i := range n {
					origin := fmt.Sprintf("log%02d.example/with/a/longer/name", i)
					root := tiles.LeafHash([]byte(origin))
					text := generate.CheckpointText(origin, uint64(i)+10_000_000, root)
					h := Head{Origin: origin, Scope: parcel.ScopeFull, Size: uint64(i) + 10_000_000, Root: root, Note: append(text, "\n— x y\n"...), Imported: l.now}
					if err := put(tx, keyHead+origin, h); err != nil {
						return err
					}
				}
				return put(tx, keyFrozen+forked, Freeze{Origin: forked})
			})
			if err != nil {
				t.Fatal(err)
			}
			o, err := l.in.Receipt()
			if err != nil || (o.Uncosigned == "") != ed {
				t.Fatal(err, o.Uncosigned)
			}
			signed, whole, err := l.in.Sign(o)
			if err != nil || len(signed) > MaxReceipt {
				t.Fatal(len(signed), err)
			}
			r, err := l.out.ReadReceipt(context.Background(), signed, whole)
			if ExitCode(err) != 30 || !bytes.Contains(signed, []byte(" fork "+forked+"\n")) {
				t.Fatalf("%v: %s", err, signed)
			}
			t.Logf("%d logs, Ed25519 %t: %d bytes, %d heads, %d cosignatures, whole list %d bytes", n+1, ed, len(signed), len(o.Statement.Heads), strings.Count(string(signed), "cosignature "), len(whole))
			if len(r.Heads) != n+1 || r.LeftOut != 0 {
				t.Fatalf("%d heads were read", len(r.Heads))
			}
			if whole == nil {
				continue
			}
			if r, err = l.out.ReadReceipt(context.Background(), signed, nil); ExitCode(err) != 30 || r.LeftOut != n+1-len(o.Statement.Heads) {
				t.Fatalf("%d left out, %v", r.LeftOut, err)
			}
			o.Whole.Heads = o.Whole.Heads[1:]
			_, less, err := l.in.Sign(o)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := l.out.ReadReceipt(context.Background(), signed, less); !errors.Is(err, ErrProof) {
				t.Fatal("another list than the one named is taken:", err)
			}
		}
	}
}

// FuzzStatement: a statement that is read has one spelling.
func FuzzStatement(f *testing.F) {
	root := tiles.EmptyRoot()
	s := Statement{Kind: KindReceipt, Stream: "outside", Sequence: 7, Digest: parcel.Sum(nil), Time: time.Unix(1e9, 0), Total: 3, List: parcel.Sum(nil), Heads: []StatementHead{
		{Origin: "a - 1", Root: root}, {Origin: "b", Size: 4, Root: root, Forked: true, Cosignature: []byte{1, 2}},
	}}
	f.Add(s.Text())
	f.Add(bytes.Replace(s.Text(), []byte("\n7 "), []byte("\n07 "), 1))
	s.Kind, s.List = KindHeads, nil
	f.Add(s.Text())
	f.Add([]byte("redoubt.receipt/v1 x\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := ParseStatement(b)
		if err != nil {
			if !errors.Is(err, ErrStatement) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(s.Text(), b) {
			t.Fatalf("%q was read as %q", b, s.Text())
		}
	})
}

// FuzzHeadsFile: a file of heads that is taken apart is the sum of its parts.
func FuzzHeadsFile(f *testing.F) {
	f.Add([]byte("heads 2\nx\ncheckpoint 3\nab\n"))
	f.Add([]byte("heads 1\nxcheckpoint 99\nab\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, checkpoints, err := ParseHeadsFile(b)
		if err != nil {
			if !errors.Is(err, ErrStatement) {
				t.Fatal(err)
			}
			return
		}
		again := fmt.Appendf(nil, "heads %d\n%s", len(list), list)
		for _, c := range checkpoints {
			again = fmt.Appendf(again, "checkpoint %d\n%s", len(c), c)
		}
		if !bytes.Equal(again, b) {
			t.Fatalf("%q was read as %q", b, again)
		}
	})
}
