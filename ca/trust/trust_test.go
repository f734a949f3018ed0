package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"
)

var testStart = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// makeChain makes [leaf,] issuing, root.
func makeChain(t testing.TB, org string, leaf bool) []*x509.Certificate {
	t.Helper()
	sign := func(tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
		tmpl.NotBefore, tmpl.NotAfter = testStart, testStart.AddDate(10, 0, 0)
		tmpl.SerialNumber = big.NewInt(time.Now().UnixNano())
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
	ca := func(cn string) *x509.Certificate {
		return &x509.Certificate{Subject: pkix.Name{Organization: []string{org}, CommonName: cn}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	}
	rootKey, intKey := newKey(t), newKey(t)
	r := ca("root")
	r = sign(r, r, rootKey.Public(), rootKey)
	i := ca("issuing")
	if !leaf {
		i.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}
	}
	i = sign(i, r, intKey.Public(), rootKey)
	if !leaf {
		return []*x509.Certificate{i, r}
	}
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		t.Fatal(err)
	}
	l := &x509.Certificate{Subject: pkix.Name{CommonName: "tsa"}, KeyUsage: x509.KeyUsageDigitalSignature, ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: eku}}}
	return []*x509.Certificate{sign(l, i, newKey(t).Public(), intKey), i, r}
}

func newMaterial(t testing.TB) Material {
	t.Helper()
	return Material{
		Domain:   "corp.internal",
		URLs:     URLs{Fulcio: "http://127.0.0.1:4001", Rekor: "http://127.0.0.1:4002", TSA: "http://127.0.0.1:4003/api/v1/timestamp", TUF: "http://127.0.0.1:4004", OIDC: "http://127.0.0.1:4005", CT: "http://127.0.0.1:4006"},
		CAs:      []Authority{{Chain: makeChain(t, "Corp", false)}},
		CTLogs:   []Log{{Key: &newKey(t).PublicKey, Start: testStart}},
		Rekor:    []Log{{Key: &newKey(t).PublicKey, Start: testStart}},
		TSAs:     []Authority{{Chain: makeChain(t, "Corp", true)}},
		TLSRoots: []*x509.Certificate{makeChain(t, "TLS", false)[1]},
	}
}

// TestTrustedRoot: sigstore-go reads our document and finds what we put in.
func TestTrustedRoot(t *testing.T) {
	m := newMaterial(t)
	end := testStart.AddDate(1, 0, 0)
	m.Rekor[0].End = end
	m.Rekor = append(m.Rekor, Log{Host: "rekor-2.corp.internal", Key: &newKey(t).PublicKey, Start: end})
	m.CAs[0].End = end
	m.CAs = append(m.CAs, Authority{Chain: makeChain(t, "Corp 2", false), Start: end})
	data, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	again, err := m.TrustedRoot()
	if err != nil || !bytes.Equal(data, again) {
		t.Fatalf("not deterministic (%v)", err)
	}
	tr, err := root.NewTrustedRootFromJSON(data)
	if err != nil {
		t.Fatal(err)
	}
	var doc struct{ MediaType string }
	if err := json.Unmarshal(data, &doc); err != nil || doc.MediaType != "application/vnd.dev.sigstore.trustedroot+json;version=0.1" {
		t.Fatalf("media type %q, %v", doc.MediaType, err)
	}
	for _, want := range []struct {
		l    Log
		base string
		got  map[string]*root.TransparencyLog
	}{
		{m.Rekor[0], "https://rekor.corp.internal", tr.RekorLogs()},
		{m.Rekor[1], "https://rekor-2.corp.internal", tr.RekorLogs()},
		{m.CTLogs[0], "https://ct.corp.internal", tr.CTLogs()},
	} {
		id, err := want.l.ID()
		if err != nil {
			t.Fatal(err)
		}
		g := want.got[hex.EncodeToString(id[:])]
		if g == nil || g.BaseURL != want.base || !g.ValidityPeriodStart.Equal(want.l.Start) || !g.ValidityPeriodEnd.Equal(want.l.End) || !want.l.Key.Equal(g.PublicKey) {
			t.Errorf("log %s: %+v", want.base, g)
		}
	}
	if n := len(tr.FulcioCertificateAuthorities()); n != 2 {
		t.Fatalf("%d CAs", n)
	}
	ca := tr.FulcioCertificateAuthorities()[0].(*root.FulcioCertificateAuthority)
	if !ca.Root.Equal(m.CAs[0].Chain[1]) || len(ca.Intermediates) != 1 || !ca.Intermediates[0].Equal(m.CAs[0].Chain[0]) || !ca.ValidityPeriodEnd.Equal(end) || !ca.ValidityPeriodStart.Equal(testStart) || ca.URI != "https://fulcio.corp.internal" {
		t.Errorf("CA: %+v", ca)
	}
	tsa := tr.TimestampingAuthorities()[0].(*root.SigstoreTimestampingAuthority)
	if !tsa.Leaf.Equal(m.TSAs[0].Chain[0]) || !tsa.Root.Equal(m.TSAs[0].Chain[2]) || tsa.URI != "https://tsa.corp.internal/api/v1/timestamp" {
		t.Errorf("TSA: %+v", tsa)
	}
}

func TestSigningConfigs(t *testing.T) {
	m := newMaterial(t)
	for _, major := range []uint32{1, 2} {
		data, err := m.SigningConfig(major)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := root.NewSigningConfigFromJSON(data)
		if err != nil {
			t.Fatal(err)
		}
		now := testStart.AddDate(1, 0, 0)
		rekor, err := root.SelectServices(sc.RekorLogURLs(), sc.RekorLogURLsConfig(), []uint32{1, 2}, now)
		if err != nil || len(rekor) != 1 || rekor[0].URL != m.URLs.Rekor || rekor[0].MajorAPIVersion != major || rekor[0].Operator != "corp.internal" {
			t.Errorf("rekor: %+v, %v", rekor, err)
		}
		tsa, err := root.SelectServices(sc.TimestampAuthorityURLs(), sc.TimestampAuthorityURLsConfig(), []uint32{1}, now)
		if err != nil || tsa[0].URL != m.URLs.TSA {
			t.Errorf("tsa: %+v, %v", tsa, err)
		}
		ca, err := root.SelectService(sc.FulcioCertificateAuthorityURLs(), []uint32{1}, now)
		if err != nil || ca.URL != m.URLs.Fulcio {
			t.Errorf("fulcio: %+v, %v", ca, err)
		}
		oidc, err := root.SelectService(sc.OIDCProviderURLs(), []uint32{1}, now)
		if err != nil || oidc.URL != m.URLs.OIDC {
			t.Errorf("oidc: %+v, %v", oidc, err)
		}
	}
	m.TSAs = nil
	if _, err := m.SigningConfig(2); !errors.Is(err, ErrMaterial) {
		t.Errorf("Rekor v2 without a TSA: %v", err)
	}
	if _, err := m.SigningConfig(3); !errors.Is(err, ErrMaterial) {
		t.Errorf("version 3: %v", err)
	}
}

// TestSeparateV2Log: with a log of its own for Rekor v2, each config names its
// log and the files of older clients name the v1 log alone.
func TestSeparateV2Log(t *testing.T) {
	m := newMaterial(t)
	m.URLs.RekorV2 = "http://127.0.0.1:4007"
	m.Rekor = append(m.Rekor, Log{Host: "rekor-2.corp.internal", Key: &newKey(t).PublicKey, Start: testStart.Add(time.Hour), V2: true})
	for major, want := range map[uint32]string{1: m.URLs.Rekor, 2: m.URLs.RekorV2} {
		data, err := m.SigningConfig(major)
		if err != nil {
			t.Fatal(err)
		}
		sc, err := root.NewSigningConfigFromJSON(data)
		if err != nil || len(sc.RekorLogURLs()) != 1 || sc.RekorLogURLs()[0].URL != want {
			t.Errorf("version %d: %+v, %v", major, sc, err)
		}
	}
	old, err := keyPEM(m.Rekor[0])
	if err != nil {
		t.Fatal(err)
	}
	files, err := m.LegacyFiles()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if f.Name == "rekor.pub" && !bytes.Equal(f.Data, old) {
			t.Error("rekor.pub is not the v1 log's key")
		}
	}
	data, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	if tr, err := root.NewTrustedRootFromJSON(data); err != nil || len(tr.RekorLogs()) != 2 {
		t.Errorf("trusted root: %v", err)
	}
	dir := t.TempDir()
	if _, err := WriteClientSetup(dir, m, []byte("{}")); err != nil {
		t.Fatal(err)
	}
	v2, err := keyPEM(m.Rekor[1])
	if err != nil {
		t.Fatal(err)
	}
	if written, err := os.ReadFile(filepath.Join(dir, "rekor-2.pub")); err != nil || !bytes.Equal(written, v2) {
		t.Errorf("rekor-2.pub: %v\n%s", err, written)
	}
	m.Rekor[1].Host = ""
	if err := m.Validate(); !errors.Is(err, ErrMaterial) {
		t.Errorf("a v2 log under the v1 log's name: %v", err)
	}
	m.Rekor[0].V2 = true
	if err := m.Validate(); !errors.Is(err, ErrMaterial) {
		t.Errorf("no v1 log: %v", err)
	}
}

func TestMaterialRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Material){
		"no domain":         func(m *Material) { m.Domain = "" },
		"upper-case domain": func(m *Material) { m.Domain = "Corp.internal" },
		"domain with space": func(m *Material) { m.Domain = "corp internal" },
		"domain traversal":  func(m *Material) { m.Domain = "../x" },
		"no CA":             func(m *Material) { m.CAs = nil },
		"no CT log":         func(m *Material) { m.CTLogs = nil },
		"no artifact log":   func(m *Material) { m.Rekor = nil },
		"chain reversed":    func(m *Material) { slices.Reverse(m.CAs[0].Chain) },
		"chain with gap":    func(m *Material) { m.TSAs[0].Chain = []*x509.Certificate{m.TSAs[0].Chain[0], m.TSAs[0].Chain[2]} },
		"chain without root": func(m *Material) {
			m.CAs[0].Chain = m.CAs[0].Chain[:1]
		},
		"TSA chain as CA":   func(m *Material) { m.CAs = m.TSAs },
		"CA chain as TSA":   func(m *Material) { m.TSAs = m.CAs },
		"empty certificate": func(m *Material) { m.CAs[0].Chain[0] = nil },
		"shared log key":    func(m *Material) { m.CTLogs[0].Key = m.Rekor[0].Key },
		"no log key":        func(m *Material) { m.Rekor[0].Key = nil },
		"P-384 log key": func(m *Material) {
			k, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
			if err != nil {
				t.Fatal(err)
			}
			m.Rekor[0].Key = &k.PublicKey
		},
		"no start":         func(m *Material) { m.Rekor[0].Start = time.Time{} },
		"ends before":      func(m *Material) { m.Rekor[0].End = testStart.Add(-1) },
		"CA ends before":   func(m *Material) { m.CAs[0].End = testStart.Add(-1) },
		"log host":         func(m *Material) { m.Rekor[0].Host = "rekor/x" },
		"no Fulcio URL":    func(m *Material) { m.URLs.Fulcio = "" },
		"no TSA URL":       func(m *Material) { m.URLs.TSA = "" },
		"relative URL":     func(m *Material) { m.URLs.Rekor = "/rekor" },
		"ftp":              func(m *Material) { m.URLs.Rekor = "ftp://x" },
		"userinfo":         func(m *Material) { m.URLs.Rekor = "http://a@x" },
		"quote in URL":     func(m *Material) { m.URLs.TUF = "http://x/'; rm -rf ~'" },
		"line break in it": func(m *Material) { m.URLs.OIDC = "http://x/\nrm" },
	} {
		m := newMaterial(t)
		spoil(&m)
		if _, err := m.TrustedRoot(); !errors.Is(err, ErrMaterial) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func newRepo(t testing.TB, m Material, now func() time.Time) (*Repository, RepositoryConfig) {
	t.Helper()
	c := RepositoryConfig{Dir: filepath.Join(t.TempDir(), "tuf"), Signer: newKey(t), Now: now}
	files, err := m.Targets()
	if err != nil {
		t.Fatal(err)
	}
	r, err := Create(context.Background(), c, files)
	if err != nil {
		t.Fatal(err)
	}
	return r, c
}

// client is a go-tuf updater over HTTP that keeps its state in dir.
func client(t testing.TB, url, dir string, rootJSON []byte) *updater.Updater {
	t.Helper()
	cfg, err := config.New(url, rootJSON)
	if err != nil {
		t.Fatal(err)
	}
	cfg.LocalMetadataDir, cfg.LocalTargetsDir = dir, filepath.Join(dir, "targets")
	cfg.PrefixTargetsWithHash = true
	u, err := updater.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// TestRepositoryClients: go-tuf's updater, sigstore-go's TUF client and the TUF
// client of cosign 2 follow the repository through publications and renewals.
func TestRepositoryClients(t *testing.T) {
	ctx := context.Background()
	now := time.Now()
	m := newMaterial(t)
	r, c := newRepo(t, m, func() time.Time { return now })
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	dir, first := t.TempDir(), r.Root()

	check := func(want []byte) {
		t.Helper()
		u := client(t, srv.URL, dir, first)
		if err := u.Refresh(); err != nil {
			t.Fatal(err)
		}
		for _, name := range []string{"trusted_root.json", "signing_config.v0.2.json", "signing_config_rekor_v2.v0.2.json", "fulcio.crt.pem", "rekor.pub", "ctfe.pub", "tsa_leaf.crt.pem"} {
			info, err := u.GetTargetInfo(name)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if _, data, err := u.DownloadTarget(info, "", ""); err != nil || name == TrustedRootName && !bytes.Equal(data, want) {
				t.Fatalf("%s: %v", name, err)
			}
		}
		tc, err := tuf.New(tuf.DefaultOptions().WithRoot(first).WithRepositoryBaseURL(srv.URL).WithDisableLocalCache())
		if err != nil {
			t.Fatal(err)
		}
		got, err := tc.GetTarget("trusted_root.json")
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("sigstore-go: %v", err)
		}
		if _, err := root.GetTrustedRoot(tc); err != nil {
			t.Fatal(err)
		}
		if _, err := root.GetSigningConfig(tc); err != nil {
			t.Fatal(err)
		}
	}
	want, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	check(want)

	before := r.Status()
	files, err := m.Targets()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(ctx, files); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(before, r.Status()) {
		t.Error("publishing the same again changed versions")
	}
	m.CAs[0].End = testStart.AddDate(1, 0, 0)
	m.CAs = append(m.CAs, Authority{Chain: makeChain(t, "Corp 2", false)})
	if files, err = m.Targets(); err != nil {
		t.Fatal(err)
	}
	if r, err = Open(c); err != nil { // a restart between publications
		t.Fatal(err)
	}
	if err := r.Publish(ctx, files); err != nil {
		t.Fatal(err)
	}
	if want, err = m.TrustedRoot(); err != nil {
		t.Fatal(err)
	}
	check(want)
	if err := r.Renew(ctx); err != nil {
		t.Fatal(err)
	}
	check(want)

	// Clients before trusted_root.json find the single files by their custom metadata.
	count := map[string]int{}
	for name, target := range r.targets.Signed.Targets {
		if target.Custom == nil {
			continue
		}
		var custom struct {
			Sigstore struct{ Usage, Status, URI string }
		}
		if err := json.Unmarshal(*target.Custom, &custom); err != nil {
			t.Fatal(err)
		}
		s := custom.Sigstore
		count[s.Usage]++
		if ended := s.Usage == "Fulcio" && !strings.Contains(name, "_1"); s.Status != map[bool]string{true: "Expired", false: "Active"}[ended] || s.URI == "" {
			t.Errorf("%s: %+v", name, s)
		}
	}
	if want := map[string]int{"Fulcio": 4, "Rekor": 1, "CTFE": 1, "TSA": 3}; !maps.Equal(count, want) {
		t.Errorf("usages %v, want %v", count, want)
	}
}

// TestRenewRoot: near its end the root is renewed and old clients follow.
func TestRenewRoot(t *testing.T) {
	now := time.Now()
	m := newMaterial(t)
	r, c := newRepo(t, m, func() time.Time { return now })
	first := r.Root()
	now = now.Add(8 * year)
	if err := r.Renew(context.Background()); err != nil {
		t.Fatal(err)
	}
	for _, s := range r.Status() {
		if s.Version != 2 || s.Expired {
			t.Errorf("%+v", s)
		}
	}
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	if err := client(t, srv.URL, t.TempDir(), first).Refresh(); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c); err != nil {
		t.Fatal(err)
	}
	got, err := (&metadata.Metadata[metadata.RootType]{}).FromBytes(r.Root())
	if err != nil || got.Signed.Version != 2 || len(got.Signatures) != 1 {
		t.Errorf("root: %+v, %v", got, err)
	}
}

func TestOpenRefuses(t *testing.T) {
	m := newMaterial(t)
	for name, spoil := range map[string]func(t *testing.T, c *RepositoryConfig){
		"no timestamp": func(t *testing.T, c *RepositoryConfig) { os.Remove(filepath.Join(c.Dir, "timestamp.json")) },
		"no snapshot":  func(t *testing.T, c *RepositoryConfig) { os.Remove(filepath.Join(c.Dir, "1.snapshot.json")) },
		"flipped target": func(t *testing.T, c *RepositoryConfig) {
			all, _ := filepath.Glob(filepath.Join(c.Dir, "targets", "*.rekor.pub"))
			flip(t, all[0])
		},
		"flipped targets":   func(t *testing.T, c *RepositoryConfig) { flip(t, filepath.Join(c.Dir, "1.targets.json")) },
		"flipped timestamp": func(t *testing.T, c *RepositoryConfig) { flip(t, filepath.Join(c.Dir, "timestamp.json")) },
		"other key":         func(t *testing.T, c *RepositoryConfig) { c.Signer = newKey(t) },
	} {
		t.Run(name, func(t *testing.T) {
			_, c := newRepo(t, m, time.Now)
			if _, err := Open(c); err != nil {
				t.Fatal(err)
			}
			spoil(t, &c)
			_, err := Open(c)
			if !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrNotFound) && !errors.Is(err, ErrKey) {
				t.Errorf("got %v", err)
			}
		})
	}
	r, c := newRepo(t, m, time.Now)
	if _, err := Create(context.Background(), c, nil); !errors.Is(err, ErrExists) {
		t.Errorf("Create over a repository: %v", err)
	}
	for _, name := range []string{"../x", "a//b", "/a", "a/../b", "a/b/c/d/e", "", ".hidden", "x y"} {
		if err := r.Publish(context.Background(), []File{{Name: name, Data: []byte("x")}}); !errors.Is(err, ErrMaterial) {
			t.Errorf("target %q: %v", name, err)
		}
	}
	c.Signer = nil
	if r, err := Open(c); err != nil || r.Renew(context.Background()) == nil {
		t.Errorf("read-only: %v", err)
	}
}

func flip(t testing.TB, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

type failingSigner struct {
	crypto.Signer
	after int
}

var errToken = errors.New("token gone")

func (s *failingSigner) Sign(r io.Reader, d []byte, o crypto.SignerOpts) ([]byte, error) {
	if s.after--; s.after < 0 {
		return nil, errToken
	}
	return s.Signer.Sign(r, d, o)
}

// TestInterruptedPublish: wherever signing stops, the old state is served whole
// and the next publication succeeds.
func TestInterruptedPublish(t *testing.T) {
	ctx := context.Background()
	m := newMaterial(t)
	r, c := newRepo(t, m, time.Now)
	srv := httptest.NewServer(r.Handler())
	defer srv.Close()
	old, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	m.CAs = append(m.CAs, Authority{Chain: makeChain(t, "Corp 2", false)})
	files, err := m.Targets()
	if err != nil {
		t.Fatal(err)
	}
	key := c.Signer
	fetch := func() []byte {
		t.Helper()
		u := client(t, srv.URL, t.TempDir(), r.Root())
		info, err := u.GetTargetInfo(TrustedRootName)
		if err != nil {
			t.Fatal(err)
		}
		_, data, err := u.DownloadTarget(info, "", "")
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	for n := range 3 {
		c.Signer = &failingSigner{key, n}
		if r, err = Open(c); err != nil {
			t.Fatal(err)
		}
		if err := r.Publish(ctx, files); !errors.Is(err, errToken) {
			t.Fatalf("signature %d: %v", n, err)
		}
		if !bytes.Equal(fetch(), old) {
			t.Fatalf("signature %d: clients see a half publication", n)
		}
	}
	c.Signer = key
	if r, err = Open(c); err != nil {
		t.Fatal(err)
	}
	if err := r.Publish(ctx, files); err != nil {
		t.Fatal(err)
	}
	if bytes.Equal(fetch(), old) {
		t.Fatal("not published")
	}
}

func TestHandlerRefuses(t *testing.T) {
	r, c := newRepo(t, newMaterial(t), time.Now)
	if err := os.WriteFile(filepath.Join(c.Dir, "secret.json"), []byte("s"), 0o644); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/timestamp.json": 200, "/1.root.json": 200, "/root.json": 200, "/2.root.json": 404, "/secret.json": 404, "/": 404, "/targets/": 404, "/targets": 404,
		"/../tuf/timestamp.json": 404, "/targets/../timestamp.json": 404, "/%2e%2e/timestamp.json": 404, "//timestamp.json": 404,
		"/targets/" + strings.Repeat("0", 64) + ".x": 404, "/0.root.json": 404, "/01.root.json": 404, "/99999999999.root.json": 404, "/timestamp.json/": 404, "/timestamp.json\x00": 404,
	} {
		req := httptest.NewRequest(http.MethodGet, "/", nil)
		req.URL.Path = path
		w := httptest.NewRecorder()
		r.Handler().ServeHTTP(w, req)
		if w.Code != want {
			t.Errorf("GET %q: %d, want %d", path, w.Code, want)
		}
	}
	w := httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/timestamp.json", strings.NewReader(strings.Repeat("x", 5<<20))))
	if w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	w = httptest.NewRecorder()
	r.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodHead, "/timestamp.json", nil))
	if w.Code != 200 || w.Body.Len() != 0 {
		t.Errorf("HEAD: %d, %d bytes", w.Code, w.Body.Len())
	}
}

func TestClientSetup(t *testing.T) {
	m := newMaterial(t)
	r, _ := newRepo(t, m, time.Now)
	dir := filepath.Join(t.TempDir(), "it's a folder")
	names, err := WriteClientSetup(dir, m, r.Root())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"README.txt", "ca-bundle.pem", "ctfe.pub", "env.sh", "fulcio-chain.pem", "rekor.pub", "signing_config.v0.2.json", "signing_config_rekor_v2.v0.2.json", "trusted_root.json", "tsa-chain.pem", "tuf-root.json"}
	slices.Sort(names)
	if !slices.Equal(names, want) {
		t.Errorf("wrote %q", names)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != len(want) {
		t.Errorf("%d files in the folder, %v", len(entries), err)
	}
	// env.sh is sourced by a plain shell, from a folder with a quote in its name.
	out, err := exec.Command("sh", "-euc", `. "$1/env.sh"; for f in "$SIGSTORE_ROOT_FILE" "$SIGSTORE_REKOR_PUBLIC_KEY" "$SIGSTORE_CT_LOG_PUBLIC_KEY_FILE" "$SIGSTORE_TSA_CERTIFICATE_FILE" "$SSL_CERT_FILE" "$NODE_EXTRA_CA_CERTS"; do test -s "$f"; done; printf '%s\n' "$GITSIGN_FULCIO_URL" "$GITSIGN_REKOR_URL" "$GITSIGN_OIDC_ISSUER" "$REKOR_REKOR_SERVER" "$REKOR_REKOR_SERVER_PUBLIC_KEY"`, "sh", dir).CombinedOutput()
	key, _ := os.ReadFile(filepath.Join(dir, "rekor.pub"))
	if expect := strings.Join([]string{m.URLs.Fulcio, m.URLs.Rekor, m.URLs.OIDC, m.URLs.Rekor, string(key)}, "\n"); err != nil || string(out) != expect {
		t.Errorf("env.sh: %v\n%s", err, out)
	}
	readme, err := os.ReadFile(filepath.Join(dir, "README.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"cosign sign-blob", "cosign verify-blob --trusted-root", "cosign initialize --mirror 'http://127.0.0.1:4004' --root", "git config gpg.x509.program gitsign", "rekor-cli loginfo", "tufMirrorURL", "redoubt verify", "signing_config_rekor_v2"} {
		if !strings.Contains(string(readme), s) {
			t.Errorf("README.txt lacks %q", s)
		}
	}
	// Again over itself, keeping a file of the user's.
	if err := os.WriteFile(filepath.Join(dir, "mine.txt"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteClientSetup(dir, m, r.Root()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "mine.txt")); err != nil {
		t.Error(err)
	}
	other := m
	other.Domain = "other.internal"
	if _, err := WriteClientSetup(dir, other, r.Root()); !errors.Is(err, ErrForeignDir) {
		t.Errorf("another domain's folder: %v", err)
	}
	foreign := t.TempDir()
	if err := os.WriteFile(filepath.Join(foreign, "README.txt"), []byte("my project\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := WriteClientSetup(foreign, m, r.Root()); !errors.Is(err, ErrForeignDir) {
		t.Errorf("foreign folder: %v", err)
	}
	if left, _ := os.ReadDir(foreign); len(left) != 1 {
		t.Errorf("foreign folder was written to: %v", left)
	}
	secure := m
	secure.URLs.Rekor, secure.TLSRoots = "https://rekor.corp.internal", nil
	for want, m := range map[bool]Material{true: secure, false: m} {
		dir := t.TempDir()
		if _, err := WriteClientSetup(dir, m, r.Root()); err != nil {
			t.Fatal(err)
		}
		env, err := os.ReadFile(filepath.Join(dir, "env.sh"))
		if err != nil || strings.Contains(string(env), "# WARNING: the services are https and no TLS root") != want || m.LacksTLSRoot() != want {
			t.Errorf("warning wanted: %t, %v\n%s", want, err, env)
		}
	}
	m.TSAs, m.TLSRoots = nil, nil
	if names, err = WriteClientSetup(t.TempDir(), m, r.Root()); err != nil || slices.Contains(names, "tsa-chain.pem") || slices.Contains(names, SigningConfigV2Name) {
		t.Errorf("without TSA: %q, %v", names, err)
	}
}

// TestTargetFileNames: consistent snapshots name a target by its digest.
func TestTargetFileNames(t *testing.T) {
	m := newMaterial(t)
	_, c := newRepo(t, m, time.Now)
	data, err := m.TrustedRoot()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	got, err := os.ReadFile(filepath.Join(c.Dir, "targets", hex.EncodeToString(sum[:])+".trusted_root.json"))
	if err != nil || !bytes.Equal(got, data) {
		t.Error(err)
	}
}
