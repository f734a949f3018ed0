package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/ca/frontend"
	"redoubt.internal/log/rekor"
	"redoubt.internal/mirror"
)

const (
	profileDev        = "dev"
	profileProduction = "production"
)

// Roles a key can have; each has exactly one key and no key has two roles.
const (
	roleRoot     = "root"     // signs the issuing and timestamp certificates; used by ceremonies only
	roleIssuing  = "issuing"  // signs code-signing certificates
	roleRekor    = "rekor"    // heads, entry timestamps of the artifact log
	roleRekor2   = "rekor-2"  // heads of the artifact log that serves v2 alone; rekor-3 and on are those of logs made later
	roleCT       = "ct"       // heads and SCTs of the certificate log
	roleAudit    = "audit"    // heads of the audit log
	roleTSA      = "tsa"      // timestamps
	roleTUF      = "tuf"      // the trust repository
	roleOIDC     = "oidc"     // the built-in issuer
	roleExporter = "exporter" // parcels
)

// allRoles are the roles init makes keys for, in the order they are listed in.
var allRoles = []string{roleRoot, roleIssuing, roleRekor, roleRekor2, roleCT, roleAudit, roleTSA, roleTUF, roleOIDC, roleExporter}

// shardNumber is n of rekor-<n>, and 1 of rekor; 0 of what names no artifact log.
func shardNumber(name string) int {
	if name == roleRekor {
		return 1
	}
	digits, ok := strings.CutPrefix(name, roleRekor+"-")
	n, err := strconv.Atoi(digits)
	if !ok || err != nil || n < 2 || n > maxShard || strconv.Itoa(n) != digits {
		return 0
	}
	return n
}

const maxShard = 9999 // keeps file names and origins short

// roles are the roles that have a key, in the order they are listed in: artifact logs by number, where allRoles has the second.
func (k *Keys) roles() (roles []string) {
	shards := slices.DeleteFunc(slices.Collect(maps.Keys(k.Roles)), func(role string) bool { return shardNumber(role) < 2 })
	slices.SortFunc(shards, func(a, b string) int { return shardNumber(a) - shardNumber(b) })
	for _, role := range slices.Concat(allRoles, []string{roleTLS}) {
		if role == roleRekor2 {
			roles = append(roles, shards...)
		} else if _, ok := k.Roles[role]; ok {
			roles = append(roles, role)
		}
	}
	return roles
}

// check refuses what strict decoding cannot see. It touches no file and opens no socket.
func (c *Config) check() error {
	var problems []error
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if err := checkDomain(c.Domain); err != nil {
		bad("domain: %w", err)
	}
	if c.Profile != profileDev && c.Profile != profileProduction {
		bad("profile: %q is neither dev nor production", c.Profile)
	}
	production := c.Profile == profileProduction
	for _, err := range slices.Concat(c.Approvers.check(), c.Backup.check(), c.People.check(c), c.Roles.check()) {
		bad("%w", err)
	}
	if production && c.Approvers != nil && c.Approvers.Threshold < 2 {
		bad("approvers.threshold: %d; the production profile wants 2 people or more", c.Approvers.Threshold)
	}
	if !slices.Contains([]string{"", readOpen, readAuthenticated}, c.Log.Read) {
		bad("log.read: %q is neither %s nor %s", c.Log.Read, readOpen, readAuthenticated)
	}
	if err := c.CA.Notation.check(); err != nil {
		bad("ca.notation: %w", err)
	}
	if !filepath.IsAbs(c.Dir) {
		bad("dir: %q is not absolute", c.Dir)
	}
	if _, counters := (layout{c.Dir}).marksIn(c.Log); c.Roles != nil && len(counters) > 0 {
		bad("log.highwater: a counter of a TPM binds the marks of one process, and with roles there are two; name files on other disks")
	}
	for _, err := range c.Keys.check(production) {
		bad("%w", err)
	}
	for _, err := range c.Log.check() {
		bad("log.artifact: %w", err)
	}
	for _, err := range c.Log.checkMarks() {
		bad("%w", err)
	}
	if production && c.Issuer.Enabled {
		bad("issuer.enabled: the built-in issuer is refused in the production profile")
	}
	for _, err := range c.checkListeners() {
		bad("%w", err)
	}
	if c.Services.OIDC == nil && c.Issuer.Enabled {
		bad("issuer.enabled: needs services.oidc")
	}
	if c.Limits.Body < 0 || c.Mirror.Quota < 0 || c.Keys.Sessions < 0 {
		bad("limits.body, mirror.quota and keys.sessions must not be negative")
	}
	for _, err := range c.Mirror.check(c.Approvers.group().Threshold) {
		bad("%w", err)
	}
	if len(problems) > 0 {
		return fmt.Errorf("%w: %w", errConfig, errors.Join(problems...))
	}
	return nil
}

func (k Keys) check(production bool) (problems []error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if k.Token == "" {
		bad("keys.token: missing")
	}
	if production && strings.HasPrefix(k.Token, "soft:") && !k.AllowSoftware {
		bad("keys.token: software keys in the production profile need keys.allow-software: true")
	}
	if uriAttribute(k.Token, "pin-value") != "" {
		bad("keys.token: holds a PIN (pin-value); a configuration is copied and read: put it into a file of mode 0600 and name that with pin-source")
	}
	if k.Timeout < 0 || time.Duration(k.Timeout) > time.Minute {
		bad("keys.timeout: %s is not between 0 and 1m", time.Duration(k.Timeout))
	}
	owner := map[string]string{}
	for _, role := range slices.Sorted(maps.Keys(k.Roles)) {
		uri := k.Roles[role]
		if !slices.Contains(allRoles, role) && role != roleTLS && shardNumber(role) == 0 && !isMirrorRole(role) {
			bad("keys.roles.%s: no such role; roles are %s, tls, rekor-<n> of further artifact logs, and mirror-<name> of mirrored trust repositories", role, strings.Join(allRoles, ", "))
		}
		if err := checkKeyURI(uri); err != nil {
			bad("keys.roles.%s: %w", role, err)
		}
		if other, ok := owner[uri]; ok {
			bad("keys.roles.%s: the same key as %s; no key may serve two roles", role, other)
		}
		owner[uri] = role
		if uriAttribute(uri, "pin-value") != "" {
			bad("keys.roles.%s: holds a PIN (pin-value); name its file with pin-source", role)
		}
	}
	for _, err := range k.checkPlugins() {
		bad("%w", err)
	}
	return problems
}

// checkListeners looks at the services and at the certificate that their listeners show.
func (c *Config) checkListeners() (problems []error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	for name, s := range c.Services.all() {
		if err := checkService(s, name == "metrics", c.encrypts()); err != nil {
			bad("services.%s: %w", name, err)
		}
	}
	schemes := map[string]string{}
	for _, s := range c.Services.all() {
		scheme, _, _ := strings.Cut(s.URL, ":")
		if other, ok := schemes[s.Listen]; ok && other != scheme {
			bad("services: the services on %s have http and https URLs; one listener speaks one of them", s.Listen)
		}
		schemes[s.Listen] = scheme
	}
	if (c.TLS.Cert == "") != (c.TLS.Key == "") {
		bad("tls: cert and key come together")
	}
	if life := time.Duration(c.TLS.Life); life != 0 && (life < frontend.MinLife || life > frontend.MaxLife) {
		bad("tls.life: %s is not between %s and %s", life, frontend.MinLife, frontend.MaxLife)
	}
	return problems
}

// check takes the number of approvers that agree to an act.
func (m Mirror) check(threshold int) (problems []error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if n := m.OutboundApprovals; n < 0 || n > threshold {
		bad("mirror.outbound-approvals is %d, approvers.threshold %d: no more can be asked for than that", n, threshold)
	}
	if b := m.Inbox; b != nil && (b.Dir == "" || b.Every < 0 || b.Settle < 0 || b.Quota < 0 || b.SweepAge < 0) {
		bad("mirror.inbox: dir is needed, and nothing may be negative")
	}
	if m.Inbox != nil && m.Stream == "" {
		bad("mirror.inbox: set mirror.stream, mirror.exporters and mirror.logs, too")
	}
	for i, list := range m.Images {
		if err := list.check(); err != nil {
			bad("mirror.images[%d]: %w", i, err)
		}
	}
	if _, err := mirror.NewNetwork(m.access()); err != nil {
		bad("mirror: %w", err)
	}
	return problems
}

// check wants each wire format served by one log that is not frozen, and nothing that two logs share.
func (l *Log) check() (problems []error) {
	bad := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	names, trees, served := map[string]bool{}, map[int64]bool{}, map[rekor.Generation]string{}
	for i, a := range l.Artifact {
		if shardNumber(a.Name) == 0 {
			bad("[%d].name: %q is neither rekor nor rekor-<n> with n from 2 up", i, a.Name)
		}
		if names[a.Name] {
			bad("[%d].name: %s stands twice", i, a.Name)
		}
		if a.TreeID <= 0 || trees[a.TreeID] {
			bad("[%d].tree-id: want a positive number that no other log has", i)
		}
		names[a.Name], trees[a.TreeID] = true, true
		for _, g := range a.Serves {
			if other, taken := served[g]; taken && !a.Frozen {
				bad("[%d].serves: %s is served by %s already; a log that takes no more entries is frozen: true", i, g, other)
			}
			if g != rekor.V1 && g != rekor.V2 {
				bad("[%d].serves: %q is neither v1 nor v2", i, g)
			}
			if !a.Frozen {
				served[g] = a.Name
			}
		}
		if len(a.Serves) == 0 || len(a.Serves) > 2 || len(a.Serves) == 2 && a.Serves[0] == a.Serves[1] {
			bad("[%d].serves: want v1, v2 or both, each once", i)
		}
	}
	problems = append(problems, l.Second.check()...)
	for _, g := range []rekor.Generation{rekor.V1, rekor.V2} {
		if served[g] == "" {
			bad("no log serves %s, or the one that does is frozen", g)
		}
	}
	return problems
}

// oneTree reports whether v2 entries stand in a tree with v1 checkpoints.
func (l *Log) oneTree() bool {
	return slices.ContainsFunc(l.Artifact, func(a ArtifactLog) bool {
		return slices.Contains(a.Serves, rekor.V1) && slices.Contains(a.Serves, rekor.V2)
	})
}

// all yields the configured services by name, in the order of the ready file.
func (s *Services) all() map[string]*Service {
	m := map[string]*Service{"fulcio": s.Fulcio, "rekor": s.Rekor, "tsa": s.TSA, "ct": s.CT, "tuf": s.TUF, "oidc": s.OIDC, "console": s.Console, "mirror": s.Mirror, "people": s.People, "metrics": s.Metrics}
	maps.DeleteFunc(m, func(_ string, s *Service) bool { return s == nil })
	return m
}

// checkDomain wants a lower-case DNS name: it becomes part of log origins, where spaces and plus signs are not allowed.
func checkDomain(d string) error {
	if d == "" {
		return errors.New("missing")
	}
	if len(d) > 200 {
		return errors.New("longer than 200 characters")
	}
	for label := range strings.SplitSeq(d, ".") {
		if label == "" || len(label) > 63 || strings.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" || label[0] == '-' || label[len(label)-1] == '-' {
			return fmt.Errorf("%q is not a DNS name in lower case", d)
		}
	}
	return nil
}

func checkService(s *Service, loopbackOnly, tls bool) error {
	host, _, err := net.SplitHostPort(s.Listen)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	loopback := host == "localhost" || net.ParseIP(host).IsLoopback()
	if loopbackOnly && !loopback {
		return fmt.Errorf("listen: %s is not a loopback address", s.Listen)
	}
	if !loopback && !tls {
		return fmt.Errorf("listen: %s is not a loopback address, so tls.cert and tls.key, or keys.roles.tls, are needed", s.Listen)
	}
	u, err := url.Parse(s.URL)
	if err != nil {
		return fmt.Errorf("url: %w", err)
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(s.URL, "/") {
		return fmt.Errorf("url: %q is not a plain http(s) URL without a trailing slash", s.URL)
	}
	return nil
}
