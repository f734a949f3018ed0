// Package plugin keeps private keys in whatever a sigstore KMS plugin reaches: a
// cloud's key service, an appliance with an API of its own. A plugin is an
// executable that speaks sigstore's protocol (sigstore/sigstore,
// pkg/signature/kms/cliplugin, version v1): one process for each call, arguments
// and answer in JSON, the message on standard input.
//
// It guarantees:
//   - the executable is named by an absolute path and a SHA-256, never looked up;
//     what runs is octet by octet what was hashed, because it is run from a sealed
//     copy in memory and not from the file again;
//   - the process gets only the variables of the environment the configuration
//     lists, and no descriptor this process opened;
//   - each call is ended at its deadline with everything the plugin started, and no
//     more than a fixed amount of output is read;
//   - every signature is verified against the public key seen when the key was
//     opened, as for every kind of token.
//
// It does not guarantee anything about how the key is kept: the protocol has no
// word for it. A plugin runs with this process's rights and must be trusted like a
// driver.
//
// The protocol cannot ask for RSA-PSS, so that is refused. It also has no way to
// say "no such key" but a sentence; key.go lists the sentences that count, and any
// other failure is hsm.ErrUnavailable, so that nothing is made in doubt.
//
// Start at Open. docs/adr/0033 has the reasons.
package plugin

import (
	"context"
	"crypto"
	"encoding/hex"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"

	"redoubt.internal/hsm"
)

const (
	// DefaultTimeout bounds one call of the plugin: a process is started and a remote
	// service asked.
	DefaultTimeout = 2 * time.Second
	// generateTimeout bounds the making of a key.
	generateTimeout = 2 * time.Minute
	// processes is how many run at once.
	processes = 8
	maxURI    = 2 << 10
)

// Config says which executable answers for which scheme.
type Config struct {
	// Scheme of the key URIs: SCHEME://REST. The plugin is handed REST.
	Scheme string
	// Path of the executable, absolute; not a script.
	Path string
	// SHA256 of the executable, 64 hex digits.
	SHA256 string
	// Environment lists the variables of this process's environment the plugin gets;
	// nothing else is passed on.
	Environment []string
	// Algorithms translates names of hsm.Algorithm into the plugin's, where it uses
	// others than the usual ones.
	Algorithms map[string]string
	// Timeout bounds one call; 0 means DefaultTimeout.
	Timeout time.Duration
	// Logger is for what goes wrong; nil discards it.
	Logger *slog.Logger
}

// Token is one plugin. It implements hsm.Token and is safe for concurrent use.
type Token struct {
	cfg       Config
	program   *program
	supported []string // the plugin's names of algorithms
	closed    atomic.Bool
	making    chan struct{} // held by the one Generate at a time
}

var schemePattern = regexp.MustCompile(`^[a-z][a-z0-9-]{1,62}$`)

// reserved schemes belong to kinds of tokens of our own, or mean something else.
var reserved = []string{"soft", "pkcs11", "tpm", "tpm2", "hashivault", "openbao", "file", "http", "https", "env", "k8s"}

// CheckScheme refuses a scheme no plugin may have.
func CheckScheme(scheme string) error {
	if !schemePattern.MatchString(scheme) {
		return fmt.Errorf("plugin scheme %q is not lower-case letters, digits and '-': %w", clip(scheme), hsm.ErrUnsupported)
	}
	if slices.Contains(reserved, scheme) {
		return fmt.Errorf("plugin scheme %q is taken: %w", scheme, hsm.ErrUnsupported)
	}
	return nil
}

// Open hashes the executable and asks it which algorithms it has. It fails with
// hsm.ErrUnsupported where the configuration or the executable is refused, and with
// hsm.ErrUnavailable where it does not answer.
func Open(c Config) (*Token, error) {
	if err := CheckScheme(c.Scheme); err != nil {
		return nil, err
	}
	bad := func(format string, args ...any) error {
		return fmt.Errorf("plugin %s: %s: %w", c.Scheme, fmt.Sprintf(format, args...), hsm.ErrUnsupported)
	}
	digest, err := hex.DecodeString(c.SHA256)
	switch {
	case !filepath.IsAbs(c.Path) || filepath.Clean(c.Path) != c.Path:
		return nil, bad("path %q is not absolute and clean; nothing is looked up", clip(c.Path))
	case err != nil || len(digest) != 32:
		return nil, bad("sha256 is not 64 hex digits; `sha256sum %s` prints it", c.Path)
	case c.Timeout < 0 || c.Timeout > time.Minute:
		return nil, bad("timeout of %s, allowed are up to one minute", c.Timeout)
	}
	for _, name := range c.Environment {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.HasPrefix(name, "LD_") {
			return nil, bad("environment variable %q is not passed on", clip(name))
		}
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	p, err := load(c, digest)
	if err != nil {
		return nil, fmt.Errorf("plugin %s: %w", c.Scheme, err)
	}
	t := &Token{cfg: c, program: p, making: make(chan struct{}, 1)}
	ctx, cancel := context.WithTimeout(context.Background(), max(c.Timeout, 5*time.Second))
	defer cancel()
	answer, err := t.call(ctx, "", 0, nil, &common.MethodArgs{MethodName: common.SupportedAlgorithmsMethodName, SupportedAlgorithms: &common.SupportedAlgorithmsArgs{}})
	if err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("opening plugin %s (%s): %w", c.Scheme, c.Path, err)
	}
	if answer.SupportedAlgorithms != nil {
		t.supported = answer.SupportedAlgorithms.SupportedAlgorithms
	}
	return t, nil
}

// Close lets the executable go. Calls under way end by themselves.
func (t *Token) Close() error {
	if t.closed.Swap(true) {
		return nil
	}
	return t.program.close()
}

// call runs the plugin once for the key at ref and returns its answer. Errors are
// hsm.ErrUnavailable, or what the plugin said (refusal).
func (t *Token) call(ctx context.Context, ref string, hash crypto.Hash, message []byte, method *common.MethodArgs) (*common.PluginResp, error) {
	if t.closed.Load() {
		return nil, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	options := &common.InitOptions{ProtocolVersion: common.ProtocolVersion, KeyResourceID: ref, HashFunc: hash, RPCOptions: &common.RPCOptions{}}
	if deadline, ok := ctx.Deadline(); ok {
		options.CtxDeadline = &deadline
		options.RPCOptions.CtxDeadline = &deadline
	}
	return t.program.run(ctx, message, &common.PluginArgs{InitOptions: options, MethodArgs: method})
}

// reference cuts the scheme off a key URI, as sigstore does before it hands the
// rest to the plugin.
func (t *Token) reference(uri string) (string, error) {
	ref, ok := strings.CutPrefix(uri, t.cfg.Scheme+"://")
	switch {
	case len(uri) > maxURI:
		return "", fmt.Errorf("key URI of %d octets, limit %d: %w", len(uri), maxURI, hsm.ErrUnsupported)
	case !ok:
		return "", fmt.Errorf("key URI does not begin with %q: %w", t.cfg.Scheme+"://", hsm.ErrUnsupported)
	case ref == "" || strings.ContainsFunc(ref, func(r rune) bool { return r <= 0x20 || r >= 0x7f }):
		return "", fmt.Errorf("key URI %q names no key in printable characters: %w", clip(uri), hsm.ErrUnsupported)
	}
	return ref, nil
}

// clip makes what comes from outside one short line.
func clip(s string) string {
	s = strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r < 0x20 || r == 0x7f }), " ")
	if len(s) > 300 {
		s = s[:300] + "..."
	}
	return s
}

var _ hsm.Token = (*Token)(nil)
