package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/log/strictjson"
)

const (
	inTotoPayload  = "application/vnd.in-toto+json"
	statementV1    = "https://in-toto.io/Statement/v1"
	maxPredicate   = 16 << 20 // bytes
	predicateDepth = 64
)

// statement is an in-toto Statement v1 (in-toto attestation framework, spec/v1/statement.md).
type statement struct {
	Type          string          `json:"_type"`
	Subject       []subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate"`
}

type subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// about is a statement's subject: a digest, ALGORITHM:HEX, under a name.
func about(name, digest string) []subject {
	algorithm, hex, _ := strings.Cut(digest, ":")
	return []subject{{name, map[string]string{algorithm: hex}}}
}

// content is the statement as it is signed.
func (s statement) content() (sign.Content, error) {
	s.Type = statementV1
	data, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("encoding the statement: %w", err)
	}
	return &sign.DSSEData{Data: data, PayloadType: inTotoPayload}, nil
}

func attestFileCommand() *cli.Command {
	return &cli.Command{
		Name: "attest", Usage: "sign what a file says of an artifact, as an in-toto attestation", ArgsUsage: "FILE|sha256:HEX",
		Description: "The services are those of --setup, a folder written by `redoubt client setup`. The bundle is verified before it is written.",
		Flags: append(serviceFlags(),
			&cli.StringFlag{Name: "bundle", Required: true, Usage: "file to write the Sigstore bundle to", EnvVars: []string{"REDOUBT_BUNDLE"}},
			&cli.StringFlag{Name: "predicate", Required: true, Usage: "file with what is attested, a JSON object", EnvVars: []string{"REDOUBT_PREDICATE"}},
			&cli.StringFlag{Name: "type", Required: true, Usage: "predicate type, a URI or one of cosign's names as slsaprovenance1, spdxjson, cyclonedx, vuln, openvex, custom", EnvVars: []string{"REDOUBT_TYPE"}},
			&cli.StringFlag{Name: "name", Usage: "name of the artifact in the statement (default FILE's)", EnvVars: []string{"REDOUBT_NAME"}},
			cmdline.OutputFlag(),
		),
		Action: func(c *cli.Context) error {
			if c.NArg() != 1 {
				return cmdline.Usage("attest takes one FILE or sha256:HEX")
			}
			content, err := attested(c)
			if err != nil {
				return err
			}
			result, err := signTo(c, c.String("bundle"), namedServices(c), content)
			if err != nil {
				return err
			}
			return cmdline.PrintResult(c, result, func(w io.Writer) {
				fmt.Fprintf(w, "attested %s, log index %d, bundle %s\n", c.Args().First(), result.LogIndex, result.Bundle)
			})
		},
	}
}

// attested is the statement that the flags of attest describe.
func attested(c *cli.Context) (sign.Content, error) {
	kind := orDefault(verifying.CosignTypes[c.String("type")], c.String("type"))
	if !strings.Contains(kind, ":") {
		return nil, cmdline.Usage("--type %.100q is neither the URI of a predicate type nor one of its names", kind)
	}
	predicate, err := readPredicate(c.String("predicate"))
	if err != nil {
		return nil, err
	}
	operand := c.Args().First()
	s := statement{PredicateType: kind, Predicate: predicate}
	if hex, ok := strings.CutPrefix(operand, "sha256:"); ok {
		if len(hex) != 64 || strings.Trim(hex, "0123456789abcdef") != "" {
			return nil, cmdline.Usage("%.100q is not sha256: and 64 lower-case hexadecimal digits", operand)
		}
		s.Subject = about(c.String("name"), operand)
	} else {
		digest, err := verifying.StreamDigest(func() (io.ReadCloser, error) { return os.Open(operand) })
		if err != nil {
			return nil, err
		}
		s.Subject = about(orDefault(c.String("name"), filepath.Base(operand)), digest)
	}
	return s.content()
}

// readPredicate reads a JSON object in which no name stands twice: two readers of it must not see two predicates.
func readPredicate(path string) (json.RawMessage, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, cmdline.Hinted(err, "--predicate names a file with a JSON object")
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxPredicate+1))
	if err != nil {
		return nil, fmt.Errorf("reading the predicate: %w", err)
	}
	data = bytes.TrimSpace(data)
	if err := strictjson.Check(data, strictjson.Limits{Bytes: maxPredicate, Depth: predicateDepth, Values: 2_000_000}); err != nil {
		return nil, fmt.Errorf("the predicate %s: %w", path, err)
	}
	if !bytes.HasPrefix(data, []byte("{")) {
		return nil, fmt.Errorf("the predicate %s is not a JSON object", path)
	}
	return data, nil
}

// signTo signs content by the services at that place, and writes the bundle where it is wanted. That it can be written is seen before anything is signed.
func signTo(c *cli.Context, path string, at serviceFiles, content sign.Content) (result signResult, err error) {
	request, err := readServices(c, at)
	if err != nil {
		return result, err
	}
	request.Content = content
	out, err := beginFile(path, 0o644)
	if err != nil {
		return result, fmt.Errorf("writing the bundle: %w", err)
	}
	defer out.discard()
	bundle, err := signBundle(c.Context, request)
	if err != nil {
		return result, err
	}
	data, err := protojson.Marshal(bundle)
	if err != nil {
		return result, fmt.Errorf("encoding the bundle: %w", err)
	}
	if err := out.finish(data); err != nil {
		return result, fmt.Errorf("writing the bundle: %w", err)
	}
	return signResult{path, logIndex(bundle)}, nil
}

func logIndex(b *protobundle.Bundle) int64 {
	return b.GetVerificationMaterial().GetTlogEntries()[0].GetLogIndex()
}
