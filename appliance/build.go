package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/trust"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// build fills the new state directory dir: configuration, keys and certificates by a ceremony, the logs with their
// high-water marks, the first audit record, the trust repository. A failure leaves nothing but keys made inside a token.
func build(ctx context.Context, cfg *Config, dir layout, request initRequest, logger *slog.Logger, out io.Writer) (result *initResult, err error) {
	for _, sub := range []string{"keys", "pki", "db", "mirror", "inbox", "run"} {
		if err := os.MkdirAll(dir.path(sub), 0o700); err != nil {
			return nil, err
		}
	}
	result = &initResult{URLs: cfg.urls(), OneTree: cfg.Log.oneTree(), apart: cfg.Roles != nil}
	if path := cfg.Keys.PassphraseFile; path != "" {
		result.PassphraseFile = path
		if request.PassphraseFile == "" {
			if err := writePassphrase(dir.resolve(path)); err != nil {
				return nil, fmt.Errorf("writing the passphrase: %w", err)
			}
		}
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	written := *cfg
	written.Dir = ""
	if err := writeConfig(dir, &written); err != nil {
		return nil, err
	}
	keys := newKeyring(cfg.Keys, dir, logger)
	defer keys.close()
	if err := keys.unusedCounters(ctx, cfg.Log); err != nil {
		return nil, err
	}
	if err := request.makeKeys(ctx, cfg, dir, keys, out); err != nil {
		return nil, err
	}
	details := map[string]string{"profile": cfg.Profile}
	if cfg.issued() {
		fmt.Fprintln(out, "making the root of the listeners' certificates")
		if result.TLSFingerprint, err = makeTLSRoot(ctx, cfg, dir, keys); err != nil {
			return nil, err
		}
		details["tls-root"] = result.TLSFingerprint
	}
	fmt.Fprintln(out, "making logs and trust repository")
	if err := createState(ctx, cfg, dir, keys, logger); err != nil {
		return nil, err
	}
	in, err := openWith(ctx, cfg.patiently(), logger, keys)
	if err != nil {
		return nil, err
	}
	defer in.close()
	root := sha256.Sum256(in.caChain[len(in.caChain)-1].Raw)
	result.RootFingerprint = hex.EncodeToString(root[:])
	details["root"] = result.RootFingerprint
	if err := in.record(ctx, request.Actor, "init", cfg.Domain, details); err != nil {
		return nil, err
	}
	entries, err := listKeys.run(ctx, in, request.Actor, struct{}{})
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		result.Keys = append(result.Keys, e.keyRecord)
	}
	result.Software = slices.ContainsFunc(result.Keys, func(k keyRecord) bool { return k.Software })
	return result, nil
}

// createState makes the databases and the empty logs in them, each with its signed head of size 0 and its high-water mark,
// then the trust repository.
func createState(ctx context.Context, cfg *Config, dir layout, keys *keyring, logger *slog.Logger) (err error) {
	in := &instance{cfg: cfg, dir: dir, logger: logger, now: clock, keys: keys, roleKeys: map[string]*hsm.Key{}, history: &history{}}
	defer in.close()
	if err := in.openKeys(ctx); err != nil {
		return err
	}
	if err := in.openHighWater(); err != nil {
		return err
	}
	if err := dir.writeState(stateRecord{Format: store.Format, Program: versionString()}); err != nil {
		return err
	}
	if err := in.openDBs(bolt.Create); err != nil {
		return err
	}
	for role, c := range in.logConfigs() {
		if err := log.Create(ctx, c); err != nil {
			return fmt.Errorf("creating the %s log: %w", role, err)
		}
	}
	if err := in.openChains(ctx); err != nil {
		return err
	}
	in.denied.Store(denied.New(cfg.Domain))
	m, err := in.material()
	if err != nil {
		return err
	}
	targets, err := m.Targets()
	if err != nil {
		return err
	}
	if _, err = trust.Create(ctx, in.tufConfig(), targets); err != nil {
		return fmt.Errorf("creating the trust repository: %w", err)
	}
	return nil
}
