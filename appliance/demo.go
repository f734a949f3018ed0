package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
)

func demoCommand() *cli.Command {
	return &cli.Command{
		Name: "demo", Usage: "the whole main job on this machine, with no network, in a minute",
		Description: "Two Redoubts with keys of their own, an outside and an inside: key ceremonies, signing and verifying as a client, a log carried\n" +
			"across the gap and proven again, a fork and a gap found. Every step is a command of this binary; exit 0 only if each held.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "dir", Usage: "folder to work in, new or empty; it stays (default: a temporary one)", EnvVars: []string{"REDOUBT_DEMO_DIR"}},
			&cli.BoolFlag{Name: "keep", Usage: "keep the temporary folder", EnvVars: []string{"REDOUBT_DEMO_KEEP"}},
			&cli.StringFlag{Name: "keys", Value: "auto", Usage: "auto (SoftHSM where it is installed), softhsm or soft", EnvVars: []string{"REDOUBT_DEMO_KEYS"}},
		},
		Action: func(c *cli.Context) error {
			d, err := newDemo(c)
			if err != nil {
				return err
			}
			defer d.close()
			return d.play()
		},
	}
}

// demo is one run: a folder with both instances, the processes that serve them, and the account of what was proven.
type demo struct {
	ctx     context.Context
	out     io.Writer
	self    string // this binary
	dir     string
	keep    bool // the folder stays
	keys    string
	env     []string
	started time.Time
	steps   int

	outside, inside *site
	held            []net.Listener // ports of sites made and not yet serving, so that the next one draws others
}

// site is one Redoubt of the demo.
type site struct {
	name, domain, dir, setup string
	urls                     map[string]any // the ready file
	log                      string         // file with the server's log
	process                  *os.Process    // nil when nothing serves
	exited                   chan error     // how the process ended
}

func newDemo(c *cli.Context) (*demo, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &demo{ctx: c.Context, out: c.App.Writer, self: self, keys: c.String("keys"), keep: c.Bool("keep") || c.String("dir") != "", started: time.Now()}
	if c.String("dir") == "" {
		if d.dir, err = os.MkdirTemp("", "redoubt-demo-"); err != nil {
			return nil, err
		}
	} else {
		if d.dir, err = filepath.Abs(c.String("dir")); err != nil {
			return nil, err
		}
		if entries, err := os.ReadDir(d.dir); err == nil && len(entries) > 0 {
			return nil, fmt.Errorf("%w: %s", errDirTaken, d.dir)
		}
		if err := os.MkdirAll(d.dir, 0o700); err != nil {
			return nil, err
		}
	}
	// The demo's verbs must not be turned by what happens to stand in the caller's environment.
	d.env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "REDOUBT_") || strings.HasPrefix(e, "SIGSTORE_") })
	d.outside = &site{name: "outside", domain: "outside.example"}
	d.inside = &site{name: "inside", domain: "inside.internal"}
	for _, s := range []*site{d.outside, d.inside} {
		s.dir, s.setup, s.log = d.path(s.name), d.path(s.name+"-client"), d.path(s.name+".log")
	}
	return d, nil
}

func (d *demo) path(elem ...string) string { return filepath.Join(append([]string{d.dir}, elem...)...) }

// close stops what still serves and removes the folder unless it is to stay.
func (d *demo) close() {
	for _, s := range []*site{d.outside, d.inside} {
		if s.process != nil {
			s.process.Kill()
			<-s.exited
		}
	}
	if !d.keep {
		os.RemoveAll(d.dir)
	}
}

// play runs the steps in order and stops at the first that does not hold.
func (d *demo) play() error {
	fmt.Fprintf(d.out, "redoubt %s demo in %s\n%s\n\n", versionString(), d.dir, networkLine())
	for _, act := range []struct {
		title string
		steps []step
	}{
		{"Keys and certificates", d.ceremonySteps()},
		{"Signing and verifying as a client", d.clientSteps()},
		{"Across the gap", d.gapSteps()},
		{"A log that lies, a parcel that is lost", d.trapSteps()},
		{"The whole of it, once more", d.closingSteps()},
	} {
		fmt.Fprintf(d.out, "%s\n", act.title)
		for _, s := range act.steps {
			if err := d.step(s); err != nil {
				return err
			}
		}
		fmt.Fprintln(d.out)
	}
	d.epilogue()
	return nil
}

// step is one thing to prove. Run returns a sentence that says what was proven.
type step struct {
	title string
	run   func() (string, error)
}

func (d *demo) step(s step) error {
	d.steps++
	started := time.Now()
	proven, err := s.run()
	took := time.Since(started).Seconds()
	if err != nil {
		fmt.Fprintf(d.out, "%3d. FAILED %s (%.2f s)\n", d.steps, s.title, took)
		for _, site := range []*site{d.outside, d.inside} {
			printTail(d.out, site.log)
		}
		d.keep = true
		return fmt.Errorf("%s: %w (left in %s)", s.title, err, d.dir)
	}
	fmt.Fprintf(d.out, "%3d. %s (%.2f s)\n", d.steps, s.title, took)
	for line := range strings.SplitSeq(proven, "\n") {
		fmt.Fprintf(d.out, "     %s\n", line)
	}
	return nil
}

// printTail shows the end of a server's log when a step failed.
func printTail(w io.Writer, path string) {
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	fmt.Fprintf(w, "last lines of %s:\n%s\n", path, bytes.Join(lines[max(0, len(lines)-8):], []byte("\n")))
}

// redoubt runs a command of this binary and demands exit code want; it returns what the command wrote to stdout, or to
// stderr when the code is not 0.
func (d *demo) redoubt(want int, args ...string) (string, error) {
	command := exec.CommandContext(d.ctx, d.self, args...)
	command.Args[0] = "redoubt"
	command.Dir, command.Env = d.dir, d.env
	var stdout, stderr bytes.Buffer
	command.Stdout, command.Stderr = &stdout, &stderr
	err := command.Run()
	var exit *exec.ExitError
	got := 0
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		return "", err
	}
	if got != want {
		return "", fmt.Errorf("redoubt %s: exit %d, want %d: %s", strings.Join(args[:min(2, len(args))], " "), got, want, bytes.TrimSpace(stderr.Bytes()))
	}
	if got != 0 {
		return strings.TrimSpace(stderr.String()), nil
	}
	return strings.TrimSpace(stdout.String()), nil
}

// redoubtJSON runs a command with -o json, demands exit code 0 and decodes its result.
func (d *demo) redoubtJSON(result any, args ...string) error {
	text, err := d.redoubt(0, append(args, "-o", "json")...)
	if err != nil {
		return err
	}
	if err := json.Unmarshal([]byte(text), result); err != nil {
		return fmt.Errorf("redoubt %s: reading its result: %w", args[0], err)
	}
	return nil
}

// serve starts the site's server and waits for its ready file.
func (d *demo) serve(s *site) error {
	ready := d.path(s.name + ".ready")
	log, err := os.OpenFile(s.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	command := exec.Command(d.self, "serve", "--dir", s.dir, "--ready-file", ready)
	command.Args[0] = "redoubt"
	command.Dir, command.Env, command.Stdout, command.Stderr = d.dir, d.env, log, log
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		return err
	}
	s.process, s.exited = command.Process, make(chan error, 1)
	go func() { s.exited <- command.Wait() }()
	for range 1200 {
		if data, err := os.ReadFile(ready); err == nil {
			return json.Unmarshal(data, &s.urls)
		}
		select {
		case err := <-s.exited:
			s.process = nil
			return fmt.Errorf("the server of %s ended: %w", s.name, errors.Join(err, errors.New("see "+s.log)))
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
	}
	return fmt.Errorf("the server of %s did not become ready", s.name)
}

func (s *site) url(service string) string {
	u, _ := s.urls[service].(string)
	return u
}

// networkLine says which network the demo could reach, and does not.
func networkLine() string {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "network: unknown"
	}
	var up []string
	for _, i := range interfaces {
		if i.Flags&net.FlagUp != 0 {
			up = append(up, i.Name)
		}
	}
	if slices.Equal(up, []string{"lo"}) {
		return "network: loopback only"
	}
	return fmt.Sprintf("network: %s up; everything below stays on 127.0.0.1", strings.Join(up, ", "))
}

// epilogue names the commands to go on by hand.
func (d *demo) epilogue() {
	fmt.Fprintf(d.out, "All %d steps held, in %.1f s. Log origins: rekor.%s (outside), rekor.%s (inside).\n\n", d.steps, time.Since(d.started).Seconds(), d.outside.domain, d.inside.domain)
	dir, serve := d.dir, ""
	if !d.keep {
		dir = "redoubt-demo"
		serve = "redoubt demo --dir redoubt-demo\n  "
	}
	if i := slices.IndexFunc(d.env, func(e string) bool { return strings.HasPrefix(e, "SOFTHSM2_CONF=") }); i >= 0 && d.keys == "softhsm" {
		serve += "export SOFTHSM2_CONF=" + filepath.Join(dir, "softhsm2.conf") + "\n  "
	}
	fmt.Fprintf(d.out, `Go on by hand:
  %[2]sredoubt serve --dir %[1]s/inside --ready-file ready.json &
  until [ -s ready.json ]; do sleep 0.1; done
  redoubt identity token --dir %[1]s/inside --email you@%[3]s > token
  redoubt sign FILE --setup %[1]s/inside-client --identity-token token --bundle FILE.sigstore.json
  redoubt verify FILE --setup %[1]s/inside-client --bundle FILE.sigstore.json \
    --certificate-identity you@%[3]s --certificate-oidc-issuer-regexp '^http://127\.0\.0\.1:'
  redoubt status --dir %[1]s/inside        redoubt log fsck --dir %[1]s/inside
  cosign and other clients: %[1]s/inside-client/README.txt
`, dir, serve, d.inside.domain)
}
