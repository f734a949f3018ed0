package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/trust"
	"redoubt.internal/hsm"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// What mirrored TUF repositories say is served again to the clients inside: a repository of its own for each, never merged with ours or
// with one another, because whoever trusts the union trusts more than either said. Each is signed by a key of its own, so that metadata
// of one can never pass for another's, and its timestamp is signed anew while the server runs. How old the upstream is stands beside it.

const (
	roleMirrorPrefix = "mirror-" // mirror-<name>: the repository a mirrored one is served under; the key is made when it is first needed
	upstreamTarget   = "upstream.json"
	// mirroredLife is how long a timestamp of such a repository is valid: an old copy of it is noticed within a week, as upstream's is.
	mirroredLife = 7 * 24 * time.Hour
)

// isMirrorRole tells whether a role is that of a mirrored repository.
func isMirrorRole(role string) bool {
	name, ok := strings.CutPrefix(role, roleMirrorPrefix)
	return ok && parcel.IsStream(name)
}

// mirroredTrust are the repositories that are served again, by name.
type mirroredTrust struct {
	mu   sync.Mutex
	open map[string]*trust.Repository
	keys map[string]*hsm.Key // by name, those that were opened
}

func (t *mirroredTrust) get(name string) *trust.Repository {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[name]
}

// tuf are the configured TUF repositories in the mirror's own form.
func (m Mirror) tuf(dir layout) (out []mirror.TUFConfig, err error) {
	for _, t := range m.TUF {
		root, err := os.ReadFile(dir.resolve(t.Root))
		if err != nil {
			return nil, cmdline.Hinted(fmt.Errorf("mirror.tuf: %s: reading its pinned root: %w", t.Name, err), "put a root.json that came by a trusted way into the file mirror.tuf[].root names")
		}
		c := mirror.TUFConfig{Name: t.Name, Root: root, Source: t.Source, Stale: t.Stale.thresholds()}
		if f := t.Floors; f != nil {
			c.Floors = &parcel.Versions{Root: f.Root, Timestamp: f.Timestamp, Snapshot: f.Snapshot, Targets: f.Targets}
		}
		out = append(out, c)
	}
	return out, nil
}

func (s MirrorStale) thresholds() freshness.Thresholds {
	return freshness.Thresholds{Warn: time.Duration(s.Warn), DenyNew: time.Duration(s.DenyNew), DenyAll: time.Duration(s.DenyAll)}
}

func (m Mirror) follow() (out []mirror.Follow) {
	for _, f := range m.Follow {
		out = append(out, mirror.Follow{TUF: f.TUF, Scope: f.Scope, Except: f.Except, MaxAge: time.Duration(f.MaxAge), Stale: f.Stale.thresholds()})
	}
	return out
}

// openMirroredTrust opens what is served again. A key that is away stops nothing: what was signed is served, and signing is tried again.
func (in *instance) openMirroredTrust(ctx context.Context) error {
	in.mirrored.open, in.mirrored.keys = map[string]*trust.Repository{}, map[string]*hsm.Key{}
	for _, t := range in.cfg.Mirror.TUF {
		r, err := trust.Open(in.mirroredConfig(t.Name, nil))
		if errors.Is(err, trust.ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("opening the repository that %s is served under: %w", t.Name, err)
		}
		in.mirrored.open[t.Name] = r
	}
	return nil
}

func (in *instance) mirroredConfig(name string, signer crypto.Signer) trust.RepositoryConfig {
	return trust.RepositoryConfig{
		Dir: in.dir.path("mirror", "trust", name), Signer: signer, Lifetime: trust.Lifetime{Timestamp: mirroredLife}, Now: in.now, Logger: in.logger,
	}
}

var errMirrorKey = errors.New("this key signs something else already")

// mirrorKey is the key of a mirrored repository, made now if there is none. No other role's key will do: clients of two repositories with
// one key could be given the one for the other.
func (in *instance) mirrorKey(ctx context.Context, name string) (*hsm.Key, error) {
	role := roleMirrorPrefix + name
	if key := in.mirrored.keys[name]; key != nil {
		return key, nil
	}
	uri, configured := in.cfg.Keys.Roles[role]
	if !configured {
		uri = keyURI(in.cfg.Keys.Token, role)
	}
	for other, o := range in.cfg.Keys.Roles {
		if o == uri && other != role {
			return nil, fmt.Errorf("keys.roles.%s: %w: %s", role, errMirrorKey, other)
		}
	}
	token, err := in.keys.token(uri)
	if err != nil {
		return nil, err
	}
	key, err := token.Signer(ctx, uri)
	if errors.Is(err, hsm.ErrNotFound) && !configured {
		if err := in.record(ctx, "mirror", "keys.make", role, map[string]string{"uri": redactURI(uri)}); err != nil {
			return nil, err
		}
		key, err = token.Generate(ctx, uri, hsm.ECDSAP256)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the %s key: %w", role, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	for other, k := range in.roleKeys {
		if b, err := x509.MarshalPKIXPublicKey(k.Public()); err == nil && bytes.Equal(b, spki) {
			return nil, fmt.Errorf("keys.roles.%s: %w: %s", role, errMirrorKey, other)
		}
	}
	for other, k := range in.mirrored.keys {
		if b, err := x509.MarshalPKIXPublicKey(k.Public()); err == nil && bytes.Equal(b, spki) {
			return nil, fmt.Errorf("keys.roles.%s: %w: %s", role, errMirrorKey, roleMirrorPrefix+other)
		}
	}
	in.mirrored.keys[name] = key
	return key, nil
}

// publishMirroredTrust publishes what was imported of every repository, and signs fresh timestamps.
func (in *instance) publishMirroredTrust(ctx context.Context) error {
	if in.mirror == nil {
		return nil
	}
	in.mirrored.mu.Lock()
	defer in.mirrored.mu.Unlock()
	statuses, err := in.mirror.TUFStatuses()
	if err != nil {
		return err
	}
	var errs []error
	for _, s := range statuses {
		configured := slices.ContainsFunc(in.cfg.Mirror.TUF, func(t MirrorTUF) bool { return t.Name == s.Name })
		if s.Imported.IsZero() || !configured {
			continue
		}
		if err := in.publishMirrored(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("serving TUF repository %s again: %w", s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (in *instance) publishMirrored(ctx context.Context, s mirror.TUFStatus) error {
	files, err := in.mirroredTargets(s)
	if err != nil {
		return err
	}
	key, err := in.mirrorKey(ctx, s.Name)
	if err != nil {
		return err
	}
	c := in.mirroredConfig(s.Name, key)
	r, err := trust.Open(c)
	if errors.Is(err, trust.ErrNotFound) {
		r, err = trust.Create(ctx, c, files)
	}
	if err != nil {
		return err
	}
	if err := r.Publish(ctx, files); err != nil {
		return err
	}
	in.mirrored.open[s.Name] = r
	return r.Renew(ctx)
}

// upstreamNote is the target that says how old the upstream of a mirrored repository is, as far as anybody here knows.
type upstreamNote struct {
	Name        string          `json:"name"`
	Versions    parcel.Versions `json:"versions"`
	ObservedAt  time.Time       `json:"observed_at"`   // when the exporter last saw the upstream at these versions
	VerifiedAt  time.Time       `json:"verified_at"`   // the time all of it was valid at
	Expires     time.Time       `json:"expires"`       // the earliest end of any of upstream's roles
	Expiring    string          `json:"expiring"`      // and that role
	StaleByDays int             `json:"stale_by_days"` // whole days since then, when this was signed
	Level       freshness.Level `json:"level"`         // what this site's thresholds make of the age; at deny-all nothing else is served
	Stream      string          `json:"stream"`
}

// mirroredTargets are the targets of upstream, and upstream.json; that alone once the thresholds deny everything.
func (in *instance) mirroredTargets(s mirror.TUFStatus) ([]trust.File, error) {
	note := upstreamNote{
		Name: s.Name, Versions: s.Versions, ObservedAt: s.Observed, VerifiedAt: s.AsOf, Expires: s.Expires, Expiring: s.Expiring,
		StaleByDays: int(max(0, in.now().Sub(s.Expires)) / (24 * time.Hour)), Level: s.Level, Stream: in.cfg.Mirror.Stream,
	}
	text, err := json.MarshalIndent(note, "", "  ")
	if err != nil {
		return nil, err
	}
	files := []trust.File{{Name: upstreamTarget, Data: append(text, '\n')}}
	if s.Level == freshness.DenyAll {
		in.logger.Warn("a mirrored root of trust is too old to be served", "repository", s.Name, "age", s.Age)
		return files, nil
	}
	head, err := in.mirror.TUF(s.Name)
	if err != nil {
		return nil, err
	}
	for _, t := range head.Targets {
		if t.Name == upstreamTarget || t.Bytes == 0 {
			in.logger.Warn("a target is not served again", "repository", s.Name, "target", t.Name)
			continue
		}
		data, err := in.mirror.TUFTarget(head, t.Name)
		if err != nil {
			return nil, err
		}
		f := trust.File{Name: t.Name, Data: data}
		if t.Custom != nil {
			f.Custom = bytes.Clone(*t.Custom)
		}
		files = append(files, f)
	}
	return files, nil
}

// withMirroredTrust serves the repositories at /tuf/<name>/ and leaves the rest to next.
func (in *instance) withMirroredTrust(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rest, ok := strings.CutPrefix(r.URL.Path, "/tuf/")
		name, file, slash := strings.Cut(rest, "/")
		repository := in.mirrored.get(name)
		if !ok || !slash || repository == nil {
			next.ServeHTTP(w, r)
			return
		}
		http.StripPrefix(strings.TrimSuffix(r.URL.Path, file), repository.Handler()).ServeHTTP(w, r)
	})
}

// mirroredURL is where clients find a mirrored repository, "" when the mirror is not served.
func (c *Config) mirroredURL(name string) string {
	if c.Services.Mirror == nil {
		return ""
	}
	return c.Services.Mirror.URL + "/tuf/" + name
}
