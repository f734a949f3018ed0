package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// requester is one who asks for a certificate, with everything of it that must not be kept.
type requester struct {
	key     *ecdsa.PrivateKey
	token   string
	proof   []byte // of possession
	claim   string // an unusual claim of the token, which no certificate carries
	secrets map[string][]byte
	point   []byte // X and Y of the public key
}

func newRequester(t *testing.T, redoubt, dir, name string) *requester {
	t.Helper()
	r := &requester{claim: "canary-" + rand.Text()}
	out, err := exec.Command(redoubt, "identity", "token", "--dir", dir, "--email", name, "--claim", "favourite="+r.claim).Output()
	if err != nil {
		t.Fatal(err)
	}
	r.token = strings.TrimSpace(string(out))
	if r.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(name))
	if r.proof, err = ecdsa.SignASN1(rand.Reader, r.key, sum[:]); err != nil {
		t.Fatal(err)
	}
	scalar, err := r.key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	uncompressed, err := r.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	r.point = uncompressed[1:]
	part := strings.Split(r.token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	if err != nil {
		t.Fatal(err)
	}
	r.secrets = map[string][]byte{
		"the private key": scalar, "the token": []byte(r.token), "the token's claims": []byte(part[1]), "the token's signature": []byte(part[2]),
		"the token's signature, decoded": signature, "a claim no certificate carries": []byte(r.claim), "the proof of possession": r.proof,
	}
	return r
}

// certify asks Fulcio for a certificate, by public key or by CSR.
func (r *requester) certify(t *testing.T, url, name string, csr bool) *x509.Certificate {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(&r.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	body := map[string]any{"credentials": map[string]string{"oidcIdentityToken": r.token}}
	if csr {
		request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{EmailAddresses: []string{name}}, r.key)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := x509.ParseCertificateRequest(request)
		if err != nil {
			t.Fatal(err)
		}
		r.secrets["the request's signature"] = parsed.Signature
		body["certificateSigningRequest"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	} else {
		body["publicKeyRequest"] = map[string]any{"proofOfPossession": r.proof,
			"publicKey": map[string]string{"algorithm": "ECDSA", "content": string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))}}
	}
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	answer := exchange(t, url+"/api/v2/signingCert", "application/json", text, http.StatusOK)
	var issued map[string]struct {
		Chain struct{ Certificates []string }
	}
	if err := json.Unmarshal(answer, &issued); err != nil {
		t.Fatal(err)
	}
	for _, kind := range issued {
		block, _ := pem.Decode([]byte(kind.Chain.Certificates[0]))
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		return certificate
	}
	t.Fatalf("no certificate: %s", answer)
	return nil
}

func exchange(t *testing.T, url, kind string, body []byte, want int) []byte {
	t.Helper()
	response, err := http.Post(url, kind, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != want {
		t.Fatalf("%s: %s, %v: %s", url, response.Status, err, answer)
	}
	return answer
}

// outsideCertificate counts the places where a public key stands in data without the certificate it belongs to: there, what stands in
// front of the key is what stands in front of it in the certificate.
func outsideCertificate(data []byte, point []byte, certificate *x509.Certificate) (outside, inside int) {
	at := bytes.Index(certificate.RawTBSCertificate, point)
	before := certificate.RawTBSCertificate[:at]
	before = before[len(before)-80:] // validity, subject, algorithm
	for from := 0; ; {
		i := bytes.Index(data[from:], point)
		if i < 0 {
			return outside, inside
		}
		if i += from; bytes.HasSuffix(data[:i], before) {
			inside++
		} else {
			outside++
		}
		from = i + 1
	}
}

// TestNothingOfTheRequesterIsKept traces a server through the requests of a signature, with a key and a token that can be told from all
// others: nothing of either is written anywhere, the public key stands in certificates (and in the log entries that name it) alone,
// and nothing is written outside the state directory but its high-water mark.
func TestNothingOfTheRequesterIsKept(t *testing.T) {
	scratch := t.TempDir()
	dir, elsewhere, trace := filepath.Join(scratch, "state"), filepath.Join(scratch, "tmp"), filepath.Join(scratch, "trace")
	template, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	if err := copyState(filepath.Join(template, "state"), dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(elsewhere, 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	redoubt := filepath.Join(scratch, "redoubt")
	if err := os.Symlink(self, redoubt); err != nil {
		t.Fatal(err)
	}
	const name = "someone@corp.internal"
	byKey, byCSR := newRequester(t, redoubt, dir, name), newRequester(t, redoubt, dir, name)

	ready := filepath.Join(dir, "run", "ready")
	server := underStrace(t, trace, redoubt, "--log-level", "debug", "serve", "--dir", dir, "--ready-file", ready)
	server.Env = append(os.Environ(), "TMPDIR="+elsewhere, "HOME="+elsewhere)
	journal := filepath.Join(scratch, "journal")
	out, err := os.Create(journal)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	server.Stdout, server.Stderr = out, out
	urls := serveTraced(t, server, ready, journal)
	url := func(service string) string { return urls[service].(string) }
	certificates := map[*requester]*x509.Certificate{byKey: byKey.certify(t, url("fulcio"), name, false), byCSR: byCSR.certify(t, url("fulcio"), name, true)}
	artifact := sha256.Sum256([]byte("what is signed"))
	sig, err := ecdsa.SignASN1(rand.Reader, byKey.key, artifact[:])
	if err != nil {
		t.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificates[byKey].Raw})
	exchange(t, url("rekor")+"/api/v1/log/entries", "application/json", fmt.Appendf(nil, `{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":%q,"publicKey":{"content":%q}}}}`,
		artifact, base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString(certificate)), http.StatusCreated)
	exchange(t, url("rekor")+"/api/v2/log/entries", "application/json", fmt.Appendf(nil, `{"hashedRekordRequestV002":{"digest":%q,"signature":{"content":%q,"verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","x509Certificate":{"rawBytes":%q}}}}}`,
		base64.StdEncoding.EncodeToString(artifact[:]), base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString(certificates[byKey].Raw)), http.StatusCreated)
	stamp, err := json.Marshal(map[string]any{"artifactHash": artifact[:], "hashAlgorithm": "sha256"})
	if err != nil {
		t.Fatal(err)
	}
	exchange(t, url("tsa"), "application/json", stamp, http.StatusCreated)
	stopTraced(t, server, urls)

	w := readTrace(t, trace)
	allowed := func(path string) bool {
		return strings.HasPrefix(path, dir+"/") || path == dir || path == dir+".highwater" || strings.HasPrefix(path, "/dev/null") || path == journal
	}
	bytesWritten := 0
	for fd, data := range w.chunks {
		bytesWritten += len(data)
		for _, r := range []*requester{byKey, byCSR} {
			for what, secret := range r.secrets {
				if form := found(data, secret); form != "" {
					t.Errorf("%s was written to %s (%s)", what, fd, form)
				}
			}
			if strings.HasPrefix(fd, "/") && !strings.Contains(fd, "/db/rekor") {
				if outside, _ := outsideCertificate(data, r.point, certificates[r]); outside > 0 {
					t.Errorf("the public key was written to %s %d times outside a certificate", fd, outside)
				}
				for i, form := range spellings(r.point)[1:] {
					if bytes.Contains(data, form) {
						t.Errorf("the public key was written to %s as text (%d)", fd, i)
					}
				}
			}
		}
		if strings.HasPrefix(fd, "/") && !allowed(fd) {
			t.Errorf("%d bytes were written to %s", len(data), fd)
		}
	}
	for path := range w.paths {
		if strings.HasPrefix(path, "/") && !allowed(path) {
			t.Errorf("%s was opened for writing, made, moved or removed", path)
		}
	}
	// The trace shows what is written: the register holds both certificates, and so the public keys inside them.
	register := w.chunks[layout{dir}.authorityDB()]
	for r, c := range certificates {
		if _, inside := outsideCertificate(register, r.point, c); inside == 0 || !bytes.Contains(register, c.Raw) {
			t.Errorf("the trace does not show the certificate of %s being written", c.SerialNumber)
		}
	}
	// And what lies there now.
	err = filepath.WalkDir(scratch, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || path == trace {
			return err
		}
		data, err := os.ReadFile(path)
		for _, r := range []*requester{byKey, byCSR} {
			for what, secret := range r.secrets {
				if form := found(data, secret); form != "" {
					t.Errorf("%s stands in %s (%s)", what, path, form)
				}
			}
		}
		if strings.HasPrefix(path, elsewhere+"/") {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	t.Logf("%d calls, %d bytes written to %d descriptors, %d names", w.calls, bytesWritten, len(w.chunks), len(w.paths))
}

// TestSignerWritesItsBundleAlone: `redoubt sign` makes a key in memory; the one file it writes is the bundle.
func TestSignerWritesItsBundleAlone(t *testing.T) {
	s := serveState(t, nil)
	scratch := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	redoubt, setup, work := filepath.Join(scratch, "redoubt"), filepath.Join(scratch, "setup"), filepath.Join(scratch, "work")
	if err := os.Symlink(self, redoubt); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{work, filepath.Join(scratch, "tmp")} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := exec.Command(redoubt, args...).Output()
		if err != nil {
			t.Fatalf("%v: %v", args, err)
		}
		return string(out)
	}
	run("client", "setup", "--dir", s.cfg.Dir, "--out", setup)
	token := filepath.Join(scratch, "token")
	if err := os.WriteFile(token, []byte(run("identity", "token", "--dir", s.cfg.Dir)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(scratch, "file"), []byte("signed\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	bundle, trace := filepath.Join(work, "bundle.json"), filepath.Join(scratch, "trace")
	signer := underStrace(t, trace, redoubt, "sign", filepath.Join(scratch, "file"), "--setup", setup, "--identity-token", token, "--bundle", bundle)
	signer.Env = append(os.Environ(), "TMPDIR="+filepath.Join(scratch, "tmp"), "HOME="+filepath.Join(scratch, "tmp"))
	if out, err := signer.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	content, err := os.ReadFile(bundle)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := os.ReadFile(token)
	if err != nil {
		t.Fatal(err)
	}
	w := readTrace(t, trace)
	var files []string
	for fd, data := range w.chunks {
		if !strings.HasPrefix(fd, "/") || fd == "/dev/null" {
			continue
		}
		files = append(files, fd)
		if text := bytes.ReplaceAll(data, []byte{0xFF}, nil); !bytes.Equal(text, content) || found(text, secret) != "" {
			t.Errorf("%s got what is not the bundle: %.200q", fd, text)
		}
	}
	if len(files) != 1 || filepath.Dir(files[0]) != work {
		t.Errorf("files written to: %q", files)
	}
	for path := range w.paths {
		if filepath.IsAbs(path) && filepath.Dir(path) != work && path != "/dev/null" {
			t.Errorf("%s was opened for writing, made, moved or removed", path)
		}
	}
	t.Logf("%d calls, names %v", w.calls, w.paths)
}
