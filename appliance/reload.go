package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/log/audit"
)

// A reload takes issuers, people, approvers, log.read and the certificate of the listeners from the file; whatever else changed is
// named, because it needs a restart. A file that is not valid, or whose new rules nobody approved, changes nothing: what ran runs on,
// and status, doctor and the server's log say why.

// reloadState is what became of the last reload.
type reloadState struct {
	at  time.Time
	err error
}

// reloadResult is the JSON of `redoubt config reload -o json`.
type reloadResult struct {
	SHA256  string   `json:"sha256"`  // of the file
	Changed []string `json:"changed"` // sections that were taken over and say who may do what
	Restart []string `json:"restart"` // sections that differ and need a restart
}

var errNoReload = errors.New("no server runs on this state directory; one that starts takes the file as it is")

var configReload = verb[approvalArgs, reloadResult]{"config.reload", func(ctx context.Context, in *instance, actor string, a approvalArgs) (reloadResult, error) {
	if in.reload == nil {
		return reloadResult{}, errNoReload
	}
	return in.reload(ctx, in, actor, a)
}}

// hangup answers SIGHUP, which says nothing of who sent it: what needs approval waits for it.
func (s *server) hangup() {
	ctx := s.background
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return
	}
	in := s.instance()
	_, err = s.reload(ctx, in, "signal", approvalArgs{})
	leave()
	if err != nil || !in.superseded.Load() {
		return
	}
	if err = s.reopen(ctx); err == nil {
		err = s.instance().finish(ctx)
	}
	if err != nil {
		s.logger.Error("reload: taking up rotated keys", "error", err)
	}
}

// reload does one reload for a caller inside the gate and remembers what became of it.
func (s *server) reload(ctx context.Context, in *instance, actor string, given approvalArgs) (r reloadResult, err error) {
	s.reloading.Lock()
	defer s.reloading.Unlock()
	notifySystemd("RELOADING=1")
	defer notifySystemd("READY=1")
	r, err = s.takeUp(ctx, in, actor, given)
	s.reloaded.Store(&reloadState{in.now(), err})
	if err == nil {
		s.logger.Info("reloaded", "by", actor, "rules changed", r.Changed, "restart needed for", r.Restart)
		return r, nil
	}
	s.logger.Error("reload refused; the running configuration stays", "by", actor, "error", err)
	if in.audit == nil {
		return r, err
	}
	e := audit.Event{Actor: actor, Action: "config.reload", Object: r.SHA256, Outcome: audit.Refused, Detail: map[string]string{"reason": clipText(err.Error(), 1000)}}
	if _, aerr := in.audit.Add(ctx, e, nil); aerr != nil {
		s.logger.Error("reload: recording the refusal", "error", aerr)
	}
	return r, err
}

// takeUp reads the file, asks for consent where it changes the rules, records the reload and does it.
func (s *server) takeUp(ctx context.Context, in *instance, actor string, given approvalArgs) (r reloadResult, err error) {
	text, err := os.ReadFile(s.configPath)
	if err != nil {
		return r, fmt.Errorf("reading the configuration: %w", err)
	}
	r.SHA256, r.Changed, r.Restart = fmt.Sprintf("%x", sha256.Sum256(text)), []string{}, []string{}
	next, err := loadConfig(s.configPath)
	if err == nil {
		next, _, err = next.inForce()
	}
	if err != nil {
		return r, err
	}
	running, err := s.next(in.cfg)
	if err != nil {
		return r, err
	}
	lines, changed, err := rulesText(running, next)
	if err != nil {
		return r, err
	}
	var agreed consent
	if len(changed) > 0 && in.authorityDB == nil { // where roles run apart, the one that counts approvals takes new rules; the others at their start
		r.Restart = append(changed, restartNeeded(in.cfg, next)...)
		return r, s.loadTLS(ctx, next.TLS)
	}
	if len(changed) > 0 {
		if agreed, err = in.agree(ctx, actor, "config.reload", lines, given); err != nil {
			return r, err
		}
	}
	law, err := in.readLaw(next)
	if err != nil {
		return r, err
	}
	if in.audit != nil { // another role's process takes its certificate alone
		if err := in.record(ctx, actor, "config.reload", r.SHA256, map[string]string{"rules": strings.Join(changed, " ")}); err != nil {
			return r, err
		}
	}
	if err := in.reloadIssuers(next); err != nil {
		return r, err
	}
	in.inForce.Store(law)
	s.swap.Lock()
	s.issuers = next
	s.swap.Unlock()
	r.Changed, r.Restart = append(r.Changed, changed...), append(r.Restart, restartNeeded(in.cfg, next)...)
	if recorded, err := readHistory(in.dir); err != nil {
		return r, err
	} else if !reflect.DeepEqual(recorded.Instances, in.history.Instances) {
		in.superseded.Store(true) // keys rotated while requests kept the server from taking them up
	}
	if err := s.loadTLS(ctx, next.TLS); err != nil {
		return r, fmt.Errorf("the rest was reloaded, the TLS certificate that is shown stays: %w", err)
	}
	return r, agreed.finish()
}

// ruled are the sections of a configuration that say who may do what, by name.
func (c *Config) ruled() map[string]any {
	return map[string]any{"oidc-issuers": c.OIDCIssuers, "meta-issuers": c.MetaIssuers, "ci-issuer-metadata": c.CIIssuerMetadata,
		"people": c.People, "approvers": c.Approvers, "log.read": c.Log.Read}
}

// rulesText is what people approve of a reload: the whole of every section of rules that differs, as it will be, and its digest.
func rulesText(running, next *Config) (lines, changed []string, err error) {
	before, after := running.ruled(), next.ruled()
	for _, name := range []string{"oidc-issuers", "meta-issuers", "ci-issuer-metadata", "people", "approvers", "log.read"} {
		if reflect.DeepEqual(before[name], after[name]) {
			continue
		}
		changed = append(changed, name)
		is, err := yaml.Marshal(after[name])
		if err != nil {
			return nil, nil, err
		}
		lines = append(lines, fmt.Sprintf("section %s becomes this, sha256 %x", name, sha256.Sum256(is)))
		for l := range strings.SplitSeq(strings.TrimSpace(string(is)), "\n") {
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

// clipText cuts s to at most n octets and says so.
func clipText(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "..."
}

// reloadChecks name a reload that was refused, until one is not.
func (in *instance) reloadChecks() []check {
	if in.reloaded == nil {
		return nil
	}
	last := in.reloaded.Load()
	if last == nil {
		return nil
	}
	var err error
	if last.err != nil {
		err = fmt.Errorf("refused on %s, what ran before runs on: %w", last.at.UTC().Format(time.DateTime), last.err)
	}
	c := urgent("configuration reload", err, "`redoubt config validate`, then `redoubt config reload`")
	c.private = true
	return []check{c}
}
