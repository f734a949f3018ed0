package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
)

// signers are clients that sign until the server is gone. What was acknowledged lies as DIR/<n>.json beside the artifact DIR/<n>.
type signers struct {
	dir  string
	done atomic.Int64
	all  sync.WaitGroup
}

// underLoad keeps the signers of each script by the folder they write to.
var underLoad sync.Map

// load start SETUP TOKEN DIR begins to sign, by four clients in each wire format; load until DIR N waits until N more bundles were
// handed out; load end DIR waits until every client has met the end of the server.
func load(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "load start SETUP TOKEN DIR | load until DIR N | load end DIR")
	switch args[0] {
	case "start":
		startLoad(ts, ts.MkAbs(args[1]), strings.TrimSpace(ts.ReadFile(args[2])), ts.MkAbs(args[3]))
	case "until":
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		s := loadOf(ts, args[1])
		want := s.done.Load() + int64(n)
		for range 9600 { // a busy machine takes its time
			if s.done.Load() >= want {
				return
			}
			time.Sleep(25 * time.Millisecond)
		}
		ts.Fatalf("%d bundles in four minutes, want %d", s.done.Load(), want)
	case "end":
		s := loadOf(ts, args[1])
		s.all.Wait()
		ts.Logf("%d bundles were handed out before the end", s.done.Load())
	}
}

func loadOf(ts *testscript.TestScript, dir string) *signers {
	s, ok := underLoad.Load(ts.MkAbs(dir))
	if !ok {
		ts.Fatalf("nobody signs into %s", dir)
	}
	return s.(*signers)
}

func startLoad(ts *testscript.TestScript, setup, token, dir string) {
	ts.Check(os.MkdirAll(dir, 0o755))
	s := &signers{dir: dir}
	underLoad.Store(dir, s)
	ctx, cancel := context.WithCancel(context.Background())
	ts.Defer(func() { cancel(); s.all.Wait() })
	trusted, err := root.NewTrustedRootFromPath(filepath.Join(setup, "trusted_root.json"))
	ts.Check(err)
	var names atomic.Int64
	for _, config := range []string{"signing_config.v0.2.json", "signing_config_rekor_v2.v0.2.json"} {
		services, err := root.NewSigningConfigFromPath(filepath.Join(setup, config))
		ts.Check(err)
		for range 4 {
			s.all.Go(func() {
				for ctx.Err() == nil {
					name := filepath.Join(dir, strconv.FormatInt(names.Add(1), 10))
					text := []byte(name)
					b, err := signBundle(ctx, signRequest{Content: &sign.PlainData{Data: text}, Token: token, TrustedRoot: trusted, Services: services})
					if err != nil {
						return // the server is gone
					}
					data, err := protojson.Marshal(b)
					if err != nil || os.WriteFile(name, text, 0o644) != nil || os.WriteFile(name+".json", data, 0o644) != nil {
						return
					}
					s.done.Add(1)
				}
			})
		}
	}
}

// proven SETUP DIR... verifies every bundle of folders of signers, and demands that no size of any log has two roots among all
// their checkpoints.
func proven(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "proven SETUP DIR...")
	roots, count := map[string]string{}, 0
	for _, dir := range args[1:] {
		files, err := filepath.Glob(filepath.Join(ts.MkAbs(dir), "*.json"))
		ts.Check(err)
		for _, path := range files {
			r, err := verifying.Verify(context.Background(), verifying.Request{Artifact: strings.TrimSuffix(path, ".json"), Bundle: path, Setup: ts.MkAbs(args[0]), Identity: verify.Identity{SANRegexp: ".", IssuerRegexp: "."}})
			if err != nil {
				ts.Fatalf("%s: %v", path, err)
			}
			for _, p := range r.Log() {
				at := fmt.Sprintf("%s size %d", p.Origin, p.TreeSize)
				if was, ok := roots[at]; ok && was != p.RootHash {
					ts.Fatalf("%s has the roots %s and %s", at, was, p.RootHash)
				}
				roots[at] = p.RootHash
				count++
			}
		}
	}
	if count == 0 {
		ts.Fatalf("no bundle in %v", args[1:])
	}
	ts.Logf("%d proofs, %d heads, none twice", count, len(roots))
}

// entered FILE demands that the report of `log resubmit -o json` in FILE has every bundle in a log, and that some were lost.
func entered(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "entered FILE")
	var results []resubmitted
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &results))
	lost := 0
	for _, r := range results {
		if r.Reason != "" || r.Index >= r.Size && r.To == "" {
			ts.Fatalf("%+v", r)
		}
		if r.To != "" {
			lost++
		}
	}
	ts.Logf("%d bundles, %d of them lost and entered again", len(results), lost)
	if lost == 0 {
		ts.Fatalf("nothing was lost")
	}
}
