package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// plan puts the next key of role on record, or finds the one an interrupted rotation left there.
func (in *instance) plan(ctx context.Context, actor, role string, a rotateArgs) (keyInstance, error) {
	if p := in.onRecord().pending(role); p != nil {
		if a.Key != "" && a.Key != p.URI {
			return keyInstance{}, cmdline.Hinted(fmt.Errorf("%w: to %s", errNotDescendant, redactURI(p.URI)), "without --key, the verb goes on with that one")
		}
		return *p, nil
	}
	name := in.nextName(role)
	next := keyInstance{Name: name, Role: role, State: statePlanned, URI: orDefault(a.Key, keyURI(in.cfg.Keys.Token, name)), Algorithm: a.Algorithm, Made: in.now().UTC().Truncate(time.Second)}
	before, err := in.keys.signer(ctx, in.cfg.Keys.Roles[in.onRecord().active(role)])
	if err == nil && next.Algorithm == "" {
		next.Algorithm = before.Info().Algorithm
	}
	if next.Algorithm == "" {
		return keyInstance{}, cmdline.Hinted(fmt.Errorf("the key before does not open: %w", err), "--algorithm says what the new one is to be")
	}
	if err := in.checkPlace(ctx, next.URI, a.Chain != ""); err != nil {
		return keyInstance{}, err
	}
	if shardNumber(role) > 0 {
		if next.TreeID, err = newTreeID(); err != nil {
			return keyInstance{}, err
		}
		for _, l := range in.cfg.Log.Artifact {
			if l.Name == in.onRecord().active(role) {
				next.Serves = l.Serves
			}
		}
	}
	if err := in.record(ctx, actor, "keys.rotate", role, map[string]string{"step": statePlanned, "name": name, "uri": redactURI(next.URI)}); err != nil {
		return keyInstance{}, err
	}
	h := in.onRecord().clone()
	if len(h.of(role)) == 0 {
		first, err := in.firstKey(role)
		if err != nil {
			return keyInstance{}, err
		}
		h.Instances = append(h.Instances, first)
	}
	h.Instances = append(h.Instances, next)
	if err := in.keep(h); err != nil {
		return keyInstance{}, err
	}
	atPoint("planned")
	return next, nil
}

// checkPlace refuses the URI of a key that has a role or had one, of a key that exists and is nobody's, and, where a ceremony made it
// already, of one that does not exist.
func (in *instance) checkPlace(ctx context.Context, uri string, exists bool) error {
	for name, other := range in.cfg.Keys.Roles {
		if other == uri {
			return cmdline.Usage("--key %s is the key of %s; no key serves two roles", redactURI(uri), name)
		}
	}
	for _, k := range in.onRecord().Instances {
		if k.URI == uri {
			return cmdline.Usage("--key %s was the key of %s; a key that was retired stays so", redactURI(uri), k.Name)
		}
	}
	if strings.HasPrefix(uri, "soft:") && in.cfg.Profile == profileProduction && !in.cfg.Keys.AllowSoftware {
		return cmdline.Usage("--key %s: software keys in the production profile need keys.allow-software: true", redactURI(uri))
	}
	key, err := in.keys.signer(ctx, uri)
	switch {
	case exists && err == nil:
		return in.isNobodys(key)
	case exists:
		return err
	case errors.Is(err, hsm.ErrNotFound):
		return nil
	case err == nil, errors.Is(err, hsm.ErrAmbiguous), errors.Is(err, hsm.ErrInsecureKey):
		return cmdline.Hinted(fmt.Errorf("making a key at %s: %w", redactURI(uri), hsm.ErrExists), "--key names another place; a key that a ceremony certified goes with --chain")
	default:
		return fmt.Errorf("looking for a key at %s: %w", redactURI(uri), err)
	}
}

// isNobodys refuses a key that has or had a role here, under whatever URI.
func (in *instance) isNobodys(key *hsm.Key) error {
	taken := map[string]crypto.PublicKey{roleRoot: in.caChain[len(in.caChain)-1].PublicKey}
	for name, k := range in.roleKeys {
		taken[name] = k.Public()
	}
	for _, k := range in.onRecord().Instances {
		if public, err := k.public(); err == nil {
			taken[k.Name] = public
		}
	}
	for name, public := range taken {
		if hsm.SamePublic(public, key.Public()) {
			return cmdline.Usage("--key %s is the key of %s under another URI; no key serves two roles", redactURI(key.Info().URI), name)
		}
	}
	return nil
}

// firstKey is the record of the key the configuration names, which signs for role until the rotation that is being planned.
func (in *instance) firstKey(role string) (keyInstance, error) {
	k := keyInstance{Name: role, Role: role, State: stateActive, URI: in.cfg.Keys.Roles[role], Start: in.firstTrust(), Made: in.firstTrust()}
	public, err := x509.MarshalPKIXPublicKey(in.roleKeys[role].Public())
	if err != nil {
		return k, err
	}
	k.PublicKey, k.Algorithm = public, in.roleKeys[role].Info().Algorithm
	switch role {
	case roleIssuing, roleTSA:
		k.Chain, k.Start = in.authorities[role][0].Chain, in.authorities[role][0].chain[0].NotBefore
	}
	for _, l := range in.cfg.Log.Artifact {
		if l.Name == role {
			k.TreeID, k.Serves = l.TreeID, l.Serves
		}
	}
	return k, nil
}

// nextName is role-n with the first n after those that were given out. Artifact logs share one row of numbers.
func (in *instance) nextName(role string) string {
	row, last := role, 1
	if shardNumber(role) > 0 {
		row = roleRekor
	}
	note := func(name string) {
		if successorOf(name, row) {
			last = max(last, instanceNumber(name))
		}
	}
	for _, k := range in.onRecord().Instances {
		note(k.Name)
	}
	for name := range in.cfg.Keys.Roles {
		note(name)
	}
	return fmt.Sprintf("%s-%d", row, last+1)
}

// unplan takes a key that could not be made off the record, unless this rotation made something of it, and returns why. A key that was
// there before is another ceremony's.
func (in *instance) unplan(ctx context.Context, k keyInstance, wasThere bool, why error) error {
	if in.onRecord().find(k.Name).State != statePlanned {
		return why
	}
	if _, err := in.keys.signer(ctx, k.URI); !wasThere && !errors.Is(err, hsm.ErrNotFound) {
		return cmdline.Hinted(why, "the same verb again goes on from here")
	}
	h := in.onRecord().clone()
	if h.drop(k.Name); len(h.of(k.Role)) == 1 {
		h.drop(k.Role)
	}
	if err := in.keep(h); err != nil {
		return errors.Join(why, err)
	}
	return why
}
