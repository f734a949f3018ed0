package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// exitBadProof is the code of a log that does not prove what it promises, as in `verify`.
const exitBadProof = 22

func logVerifyCommand() *cli.Command {
	return &cli.Command{
		Name: "verify", Usage: "hash every byte of an exported log up to its signed checkpoint, with the log's key alone; touches no state", ArgsUsage: "DIR",
		Flags: []cli.Flag{cmdline.OutputFlag(),
			&cli.StringFlag{Name: "key", Required: true, Usage: "the log's public key as you know it: a C2SP note verifier line, or a file with one or with PEM", EnvVars: []string{"REDOUBT_KEY"}},
			&cli.StringFlag{Name: "origin", Usage: "the log's origin, if it is not the name in the key; with PEM, the checkpoint's own is taken and printed", EnvVars: []string{"REDOUBT_ORIGIN"}},
		},
		Action: logVerifyAction,
	}
}

// logVerified is the JSON of `redoubt log verify -o json`.
type logVerified struct {
	Dir      string `json:"dir"`
	Origin   string `json:"origin"`
	Size     uint64 `json:"size"`
	RootHash string `json:"rootHash"` // lower-case hex
	VKey     string `json:"vkey"`
	Entries  uint64 `json:"entries"` // whose bytes were hashed
	Bytes    int64  `json:"bytes"`   // of their bundles
}

func logVerifyAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("log verify takes one DIR")
	}
	if err := cmdline.CheckOutput(c); err != nil {
		return err
	}
	dir, err := filepath.Abs(c.Args().First())
	if err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	log, err := dumpLog(root, c.String("key"), c.String("origin"))
	if err != nil {
		return err
	}
	log.Source = dir
	v, err := mirror.VerifyCopy(c.Context, log, 0)
	if err != nil {
		return badDump(err)
	}
	r := logVerified{dir, log.Origin, v.Checkpoint.Size, hex.EncodeToString(v.Checkpoint.Root[:]), log.VKey, v.Leaves, v.Bytes}
	return cmdline.PrintResult(c, r, func(w io.Writer) {
		fmt.Fprintf(w, "verified: every byte hashes up to the signed root\norigin  %s\nsize    %d\nroot    %s\nvkey    %s\n", r.Origin, r.Size, r.RootHash, r.VKey)
	})
}

// dumpLog is the log that key, a verifier line or a file, and origin say. Only for a PEM key without an origin the folder is asked.
func dumpLog(root *os.Root, key, origin string) (mirror.LogConfig, error) {
	if _, err := parcel.NewVerifier(key); err != nil {
		text, err := os.ReadFile(key)
		if err != nil {
			return mirror.LogConfig{}, fmt.Errorf("reading the log's key: %w", err)
		}
		key = string(text)
	}
	named := origin
	if named == "" && strings.Contains(key, "-----BEGIN") {
		note, err := (&dump{root: root}).read("checkpoint")
		if err != nil {
			return mirror.LogConfig{}, badDump(fmt.Errorf("reading the checkpoint: %w", err))
		}
		named, _, _ = strings.Cut(string(note), "\n")
	}
	vkey, err := verifierLine(named, key)
	if err != nil {
		return mirror.LogConfig{}, fmt.Errorf("reading the log's key: %w", err)
	}
	v, err := parcel.NewVerifier(vkey)
	if err != nil {
		return mirror.LogConfig{}, fmt.Errorf("reading the log's key: %w", err)
	}
	if named == "" {
		named = v.Name()
	}
	return mirror.LogConfig{Origin: named, VKey: vkey}, nil
}

// badDump gives an error about what lies in a folder its exit code. What this machine could not read stays a local error.
func badDump(err error) error {
	for _, bad := range []error{mirror.ErrProof, mirror.ErrUnknownOrigin, mirror.ErrRemote, mirror.ErrDamaged, tiles.ErrProof, tiles.ErrBundle, fs.ErrNotExist} {
		if errors.Is(err, bad) && !errors.Is(err, fs.ErrPermission) {
			return cmdline.WithCode(exitBadProof, err)
		}
	}
	return err
}
