package mirror

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
)

// Freshness states and signs what is known now. Without a signer there is none: ErrConfig.
func (m *Mirror) Freshness(ctx context.Context) (*freshness.State, error) {
	if m.c.Signer == nil {
		return nil, fmt.Errorf("%w: a mirror without a key claims nothing", ErrConfig)
	}
	s, err := m.snapshot()
	if err != nil {
		return nil, err
	}
	c := &freshness.State{Stream: m.c.Stream, Time: m.c.Now().UTC().Truncate(time.Second), Sequence: s.stream.Sequence, Digest: s.stream.Digest, Logs: []freshness.Log{}, TUF: []freshness.TUF{}}
	for _, origin := range slices.Sorted(maps.Keys(s.heads)) {
		l, err := m.freshnessOf(s, s.heads[origin])
		if err != nil {
			return nil, err
		}
		c.Logs = append(c.Logs, l)
	}
	for _, origin := range sortedKeys(m.logs) { // what is awaited and never came is not passed over
		if l := m.logs[origin]; s.heads[origin].Note == nil && l.Stale != (freshness.Thresholds{}) {
			c.Logs = append(c.Logs, freshness.Log{Origin: origin, Scope: l.Scope, Limits: freshness.LimitsOf(l.Stale, l.MaxAge)})
		}
	}
	heads, err := tufHeads(m.c.DB, keyTUF)
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(heads)) {
		h := heads[name]
		t := freshness.TUF{Name: name, Versions: h.Versions, Observed: h.Observed.UTC(), Targets: []string{}}
		if r := m.tuf[name]; r != nil {
			t.Limits = freshness.LimitsOf(r.Stale, 0)
		}
		for _, target := range h.Targets {
			t.Targets = append(t.Targets, target.SHA256.String())
			if target.Name == trustedRootName {
				t.Root = target.SHA256.String()
			}
		}
		c.TUF = append(c.TUF, t)
	}
	if err := c.Sign(m.c.Name, m.c.Signer); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	return c, nil
}

func (m *Mirror) freshnessOf(s *snapshot, h Head) (freshness.Log, error) {
	l := freshness.Log{Origin: h.Origin, Scope: h.Scope, Size: h.Size, Root: h.Root.String(), Observed: h.Observed.UTC(), Proven: h.Proven.UTC()}
	_, l.Frozen = s.frozen[h.Origin]
	if known := m.log(h.Origin); known != nil {
		l.Limits = freshness.LimitsOf(known.Stale, known.MaxAge)
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
