// Package trust says whom to believe: it turns the certificates and keys of one
// deployment into the documents clients read (trusted_root.json, the signing
// configs, the PEM files of older clients), publishes them as a TUF repository,
// and writes the folder a client machine is set up from.
//
// It guarantees:
//   - a document is built only from Material that Validate accepts: chains that
//     verify, one key per log, a start for every log, windows that do not end
//     before they begin;
//   - the same Material gives the same bytes (signatures of TUF metadata apart);
//   - an instance that was once listed is listed with its end, never dropped, as
//     long as the caller keeps it in Material: old signatures stay verifiable;
//   - a TUF repository on disk is complete at every moment: files it names are
//     durable before the timestamp that names them.
//
// It does not decide when trust changes, holds no private key (it signs TUF
// metadata through crypto.Signer) and reads nothing from the network.
//
// Start reading at Material, then Repository.
package trust

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"sync"
	"time"
)

// ErrMaterial says that Material cannot be trusted or published as it is.
var ErrMaterial = errors.New("trust material not usable")

// Material is everything a client must know about one deployment.
type Material struct {
	// Domain names the deployment: service names are rekor.<Domain> and so on
	// in what is signed and trusted, whatever address the services listen on.
	Domain string
	// URLs are the addresses clients dial; they go into the signing configs.
	URLs URLs
	// CAs are the code-signing authorities, issuing certificate first, root last.
	CAs []Authority
	// CTLogs are the certificate transparency logs whose SCTs count.
	CTLogs []Log
	// Rekor are the artifact logs (shards), at least one of which speaks v1.
	// Those of v2 alone have hosts of their own.
	Rekor []Log
	// TSAs are the timestamp authorities, leaf first, root last.
	TSAs []Authority
	// Denied is the list of denied identities, as package denied writes it.
	Denied []byte
	// Notation is the C, ST and O of every certificate of the profile notation,
	// as Notation's trust policies write them; empty where none are issued.
	Notation string
	// TLSRoots are the roots of the services' own TLS certificates, for
	// ca-bundle.pem alone; they vouch for no signature.
	TLSRoots []*x509.Certificate
}

// URLs are the dialled addresses of the services, http or https.
type URLs struct {
	Fulcio  string // base URL
	Rekor   string // base URL, for v1, and for v2 unless RekorV2 says otherwise
	RekorV2 string // base URL of the v2 log; empty means Rekor
	TSA     string // full URL of the timestamp endpoint; empty without a TSA
	TUF     string // base URL of the TUF repository
	CT      string // base URL; for auditors only
	OIDC    string // issuer URL; empty when there is none of our own
}

// Authority is one instance of a CA or TSA.
type Authority struct {
	Chain []*x509.Certificate
	// Start and End bound the times at which its signatures count, both
	// inclusive. A zero Start means the first certificate's NotBefore, a zero
	// End means still in use.
	Start, End time.Time
	// Next marks an instance that is announced and does not sign yet: it is
	// listed, and what names one instance alone names another.
	Next bool
}

// Log is one instance of a transparency log.
type Log struct {
	// Host is the log's host name: its origin, and the host of its baseUrl.
	// Empty means rekor.<Domain> or ct.<Domain>.
	Host string
	// Key is the public key, ECDSA P-256.
	Key *ecdsa.PublicKey
	// Start is required by clients; a zero End means still in use.
	Start, End time.Time
	// V2 marks an artifact log that speaks Rekor v2 only: it stands in
	// trusted_root.json and not among the files of clients from before it.
	V2 bool
	// Next marks a log that is announced and takes no entries yet.
	Next bool
}

// ID returns the log id clients index by, SHA-256 of the SubjectPublicKeyInfo.
func (l Log) ID() ([32]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(l.Key)
	return sha256.Sum256(spki), err
}

// hostname is LDH labels (RFC 1123) joined by dots, without "+" or space, so
// that it can be the origin of a checkpoint.
var hostname = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$`)
})

// Validate checks everything that can be checked without a clock.
func (m Material) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %w", ErrMaterial, fmt.Errorf(format, args...))
	}
	if len(m.Domain) > 253 || !hostname().MatchString(m.Domain) {
		return bad("domain %q is not a lower-case host name", m.Domain)
	}
	if len(m.CAs) == 0 || len(m.CTLogs) == 0 || len(m.Rekor) == 0 {
		return bad("a CA, a CT log and an artifact log are required")
	}
	if len(inUse(v1Logs(m.Rekor), Log.next)) == 0 {
		return bad("no artifact log speaks Rekor v1")
	}
	if len(inUse(m.CAs, Authority.next)) == 0 || len(inUse(m.CTLogs, Log.next)) == 0 || len(m.TSAs) > 0 && len(inUse(m.TSAs, Authority.next)) == 0 {
		return bad("an authority or a log is only announced, and none is in use")
	}
	for i, a := range m.CAs {
		if err := a.check(x509.ExtKeyUsageCodeSigning, true); err != nil {
			return bad("CA %d: %w", i, err)
		}
	}
	for i, a := range m.TSAs {
		if err := a.check(x509.ExtKeyUsageTimeStamping, false); err != nil {
			return bad("TSA %d: %w", i, err)
		}
	}
	// Clients index logs by the key, and no key signs for two trees.
	seen := map[[32]byte]string{}
	for i, l := range v2Logs(m.Rekor) {
		if l.Host == "" || l.Host == "rekor."+m.Domain {
			return bad("v2 log %d: a host other than the v1 log's is required", i)
		}
	}
	for kind, logs := range map[string][]Log{"CT log": m.CTLogs, "artifact log": m.Rekor} {
		for i, l := range logs {
			name := fmt.Sprintf("%s %d", kind, i)
			if err := l.check(); err != nil {
				return bad("%s: %w", name, err)
			}
			id, err := l.ID()
			if err != nil {
				return bad("%s: %w", name, err)
			}
			if other, ok := seen[id]; ok {
				return bad("%s and %s share the key %s", other, name, hex.EncodeToString(id[:]))
			}
			seen[id] = name
		}
	}
	return m.URLs.check(len(m.TSAs) > 0)
}

func (a Authority) check(eku x509.ExtKeyUsage, ca bool) error {
	n := len(a.Chain)
	if n < 2 && !ca || n < 1 || n > 8 {
		return fmt.Errorf("chain of %d certificates", n)
	}
	for i, c := range a.Chain {
		if c == nil {
			return errors.New("empty certificate")
		}
		if c.IsCA != (ca || i > 0) {
			return fmt.Errorf("certificate %d (%s): CA is %v", i, c.Subject, c.IsCA)
		}
		parent := a.Chain[min(i+1, n-1)] // the root signs itself
		if err := c.CheckSignatureFrom(parent); err != nil {
			return fmt.Errorf("certificate %d (%s) does not follow from the next: %w", i, c.Subject, err)
		}
	}
	if root := a.Chain[n-1]; !bytes.Equal(root.RawSubject, root.RawIssuer) {
		return errors.New("the last certificate is not a root")
	}
	pool, roots := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(a.Chain[n-1])
	for _, c := range a.Chain[1:] {
		pool.AddCert(c)
	}
	first := a.Chain[0]
	if _, err := first.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: first.NotBefore, KeyUsages: []x509.ExtKeyUsage{eku}}); err != nil {
		return err
	}
	return window(a.start(), a.End)
}

func (a Authority) next() bool { return a.Next }

func (l Log) next() bool { return l.Next }

// inUse leaves out the instances that are only announced.
func inUse[T any](all []T, next func(T) bool) []T {
	return slices.DeleteFunc(slices.Clone(all), next)
}

func (a Authority) start() time.Time {
	if a.Start.IsZero() {
		return a.Chain[0].NotBefore
	}
	return a.Start
}

func (l Log) check() error {
	if l.Key == nil || l.Key.Curve != elliptic.P256() {
		return errors.New("the key must be ECDSA P-256")
	}
	if l.Start.IsZero() {
		return errors.New("the start of validity is missing")
	}
	if l.Host != "" && (len(l.Host) > 253 || !hostname().MatchString(l.Host)) {
		return fmt.Errorf("host %q is not a lower-case host name", l.Host)
	}
	return window(l.Start, l.End)
}

func window(start, end time.Time) error {
	if !end.IsZero() && end.Before(start) {
		return fmt.Errorf("validity ends %s before it starts %s", end.Format(time.RFC3339), start.Format(time.RFC3339))
	}
	return nil
}

func (u URLs) check(tsa bool) error {
	for name, s := range map[string]string{"Fulcio": u.Fulcio, "Rekor": u.Rekor, "Rekor v2": u.RekorV2, "TSA": u.TSA, "TUF": u.TUF, "CT": u.CT, "OIDC": u.OIDC} {
		if s == "" {
			if name == "Fulcio" || name == "Rekor" || name == "TSA" && tsa {
				return fmt.Errorf("%w: the %s URL is missing", ErrMaterial, name)
			}
			continue
		}
		p, err := url.Parse(s)
		if err != nil || p.Scheme != "http" && p.Scheme != "https" || p.Host == "" || p.User != nil || !plainURL().MatchString(s) {
			return fmt.Errorf("%w: %s URL %q is not a plain http(s) URL", ErrMaterial, name, s)
		}
	}
	return nil
}

// plainURL leaves out every character that would need quoting in a shell, in
// JavaScript or in a README.
var plainURL = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9:/._~%\[\]-]{1,1000}$`) })

// host returns the log's host name under the default label.
func (m Material) host(l Log, label string) string {
	if l.Host != "" {
		return l.Host
	}
	return label + "." + m.Domain
}
