package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/host"
	"redoubt.internal/log"
)

func doctorCommand() *cli.Command {
	return &cli.Command{
		Name: "doctor", Usage: "named checks of configuration, files, keys, logs, clock and listeners, with a fix for each failure",
		Flags: append(cmdline.StateFlags(), cmdline.OutputFlag(), &cli.BoolFlag{Name: "strict", Usage: "exit 4 when nothing fails and something is warned of", EnvVars: []string{"REDOUBT_STRICT"}}),
		Action: func(c *cli.Context) error {
			checks := diagnose(c)
			if err := cmdline.PrintResult(c, checks, func(w io.Writer) { printChecks(w, checks) }); err != nil {
				return err
			}
			if !ready(checks) {
				return fmt.Errorf("something needs attention")
			}
			if c.Bool("strict") && slices.ContainsFunc(checks, func(c check) bool { return !c.OK }) {
				return cmdline.WithCode(cmdline.ExitWarnings, errors.New("there are warnings"))
			}
			return nil
		},
	}
}

const (
	probeTimeout    = 3 * time.Second
	maxClockErrorUS = 1_000_000
)

// diagnose runs every check it can reach: without a valid configuration only that one.
func diagnose(c *cli.Context) []check {
	cfg, dir, err := configured(c)
	checks := []check{result("configuration", err, "`redoubt config validate`; `redoubt docs config` is the manual")}
	if err != nil {
		return checks
	}
	checks = append(checks,
		warning("clock discipline", checkClock(), "run chrony or another time service; inside a gap, discipline the clock from a local source"),
	)
	checks = append(checks, result("upgrade", begun(host.Pending()), "the same `redoubt upgrade` once more, or `redoubt upgrade --rollback`"))
	checks = append(checks, fipsChecks()...)
	checks = append(checks, checkUnits(cfg)...)
	if ring := newKeyring(cfg.Keys, dir, slog.New(slog.DiscardHandler)); len(ring.pkcs11Tokens()) > 0 {
		checks = append(checks, result("token PIN", ring.refusedPINs(), "put the right PIN into its file; if it was reset on the token to the one in the file, remove the mark"))
	}
	broken := checkHighWater(cfg, dir)
	checks = append(checks, result("high-water file", broken, highWaterFix(broken)))
	report, err := readStatus.call(c, struct{}{})
	if err != nil {
		return append(append(checks, machineChecks(cfg, dir)...), result("instance", err, "`redoubt serve` and read its first error"))
	}
	for _, c := range report.Checks {
		c.Warning = c.Warning && !c.Urgent
		checks = append(checks, c)
	}
	for _, s := range report.Counters {
		if s.Rewindable {
			checks = append(checks, warning("class of "+s.Name, fmt.Errorf("rewindable: whoever puts the storage of this software TPM back puts the counter back"), "use the counter of a TPM that is a chip"))
		}
	}
	return append(checks, checkListeners(c.Context, cfg, dir)...)
}

// warning is a check that names something to attend to and fails nothing.
func warning(name string, err error, fix string) check {
	c := result(name, err, fix)
	c.Warning = err != nil
	return c
}

// checkHighWater reads every high-water file: whether it is whole and holds a mark for each log. How the marks stand to the logs
// is what opening the logs finds out; the checks "log NAME" say it.
func checkHighWater(cfg *Config, dir layout) error {
	for _, f := range cfg.at(dir).markFiles(nil) {
		path := f.path
		info, err := os.Stat(path)
		if err != nil {
			return err // opening it would make an empty one
		}
		if !info.Mode().IsRegular() {
			return fmt.Errorf("%s is no file", path)
		}
		marks, err := log.ReadHighWaterFile(path)
		if err != nil {
			return err
		}
		for _, role := range cfg.logRoles() {
			if f.covers(role) && !slices.ContainsFunc(marks, func(m log.Mark) bool { return m.Origin == cfg.origin(role) }) {
				return fmt.Errorf("%w: %s holds none of %s", log.ErrNoMark, path, cfg.origin(role))
			}
		}
	}
	return nil
}

// logRoles are the logs of this instance.
func (c *Config) logRoles() (roles []string) {
	for _, a := range c.Log.Artifact {
		roles = append(roles, a.Name)
	}
	return append(append(roles, c.certificateLogs()...), c.auditLogs()...)
}

// highWaterFix is what to do about err of a high-water file, or of a log whose mark does not fit.
func highWaterFix(err error) string {
	switch {
	case errors.Is(err, log.ErrFenced):
		return "a standby was promoted in this machine's place, for good: take this one out of service and wipe its disks; it can be the next standby"
	case errors.Is(err, log.ErrNoMark), errors.Is(err, fs.ErrNotExist), errors.Is(err, log.ErrHighWater):
		return "stop the server and put the high-water file of this very machine back in its place. Where it is lost for good, nothing here can tell " +
			"whether this directory is the newest copy: `redoubt log fsck` proves it whole, clients and mirrors know heads they saw; if none is newer, " +
			"`redoubt log retire` ends the logs where they stand and opens the next ones"
	default:
		return "put back the newest copy of the directory: `redoubt log info` prints the head of the one that is here, the reason the head that was signed. " +
			"Where that copy is lost, `redoubt log retire` ends the logs where they stand, readable for good, and opens the next ones"
	}
}

// checkClock asks the kernel whether something disciplines the clock (adjtimex(2)).
func checkClock() error {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil {
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSYS) {
			return nil // a sandbox that hides the clock's state says nothing about it
		}
		return fmt.Errorf("asking the kernel: %w", err)
	}
	if state == unix.TIME_ERROR && t.Maxerror > maxClockErrorUS {
		return fmt.Errorf("not synchronised; the kernel's bound on its error is %d s", t.Maxerror/1_000_000)
	}
	return nil
}

// clientRoots are what clients of the listeners trust: tls.ca, or what this machine trusts.
func clientRoots(cfg *Config, dir layout) *x509.CertPool {
	if cfg.TLS.CA == "" {
		return nil
	}
	pool := x509.NewCertPool()
	if text, err := os.ReadFile(dir.resolve(cfg.TLS.CA)); err == nil {
		pool.AppendCertsFromPEM(text)
	}
	return pool
}

// checkListeners asks every service for its liveness, when a server holds the directory.
func checkListeners(ctx context.Context, cfg *Config, dir layout) (checks []check) {
	if !dir.answers(ctx, nil) {
		return nil // nothing serves, nothing to reach
	}
	client := http.Client{Timeout: probeTimeout, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: clientRoots(cfg, dir)}}}
	for _, name := range serviceNames {
		s := cfg.Services.all()[name]
		if s == nil || !isLoopback(s.Listen) {
			continue
		}
		scheme := "http://"
		if cfg.encrypts() && strings.HasPrefix(s.URL, "https:") {
			scheme = "https://"
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, scheme+s.Listen+"/healthz", nil)
		if err == nil {
			var response *http.Response
			if response, err = client.Do(request); err == nil {
				response.Body.Close()
				if response.StatusCode != http.StatusOK {
					err = fmt.Errorf("answers %s", response.Status)
				}
			}
		}
		checks = append(checks, result("listener "+name, err, "is "+s.Listen+" taken by another process?"))
	}
	return checks
}
