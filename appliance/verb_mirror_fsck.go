package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// mirrorFscked is the JSON of `redoubt mirror fsck -o json`.
type mirrorFscked struct {
	Logs   []mirror.FsckReport `json:"logs"`
	TUF    []mirror.TUFReport  `json:"tuf"`
	Images mirror.ImageReport  `json:"images"` // what vouches for images
}

// err is the gravest finding.
func (r *mirrorFscked) err() error {
	return errors.Join(mirror.FsckErr(r.Logs, r.TUF...), r.Images.Err())
}

var mirrorFsck = verb[struct{}, mirrorFscked]{"mirror.fsck", func(ctx context.Context, in *instance, _ string, _ struct{}) (r mirrorFscked, err error) {
	m, err := in.inside()
	if err != nil {
		return r, err
	}
	if r.Logs, err = m.Fsck(ctx); err == nil {
		r.TUF, err = m.FsckTUF(ctx)
	}
	if err == nil {
		r.Images, err = m.FsckImages(ctx)
	}
	return r, cmdline.WithCode(mirror.ExitCode(err), err)
}}

func mirrorFsckCommand() *cli.Command {
	return &cli.Command{
		Name: "fsck", Usage: "inside: hash everything that is stored anew, up to every checkpoint ever accepted; changes nothing", Flags: mirrorFlags(),
		Action: func(c *cli.Context) error {
			found, err := mirrorFsck.call(c, struct{}{})
			if err != nil {
				return err
			}
			if err := cmdline.PrintResult(c, found, func(w io.Writer) { printFscked(w, &found) }); err != nil {
				return err
			}
			bad := found.err()
			return cmdline.WithCode(mirror.ExitCode(bad), bad)
		},
	}
}

func printFscked(w io.Writer, found *mirrorFscked) {
	damaged := func(problems []string) {
		for _, p := range problems {
			fmt.Fprintf(w, "  DAMAGED: %s\n", p)
		}
	}
	for _, r := range found.Logs {
		fmt.Fprintf(w, "%s: %d entries and %d tiles hashed, %d subtree hashes compared, %d accepted checkpoints reproduced\n", r.Origin, r.Leaves, r.Tiles, r.Subtrees, r.Heads)
		damaged(r.Problems)
	}
	for _, t := range found.TUF {
		fmt.Fprintf(w, "TUF repository %s: %d files verified from the first root on, as of %s\n", t.Name, t.Verified, t.AsOf.Format("2006-01-02T15:04:05Z07:00"))
		damaged(t.Problems)
	}
	if i := found.Images; i.Files+len(i.Problems) > 0 {
		fmt.Fprintf(w, "images: %d files of what vouches for them hashed\n", i.Files)
		damaged(i.Problems)
	}
}
