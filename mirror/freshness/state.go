package freshness

import (
	"crypto"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// State is what a mirror says it knows of the outside, signed, for whoever verifies without asking it. Its JSON form is stable.
type State struct {
	Stream   string        `json:"stream"`
	Time     time.Time     `json:"time"` // local time, when it was signed
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest,omitempty"`
	Logs     []Log         `json:"logs"`
	TUF      []TUF         `json:"tuf"`

	Note []byte `json:"-"` // the claim as a C2SP note signed by the mirror
	By   string `json:"-"` // the key it is signed by, "NAME+HASH"
}

// Log is what is known of one log.
type Log struct {
	Origin   string    `json:"origin"`
	LogID    string    `json:"log_id,omitempty"` // SHA-256 of an ECDSA key's SPKI in hex, as bundles name logs; several trees may share it
	Scope    string    `json:"scope"`
	Size     uint64    `json:"size"`
	Root     string    `json:"root"`
	Observed time.Time `json:"upstream_observed_at"`        // zero: nothing of it was imported
	Exporter string    `json:"observed_by,omitempty"`       // whose word Observed is: the exporter of the parcel that brought it
	Proven   time.Time `json:"observed_proven_by,omitzero"` // a quorum of the log's witnesses saw it there then or later
	Frozen   bool      `json:"frozen,omitempty"`            // it showed two histories
	Limits   Limits    `json:"limits"`
}

// TUF is what is known of a TUF repository.
type TUF struct {
	Name     string          `json:"name"`
	Versions parcel.Versions `json:"versions"`
	Observed time.Time       `json:"upstream_observed_at"`
	Targets  []string        `json:"targets"`                // SHA-256 in hex of each target it holds
	Root     string          `json:"trusted_root,omitempty"` // that of its trusted root
	Limits   Limits          `json:"limits"`
}

// Limits are Thresholds in seconds, 0 for none.
type Limits struct {
	Warn    int64 `json:"warn"`
	DenyNew int64 `json:"deny_new"`
	DenyAll int64 `json:"deny_all"`
}

// LimitsOf are the limits of a log, whose state is stale after maxAge if nothing else is said.
func LimitsOf(t Thresholds, maxAge time.Duration) Limits {
	if t.Warn == 0 {
		t.Warn = maxAge // what status calls stale is never silent elsewhere
	}
	return Limits{int64(t.Warn / time.Second), int64(t.DenyNew / time.Second), int64(t.DenyAll / time.Second)}
}

// Thresholds are the limits as they judge an age.
func (l Limits) Thresholds() Thresholds {
	return Thresholds{time.Duration(l.Warn) * time.Second, time.Duration(l.DenyNew) * time.Second, time.Duration(l.DenyAll) * time.Second}
}

const (
	format = "redoubt.mirror-state/v1 "
	// MaxBytes bounds a signed claim in bytes.
	MaxBytes = 1 << 20
)

// Sign renders the claim as the text "redoubt.mirror-state/v1 <stream>", the time, one line of JCS JSON, and signs it as name into Note.
func (c *State) Sign(name string, key crypto.Signer) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	line, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "%s%s\n%s\n%s\n", format, c.Stream, c.Time.Format(time.RFC3339), line)
	if c.Note, err = parcel.SignNote(text, name, key); err != nil {
		return err
	}
	if len(c.Note) > MaxBytes {
		return fmt.Errorf("the claim is %d bytes, at most %d", len(c.Note), MaxBytes)
	}
	return nil
}

// Path is where a state directory has the claim of its mirror.
func Path(dir string) string { return filepath.Join(dir, "mirror", "state.note") }

// Open verifies a signed claim by the mirror's verifier key and reads it. Errors are ErrState, or parcel.ErrForeignKey.
func Open(note []byte, vkey string) (*State, error) {
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if len(note) > MaxBytes {
		return nil, fmt.Errorf("%w: a mirror's state of %d bytes", ErrState, len(note))
	}
	text, by, err := parcel.OpenNote(note, []*parcel.Verifier{v})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], format) {
		return nil, fmt.Errorf("%w: this is no state of a mirror", ErrState)
	}
	c := &State{Note: note, By: by.ID()}
	if err := strictjson.Decode([]byte(lines[2]), strictjson.Limits{Bytes: MaxBytes, Depth: 6, Fold: true}, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrState, err)
	}
	if lines[0] != format+c.Stream || lines[1] != c.Time.UTC().Format(time.RFC3339) {
		return nil, fmt.Errorf("%w: the state of a mirror contradicts its first lines", ErrState)
	}
	return c, nil
}

// Find is the claim about the log of a proof: by the origin of its checkpoint; or by the log id together with the origin's host, because one
// tree of a Redoubt has a checkpoint "<host>" that is carried and one "<host> - <tree id>" that its bundles bear; or, where there is only a
// promise and so no origin, the newest of those with the log id. Nil when the mirror says nothing of it.
func (c *State) Find(origin, logID string) *Log {
	var found *Log
	host, _, tree := strings.Cut(origin, " - ")
	for i := range c.Logs {
		l := &c.Logs[i]
		same := l.LogID != "" && l.LogID == logID
		switch {
		case origin != "" && l.Origin == origin:
			return l
		case tree && same && l.Origin == host,
			origin == "" && same && (found == nil || l.Observed.After(found.Observed)):
			found = l
		}
	}
	return found
}

// Judge says at which level the claim is at a time, and whether something may be accepted by it that was signed at another and, if it has a
// proof, stands at index (nil without one): ErrStale with the reason if not. A frozen log denies what is new at any age.
func (l *Log) Judge(now, signed time.Time, index *uint64) (Level, error) {
	level := l.Limits.Thresholds().Of(now.Sub(l.Observed))
	if l.Frozen && level != DenyAll {
		level = DenyNew
	}
	err := level.Allow(signed, l.Observed)
	if err == nil && level == DenyNew && index != nil && *index >= l.Size {
		err = fmt.Errorf("%w: entry %d is newer than the %d the mirror knows of", ErrStale, *index, l.Size)
	}
	if err != nil && l.Frozen {
		err = fmt.Errorf("%w (it is frozen since it showed two histories)", err)
	}
	if err != nil {
		err = fmt.Errorf("log %q: %w", l.Origin, err)
	}
	return level, err
}

// Vouches tells whether the repository holds a target with that SHA-256.
func (t *TUF) Vouches(sum string) bool { return slices.Contains(t.Targets, sum) }
