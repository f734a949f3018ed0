// Package denied is the list of identities that a deployment denies: its certificate authority issues nothing to them, and whoever
// verifies refuses what they signed within a window.
//
// It guarantees:
//   - what Parse accepts is whole: strict JSON, bounded, every expression compiles, no entry without issuer, identity and reason;
//   - a denial is never narrower than it reads: identities are compared without regard to case, a signature without a time may be of any;
//   - With and Without raise the version, so that an earlier list is told from a later one.
//
// It does not say who may change a list, and does not authenticate it: a list is as good as the way it came, like a trusted root.
//
// Start at List.
package denied

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"redoubt.internal/log/strictjson"
)

// FileName is what a list is called among trust targets and in a client's folder.
const FileName = "denied.json"

// Notation stands in place of an issuer where an entry denies signers with certificates of the profile notation, which name none: their
// identity is the subject, as RFC 2253 writes it, the common name first.
const Notation = "notation"

const (
	schema = "redoubt.denied/v1"
	// MaxBytes bounds a list.
	MaxBytes   = 4 << 20
	maxEntries = 5000
	maxText    = 1000 // octets of an issuer, an identity or a reason
)

var (
	// ErrList says that a list cannot be used: it is not written as it has to be.
	ErrList = errors.New("list of denied identities not usable")
	// ErrOld says that a list is older than who uses it takes, by its version or its date.
	ErrOld = errors.New("list of denied identities is too old")
	// ErrEntry says that an entry cannot be added, or is not there.
	ErrEntry = errors.New("denied identity")
)

// List is the denied identities of one deployment. It is immutable, and safe for concurrent use.
type List struct {
	Schema string `json:"schema"` // redoubt.denied/v1
	Domain string `json:"domain"` // of the deployment
	// Version rises with every change and never falls.
	Version uint64 `json:"version"`
	// Date is the day, UTC, on which the deployment last said that this is its list.
	Date    time.Time `json:"date"`
	Entries []Entry   `json:"entries"`
}

// Entry is one denial.
type Entry struct {
	// Issuer is that of the token behind a certificate, exactly.
	Issuer string `json:"issuer"`
	// Identity is the certificate's name (e-mail or URI), in any case; IdentityRegexp matches all of it. One of them is set.
	Identity       string `json:"identity,omitempty"`
	IdentityRegexp string `json:"identityRegexp,omitempty"`
	// Since and Until bound the signed times that are refused, both inclusive; zero is open.
	Since  time.Time `json:"since,omitzero"`
	Until  time.Time `json:"until,omitzero"`
	Reason string    `json:"reason"`

	matches *regexp.Regexp
}

// New is a list that denies nobody.
func New(domain string) *List {
	return &List{Schema: schema, Domain: domain, Version: 1, Entries: []Entry{}}
}

// Parse reads a list strictly. Every error is ErrList.
func Parse(data []byte) (*List, error) {
	l := &List{}
	err := strictjson.Decode(data, strictjson.Limits{Bytes: MaxBytes, Depth: 4, Values: 10 * maxEntries}, l)
	switch {
	case err != nil:
	case l.Schema != schema:
		err = fmt.Errorf("schema %.60q, this program reads %s", l.Schema, schema)
	case l.Domain == "" || len(l.Domain) > maxText || l.Version == 0:
		err = errors.New("domain or version is missing")
	case l.Entries == nil || len(l.Entries) > maxEntries:
		err = fmt.Errorf("entries: a list of at most %d is expected", maxEntries)
	}
	for i := range l.Entries {
		if err == nil {
			if err = l.Entries[i].compile(); err != nil {
				err = fmt.Errorf("entries[%d]: %w", i, err)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrList, err)
	}
	return l, nil
}

// Dated is the list as JSON, said on the day of at.
func (l *List) Dated(at time.Time) ([]byte, error) {
	dated := *l
	dated.Date = at.UTC().Truncate(24 * time.Hour)
	data, err := json.MarshalIndent(dated, "", "  ")
	return append(data, '\n'), err
}

// compile checks an entry and makes it ready to match.
func (e *Entry) compile() (err error) {
	for _, text := range []string{e.Issuer, e.Identity + e.IdentityRegexp, e.Reason} {
		if text == "" || len(text) > maxText {
			return fmt.Errorf("issuer, identity and reason are needed, of at most %d octets", maxText)
		}
	}
	switch {
	case e.Identity != "" && e.IdentityRegexp != "":
		return errors.New("identity is given both exactly and as an expression")
	case !e.Since.IsZero() && !e.Until.IsZero() && e.Until.Before(e.Since):
		return errors.New("it ends before it begins")
	case e.Identity != "":
		return nil
	}
	if _, err := regexp.Compile(e.IdentityRegexp); err != nil {
		return err
	}
	e.matches, err = regexp.Compile(`(?i)\A(?:` + e.IdentityRegexp + `)\z`)
	return err
}

// Match is the entry that denies the identity, as issuer vouches for it, at one of the signed times; nil where none does. Without any time
// it may have been at any.
func (l *List) Match(issuer, identity string, at ...time.Time) *Entry {
	if l == nil {
		return nil
	}
	for i := range l.Entries {
		if e := &l.Entries[i]; e.names(issuer, identity) && (len(at) == 0 || slices.ContainsFunc(at, e.covers)) {
			return e
		}
	}
	return nil
}

// Naming are the entries for the identity, at whatever time.
func (l *List) Naming(issuer, identity string) []Entry {
	return slices.DeleteFunc(slices.Clone(l.Entries), func(e Entry) bool { return !e.names(issuer, identity) })
}

func (e *Entry) names(issuer, identity string) bool {
	if e.matches != nil {
		return e.Issuer == issuer && e.matches.MatchString(identity)
	}
	return e.Issuer == issuer && strings.EqualFold(e.Identity, identity)
}

func (e *Entry) covers(t time.Time) bool {
	return (e.Since.IsZero() || !t.Before(e.Since)) && (e.Until.IsZero() || !t.After(e.Until))
}

// String is the denial in words.
func (e *Entry) String() string {
	text := fmt.Sprintf("%s%s of %s", e.Identity, e.IdentityRegexp, e.Issuer)
	if !e.Since.IsZero() {
		text += " since " + e.Since.UTC().Format(time.RFC3339)
	}
	if !e.Until.IsZero() {
		text += " until " + e.Until.UTC().Format(time.RFC3339)
	}
	return text + ": " + e.Reason
}

// With is the list and one more entry, as the next version, of at least floor.
func (l *List) With(e Entry, floor uint64) (*List, error) {
	if err := e.compile(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrEntry, err)
	}
	if len(l.Entries) >= maxEntries {
		return nil, fmt.Errorf("%w: %d stand in the list, which is full", ErrEntry, len(l.Entries))
	}
	if slices.ContainsFunc(l.Entries, e.same) {
		return nil, fmt.Errorf("%w: %s%s of %s stands in the list already", ErrEntry, e.Identity, e.IdentityRegexp, e.Issuer)
	}
	return l.next(append(slices.Clone(l.Entries), e), floor), nil
}

// Without is the list without the entry for that issuer and identity or expression, as With.
func (l *List) Without(e Entry, floor uint64) (*List, error) {
	left := slices.DeleteFunc(slices.Clone(l.Entries), e.same)
	if len(left) == len(l.Entries) {
		return nil, fmt.Errorf("%w: %s%s of %s does not stand in the list", ErrEntry, e.Identity, e.IdentityRegexp, e.Issuer)
	}
	return l.next(left, floor), nil
}

func (e *Entry) same(o Entry) bool {
	return e.Issuer == o.Issuer && e.Identity == o.Identity && e.IdentityRegexp == o.IdentityRegexp
}

func (l *List) next(entries []Entry, floor uint64) *List {
	return &List{Schema: l.Schema, Domain: l.Domain, Version: max(l.Version+1, floor), Entries: entries}
}

// Bounds is how old a list may be.
type Bounds struct {
	// MinVersion is the least version that is taken.
	MinVersion uint64
	// MaxAge is how long after its Date it is; 0 is for ever.
	MaxAge time.Duration
}

// Check refuses a list beyond b with ErrOld.
func (l *List) Check(b Bounds, now time.Time) error {
	switch {
	case l.Version < b.MinVersion:
		return fmt.Errorf("%w: version %d, at least %d is asked for", ErrOld, l.Version, b.MinVersion)
	case b.MaxAge > 0 && now.Sub(l.Date) > b.MaxAge:
		return fmt.Errorf("%w: of %s, at most %s is allowed", ErrOld, l.Date.UTC().Format(time.DateOnly), b.MaxAge)
	}
	return nil
}
