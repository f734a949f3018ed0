package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// realTUF lays the real public-good repository out as its server had it on a day: the roots from 5 to the one then in force, a
// timestamp, and what it leads to.
func realTUF(t testing.TB, dir string, root, timestamp int) {
	t.Helper()
	data := publicData(t, "tuf-public-good")
	if err := os.MkdirAll(filepath.Join(dir, "targets", "ctfe"), 0o755); err != nil {
		t.Fatal(err)
	}
	meta := func(role string, n int64, as string) []byte {
		b, err := os.ReadFile(filepath.Join(data, "metadata", role, fmt.Sprintf("%d.%s.json", n, role)))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, as), b, 0o644); err != nil {
			t.Fatal(err)
		}
		return b
	}
	for n := 5; n <= root; n++ {
		meta("root", int64(n), fmt.Sprintf("%d.root.json", n))
	}
	names := func(b []byte, file string) int64 {
		var m struct {
			Signed struct {
				Meta map[string]struct{ Version int64 }
			}
		}
		if err := json.Unmarshal(b, &m); err != nil {
			t.Fatal(err)
		}
		return m.Signed.Meta[file].Version
	}
	snapshot := names(meta("timestamp", int64(timestamp), "timestamp.json"), "snapshot.json")
	listed := meta("snapshot", snapshot, fmt.Sprintf("%d.snapshot.json", snapshot))
	targets := names(listed, "targets.json")
	var list struct {
		Signed struct {
			Targets map[string]struct{ Hashes struct{ SHA256 string } }
		}
	}
	file := meta("targets", targets, fmt.Sprintf("%d.targets.json", targets))
	if err := json.Unmarshal(file, &list); err != nil {
		t.Fatal(err)
	}
	for name, target := range list.Signed.Targets {
		found, _ := filepath.Glob(filepath.Join(data, "targets", target.Hashes.SHA256+".*"))
		more, _ := filepath.Glob(filepath.Join(data, "targets", "*", target.Hashes.SHA256+".*"))
		if found = append(found, more...); len(found) == 0 {
			t.Fatalf("no file of target %s", name)
		}
		b, err := os.ReadFile(found[0])
		if err != nil {
			t.Fatal(err)
		}
		at := filepath.Join(dir, "targets", filepath.Dir(name), target.Hashes.SHA256+"."+filepath.Base(name))
		if err := os.MkdirAll(filepath.Dir(at), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(at, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func realRoot(t testing.TB, folder string, n int) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(publicData(t, folder), "metadata", "root", fmt.Sprintf("%d.root.json", n)))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The real states, each at a time at which all its metadata was valid: the first that has a trusted_root.json, and a month later a new
// root and another timestamp. Of targets 5 the data has a file that no snapshot names (see TestTwoFilesOfOneVersion), and root 5 signs for
// no keys of the timestamps before.
var (
	state1At = time.Date(2023, 3, 15, 12, 0, 0, 0, time.UTC)
	state2At = time.Date(2023, 4, 10, 12, 0, 0, 0, time.UTC)
)

// oldFloors lie below the stored data.
var oldFloors = &parcel.Versions{Root: 5, Timestamp: 50}

func (l *lab) state(t testing.TB, n int) {
	t.Helper()
	dir := l.sub("upstream")
	if n == 1 {
		realTUF(t, dir, 5, 73)
		l.now = state1At
	} else {
		realTUF(t, dir, 6, 78)
		l.now = state2At
	}
}

// tufLab is a lab that carries the public-good repository and the logs given.
func tufLab(t testing.TB, logs ...LogConfig) *lab {
	t.Helper()
	l := newLab(t, logs...)
	c := TUFConfig{Name: "public-good", Root: realRoot(t, "tuf-public-good", 5), Floors: oldFloors, Source: l.sub("upstream")}
	l.ec.TUF, l.mc.TUF = []TUFConfig{c}, []TUFConfig{c}
	l.reopen()
	return l
}

// TestRealTUF carries the two real states of the public-good repository, each at its own time, and reads the second a year later.
func TestRealTUF(t *testing.T) {
	l := tufLab(t)
	l.state(t, 1)
	l.pull()
	first := l.export(0)
	r := l.load(first)
	if s := r.Transfers[0].TUF; len(s) != 1 || s[0].To != (parcel.Versions{Root: 5, Timestamp: 73, Snapshot: 73, Targets: 6}) || s[0].StaleBy != "" {
		t.Fatalf("%+v", s)
	}
	for _, want := range []string{"rekor log rekor.sigstore.dev", "ct log ctfe.sigstore.dev/2022", "target trusted_root.json came"} {
		if !strings.Contains(strings.Join(r.Transfers[0].TUF[0].Changes, "\n"), want) {
			t.Errorf("no change %q", want)
		}
	}
	l.state(t, 2)
	l.pull()
	second := l.export(0)
	r = l.load(second)
	s := r.Transfers[0].TUF[0]
	if s.From.Timestamp != 73 || s.To != (parcel.Versions{Root: 6, Timestamp: 78, Snapshot: 78, Targets: 6}) || !s.Observed.Equal(state2At) {
		t.Fatalf("%+v", s)
	}
	t.Logf("%v -> %v, %d changes:\n%s", s.From, s.To, len(s.Changes), strings.Join(s.Changes, "\n"))
	if !strings.Contains(strings.Join(s.Changes, "\n"), "TUF root 5 became 6") {
		t.Error("the new root is no change")
	}
	if n := len(l.load(second).Transfers[0].TUF); n != 1 { // the same again
		t.Fatal(n)
	}
	l.now = state2At.AddDate(1, 0, 0)
	st, err := l.in.Status(context.Background())
	if err != nil || len(st.TUF) != 1 {
		t.Fatal(st.TUF, err)
	}
	got := st.TUF[0]
	if by, err := time.ParseDuration(got.StaleBy); err != nil || by < 360*24*time.Hour || got.Versions.Targets != 6 || !got.Observed.Equal(state2At) {
		t.Fatalf("%+v", got)
	}
	t.Logf("a year later: observed %s ago, its %s expired, stale by %s", got.Age, got.Expiring, got.StaleBy)
	rep, err := l.in.Reconcile(context.Background())
	if err != nil || rep.Err() != nil || rep.TUF[0].StaleBy != got.StaleBy || rep.TUF[0].Verified != 5+8 { // two roots, timestamp, ... and the target files
		t.Fatalf("%+v %v %v", rep.TUF, err, rep.Err())
	}
}

// TestStaleTUFIsImportedAndSaid imports the second state for the first time a year after it was carried out of the door.
func TestStaleTUFIsImportedAndSaid(t *testing.T) {
	l := tufLab(t)
	l.state(t, 2)
	l.pull()
	files := l.export(0)
	l.now = state2At.AddDate(1, 0, 0)
	r := l.load(files)
	if s := r.Transfers[0].TUF[0]; s.StaleBy == "" || s.To.Targets != 6 {
		t.Fatalf("%+v", s)
	}
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 50 { // outside, the metadata of a year ago is no answer
		t.Fatal(err)
	}
	l.now = state2At.AddDate(0, 1, 0)
	if _, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium, Refresh: true}); ExitCode(err) != 50 {
		t.Fatal(err)
	}
}

// TestTUFNeverGoesBack offers the first state after the second, as another exporter under the same key would make it.
func TestTUFNeverGoesBack(t *testing.T) {
	old := tufLab(t)
	old.state(t, 1)
	old.pull()
	one := old.export(0)

	l := tufLab(t)
	l.state(t, 2)
	l.pull()
	l.load(l.export(0))
	l.refused(22, one...) // the stream's own rule
	back := forge(t, l, old, 2)
	err := l.refused(21, back...)
	if !errors.Is(err, ErrRollback) {
		t.Fatal(err)
	}
	t.Log(err)
	l.state(t, 1) // and the server itself
	l.now = state2At
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 21 && ExitCode(err) != 50 {
		t.Fatal(err)
	}
}

// forge has what another lab collected packed as parcel n of l's stream, by the exporter's own key.
func forge(t testing.TB, l, other *lab, n uint64) []string {
	t.Helper()
	s, err := l.in.snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := other.out.setSent(streamState{Sequence: s.stream.Sequence, Digest: s.stream.Digest}); err != nil {
		t.Fatal(err)
	}
	if err := other.out.forgetTUF(); err != nil {
		t.Fatal(err)
	}
	other.medium = l.sub(fmt.Sprintf("forged%d", n))
	return other.export(0)
}

// reopenOut opens the exporter alone from its configuration.
func (l *lab) reopenOut() {
	l.t.Helper()
	var err error
	if l.out, err = OpenExporter(l.ec); err != nil {
		l.t.Fatal(err)
	}
}

// forgetTUF makes the exporter believe that it sent no repository yet.
func (e *Exporter) forgetTUF() error {
	return e.c.DB.Update(func(tx store.Tx) error { return tx.Delete([]byte(keyTUFSent + "public-good")) })
}

// spoilTUF changes what the exporter believes it collected.
func (e *Exporter) spoilTUF(spoil func(*TUFHead)) error {
	heads, err := tufHeads(e.c.DB, keyTUFCollected)
	if err != nil {
		return err
	}
	h := heads["public-good"]
	spoil(&h)
	return e.c.DB.Update(func(tx store.Tx) error { return put(tx, keyTUFCollected+h.Name, h) })
}

// TestShippedFloors refuses the stored old data on a fresh installation with the floors that are shipped, outside and inside.
func TestShippedFloors(t *testing.T) {
	l := tufLab(t)
	l.state(t, 2)
	l.pull()
	files := l.export(0)
	l.mc.TUF[0].Floors = nil
	l.reopen()
	err := l.refused(21, files...)
	if !errors.Is(err, ErrRollback) || !strings.Contains(err.Error(), "below the floor: at least root 15, timestamp 762") {
		t.Fatal(err)
	}
	t.Log(err)
	l.ec.TUF[0].Floors = nil
	l.ec.DB, l.ec.Dir = newDB(t, filepath.Join(l.dir, "fresh.db")), filepath.Join(l.dir, "fresh")
	l.reopen()
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 21 {
		t.Fatal(err)
	}
}

// TestTwoFilesOfOneVersion offers a real file of targets 5 that is signed by enough keyholders, and that no snapshot ever named.
func TestTwoFilesOfOneVersion(t *testing.T) {
	l := tufLab(t)
	realTUF(t, l.sub("upstream"), 5, 60)
	l.now = time.Date(2022, 12, 25, 12, 0, 0, 0, time.UTC)
	draft, err := os.ReadFile(filepath.Join(publicData(t, "tuf-public-good"), "metadata", "targets", "5.targets.json"))
	if err != nil {
		t.Fatal(err)
	}
	root, err := metadata.Root().FromBytes(realRoot(t, "tuf-public-good", 5))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := metadata.Targets().FromBytes(draft)
	if err != nil || root.VerifyDelegate("targets", signed) != nil {
		t.Fatal("the draft is not signed as it should be", err)
	}
	if _, err := l.out.Pull(context.Background()); ExitCode(err) != 31 {
		t.Fatal(err)
	} else {
		t.Log(err)
	}
}

// TestTUFRefused offers repositories with something wrong, one after the other: to the pull, and to the import from a parcel that an
// exporter packed who does not verify.
func TestTUFRefused(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(t *testing.T, dir string)
		code  int
	}{
		{"signature of the timestamp", edit("timestamp.json", `"sig": "3045`, `"sig": "3044`), 31},
		{"timestamp of another role's key", func(t *testing.T, dir string) { copyOver(t, dir, "78.snapshot.json", "timestamp.json") }, 31},
		{"version of a root", edit("6.root.json", `"version": 6`, `"version": 7`), 31},
		{"a member twice", edit("6.targets.json", `"version": 6`, `"version": 6, "version": 6`), 31},
		{"null", edit("6.root.json", `"keys": {`, `"keys": {"a": null,`), 31},
		{"a target", func(t *testing.T, dir string) {
			found, _ := filepath.Glob(filepath.Join(dir, "targets", "*.trusted_root.json"))
			if err := os.WriteFile(found[0], []byte("{}"), 0o644); err != nil {
				t.Fatal(err)
			}
		}, 31},
		{"a missing target", func(t *testing.T, dir string) {
			found, _ := filepath.Glob(filepath.Join(dir, "targets", "*.trusted_root.json"))
			os.Remove(found[0])
		}, 3},
		{"a missing root", func(t *testing.T, dir string) { os.Remove(filepath.Join(dir, "6.root.json")) }, 50}, // root 5 alone had expired
	} {
		t.Run(c.name, func(t *testing.T) {
			l := tufLab(t)
			l.state(t, 2)
			c.spoil(t, filepath.Join(l.dir, "upstream"))
			if _, err := l.out.Pull(context.Background()); ExitCode(err) != c.code {
				t.Fatalf("exit code %d instead of %d: %v", ExitCode(err), c.code, err)
			} else {
				t.Log(err)
			}
		})
	}
}

func edit(name, from, to string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		text := strings.Replace(string(b), from, to, 1)
		if text == string(b) {
			text = strings.Replace(string(b), strings.ReplaceAll(from, ": ", ":"), strings.ReplaceAll(to, ": ", ":"), 1)
		}
		if text == string(b) {
			t.Fatalf("%s has no %s", name, from)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func copyOver(t testing.TB, dir, from, to string) {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, from))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, to), b, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestForgedTUFParcel has a careless exporter sign parcels whose TUF files are not what they should be. The signature admits them,
// the import refuses each, and nothing moves.
func TestForgedTUFParcel(t *testing.T) {
	for _, c := range []struct {
		name  string
		spoil func(l *lab, h *TUFHead)
		code  int
	}{
		{"another repository", func(l *lab, h *TUFHead) {
			l.ec.TUF[0].Name, h.Name = "staging", "staging"
			if err := os.Rename(filepath.Join(l.ec.Dir, "tuf", "public-good"), filepath.Join(l.ec.Dir, "tuf", "staging")); err != nil {
				l.t.Fatal(err)
			}
		}, 60},
		{"a higher version than the metadata's", func(l *lab, h *TUFHead) {
			copyOver(l.t, filepath.Join(l.ec.Dir, "tuf", "public-good"), "6.targets.json", "7.targets.json")
			h.Versions.Targets++
			h.Files[len(h.Files)-1].Name = "7.targets.json"
		}, 31},
		{"a target file less", func(_ *lab, h *TUFHead) { h.Targets = h.Targets[1:] }, 31},
		{"a target file more", func(l *lab, h *TUFHead) {
			data := []byte("smuggled")
			d := parcel.Sum(data)
			if err := os.WriteFile(filepath.Join(l.ec.Dir, "tuf", "public-good", "targets", d.String()), data, 0o644); err != nil {
				l.t.Fatal(err)
			}
			h.Targets = append(h.Targets, TUFTarget{Name: "smuggled", SHA256: d})
		}, 31},
		{"a delegated role nobody delegates to", func(l *lab, h *TUFHead) {
			b, err := os.ReadFile(filepath.Join(l.ec.Dir, "tuf", "public-good", "6.targets.json"))
			if err == nil {
				err = os.WriteFile(filepath.Join(l.ec.Dir, "tuf", "public-good", "1.extra.json"), b, 0o644)
			}
			if err != nil {
				l.t.Fatal(err)
			}
			h.Roles, h.Files = []string{"extra"}, append(h.Files, TUFFile{"1.extra.json", parcel.Sum(b)})
		}, 31},
		{"made after its metadata expired", func(l *lab, h *TUFHead) {
			h.Expires = state2At.AddDate(1, 0, 0)
			l.now = state2At.AddDate(0, 0, 6)
		}, 50},
		{"observed long ago, made now", func(_ *lab, h *TUFHead) { h.Observed = state1At }, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			l := tufLab(t)
			l.state(t, 2)
			l.pull()
			if err := l.out.spoilTUF(func(h *TUFHead) { c.spoil(l, h) }); err != nil {
				t.Fatal(err)
			}
			if l.ec.TUF[0].Name != "public-good" {
				l.reopenOut()
			}
			files := l.export(0)
			if c.code == 0 {
				l.load(files)
				return
			}
			t.Log(l.refused(c.code, files...))
		})
	}
}

// TestTUFParcelFromThePast imports the second state and then a parcel that says it was made before: the way to make expired
// metadata valid again.
func TestTUFParcelFromThePast(t *testing.T) {
	l := tufLab(t)
	l.state(t, 2)
	l.pull()
	l.load(l.export(0))
	l.now = state2At.Add(-time.Hour)
	if err := l.out.spoilTUF(func(h *TUFHead) { h.AsOf, h.Observed = l.now, l.now }); err != nil {
		t.Fatal(err)
	}
	p, err := l.out.Export(context.Background(), ExportOptions{Out: l.medium, Refresh: true})
	if err != nil {
		t.Fatal(err)
	}
	l.now = state2At
	l.refused(51, filepath.Join(l.medium, p.Files[0]))
}

// TestStagingRootChain walks the real chain of the staging repository's roots from every root the library can read to the last.
func TestStagingRootChain(t *testing.T) {
	data := publicData(t, "tuf-staging")
	walked := 0
	for n := 1; n <= 14; n++ {
		pinned, err := os.ReadFile(filepath.Join(data, "metadata", "root", fmt.Sprintf("%d.root.json", n)))
		if err != nil {
			t.Fatal(err)
		}
		known, err := knownTUF([]TUFConfig{{Name: "staging", Root: pinned}})
		if err != nil {
			if n > 4 || !errors.Is(err, ErrConfig) {
				t.Fatal(n, err)
			}
			t.Log(err)
			continue
		}
		held, err := known["staging"].held(nil, nil)
		if err != nil {
			t.Fatal(err)
		}
		var last int64
		_, err = known["staging"].verify(context.Background(), held, state2At, func(_ context.Context, ask tufAsk) ([]byte, error) {
			if ask.role == "root" {
				b, err := os.ReadFile(filepath.Join(data, "metadata", "root", ask.name()))
				if err == nil {
					last = ask.version
				}
				return b, err
			}
			return nil, errEndOfChain
		})
		if !errors.Is(err, errEndOfChain) || cmp.Or(last, int64(n)) != 14 {
			t.Fatalf("from root %d to %d: %v", n, last, err)
		}
		walked++
	}
	if walked < 10 {
		t.Fatal(walked)
	}
	t.Logf("the chain ends at root 14 from each of %d roots", walked)
}

var errEndOfChain = errors.New("the chain ends")
