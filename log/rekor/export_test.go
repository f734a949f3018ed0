package rekor

// For the tests outside the package: the parsers alone, without a log behind them.
var (
	ParseV1         = parseV1
	ParseV2         = parseV2
	CheckQuery      = func(body []byte) error { _, err := ParseQuery(body); return err }
	EncodeExtraKeys = func(keys []string) ([]byte, error) { return encodeExtra(extra{keys: hashKeys(keys)}) }
)
