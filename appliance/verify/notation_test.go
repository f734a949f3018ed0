package verify

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/trust"
)

// TestNotation accepts both envelopes, with the signer's certificate in the timestamp and without, and after the certificate ended.
func TestNotation(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	for _, media := range []string{MediaTypeJWS, MediaTypeCOSE} {
		for _, embed := range []bool{true, false} {
			n := notationBy(d, named(d, nil))
			n.media, n.embed, n.expiry = media, embed, d.Now.AddDate(10, 0, 0)
			res, err := judgeNotation(t, d, media, n.make(d), func(c *Config, _ *Request) { c.Now = func() time.Time { return d.Now.AddDate(2, 0, 0) } })
			if err != nil {
				t.Fatal(media, embed, err)
			}
			san, issuer := res.Signer()
			if san != "CN=release,O=Corp,ST=Berlin,C=DE" || issuer != "" || res.Artifact() != manifest || len(res.Times()) != 1 || !res.Times()[0].Time.Equal(d.Now) {
				t.Errorf("%s %s %s %v", san, issuer, res.Artifact(), res.Times())
			}
			text, err := json.Marshal(res)
			if err != nil || !bytes.Contains(text, []byte(`"kind":"notation"`)) {
				t.Errorf("%s %v", text, err)
			}
			if media == MediaTypeJWS { // as long as may be
				long := n.make(d)
				if _, err := judgeNotation(t, d, media, append(long, bytes.Repeat([]byte(" "), maxEnvelope-len(long))...), nil); err != nil {
					t.Error(err)
				}
			}
		}
	}
}

// TestNotationOfARoot: an authority may be a root itself, and add an extension of its own.
func TestNotationOfARoot(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "root"}, NotBefore: d.Now.AddDate(-1, 0, 0), NotAfter: d.Now.AddDate(9, 0, 0), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	d.CAChain = []*x509.Certificate{verifytest.MakeCert(t, root, root, d.CAKey.Public(), d.CAKey)}
	d.Material.CAs = []trust.Authority{{Chain: d.CAChain}}
	n := notationBy(d, named(d, func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 1, 2, 3}, Value: []byte{5, 0}}}
	}))
	if _, err := judgeNotation(t, d, n.media, n.make(d), nil); err != nil {
		t.Error(err)
	}
}

// TestNotationRefused: each thing that may be wrong, with its exit code, in both envelopes where both can say it.
func TestNotationRefused(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	list, err := denied.New("corp.internal").With(denied.Entry{Issuer: denied.Notation, Identity: "CN=release,O=Corp,ST=Berlin,C=DE", Reason: "key lost", Since: d.Now.Add(-time.Minute)}, 0)
	if err != nil {
		t.Fatal(err)
	}
	good := named(d, nil)
	keyless := d.Issue(d.Now.Add(-time.Minute), nil)
	mixed := d.Issue(d.Now.Add(-time.Minute), func(c *x509.Certificate) { c.Subject = good.Cert.Subject })
	with := func(edit func(*notation)) func() notation {
		return func() notation { n := notationBy(d, good); edit(&n); return n }
	}
	by := func(d *verifytest.Deployment, s verifytest.Signer) func() notation {
		return func() notation { return notationBy(d, s) }
	}
	request := func(edit func(*Config, *Request)) func(*Config, *Request) { return edit }
	for name, c := range map[string]struct {
		make func() notation
		edit func(*Config, *Request)
		code int
		want string
	}{
		"other subject":      {by(d, named(d, func(c *x509.Certificate) { c.Subject.CommonName = "other" })), nil, 11, "CN=other"},
		"other organization": {by(d, named(d, func(c *x509.Certificate) { c.Subject.Organization = []string{"Corp Ltd"} })), nil, 11, "Corp Ltd"},
		"two organizations":  {by(d, named(d, func(c *x509.Certificate) { c.Subject.Organization = []string{"Corp", "Corp"} })), nil, 11, "profile"},
		"other authority":    {by(foreign, named(foreign, nil)), nil, 20, "does not name the authority"},
		"authority of the same name": {func() notation {
			fake := verifytest.New(t, "corp.internal")
			return notationBy(fake, named(fake, nil))
		}, nil, 20, "does not name the authority"},
		"self-signed": {func() notation {
			key := verifytest.ECKey(t)
			tmpl := &x509.Certificate{Subject: good.Cert.Subject, NotBefore: d.Now, NotAfter: d.Now.AddDate(1, 0, 0), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: good.Cert.ExtKeyUsage}
			s := verifytest.Signer{Key: key, Cert: verifytest.MakeCert(t, tmpl, tmpl, key.Public(), key)}
			n := notationBy(d, s)
			n.chain = []*x509.Certificate{s.Cert}
			return n
		}, nil, 20, "nobody but itself"},
		"keyless certificate":                  {by(d, keyless), nil, 11, "alternative name"},
		"keyless certificate with a subject":   {by(d, mixed), nil, 11, "alternative name"},
		"keyless certificate without its name": {by(d, d.Issue(d.Now.Add(-time.Minute), func(c *x509.Certificate) { c.Subject, c.EmailAddresses = good.Cert.Subject, nil })), nil, 11, "keyless"},
		"certificate with an issuer of tokens": {by(d, named(d, func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 1}, Value: []byte(d.Issuer)}}
		})), nil, 11, "keyless"},
		"another image":                    {with(func(n *notation) { n.target = targetOf(strings.Replace(manifest, "5e", "6e", 1)) }), nil, 12, "not over"},
		"digest of another kind":           {with(func(n *notation) { n.target = targetOf("sha512:" + strings.Repeat("5e", 64)) }), nil, 12, "not over"},
		"payload of no artifact":           {with(func(n *notation) { n.target = `{"targetArtifact":{}}` }), nil, 26, "names no artifact"},
		"payload with more":                {with(func(n *notation) { n.target = strings.Replace(n.target, `{"t`, `{"x":1,"t`, 1) }), nil, 26, "x"},
		"no timestamp":                     {with(func(n *notation) { n.stamped = time.Time{} }), nil, 24, "no timestamp"},
		"no timestamp, certificate ended":  {with(func(n *notation) { n.stamped = time.Time{} }), request(func(c *Config, _ *Request) { c.Now = func() time.Time { return d.Now.AddDate(1, 0, 0) } }), 24, "no timestamp"},
		"timestamp of another authority":   {with(func(n *notation) { n.tsa = foreign }), nil, 24, "does not name"},
		"timestamp before the certificate": {with(func(n *notation) { n.stamped = d.Now.Add(-2 * time.Hour) }), nil, 24, "valid from"},
		"timestamp after the certificate":  {with(func(n *notation) { n.stamped = d.Now.AddDate(0, 0, 91) }), nil, 24, "valid from"},
		"expired by its signer":            {with(func(n *notation) { n.expiry = d.Now.Add(time.Minute) }), nil, 24, "let the signature expire"},
		"a signing authority's word":       {with(func(n *notation) { n.scheme = signature.SigningSchemeX509SigningAuthority }), nil, 24, "own word"},
		"critical attribute": {with(func(n *notation) {
			n.extended = []signature.Attribute{{Key: "com.example.must", Critical: true, Value: "x"}}
		}), nil, 26, "com.example.must"},
		"a plugin has to verify": {with(func(n *notation) {
			n.extended = []signature.Attribute{{Key: "io.cncf.notary.verificationPlugin", Critical: true, Value: "x"}}
		}), nil, 26, "verificationPlugin"},
		"authority ended before": {by(d, good), request(func(c *Config, _ *Request) {
			ended := *d
			ended.Material.CAs = []trust.Authority{{Chain: d.CAChain, End: d.Now.Add(-time.Minute)}}
			c.Roots[0].JSON = ended.Root()
		}), 24, `signed 2026-06-01T12:00:00Z, when the authority "CN=issuing,O=corp.internal" was not valid`},
		"denied":       {by(d, good), request(func(_ *Config, r *Request) { r.Policy.Denied = list }), 25, "key lost"},
		"root too old": {by(d, good), request(func(_ *Config, r *Request) { r.Policy.MaxTrustAge = time.Hour }), 21, ""},
		"an identity was asked for": {by(d, good), request(func(_ *Config, r *Request) {
			r.Policy = Policy{Identities: []Identity{{SANRegexp: ".*", IssuerRegexp: ".*"}}}
		}), 10, "--certificate-subject"},
		"a file instead of a digest": {by(d, good), request(func(_ *Config, r *Request) { r.Artifact = Artifact{Reader: strings.NewReader("x")} }), 2, "by its digest"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, media := range []string{MediaTypeJWS, MediaTypeCOSE} {
				n := c.make()
				n.media = media
				envelope := n.make(d)
				res, err := judgeNotation(t, d, media, envelope, c.edit)
				if res != nil || ExitCode(err) != c.code || !strings.Contains(fmt.Sprint(err), c.want) {
					t.Errorf("%s: exit %d: %v; want %d, %q", media, ExitCode(err), err, c.code, c.want)
				}
				res, all := judgeNotation(t, d, media, envelope, func(config *Config, r *Request) {
					if config.EveryReason = true; c.edit != nil {
						c.edit(config, r)
					}
				})
				if res != nil || fmt.Sprint(all) != fmt.Sprint(err) || Reasons(all)[0].Code != c.code {
					t.Errorf("%s: with every reason: %v, %v; without: %v", media, all, Reasons(all), err)
				}
			}
		})
	}
}

// TestNotationRoots: each root judges for itself. The first that vouches does for Verify, each for VerifyAll; of refusals the one that got furthest
// is given, the first of those that got as far.
func TestNotationRoots(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	n := notationBy(d, named(d, nil))
	envelope := n.make(d)
	under := func(c *Config, roots ...string) {
		c.Roots = nil
		for _, name := range roots {
			of := map[byte]*verifytest.Deployment{'o': d, 'f': foreign}[name[0]]
			c.Roots = append(c.Roots, Root{Name: name, JSON: of.Root()})
		}
	}
	for roots, want := range map[[2]string]string{{"own 1", "own 2"}: "own 1", {"foreign", "own"}: "own", {"own", "foreign"}: "own"} {
		var asked Request
		var config Config
		res, err := judgeNotation(t, d, n.media, envelope, func(c *Config, r *Request) { under(c, roots[:]...); asked, config = *r, *c })
		if err != nil || res.Root() != want {
			t.Fatalf("%v: %v", roots, err)
		}
		v, err := New(config)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := v.VerifyAll(t.Context(), asked); err != nil || len(all) != strings.Count(fmt.Sprint(roots), "own") {
			t.Errorf("%v: %d results, %v", roots, len(all), err)
		}
	}
	stranger, err := ParseSubject("C=DE, ST=Berlin, O=Corp, CN=other")
	if err != nil {
		t.Fatal(err)
	}
	for roots, want := range map[[2]string]string{{"own", "foreign"}: "under root own: identity or issuer not accepted", {"foreign", "own"}: "under root own: identity or issuer not accepted", {"own 1", "own 2"}: "under root own 1: identity or issuer not accepted"} {
		_, err := judgeNotation(t, d, n.media, envelope, func(c *Config, r *Request) { under(c, roots[:]...); r.Policy.Subjects = []Subject{stranger} })
		if ExitCode(err) != 11 || !strings.Contains(err.Error(), want) || len(Reasons(err)) != 2 {
			t.Errorf("%v: %v", roots, err)
		}
	}
}

// TestNotationReasons: what is wrong in several ways is told all of them, one of a kind, and what is right passes as before.
func TestNotationReasons(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	every := func(c *Config, r *Request) { c.EveryReason, r.Policy.MaxTrustAge = true, time.Hour }
	kinds := func(err error) (ids []string) {
		for _, r := range Reasons(err) {
			ids = append(ids, r.ID)
		}
		return ids
	}
	n := notationBy(foreign, named(foreign, func(c *x509.Certificate) { c.Subject.CommonName = "other" }))
	n.target, n.stamped = targetOf(strings.Replace(manifest, "5e", "6e", 1)), time.Time{}
	n.extended = []signature.Attribute{{Key: "com.example.must", Critical: true, Value: "x"}}
	_, err := judgeNotation(t, d, n.media, n.make(foreign), every)
	if got, want := fmt.Sprint(kinds(err)), fmt.Sprint([]string{kindOf(ErrSignature).id, kindOf(ErrMalformed).id, kindOf(ErrStale).id, kindOf(ErrUntrusted).id, kindOf(ErrTime).id, kindOf(ErrIdentity).id}); got != want {
		t.Errorf("reasons %s, want %s", got, want)
	}
	good := notationBy(d, named(d, nil))
	_, err = judgeNotation(t, d, good.media, good.make(d), every)
	if got, want := fmt.Sprint(kinds(err)), fmt.Sprint([]string{kindOf(ErrStale).id}); got != want {
		t.Errorf("an old root: reasons %s, want %s", got, want)
	}
	if res, err := judgeNotation(t, d, good.media, good.make(d), func(c *Config, _ *Request) { c.EveryReason = true }); res == nil || err != nil {
		t.Errorf("what is right: %v, %v", res, err)
	}
}

// TestNotationBroken changes the bytes of envelopes.
func TestNotationBroken(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	n := notationBy(d, named(d, nil))
	whole := n.make(d)
	other := notationBy(d, named(d, nil))
	n.media = MediaTypeCOSE
	binary := n.make(d)
	edit := func(f func(map[string]any)) []byte { return editJWS(t, whole, f) }
	header := func(m map[string]any) map[string]any { return m["header"].(map[string]any) }
	theirs := map[string]any{}
	if err := json.Unmarshal(other.make(d), &theirs); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		media    string
		envelope []byte
		code     int
	}{
		"nothing":                 {MediaTypeJWS, nil, 26},
		"nothing in CBOR":         {MediaTypeCOSE, nil, 26},
		"cut":                     {MediaTypeJWS, whole[:len(whole)-1], 26},
		"cut CBOR":                {MediaTypeCOSE, binary[:len(binary)-1], 26},
		"something after it":      {MediaTypeJWS, append(bytes.Clone(whole), '{'), 26},
		"something after CBOR":    {MediaTypeCOSE, append(bytes.Clone(binary), 0), 26},
		"too long":                {MediaTypeJWS, append(bytes.Repeat([]byte(" "), maxEnvelope), whole...), 26},
		"too long CBOR":           {MediaTypeCOSE, append(bytes.Clone(binary), make([]byte, maxEnvelope)...), 26},
		"the other form":          {MediaTypeCOSE, whole, 26},
		"the other form, as JSON": {MediaTypeJWS, binary, 26},
		"another form":            {"application/pgp-signature", whole, 26},
		"a member twice":          {MediaTypeJWS, bytes.Replace(whole, []byte(`{"header"`), []byte(`{"payload":"e30","header"`), 1), 26},
		"signature of another":    {MediaTypeJWS, edit(func(m map[string]any) { m["signature"] = theirs["signature"] }), 12},
		"payload of another": {MediaTypeJWS, edit(func(m map[string]any) {
			m["payload"] = base64.RawURLEncoding.EncodeToString([]byte(targetOf(manifest) + " "))
		}), 12},
		"no certificate":         {MediaTypeJWS, edit(func(m map[string]any) { delete(header(m), "x5c") }), 26},
		"certificate of another": {MediaTypeJWS, edit(func(m map[string]any) { header(m)["x5c"] = theirs["header"].(map[string]any)["x5c"] }), 12},
		"without the root":       {MediaTypeJWS, edit(func(m map[string]any) { header(m)["x5c"] = header(m)["x5c"].([]any)[:2] }), 26},
		"timestamp of another": {MediaTypeJWS, edit(func(m map[string]any) {
			header(m)["io.cncf.notary.timestampSignature"] = theirs["header"].(map[string]any)["io.cncf.notary.timestampSignature"]
		}), 24},
		"timestamp that is none": {MediaTypeJWS, edit(func(m map[string]any) { header(m)["io.cncf.notary.timestampSignature"] = "AAAA" }), 26},
		"a hundred certificates more": {MediaTypeJWS, edit(func(m map[string]any) {
			for range 100 {
				header(m)["x5c"] = append(header(m)["x5c"].([]any), header(m)["x5c"].([]any)[0])
			}
		}), 26},
	} {
		t.Run(name, func(t *testing.T) {
			if res, err := judgeNotation(t, d, c.media, c.envelope, nil); res != nil || ExitCode(err) != c.code {
				t.Errorf("exit %d, want %d: %v", ExitCode(err), c.code, err)
			}
		})
	}
}

// TestNotationFlips flips each bit of the first three of every eight octets: nothing that verifies then says something else.
func TestNotationFlips(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	for _, media := range []string{MediaTypeJWS, MediaTypeCOSE} {
		n := notationBy(d, named(d, nil))
		n.media = media
		whole := n.make(d)
		accepted := 0
		for i := 0; i < len(whole); i += 7 {
			changed := bytes.Clone(whole)
			changed[i] ^= 1 << (i % 8)
			res, err := judgeNotation(t, d, media, changed, nil)
			if err != nil {
				continue
			}
			accepted++
			if san, _ := res.Signer(); san != "CN=release,O=Corp,ST=Berlin,C=DE" || res.Artifact() != manifest || !res.Times()[0].Time.Equal(d.Now) {
				t.Errorf("octet %d: %s %s", i, san, res.Artifact())
			}
		}
		t.Logf("%s: %d octets, of %d changes %d alter nothing that is said", media, len(whole), (len(whole)+6)/7, accepted)
	}
}

// TestNotationIsNotKeyless: a certificate of the profile notation passes for no keyless signer, whoever is accepted: for want of a certificate
// timestamp, and of a name even where it had one.
func TestNotationIsNotKeyless(t *testing.T) {
	d := verifytest.New(t, "corp.internal")
	d.Edit = func(c *x509.Certificate) {
		c.Subject, c.EmailAddresses, c.ExtraExtensions = pkix.Name{Country: []string{"DE"}, Province: []string{"Berlin"}, Organization: []string{"Corp"}, CommonName: "release"}, nil, nil
	}
	stamped := d.SignMessage(1, "artifact")
	plain := stamped
	plain.Signer = named(d, func(c *x509.Certificate) { c.NotBefore = d.Now })
	plain.Signature = d.Sign(plain.Signer.Key, []byte("artifact"))
	sum := sha256.Sum256([]byte("artifact"))
	plain.Entries = []any{d.Entry(verifytest.BodyV1(plain.Signer, sum[:], plain.Signature), d.Now.Add(time.Minute), true)}
	for name, c := range map[string]struct {
		parts verifytest.Parts
		want  error
	}{"with a certificate timestamp": {stamped, ErrSignature}, "as it is issued": {plain, ErrLogProof}} {
		t.Run(name, func(t *testing.T) {
			s := sampleOf(d, c.parts)
			s.policy = Policy{Identities: []Identity{{SANRegexp: ".*", IssuerRegexp: ".*"}}}
			if res, err := s.verify(t); res != nil || !errors.Is(err, c.want) {
				t.Errorf("%v, want %v", err, c.want)
			} else if upstream(t, s) == nil {
				t.Error("sigstore-go accepts it")
			}
		})
	}
}
