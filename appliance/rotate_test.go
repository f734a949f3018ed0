package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/ca/ceremony"
	"redoubt.internal/ca/trust"
	"redoubt.internal/hsm"
)

// dieAtVariable names the point of a rotation at which the process a test started ends, as if by kill -9.
const (
	dieAtVariable = "REDOUBT_TEST_DIE_AT"
	exitDied      = 99
)

func dieAt(at string) func(string) {
	return func(point string) {
		if at != "" && point == at {
			os.Exit(exitDied)
		}
	}
}

// newStateDir is a stopped state directory of its own.
func newStateDir(t testing.TB) layout {
	t.Helper()
	from, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	dir := layout{filepath.Join(t.TempDir(), "state")}
	if err := copyState(filepath.Join(from, "state"), dir.root); err != nil {
		t.Fatal(err)
	}
	return dir
}

// redoubt runs a verb on dir in a process of its own and returns its exit code and what it printed.
func redoubt(t testing.TB, dir layout, dieAt string, args ...string) (int, []byte) {
	t.Helper()
	command := exec.Command("redoubt", append(args, "--dir", dir.root)...)
	command.Env = append(os.Environ(), dieAtVariable+"="+dieAt)
	var stderr strings.Builder
	command.Stderr = &stderr
	out, err := command.Output()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		if exit.ExitCode() != exitDied {
			t.Logf("redoubt %s: exit code %d: %s", strings.Join(args, " "), exit.ExitCode(), stderr.String())
		}
		return exit.ExitCode(), out
	case err != nil:
		t.Fatal(err)
	}
	return 0, out
}

// published is the trusted root in the trust repository of dir.
func published(t testing.TB, dir layout) *root.TrustedRoot {
	t.Helper()
	repository, err := trust.Open(trust.RepositoryConfig{Dir: dir.tuf()})
	if err != nil {
		t.Fatal(err)
	}
	data, err := repository.Target(trust.TrustedRootName)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// TestRotationDies: wherever the process ends, the state opens as the old or the new one, and the same verb again completes it: one
// rotation, not two.
func TestRotationDies(t *testing.T) {
	authorities := func(r *root.TrustedRoot) int { return len(r.FulcioCertificateAuthorities()) }
	rekors := func(r *root.TrustedRoot) int { return len(r.RekorLogs()) - 1 }
	for _, test := range []struct {
		role, next string
		points     []string
		trusted    func(*root.TrustedRoot) int // instances of the role's kind in the trusted root
	}{
		{roleIssuing, "issuing-2", []string{"planned", "certified", "made", "announced", "recorded", "active", "settled", "published"}, authorities},
		{roleRekor, "rekor-3", []string{"key", "made", "active"}, rekors},
		{roleCT, "ct-2", []string{"made"}, func(r *root.TrustedRoot) int { return len(r.CTLogs()) }},
		{roleTUF, "tuf-2", []string{"made", "announced", "active"}, nil},
	} {
		for _, point := range test.points {
			t.Run(test.role+" "+point, func(t *testing.T) {
				dir := newStateDir(t)
				if code, _ := redoubt(t, dir, point, "keys", "rotate", test.role); code != exitDied {
					t.Fatalf("exit code %d: the rotation has no such point", code)
				}
				if code, out := redoubt(t, dir, "", "keys", "check"); code != 0 {
					t.Fatalf("what the crash left does not open: exit code %d\n%s", code, out)
				}
				if code, _ := redoubt(t, dir, "", "keys", "rotate", test.role); code != 0 {
					t.Fatalf("the same verb again: exit code %d", code)
				}
				h, err := readHistory(dir)
				if err != nil || h.Unpublished != "" {
					t.Errorf("unpublished %q, %v", h.Unpublished, err)
				}
				var states []string
				for _, k := range h.of(test.role) {
					states = append(states, k.Name+" "+k.State)
				}
				if want := []string{test.role + " retired", test.next + " active"}; !slices.Equal(states, want) {
					t.Errorf("after the second run %v, want %v", states, want)
				}
				if test.trusted != nil {
					if n := test.trusted(published(t, dir)); n != 2 {
						t.Errorf("the published trusted root has %d of them, want 2", n)
					}
				}
				if code, out := redoubt(t, dir, "", "log", "fsck"); code != 0 {
					t.Errorf("fsck: exit code %d\n%s", code, out)
				}
			})
		}
	}
}

// TestRotationRefuses: what cannot be rotated, or not to there, is refused with its reason and leaves no trace.
func TestRotationRefuses(t *testing.T) {
	dir := newStateDir(t)
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args rotateArgs
		want string
	}{
		{rotateArgs{Role: "root"}, "ceremony"},
		{rotateArgs{Role: "audit"}, "record of this instance"},
		{rotateArgs{Role: "exporter"}, "mirror.exporters"},
		{rotateArgs{Role: "nosuch"}, "no such role"},
		{rotateArgs{Role: "issuing", Key: "soft:tsa"}, "is the key of tsa"},
		{rotateArgs{Role: "issuing", Key: "soft:issuing"}, "is the key of issuing"},
		{rotateArgs{Role: "issuing", Key: "nosuch:x"}, errScheme.Error()},
		{rotateArgs{Role: "rekor", Algorithm: hsm.RSA3072}, "the role rekor allows [ecdsa-p256]"},
		{rotateArgs{Role: "tsa", Algorithm: "dsa"}, "allows"},
		{rotateArgs{Role: "issuing", Overlap: -1}, "--overlap"},
		{rotateArgs{Role: "rekor", Chain: "/x"}, "--chain goes with --key"},
		{rotateArgs{Role: "issuing", Key: "soft:./issuing", Chain: dir.pki("ca-chain.pem")}, "is the key of issuing under another URI"},
		{rotateArgs{Role: "issuing", Key: "soft:absent", Chain: dir.pki("ca-chain.pem")}, hsm.ErrNotFound.Error()},
	} {
		_, err := rotateKey.run(t.Context(), in, "test", test.args)
		if text := fmt.Sprint(err, hintOf(err)); err == nil || !strings.Contains(text, test.want) {
			t.Errorf("%+v: %v, want %q", test.args, text, test.want)
		}
	}
	// A key that exists and is nobody's.
	if _, err := in.keys.signer(t.Context(), "soft:stray"); !errors.Is(err, hsm.ErrNotFound) {
		t.Fatal(err)
	}
	token, err := in.keys.token("soft:")
	if err != nil {
		t.Fatal(err)
	}
	stray, err := token.Generate(t.Context(), "soft:stray", hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rotateKey.run(t.Context(), in, "test", rotateArgs{Role: "ct", Key: "soft:stray"}); !errors.Is(err, hsm.ErrExists) {
		t.Errorf("onto an existing key: %v", err)
	}
	if _, err := rotateKey.run(t.Context(), in, "test", rotateArgs{Role: "issuing", Key: "soft:stray", Chain: dir.pki("ca-chain.pem")}); !errors.Is(err, errOtherKey) {
		t.Errorf("a chain over another key: %v", err)
	}
	if err := stray.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if h := in.onRecord(); len(h.Instances) != 0 || in.superseded.Load() {
		t.Errorf("refusals left %+v", h)
	}
}

// TestRotationUnderLoad: while every role that signs for clients is rotated no request fails, and what was answered stays provable.
func TestRotationUnderLoad(t *testing.T) {
	dir := newStateDir(t)
	s := serveDir(t, dir, nil)
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered, stamped atomic.Int64
	for i := range 3 {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				v1, v2 := proposals(t, fmt.Sprintf("under load %d %d", i, n))
				for path, body := range map[string][]byte{"/api/v1/log/entries": v1, "/api/v2/log/entries": v2} {
					response, err := http.Post(s.cfg.Services.Rekor.URL+path, "application/json", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					text, _ := io.ReadAll(response.Body)
					if response.Body.Close(); response.StatusCode != http.StatusCreated {
						t.Errorf("%s: %s %s", path, response.Status, text)
					}
					answered.Add(1)
				}
				response, err := http.Post(s.cfg.Services.TSA.URL+timestampPath, "application/json",
					strings.NewReader(`{"artifactHash":"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=","hashAlgorithm":"sha256","certificates":true}`))
				if err != nil {
					t.Error(err)
					return
				}
				if response.Body.Close(); response.StatusCode/100 != 2 {
					t.Errorf("timestamp: %s", response.Status)
				}
				stamped.Add(1)
			}
		})
	}
	for _, role := range []string{"rekor", "tsa", "rekor-2", "issuing", "ct", "tuf", "rekor"} {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
			t.Errorf("rotating %s: exit code %d", role, code)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d entries and %d timestamps were answered across 7 rotations", answered.Load(), stamped.Load())
	code, out := redoubt(t, dir, "", "log", "info", "-o", "json")
	var infos []logInfo
	if err := json.Unmarshal(out, &infos); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v", code, err)
	}
	var entries uint64
	for _, l := range infos {
		if shardNumber(l.Log) > 0 {
			entries += l.Size
		}
	}
	if entries != uint64(answered.Load()) {
		t.Errorf("the logs hold %d entries, %d were answered", entries, answered.Load())
	}
}

// TestBusyServer: a server that cannot part with a request keeps the old key, says so, and takes the new one up at SIGHUP.
func TestBusyServer(t *testing.T) {
	dir := newStateDir(t)
	s := serveDir(t, dir, nil)
	s.server.patience = Duration(50 * time.Millisecond)
	leave, err := s.server.gate.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := redoubt(t, dir, "", "tsa", "rotate"); code == 0 {
		t.Error("the verb says that all is well")
	}
	if name := s.server.instance().history.active(roleTSA); name != roleTSA {
		t.Errorf("it signs with %s", name)
	}
	if code, _ := redoubt(t, dir, "", "tsa", "rotate"); code == 0 {
		t.Error("a second rotation begins before the first is in force")
	}
	leave()
	s.server.reload()
	if name := s.server.instance().history.active(roleTSA); name != "tsa-2" {
		t.Errorf("after SIGHUP it signs with %s", name)
	}
	if h, err := readHistory(dir); err != nil || h.Unpublished != "" {
		t.Errorf("unpublished %q, %v", h.Unpublished, err)
	}
	if n := len(published(t, dir).TimestampingAuthorities()); n != 2 {
		t.Errorf("%d timestamp authorities are published", n)
	}
}

// TestGate: who is inside ends before the gate closes, who comes then waits until it opens, and who gives up is let go.
func TestGate(t *testing.T) {
	var g gate
	leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.close(time.Millisecond); !errors.Is(err, errBusy) {
		t.Errorf("closed on somebody: %v", err)
	}
	leave()
	if err := g.close(time.Second); err != nil {
		t.Fatal(err)
	}
	if err := g.close(time.Second); !errors.Is(err, errBusy) {
		t.Errorf("closed twice: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("entered a closed gate: %v", err)
	}
	entered := make(chan error)
	go func() {
		leave, err := g.enter(t.Context())
		if err == nil {
			leave()
		}
		entered <- err
	}()
	g.open()
	if err := <-entered; err != nil {
		t.Error(err)
	}
}

// TestDestroyedKeysOfFrozenLogs: without the key of a frozen log everything that log had signed is read on, what it would sign anew is
// 503, and the instance is ready.
func TestDestroyedKeysOfFrozenLogs(t *testing.T) {
	dir := newStateDir(t)
	t.Run("before", func(t *testing.T) {
		s := serveDir(t, dir, nil)
		v1, v2 := proposals(t, "before")
		for path, body := range map[string][]byte{"/api/v1/log/entries": v1, "/api/v2/log/entries": v2} {
			response, err := http.Post(s.cfg.Services.Rekor.URL+path, "application/json", bytes.NewReader(body))
			if err != nil || response.StatusCode != http.StatusCreated {
				t.Fatalf("%v %v", response, err)
			}
			response.Body.Close()
		}
		for _, role := range []string{"rekor", "rekor-2", "ct"} {
			if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
				t.Fatalf("exit code %d", code)
			}
		}
	})
	for _, role := range []string{"rekor", "rekor-2", "ct"} {
		if err := os.Remove(dir.path("keys", role)); err != nil {
			t.Fatal(err)
		}
	}
	s := serveDir(t, dir, nil)
	for path, want := range map[string]int{
		"/logs/rekor/checkpoint": 200, "/logs/rekor/tile/entries/000.p/1": 200, "/logs/rekor-2/checkpoint": 200,
		"/api/v1/log/entries?logIndex=0": 503, "/api/v1/log": 503, "/checkpoint": 200, "/api/v2/checkpoint": 200,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.cfg.Services.Rekor.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code, body := answer(t, request); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if checks := s.server.instance().checks(t.Context()); !ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
	if code, _ := redoubt(t, dir, "", "keys", "list"); code != 0 {
		t.Errorf("keys list: exit code %d", code)
	}
}

// TestIssuingAlgorithms: the issuing key goes through the types it does not begin with, and certificates below each verify, old ones too.
func TestIssuingAlgorithms(t *testing.T) {
	dir := newStateDir(t)
	serveDir(t, dir, nil)
	work := t.TempDir()
	artifact, token := filepath.Join(work, "file"), filepath.Join(work, "token")
	if err := os.WriteFile(artifact, []byte("a release"), 0o644); err != nil {
		t.Fatal(err)
	}
	setup, algorithms := filepath.Join(work, "setup"), []hsm.Algorithm{hsm.ECDSAP384, hsm.RSA3072, hsm.Ed25519}
	for _, alg := range algorithms {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", "issuing", "--algorithm", string(alg)); code != 0 {
			t.Fatalf("%s: exit code %d", alg, code)
		}
		if code, _ := redoubt(t, dir, "", "client", "setup", "--out", setup); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		code, jwt := redoubt(t, dir, "", "identity", "token", "--email", "dev@corp.internal")
		if code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if err := os.WriteFile(token, jwt, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("redoubt", "sign", artifact, "--setup", setup, "--identity-token", token, "--bundle", filepath.Join(work, string(alg))).CombinedOutput(); err != nil {
			t.Errorf("signing below %s: %v\n%s", alg, err, out)
		}
	}
	for _, alg := range algorithms {
		out, err := exec.Command("redoubt", "verify", artifact, "--bundle", filepath.Join(work, string(alg)), "--setup", setup, "--certificate-identity", "dev@corp.internal",
			"--certificate-oidc-issuer-regexp", ".").CombinedOutput()
		if err != nil {
			t.Errorf("verifying below %s: %v\n%s", alg, err, out)
		}
	}
}

// TestChainOfACeremony: a key and certificate that a ceremony made elsewhere are taken as they are.
func TestChainOfACeremony(t *testing.T) {
	dir := newStateDir(t)
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	root, err := readChain(dir.pki(ceremony.RootFile))
	if err != nil {
		t.Fatal(err)
	}
	plan := ceremony.Rotation(in.cfg.Domain, &ceremony.Authority{URI: "soft:root", Chain: string(pemChain(root))}, map[string]ceremony.KeyPlan{roleTSA: {URI: "soft:made-elsewhere", Algorithm: hsm.ECDSAP256}})
	plan.Certificates.TSA.CommonName = "Made Elsewhere"
	out := t.TempDir()
	if err := holdCeremony(t.Context(), plan, session(in.keys, nil), out); err != nil {
		t.Fatal(err)
	}
	chain, err := readChain(filepath.Join(out, ceremony.TSAChainFile))
	if err != nil {
		t.Fatal(err)
	}
	headless := filepath.Join(t.TempDir(), "chain.pem")
	if err := os.WriteFile(headless, pemChain(chain[:1]), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := rotateKey.run(t.Context(), in, "test", rotateArgs{Role: roleTSA, Key: "soft:made-elsewhere", Chain: headless}); !errors.Is(err, trust.ErrMaterial) || len(in.onRecord().Instances) > 0 {
		t.Errorf("a chain without its root: %v, %+v", err, in.onRecord())
	}
	result, err := rotateKey.run(t.Context(), in, "test", rotateArgs{Role: roleTSA, Key: "soft:made-elsewhere", Chain: filepath.Join(out, ceremony.TSAChainFile), Overlap: time.Hour})
	if err != nil || result.State != stateActive {
		t.Fatalf("%+v, %v", result, err)
	}
	in.close()
	if in, err = openState(t, dir); err != nil {
		t.Fatal(err)
	}
	if cn := in.tsaChain[0].Subject.CommonName; cn != "Made Elsewhere" {
		t.Errorf("timestamps are signed under %q", cn)
	}
	if err := in.finish(t.Context()); err != nil {
		t.Error(err)
	}
}

// attesting is a token whose keys attest.
type attesting struct {
	hsm.Token
	lie string // a fingerprint to state instead
}

func (a attesting) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	key, err := a.Token.Signer(ctx, uri)
	if err != nil {
		return nil, err
	}
	return key.WithAttest(func(_ context.Context, nonce []byte) (hsm.Attestation, error) {
		return hsm.Attestation{Format: "test", Fingerprint: orDefault(a.lie, key.Info().Fingerprint), Nonce: nonce, Statement: []byte("made here")}, nil
	}), nil
}

// TestAttest: what a token says that cannot attest, of another key, or without proof, is refused and not kept. testdata/script/rotate-token.txtar
// keeps what a TPM says.
func TestAttest(t *testing.T) {
	dir := newStateDir(t)
	in, err := openState(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := attestKey.run(t.Context(), in, "test", attestArgs{Role: roleIssuing}); !errors.Is(err, hsm.ErrUnsupported) || hintOf(err) == "" {
		t.Errorf("a software key: %v", err)
	}
	token, err := in.keys.token("soft:")
	if err != nil {
		t.Fatal(err)
	}
	for lie, want := range map[string]string{"": "does not verify", strings.Repeat("0", 64): "the role's is"} {
		in.keys.tokens["soft:"] = attesting{token, lie}
		if _, err := attestKey.run(t.Context(), in, "test", attestArgs{Role: roleTSA, Nonce: []byte("a challenge")}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for _, bad := range []attestArgs{{Role: "nosuch"}, {Role: roleTSA, Nonce: make([]byte, maxNonce+1)}} {
		if _, err := attestKey.run(t.Context(), in, "test", bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
	if found, err := filepath.Glob(dir.pki("*.attestation.json")); err != nil || len(found) > 0 {
		t.Errorf("kept %v, %v", found, err)
	}
}

func hintOf(err error) string {
	var c *coded
	if errors.As(err, &c) {
		return c.hint
	}
	return ""
}

// openState opens dir as a verb does, until the test ends.
func openState(t testing.TB, dir layout) (*instance, error) {
	cfg, err := loadConfig(dir.config())
	if err != nil {
		return nil, err
	}
	in, err := openInstance(t.Context(), cfg, slog.New(slog.DiscardHandler))
	if err == nil {
		t.Cleanup(in.close)
	}
	return in, err
}

// TestForeignCertificateRefused: a chain of another key than the role's keeps the instance from opening, and both files are named.
func TestForeignCertificateRefused(t *testing.T) {
	for file, other := range map[string]string{"ca-chain.pem": "tsa-chain.pem", "tsa-chain.pem": "ca-chain.pem"} {
		dir := newStateDir(t)
		foreign, err := os.ReadFile(dir.pki(other))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(dir.pki(file), foreign, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err = openState(t, dir)
		if !errors.Is(err, errOtherKey) || !strings.Contains(err.Error(), dir.pki(file)) || !strings.Contains(err.Error(), dir.config()) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// TestEditedConfigurationRefused: a key under keys.roles that the record of a rotated role does not know is an error, not a fourth key.
func TestEditedConfigurationRefused(t *testing.T) {
	dir := newStateDir(t)
	if code, _ := redoubt(t, dir, "", "keys", "rotate", "tuf"); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	edit := func(uri string) error {
		cfg, err := loadConfig(dir.config())
		if err != nil {
			t.Fatal(err)
		}
		cfg.Keys.Roles[roleTUF] = uri
		_, _, err = cfg.inForce()
		return err
	}
	if err := edit("soft:other"); err == nil || !strings.Contains(err.Error(), "pki/instances.json") {
		t.Errorf("another key: %v", err)
	}
	if err := edit("soft:tuf-2"); err != nil { // an operator who brings the file up to date
		t.Errorf("the key in use: %v", err)
	}
}

// TestAlarms: 90, 30 and 7 days before a key ends readiness warns and stays, doctor fails in the last week, metrics count down.
func TestAlarms(t *testing.T) {
	in, err := openState(t, newStateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	end := in.tsaChain[0].NotAfter
	for _, test := range []struct {
		before time.Duration
		alarm  int
	}{{100 * 24 * time.Hour, 0}, {89 * 24 * time.Hour, 90}, {29 * 24 * time.Hour, 30}, {6 * 24 * time.Hour, 7}} {
		in.now = func() time.Time { return end.Add(-test.before) }
		checks := in.endingChecks()
		i := slices.IndexFunc(checks, func(c check) bool { return c.Name == "end of tsa" })
		if c := checks[i]; c.OK != (test.alarm == 0) || c.Warning != (test.alarm > 0) || c.Urgent != (test.alarm == 7) || !ready(checks) {
			t.Errorf("%s before the end: %+v", test.before, c)
		}
		entries, err := listKeys.run(t.Context(), in, "test", struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		i = slices.IndexFunc(entries, func(e keyEntry) bool { return e.Name == roleTSA })
		if e := entries[i]; e.AlarmDays != test.alarm || !e.Until.Equal(end) || e.UntilWhat != "certificate" || e.Since.IsZero() || e.UsedBy == "" || e.Certificate == "" {
			t.Errorf("%s before the end: %+v", test.before, e)
		}
		s := &server{in: in, cfg: in.cfg, metrics: newMetrics()}
		s.registerEndings()
		families, err := s.metrics.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if len(m.Label) == 1 && m.Label[0].GetValue() == roleTSA || f.GetName() == "timestamp_authority_certificate_valid_days_remaining" {
					got[f.GetName()] = m.GetGauge().GetValue()
				}
			}
		}
		if got["redoubt_trust_alarm_days"] != float64(test.alarm) || got["redoubt_trust_expiry_seconds"] != test.before.Seconds() ||
			got["timestamp_authority_certificate_valid_days_remaining"] != test.before.Hours()/24 || got["redoubt_trust_age_seconds"] <= 0 {
			t.Errorf("%s before the end: metrics %v", test.before, got)
		}
	}
}

// TestFrozenLogsAreServed: after rotations the logs that took no more entries answer under their own names, and refuse new entries.
func TestFrozenLogsAreServed(t *testing.T) {
	dir := newStateDir(t)
	for _, role := range []string{roleCT, roleRekor, roleRekor2} {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	s := serveDir(t, dir, nil)
	get := func(url, host string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		return answer(t, request)
	}
	urls := s.in.cfg.Services
	for _, name := range []string{"rekor", "rekor-2", "rekor-3", "rekor-4"} {
		if code, body := get(urls.Rekor.URL+"/logs/"+name+"/checkpoint", ""); code != 200 || !strings.HasPrefix(body, name+".corp.internal\n") {
			t.Errorf("/logs/%s/checkpoint: %d %s", name, code, body)
		}
	}
	for name, path := range map[string]string{"rekor-3": "/checkpoint", "rekor-2": "/api/v2/checkpoint", "rekor-4": "/api/v2/checkpoint"} {
		if code, body := get(urls.Rekor.URL+path, name+".corp.internal"); code != 200 || !strings.HasPrefix(body, name+".corp.internal\n") {
			t.Errorf("http://%s%s: %d %s", name, path, code, body)
		}
	}
	if code, body := get(urls.Rekor.URL+"/api/v1/log", ""); code != 200 || strings.Count(body, `"treeID"`) != 2 {
		t.Errorf("loginfo: %d %s", code, body)
	}
	sth := map[string]string{}
	for _, name := range []string{"ct", "ct-2"} {
		code, body := get(urls.CT.URL+"/logs/"+name+"/ct/v1/get-sth", "")
		if sth[name] = body; code != 200 {
			t.Errorf("get-sth of %s: %d %s", name, code, body)
		}
		if code, byHost := get(urls.CT.URL+"/ct/v1/get-sth", name+".corp.internal"); code != 200 || byHost != body {
			t.Errorf("get-sth at the host %s: %d %s, want %s", name, code, byHost, body)
		}
	}
	if code, body := get(urls.CT.URL+"/ct/v1/get-sth", ""); code != 200 || body != sth["ct-2"] {
		t.Errorf("get-sth of the service: %d %s", code, body)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, urls.CT.URL+"/logs/ct/ct/v1/add-pre-chain", strings.NewReader(`{"chain":["AAAA"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := answer(t, request); code != http.StatusForbidden || !strings.Contains(body, "frozen") {
		t.Errorf("add-pre-chain to a frozen log: %d %s", code, body)
	}
	if checks := s.in.checks(t.Context()); !ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
}

// TestOldKeyOutsideItsWindow: what a key signs after its end in the trusted root is refused, for every kind of key and both log formats;
// within the window it verifies.
func TestOldKeyOutsideItsWindow(t *testing.T) {
	dir := newStateDir(t)
	serveDir(t, dir, nil)
	work := t.TempDir()
	artifact, setup, token := filepath.Join(work, "file"), filepath.Join(work, "setup"), filepath.Join(work, "token")
	if err := os.WriteFile(artifact, []byte("a release"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _ := redoubt(t, dir, "", "client", "setup", "--out", setup); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	run := func(args ...string) int {
		command := exec.Command("redoubt", args...)
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Logf("%s", out)
			return exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0
	}
	for _, format := range []string{"v1", "v2"} {
		code, jwt := redoubt(t, dir, "", "identity", "token", "--email", "dev@corp.internal")
		if code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if err := os.WriteFile(token, jwt, 0o600); err != nil {
			t.Fatal(err)
		}
		bundle := filepath.Join(work, format+".json")
		args := []string{"sign", artifact, "--setup", setup, "--identity-token", token, "--bundle", bundle}
		if format == "v2" {
			args = append(args, "--rekor-v2")
		}
		signed := time.Now()
		if code := run(args...); code != 0 {
			t.Fatalf("signing: exit code %d", code)
		}
		for _, kind := range []string{"certificateAuthorities", "timestampAuthorities", "ctlogs", "tlogs"} {
			for end, want := range map[time.Time]bool{signed.Add(-time.Minute): false, signed.Add(time.Hour): true} {
				trusted := filepath.Join(work, "trusted_root.json")
				endWindows(t, filepath.Join(setup, "trusted_root.json"), trusted, kind, end)
				code := run("verify", artifact, "--bundle", bundle, "--trusted-root", trusted, "--certificate-identity", "dev@corp.internal", "--certificate-oidc-issuer-regexp", ".")
				if want && code != 0 || !want && code != 20 && code != 24 {
					t.Errorf("%s: %s end %s after the signature: exit code %d", format, kind, end.Sub(signed), code)
				}
			}
		}
	}
}

// endWindows copies a trusted root and ends every instance of a kind.
func endWindows(t *testing.T, from, to, kind string, end time.Time) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	for _, instance := range document[kind].([]any) {
		at := instance.(map[string]any)
		if key, ok := at["publicKey"].(map[string]any); ok {
			at = key
		}
		window := at["validFor"].(map[string]any)
		window["end"] = end.UTC().Format(time.RFC3339)
		window["start"] = end.Add(-24 * time.Hour).UTC().Format(time.RFC3339)
	}
	if data, err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// answer sends a request and returns status and body.
func answer(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// FuzzHistory: no record makes the reader crash, and one that is taken is taken again after it was written.
func FuzzHistory(f *testing.F) {
	f.Add([]byte(`{"format":"redoubt.instances/v1","instances":[]}`))
	f.Add([]byte(`{"format":"redoubt.instances/v1","unpublished":"ct-2","instances":[{"name":"ct","role":"ct","state":"active","uri":"soft:ct"},{"name":"ct-2","role":"ct","state":"planned","uri":"soft:ct-2"}]}`))
	f.Add([]byte(`{"format":"redoubt.instances/v1","instances":[{"name":"rekor-3","role":"rekor","state":"retired","uri":"x","publicKey":"AA==","serves":["v1"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h, again history
		if h.parse(data) != nil {
			return
		}
		text, err := json.Marshal(&h)
		if err != nil {
			t.Fatal(err)
		}
		if err := again.parse(text); err != nil {
			t.Errorf("written as %s and refused: %v", text, err)
		}
	})
}
