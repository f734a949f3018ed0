package approval

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"redoubt.internal/log/store"
)

var (
	// ErrAct says that an act is not one that people could be asked about.
	ErrAct = errors.New("this is no valid act")
	// ErrSpent says that an act was done already; to do the like again it is proposed and approved again.
	ErrSpent = errors.New("this act was approved and done before")
)

// Act is something that several people must approve. Its text is
//
//	redoubt.act/v1 <kind>
//	domain <domain>
//	proposer <name, or - when none of the approvers proposes it>
//	<line>
//	...
//
// Each line says one fact. Whoever makes an act puts into its lines all that decides what is done, and something that is
// different the next time, so that old approvals approve nothing new.
type Act struct {
	Kind     string   // what kind of act, such as mirror.unfreeze
	Domain   string   // the deployment it is done on
	Proposer string   // the operator who proposes it, "" for nobody of them
	Lines    []string // what is done
}

const (
	actHeader = "redoubt.act/v1 "
	// MaxAct bounds the text of an act in bytes.
	MaxAct  = 256 << 10
	maxLine = 2000
)

var (
	actKind   = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,62}[a-z0-9])?$`) })
	actDomain = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,253})$`) })
)

// Text is what people approve.
func (a Act) Text() string {
	proposer := a.Proposer
	if proposer == "" {
		proposer = "-"
	}
	return actHeader + a.Kind + "\ndomain " + a.Domain + "\nproposer " + proposer + "\n" + strings.Join(a.Lines, "\n") + "\n"
}

// Digest is the SHA-256 of the text, in hex.
func (a Act) Digest() string { return hexSum([]byte(a.Text())) }

// check refuses an act whose text would not read back as the same act, or not as one line per fact.
func (a Act) check() error {
	text := a.Text()
	if len(text) > MaxAct {
		return fmt.Errorf("%w: %d octets, limit %d", ErrAct, len(text), MaxAct)
	}
	switch {
	case !actKind().MatchString(a.Kind):
		return fmt.Errorf("%w: kind %.80q", ErrAct, a.Kind)
	case !actDomain().MatchString(a.Domain):
		return fmt.Errorf("%w: domain %.80q", ErrAct, a.Domain)
	case a.Proposer != "" && !operatorName().MatchString(a.Proposer):
		return fmt.Errorf("%w: proposer %.80q", ErrAct, a.Proposer)
	case len(a.Lines) == 0:
		return fmt.Errorf("%w: it says nothing", ErrAct)
	}
	for _, l := range a.Lines {
		if l == "" || len(l) > maxLine || !plain(l) {
			return fmt.Errorf("%w: the line %.120q; one line of up to %d printable octets is expected", ErrAct, l, maxLine)
		}
	}
	return nil
}

// plain tells whether everybody who looks at s sees the same: no control characters, nothing that changes the direction of
// writing or has no width, no blank at its ends.
func plain(s string) bool {
	if !utf8.ValidString(s) || strings.TrimSpace(s) != s {
		return false
	}
	for _, r := range s {
		if r < 0x20 || r > 0x7e {
			return false
		}
	}
	return true
}

// Value spells text from outside for a line of an act: as it is where everybody sees the same, else quoted and escaped.
func Value(s string) string {
	if plain(s) && s != "" && s[0] != '"' {
		return s
	}
	return fmt.Sprintf("%+q", s)
}

// ParseAct reads the text of an act strictly: its Text is text again.
func ParseAct(text []byte) (Act, error) {
	if len(text) > MaxAct {
		return Act{}, fmt.Errorf("%w: %d octets, limit %d", ErrAct, len(text), MaxAct)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) < 5 || lines[len(lines)-1] != "" {
		return Act{}, fmt.Errorf("%w: it has not the lines of one", ErrAct)
	}
	var a Act
	for i, want := range []struct {
		prefix string
		to     *string
	}{{actHeader, &a.Kind}, {"domain ", &a.Domain}, {"proposer ", &a.Proposer}} {
		value, ok := strings.CutPrefix(lines[i], want.prefix)
		if !ok {
			return Act{}, fmt.Errorf("%w: line %d is %.80q, expected %s...", ErrAct, i+1, lines[i], want.prefix)
		}
		*want.to = value
	}
	if a.Proposer == "-" {
		a.Proposer = ""
	} else if a.Proposer == "" {
		return Act{}, fmt.Errorf("%w: no proposer; - stands for none", ErrAct)
	}
	a.Lines = lines[3 : len(lines)-1]
	return a, a.check()
}

func spentKey(a Act) []byte { return []byte("approval/spent/" + a.Digest()) }

// Spent refuses an act that was done before with ErrSpent.
func Spent(db store.DB, a Act) error {
	return db.View(func(tx store.Tx) error { return unspent(tx, a) })
}

func unspent(tx store.Tx, a Act) error {
	was, err := tx.Get(spentKey(a))
	if err == nil && was != nil {
		err = fmt.Errorf("%w: %s", ErrSpent, was)
	}
	return err
}

// Spend remembers in the transaction that does the act that it was done. An act that was done before is ErrSpent.
func Spend(tx store.Tx, a Act, by []string, now time.Time) error {
	if err := unspent(tx, a); err != nil {
		return err
	}
	if err := count(tx, a); err != nil {
		return err
	}
	return tx.Put(spentKey(a), fmt.Appendf(nil, "%s %s by %s", now.UTC().Format(time.RFC3339), a.Kind, strings.Join(by, ", ")))
}
