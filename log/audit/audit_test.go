package audit_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// open makes a real log in a temporary directory and runs it until stop.
func open(t testing.TB) (a *audit.Log, db *bolt.DB, stop func()) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	db, err = bolt.Create(filepath.Join(t.TempDir(), "authority.db"))
	if err != nil {
		t.Fatal(err)
	}
	c := log.Config{DB: db, Prefix: "audit/", Origin: "audit.example.test", Signer: key}
	if err := log.Create(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	l, err := log.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			<-done
		}
	}
	t.Cleanup(func() {
		stop()
		if _, err := log.Fsck(context.Background(), c, nil); err != nil {
			t.Errorf("the log is not whole after the test: %v", err)
		}
		db.Close()
	})
	return audit.New(l), db, stop
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 123456789, time.UTC)

func event(action string) audit.Event {
	return audit.Event{
		Time: noon, Actor: "dev@corp.example", Action: action, Object: "serial 7f", Outcome: audit.Success,
		Detail: map[string]string{"issuer": "https://oidc.corp.example", "b": "<é&\u2028\U0001F600>", "a": ""},
	}
}

func TestAddAndList(t *testing.T) {
	a, db, _ := open(t)
	for i := range 5 {
		r, err := a.Add(t.Context(), event(fmt.Sprint("issue ", i)), func(tx store.Tx) error {
			return tx.Put([]byte(fmt.Sprint("ca/", i)), []byte("kept"))
		})
		if err != nil {
			t.Fatal(err)
		}
		if r.Index != uint64(i) || r.Checkpoint.Size != uint64(i+1) {
			t.Fatalf("receipt %d of size %d", r.Index, r.Checkpoint.Size)
		}
	}
	records, err := a.List(t.Context(), 1, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(records) != 4 || records[0].Index != 1 || !reflect.DeepEqual(records[3].Event, event("issue 4")) {
		t.Fatalf("listed %+v", records)
	}
	// What with wrote is there, by the same transaction.
	err = db.View(func(tx store.Tx) error {
		v, err := tx.Get([]byte("ca/4"))
		if string(v) != "kept" {
			t.Errorf("with wrote %q", v)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	if err := a.Scan(t.Context(), 0, 1<<60, func(audit.Record) bool { n++; return n < 2 }); err != nil || n != 2 {
		t.Errorf("scan stopped after %d records: %v", n, err)
	}
	if records, err := a.List(t.Context(), 5, 9); err != nil || len(records) != 0 {
		t.Errorf("past the head: %v, %v", records, err)
	}
}

// TestSameEventTwice: two equal events are two records; only the index tells them apart.
func TestSameEventTwice(t *testing.T) {
	a, _, _ := open(t)
	for i := range 2 {
		if r, err := a.Add(t.Context(), event("login"), nil); err != nil || r.Index != uint64(i) {
			t.Fatalf("%d: %v, %v", i, r.Index, err)
		}
	}
}

// TestFailsClosed: an event that cannot be recorded is an error, and what with wrote is gone too.
func TestFailsClosed(t *testing.T) {
	a, db, stop := open(t)
	veto := errors.New("no")
	if _, err := a.Add(t.Context(), event("issue"), func(tx store.Tx) error {
		if err := tx.Put([]byte("ca/1"), []byte("x")); err != nil {
			return err
		}
		return veto
	}); !errors.Is(err, veto) {
		t.Fatalf("with's error is lost: %v", err)
	}
	bad := event("issue")
	bad.Actor = ""
	if _, err := a.Add(t.Context(), bad, nil); !errors.Is(err, audit.ErrInvalidEvent) {
		t.Fatalf("invalid event: %v", err)
	}
	stop()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := a.Add(ctx, event("issue"), func(tx store.Tx) error { return tx.Put([]byte("ca/1"), []byte("x")) }); err == nil {
		t.Fatal("recorded by a log that does not run")
	}
	if n := a.Log().Head().Size; n != 0 {
		t.Fatalf("%d events recorded", n)
	}
	err := db.View(func(tx store.Tx) error {
		if v, err := tx.Get([]byte("ca/1")); v != nil || err != nil {
			t.Errorf("with's write survived: %q, %v", v, err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTimeIsFilledIn(t *testing.T) {
	a, _, _ := open(t)
	a.Now = func() time.Time { return noon }
	e := event("issue")
	e.Time = time.Time{}
	if _, err := a.Add(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	records, err := a.List(t.Context(), 0, 1)
	if err != nil || !records[0].Time.Equal(noon) {
		t.Fatalf("%+v, %v", records, err)
	}
}

func TestEncode(t *testing.T) {
	got, err := audit.Encode(event("issue"))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"action":"issue","actor":"dev@corp.example","detail":{"a":"","b":"<é&` + "\u2028\U0001F600" +
		`>","issuer":"https://oidc.corp.example"},"object":"serial 7f","outcome":"success","time":"2026-03-01T12:00:00.123456789Z"}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	long := strings.Repeat("x", 5000)
	many := make(map[string]string)
	for i := range 65 {
		many[fmt.Sprint(i)] = "x"
	}
	big := make(map[string]string)
	for i := range 20 {
		big[fmt.Sprint(i)] = long[:4096]
	}
	for name, change := range map[string]func(*audit.Event){
		"no time":       func(e *audit.Event) { e.Time = time.Time{} },
		"no actor":      func(e *audit.Event) { e.Actor = "" },
		"no action":     func(e *audit.Event) { e.Action = "" },
		"no outcome":    func(e *audit.Event) { e.Outcome = "" },
		"long actor":    func(e *audit.Event) { e.Actor = long },
		"long object":   func(e *audit.Event) { e.Object = long },
		"not UTF-8":     func(e *audit.Event) { e.Object = "\xff" },
		"empty name":    func(e *audit.Event) { e.Detail = map[string]string{"": "x"} },
		"long name":     func(e *audit.Event) { e.Detail = map[string]string{long: "x"} },
		"long detail":   func(e *audit.Event) { e.Detail = map[string]string{"x": long} },
		"bad detail":    func(e *audit.Event) { e.Detail = map[string]string{"x": "\xff"} },
		"many details":  func(e *audit.Event) { e.Detail = many },
		"large in sum":  func(e *audit.Event) { e.Detail = big },
		"year 10000":    func(e *audit.Event) { e.Time = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
		"year minus 44": func(e *audit.Event) { e.Time = time.Date(-44, 3, 15, 0, 0, 0, 0, time.UTC) },
	} {
		e := event("issue")
		change(&e)
		if _, err := audit.Encode(e); !errors.Is(err, audit.ErrInvalidEvent) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestParseIsStrict(t *testing.T) {
	good := `{"action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`
	if _, err := audit.Parse([]byte(good)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{
		``, `{}`, `null`, `[]`, good + ` `, ` ` + good, good + good,
		`{"actor":"b","action":"a","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"a","action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z","x":1}`,
		`{"action":"a","actor":"b","detail":{},"outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"a","actor":"b","detail":null,"outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"a","actor":"b","object":"","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"a","actor":"b","outcome":"c","time":"2026-03-01T13:00:00+01:00"}`,
		`{"action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00.10Z"}`,
		`{"action":"a","actor":"b","outcome":"c","time":"noon"}`,
		`{"Action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":"\u0061","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
		`{"action":1,"actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`,
	} {
		if e, err := audit.Parse([]byte(bad)); !errors.Is(err, audit.ErrInvalidEvent) {
			t.Errorf("accepted %s as %+v (%v)", bad, e, err)
		}
	}
}

// TestForeignLeaf: an entry that is no event stops the reader instead of vanishing from the list.
func TestForeignLeaf(t *testing.T) {
	a, _, _ := open(t)
	if _, err := a.Log().Add(t.Context(), []byte(`{"not":"an event"}`), nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := a.List(t.Context(), 0, 10); !errors.Is(err, audit.ErrInvalidEvent) {
		t.Fatalf("listed a foreign leaf: %v", err)
	}
}

// FuzzParse: what Parse accepts, Encode writes back byte for byte.
func FuzzParse(f *testing.F) {
	leaf, err := audit.Encode(event("issue"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(leaf)
	f.Add([]byte(`{"action":"a","actor":"b","outcome":"c","time":"2026-03-01T12:00:00Z"}`))
	f.Add([]byte(`{"action":"a","actor":"b","detail":{"k":"\u0000"},"outcome":"c","time":"0001-01-01T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, leaf []byte) {
		e, err := audit.Parse(leaf)
		if err != nil {
			if !errors.Is(err, audit.ErrInvalidEvent) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
		again, err := audit.Encode(e)
		if err != nil || string(again) != string(leaf) {
			t.Fatalf("%q became %q (%v)", leaf, again, err)
		}
	})
}

// FuzzEncode holds Encode to a canonicalizer of any JSON (RFC 8785), whatever the strings.
func FuzzEncode(f *testing.F) {
	f.Add("issue", "dev@corp.example", "k", "v", "l", "w", "m", int64(1))
	f.Add("a\"b\\c", "<&>\u2028\u007f", "\x00\x1f\b\t\n\f\r", "é", "\U0001f600", "\ufffd", "\ue000", int64(1_000_000_001))
	f.Add("a", "b", "\ud7ff", "", "\U00010000", "", "\uffff", int64(-1))
	f.Fuzz(func(t *testing.T, action, actor, k1, v1, k2, v2, k3 string, nanos int64) {
		e := audit.Event{Time: time.Unix(0, nanos).UTC(), Action: action, Actor: actor, Object: v2, Outcome: v1, Detail: map[string]string{k1: v1, k2: v2, k3: k1, k1 + k2: k3}}
		got, err := audit.Encode(e)
		if err != nil {
			return
		}
		doc := map[string]any{"action": e.Action, "actor": e.Actor, "outcome": e.Outcome, "detail": e.Detail, "time": e.Time.Format(time.RFC3339Nano)}
		if e.Object != "" {
			doc["object"] = e.Object
		}
		raw, err := json.Marshal(doc)
		if err != nil {
			t.Fatal(err)
		}
		want, err := jsoncanonicalizer.Transform(raw)
		if err != nil || string(got) != string(want) {
			t.Fatalf("%s\nthe canonicalizer's is\n%s (%v)", got, want, err)
		}
		if again, err := audit.Parse(got); err != nil || !reflect.DeepEqual(again, e) {
			t.Fatalf("%+v came back as %+v, %v", e, again, err)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	e := event("issue")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := audit.Encode(e); err != nil {
			b.Fatal(err)
		}
	}
}
