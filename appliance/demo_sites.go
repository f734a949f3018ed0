package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"redoubt.internal/appliance/cmdline"
	"strings"
)

// softHSMModules are where distributions install SoftHSM's module.
var softHSMModules = []string{
	"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
	"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/pkcs11/libsofthsm2.so", "/usr/local/lib/softhsm/libsofthsm2.so",
}

const demoPIN = "4711-demo" // of throw-away tokens below the demo's own folder

var errNoSoftHSM = errors.New("SoftHSM is not usable here")

// prepareKeys decides where both sites keep their keys: in a SoftHSM token each, when module and tool are there.
func (d *demo) prepareKeys() (string, error) {
	if d.keys != "auto" && d.keys != "soft" && d.keys != "softhsm" {
		return "", cmdline.Usage("--keys %q: want auto, softhsm or soft", d.keys)
	}
	if d.keys != "soft" {
		said, err := d.prepareSoftHSM()
		if err == nil {
			d.keys = "softhsm"
			return said, nil
		}
		if d.keys == "softhsm" || !errors.Is(err, errNoSoftHSM) {
			return "", err
		}
		d.keys = "soft"
		return strings.TrimSpace(softwareBanner) + "\n" + err.Error(), nil
	}
	return strings.TrimSpace(softwareBanner), nil
}

func (d *demo) prepareSoftHSM() (string, error) {
	if !cgoEnabled {
		return "", fmt.Errorf("%w: this binary was built without PKCS#11", errNoSoftHSM)
	}
	module := ""
	for _, m := range softHSMModules {
		if _, err := os.Stat(m); err == nil {
			module = m
			break
		}
	}
	tool, err := exec.LookPath("softhsm2-util")
	if module == "" || err != nil {
		return "", fmt.Errorf("%w: its module or softhsm2-util is not installed", errNoSoftHSM)
	}
	tokens, conf := d.path("tokens"), d.path("softhsm2.conf")
	if err := os.Mkdir(tokens, 0o700); err != nil {
		return "", err
	}
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", tokens)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return "", err
	}
	if err := os.WriteFile(d.path("pin"), []byte(demoPIN+"\n"), 0o600); err != nil {
		return "", err
	}
	d.env = append(d.env, "SOFTHSM2_CONF="+conf)
	if err := os.Setenv("SOFTHSM2_CONF", conf); err != nil { // this process signs as the lying log later on
		return "", err
	}
	for _, s := range []*site{d.outside, d.inside} {
		command := exec.CommandContext(d.ctx, tool, "--init-token", "--free", "--label", s.name, "--so-pin", demoPIN, "--pin", demoPIN)
		command.Env = d.env
		if out, err := command.CombinedOutput(); err != nil {
			return "", fmt.Errorf("%w: initialising the token %s: %w: %s", errNoSoftHSM, s.name, err, out) // a module that cannot be loaded, for one
		}
	}
	return fmt.Sprintf("keys live in SoftHSM tokens through %s", module), nil
}

// keysFor is the --keys of a site's init.
func (d *demo) keysFor(s *site) string {
	if d.keys == "soft" {
		return "soft:"
	}
	for _, m := range softHSMModules {
		if _, err := os.Stat(m); err == nil {
			return fmt.Sprintf("pkcs11:token=%s?module-path=%s&pin-source=%s", s.name, m, d.path("pin"))
		}
	}
	return "soft:"
}

func (d *demo) ceremonySteps() []step {
	initialise := func(s *site) step {
		return step{"key ceremony " + s.name, func() (string, error) {
			var r initResult
			if err := d.redoubtJSON(&r, "init", "--dir", s.dir, "--domain", s.domain, "--keys", d.keysFor(s), "--non-interactive"); err != nil {
				return "", err
			}
			if err := d.holdPorts(r.URLs); err != nil {
				return "", err
			}
			if _, err := d.redoubt(0, "client", "setup", "--dir", s.dir, "--out", s.setup); err != nil {
				return "", err
			}
			evidence := ""
			for _, k := range r.Keys {
				if k.Role == roleRoot && len(k.Evidence) > 0 {
					evidence = "\nroot key: " + strings.Join(k.Evidence, "; ")
				}
			}
			return fmt.Sprintf("%d keys, each with one role; root certificate SHA-256 %s%s", len(r.Keys), r.RootFingerprint, evidence), nil
		}}
	}
	return []step{
		{"a place for keys", d.prepareKeys},
		initialise(d.outside),
		initialise(d.inside),
		{"both pinned to each other, both serving on loopback", d.connect},
	}
}

// holdPorts listens on the ports a site has drawn, until releasePorts.
func (d *demo) holdPorts(urls map[string]string) error {
	for name, address := range urls {
		u, err := url.Parse(address)
		if err != nil {
			return fmt.Errorf("reading the address of %s: %w", name, err)
		}
		listener, err := net.Listen("tcp", u.Host)
		if err != nil {
			return fmt.Errorf("holding the port of %s: %w", name, err)
		}
		d.held = append(d.held, listener)
	}
	return nil
}

func (d *demo) releasePorts() {
	for _, l := range d.held {
		l.Close()
	}
	d.held = nil
}

// connect tells the inside which exporter and which log to believe, and the outside what to carry, and starts both.
func (d *demo) connect() (string, error) {
	var key keyLine
	if err := d.redoubtJSON(&key, "mirror", "key", "--dir", d.outside.dir); err != nil {
		return "", err
	}
	logKey, err := os.ReadFile(filepath.Join(d.outside.setup, "rekor.pub"))
	if err != nil {
		return "", err
	}
	origin := "rekor." + d.outside.domain
	err = d.configure(d.outside, func(c *Config) {
		c.Mirror.Logs = []MirrorLog{{Origin: origin, Key: string(logKey), Source: c.Services.Rekor.URL}}
	})
	if err != nil {
		return "", err
	}
	err = d.configure(d.inside, func(c *Config) {
		c.Mirror.Stream, c.Mirror.Exporters = key.Stream, []string{key.Key}
		c.Mirror.Logs = []MirrorLog{{Origin: origin, Key: string(logKey)}}
	})
	if err != nil {
		return "", err
	}
	d.releasePorts()
	for _, s := range []*site{d.outside, d.inside} {
		if err := d.serve(s); err != nil {
			return "", err
		}
	}
	return fmt.Sprintf("outside: %s, log rekor.%s\ninside:  %s, log rekor.%s", d.outside.url("fulcio"), d.outside.domain, d.inside.url("fulcio"), d.inside.domain), nil
}

// configure changes a site's redoubt.yaml as an operator would, and has it checked.
func (d *demo) configure(s *site, change func(*Config)) error {
	cfg, err := loadConfig(layout{s.dir}.config())
	if err != nil {
		return err
	}
	cfg.Dir = ""
	change(cfg)
	if err := writeConfig(layout{s.dir}, cfg); err != nil {
		return err
	}
	_, err = d.redoubt(0, "config", "validate", "--dir", s.dir)
	return err
}

// sign makes a token for email at the site, signs file with it and returns the bundle's path.
func (d *demo) sign(s *site, email, file string, more ...string) (string, error) {
	token, err := d.redoubt(0, "identity", "token", "--dir", s.dir, "--email", email)
	if err != nil {
		return "", err
	}
	if err := os.WriteFile(d.path("token"), []byte(token), 0o600); err != nil {
		return "", err
	}
	defer os.Remove(d.path("token"))
	bundle := file + ".sigstore.json"
	_, err = d.redoubt(0, append([]string{"sign", file, "--setup", s.setup, "--identity-token", d.path("token"), "--bundle", bundle}, more...)...)
	return bundle, err
}

// verify demands exit code want of a verification at the site.
func (d *demo) verify(want int, s *site, email, artifact, bundle string, more ...string) (string, error) {
	return d.redoubt(want, append([]string{"verify", artifact, "--setup", s.setup, "--bundle", bundle,
		"--certificate-identity", email, "--certificate-oidc-issuer", s.url("oidc")}, more...)...)
}

func (d *demo) clientSteps() []step {
	email, file := "dev@"+d.inside.domain, d.path("release.txt")
	var bundle string
	return []step{
		{"sign a file inside, verify it", func() (_ string, err error) {
			if err := os.WriteFile(file, []byte("what we ship\n"), 0o644); err != nil {
				return "", err
			}
			if bundle, err = d.sign(d.inside, email, file); err != nil {
				return "", err
			}
			return d.verify(0, d.inside, email, file, bundle)
		}},
		{"verify it again where there is no network at all", func() (string, error) {
			if _, err := d.verify(0, d.inside, email, file, bundle, "--prove-offline"); err != nil {
				return "", err
			}
			return "the same verdict in a network namespace with no interface up", nil
		}},
		{"another person's signature, and another file, are refused", func() (string, error) {
			who, err := d.verify(11, d.inside, "eve@"+d.inside.domain, file, bundle)
			if err != nil {
				return "", err
			}
			changed := d.path("changed.txt")
			if err := os.WriteFile(changed, []byte("what we shipped\n"), 0o644); err != nil {
				return "", err
			}
			what, err := d.verify(12, d.inside, email, changed, bundle)
			return "exit 11: " + who + "\nexit 12: " + what, err
		}},
		{"sign an attestation in the v2 log, verify it against the file", func() (string, error) {
			return d.attest(d.inside, email, file)
		}},
	}
}

// attest signs provenance of file and verifies it.
func (d *demo) attest(s *site, email, file string) (string, error) {
	digest, err := fileDigest(file)
	if err != nil {
		return "", err
	}
	const predicate = "https://slsa.dev/provenance/v1"
	statement, err := json.Marshal(map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": predicate,
		"subject":   []any{map[string]any{"name": filepath.Base(file), "digest": map[string]string{"sha256": digest}}},
		"predicate": map[string]any{"buildDefinition": map[string]any{"buildType": "https://inside.internal/demo/v1", "externalParameters": map[string]any{}}, "runDetails": map[string]any{"builder": map[string]string{"id": "https://inside.internal/builder"}}},
	})
	if err != nil {
		return "", err
	}
	path := d.path("provenance.json")
	if err := os.WriteFile(path, statement, 0o644); err != nil {
		return "", err
	}
	bundle, err := d.sign(s, email, path, "--payload-type", "application/vnd.in-toto+json", "--rekor-v2")
	if err != nil {
		return "", err
	}
	return d.verify(0, s, email, file, bundle, "--type", predicate)
}

func (d *demo) closingSteps() []step {
	return []step{
		{"inside, verify what was signed outside, with the outside's root", func() (string, error) {
			return d.verify(0, d.outside, "release@"+d.outside.domain, d.path("outside-1.txt"), d.path("outside-1.txt.sigstore.json"), "--prove-offline")
		}},
		{"inside, verify a real attestation of the public-good instance (npm sigstore 2.0.0)", d.verifyPublic},
		{"every log, recomputed", func() (string, error) {
			var lines []string
			for _, s := range []*site{d.outside, d.inside} {
				var results []fsckResult
				if err := d.redoubtJSON(&results, "log", "fsck", "--dir", s.dir); err != nil {
					return "", err
				}
				for _, r := range results {
					lines = append(lines, fmt.Sprintf("%s.%s: %d entries and %d signed heads hold, root %.16s…", r.Log, s.domain, r.Entries, r.Heads, r.RootHash))
				}
			}
			return strings.Join(lines, "\n"), nil
		}},
		{"both drain on SIGTERM", func() (string, error) {
			for _, s := range []*site{d.outside, d.inside} {
				if err := d.stop(s); err != nil {
					return "", err
				}
			}
			return "exit 0 each", nil
		}},
	}
}

// verifyPublic verifies a bundle of the public-good instance with the public root, both embedded.
func (d *demo) verifyPublic() (string, error) {
	for _, name := range []string{publicBundle, publicRoot} {
		data, err := publicGood.ReadFile(name)
		if err != nil {
			return "", err
		}
		if err := os.WriteFile(d.path(filepath.Base(name)), data, 0o644); err != nil {
			return "", err
		}
	}
	return d.redoubt(0, "verify", publicDigest, "--bundle", d.path(filepath.Base(publicBundle)), "--trusted-root", d.path(filepath.Base(publicRoot)),
		"--certificate-identity", "https://github.com/sigstore/sigstore-js/.github/workflows/release.yml@refs/heads/main",
		"--certificate-oidc-issuer", "https://token.actions.githubusercontent.com", "--type", "https://slsa.dev/provenance/v1", "--prove-offline")
}
