package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verifying"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "write, check, test, explain and take over the policy that verify and the cluster's gate decide by",
		Subcommands: []*cli.Command{
			{Name: "init", Usage: "write a policy to begin with", ArgsUsage: "FILE", Flags: []cli.Flag{
				&cli.StringFlag{Name: "template", Value: "k8s-base", Usage: "slsa-l3, k8s-base, fedramp-like or vendor-images", EnvVars: []string{"REDOUBT_TEMPLATE"}}, cmdline.OutputFlag()}, Action: policyInit},
			{Name: "test", Usage: "judge the cases in NAME.test.yaml beside the policy NAME.yaml", ArgsUsage: "FILE", Flags: []cli.Flag{cmdline.OutputFlag()}, Action: policyTest},
			{Name: "explain", Usage: "say every rule in words, and which decides about an image or an artifact", ArgsUsage: "FILE [IMAGE]", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "artifact", Usage: "the second operand names a file, not an image", EnvVars: []string{"REDOUBT_ARTIFACT"}}, cmdline.OutputFlag()}, Action: policyExplain},
			{Name: "import", Usage: "make a policy of ClusterImagePolicies or of Kyverno's verifyImages; what has no equal is an error", ArgsUsage: "FILE", Flags: []cli.Flag{
				&cli.StringFlag{Name: "root", Value: "own", Usage: "name of the trusted root for signers whose policy names none", EnvVars: []string{"REDOUBT_ROOT"}},
				&cli.StringFlag{Name: "out", Required: true, Usage: "folder for policy.yaml and its keys; must not exist, or be empty", EnvVars: []string{"REDOUBT_OUT"}}, cmdline.OutputFlag()}, Action: policyImport},
			{Name: "schema", Usage: "print the JSON Schema of policies, for editors", Action: func(c *cli.Context) error {
				schema, err := policy.JSONSchema()
				if err != nil {
					return err
				}
				return cmdline.PrintJSON(c, schema)
			}},
		},
	}
}

// policyOperand is the file that a verb is about.
func policyOperand(c *cli.Context, most int) (string, error) {
	if c.NArg() < 1 || c.NArg() > most {
		return "", cmdline.Usage("policy %s takes %s", c.Command.Name, c.Command.ArgsUsage)
	}
	return c.Args().First(), nil
}

// policyWritten is the JSON of `redoubt policy init -o json` and of `redoubt policy import -o json`.
type policyWritten struct {
	Files []string `json:"files"` // what was written
	Needs []string `json:"needs"` // what has to be put beside it
}

func policyInit(c *cli.Context) error {
	path, err := policyOperand(c, 1)
	if err != nil {
		return err
	}
	text, err := policy.Template(c.String("template"))
	if err != nil {
		return cmdline.Usage("%v", err)
	}
	if err := writeNew(path, text); err != nil {
		return err
	}
	out := policyWritten{Files: []string{path}}
	var f policy.File
	if err := yaml.Unmarshal(text, &f); err != nil {
		return err
	}
	out.Needs = policyNeeds(f)
	return cmdline.PrintResult(c, out, func(w io.Writer) { printPolicyWritten(w, out) })
}

// policyNeeds are the files that a policy names.
func policyNeeds(f policy.File) (needs []string) {
	for _, name := range slices.Sorted(maps.Keys(f.Roots)) {
		needs = append(needs, f.Roots[name].File)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Keys)) {
		needs = append(needs, f.Keys[name].File)
	}
	return needs
}

func printPolicyWritten(w io.Writer, out policyWritten) {
	for _, f := range out.Files {
		fmt.Fprintf(w, "written  %s\n", f)
	}
	for _, f := range out.Needs {
		fmt.Fprintf(w, "needs    %s beside it\n", f)
	}
}

// writeNew writes a file that is not there yet.
func writeNew(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if errors.Is(err, fs.ErrExist) {
		return cmdline.Hinted(err, "nothing is overwritten: name another file, or move this one away")
	}
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func policyTest(c *cli.Context) error {
	path, err := policyOperand(c, 1)
	if err != nil {
		return err
	}
	results, err := policy.Test(c.Context, path, policy.Config{Now: clock})
	if err != nil {
		return verifying.PolicyFault(err)
	}
	failed := 0
	for _, r := range results {
		if !r.Passed {
			failed++
		}
	}
	if err := cmdline.PrintResult(c, results, func(w io.Writer) {
		for _, r := range results {
			verdict := "ok  "
			if !r.Passed {
				verdict = "FAIL"
			}
			fmt.Fprintf(w, "%s  %s\n", verdict, r.Name)
			if !r.Passed {
				fmt.Fprintf(w, "      %s\n", r.Problem)
			}
		}
		fmt.Fprintf(w, "%d passed, %d failed\n", len(results)-failed, failed)
	}); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d cases were not decided as expected", failed, len(results))
	}
	return nil
}

func policyExplain(c *cli.Context) error {
	path, err := policyOperand(c, 2)
	if err != nil {
		return err
	}
	p, err := policy.Load(path, policy.Config{Now: clock})
	if err != nil {
		return verifying.PolicyFault(err)
	}
	a := policy.Artifact{Kind: policy.Image, Name: c.Args().Get(1)}
	if c.Bool("artifact") {
		a.Kind = policy.Blob
	}
	if c.NArg() < 2 {
		a = policy.Artifact{}
	}
	all := p.Explain(a)
	return cmdline.PrintResult(c, all, func(w io.Writer) {
		decided := false
		for _, e := range all {
			mark := ""
			if e.Decides {
				mark, decided = "  <- decides about "+a.Name, true
			}
			fmt.Fprintf(w, "%s: %s%s\n  for %s\n", e.Rule, e.Action, mark, strings.Join(e.For, ", "))
			for _, asks := range e.Asks {
				fmt.Fprintf(w, "  asks for %s\n", asks)
			}
		}
		if c.NArg() > 1 && !decided {
			fmt.Fprintf(w, "no rule is for %s: it is denied\n", a.Name)
		} else {
			fmt.Fprintln(w, "what no rule is for is denied")
		}
	})
}

func policyImport(c *cli.Context) error {
	path, err := policyOperand(c, 1)
	if err != nil {
		return err
	}
	data, err := verifying.ReadBounded("policy", path)
	if err != nil {
		return err
	}
	in, err := policy.Import(data, c.String("root"))
	if err != nil {
		return verifying.PolicyFault(err)
	}
	text, err := in.YAML()
	if err != nil {
		return err
	}
	dir := c.String("out")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if held, err := os.ReadDir(dir); err != nil || len(held) > 0 {
		return errors.Join(err, cmdline.Usage("--out %s is not empty", dir))
	}
	var out policyWritten
	for _, name := range slices.Sorted(maps.Keys(in.Keys)) {
		out.Files = append(out.Files, filepath.Join(dir, name))
		if err := writeNew(filepath.Join(dir, name), in.Keys[name]); err != nil {
			return err
		}
	}
	out.Files = append(out.Files, filepath.Join(dir, "policy.yaml"))
	if err := writeNew(filepath.Join(dir, "policy.yaml"), text); err != nil {
		return err
	}
	for _, need := range policyNeeds(in.File) {
		if in.Keys[need] == nil {
			out.Needs = append(out.Needs, need)
		}
	}
	return cmdline.PrintResult(c, out, func(w io.Writer) { printPolicyWritten(w, out) })
}
