package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

func coverageCommand() *cli.Command {
	return &cli.Command{
		Name: "coverage", Usage: "inside: is what our clusters run signed in a log that is held here, and by whom", Flags: mirrorFlags(
			&cli.StringSliceFlag{Name: "inventory", Usage: "file of image digests, one a line with where it runs, or what kubectl get pods -A -o json prints; - reads stdin; may be repeated (default: the configured ones)", EnvVars: []string{"REDOUBT_INVENTORY"}},
			&cli.StringSliceFlag{Name: "statements", Usage: "file, or folder of files, of bundles and payloads that signatures of images are made over; may be repeated (default: the configured ones)", EnvVars: []string{"REDOUBT_STATEMENTS"}},
			&cli.BoolFlag{Name: "open", Usage: "only what is not signed", EnvVars: []string{"REDOUBT_OPEN"}},
		),
		Action: coverageAction,
	}
}

func coverageAction(c *cli.Context) error {
	cfg, dir, err := configured(c)
	if err != nil {
		return err
	}
	paths := func(flag string, configured []string) (out []string) {
		if c.IsSet(flag) {
			return c.StringSlice(flag)
		}
		for _, p := range configured {
			out = append(out, dir.resolve(p))
		}
		return out
	}
	inventories := paths("inventory", cfg.Mirror.Reconcile.Inventory)
	if len(inventories) == 0 {
		return cmdline.Usage("mirror coverage takes --inventory FILE, or mirror.reconcile.inventory")
	}
	if n := slices.Index(inventories, "-"); n >= 0 && slices.Contains(inventories[n+1:], "-") {
		return cmdline.Usage("--inventory - can be given once")
	}
	ask, done, err := mirrorCoverage.attach(c)
	if err != nil {
		return err
	}
	defer done()
	r := &mirror.CoverageReport{Time: time.Now().UTC()}
	if err := coverage(c.Context, r, inventories, paths("statements", cfg.Mirror.Reconcile.Statements), c.App.Reader, ask); err != nil {
		return err
	}
	if c.Bool("open") {
		r.Images = slices.DeleteFunc(r.Images, func(i mirror.CoveredImage) bool { return i.State == mirror.CoverSigned })
	}
	if err := cmdline.PrintResult(c, r, func(w io.Writer) { printCoverage(w, r) }); err != nil {
		return err
	}
	for _, i := range r.Inventories {
		if i.Error != "" {
			return fmt.Errorf("%w: %s: %s", errUnread, i.Path, i.Error)
		}
	}
	return nil
}

// printCoverage prints how what runs is signed, and where was searched.
func printCoverage(w io.Writer, r *mirror.CoverageReport) {
	if r == nil {
		return
	}
	fmt.Fprintf(w, "running digests: %d, signed %d, unsigned %d, not carried %d; containers without a digest: %d\n", r.Digests, r.Signed, r.Unsigned, r.NotCarried, r.Unresolved)
	for _, i := range r.Inventories {
		if i.Error != "" {
			fmt.Fprintf(w, "UNREAD %s: %s\n", i.Path, i.Error)
		}
	}
	for _, l := range r.Logs {
		part := "whole"
		if !l.Whole {
			part = "in part: what is not found may be there"
		}
		fmt.Fprintf(w, "searched %s, %d entries, %s\n", l.Log, l.Size, part)
	}
	for _, i := range r.Images {
		fmt.Fprintf(w, "%-11s %s, runs %d times", i.State, i.Digest, i.Places)
		if len(i.Names) > 0 {
			fmt.Fprintf(w, ": %s", strings.Join(i.Names, ", "))
		}
		fmt.Fprintln(w)
		for _, s := range i.Signatures {
			who := "key " + s.Key
			if len(s.Identities) > 0 {
				who = fmt.Sprintf("%q, issuer %q", strings.Join(s.Identities, ", "), s.Issuer)
			}
			fmt.Fprintf(w, "  by %s, %s entry %d, %s\n", who, s.Log, s.Index, s.Kind)
		}
	}
	for _, u := range r.Plain {
		fmt.Fprintf(w, "%-11s %s, %s: %s\n", mirror.CoverUnresolved, u.Name, u.Image, u.Why)
	}
}
