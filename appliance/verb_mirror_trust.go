package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/trust"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
)

func mirrorTrustCommand() *cli.Command {
	return &cli.Command{
		Name: "trust", Usage: "inside: the roots of trust that were carried here: whom they name, what they changed, how clients take them", Subcommands: []*cli.Command{
			{Name: "show", Usage: "where each repository stands, and every log and authority it names", ArgsUsage: "[NAME]", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
				views, err := mirrorTrustShow.call(c, c.Args().First())
				if err != nil {
					return err
				}
				return cmdline.PrintResult(c, views, func(w io.Writer) { printTrust(w, views) })
			}},
			{Name: "history", Usage: "what each parcel changed of whom we trust, the oldest first", ArgsUsage: "[NAME]", Flags: mirrorFlags(), Action: func(c *cli.Context) error {
				changes, err := mirrorTrustHistory.call(c, c.Args().First())
				if err != nil {
					return err
				}
				return cmdline.PrintResult(c, changes, func(w io.Writer) {
					for _, t := range changes {
						printTrustChange(w, t)
					}
				})
			}},
			{Name: "export", Usage: "write what a client needs to take a repository from here: our root for it, its trusted root, instructions", ArgsUsage: "NAME", Flags: mirrorFlags(
				&cli.StringFlag{Name: "out", Required: true, Usage: "folder for the files; made if it is not there", EnvVars: []string{"REDOUBT_OUT"}},
			), Action: func(c *cli.Context) error {
				if c.NArg() != 1 {
					return cmdline.Usage("mirror trust export takes the name of one repository")
				}
				r, err := mirrorTrustExport.call(c, c.Args().First())
				if err != nil {
					return err
				}
				return writeTrust(c, r, c.String("out"))
			}},
		},
	}
}

// trustView is one repository in the JSON of `redoubt mirror trust show -o json`.
type trustView struct {
	mirror.TUFStatus
	URL         string                    `json:"url,omitempty"`    // where clients find it under our own root
	Served      []trust.RoleStatus        `json:"served,omitempty"` // the roles of that repository
	Logs        []mirror.TrustedLog       `json:"logs"`
	Authorities []mirror.TrustedAuthority `json:"authorities"`
	Targets     []mirror.TUFTarget        `json:"targets"`
}

var mirrorTrustShow = verb[string, []trustView]{"mirror.trust.show", func(_ context.Context, in *instance, _ string, name string) ([]trustView, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	all, err := m.TUFStatuses()
	if err != nil {
		return nil, err
	}
	views := []trustView{}
	for _, s := range all {
		if name != "" && s.Name != name {
			continue
		}
		v := trustView{TUFStatus: s, URL: in.cfg.mirroredURL(s.Name), Logs: []mirror.TrustedLog{}, Authorities: []mirror.TrustedAuthority{}, Targets: []mirror.TUFTarget{}}
		if r := in.mirrored.get(s.Name); r != nil {
			v.Served = r.Status()
		}
		if head, err := m.TUF(s.Name); err == nil {
			v.Targets = head.Targets
			logs, authorities, err := m.Trust(head)
			if err != nil {
				return nil, cmdline.WithCode(mirror.ExitCode(err), err)
			}
			v.Logs, v.Authorities = append(v.Logs, logs...), append(v.Authorities, authorities...)
		} else if !errors.Is(err, mirror.ErrNotFound) {
			return nil, err
		}
		views = append(views, v)
	}
	if len(views) == 0 {
		return nil, cmdline.Hinted(fmt.Errorf("%w: TUF repository %q", mirror.ErrNotFound, name), "repositories are configured under mirror.tuf; `redoubt docs config` explains them")
	}
	return views, nil
}}

var mirrorTrustHistory = verb[string, []mirror.TrustChange]{"mirror.trust.history", func(_ context.Context, in *instance, _ string, name string) ([]mirror.TrustChange, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.TrustHistory(name)
}}

// trustFiles is what the server hands out for `redoubt mirror trust export`.
type trustFiles struct {
	Name   string           `json:"name"`
	URL    string           `json:"url"`
	Status mirror.TUFStatus `json:"status"`
	Files  []trust.File     `json:"files"`
}

var mirrorTrustExport = verb[string, trustFiles]{"mirror.trust.export", func(ctx context.Context, in *instance, actor string, name string) (trustFiles, error) {
	m, err := in.inside()
	if err != nil {
		return trustFiles{}, err
	}
	head, err := m.TUF(name)
	if err != nil {
		return trustFiles{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	if err := in.mayPublish(); err != nil {
		return trustFiles{}, err
	}
	if err := in.record(ctx, actor, "mirror.trust.export", name, nil); err != nil {
		return trustFiles{}, err
	}
	if err := in.publishMirroredTrust(ctx); err != nil {
		return trustFiles{}, err
	}
	repository := in.mirrored.get(name)
	if repository == nil {
		return trustFiles{}, cmdline.Hinted(fmt.Errorf("%w: TUF repository %q is not served", mirror.ErrNotFound, name), "configure it under mirror.tuf")
	}
	out := trustFiles{Name: name, URL: in.cfg.mirroredURL(name), Files: []trust.File{{Name: "root.json", Data: repository.Root()}}}
	for _, target := range []string{trust.TrustedRootName, upstreamTarget} {
		data, err := repository.Target(target)
		if errors.Is(err, trust.ErrNotFound) {
			continue
		}
		if err != nil {
			return out, err
		}
		out.Files = append(out.Files, trust.File{Name: target, Data: data})
	}
	for _, f := range head.Files { // as upstream signed it, for who wants to see for themselves
		data, err := m.TUFMetadata(head, f.Name)
		if err != nil {
			return out, err
		}
		out.Files = append(out.Files, trust.File{Name: "upstream/" + f.Name, Data: data})
	}
	all, err := m.TUFStatuses()
	for _, s := range all {
		if s.Name == name {
			out.Status = s
		}
	}
	return out, err
}}

// trustExported is the JSON of `redoubt mirror trust export -o json`.
type trustExported struct {
	Name  string   `json:"name"`
	URL   string   `json:"url"` // for cosign initialize --mirror; empty when the mirror is not served
	Out   string   `json:"out"`
	Files []string `json:"files"`
}

func writeTrust(c *cli.Context, t trustFiles, out string) error {
	out, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	r := trustExported{Name: t.Name, URL: t.URL, Out: out}
	hasRoot := false
	for _, f := range t.Files {
		hasRoot = hasRoot || f.Name == trust.TrustedRootName
	}
	readme := trustInstructions(t, out, hasRoot)
	for _, f := range append(t.Files, trust.File{Name: "README.txt", Data: []byte(readme)}) {
		path := filepath.Join(out, filepath.FromSlash(f.Name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := writeFileAtomic(path, f.Data, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", path, err)
		}
		r.Files = append(r.Files, f.Name)
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) { fmt.Fprint(w, readme) })
}

func trustInstructions(t trustFiles, out string, hasRoot bool) string {
	var b strings.Builder
	url := orDefault(t.URL, "URL-OF-THE-MIRROR/tuf/"+t.Name)
	fmt.Fprintf(&b, "Trust in %s, as it was carried here\n\n", t.Name)
	fmt.Fprintf(&b, "  upstream      %s\n  observed      %s, %s ago\n", t.Status.Versions, t.Status.Observed.Format(time.RFC3339), t.Status.Age)
	if t.Status.StaleBy != "" {
		fmt.Fprintf(&b, "  STALE         its %s expired at %s, %s ago\n", t.Status.Expiring, t.Status.Expires.Format(time.RFC3339), t.Status.StaleBy)
	}
	if t.Status.Level != freshness.Fresh {
		fmt.Fprintf(&b, "  %-13s older than this site allows\n", strings.ToUpper(string(t.Status.Level)))
	}
	fmt.Fprintf(&b, "\nThis folder decides what a client believes: hand it over by a way you trust.\n\n")
	fmt.Fprintf(&b, "cosign, through TUF (the mirror signs a fresh timestamp; its upstream.json says how old the upstream is)\n  cosign initialize --mirror %s --root %s\n", url, filepath.Join(out, "root.json"))
	if hasRoot {
		fmt.Fprintf(&b, "\ncosign and redoubt, from the file alone\n  cosign verify-blob --trusted-root %[1]s --bundle FILE.sigstore.json --certificate-identity WHO --certificate-oidc-issuer ISSUER FILE\n"+
			"  redoubt verify FILE --bundle FILE.sigstore.json --trusted-root %[1]s --certificate-identity WHO --certificate-oidc-issuer ISSUER\n", filepath.Join(out, trust.TrustedRootName))
	}
	fmt.Fprintf(&b, "\nsigstore-js\n  verify(bundle, data, { tufMirrorURL: '%s', tufRootPath: '%s' })\n\nupstream/ holds the metadata as upstream signed it.\n", url, filepath.Join(out, "root.json"))
	return b.String()
}

func printTrust(w io.Writer, views []trustView) {
	for _, v := range views {
		printTUFStatus(w, v.TUFStatus)
		for _, l := range v.Logs {
			fmt.Fprintf(w, "  %s log %s, key %.16s%s\n", l.Kind, l.Origin, l.Key, validFor(l.Start, l.End))
		}
		for _, a := range v.Authorities {
			fmt.Fprintf(w, "  %s %s (%s), certificate %.16s%s\n", a.Kind, a.URI, a.Subject, a.Certificate, validFor(a.Start, a.End))
		}
		if v.URL != "" && len(v.Served) > 0 {
			fmt.Fprintf(w, "  served under our own root at %s\n", v.URL)
		}
	}
}

func validFor(start, end time.Time) string {
	s := ""
	if !start.IsZero() {
		s += ", from " + start.UTC().Format(time.RFC3339)
	}
	if !end.IsZero() {
		s += ", until " + end.UTC().Format(time.RFC3339)
	}
	return s
}

func printTUFStatus(w io.Writer, s mirror.TUFStatus) {
	if s.Imported.IsZero() {
		fmt.Fprintf(w, "trust %s: nothing was imported yet\n", s.Name)
		if s.Level != freshness.Fresh {
			fmt.Fprintf(w, "  %s: older than this site allows\n", strings.ToUpper(string(s.Level)))
		}
		return
	}
	fmt.Fprintf(w, "trust %s: %s, observed %s ago\n", s.Name, s.Versions, s.Age)
	if s.StaleBy != "" {
		fmt.Fprintf(w, "  STALE by %s: its %s expired at %s\n", s.StaleBy, s.Expiring, s.Expires.Format(time.RFC3339))
	}
	if s.Level != freshness.Fresh {
		fmt.Fprintf(w, "  %s: older than this site allows\n", strings.ToUpper(string(s.Level)))
	}
	if s.Changed != nil {
		fmt.Fprintf(w, "  last change by parcel %d: %s\n", s.Changed.Sequence, strings.Join(s.Changed.Changes, "; "))
	}
}

func printTrustChange(w io.Writer, t mirror.TrustChange) {
	fmt.Fprintf(w, "%s  %s, parcel %d: to %s\n", t.Time.Format(time.RFC3339), t.Name, t.Sequence, t.To)
	for _, line := range t.Changes {
		fmt.Fprintf(w, "  %s\n", line)
	}
}

func printTUFSteps(w io.Writer, steps []mirror.TUFStep) {
	for _, s := range steps {
		switch {
		case s.Error != "":
			fmt.Fprintf(w, "trust %s: FAILED: %s\n", s.Name, s.Error)
			continue
		case s.Left != "":
			fmt.Fprintf(w, "trust %s: LEFT OUT: %s\n", s.Name, s.Left)
			continue
		case s.From == s.To:
			fmt.Fprintf(w, "trust %s: nothing new, %s\n", s.Name, s.To)
		default:
			fmt.Fprintf(w, "trust %s: to %s\n", s.Name, s.To)
		}
		if s.StaleBy != "" {
			fmt.Fprintf(w, "  STALE by %s\n", s.StaleBy)
		}
		for _, line := range s.Changes {
			fmt.Fprintf(w, "  %s\n", line)
		}
	}
}
