package parcel

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/mirror/tiles"
)

// Scopes of a log in a parcel.
const (
	// ScopeFull carries every entry: the importer hashes the tree anew, leaf by leaf.
	ScopeFull = "full"
	// ScopeSparse carries the checkpoint, the records asked for, and the least set of subtree hashes that proves them and the
	// step from the old head. It does not show that any other entry exists or what it says.
	ScopeSparse = "sparse"
	// ScopeSpine carries checkpoints and the hash tiles of level 1 and above: every step of the log is proven, and any entry that
	// is brought later with its 255 neighbours' hashes can be. It says nothing about what entries say.
	ScopeSpine = "spine"
)

// Manifest says what a parcel holds and what stands before and after it.
type Manifest struct {
	Stream   string `json:"-"` // name of the stream, in the first line of the note
	Sequence uint64 `json:"-"` // number of the parcel in its stream, from 1, in the second line

	Announce    []string  `json:"announce,omitempty"` // verifier keys that may sign from the next parcel on, ascending
	Blobs       []Blob    `json:"blobs,omitempty"`    // what vouches for images and is new, ascending by digest
	Created     Time      `json:"created"`            // when the exporter says it packed the parcel; unproven
	Exporter    string    `json:"exporter"`           // NAME+HASH of the key that signs
	Images      Digest    `json:"images,omitempty"`   // of the blob that lists the images the blobs belong to
	Logs        []Log     `json:"logs"`               // what moves, in the order of the files
	MinImporter int       `json:"min_importer"`       // lowest Format an importer must know
	Previous    Digest    `json:"previous"`           // digest of the parcel before, empty for the first
	TUF         []TUF     `json:"tuf,omitempty"`      // TUF repositories that move, ascending by name; their files come first
	Retire      []string  `json:"retire,omitempty"`   // NAME+HASH of keys that may not sign from the next parcel on, ascending
	Software    *Software `json:"software,omitempty"` // what installs the product, instead of data
	Volumes     []Volume  `json:"volumes"`            // in order, from number 1
}

// Log is the step of one log.
type Log struct {
	Extras   bool     `json:"extras,omitempty"`  // something that is not hashed stands beside the entries and is carried too
	From     State    `json:"from"`              // where the importer stands
	Observed Time     `json:"observed"`          // when the exporter last saw the log stand at To; unproven, not after Created
	Origin   string   `json:"origin"`            // first line of the log's checkpoints
	Records  []uint64 `json:"records,omitempty"` // ScopeSparse: the leaves that are carried, ascending
	Scope    string   `json:"scope"`
	To       State    `json:"to"` // where the parcel takes it
}

// State is one tree head of a log. The empty tree has size 0 and the root of no leaves.
type State struct {
	Root Digest `json:"root"`
	Size uint64 `json:"size"`
}

// Volume is one file. Bytes and SHA256 are those of its payload as stored; Files and Unpacked bound what comes out of it.
type Volume struct {
	Bytes    int64  `json:"bytes"`
	Files    int64  `json:"files"`
	N        int    `json:"n"`
	SHA256   Digest `json:"sha256"`
	Unpacked int64  `json:"unpacked"`
}

// Digest is a SHA-256, 64 lower-case hex digits in JSON, or nothing.
type Digest []byte

// Sum returns the digest of b.
func Sum(b []byte) Digest {
	h := sha256.Sum256(b)
	return h[:]
}

func (d Digest) String() string { return hex.EncodeToString(d) }

// Equal tells whether both are the same digest.
func (d Digest) Equal(o Digest) bool { return bytes.Equal(d, o) }

// MarshalText writes the digest in hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads a digest in hex.
func (d *Digest) UnmarshalText(b []byte) error {
	raw, err := hex.DecodeString(string(b))
	if err != nil || len(raw) != 0 && len(raw) != sha256.Size || hex.EncodeToString(raw) != string(b) {
		return fmt.Errorf("%w: %.80q is no SHA-256", ErrManifest, b)
	}
	*d = raw
	return nil
}

// Time is a time in UTC to the second.
type Time struct{ time.Time }

// MarshalText writes the time as RFC 3339 with a Z.
func (t Time) MarshalText() ([]byte, error) {
	return []byte(t.UTC().Truncate(time.Second).Format("2006-01-02T15:04:05Z")), nil
}

// MarshalJSON writes MarshalText as a string.
func (t Time) MarshalJSON() ([]byte, error) {
	b, err := t.MarshalText()
	return strconv.AppendQuote(nil, string(b)), err
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Time) UnmarshalJSON(b []byte) error {
	v, err := time.Parse(`"2006-01-02T15:04:05Z"`, string(b))
	if err != nil {
		return fmt.Errorf("%w: %.40q is no time", ErrManifest, b)
	}
	t.Time = v
	return nil
}

// Text returns the note's text: what is signed and what the parcel's digest is of.
func (m *Manifest) Text() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	line, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	return fmt.Appendf(nil, "redoubt.parcel/v%d %s\n%d\n%s\n", Format, m.Stream, m.Sequence, line), nil
}

// ParseManifest reads a note's text strictly: writing what was read gives the same bytes. Errors are ErrManifest or ErrTooNew.
func ParseManifest(text []byte) (*Manifest, error) {
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, fmt.Errorf("%w: it has not three lines", ErrManifest)
	}
	kind, stream, _ := strings.Cut(lines[0], " ")
	version, ok := strings.CutPrefix(kind, "redoubt.parcel/v")
	if v, err := strconv.ParseUint(version, 10, 16); !ok || err != nil {
		return nil, fmt.Errorf("%w: the first line is %.80q", ErrManifest, lines[0])
	} else if v != Format {
		return nil, fmt.Errorf("%w: parcel format %d, this is %d", ErrTooNew, v, Format)
	}
	m := &Manifest{Stream: stream}
	var err error
	if m.Sequence, err = strconv.ParseUint(lines[1], 10, 53); err != nil {
		return nil, fmt.Errorf("%w: the sequence is %.80q", ErrManifest, lines[1])
	}
	var probe struct {
		MinImporter int `json:"min_importer"`
	}
	if json.Unmarshal([]byte(lines[2]), &probe) == nil && probe.MinImporter > Format {
		return nil, fmt.Errorf("%w: importer format %d, this is %d", ErrTooNew, probe.MinImporter, Format)
	}
	d := json.NewDecoder(strings.NewReader(lines[2]))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrManifest, err)
	}
	again, err := m.Text()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, text) {
		return nil, fmt.Errorf("%w: the JSON is not canonical (RFC 8785)", ErrManifest)
	}
	return m, nil
}

func (m *Manifest) check() error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: "+format, append([]any{ErrManifest}, a...)...)
	}
	switch {
	case !IsStream(m.Stream):
		return bad("stream %.80q", m.Stream)
	case m.Sequence == 0 || m.Sequence >= 1<<53:
		return bad("sequence %d", m.Sequence)
	case (m.Sequence == 1) != (len(m.Previous) == 0):
		return bad("parcel %d and a previous digest of %d bytes", m.Sequence, len(m.Previous))
	case m.MinImporter < 1 || m.MinImporter > Format:
		return bad("importer format %d", m.MinImporter)
	case len(m.Exporter) == 0 || len(m.Exporter) > 300 || !printable(m.Exporter):
		return bad("exporter %.80q", m.Exporter)
	case m.Created.Year() < 2000 || m.Created.Year() > 9999:
		return bad("created %v", m.Created)
	case m.Logs == nil || len(m.Logs)+len(m.TUF)+len(m.Blobs) == 0 && m.Software == nil || len(m.Logs) > MaxLogs || len(m.TUF) > MaxTUF:
		return bad("%d logs and %d TUF repositories", len(m.Logs), len(m.TUF))
	case len(m.Volumes) == 0 || len(m.Volumes) > MaxVolumes:
		return bad("%d volumes", len(m.Volumes))
	}
	for i, t := range m.TUF {
		if err := t.check(m.Created); err != nil {
			return err
		}
		if i > 0 && m.TUF[i-1].Name >= t.Name {
			return bad("TUF repositories not in ascending order at %.80q", t.Name)
		}
	}
	if err := m.checkSoftware(); err != nil {
		return err
	}
	if err := m.checkKeys(); err != nil {
		return err
	}
	if err := m.checkBlobs(); err != nil {
		return err
	}
	for i, l := range m.Logs {
		switch {
		case l.Origin == "" || len(l.Origin) > 255 || !printable(l.Origin):
			return bad("origin %.80q", l.Origin)
		case i > 0 && m.Logs[i-1].Origin >= l.Origin:
			return bad("origins not in ascending order at %.80q", l.Origin)
		case l.Observed.Year() < 2000 || l.Observed.After(m.Created.Time):
			return bad("%.80q observed at %v", l.Origin, l.Observed)
		case !IsScope(l.Scope):
			return bad("scope %.80q", l.Scope)
		case l.From.Size > l.To.Size || l.To.Size > tiles.MaxSize:
			return bad("%.80q goes from %d to %d", l.Origin, l.From.Size, l.To.Size)
		case len(l.From.Root) != sha256.Size || len(l.To.Root) != sha256.Size:
			return bad("%.80q without a root", l.Origin)
		case l.From.Size == l.To.Size && !l.From.Root.Equal(l.To.Root):
			return bad("%.80q with two roots of size %d", l.Origin, l.To.Size)
		case len(l.Records) > MaxRecords || len(l.Records) > 0 && l.Scope != ScopeSparse:
			return bad("%.80q with %d records", l.Origin, len(l.Records))
		}
		for k, r := range l.Records {
			if r >= l.To.Size || k > 0 && r <= l.Records[k-1] {
				return bad("record %d of %.80q", r, l.Origin)
			}
		}
	}
	for i, v := range m.Volumes {
		if v.N != i+1 || v.Bytes < 1 || v.Bytes > 1<<50 || v.Files < 0 || v.Files > maxFiles || len(v.SHA256) != sha256.Size ||
			v.Unpacked < 0 || v.Unpacked > maxUnpacked || v.Unpacked > ratioFloor+v.Bytes*maxRatio || v.Files*tarBlock > v.Unpacked {
			return bad("volume %d", i+1)
		}
	}
	return nil
}

// IsScope tells whether s names a scope.
func IsScope(s string) bool { return s == ScopeFull || s == ScopeSparse || s == ScopeSpine }

// IsStream tells whether s can name a stream: 1 to 64 of a-z, 0-9, dot and hyphen, beginning with a letter or digit.
func IsStream(s string) bool {
	ok := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '.' || r == '-' }
	return s != "" && len(s) <= 64 && s[0] != '.' && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool { return !ok(r) })
}

func printable(s string) bool {
	return utf8.ValidString(s) && !slices.ContainsFunc([]rune(s), func(r rune) bool { return !unicode.IsPrint(r) })
}
