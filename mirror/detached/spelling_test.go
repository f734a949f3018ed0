package detached

import (
	"errors"
	"strings"
	"testing"
)

// TestOneSpelling: of the base64 and of the log's name in a signature's parts one spelling is taken. "QQ==" is the letter A, and so would "QR==" be.
func TestOneSpelling(t *testing.T) {
	digest := make([]byte, 32)
	const bundle = `{"base64Signature":"QQ==","cert":"","rekorBundle":{"SignedEntryTimestamp":"QQ==","Payload":{"body":"e30=","integratedTime":1,"logIndex":2,"logID":"0a"}}}`
	const answer = `{"00":{"body":"e30=","integratedTime":1,"logIndex":2,"logID":"0a","verification":{"signedEntryTimestamp":"QQ=="}}}`
	const envelope = `{"payloadType":"a","payload":"QQ==","signatures":[{"sig":"QQ=="}]}`
	read := map[string]func(text string) error{
		bundle: func(text string) error {
			s, ok, err := FromBundle([]byte(text))
			if err != nil || !ok {
				return err
			}
			_, err = s.Bundle(digest)
			return err
		},
		answer: func(text string) error {
			_, err := Signature{Signature: []byte("A"), Entry: []byte(text)}.Bundle(digest)
			return err
		},
		envelope: func(text string) error {
			_, err := Signature{Envelope: []byte(text)}.Bundle(digest)
			return err
		},
		`{"SignedRFC3161Timestamp":"QQ=="}`: func(text string) error {
			_, err := Signature{Signature: []byte("A"), Timestamp: []byte(text)}.Bundle(digest)
			return err
		},
	}
	for text, read := range read {
		if err := read(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if changed := strings.Replace(text, "0a", "0A", 1); changed != text && !errors.Is(read(changed), ErrForm) {
			t.Errorf("%s: %v", changed, read(changed))
		}
		for _, value := range []string{`"QQ=="`, `"e30="`} {
			for at := strings.Index(text, value); at >= 0; {
				for _, other := range []string{`"QR=="`, `"QQ==\n"`, `"Q\nQ=="`, `"QQ"`} {
					if changed := text[:at] + other + text[at+len(value):]; !errors.Is(read(changed), ErrForm) {
						t.Errorf("%s: %v", changed, read(changed))
					}
				}
				next := strings.Index(text[at+1:], value)
				if next < 0 {
					break
				}
				at += 1 + next
			}
		}
	}
}
