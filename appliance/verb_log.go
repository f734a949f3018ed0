package main

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"strconv"
	"time"

	"github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
)

func logCommand() *cli.Command {
	which := &cli.StringFlag{Name: "log", Value: roleRekor, Usage: "rekor, rekor-<n>, ct or audit", EnvVars: []string{"REDOUBT_LOG"}}
	flags := func(more ...cli.Flag) []cli.Flag {
		return append(append(cmdline.StateFlags(), cmdline.OutputFlag(), which), more...)
	}
	return &cli.Command{
		Name: "log", Usage: "read, search, prove and check the logs",
		Subcommands: []*cli.Command{
			{Name: "info", Usage: "origin, size, root and state of every log", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: logInfoAction},
			{Name: "get", Usage: "print one entry", ArgsUsage: "INDEX|LEAFHASH", Flags: flags(), Action: logGetAction},
			{Name: "search", Usage: "log and index of the entries of the artifact logs that carry a key: an e-mail, a URI, sha256:HEX, a certificate's SHA-256", ArgsUsage: "KEY",
				Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(), &cli.IntFlag{Name: "limit", Value: 100, Usage: "most entries of one log to print", EnvVars: []string{"REDOUBT_LIMIT"}}), Action: logSearchAction},
			{Name: "proof", Usage: "inclusion proof of an entry, or with --from the consistency of two sizes; verified before it is printed", ArgsUsage: "[INDEX]",
				Flags: flags(&cli.Uint64Flag{Name: "size", Usage: "tree size (default: the head's)", EnvVars: []string{"REDOUBT_SIZE"}},
					&cli.Uint64Flag{Name: "from", Usage: "older size of a consistency proof", EnvVars: []string{"REDOUBT_FROM"}}), Action: logProofAction},
			{Name: "fsck", Usage: "recompute everything and check every head ever signed", Flags: append(cmdline.StateFlags(), cmdline.OutputFlag()), Action: logFsckAction},
			rotateCommand("rotate", "a new log with a new key; the one before stays readable and takes no more entries", func(c *cli.Context) (string, error) { return c.String("log"), nil }, which),
			logResumeCommand(), logRetireCommand(), logResubmitCommand(),
			logMarkCommand(),
			logExportCommand(which), logVerifyCommand(),
		},
	}
}

// logInfo is one element of the JSON of `redoubt log info -o json`.
type logInfo struct {
	Log      string    `json:"log"`
	Origin   string    `json:"origin"`
	Size     uint64    `json:"size"`
	RootHash string    `json:"rootHash"` // lower-case hex
	Time     time.Time `json:"time"`     // when the head was signed
	Writable bool      `json:"writable"`
	Reason   string    `json:"reason,omitempty"` // why it takes no entries
	Lost     string    `json:"lost,omitempty"`   // what it lacks, of a log that was retired after a restore
	Head     string    `json:"head"`             // the C2SP signed note
}

var logInfos = verb[struct{}, []logInfo]{"log.info", func(_ context.Context, in *instance, _ string, _ struct{}) (infos []logInfo, err error) {
	for _, l := range in.logs() {
		head := l.log.Head()
		info := logInfo{Log: l.role, Origin: in.cfg.origin(l.role), Size: head.Size, RootHash: hex.EncodeToString(head.Root[:]), Time: head.Time, Writable: true, Head: string(head.Note)}
		if err := l.log.Err(); err != nil {
			info.Writable, info.Reason = false, err.Error()
		}
		if lost := in.lost(l.role); lost != nil {
			info.Writable, info.Reason, info.Lost = false, "it was retired", lost.says()
		}
		infos = append(infos, info)
	}
	return infos, nil
}}

func logInfoAction(c *cli.Context) error {
	infos, err := logInfos.call(c, struct{}{})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, infos, func(w io.Writer) {
		for _, i := range infos {
			fmt.Fprintf(w, "%-7s  %s\n         %d entries, root %s, signed %s\n", i.Log, i.Origin, i.Size, i.RootHash, i.Time.Format(time.RFC3339))
			if i.Lost != "" {
				fmt.Fprintf(w, "         RETIRED: %s\n", i.Lost)
			}
			if !i.Writable {
				fmt.Fprintf(w, "         READ-ONLY: %s\n", i.Reason)
			}
		}
	})
}

// logArgs says which log, and what in it.
type logArgs struct {
	Log   string `json:"log"`
	Key   string `json:"key"`
	Index uint64 `json:"index"`
	From  uint64 `json:"from"`
	Size  uint64 `json:"size"`
	Limit int    `json:"limit"`
}

// pick returns the log called name.
func (in *instance) pick(name string) (*log.Log, error) {
	for _, l := range in.logs() {
		if l.role == name {
			return l.log, nil
		}
	}
	return nil, cmdline.Usage("--log %q: this instance has no such log; `redoubt log info` lists them", name)
}

// logEntry is the JSON of `redoubt log get -o json`; the bodies of the artifact and audit logs are JSON themselves.
type logEntry struct {
	Log      string `json:"log"`
	Index    uint64 `json:"index"`
	LeafHash string `json:"leafHash"`
	Leaf     []byte `json:"leaf"`  // base64; the bytes that are hashed
	Extra    []byte `json:"extra"` // base64; kept beside the leaf
}

var logGet = verb[logArgs, logEntry]{"log.get", func(ctx context.Context, in *instance, _ string, a logArgs) (logEntry, error) {
	if len(a.Key) == 80 { // a Rekor entry id: tree id, then leaf hash
		for _, l := range in.artifacts {
			if a.Key[:16] == fmt.Sprintf("%016x", l.TreeID) {
				a.Log, a.Key = l.Name, a.Key[16:]
			}
		}
	}
	l, err := in.pick(a.Log)
	if err != nil {
		return logEntry{}, err
	}
	index, err := strconv.ParseUint(a.Key, 10, 64)
	if err != nil {
		var hash [32]byte
		raw, err := hex.DecodeString(a.Key)
		if err != nil || copy(hash[:], raw) != len(raw) || len(raw) != len(hash) {
			return logEntry{}, cmdline.Usage("%q is neither an index, nor a leaf hash of 64 hex digits, nor such a hash after the id of a tree of ours", a.Key)
		}
		at, found, err := l.LeafIndex(ctx, hash)
		if err != nil {
			return logEntry{}, err
		}
		if !found {
			return logEntry{}, fmt.Errorf("the %s log has no entry %s", a.Log, a.Key)
		}
		index = at
	}
	e, err := l.Entry(ctx, index)
	if err != nil {
		return logEntry{}, err
	}
	hash := leafHash(e.Leaf)
	return logEntry{a.Log, index, hex.EncodeToString(hash[:]), e.Leaf, e.Extra}, nil
}}

func logGetAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("log get takes one INDEX or LEAFHASH")
	}
	e, err := logGet.call(c, logArgs{Log: c.String("log"), Key: c.Args().First()})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, e, func(w io.Writer) {
		fmt.Fprintf(w, "index     %d\nleaf hash %s\n", e.Index, e.LeafHash)
		if e.Log == roleCT {
			fmt.Fprintf(w, "leaf      %s\n", base64.StdEncoding.EncodeToString(e.Leaf))
			return
		}
		fmt.Fprintf(w, "leaf      %s\n", e.Leaf)
	})
}

// logMatch is one element of the JSON of `redoubt log search -o json`.
type logMatch struct {
	Log   string `json:"log"`
	Index uint64 `json:"index"`
}

var logSearch = verb[logArgs, []logMatch]{"log.search", func(ctx context.Context, in *instance, _ string, a logArgs) ([]logMatch, error) {
	matches := []logMatch{}
	for _, l := range in.artifacts {
		found, err := l.log.Find(ctx, rekor.SearchKey(a.Key), a.Limit)
		if err != nil {
			return nil, err
		}
		for _, i := range found {
			matches = append(matches, logMatch{l.Name, i})
		}
	}
	return matches, nil
}}

func logSearchAction(c *cli.Context) error {
	if c.NArg() != 1 {
		return cmdline.Usage("log search takes one KEY")
	}
	found, err := logSearch.call(c, logArgs{Key: c.Args().First(), Limit: c.Int("limit")})
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, found, func(w io.Writer) {
		for _, m := range found {
			fmt.Fprintln(w, m.Log, m.Index)
		}
	})
}

// logProof is the JSON of `redoubt log proof -o json`; hashes are lower-case hex, leaf side first (RFC 6962 2.1).
type logProof struct {
	Log    string   `json:"log"`
	Kind   string   `json:"kind"` // inclusion or consistency
	Index  uint64   `json:"index"`
	From   uint64   `json:"from,omitempty"`
	Size   uint64   `json:"size"`
	Root   string   `json:"root"`
	Hashes []string `json:"hashes"`
}

var logProve = verb[logArgs, logProof]{"log.proof", func(ctx context.Context, in *instance, _ string, a logArgs) (logProof, error) {
	l, err := in.pick(a.Log)
	if err != nil {
		return logProof{}, err
	}
	if a.Size == 0 {
		a.Size = l.Head().Size
	}
	p := logProof{Log: a.Log, Kind: "inclusion", Index: a.Index, From: a.From, Size: a.Size, Hashes: []string{}}
	root, err := l.Root(ctx, a.Size)
	if err != nil {
		return logProof{}, err
	}
	var hashes [][]byte
	if a.From > 0 {
		p.Kind = "consistency"
		hashes, err = proveConsistency(ctx, l, a.From, a.Size, root)
	} else {
		hashes, err = proveInclusion(ctx, l, a.Index, a.Size, root)
	}
	if err != nil {
		return logProof{}, err
	}
	p.Root = hex.EncodeToString(root[:])
	for _, h := range hashes {
		p.Hashes = append(p.Hashes, hex.EncodeToString(h))
	}
	return p, nil
}}

// proveInclusion returns a proof after it has verified.
func proveInclusion(ctx context.Context, l *log.Log, index, size uint64, root [32]byte) ([][]byte, error) {
	entry, err := l.Entry(ctx, index)
	if err != nil {
		return nil, err
	}
	hashes, err := l.InclusionProof(ctx, index, size)
	if err != nil {
		return nil, err
	}
	hash := leafHash(entry.Leaf)
	return hashes, proof.VerifyInclusion(rfc6962.DefaultHasher, index, size, hash[:], hashes, root[:])
}

// proveConsistency returns a proof after it has verified.
func proveConsistency(ctx context.Context, l *log.Log, from, size uint64, root [32]byte) ([][]byte, error) {
	older, err := l.Root(ctx, from)
	if err != nil {
		return nil, err
	}
	hashes, err := l.ConsistencyProof(ctx, from, size)
	if err != nil {
		return nil, err
	}
	return hashes, proof.VerifyConsistency(rfc6962.DefaultHasher, from, size, hashes, older[:], root[:])
}

func logProofAction(c *cli.Context) error {
	args := logArgs{Log: c.String("log"), From: c.Uint64("from"), Size: c.Uint64("size")}
	if (c.NArg() == 1) == (args.From > 0) || c.NArg() > 1 {
		return cmdline.Usage("log proof takes one INDEX, or --from SIZE")
	}
	if args.From == 0 {
		var err error
		if args.Index, err = strconv.ParseUint(c.Args().First(), 10, 64); err != nil {
			return cmdline.Usage("%q is not an index", c.Args().First())
		}
	}
	p, err := logProve.call(c, args)
	if err != nil {
		return err
	}
	return cmdline.PrintResult(c, p, func(w io.Writer) {
		fmt.Fprintf(w, "%s proof in the %s log of size %d, root %s\n", p.Kind, p.Log, p.Size, p.Root)
		for _, h := range p.Hashes {
			fmt.Fprintln(w, h)
		}
	})
}

// leafHash is the Merkle leaf hash, RFC 6962 2.1.
func leafHash(leaf []byte) [32]byte { return [32]byte(rfc6962.DefaultHasher.HashLeaf(leaf)) }
