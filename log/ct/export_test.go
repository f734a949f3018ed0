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
var WithoutPoison = func(tbs []byte) ([]byte, error) {
	t, err := readTBS(tbs)
	if err != nil {
		return nil, err
	}
	return t.withoutPoison()
}

// NewSubmission is what an entry is made of.
var NewSubmission = func(pre *x509.Certificate, issuers []*x509.Certificate) (leaf, extra []byte, err error) {
	p, err := newSubmission(pre, issuers)
	if err != nil {
		return nil, nil, err
	}
	return p.leaf, p.extra, nil
}
