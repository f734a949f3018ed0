package ct

import "crypto/x509"

// CheckBody is what add-pre-chain does with a body before anything is logged.
func (l *Log) CheckBody(body []byte) error {
	chain, err := parseAddChain(body)
	if err != nil {
		return err
	}
	_, err = l.processChain(chain)
	return err
}

// What tests hold to the reference library.
var WithoutPoison, NewSubmission = withoutPoison, func(pre *x509.Certificate, issuers []*x509.Certificate) (leaf, extra []byte, err error) {
	p, err := newSubmission(pre, issuers)
	if err != nil {
		return nil, nil, err
	}
	return p.leaf, p.extra, nil
}
