package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/ca/trust"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

// named is a log as a trusted root names it.
type named struct {
	base       string
	key        any // public key
	start, end time.Time
}

// trustedRootOf writes a trusted_root.json that names logs.
func trustedRootOf(t testing.TB, logs ...named) []byte {
	t.Helper()
	type object = map[string]any
	list := []object{}
	for _, l := range logs {
		der, err := x509.MarshalPKIXPublicKey(l.key)
		if err != nil {
			t.Fatal(err)
		}
		id := sha256.Sum256(der)
		valid := object{"start": l.start.Format(time.RFC3339)}
		if !l.end.IsZero() {
			valid["end"] = l.end.Format(time.RFC3339)
		}
		list = append(list, object{"baseUrl": l.base, "hashAlgorithm": "SHA2_256", "logId": object{"keyId": id[:]},
			"publicKey": object{"rawBytes": der, "keyDetails": "PKIX_ED25519", "validFor": valid}})
	}
	b, err := json.Marshal(object{"mediaType": trust.TrustedRootMediaType, "tlogs": list, "somethingNewer": 1})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// site is an upstream with a TUF repository of its own and logs on a web server, one host name for each.
type site struct {
	l     *lab
	repo  *trust.Repository
	port  string
	logs  map[string]string // folders by host
	named []named
}

// newSite makes the upstream and has the lab carry its trust and follow its logs.
func newSite(t testing.TB, l *lab) *site {
	t.Helper()
	s := &site{l: l, logs: make(map[string]string)}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		dir := s.logs[strings.Split(r.Host, ":")[0]]
		name, ok := strings.CutPrefix(r.URL.Path, "/api/v2/")
		if dir == "" || !ok {
			http.NotFound(w, r)
			return
		}
		http.ServeFileFS(w, r, os.DirFS(dir), name)
	}))
	server.Listener.Close()
	var err error
	if server.Listener, err = net.Listen("tcp4", "0.0.0.0:0"); err != nil { // every 127.x.y.z is a host of its own
		t.Fatal(err)
	}
	server.Start()
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	s.port = u.Port()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(l.sub("site"), "tuf")
	s.repo, err = trust.Create(t.Context(), trust.RepositoryConfig{Dir: dir, Signer: key, Now: func() time.Time { return l.now }}, s.files(t))
	if err != nil {
		t.Fatal(err)
	}
	c := TUFConfig{Name: "site", Root: s.repo.Root(), Source: dir}
	l.ec.TUF, l.mc.TUF = []TUFConfig{c}, []TUFConfig{c}
	return s
}

func (s *site) files(t testing.TB) []trust.File {
	return []trust.File{{Name: trustedRootName, Data: trustedRootOf(t, s.named...)}}
}

// publish makes what the site names its newest trust.
func (s *site) publish(t testing.TB) {
	t.Helper()
	if err := s.repo.Publish(t.Context(), s.files(t)); err != nil {
		t.Fatal(err)
	}
}

// shard adds a log under a host name, with checkpoints at sizes, and shows the first.
func (s *site) shard(t testing.TB, host string, key byte, sizes ...uint64) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "log")
	b, err := generate.NewBuilder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, size := range sizes {
		for b.Size() < size {
			if err := b.Add(fmt.Appendf(nil, "%s %d", host, b.Size())); err != nil {
				t.Fatal(err)
			}
		}
		note, err := parcel.SignNote(generate.CheckpointText(host, size, b.Root()), host, labKey(key))
		if err == nil {
			err = b.Publish(note)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := generate.Rewind(dir, sizes[0]); err != nil {
		t.Fatal(err)
	}
	s.logs[host] = dir
	s.named = append(s.named, named{base: "http://" + host + ":" + s.port, key: labKey(key).Public(), start: s.l.now.AddDate(-1, 0, 0)})
}

// TestFollowNewShard mirrors the logs a trusted root names, with no log configured on either side: the one that is there, then the one
// that takes its place, from the parcel that brings the trust in it. A log of that root that is not tiled is passed over.
func TestFollowNewShard(t *testing.T) {
	l := newLab(t)
	s := newSite(t, l)
	l.ec.Follow, l.mc.Follow = []Follow{{TUF: "site"}}, []Follow{{TUF: "site"}}
	s.shard(t, "127.0.0.1", 21, 300, 400)
	s.named = append(s.named, named{base: "http://127.0.0.2:" + s.port, key: labKey(23).Public(), start: l.now}) // answers 404
	s.publish(t)
	l.reopen()
	report, err := l.out.Pull(context.Background())
	if err != nil || len(report.Logs) != 2 || report.Logs[0].To != 300 || report.Logs[1].Skipped == "" {
		t.Fatalf("%+v, %v", report, err)
	}
	t.Log("passed over:", report.Logs[1].Skipped)
	l.load(l.export(0))
	if h, err := l.in.Head("127.0.0.1"); err != nil || h.Size != 300 {
		t.Fatal(h.Size, err)
	}

	s.named[0].end = l.now
	s.shard(t, "localhost", 22, 100)
	s.publish(t)
	l.now = l.now.Add(time.Hour)
	l.pull()
	r := l.load(l.export(0))
	changes := strings.Join(r.Transfers[0].TUF[0].Changes, "\n")
	if h, err := l.in.Head("localhost"); err != nil || h.Size != 100 {
		t.Fatal(h.Size, err)
	}
	for _, want := range []string{"rekor log localhost, key", "came", "rekor log 127.0.0.1", "until"} {
		if !strings.Contains(changes, want) {
			t.Errorf("no %q in %s", want, changes)
		}
	}
	t.Log(changes)

	// The first shard has ended. It grows all the same: an alarm, and nothing of it moves; the other one goes on.
	if err := generate.Rewind(s.logs["127.0.0.1"], 400); err != nil {
		t.Fatal(err)
	}
	l.now = l.now.Add(time.Hour)
	l.pull()
	_, err = l.in.Import(context.Background(), l.export(0))
	if ExitCode(err) != 60 || !strings.Contains(err.Error(), "ended") {
		t.Fatal(err)
	}
	t.Log(err)
	if h, err := l.in.Head("127.0.0.1"); err != nil || h.Size != 300 {
		t.Fatal(h.Size, err)
	}
	l.reopen() // what was learnt comes back from what is stored
	if l.in.log("localhost") == nil || l.in.log("127.0.0.1") == nil || l.in.log("other.example") != nil {
		t.Fatal("what was learnt is gone")
	}
}

// TestQuarantineEndsByTrust carries a log nobody inside knows; its files wait, until the parcel that brings the trusted root.
func TestQuarantineEndsByTrust(t *testing.T) {
	l := newLab(t)
	s := newSite(t, l)
	s.shard(t, "127.0.0.1", 21, 300, 400)
	s.publish(t)
	vkey, err := parcel.VerifierKey("127.0.0.1", labKey(21).Public())
	if err != nil {
		t.Fatal(err)
	}
	carried := l.ec.TUF
	l.ec.TUF, l.ec.Logs = nil, []LogConfig{{Origin: "127.0.0.1", VKey: vkey, Source: s.logs["127.0.0.1"]}}
	l.mc.Follow = []Follow{{TUF: "site"}}
	l.reopen()
	l.pull()
	if _, err := l.in.Import(context.Background(), l.export(0)); ExitCode(err) != 60 {
		t.Fatal(err)
	}
	waiting, err := l.in.Quarantine()
	if err != nil || len(waiting) != 1 {
		t.Fatal(waiting, err)
	}
	l.ec.TUF = carried
	l.reopen()
	if err := generate.Rewind(s.logs["127.0.0.1"], 400); err != nil {
		t.Fatal(err)
	}
	l.pull()
	_, err = l.in.Import(context.Background(), l.export(0))
	if err != nil && ExitCode(err) != 60 { // the newer part may have waited behind the older one
		t.Fatal(err)
	}
	if _, err := l.in.Import(context.Background(), []string{l.medium}); err != nil && ExitCode(err) != 10 {
		t.Fatal(err)
	}
	h, err := l.in.Head("127.0.0.1")
	if waiting, qerr := l.in.Quarantine(); err != nil || h.Size != 400 || qerr != nil || len(waiting) != 0 {
		t.Fatal(h.Size, err, waiting, qerr)
	}
}

// TestTrustGivesKeys believes configured logs by what the imported trusted root says, a shard of Rekor v1 by its host.
func TestTrustGivesKeys(t *testing.T) {
	l := tufLab(t)
	const shard1 = "rekor.sigstore.dev - 2605736670972794746"
	l.mc.Logs = []LogConfig{{Origin: shard1, Trust: "public-good"}, {Origin: "other.example", Trust: "public-good"}}
	l.reopen()
	l.state(t, 2)
	l.pull()
	if l.in.log(shard1) != nil {
		t.Fatal("a log is known before its trust was imported")
	}
	l.load(l.export(0))
	known := l.in.log(shard1)
	if known == nil || l.in.log("other.example") != nil || l.in.log("rekor.sigstore.dev - x") != nil {
		t.Fatal("wrong logs are known")
	}
	notes, _ := filepath.Glob(filepath.Join(publicData(t, "rekor-v1-cosigned-checkpoints"), "*.checkpoint"))
	opened := 0
	for _, n := range notes {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if c, err := known.open(b); err == nil && c.Origin == shard1 {
			opened++
		} else {
			t.Error(n, err)
		}
	}
	if opened != 16 {
		t.Fatalf("%d of %d", opened, len(notes))
	}
	t.Logf("%d real checkpoints of Rekor v1 open by the key of the imported trusted root", opened)
	for name, spoil := range map[string]func(*Config){
		"no such repository": func(c *Config) { c.Logs = []LogConfig{{Origin: "x", Trust: "none"}} },
		"key and trust":      func(c *Config) { c.Logs[0].VKey = l.vkey },
		"follow of nothing":  func(c *Config) { c.Follow = []Follow{{TUF: "none"}} },
		"thresholds":         func(c *Config) { c.TUF[0].Stale = freshness.Thresholds{Warn: 2, DenyNew: 1} },
	} {
		c := l.mc
		c.Logs, c.TUF = append([]LogConfig{}, c.Logs...), append([]TUFConfig{}, c.TUF...)
		spoil(&c)
		if m, err := Open(c); !errors.Is(err, ErrConfig) {
			t.Errorf("%s: %v", name, err)
			m.Close()
		}
	}
}

// TestThresholds: ages become levels, and levels deny.
func TestThresholds(t *testing.T) {
	day := 24 * time.Hour
	th := freshness.Thresholds{Warn: 7 * day, DenyNew: 30 * day, DenyAll: 90 * day}
	at := state2At
	for age, want := range map[time.Duration]freshness.Level{0: freshness.Fresh, 7 * day: freshness.Fresh, 8 * day: freshness.Warn, 31 * day: freshness.DenyNew, 91 * day: freshness.DenyAll} {
		l := th.Of(age)
		if l != want {
			t.Errorf("%v: %s", age, l)
		}
		old, newer := l.Allow(at.Add(-time.Hour), at), l.Allow(at.Add(time.Hour), at)
		if (old != nil) != (want == freshness.DenyAll) || (newer != nil) != (want == freshness.DenyAll || want == freshness.DenyNew) {
			t.Errorf("%s: %v, %v", l, old, newer)
		}
		if newer != nil && ExitCode(newer) != 50 {
			t.Error(newer)
		}
	}
	l := tufLab(t)
	l.mc.TUF[0].Stale = th
	l.reopen()
	if s, err := l.in.TUFStatuses(); err != nil || s[0].Level != freshness.DenyAll || !errors.Is(s[0].Err(), freshness.ErrStale) {
		t.Fatal(s, err) // nothing imported is the oldest state of all
	}
	l.state(t, 2)
	l.pull()
	l.load(l.export(0))
	for days, want := range map[int]freshness.Level{1: freshness.Fresh, 10: freshness.Warn, 40: freshness.DenyNew, 100: freshness.DenyAll} {
		l.now = state2At.AddDate(0, 0, days)
		s, err := l.in.TUFStatuses()
		if err != nil || s[0].Level != want {
			t.Errorf("after %d days: %+v, %v", days, s, err)
		}
	}
}

// TestKilledWithTrust kills imports of a parcel that carries a log and the trust that explains it, at every stage, and lets each go on.
func TestKilledWithTrust(t *testing.T) {
	calm := newLab(t)
	s := newSite(t, calm)
	s.shard(t, "127.0.0.1", 21, 600)
	s.publish(t)
	calm.ec.Logs = []LogConfig{{Origin: "127.0.0.1", Trust: "site", Source: s.logs["127.0.0.1"]}}
	calm.mc.Logs = []LogConfig{{Origin: "127.0.0.1", Trust: "site"}}
	calm.reopen()
	calm.pull()
	files := calm.export(0)
	calm.load(files)
	want := calm.content()

	l := newLab(t)
	l.mc.Logs, l.mc.TUF = calm.mc.Logs, calm.mc.TUF
	if err := os.CopyFS(l.medium, os.DirFS(calm.medium)); err != nil {
		t.Fatal(err)
	}
	pinned := filepath.Join(l.dir, "pinned.json")
	if err := os.WriteFile(pinned, calm.mc.TUF[0].Root, 0o644); err != nil {
		t.Fatal(err)
	}
	l.inDB.Close()
	kills := 0
	for n := 1; ; n++ {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "REDOUBT_TEST_KILL="+strings.Join([]string{strconv.Itoa(n), l.dir, l.vkey, "127.0.0.1", "site:" + pinned}, "\t"))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		killed := errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL
		if err != nil && !killed {
			t.Fatalf("run %d: %v: %s", n, err, out)
		}
		l.reopenDB()
		_, terr := l.in.TUF("site")
		if _, herr := l.in.Head("127.0.0.1"); (terr == nil) != (herr == nil) {
			t.Fatalf("run %d: trust and log moved apart: %v, %v", n, terr, herr)
		}
		if r, err := l.in.Reconcile(context.Background()); err != nil || r.Err() != nil {
			t.Fatalf("run %d: %v, %v", n, err, r.Err())
		}
		if !killed {
			break
		}
		l.inDB.Close()
		kills++
	}
	if got := l.content(); got != want {
		t.Fatal("the final state differs from that of an undisturbed import")
	}
	if h, err := l.in.TrustHistory("site"); err != nil || len(h) != 1 {
		t.Fatalf("%d changes, %v", len(h), err)
	}
	if kills < 5 {
		t.Fatalf("only %d kills", kills)
	}
	t.Logf("%d kills, one history entry", kills)
}

// FuzzTUF offers anything as metadata of a repository: nothing panics, and what is taken is what the pinned root leads to.
func FuzzTUF(f *testing.F) {
	data := publicData(f, "tuf-public-good")
	files := make(map[string][]byte)
	for as, from := range map[string]string{"root": "root/6.root.json", "timestamp": "timestamp/78.timestamp.json", "snapshot": "snapshot/78.snapshot.json", "targets": "targets/6.targets.json"} {
		b, err := os.ReadFile(filepath.Join(data, "metadata", from))
		if err != nil {
			f.Fatal(err)
		}
		files[as] = b
		f.Add(as, b)
	}
	f.Add("timestamp", []byte(`{"signed":{"_type":"timestamp","version":79,"expires":"2030-01-01T00:00:00Z","meta":{}},"signatures":[]}`))
	f.Add("root", []byte(`{"signed":{"_type":"root","version":6,"keys":{"a":{}},"roles":{"root":{"keyids":["a"],"threshold":1}}},"signatures":[]}`))
	known, err := knownTUF([]TUFConfig{{Name: "public-good", Root: realRoot(f, "tuf-public-good", 5), Floors: oldFloors}})
	if err != nil {
		f.Fatal(err)
	}
	held, err := known["public-good"].held(nil, nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, role string, b []byte) {
		state, err := known["public-good"].verify(context.Background(), held, state2At, func(_ context.Context, ask tufAsk) ([]byte, error) {
			if ask.role == "root" && ask.version > 6 {
				return nil, os.ErrNotExist
			}
			if ask.role == role {
				return b, nil
			}
			return files[ask.role], nil
		})
		if err == nil && state.versions != (parcel.Versions{Root: 6, Timestamp: 78, Snapshot: 78, Targets: 6}) {
			t.Fatalf("%v was taken", state.versions)
		}
		if err != nil && ExitCode(err) == 1 {
			t.Fatal(err)
		}
		_, _ = readTrusted(b)
	})
}
