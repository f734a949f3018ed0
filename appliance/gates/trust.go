package gates

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	commonv1 "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	rootv1 "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// trust is a trusted root without what has ended: most gates know no times of validity, and what they were given would hold for ever.
type trust struct {
	name    string
	cas     []authority
	tsas    []authority
	logs    []logKey
	ctLogs  []logKey
	omitted int // what has an end
}

// authority is a chain, issuer first, root last.
type authority struct {
	chain []*x509.Certificate
}

// logKey is the key of a log.
type logKey struct {
	pem []byte
	url string
}

func (a authority) pem() []byte {
	var out bytes.Buffer
	for _, c := range a.chain {
		out.Write(certificatePEM(c))
	}
	return out.Bytes()
}

func certificatePEM(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// issuers are the certificates that issue to signers: nothing else under their roots counts.
func (t *trust) issuers() (all []byte) {
	for _, a := range t.cas {
		all = append(all, certificatePEM(a.chain[0])...)
	}
	return all
}

// trust reads a root once.
func (w *writing) trust(rule, name string) (*trust, error) {
	if t, ok := w.trusts[name]; ok {
		return t, nil
	}
	var root rootv1.TrustedRoot
	if err := protojson.Unmarshal(w.Roots[name], &root); err != nil {
		return nil, fmt.Errorf("root %s: %w", name, err)
	}
	t := &trust{name: name}
	var err error
	for _, kind := range []struct {
		in  []*rootv1.CertificateAuthority
		out *[]authority
	}{{root.GetCertificateAuthorities(), &t.cas}, {root.GetTimestampAuthorities(), &t.tsas}} {
		if *kind.out, err = t.authorities(kind.in); err != nil {
			return nil, fmt.Errorf("root %s: %w", name, err)
		}
	}
	for _, kind := range []struct {
		in  []*rootv1.TransparencyLogInstance
		out *[]logKey
	}{{root.GetTlogs(), &t.logs}, {root.GetCtlogs(), &t.ctLogs}} {
		if *kind.out, err = t.logKeys(kind.in); err != nil {
			return nil, fmt.Errorf("root %s: %w", name, err)
		}
	}
	if t.omitted > 0 {
		w.note("root %s: %d of its authorities and logs have an end of validity and are left out, since this gate knows no such times: what only they vouch for is refused", name, t.omitted)
	}
	if len(t.logs) == 0 {
		return nil, w.cannot(rule, "root "+name, "it has no log with an ECDSA key of P-256 and no end of validity")
	}
	w.trusts[name] = t
	return t, nil
}

func ended(r *commonv1.TimeRange) bool { return r.GetEnd() != nil }

func (t *trust) authorities(in []*rootv1.CertificateAuthority) (out []authority, err error) {
	for _, a := range in {
		if ended(a.GetValidFor()) {
			t.omitted++
			continue
		}
		var chain []*x509.Certificate
		for _, c := range a.GetCertChain().GetCertificates() {
			parsed, err := x509.ParseCertificate(c.GetRawBytes())
			if err != nil {
				return nil, err
			}
			chain = append(chain, parsed)
		}
		if len(chain) == 0 {
			return nil, fmt.Errorf("the authority %.100q has no certificate", a.GetUri())
		}
		out = append(out, authority{chain})
	}
	return out, nil
}

// logKeys are those keys that every one of these gates can check: ECDSA with P-256.
func (t *trust) logKeys(in []*rootv1.TransparencyLogInstance) (out []logKey, err error) {
	for _, l := range in {
		if ended(l.GetPublicKey().GetValidFor()) {
			t.omitted++
			continue
		}
		key, err := x509.ParsePKIXPublicKey(l.GetPublicKey().GetRawBytes())
		if err != nil {
			return nil, fmt.Errorf("the log %.100q: %w", l.GetBaseUrl(), err)
		}
		if k, ok := key.(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
			continue
		}
		text, err := keyPEM(key)
		if err != nil {
			return nil, err
		}
		out = append(out, logKey{text, l.GetBaseUrl()})
	}
	return out, nil
}

func keyPEM(key crypto.PublicKey) ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}

// keyed is the PEM of a key of the policy. Other keys than P-256 are hashed differently by different programs.
func (w *writing) keyed(rule, name string) ([]byte, error) {
	if k, ok := w.Keys[name].(*ecdsa.PublicKey); !ok || k.Curve != elliptic.P256() {
		return nil, w.cannot(rule, "key "+name, "a key that is not ECDSA with P-256")
	}
	return keyPEM(w.Keys[name])
}

// keyless refuses roots by which no certificate can be checked there.
func (w *writing) keyless(rule, name string) (*trust, error) {
	t, err := w.trust(rule, name)
	if err == nil && len(t.cas) == 0 {
		err = w.cannot(rule, "root "+name, "it has no certificate authority without an end of validity")
	}
	if err == nil && len(t.ctLogs) == 0 {
		err = w.cannot(rule, "root "+name, "it has no certificate transparency log with an ECDSA key of P-256 and no end of validity, by which a certificate is checked")
	}
	return t, err
}
