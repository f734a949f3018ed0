package mirror

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
)

// forkedLab is a lab whose inside froze log.example at 700 leaves when a liar brought another history, beside other.example that
// went on. honest is the exporter that never lied, at the liar's place in the stream.
func forkedLab(t *testing.T) (l *lab, good, other *generate.Log) {
	t.Helper()
	good, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700, 900}})
	forked, fc := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{700, 1500}, ForkAt: 500})
	other, oc := makeLog(t, generate.Config{Seed: 2, Origin: "other.example", Sizes: []uint64{10, 20, 30, 40, 50}})
	l = newLab(t, c, oc)
	show(t, good, 700)
	l.pull()
	l.load(l.export(0))
	honest := l.ec
	show(t, forked, 1500)
	show(t, other, 20)
	l.ec.Logs = []LogConfig{fc, oc}
	liar(t, l, fc)
	l.reopen()
	l.pull()
	if _, err := l.in.Import(t.Context(), l.export(0)); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	lied, err := l.out.state()
	if err != nil {
		t.Fatal(err)
	}
	l.ec = honest
	l.reopen()
	was, err := l.out.state()
	if err != nil {
		t.Fatal(err)
	}
	if err := l.out.setSent(lied.stream, was.sent["log.example"], lied.sent["other.example"]); err != nil {
		t.Fatal(err)
	}
	return l, good, other
}

func nothing(store.Tx) error { return nil }

// TestUnfreezeKeeps: the log goes on from the head that was held, by what people agreed to and by nothing else; the other history
// freezes it again, and that is another freeze to agree about.
func TestUnfreezeKeeps(t *testing.T) {
	l, good, other := forkedLab(t)
	before, err := l.in.Head("log.example")
	if err != nil {
		t.Fatal(err)
	}
	keep := Resolution{}
	text, err := l.in.UnfreezeText("log.example", keep)
	if err != nil {
		t.Fatal(err)
	}
	joined := strings.Join(text, "\n")
	for _, want := range []string{"origin log.example", "kept 700 " + before.Root.String(), "evidence evidence/log.example-", " proven", "continue keep own history"} {
		if !strings.Contains(joined, want) {
			t.Errorf("the text does not say %q:\n%s", want, joined)
		}
	}
	for name, agreed := range map[string][]string{"nothing": nil, "less": text[:len(text)-1], "retirement": append(slices.Clone(text[:len(text)-1]), "continue retire")} {
		if _, err := l.in.Unfreeze(t.Context(), "log.example", keep, agreed, nil, nothing); !errors.Is(err, ErrChanged) {
			t.Errorf("agreed on %s: %v", name, err)
		}
	}
	refusal := errors.New("spent")
	if _, err := l.in.Unfreeze(t.Context(), "log.example", keep, text, nil, func(store.Tx) error { return refusal }); !errors.Is(err, refusal) {
		t.Fatal(err)
	}
	if st, err := l.in.Status(t.Context()); err != nil || st.Logs[0].Frozen == nil {
		t.Fatal("unfrozen though the transaction failed", err)
	}
	out, err := l.in.Unfreeze(t.Context(), "log.example", keep, text, []string{"alice", "bob"}, nothing)
	if err != nil || out.Size != 700 || out.Root != before.Root.String() || out.Evidence == "" {
		t.Fatalf("%v, %+v", err, out)
	}
	show(t, good, 900)
	show(t, other, 30)
	l.pull()
	l.load(l.export(0))
	if h, err := l.in.Head("log.example"); err != nil || h.Size != 900 {
		t.Fatal(h.Size, err)
	}
	if root, _, _, err := l.in.Consistency(t.Context(), "log.example", 700); err != nil || root != before.Root {
		t.Fatal("two roots for one size", root, err)
	}
	if r, err := l.in.Reconcile(t.Context()); err != nil || r.Err() != nil {
		t.Fatal(err, r.Err())
	}
	if all, err := l.in.Conflicts(); err != nil || len(all) != 1 || !slices.Equal(all[0].By, []string{"alice", "bob"}) {
		t.Fatal(err, all)
	}
	if _, err := l.in.UnfreezeText("log.example", keep); !errors.Is(err, ErrNotFound) {
		t.Fatal(err)
	}
}

// TestUnfreezeRetires: the log stays readable where it stands and takes nothing more, without being a finding.
func TestUnfreezeRetires(t *testing.T) {
	l, good, other := forkedLab(t)
	r := Resolution{Retire: true, Successor: "log2.example"}
	for _, bad := range []Resolution{{Successor: "x"}, {Retire: true, Successor: "log.example"}} {
		if _, err := l.in.UnfreezeText("log.example", bad); !errors.Is(err, ErrConfig) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	text, err := l.in.UnfreezeText("log.example", r)
	if err != nil || text[len(text)-1] != "continue retire for log2.example" {
		t.Fatal(text, err)
	}
	if _, err := l.in.Unfreeze(t.Context(), "log.example", r, text, []string{"alice", "bob"}, nothing); err != nil {
		t.Fatal(err)
	}
	show(t, good, 900)
	show(t, other, 30)
	l.pull()
	report := l.load(l.export(0))
	if !report.Transfers[0].Logs[0].Frozen || report.Transfers[0].Logs[1].To != 30 {
		t.Fatalf("%+v", report)
	}
	if h, err := l.in.Head("log.example"); err != nil || h.Size != 700 {
		t.Fatal(h.Size, err)
	}
	rec, err := l.in.Reconcile(t.Context())
	if err != nil || rec.Err() != nil || rec.Logs[0].Frozen.Retired.Successor != "log2.example" {
		t.Fatal(err, rec.Err())
	}
	if _, err := l.in.UnfreezeText("log.example", Resolution{}); !errors.Is(err, ErrNotFound) {
		t.Fatal("a retired log is unfrozen", err)
	}
}

// TestUnfreezeOutside: the exporter, whose source contradicted itself, goes on with what it collected.
func TestUnfreezeOutside(t *testing.T) {
	good, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{300, 700, 900}})
	forked, _ := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{700, 1500}, ForkAt: 500})
	l := newLab(t, c)
	show(t, good, 700)
	l.pull()
	show(t, forked, 1500)
	l.ec.Logs[0].Source = forked.Dir
	l.reopen()
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 30 {
		t.Fatal(err)
	}
	l.ec.Logs[0].Source = good.Dir
	l.reopen()
	show(t, good, 900)
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 30 {
		t.Fatal("a frozen log is pulled", err)
	}
	text, err := l.out.UnfreezeText("log.example", Resolution{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.out.Unfreeze(t.Context(), "log.example", Resolution{}, text, []string{"alice", "bob"}, nothing); err != nil {
		t.Fatal(err)
	}
	l.pull()
	l.load(l.export(0))
	if h, err := l.in.Head("log.example"); err != nil || h.Size != 900 {
		t.Fatal(h.Size, err)
	}
}

// TestEvidenceFiles: a file that was changed is listed as proving nothing, and its log is not unfrozen by another text; one that is gone
// stops the unfreezing.
func TestEvidenceFiles(t *testing.T) {
	l, _, _ := forkedLab(t)
	all, err := l.in.Evidence()
	if err != nil || len(all) != 1 || all[0].Problem != "" || all[0].Origin != "log.example" || all[0].Parcel == "" {
		t.Fatalf("%v, %+v", err, all)
	}
	text, err := l.in.UnfreezeText("log.example", Resolution{})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.mc.Dir, all[0].Name)
	if err := os.WriteFile(path, []byte(strings.Replace(string(all[0].Data), "700", "701", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	if changed, err := l.in.Evidence(); err != nil || changed[0].Problem == "" {
		t.Fatalf("%v, %+v", err, changed)
	}
	if _, err := l.in.Unfreeze(t.Context(), "log.example", Resolution{}, text, nil, nothing); !errors.Is(err, ErrChanged) {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if _, err := l.in.UnfreezeText("log.example", Resolution{}); !errors.Is(err, ErrDamaged) {
		t.Fatal(err)
	}
}
