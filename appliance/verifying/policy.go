package verifying

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/counting"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/freshness"
)

// verifyByPolicy is `redoubt verify --policy`.
func (a Appliance) verifyByPolicy(c *cli.Context, known *freshness.State, knownIn string) error {
	mirrored, err := mirroredRoots(c.StringSlice("mirror-root"), known, knownIn)
	if err != nil {
		return unverified(c, err)
	}
	p, err := policy.Load(c.String("policy"), policy.Config{Roots: mirrored, Upstream: known, EveryReason: true, Now: Now})
	if err != nil {
		countVerdict(c, counting.Refused, verify.ReasonID(verify.ErrUsage))
		return PolicyFault(err)
	}
	g, err := gatherOperand(c)
	if err != nil {
		return unverified(c, err)
	}
	d := p.Decide(c.Context, g.Artifact, g.Evidence...)
	d.Offline = provenOffline(c)
	for _, left := range g.Left {
		d.Ignored = append(d.Ignored, "left out: "+left)
	}
	if dir := c.String("observe"); dir != "" {
		for _, r := range d.Results {
			leaveProofs(dir, r, c.App.ErrWriter)
		}
	}
	countDecision(c, d)
	if d.Allow && c.String("receipt") != "" {
		if err := a.Receipt(c, p, g.Artifact, d); err != nil {
			return err
		}
	}
	if c.String("output") == "sarif" {
		err = sarifDecision(c.Args().First(), d).print(c)
	} else {
		err = cmdline.PrintResult(c, d, func(w io.Writer) { printDecision(w, c, g.Artifact, d) })
	}
	if err != nil {
		return err
	}
	if err := d.Err(); err != nil {
		return cmdline.Hinted(cmdline.WithCode(d.Code, fmt.Errorf("not verified: %w", err)), "`redoubt policy explain %s %s` says what is asked", c.String("policy"), g.Artifact.Name)
	}
	return nil
}

// printDecision says what was asked before it says what came of it.
func printDecision(w io.Writer, c *cli.Context, a policy.Artifact, d policy.Decision) {
	fmt.Fprintf(w, "artifact   %s %s %s\n", a.Kind, a.Name, a.Digest)
	fmt.Fprintf(w, "policy     %s (%s)\n", c.String("policy"), d.Version)
	fmt.Fprintf(w, "rule       %s\n", cmp.Or(d.Rule, "none"))
	verdict := "denied"
	if d.Allow {
		verdict = "verified: " + c.Args().First()
	}
	fmt.Fprintln(w, verdict)
	for _, r := range d.Reasons {
		fmt.Fprintf(w, "  %s\n", r)
	}
	for _, i := range d.Ignored {
		fmt.Fprintf(w, "  not counted: %s\n", i)
	}
	for _, r := range d.Results {
		for _, warning := range r.Warnings() {
			fmt.Fprintf(w, "  warning    %s\n", warning)
		}
	}
}

// PolicyFault is an error about a policy, with its exit code.
func PolicyFault(err error) error {
	if !errors.Is(err, policy.ErrFile) && !errors.Is(err, policy.ErrImport) {
		return err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return cmdline.Hinted(cmdline.WithCode(verify.ExitCode(verify.ErrLocal), err), "files that a policy names stand relative to its own folder; `redoubt policy init FILE` writes a policy to begin with")
	}
	return cmdline.Hinted(cmdline.WithCode(verify.ExitCode(verify.ErrUsage), err), "docs/policy.md shows every part; `redoubt policy schema` describes it to an editor")
}
