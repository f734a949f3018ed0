package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"reflect"
	"strings"
	"time"

	"redoubt.internal/log/audit"
)

// A reload takes issuers, people, approvers, log.read and the certificate of the listeners from the file; whatever else changed is
// named, because it needs a restart. A file that is not valid, or whose new rules nobody approved, changes nothing: what ran runs on,
// and status, doctor and the server's log say why.
//
// Everything that can fail is done first, on the side; what is left is to put it in force. Where roles run apart, the ca role asks each of
// them to read the same file and to say whether it can; none puts it in force before all can.

// reloadState is what became of the last reload.
type reloadState struct {
	at  time.Time
	err error
}

// reloadResult is the JSON of `redoubt config reload -o json`.
type reloadResult struct {
	SHA256  string   `json:"sha256"`           // of the file
	Changed []string `json:"changed"`          // sections that were taken over and say who may do what
	Restart []string `json:"restart"`          // sections that differ and need a restart
	Roles   []string `json:"roles,omitempty"`  // that took it up, where they run apart
	Absent  []string `json:"absent,omitempty"` // that do not run, and take the file at their start
}

// readied is a configuration that was read and found good, with all of it that has to be opened or computed.
type readied struct {
	reloadResult
	in       *instance
	next     *Config
	lines    []string // of the act that its new rules are
	law      *law
	issuance *issuance        // nil where other roles issue
	shown    *tls.Certificate // nil where the one that is shown stays
	rotated  bool             // keys rotated while requests kept the server from taking them up
}

var configReload = verb[approvalArgs, reloadResult]{"config.reload", func(ctx context.Context, in *instance, actor string, a approvalArgs) (reloadResult, error) {
	if in.reload == nil {
		return in.approveFile(ctx, actor, a)
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

// takeUp reads the file, has the other roles read it, asks for consent where it changes the rules, records the reload and does it.
func (s *server) takeUp(ctx context.Context, in *instance, actor string, given approvalArgs) (r reloadResult, err error) {
	c, err := s.ready(ctx, in)
	if err != nil || in.audit == nil {
		return s.takeCertificate(ctx, c, err)
	}
	others, err := in.readyOthers(ctx, &c.reloadResult)
	if err != nil {
		return c.reloadResult, err
	}
	var agreed consent
	if len(c.Changed) > 0 {
		if agreed, err = in.agree(ctx, actor, "config.reload", c.lines, given); err != nil {
			return c.reloadResult, err
		}
	}
	if err := in.keepRules(ctx, actor, c.reloadResult, rulesOf(c.next), agreed); err != nil {
		return c.reloadResult, err
	}
	s.force(ctx, c)
	err = in.forceOthers(ctx, &c.reloadResult, others)
	return c.reloadResult, err
}

// takeCertificate is the reload of a role that does not count approvals and is asked by itself: it takes the certificate alone.
func (s *server) takeCertificate(ctx context.Context, c *readied, err error) (reloadResult, error) {
	if err == nil {
		c.Changed, c.Restart = []string{}, append(c.Changed, c.Restart...)
		s.show(ctx, c)
	}
	return c.reloadResult, err
}

// ready reads the file and does all of a reload that can fail.
func (s *server) ready(ctx context.Context, in *instance) (c *readied, err error) {
	c = &readied{in: in, reloadResult: reloadResult{Changed: []string{}, Restart: []string{}}}
	text, err := readConfigFile(s.configPath)
	if err != nil {
		return c, err
	}
	c.SHA256 = fmt.Sprintf("%x", sha256.Sum256(text))
	if c.next, err = configOf(s.configPath, text); err != nil {
		return c, err
	}
	var recorded *history
	if c.next, recorded, err = c.next.inForce(); err != nil {
		return c, err
	}
	running, err := s.next(in.cfg)
	if err != nil {
		return c, err
	}
	before := rulesOf(running)
	if approved := in.approved.Load(); approved != nil {
		before = approved
	}
	var changed []string
	if c.lines, changed, err = rulesText(before, rulesOf(c.next)); err != nil {
		return c, err
	}
	c.Changed, c.Restart = append(c.Changed, changed...), append(c.Restart, restartNeeded(in.cfg, c.next)...)
	c.rotated = !reflect.DeepEqual(recorded.Instances, in.history.Instances)
	if c.law, err = in.readLaw(c.next); err != nil {
		return c, err
	}
	if c.issuance, err = in.readIssuers(c.next); err != nil {
		return c, err
	}
	if c.next.TLS.Cert != "" && in.shows() {
		c.shown, err = in.siteCertificate(ctx, c.next.TLS)
	}
	return c, err
}

// force puts what was readied in force.
func (s *server) force(ctx context.Context, c *readied) {
	in := c.in
	if c.issuance != nil {
		in.issuance.Store(c.issuance)
	}
	in.inForce.Store(c.law)
	s.swap.Lock()
	s.issuers = c.next
	s.swap.Unlock()
	if c.rotated {
		in.superseded.Store(true)
	}
	s.show(ctx, c)
}

// show has the listeners show the site's certificate that was readied; where certificates are made here and there is none yet, one.
func (s *server) show(ctx context.Context, c *readied) {
	if c.shown != nil {
		s.front.shown.Store(c.shown)
	} else if c.next.TLS.Cert == "" {
		s.loadTLS(ctx, c.next.TLS) // which is tried again
	}
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
