package log

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"redoubt.internal/log/store"
)

// setup checks the configuration and fills its defaults.
func setup(c Config) (Config, error) {
	if c.DB == nil {
		return c, fmt.Errorf("%w: it names no database", ErrConfig)
	}
	if len(c.Prefix) > 64 {
		return c, fmt.Errorf("%w: a prefix of %d bytes", ErrConfig, len(c.Prefix))
	}
	if err := checkOrigin(c.Origin); err != nil {
		return c, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Signer != nil {
		if _, err := noteKeyHash(c.Origin, c.Signer.Public()); err != nil {
			return c, err
		}
	}
	return c, nil
}

func metaRecord(origin string, pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	sum := sha256.Sum256(spki)
	return append(append([]byte{format}, sum[:]...), origin...), nil
}

// Create writes the empty log and signs its size-0 head. It refuses a log that exists (ErrExists), and an origin whose
// high-water mark says that it signed entries before (ErrRolledBack). It makes the marks; nothing else ever does.
func Create(ctx context.Context, c Config) error {
	c, err := setup(c)
	if err != nil {
		return fmt.Errorf("creating a log: %w", err)
	}
	if err := create(ctx, c); err != nil {
		return fmt.Errorf("creating the log %s: %w", c.Origin, err)
	}
	c.Logger.Info("log created", "origin", c.Origin)
	return nil
}

func create(ctx context.Context, c Config) error {
	if c.Signer == nil {
		return fmt.Errorf("%w: a new log needs its key", ErrConfig)
	}
	keys := newLayout(c.Prefix)
	absent := func(tx store.Tx) error {
		var any bool
		err := tx.Scan(keys.prefix, keys.end(), func(_, _ []byte) bool { any = true; return false })
		if err == nil && any {
			err = ErrExists
		}
		return err
	}
	if err := c.DB.View(absent); err != nil {
		return err
	}
	// The marks come first: a crash in between leaves a mark of size 0, which a second Create accepts. The other order
	// would leave a log that cannot be told from one whose mark was removed.
	for _, m := range c.HighWater {
		switch mark, err := m.Read(ctx); {
		case err == nil && (mark.Size != 0 || mark.Root != emptyRoot):
			return fmt.Errorf("%w: a high-water mark says that %s was signed at size %d", ErrRolledBack, c.Origin, mark.Size)
		case err != nil && !errors.Is(err, ErrNoMark):
			return err
		}
	}
	for _, m := range c.HighWater {
		if err := m.Raise(ctx, Mark{Origin: c.Origin, Root: emptyRoot}); err != nil {
			return err
		}
	}
	meta, err := metaRecord(c.Origin, c.Signer.Public())
	if err != nil {
		return err
	}
	k, err := newNoteKey(c.Origin, c.Signer.Public())
	if err != nil {
		return err
	}
	sig, err := k.sign(c.Signer, 0, emptyRoot)
	if err == nil {
		err = k.verify(0, emptyRoot, sig)
	}
	if err != nil {
		return err
	}
	h := Head{Root: emptyRoot, Time: c.Now().UTC().Round(0)}
	return c.DB.Update(func(tx store.Tx) error {
		if err := absent(tx); err != nil {
			return err
		}
		for _, kv := range [][2][]byte{
			{keys.meta(), meta},
			{keys.head(0), encodeHead(h, sig)},
		} {
			if err := tx.Put(kv[0], kv[1]); err != nil {
				return err
			}
		}
		return nil
	})
}
