package main

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/admission"
	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/inventory"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/mirror/images"
)

func inventoryCommand() *cli.Command {
	return &cli.Command{
		Name: "inventory", Usage: "say of every image of a registry, a layout or a cluster who signed it and what a policy makes of it", ArgsUsage: "oci://HOST[/REPOSITORY]|oci-layout:DIR|cluster: ...",
		Description: "A registry is listed by its catalogue. Of a cluster, pods and workloads are listed; their images are read from the registries that --registry names, and from no other.",
		Flags: append(verifying.RegistryFlags(),
			&cli.StringFlag{Name: "policy", Required: true, Usage: "the rules that decide", EnvVars: []string{"REDOUBT_POLICY"}},
			&cli.StringFlag{Name: "as", Usage: "oci-layout: the name that the rules see, HOST/REPOSITORY (default what the layout says)", EnvVars: []string{"REDOUBT_AS"}},
			&cli.StringFlag{Name: "receipts", Usage: "folder of attestations, *.json, that count as if they stood beside the images that they are about", EnvVars: []string{"REDOUBT_RECEIPTS"}},
			&cli.StringFlag{Name: "kubeconfig", Usage: "cluster: kubectl's configuration, whose current context is used (default the pod's own service account)", EnvVars: []string{"REDOUBT_KUBECONFIG"}},
			&cli.StringSliceFlag{Name: "registry", Usage: "cluster: a registry that may be read; may be repeated", EnvVars: []string{"REDOUBT_REGISTRY"}},
			&cli.StringFlag{Name: "metrics", Usage: "write the figures to this file too, for Prometheus' collector of text files (*.prom)", EnvVars: []string{"REDOUBT_METRICS"}},
			&cli.BoolFlag{Name: "require", Usage: "exit 23 unless there are images and the policy allows each", EnvVars: []string{"REDOUBT_REQUIRE"}},
			cmdline.OutputFlag(),
		),
		Action: takeInventory,
	}
}

func takeInventory(c *cli.Context) error {
	if c.NArg() == 0 {
		return cmdline.Usage("inventory takes oci://HOST[/REPOSITORY], oci-layout:DIR or cluster:")
	}
	p, err := policy.Load(c.String("policy"), policy.Config{EveryReason: true, Now: clock})
	if err != nil {
		return verifying.PolicyFault(err)
	}
	var receipts map[string][]policy.Evidence
	if dir := c.String("receipts"); dir != "" {
		if receipts, err = inventory.ReadReceipts(dir); err != nil {
			return err
		}
	}
	var targets []inventory.Target
	for _, operand := range c.Args().Slice() {
		more, close, err := targetsOf(c, operand)
		if err != nil {
			return err
		}
		defer close()
		targets = append(targets, more...)
	}
	report, err := inventory.Scan(c.Context, p, c.Args().Slice(), targets, receipts, clock())
	if err != nil {
		return err
	}
	if path := c.String("metrics"); path != "" {
		if err := report.WriteMetrics(path); err != nil {
			return fmt.Errorf("writing the metrics: %w", err)
		}
	}
	if err := cmdline.PrintResult(c, report, func(w io.Writer) { printInventory(w, report) }); err != nil {
		return err
	}
	switch {
	case report.Counts[inventory.Unreadable] > 0:
		return cmdline.WithCode(cmdline.ExitUnavailable, fmt.Errorf("%d of %d images could not be read", report.Counts[inventory.Unreadable], report.Total))
	case c.Bool("require") && (report.Total == 0 || report.Counts[inventory.Allowed] < report.Total):
		return cmdline.WithCode(verify.ExitCode(verify.ErrPolicy), fmt.Errorf("the policy allows %d of %d images", report.Counts[inventory.Allowed], report.Total))
	}
	return nil
}

// targetsOf are the images that an operand names. The caller closes.
func targetsOf(c *cli.Context, operand string) (all []inventory.Target, close func() error, err error) {
	none := func() error { return nil }
	if rest, ok := strings.CutPrefix(operand, "oci://"); ok {
		all, err = registryTargets(c, rest)
		return all, none, err
	}
	if dir, ok := strings.CutPrefix(operand, "oci-layout:"); ok {
		source, refs, err := images.OpenLayout(dir)
		if err != nil {
			return nil, none, err
		}
		for _, ref := range refs {
			all = append(all, inventory.Target{Reference: ref.String(), Ref: ref, Source: source, Name: c.String("as")})
		}
		return all, source.Close, nil
	}
	if operand == "cluster:" {
		all, err = clusterTargets(c)
		return all, none, err
	}
	return nil, none, cmdline.Usage("%q is none of oci://HOST[/REPOSITORY], oci-layout:DIR and cluster:", operand)
}

func registryTargets(c *cli.Context, rest string) (all []inventory.Target, err error) {
	host, below, _ := strings.Cut(rest, "/")
	source, err := verifying.OpenRegistry(c, host)
	if err != nil {
		return nil, err
	}
	refs, err := source.Catalog(c.Context, below)
	if err != nil {
		return nil, cmdline.Hinted(cmdline.Unavailable(err), "a registry may refuse to list what it holds: `redoubt verify oci://HOST/NAME:TAG --policy P` judges one image")
	}
	for _, ref := range refs {
		all = append(all, inventory.Target{Reference: ref.String(), Ref: ref, Source: source})
	}
	return all, nil
}

// clusterTargets are the images that a cluster names. What stands in a registry that was not named is told, and not asked for.
func clusterTargets(c *cli.Context) (all []inventory.Target, err error) {
	cluster, inside := admission.InCluster()
	if file := c.String("kubeconfig"); file != "" {
		if cluster, err = admission.Kubeconfig(file); err != nil {
			return nil, err
		}
	} else if !inside {
		return nil, cmdline.Usage("cluster: needs --kubeconfig outside of a pod")
	}
	used, err := admission.Images(c.Context, cluster)
	if err != nil {
		return nil, cmdline.Hinted(cmdline.Unavailable(err), "it needs the right to list pods and workloads in all namespaces: docs/verdict.md has the role")
	}
	sources := map[string]*images.Source{}
	for _, host := range c.StringSlice("registry") {
		if sources[host], err = verifying.OpenRegistry(c, host); err != nil {
			return nil, err
		}
	}
	for _, u := range used {
		t := inventory.Target{Reference: cmp.Or(u.Image, "unknown"), Places: u.Where, Problem: u.Problem}
		if t.Problem == "" {
			if t.Ref, err = admission.Reference(u.Image); err != nil {
				t.Problem = err.Error()
			} else if t.Source = sources[t.Ref.Host()]; t.Source == nil {
				t.Problem = fmt.Sprintf("its registry %.200q is none that --registry names", t.Ref.Host())
			}
		}
		all = append(all, t)
	}
	return all, nil
}

func printInventory(w io.Writer, r inventory.Report) {
	table := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(table, "STATUS\tIMAGE\tRULE\tSIGNED BY")
	for _, i := range r.Images {
		var who []string
		for _, s := range i.Signers {
			if !slices.Contains(who, s.Identity) {
				who = append(who, s.Identity)
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", i.Status, i.Reference, orDefault(i.Rule, "-"), orDefault(strings.Join(who, ", "), "-"))
	}
	table.Flush()
	for _, i := range r.Images {
		if i.Status != inventory.Allowed {
			fmt.Fprintf(w, "%s: %s\n", i.Reference, strings.Join(i.Reasons, "; "))
		}
	}
	for _, s := range inventory.Statuses {
		fmt.Fprintf(w, "%-11s %d\n", s, r.Counts[s])
	}
	fmt.Fprintf(w, "coverage    %.1f %% of %d images\n", 100*r.Ratio, r.Total)
}
