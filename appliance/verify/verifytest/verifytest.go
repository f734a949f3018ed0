// Package verifytest is a whole signing deployment in memory for tests, with a hand on every field of what it issues: certificates and SCTs, log
// entries of both Rekor generations over one tree, timestamps, at any time.
package verifytest

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
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"redoubt.internal/ca/trust"
	"redoubt.internal/log"
)

// Deployment is a whole signing deployment in memory, with a hand on every
// field of what it issues.
type Deployment struct {
	T                 testing.TB
	Domain            string
	CAKey, TSAKey     *ecdsa.PrivateKey
	CTKey, LogKey     *ecdsa.PrivateKey
	CAChain, TSAChain []*x509.Certificate
	Material          trust.Material
	Now               time.Time
	Leaves            [][]byte // bodies in the log
	TreeID            int64
	Identity, Issuer  string
	Edit              func(*x509.Certificate) // changes what SignMessage and Attest issue; nil changes nothing
}

// Epoch is when deployments sign, unless told otherwise.
var Epoch = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// ECKey makes a key.
func ECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// MakeCert issues tmpl, with a serial number of its own where it has none.
func MakeCert(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	if tmpl.SerialNumber == nil {
		tmpl.SerialNumber = big.NewInt(int64(binary.BigEndian.Uint32(Random(4))) + 1)
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

// Random returns n random bytes.
func Random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

// MustDER encodes v.
func MustDER(t testing.TB, v any) []byte {
	t.Helper()
	der, err := asn1.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// New makes a deployment for a domain.
func New(t testing.TB, domain string) *Deployment {
	t.Helper()
	d := &Deployment{T: t, Domain: domain, CAKey: ECKey(t), TSAKey: ECKey(t), CTKey: ECKey(t), LogKey: ECKey(t), Now: Epoch, TreeID: 4711, Identity: "dev@" + domain, Issuer: "https://oidc." + domain}
	ca := func(cn string, pathlen int) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{Organization: []string{domain}, CommonName: cn}, NotBefore: Epoch.AddDate(-1, 0, 0), NotAfter: Epoch.AddDate(9, 0, 0),
			IsCA: true, BasicConstraintsValid: true, MaxPathLen: pathlen, MaxPathLenZero: pathlen == 0, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	rootKey := ECKey(t)
	root := ca("root", 1)
	root = MakeCert(t, root, root, rootKey.Public(), rootKey)
	issuing := ca("issuing", 0)
	issuing.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	issuing = MakeCert(t, issuing, root, d.CAKey.Public(), rootKey)
	d.CAChain = []*x509.Certificate{issuing, root}
	leaf := &x509.Certificate{Subject: pkix.Name{CommonName: "tsa"}, NotBefore: Epoch.AddDate(-1, 0, 0), NotAfter: Epoch.AddDate(5, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: MustDER(t, []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})}}}
	d.TSAChain = []*x509.Certificate{MakeCert(t, leaf, root, d.TSAKey.Public(), rootKey), root}
	d.Material = trust.Material{
		Domain: domain,
		URLs:   trust.URLs{Fulcio: "http://127.0.0.1:1", Rekor: "http://127.0.0.1:2", TSA: "http://127.0.0.1:3/api/v1/timestamp"},
		CAs:    []trust.Authority{{Chain: d.CAChain}},
		TSAs:   []trust.Authority{{Chain: d.TSAChain}},
		CTLogs: []trust.Log{{Key: &d.CTKey.PublicKey, Start: Epoch.AddDate(-1, 0, 0)}},
		Rekor:  []trust.Log{{Key: &d.LogKey.PublicKey, Start: Epoch.AddDate(-1, 0, 0)}},
	}
	for i := range 5 { // others' entries
		d.Leaves = append(d.Leaves, fmt.Appendf(nil, `{"n":%d}`, i))
	}
	return d
}

// Root is its trusted_root.json.
func (d *Deployment) Root() []byte {
	d.T.Helper()
	data, err := d.Material.TrustedRoot()
	if err != nil {
		d.T.Fatal(err)
	}
	return data
}

// Signer is a certificate and its key.
type Signer struct {
	Key  *ecdsa.PrivateKey
	Cert *x509.Certificate
}

// Issue makes a ten-minute certificate valid from at, with an embedded SCT
// (RFC 6962 3.2 over the certificate without it).
func (d *Deployment) Issue(at time.Time, edit func(*x509.Certificate)) Signer {
	d.T.Helper()
	return d.IssueFor(ECKey(d.T), at, edit)
}

// IssueFor is Issue for a key that is there.
func (d *Deployment) IssueFor(key *ecdsa.PrivateKey, at time.Time, edit func(*x509.Certificate)) Signer {
	d.T.Helper()
	tmpl := &x509.Certificate{
		NotBefore: at, NotAfter: at.Add(10 * time.Minute), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		EmailAddresses: []string{d.Identity},
		ExtraExtensions: []pkix.Extension{
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(d.Issuer)},
			{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: MustDER(d.T, d.Issuer)},
		},
		SerialNumber: new(big.Int).SetBytes(append([]byte{1}, Random(15)...)),
	}
	if edit != nil {
		edit(tmpl)
	}
	plain := MakeCert(d.T, tmpl, d.CAChain[0], key.Public(), d.CAKey)
	tmpl.ExtraExtensions = append(tmpl.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: MustDER(d.T, d.sctList(plain.RawTBSCertificate, at))})
	return Signer{key, MakeCert(d.T, tmpl, d.CAChain[0], key.Public(), d.CAKey)}
}

func (d *Deployment) sctList(tbs []byte, at time.Time) []byte {
	spki, err := x509.MarshalPKIXPublicKey(&d.CTKey.PublicKey)
	if err != nil {
		d.T.Fatal(err)
	}
	id := sha256.Sum256(spki)
	issuerHash := sha256.Sum256(d.CAChain[0].RawSubjectPublicKeyInfo)
	stamp := binary.BigEndian.AppendUint64(nil, uint64(at.UnixMilli()))
	signed := bytes.Join([][]byte{{0, 0}, stamp, {0, 1}, issuerHash[:], {byte(len(tbs) >> 16), byte(len(tbs) >> 8), byte(len(tbs))}, tbs, {0, 0}}, nil)
	sig := d.Sign(d.CTKey, signed)
	sct := bytes.Join([][]byte{{0}, id[:], stamp, {0, 0, 4, 3}, binary.BigEndian.AppendUint16(nil, uint16(len(sig))), sig}, nil)
	sct = append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(sct))), sct...)
}

// Sign signs the SHA-256 of data.
func (d *Deployment) Sign(key *ecdsa.PrivateKey, data []byte) []byte {
	d.T.Helper()
	sum := sha256.Sum256(data)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		d.T.Fatal(err)
	}
	return sig
}

// Token makes an RFC 3161 token over sig at a time.
func (d *Deployment) Token(sig []byte, at time.Time, embed bool) []byte {
	d.T.Helper()
	sum := sha256.Sum256(sig)
	ts := timestamp.Timestamp{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at, Accuracy: time.Second, Policy: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, AddTSACertificate: embed}
	der, err := ts.CreateResponseWithOpts(d.TSAChain[0], d.TSAKey, crypto.SHA256)
	if err != nil {
		d.T.Fatal(err)
	}
	return der
}

// PEM is the certificate as Rekor v1 has it.
func (s Signer) PEM() string {
	return base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Cert.Raw}))
}

// BodyV1 is the canonical hashedrekord 0.0.1.
func BodyV1(s Signer, digest, sig []byte) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"0.0.1","kind":"hashedrekord","spec":{"data":{"hash":{"algorithm":"sha256","value":"%x"}},"signature":{"content":"%s","publicKey":{"content":"%s"}}}}`, digest, base64.StdEncoding.EncodeToString(sig), s.PEM())
}

// BodyV2 is the canonical hashedrekord 0.0.2.
func BodyV2(s Signer, digest, sig []byte) []byte {
	return fmt.Appendf(nil, `{"apiVersion":"0.0.2","kind":"hashedrekord","spec":{"hashedRekordV002":{"data":{"algorithm":"SHA2_256","digest":"%s"},"signature":{"content":"%s","verifier":{"keyDetails":"PKIX_ECDSA_P256_SHA_256","x509Certificate":{"rawBytes":"%s"}}}}}}`, base64.StdEncoding.EncodeToString(digest), base64.StdEncoding.EncodeToString(sig), base64.StdEncoding.EncodeToString(s.Cert.Raw))
}

// Entry appends body and returns the log entry as JSON-ready map: promise at
// the given time when nonzero, proof under the v1 or v2 face of the tree.
func (d *Deployment) Entry(body []byte, integrated time.Time, v1Face bool) map[string]any {
	d.T.Helper()
	d.Leaves = append(d.Leaves, body)
	index := len(d.Leaves) - 1
	spki, err := x509.MarshalPKIXPublicKey(&d.LogKey.PublicKey)
	if err != nil {
		d.T.Fatal(err)
	}
	id := sha256.Sum256(spki)
	origin := "rekor." + d.Domain
	if v1Face {
		origin = fmt.Sprintf("%s - %d", origin, d.TreeID)
	}
	root := treeRoot(d.Leaves)
	note, err := log.SignNote(origin, d.LogKey, uint64(len(d.Leaves)), root)
	if err != nil {
		d.T.Fatal(err)
	}
	var head struct{ Kind, APIVersion string }
	if err := json.Unmarshal(body, &head); err != nil {
		d.T.Fatal(err)
	}
	hashes := []any{}
	for _, h := range treePath(d.Leaves, index) {
		hashes = append(hashes, base64.StdEncoding.EncodeToString(h[:]))
	}
	e := map[string]any{
		"logIndex": fmt.Sprint(index), "logId": map[string]any{"keyId": base64.StdEncoding.EncodeToString(id[:])}, "kindVersion": map[string]any{"kind": head.Kind, "version": head.APIVersion},
		"canonicalizedBody": base64.StdEncoding.EncodeToString(body),
		"inclusionProof": map[string]any{"logIndex": fmt.Sprint(index), "rootHash": base64.StdEncoding.EncodeToString(root[:]), "treeSize": fmt.Sprint(len(d.Leaves)), "hashes": hashes,
			"checkpoint": map[string]any{"envelope": string(note)}},
	}
	if !integrated.IsZero() {
		e["integratedTime"] = fmt.Sprint(integrated.Unix())
		set := fmt.Appendf(nil, `{"body":"%s","integratedTime":%d,"logID":"%s","logIndex":%d}`, base64.StdEncoding.EncodeToString(body), integrated.Unix(), hex.EncodeToString(id[:]), index)
		e["inclusionPromise"] = map[string]any{"signedEntryTimestamp": base64.StdEncoding.EncodeToString(d.Sign(d.LogKey, set))}
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

// Parts are the pieces of a bundle before they are put together.
type Parts struct {
	Signer    Signer
	Artifact  []byte
	Signature []byte
	Message   bool // else an attestation
	Statement []byte
	KeyID     string // of an attestation
	Entries   []any
	Stamps    []any
	MediaType string
}

// Media types of bundles.
const (
	MediaV01 = "application/vnd.dev.sigstore.bundle+json;version=0.1"
	MediaV03 = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// SignMessage signs artifact at d.Now and logs it: generation 1 with a promise
// and no timestamp, generation 2 with a timestamp.
func (d *Deployment) SignMessage(generation int, artifact string) Parts {
	d.T.Helper()
	p := Parts{Signer: d.Issue(d.Now, d.Edit), Artifact: []byte(artifact), Message: true, MediaType: MediaV03}
	digest := sha256.Sum256(p.Artifact)
	p.Signature = d.Sign(p.Signer.Key, p.Artifact)
	at := d.Now.Add(time.Minute)
	if generation == 1 {
		p.Entries = []any{d.Entry(BodyV1(p.Signer, digest[:], p.Signature), at, true)}
	} else {
		p.Entries = []any{d.Entry(BodyV2(p.Signer, digest[:], p.Signature), time.Time{}, false)}
		p.Stamps = []any{map[string]any{"signedTimestamp": base64.StdEncoding.EncodeToString(d.Token(p.Signature, at, false))}}
	}
	return p
}

// CustomPredicate is a predicate type that means nothing.
const CustomPredicate = "https://example.com/predicate/v1"

// Attest signs an in-toto statement over artifact, in Rekor v2.
func (d *Deployment) Attest(artifact, predicateType string) Parts {
	d.T.Helper()
	return d.AttestPayload(artifact, fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicate":{"n":1},"predicateType":%q,"subject":[{"digest":{"sha256":"%x"},"name":"a"}]}`, predicateType, sha256.Sum256([]byte(artifact))))
}

// AttestPayload signs a statement as it is given, in Rekor v2.
func (d *Deployment) AttestPayload(artifact string, statement []byte) Parts {
	d.T.Helper()
	p := Parts{Signer: d.Issue(d.Now, d.Edit), Artifact: []byte(artifact), MediaType: MediaV03, Statement: statement}
	pae := fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len("application/vnd.in-toto+json"), "application/vnd.in-toto+json", len(statement), statement)
	p.Signature = d.Sign(p.Signer.Key, pae)
	digest := sha256.Sum256(pae)
	p.Entries = []any{d.Entry(BodyV2(p.Signer, digest[:], p.Signature), time.Time{}, false)}
	p.Stamps = []any{map[string]any{"signedTimestamp": base64.StdEncoding.EncodeToString(d.Token(p.Signature, d.Now.Add(time.Minute), true))}}
	return p
}

// Tree is the bundle as nested maps, open to any change.
func (p Parts) Tree() map[string]any {
	material := map[string]any{"certificate": map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(p.Signer.Cert.Raw)}, "tlogEntries": p.Entries}
	if p.MediaType == MediaV01 {
		delete(material, "certificate")
		material["x509CertificateChain"] = map[string]any{"certificates": []any{map[string]any{"rawBytes": base64.StdEncoding.EncodeToString(p.Signer.Cert.Raw)}}}
	}
	if p.Stamps != nil {
		material["timestampVerificationData"] = map[string]any{"rfc3161Timestamps": p.Stamps}
	}
	b := map[string]any{"mediaType": p.MediaType, "verificationMaterial": material}
	if p.Message {
		digest := sha256.Sum256(p.Artifact)
		b["messageSignature"] = map[string]any{"messageDigest": map[string]any{"algorithm": "SHA2_256", "digest": base64.StdEncoding.EncodeToString(digest[:])}, "signature": base64.StdEncoding.EncodeToString(p.Signature)}
	} else {
		signature := map[string]any{"sig": base64.StdEncoding.EncodeToString(p.Signature)}
		if p.KeyID != "" {
			signature["keyid"] = p.KeyID
		}
		b["dsseEnvelope"] = map[string]any{"payload": base64.StdEncoding.EncodeToString(p.Statement), "payloadType": "application/vnd.in-toto+json", "signatures": []any{signature}}
	}
	return b
}

// Bundle is the bundle as JSON.
func (p Parts) Bundle(t testing.TB) []byte { return Encode(t, p.Tree()) }

// Encode is v as JSON.
func Encode(t testing.TB, v any) []byte {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
