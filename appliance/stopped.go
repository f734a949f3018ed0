package main

import (
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// stopped is a state directory that no server holds: its stores under its lock, no log opened in them and no token unlocked, so
// that what is damaged can still be looked at. What cannot be opened is kept as a problem of the logs in it.
type stopped struct {
	in       *instance
	broken   map[string][]string // by role: what kept a part of the log from being opened
	public   map[string]crypto.PublicKey
	progress io.Writer
}

// publicOnly is a log's key as far as a check needs it.
type publicOnly struct{ key crypto.PublicKey }

var errPublicOnly = errors.New("only the public key is here")

func (p publicOnly) Public() crypto.PublicKey { return p.key }
func (p publicOnly) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, errPublicOnly
}

// unopened calls v in the server that holds c's state directory; without one, alone works on the stores under the lock.
func unopened[R any](c *cli.Context, v verb[struct{}, R], alone func(context.Context, *stopped) (R, error)) (result R, err error) {
	if err := cmdline.CheckOutput(c); err != nil {
		return result, err
	}
	if socket := givenSocket(c); socket != "" {
		return v.ask(c.Context, dialFile(socket), struct{}{})
	}
	cfg, _, err := configured(c)
	if err != nil {
		return result, err
	}
	for again := true; ; again = false {
		answer, err := callServer(c.Context, cfg, v.name, []byte("{}"))
		if err == nil {
			if err := json.Unmarshal(answer, &result); err != nil {
				return result, fmt.Errorf("reading the server's answer: %w", err)
			}
			return result, nil
		}
		if !errors.Is(err, errNoServer) {
			return result, err
		}
		s, err := openStopped(c)
		if errors.Is(err, errLocked) && again {
			continue // a server came up between the two
		}
		if err != nil {
			return result, err
		}
		defer s.in.close()
		return alone(c.Context, s)
	}
}

// openStopped takes the lock of c's state directory and opens its stores. The caller closes s.in.
func openStopped(c *cli.Context) (*stopped, error) {
	cfg, dir, err := configured(c)
	if err != nil {
		return nil, err
	}
	logger, err := cmdline.LoggerAt(c, slog.LevelError)
	if err != nil {
		return nil, err
	}
	return openStoppedWith(c.Context, cfg, dir, cmdline.Progress(c), logger)
}

// openStoppedAt is openStopped for a directory that was made just now.
func openStoppedAt(ctx context.Context, cfg *Config, dir layout, said io.Writer) (*stopped, error) {
	return openStoppedWith(ctx, cfg, dir, said, slog.New(slog.DiscardHandler))
}

func openStoppedWith(ctx context.Context, cfg *Config, dir layout, said io.Writer, logger *slog.Logger) (s *stopped, err error) {
	_, known, err := cfg.inForce()
	if err != nil {
		return nil, err
	}
	in := &instance{cfg: cfg, dir: dir, logger: logger, now: clock, keys: newKeyring(cfg.Keys, dir, logger), roleKeys: map[string]*hsm.Key{}, history: known}
	s = &stopped{in: in, broken: map[string][]string{}, progress: said}
	in.onClose(func() { in.keys.close() })
	defer func() {
		if err != nil {
			in.close()
		}
	}()
	release, err := dir.acquireSoon(ctx, nil)
	if err != nil {
		return nil, err
	}
	in.onClose(release)
	if err := dir.checkFormat(); err != nil {
		return nil, err
	}
	if s.public, err = s.publicKeys(ctx); err != nil {
		return nil, err
	}
	for _, a := range cfg.Log.Artifact {
		in.artifacts = append(in.artifacts, &artifactLog{ArtifactLog: a, db: s.open(dir.logDB(a.Name), a.Name)})
	}
	in.authorityDB = s.open(dir.authorityDB(), append(cfg.certificateLogs(), cfg.auditLogs()...)...)
	s.openMarks()
	return s, nil
}

// open opens one database; nil when that fails, which is then a problem of the logs in it.
func (s *stopped) open(path string, roles ...string) store.DB {
	db, err := bolt.Open(path)
	if err != nil {
		s.blame(err, roles)
		return nil
	}
	s.in.onClose(func() { db.Close() })
	return db
}

func (s *stopped) blame(err error, roles []string) {
	for _, role := range roles {
		s.broken[role] = append(s.broken[role], err.Error())
	}
}

// openMarks opens the high-water files that are there; looking makes none.
func (s *stopped) openMarks() {
	if err := s.in.openCounters(); err != nil {
		s.blame(err, s.in.cfg.logRoles())
	}
	for _, m := range s.in.cfg.markFiles(nil) {
		_, err := os.Stat(m.path)
		var f *log.File
		if err == nil {
			f, err = log.OpenHighWaterFile(m.path)
		}
		if err != nil {
			s.blame(fmt.Errorf("the high-water file: %w", err), s.in.cfg.logRoles())
			continue
		}
		s.in.highWater = append(s.in.highWater, openMark{f, m})
		s.in.onClose(func() { f.Close() })
	}
}

// publicKeys are the keys of the logs as the ceremony's signed transcript names them, and the record of keys those made since; where
// neither does, the token is asked.
func (s *stopped) publicKeys(ctx context.Context) (map[string]crypto.PublicKey, error) {
	pins, err := s.in.pins()
	if err != nil {
		return nil, fmt.Errorf("reading the logs' public keys: %w", err)
	}
	keys := map[string]crypto.PublicKey{}
	for _, role := range s.in.cfg.logRoles() {
		if p, ok := pins[role]; ok {
			keys[role] = p.public
			continue
		}
		key, err := s.in.keys.role(ctx, role)
		if err != nil {
			return nil, fmt.Errorf("the ceremony's transcript does not name the key of the %s log: %w", role, err)
		}
		keys[role] = key.Public()
	}
	return keys, nil
}

// config is the log of role for a check.
func (s *stopped) config(role string) log.Config {
	c := s.in.logConfigs()[role]
	c.Signer = publicOnly{s.public[role]}
	return c
}

// fsck checks one log. What keeps the check from running is a problem too, so that the other logs get their verdict.
func (s *stopped) fsck(ctx context.Context, role string) fsckResult {
	c := s.config(role)
	if c.DB == nil {
		return fsckResult{Log: role, Problems: s.broken[role]}
	}
	result, err := s.check(ctx, role, c)
	if err != nil {
		result.Problems = append(result.Problems, err.Error())
	}
	result.Problems = append(result.Problems, s.broken[role]...)
	return result
}

// check checks the log of role as c says, and tells how far it is.
func (s *stopped) check(ctx context.Context, role string, c log.Config) (fsckResult, error) {
	started, said := time.Now(), time.Now()
	return fsckOne(ctx, role, c, func(done, total uint64) {
		if done == total || time.Since(said) >= time.Second {
			said = time.Now()
			fmt.Fprintf(s.progress, "checking %s: %d of %d entries, %.0f entries/s\n", role, done, total, float64(done)/max(time.Since(started).Seconds(), 1e-6))
		}
	})
}

// verifyAudit checks the audit log, and where it is whole that every record reads.
func (s *stopped) verifyAudit(ctx context.Context) fsckResult {
	active := s.in.history.active(roleAudit)
	result := s.fsck(ctx, active)
	if len(result.Problems) > 0 {
		return result
	}
	c := s.config(active)
	c.Signer, c.HighWater = nil, nil // to read
	l, err := log.Open(ctx, c)
	if err == nil {
		err = audit.New(l).Scan(ctx, 0, result.Size, func(audit.Record) bool { return true })
	}
	if err != nil {
		result.Problems = append(result.Problems, err.Error())
	}
	return result
}
