package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/ca/approval"
)

// marksat DIR FILE has the server of DIR keep its high-water marks in FILE alone.
func marksAt(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "marksat DIR FILE")
	reconfigure(ts, args[0], func(c *Config) { c.Log.HighWater = []string{ts.MkAbs(args[1])} })
}

// standbyof DIR PRIMARY FINGERPRINT OPERATOR... makes DIR a standby of the state in PRIMARY, which two of the operators promote. $STANDBY is
// where it answers probes.
func standbyOf(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "standbyof DIR PRIMARY FINGERPRINT OPERATOR...")
	primary, err := loadConfig(layout{ts.MkAbs(args[1])}.config())
	ts.Check(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	s := Standby{Domain: primary.Domain, Appliance: args[2], From: primary.Backup.Path, Logs: primary.Services.Rekor.URL, Fence: primary.Log.HighWater[0],
		Second: primary.Log.Second.Dir, Every: Duration(200 * time.Millisecond), Listen: l.Addr().String(), Approvers: &Approvers{Threshold: 2}}
	ts.Check(l.Close())
	for _, file := range args[3:] {
		o, err := approval.ParseOperator([]byte(ts.ReadFile(file)))
		ts.Check(err)
		s.Approvers.Members = append(s.Approvers.Members, Approver{Name: o.Name, PublicKey: o.PublicKey})
	}
	data, err := yaml.Marshal(s)
	ts.Check(err)
	ts.Check(writeFileAtomic(filepath.Join(ts.MkAbs(args[0]), standbyFile), data, 0o640))
	ts.Setenv("STANDBY", "http://"+s.Listen)
}

// probe URL STATUS waits until a GET of URL is answered with STATUS.
func probe(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "probe URL STATUS")
	last := ""
	for range 2400 {
		response, err := http.Get(args[0])
		if err == nil {
			response.Body.Close()
			last = fmt.Sprint(response.StatusCode)
		}
		if last == args[1] {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("%s answers %q, want %s", args[0], last, args[1])
}

// forked SETUP DIR... demands what proven refuses: a size with two roots among the bundles of the folders.
func forked(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "forked SETUP DIR...")
	roots := map[string]string{}
	for _, dir := range args[1:] {
		files, err := filepath.Glob(filepath.Join(ts.MkAbs(dir), "*.json"))
		ts.Check(err)
		for _, path := range files {
			r, err := verifying.Verify(context.Background(), verifying.Request{Artifact: strings.TrimSuffix(path, ".json"), Bundle: path, Setup: ts.MkAbs(args[0]), Identity: verify.Identity{SANRegexp: ".", IssuerRegexp: "."}})
			ts.Check(err)
			for _, p := range r.Log() {
				at := fmt.Sprintf("%s size %d", p.Origin, p.TreeSize)
				if was, ok := roots[at]; ok && was != p.RootHash {
					ts.Logf("%s has the roots %s and %s", at, was, p.RootHash)
					return
				}
				roots[at] = p.RootHash
			}
		}
	}
	ts.Fatalf("no size has two roots: the control shows nothing")
}
