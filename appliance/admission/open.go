package admission

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"redoubt.internal/ca/approval"
	"redoubt.internal/mirror/images"
)

// People are those whose acts let in what the gate would refuse.
type People struct {
	Approvers approval.Operators
	Domain    string
	Dir       string // of acts and approvals
}

// New opens a gate in c.Dir, by the rules. It asks nobody.
func New(c Config, rules *Rules, p *People) (*Gate, error) {
	if err := c.complete(); err != nil {
		return nil, err
	}
	for _, dir := range []string{"receipts", "tls"} {
		if err := os.MkdirAll(filepath.Join(c.Dir, dir), 0o750); err != nil {
			return nil, err
		}
	}
	g := &Gate{
		c: c, now: c.Now, sources: map[string]*images.Source{}, cache: newCache(), lookups: make(chan struct{}, maxLookups), flights: singleflight.Group{},
		receipts: &receipts{dir: filepath.Join(c.Dir, "receipts")}, metrics: newMetrics(), recent: &recent{},
	}
	g.rules.Store(rules)
	for _, a := range c.Registries {
		source, err := images.OpenRegistry(a)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
		g.sources[a.Host] = source
	}
	if p == nil {
		return g, nil
	}
	if bad := p.Approvers.Problems("approvers"); len(bad) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrConfig, bad[0])
	}
	if p.Approvers.Threshold < 2 {
		return nil, fmt.Errorf("%w: approvers.threshold is %d; at least two people let anything in against the policy", ErrConfig, p.Approvers.Threshold)
	}
	g.people = &people{among: p.Approvers, domain: p.Domain, dir: p.Dir, record: filepath.Join(c.Dir, "passed.jsonl"), logger: c.Logger, now: g.now}
	return g, nil
}

// complete fills in what is left out and refuses what cannot be.
func (c *Config) complete() error {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Mode == "" {
		c.Mode = Enforce
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.CacheFor == 0 {
		c.CacheFor = DefaultCacheFor
	}
	switch {
	case c.Grace == 0:
		c.Grace = DefaultGrace
	case c.Grace < 0:
		c.Grace = 0
	}
	known := []Mode{Enforce, Warn, Audit}
	for namespace, m := range c.Modes {
		if !slices.Contains(known, m) {
			return fmt.Errorf("%w: mode %q of namespace %s; known are %v", ErrConfig, m, namespace, known)
		}
	}
	if !slices.Contains(known, c.Mode) {
		return fmt.Errorf("%w: mode %q; known are %v", ErrConfig, c.Mode, known)
	}
	if len(c.Registries) == 0 {
		return fmt.Errorf("%w: no registry is named, so no image could be admitted", ErrConfig)
	}
	for _, d := range c.OwnDigests {
		if _, err := images.Hex(d); err != nil {
			return fmt.Errorf("%w: own digests: %w", ErrConfig, err)
		}
	}
	if c.Timeout < time.Second || c.Timeout > 29*time.Second {
		return fmt.Errorf("%w: a timeout of %s; an API server waits 30 s at most, and one below 1 s refuses what is new", ErrConfig, c.Timeout)
	}
	if c.Dir == "" || c.Logger == nil {
		return fmt.Errorf("%w: a folder and a logger are needed", ErrConfig)
	}
	return nil
}

// Use puts other rules in force. What was decided by the former is forgotten.
func (g *Gate) Use(rules *Rules) {
	if was := g.rules.Swap(rules); was.Version != rules.Version {
		g.cache.clear()
	}
}

// InCluster gives the gate an API server: for the events of refusals and policy reports, for the receipts that replicas share, and, if pullSecrets is
// set, for the pull secrets of who asks.
func (g *Gate) InCluster(c Cluster, pullSecrets bool) error {
	k, err := openKube(c)
	if err != nil {
		return err
	}
	g.events = newEvents(k, g.c.Logger, g.metrics, g.now)
	if g.c.OwnName != "" && g.c.OwnNamespace != "" {
		g.receipts.shared = &shared{kube: k, namespace: g.c.OwnNamespace, name: g.c.OwnName, logger: g.c.Logger, metrics: g.metrics, waiting: map[string]string{}}
	}
	if g.c.Reports && g.c.OwnName != "" {
		g.reports = newReports(k, g.c.OwnName, g.c.Logger, g.metrics)
	}
	if pullSecrets {
		g.secrets = &secretSources{kube: k, access: map[string]images.Access{}, now: g.now, held: map[string]heldSource{}}
		for _, a := range g.c.Registries {
			g.secrets.access[a.Host] = a
		}
	}
	return nil
}

// Run tells the cluster what the gate has to tell it until ctx ends.
func (g *Gate) Run(ctx context.Context) {
	var work sync.WaitGroup
	if g.events != nil {
		work.Go(func() { g.events.run(ctx) })
	}
	if g.receipts.shared != nil {
		work.Go(func() { g.receipts.shared.run(ctx) })
	}
	if g.reports != nil {
		work.Go(func() { g.reports.run(ctx) })
	}
	work.Wait()
	<-ctx.Done()
}

// Certificates are those of the webhook's listener; the first is made at once. cluster is nil where there is none.
func (g *Gate) Certificates(ctx context.Context, t TLS, cluster *Cluster) (*Certificates, error) {
	if t.Dir == "" {
		t.Dir = filepath.Join(g.c.Dir, "tls")
	}
	c := &Certificates{t: t, now: g.now, logger: g.c.Logger}
	if cluster != nil {
		var err error
		if c.kube, err = openKube(*cluster); err != nil {
			return nil, err
		}
		if t.Namespace == "" || t.Secret == "" || t.Configuration == "" {
			return nil, errors.Join(ErrConfig, errors.New("the webhook's secret and configurations have no names"))
		}
	}
	return c, c.Renew(ctx)
}

// Logger is where the gate reports.
func (g *Gate) Logger() *slog.Logger { return g.c.Logger }
