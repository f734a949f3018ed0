// Chains-sign signs as the controller of Tekton Chains does, by its own code: it reads the data of a ConfigMap as JSON from standard input, and signs
// the in-toto statement in the file of its second argument with the signing secrets in the folder of its first, or by Fulcio where the configuration
// says so. Where it enables transparency it logs the envelope by the calls of pkg/chains/rekor.go. It prints {"config", "envelope", "certificate",
// "transparency"}, the last being what Chains annotates the run with.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

	"github.com/sigstore/cosign/v2/pkg/cosign"
	"github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/tektoncd/chains/pkg/chains/signing"
	"github.com/tektoncd/chains/pkg/chains/signing/x509"
	"github.com/tektoncd/chains/pkg/config"
)

func main() {
	if err := sign(context.Background(), os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "chains-sign:", err)
		os.Exit(1)
	}
}

func sign(ctx context.Context, secrets, statement string) error {
	var data map[string]string
	if err := json.NewDecoder(os.Stdin).Decode(&data); err != nil {
		return err
	}
	c, err := config.NewConfigFromMap(data)
	if err != nil {
		return err
	}
	payload, err := os.ReadFile(statement)
	if err != nil {
		return err
	}
	plain, err := x509.NewSigner(ctx, secrets, *c)
	if err != nil {
		return err
	}
	wrapped, err := signing.Wrap(plain)
	if err != nil {
		return err
	}
	envelope, err := wrapped.SignMessage(bytes.NewReader(payload))
	if err != nil {
		return err
	}
	out := map[string]any{"config": c, "envelope": json.RawMessage(envelope), "certificate": plain.Cert()}
	if c.Transparency.Enabled {
		if out["transparency"], err = upload(ctx, c.Transparency.URL, wrapped, envelope); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// upload logs an in-toto envelope with its certificate, or with the signer's key where there is none.
func upload(ctx context.Context, url string, signer signing.Signer, envelope []byte) (string, error) {
	log, err := client.GetRekorClient(url)
	if err != nil {
		return "", err
	}
	verifier := []byte(signer.Cert())
	if len(verifier) == 0 {
		public, err := signer.PublicKey()
		if err != nil {
			return "", err
		}
		if verifier, err = cryptoutils.MarshalPublicKeyToPEM(public); err != nil {
			return "", err
		}
	}
	entry, err := cosign.TLogUploadInTotoAttestation(ctx, log, envelope, verifier)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s/api/v1/log/entries?logIndex=%d", url, *entry.LogIndex), nil
}
