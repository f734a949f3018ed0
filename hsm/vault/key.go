package vault

import (
	"context"
	"crypto"
	"crypto/rsa"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/hsm"
)

// maxMessage bounds what Ed25519 signs, which takes messages whole.
const maxMessage = 1 << 20

// Signer returns the key version the URI pins.
func (t *Token) Signer(ctx context.Context, keyURI string) (*hsm.Key, error) {
	u, err := t.keyURI(keyURI)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	var key *hsm.Key
	err = t.with(ctx, func(ctx context.Context, s *session) error {
		p, err := t.readPolicy(ctx, s, u.name)
		if err == nil {
			key, err = t.wrap(s, u, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", u, err)
	}
	return key, nil
}

// Generate makes a Transit key; the URI names version 1, which a new key has. The
// server is asked before, because it answers a creation over an existing key with
// success and no warning, and the key is read back after. Two processes that make
// the same name with the same type within one moment cannot be told apart; within
// this process one is made at a time.
func (t *Token) Generate(ctx context.Context, keyURI string, alg hsm.Algorithm) (*hsm.Key, error) {
	u, err := t.keyURI(keyURI)
	if err != nil {
		return nil, err
	}
	if u.version != 1 {
		return nil, fmt.Errorf("generating key %s: a new key begins with version 1; give it a name of its own: %w", u, hsm.ErrUnsupported)
	}
	if !slices.Contains(hsm.Algorithms(), alg) {
		return nil, fmt.Errorf("generating key %s: algorithm %q: %w", u, clip(string(alg)), hsm.ErrUnsupported)
	}
	ctx, cancel := context.WithTimeout(ctx, generateTimeout)
	defer cancel()
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return nil, fmt.Errorf("generating key %s: %w: %w", u, hsm.ErrUnavailable, ctx.Err())
	}
	var key *hsm.Key
	err = t.with(ctx, func(ctx context.Context, s *session) error {
		switch _, err := t.readPolicy(ctx, s, u.name); {
		case err == nil:
			return fmt.Errorf("a key of that name is there: %w", hsm.ErrExists)
		case !errors.Is(err, hsm.ErrNotFound):
			return err
		}
		key, err = t.create(ctx, s, u, alg)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", u, err)
	}
	return key, nil
}

// create makes the key and reads it back.
func (t *Token) create(ctx context.Context, s *session, u *uri, alg hsm.Algorithm) (*hsm.Key, error) {
	body := map[string]any{"type": string(alg), "exportable": false, "allow_plaintext_backup": false}
	if err := t.wire.call(ctx, s.grant.token, "POST", t.cfg.Mount+"/keys/"+u.name, body, nil); err != nil {
		if errors.Is(err, errLost) { // not tried again: it may have been made
			return nil, fmt.Errorf("%w: the server went away while it made the key, which may be there now: %s", hsm.ErrUnavailable, err.Error())
		}
		return nil, err
	}
	p, err := t.readPolicy(ctx, s, u.name)
	if err != nil {
		return nil, fmt.Errorf("reading the new key back: %w", err)
	}
	if p.Type != string(alg) || p.LatestVersion != 1 {
		return nil, fmt.Errorf("the key of that name has type %s and %d versions, asked was a new %s: %w", clip(p.Type), p.LatestVersion, alg, hsm.ErrExists)
	}
	return t.wrap(s, u, p)
}

// keyRef is what a signature needs to know of a key.
type keyRef struct {
	uri *uri
	alg hsm.Algorithm
	pub interface{ Equal(crypto.PublicKey) bool } // pinned when opened
}

// wrap checks a key version and makes it an hsm.Key.
func (t *Token) wrap(s *session, u *uri, p *policy) (*hsm.Key, error) {
	alg, pub, created, err := p.version(u.version)
	if err != nil {
		return nil, err
	}
	if err := p.acceptable(); err != nil {
		return nil, err
	}
	if err := p.signs(u.version); err != nil {
		return nil, err
	}
	ref := &keyRef{uri: u, alg: alg}
	var ok bool
	if ref.pub, ok = pub.(interface{ Equal(crypto.PublicKey) bool }); !ok {
		return nil, fmt.Errorf("public key of type %T: %w", pub, hsm.ErrUnsupported)
	}
	place := t.cfg.Address + "/" + t.cfg.Mount
	if t.cfg.Namespace != "" {
		place += " in " + t.cfg.Namespace
	}
	info := hsm.Info{
		URI: u.String(), Kind: "vault", Token: place, Label: u.name, ID: strconv.Itoa(u.version), Algorithm: alg,
		Module: "Vault API, server version " + orUnknown(s.state["version"]), TokenState: s.state, Attributes: p.attributes(created),
		Evidence: []string{
			"The server says that the private key was made inside it, cannot be exported or backed up in plaintext and cannot be deleted by one request.",
			"The server holds the key in its sealed storage; whether hardware protects that storage, and who else may sign with the key, is the server's configuration and not shown here.",
		},
	}
	s.note(u.String())
	key, err := hsm.NewKey(info, pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return t.sign(ctx, ref, digest, opts)
	})
	if err != nil {
		return nil, err
	}
	return key.WithTimeout(t.cfg.Timeout), nil
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// note remembers that a key was compared within this session.
func (s *session) note(key string) {
	s.mu.Lock()
	s.seen[key] = true
	s.mu.Unlock()
}

// compare reads the key again, the first time within a session, and compares its
// public half with the pinned one.
func (t *Token) compare(ctx context.Context, s *session, k *keyRef) error {
	s.mu.Lock()
	seen := s.seen[k.uri.String()]
	s.mu.Unlock()
	if seen {
		return nil
	}
	p, err := t.readPolicy(ctx, s, k.uri.name)
	if errors.Is(err, hsm.ErrNotFound) {
		return fmt.Errorf("%w: the key is gone: %w", hsm.ErrUnavailable, err)
	}
	if err != nil {
		return err
	}
	_, pub, _, err := p.version(k.uri.version)
	if err != nil {
		return fmt.Errorf("%w: the key is gone: %w", hsm.ErrUnavailable, err)
	}
	if !k.pub.Equal(pub) {
		return fmt.Errorf("%w: its name is now held by a key with another public key: %w", hsm.ErrUnavailable, hsm.ErrInsecureKey)
	}
	if err := p.acceptable(); err != nil {
		t.logger.Warn("a Transit key in use lost its protection; it will be refused at the next start", "key", k.uri.String(), "reason", err)
	}
	s.note(k.uri.String())
	return nil
}

// signRequest is the body of POST MOUNT/sign/NAME.
type signRequest struct {
	Input     string `json:"input"` // base64
	Version   int    `json:"key_version"`
	Prehashed bool   `json:"prehashed,omitempty"`
	Hash      string `json:"hash_algorithm,omitempty"`
	Algorithm string `json:"signature_algorithm,omitempty"` // RSA
	Salt      string `json:"salt_length,omitempty"`         // PSS
	Marshal   string `json:"marshaling_algorithm,omitempty"`
}

// requestFor says what to ask of the server. It signs a "digest" of any length, so
// the length is checked here, although hsm.Key did.
func requestFor(k *keyRef, digest []byte, opts crypto.SignerOpts) (*signRequest, error) {
	r := &signRequest{Input: base64.StdEncoding.EncodeToString(digest), Version: k.uri.version}
	if k.alg == hsm.Ed25519 {
		if opts.HashFunc() != 0 || len(digest) > maxMessage {
			return nil, fmt.Errorf("Ed25519 over %d octets hashed by %s: %w", len(digest), opts.HashFunc(), hsm.ErrUnsupported)
		}
		return r, nil
	}
	name, ok := map[crypto.Hash]string{crypto.SHA256: "sha2-256", crypto.SHA384: "sha2-384", crypto.SHA512: "sha2-512"}[opts.HashFunc()]
	if !ok || len(digest) != opts.HashFunc().Size() {
		return nil, fmt.Errorf("digest of %d octets for %s: %w", len(digest), opts.HashFunc(), hsm.ErrUnsupported)
	}
	r.Prehashed, r.Hash = true, name
	switch k.alg {
	case hsm.RSA3072, hsm.RSA4096:
		r.Algorithm = "pkcs1v15"
		if _, ok := opts.(*rsa.PSSOptions); ok {
			r.Algorithm, r.Salt = "pss", "hash"
		}
	default:
		r.Marshal = "asn1"
	}
	return r, nil
}

// sign makes one signature with the pinned version, recovering once from a lost
// session.
func (t *Token) sign(ctx context.Context, k *keyRef, digest []byte, opts crypto.SignerOpts) (signature []byte, err error) {
	body, err := requestFor(k, digest, opts)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	err = t.with(ctx, func(ctx context.Context, s *session) error {
		if err := t.compare(ctx, s, k); err != nil {
			return err
		}
		var out struct {
			Data struct {
				Signature string `json:"signature"`
			} `json:"data"`
		}
		err := t.wire.call(ctx, s.grant.token, "POST", t.cfg.Mount+"/sign/"+k.uri.name, body, &out)
		if errors.Is(err, errFault) || errors.Is(err, errRefused) {
			return t.whyNot(ctx, s, k, err)
		}
		if err != nil {
			return err
		}
		signature, err = parseSignature(out.Data.Signature, k.uri.version)
		return err
	})
	if err != nil && !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, hsm.ErrUnsupported) {
		err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err) // the key was there: whatever is missing now may come back
	}
	return signature, err
}

// whyNot looks for the reason behind a bare 400 or 500: a raised minimum version,
// a deleted key.
func (t *Token) whyNot(ctx context.Context, s *session, k *keyRef, err error) error {
	p, look := t.readPolicy(ctx, s, k.uri.name)
	if errors.Is(look, hsm.ErrNotFound) {
		return fmt.Errorf("%w: the key is gone: %w", hsm.ErrUnavailable, err)
	}
	if look == nil {
		if reason := p.signs(k.uri.version); reason != nil {
			return reason
		}
		if _, _, _, reason := p.version(k.uri.version); reason != nil {
			return reason
		}
	}
	return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
}

// parseSignature reads "vault:vN:BASE64" and wants N to be the pinned version.
// OpenBao writes the same prefix.
func parseSignature(s string, version int) ([]byte, error) {
	text, ok := strings.CutPrefix(s, "vault:v"+strconv.Itoa(version)+":")
	if !ok || len(text) > 4<<10 {
		return nil, fmt.Errorf("%w: the signature %q is not one of version %d", hsm.ErrUnavailable, clip(s), version)
	}
	sig, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(sig) == 0 {
		return nil, fmt.Errorf("%w: the signature is not base64", hsm.ErrUnavailable)
	}
	return sig, nil
}

var _ hsm.Token = (*Token)(nil)
