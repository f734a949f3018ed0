package verify

import (
	"encoding/base64"
	"strings"
	"testing"
)

// TestParseCheckpoint: the three lines that are signed, each in its one spelling.
func TestParseCheckpoint(t *testing.T) {
	root := b64(make([]byte, 32))
	for note, ok := range map[string]bool{
		"rekor.x\n7\n" + root + "\n": true, "rekor.x\n0\n" + root + "\nmore\n\n": true,
		"": false, "rekor.x\n7\n" + root: false, "rekor.x\n7\n": false, "\n7\n" + root + "\n": false,
		"rekor.x\n07\n" + root + "\n": false, "rekor.x\n+7\n" + root + "\n": false, "rekor.x\n-7\n" + root + "\n": false, "rekor.x\n\n" + root + "\n": false,
		"rekor.x\n9223372036854775807\n" + root + "\n": true, "rekor.x\n9223372036854775808\n" + root + "\n": false,
		"rekor.x\n7\n" + b64(make([]byte, 31)) + "\n": false, "rekor.x\n7\n" + b64(make([]byte, 33)) + "\n": false, "rekor.x\n7\n\n": false,
		"rekor.x\n7\n" + strings.TrimRight(root, "=") + "\n": false, "rekor.x\n7\n" + stray(root) + "\n": false,
	} {
		origin, size, hash, err := parseCheckpoint(note)
		if (err == nil) != ok {
			t.Errorf("%q: %v", note, err)
		}
		if ok && (origin != "rekor.x" || len(hash) != 32 || size == 7 != strings.Contains(note, "\n7\n")) {
			t.Errorf("%q: %q, %d, %x", note, origin, size, hash)
		}
	}
}

// TestNoteName: every line below the text has the form of a signature, and one of the log's key bears the origin's host.
func TestNoteName(t *testing.T) {
	id := []byte{1, 2, 3, 4, 5}
	line := func(name string, key ...byte) string {
		return "\u2014 " + name + " " + base64.StdEncoding.EncodeToString(append(key, 9)) + "\n"
	}
	own := line("rekor.x", id[:4]...)
	for note, ok := range map[string]bool{
		"text\n\n" + own: true, "text\n\n" + line("w", 9, 9, 9, 9) + own: true, "text\n\n" + own + own: true,
		"text\n" + own: false, "text\n\n": false, "text": false, "text\n\n" + line("witness", 9, 9, 9, 9): false,
		"text\n\n" + line("rekor.y", id[:4]...): false, "text\n\n" + own + line("rekor.y", id[:4]...): false, "text\n\n" + line("", id[:4]...): false,
		"text\n\n" + strings.TrimSuffix(own, "\n"): false, "text\n\n" + own + "\n": false, "text\n\n" + strings.TrimPrefix(own, "\u2014 "): false,
		"text\n\n" + own + line("", 9, 9, 9, 9): false,
		"text\n\n" + own + "\u2014 \n":          false, "text\n\n" + own + "\u2014 witness\n": false, "text\n\n" + own + "\u2014 witness !!!!\n": false,
		"text\n\n" + own + "\u2014 witness " + base64.StdEncoding.EncodeToString(id[:4]) + "\n": false, "text\n\n" + own + "witness AQIDBAk=\n": false,
		"text\n\n" + strings.Replace(own, "=\n", "=\r\n", 1): false, "text\n\n" + own + "\u2014 witness " + stray("CQkJCQk=") + "\n": false,
	} {
		if err := checkNoteName(note, "rekor.x - 7", id); (err == nil) != ok {
			t.Errorf("%q: %v", note, err)
		}
	}
	if checkNoteName("text\n\n"+own, "rekor.x", id[:4]) != nil {
		t.Error("a log id as long as a key's hint is refused")
	}
	if checkNoteName("text\n\n"+line("rekor.x", 1, 2, 3), "rekor.x", id[:3:3]) == nil {
		t.Error("a log id too short to tell keys apart is taken")
	}
}

// TestCanonicalBase64: one spelling of every value, at every length.
func TestCanonicalBase64(t *testing.T) {
	long := b64(make([]byte, 8192))
	for raw, ok := range map[string]bool{
		"": true, "AQ==": true, "AQI=": true, "AQID": true, long: true, `\/\/\/\/`: true, `AQ\u003d\u003d`: true,
		"AQ": false, "AQ=": false, "AR==": false, "_-8=": false, "A\nQ==": false, `AQ==\n\n\n\n`: false, "AQ==AQ==": false, long[:len(long)-4] + "AAB=": false, `\x`: false, `AQ=\`: false, `\/\/\/\u002d`: false,
		"AQ\r=": false, "AQID\r\n\r\n": false,
	} {
		if err := canonicalBase64("sig", []byte(raw)); (err == nil) != ok {
			t.Errorf("%.40q: %v", raw, err)
		}
	}
}
