package ceremony

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/ca/lint"
	"redoubt.internal/hsm"
	"redoubt.internal/hsm/pkcs11"
	"redoubt.internal/hsm/soft"
)

// softToken opens a token of key files in a fresh directory.
func softToken(t testing.TB) (dir string, open func(context.Context, string) (hsm.Token, error)) {
	t.Helper()
	dir = t.TempDir()
	pass := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(pass, []byte("ceremony test passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	tok, err := soft.Open(soft.Config{PassphraseFile: pass, Dir: dir, WorkFactor: 10})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	return dir, func(context.Context, string) (hsm.Token, error) { return tok, nil }
}

func softURI(role string) string { return "soft:" + role + ".key" }

// quick is the default plan without the slow RSA key.
func quick() Plan {
	p := Default("corp.internal", softURI)
	p.Keys.OIDC.Algorithm = hsm.ECDSAP256
	return p
}

func run1(t testing.TB, p Plan) *Transcript {
	t.Helper()
	_, open := softToken(t)
	tr, err := Run(t.Context(), p, open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestDefaultCeremony(t *testing.T) {
	dir, open := softToken(t)
	plan := Default("corp.internal", softURI)
	var steps []string
	tr, err := Run(t.Context(), plan, open, nil, func(s string) { steps = append(steps, s) })
	if err != nil {
		t.Fatal(err)
	}
	if len(steps) != len(tr.Body.Steps) || len(steps) != 2+10+3+1+1 {
		t.Errorf("%d steps told, %d recorded: %q", len(steps), len(tr.Body.Steps), steps)
	}
	for role, alg := range map[string]hsm.Algorithm{RoleRoot: hsm.ECDSAP384, RoleIssuing: hsm.ECDSAP256, RoleOIDC: hsm.RSA3072, RoleRekor: hsm.ECDSAP256, RoleRekor2: hsm.ECDSAP256} {
		k, ok := tr.Key(role)
		if !ok || k.Info.Algorithm != alg || !k.Info.Software || len(k.Info.Evidence) == 0 {
			t.Errorf("%s key: %+v", role, k.Info)
		}
	}
	// What the Sigstore profile and RFC 3161 ask of the chains, by the standard library.
	issuing, root := tr.IssuingChain()[0], tr.IssuingChain()[1]
	roots := x509.NewCertPool()
	roots.AddCert(root)
	if _, err := issuing.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}}); err != nil {
		t.Errorf("issuing chain: %v", err)
	}
	if !issuing.IsCA || !issuing.MaxPathLenZero || root.MaxPathLen != 2 || len(root.ExtKeyUsage) != 0 {
		t.Errorf("constraints: issuing %v %v, root %d %v", issuing.IsCA, issuing.MaxPathLenZero, root.MaxPathLen, root.ExtKeyUsage)
	}
	tsa := tr.TSAChain()
	if len(tsa) != 2 {
		t.Fatalf("TSA chain of %d", len(tsa))
	}
	if _, err := tsa[0].Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageTimeStamping}}); err != nil {
		t.Errorf("TSA chain: %v", err)
	}
	if d := tr.Certificates()[1].Description; d == nil || d.Subject.CommonName != "Redoubt Issuing CA" || d.Subject.Organization != "corp.internal" {
		t.Errorf("description %+v", d)
	}

	// The result is written once and can be verified from the files alone.
	out := filepath.Join(t.TempDir(), "pki")
	if err := tr.Write(out); err != nil {
		t.Fatal(err)
	}
	if err := tr.Write(out); !errors.Is(err, ErrResultExists) {
		t.Errorf("second Write: %v", err)
	}
	if err := CheckFree(out); !errors.Is(err, ErrResultExists) {
		t.Errorf("CheckFree: %v", err)
	}
	data, err := os.ReadFile(filepath.Join(out, TranscriptFile))
	if err != nil {
		t.Fatal(err)
	}
	again, err := Verify(data)
	if err != nil {
		t.Fatal(err)
	}
	if !again.Certificate(RoleRoot).Equal(root) {
		t.Error("verified transcript has another root")
	}
	if out, err := exec.Command("openssl", "verify", "-x509_strict", "-CAfile", filepath.Join(out, RootFile), "-purpose", "any", filepath.Join(out, CAChainFile)).CombinedOutput(); err != nil {
		t.Errorf("openssl: %v: %s", err, out)
	}

	// A second ceremony over the same keys makes nothing.
	before, _ := os.ReadDir(dir)
	if _, err := Run(t.Context(), plan, open, nil, nil); !errors.Is(err, ErrKeyExists) {
		t.Errorf("second ceremony: %v", err)
	}
	if after, _ := os.ReadDir(dir); len(after) != len(before) {
		t.Error("a refused ceremony made keys")
	}
}

func TestOneExistingKeyStopsBeforeTheFirst(t *testing.T) {
	dir, open := softToken(t)
	tok, _ := open(t.Context(), "")
	if _, err := tok.Generate(t.Context(), softURI(RoleExporter), hsm.Ed25519); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(t.Context(), quick(), open, nil, nil); !errors.Is(err, ErrKeyExists) || !strings.Contains(err.Error(), "exporter") {
		t.Errorf("got %v", err)
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 1 {
		t.Errorf("%d key files", len(entries))
	}
}

func TestFailureNamesKeysMade(t *testing.T) {
	_, open := softToken(t)
	calls := 0
	_, err := Run(t.Context(), quick(), func(ctx context.Context, uri string) (hsm.Token, error) {
		if calls++; calls > 10+2 {
			return nil, hsm.ErrUnavailable
		}
		return open(ctx, uri)
	}, nil, nil)
	if !errors.Is(err, hsm.ErrUnavailable) || !strings.Contains(err.Error(), "root soft:root.key, issuing soft:issuing.key") || strings.Contains(err.Error(), "rekor soft:") {
		t.Errorf("got %v", err)
	}
}

func TestTSAIntermediate(t *testing.T) {
	p := quick()
	p.Keys.TSAIntermediate = &KeyPlan{softURI(RoleTSAIntermediate), hsm.ECDSAP384}
	p.Certificates.TSAIntermediate = &CertificatePlan{"Redoubt Time Stamping CA", 3000}
	chain := run1(t, p).TSAChain()
	if len(chain) != 3 || chain[0].CheckSignatureFrom(chain[1]) != nil || chain[1].CheckSignatureFrom(chain[2]) != nil {
		t.Errorf("chain of %d", len(chain))
	}
}

func TestEveryAlgorithmCanBeRoot(t *testing.T) {
	for _, alg := range []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.RSA3072, hsm.Ed25519} {
		p := quick()
		p.Keys.Root.Algorithm = alg
		if root := run1(t, p).Certificate(RoleRoot); root.CheckSignatureFrom(root) != nil {
			t.Errorf("%s: root does not verify", alg)
		}
	}
}

func TestValidityNestsAtTheEdge(t *testing.T) {
	p := quick()
	p.Certificates.Issuing.Days, p.Certificates.TSA.Days = p.Certificates.Root.Days, p.Certificates.Root.Days
	at := time.Date(2026, 11, 20, 23, 59, 59, 999999999, time.UTC)
	_, open := softToken(t)
	now := at
	tr, err := Run(t.Context(), p, open, func() time.Time { now = now.Add(1700 * time.Millisecond); return now }, nil)
	if err != nil {
		t.Fatal(err)
	}
	root, issuing := tr.Certificate(RoleRoot), tr.Certificate(RoleIssuing)
	if issuing.NotAfter.After(root.NotAfter) || issuing.NotBefore.Before(root.NotBefore) {
		t.Errorf("issuing %s..%s, root %s..%s", issuing.NotBefore, issuing.NotAfter, root.NotBefore, root.NotAfter)
	}
}

// The same ceremony in a real PKCS#11 token: evidence reaches the transcript.
func TestCeremonyInSoftHSM(t *testing.T) {
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	base := t.TempDir()
	conf, tokens, pin := filepath.Join(base, "conf"), filepath.Join(base, "tokens"), filepath.Join(base, "pin")
	for _, err := range []error{
		os.Mkdir(tokens, 0o700), os.WriteFile(pin, []byte("4711-quail"), 0o600),
		os.WriteFile(conf, fmt.Appendf(nil, "directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens), 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "ceremony", "--so-pin", "12345678", "--pin", "4711-quail").CombinedOutput(); err != nil {
		t.Fatalf("softhsm2-util (apt-get install softhsm2): %v: %s", err, out)
	}
	tok, err := pkcs11.Open(pkcs11.Config{URI: "pkcs11:token=ceremony?module-path=" + module, PINFile: pin})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	plan := Default("corp.internal", func(role string) string { return "pkcs11:token=ceremony;object=redoubt-" + role })
	tr, err := Run(t.Context(), plan, func(context.Context, string) (hsm.Token, error) { return tok, nil }, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	data, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(data, []byte("4711-quail")) {
		t.Error("transcript shows the PIN")
	}
	k, _ := tr.Key(RoleRoot)
	if k.Info.Kind != "pkcs11" || k.Info.Attributes["never-extractable"] != "true" || !strings.Contains(k.Info.Module, "sha256:") || !strings.Contains(strings.Join(k.Info.Evidence, " "), "CKA_LOCAL") {
		t.Errorf("evidence of the root key: %+v", k.Info)
	}
	if _, err := Run(t.Context(), plan, func(context.Context, string) (hsm.Token, error) { return tok, nil }, nil, nil); !errors.Is(err, ErrKeyExists) {
		t.Errorf("second ceremony: %v", err)
	}
}

// Each statement of a transcript is bound: altering it is noticed, and where a
// signature alone would do, the contradiction is noticed even when re-signed.
func TestVerifyRefusesAlteredTranscripts(t *testing.T) {
	_, open := softToken(t)
	tr, err := Run(t.Context(), quick(), open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	other := run1(t, quick())
	tok, _ := open(t.Context(), "")
	root, err := tok.Signer(t.Context(), softURI(RoleRoot))
	if err != nil {
		t.Fatal(err)
	}
	good, _ := tr.Encode()
	if _, err := Verify(good); err != nil {
		t.Fatal(err)
	}
	key := func(b *Body, role string) *KeyRecord { return b.find(t, role, "").Key }
	cert := func(b *Body, role string) *CertificateRecord { return b.find(t, "", role).Certificate }
	// Altered without the key: any of these breaks the signature, or the chain of steps.
	for name, change := range map[string]func(*Transcript){
		"evidence":  func(c *Transcript) { key(&c.Body, RoleRoot).Info.Evidence[0] = "hardware" },
		"software":  func(c *Transcript) { key(&c.Body, RoleRoot).Info.Software = false },
		"lint":      func(c *Transcript) { cert(&c.Body, RoleTSA).Lint.Applied = 1 },
		"started":   func(c *Transcript) { c.Body.Opening.Started = c.Body.Opening.Started.Add(-1) },
		"signature": func(c *Transcript) { c.Signatures[0].Signature[9] ^= 1 },
	} {
		c := clone(t, tr)
		change(c)
		c.Body.relink(t)
		refuse(t, name, c, "signature does not verify")
	}
	c := clone(t, tr)
	key(&c.Body, RoleRoot).Info.Evidence[0] = "hardware"
	refuse(t, "unlinked", c, "not linked")
	// Altered and signed again by the root.
	for name, c := range map[string]struct {
		change func(*Body)
		says   string
	}{
		"plan": {func(b *Body) { b.Opening.Plan += "# more\n" }, "recorded digest"},
		"other plan": {func(b *Body) {
			b.Opening.Plan = strings.ReplaceAll(b.Opening.Plan, "corp.internal", "evil.internal")
			b.Opening.PlanDigest = hexSum([]byte(b.Opening.Plan))
		}, "domain"},
		"format":        {func(b *Body) { b.Opening.Format = "v9" }, "format"},
		"mode":          {func(b *Body) { b.Opening.Mode = "earnest" }, "mode"},
		"part":          {func(b *Body) { b.Opening.Part = PartAcceptance }, "the documents carried in"},
		"kind":          {func(b *Body) { b.Opening.Kind = Rotate }, "kind rotate"},
		"missing step":  {func(b *Body) { b.Steps = append(b.Steps[:4:4], b.Steps[5:]...) }, "steps, the plan has"},
		"renamed step":  {func(b *Body) { b.Steps[0].Name = "nothing" }, "the plan's is"},
		"swapped keys":  {func(b *Body) { b.Steps[5].Key, b.Steps[6].Key = b.Steps[6].Key, b.Steps[5].Key }, "of role"},
		"no key":        {func(b *Body) { b.Steps[5].Key = nil }, "lacks"},
		"two products":  {func(b *Body) { b.Steps[5].Request = &RequestRecord{} }, "holds more"},
		"one key twice": {func(b *Body) { k := *b.Steps[5].Key; k.Role = b.Steps[6].Key.Role; b.Steps[6].Key = &k }, "one key"},
		"fingerprint":   {func(b *Body) { b.Steps[4].Key.Info.Fingerprint = strings.Repeat("0", 64) }, "fingerprint"},
		"other key":     {func(b *Body) { b.find(t, RoleIssuing, "").Key = other.Body.find(t, RoleIssuing, "").Key }, "do not belong together"},
		"other certificate": {func(b *Body) {
			b.find(t, "", RoleIssuing).Certificate = other.Body.find(t, "", RoleIssuing).Certificate
		}, "issuing certificate"},
		"other request":     {func(b *Body) { cert(b, RoleIssuing).Request = cert(&other.Body, RoleIssuing).Request }, "do not belong together"},
		"wrong profile":     {func(b *Body) { cert(b, RoleIssuing).Lint.Profile = lint.TSAIntermediate.String() }, "the plan's is"},
		"description":       {func(b *Body) { cert(b, RoleIssuing).Description.Subject.CommonName = "Somebody" }, "description"},
		"trust":             {func(b *Body) { b.Steps[len(b.Steps)-1].Trust[0].Role = RoleTSA }, "not what the certificates mean"},
		"pem noise":         {func(b *Body) { cert(b, RoleRoot).PEM = "x\n" + cert(b, RoleRoot).PEM }, "PEM"},
		"ends before start": {func(b *Body) { b.Finished = b.Opening.Started.Add(-time.Second) }, "ends before"},
		"step too late":     {func(b *Body) { b.Steps[0].Started = b.Finished.Add(time.Hour) }, "outside its time"},
		"key too early":     {func(b *Body) { key(b, RoleRoot).Created = b.Opening.Started.Add(-time.Hour) }, "outside the ceremony"},
		"expired by then":   {func(b *Body) { b.Finished = b.Finished.AddDate(100, 0, 0) }, "was not valid"},
		"unasked approval":  {func(b *Body) { b.Opening.Approvals = []Approval{{}} }, "names no operators"},
		"unknown input":     {func(b *Body) { b.Opening.Inputs = []Input{{Name: "x", Digest: hexSum(nil)}} }, "not known"},
	} {
		altered := clone(t, tr)
		c.change(&altered.Body)
		altered.Body.relink(t)
		altered.resign(t, root)
		refuse(t, name, altered, c.says)
	}
	for name, data := range map[string][]byte{
		"empty": {}, "truncated": good[:len(good)-20], "trailing": append(bytes.Clone(good), '1'), "one more line": append(bytes.Clone(good), '\n'),
		"unknown field": bytes.Replace(good, []byte(`"signatures":`), []byte(`"more":1,"signatures":`), 1),
		"huge":          append(bytes.Clone(good), bytes.Repeat([]byte(" "), maxTranscript)...),
		"null":          []byte("null"), "no body": []byte(`{"signatures":[]}`),
	} {
		if _, err := Verify(data); !errors.Is(err, ErrTranscript) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// The file has one spelling, so that no octet of it is without meaning.
	var compact bytes.Buffer
	if err := json.Compact(&compact, good); err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(compact.Bytes()); !errors.Is(err, ErrTranscript) {
		t.Errorf("compacted: %v", err)
	}
}

// find returns the step that made a key or a certificate.
func (b *Body) find(t *testing.T, key, cert string) *Step {
	t.Helper()
	for i, s := range b.Steps {
		if key != "" && s.Key != nil && s.Key.Role == key || cert != "" && s.Certificate != nil && s.Certificate.Role == cert {
			return &b.Steps[i]
		}
	}
	t.Fatalf("no step made key %q, certificate %q", key, cert)
	return nil
}

// relink makes each step name the one before it again.
func (b *Body) relink(t *testing.T) {
	t.Helper()
	steps := b.Steps
	b.Steps = nil
	for _, s := range steps {
		previous, err := b.head()
		if err != nil {
			t.Fatal(err)
		}
		s.Number, s.Previous = len(b.Steps)+1, previous
		b.Steps = append(b.Steps, s)
	}
}

// resign has key sign the body again, under the name the first signature has.
func (tr *Transcript) resign(t *testing.T, key crypto.Signer) {
	t.Helper()
	sig, err := approval.SignStatement(Format, tr.Body, key)
	if err != nil {
		t.Fatal(err)
	}
	tr.Signatures[0].Signature = sig
}

func clone(t *testing.T, tr *Transcript) *Transcript {
	t.Helper()
	data, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	c := new(Transcript)
	if err := json.Unmarshal(data, c); err != nil {
		t.Fatal(err)
	}
	return c
}

func refuse(t *testing.T, name string, tr *Transcript, says string) {
	t.Helper()
	data, err := tr.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Verify(data); !errors.Is(err, ErrTranscript) || !strings.Contains(err.Error(), says) {
		t.Errorf("%s: got %v, want %q", name, err, says)
	}
}

// A template that lint refuses never reaches the signer's key.
func TestLintComesBeforeTheKey(t *testing.T) {
	_, open := softToken(t)
	tok, _ := open(t.Context(), "")
	key, err := tok.Generate(t.Context(), "soft:k", hsm.ECDSAP384)
	if err != nil {
		t.Fatal(err)
	}
	used := false
	spy, err := hsm.NewKey(key.Info(), key.Public(), func(context.Context, []byte, crypto.SignerOpts) ([]byte, error) {
		used = true
		return nil, errors.New("used")
	})
	if err != nil {
		t.Fatal(err)
	}
	p := quick()
	c := p.certificates()[0]
	text, err := makeRequest(key, c, p)
	if err != nil {
		t.Fatal(err)
	}
	sub, err := requestSubject(text)
	if err != nil {
		t.Fatal(err)
	}
	tmpl, err := makeTemplate(c, sub, nil, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tmpl.KeyUsage |= x509.KeyUsageDigitalSignature
	throwaway, err := throwawayKey(hsm.ECDSAP384)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := signLinted(tmpl, nil, spy.Public(), spy, throwaway, lint.Root); !errors.Is(err, lint.ErrRefused) || used {
		t.Errorf("got %v, key used: %t", err, used)
	}
}

func FuzzVerify(f *testing.F) {
	data, err := run1(f, quick()).Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"body":{},"signature":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tr, err := Verify(data)
		if err == nil && (tr.Certificate(RoleRoot) == nil || tr.Certificate(RoleTSA) == nil) {
			t.Fatal("verified without certificates")
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	data, err := run1(b, quick()).Encode()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := Verify(data); err != nil {
			b.Fatal(err)
		}
	}
}
