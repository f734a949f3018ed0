// Package frontend makes the certificates of a site's TLS listeners, below a root of their own.
//
//   - The root is no relative of the code-signing root: whoever trusts it for TLS trusts it for nothing else (extended key usage
//     serverAuth), and only for the names it was made for (name constraints, RFC 5280 section 4.2.1.10). Its key is in a token.
//   - Leaf keys are made here and live in memory alone: there is no TLS key on a disk to be copied, and a process that starts
//     anew shows a new certificate.
//   - A certificate is handed out only if a client that trusts the root would accept it for every name in it.
package frontend

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"strings"
	"time"
)

const (
	// RootLife is how long a root is valid.
	RootLife = 10 * 365 * 24 * time.Hour
	// Life is how long a certificate is valid where nothing else is asked for.
	Life = 90 * 24 * time.Hour
	// MinLife and MaxLife bound what may be asked for. Clients of the public web take 398 days at most, and some of them inside too.
	MinLife = time.Hour
	MaxLife = 397 * 24 * time.Hour

	backdate = 5 * time.Minute // clients whose clocks are late
)

var (
	// ErrRoot: the certificate is no root of this package, or not that of the key.
	ErrRoot = errors.New("not a TLS root of this site")
	// ErrName: a name is malformed, or none that the root may vouch for.
	ErrName = errors.New("the TLS root may not vouch for this name")
	// ErrKey: a listener's key is ECDSA P-256.
	ErrKey = errors.New("not a key for a listener")
	// ErrLife: the life asked for is out of bounds, or longer than the root's.
	ErrLife = errors.New("life of a TLS certificate")
)

// Names are what clients call a server: DNS names, the first label of which may be "*", and addresses.
type Names struct {
	DNS []string
	IP  []net.IP
}

// Strings are the names, DNS names first.
func (n Names) Strings() (all []string) {
	all = append(all, n.DNS...)
	for _, ip := range n.IP {
		all = append(all, ip.String())
	}
	return all
}

// String lists the names.
func (n Names) String() string { return strings.Join(n.Strings(), " ") }

// Root makes the self-signed root of key. It may vouch for the DNS names of permitted and everything below them, and for the addresses
// of permitted and no other. Errors are those of the key, and ErrName without a DNS name: no constraint of that form is no constraint.
func Root(key crypto.Signer, organization string, permitted Names, now time.Time) (*x509.Certificate, error) {
	if len(permitted.DNS) == 0 {
		return nil, fmt.Errorf("%w: a root without a permitted domain could vouch for every one", ErrName)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{organization}, CommonName: "Redoubt TLS Root"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(RootLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		ExtKeyUsage:                 []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: permitted.DNS,
	}
	for _, ip := range permitted.IP {
		template.PermittedIPRanges = append(template.PermittedIPRanges, host(ip))
	}
	if len(permitted.IP) == 0 {
		template.ExcludedIPRanges = []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the TLS root: %w", err)
	}
	return x509.ParseCertificate(der)
}

// host is the range of one address.
func host(ip net.IP) *net.IPNet {
	if v4 := ip.To4(); v4 != nil {
		ip = v4
	}
	return &net.IPNet{IP: ip, Mask: net.CIDRMask(8*len(ip), 8*len(ip))}
}

// Issue makes a key and a certificate over it for names, valid for life, below root, whose key is key. The chain is the certificate alone:
// clients have the root. Errors are ErrRoot, ErrName, ErrLife, and those of the key.
func Issue(root *x509.Certificate, key crypto.Signer, names Names, life time.Duration, now time.Time) (*tls.Certificate, error) {
	leafKey, err := NewKey()
	if err != nil {
		return nil, err
	}
	leaf, err := Certify(root, key, leafKey.Public(), names, life, now)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: leafKey, Leaf: leaf}, nil
}

// NewKey makes the key of a listener.
func NewKey() (*ecdsa.PrivateKey, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making a TLS key: %w", err)
	}
	return key, nil
}

// Certify is Issue over a key that somebody else made with NewKey: public is its public half. ErrKey is any other kind of key.
func Certify(root *x509.Certificate, key crypto.Signer, public crypto.PublicKey, names Names, life time.Duration, now time.Time) (*x509.Certificate, error) {
	if p, ok := public.(*ecdsa.PublicKey); !ok || p.Curve != elliptic.P256() {
		return nil, ErrKey
	}
	if public, ok := root.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(key.Public()) || !root.IsCA {
		return nil, ErrRoot
	}
	if end := now.Add(life); life < MinLife || life > MaxLife || end.After(root.NotAfter) {
		return nil, fmt.Errorf("%w: %s is not between %s and %s, or outlives the root, which ends on %s", ErrLife, life, MinLife, MaxLife, root.NotAfter.UTC().Format(time.DateOnly))
	}
	if len(names.Strings()) == 0 {
		return nil, fmt.Errorf("%w: there is none", ErrName)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: root.Subject.Organization, CommonName: "Redoubt front end"},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life), DNSNames: names.DNS, IPAddresses: names.IP,
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, root, public, key)
	if err != nil {
		return nil, fmt.Errorf("signing a TLS certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading the TLS certificate back: %w", err)
	}
	if err := Accepted(leaf, root, names, now); err != nil {
		return nil, err
	}
	return leaf, nil
}

// Accepted tells whether a client that trusts root takes leaf for each of names: ErrName with the first it would refuse.
func Accepted(leaf, root *x509.Certificate, names Names, now time.Time) error {
	pool := x509.NewCertPool()
	pool.AddCert(root)
	for _, name := range names.Strings() {
		asked := strings.Replace(name, "*.", "any.", 1)
		if _, err := leaf.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: now, DNSName: asked, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrName, name, err)
		}
	}
	return nil
}

// RenewAt is when a certificate is due to be renewed: at two thirds of its life.
func RenewAt(leaf *x509.Certificate) time.Time {
	return leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) * 2 / 3)
}

func serialNumber() (*big.Int, error) {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		return nil, err
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and as long every time
	return new(big.Int).SetBytes(b[:]), nil
}
