package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"redoubt.internal/ca/approval"
	"redoubt.internal/mirror/images"
)

// Kinds of acts by which people let in what the gate would refuse.
const (
	BreakGlass  = "admission.break-glass" // named digests, in one namespace, for a while
	ExtendGrace = "admission.grace"       // what was admitted before, while trust is too old
)

// The longest that one act of each kind holds; after that it is proposed and approved again.
const (
	MaxBreakGlass = 7 * 24 * time.Hour
	MaxGrace      = 90 * 24 * time.Hour
)

const (
	maxActs    = 100 // files in the folder of acts
	maxActFile = approval.MaxAct
	rereadActs = 5 * time.Second
)

// ErrExemption says that a text is no act of a kind this package knows.
var ErrExemption = errors.New("this is no act that lets anything in")

// Exemption is what an act of these kinds says.
type Exemption struct {
	Kind      string
	Reason    string
	From      time.Time
	Until     time.Time
	Namespace string   // of break-glass
	Digests   []string // of break-glass
}

// Act is the text that people approve.
func (e Exemption) Act(domain string) (approval.Act, error) {
	lines := []string{"reason " + approval.Value(e.Reason), "from " + e.From.UTC().Format(time.RFC3339), "until " + e.Until.UTC().Format(time.RFC3339)}
	if e.Kind == BreakGlass {
		lines = append(lines, "namespace "+e.Namespace)
		for _, d := range e.Digests {
			lines = append(lines, "digest "+d)
		}
	}
	act, err := approval.ParseAct([]byte(approval.Act{Kind: e.Kind, Domain: domain, Lines: lines}.Text()))
	if err != nil {
		return act, err
	}
	_, err = parseExemption(act)
	return act, err
}

// parseExemption reads what an act says, and refuses one that holds longer than one may.
func parseExemption(act approval.Act) (e Exemption, err error) {
	bad := func(format string, a ...any) (Exemption, error) {
		return Exemption{}, fmt.Errorf("%w: "+format, append([]any{ErrExemption}, a...)...)
	}
	longest := map[string]time.Duration{BreakGlass: MaxBreakGlass, ExtendGrace: MaxGrace}[act.Kind]
	if longest == 0 {
		return bad("kind %.80q", act.Kind)
	}
	e.Kind = act.Kind
	for i, line := range act.Lines {
		name, value, _ := strings.Cut(line, " ")
		switch {
		case i == 0 && name == "reason" && value != "":
			e.Reason = value
		case i == 1 && name == "from":
			e.From, err = time.Parse(time.RFC3339, value)
		case i == 2 && name == "until":
			e.Until, err = time.Parse(time.RFC3339, value)
		case i == 3 && name == "namespace" && e.Kind == BreakGlass && value != "" && len(value) <= 253:
			e.Namespace = value
		case i > 3 && name == "digest" && e.Kind == BreakGlass:
			_, err = images.Hex(value)
			e.Digests = append(e.Digests, value)
		default:
			return bad("line %.200q", line)
		}
		if err != nil {
			return bad("line %.200q: %w", line, err)
		}
	}
	switch {
	case len(act.Lines) < 3 || e.Kind == BreakGlass && (len(e.Digests) == 0 || len(e.Digests) > MaxImages):
		return bad("its lines are not those of its kind; at most %d digests", MaxImages)
	case !e.From.Before(e.Until) || e.Until.Sub(e.From) > longest:
		return bad("it holds from %s until %s; at most %s", e.From.Format(time.RFC3339), e.Until.Format(time.RFC3339), longest)
	}
	return e, nil
}

// people are those whose acts let in what the gate would refuse. Acts and approvals lie in a folder, as `redoubt approve` writes them:
// *.act and *.json. Nothing there is believed: the approvals are verified each time the folder is read.
type people struct {
	among  approval.Operators
	domain string
	dir    string
	record string // file that says what passed
	logger *slog.Logger
	now    func() time.Time

	mu   sync.Mutex
	read time.Time
	held []approved
	log  sync.Mutex
}

// approved is an act that enough people approved.
type approved struct {
	Exemption
	act approval.Act
	by  []string
}

// inForce are the approved acts whose time it is.
func (p *people) inForce() (out []approved) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := p.now()
	if p.read.IsZero() || now.Sub(p.read) >= rereadActs || now.Before(p.read) {
		held, err := p.load()
		if err != nil {
			p.logger.Error("reading what people let through; nothing is let through", "folder", p.dir, "error", err)
		}
		p.held, p.read = held, now
	}
	for _, a := range p.held {
		if !now.Before(a.From) && now.Before(a.Until) {
			out = append(out, a)
		}
	}
	return out
}

// load reads the folder. One act that is not in order does not hinder another.
func (p *people) load() (all []approved, err error) {
	err = p.each(func(name string, act approval.Act, by []string, cerr error) {
		if act.Kind == ReplacePolicy {
			return
		}
		e, err := parseExemption(act)
		if err == nil && act.Domain != p.domain {
			err = fmt.Errorf("%w: it is for domain %.100q, this is %q", ErrExemption, act.Domain, p.domain)
		}
		if err = errors.Join(err, cerr); err != nil {
			p.logger.Warn("passed over an act", "file", name, "error", err)
			return
		}
		all = append(all, approved{e, act, by})
	})
	return all, err
}

// each hands every act of the folder to fn, with who approved it, or why too few did.
func (p *people) each(fn func(name string, act approval.Act, by []string, err error)) error {
	approvals, err := p.files("*.json")
	if err != nil {
		return err
	}
	acts, err := p.files("*.act")
	if err != nil {
		return err
	}
	for name, text := range acts {
		act, err := approval.ParseAct(text)
		if err != nil {
			p.logger.Warn("passed over an act", "file", name, "error", err)
			continue
		}
		var given []approval.Approval
		for _, b := range approvals {
			a, err := approval.Parse(b)
			if err != nil || a.Statement.ActDigest != act.Digest() {
				continue
			}
			if _, err := approval.Check(p.among, act, []approval.Approval{a}); err == nil || errors.Is(err, approval.ErrTooFew) {
				given = append(given, a)
			}
		}
		by, err := approval.Check(p.among, act, given)
		fn(name, act, by, err)
	}
	return nil
}

// files reads the files of a pattern.
func (p *people) files(pattern string) (map[string][]byte, error) {
	names, err := filepath.Glob(filepath.Join(p.dir, pattern))
	if err != nil {
		return nil, err
	}
	if len(names) > maxActs {
		return nil, fmt.Errorf("%w: %d files %s, at most %d", ErrTooMany, len(names), pattern, maxActs)
	}
	out := map[string][]byte{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		b, err := io.ReadAll(io.LimitReader(f, maxActFile+1))
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		out[name] = b
	}
	return out, nil
}

// graceUntil is how long people extended the grace, zero where they did not.
func (p *people) graceUntil() (until time.Time) {
	for _, a := range p.inForce() {
		if a.Kind == ExtendGrace && a.Until.After(until) {
			until = a.Until
		}
	}
	return until
}

// passage is one line of the record of what passed against the policy.
type passage struct {
	Time      time.Time `json:"time"`
	Act       string    `json:"act"` // SHA-256 of its text
	By        []string  `json:"by"`
	Reason    string    `json:"reason"`
	Image     string    `json:"image"`
	Namespace string    `json:"namespace"`
	Kind      string    `json:"kind"`
	Name      string    `json:"name,omitempty"`
	User      string    `json:"user"`
	Refused   string    `json:"refused"` // why the policy would not
}

// breakGlass lets a digest in that people let in, once that is recorded. A dry run records nothing, and runs nothing.
func (p *people) breakGlass(g *Gate, r *request, ref images.Reference, refused error) (verdict, bool) {
	if ref.Digest() == "" {
		return verdict{}, false
	}
	for _, a := range p.inForce() {
		if a.Kind != BreakGlass || a.Namespace != r.Namespace || !slices.Contains(a.Digests, ref.Digest()) {
			continue
		}
		if r.DryRun == nil || !*r.DryRun {
			line := passage{p.now().UTC(), a.act.Digest(), a.by, a.Reason, ref.String(), r.Namespace, r.Kind.Kind, r.Name, r.UserInfo.Username, oneLine(refused.Error())}
			if err := p.write(line); err != nil {
				p.logger.Error("what is let through could not be recorded and is refused", "image", ref.String(), "error", err)
				return verdict{}, false
			}
			p.logger.Warn("let through against the policy", "image", ref.String(), "namespace", r.Namespace, "act", line.Act, "by", a.by, "refused", line.Refused)
		}
		return verdict{Digest: ref.Digest(), By: "break-glass approved by " + strings.Join(a.by, " and "), Until: a.Until.UTC()}, true
	}
	return verdict{}, false
}

// write appends a line to the record, durably.
func (p *people) write(line passage) error {
	b, err := json.Marshal(line)
	if err != nil {
		return err
	}
	p.log.Lock()
	defer p.log.Unlock()
	f, err := os.OpenFile(p.record, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	return errors.Join(err, f.Sync(), f.Close())
}
