package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/ca/approval"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// approvers DIR THRESHOLD OPERATOR... sets who approves, from files as `ceremony operator show` prints them.
func approvers(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "approvers DIR THRESHOLD OPERATOR...")
	people := &Approvers{}
	_, err := fmt.Sscan(args[1], &people.Threshold)
	ts.Check(err)
	for _, file := range args[2:] {
		o, err := approval.ParseOperator([]byte(ts.ReadFile(file)))
		ts.Check(err)
		people.Members = append(people.Members, Approver{Name: o.Name, PublicKey: o.PublicKey})
	}
	reconfigure(ts, args[0], func(c *Config) { c.Approvers = people })
}

// unknown DIR ORIGIN takes a log out of mirror.logs.
func unknown(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "unknown DIR ORIGIN")
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.Logs = slices.DeleteFunc(c.Mirror.Logs, func(l MirrorLog) bool { return l.Origin == args[1] })
	})
}

// twin FROM TO copies a stopped state with its keys and logs, and gives the copy ports of its own: what a restored backup is.
func twin(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "twin FROM TO")
	ts.Check(copyState(ts.MkAbs(args[0]), ts.MkAbs(args[1])))
}

// misled OUTSIDE TWIN makes the stopped exporter of OUTSIDE read its logs from TWIN, and forget what it collected of them.
func misled(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "misled OUTSIDE TWIN")
	other, err := loadConfig(layout{ts.MkAbs(args[1])}.config())
	ts.Check(err)
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.Logs[0].Source, c.Mirror.Logs[1].Source = other.Services.Rekor.URL, other.Services.Rekor.URL+"/api/v2"
	})
	exporterKeys(ts, args[0], func(tx store.Tx, k, _ []byte) error {
		if strings.HasPrefix(string(k), "exporter/head/") {
			return tx.Delete(k)
		}
		return nil
	})
	ts.Check(os.RemoveAll(layout{ts.MkAbs(args[0])}.path("mirror", "out", "logs")))
}

// liar OUTSIDE makes the stopped exporter of OUTSIDE take what it collected for what it sent.
func liar(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "liar OUTSIDE")
	exporterKeys(ts, args[0], func(tx store.Tx, k, v []byte) error {
		if origin, ok := strings.CutPrefix(string(k), "exporter/head/"); ok {
			return tx.Put([]byte("exporter/sent/"+origin), v)
		}
		return nil
	})
}

// exporterKeys calls fn with each record of the exporter.
func exporterKeys(ts *testscript.TestScript, dir string, fn func(tx store.Tx, k, v []byte) error) {
	db, err := bolt.Open(layout{ts.MkAbs(dir)}.authorityDB())
	ts.Check(err)
	ts.Check(db.Update(func(tx store.Tx) error {
		var keys, values [][]byte
		if err := tx.Scan([]byte("exporter/"), []byte("exporter0"), func(k, v []byte) bool {
			keys, values = append(keys, slices.Clone(k)), append(values, slices.Clone(v))
			return true
		}); err != nil {
			return err
		}
		for i, k := range keys {
			if err := fn(tx, k, values[i]); err != nil {
				return err
			}
		}
		return nil
	}))
	ts.Check(db.Close())
}

// newest LIST-GLOB OUT copies the newest file that matches below the script's folder.
func newest(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "newest GLOB OUT")
	files, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(files) == 0 {
		ts.Fatalf("nothing matches %s", args[0])
	}
	slices.SortFunc(files, func(a, b string) int {
		x, err := os.Stat(a)
		ts.Check(err)
		y, err := os.Stat(b)
		ts.Check(err)
		return x.ModTime().Compare(y.ModTime())
	})
	data, err := os.ReadFile(files[len(files)-1])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), data, 0o644))
}

// watchFor DIR NAME IDENTITY adds a watch to the configuration.
func watchFor(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "watchfor DIR NAME IDENTITY")
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.Watch = append(c.Mirror.Watch, MirrorWatch{Name: args[1], Identity: args[2]})
	})
}

// scrape DIR prints the metrics page of the server of DIR.
func scrape(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "scrape DIR")
	base, ok := readyFile(ts, args[0])["metrics"].(string)
	if !ok {
		ts.Fatalf("%s serves no metrics", args[0])
	}
	response, err := http.Get(strings.TrimSuffix(base, "/metrics") + "/metrics")
	ts.Check(err)
	defer response.Body.Close()
	_, err = io.Copy(ts.Stdout(), response.Body)
	ts.Check(err)
}
