package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store/bolt"
)

const (
	host   = "rekor.corp.example"
	treeID = 3904496407287907110
)

// both is one tree under the wire formats of both generations.
var both = []rekor.Generation{rekor.V1, rekor.V2}

// rig is a running artifact log in a directory of its own, served over HTTP on loopback.
type rig struct {
	t      testing.TB
	key    crypto.Signer
	conf   log.Config
	path   string
	db     *bolt.DB
	merkle *log.Log
	log    *rekor.Log
	url    string
	stop   func()
}

func newRig(t testing.TB) *rig { return newRigWith(t, generate(t), nil) }

func newRigWith(t testing.TB, key crypto.Signer, change func(*rekor.Config)) *rig {
	r := &rig{t: t, key: key, path: filepath.Join(t.TempDir(), "rekor.db")}
	r.conf = log.Config{Origin: host, Signer: key, Unique: true, IndexKeys: rekor.IndexKeys}
	var err error
	if r.db, err = bolt.Create(r.path); err != nil {
		t.Fatal(err)
	}
	r.conf.DB = r.db
	if err := log.Create(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	r.open(change)
	t.Cleanup(func() {
		r.stop()
		// Whatever the test did, the log is whole.
		if _, err := log.Fsck(context.Background(), r.conf, nil); err != nil {
			t.Errorf("fsck after the test: %v", err)
		}
		r.db.Close()
	})
	return r
}

func (r *rig) open(change func(*rekor.Config)) {
	t := r.t
	t.Helper()
	var err error
	if r.merkle, err = log.Open(t.Context(), r.conf); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.merkle.Run(ctx) }()
	c := rekor.Config{Log: r.merkle, Signer: r.key, Hostname: host, TreeID: treeID, Serves: both}
	if change != nil {
		change(&c)
	}
	if r.log, err = rekor.New(c); err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(r.log.Handler())
	r.url = server.URL
	stopped := false
	r.stop = func() {
		if !stopped {
			stopped = true
			server.Close()
			cancel()
			<-done
		}
	}
}

// reopen stands for a restart: a new engine on the same file, empty caches.
func (r *rig) reopen() {
	r.t.Helper()
	r.stop()
	if err := r.db.Close(); err != nil {
		r.t.Fatal(err)
	}
	var err error
	if r.db, err = bolt.Open(r.path); err != nil {
		r.t.Fatal(err)
	}
	r.conf.DB = r.db
	r.open(nil)
}

type answer struct {
	code   int
	header http.Header
	body   []byte
}

func (r *rig) do(method, path string, body []byte, header ...string) answer {
	r.t.Helper()
	req, err := http.NewRequest(method, r.url+path, bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, b}
}

func (r *rig) get(path string) answer { r.t.Helper(); return r.do(http.MethodGet, path, nil) }
func (r *rig) post(path string, body []byte) answer {
	r.t.Helper()
	return r.do(http.MethodPost, path, body)
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func generate(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// unbound makes what a client may send though FIPS 140-3 mode would not let us make it.
func unbound[T any](f func() T) (v T) {
	fips140.WithoutEnforcement(func() { v = f() })
	return v
}

func b64(b []byte) string { return base64.StdEncoding.EncodeToString(b) }

func pemKey(pub crypto.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: must(x509.MarshalPKIXPublicKey(pub))})
}

// certify makes a certificate for pub with an e-mail and a URI name.
func certify(_ testing.TB, pub crypto.PublicKey, names ...string) []byte {
	ca := must(newKey())
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: time.Now(), NotAfter: time.Now().Add(10 * time.Minute),
		Issuer: pkix.Name{CommonName: "test"}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.EmailAddresses = append(tmpl.EmailAddresses, n)
		}
	}
	return must(x509.CreateCertificate(rand.Reader, tmpl, tmpl, pub, ca))
}

func pemCert(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func signDigest(key crypto.Signer, digest []byte, h crypto.Hash) []byte {
	return must(key.Sign(rand.Reader, digest, h))
}

type object = map[string]any

func encode(v any) []byte { return must(json.Marshal(v)) }

// hashedrekord is the v1 entry cosign makes of a blob.
func hashedrekord(key crypto.Signer, verifier []byte, artifact string) object {
	digest := sha256.Sum256([]byte(artifact))
	return object{"kind": "hashedrekord", "apiVersion": "0.0.1", "spec": object{
		"data":      object{"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(digest[:])}},
		"signature": object{"content": b64(signDigest(key, digest[:], crypto.SHA256)), "publicKey": object{"content": b64(verifier)}},
	}}
}

// pae is DSSE's pre-authentication encoding.
func pae(payloadType string, payload []byte) []byte {
	return []byte("DSSEv1 " + itoa(len(payloadType)) + " " + payloadType + " " + itoa(len(payload)) + " " + string(payload))
}

func itoa(n int) string { return strconv.Itoa(n) }

const inTotoType = "application/vnd.in-toto+json"

func statement(digests ...string) []byte {
	var subjects []object
	for _, d := range digests {
		subjects = append(subjects, object{"name": "x", "digest": object{"sha256": d}})
	}
	return encode(object{
		"_type": "https://in-toto.io/Statement/v1", "subject": subjects, "predicateType": "https://slsa.dev/provenance/v0.2",
		"predicate": object{"materials": []object{{"uri": "git+x", "digest": object{"sha1": "3333333333333333333333333333333333333333"}}}},
	})
}

func envelope(key crypto.Signer, payload []byte) object {
	digest := sha256.Sum256(pae(inTotoType, payload))
	return object{
		"payloadType": inTotoType, "payload": b64(payload),
		"signatures": []object{{"keyid": "", "sig": b64(signDigest(key, digest[:], crypto.SHA256))}},
	}
}

// dsse is the v1 entry cosign makes of an attestation.
func dsse(key crypto.Signer, verifier, payload []byte) object {
	return object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
		"envelope": string(encode(envelope(key, payload))), "verifiers": []string{b64(verifier)},
	}}}
}

// intoto is the v1 entry older clients make of an attestation: payload and signature are base64 twice.
func intoto(key crypto.Signer, verifier, payload []byte) object {
	env := envelope(key, payload)
	sig := env["signatures"].([]object)[0]["sig"].(string)
	hash := sha256.Sum256(encode(env))
	return object{"kind": "intoto", "apiVersion": "0.0.2", "spec": object{"content": object{
		"envelope": object{
			"payloadType": inTotoType, "payload": b64([]byte(env["payload"].(string))),
			"signatures": []object{{"sig": b64([]byte(sig)), "publicKey": b64(verifier)}},
		},
		"hash": object{"algorithm": "sha256", "value": hex.EncodeToString(hash[:])},
	}}}
}

// intoto1 is the v1 entry Tekton Chains makes, and cosign when it is told to.
func intoto1(key crypto.Signer, verifier, payload []byte) object {
	return object{"kind": "intoto", "apiVersion": "0.0.1", "spec": object{
		"content": object{"envelope": string(encode(envelope(key, payload)))}, "publicKey": b64(verifier),
	}}
}

// rekord is the v1 entry rekor-cli makes of a file with an X.509 signature.
func rekord(key crypto.Signer, verifier []byte, artifact string) object {
	digest := sha256.Sum256([]byte(artifact))
	return object{"kind": "rekord", "apiVersion": "0.0.1", "spec": object{
		"data": object{"content": b64([]byte(artifact))},
		"signature": object{
			"format": "x509", "content": b64(signDigest(key, digest[:], crypto.SHA256)), "publicKey": object{"content": b64(verifier)},
		},
	}}
}

// requestV2 is the v2 request of a blob signed with a P-256 key.
func requestV2(key crypto.Signer, verifier object, artifact string) object {
	digest := sha256.Sum256([]byte(artifact))
	verifier["keyDetails"] = "PKIX_ECDSA_P256_SHA_256"
	return object{"hashedRekordRequestV002": object{
		"digest":    b64(digest[:]),
		"signature": object{"content": b64(signDigest(key, digest[:], crypto.SHA256)), "verifier": verifier},
	}}
}

func keyV2(pub crypto.PublicKey) object {
	return object{"publicKey": object{"rawBytes": b64(must(x509.MarshalPKIXPublicKey(pub)))}}
}

func certV2(der []byte) object { return object{"x509Certificate": object{"rawBytes": b64(der)}} }
