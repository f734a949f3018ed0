package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// artifactsCommand are the verbs about what vouches for images and was carried.
func artifactsCommand() *cli.Command {
	return &cli.Command{Name: "artifacts", Usage: "inside: what vouches for images (mirror.images): signatures, attestations, bundles that parcels brought", Subcommands: []*cli.Command{
		{Name: "list", Usage: "per image what came, and with which parcel", Flags: mirrorFlags(), Action: artifactsListed},
		{Name: "get", Usage: "write what vouches for an image as an OCI layout, or one file by its digest", ArgsUsage: "REFERENCE|sha256:HEX", Flags: mirrorFlags(
			&cli.StringFlag{Name: "out", Required: true, Usage: "folder for the layout, or the file; must not exist, or be an empty folder", EnvVars: []string{"REDOUBT_OUT"}}), Action: artifactsGot},
		{Name: "push", Usage: "put what vouches for an image beside the image in a registry inside; the image itself is there already", ArgsUsage: "REFERENCE|sha256:HEX", Flags: mirrorFlags(
			&cli.StringFlag{Name: "to", Required: true, Usage: "HOST/NAME of the repository", EnvVars: []string{"REDOUBT_TO"}},
			&cli.StringSliceFlag{Name: "also", Usage: "another host that the registry may send us to; may be repeated", EnvVars: []string{"REDOUBT_ALSO"}},
			&cli.BoolFlag{Name: "plain-http", Usage: "allow http; to loopback it is always allowed", EnvVars: []string{"REDOUBT_PLAIN_HTTP"}},
			&cli.StringFlag{Name: "ca-file", Usage: "roots, in PEM, that the registry is believed by (default the machine's)", EnvVars: []string{"REDOUBT_CA_FILE"}},
			&cli.StringFlag{Name: "docker-config", Usage: "folder with docker's config.json, whose credentials are used", EnvVars: []string{"REDOUBT_DOCKER_CONFIG"}}), Action: artifactsPushed},
		{Name: "check", Usage: "hash every file anew; changes nothing", Flags: mirrorFlags(), Action: artifactsChecked},
	}}
}

func artifactsListed(c *cli.Context) error {
	all, err := artifactsList.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, all, func(w io.Writer) {
		for _, i := range all {
			fmt.Fprintf(w, "%s\n  %s, last parcel %d, %d log entries named\n", i.Reference, i.Digest, i.Sequence, len(i.Entries))
			for _, a := range i.Artifacts {
				under := ""
				if a.Tag != "" {
					under = ", under its tag"
				}
				fmt.Fprintf(w, "  %-11s %s, %d files%s, parcel %d\n", a.Kind, a.Digest, 1+len(a.Blobs), under, a.Sequence)
			}
			for _, l := range i.Left {
				fmt.Fprintf(w, "  LEFT OUT    %s: %s\n", l.Digest, l.Reason)
			}
		}
		if len(all) == 0 {
			fmt.Fprintln(w, "no parcel brought anything of an image")
		}
	})
}

// artifactsOperand is what get and push are about.
func artifactsOperand(c *cli.Context) (artifactsArgs, error) {
	if c.NArg() != 1 {
		return artifactsArgs{}, cmdline.Usage("mirror artifacts %s takes one reference or digest", c.Command.Name)
	}
	return artifactsArgs{Name: c.Args().First()}, nil
}

func artifactsGot(c *cli.Context) error {
	a, err := artifactsOperand(c)
	if err != nil {
		return err
	}
	out, err := absolute([]string{c.String("out")})
	if err != nil {
		return err
	}
	a.Out = out[0]
	r, err := artifactsGet.call(c, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d files in %s\n", orDefault(r.Reference, r.Digest), r.Files, r.Out)
	})
}

func artifactsPushed(c *cli.Context) error {
	a, err := artifactsOperand(c)
	if err != nil {
		return err
	}
	a.To, a.Also, a.PlainHTTP = c.String("to"), c.StringSlice("also"), c.Bool("plain-http")
	for _, file := range []struct {
		flag string
		to   *string
	}{{"ca-file", &a.CAFile}, {"docker-config", &a.DockerConfig}} {
		if c.String(file.flag) == "" {
			continue
		}
		path, err := absolute([]string{c.String(file.flag)})
		if err != nil {
			return err
		}
		*file.to = path[0]
	}
	r, err := artifactsPush.call(c, a)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%s: %d artifacts\n%s\n", r.Repository, len(r.Artifacts), strings.Join(r.Artifacts, "\n"))
		for _, d := range r.Absent {
			fmt.Fprintf(w, "NOT THERE %s of the image; what vouches for it was passed over\n", d)
		}
	})
}

func artifactsChecked(c *cli.Context) error {
	r, err := artifactsCheck.call(c, struct{}{})
	if err != nil {
		return err
	}
	if err := cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "%d files hashed, %s\n", r.Files, megabytes(uint64(r.Bytes)))
		for _, p := range r.Problems {
			fmt.Fprintf(w, "  DAMAGED: %s\n", p)
		}
	}); err != nil {
		return err
	}
	return cmdline.WithCode(mirror.ExitCode(r.Err()), r.Err())
}

func printImageSteps(w io.Writer, steps []mirror.ImageStep) {
	for _, s := range steps {
		fmt.Fprintf(w, "%s\n", s.Reference)
		if s.Error != "" {
			fmt.Fprintf(w, "  FAILED: %s\n", s.Error)
			continue
		}
		what := "as before"
		if s.Changed {
			what = "new or changed"
		}
		fmt.Fprintf(w, "  %s, %s: %d manifests, %d files, %s, %d log entries named\n", s.Digest, what, s.Artifacts, s.Files, megabytes(uint64(s.Bytes)), s.Entries)
		for _, u := range s.Unknown {
			fmt.Fprintf(w, "  entries of a log that is not carried: %s\n", u)
		}
		for _, l := range s.Left {
			fmt.Fprintf(w, "  LEFT OUT %s: %s\n", l.Digest, l.Reason)
		}
	}
}
