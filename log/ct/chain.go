package ct

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
)

// Limits of a chain. They keep what is parsed and what is stored small; a chain of this product has three certificates of under 1 KiB.
const (
	maxChain = 6
	maxCert  = 16 << 10
)

var (
	oidPoison    = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 3} // RFC 6962 3.1, critical NULL
	oidSCTList   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 2} // RFC 6962 3.3
	oidPreIssuer = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 11129, 2, 4, 4} // RFC 6962 3.1, extended key usage
	asn1Null     = []byte{5, 0}
)

// processChain verifies chain and makes its entry.
func (l *Log) processChain(chain [][]byte) (*submission, error) {
	switch {
	case len(chain) == 0:
		return nil, fmt.Errorf("%w: it is empty", ErrChain)
	case len(chain) > maxChain:
		return nil, fmt.Errorf("%w: %d certificates, at most %d", ErrChain, len(chain), maxChain)
	}
	pre, err := parse(chain, 0)
	if err != nil {
		return nil, err
	}
	if err := checkPrecert(pre); err != nil {
		return nil, err
	}
	issuers, err := l.issuers(pre, chain)
	if err != nil {
		return nil, err
	}
	if err := signedBy(pre, issuers[0], 0); err != nil {
		return nil, err
	}
	return newSubmission(pre, issuers)
}

func parse(chain [][]byte, i int) (*x509.Certificate, error) {
	if len(chain[i]) > maxCert {
		return nil, fmt.Errorf("%w: chain[%d] is %d bytes, at most %d", ErrChain, i, len(chain[i]), maxCert)
	}
	c, err := x509.ParseCertificate(chain[i])
	if err != nil {
		return nil, fmt.Errorf("%w: chain[%d]: %v", ErrChain, i, err)
	}
	return c, nil
}

// checkPrecert refuses what is not a precertificate in the sense of RFC 6962 3.1.
func checkPrecert(c *x509.Certificate) error {
	poisoned := 0
	for _, e := range c.Extensions {
		switch {
		case e.Id.Equal(oidPoison):
			if !e.Critical || !bytes.Equal(e.Value, asn1Null) {
				return fmt.Errorf("%w: chain[0]: the poison extension is not a critical NULL", ErrChain)
			}
			poisoned++
		case e.Id.Equal(oidSCTList):
			return fmt.Errorf("%w: chain[0]: a precertificate carries no timestamps yet", ErrChain)
		}
	}
	if poisoned != 1 {
		return fmt.Errorf("%w: chain[0] is not a precertificate: it has %d poison extensions", ErrChain, poisoned)
	}
	return nil
}

// issuers returns the certificates above pre, an accepted root last, after checking that each is signed by the next. The authority's own chain
// comes with every submission: it is parsed, and its P-384 signatures verified, once. Times are not checked: what an authority signed is
// worth recording even when it has expired.
func (l *Log) issuers(pre *x509.Certificate, chain [][]byte) ([]*x509.Certificate, error) {
	key := digestOf(chain[1:])
	l.mu.Lock()
	known, ok := l.chains.get(key)
	l.mu.Unlock()
	if ok && len(chain) > 1 {
		return known, nil
	}
	all := []*x509.Certificate{pre}
	for i := 1; i < len(chain); i++ {
		c, err := parse(chain, i)
		if err != nil {
			return nil, err
		}
		all = append(all, c)
	}
	if last := all[len(all)-1]; !l.roots.has(last) {
		root := l.roots.issuerOf(last)
		if root == nil {
			return nil, fmt.Errorf("%w: chain[%d] (issuer %q) does not lead to an accepted root", ErrChain, len(all)-1, last.Issuer)
		}
		all = append(all, root)
	}
	if len(all) < 2 {
		return nil, fmt.Errorf("%w: a root is no precertificate", ErrChain)
	}
	for _, u := range all[1].UnknownExtKeyUsage {
		if u.Equal(oidPreIssuer) {
			return nil, fmt.Errorf("%w: precertificate signing certificates are not supported", ErrChain)
		}
	}
	for i := 1; i < len(all)-1; i++ {
		if err := signedBy(all[i], all[i+1], i); err != nil {
			return nil, err
		}
	}
	if len(chain) > 1 {
		l.mu.Lock()
		l.chains.put(key, all[1:])
		l.mu.Unlock()
	}
	return all[1:], nil
}

// signedBy checks that child, which is chain[i], names parent as its issuer, which is an authority and signed it.
func signedBy(child, parent *x509.Certificate, i int) error {
	if !bytes.Equal(child.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("%w: chain[%d] was issued by %q, chain[%d] is %q", ErrChain, i, child.Issuer, i+1, parent.Subject)
	}
	if err := mayIssue(parent, i); err != nil {
		return err
	}
	if err := child.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("%w: chain[%d]: %v", ErrChain, i, err)
	}
	return nil
}

// mayIssue checks that parent is an authority that may stand above i others.
func mayIssue(parent *x509.Certificate, i int) error {
	if !parent.BasicConstraintsValid || !parent.IsCA {
		return fmt.Errorf("%w: chain[%d] is not a certificate authority", ErrChain, i+1)
	}
	if parent.KeyUsage != 0 && parent.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("%w: chain[%d] may not sign certificates", ErrChain, i+1)
	}
	if parent.MaxPathLen >= 0 && (parent.MaxPathLen > 0 || parent.MaxPathLenZero) && i > parent.MaxPathLen {
		return fmt.Errorf("%w: chain[%d] allows %d authorities below it", ErrChain, i+1, parent.MaxPathLen)
	}
	return nil
}

func digestOf(certs [][]byte) (sum [32]byte) {
	h := sha256.New()
	for _, der := range certs {
		one := sha256.Sum256(der)
		h.Write(one[:])
	}
	h.Sum(sum[:0])
	return sum
}

// rootSet is the accepted roots, never changed.
type rootSet struct {
	list []*x509.Certificate
	raw  map[[32]byte]bool
}

func newRootSet(roots []*x509.Certificate) rootSet {
	s := rootSet{raw: make(map[[32]byte]bool)}
	for _, r := range roots {
		sum := sha256.Sum256(r.Raw)
		if !s.raw[sum] {
			s.raw[sum] = true
			s.list = append(s.list, r)
		}
	}
	return s
}

func (s rootSet) has(c *x509.Certificate) bool { return s.raw[sha256.Sum256(c.Raw)] }

func (s rootSet) issuerOf(c *x509.Certificate) *x509.Certificate {
	for _, r := range s.list {
		if bytes.Equal(c.RawIssuer, r.RawSubject) && (len(c.AuthorityKeyId) == 0 || bytes.Equal(c.AuthorityKeyId, r.SubjectKeyId)) {
			return r
		}
	}
	return nil
}

// IndexKeys is the log.Config.IndexKeys of the Merkle log beneath: the identity of the precertificate, by which a second submission finds
// the first. It has none for a leaf that is not an entry of this package.
func IndexKeys(leaf, _ []byte) [][]byte {
	id, ok := identityOf(leaf)
	if !ok {
		return nil
	}
	return [][]byte{id[:]}
}

// identityOf digests a leaf without its timestamp: entry type, issuer key hash, to-be-signed certificate, extensions.
func identityOf(leaf []byte) ([32]byte, bool) {
	if len(leaf) <= leafPrefixSize || leaf[0] != 0 || leaf[1] != 0 {
		return [32]byte{}, false
	}
	return sha256.Sum256(leaf[leafPrefixSize:]), true
}
