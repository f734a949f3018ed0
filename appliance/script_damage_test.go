package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// spoil DB FILE changes one bit of every place where the database holds the hexadecimal SHA-256 of FILE.
func spoil(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "spoil DB FILE")
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	sum := fmt.Appendf(nil, "%x", sha256.Sum256([]byte(ts.ReadFile(args[1]))))
	if !bytes.Contains(data, sum) {
		ts.Fatalf("%s does not hold %s", args[0], sum)
	}
	spoilt := bytes.Clone(sum)
	spoilt[20] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), bytes.ReplaceAll(data, sum, spoilt), 0o600))
}

// latch DIR LOG halts an artifact log or ct or audit of a stopped directory as a failed flush does: in its mark and in its database.
func latch(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "latch DIR LOG")
	const reason = "the disk gave up"
	dir, ctx := layout{ts.MkAbs(args[0])}, context.Background()
	marks, err := log.OpenHighWaterFile(dir.highWater())
	ts.Check(err)
	defer marks.Close()
	at := marks.For(args[1] + ".corp.internal")
	mark, err := at.Read(ctx)
	ts.Check(err)
	mark.Halted = reason
	ts.Check(at.Raise(ctx, mark))
	path, prefix := dir.logDB(args[1]), ""
	if args[1] == roleCT || args[1] == roleAudit {
		path, prefix = dir.authorityDB(), args[1]+"/"
	}
	db, err := bolt.Open(path)
	ts.Check(err)
	defer db.Close()
	ts.Check(db.Update(func(tx store.Tx) error { return tx.Put([]byte(prefix+"log/z"), []byte(reason)) }))
}
