package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	fulcio "github.com/sigstore/fulcio/pkg/config"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/identity"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
)

// The sections of the configuration that say who may do what are rules, and authority.db has those that were approved last. Where approvers
// are among these, a file with others changes nothing, by a reload or by a start: the approved ones stay in force until enough people
// approved the new ones. Rules without approvers are changed by whoever writes the file, as before there are people who could be asked.

// rules are what people approve of a configuration.
type rules struct {
	Profile          string                           `yaml:"profile"`
	OIDCIssuers      map[string]identity.IssuerRules  `yaml:"oidc-issuers"`
	MetaIssuers      map[string]identity.IssuerRules  `yaml:"meta-issuers"`
	CIIssuerMetadata map[string]fulcio.IssuerMetadata `yaml:"ci-issuer-metadata"`
	People           *People                          `yaml:"people"`
	Approvers        *Approvers                       `yaml:"approvers"`
	LogRead          string                           `yaml:"log.read"`
}

var (
	rulesKey      = []byte("rules/approved")
	errUnapproved = errors.New("the file has rules that nobody approved; those that were approved last are in force")
)

func rulesOf(c *Config) *rules {
	return &rules{c.Profile, c.OIDCIssuers, c.MetaIssuers, c.CIIssuerMetadata, c.People, c.Approvers, c.Log.Read}
}

// with is the configuration under these rules.
func (r *rules) with(c Config) *Config {
	c.Profile, c.OIDCIssuers, c.MetaIssuers, c.CIIssuerMetadata = r.Profile, r.OIDCIssuers, r.MetaIssuers, r.CIIssuerMetadata
	c.People, c.Approvers, c.Log.Read = r.People, r.Approvers, r.LogRead
	return &c
}

// alone says that whoever writes the file changes these rules.
func (r *rules) alone() bool {
	return r.Approvers == nil || r.People == nil && r.Profile == profileDev
}

// rulesText is what people approve: the whole of every section that differs, as it will be, and its digest.
func rulesText(before, after *rules) (lines, changed []string, err error) {
	was, will := reflect.ValueOf(*before), reflect.ValueOf(*after)
	for i := range was.NumField() {
		name := was.Type().Field(i).Tag.Get("yaml")
		old, err := yaml.Marshal(was.Field(i).Interface())
		if err != nil {
			return nil, nil, err
		}
		text, err := yaml.Marshal(will.Field(i).Interface())
		if err != nil {
			return nil, nil, err
		}
		if string(old) == string(text) {
			continue
		}
		changed = append(changed, name)
		lines = append(lines, fmt.Sprintf("section %s becomes this, sha256 %x", name, sha256.Sum256(text)))
		for l := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n") {
			lines = append(lines, actLine("| ", l))
		}
	}
	return lines, changed, nil
}

// actLine is a line of a file in an act; one that is long, or that not everybody sees the same, is escaped and cut, as its section's
// digest covers it.
func actLine(sign, line string) string {
	text := sign + strings.TrimRight(line, " ")
	for _, r := range text {
		if r < 0x20 || r > 0x7e {
			text = sign + fmt.Sprintf("%+q", line)
			break
		}
	}
	return clipText(text, 1000)
}

// holdRules puts the rules that were approved last in force, where the file has others and people could be asked. The role ca has them; others
// take what the file says.
func (in *instance) holdRules() error {
	if in.authorityDB == nil {
		return nil
	}
	file := rulesOf(in.cfg)
	in.approved.Store(file)
	stored, err := in.storedRules()
	if err != nil || stored == nil {
		return err
	}
	_, changed, err := rulesText(stored, file)
	if err != nil || len(changed) == 0 || stored.alone() {
		return err
	}
	in.unapproved, in.fileRules = changed, file
	in.approved.Store(stored)
	in.cfg = stored.with(*in.cfg)
	return nil
}

// storedRules are the rules that were approved last; nil before any were.
func (in *instance) storedRules() (r *rules, err error) {
	err = in.authorityDB.View(func(tx store.Tx) error {
		text, err := tx.Get(rulesKey)
		if err == nil && text != nil {
			r, err = decodeYAML[rules](text)
		}
		return err
	})
	if err != nil {
		err = cmdline.Hinted(fmt.Errorf("reading the approved rules: %w", err), "the version of redoubt that wrote them reads them: `redoubt upgrade --rollback`")
	}
	return r, err
}

// recordRules is what a server does with rules at its start: the first, and those that nobody had to approve, are recorded; of those that
// nobody approved the record has the refusal.
func (in *instance) recordRules(ctx context.Context) error {
	if in.authorityDB == nil {
		return nil
	}
	if in.unapproved != nil {
		e := audit.Event{Actor: localActor(), Action: "config.start", Object: in.cfg.Domain, Outcome: audit.Refused, Detail: map[string]string{"rules": strings.Join(in.unapproved, " ")}}
		return errors.Join(fmt.Errorf("%w: %s", errUnapproved, strings.Join(in.unapproved, ", ")), in.put(ctx, e))
	}
	stored, err := in.storedRules()
	if err != nil {
		return err
	}
	changed := []string{"all"}
	switch {
	case stored == nil && in.approved.Load().alone():
		return nil // nothing to hold anybody to
	case stored != nil:
		if _, changed, err = rulesText(stored, in.approved.Load()); err != nil || len(changed) == 0 {
			return err
		}
	}
	return in.putRules(ctx, audit.Event{Actor: localActor(), Action: "config.start", Object: in.cfg.Domain, Outcome: audit.Intent, Detail: map[string]string{"rules": strings.Join(changed, " ")}}, in.approved.Load(), consent{})
}

// keepRules records a reload, and in the same transaction makes its rules the approved ones.
func (in *instance) keepRules(ctx context.Context, actor string, r reloadResult, now *rules, agreed consent) error {
	e := audit.Event{Actor: actor, Action: "config.reload", Object: r.SHA256, Outcome: audit.Intent, Detail: map[string]string{"rules": strings.Join(r.Changed, " ")}}
	return in.putRules(ctx, e, now, agreed)
}

func (in *instance) putRules(ctx context.Context, e audit.Event, now *rules, agreed consent) error {
	text, err := yaml.Marshal(now)
	if err != nil {
		return err
	}
	if _, err := decodeYAML[rules](text); err != nil { // what cannot be read again would keep the next start from starting
		return err
	}
	e.Detail["sha256"] = fmt.Sprintf("%x", sha256.Sum256(text))
	_, err = in.audit.Add(ctx, e, func(tx store.Tx) error {
		if agreed.in != nil {
			if err := agreed.spend(tx); err != nil {
				return err
			}
		}
		return tx.Put(rulesKey, text)
	})
	if err != nil {
		return fmt.Errorf("recording the rules: %w", err)
	}
	in.approved.Store(now)
	if agreed.in != nil {
		return agreed.done()
	}
	return nil
}

// approveFile is a reload while no server runs: the rules of the file become the approved ones, which the next start goes by.
func (in *instance) approveFile(ctx context.Context, actor string, given approvalArgs) (r reloadResult, err error) {
	text, err := os.ReadFile(in.dir.config())
	if err != nil {
		return r, err
	}
	r = reloadResult{SHA256: fmt.Sprintf("%x", sha256.Sum256(text)), Changed: []string{}, Restart: []string{}}
	file := in.fileRules
	if file == nil {
		file = rulesOf(in.cfg)
	}
	before := in.approved.Load()
	if stored, err := in.storedRules(); err != nil {
		return r, err
	} else if stored != nil {
		before = stored
	}
	lines, changed, err := rulesText(before, file)
	if err != nil {
		return r, err
	}
	r.Changed = append(r.Changed, changed...)
	var agreed consent
	if len(changed) > 0 && !before.alone() {
		if agreed, err = in.agree(ctx, actor, "config.reload", lines, given); err != nil {
			return r, err
		}
	}
	return r, in.keepRules(ctx, actor, r, file, agreed)
}
