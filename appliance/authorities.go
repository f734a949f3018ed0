package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/log/ct"
	"redoubt.internal/log/store"
)

// authorityChain is one certificate that signs, or signed, for a role, and those above it up to the root.
type authorityChain struct {
	keyInstance
	chain []*x509.Certificate
}

// openChains opens the chains there are and takes those in use.
func (in *instance) openChains(context.Context) (err error) {
	if in.authorities, err = in.readAuthorities(in.history); err != nil {
		return err
	}
	for role, to := range map[string]*[]*x509.Certificate{roleIssuing: &in.caChain, roleTSA: &in.tsaChain} {
		for _, a := range in.authorities[role] {
			if a.State != stateActive {
				continue
			}
			if err := matches(a.chain[0], in.signer(a.Name), in.dir.resolve(a.Chain), in.dir.config(), a.Name); err != nil {
				return err
			}
			*to = a.chain
		}
	}
	return nil
}

// readAuthorities reads the chain of every issuing and timestamp certificate on record, by role.
func (in *instance) readAuthorities(h *history) (map[string][]authorityChain, error) {
	all := map[string][]authorityChain{}
	for role, first := range map[string]string{roleIssuing: orDefault(in.cfg.CA.Chain, "pki/ca-chain.pem"), roleTSA: orDefault(in.cfg.TSA.Chain, "pki/tsa-chain.pem")} {
		instances := h.of(role)
		if len(instances) == 0 {
			instances = []keyInstance{{Name: role, Role: role, State: stateActive, URI: in.cfg.Keys.Roles[role], Chain: first}}
		}
		for _, k := range instances {
			if k.State == statePlanned {
				continue
			}
			chain, err := readChain(in.dir.resolve(k.Chain))
			if err != nil {
				return nil, err
			}
			all[role] = append(all[role], authorityChain{k, chain})
		}
	}
	return all, nil
}

var errOtherKey = errors.New("a certificate is not of the key that should sign under it")

// matches refuses a certificate of another key than the one that should sign under it, naming the files that say so.
func matches(certificate *x509.Certificate, key crypto.Signer, path, config, role string) error {
	if key == nil { // another role's, and not on record
		return nil
	}
	public, ok := certificate.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if ok && public.Equal(key.Public()) {
		return nil
	}
	return cmdline.Hinted(fmt.Errorf("%w: the first certificate of %s (%s) does not match keys.roles.%s of %s", errOtherKey, path, certificate.Subject, role, config),
		"put the certificate and the URI of one ceremony back together; pki/ceremony-result.json names both")
}

// otherChains are the chains of a role that are not in use, the newest first.
func (in *instance) otherChains(role string) (chains [][]*x509.Certificate) {
	for _, a := range slices.Backward(in.authorities[role]) {
		if a.State != stateActive {
			chains = append(chains, a.chain)
		}
	}
	return chains
}

// certificateLog is one certificate transparency log: a tree of authority.db and its HTTP face.
type certificateLog struct {
	name string
	log  *log.Log
	api  *ct.Log
}

// certificateLogs are the names of the certificate logs, the first one first.
func (c *Config) certificateLogs() []string {
	names := slices.DeleteFunc(slices.Collect(maps.Keys(c.Keys.Roles)), func(name string) bool { return name != roleCT && !successorOf(name, roleCT) })
	if len(names) == 0 {
		return []string{roleCT}
	}
	slices.SortFunc(names, func(a, b string) int { return instanceNumber(a) - instanceNumber(b) })
	return names
}

// auditLogs are the names of the audit logs, the first one first. Only a retired one has a successor.
func (c *Config) auditLogs() []string {
	names := []string{roleAudit}
	for name := range c.Keys.Roles {
		if successorOf(name, roleAudit) {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int { return instanceNumber(a) - instanceNumber(b) })
	return names
}

// successorOf reports whether name is role-n.
func successorOf(name, role string) bool {
	return instanceNumber(name) > 0 && name[:strings.LastIndexByte(name, '-')] == role
}

// certificateLogConfig is what is particular to the certificate log called name: where it stands in the database.
func certificateLogConfig(db store.DB, name string) log.Config {
	return log.Config{DB: db, Prefix: name + "/", IndexKeys: ct.IndexKeys}
}

// openCertificateLogs gives each certificate log its HTTP face. Those that are not in use take no more certificates.
func (in *instance) openCertificateLogs() (err error) {
	var roots []*x509.Certificate
	for _, a := range in.authorities[roleIssuing] {
		root := a.chain[len(a.chain)-1]
		if !slices.ContainsFunc(roots, root.Equal) {
			roots = append(roots, root)
		}
	}
	for _, c := range in.certificateLogs {
		active := c.name == in.history.active(roleCT)
		c.api, err = ct.New(ct.Config{Log: c.log, Signer: in.signer(c.name), Roots: roots, Frozen: !active, Now: in.now, Logger: in.logger})
		if err != nil {
			return fmt.Errorf("the %s log: %w", c.name, err)
		}
		if active {
			in.ct = c.api
		}
	}
	return nil
}

// certificateLogHandler is the certificate log in use, and each of them by its own name: as host, and below /logs/<name>/.
func (in *instance) certificateLogHandler() http.Handler {
	byName := map[string]http.Handler{}
	for _, c := range in.certificateLogs {
		byName[c.name] = c.api.Handler()
	}
	current := byName[in.history.active(roleCT)]
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/logs/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			if h := byName[name]; h != nil {
				http.StripPrefix("/logs/"+name, h).ServeHTTP(w, r)
				return
			}
		}
		if len(byName) > 1 {
			if name, ok := strings.CutSuffix(hostOf(r), "."+in.cfg.Domain); ok && byName[name] != nil {
				byName[name].ServeHTTP(w, r)
				return
			}
		}
		current.ServeHTTP(w, r)
	})
}

// signer is the key called name; where it does not open, or is no longer there, its public half alone, which is enough to read.
func (in *instance) signer(name string) crypto.Signer {
	if key, ok := in.roleKeys[name]; ok {
		return key
	}
	if public, ok := in.public[name]; ok {
		return publicOnly{public}
	}
	if k := in.history.find(name); k != nil {
		if public, err := k.public(); err == nil {
			return publicOnly{public}
		}
	}
	return nil
}

// formerIssuerKeys are the keys of the built-in issuer whose tokens may still be alive.
func (in *instance) formerIssuerKeys() (keys []crypto.PublicKey, err error) {
	for _, k := range in.history.of(roleOIDC) {
		if k.State == statePlanned || k.State == stateActive || k.State == stateRetired && in.now().After(k.End) {
			continue
		}
		public, err := k.public()
		if err != nil {
			return nil, err
		}
		keys = append(keys, public)
	}
	return keys, nil
}
