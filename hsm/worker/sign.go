package worker

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"strings"
	"time"

	"redoubt.internal/hsm"
)

// keyRef finds a key again in another child.
type keyRef struct {
	uri  string // canonical
	name string // of the key within a process: URI and fingerprint
	pub  interface{ Equal(crypto.PublicKey) bool }
}

// sign makes one signature. A child that ends meanwhile is replaced and asked
// once more.
func (t *Token) sign(ctx context.Context, k *keyRef, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, t.config.Timeout)
	defer cancel()
	for attempt := 0; ; attempt++ {
		sig, err := t.signOnce(ctx, k, digest, opts)
		var gone *goneError
		switch {
		case err == nil:
			return sig, nil
		case errors.As(err, &gone) && attempt == 0 && ctx.Err() == nil:
			continue
		case errors.Is(err, hsm.ErrUnavailable) || errors.Is(err, hsm.ErrUnsupported):
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err) // the key was there: whatever is missing now may come back
	}
}

func (t *Token) signOnce(ctx context.Context, k *keyRef, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	p, err := t.process(ctx)
	if err != nil {
		return nil, err
	}
	number, err := t.locate(ctx, p, k)
	if err != nil {
		return nil, err
	}
	bound, grace := t.share()
	sig, err := p.call(ctx, request{op: opSign, time: bound, key: number, digest: digest, opts: opts}, grace)
	return sig, shorten(err, k.uri)
}

// share divides the time of a signature: three quarters for the child, so that
// its own reason arrives in time, one eighth more until it is killed. It does not
// depend on the caller: one in more of a hurry leaves, and the child lives.
func (t *Token) share() (bound, grace time.Duration) {
	return t.config.Timeout * 3 / 4, t.config.Timeout / 8
}

// locate returns the number of a key in a child. The first call for each child
// looks the key up and compares its public key with the pinned one.
func (t *Token) locate(ctx context.Context, p *process, k *keyRef) (uint32, error) {
	p.keysMu.Lock()
	number, known := p.keys[k.name]
	p.keysMu.Unlock()
	if known {
		return number, nil
	}
	bound, grace := t.share()
	body, err := p.call(ctx, request{op: opSigner, time: bound, uri: k.uri}, grace)
	if err != nil {
		return 0, fmt.Errorf("looking the key up again: %w", err)
	}
	a, pub, err := parseKey(body)
	if err != nil {
		p.end(err)
		return 0, p.gone()
	}
	if !k.pub.Equal(pub) {
		return 0, fmt.Errorf("%w: its name is now held by a key with another public key (%s): %w", hsm.ErrUnavailable, a.Info.Fingerprint, hsm.ErrInsecureKey)
	}
	p.remember(k.name, a.Key)
	return a.Key, nil
}

func (p *process) remember(name string, number uint32) {
	p.keysMu.Lock()
	defer p.keysMu.Unlock()
	p.keys[name] = number
}

// shorten drops what the child's key put before its error; the parent's key
// says the same.
func shorten(err error, uri string) error {
	var remote *remoteError
	if errors.As(err, &remote) {
		return &remoteError{strings.TrimPrefix(remote.text, "signing with "+uri+": "), remote.is}
	}
	return err
}
