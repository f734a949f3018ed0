package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/ceremony"
	"redoubt.internal/hsm"
	"redoubt.internal/hsm/pkcs11"
	"redoubt.internal/hsm/soft"
	"redoubt.internal/hsm/tpm"
	"redoubt.internal/hsm/vault"
	"redoubt.internal/hsm/worker"
)

// keyring opens tokens by the scheme of a key URI. It is the one place that names kinds of tokens; every room above it is
// handed a crypto.Signer.
type keyring struct {
	cfg    Keys
	dir    layout
	logger *slog.Logger
	parts  parts // whose keys it opens, by name of the key and no others
	// softDir is where relative soft: URIs start; keys/ of dir unless set.
	softDir string

	mu     sync.Mutex
	tokens map[string]hsm.Token // by tokenURI
}

var errScheme = errors.New("no kind of token has this URI scheme")

// workFactor is soft.Config.WorkFactor; only tests lower it.
var workFactor = soft.DefaultWorkFactor

func newKeyring(cfg Keys, dir layout, logger *slog.Logger) *keyring {
	return &keyring{cfg: cfg, dir: dir, logger: logger, tokens: map[string]hsm.Token{}}
}

// token returns the opened token that holds the key uri names.
func (k *keyring) token(uri string) (hsm.Token, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	at := tokenURI(uri)
	if isTPM(uri) {
		at = k.tpmURI(uri)
	}
	if t, ok := k.tokens[at]; ok {
		return t, nil
	}
	var (
		t   hsm.Token
		err error
	)
	switch scheme, _, _ := strings.Cut(uri, ":"); scheme {
	case "soft":
		c := soft.Config{Dir: orDefault(k.softDir, k.dir.keys()), Logger: k.logger, WorkFactor: workFactor}
		c.PassphraseFile, c.ReadPassphrase = k.cfg.TPM.settings(k.dir).secretFile(secretPath(k.dir, k.cfg.PassphraseFile), k.logger)
		t, err = soft.Open(c)
	case "pkcs11":
		t, err = k.openPKCS11(at)
	case "tpm":
		t, err = k.openTPM(at)
	case "hashivault", "openbao":
		t, err = k.openVault(at)
	default:
		t, err = k.openPlugin(scheme)
	}
	if err != nil {
		return nil, err
	}
	k.tokens[at] = t
	return t, nil
}

// openPKCS11 opens a PKCS#11 token in a child process, or in this one where the configuration says so.
func (k *keyring) openPKCS11(uri string) (hsm.Token, error) {
	s := pkcs11Settings{
		URI: uri, PINFile: secretPath(k.dir, k.cfg.PINFile), TPM: k.cfg.TPM.settings(k.dir), LatchDir: k.dir.latches(k.parts), AllowedModules: k.modules(uri), LibraryParameters: k.cfg.LibraryParameters,
		AllowImported: k.cfg.AllowImported, Sessions: k.cfg.Sessions,
	}
	if !k.cfg.InProcess {
		return openWorker(workerSettings{PKCS11: &s}, k.cfg, orDefaultList(k.cfg.ModuleEnv, pkcs11.Environment()), k.logger)
	}
	t, err := pkcs11.Open(s.config(k.logger))
	if err != nil {
		return nil, err // not t, which is a nil pointer and no nil Token
	}
	return t, nil
}

// pkcs11Settings is what a child is told of a PKCS#11 token; the PIN itself stays in its file.
type pkcs11Settings struct {
	URI               string   `json:"uri"`
	PINFile           string   `json:"pinFile,omitempty"`
	LatchDir          string   `json:"latchDir,omitempty"`
	AllowedModules    []string `json:"allowedModules,omitempty"`
	LibraryParameters string   `json:"libraryParameters,omitempty"`
	AllowImported     bool     `json:"allowImported,omitempty"`
	Sessions          int      `json:"sessions,omitempty"`
	// TPM opens a PINFile that begins with tpm-sealed:.
	TPM tpmSettings `json:"tpm,omitzero"`
}

func (s *pkcs11Settings) config(logger *slog.Logger) pkcs11.Config {
	pinFile, readPIN := s.TPM.secretFile(s.PINFile, logger)
	return pkcs11.Config{
		URI: s.URI, PINFile: pinFile, ReadPIN: readPIN, LatchDir: s.LatchDir, AllowedModules: s.AllowedModules, LibraryParameters: s.LibraryParameters,
		AllowImported: s.AllowImported, Sessions: s.Sessions, Logger: logger,
	}
}

// openSettings opens a token in the child; ctx bounds it.
func openSettings(ctx context.Context, s workerSettings, logger *slog.Logger) (hsm.Token, error) {
	if s.PKCS11 == nil {
		return nil, fmt.Errorf("%w: nothing to open", errScheme)
	}
	c := s.PKCS11.config(logger)
	if deadline, ok := ctx.Deadline(); ok {
		c.ConnectTimeout = time.Until(deadline)
	}
	return pkcs11.Open(c)
}

// refusedPINs is the error of the PKCS#11 tokens that refused the PIN configured for them; nil when there is none. No token is
// opened and no PIN read.
func (k *keyring) refusedPINs() error {
	pinFile, _ := k.cfg.TPM.settings(k.dir).secretFile(secretPath(k.dir, k.cfg.PINFile), k.logger)
	var errs []error
	for _, at := range k.pkcs11Tokens() {
		path, err := pkcs11.RefusedPIN(pkcs11.Config{URI: at, PINFile: pinFile, LatchDir: k.dir.latches(k.parts)})
		if err == nil && path != "" {
			err = fmt.Errorf("%w by the token; it was tried once and is not tried again until its file holds another (mark: %s)", hsm.ErrBadPIN, path)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// pkcs11Tokens are the PKCS#11 tokens that hold a configured key.
func (k *keyring) pkcs11Tokens() (tokens []string) {
	for _, uri := range append(slices.Collect(maps.Values(k.cfg.Roles)), k.cfg.Token) {
		if at := tokenURI(uri); strings.HasPrefix(at, pkcs11.Scheme) && !strings.Contains(at, rolePlace) && !slices.Contains(tokens, at) {
			tokens = append(tokens, at)
		}
	}
	return tokens
}

// modules are the PKCS#11 modules that may be loaded: the configured list, else the one the configuration's own URI names.
func (k *keyring) modules(uri string) []string {
	if len(k.cfg.AllowedModules) > 0 {
		return k.cfg.AllowedModules
	}
	if m := uriAttribute(k.cfg.Token, "module-path"); m != "" {
		return []string{m}
	}
	return nil
}

// signer returns the key uri names.
func (k *keyring) signer(ctx context.Context, uri string) (*hsm.Key, error) {
	t, err := k.token(uri)
	if err != nil {
		return nil, err
	}
	return t.Signer(ctx, uri)
}

// role returns the key of a role.
func (k *keyring) role(ctx context.Context, role string) (*hsm.Key, error) {
	if err := k.parts.refuses(role); err != nil {
		return nil, err
	}
	uri, ok := k.cfg.Roles[role]
	if !ok {
		return nil, fmt.Errorf("keys.roles.%s: not configured", role)
	}
	key, err := k.signer(ctx, uri)
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("opening the %s key: %w", role, err), "`redoubt keys check` tries every key; the URI stands under keys.roles.%s", role)
	}
	if alg, allowed := key.Info().Algorithm, ceremony.AllowedAlgorithms(role); !slices.Contains(allowed, alg) {
		return nil, cmdline.Hinted(fmt.Errorf("opening the %s key: it is of type %s, the role allows %v: %w", role, alg, allowed, hsm.ErrUnsupported), "name another key under keys.roles.%s", role)
	}
	return key, nil
}

func (k *keyring) close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for at, t := range k.tokens {
		errs = append(errs, t.Close())
		delete(k.tokens, at)
	}
	return errors.Join(errs...)
}

// tokenURI cuts a key URI down to the token: soft keys share one token, PKCS#11 keys of one token differ in object and id,
// Vault keys in name and version.
func tokenURI(uri string) string {
	scheme, rest, _ := strings.Cut(uri, ":")
	switch scheme {
	case "soft":
		return "soft:"
	case "hashivault", "openbao":
		return vault.TokenURI(uri)
	case "tpm":
		return tpm.TokenURI(uri)
	}
	if strings.HasPrefix(rest, "//") { // a plugin
		return scheme + "://"
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	var kept []string
	for attribute := range strings.SplitSeq(path, ";") {
		switch name, _, _ := strings.Cut(attribute, "="); name {
		case "object", "id", "type", "":
		default:
			kept = append(kept, attribute)
		}
	}
	out := scheme + ":" + strings.Join(kept, ";")
	if hasQuery {
		out += "?" + query
	}
	return out
}

// keyPlace says which token a key URI names, and whether its keys die with the machine they are in: those of a TPM do, also
// behind a PKCS#11 module.
func keyPlace(uri string) (token string, machineBound bool) {
	scheme, _, _ := strings.Cut(uri, ":")
	return tokenURI(uri), scheme == "tpm" || scheme == "pkcs11" && strings.Contains(uri, "tpm2_pkcs11")
}

// attestationVerifier checks what tokens state about their keys, offline. roots are the makers' of the tokens; without them nothing
// says that the attesting key lies in a token at all, and the sentence says so.
func attestationVerifier(roots *x509.CertPool) func(hsm.Attestation, []byte) (string, error) {
	return func(a hsm.Attestation, nonce []byte) (string, error) {
		r, err := tpm.VerifyAttestation(a, roots)
		if err == nil && !r.Endorsed {
			r.Proven = append(r.Proven, "No maker's certificate for the attesting key leads to a root given here.")
		}
		return strings.Join(r.Proven, " "), err
	}
}

// keyURI names the key called name in the token the configuration points at.
func keyURI(token, name string) string {
	token = strings.ReplaceAll(token, rolePlace, orDefault(keyPart(name), roleRoot))
	scheme, rest, _ := strings.Cut(token, ":")
	switch scheme {
	case "soft":
		return "soft:" + name
	case "hashivault", "openbao":
		return vault.KeyURI(token, name)
	case "tpm":
		return tpm.KeyURI(token, name)
	}
	if strings.HasPrefix(rest, "//") { // a plugin; what token ends in is a prefix of names
		return token + name
	}
	path, query, hasQuery := strings.Cut(rest, "?")
	out := scheme + ":" + path + ";object=" + name
	if hasQuery {
		out += "?" + query
	}
	return out
}

// uriAttribute finds an attribute of an RFC 7512 URI; "" when it is not there. Values with % escapes are left as they are.
func uriAttribute(uri, name string) string {
	for _, attribute := range strings.FieldsFunc(uri, func(r rune) bool { return r == ';' || r == '?' || r == '&' || r == ':' }) {
		if v, ok := strings.CutPrefix(attribute, name+"="); ok {
			return v
		}
	}
	return ""
}

const (
	surveyVerb    = "hsm-survey"
	surveyTimeout = 10 * time.Second
)

// surveyModule looks at a PKCS#11 module from a child of its own: it may crash or hang, and is asked for no login.
func surveyModule(ctx context.Context, path string) (seen pkcs11.Seen, err error) {
	ctx, cancel := context.WithTimeout(ctx, surveyTimeout)
	defer cancel()
	child := exec.CommandContext(ctx, "/proc/self/exe", surveyVerb, path)
	child.Args[0], child.Env, child.WaitDelay = os.Args[0], worker.Environment(append(pkcs11.Environment(), processEnv...)), time.Second
	out, err := child.Output()
	if ctx.Err() != nil {
		return seen, fmt.Errorf("looking at %s: it did not answer within %s", path, surveyTimeout)
	}
	if err != nil {
		return seen, fmt.Errorf("looking at %s: %w", path, err)
	}
	if err := json.Unmarshal(out, &seen); err != nil {
		return seen, fmt.Errorf("looking at %s: %w", path, err)
	}
	return seen, nil
}

// surveyCommand is the child's side of surveyModule.
func surveyCommand() *cli.Command {
	return &cli.Command{
		Name: surveyVerb, Hidden: true, Usage: "look at a PKCS#11 module for the process that started this one", ArgsUsage: "MODULE",
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("one MODULE")
			}
			seen, err := pkcs11.Survey(c.Args().First())
			if err != nil {
				return err
			}
			return json.NewEncoder(c.App.Writer).Encode(seen)
		},
	}
}

// findModules looks at every PKCS#11 module that stands where makers put theirs. Those that do not answer are left out.
func findModules(ctx context.Context) (all []pkcs11.Seen) {
	for _, path := range pkcs11.Present() {
		if seen, err := surveyModule(ctx, path); err == nil {
			all = append(all, seen)
		}
	}
	return all
}
