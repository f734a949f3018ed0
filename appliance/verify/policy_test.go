package verify

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
)

// TestRootsAlone: several roots are tried one by one and never mixed, and an
// identity may be tied to one of them.
func TestRootsAlone(t *testing.T) {
	ours, theirs := verifytest.New(t, "corp.internal"), verifytest.New(t, "public.example")
	theirs.Identity, theirs.Issuer = ours.Identity, ours.Issuer // anybody can be called so elsewhere
	v, err := New(Config{Roots: []Root{{Name: "theirs", JSON: theirs.Root()}, {Name: "ours", JSON: ours.Root()}}})
	if err != nil {
		t.Fatal(err)
	}
	ask := func(s sample) (*Result, error) { return v.Verify(context.Background(), s.request()) }
	for _, d := range []*verifytest.Deployment{ours, theirs} {
		res, err := ask(sampleOf(d, d.SignMessage(2, "artifact")))
		if err != nil {
			t.Fatal(err)
		}
		if want := map[*verifytest.Deployment]string{ours: "ours", theirs: "theirs"}[d]; res.Root() != want {
			t.Errorf("vouched by %s, want %s", res.Root(), want)
		}
	}
	s := sampleOf(theirs, theirs.SignMessage(2, "artifact"))
	s.policy.Identities[0].Root = "ours"
	if _, err := ask(s); ExitCode(err) != 11 {
		t.Errorf("an identity of ours, vouched by theirs: %v", err)
	}
	// A certificate of theirs, logged and stamped by us: no root vouches for both.
	p := theirs.SignMessage(2, "artifact")
	digest := sha256.Sum256(p.Artifact)
	p.Entries = []any{ours.Entry(verifytest.BodyV2(p.Signer, digest[:], p.Signature), time.Time{}, false)}
	p.Stamps = []any{map[string]any{"signedTimestamp": b64(ours.Token(p.Signature, ours.Now.Add(time.Minute), false))}}
	if _, err := ask(sampleOf(ours, p)); ExitCode(err) != 20 {
		t.Errorf("mixed trust: %v", err)
	}
}

func TestPolicy(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	d.Identity = "dev@corp.internal"
	att := sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate))
	deny := func(e denied.Entry) func(*Policy) {
		e.Reason = "left"
		list, err := denied.New("corp.internal").With(e, 0)
		if err != nil {
			t.Fatal(err)
		}
		return func(p *Policy) { p.Denied = list }
	}
	ids := func(i ...Identity) func(*Policy) { return func(p *Policy) { p.Identities = i } }
	for name, c := range map[string]struct {
		edit func(*Policy)
		want int
	}{
		"exact":                       {ids(Identity{SAN: d.Identity, Issuer: d.Issuer}), 0},
		"second of two":               {ids(Identity{SAN: "x", Issuer: "y"}, Identity{SAN: d.Identity, Issuer: d.Issuer}), 0},
		"regexp":                      {ids(Identity{SANRegexp: `^[a-z]+@corp\.internal$`, IssuerRegexp: `^https://oidc\.`}), 0},
		"regexp that does not match":  {ids(Identity{SANRegexp: `^root@`, Issuer: d.Issuer}), 11},
		"other issuer":                {ids(Identity{SAN: d.Identity, Issuer: d.Issuer + "/"}), 11},
		"exact and regexp must agree": {ids(Identity{SAN: d.Identity, SANRegexp: `^root@`, Issuer: d.Issuer}), 11},
		"identity without issuer":     {ids(Identity{SAN: d.Identity}), 2},
		"issuer without identity":     {ids(Identity{Issuer: d.Issuer}), 2},
		"bad regexp":                  {ids(Identity{SANRegexp: `(`, Issuer: d.Issuer}), 2},
		"endless regexp":              {ids(Identity{SANRegexp: strings.Repeat("a?", 4000), Issuer: d.Issuer}), 2},
		"denied":                      {deny(denied.Entry{Issuer: d.Issuer, IdentityRegexp: `.*@corp.*`}), 25},
		"denied from then on":         {deny(denied.Entry{Issuer: d.Issuer, Identity: d.Identity, Since: verifytest.Epoch}), 25},
		"denied from a day later":     {deny(denied.Entry{Issuer: d.Issuer, Identity: d.Identity, Since: verifytest.Epoch.Add(24 * time.Hour)}), 0},
		"denied until a day before":   {deny(denied.Entry{Issuer: d.Issuer, Identity: d.Identity, Until: verifytest.Epoch.Add(-24 * time.Hour)}), 0},
		"another denied":              {deny(denied.Entry{Issuer: d.Issuer, Identity: "x"}), 0},
		"one of another issuer":       {deny(denied.Entry{Issuer: "y", Identity: d.Identity}), 0},
		"predicate type":              {func(p *Policy) { p.PredicateTypes = []string{"a", verifytest.CustomPredicate} }, 0},
		"other predicate type":        {func(p *Policy) { p.PredicateTypes = []string{"a"} }, 23},
		"trust of unknown age":        {func(p *Policy) { p.MaxTrustAge = time.Hour }, 21},
	} {
		t.Run(name, func(t *testing.T) {
			s := att
			s.policy.Identities = append([]Identity(nil), att.policy.Identities...)
			c.edit(&s.policy)
			if _, err := s.verify(t); ExitCode(err) != c.want {
				t.Errorf("exit %d, want %d: %v", ExitCode(err), c.want, err)
			}
		})
	}
	for age, want := range map[time.Duration]int{time.Hour: 0, 3 * time.Hour: 21} {
		v, err := New(Config{Roots: []Root{{Name: "r", JSON: att.root, AsOf: verifytest.Epoch}}, Now: func() time.Time { return verifytest.Epoch.Add(age) }})
		if err != nil {
			t.Fatal(err)
		}
		s := att
		s.policy.MaxTrustAge = 2 * time.Hour
		if _, err := v.Verify(context.Background(), s.request()); ExitCode(err) != want {
			t.Errorf("trust %s old: %v", age, err)
		}
	}
}

// TestTimes is the matrix of signed times against validities, at both ends and
// one second beyond.
func TestTimes(t *testing.T) {
	start := verifytest.Epoch
	end := start.Add(10 * time.Minute)
	for _, source := range []string{"log", "timestamp"} {
		for name, c := range map[string]struct {
			at   time.Time
			edit func(*verifytest.Deployment)
			want int
		}{
			"certificate's first second": {start, nil, 0},
			"a second before it":         {start.Add(-time.Second), nil, 24},
			"certificate's last second":  {end, nil, 0},
			"a second after it":          {end.Add(time.Second), nil, 24},
			"log key's end":              {start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.Rekor[0].End = start.Add(time.Minute) }, 0},
			"a second after the log key": {start.Add(61 * time.Second), func(d *verifytest.Deployment) { d.Material.Rekor[0].End = start.Add(time.Minute) }, 24},
			"CA's start":                 {start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.CAs[0].Start = start.Add(time.Minute) }, 0},
			"a second before the CA":     {start.Add(59 * time.Second), func(d *verifytest.Deployment) { d.Material.CAs[0].Start = start.Add(time.Minute) }, 24},
			"CA's end":                   {start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.CAs[0].End = start.Add(time.Minute) }, 0},
			"a second after the CA":      {start.Add(61 * time.Second), func(d *verifytest.Deployment) { d.Material.CAs[0].End = start.Add(time.Minute) }, 24},
			"SCT before the CT log":      {start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.CTLogs[0].Start = start.Add(time.Second) }, 24},
			"SCT after the CT log":       {start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.CTLogs[0].End = start.Add(-time.Second) }, 24},
		} {
			t.Run(source+"/"+name, func(t *testing.T) { timeCase(t, source, c.at, c.edit, c.want) })
		}
	}
	for name, c := range map[string]struct {
		edit func(*verifytest.Deployment)
		want int
	}{
		"TSA's start":             {func(d *verifytest.Deployment) { d.Material.TSAs[0].Start = start.Add(time.Minute) }, 0},
		"a second before the TSA": {func(d *verifytest.Deployment) { d.Material.TSAs[0].Start = start.Add(61 * time.Second) }, 24},
		"TSA's end":               {func(d *verifytest.Deployment) { d.Material.TSAs[0].End = start.Add(time.Minute) }, 0},
		"a second after the TSA":  {func(d *verifytest.Deployment) { d.Material.TSAs[0].End = start.Add(59 * time.Second) }, 24},
	} {
		t.Run("timestamp/"+name, func(t *testing.T) { timeCase(t, "timestamp", start.Add(time.Minute), c.edit, c.want) })
	}
	t.Run("log key's start", func(t *testing.T) {
		timeCase(t, "log", start.Add(time.Minute), func(d *verifytest.Deployment) { d.Material.Rekor[0].Start = start.Add(time.Minute) }, 0)
		timeCase(t, "log", start.Add(59*time.Second), func(d *verifytest.Deployment) { d.Material.Rekor[0].Start = start.Add(time.Minute) }, 24)
	})
	// Two signed times: both must lie within.
	d := verifytest.New(t, "corp.internal")
	p := d.SignMessage(1, "artifact")
	p.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, end.Add(time.Second), false))}}
	if _, err := sampleOf(d, p).verify(t); ExitCode(err) != 24 {
		t.Errorf("good log time, timestamp outside: %v", err)
	}
	// The TSA's own certificate is judged at the token's time, not now.
	d = verifytest.New(t, "corp.internal")
	d.Now = verifytest.Epoch.AddDate(6, 0, 0)
	if _, err := sampleOf(d, d.SignMessage(2, "artifact")).verify(t); ExitCode(err) != 24 {
		t.Errorf("token after its certificate ended: %v", err)
	}
}

func timeCase(t *testing.T, source string, at time.Time, edit func(*verifytest.Deployment), want int) {
	t.Helper()
	d := verifytest.New(t, "corp.internal")
	p := verifytest.Parts{Signer: d.Issue(verifytest.Epoch, nil), Artifact: []byte("artifact"), Message: true, MediaType: verifytest.MediaV03}
	digest := sha256.Sum256(p.Artifact)
	p.Signature = d.Sign(p.Signer.Key, p.Artifact)
	if source == "log" {
		p.Entries = []any{d.Entry(verifytest.BodyV1(p.Signer, digest[:], p.Signature), at, true)}
	} else {
		p.Entries = []any{d.Entry(verifytest.BodyV2(p.Signer, digest[:], p.Signature), time.Time{}, false)}
		p.Stamps = []any{map[string]any{"signedTimestamp": b64(d.Token(p.Signature, at, false))}}
	}
	if edit != nil {
		edit(d)
	}
	if _, err := sampleOf(d, p).verify(t); ExitCode(err) != want {
		t.Errorf("exit %d, want %d: %v", ExitCode(err), want, err)
	}
}

func TestParseKey(t *testing.T) {
	var (
		weak *rsa.PrivateKey
		err  error
	)
	fips140.WithoutEnforcement(func() { weak, err = rsa.GenerateKey(rand.Reader, 1024) })
	if err != nil {
		t.Fatal(err)
	}
	p224, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, edKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := publicPEM(t, &verifytest.ECKey(t).PublicKey)
	private, err := x509.MarshalPKCS8PrivateKey(edKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		pem []byte
		ok  bool
	}{
		"ECDSA": {good, true}, "Ed25519": {publicPEM(t, ed), true}, "RSA 1024": {publicPEM(t, &weak.PublicKey), false}, "P-224": {publicPEM(t, &p224.PublicKey), false},
		"empty": {nil, false}, "two keys": {append(bytes.Clone(good), good...), false}, "trailing": {append(bytes.Clone(good), "x"...), false}, "no PEM": {[]byte("hello"), false},
		"private key": {pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), false}, "huge": {bytes.Repeat([]byte("\n"), 1<<20), false},
	} {
		if _, err := ParseKey(c.pem); (err == nil) != c.ok || err != nil && ExitCode(err) != 26 {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestEd25519 needs the message itself; a digest is refused.
func TestEd25519(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p := d.SignMessage(1, "artifact")
	p.Signature = ed25519.Sign(key, p.Artifact)
	s := sampleOf(d, p)
	s.policy = Policy{Key: &Key{Public: pub}, WithoutLog: true}
	b := p.Tree()
	set(b, nil, "verificationMaterial", "certificate")
	set(b, map[string]any{"hint": "h"}, "verificationMaterial", "publicKey")
	set(b, []any{}, "verificationMaterial", "tlogEntries")
	s.bundle = verifytest.Encode(t, b)
	if _, err := s.verify(t); err != nil {
		t.Fatal(err)
	}
	other := s
	other.artifact = []byte("artefact")
	if _, err := other.verify(t); ExitCode(err) != 12 {
		t.Errorf("other artifact: %v", err)
	}
	s.digest = fmt.Sprintf("sha256:%x", sha256.Sum256(p.Artifact))
	if _, err := s.verify(t); ExitCode(err) != 12 {
		t.Errorf("by digest: %v", err)
	}
}

// TestWholeMessage: an artifact is held in memory for an Ed25519 signature over a message alone.
func TestWholeMessage(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	ed, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	attested := d.Attest("artifact", verifytest.CustomPredicate).Tree()
	set(attested, nil, "verificationMaterial", "certificate")
	set(attested, map[string]any{"hint": "h"}, "verificationMaterial", "publicKey")
	message := keySample(d, d.SignMessage(1, "artifact")).bundle
	for name, c := range map[string]struct {
		bundle []byte
		key    crypto.PublicKey
		want   bool
	}{"Ed25519": {message, ed, true}, "ECDSA": {message, verifytest.ECKey(t).Public(), false}, "Ed25519, an attestation": {verifytest.Encode(t, attested), ed, false}} {
		b, err := decode(c.bundle)
		if err != nil {
			t.Fatal(err)
		}
		p := policy{Policy: Policy{Key: &Key{Public: c.key}}}
		if err := p.checkKind(b); err != nil || b.wholeMessage != c.want {
			t.Errorf("%s: %v, %v", name, b.wholeMessage, err)
		}
	}
}

type brokenReader struct{}

var errDisk = errors.New("disk gone")

func (brokenReader) Read([]byte) (int, error) { return 0, errDisk }

func TestArtifactInput(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	s := sampleOf(d, d.SignMessage(2, "artifact"))
	v, err := New(Config{Roots: []Root{{Name: "root", JSON: s.root}}, EveryReason: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	for name, c := range map[string]struct {
		ctx  context.Context
		a    Artifact
		want int
	}{
		"nothing":       {context.Background(), Artifact{}, 2},
		"both":          {context.Background(), Artifact{Reader: strings.NewReader("artifact"), Digest: "sha256:00"}, 2},
		"short digest":  {context.Background(), Artifact{Digest: "sha256:00"}, 2},
		"md5":           {context.Background(), Artifact{Digest: "md5:" + strings.Repeat("0", 32)}, 2},
		"not hex":       {context.Background(), Artifact{Digest: "sha256:" + strings.Repeat("g", 64)}, 2},
		"unreadable":    {context.Background(), Artifact{Reader: brokenReader{}}, 1},
		"cancelled":     {ctx, Artifact{Reader: strings.NewReader("artifact")}, 1},
		"by digest":     {context.Background(), Artifact{Digest: fmt.Sprintf("sha256:%X", sha256.Sum256([]byte("artifact")))}, 0},
		"by bytes":      {context.Background(), Artifact{Reader: io.MultiReader(strings.NewReader("arti"), strings.NewReader("fact"))}, 0},
		"longer":        {context.Background(), Artifact{Reader: strings.NewReader("artifact\n")}, 12},
		"empty content": {context.Background(), Artifact{Reader: strings.NewReader("")}, 12},
	} {
		r := s.request()
		r.Artifact = c.a
		_, err := v.Verify(c.ctx, r)
		if ExitCode(err) != c.want {
			t.Errorf("%s: exit %d, want %d: %v", name, ExitCode(err), c.want, err)
		}
		if f := NewFailure(err); (c.want == 1 || c.want == 2) && len(f.Roots) > 0 {
			t.Errorf("%s: judged under %v, and nothing was read", name, f.Roots)
		}
	}
}

// TestOnlyTheVerifierSaysYes: a Result nobody verified says no.
func TestOnlyTheVerifierSaysYes(t *testing.T) {
	var zero Result
	if zero.Verified() || (*Result)(nil).Verified() {
		t.Error("a zero Result says yes")
	}
	if _, err := json.Marshal(&zero); err == nil {
		t.Error("a zero Result marshals")
	}
	if ExitCode(nil) != 0 || ExitCode(errDisk) != 1 || ExitCode(fmt.Errorf("x: %w", ErrInternal)) != 70 {
		t.Error("exit codes")
	}
	f := NewFailure(fmt.Errorf("%w: somebody", ErrIdentity))
	if f.Verified || f.Code != 11 || f.Schema != SchemaID || f.Reason != ErrIdentity.Error() {
		t.Errorf("failure %+v", f)
	}
}

func TestBadRoots(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	good := d.Root()
	edit := func(change func(map[string]any)) []byte {
		v := parseTree(t, good)
		change(v)
		return verifytest.Encode(t, v)
	}
	for name, data := range map[string][]byte{
		"empty": nil, "not JSON": []byte("trust me"), "array": []byte("[]"), "nothing in it": []byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`),
		"duplicate":     append([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1",`), bytes.TrimSpace(good)[1:]...),
		"unknown field": edit(func(v map[string]any) { v["x"] = 1 }),
		"version 0.2":   edit(func(v map[string]any) { v["mediaType"] = "application/vnd.dev.sigstore.trustedroot.v0.2+json" }),
		"log twice":     edit(func(v map[string]any) { v["tlogs"] = append(v["tlogs"].([]any), v["tlogs"].([]any)[0]) }),
		"bad key":       edit(func(v map[string]any) { set(v, "AAAA", "tlogs", 0, "publicKey", "rawBytes") }),
		"no start":      edit(func(v map[string]any) { set(v, nil, "tlogs", 0, "publicKey", "validFor", "start") }),
		"empty chain":   edit(func(v map[string]any) { set(v, []any{}, "certificateAuthorities", 0, "certChain", "certificates") }),
		"null tlog":     edit(func(v map[string]any) { v["tlogs"] = []any{nil} }),
		"null CA":       edit(func(v map[string]any) { v["certificateAuthorities"] = []any{map[string]any{}} }),
		"5 MiB":         append(bytes.Repeat([]byte(" "), 5<<20), good...),
	} {
		if _, err := New(Config{Roots: []Root{{Name: name, JSON: data}}}); ExitCode(err) != 26 {
			t.Errorf("%s: exit %d: %v", name, ExitCode(err), err)
		}
	}
	if _, err := New(Config{}); ExitCode(err) != 2 {
		t.Errorf("no root: %v", err)
	}
}
