package main

import (
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/ca/approval"
)

// drop DIR N loses every N-th file of a folder.
func drop(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "drop DIR N")
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	list, err := os.ReadDir(ts.MkAbs(args[0]))
	ts.Check(err)
	for i, e := range list {
		if i%n == 0 {
			ts.Check(os.Remove(filepath.Join(ts.MkAbs(args[0]), e.Name())))
		}
	}
}

// watch DIR INBOX makes the server of DIR look at INBOX ten times a second.
func watch(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "watch DIR INBOX")
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.Inbox = &MirrorInbox{Dir: args[1], Every: Duration(100 * time.Millisecond)}
	})
}

// until PATTERN COMMAND ARGS... runs a command again and again until it succeeds and its output matches.
func until(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "until PATTERN COMMAND ARGS...")
	pattern := regexp.MustCompile("(?m)" + args[0])
	for range 600 {
		if ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout")) {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%q did not come: %s", args[0], ts.ReadFile("stdout"))
}

// fromfile NAME FILE puts what a file holds, without blanks at its ends, into a variable.
func fromFile(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "fromfile NAME FILE")
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile(args[1])))
}

// holders DIR NAME.pem... makes the holders of those keys the approvers of DIR; all of them must approve.
func holders(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "holders DIR NAME.pem...")
	var members []Approver
	for _, file := range args[1:] {
		block, _ := pem.Decode([]byte(ts.ReadFile(file)))
		if block == nil {
			ts.Fatalf("%s is no PEM", file)
		}
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		ts.Check(err)
		o, err := approval.NewOperator(strings.TrimSuffix(filepath.Base(file), ".pem"), key.(crypto.Signer).Public())
		ts.Check(err)
		members = append(members, Approver{Name: o.Name, PublicKey: o.PublicKey})
	}
	reconfigure(ts, args[0], func(c *Config) { c.Approvers = &Approvers{Threshold: len(members), Members: members} })
}

// proposal DIR FILE copies the text of the one act that waits.
func proposal(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "proposal DIR FILE")
	found, err := filepath.Glob(filepath.Join(layout{ts.MkAbs(args[0])}.approvals(), "*.act"))
	ts.Check(err)
	if len(found) != 1 {
		ts.Fatalf("%d acts wait", len(found))
	}
	text, err := os.ReadFile(found[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), text, 0o644))
}
