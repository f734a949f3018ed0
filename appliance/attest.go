package main

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
)

// attestArgs are those of `redoubt keys attest`.
type attestArgs struct {
	Role  string `json:"role"`
	Nonce []byte `json:"nonce"`
}

// attestResult is the JSON of `redoubt keys attest -o json`.
type attestResult struct {
	Role        string          `json:"role"` // name of the key that signs for it
	File        string          `json:"file"` // where the attestation was written
	Attestation hsm.Attestation `json:"attestation"`
}

const maxNonce = 32

func attestCommand() *cli.Command {
	return &cli.Command{
		Name: "attest", Usage: "have a role's token state that it made the key, beside the certificates", ArgsUsage: "ROLE",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(),
			&cli.StringFlag{Name: "nonce", Usage: "challenge of whoever will check the statement, hex, at most 32 bytes (default: random)", EnvVars: []string{"REDOUBT_NONCE"}}),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("keys attest takes one ROLE")
			}
			nonce, err := parseNonce(c.String("nonce"))
			if err != nil {
				return err
			}
			result, err := attestKey.call(c, attestArgs{c.Args().First(), nonce})
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, result, func(w io.Writer) {
				fmt.Fprintf(w, "%s: %s over key %s\n%s\n", result.Role, result.Attestation.Format, result.Attestation.Fingerprint, result.File)
			})
		},
	}
}

// parseNonce reads hex; "" draws a random challenge.
func parseNonce(text string) ([]byte, error) {
	if text == "" {
		nonce := make([]byte, maxNonce)
		_, err := rand.Read(nonce)
		return nonce, err
	}
	nonce, err := hex.DecodeString(text)
	if err != nil || len(nonce) > maxNonce {
		return nil, cmdline.Usage("--nonce: want hex of at most %d bytes", maxNonce)
	}
	return nonce, nil
}

// attestKey has the token of a role's key state that it made it, and writes the statement to pki/NAME.attestation.json.
var attestKey = verb[attestArgs, attestResult]{"keys.attest", func(ctx context.Context, in *instance, actor string, a attestArgs) (attestResult, error) {
	name := a.Role
	if in.onRecord().find(name) == nil || len(in.onRecord().of(name)) > 0 {
		name = in.onRecord().active(a.Role)
	}
	if _, ok := in.cfg.Keys.Roles[name]; !ok {
		return attestResult{}, cmdline.Usage("%q: no such role", a.Role)
	}
	if len(a.Nonce) > maxNonce {
		return attestResult{}, cmdline.Usage("a nonce of %d bytes; at most %d", len(a.Nonce), maxNonce)
	}
	key, err := in.keys.role(ctx, name)
	if err != nil {
		return attestResult{}, err
	}
	result := attestResult{Role: name, File: in.dir.pki(name + ".attestation.json")}
	result.Attestation, err = key.Attest(ctx, a.Nonce)
	if errors.Is(err, hsm.ErrUnsupported) {
		return result, cmdline.Hinted(err, "a TPM attests its keys; of a key elsewhere `redoubt keys list -o json` shows what its token claims, which is no proof")
	}
	if err != nil {
		return result, err
	}
	if result.Attestation.Fingerprint != key.Info().Fingerprint {
		return result, fmt.Errorf("the token attested key %s, the role's is %s", result.Attestation.Fingerprint, key.Info().Fingerprint)
	}
	if _, err := verifyAttestation(result.Attestation, nil); err != nil { // what does not verify is not written
		return result, err
	}
	if err := in.record(ctx, actor, "keys.attest", name, map[string]string{"fingerprint": result.Attestation.Fingerprint, "nonce": hex.EncodeToString(a.Nonce)}); err != nil {
		return result, err
	}
	data, err := json.MarshalIndent(result.Attestation, "", "  ")
	if err != nil {
		return result, err
	}
	return result, replaceFile(result.File, append(data, '\n'), 0o644)
}}
