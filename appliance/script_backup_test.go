package main

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// member NAME FILE MEMBER puts a member of the JSON object in a file into a variable.
func member(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "member NAME FILE MEMBER")
	data, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	var object map[string]any
	ts.Check(json.Unmarshal(data, &object))
	ts.Setenv(args[0], fmt.Sprint(object[args[2]]))
}

// crash DIR ends the server of DIR by SIGKILL and waits until the kernel has let go of the directory.
func crash(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "crash DIR")
	signalServer(ts, args[0], syscall.SIGKILL)
	ts.Check(os.Remove(ts.MkAbs(args[0] + ".ready"))) // the next server's is waited for
	for range 2400 {
		release, err := layout{ts.MkAbs(args[0])}.acquire()
		if err == nil {
			release()
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("the server was not killed")
}

// backupevery DIR PATH EVERY [RECIPIENT] has the server of DIR back up to PATH, in clear or sealed.
func backupEvery(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "backupevery DIR PATH EVERY [RECIPIENT]")
	every, err := time.ParseDuration(args[2])
	ts.Check(err)
	reconfigure(ts, args[0], func(c *Config) {
		c.Backup = &Backup{Path: args[1], Every: Duration(every), NoEncryption: len(args) < 4, Recipients: slices.Clone(args[3:])}
	})
}
