package ct

// CheckBody is what add-pre-chain does with a body before anything is logged.
func (l *Log) CheckBody(body []byte) error {
	chain, err := parseAddChain(body)
	if err != nil {
		return err
	}
	_, err = l.processChain(chain)
	return err
}
