// Cosign-verify is cosign's verify-blob and verify-blob-attestation, many times in one process. A line of standard input is a JSON array, the
// arguments of one call, beginning with the command; a line of standard output is the verdict: {} for a yes, {"error"} for a no, {"panic"} for neither.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/sigstore/cosign/v3/cmd/cosign/cli"
	"github.com/spf13/cobra"
)

type verdict struct {
	Error string `json:"error,omitempty"`
	Panic string `json:"panic,omitempty"`
}

func main() {
	cli.New() // gives the flags that all commands share their defaults
	answers := json.NewEncoder(os.Stdout)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var args []string
		err := json.Unmarshal(lines.Bytes(), &args)
		if err == nil {
			err = answers.Encode(verify(args))
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "cosign-verify:", err)
			os.Exit(1)
		}
	}
}

func verify(args []string) (v verdict) {
	defer func() {
		if p := recover(); p != nil {
			v = verdict{Panic: fmt.Sprint(p)}
		}
	}()
	var command *cobra.Command
	switch args[0] {
	case "verify-blob":
		command = cli.VerifyBlob()
	case "verify-blob-attestation":
		command = cli.VerifyBlobAttestation()
	default:
		panic("no command " + args[0])
	}
	command.SetArgs(args[1:])
	command.SetOut(io.Discard)
	command.SetErr(io.Discard)
	if err := command.ExecuteContext(context.Background()); err != nil {
		v.Error = err.Error()
	}
	return v
}
