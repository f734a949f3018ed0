package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/urfave/cli/v2"
	"redoubt.internal/appliance/cmdline"
)

// serviceFlags say which services certify and log a signature, and for whom.
func serviceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "identity-token", Usage: "a file that holds the OIDC token, - for standard input, or the token itself (others on the machine can read it there)", EnvVars: []string{"REDOUBT_IDENTITY_TOKEN", "SIGSTORE_ID_TOKEN"}},
		&cli.StringFlag{Name: "setup", Usage: "folder with trusted_root.json and the signing configs", EnvVars: []string{"REDOUBT_SETUP"}},
		&cli.StringFlag{Name: "trusted-root", Usage: "trusted_root.json (default: the one in --setup)", EnvVars: []string{"REDOUBT_TRUSTED_ROOT"}},
		&cli.StringFlag{Name: "signing-config", Usage: "signing config (default: the one in --setup)", EnvVars: []string{"REDOUBT_SIGNING_CONFIG"}},
		&cli.BoolFlag{Name: "rekor-v2", Usage: "record in the v2 log API", EnvVars: []string{"REDOUBT_REKOR_V2"}},
	}
}

func signCommand() *cli.Command {
	return &cli.Command{
		Name: "sign", Usage: "sign a file with a one-time key and a certificate for an identity", ArgsUsage: "FILE",
		Description: "The services are those of --setup, a folder written by `redoubt client setup`. The bundle is verified before it is written.",
		Flags: append(serviceFlags(),
			&cli.StringFlag{Name: "bundle", Required: true, Usage: "file to write the Sigstore bundle to", EnvVars: []string{"REDOUBT_BUNDLE"}},
			&cli.StringFlag{Name: "payload-type", Usage: "sign FILE as the payload of a DSSE envelope of this type, such as application/vnd.in-toto+json", EnvVars: []string{"REDOUBT_PAYLOAD_TYPE"}},
			cmdline.OutputFlag(),
		),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("sign takes one FILE")
			}
			data, err := os.ReadFile(c.Args().First())
			if err != nil {
				return err
			}
			content := sign.Content(&sign.PlainData{Data: data})
			if t := c.String("payload-type"); t != "" {
				content = &sign.DSSEData{Data: data, PayloadType: t}
			}
			result, err := signTo(c, c.String("bundle"), namedServices(c), content)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, result, func(w io.Writer) {
				fmt.Fprintf(w, "signed %s, log index %d, bundle %s\n", c.Args().First(), result.LogIndex, result.Bundle)
			})
		},
	}
}

// signResult is the JSON of `redoubt sign -o json` and of `redoubt attest -o json`.
type signResult struct {
	Bundle   string `json:"bundle"`   // the file that was written
	LogIndex int64  `json:"logIndex"` // as the log gave it: over all logs in Rekor v1, within its tree in Rekor v2
}

// signRequest is one signature to make.
type signRequest struct {
	Content     sign.Content
	Token       string
	TrustedRoot *root.TrustedRoot
	Services    *root.SigningConfig
}

// serviceFiles say where the files of the services are: in setup, where no other is named.
type serviceFiles struct{ setup, trustedRoot, signingConfig string }

func namedServices(c *cli.Context) serviceFiles {
	return serviceFiles{c.String("setup"), c.String("trusted-root"), c.String("signing-config")}
}

// readServices reads which services sign, and the token of who does.
func readServices(c *cli.Context, at serviceFiles) (r signRequest, err error) {
	setup, rootPath, configPath := at.setup, at.trustedRoot, at.signingConfig
	if setup == "" && (rootPath == "" || configPath == "") {
		return r, cmdline.Usage("name the services: --setup DIR (written by `redoubt client setup`), or --trusted-root and --signing-config")
	}
	name := "signing_config.v0.2.json"
	if c.Bool("rekor-v2") {
		name = "signing_config_rekor_v2.v0.2.json"
	}
	if r.TrustedRoot, err = root.NewTrustedRootFromPath(orDefault(rootPath, filepath.Join(setup, "trusted_root.json"))); err != nil {
		return r, fmt.Errorf("reading the trusted root: %w", err)
	}
	if r.Services, err = root.NewSigningConfigFromPath(orDefault(configPath, filepath.Join(setup, name))); err != nil {
		return r, fmt.Errorf("reading the signing config: %w", err)
	}
	r.Token, err = readToken(c.String("identity-token"), c.App.Reader)
	return r, err
}

const maxTokenBytes = 64 << 10

// readToken takes the token from a file, from standard input (-), or as it stands when it looks like one.
func readToken(source string, stdin io.Reader) (string, error) {
	var data []byte
	var err error
	switch {
	case source == "":
		return "", cmdline.Usage("--identity-token, $REDOUBT_IDENTITY_TOKEN or $SIGSTORE_ID_TOKEN is missing")
	case source == "-":
		data, err = io.ReadAll(io.LimitReader(stdin, maxTokenBytes))
	case strings.Count(source, ".") == 2 && strings.HasPrefix(source, "ey"):
		return source, nil
	default:
		if data, err = os.ReadFile(source); errors.Is(err, fs.ErrNotExist) {
			return "", cmdline.Usage("--identity-token is neither a token nor a file that exists")
		}
	}
	if err != nil {
		return "", fmt.Errorf("reading the identity token: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

const clientTimeout = 30 * time.Second

// signBundle does what a client does: a one-time key, a certificate for the token, a timestamp, a log entry; and verifies
// the bundle against the trusted root before handing it out.
func signBundle(ctx context.Context, r signRequest) (*protobundle.Bundle, error) {
	keypair, err := sign.NewEphemeralKeypair(nil)
	if err != nil {
		return nil, err
	}
	now := clock()
	fulcio, err := root.SelectService(r.Services.FulcioCertificateAuthorityURLs(), []uint32{1}, now)
	if err != nil {
		return nil, fmt.Errorf("choosing the CA: %w", err)
	}
	rekor, err := root.SelectService(r.Services.RekorLogURLs(), []uint32{1, 2}, now)
	if err != nil {
		return nil, fmt.Errorf("choosing the log: %w", err)
	}
	options := sign.BundleOptions{
		Context:                    ctx,
		TrustedRoot:                r.TrustedRoot,
		CertificateProvider:        sign.NewFulcio(&sign.FulcioOptions{BaseURL: fulcio.URL, Timeout: clientTimeout, Transport: keepReason{http.DefaultTransport}}),
		CertificateProviderOptions: &sign.CertificateProviderOptions{IDToken: r.Token},
		TransparencyLogs:           []sign.Transparency{sign.NewRekor(&sign.RekorOptions{BaseURL: rekor.URL, Timeout: clientTimeout, Version: rekor.MajorAPIVersion})},
	}
	if len(r.Services.TimestampAuthorityURLs()) > 0 {
		tsa, err := root.SelectService(r.Services.TimestampAuthorityURLs(), []uint32{1}, now)
		if err != nil {
			return nil, fmt.Errorf("choosing the timestamp authority: %w", err)
		}
		options.TimestampAuthorities = []*sign.TimestampAuthority{sign.NewTimestampAuthority(&sign.TimestampAuthorityOptions{URL: tsa.URL, Timeout: clientTimeout, Transport: keepReason{http.DefaultTransport}})}
	}
	bundle, err := sign.Bundle(r.Content, keypair, options)
	if err != nil {
		return nil, cmdline.Unavailable(fmt.Errorf("signing: %w", err))
	}
	return bundle, nil
}

// keepReason makes the body of an error answer readable after Close: sigstore-go closes every answer it might retry on, and
// then reads the reason out of the last one.
type keepReason struct{ next http.RoundTripper }

const maxReason = 64 << 10 // of an error answer in bytes

func (k keepReason) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := k.next.RoundTrip(request)
	if err != nil || response.StatusCode < 300 {
		return response, err
	}
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReason))
	response.Body.Close()
	if err != nil {
		return nil, fmt.Errorf("reading the reason of %s: %w", response.Status, err)
	}
	response.Body = io.NopCloser(bytes.NewReader(bytes.TrimSpace(body)))
	return response, nil
}
