package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/gates"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verifying"
)

// gateFlags are those of `redoubt admission manifests` for other programs' gates.
func gateFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "for", Usage: "write the policy for another gate, with its trusted roots in it: " + strings.Join(gates.Forms(), ", "), EnvVars: []string{"REDOUBT_FOR"}},
		&cli.StringFlag{Name: "policy", Usage: "with --for: the policy, in place of that of --admission-config", EnvVars: []string{"REDOUBT_POLICY"}},
		&cli.StringFlag{Name: "out", Usage: "with --for: a folder to write the files into; without it they are printed", EnvVars: []string{"REDOUBT_OUT"}},
		&cli.StringSliceFlag{Name: "allow-registry", Usage: "with --for openshift: a registry or namespace of the cluster's own images, which pass unverified; may be repeated", EnvVars: []string{"REDOUBT_ALLOW_REGISTRY"}},
	}
}

// gateManifests writes the policy for another program's gate. Nothing is written unless all of it can be said there.
func gateManifests(c *cli.Context) error {
	form := c.String("for")
	if !slices.Contains(gates.Forms(), form) {
		return cmdline.Usage("--for %.60q: one of %q", form, gates.Forms())
	}
	file := c.String("policy")
	if file == "" {
		a, err := loadAdmission(c.String("admission-config"))
		if err != nil {
			return cmdline.Hinted(err, "--policy FILE names a policy without the configuration of a gate")
		}
		file = a.path(a.Policy)
	}
	p, err := policy.Load(file, policy.Config{})
	if err != nil {
		return verifying.PolicyFault(err)
	}
	written, err := gates.Write(form, p.Parts(), gates.Options{Allow: c.StringSlice("allow-registry")})
	if errors.Is(err, gates.ErrCannot) {
		return cmdline.Hinted(err, "nothing was written; docs/admission.md shows what each gate can be told, and a policy file of its own for this gate says no more than that")
	}
	if err != nil {
		return err
	}
	for _, note := range written.Notes {
		fmt.Fprintln(c.App.ErrWriter, "note:", note)
	}
	if dir := c.String("out"); dir != "" {
		return writeGateFiles(c, dir, written.Files)
	}
	for i, f := range written.Files {
		if i > 0 && filepath.Ext(written.Files[0].Name) == ".json" {
			fmt.Fprintf(c.App.ErrWriter, "note: --out DIR writes %s as well, without which no signature is looked for\n", f.Name)
			continue
		}
		if i > 0 {
			fmt.Fprintln(c.App.Writer, "---")
		}
		if _, err := c.App.Writer.Write(f.Data); err != nil {
			return err
		}
	}
	return nil
}

// writeGateFiles writes the files of a form, and names them on stdout.
func writeGateFiles(c *cli.Context, dir string, files []gates.File) error {
	for _, f := range files {
		path := filepath.Join(dir, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeFileAtomic(path, f.Data, 0o644); err != nil {
			return err
		}
		fmt.Fprintln(c.App.Writer, path)
	}
	return nil
}
