package mirror

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// ErrStatement says that a text is neither a receipt nor a list of heads.
var ErrStatement = errors.New("this is no receipt and no list of heads")

// MaxReceipt is the longest receipt in bytes, signature lines and all: it goes on paper as a QR code.
const MaxReceipt = 1000

// A list of heads is bounded, too.
const (
	maxHeads     = 4096
	maxStatement = 1 << 20
)

// Kinds of statements.
const (
	KindReceipt = "receipt" // at most MaxReceipt bytes, perhaps not all heads
	KindHeads   = "heads"   // all heads
)

// Statement is what an enclave says it holds: a receipt, or the whole list of its heads. It is signed as a C2SP note; the text is
//
//	redoubt.receipt/v1 <stream>                or redoubt.heads/v1
//	<sequence> <digest of that parcel's manifest, hex> <time of the last commit>
//	<size> <root, base64> ok|fork <origin>     once per log, ascending by origin
//	cosignature <base64>                       of the log before it, where the copy is whole and the key is Ed25519
//	list <heads> <SHA-256, hex>                last, where something did not fit: of the text of the whole list
type Statement struct {
	Kind     string          `json:"kind"`
	Stream   string          `json:"stream"`
	Sequence uint64          `json:"sequence"` // of the last parcel imported
	Digest   parcel.Digest   `json:"digest"`   // of its manifest
	Time     time.Time       `json:"time"`     // when it was committed, by the enclave's clock
	Heads    []StatementHead `json:"heads"`
	Total    int             `json:"total,omitempty"` // heads in the whole list, where this is not all of it
	List     parcel.Digest   `json:"list,omitempty"`  // SHA-256 of the whole list's text
}

// StatementHead is where one log stands in an enclave.
type StatementHead struct {
	Origin      string     `json:"origin"`
	Size        uint64     `json:"size"`
	Root        tiles.Hash `json:"root"`
	Forked      bool       `json:"forked"`                // it showed two histories there and stands still
	Cosignature []byte     `json:"cosignature,omitempty"` // key id and timestamped_signature (C2SP tlog-cosignature)
}

const statementTime = "2006-01-02T15:04:05Z"

// Text is what is signed.
func (s *Statement) Text() []byte {
	b := fmt.Appendf(nil, "redoubt.%s/v1 %s\n%d %s %s\n", s.Kind, s.Stream, s.Sequence, s.Digest, s.Time.UTC().Format(statementTime))
	for _, h := range s.Heads {
		b = h.append(b)
	}
	if len(s.List) > 0 {
		b = fmt.Appendf(b, "list %d %s\n", s.Total, s.List)
	}
	return b
}

func (h StatementHead) append(b []byte) []byte {
	state := "ok"
	if h.Forked {
		state = "fork"
	}
	b = fmt.Appendf(b, "%d %s %s %s\n", h.Size, base64.StdEncoding.EncodeToString(h.Root[:]), state, h.Origin)
	if h.Cosignature != nil {
		b = fmt.Appendf(b, "cosignature %s\n", base64.StdEncoding.EncodeToString(h.Cosignature))
	}
	return b
}

// ParseStatement reads the text of a receipt or a list strictly: writing what was read gives the same bytes. Errors are
// ErrStatement.
func ParseStatement(text []byte) (*Statement, error) {
	bad := func(format string, a ...any) (*Statement, error) {
		return nil, fmt.Errorf("%w: "+format, append([]any{ErrStatement}, a...)...)
	}
	lines := strings.Split(string(text), "\n")
	if len(text) > maxStatement || len(lines) < 3 || len(lines) > 2*maxHeads+4 || lines[len(lines)-1] != "" {
		return bad("%d bytes in %d lines", len(text), len(lines)-1)
	}
	s := &Statement{Heads: []StatementHead{}}
	kind, stream, _ := strings.Cut(lines[0], " ")
	for _, k := range []string{KindReceipt, KindHeads} {
		if kind == "redoubt."+k+"/v1" {
			s.Kind, s.Stream = k, stream
		}
	}
	if s.Kind == "" || !parcel.IsStream(stream) {
		return bad("the first line is %.80q", lines[0])
	}
	var err error
	second := strings.Split(lines[1], " ")
	if len(second) != 3 {
		return bad("the second line is %.120q", lines[1])
	}
	if s.Sequence, err = strconv.ParseUint(second[0], 10, 53); err != nil || s.Sequence == 0 {
		return bad("sequence %.40q", second[0])
	}
	if err := s.Digest.UnmarshalText([]byte(second[1])); err != nil || len(s.Digest) == 0 {
		return bad("digest %.80q", second[1])
	}
	if s.Time, err = time.Parse(statementTime, second[2]); err != nil {
		return bad("time %.40q", second[2])
	}
	for _, line := range lines[2 : len(lines)-1] {
		if len(s.List) > 0 {
			return bad("a line after the one that ends it: %.80q", line)
		}
		if err := s.line(line); err != nil {
			return bad("%w", err)
		}
	}
	if string(s.Text()) != string(text) {
		return bad("a number or a key is not spelt as it should be")
	}
	return s, nil
}

func (s *Statement) line(line string) error {
	what, rest, _ := strings.Cut(line, " ")
	n := len(s.Heads)
	switch what {
	case "cosignature":
		raw, err := base64.StdEncoding.Strict().DecodeString(rest)
		if err != nil || n == 0 || s.Heads[n-1].Cosignature != nil || len(raw) == 0 || len(raw) > 128 {
			return fmt.Errorf("cosignature %.80q", rest)
		}
		s.Heads[n-1].Cosignature = raw
		return nil
	case "list":
		total, digest, _ := strings.Cut(rest, " ")
		t, err := strconv.ParseUint(total, 10, 31)
		if err != nil || s.Kind != KindReceipt || int(t) < n || t > maxHeads || s.List.UnmarshalText([]byte(digest)) != nil || len(s.List) == 0 {
			return fmt.Errorf("list %.100q", rest)
		}
		s.Total = int(t)
		return nil
	}
	items := strings.SplitN(line, " ", 4)
	if len(items) != 4 || n == maxHeads {
		return fmt.Errorf("the line %.120q", line)
	}
	h := StatementHead{Origin: items[3], Forked: items[2] == "fork"}
	size, err := strconv.ParseUint(items[0], 10, 63)
	root, rerr := base64.StdEncoding.Strict().DecodeString(items[1])
	if err != nil || rerr != nil || size > tiles.MaxSize || len(root) != tiles.HashSize || !isOrigin(h.Origin) {
		return fmt.Errorf("the line %.120q", line)
	}
	if h.Size, h.Root = size, tiles.Hash(root); size == 0 && h.Root != tiles.EmptyRoot() {
		return fmt.Errorf("%.80q with a root of no leaves", h.Origin)
	}
	if n > 0 && s.Heads[n-1].Origin >= h.Origin {
		return fmt.Errorf("origins not in ascending order at %.80q", h.Origin)
	}
	s.Heads = append(s.Heads, h)
	return nil
}

// isOrigin tells whether s can be the first line of a checkpoint.
func isOrigin(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' })
}

// OpenStatement verifies a signed receipt or list by the keys of those whose word counts, and reads it. White space around it is
// no matter: paper and scanners add some. Without a known key the error is parcel.ErrForeignKey, for a wrong signature ErrProof.
func OpenStatement(signed []byte, keys []*parcel.Verifier) (*Statement, *parcel.Verifier, error) {
	if len(signed) > maxStatement {
		return nil, nil, fmt.Errorf("%w: %d bytes", ErrStatement, len(signed))
	}
	text, by, err := parcel.OpenNote(trimmed(signed), keys)
	if isForeign(err) {
		return nil, nil, err
	}
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	s, err := ParseStatement(text)
	return s, by, err
}

func trimmed(signed []byte) []byte {
	return append([]byte(strings.TrimSpace(string(signed))), '\n')
}
