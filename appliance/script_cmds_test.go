package main

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// scriptCommands are what the scripts have beyond testscript's own.
var scriptCommands = map[string]func(ts *testscript.TestScript, neg bool, args []string){
	"exits": exits, "start": start, "halt": halt, "hangup": hangup, "get": get, "digest": digest, "mode": mode,
	"newstate": newState, "softhsmconf": softHSMConf, "faultymodule": faultyModule, "carry": carry, "carrytrust": carryTrust, "interval": interval, "inventory": runs, "alsotrust": alsoTrust, "monitoring": monitoring, "reports": reports, "byhand": byHand,
	"believe": believe, "letout": letOut, "page": page, "follow": follow, "witnesses": witnesses, "forge": forge,
	"flip": flip, "picking": picking, "usepicklist": usePicklist, "shelve": shelve, "layout": imageLayout, "registry": serveLayout, "stamp": stamp,
	"approvers": approvers, "people": people, "as": as, "says": says, "unknown": unknown, "twin": twin, "misled": misled, "liar": liar, "newest": newest,
	"watchfor": watchFor, "scrape": scrape, "limits": limits,
	"snippets": ciSnippets, "citokens": ciTokens,
	"drop": drop, "watch": watch, "until": until, "fromfile": fromFile, "holders": holders, "proposal": proposal,
	"member": member, "crash": crash, "backupevery": backupEvery, "load": load, "proven": proven, "entered": entered, "seconddisk": secondDiskOf, "marksat": marksAt, "standbyof": standbyOf, "probe": probe, "forked": forked, "kept": kept, "roles": rolesOfState, "stands": stands,
	"spoil": spoil, "latch": latch, "vault": vaultServer, "buildplugin": buildPlugin, "swtpm": swtpm,
}

func arguments(ts *testscript.TestScript, neg bool, args []string, least int, usage string) {
	if neg || len(args) < least {
		ts.Fatalf("usage: %s", usage)
	}
}

// exits CODE COMMAND ARGS... runs a command and demands this very exit code; stdout and stderr can be matched afterwards.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "exits CODE COMMAND ARGS...")
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	got := 0
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("running %s: %v", args[1], err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

// start DIR starts `redoubt serve --dir DIR`, waits until it is ready, and leaves DIR.ready and DIR.log.
func start(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "start DIR")
	dir := ts.MkAbs(args[0])
	log, err := os.Create(dir + ".log")
	ts.Check(err)
	defer log.Close()
	command := exec.Command("redoubt", "serve", "--dir", dir, "--ready-file", dir+".ready")
	command.Env = os.Environ()
	for _, name := range []string{"SOFTHSM2_CONF", "GODEBUG", "FAULTY_CONTROL", clockVariable} { // the script's own; of two, the last one counts
		command.Env = append(command.Env, name+"="+ts.Getenv(name))
	}
	command.Stdout, command.Stderr = log, log
	ts.Check(command.Start())
	exited := make(chan error, 1)
	go func() { exited <- command.Wait() }()
	ts.Defer(func() { command.Process.Kill() })
	for range 2400 {
		if _, err := os.Stat(dir + ".ready"); err == nil {
			return
		}
		select {
		case err := <-exited:
			text, _ := os.ReadFile(dir + ".log")
			ts.Fatalf("serve ended: %v\n%s", err, text)
		case <-time.After(25 * time.Millisecond):
		}
	}
	ts.Fatalf("serve did not become ready")
}

func readyFile(ts *testscript.TestScript, dir string) (ready map[string]any) {
	data, err := os.ReadFile(ts.MkAbs(dir) + ".ready")
	ts.Check(err)
	ts.Check(json.Unmarshal(data, &ready))
	return ready
}

// halt DIR ends the server of DIR with SIGTERM and waits until it has let go of the directory.
func halt(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "halt DIR")
	signalServer(ts, args[0], syscall.SIGTERM)
	for range 1200 {
		release, err := layout{ts.MkAbs(args[0])}.acquire()
		if err == nil {
			release()
			text, err := os.ReadFile(ts.MkAbs(args[0]) + ".log")
			ts.Check(err)
			if !strings.Contains(string(text), "msg=stopped") {
				ts.Fatalf("the server did not drain:\n%s", text)
			}
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("the server did not stop")
}

// hangup DIR sends SIGHUP and waits until the server says what it made of it.
func hangup(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "hangup DIR")
	said := func() int {
		text, err := os.ReadFile(ts.MkAbs(args[0]) + ".log")
		ts.Check(err)
		return strings.Count(string(text), "msg=reload") + strings.Count(string(text), `msg="reload`)
	}
	before := said()
	signalServer(ts, args[0], syscall.SIGHUP)
	for range 400 {
		if said() > before {
			return
		}
		time.Sleep(25 * time.Millisecond)
	}
	ts.Fatalf("the server did not answer SIGHUP")
}

func signalServer(ts *testscript.TestScript, dir string, signal os.Signal) {
	pid, ok := readyFile(ts, dir)["pid"].(float64)
	if !ok {
		ts.Fatalf("no pid in %s.ready", dir)
	}
	process, err := os.FindProcess(int(pid))
	ts.Check(err)
	ts.Check(process.Signal(signal))
}

// get SERVICE PATH STATUS fetches from the server started last in $WORK/state and prints the body to stdout. It tries again for a
// while, because states heal.
func get(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "get SERVICE PATH STATUS")
	base, ok := readyFile(ts, "state")[args[0]].(string)
	if !ok {
		ts.Fatalf("no service %s", args[0])
	}
	want, err := strconv.Atoi(args[2])
	ts.Check(err)
	var body []byte
	got := 0
	for range 200 {
		response, err := http.Get(base + args[1])
		ts.Check(err)
		body, err = io.ReadAll(response.Body)
		response.Body.Close()
		ts.Check(err)
		if got = response.StatusCode; got == want {
			_, err := fmt.Fprintf(ts.Stdout(), "%s", body)
			ts.Check(err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%s%s answers %d, want %d: %s", args[0], args[1], got, want, body)
}

// digest OUT DIR writes names and digests of all files below DIR, sockets and locks aside.
func digest(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "digest OUT DIR")
	var list strings.Builder
	root := ts.MkAbs(args[1])
	ts.Check(filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() || strings.Contains(path, "/run/") {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&list, "%x %s\n", sha256.Sum256(data), strings.TrimPrefix(path, root))
		return err
	}))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(list.String()), 0o644))
}

// flip FILE changes one bit in the middle of a file.
func flip(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "flip FILE")
	data, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	data[len(data)/2] ^= 1
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// mode OCTAL PATH demands these permission bits.
func mode(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "mode OCTAL PATH")
	info, err := os.Stat(ts.MkAbs(args[1]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[0] {
		ts.Fatalf("%s has mode %s, want %s", args[1], got, args[0])
	}
}

// softHSMConf FILE TOKENDIR writes a SoftHSM configuration and puts the module's path into $SOFTHSM.
func softHSMConf(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "softhsmconf FILE TOKENDIR")
	text := fmt.Sprintf("directories.tokendir = %s\nobjectstore.backend = file\nlog.level = ERROR\n", ts.MkAbs(args[1]))
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
	for _, m := range softHSMModules {
		if _, err := os.Stat(m); err == nil {
			ts.Setenv("SOFTHSM", m)
			return
		}
	}
	ts.Fatalf("SoftHSM's module is in none of %v", softHSMModules)
}

// faultyModule FILE builds SoftHSM with faults (hsm/pkcs11/testdata/faulty.c).
func faultyModule(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "faultymodule FILE")
	headers, err := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/miekg/pkcs11").Output()
	ts.Check(err)
	cc := exec.Command("cc", "-shared", "-fPIC", "-o", ts.MkAbs(args[0]), "-I", strings.TrimSpace(string(headers)), "../hsm/pkcs11/testdata/faulty.c", "-ldl")
	if out, err := cc.CombinedOutput(); err != nil {
		ts.Fatalf("compiling the faulty module: %v: %s", err, out)
	}
}

// reconfigure changes DIR/redoubt.yaml.
func reconfigure(ts *testscript.TestScript, dir string, change func(*Config)) {
	cfg, err := loadConfig(layout{ts.MkAbs(dir)}.config())
	ts.Check(err)
	cfg.Dir = ""
	change(cfg)
	ts.Check(writeConfig(layout{ts.MkAbs(dir)}, cfg))
}

// carry OUTSIDE INSIDE SETUP KEY lets OUTSIDE carry its own artifact logs to INSIDE, pinned by the keys in SETUP and the JSON of `mirror key`.
func carry(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 4, "carry OUTSIDE INSIDE SETUP KEY")
	var key keyLine
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[3])), &key))
	logs := []MirrorLog{
		{Origin: "rekor.corp.internal", Key: ts.ReadFile(args[2] + "/rekor.pub")},
		{Origin: "rekor-2.corp.internal", Key: ts.ReadFile(args[2] + "/rekor-2.pub")},
	}
	reconfigure(ts, args[1], func(c *Config) {
		c.Mirror.Stream, c.Mirror.Exporters, c.Mirror.Logs = key.Stream, []string{key.Key}, logs
	})
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.Logs = slices.Clone(logs)
		c.Mirror.Logs[0].Source, c.Mirror.Logs[1].Source = c.Services.Rekor.URL, c.Services.Rekor.URL+"/api/v2"
	})
}

// carrytrust OUTSIDE INSIDE KEY has INSIDE take the trust repository of OUTSIDE, and believe its logs by what stands there.
func carryTrust(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 3, "carrytrust OUTSIDE INSIDE KEY")
	var key keyLine
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[2])), &key))
	outside := layout{ts.MkAbs(args[0])}
	t := MirrorTUF{Name: "outside", Root: filepath.Join(outside.tuf(), "1.root.json")}
	logs := []MirrorLog{{Origin: "rekor.corp.internal", Trust: "outside"}}
	reconfigure(ts, args[1], func(c *Config) {
		c.Mirror.Stream, c.Mirror.Exporters, c.Mirror.Logs, c.Mirror.TUF = key.Stream, []string{key.Key}, logs, []MirrorTUF{t}
	})
	t.Source = outside.tuf()
	reconfigure(ts, args[0], func(c *Config) {
		c.Mirror.TUF, c.Mirror.Logs = []MirrorTUF{t}, slices.Clone(logs)
		c.Mirror.Logs[0].Source = c.Services.Rekor.URL
	})
}

// picking OUTSIDE INSIDE SETUP KEY BUNDLE... is carry at scope sparse, of the Rekor v1 log through its API; inside wants the entries of the
// bundles.
func picking(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 5, "picking OUTSIDE INSIDE SETUP KEY BUNDLE...")
	carry(ts, neg, args[:4])
	var bundles []string
	for _, b := range args[4:] {
		bundles = append(bundles, ts.MkAbs(b))
	}
	for _, dir := range args[:2] {
		reconfigure(ts, dir, func(c *Config) {
			for i := range c.Mirror.Logs {
				c.Mirror.Logs[i].Scope = "sparse"
				if dir == args[1] {
					c.Mirror.Logs[i].Select = &MirrorSelect{Bundles: bundles}
				}
			}
			var b struct {
				VerificationMaterial struct {
					TlogEntries []struct {
						InclusionProof struct{ Checkpoint struct{ Envelope string } }
					}
				}
			}
			ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[4])), &b))
			c.Mirror.Logs[0].Layout = "rekor1"
			c.Mirror.Logs[0].Origin, _, _ = strings.Cut(b.VerificationMaterial.TlogEntries[0].InclusionProof.Checkpoint.Envelope, "\n")
		})
	}
}

// usepicklist DIR FILE sets mirror.picklist.
func usePicklist(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "usepicklist DIR FILE")
	reconfigure(ts, args[0], func(c *Config) { c.Mirror.Picklist = ts.MkAbs(args[1]) })
}

// interval DIR DURATION sets mirror.interval.
func interval(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "interval DIR DURATION")
	reconfigure(ts, args[0], func(c *Config) { ts.Check(c.Mirror.Interval.UnmarshalText([]byte(args[1]))) })
}

// reports DIR N waits until the server of DIR has kept N reconcile reports more than it had.
func reports(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 2, "reports DIR N")
	want, err := strconv.Atoi(args[1])
	ts.Check(err)
	count := func() int {
		found, err := filepath.Glob(layout{ts.MkAbs(args[0])}.path("mirror", "reports", "*.note"))
		ts.Check(err)
		return len(found)
	}
	before := count()
	for range 1200 {
		if count() >= before+want {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	ts.Fatalf("%d reports were kept, want %d", count()-before, want)
}
