package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/installer"
	"redoubt.internal/mirror/parcel"
)

func bundleCommand() *cli.Command {
	return &cli.Command{
		Name: "bundle", Usage: "the one file that installs Redoubt on a machine with no network",
		Subcommands: []*cli.Command{
			{Name: "build", Usage: "compile, pack and sign, from a checkout (needs Go and its module cache)",
				Flags: []cli.Flag{cmdline.OutputFlag(),
					&cli.StringFlag{Name: "source", Value: ".", Usage: "root of the checkout", EnvVars: []string{"REDOUBT_SOURCE"}},
					&cli.StringFlag{Name: "out", Usage: "file to write (default dist/redoubt-VERSION.tar.zst in the checkout)", EnvVars: []string{"REDOUBT_OUT"}},
					&cli.StringFlag{Name: "release", Usage: "version to build (default: this binary's)", EnvVars: []string{"REDOUBT_RELEASE"}},
					&cli.StringSliceFlag{Name: "platform", Usage: "processor to build for, amd64 or arm64 (default both)", EnvVars: []string{"REDOUBT_PLATFORM"}},
					&cli.Int64Flag{Name: "created", Usage: "when it is made, in seconds since 1970 (default: the same for every build)", EnvVars: []string{"REDOUBT_CREATED", "SOURCE_DATE_EPOCH"}},
					&cli.StringFlag{Name: "previous", Usage: "the bundle before this one; the number of this one follows its", EnvVars: []string{"REDOUBT_PREVIOUS"}},
					&cli.StringFlag{Name: "key", Usage: "URI of the ECDSA P-256 key that signs (default: a software key, made in dist/key of the checkout)", EnvVars: []string{"REDOUBT_KEY"}},
					&cli.StringFlag{Name: "passphrase-file", Usage: "passphrase of a software key", EnvVars: []string{"REDOUBT_PASSPHRASE_FILE"}},
					&cli.StringFlag{Name: "pin-file", Usage: "PIN of a PKCS#11 token", EnvVars: []string{"REDOUBT_PIN_FILE"}},
				},
				Action: bundleBuild},
			{Name: "unpack", Usage: "check a bundle and write its folder, where tar knows no zstd", ArgsUsage: "FILE [DIR]", Flags: trustFlags(),
				Action: func(c *cli.Context) error {
					if c.NArg() < 1 || c.NArg() > 2 {
						return cmdline.Usage("bundle unpack takes a FILE and perhaps a DIR")
					}
					trust, err := bundleTrust(c)
					if err != nil {
						return err
					}
					folder, err := installer.Unpack(c.Context, c.Args().First(), orDefault(c.Args().Get(1), "."), trust)
					if err != nil {
						return bundleFault(err)
					}
					fmt.Fprintln(c.App.Writer, folder)
					return nil
				}},
			{Name: "verify", Usage: "check fingerprint, signature, form and digests of a bundle", ArgsUsage: "FILE", Flags: append(trustFlags(), cmdline.OutputFlag()),
				Action: func(c *cli.Context) error {
					if c.NArg() != 1 {
						return cmdline.Usage("bundle verify takes one FILE")
					}
					trust, err := bundleTrust(c)
					if err != nil {
						return err
					}
					report, err := installer.Verify(c.Args().First(), trust)
					if err != nil {
						return bundleFault(err)
					}
					if trust.Fingerprint == "" && len(trust.Keys) == 0 {
						fmt.Fprintln(cmdline.Progress(c), "whole, but nothing says whose it is: compare the fingerprint with the one you were told, or give --fingerprint or --key")
					}
					return printBundle(c, report)
				}},
		},
	}
}

func printBundle(c *cli.Context, r *installer.Report) error {
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s\n%d bytes, %d files, SHA-256 %s\nfingerprint %s\nsigned by   %s\n", r.Path, r.Bytes, len(r.Files), r.SHA256, r.Fingerprint, r.Key)
	})
}

func trustFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "fingerprint", Usage: "of the manifest, as the maker read it out", EnvVars: []string{"REDOUBT_FINGERPRINT"}},
		&cli.StringFlag{Name: "key", Usage: "that must have signed: a public key in PEM, or the key line the build printed", EnvVars: []string{"REDOUBT_KEY"}},
	}
}

func bundleTrust(c *cli.Context) (installer.Trust, error) {
	trust := installer.Trust{Fingerprint: c.String("fingerprint")}
	if c.String("key") == "" {
		return trust, nil
	}
	key, err := installer.ReadKey(c.String("key"))
	if err != nil {
		return trust, err
	}
	trust.Keys = []*parcel.Verifier{key}
	return trust, nil
}

// bundleFault gives another's bundle the exit codes of verify.
func bundleFault(err error) error {
	switch {
	case errors.Is(err, parcel.ErrForeignKey):
		return cmdline.Hinted(cmdline.WithCode(20, err), "get the maker's key, or the fingerprint of the bundle, by another way than the medium")
	case errors.Is(err, installer.ErrFingerprint):
		return cmdline.Hinted(cmdline.WithCode(12, err), "compare it once more with the maker; if it stays another one, do not install this bundle")
	}
	return err
}

func bundleBuild(c *cli.Context) error {
	source, err := filepath.Abs(c.String("source"))
	if err != nil {
		return err
	}
	config := installer.Config{
		Source: source, Out: c.String("out"), Version: orDefault(c.String("release"), versionString()), Platforms: c.StringSlice("platform"),
		Previous: c.String("previous"), Progress: cmdline.Progress(c),
	}
	if at := c.Int64("created"); at != 0 {
		config.Time = time.Unix(at, 0).UTC()
	}
	if config.Out == "" {
		dist := filepath.Join(source, "dist")
		if err := os.MkdirAll(dist, 0o755); err != nil {
			return err
		}
		config.Out = filepath.Join(dist, "redoubt-"+config.Version+".tar.zst")
	}
	keys, uri, err := bundleKeys(c, source)
	if err != nil {
		return err
	}
	defer keys.close()
	key, err := bundleKey(c.Context, keys, uri)
	if err != nil {
		return fmt.Errorf("opening the key that signs: %w", err)
	}
	config.Signer = key
	started := clock()
	report, err := installer.Build(c.Context, config)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmdline.Progress(c), "built in %.0f s, licences of %d modules\n", clock().Sub(started).Seconds(), report.Modules)
	return printBundle(c, report)
}

// bundleKeys opens the token of the key that signs. A checkout without one gets a software key of its own, and is told so.
func bundleKeys(c *cli.Context, source string) (*keyring, string, error) {
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return nil, "", err
	}
	dir := layout{root: filepath.Join(source, "dist", "key")}
	if uri := c.String("key"); uri != "" {
		return newKeyring(Keys{Token: tokenURI(uri), PassphraseFile: c.String("passphrase-file"), PINFile: c.String("pin-file")}, layout{root: "."}, logger), uri, nil
	}
	if err := os.MkdirAll(dir.keys(), 0o700); err != nil {
		return nil, "", err
	}
	passphrase := dir.path("passphrase")
	if _, err := os.Stat(passphrase); errors.Is(err, fs.ErrNotExist) {
		fmt.Fprintf(cmdline.Progress(c), "making a software key for this checkout in %s; a key of your own, in a token, is --key URI\n", dir.root)
		if err := writePassphrase(passphrase); err != nil {
			return nil, "", fmt.Errorf("writing the passphrase: %w", err)
		}
	}
	return newKeyring(Keys{PassphraseFile: passphrase}, dir, logger), "soft:bundle", nil
}

// bundleKey opens the key, and makes it where it is the checkout's own and not there yet.
func bundleKey(ctx context.Context, keys *keyring, uri string) (*hsm.Key, error) {
	token, err := keys.token(uri)
	if err != nil {
		return nil, err
	}
	key, err := token.Signer(ctx, uri)
	if uri == "soft:bundle" && errors.Is(err, hsm.ErrNotFound) {
		return token.Generate(ctx, uri, hsm.ECDSAP256)
	}
	return key, err
}
