//go:build e2e

package verify

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.internal/appliance/verify/verifytest"
)

// cosign3 is cosign 3 beside a tournament: its own code, once for each worker, and the program itself.
type cosign3 struct {
	binary   string
	env      []string
	args     []string // what is said of every bundle
	artifact []string // what is said last
	idle     chan place
	turn     atomic.Int64
	compared atomic.Int64 // verdicts that the program was asked for too
	panics   atomic.Int64
}

type place struct {
	cosign *verifytest.Cosign
	dir    string
}

// wantCosign ends a test before its parts do one by one, where cosign could not be built.
func wantCosign(t testing.TB) {
	t.Helper()
	verifytest.Client(t, cosignProgram)
	verifytest.Client(t, verifytest.CosignCode)
}

const cosignProgram = "cosign-v3.1.3"

// judged prepares cosign for an original; why says what cosign has no form for.
func judged(t testing.TB, o original) (c *cosign3, why string) {
	t.Helper()
	dir := t.TempDir()
	file := func(name string, content []byte) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	s := o.sample
	c = &cosign3{binary: verifytest.Client(t, cosignProgram), env: []string{"HOME=" + dir, "PATH=" + os.Getenv("PATH")}, idle: make(chan place, 2)}
	tree := parseTree(t, o.source())
	switch {
	case o.apart != nil && tree["base64Signature"] == nil:
		return nil, "cosign reads no log entry from a file, it asks the log for one"
	case o.apart != nil: // its older form goes with trust in files
		c.args = []string{"verify-blob", "--offline"}
		c.env = append(c.env, olderTrust(t, s.root, file)...)
	case tree["dsseEnvelope"] != nil:
		b, err := decode(s.bundle)
		if err != nil {
			t.Fatal(err)
		}
		c.args = []string{"verify-blob-attestation", "--type", b.statement.GetPredicateType(), "--trusted-root", file("root.json", s.root)}
	default:
		c.args = []string{"verify-blob", "--trusted-root", file("root.json", s.root)}
	}
	if k := s.policy.Key; k != nil {
		c.args = append(c.args, "--key", file("key.pem", publicPEM(t, k.Public)))
	} else {
		who := s.policy.Identities[0]
		c.args = append(c.args, "--certificate-identity", who.SAN, "--certificate-oidc-issuer", who.Issuer)
	}
	switch name, digest, _ := strings.Cut(s.digest, ":"); {
	case s.digest == "":
		c.artifact = []string{file("artifact", s.artifact)}
	case c.args[0] == "verify-blob":
		c.artifact = []string{s.digest}
	default:
		c.artifact = []string{"--digestAlg", name, "--digest", digest}
	}
	for range cap(c.idle) {
		c.idle <- place{verifytest.StartCosign(t, c.env), t.TempDir()}
	}
	return c, ""
}

// olderTrust is what a trusted root holds, in the files that cosign's environment names.
func olderTrust(t testing.TB, trusted []byte, file func(string, []byte) string) []string {
	t.Helper()
	tr, err := root.NewTrustedRootFromJSON(trusted)
	if err != nil {
		t.Fatal(err)
	}
	var chain, rekor, ct []byte
	for _, ca := range tr.FulcioCertificateAuthorities() {
		ca := ca.(*root.FulcioCertificateAuthority)
		for _, cert := range append(ca.Intermediates, ca.Root) {
			chain = append(chain, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})...)
		}
	}
	for _, l := range tr.RekorLogs() {
		rekor = publicPEM(t, l.PublicKey)
	}
	for _, l := range tr.CTLogs() {
		ct = publicPEM(t, l.PublicKey)
	}
	return []string{"SIGSTORE_ROOT_FILE=" + file("chain.pem", chain), "SIGSTORE_REKOR_PUBLIC_KEY=" + file("rekor.pem", rekor), "SIGSTORE_CT_LOG_PUBLIC_KEY_FILE=" + file("ct.pem", ct)}
}

// verify asks cosign's code. Of every sixty-first bundle, and of each that is accepted here, the program must say the same in the same words.
func (c *cosign3) verify(t testing.TB, bundle []byte, ours error) error {
	at := <-c.idle
	defer func() { c.idle <- at }()
	path := filepath.Join(at.dir, "bundle.json")
	if err := os.WriteFile(path, bundle, 0o600); err != nil {
		t.Error(err)
	}
	args := slices.Concat(c.args, []string{"--bundle", path}, c.artifact)
	verdict := at.cosign.Verify(t, args...)
	if errors.Is(verdict, verifytest.ErrPanic) {
		c.panics.Add(1)
	}
	if c.turn.Add(1)%61 == 0 || ours == nil {
		c.compared.Add(1)
		if err := c.compare(args, verdict); err != nil {
			t.Error(err)
		}
	}
	return verdict
}

// compare holds a verdict to the program's.
func (c *cosign3) compare(args []string, verdict error) error {
	program := exec.Command(c.binary, args...)
	program.Env = c.env
	verifytest.Offline(program)
	said, err := program.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 0) {
		return err
	}
	plain := func(s string) string { return strings.ReplaceAll(s, "\u00a0", " ") } // protobuf strews them in its errors, in each program otherwise
	if (verdict == nil) != (err == nil) || verdict != nil && !strings.Contains(plain(string(said)), plain(verdict.Error())) {
		return fmt.Errorf("cosign's code: %v; the program: %v\n%s", verdict, err, bytes.TrimSpace(said))
	}
	return nil
}

// TestMutantsBesideCosign says of cosign 3 what TestTortureMutants says of sigstore-go. REDOUBT_TORTURE shows it every mutant, else one of thirty-one.
func TestMutantsBesideCosign(t *testing.T) {
	torture, stride := os.Getenv("REDOUBT_TORTURE") != "", 31
	if torture {
		stride = 1
	}
	wantCosign(t)
	shown, both, compared, panics, strict := 0, 0, 0, 0, map[string]int{}
	all := originals(t)
	for _, o := range all {
		t.Run(o.name, func(t *testing.T) {
			c, why := judged(t, o)
			if why != "" {
				t.Logf("not shown: %s", why)
				return
			}
			if err := c.verify(t, o.source(), nil); err != nil {
				t.Fatal(err)
			}
			n := newTournament(t, o, nil)
			n.peer, n.theirs = "cosign", func(source []byte, _ sample, ours error) error { return c.verify(t, source, ours) }
			n.run(t, stride, false, true)
			n.report(t)
			alone := 0
			for why, k := range n.stricter {
				strict[why], alone = strict[why]+k, alone+k
			}
			t.Logf("%d mutants shown, %d accepted by both, %d by cosign alone; the program agrees on %d", n.mutants+n.spellings, n.both, alone, c.compared.Load())
			shown, both, compared, panics = shown+n.mutants+n.spellings, both+n.both, compared+int(c.compared.Load()), panics+int(c.panics.Load())
		})
	}
	t.Logf("%d mutants shown to cosign, %d accepted by both; %d verdicts compared with the program's, %d panics", shown, both, compared, panics)
	for _, why := range slices.Sorted(maps.Keys(strict)) {
		t.Logf("%5d accepted by cosign alone: %s", strict[why], why)
	}
	if torture && len(all) > 10 && shown < 100_000 {
		t.Errorf("only %d mutants", shown)
	}
}

// TestMutantsBesideCosignControl: cosign catches a verifier that does not look at one field, and a verdict that is not the program's is noticed.
func TestMutantsBesideCosignControl(t *testing.T) {
	wantCosign(t)
	spots := blind(t)
	for _, name := range []string{"signature", "certificate", "payload", "promise", "checkpoint", "timestamp"} {
		o := original{name: name, sample: spots[name].sample}
		c, _ := judged(t, o)
		n := newTournament(t, o, spots[name].field)
		n.peer, n.theirs = "cosign", func(source []byte, _ sample, _ error) error { return c.verify(t, source, errNotAsked) }
		n.run(t, 17, false, false)
		if len(n.forged) == 0 || !strings.Contains(n.forged[0], "accepted here alone; cosign") {
			t.Errorf("a verifier that does not look at the %s passes %d mutants: %.300s", name, n.mutants, n.forged)
		}
	}
	o := original{sample: spots["signature"].sample}
	c, _ := judged(t, o)
	at := <-c.idle
	path := filepath.Join(at.dir, "bundle.json")
	args := slices.Concat(c.args, []string{"--bundle", path}, c.artifact)
	for _, bundle := range [][]byte{o.sample.bundle, []byte("{}")} {
		if err := os.WriteFile(path, bundle, 0o600); err != nil {
			t.Fatal(err)
		}
		said, wrong := at.cosign.Verify(t, args...), []error{errNotAsked}
		if said != nil {
			wrong = append(wrong, nil)
		}
		if err := c.compare(args, said); err != nil || (said == nil) != bytes.Equal(bundle, o.sample.bundle) {
			t.Errorf("%.40s: %v, %v", bundle, said, err)
		}
		for _, w := range wrong {
			if c.compare(args, w) == nil {
				t.Errorf("nobody notices that %v is not what the program says: %v", w, said)
			}
		}
	}
}

var errNotAsked = errors.New("not asked")
