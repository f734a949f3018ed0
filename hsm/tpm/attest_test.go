package tpm

import (
	"bytes"
	"crypto/fips140"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-tpm/tpm2"

	"redoubt.internal/hsm"
)

// endorsed starts a TPM whose maker (swtpm_localca, with keys of its own in this
// test) certified its endorsement key, and returns the maker's roots.
func endorsed(t testing.TB) (*emulator, *x509.CertPool) {
	t.Helper()
	e := newTPM(t)
	ca := filepath.Join(e.dir, "ca")
	must(t, os.Mkdir(ca, 0o700))
	write := func(name, text string) string {
		path := filepath.Join(e.dir, name)
		must(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	options := write("options", "--platform-manufacturer test\n--platform-version 1\n--platform-model test\n")
	local := write("localca.conf", "statedir = "+ca+"\nsigningkey = "+ca+"/signkey.pem\nissuercert = "+ca+"/issuercert.pem\ncertserial = "+ca+"/certserial\n")
	setup := write("setup.conf", "create_certs_tool = swtpm_localca\ncreate_certs_tool_config = "+local+"\ncreate_certs_tool_options = "+options+"\n")
	out, err := exec.Command("swtpm_setup", "--tpm2", "--tpmstate", e.dir, "--config", setup, "--create-ek-cert", "--lock-nvram", "--overwrite").CombinedOutput()
	if err != nil {
		t.Fatalf("swtpm_setup: %v\n%s", err, out)
	}
	roots := x509.NewCertPool()
	for _, name := range []string{"issuercert.pem", "swtpm-localca-rootca-cert.pem"} {
		data, err := os.ReadFile(filepath.Join(ca, name))
		must(t, err)
		if !roots.AppendCertsFromPEM(data) {
			block, _ := pem.Decode(data)
			t.Fatalf("%s: no certificate: %v", name, block)
		}
	}
	e.start()
	return e, roots
}

func attested(t testing.TB, c Config, uri string) hsm.Attestation {
	t.Helper()
	tok := open(t, c)
	key, err := tok.Generate(t.Context(), uri, hsm.ECDSAP384)
	must(t, err)
	a, err := key.Attest(t.Context(), bytes.Repeat([]byte{7}, 32))
	must(t, err)
	if a.Fingerprint != key.Info().Fingerprint {
		t.Error("attestation of another key")
	}
	must(t, tok.Close())
	return a
}

// A TPM attests its keys; the endorsement certificate leads to the maker.
func TestAttest(t *testing.T) {
	e, roots := endorsed(t)
	c := e.config()
	c.AuthFile = e.auth(testAuth)
	a := attested(t, c, "tpm:file=a.pem")
	e.empty()
	wire, err := json.Marshal(a)
	must(t, err)
	var back hsm.Attestation
	must(t, json.Unmarshal(wire, &back))
	r, err := VerifyAttestation(back, roots)
	if err != nil || !r.Endorsed || len(r.Proven) != 4 {
		t.Fatalf("%+v, %v", r, err)
	}
	t.Logf("proven %q\nclaimed %q", r.Proven, r.Claimed)
	want := "activated a credential"
	if fips140.Enforced() {
		want = "No credential was activated: FIPS"
	}
	if !slices.ContainsFunc(r.Claimed, func(s string) bool { return strings.Contains(s, want) }) {
		t.Errorf("the activation is not recorded: %q", r.Claimed)
	}
	if r, err := VerifyAttestation(a, nil); err != nil || r.Endorsed || !strings.Contains(strings.Join(r.Claimed, " "), "no endorsement certificate that leads to a given root") {
		t.Errorf("without roots: %+v, %v", r, err)
	}
	if _, err := VerifyAttestation(a, x509.NewCertPool()); !errors.Is(err, ErrAttestation) {
		t.Errorf("other roots: %v", err)
	}
}

// Without an endorsement certificate the report claims less.
func TestAttestBare(t *testing.T) {
	e := startTPM(t)
	a := attested(t, e.config(), "tpm:handle=0x81010042")
	r, err := VerifyAttestation(a, nil)
	if err != nil || r.Endorsed || len(r.Proven) != 3 || len(a.Certificates) != 0 {
		t.Fatalf("%+v, %v", r, err)
	}
	if !strings.Contains(strings.Join(r.Claimed, " "), "no endorsement certificate") {
		t.Errorf("%q", r.Claimed)
	}
	e.empty()
}

// Every octet of what an attestation proves counts.
func TestAttestMutants(t *testing.T) {
	e, roots := endorsed(t)
	a := attested(t, e.config(), "tpm:file=a.pem")
	for name, field := range map[string]func(a *hsm.Attestation) *[]byte{
		"nonce": func(a *hsm.Attestation) *[]byte { return &a.Nonce }, "public": func(a *hsm.Attestation) *[]byte { return &a.Public },
		"statement": func(a *hsm.Attestation) *[]byte { return &a.Statement }, "signature": func(a *hsm.Attestation) *[]byte { return &a.Signature },
		"attesting key": func(a *hsm.Attestation) *[]byte { return &a.AttestingKey }, "endorsement key": func(a *hsm.Attestation) *[]byte { return &a.EndorsementKey },
	} {
		for i := range len(*field(&a)) {
			b := a
			v := bytes.Clone(*field(&a))
			v[i] ^= 1 << (i % 8)
			*field(&b) = v
			if _, err := VerifyAttestation(b, roots); !errors.Is(err, ErrAttestation) {
				t.Errorf("%s, octet %d of %d changed: %v", name, i, len(v), err)
			}
		}
		for _, v := range [][]byte{nil, append(bytes.Clone(*field(&a)), 0), (*field(&a))[:len(*field(&a))-1]} {
			b := a
			*field(&b) = v
			if _, err := VerifyAttestation(b, roots); !errors.Is(err, ErrAttestation) {
				t.Errorf("%s of %d octets: %v", name, len(v), err)
			}
		}
	}
	b := a
	b.Fingerprint = strings.Repeat("0", 64)
	if _, err := VerifyAttestation(b, roots); !errors.Is(err, ErrAttestation) {
		t.Errorf("another fingerprint: %v", err)
	}
	b = a
	b.Format = "x"
	if _, err := VerifyAttestation(b, roots); !errors.Is(err, ErrAttestation) {
		t.Errorf("another format: %v", err)
	}
}

// What an unrestricted key signed is no statement of a TPM, however it looks: such
// a key signs a made-up TPMS_ATTEST.
func TestAttestForged(t *testing.T) {
	e := startTPM(t)
	tok := open(t, e.config())
	victim, err := tok.Generate(t.Context(), "tpm:file=victim.pem", hsm.ECDSAP256)
	must(t, err)
	a, err := victim.Attest(t.Context(), []byte("nonce"))
	must(t, err)
	forger := generate(t, tok, "tpm:file=forger.pem", hsm.ECDSAP256)
	f, err := readKeyFile(filepath.Join(e.dir, "keys", "forger.pem"), oidLoadable)
	must(t, err)
	public, err := publicArea(f.public)
	must(t, err)
	name, err := tpm2.ObjectName(public)
	must(t, err)
	s, err := tpm2.Unmarshal[tpm2.TPMSAttest](a.Statement)
	must(t, err)
	s.QualifiedSigner.Buffer = qualifiedPrimary(uint32(tpm2.TPMRHEndorsement), name.Buffer)
	forged := a
	forged.AttestingKey, forged.Statement = f.public, tpm2.Marshal(*s)
	sum := sha256.Sum256(forged.Statement)
	var raw tpm2.TPMTSignature
	must(t, tok.with(t.Context(), func(c *commands) error {
		session, err := c.session(false, false)
		if err != nil {
			return err
		}
		h, err := c.loadFile(f, *name)
		if err != nil {
			return err
		}
		r, err := tpm2.Sign{KeyHandle: tpm2.AuthHandle{Handle: h, Name: *name, Auth: session}, Digest: tpm2.TPM2BDigest{Buffer: sum[:]},
			InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgECDSA, Details: tpm2.NewTPMUSigScheme(tpm2.TPMAlgECDSA, &tpm2.TPMSSchemeHash{HashAlg: tpm2.TPMAlgSHA256})},
			Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck}}.Execute(c.w)
		if err == nil {
			raw = r.Signature
		}
		return err
	}))
	forged.Signature = tpm2.Marshal(raw)
	if _, err := VerifyAttestation(forged, nil); !errors.Is(err, ErrAttestation) || !strings.Contains(err.Error(), "restricted") {
		t.Errorf("forged attestation: %v", err)
	}
	_ = forger
}

func FuzzAttestation(f *testing.F) {
	if a, err := os.ReadFile("testdata/attestation.json"); err == nil {
		var v hsm.Attestation
		must(f, json.Unmarshal(a, &v))
		f.Add(v.Public, v.Statement, v.Signature, v.AttestingKey, v.EndorsementKey, v.Certificates[0])
	}
	f.Fuzz(func(t *testing.T, public, statement, signature, ak, ek, cert []byte) {
		a := hsm.Attestation{Format: AttestationFormat, Public: public, Statement: statement, Signature: signature, AttestingKey: ak, EndorsementKey: ek, Certificates: [][]byte{cert}}
		_, _ = VerifyAttestation(a, nil)
		if p, err := publicArea(public); err == nil { // past the fingerprint, as a forger would
			_, _ = publicKey(*p)
			_ = checkAttributes(p.ObjectAttributes)
			_ = checkStatement(a, p, p)
			_ = checkSignature(p, statement, signature)
		}
		_ = (&Report{}).endorsement(a, x509.NewCertPool())
	})
}

func FuzzKeyFile(f *testing.F) {
	f.Add([]byte("-----BEGIN TSS2 PRIVATE KEY-----\nMAA=\n-----END TSS2 PRIVATE KEY-----\n"))
	for _, name := range []string{"testdata/key.pem", "testdata/sealed.pem"} {
		if data, err := os.ReadFile(name); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseKeyFile(data)
		if err != nil {
			return
		}
		if p, err := publicArea(k.public); err == nil {
			_ = (&keyRef{}).pin(*p)
		}
		_, _, _, _ = parseSealSteps(k.policy)
		again, err := k.encode()
		if err != nil {
			t.Fatal(err)
		}
		k2, err := parseKeyFile(again)
		if err != nil || !bytes.Equal(k2.public, k.public) || !bytes.Equal(k2.private, k.private) || k2.parent != k.parent || k2.emptyAuth != k.emptyAuth || len(k2.policy) != len(k.policy) {
			t.Fatalf("%s became %s: %v", data, again, err)
		}
	})
}

func FuzzURI(f *testing.F) {
	f.Add("tpm:file=a.pem;device=/dev/tpmrm0")
	f.Add("tpm:handle=0x81010042")
	f.Add("tpm:nv=0x01500010;device=/run/a%3Bb")
	f.Fuzz(func(t *testing.T, s string) {
		u, err := parseURI(s)
		if err != nil {
			return
		}
		v, err := parseURI(u.String())
		if len(u.String()) > maxURI {
			return
		}
		if err != nil || *v != *u {
			t.Fatalf("%q became %q: %v", s, u, err)
		}
	})
}
