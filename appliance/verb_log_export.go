package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

func logExportCommand(which cli.Flag) *cli.Command {
	return &cli.Command{
		Name: "export", Usage: "write a log at its signed head as a folder of C2SP tlog-tiles files and prove the folder; run again, it goes on or catches up",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(), which,
			&cli.StringFlag{Name: "out", Required: true, Usage: "folder to write: new, empty, or an earlier export of the same log", EnvVars: []string{"REDOUBT_OUT"}}),
		Action: logExportAction,
	}
}

// Bounds of one answer of logCopy. A bundle may be 16 MiB; at least one tile is answered.
const (
	copyTiles = 512
	copyBytes = 4 << 20
)

// copyArgs ask for the head of a log, its root at an earlier size, and tiles.
type copyArgs struct {
	Log   string       `json:"log"`
	At    uint64       `json:"at"` // size to tell the root of
	Tiles []tiles.Tile `json:"tiles"`
}

// copyAnswer is the head and the first of the tiles asked for.
type copyAnswer struct {
	Origin string   `json:"origin"`
	VKey   string   `json:"vkey"`
	Note   []byte   `json:"note"`
	Size   uint64   `json:"size"`
	Root   string   `json:"root"`   // lower-case hex
	RootAt string   `json:"rootAt"` // at copyArgs.At, empty when the log is smaller
	Data   [][]byte `json:"data"`
}

// logCopy reads; whoever asks writes the files, so that they are the asker's.
var logCopy = verb[copyArgs, copyAnswer]{"log.copy", func(ctx context.Context, in *instance, _ string, a copyArgs) (copyAnswer, error) {
	l, err := in.pick(a.Log)
	if err != nil {
		return copyAnswer{}, err
	}
	if len(a.Tiles) > copyTiles {
		return copyAnswer{}, cmdline.Usage("%d tiles at once, %d are answered", len(a.Tiles), copyTiles)
	}
	head := l.Head()
	r := copyAnswer{Origin: in.cfg.origin(a.Log), Note: head.Note, Size: head.Size, Root: hex.EncodeToString(head.Root[:])}
	if r.VKey, err = parcel.VerifierKey(r.Origin, in.signer(a.Log).Public()); err != nil {
		return copyAnswer{}, fmt.Errorf("writing the key of the %s log as a verifier line: %w", a.Log, err)
	}
	if a.At <= head.Size {
		root, err := l.Root(ctx, a.At)
		if err != nil {
			return copyAnswer{}, err
		}
		r.RootAt = hex.EncodeToString(root[:])
	}
	bytes := 0
	for _, t := range a.Tiles {
		var data []byte
		if t.Level == tiles.Entries {
			data, err = l.EntryBundle(ctx, t.Index, t.Width)
		} else {
			data, err = l.Tile(ctx, t.Level, t.Index, t.Width)
		}
		if err != nil {
			return copyAnswer{}, err
		}
		r.Data = append(r.Data, data)
		if bytes += len(data); bytes >= copyBytes {
			break
		}
	}
	return r, nil
}}

// logExport is the JSON of `redoubt log export -o json`.
type logExport struct {
	Log      string `json:"log"`
	Dir      string `json:"dir"`
	Origin   string `json:"origin"`
	Size     uint64 `json:"size"`
	RootHash string `json:"rootHash"` // lower-case hex
	VKey     string `json:"vkey"`     // C2SP note verifier line of the log's key
	Files    uint64 `json:"files"`    // of the tree at this head, checkpoint among them
	Bytes    int64  `json:"bytes"`
	Kept     uint64 `json:"kept"` // of the files, how many an earlier export had written
}

func logExportAction(c *cli.Context) error {
	if c.NArg() > 0 {
		return cmdline.Usage("log export takes no operand; the folder is --out")
	}
	if err := cmdline.CheckOutput(c); err != nil {
		return err
	}
	out, err := filepath.Abs(c.String("out"))
	if err != nil {
		return err
	}
	ask, done, err := logCopy.attach(c)
	if err != nil {
		return err
	}
	defer done()
	r, err := exportLog(c.Context, c.String("log"), out, ask, cmdline.Progress(c))
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "origin  %s\nsize    %d\nroot    %s\nvkey    %s\nfiles   %d (%d kept), %d bytes\n", r.Origin, r.Size, r.RootHash, r.VKey, r.Files, r.Kept, r.Bytes)
	})
}

// exportLog writes the log called name to the folder out and proves what then lies there.
func exportLog(ctx context.Context, name, out string, ask func(copyArgs) (copyAnswer, error), told io.Writer) (logExport, error) {
	head, err := ask(copyArgs{Log: name})
	if err != nil {
		return logExport{}, err
	}
	d, err := openDump(out, head.Origin, head.VKey)
	if err != nil {
		return logExport{}, err
	}
	defer d.close()
	if err := d.extendedBy(head, func(size uint64) (copyAnswer, error) { return ask(copyArgs{Log: name, At: size}) }); err != nil {
		return logExport{}, err
	}
	r := logExport{Log: name, Dir: out, Origin: head.Origin, Size: head.Size, RootHash: head.Root, VKey: head.VKey, Files: 1, Bytes: int64(len(head.Note))}
	total, said := countTiles(head.Size), time.Now()
	var want []tiles.Tile
	flush := func(least int) error {
		for len(want) > least {
			a, err := ask(copyArgs{Log: name, Tiles: want[:min(len(want), copyTiles)]})
			if err != nil {
				return err
			}
			if len(a.Data) == 0 || len(a.Data) > len(want) {
				return fmt.Errorf("the server answered %d tiles of %d; client and server differ in version", len(a.Data), len(want))
			}
			for i, data := range a.Data {
				if err := d.write(want[i].Path(), data); err != nil {
					return err
				}
				r.Files, r.Bytes = r.Files+1, r.Bytes+int64(len(data))
			}
			want = want[len(a.Data):]
			if time.Since(said) > 2*time.Second {
				said = time.Now()
				fmt.Fprintf(told, "%s: %d of %d files\n", head.Origin, r.Files, total)
			}
		}
		return nil
	}
	for t := range allTiles(head.Size) {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if n := d.has(t); n > 0 {
			r.Files, r.Bytes, r.Kept = r.Files+1, r.Bytes+n, r.Kept+1
			continue
		}
		if want = append(want, t); len(want) >= copyTiles {
			if err := flush(copyTiles - 1); err != nil {
				return r, err
			}
		}
	}
	if err := flush(0); err != nil {
		return r, err
	}
	if err := d.finish(head.Note); err != nil {
		return r, err
	}
	fmt.Fprintf(told, "%s: %d files written, %d kept; hashing all of them\n", head.Origin, r.Files-r.Kept, r.Kept)
	if err := ctx.Err(); err != nil {
		return r, err
	}
	if _, err := mirror.VerifyCopy(ctx, mirror.LogConfig{Origin: head.Origin, VKey: head.VKey, Source: out}, 0); err != nil {
		return r, cmdline.Hinted(badDump(err), "remove the file that is named and run the same command again: it is written anew")
	}
	return r, d.sweep(head.Size)
}
