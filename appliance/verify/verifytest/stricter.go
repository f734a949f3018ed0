package verifytest

import "regexp"

// stricter are the reasons for which redoubt refuses a bundle that sigstore-go accepts, by the words of the refusal; the decision stands in
// docs/adr/0017-verify-closes-the-gaps.md.
var stricter = []struct {
	words *regexp.Regexp
	why   string
}{
	{regexp.MustCompile(`base64`), "another spelling of the same bytes"},
	{regexp.MustCompile(`message digest missing or of an unknown hash`), "the hash named beside a digest is the digest's"},
	{regexp.MustCompile(`entry calls itself`), "the kind an entry calls itself is its body's"},
	{regexp.MustCompile(`integrated time without the log's promise`), "a time nobody signed"},
	{regexp.MustCompile(`tree size or root is not that of the checkpoint`), "the proof's own head is the checkpoint's"},
	{regexp.MustCompile(`two different indices`), "one index for one entry"},
	{regexp.MustCompile(`entry body`), "the body itself is proven, and read strictly"},
	{regexp.MustCompile(`checkpoint: (signed as|malformed signature line|no signature|tree size|root is not|fewer)`), "every line of a checkpoint is what its form says"},
	{regexp.MustCompile(`timestamp \d+: not a timestamp response|timestamp \d+: .*DER|timestamp \d+: malformed`), "a token holds nothing that its signature does not cover"},
	{regexp.MustCompile(`timestamp \d+: embedded certificate`), "certificates beside a token are the trusted root's"},
	{regexp.MustCompile(`^time invalid: .*(timestamp|signed time)`), "every kind of signed time the bundle offers verifies"},
	{regexp.MustCompile(`certificate \d+ of the bundle's chain`), "certificates beside the leaf are the trusted root's"},
}

// Stricter is the reason, of those for which redoubt refuses what sigstore-go accepts, that a refusal gives; empty when it gives none of them.
func Stricter(refusal error) string {
	for _, s := range stricter {
		if s.words.MatchString(refusal.Error()) {
			return s.why
		}
	}
	return ""
}

// StricterReasons are all that Stricter may return.
func StricterReasons() (all []string) {
	for _, s := range stricter {
		all = append(all, s.why)
	}
	return all
}
