package mirror

import (
	"fmt"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// claimLab is a mirror at a scope of the first 700 entries of a log, record 5 carried where it is sparse.
func claimLab(t *testing.T, scope string) *lab {
	t.Helper()
	c := signedLog(t, 4, tiles.MaxSize, 700, 1500)
	c.Scope = scope
	if scope == parcel.ScopeSparse {
		c.Records = []uint64{5}
	}
	l := newLab(t, c)
	rewind(t, c.Source, 700)
	l.pull()
	l.load(l.export(0))
	return l
}

func standOf(t *testing.T, l *lab, index uint64) string {
	t.Helper()
	all, err := l.in.Claims(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if c.Index == index {
			return c.Stands
		}
	}
	return ""
}

// TestClaims: what bundles claim is answered by what each scope holds, moves on with imports, and stands in the signed report.
func TestClaims(t *testing.T) {
	honest := newHistory(1500, tiles.MaxSize)
	for scope, want := range map[string][5]string{ // of entries 5, 300 at an unknown size; 301 at the head; 690; 900 beyond
		parcel.ScopeFull:   {ClaimMirrored, ClaimMirrored, ClaimMirrored, ClaimMirrored, ClaimBeyond},
		parcel.ScopeSparse: {ClaimMirrored, ClaimNotCarried, ClaimProven, ClaimNotCarried, ClaimBeyond},
		parcel.ScopeSpine:  {ClaimProven, ClaimProven, ClaimProven, ClaimNotCarried, ClaimBeyond},
	} {
		t.Run(scope, func(t *testing.T) {
			l := claimLab(t, scope)
			for _, o := range []spool.Observation{honest.shows(t, 5, 600), honest.shows(t, 300, 690), honest.shows(t, 301, 700), honest.shows(t, 690, 695), honest.shows(t, 900, 1000)} {
				if _, err := l.in.Observe(t.Context(), o); err != nil {
					t.Fatal(err)
				}
			}
			for i, index := range []uint64{5, 300, 301, 690, 900} {
				got := standOf(t, l, index)
				if scope == parcel.ScopeSparse && index == 300 && got == ClaimProven {
					continue // what was shown of the head completes the path
				}
				if got != want[i] {
					t.Errorf("entry %d: %q instead of %q", index, got, want[i])
				}
			}
			r, err := l.in.Reconcile(t.Context())
			if err != nil || r.Err() != nil || r.Claims.Seen != 5 || r.Claims.Beyond != 1 || r.Claims.Contradicted != 0 {
				t.Fatalf("%v %+v", err, r.Claims)
			}
			signed, err := OpenReport(r.Note, mustKey(t, "inside", 9))
			if err != nil || signed.Claims.Seen != 5 || len(signed.Claims.Open) != r.Claims.Beyond+r.Claims.NotCarried {
				t.Fatalf("%v %+v", err, signed.Claims)
			}
			g, err := l.in.Gauges(t.Context())
			if err != nil || g.Claims[ClaimBeyond] != 1 || g.Claims[ClaimMirrored] != r.Claims.Mirrored {
				t.Fatalf("%v %v", err, g.Claims)
			}
			rewind(t, l.ec.Logs[0].Source, 1500)
			l.pull()
			l.load(l.export(0))
			if got := standOf(t, l, 900); got == ClaimBeyond || got == ClaimContradicted {
				t.Errorf("after the import entry 900 is %q", got)
			}
		})
	}
}

// TestClaimContradicted: a bundle of another history freezes the log, its claim stays contradicted with the evidence, and others of the honest
// history are still answered while the log is frozen.
func TestClaimContradicted(t *testing.T) {
	honest, forked := newHistory(1500, tiles.MaxSize), newHistory(1500, 100)
	l := claimLab(t, parcel.ScopeFull)
	if _, err := l.in.Observe(t.Context(), forked.shows(t, 300, 700)); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	if _, err := l.in.Observe(t.Context(), honest.shows(t, 301, 600)); ExitCode(err) != 30 {
		t.Fatal("the log is not frozen", err)
	}
	if _, err := l.in.Observe(t.Context(), forked.shows(t, 302, 650)); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	for index, want := range map[uint64]string{300: ClaimContradicted, 301: ClaimMirrored, 302: ClaimContradicted} {
		if got := standOf(t, l, index); got != want {
			t.Errorf("entry %d is %q", index, got)
		}
	}
	r, err := l.in.Reconcile(t.Context())
	if err != nil || ExitCode(r.Err()) != 30 || r.Claims.Contradicted != 2 || r.Claims.Open[0].Stands != ClaimContradicted {
		t.Fatalf("%v %+v", err, r.Claims)
	}
	all, _ := l.in.Claims(t.Context())
	if all[0].Evidence == "" || all[1].Evidence != "" {
		t.Fatalf("%+v", all)
	}
}

// TestClaimNeedsProof: what no proof bears out is remembered by nobody.
func TestClaimNeedsProof(t *testing.T) {
	l := claimLab(t, parcel.ScopeFull)
	o := newHistory(1500, tiles.MaxSize).shows(t, 3, 650)
	o.Leaf[0] ^= 1
	if _, err := l.in.Observe(t.Context(), o); ExitCode(err) != 31 {
		t.Fatal(err)
	}
	if all, err := l.in.Claims(t.Context()); err != nil || len(all) != 0 {
		t.Fatalf("%v %+v", err, all)
	}
}

// TestClaimsAreBounded: beyond the limit the oldest that stand in the mirror are forgotten, never what contradicts.
func TestClaimsAreBounded(t *testing.T) {
	l := claimLab(t, parcel.ScopeFull)
	bad := EntryClaim{Origin: "log.example", Index: 1, Stands: ClaimContradicted, Evidence: "evidence/x", Seen: l.now}
	open := EntryClaim{Origin: "log.example", Index: 2, Stands: ClaimBeyond, Seen: l.now}
	err := l.inDB.Update(func(tx store.Tx) error {
		for i := range maxClaims - 2 {
			c := EntryClaim{Origin: "log.example", Index: uint64(1000 + i), Stands: ClaimMirrored, Seen: l.now.Add(1)}
			if err := put(tx, claimKey(c), c); err != nil {
				return err
			}
		}
		for _, c := range []EntryClaim{bad, open} {
			if err := put(tx, claimKey(c), c); err != nil {
				return err
			}
		}
		return put(tx, keyClaims, claimTotals{Kept: maxClaims})
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := l.in.keepClaim(spool.Observation{Origin: "log.example", Index: 3, Source: "one more"}, Checkpoint{}, ""); err != nil {
		t.Fatal(err)
	}
	n, found := 0, map[uint64]bool{}
	err = l.inDB.View(func(tx store.Tx) error {
		n = 0
		return scan(tx, keyClaim, func(_ string, c EntryClaim) error { n++; found[c.Index] = true; return nil })
	})
	if err != nil || n != maxClaims-maxClaims/20+1 || !found[1] || !found[2] || !found[3] || found[1000] {
		t.Fatal(err, n, fmt.Sprint(found[1], found[2], found[3], found[1000]))
	}
}
