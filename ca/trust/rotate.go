package trust

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
	"slices"

	"github.com/theupdateframework/go-tuf/v2/metadata"
)

// A rotation of the repository's key is two roots, so that at every moment, a
// crash included, what is published is signed by a key the newest root names:
//
//	root N     old
//	root N+1   old and new, signed by both       Introduce
//	           targets, snapshot, timestamp by new
//	root N+2   new, signed by both roots' rule   Settle
//
// Clients walk from any earlier root through all of them (TUF 1.0.33, 5.3.4).

// Introduce makes the next root, in which the key of next may sign beside the
// present one, and signs it with both. It does nothing when the newest root
// names that key already.
func (r *Repository) Introduce(ctx context.Context, next crypto.Signer) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signer == nil {
		return fmt.Errorf("%w: opened without one", ErrKey)
	}
	key, id, err := tufKey(next.Public())
	if err != nil {
		return err
	}
	if _, known := r.root.Signed.Keys[id]; known {
		return nil
	}
	return r.replaceRoot(ctx, func(root *metadata.RootType) error {
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			if err := root.AddKey(key, role); err != nil {
				return fmt.Errorf("assigning TUF key: %w", err)
			}
		}
		return nil
	}, next)
}

// Settle ends a rotation: it signs everything below the root with the
// repository's key and makes the root in which that key stands alone. It does
// nothing when the newest root names no other. Open must have been given the
// new key.
func (r *Repository) Settle(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.signer == nil {
		return fmt.Errorf("%w: opened without one", ErrKey)
	}
	_, id, err := tufKey(r.signer.Public())
	if err != nil {
		return err
	}
	if !r.shared() {
		return nil
	}
	// Everything by the new key first: from the next root on no other counts.
	if err := r.advance(ctx, r.targets.Signed.Targets); err != nil {
		return err
	}
	return r.replaceRoot(ctx, func(root *metadata.RootType) error {
		for _, role := range metadata.TOP_LEVEL_ROLE_NAMES {
			for _, other := range slices.Clone(root.Roles[role].KeyIDs) {
				if other == id {
					continue
				}
				if err := root.RevokeKey(other, role); err != nil {
					return fmt.Errorf("withdrawing TUF key: %w", err)
				}
			}
		}
		return nil
	})
}

// Shared reports whether the newest root names more keys than one: a rotation
// that Settle has not ended.
func (r *Repository) Shared() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.shared()
}

func (r *Repository) shared() bool { return len(r.root.Signed.Keys) > 1 }

// replaceRoot makes the next root by change, signed by the repository's key and
// those in also. It must satisfy its predecessor's rule as well as its own.
func (r *Repository) replaceRoot(ctx context.Context, change func(*metadata.RootType) error, also ...crypto.Signer) error {
	next, err := (&metadata.Metadata[metadata.RootType]{}).FromBytes(r.rootBytes)
	if err != nil {
		return fmt.Errorf("copying root: %w", err)
	}
	next.Signed.Version++
	next.Signed.Expires = r.expiry(r.life.Root)
	if err := change(&next.Signed); err != nil {
		return err
	}
	old := r.root
	r.root = next
	if err := r.writeRoot(ctx, old, also...); err != nil {
		r.root = old
		return err
	}
	r.log.InfoContext(ctx, "TUF root published", "root", next.Signed.Version, "keys", len(next.Signed.Keys))
	return nil
}

// tufKey is a public key in TUF's form, and its id.
func tufKey(public crypto.PublicKey) (*metadata.Key, string, error) {
	if p, ok := public.(*ecdsa.PublicKey); !ok || p.Curve != elliptic.P256() {
		return nil, "", fmt.Errorf("%w: the TUF key must be ECDSA P-256", ErrKey)
	}
	key, err := metadata.KeyFromPublicKey(public)
	if err != nil {
		return nil, "", fmt.Errorf("encoding TUF key: %w", err)
	}
	id, err := key.ID()
	if err != nil {
		return nil, "", fmt.Errorf("encoding TUF key: %w", err)
	}
	return key, id, nil
}
