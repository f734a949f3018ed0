package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
)

// pin is a key as this instance's own records name it: enough to read and to verify by while the token is away.
type pin struct {
	public crypto.PublicKey
	info   hsm.Info
}

// ceremonyPins are the keys the ceremony's signed transcript names, by role. None where there is no transcript.
func ceremonyPins(dir layout) (map[string]pin, error) {
	pins := map[string]pin{}
	data, err := os.ReadFile(dir.pki(ceremony.TranscriptFile))
	if errors.Is(err, fs.ErrNotExist) {
		return pins, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the ceremony's transcript: %w", err)
	}
	transcript, err := ceremony.Verify(data)
	if err != nil {
		return nil, cmdline.Hinted(err, "put %s back from the ceremony's records", dir.pki(ceremony.TranscriptFile))
	}
	for _, k := range transcript.Keys() {
		block, _ := pem.Decode([]byte(k.PublicKey))
		if block == nil {
			continue
		}
		if public, err := x509.ParsePKIXPublicKey(block.Bytes); err == nil {
			pins[k.Role] = pin{public, k.Info}
		}
	}
	return pins, nil
}

// pins are the keys of this instance by name: the ceremony's, and those that rotations made since.
func (in *instance) pins() (map[string]pin, error) {
	pins, err := ceremonyPins(in.dir)
	if err != nil {
		return nil, err
	}
	if in.history == nil {
		return pins, nil
	}
	for _, k := range in.history.Instances {
		if _, first := pins[k.Name]; first || k.State == statePlanned {
			continue
		}
		public, err := k.public()
		if err != nil {
			return nil, err
		}
		kind := kindOf(k.URI)
		pins[k.Name] = pin{public, hsm.Info{URI: redactURI(k.URI), Kind: kind, Software: kind == "soft"}}
	}
	return pins, nil
}

// openKeys gives every role the process signs with its key. A key on record is opened when it first signs: a verb asks only the tokens
// it needs, and a server whose token is away reads, says why it does not sign, and signs when the token is back.
func (in *instance) openKeys(ctx context.Context) error {
	pins, err := in.pins()
	if err != nil {
		return err
	}
	in.public = map[string]crypto.PublicKey{}
	for name, p := range pins {
		if !in.parts.opens(name) {
			in.public[name] = p.public
		}
	}
	doors := map[string]*door{} // by token
	inUse, frozen := in.onlineKeys()
	for i, name := range append(inUse, frozen...) {
		uri, configured := in.cfg.Keys.Roles[name]
		p, known := pins[name]
		var key *hsm.Key
		if configured && known {
			at := tokenURI(uri)
			if doors[at] == nil {
				doors[at] = &door{ring: in.keys, at: at, held: make(chan struct{}, 1)}
			}
			key, err = hsm.Later(p.info, p.public, func(ctx context.Context) (*hsm.Key, error) { return doors[at].key(ctx, name, p.public) })
			if err == nil && p.info.Kind != "soft" { // whose keys take their time to unseal, on purpose
				key = key.WithTimeout(in.cfg.Keys.Timeout.or(defaultSignTimeout)) // opening included
			}
		} else {
			key, err = in.keys.role(ctx, name)
		}
		switch {
		case err == nil:
			in.roleKeys[name] = key
		case i < len(inUse):
			return err
		default:
			in.logger.Warn("the key of a frozen log does not open; what it must sign anew is not served", "log", name, "error", err)
		}
	}
	return nil
}

// door is the way to the keys of one token: a token that is away is dialled once for all of them.
type door struct {
	ring *keyring
	at   string // the token's URI

	held  chan struct{} // by whoever passes; guards the fields below
	gave  bool          // a key came out
	err   error         // why the token did not open
	until time.Time     // when to try it again
}

const dialAgainAfter = time.Second

var errForeignToken = errors.New("the token holds another key under this name than the one on record")

// key opens the key of a role, which must have this public half. A token that gave no key yet and gives none now is let go: it may
// have been opened with a secret that opens nothing, or be another one of the same name.
func (d *door) key(ctx context.Context, role string, public crypto.PublicKey) (*hsm.Key, error) {
	select {
	case d.held <- struct{}{}:
		defer func() { <-d.held }()
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the token: %w", ctx.Err())
	}
	if d.err != nil && time.Now().Before(d.until) {
		return nil, d.err
	}
	if _, d.err = d.ring.token(d.ring.cfg.Roles[role]); d.err != nil {
		d.until = time.Now().Add(dialAgainAfter)
		return nil, d.err
	}
	key, err := d.ring.role(ctx, role)
	if err == nil && !hsm.SamePublic(key.Public(), public) {
		err = fmt.Errorf("%w: SHA-256 %s", errForeignToken, key.Info().Fingerprint)
	}
	if err == nil {
		d.gave = true
	} else if !d.gave && ctx.Err() == nil { // what only takes longer than this caller waits goes on
		d.ring.forget(d.at)
	}
	return key, err
}

// forget closes a token, so that the next caller opens it anew.
func (k *keyring) forget(at string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if t, ok := k.tokens[at]; ok {
		t.Close()
		delete(k.tokens, at)
	}
}

// startPatience bounds what a server waits for its tokens before it says which keys do not sign. Opening a token takes longer than a
// signature: software keys derive theirs from the passphrase.
const startPatience = 10 * time.Second

// patiently is the configuration of a verb at work by itself. No client waits for it, and it has one try: the bound that a server puts
// on a signature is not for opening a token.
func (c *Config) patiently() *Config {
	verb := *c
	verb.Keys.Timeout = max(c.Keys.Timeout, Duration(hsm.DefaultTimeout))
	return &verb
}

// tryKeys lets every key sign once, and returns what keeps the first one from it; the others are in the journal.
func (in *instance) tryKeys(ctx context.Context) (first error) {
	inUse, _ := in.onlineKeys()
	errs := make([]error, len(inUse))
	var wg sync.WaitGroup
	for i, name := range inUse {
		wg.Go(func() { errs[i] = in.roleKeys[name].WithTimeout(startPatience).Check(ctx) })
	}
	wg.Wait()
	for i, err := range errs {
		if err != nil {
			in.logger.Error("a key does not sign; what needs it is refused until it does", "key", inUse[i], "error", err)
			if first == nil {
				first = fmt.Errorf("key %s: %w", inUse[i], err)
			}
		}
	}
	return first
}
