package hsm

import (
	"context"
	"crypto"
	"fmt"
	"time"
)

// openAgainAfter is how long a failure to open answers for the next callers, so
// that a token that is away is not dialled by every waiting signer in turn.
const openAgainAfter = time.Second

// later is a key that is opened when it first signs.
type later struct {
	public crypto.PublicKey
	open   func(ctx context.Context) (*Key, error)

	gate  chan struct{} // held by whoever opens; guards the fields below
	key   *Key          // nil until it opened
	err   error         // of the last attempt
	until time.Time     // when to try again
}

// Later returns a key whose public half is known before its token is asked:
// info and pub are what a record says of it. open is called at the first
// signature, and after a failure at the next one that comes a second later, so
// that the key heals when its token returns. Until then signing fails with
// ErrUnavailable and the cause. A key with another public half than pub is
// never used.
func Later(info Info, pub crypto.PublicKey, open func(ctx context.Context) (*Key, error)) (*Key, error) {
	l := &later{public: pub, open: open, gate: make(chan struct{}, 1)}
	k, err := NewKey(info, pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		k, err := l.get(ctx)
		if err != nil {
			return nil, err
		}
		return k.sign(ctx, digest, opts)
	})
	if err != nil {
		return nil, err
	}
	return k.WithAttest(func(ctx context.Context, nonce []byte) (Attestation, error) {
		k, err := l.get(ctx)
		if err != nil {
			return Attestation{}, err
		}
		return k.Attest(ctx, nonce)
	}), nil
}

// get opens the key, or returns the one that was opened.
func (l *later) get(ctx context.Context) (*Key, error) {
	select {
	case l.gate <- struct{}{}:
		defer func() { <-l.gate }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for the token: %w", ErrUnavailable, ctx.Err())
	}
	if l.key != nil {
		return l.key, nil
	}
	if l.err != nil && time.Now().Before(l.until) {
		return nil, l.err
	}
	k, err := l.open(ctx)
	if err == nil && !SamePublic(k.pub, l.public) {
		err = fmt.Errorf("the token answers with key %s, which is not the one on record", k.info.Fingerprint)
	}
	if err != nil {
		l.err, l.until = fmt.Errorf("%w: %w", ErrUnavailable, err), time.Now().Add(openAgainAfter)
		return nil, l.err
	}
	l.key, l.err = k, nil
	return k, nil
}

// SamePublic compares two public keys.
func SamePublic(a, b crypto.PublicKey) bool {
	k, ok := a.(interface{ Equal(crypto.PublicKey) bool })
	return ok && k.Equal(b)
}
