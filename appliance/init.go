package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

func initCommand() *cli.Command {
	return &cli.Command{
		Name: "init", Usage: "make a state directory: keys, certificates, logs, trust repository, configuration",
		Flags: append([]cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "state directory to make; must not exist, or be empty (required; asked at a terminal)", EnvVars: []string{"REDOUBT_DIR"}},
			&cli.StringFlag{Name: "domain", Usage: "DNS domain of this deployment; part of the log origins for good (required; asked at a terminal)", EnvVars: []string{"REDOUBT_DOMAIN"}},
			&cli.StringFlag{Name: "profile", Value: profileDev, Usage: "dev or production", EnvVars: []string{"REDOUBT_PROFILE"}},
			&cli.StringFlag{Name: "keys", Value: "soft:", Usage: "token that holds the keys: soft:, pkcs11:token=NAME?module-path=PATH&pin-source=FILE, tpm:device=PATH, or hashivault://PREFIX?address=URL&ca-file=FILE&auth=METHOD&... (docs config, keys.vault)", EnvVars: []string{"REDOUBT_KEYS"}},
			&cli.StringFlag{Name: "tpm-device", Usage: "TPM device or swtpm socket, for keys in a TPM, tpm-sealed: files and counters (default /dev/tpmrm0)", EnvVars: []string{"REDOUBT_TPM_DEVICE"}},
			plainSessionsFlag(),
			&cli.StringFlag{Name: "tpm-auth-file", Usage: "authorisation value of keys in a TPM, one line of at most 32 octets (default: none)", EnvVars: []string{"REDOUBT_TPM_AUTH_FILE"}},
			&cli.StringSliceFlag{Name: "highwater", Usage: "counter of a TPM that binds high-water marks besides the file: tpm:nv=0x01...... (repeatable)", EnvVars: []string{"REDOUBT_HIGHWATER"}},
			&cli.StringFlag{Name: "passphrase-file", Usage: "passphrase of software keys (default: a random one in DIR/keys)", EnvVars: []string{"REDOUBT_PASSPHRASE_FILE"}},
			&cli.BoolFlag{Name: "allow-software-keys", Usage: "accept software keys in the production profile", EnvVars: []string{"REDOUBT_ALLOW_SOFTWARE_KEYS"}},
			&cli.StringFlag{Name: "tls-cert", Usage: "PEM certificate of the listeners (production; default: made here below a TLS root of this site)", EnvVars: []string{"REDOUBT_TLS_CERT"}},
			&cli.StringFlag{Name: "tls-key", Usage: "its private key: a PEM file, or the URI of a key in a token", EnvVars: []string{"REDOUBT_TLS_KEY"}},
			&cli.StringFlag{Name: "tls-ca", Usage: "PEM of the CA that signed --tls-cert, handed to clients", EnvVars: []string{"REDOUBT_TLS_CA"}},
			&cli.StringFlag{Name: "address", Usage: "IP address of this machine: each service on a port of its own there, for sites without DNS (production)", EnvVars: []string{"REDOUBT_ADDRESS"}},
			&cli.IntFlag{Name: "first-port", Value: 8441, Usage: "with --address: the first of those ports", EnvVars: []string{"REDOUBT_FIRST_PORT"}},
			&cli.StringFlag{Name: "ceremony", Usage: "folder of a ceremony held before (found or offline-root): its keys and certificates are taken over", EnvVars: []string{"REDOUBT_CEREMONY"}},
			&cli.StringSliceFlag{Name: "approver", Usage: "file of somebody who may approve acts, as ceremony operator new prints it (repeatable)", EnvVars: []string{"REDOUBT_APPROVER"}},
			&cli.IntFlag{Name: "approvals", Value: 2, Usage: "with --approver: how many of them must agree", EnvVars: []string{"REDOUBT_APPROVALS"}},
			&cli.StringFlag{Name: "owner", Usage: "user that will run the server; everything made is given to it", EnvVars: []string{"REDOUBT_OWNER"}},
			&cli.BoolFlag{Name: "one-process", Usage: "run every role in one process, of one user (production; default: each in its own, `serve --roles`)", EnvVars: []string{"REDOUBT_ONE_PROCESS"}},
			&cli.StringFlag{Name: "plugin", Usage: "SCHEME=PATH: sigstore KMS plugin behind --keys SCHEME://PREFIX, pinned by its SHA-256 as it is now", EnvVars: []string{"REDOUBT_PLUGIN"}},
			&cli.BoolFlag{Name: "one-tree", Usage: "one artifact log for both wire formats; stock clients then accept signatures that were never logged", EnvVars: []string{"REDOUBT_ONE_TREE"}},
			&cli.BoolFlag{Name: "accept-clock", Usage: "the clock is right although it is years ahead of this release (production)", EnvVars: []string{"REDOUBT_ACCEPT_CLOCK"}},
			&cli.BoolFlag{Name: "non-interactive", Usage: "never ask; every answer is a flag", EnvVars: []string{"REDOUBT_NON_INTERACTIVE"}},
			cmdline.OutputFlag(),
		}, roleFlags()...),
		Action: func(c *cli.Context) error {
			logger, err := cmdline.NewLogger(c)
			if err != nil {
				return err
			}
			if err := answerInit(c); err != nil {
				return err
			}
			request, err := newInitRequest(c)
			if err != nil {
				return err
			}
			result, err := initialise(c.Context, request, logger, cmdline.Progress(c))
			if errors.Is(err, errSoftwareKeys) {
				return cmdline.Hinted(err, "--keys 'pkcs11:token=NAME?module-path=PATH&pin-source=FILE', or --allow-software-keys if you accept that copying the disk copies the keys%s", tokenProposals(c.Context, c.String("tpm-device")))
			}
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, result, result.print)
		},
	}
}

// initResult is the JSON of `redoubt init -o json`.
type initResult struct {
	Dir             string            `json:"dir"`
	Config          string            `json:"config"`
	HighWater       string            `json:"highwater"`
	PassphraseFile  string            `json:"passphraseFile,omitempty"`
	RootFingerprint string            `json:"rootFingerprint"`              // SHA-256 of the root certificate, lower-case hex
	TLSFingerprint  string            `json:"tlsRootFingerprint,omitempty"` // SHA-256 of the listeners' root, where it is made here
	Keys            []keyRecord       `json:"keys"`
	URLs            map[string]string `json:"urls"`
	Software        bool              `json:"softwareKeys"`
	Notes           []string          `json:"notes,omitempty"` // what this version leaves to the operator
	OneTree         bool              `json:"oneTree"`
	apart           bool
}

// keyRecord is one line of a key inventory.
type keyRecord struct {
	Role string `json:"role"`
	hsm.Info
}

var errDirTaken = errors.New("the state directory is not empty")

// initialise makes the whole state directory beside its final place and moves it there as the last step, so that DIR holds a
// complete instance or nothing. Keys made inside a hardware token stay there when a later step fails; the error names them.
func initialise(ctx context.Context, request initRequest, logger *slog.Logger, out io.Writer) (*initResult, error) {
	final, err := filepath.Abs(request.Dir)
	if err != nil {
		return nil, err
	}
	if err := checkFree(layout{final}); err != nil {
		return nil, err
	}
	cfg, err := initialConfig(request)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(final), 0o755); err != nil {
		return nil, err
	}
	building, err := os.MkdirTemp(filepath.Dir(final), filepath.Base(final)+".init-")
	if err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	dir := layout{building}
	defer os.RemoveAll(building)
	defer func() {
		for _, path := range dir.markFiles() {
			os.Remove(path)
		}
	}()

	cfg.Dir = building
	result, err := build(ctx, cfg, dir, request, logger, out)
	if err != nil {
		return nil, err
	}
	if err := giveTo(request.Owner, dir); err != nil {
		return nil, err
	}
	unowned := error(nil)
	if cfg.Roles != nil {
		if _, unowned = cfg.Roles.gid(); os.Geteuid() != 0 {
			unowned = errors.New("only root can give files away")
		}
		if unowned == nil {
			unowned = own(cfg, dir)
		}
	}
	if err := settle(dir, layout{final}); err != nil {
		return nil, err
	}
	if cfg.Profile == profileProduction {
		result.Notes = slices.Clone(productionNotes)
	}
	if unowned != nil {
		result.Notes = append(result.Notes, fmt.Sprintf("the roles cannot run apart yet: %v. Then, as root: redoubt roles apart --dir %s. Until then `redoubt serve` runs them in one process; --one-process makes an instance for that alone", unowned, final))
	}
	settleKeys(result.Keys, building, final)
	result.Dir, result.Config, result.HighWater = final, layout{final}.config(), layout{final}.highWater()
	if result.PassphraseFile != "" {
		result.PassphraseFile = layout{final}.resolve(cfg.Keys.PassphraseFile)
	}
	return result, nil
}

// settleKeys names the final folder where keys were described in the one they were made in.
func settleKeys(keys []keyRecord, from, to string) {
	for i := range keys {
		k := &keys[i]
		k.Token = strings.ReplaceAll(k.Token, from, to)
		for j, e := range k.Evidence {
			k.Evidence[j] = strings.ReplaceAll(e, from, to)
		}
		for name, value := range k.Attributes {
			k.Attributes[name] = strings.ReplaceAll(value, from, to)
		}
	}
}

// checkFree refuses a directory that holds anything, and a high-water file without its directory: that is what is left of
// an instance whose directory went away, and making a new one under its name would put two histories behind one origin.
func checkFree(final layout) error {
	entries, err := os.ReadDir(final.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("looking at the state directory: %w", err)
	}
	if len(entries) > 0 {
		return cmdline.Hinted(fmt.Errorf("%w: %s holds %s", errDirTaken, final.root, entries[0].Name()), "choose another --dir; init never overwrites")
	}
	if left := final.markFiles(); len(left) > 0 {
		return cmdline.Hinted(fmt.Errorf("%w: %s is left of an earlier instance", errDirTaken, left[0]),
			"restore that instance, or move the file away if its logs are retired for good")
	}
	return nil
}

func initialConfig(request initRequest) (cfg *Config, err error) {
	var server *Vault
	if isVault(request.Keys) {
		if request.Keys, server, err = vaultBlock(request.Keys); err != nil {
			return nil, cmdline.Usage("--keys: %v", err)
		}
	}
	var chip *TPM
	if isTPM(request.Keys) {
		if request.Keys, chip, err = tpmBlock(request.Keys); err != nil {
			return nil, cmdline.Usage("--keys: %v", err)
		}
	}
	switch request.Profile {
	case profileDev:
		cfg, err = devConfig(request.Domain, request.Keys, request.OneTree)
	case profileProduction:
		cfg, err = productionConfig(request)
	default:
		err = cmdline.Usage("--profile %q: want dev or production", request.Profile)
	}
	if err != nil {
		return nil, err
	}
	cfg.Keys.Vault, cfg.Approvers = server, request.Approvers
	if cfg.Profile == profileProduction {
		owner := request.Owner
		if owner == "" {
			owner = strconv.Itoa(os.Getuid())
		}
		cfg.People = &People{Members: firstPeople(owner)}
	}
	if err := cfg.Approvers.check(); len(err) > 0 {
		return nil, cmdline.Usage("--approver: %v", err[0])
	}
	if request.Plugin != "" {
		scheme, pinned, err := pinPlugin(request.Plugin)
		if err != nil {
			return nil, cmdline.Usage("--plugin: %v", err)
		}
		cfg.Keys.Plugins = map[string]KeyPlugin{scheme: pinned}
	}
	if cfg.Log.HighWater = request.HighWater; len(request.HighWater) > 0 && slices.ContainsFunc(request.HighWater, func(place string) bool { return !isTPM(place) }) {
		return nil, cmdline.Usage("--highwater takes counters of a TPM, tpm:nv=0x01......; the file %s.highwater is always made", request.Dir)
	}
	if cfg.Keys.TPM, err = request.tpm(chip); err != nil {
		return nil, err
	}
	if strings.HasPrefix(request.Keys, "soft:") {
		cfg.Keys.PassphraseFile = request.PassphraseFile
		if cfg.Keys.PassphraseFile == "" {
			cfg.Keys.PassphraseFile = filepath.Join("keys", "passphrase")
		} else if cfg.Keys.PassphraseFile, err = absoluteSecret(cfg.Keys.PassphraseFile); err != nil {
			return nil, err
		}
	} else if request.PassphraseFile != "" {
		return nil, cmdline.Usage("--passphrase-file is for software keys; a PKCS#11 URI names its PIN file as pin-source")
	}
	if request.adopted != nil {
		request.adopted.configure(cfg)
	}
	return cfg, nil
}

// settle moves the finished directory and its high-water file to their names. The file goes first: a crash between the two
// leaves a file that init names, never a directory without its mark.
func settle(from, to layout) error {
	for _, path := range from.markFiles() {
		if err := os.Rename(path, to.highWater()+strings.TrimPrefix(path, from.highWater())); err != nil {
			return fmt.Errorf("placing the high-water file: %w", err)
		}
	}
	// rename(2) itself, because os.Rename refuses the empty directory that may stand there.
	if err := unix.Rename(from.root, to.root); err != nil {
		for _, path := range to.markFiles() {
			os.Remove(path)
		}
		return fmt.Errorf("placing the state directory: %w", err)
	}
	return syncDir(filepath.Dir(to.root))
}

// giveTo makes the user called owner the owner of the directory and its high-water file; "" changes nothing.
func giveTo(owner string, dir layout) error {
	if owner == "" {
		return nil
	}
	u, err := user.Lookup(owner)
	if err != nil {
		return fmt.Errorf("--owner: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	for _, path := range dir.markFiles() {
		if err := os.Lchown(path, uid, gid); err != nil {
			return fmt.Errorf("--owner: %w", err)
		}
	}
	return filepath.WalkDir(dir.root, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, uid, gid)
	})
}

func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

func (r *initResult) print(w io.Writer) {
	if r.Software {
		fmt.Fprint(w, softwareBanner)
	}
	if r.OneTree {
		fmt.Fprint(w, oneTreeWarning)
	}
	fmt.Fprintf(w, "state directory   %s\nconfiguration     %s\nhigh-water file   %s\n", r.Dir, r.Config, r.HighWater)
	if r.PassphraseFile != "" {
		fmt.Fprintf(w, "passphrase file   %s\n", r.PassphraseFile)
	}
	fmt.Fprintf(w, "root certificate  SHA-256 %s\n", r.RootFingerprint)
	if r.TLSFingerprint != "" {
		fmt.Fprintf(w, "TLS root          SHA-256 %s\n", r.TLSFingerprint)
	}
	fmt.Fprint(w, "\nkeys\n")
	for _, k := range r.Keys {
		fmt.Fprintf(w, "  %-9s %-11s %s\n", k.Role, k.Algorithm, k.URI)
	}
	fmt.Fprint(w, "\nservices\n")
	for _, name := range serviceNames {
		if u, ok := r.URLs[name]; ok {
			fmt.Fprintf(w, "  %-9s %s\n", name, u)
		}
	}
	for _, note := range r.Notes {
		fmt.Fprintf(w, "\nnote: %s\n", note)
	}
	if r.apart {
		fmt.Fprintf(w, "\nnext: systemctl enable --now redoubt.target         where install.sh put it, or `redoubt serve --dir %s --roles ROLE` as each user\n", r.Dir)
	} else {
		fmt.Fprintf(w, "\nnext: redoubt serve --dir %s\n", r.Dir)
	}
	if len(r.Notes) > 0 { // production
		if !r.apart {
			fmt.Fprintln(w, "      systemctl enable --now redoubt.service         instead, where install.sh put it")
		}
		fmt.Fprintf(w, "      redoubt client setup --dir %s --out setup      what clients need\n      redoubt doctor --dir %s                        what is left to do\n", r.Dir, r.Dir)
	}
}

const oneTreeWarning = `WARNING: one tree for Rekor v1 and v2. Clients built on sigstore-go up to 1.3.0, cosign 3.1.3 among them, accept a signature
that was never logged when they are shown somebody else's v2 entry under a v1 checkpoint of this tree. redoubt verify refuses it.
Without --one-tree each wire format has a tree of its own and they refuse it too: docs/adr/0009-two-trees.md.

`

// productionNotes say what a production site must see to itself, because this version does not.
var productionNotes = []string{
	"the high-water mark is a file on this machine's disk; keep it out of every backup of the directory. A counter of a TPM binds a second one: --highwater tpm:nv=0x01...... . Marks in an HSM or at a witness are not part of this version",
	"who may do what: people in redoubt.yaml, root and the server's user at first. Acts that need approval (`redoubt docs permissions`) are refused until approvers are configured: --approver FILE, or the block approvers",
	"no backup is configured: set backup: in the configuration (`redoubt docs config`), or run `redoubt backup create --to FOLDER --recipient age1...`",
	"no issuer is configured: add oidc-issuers, with jwks where the issuer cannot be reached, then SIGHUP",
}

const softwareBanner = `********************************************************************************
*  SOFTWARE KEYS. Whoever copies this disk and the passphrase has every key.   *
*  Good for a trial; for production use an HSM: init --keys pkcs11:...         *
********************************************************************************
`
