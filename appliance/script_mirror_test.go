package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/ca/approval"
	"redoubt.internal/log"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// believe DIR receivers|peers KEY... lets DIR take the word of the insides whose `mirror key --reports -o json` is in KEY.
func believe(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "believe DIR receivers|peers KEY...")
	var lines []string
	for _, file := range args[2:] {
		var key keyLine
		ts.Check(json.Unmarshal([]byte(ts.ReadFile(file)), &key))
		lines = append(lines, key.Key)
	}
	reconfigure(ts, args[0], func(c *Config) {
		if args[1] == "peers" {
			c.Mirror.Peers = lines
		} else {
			c.Mirror.Receivers, c.Mirror.UnacknowledgedWarn = lines, 1
		}
	})
}

// letout DIR N OPERATOR... demands N approvals, by the operators whose files are named, of what leaves DIR.
func letOut(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "letout DIR N OPERATOR...")
	people := &Approvers{Threshold: int(args[1][0] - '0')}
	for _, file := range args[2:] {
		o, err := approval.ParseOperator([]byte(ts.ReadFile(file)))
		ts.Check(err)
		people.Members = append(people.Members, Approver{Name: o.Name, PublicKey: o.PublicKey})
	}
	reconfigure(ts, args[0], func(c *Config) {
		c.Approvers, c.Mirror.OutboundApprovals = people, people.Threshold
	})
}

// witnesses DIR POLICY sets the witness policy of the first log of DIR, a file relative to DIR.
func witnesses(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "witnesses DIR POLICY")
	reconfigure(ts, args[0], func(c *Config) { c.Mirror.Logs[0].WitnessPolicy = args[1] })
}

// forge DIR receipt|checkpoint FROM TO changes a root of the first log: of the receipt FROM, signed again as the inside of DIR signs,
// or of the log's checkpoint in it, signed as the log of DIR signs.
func forge(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "forge DIR receipt|checkpoint FROM TO")
	ctx := context.Background()
	cfg, err := loadConfig(layout{ts.MkAbs(args[0])}.config())
	ts.Check(err)
	keys := newKeyring(cfg.Keys, layout{cfg.Dir}, slog.New(slog.DiscardHandler))
	defer keys.close()
	own, err := keys.role(ctx, roleExporter)
	ts.Check(err)
	vkey, err := parcel.VerifierKey(cfg.mirrorName(), own.Public())
	ts.Check(err)
	v, err := parcel.NewVerifier(vkey)
	ts.Check(err)
	s, _, err := mirror.OpenStatement([]byte(ts.ReadFile(args[2])), []*parcel.Verifier{v})
	ts.Check(err)
	h := &s.Heads[len(s.Heads)-1]
	h.Root, h.Cosignature = tiles.LeafHash([]byte("another history")), nil
	var signed []byte
	if args[1] == "receipt" {
		signed, err = parcel.SignNote(s.Text(), cfg.mirrorName(), own)
	} else {
		logKey, kerr := keys.role(ctx, roleRekor)
		ts.Check(kerr)
		signed, err = log.SignNote(h.Origin, logKey, h.Size, h.Root)
	}
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[3]), signed, 0o644))
}

// inventory DIR FILE sets mirror.reconcile.inventory.
func runs(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "inventory DIR FILE")
	reconfigure(ts, args[0], func(c *Config) { c.Mirror.Reconcile.Inventory = []string{ts.MkAbs(args[1])} })
}
