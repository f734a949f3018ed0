package ct_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	cttypes "github.com/google/certificate-transparency-go"
	"github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/ctutil"
	"github.com/google/certificate-transparency-go/jsonclient"
	cttls "github.com/google/certificate-transparency-go/tls"
	ctx509 "github.com/google/certificate-transparency-go/x509"
	"github.com/google/certificate-transparency-go/x509util"
	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"

	"redoubt.internal/log"
	"redoubt.internal/log/ct"
)

// client returns the log client of certificate-transparency-go, which verifies every signature with the log's key.
func (r *rig) client() *client.LogClient {
	r.t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := client.New(r.url, http.DefaultClient, jsonclient.Options{
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})),
	})
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func asn1Chain(chain [][]byte) []cttypes.ASN1Cert {
	var out []cttypes.ASN1Cert
	for _, der := range chain {
		out = append(out, cttypes.ASN1Cert{Data: der})
	}
	return out
}

// TestRealClient is an auditor's visit with Google's own client: it submits, checks the timestamp, the tree heads, inclusion and consistency.
func TestRealClient(t *testing.T) {
	r := newRig(t)
	c := r.client()
	ctx := t.Context()
	sth0, err := c.GetSTH(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if sth0.TreeSize != 0 || sth0.SHA256RootHash != cttypes.SHA256Hash(sha256.Sum256(nil)) {
		t.Fatalf("empty log: %+v", sth0)
	}
	var heads []*cttypes.SignedTreeHead
	for range 5 {
		leaf := r.precert(nil)
		chain := r.chain(leaf)
		sct, err := c.AddPreChain(ctx, asn1Chain(chain)) // the client verifies the signature
		if err != nil {
			t.Fatal(err)
		}
		// ctutil's own view of it, from the certificates alone.
		parsed := make([]*ctx509.Certificate, len(chain))
		for i := range chain {
			if parsed[i], err = ctx509.ParseCertificate(chain[i]); ctx509.IsFatal(err) {
				t.Fatal(err)
			}
		}
		if err := ctutil.VerifySCT(r.key.Public(), parsed, sct, false); err != nil {
			t.Fatal(err)
		}
		// No merge delay: the head already covers the entry, and its time is not before the timestamp.
		sth, err := c.GetSTH(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if sth.Timestamp < sct.Timestamp {
			t.Fatalf("head of %d is older than timestamp %d", sth.Timestamp, sct.Timestamp)
		}
		hash, err := ctutil.LeafHash(parsed, sct, false)
		if err != nil {
			t.Fatal(err)
		}
		p, err := c.GetProofByHash(ctx, hash[:], sth.TreeSize)
		if err != nil {
			t.Fatal(err)
		}
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(p.LeafIndex), sth.TreeSize, hash[:], p.AuditPath, sth.SHA256RootHash[:]); err != nil {
			t.Fatal(err)
		}
		heads = append(heads, sth)
	}
	for i := range heads {
		for j := i; j < len(heads); j++ {
			p, err := c.GetSTHConsistency(ctx, heads[i].TreeSize, heads[j].TreeSize)
			if err != nil {
				t.Fatal(err)
			}
			if err := proof.VerifyConsistency(rfc6962.DefaultHasher, heads[i].TreeSize, heads[j].TreeSize, p, heads[i].SHA256RootHash[:], heads[j].SHA256RootHash[:]); err != nil {
				t.Fatalf("%d to %d: %v", i, j, err)
			}
		}
	}
	entries, err := c.GetEntries(ctx, 0, 100)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 5 {
		t.Fatalf("%d entries", len(entries))
	}
	for i, e := range entries {
		if e.Precert == nil || e.Index != int64(i) || len(e.Chain) != 2 || !bytes.Equal(e.Chain[0].Data, r.ca.Raw) || !bytes.Equal(e.Chain[1].Data, r.root.Raw) {
			t.Fatalf("entry %d: %+v", i, e)
		}
		if e.Precert.IssuerKeyHash != sha256.Sum256(r.ca.RawSubjectPublicKeyInfo) {
			t.Fatal("issuer key hash is not that of the issuing CA")
		}
		ep, err := c.GetEntryAndProof(ctx, uint64(i), 5)
		if err != nil {
			t.Fatal(err)
		}
		leafHash := rfc6962.DefaultHasher.HashLeaf(ep.LeafInput)
		if err := proof.VerifyInclusion(rfc6962.DefaultHasher, uint64(i), 5, leafHash, ep.AuditPath, heads[4].SHA256RootHash[:]); err != nil {
			t.Fatal(err)
		}
	}
	roots, err := c.GetAcceptedRoots(ctx)
	if err != nil || len(roots) != 1 || !bytes.Equal(roots[0].Data, r.root.Raw) {
		t.Fatalf("roots: %v, %v", roots, err)
	}
}

// TestEmbeddedSCT: a final certificate with the timestamp embedded verifies, so the signed bytes are those RFC 6962 3.2 asks for.
func TestEmbeddedSCT(t *testing.T) {
	r := newRig(t)
	key := generate(t, elliptic.P256())
	tmpl := &x509.Certificate{
		EmailAddresses: []string{"dev@corp.example"}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, ExtraExtensions: []pkix.Extension{poison},
	}
	pre := r.make(tmpl, r.ca, key.Public(), r.caKey)
	sct := r.add(pre)
	list, err := x509util.MarshalSCTsIntoSCTList([]*cttypes.SignedCertificateTimestamp{&sct})
	if err != nil {
		t.Fatal(err)
	}
	all, err := cttls.Marshal(*list)
	if err != nil {
		t.Fatal(err)
	}
	octets, err := asn1.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	tmpl.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: octets}}
	tmpl.SerialNumber = pre.SerialNumber
	der, err := x509.CreateCertificate(rand.Reader, tmpl, r.ca, key.Public(), r.caKey)
	if err != nil {
		t.Fatal(err)
	}
	var chain []*ctx509.Certificate
	for _, d := range [][]byte{der, r.ca.Raw} {
		c, err := ctx509.ParseCertificate(d)
		if ctx509.IsFatal(err) {
			t.Fatal(err)
		}
		chain = append(chain, c)
	}
	if err := ctutil.VerifySCT(r.key.Public(), chain, &sct, true); err != nil {
		t.Fatal(err)
	}
}

// TestSameTimestamp: a precertificate submitted again, at once, later or after a restart, gets one entry and the same instant.
func TestSameTimestamp(t *testing.T) {
	r := newRig(t)
	leaf := r.precert(nil)
	var wg sync.WaitGroup
	scts := make([]ct.SCT, 16)
	for i := range scts {
		wg.Go(func() {
			var err error
			if scts[i], err = r.ct.AddPreChain(t.Context(), r.chain(leaf)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, s := range scts {
		if s.Timestamp != scts[0].Timestamp || !bytes.Equal(s.Signature.Signature, scts[0].Signature.Signature) {
			t.Fatal("two timestamps for one precertificate")
		}
	}
	other := r.add(r.precert(nil))
	r.reopen()
	again := r.add(leaf)
	if again.Timestamp != scts[0].Timestamp {
		t.Fatalf("after a restart: %d, was %d", again.Timestamp, scts[0].Timestamp)
	}
	if n := r.merkle.Head().Size; n != 2 {
		t.Fatalf("%d entries for two precertificates (%v)", n, other.Timestamp)
	}
	// The root may be left out of the chain; it is the same submission.
	if s, err := r.ct.AddPreChain(t.Context(), r.chain(leaf)[:2]); err != nil || s.Timestamp != again.Timestamp {
		t.Fatalf("without the root: %v, %v", s.Timestamp, err)
	}
}

// badChains is every way a chain can be wrong that a submitter can think of.
func (r *rig) badChains() map[string][][]byte {
	t := r.t
	good := r.precert(nil)
	foreign := newPKI(t)
	selfSigned := r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, nil, r.caKey.Public(), r.caKey)
	impostor := *r.pki
	impostor.caKey = generate(t, elliptic.P256()) // same name and certificate, another key: CreateCertificate takes the parent's name only
	forged := r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, &x509.Certificate{
		RawSubject: r.ca.RawSubject, Subject: r.ca.Subject,
	}, impostor.caKey.Public(), impostor.caKey)
	flipped := bytes.Clone(good.Raw)
	flipped[len(flipped)-1] ^= 1
	preIssuer := r.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "pre-issuer"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4}},
	}, r.root, r.caKey.Public(), r.rootKey)
	underPre := r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, preIssuer, r.caKey.Public(), r.caKey)
	notCA := r.precert(func(c *x509.Certificate) { c.ExtraExtensions = nil })
	belowLeafKey := generate(t, elliptic.P256())
	leafAsCA := r.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "leaf"}, KeyUsage: x509.KeyUsageDigitalSignature,
	}, r.ca, belowLeafKey.Public(), r.caKey)
	belowLeaf := r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, leafAsCA, r.caKey.Public(), belowLeafKey)
	subKey := generate(t, elliptic.P256())
	sub := r.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "sub"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, r.ca, subKey.Public(), r.caKey) // the issuing CA has path length 0
	belowSub := r.make(&x509.Certificate{ExtraExtensions: []pkix.Extension{poison}}, sub, r.caKey.Public(), subKey)
	return map[string][][]byte{
		"nothing":                 {},
		"nil":                     nil,
		"empty certificate":       {nil, r.ca.Raw, r.root.Raw},
		"no certificate":          {[]byte("hello"), r.ca.Raw, r.root.Raw},
		"trailing byte":           {append(bytes.Clone(good.Raw), 0), r.ca.Raw, r.root.Raw},
		"truncated":               {good.Raw[:len(good.Raw)-1], r.ca.Raw, r.root.Raw},
		"no issuer":               {good.Raw},
		"issuer missing":          {good.Raw, r.root.Raw},
		"wrong order":             {good.Raw, r.root.Raw, r.ca.Raw},
		"issuer is no cert":       {good.Raw, []byte{0x30, 0}, r.root.Raw},
		"foreign root":            {good.Raw, r.ca.Raw, foreign.root.Raw},
		"foreign chain":           foreign.chain(foreign.precert(nil)),
		"root alone":              {r.root.Raw},
		"self-signed precert":     {selfSigned.Raw},
		"flipped signature":       {flipped, r.ca.Raw, r.root.Raw},
		"forged by another key":   {forged.Raw, r.ca.Raw, r.root.Raw},
		"pre-issuer":              {underPre.Raw, preIssuer.Raw, r.root.Raw},
		"final certificate":       {notCA.Raw, r.ca.Raw, r.root.Raw},
		"issued by an end entity": {belowLeaf.Raw, leafAsCA.Raw, r.ca.Raw, r.root.Raw},
		"path too long":           {belowSub.Raw, sub.Raw, r.ca.Raw, r.root.Raw},
		"poison not critical":     r.chain(r.precert(func(c *x509.Certificate) { c.ExtraExtensions[0].Critical = false })),
		"poison not null":         r.chain(r.precert(func(c *x509.Certificate) { c.ExtraExtensions[0].Value = []byte{4, 0} })),
		"poison and timestamps": r.chain(r.precert(func(c *x509.Certificate) {
			c.ExtraExtensions = append(c.ExtraExtensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2}, Value: []byte{4, 0}})
		})),
		"too many certificates": {good.Raw, r.ca.Raw, r.ca.Raw, r.ca.Raw, r.ca.Raw, r.ca.Raw, r.root.Raw},
		"large certificate":     {bytes.Repeat([]byte{0x30}, 17<<10), r.ca.Raw, r.root.Raw},
	}
}

func TestBadChains(t *testing.T) {
	r := newRig(t)
	for name, chain := range r.badChains() {
		if _, err := r.ct.AddPreChain(t.Context(), chain); !errors.Is(err, ct.ErrChain) {
			t.Errorf("%s: %v; want ErrChain", name, err)
		}
		body, err := json.Marshal(map[string]any{"chain": chain})
		if err != nil {
			t.Fatal(err)
		}
		code, text := r.post("/ct/v1/add-pre-chain", body)
		if code != http.StatusBadRequest || !strings.HasPrefix(text, "Bad Request\n") || len(text) < len("Bad Request\n")+10 {
			t.Errorf("%s: HTTP %d %q", name, code, text)
		}
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries of refused chains", n)
	}
}

func (r *rig) post(path string, body []byte) (int, string) {
	r.t.Helper()
	resp, err := http.Post(r.url+path, "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func (r *rig) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get(r.url + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(b)
}

func TestBadRequests(t *testing.T) {
	r := newRig(t)
	r.add(r.precert(nil))
	r.add(r.precert(nil))
	good := base64.StdEncoding.EncodeToString(r.ca.Raw)
	for _, body := range []string{
		``, `{`, `null`, `[]`, `"chain"`, `{}`, `{"chain":null}`, `{"chain":[]}`, `{"chain":"x"}`, `{"chain":[1]}`, `{"chain":[null]}`,
		`{"chain":["%%%"]}`, `{"chain":[""]}`, `{"chain":["` + good + `"],"chain":["` + good + `"]}`, `{"Chain":["` + good + `"]}`,
		`{"chain":["` + good + `"],"x":1}`, `{"chain":["` + good + `"]} x`, `{"chain":{"0":"` + good + `"}}`,
		`{"chain":` + strings.Repeat("[", 5000) + `}`,
	} {
		if code, text := r.post("/ct/v1/add-pre-chain", []byte(body)); code != http.StatusBadRequest || !strings.HasPrefix(text, "Bad Request\n") {
			t.Errorf("%.60s: %d %q", body, code, text)
		}
	}
	if code, text := r.post("/ct/v1/add-chain", []byte(`{"chain":["`+good+`"]}`)); code != 400 || !strings.Contains(text, "add-pre-chain") {
		t.Errorf("add-chain: %d %q", code, text)
	}
	for _, path := range []string{"/ct/v1/add-pre-chain", "/ct/v1/add-pre-chain/"} {
		if code, text := r.post(path, bytes.Repeat([]byte("A"), 5<<20)); code != http.StatusRequestEntityTooLarge || !strings.Contains(text, "262144") {
			t.Errorf("5 MiB: %d %q", code, text)
		}
	}
	hash := base64.StdEncoding.EncodeToString(make([]byte, 32))
	for path, want := range map[string]int{
		"get-sth-consistency" + query("first", "1", "second", "2"):              200,
		"get-sth-consistency" + query("first", "0", "second", "2"):              200,
		"get-sth-consistency" + query("first", "2", "second", "2"):              200,
		"get-sth-consistency" + query("first", "2", "second", "1"):              400,
		"get-sth-consistency" + query("first", "1", "second", "3"):              400,
		"get-sth-consistency" + query("first", "-1", "second", "2"):             400,
		"get-sth-consistency" + query("first", "+1", "second", "2"):             400,
		"get-sth-consistency" + query("second", "2"):                            400,
		"get-sth-consistency" + query("first", "1"):                             400,
		"get-sth-consistency?first=1&first=1&second=2":                          400,
		"get-sth-consistency?first=%zz&second=2":                                400,
		"get-sth-consistency" + query("first", "1", "second", "9"):              400,
		"get-sth-consistency" + query("first", "1", "second", "99999999999999"): 400,
		"get-sth-consistency" + query("first", "1", "second", "1e1"):            400,
		"get-proof-by-hash" + query("hash", hash, "tree_size", "2"):             404,
		"get-proof-by-hash" + query("hash", hash, "tree_size", "3"):             404,
		"get-proof-by-hash" + query("hash", hash, "tree_size", "0"):             400,
		"get-proof-by-hash" + query("hash", hash):                               400,
		"get-proof-by-hash" + query("hash", "AAAA", "tree_size", "2"):           400,
		"get-proof-by-hash" + query("hash", "%", "tree_size", "2"):              400,
		"get-proof-by-hash" + query("tree_size", "2"):                           400,
		"get-entries" + query("start", "0", "end", "0"):                         200,
		"get-entries" + query("start", "0", "end", "1000000"):                   200,
		"get-entries" + query("start", "2", "end", "3"):                         400,
		"get-entries" + query("start", "1", "end", "0"):                         400,
		"get-entries" + query("start", "0"):                                     400,
		"get-entries" + query("end", "0"):                                       400,
		"get-entries" + query("start", "x", "end", "0"):                         400,
		"get-entry-and-proof" + query("leaf_index", "1", "tree_size", "2"):      200,
		"get-entry-and-proof" + query("leaf_index", "2", "tree_size", "2"):      400,
		"get-entry-and-proof" + query("leaf_index", "0", "tree_size", "0"):      400,
		"get-entry-and-proof" + query("leaf_index", "0", "tree_size", "3"):      400,
		"get-entry-and-proof" + query("leaf_index", "0"):                        400,
		"get-sth":         200,
		"get-sth/":        200,
		"get-roots":       200,
		"get-nothing":     404,
		"add-pre-chain":   405,
		"../../x":         404,
		"get-sth/x":       404,
		"get-entries/%20": 404,
	} {
		if code, text := r.get("/ct/v1/" + path); code != want {
			t.Errorf("%s: %d %q; want %d", path, code, text, want)
		}
	}
	for _, name := range []string{"get-sth", "get-roots", "get-entries"} {
		if code, _ := r.post("/ct/v1/"+name, nil); code != http.StatusMethodNotAllowed {
			t.Errorf("POST %s: %d", name, code)
		}
	}
	if n := r.merkle.Head().Size; n != 2 {
		t.Fatalf("%d entries", n)
	}
}

// TestReadOnly: a log that has stopped refuses submissions with 503 and the reason, and keeps serving what it holds.
func TestReadOnly(t *testing.T) {
	r := newRig(t)
	first := r.precert(nil)
	r.add(first)
	marked := &stuckMark{}
	conf := r.conf
	conf.HighWater = []log.HighWater{marked}
	r.stop()
	l, err := log.Open(t.Context(), conf)
	if err != nil {
		t.Fatal(err)
	}
	if l.Err() == nil {
		t.Fatal("a log behind its mark is writable")
	}
	r.merkle = l
	if r.ct, err = ct.New(ct.Config{Log: l, Signer: r.key, Roots: []*x509.Certificate{r.root}}); err != nil {
		t.Fatal(err)
	}
	server := httptestServer(t, r.ct.Handler())
	r.url = server
	body, _ := json.Marshal(map[string]any{"chain": r.chain(r.precert(nil))})
	if code, text := r.post("/ct/v1/add-pre-chain", body); code != http.StatusServiceUnavailable || !strings.HasPrefix(text, "Service Unavailable\n") {
		t.Errorf("POST: %d %q", code, text)
	}
	if code, text := r.get("/ct/v1/get-entries?start=0&end=0"); code != 200 {
		t.Errorf("GET: %d %q", code, text)
	}
}

// TestTokenPulledOut: when the key goes between the head and the timestamp, the submitter gets an error and no timestamp; after the key is back the
// same precertificate gets its one timestamp from its one entry.
func TestTokenPulledOut(t *testing.T) {
	for _, after := range []int64{1, 2} { // before the head is signed; before the timestamp is
		r := newRig(t)
		r.add(r.precert(nil))
		leaf := r.precert(nil)
		body, err := json.Marshal(map[string]any{"chain": r.chain(leaf)})
		if err != nil {
			t.Fatal(err)
		}
		r.key.after.Store(after)
		if code, text := r.post("/ct/v1/add-pre-chain", body); code != http.StatusServiceUnavailable || !strings.Contains(text, "the log's key is unavailable") || strings.Contains(text, "token") {
			t.Errorf("%d: %d %q", after, code, text)
		}
		r.key.after.Store(0)
		r.key.out.Store(false)
		r.add(r.precert(nil))
		first := r.add(leaf)
		if again := r.add(leaf); again.Timestamp != first.Timestamp {
			t.Errorf("%d: two timestamps", after)
		}
		if n := r.merkle.Head().Size; n != 3 {
			t.Errorf("%d: %d entries for 3 precertificates", after, n)
		}
	}
}

// TestNew refuses what cannot work.
func TestNew(t *testing.T) {
	r := newRig(t)
	p384 := generate(t, elliptic.P384())
	roots := []*x509.Certificate{r.root}
	for name, c := range map[string]ct.Config{
		"no log":    {Signer: r.key, Roots: roots},
		"no signer": {Log: r.merkle, Roots: roots},
		"no roots":  {Log: r.merkle, Signer: r.key},
		"P-384 key": {Log: r.merkle, Signer: p384, Roots: roots},
		"other key": {Log: r.merkle, Signer: generate(t, elliptic.P256()), Roots: roots},
	} {
		if _, err := ct.New(c); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	l, err := ct.New(ct.Config{Log: r.merkle, Signer: r.key, Roots: append(roots, r.root)})
	if err != nil {
		t.Fatal(err)
	}
	spki, _ := x509.MarshalPKIXPublicKey(r.key.Public())
	if l.ID() != sha256.Sum256(spki) {
		t.Error("log id is not SHA-256 of the key")
	}
}

// TestParallelIssuance submits many different precertificates at once; each gets a valid timestamp and its own entry.
func TestParallelIssuance(t *testing.T) {
	r := newRig(t)
	const n = 64
	leaves := make([]*x509.Certificate, n)
	for i := range leaves {
		leaves[i] = r.precert(nil)
	}
	var wg sync.WaitGroup
	for _, leaf := range leaves {
		wg.Go(func() {
			sct, err := r.ct.AddPreChain(t.Context(), r.chain(leaf))
			if err != nil {
				t.Error(err)
				return
			}
			var chain []*ctx509.Certificate
			for _, d := range r.chain(leaf) {
				c, _ := ctx509.ParseCertificate(d)
				chain = append(chain, c)
			}
			if err := ctutil.VerifySCT(r.key.Public(), chain, &sct, false); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := r.merkle.Head().Size; got != n {
		t.Fatalf("%d entries, want %d", got, n)
	}
}

func BenchmarkAddPreChain(b *testing.B) {
	r := newRig(b)
	leaves := make(chan [][]byte, 4096)
	for range min(b.N, cap(leaves)) {
		leaves <- r.chain(r.precert(nil))
	}
	b.SetParallelism(32)
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			select {
			case chain := <-leaves:
				if _, err := r.ct.AddPreChain(b.Context(), chain); err != nil {
					b.Error(err)
				}
			default:
			}
		}
	})
}

// TestFrozen: a frozen log takes no certificate, new or known, by any way, and is read as before.
func TestFrozen(t *testing.T) {
	r := newRig(t)
	known := r.precert(nil)
	r.add(known)
	_, sth := r.get("/ct/v1/get-sth")
	frozen, err := ct.New(ct.Config{Log: r.merkle, Signer: r.key, Roots: []*x509.Certificate{r.root}, Frozen: true})
	if err != nil {
		t.Fatal(err)
	}
	for _, leaf := range []*x509.Certificate{known, r.precert(nil)} {
		if _, err := frozen.AddPreChain(t.Context(), r.chain(leaf)); !errors.Is(err, ct.ErrFrozen) {
			t.Errorf("AddPreChain: %v", err)
		}
	}
	issuer, err := frozen.Issuer(r.chain(known)[1:])
	if err != nil {
		t.Fatal(err)
	}
	if _, err := issuer.Add(t.Context(), known.Raw); !errors.Is(err, ct.ErrFrozen) {
		t.Errorf("Issuer.Add: %v", err)
	}
	server := httptestServer(t, frozen.Handler())
	r.url = server
	body, _ := json.Marshal(map[string]any{"chain": r.chain(r.precert(nil))})
	if code, text := r.post("/ct/v1/add-pre-chain", body); code != http.StatusForbidden || !strings.Contains(text, "frozen") {
		t.Errorf("POST: %d %q", code, text)
	}
	var was, is struct {
		Size uint64 `json:"tree_size"`
		Root []byte `json:"sha256_root_hash"`
	}
	code, text := r.get("/ct/v1/get-sth")
	if err := errors.Join(json.Unmarshal([]byte(sth), &was), json.Unmarshal([]byte(text), &is)); code != 200 || err != nil || was.Size != 1 || is.Size != 1 || !bytes.Equal(was.Root, is.Root) {
		t.Errorf("head of the frozen log: %d %s, was %s (%v)", code, text, sth, err)
	}
	if code, text := r.get("/ct/v1/get-entries?start=0&end=0"); code != 200 {
		t.Errorf("GET: %d %q", code, text)
	}
}
