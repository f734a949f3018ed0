package verify

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/notaryproject/notation-core-go/signature"
	"github.com/veraison/go-cose"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"redoubt.internal/appliance/verify/verifytest"
)

const (
	manifest  = "sha256:5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e5e"
	releaseDN = "C=DE, ST=Berlin, O=Corp, CN=release"
)

// notation is one Notation signature, each part of which a test may change before it is made.
type notation struct {
	media    string
	target   string // payload
	signer   verifytest.Signer
	chain    []*x509.Certificate
	stamped  time.Time // zero: no timestamp
	embed    bool
	expiry   time.Time
	scheme   signature.SigningScheme
	extended []signature.Attribute
	tsa      *verifytest.Deployment // nil: its own
}

func targetOf(digest string) string {
	return fmt.Sprintf(`{"targetArtifact":{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":528}}`, digest)
}

// named issues a certificate of the profile notation.
func named(d *verifytest.Deployment, edit func(*x509.Certificate)) verifytest.Signer {
	key := verifytest.ECKey(d.T)
	tmpl := &x509.Certificate{
		Subject:   pkix.Name{Country: []string{"DE"}, Province: []string{"Berlin"}, Organization: []string{"Corp"}, CommonName: "release"},
		NotBefore: d.Now.Add(-time.Hour), NotAfter: d.Now.AddDate(0, 0, 90), KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
	}
	if edit != nil {
		edit(tmpl)
	}
	return verifytest.Signer{Key: key, Cert: verifytest.MakeCert(d.T, tmpl, d.CAChain[0], key.Public(), d.CAKey)}
}

func notationBy(d *verifytest.Deployment, s verifytest.Signer) notation {
	return notation{media: MediaTypeJWS, target: targetOf(manifest), signer: s, chain: append([]*x509.Certificate{s.Cert}, d.CAChain...), stamped: d.Now, embed: true, scheme: signature.SigningSchemeX509}
}

// make signs, and puts a timestamp beside the signature.
func (n notation) make(d *verifytest.Deployment) []byte {
	d.T.Helper()
	local, err := signature.NewLocalSigner(n.chain, n.signer.Key)
	if err != nil {
		d.T.Fatal(err)
	}
	env, err := signature.NewEnvelope(n.media)
	if err != nil {
		d.T.Fatal(err)
	}
	out, err := env.Sign(&signature.SignRequest{
		Payload: signature.Payload{ContentType: notationPayload, Content: []byte(n.target)}, Signer: local, SigningTime: n.signer.Cert.NotBefore.Add(time.Second),
		Expiry: n.expiry, SigningScheme: n.scheme, SigningAgent: "test", ExtendedSignedAttributes: n.extended,
	})
	if err != nil {
		d.T.Fatal(err)
	}
	if n.stamped.IsZero() {
		return out
	}
	parsed, err := signature.ParseEnvelope(n.media, out)
	if err != nil {
		d.T.Fatal(err)
	}
	content, err := parsed.Content()
	if err != nil {
		d.T.Fatal(err)
	}
	tsa := d
	if n.tsa != nil {
		tsa = n.tsa
	}
	return stampEnvelope(d.T, n.media, out, tsa.Token(content.SignerInfo.Signature, n.stamped, n.embed))
}

// stampEnvelope puts the token of a TimeStampResp into an envelope.
func stampEnvelope(t testing.TB, media string, envelope, response []byte) []byte {
	t.Helper()
	in := cryptobyte.String(response)
	var body, token cryptobyte.String
	if !in.ReadASN1(&body, cbasn1.SEQUENCE) || !body.SkipASN1(cbasn1.SEQUENCE) || !body.ReadASN1Element(&token, cbasn1.SEQUENCE) {
		t.Fatal("no token in the response")
	}
	const name = "io.cncf.notary.timestampSignature"
	if media == MediaTypeCOSE {
		var m cose.Sign1Message
		if err := m.UnmarshalCBOR(envelope); err != nil {
			t.Fatal(err)
		}
		m.Headers.Unprotected[name], m.Headers.RawUnprotected = []byte(token), nil
		out, err := m.MarshalCBOR()
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	return editJWS(t, envelope, func(m map[string]any) {
		m["header"].(map[string]any)[name] = base64.StdEncoding.EncodeToString(token)
	})
}

func editJWS(t testing.TB, envelope []byte, edit func(map[string]any)) []byte {
	t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(envelope, &m); err != nil {
		t.Fatal(err)
	}
	edit(m)
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func judgeNotation(t testing.TB, d *verifytest.Deployment, media string, envelope []byte, edit func(*Config, *Request)) (*Result, error) {
	t.Helper()
	subject, err := ParseSubject(releaseDN)
	if err != nil {
		t.Fatal(err)
	}
	c := Config{Roots: []Root{{Name: "root", JSON: d.Root()}}, Now: func() time.Time { return d.Now.Add(time.Hour) }}
	r := Request{Artifact: Artifact{Digest: manifest}, Notation: &Envelope{media, envelope}, Policy: Policy{Subjects: []Subject{subject}}}
	if edit != nil {
		edit(&c, &r)
	}
	v, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return v.Verify(context.Background(), r)
}
