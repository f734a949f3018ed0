package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"redoubt.internal/appliance/cmdline"
)

// layout names every file of one state directory:
//
//	redoubt.yaml            the configuration
//	keys/                   software keys and their passphrase file
//	pki/                    certificates (PEM) and the ceremony's transcript
//	db/rekor.db             the artifact log of Rekor v1; one writer
//	db/rekor-2.db           the artifact log of Rekor v2; one writer; further logs are rekor-<n>.db
//	db/authority.db         ca, ct, audit, tsa and mirror state, each under its own prefix; one writer
//	db/tsa.db               the time floor, where roles may run apart
//	tuf/                    the trust repository
//	mirror/                 tiles of carried logs, reports
//	inbox/                  parcels on their way in
//	state.json              of which format the directory is
//	disk.json               how much of the disk was free, for a forecast
//	approvals/              acts that wait for approval, with the approvals handed in
//	run/redoubt.sock        the control socket of the serving process (0600)
//	run/lock                held by the one process that works on the directory
//	run/<role>/             socket and lock of a role that runs as a process of its own
//	../<dir>.highwater      the highest heads ever signed; outside, so that restoring the directory does not rewind it
//	../<dir>.highwater.log  those of the artifact logs, where roles may run apart
//	../<dir>.highwater.nv-* the same, each bound to a counter of a TPM
type layout struct{ root string }

func (l layout) path(elem ...string) string {
	return filepath.Join(append([]string{l.root}, elem...)...)
}
func (l layout) config() string           { return l.path("redoubt.yaml") }
func (l layout) keys() string             { return l.path("keys") }
func (l layout) pki(name string) string   { return l.path("pki", name) }
func (l layout) logDB(name string) string { return l.path("db", name+".db") }
func (l layout) authorityDB() string      { return l.path("db", "authority.db") }
func (l layout) tuf() string              { return l.path("tuf") }
func (l layout) run(part string) string   { return l.path("run", part) } // "" is where one process runs all roles
func (l layout) socket() string           { return l.path("run", socketName) }
func (l layout) lock() string             { return l.path("run", "lock") }
func (l layout) highWater() string        { return filepath.Clean(l.root) + ".highwater" }

// slowMarks is the file of marks bound to the TPM counter at an index.
func (l layout) slowMarks(index string) string { return l.highWater() + ".nv-" + index }

// markFiles are the files of marks beside the directory that are there.
func (l layout) markFiles() []string {
	files, _ := filepath.Glob(globEscape(l.highWater()) + ".nv-0x????????")
	for _, path := range []string{l.highWater() + logMarks, l.highWater()} {
		if _, err := os.Stat(path); err == nil {
			files = slices.Insert(files, 0, path)
		}
	}
	return files
}

// marksIn parts the configured high-water marks into files, resolved, and counters of TPMs.
func (l layout) marksIn(c Log) (files, counters []string) {
	for _, place := range c.HighWater {
		if isTPM(place) {
			counters = append(counters, place)
		} else {
			files = append(files, l.resolve(place))
		}
	}
	if len(files) == 0 {
		files = []string{l.highWater()}
	}
	return files, counters
}

// globEscape lets filepath.Glob take a path literally.
func globEscape(path string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(path)
}

// resolve makes a path of the configuration absolute: relative ones count from the state directory.
func (l layout) resolve(path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return l.path(path)
}

var errLocked = errors.New("another redoubt process works on this directory")

// acquire takes the directory's lock for this process alone, without waiting. The kernel drops it when the process ends.
func (l layout) acquire() (release func(), err error) {
	if err := os.MkdirAll(l.path("run"), 0o700); err != nil {
		return nil, err
	}
	f, err := l.take(l.lock(), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	return func() { f.Close() }, nil
}

// acquireFor is acquire for a process that runs some roles: it shares the directory's lock with those that run others, and has the
// lock of each of its own.
func (l layout) acquireFor(p parts) (release func(), err error) {
	if p == nil {
		return l.acquire()
	}
	var held []*os.File
	release = func() {
		for _, f := range held {
			f.Close()
		}
	}
	f, err := l.take(l.lock(), os.O_RDONLY, unix.LOCK_SH)
	for _, part := range partNames {
		if err != nil {
			break
		}
		held = append(held, f)
		if p[part] {
			f, err = l.take(filepath.Join(l.run(part), "lock"), os.O_RDWR|os.O_CREATE, unix.LOCK_EX)
		}
	}
	if err != nil {
		release()
		return nil, err
	}
	held = append(held, f)
	return release, nil
}

// take locks one file, and writes into one that is locked for this process alone which process that is.
func (l layout) take(path string, flags, how int) (*os.File, error) {
	f, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); err != nil {
		holder, _ := os.ReadFile(path)
		f.Close()
		return nil, cmdline.Hinted(fmt.Errorf("%w: %s (process %s)", errLocked, l.root, trimLine(holder)), "stop that process, or let the verb talk to it: it answers on %s", filepath.Join(filepath.Dir(path), socketName))
	}
	if how == unix.LOCK_EX {
		if err := f.Truncate(0); err == nil {
			fmt.Fprintf(f, "%d\n", os.Getpid())
		}
	}
	return f, nil
}

// lockPatience is how long a process waits for another that is only passing: a verb at work, a server on its way up or down.
const lockPatience = 5 * time.Second

// acquireSoon is acquire, waiting a little while the holder does not serve; a server that answers holds the lock for good.
func (l layout) acquireSoon(ctx context.Context, p parts) (release func(), err error) {
	for deadline := time.Now().Add(lockPatience); ; {
		release, err = l.acquireFor(p)
		if !errors.Is(err, errLocked) || time.Now().After(deadline) {
			return release, err
		}
		if l.answers(ctx, p) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(25 * time.Millisecond):
		}
	}
}

// answers reports whether a process answers that has what one with the roles p would take.
func (l layout) answers(ctx context.Context, p parts) bool {
	for _, part := range append([]string{""}, partNames...) {
		if part != "" && !p.runs(part) {
			continue
		}
		if conn, err := dialAt(ctx, l.run(part)); err == nil {
			conn.Close()
			return true
		}
	}
	return false
}

func trimLine(b []byte) string {
	for i, c := range b {
		if c == '\n' || i == 40 {
			return string(b[:i])
		}
	}
	return string(b)
}

// configuredDir is the state directory of the instance on this machine; "" where there is none, or none that this user may read.
func configuredDir(c *cli.Context) string {
	cfg, _, err := configured(c)
	if err != nil {
		return ""
	}
	return cfg.Dir
}

// configured loads the configuration a verb's flags name.
func configured(c *cli.Context) (*Config, layout, error) {
	cfg, err := loadConfig(cmdline.ConfigPath(c))
	if err != nil {
		return nil, layout{}, err
	}
	if cfg, _, err = cfg.inForce(); err != nil {
		return nil, layout{}, err
	}
	return cfg, layout{cfg.Dir}, nil
}
