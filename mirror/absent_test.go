package mirror

import (
	"testing"
	"time"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

func (l *lab) absent() *Absence {
	l.t.Helper()
	s, err := l.in.Status(l.t.Context())
	if err != nil {
		l.t.Fatal(err)
	}
	return s.Absent
}

// TestAbsentLogs: what the carried trusted root names is compared with what is held, as it begins, ends, is followed, carried, or decided against.
func TestAbsentLogs(t *testing.T) {
	l := newLab(t)
	s := newSite(t, l)
	s.shard(t, "127.0.0.1", 21, 300)
	s.named = append(s.named,
		named{base: "http://later.example", key: labKey(24).Public(), start: l.now.Add(48 * time.Hour)},
		named{base: "http://past.example", key: labKey(25).Public(), start: l.now.AddDate(-2, 0, 0), end: l.now.AddDate(-1, 0, 0)},
		named{base: "http://other.example", key: labKey(26).Public(), start: l.now.AddDate(-2, 0, 0)})
	s.publish(t)
	l.reopen()
	if a := l.absent(); len(a.Unmirrored) != 0 || a.Exporter != nil {
		t.Fatalf("before anything came: %+v", a)
	}
	l.pull()
	l.load(l.export(0))
	a := l.absent()
	if len(a.Unmirrored) != 2 || a.Unmirrored[0].Origin != "127.0.0.1" || a.Unmirrored[1].Origin != "other.example" || a.Unmirrored[0].Known || a.Unmirrored[0].Repository != "site" || a.Unmirrored[0].Kind != "rekor" {
		t.Fatalf("%+v", a.Unmirrored)
	}
	l.ec.Follow = []Follow{{TUF: "site", Except: []string{"other.example", "past.example", "later.example"}}}
	l.mc.Follow = []Follow{{TUF: "site", Except: []string{"other.example"}}}
	l.reopen()
	if a = l.absent(); len(a.Unmirrored) != 1 || !a.Unmirrored[0].Known {
		t.Fatalf("followed, but for one: %+v", a.Unmirrored)
	}
	l.now = l.now.Add(time.Hour)
	l.pull()
	l.load(l.export(0))
	if a = l.absent(); len(a.Unmirrored) != 0 || len(a.Ended) != 0 {
		t.Fatalf("carried: %+v", a)
	}
	l.now = l.now.Add(72 * time.Hour)
	if a = l.absent(); len(a.Unmirrored) != 1 || a.Unmirrored[0].Origin != "later.example" || !a.Unmirrored[0].Known {
		t.Fatalf("one began: %+v", a.Unmirrored)
	}
	l.mc.Ignore = []string{"later.example"}
	s.named[0].end = l.now
	s.publish(t)
	l.reopen()
	l.now = l.now.Add(time.Hour)
	l.pull()
	l.load(l.export(0))
	r, err := l.in.Reconcile(t.Context())
	if a = r.Absent; err != nil || len(a.Unmirrored) != 0 || len(a.Ended) != 1 || a.Ended[0].Origin != "127.0.0.1" || a.Ended[0].Size != 300 || a.Ended[0].Ended.IsZero() {
		t.Fatalf("one ended: %v %+v", err, a)
	}
}

// TestAbsentReal: the real public trusted root names a log of entries and one of certificates that the mirror has nothing of, and not those that ended.
func TestAbsentReal(t *testing.T) {
	l := tufLab(t)
	l.state(t, 2)
	l.pull()
	l.load(l.export(0))
	kinds := map[string]int{}
	for _, u := range l.absent().Unmirrored {
		t.Logf("%s %s, valid from %s", u.Kind, u.Origin, u.Start.Format(time.DateOnly))
		kinds[u.Kind]++
	}
	if kinds["rekor"] != 1 || kinds["ct"] != 1 {
		t.Fatal(kinds)
	}
}

// TestSilence: an exporter that is not heard of for longer than said is a finding; longer than it used to be is said in status alone.
func TestSilence(t *testing.T) {
	g, c := makeLog(t, generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{10, 20, 30, 40, 50, 60}})
	l := newLab(t, c)
	var last []string
	send := func(size uint64) {
		t.Helper()
		show(t, g, size)
		l.pull()
		last = l.export(0)
		l.load(last)
	}
	send(10)
	l.now = l.now.Add(1000 * time.Hour)
	if a := l.absent(); a.Exporter.Silent || a.Exporter.Cadence != 0 || a.Exporter.Seconds != 1000*3600 {
		t.Fatalf("too few came to tell: %+v", a.Exporter)
	}
	for _, size := range []uint64{20, 30, 40} {
		send(size)
		l.now = l.now.Add(24 * time.Hour)
	}
	if a := l.absent(); a.Exporter.Silent || !a.Exporter.Derived || a.Exporter.Cadence != 48*3600 {
		t.Fatalf("%+v", a.Exporter)
	}
	l.now = l.now.Add(25 * time.Hour)
	r, err := l.in.Reconcile(t.Context())
	if err != nil || !r.Absent.Exporter.Silent || r.Err() != nil {
		t.Fatalf("%v %v %+v", err, r.Err(), r.Absent.Exporter)
	}
	l.mc.Cadence = 36 * time.Hour
	l.reopen()
	if r, err = l.in.Reconcile(t.Context()); err != nil || ExitCode(r.Err()) != 50 || r.Absent.Exporter.Derived {
		t.Fatalf("%v %v %+v", err, r.Err(), r.Absent.Exporter)
	}
	// A parcel that came too early was heard of, though it cannot be taken yet.
	show(t, g, 50)
	l.pull()
	l.export(0)
	show(t, g, 60)
	l.pull()
	l.refused(20, l.export(0)...)
	if r, err = l.in.Reconcile(t.Context()); err != nil || r.Absent.Exporter.Silent || ExitCode(r.Err()) != 20 {
		t.Fatalf("%v %v %+v", err, r.Err(), r.Absent.Exporter)
	}
}

// TestEndedByPin: a shard that is pinned as frozen counts as ended.
func TestEndedByPin(t *testing.T) {
	l := claimLab(t, parcel.ScopeFull)
	h, err := l.in.Head("log.example")
	if err != nil {
		t.Fatal(err)
	}
	l.mc.Logs[0].Frozen = &parcel.State{Size: h.Size, Root: h.Root[:]}
	l.reopen()
	if a := l.absent(); len(a.Ended) != 1 || !a.Ended[0].Ended.IsZero() {
		t.Fatalf("%+v", a)
	}
}
