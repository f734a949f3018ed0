package main

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// maxAttestation bounds an attestation file.
const maxAttestation = 1 << 20

var errAttestation = errors.New("the attestation is not of what was asked for")

// attestationCommand checks what `keys attest` wrote; it needs neither the instance nor a TPM, and no network.
func attestationCommand() *cli.Command {
	return &cli.Command{
		Name: "attestation", Usage: "check an attestation offline: what it proves, what is only claimed", ArgsUsage: "FILE",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "roots", Usage: "PEM roots of TPM makers; without them nothing says that a TPM made the statement", EnvVars: []string{"REDOUBT_ROOTS"}},
			&cli.StringFlag{Name: "nonce", Usage: "the challenge it must be over, hex", EnvVars: []string{"REDOUBT_NONCE"}},
			&cli.StringFlag{Name: "certificate", Usage: "PEM certificate or chain whose first key it must be about", EnvVars: []string{"REDOUBT_CERTIFICATE"}},
			cmdline.OutputFlag(),
		},
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("keys attestation takes one FILE")
			}
			a, err := readAttestation(c.Args().First())
			if err != nil {
				return err
			}
			var roots *x509.CertPool
			if path := c.String("roots"); path != "" {
				data, err := os.ReadFile(path)
				if err != nil {
					return fmt.Errorf("reading the makers' roots: %w", err)
				}
				if roots = x509.NewCertPool(); !roots.AppendCertsFromPEM(data) {
					return fmt.Errorf("%s: no certificate in it", path)
				}
			}
			report, err := verifyAttestation(a, roots)
			if err != nil {
				return err
			}
			if err := asked(c, a, report); err != nil {
				return err
			}
			return cmdline.PrintResult(c, report, func(w io.Writer) { printAttestation(w, report) })
		},
	}
}

// asked compares an attestation with the challenge and the certificate of the flags.
func asked(c *cli.Context, a hsm.Attestation, r attestationReport) error {
	if text := c.String("nonce"); text != "" {
		nonce, err := parseNonce(text)
		if err != nil {
			return err
		}
		if !bytes.Equal(nonce, a.Nonce) {
			return fmt.Errorf("%w: it is over the nonce %x", errAttestation, a.Nonce)
		}
	}
	if path := c.String("certificate"); path != "" {
		chain, err := readChain(path)
		if err != nil {
			return err
		}
		spki, err := x509.MarshalPKIXPublicKey(r.key)
		if err != nil {
			return err
		}
		if !bytes.Equal(spki, chain[0].RawSubjectPublicKeyInfo) {
			return fmt.Errorf("%w: the first certificate of %s has another key", errAttestation, path)
		}
	}
	return nil
}

// readAttestation reads a file of `keys attest`; anything beyond one is refused.
func readAttestation(path string) (a hsm.Attestation, err error) {
	f, err := os.Open(path)
	if err != nil {
		return a, fmt.Errorf("reading an attestation: %w", err)
	}
	defer f.Close()
	d := json.NewDecoder(io.LimitReader(f, maxAttestation))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return a, fmt.Errorf("reading the attestation %s: %w", path, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return a, fmt.Errorf("reading the attestation %s: data after its end", path)
	}
	return a, nil
}

func printAttestation(w io.Writer, r attestationReport) {
	for _, s := range r.Proven {
		fmt.Fprintf(w, "proven   %s\n", s)
	}
	for _, s := range r.Claimed {
		fmt.Fprintf(w, "claimed  %s\n", s)
	}
}
