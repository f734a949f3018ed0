package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log/store"
	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// Freshness is what a mirror says it knows of the outside, signed, for whoever verifies without asking it. Its JSON form is stable.
type Freshness struct {
	Stream   string         `json:"stream"`
	Time     time.Time      `json:"time"` // local time, when it was signed
	Sequence uint64         `json:"sequence"`
	Digest   parcel.Digest  `json:"digest,omitempty"`
	Logs     []LogFreshness `json:"logs"`
	TUF      []TUFFreshness `json:"tuf"`

	Note []byte `json:"-"` // the claim as a C2SP note signed by the mirror
	By   string `json:"-"` // the key it is signed by, "NAME+HASH"
}

// LogFreshness is what is known of one log.
type LogFreshness struct {
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

// TUFFreshness is what is known of a TUF repository.
type TUFFreshness struct {
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

func limitsOf(t Thresholds, maxAge time.Duration) Limits {
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
	freshnessFormat = "redoubt.mirror-state/v1 "
	// MaxFreshness bounds a signed claim in bytes.
	MaxFreshness = 1 << 20
)

// Freshness states and signs what is known now. Without a signer there is none: ErrConfig.
func (m *Mirror) Freshness(ctx context.Context) (*Freshness, error) {
	if m.c.Signer == nil {
		return nil, fmt.Errorf("%w: a mirror without a key claims nothing", ErrConfig)
	}
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	c := &Freshness{Stream: m.c.Stream, Time: m.c.Now().UTC().Truncate(time.Second), Sequence: s.stream.Sequence, Digest: s.stream.Digest, Logs: []LogFreshness{}, TUF: []TUFFreshness{}}
	for _, origin := range slices.Sorted(maps.Keys(s.heads)) {
		l, err := m.freshnessOf(s, s.heads[origin])
		if err != nil {
			return nil, err
		}
		c.Logs = append(c.Logs, l)
	}
	for _, origin := range sortedKeys(m.logs) { // what is awaited and never came is not passed over
		if l := m.logs[origin]; s.heads[origin].Note == nil && l.Stale != (Thresholds{}) {
			c.Logs = append(c.Logs, LogFreshness{Origin: origin, Scope: l.Scope, Limits: limitsOf(l.Stale, l.MaxAge)})
		}
	}
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		h := heads[name]
		t := TUFFreshness{Name: name, Versions: h.Versions, Observed: h.Observed.UTC(), Targets: []string{}}
		if r := m.tuf[name]; r != nil {
			t.Limits = limitsOf(r.Stale, 0)
		}
		for _, target := range h.Targets {
			t.Targets = append(t.Targets, target.SHA256.String())
			if target.Name == trustedRootName {
				t.Root = target.SHA256.String()
			}
		}
		c.TUF = append(c.TUF, t)
	}
	return c, m.signFreshness(c)
}

func (m *Mirror) freshnessOf(s *snapshot, h Head) (LogFreshness, error) {
	l := LogFreshness{Origin: h.Origin, Scope: h.Scope, Size: h.Size, Root: h.Root.String(), Observed: h.Observed.UTC(), Proven: h.Proven.UTC()}
	_, l.Frozen = s.frozen[h.Origin]
	if known := m.log(h.Origin); known != nil {
		l.Limits = limitsOf(known.Stale, known.MaxAge)
	}
	key, err := m.PublicKey(h.Origin)
	if err != nil {
		return l, err
	}
	if _, ok := key.(*ecdsa.PublicKey); ok {
		spki, err := x509.MarshalPKIXPublicKey(key)
		if err != nil {
			return l, err
		}
		id := sha256.Sum256(spki)
		l.LogID = hex.EncodeToString(id[:])
	}
	err = m.c.DB.View(func(tx store.Tx) error {
		var t Transfer
		_, err := get(tx, transferKey(h.Sequence), &t)
		l.Exporter = t.Exporter
		return err
	})
	return l, err
}

// signFreshness renders the claim as the text "redoubt.mirror-state/v1 <stream>", the time, one line of JCS JSON, and signs it.
func (m *Mirror) signFreshness(c *Freshness) error {
	raw, err := json.Marshal(c)
	if err != nil {
		return err
	}
	line, err := jsoncanonicalizer.Transform(raw)
	if err != nil {
		return err
	}
	text := fmt.Appendf(nil, "%s%s\n%s\n%s\n", freshnessFormat, c.Stream, c.Time.Format(time.RFC3339), line)
	if c.Note, err = parcel.SignNote(text, m.c.Name, m.c.Signer); err != nil {
		return err
	}
	if len(c.Note) > MaxFreshness {
		return fmt.Errorf("%w: the claim is %d bytes, at most %d", ErrConfig, len(c.Note), MaxFreshness)
	}
	return nil
}

// OpenFreshness verifies a signed claim by the mirror's verifier key and reads it. Errors are ErrProof, or parcel.ErrForeignKey.
func OpenFreshness(note []byte, vkey string) (*Freshness, error) {
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	if len(note) > MaxFreshness {
		return nil, fmt.Errorf("%w: a mirror's state of %d bytes", ErrProof, len(note))
	}
	text, by, err := parcel.OpenNote(note, []*parcel.Verifier{v})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], freshnessFormat) {
		return nil, fmt.Errorf("%w: this is no state of a mirror", ErrProof)
	}
	c := &Freshness{Note: note, By: by.ID()}
	if err := strictjson.Decode([]byte(lines[2]), strictjson.Limits{Bytes: MaxFreshness, Depth: 6, Fold: true}, c); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrProof, err)
	}
	if lines[0] != freshnessFormat+c.Stream || lines[1] != c.Time.UTC().Format(time.RFC3339) {
		return nil, fmt.Errorf("%w: the state of a mirror contradicts its first lines", ErrProof)
	}
	return c, nil
}

// Find is the claim about the log of a proof: by the origin of its checkpoint; or by the log id together with the origin's host, because one
// tree of a Redoubt has a checkpoint "<host>" that is carried and one "<host> - <tree id>" that its bundles bear; or, where there is only a
// promise and so no origin, the newest of those with the log id. Nil when the mirror says nothing of it.
func (c *Freshness) Find(origin, logID string) *LogFreshness {
	var found *LogFreshness
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
func (l *LogFreshness) Judge(now, signed time.Time, index *uint64) (Level, error) {
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
func (t *TUFFreshness) Vouches(sum string) bool { return slices.Contains(t.Targets, sum) }
