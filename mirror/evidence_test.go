package mirror

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// TestEvidenceOfTwoLogs frames two honest logs that share one key: the file calls one a former name of the other. Only the
// reader's own configuration says which origins are one log.
func TestEvidenceOfTwoLogs(t *testing.T) {
	vkey := mustKey(t, "rekor.example", 5)
	signed := func(origin string) string {
		root := tiles.LeafHash([]byte(origin))
		n, err := parcel.SignNote(fmt.Appendf(nil, "%s\n100\n%s\n", origin, base64.StdEncoding.EncodeToString(root[:])), "rekor.example", labKey(5))
		if err != nil {
			t.Fatal(err)
		}
		return string(n)
	}
	const one, two = "rekor.example - 1", "rekor.example - 2"
	framed := Evidence{Origin: one, Former: []string{two}, Smaller: signed(one), SmallerKey: vkey, Larger: signed(two), LargerKey: vkey}
	data, err := json.Marshal(framed)
	if err != nil {
		t.Fatal(err)
	}
	for _, origin := range []string{one, two} {
		if _, err := CheckEvidence(data, LogConfig{Origin: origin, VKey: vkey}); !errors.Is(err, ErrUnknownOrigin) {
			t.Errorf("two honest logs are a fork of %q: %v", origin, err)
		}
	}
	framed.Former = nil
	if data, err = json.Marshal(framed); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckEvidence(data, LogConfig{Origin: one, VKey: vkey}); !errors.Is(err, ErrUnknownOrigin) {
		t.Error("two honest logs are a fork:", err)
	}
	// A reader who knows that both are one log sees the fork, and not with anything behind it.
	known := LogConfig{Origin: one, FormerOrigins: []string{two}, VKey: vkey}
	if _, err := CheckEvidence(data, known); err != nil {
		t.Error(err)
	}
	for _, tail := range []string{"{}", "x", "\x00"} {
		if _, err := CheckEvidence(append(data[:len(data):len(data)], tail...), known); !errors.Is(err, ErrProof) {
			t.Errorf("%q behind the evidence is taken: %v", tail, err)
		}
	}
	known.VKey, known.FormerKeys = mustKey(t, "rekor.example", 6), nil
	if _, err := CheckEvidence(data, known); !errors.Is(err, ErrUnknownOrigin) {
		t.Error("evidence brings its own key:", err)
	}
}

// TestForkAcrossKeys lets a log change its key and its history at once. It is frozen whether or not the former key is still
// configured; with it, the evidence stands by itself.
func TestForkAcrossKeys(t *testing.T) {
	for _, size := range []uint64{700, 1500} {
		for _, knowsFormer := range []bool{true, false} {
			t.Run(fmt.Sprint(size, knowsFormer), func(t *testing.T) {
				old := signedLog(t, 4, tiles.MaxSize, 700)
				l := newLab(t, old)
				l.pull()
				l.load(l.export(0))
				forked := signedLog(t, 5, 500, 700, 1500)
				if err := os.WriteFile(forked.Source+"/checkpoint", readFile(t, forked.Source, size), 0o644); err != nil {
					t.Fatal(err)
				}
				l.ec.Logs = []LogConfig{forked}
				liar(t, l, forked)
				l.reopen()
				if _, err := l.out.Pull(context.Background()); err != nil && !errors.Is(err, ErrNothing) {
					t.Fatal(err)
				}
				p, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium, Refresh: true})
				if err != nil {
					t.Fatal(err)
				}
				now := LogConfig{Origin: old.Origin, VKey: forked.VKey}
				if knowsFormer {
					now.FormerKeys = []string{old.VKey}
				}
				l.mc.Logs = []LogConfig{now}
				l.reopen()
				_, err = l.in.Import(context.Background(), []string{l.medium + "/" + p.Files[0]})
				var fork *ForkError
				if ExitCode(err) != 30 || !errors.As(err, &fork) {
					t.Fatal(err)
				}
				st, err := l.in.Status(context.Background())
				if err != nil || st.Logs[0].Frozen == nil || st.Logs[0].Size != 700 {
					t.Fatalf("%+v, %v", st, err)
				}
				if says := strings.Contains(st.Logs[0].Frozen.Reason, "does not stand by itself"); says == knowsFormer {
					t.Fatal(st.Logs[0].Frozen.Reason)
				}
				data, err := os.ReadFile(fork.Evidence)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := CheckEvidence(data, now); (err == nil) != knowsFormer {
					t.Fatal(err)
				}
				now.FormerKeys = []string{old.VKey} // whoever remembers the key can check the pair
				if _, err := CheckEvidence(data, now); err != nil {
					t.Fatal(err)
				}
			})
		}
	}
}

// TestReconcileAcrossKeys reproduces checkpoints of a former key, and names a key that is not configured any more.
func TestReconcileAcrossKeys(t *testing.T) {
	old := signedLog(t, 4, tiles.MaxSize, 300)
	l := newLab(t, old)
	l.pull()
	l.load(l.export(0))
	next := signedLog(t, 5, tiles.MaxSize, 300, 700)
	next.FormerKeys = []string{old.VKey}
	l.ec.Logs, l.mc.Logs = []LogConfig{next}, []LogConfig{next}
	l.reopen()
	l.pull()
	l.load(l.export(0))
	r, err := l.in.Reconcile(context.Background())
	if err != nil || r.Err() != nil || r.Logs[0].Heads != 2 {
		t.Fatalf("%v, %v, %+v", err, r.Err(), r.Logs)
	}
	next.FormerKeys = nil
	l.mc.Logs = []LogConfig{next}
	l.reopen()
	if r, err = l.in.Reconcile(context.Background()); err != nil || r.Err() == nil || !strings.Contains(r.Err().Error(), "former keys") {
		t.Fatalf("%v, %v", err, r.Err())
	}
}
