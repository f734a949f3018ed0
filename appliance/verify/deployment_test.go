package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/digitorus/timestamp"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/ca/trust"
	"redoubt.internal/log"
)

// deployment is a whole signing deployment in memory, with a hand on every
// field of what it issues: certificates and SCTs, log entries of both Rekor
// generations over one tree, timestamps, at any time.
type deployment struct {
	t                 testing.TB
	domain            string
	caKey, tsaKey     *ecdsa.PrivateKey
	ctKey, logKey     *ecdsa.PrivateKey
	caChain, tsaChain []*x509.Certificate
	material          trust.Material
	now               time.Time
	leaves            [][]byte // bodies in the log
	treeID            int64
	identity, issuer  string
}

var epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

func ecKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func makeCert(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(int64(binary.BigEndian.Uint32(random(4))) + 1)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func mustDER(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func newDeployment(t testing.TB, domain string) *deployment {
	t.Helper()
	d := &deployment{t: t, domain: domain, caKey: ecKey(t), tsaKey: ecKey(t), ctKey: ecKey(t), logKey: ecKey(t), now: epoch, treeID: 4711, identity: "dev@" + domain, issuer: "https://oidc." + domain}
	ca := func(cn string, pathlen int) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{Organization: []string{domain}, CommonName: cn}, NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(9, 0, 0),
			IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathlen, MaxPathLenZero: pathlen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	rootKey := ecKey(t)
	root := ca("root", 1)
	root = makeCert(t, root, root, rootKey.Public(), rootKey)
	issuing := ca("issuing", 0)
	issuing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	issuing = makeCert(t, issuing, root, d.caKey.Public(), rootKey)
	d.caChain = []*x509.Certificate{issuing, root}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "tsa"}, NotBefore: epoch.AddDate(-1, 0, 0), NotAfter: epoch.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: mustDER(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})}}}
	d.tsaChain = []*x509.Certificate{makeCert(t, leaf, root, d.tsaKey.Public(), rootKey), root}
	d.material = trust.Material{
		Domain: domain,
		URLs:   trust.URLs{Fulcio: "http://127.0.0.1:1", Rekor: "http://127.0.0.1:2", TSA: "http://127.0.0.1:3/api/v1/timestamp"},
		CAs:    []trust.Authority{{Chain: d.caChain}},
		TSAs:   []trust.Authority{{Chain: d.tsaChain}},
		CTLogs: []trust.Log{{Key: &d.ctKey.PublicKey, Start: epoch.AddDate(-1, 0, 0)}},
		Rekor:  []trust.Log{{Key: &d.logKey.PublicKey, Start: epoch.AddDate(-1, 0, 0)}},
	}
	for i := range 5 { // others' entries
		d.leaves = append(d.leaves, fmt.Appendf(nil, `{"n":%d}`, i))
	}
	return d
}

func (d *deployment) root() []byte {
	d.t.Helper()
	data, err := d.material.TrustedRoot()
	if err != nil {
		d.t.Fatal(err)
	}
	return data
}

// signer is a certificate and its key.
type signer struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// issue makes a ten-minute certificate valid from at, with an embedded SCT
// (RFC 6962 3.2 over the certificate without it).
func (d *deployment) issue(at time.Time, edit func(*x509.Certificate)) signer {
	d.t.Helper()
	return d.issueFor(ecKey(d.t), at, edit)
}

func (d *deployment) issueFor(key *ecdsa.PrivateKey, at time.Time, edit func(*x509.Certificate)) signer {
	d.t.Helper()
	tmpl := &x509.Certificate{
		NotBefore: at, NotAfter: at.Add(10 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses: []string{d.identity},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(d.issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: mustDER(d.t, d.issuer)},
		},
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, random(15)...)),
	}
	if edit != nil {
		edit(tmpl)
	}
	plain := makeCert(d.t, tmpl, d.caChain[0], key.Public(), d.caKey)
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: mustDER(d.t, d.sctList(plain.RawTBSCertificate, at))})
	return signer{key, makeCert(d.t, tmpl, d.caChain[0], key.Public(), d.caKey)}
}

func (d *deployment) sctList(tbs []byte, at time.Time) []byte {
	spki, err := x509.MarshalPKIXPublicKey(&d.ctKey.PublicKey)
	if err != nil {
		d.t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	issuerHash := sha256.Sum256(d.caChain[0].RawSubjectPublicKeyInfo)
	stamp := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	signed := bytes.Join([][]byte{{0, 0}, stamp, {0, 1}, issuerHash[:], {byte(len(tbs) >> 16), byte(len(tbs) >> 8), byte(len(tbs))}, tbs, {0, 0}}, nil)
	sig := d.sign(d.ctKey, signed)
	sct := bytes.Join([][]byte{{0}, id[:], stamp, {0, 0, 4, 3}, binary.BigEndian.AppendUint16(nil, uint16(len(sig))), sig}, nil)
	sct = append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
}

func (d *deployment) sign(key *ecdsa.PrivateKey, data []byte) []byte {
	d.t.Helper()
	sum := sha256.Sum256(data)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		d.t.Fatal(err)
	}
	return sig
}

// token makes an RFC 3161 token over sig at a time.
func (d *deployment) token(sig []byte, at time.Time, embed bool) []byte {
	d.t.Helper()
	sum := sha256.Sum256(sig)
	ts := timestamp.Timestamp{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at, Accuracy: time.Second, Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: embed}
	der, err := ts.CreateResponseWithOpts(d.tsaChain[0], d.tsaKey, crypto.SHA256)
	if err != nil {
		d.t.Fatal(err)
	}
	return der
}

func (s signer) pem() string {
	return b64(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.cert.Raw}))
}

// bodyV1 is the canonical hashedrekord 0.0.1, bodyV2 the 0.0.2.
func bodyV1(s signer, digest, sig []byte) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, digest, b64(sig), s.pem())
}

func bodyV2(s signer, digest, sig []byte) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"%s"},"signature":{"content":"%s","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","x509Certificate":{"rawBytes":"%s"}}}}}}`, b64(digest), b64(sig), b64(s.cert.Raw))
}

// entry appends body and returns the log entry as JSON-ready map: promise at
// the given time when nonzero, proof under the v1 or v2 face of the tree.
func (d *deployment) entry(body []byte, integrated time.Time, v1Face bool) map[string]any {
	d.t.Helper()
	d.leaves = append(d.leaves, body)
	index := len(d.leaves) - 1
	spki, err := x509.MarshalPKIXPublicKey(&d.logKey.PublicKey)
	if err != nil {
		d.t.Fatal(err)
	}
	id := sha256.Sum256(spki)
	origin := "rekor." + d.domain
	if v1Face {
		origin = fmt.Sprintf("%s - %d", origin, d.treeID)
	}
	root := treeRoot(d.leaves)
	note, err := log.SignNote(origin, d.logKey, uint64(len(d.leaves)), root)
	if err != nil {
		d.t.Fatal(err)
	}
	var head struct{ Kind, APIVersion string }
	if err := json.Unmarshal(body, &head); err != nil {
		d.t.Fatal(err)
	}
	hashes := []any{}
	for _, h := range treePath(d.leaves, index) {
		hashes = append(hashes, b64(h[:]))
	}
	e := map[string]any{
		"logIndex": fmt.Sprint(index), "logId": map[string]any{"keyId": b64(id[:])}, "kindVersion": map[string]any{"kind": head.Kind, "version": head.APIVersion},
		"canonicalizedBody": b64(body),
		"inclusionProof": map[string]any{"logIndex": fmt.Sprint(index), "rootHash": b64(root[:]), "treeSize": fmt.Sprint(len(d.leaves)), "hashes": hashes,
			"checkpoint": map[string]any{"envelope": string(note)}},
	}
	if !integrated.IsZero() {
		e["integratedTime"] = fmt.Sprint(integrated.Unix())
		set := fmt.Appendf(nil, `{"body":"%s","integratedTime":%d,"logID":"%s","logIndex":%d}`, b64(body), integrated.Unix(), hex.EncodeToString(id[:]), index)
		e["inclusionPromise"] = map[string]any{"signedEntryTimestamp": b64(d.sign(d.logKey, set))}
	}
	return e
}

// leafHash, nodeHash, treeRoot and treePath are RFC 6962 2.1, written plainly.
func leafHash(b []byte) [32]byte { return sha256.Sum256(append([]byte{0}, b...)) }
func nodeHash(l, r [32]byte) [32]byte {
	return sha256.Sum256(append(append([]byte{1}, l[:]...), r[:]...))
}

func split(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

func treeRoot(leaves [][]byte) [32]byte {
	if len(leaves) == 1 {
		return leafHash(leaves[0])
	}
	k := split(len(leaves))
	return nodeHash(treeRoot(leaves[:k]), treeRoot(leaves[k:]))
}

func treePath(leaves [][]byte, i int) [][32]byte {
	if len(leaves) == 1 {
		return nil
	}
	if k := split(len(leaves)); i < k {
		return append(treePath(leaves[:k], i), treeRoot(leaves[k:]))
	} else {
		return append(treePath(leaves[k:], i-k), treeRoot(leaves[:k]))
	}
}

// parts are the pieces of a bundle before they are put together.
type parts struct {
	signer    signer
	artifact  []byte
	sig       []byte
	message   bool // else an attestation
	statement []byte
	entries   []any
	stamps    []any
	mediaType string
}

const (
	mediaV01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	mediaV03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// signMessage signs artifact at d.now and logs it: generation 1 with a promise
// and no timestamp, generation 2 with a timestamp.
func (d *deployment) signMessage(generation int, artifact string) parts {
	d.t.Helper()
	p := parts{signer: d.issue(d.now, nil), artifact: []byte(artifact), message: true, mediaType: mediaV03}
	digest := sha256.Sum256(p.artifact)
	p.sig = d.sign(p.signer.key, p.artifact)
	at := d.now.Add(time.Minute)
	if generation == 1 {
		p.entries = []any{d.entry(bodyV1(p.signer, digest[:], p.sig), at, true)}
	} else {
		p.entries = []any{d.entry(bodyV2(p.signer, digest[:], p.sig), time.Time{}, false)}
		p.stamps = []any{map[string]any{"signedTimestamp": b64(d.token(p.sig, at, false))}}
	}
	return p
}

const customPredicate = "https://example.com/predicate/v1"

// attest signs an in-toto statement over artifact, in Rekor v2.
func (d *deployment) attest(artifact, predicateType string) parts {
	d.t.Helper()
	return d.attestPayload(artifact, fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicate":{"n":1},"predicateType":%q,"subject":[{"digest":{"sha256":"%x"},"name":"a"}]}`, predicateType, sha256.Sum256([]byte(artifact))))
}

func (d *deployment) attestPayload(artifact string, statement []byte) parts {
	d.t.Helper()
	p := parts{signer: d.issue(d.now, nil), artifact: []byte(artifact), mediaType: mediaV03, statement: statement}
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(inTotoType), inTotoType, len(statement), statement)
	p.sig = d.sign(p.signer.key, pae)
	digest := sha256.Sum256(pae)
	p.entries = []any{d.entry(bodyV2(p.signer, digest[:], p.sig), time.Time{}, false)}
	p.stamps = []any{map[string]any{"signedTimestamp": b64(d.token(p.sig, d.now.Add(time.Minute), true))}}
	return p
}

// tree is the bundle as nested maps, open to any change.
func (p parts) tree() map[string]any {
	material := map[string]any{"certificate": map[string]any{"rawBytes": b64(p.signer.cert.Raw)}, "tlogEntries": p.entries}
	if p.mediaType == mediaV01 {
		delete(material, "certificate")
		material["x509CertificateChain"] = map[string]any{"certificates": []any{map[string]any{"rawBytes": b64(p.signer.cert.Raw)}}}
	}
	if p.stamps != nil {
		material["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": p.stamps}
	}
	b := map[string]any{"mediaType": p.mediaType, "verificationMaterial": material}
	if p.message {
		digest := sha256.Sum256(p.artifact)
		b["messageSignature"] = map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": b64(digest[:])}, "signature": b64(p.sig)}
	} else {
		b["dsseEnvelope"] = map[string]any{"payload": b64(p.statement), "payloadType": inTotoType, "signatures": []any{map[string]any{"sig": b64(p.sig)}}}
	}
	return b
}

func (p parts) bundle(t testing.TB) []byte { return encode(t, p.tree()) }

func encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// sample asks for what the deployment signed, with the right identity.
func (d *deployment) sample(p parts) sample {
	return sample{root: d.root(), artifact: p.artifact, bundle: p.bundle(d.t), policy: Policy{Identities: []Identity{{SAN: d.identity, Issuer: d.issuer}}}}
}

// at walks into nested maps and slices: keys are strings, indices ints.
func at(v any, path ...any) any {
	for _, k := range path {
		switch k := k.(type) {
		case string:
			v = v.(map[string]any)[k]
		case int:
			v = v.([]any)[k]
		}
	}
	return v
}

// set replaces the member of the object at path.
func set(v any, value any, path ...any) {
	last := len(path) - 1
	switch parent := at(v, path[:last]...).(type) {
	case map[string]any:
		if value == nil {
			delete(parent, path[last].(string))
		} else {
			parent[path[last].(string)] = value
		}
	case []any:
		parent[path[last].(int)] = value
	}
}

func parseTree(t testing.TB, bundle []byte) map[string]any {
	t.Helper()
	var v map[string]any
	if err := json.Unmarshal(bundle, &v); err != nil {
		t.Fatal(err)
	}
	return v
}

// TestDeployment: what the test deployment makes is what clients accept, so
// that a refusal below is for the fault planted and no other.
func TestDeployment(t *testing.T) {
	d := newDeployment(t, "corp.internal")
	old := d.signMessage(1, "artifact")
	old.mediaType = mediaV01
	for name, p := range map[string]parts{"v1 message": d.signMessage(1, "artifact"), "v2 message": d.signMessage(2, "artifact"), "v2 attestation": d.attest("artifact", customPredicate), "v0.1 chain": old} {
		t.Run(name, func(t *testing.T) {
			s := d.sample(p)
			if err := protojson.Unmarshal(s.bundle, &protobundle.Bundle{}); err != nil {
				t.Fatal(err)
			}
			if err := upstream(t, s); err != nil {
				t.Fatalf("sigstore-go: %v", err)
			}
			res, err := s.verify(t)
			if err != nil {
				t.Fatal(err)
			}
			if san, issuer := res.Signer(); san != d.identity || issuer != d.issuer || len(res.Log()) != 1 || len(res.Times()) != 1 {
				t.Errorf("result %+v", res)
			}
			if u, err := url.Parse(res.Log()[0].BaseURL); err != nil || u.Hostname() != "rekor.corp.internal" {
				t.Errorf("log %+v", res.Log())
			}
		})
	}
}
