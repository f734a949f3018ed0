package main

import (
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/inventory"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/mirror/freshness"
)

// verifyByPolicy is `redoubt verify --policy`.
func verifyByPolicy(c *cli.Context, known *freshness.State, knownIn string) error {
	mirrored, err := mirroredRoots(c.StringSlice("mirror-root"), known, knownIn)
	if err != nil {
		return unverified(c, err)
	}
	p, err := policy.Load(c.String("policy"), policy.Config{Roots: mirrored, Upstream: known, EveryReason: true, Now: clock})
	if err != nil {
		countVerdict(c, inventory.Refused, verify.ReasonID(verify.ErrUsage))
		return policyFault(err)
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
		if err := leaveReceipt(c, p, g.Artifact, d); err != nil {
			return err
		}
	}
	if c.String("output") == "sarif" {
		err = sarifDecision(c.Args().First(), d).print(c)
	} else {
		err = printResult(c, d, func(w io.Writer) { printDecision(w, c, g.Artifact, d) })
	}
	if err != nil {
		return err
	}
	if err := d.Err(); err != nil {
		return hinted(withCode(d.Code, fmt.Errorf("not verified: %w", err)), "`redoubt policy explain %s %s` says what is asked", c.String("policy"), g.Artifact.Name)
	}
	return nil
}

// printDecision says what was asked before it says what came of it.
func printDecision(w io.Writer, c *cli.Context, a policy.Artifact, d policy.Decision) {
	fmt.Fprintf(w, "artifact   %s %s %s\n", a.Kind, a.Name, a.Digest)
	fmt.Fprintf(w, "policy     %s (%s)\n", c.String("policy"), d.Version)
	fmt.Fprintf(w, "rule       %s\n", orDefault(d.Rule, "none"))
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
