package verifying

import (
	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
)

// receiptFlags ask for a signed receipt of a verification.
func receiptFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "receipt", Usage: "with --policy, of what it allows: write a signed and logged receipt (SLSA verification summary) to this file; talks to the services of --receipt-setup", EnvVars: []string{"REDOUBT_RECEIPT"}},
		&cli.StringFlag{Name: "receipt-setup", Usage: "folder of `redoubt client setup` of the instance that certifies and logs the receipt", EnvVars: []string{"REDOUBT_RECEIPT_SETUP"}},
		&cli.StringFlag{Name: "identity-token", Usage: "with --receipt: a file that holds the OIDC token of who verifies, or - for standard input", EnvVars: []string{"REDOUBT_IDENTITY_TOKEN", "SIGSTORE_ID_TOKEN"}},
	}
}

// checkReceipt refuses what no receipt can be made of, before anything is judged.
func checkReceipt(c *cli.Context) error {
	switch {
	case c.String("receipt") == "":
		return nil
	case c.String("policy") == "":
		return cmdline.Usage("--receipt needs --policy: a receipt says by which policy something was verified")
	case c.String("receipt-setup") == "":
		return cmdline.Usage("--receipt needs --receipt-setup DIR, written by `redoubt client setup`: who signs and logs it")
	case c.Bool("prove-offline"):
		return cmdline.Usage("--prove-offline has no network, and --receipt asks a certificate authority and a log")
	}
	return nil
}
