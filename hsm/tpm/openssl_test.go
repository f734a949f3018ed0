package tpm

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
)

// Key files are those of tpm2-openssl: it signs with ours, and its own are read,
// and refused, as it makes keys that decrypt too.
func TestOpenSSL(t *testing.T) {
	if matches, _ := filepath.Glob("/usr/lib/*/ossl-modules/tpm2.so"); len(matches) == 0 {
		t.Fatal("tpm2-openssl is not installed (apt-get install tpm2-openssl)")
	}
	for _, persistent := range []bool{false, true} {
		for _, auth := range []string{"", testAuth} {
			e := startTPM(t)
			if persistent {
				e.persistSRK()
			}
			openssl := func(args ...string) (string, error) {
				cmd := exec.Command("openssl", args...)
				cmd.Dir = e.dir
				cmd.Env = append(os.Environ(), "TPM2OPENSSL_TCTI=swtpm:path="+e.socket)
				out, err := cmd.CombinedOutput()
				return string(out), err
			}
			c := e.config()
			if auth != "" {
				c.AuthFile = e.auth(auth)
			}
			tok := open(t, c)
			key := generate(t, tok, "tpm:file=a.pem", hsm.ECDSAP256)
			must(t, tok.Close())
			must(t, os.WriteFile(filepath.Join(e.dir, "msg"), []byte("message"), 0o600))
			out, err := openssl("dgst", "-provider", "tpm2", "-provider", "default", "-propquery", "?provider=tpm2", "-sha256",
				"-sign", "keys/a.pem", "-passin", "pass:"+auth, "-out", "sig", "msg")
			if err != nil {
				t.Fatalf("persistent %v, auth %q: openssl does not sign with our key: %v\n%s", persistent, auth, err, out)
			}
			sig, err := os.ReadFile(filepath.Join(e.dir, "sig"))
			must(t, err)
			sum := sha256.Sum256([]byte("message"))
			if !ecdsa.VerifyASN1(key.Public().(*ecdsa.PublicKey), sum[:], sig) {
				t.Errorf("persistent %v, auth %q: openssl signed with another key", persistent, auth)
			}

			out, err = openssl("genpkey", "-provider", "tpm2", "-algorithm", "EC", "-pkeyopt", "group:P-256", "-pkeyopt", "user-auth:"+testAuth, "-out", "keys/theirs.pem")
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			f, err := readKeyFile(filepath.Join(c.Dir, "theirs.pem"), oidLoadable)
			if err != nil || f.emptyAuth || f.parent != rhOwner {
				t.Fatalf("their file: %+v, %v", f, err)
			}
			if _, err := open(t, c).Signer(t.Context(), "tpm:file=theirs.pem"); !errors.Is(err, hsm.ErrInsecureKey) || !strings.Contains(err.Error(), "decrypts too") {
				t.Errorf("their key: %v", err)
			}
			public, err := publicArea(f.public)
			must(t, err)
			pub, err := publicKey(*public)
			must(t, err)
			out, err = openssl("pkey", "-provider", "tpm2", "-provider", "default", "-in", "keys/theirs.pem", "-passin", "pass:"+testAuth, "-pubout")
			must(t, err)
			block, _ := pem.Decode([]byte(out[strings.Index(out, "-----BEGIN"):]))
			if theirs, err := x509.ParsePKIXPublicKey(block.Bytes); err != nil || !pub.(*ecdsa.PublicKey).Equal(theirs) {
				t.Errorf("their public key reads as another: %v", err)
			}
		}
	}
}
