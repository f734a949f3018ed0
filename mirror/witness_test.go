package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	formats "github.com/transparency-dev/formats/note"
	"golang.org/x/mod/sumdb/note"

	"redoubt.internal/mirror/parcel"
)

// cosignBy appends the cosignature of the witness with key labKey(n) to a checkpoint.
func cosignBy(t testing.TB, signed []byte, name string, n byte, at time.Time) []byte {
	t.Helper()
	text, _, _ := bytes.Cut(signed, []byte("\n\n"))
	sig, err := parcel.Cosign(append(bytes.Clone(text), '\n'), name, labKey(n), at)
	if err != nil {
		t.Fatal(err)
	}
	return append(bytes.Clone(signed), parcel.SignatureLine(name, sig)...)
}

// TestCosignatureIsTheStandardOne: what we make, the library of the transparency.dev witnesses reads, with the same key id and time.
func TestCosignatureIsTheStandardOne(t *testing.T) {
	at := time.Unix(1679315147, 0).UTC()
	signed := cosignBy(t, readFile(t, tinyLog(t, 3).Source, 3), "w.example", 21, at)
	v, err := formats.NewVerifierForCosignatureV1(mustKey(t, "w.example", 21))
	if err != nil {
		t.Fatal(err)
	}
	n, err := note.Open(signed, note.VerifierList(v))
	if err != nil || len(n.Sigs) != 1 {
		t.Fatal(n, err)
	}
	if got, err := formats.CoSigV1Timestamp(n.Sigs[0]); err != nil || !got.Equal(at) {
		t.Fatal(got, err)
	}
	c, err := parcel.NewCosigner(witnessKey(t, "w.example", 21))
	if err != nil || c.KeyHash() != v.KeyHash() {
		t.Fatal(c, err)
	}
}

// realWitnesses reads the keys that came with the real checkpoints of Rekor v1.
func realWitnesses(t testing.TB) (log LogConfig, witnesses []string, notes [][]byte) {
	t.Helper()
	dir := publicData(t, "rekor-v1-cosigned-checkpoints")
	keys, err := os.ReadFile(filepath.Join(dir, "KEYS.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(keys)) {
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		if strings.HasPrefix(line, "rekor.sigstore.dev+") {
			log = LogConfig{Origin: "rekor.sigstore.dev - 2605736670972794746", VKey: line}
		} else {
			witnesses = append(witnesses, line)
		}
	}
	names, _ := filepath.Glob(filepath.Join(dir, "*.checkpoint"))
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		notes = append(notes, b)
	}
	if len(notes) != 16 || len(witnesses) != 4 {
		t.Fatalf("%d checkpoints, %d witnesses", len(notes), len(witnesses))
	}
	return log, witnesses, notes
}

// TestRealCosignatures verifies the witnesses of 16 real checkpoints, counts them, and refuses each of them with a bit of any
// signature turned.
func TestRealCosignatures(t *testing.T) {
	c, witnesses, notes := realWitnesses(t)
	var policy strings.Builder
	var names []string
	for _, w := range witnesses {
		name, _, _ := strings.Cut(w, "+")
		names = append(names, name)
		fmt.Fprintf(&policy, "witness %s %s\n", name, w)
	}
	for quorum, want := range map[string]int{"none": 16, "group q any": 16, "group q 2": 3, "group q 3": 0} {
		c.Witnesses = policy.String() + "quorum none\n"
		if quorum != "none" {
			c.Witnesses = policy.String() + quorum + " " + strings.Join(names, " ") + "\nquorum q\n"
		}
		known, err := knownLogs([]LogConfig{c})
		if err != nil {
			t.Fatal(err)
		}
		log, enough, lines := known[c.Origin], 0, 0
		by := make(map[string]int)
		for _, n := range notes {
			if _, err := log.open(n); err != nil {
				t.Fatal(err)
			}
			got, err := log.witnessed(n)
			if err == nil {
				enough++
			} else if !errors.Is(err, ErrQuorum) || ExitCode(err) != 31 {
				t.Fatal(err)
			}
			if !got.Time.IsZero() {
				t.Fatal("a plain signature names a time:", got.Time)
			}
			for _, w := range got.By {
				by[w]++
				lines++
			}
		}
		if enough != want {
			t.Errorf("%s: %d checkpoints have their quorum, %d should", quorum, enough, want)
		}
		t.Logf("%s: %d of %d checkpoints, %d cosignatures by %v", quorum, enough, len(notes), lines, by)
	}
	p, err := ParsePolicy([]byte(c.Witnesses))
	if err != nil {
		t.Fatal(err)
	}
	flips := 0
	for _, n := range notes {
		for at, line := range bytes.SplitAfter(n, []byte("\n")) {
			name, _, _ := bytes.Cut(bytes.TrimPrefix(line, []byte("— ")), []byte(" "))
			if !slices.Contains(names, string(name)) {
				continue
			}
			parts := bytes.SplitAfter(n, []byte("\n"))
			bad := bytes.Clone(line)
			if i := len(bad) - 20; bad[i] == 'A' {
				bad[i] = 'B'
			} else {
				bad[i] = 'A'
			}
			parts[at] = bad
			if _, err := p.cosigned(bytes.Join(parts, nil)); !errors.Is(err, ErrProof) {
				t.Fatalf("a wrong line of %s passes: %v", name, err)
			}
			flips++
		}
	}
	t.Logf("%d forged cosignatures refused", flips)
}

// TestQuorum carries a log whose policy asks for two of three witnesses, and tries to get by with less.
func TestQuorum(t *testing.T) {
	day := func(n int) time.Time { return time.Date(2026, 11, n, 0, 0, 0, 0, time.UTC) }
	for _, c := range []struct {
		name   string
		sign   func(n []byte) []byte
		code   int
		proven time.Time
	}{
		{"nobody", func(n []byte) []byte { return n }, 31, time.Time{}},
		{"one", func(n []byte) []byte { return cosignBy(t, n, "w1.example", 21, day(1)) }, 31, time.Time{}},
		{"one twice", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "w1.example", 21, day(2))
		}, 31, time.Time{}},
		{"one key under two names", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "w2.example", 21, day(2))
		}, 31, time.Time{}},
		{"one and a stranger", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "w9.example", 29, day(2))
		}, 31, time.Time{}},
		{"one and the log itself", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "log.example", 4, day(2))
		}, 31, time.Time{}},
		{"a cosignature of another checkpoint", func(n []byte) []byte {
			other := cosignBy(t, readFile(t, tinyLog(t, 3).Source, 3), "w2.example", 22, day(1))
			return append(cosignBy(t, n, "w1.example", 21, day(1)), other[bytes.LastIndex(other, []byte("— ")):]...)
		}, 31, time.Time{}},
		{"two", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "w3.example", 23, day(3))
		}, 0, day(1)},
		{"three", func(n []byte) []byte {
			return cosignBy(t, cosignBy(t, cosignBy(t, n, "w1.example", 21, day(1)), "w2.example", 22, day(5)), "w3.example", 23, day(3))
		}, 0, day(3)},
	} {
		t.Run(c.name, func(t *testing.T) {
			log := tinyLog(t, 300)
			plain, err := os.ReadFile(log.Source + "/checkpoint")
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(log.Source+"/checkpoint", c.sign(plain), 0o644); err != nil {
				t.Fatal(err)
			}
			l := newLab(t, log) // the outside asks for nobody, so that the inside is asked
			l.mc.Logs = []LogConfig{log}
			l.mc.Logs[0].Witnesses = threePolicy(t)
			l.reopen()
			l.pull()
			files := l.export(0)
			if c.code != 0 {
				l.refused(c.code, files...)
				l.ec.Logs = l.mc.Logs
				l.reopen()
				if _, err := l.out.Pull(context.Background()); !errors.Is(err, ErrQuorum) && !errors.Is(err, ErrProof) {
					t.Fatal("the outside takes it:", err)
				}
				return
			}
			l.load(files)
			h, err := l.in.Head(log.Origin)
			if err != nil || !h.Proven.Equal(c.proven) {
				t.Fatalf("proven by %v, %v", h.Proven, err)
			}
		})
	}
}

// TestWitnessesFromTheFuture: a quorum that saw the log next year says that the clock here is behind, on both sides.
func TestWitnessesFromTheFuture(t *testing.T) {
	log := tinyLog(t, 300)
	log.Witnesses = threePolicy(t)
	l := newLab(t, log)
	plain, err := os.ReadFile(log.Source + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	later := l.now.AddDate(1, 0, 0)
	if err := os.WriteFile(log.Source+"/checkpoint", cosignBy(t, cosignBy(t, plain, "w1.example", 21, later), "w2.example", 22, later), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 51 {
		t.Fatal(err)
	}
	l.now = later
	l.pull()
	files := l.export(0)
	l.now = later.AddDate(-1, 0, 0)
	l.refused(51, files...)
}

// TestPolicyOfTheWrongLog: a log is no witness of itself, and a policy names the logs it is for.
func TestPolicyOfTheWrongLog(t *testing.T) {
	c := tinyLog(t, 1)
	for why, policy := range map[string]string{
		"own key":        "witness W " + witnessKey(t, "w.example", 4) + "\nquorum W\n",
		"another log":    "log " + mustKey(t, "log.example", 5) + "\nquorum none\n",
		"no policy":      "quorum\n",
		"own former key": "witness W " + witnessKey(t, "w.example", 6) + "\nquorum W\n",
	} {
		c.Witnesses, c.FormerKeys = policy, []string{mustKey(t, "log.example", 6)}
		if _, err := knownLogs([]LogConfig{c}); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", why, err)
		}
	}
	c.Witnesses = "log " + mustKey(t, "some.example", 4) + "\nwitness W " + witnessKey(t, "w.example", 21) + "\nquorum W\n"
	if _, err := knownLogs([]LogConfig{c}); err != nil {
		t.Error(err)
	}
}
