package mirror

import (
	"errors"
	"fmt"
	"slices"
)

// Logs are known by configuration, or through the trusted root of a TUF repository that was imported and verified. Nothing else
// brings a key in here.

// learnFrom takes what the trusted root of a repository says, in place of what it said before; nil is a repository without one.
func (m *Mirror) learnFrom(repository string, trustedRoot []byte) error {
	var t trusted
	if trustedRoot != nil {
		var err error
		if t, err = readTrusted(trustedRoot); err != nil {
			m.c.Logger.Warn("no log is known by this trusted root: it cannot be read here", "repository", repository, "error", err)
		}
	}
	m.trusted.Store(repository, t)
	var logs []LogConfig
	for _, f := range m.c.Follow {
		if f.TUF == repository {
			logs = append(logs, f.followed(t)...)
		}
	}
	return m.learn(repository, logs)
}

// relearn goes back to what the repositories say that were committed.
func (m *Mirror) relearn() error {
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return err
	}
	var errs []error
	for name := range m.tuf {
		var data []byte
		if h, ok := heads[name]; ok {
			if data, err = h.readTarget(m.root, trustedRootName); err != nil && !errors.Is(err, ErrNotFound) {
				errs = append(errs, err)
			}
		}
		errs = append(errs, m.learnFrom(name, data))
	}
	return errors.Join(errs...)
}

// explained is a configured log with its key: its own, or the one a trusted root names. Nil while none does.
func (m *Mirror) explained(l *knownLog) *knownLog {
	if l == nil || l.Trust == "" {
		return l
	}
	t, _ := m.trusted.Load(l.Trust)
	root, _ := t.(trusted)
	c, ok := root.explain(l.LogConfig)
	if !ok {
		return nil
	}
	c.Trust = ""
	known, err := knownLogs([]LogConfig{c})
	if err != nil {
		return nil
	}
	return known[c.Origin]
}

// shard is a Rekor v1 shard of a host that is followed.
func shard(logs map[string]*knownLog, origin string) *knownLog {
	host, ok := shardHost(origin)
	if !ok || logs[host] == nil {
		return nil
	}
	l := *logs[host]
	l.Origin = origin
	return &l
}

// checkTrust requires that every repository that logs are believed by is configured.
func checkTrust(tuf map[string]*tufRepo, logs []LogConfig, follow []Follow) error {
	for _, l := range logs {
		if l.Trust != "" && tuf[l.Trust] == nil {
			return fmt.Errorf("%w: log %q is believed by TUF repository %q, which is not configured", ErrConfig, l.Origin, l.Trust)
		}
		if l.Trust != "" && l.VKey != "" {
			return fmt.Errorf("%w: log %q has a key and a TUF repository; one of them says whom to believe", ErrConfig, l.Origin)
		}
	}
	for i, f := range follow {
		if tuf[f.TUF] == nil {
			return fmt.Errorf("%w: the logs of TUF repository %q are followed, which is not configured", ErrConfig, f.TUF)
		}
		if slices.ContainsFunc(follow[:i], func(o Follow) bool { return o.TUF == f.TUF }) {
			return fmt.Errorf("%w: the logs of TUF repository %q are followed twice", ErrConfig, f.TUF)
		}
	}
	return nil
}

// refreshLogs makes the exporter's logs anew: as configured, with the keys that collected trusted roots name, and those followed.
func (e *Exporter) refreshLogs() error {
	heads, err := tufHeads(e.c.DB, keyTUFCollected)
	if err != nil {
		return err
	}
	roots := make(map[string]trusted)
	for name, h := range heads {
		if e.tuf[name] == nil {
			continue
		}
		data, err := h.readTarget(e.root, trustedRootName)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err == nil {
			roots[name], err = readTrusted(data)
		}
		if err != nil {
			return fmt.Errorf("TUF repository %q: %w", name, err)
		}
	}
	var logs []LogConfig
	e.waiting = nil
	for _, c := range e.c.Logs {
		if c.Trust != "" {
			explained, ok := roots[c.Trust].explain(c)
			if !ok {
				e.waiting = append(e.waiting, c)
				continue
			}
			explained.Trust = ""
			c = explained
		}
		logs = append(logs, c)
	}
	for _, f := range e.c.Follow {
		for _, c := range f.followed(roots[f.TUF]) {
			if !slices.ContainsFunc(logs, func(o LogConfig) bool { return o.Origin == c.Origin }) {
				logs = append(logs, c)
			}
		}
	}
	e.logs, err = knownLogs(logs)
	return err
}

// ended tells whether a log grows although its key's validity was over when it was last seen.
func (l *knownLog) ended(own Head, size uint64) bool {
	return !l.NotAfter.IsZero() && own.Note != nil && own.Observed.After(l.NotAfter) && size > own.Size
}
