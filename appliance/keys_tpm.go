package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/hsm/tpm"
	"redoubt.internal/log"
)

// What the product does with a TPM besides keeping keys in it: secrets sealed to measured state, and counters that bind
// high-water marks. As keys.go, this file may name a kind of token.

// sealedPrefix begins the value of passphrase-file or pin-file when the file is one `redoubt keys seal` wrote.
const sealedPrefix = "tpm-sealed:"

// counterPatience is how long a start waits for a TPM whose counter binds marks: without it the logs are read-only until the next start.
const counterPatience = 5 * time.Second

// tpmTimeout bounds what is asked of a TPM at start and by verbs.
const tpmTimeout = 30 * time.Second

// tpmSettings is the block keys.tpm with its paths resolved; it crosses the pipe to a child that unseals a PIN.
type tpmSettings struct {
	Device        string `json:"device,omitempty"`
	AuthFile      string `json:"authFile,omitempty"` // "" when it is a sealed file itself
	LatchDir      string `json:"latchDir,omitempty"`
	OwnerAuthFile string `json:"ownerAuthFile,omitempty"`
	PlainSessions bool   `json:"plainSessions,omitempty"`
}

// settings resolves the block; one left out is all defaults.
func (t *TPM) settings(dir layout) tpmSettings {
	if t == nil {
		return tpmSettings{}
	}
	s := tpmSettings{Device: t.Device, LatchDir: dir.keys(), OwnerAuthFile: dir.resolve(t.OwnerAuthFile), PlainSessions: t.PlainSessions}
	if !strings.HasPrefix(t.AuthFile, sealedPrefix) {
		s.AuthFile = dir.resolve(t.AuthFile)
	}
	return s
}

// config is the settings as the token kind takes them, for unsealing: without a place of keys.
func (s tpmSettings) config(logger *slog.Logger) tpm.Config {
	return tpm.Config{Device: s.Device, AuthFile: s.AuthFile, LatchDir: s.LatchDir, OwnerAuthFile: s.OwnerAuthFile, PlainSessions: s.PlainSessions, Logger: logger}
}

// secretPath resolves a passphrase-file or pin-file and keeps its prefix.
func secretPath(dir layout, value string) string {
	if rest, ok := strings.CutPrefix(value, sealedPrefix); ok {
		return sealedPrefix + dir.resolve(rest)
	}
	return dir.resolve(value)
}

// absoluteSecret makes a passphrase-file or pin-file of a flag absolute and keeps its prefix.
func absoluteSecret(value string) (string, error) {
	rest, sealed := strings.CutPrefix(value, sealedPrefix)
	path, err := filepath.Abs(rest)
	if err != nil || !sealed {
		return path, err
	}
	return sealedPrefix + path, nil
}

// secretFile parts a resolved passphrase-file or pin-file into its path and the way to read it; nil is as text.
func (s tpmSettings) secretFile(value string, logger *slog.Logger) (path string, read func(path string) ([]byte, error)) {
	path, sealed := strings.CutPrefix(value, sealedPrefix)
	if !sealed {
		return path, nil
	}
	return path, func(path string) ([]byte, error) {
		t, err := tpm.Open(s.config(logger))
		if err != nil {
			return nil, err
		}
		defer t.Close()
		ctx, cancel := context.WithTimeout(context.Background(), tpmTimeout)
		defer cancel()
		secret, err := t.Unseal(ctx, path)
		if err != nil {
			return nil, cmdline.Hinted(err, "the file is opened by the TPM it was sealed with, in the boot state of then; after an update seal the secret again: `redoubt keys seal --pcrs LIST --in FILE --out %s`", path)
		}
		return secret, nil
	}
}

// tpmURI cuts a URI down to the TPM it means, with the device of the configuration where it names none.
func (k *keyring) tpmURI(uri string) string {
	at := tpm.TokenURI(uri)
	if tpm.Device(at) == "" && k.cfg.TPM != nil && k.cfg.TPM.Device != "" {
		return at + "device=" + strings.NewReplacer("%", "%25", ";", "%3B").Replace(k.cfg.TPM.Device)
	}
	return at
}

// openTPM opens a TPM for keys.
func (k *keyring) openTPM(uri string) (hsm.Token, error) {
	s := k.cfg.TPM.settings(k.dir)
	c := s.config(k.logger)
	c.URI, c.Dir, c.LatchDir = uri, orDefault(k.softDir, k.dir.keys()), k.dir.keys()
	if k.cfg.TPM != nil && k.cfg.TPM.AuthFile != "" {
		c.AuthFile, c.ReadAuth = s.secretFile(secretPath(k.dir, k.cfg.TPM.AuthFile), k.logger)
	}
	t, err := tpm.Open(c)
	if err != nil {
		return nil, err // not t, which is a nil pointer and no nil Token
	}
	return t, nil
}

// tpmBlock moves the device a token URI of init names into a configuration block, so that key URIs stay short.
func tpmBlock(token string) (rest string, block *TPM, err error) {
	if tpm.TokenURI(token) != token && strings.TrimSuffix(token, ";") != tpm.TokenURI(token) {
		return "", nil, fmt.Errorf("%q: want tpm: or tpm:device=PATH", token)
	}
	device := tpm.Device(token)
	if device == "" {
		device = tpm.DefaultDevice
	}
	if device, err = filepath.Abs(device); err != nil {
		return "", nil, err
	}
	return tpm.Scheme, &TPM{Device: device}, nil
}

// tpm adds what the flags of init say to the block its --keys gave, nil for none.
func (r initRequest) tpm(block *TPM) (*TPM, error) {
	if block == nil && r.TPMDevice == "" && r.TPMAuthFile == "" && len(r.HighWater) == 0 {
		return nil, nil
	}
	if block == nil {
		block = &TPM{}
	}
	block.PlainSessions = r.TPMPlain
	for flag, to := range map[string]*string{r.TPMDevice: &block.Device, r.TPMAuthFile: &block.AuthFile} {
		if flag == "" {
			continue
		}
		path, err := absoluteSecret(flag)
		if err != nil {
			return nil, err
		}
		*to = path
	}
	return block, nil
}

// isTPM reports whether a URI is one of a TPM.
func isTPM(uri string) bool { return strings.HasPrefix(uri, tpm.Scheme) }

// checkMarks refuses high-water marks that name no counter, share one, or are stored at a pace that wears out a TPM.
func (l *Log) checkMarks() (problems []error) {
	seen := map[string]bool{}
	for _, place := range l.HighWater {
		index := tpm.NV(place)
		switch {
		case isTPM(place) && index == "":
			problems = append(problems, fmt.Errorf("log.highwater: %q names no counter; want tpm:nv=0x01......", place))
		case seen[place] || index != "" && seen[index]:
			problems = append(problems, fmt.Errorf("log.highwater: %q stands twice", place))
		}
		seen[place], seen[index] = true, true
	}
	if every := time.Duration(l.HighWaterEvery); every != 0 && (every < time.Second || every > time.Hour) {
		problems = append(problems, fmt.Errorf("log.highwater-every: %s is not between 1s and 1h", every))
	}
	return problems
}

// slowMarks opens the marks bound to the counter a configured high-water mark names.
func (k *keyring) slowMarks(ctx context.Context, uri string, every time.Duration) (*log.SlowMarks, error) {
	index := tpm.NV(uri)
	if index == "" {
		return nil, fmt.Errorf("log.highwater: %q names no counter; want tpm:nv=0x01...... or a file", uri)
	}
	c := log.SlowConfig{Path: k.dir.slowMarks(index), Name: "NV counter " + index, Every: every, Rewindable: true, Logger: k.logger}
	away := func(err error) (*log.SlowMarks, error) { // the logs open read-only and say why
		c.Read = func(context.Context) (uint64, error) { return 0, err }
		return log.OpenSlowMarks(ctx, c), nil
	}
	token, err := k.token(uri)
	if err != nil {
		return away(err)
	}
	counter, err := token.(*tpm.Token).Counter(uri)
	if err != nil {
		return nil, err
	}
	rewindable, what, err := counter.Rewindable(ctx)
	for patience := time.Now().Add(counterPatience); errors.Is(err, hsm.ErrUnavailable) && time.Now().Before(patience) && ctx.Err() == nil; {
		time.Sleep(250 * time.Millisecond)
		rewindable, what, err = counter.Rewindable(ctx)
	}
	if err != nil {
		return away(err)
	}
	c.Rewindable, c.Name = rewindable, c.Name+" in "+what
	c.Define, c.Raise = counter.Define, counter.Increment
	c.Read = func(ctx context.Context) (uint64, error) {
		value, err := counter.Read(ctx)
		if errors.Is(err, hsm.ErrNotFound) {
			err = fmt.Errorf("%w: %w", log.ErrNoCounter, err)
		}
		return value, err
	}
	return log.OpenSlowMarks(ctx, c), nil
}

// unusedCounters refuses counters that exist already, before init makes anything: they remember another instance.
func (k *keyring) unusedCounters(ctx context.Context, c Log) error {
	_, counters := k.dir.marksIn(c)
	for _, uri := range counters {
		t, err := k.token(uri)
		if err != nil {
			return err
		}
		counter, err := t.(*tpm.Token).Counter(uri)
		if err != nil {
			return err
		}
		switch value, err := counter.Read(ctx); {
		case err == nil:
			return cmdline.Hinted(fmt.Errorf("the counter of %s stands at %d: it is another instance's: %w", uri, value, hsm.ErrExists),
				"choose another index, or, when that instance is retired for good, `tpm2_nvundefine %s`", tpm.NV(uri))
		case !errors.Is(err, hsm.ErrNotFound):
			return err
		}
	}
	return nil
}

// openCounters opens the marks bound to counters. One that cannot be relied on keeps every log from signing, and says why.
func (in *instance) openCounters() error {
	_, counters := in.dir.marksIn(in.cfg.Log)
	for _, uri := range counters {
		ctx, cancel := context.WithTimeout(context.Background(), tpmTimeout)
		marks, err := in.keys.slowMarks(ctx, uri, in.cfg.Log.HighWaterEvery.or(time.Minute))
		cancel()
		if err != nil {
			return err
		}
		in.slowMarks = append(in.slowMarks, marks)
		in.onClose(func() {
			if err := marks.Close(); err != nil {
				in.logger.Error("storing high-water marks at stop", "counter", marks.Status().Name, "error", err)
			}
		})
	}
	return nil
}

// storeMarks stores what opening the logs raised.
func (in *instance) storeMarks(ctx context.Context) {
	for _, marks := range in.slowMarks {
		if err := marks.Flush(ctx); err != nil {
			in.logger.Error("storing high-water marks at start", "counter", marks.Status().Name, "error", err)
		}
	}
}

// counterChecks are the conditions of marks bound to counters.
func (in *instance) counterChecks() (checks []check) {
	for _, marks := range in.slowMarks {
		checks = append(checks, result("high-water counter", marks.Err(), highWaterFix(marks.Err())))
	}
	return checks
}

// counterStatus describes the marks bound to counters.
func (in *instance) counterStatus() (all []log.SlowStatus) {
	for _, marks := range in.slowMarks {
		all = append(all, marks.Status())
	}
	return all
}

// tpmChecks are the conditions of the TPMs in use: no lockout, no refused authorisation.
func (k *keyring) tpmChecks(ctx context.Context) (checks []check) {
	k.mu.Lock()
	var tokens []*tpm.Token
	for _, t := range k.tokens {
		if t, ok := t.(*tpm.Token); ok {
			tokens = append(tokens, t)
		}
	}
	k.mu.Unlock()
	for _, t := range tokens {
		l, latched, err := t.Lockout(ctx)
		if err == nil && latched {
			err = fmt.Errorf("%w: the TPM refused the authorisation value, which is not tried again", hsm.ErrBadPIN)
		}
		if err == nil {
			err = l.Err()
		}
		c := result("TPM authorisation", err, "put the right value into keys.tpm.auth-file; tpm2_dictionarylockout -c ends a lockout")
		c.keyTrouble = true
		checks = append(checks, c)
	}
	return checks
}

// sealSecret seals a secret into a new file.
func (k *keyring) sealSecret(ctx context.Context, out string, secret []byte, pcrs string, withAuth bool) error {
	list, err := tpm.ParsePCRs(pcrs)
	if err != nil {
		return cmdline.Usage("--pcrs: %v", err)
	}
	t, err := k.openTPM(k.tpmURI(tpm.Scheme))
	if err != nil {
		return err
	}
	defer t.Close()
	sealer := t.(*tpm.Token)
	if err := sealer.Seal(ctx, out, secret, list, withAuth); err != nil {
		return err
	}
	if _, err := sealer.Unseal(ctx, out); err != nil { // what does not open now never will
		return errors.Join(fmt.Errorf("opening what was sealed: %w", err), os.Remove(out))
	}
	return nil
}

// attestationReport is what an attestation proves and what it only claims, in sentences.
type attestationReport struct {
	// Endorsed is true when a certificate of the TPM leads to one of the given roots.
	Endorsed bool `json:"endorsed"`
	// Proven follows from signatures over what was given.
	Proven []string `json:"proven"`
	// Claimed is the word of the machine that made the attestation.
	Claimed []string `json:"claimed"`

	key crypto.PublicKey
}

// verifyAttestation checks an attestation offline; roots are those of TPM makers, nil for none.
func verifyAttestation(a hsm.Attestation, roots *x509.CertPool) (attestationReport, error) {
	r, err := tpm.VerifyAttestation(a, roots)
	return attestationReport{Endorsed: r.Endorsed, Proven: r.Proven, Claimed: r.Claimed, key: r.Key}, err
}
