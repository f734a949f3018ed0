package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/appliance/cmdline"
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
	t.Parallel()
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
				t.Parallel()
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
		{rotateArgs{Role: "exporter"}, "mirror export --announce"},
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
	var c *cmdline.Error
	if errors.As(err, &c) {
		return c.Hint
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
