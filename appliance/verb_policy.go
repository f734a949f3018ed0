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

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
)

func policyCommand() *cli.Command {
	return &cli.Command{
		Name: "policy", Usage: "write, check, test, explain and take over the policy that verify and the cluster's gate decide by",
		Subcommands: []*cli.Command{
			{Name: "init", Usage: "write a policy to begin with", ArgsUsage: "FILE", Flags: []cli.Flag{
				&cli.StringFlag{Name: "template", Value: "k8s-base", Usage: "slsa-l3, k8s-base, fedramp-like or vendor-images", EnvVars: []string{"REDOUBT_TEMPLATE"}}, outputFlag()}, Action: policyInit},
			{Name: "test", Usage: "judge the cases in NAME.test.yaml beside the policy NAME.yaml", ArgsUsage: "FILE", Flags: []cli.Flag{outputFlag()}, Action: policyTest},
			{Name: "explain", Usage: "say every rule in words, and which decides about an image or an artifact", ArgsUsage: "FILE [IMAGE]", Flags: []cli.Flag{
				&cli.BoolFlag{Name: "artifact", Usage: "the second operand names a file, not an image", EnvVars: []string{"REDOUBT_ARTIFACT"}}, outputFlag()}, Action: policyExplain},
			{Name: "import", Usage: "make a policy of ClusterImagePolicies or of Kyverno's verifyImages; what has no equal is an error", ArgsUsage: "FILE", Flags: []cli.Flag{
				&cli.StringFlag{Name: "root", Value: "own", Usage: "name of the trusted root for signers whose policy names none", EnvVars: []string{"REDOUBT_ROOT"}},
				&cli.StringFlag{Name: "out", Required: true, Usage: "folder for policy.yaml and its keys; must not exist, or be empty", EnvVars: []string{"REDOUBT_OUT"}}, outputFlag()}, Action: policyImport},
			{Name: "schema", Usage: "print the JSON Schema of policies, for editors", Action: func(c *cli.Context) error {
				schema, err := policy.JSONSchema()
				if err != nil {
					return err
				}
				return printJSON(c, schema)
			}},
		},
	}
}

// policyOperand is the file that a verb is about.
func policyOperand(c *cli.Context, most int) (string, error) {
	if c.NArg() < 1 || c.NArg() > most {
		return "", usage("policy %s takes %s", c.Command.Name, c.Command.ArgsUsage)
	}
	return c.Args().First(), nil
}

// policyFault is an error about a policy, with its exit code.
func policyFault(err error) error {
	if !errors.Is(err, policy.ErrFile) && !errors.Is(err, policy.ErrImport) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return hinted(withCode(verify.ExitCode(verify.ErrLocal), err), "files that a policy names stand relative to its own folder; `redoubt policy init FILE` writes a policy to begin with")
	}
	return hinted(withCode(verify.ExitCode(verify.ErrUsage), err), "docs/policy.md shows every part; `redoubt policy schema` describes it to an editor")
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
		return usage("%v", err)
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
	return printResult(c, out, func(w io.Writer) { printPolicyWritten(w, out) })
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
		return hinted(err, "nothing is overwritten: name another file, or move this one away")
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
		return policyFault(err)
	}
	failed := 0
	for _, r := range results {
		if !r.Passed {
			failed++
		}
	}
	if err := printResult(c, results, func(w io.Writer) {
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
		return policyFault(err)
	}
	a := policy.Artifact{Kind: policy.Image, Name: c.Args().Get(1)}
	if c.Bool("artifact") {
		a.Kind = policy.Blob
	}
	if c.NArg() < 2 {
		a = policy.Artifact{}
	}
	all := p.Explain(a)
	return printResult(c, all, func(w io.Writer) {
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
	data, err := readBounded("policy", path)
	if err != nil {
		return err
	}
	in, err := policy.Import(data, c.String("root"))
	if err != nil {
		return policyFault(err)
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
		return errors.Join(err, usage("--out %s is not empty", dir))
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
	return printResult(c, out, func(w io.Writer) { printPolicyWritten(w, out) })
}
