package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/hsm/plugin"
	"redoubt.internal/hsm/vault"
)

// openVault opens the server the configuration and the URI name.
func (k *keyring) openVault(uri string) (hsm.Token, error) {
	c, err := k.cfg.Vault.config(k.dir, k.logger).With(uri)
	if err != nil {
		return nil, err
	}
	t, err := vault.Open(c)
	if err != nil {
		return nil, err // not t, which is a nil pointer and no nil Token
	}
	return t, nil
}

// openPlugin opens the plugin configured for a scheme.
func (k *keyring) openPlugin(scheme string) (hsm.Token, error) {
	p, ok := k.cfg.Plugins[scheme]
	if !ok {
		return nil, fmt.Errorf("%w: %q; want soft:, pkcs11:, tpm:, hashivault:, openbao: or a scheme of keys.plugins", errScheme, scheme)
	}
	t, err := plugin.Open(plugin.Config{Scheme: scheme, Path: p.Path, SHA256: p.SHA256, Environment: p.Environment, Algorithms: p.Algorithms, Timeout: time.Duration(p.Timeout), Logger: k.logger})
	if err != nil {
		return nil, cmdline.Hinted(err, "keys.plugins.%s names the executable and its digest; a new version needs the new digest there and a restart", scheme)
	}
	return t, nil
}

// checkPlugins refuses schemes no plugin may have and plugins without their digest.
func (k *Keys) checkPlugins() (problems []error) {
	for scheme, p := range k.Plugins {
		if err := plugin.CheckScheme(scheme); err != nil {
			problems = append(problems, fmt.Errorf("keys.plugins: %w", err))
		}
		if !filepath.IsAbs(p.Path) {
			problems = append(problems, fmt.Errorf("keys.plugins.%s.path: %q is not absolute; nothing is looked up", scheme, p.Path))
		}
		if len(p.SHA256) != 64 {
			problems = append(problems, fmt.Errorf("keys.plugins.%s.sha256: want 64 hex digits; `sha256sum %s` prints them", scheme, p.Path))
		}
	}
	return problems
}

// pinPlugin reads SCHEME=PATH of init and pins the executable as it is now.
func pinPlugin(text string) (scheme string, p KeyPlugin, err error) {
	scheme, p.Path, _ = strings.Cut(text, "=")
	if err := plugin.CheckScheme(scheme); err != nil {
		return "", p, err
	}
	if p.Path, err = filepath.Abs(p.Path); err != nil {
		return "", p, err
	}
	f, err := os.Open(p.Path)
	if err != nil {
		return "", p, err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", p, err
	}
	p.SHA256 = hex.EncodeToString(hash.Sum(nil))
	return scheme, p, nil
}

// checkKeyURI refuses what a kind of token can see from the URI alone: a Vault key without its version.
func checkKeyURI(uri string) error {
	if isVault(uri) {
		return vault.CheckKeyURI(uri)
	}
	return nil
}

// kindOf is the kind of token a key URI names, as hsm.Info.Kind has it, for keys that could not be opened.
func kindOf(uri string) string {
	scheme, rest, _ := strings.Cut(uri, ":")
	switch {
	case isVault(uri):
		return "vault"
	case strings.HasPrefix(rest, "//"):
		return "plugin"
	}
	return scheme
}

// isVault reports whether a key URI names a key in a Vault or OpenBao server.
func isVault(uri string) bool {
	return strings.HasPrefix(uri, vault.Scheme) || strings.HasPrefix(uri, vault.SchemeOpenBao)
}

// config is the block as the token kind takes it; a block left out leaves all to the URI.
func (v *Vault) config(dir layout, logger *slog.Logger) vault.Config {
	if v == nil {
		return vault.Config{Logger: logger}
	}
	return vault.Config{
		Address: v.Address, CAFile: dir.resolve(v.CAFile), SystemRoots: v.SystemRoots, Namespace: v.Namespace, Mount: v.Mount,
		Auth: v.Auth, AuthMount: v.AuthMount, TokenFile: dir.resolve(v.TokenFile), RoleID: v.RoleID, SecretIDFile: dir.resolve(v.SecretIDFile),
		Role: v.Role, JWTFile: dir.resolve(v.JWTFile), CertFile: dir.resolve(v.CertFile), KeyFile: dir.resolve(v.KeyFile),
		Timeout: time.Duration(v.Timeout), Logger: logger,
	}
}

// vaultBlock moves what a token URI of init says about the server into a configuration block, so that key URIs stay short.
// The URI is left with its scheme and the prefix of names. Relative paths count from the working directory.
func vaultBlock(token string) (rest string, block *Vault, err error) {
	c, err := vault.Config{}.With(token)
	if err != nil {
		return "", nil, err
	}
	for _, path := range []*string{&c.CAFile, &c.TokenFile, &c.SecretIDFile, &c.JWTFile, &c.CertFile, &c.KeyFile} {
		if *path == "" {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return "", nil, err
		}
	}
	rest, _, _ = strings.Cut(token, "?")
	return rest, &Vault{
		Address: c.Address, CAFile: c.CAFile, SystemRoots: c.SystemRoots, Namespace: c.Namespace, Mount: c.Mount, Auth: c.Auth, AuthMount: c.AuthMount,
		TokenFile: c.TokenFile, RoleID: c.RoleID, SecretIDFile: c.SecretIDFile, Role: c.Role, JWTFile: c.JWTFile, CertFile: c.CertFile, KeyFile: c.KeyFile,
	}, nil
}
