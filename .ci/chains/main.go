// Chains-sign signs as the controller of Tekton Chains does, by its own code: it reads the data of a ConfigMap as JSON from standard input, and signs
// the in-toto statement in the file of its second argument with the signing secrets in the folder of its first, or by Fulcio where the configuration
// says so. It prints {"config", "envelope", "certificate"}.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"

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
	return json.NewEncoder(os.Stdout).Encode(map[string]any{"config": c, "envelope": json.RawMessage(envelope), "certificate": plain.Cert()})
}
