package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// Where roles run apart, the ca role puts a backup together. Each other role that has databases or files hands over its share, sealed for
// the custodians, over its socket: ca never sees what is in another's key file.

// shareOperation is what the ca role asks of the others.
const shareOperation = "peer.share"

// shareSilence is how long a role may say nothing while it hands over its share.
const shareSilence = 2 * time.Minute

// shareParts are the roles that have databases and files of their own, beside ca, in the order they are asked in: log entries before the
// clock's floor, which is not below any timestamp in them.
var shareParts = []string{partLog, partTSA, partTrust, partOIDC}

// pathPart is the role whose file a path below the state directory is. What is root's goes with ca.
func pathPart(path string) string {
	folder, name, _ := strings.Cut(path, "/")
	name, _, _ = strings.Cut(name, "/")
	switch {
	case folder == "tuf":
		return partTrust
	case folder == "keys" && name != "":
		if part, ok := strings.CutPrefix(name, "pins-"); ok {
			return part
		}
		name, _, _ = strings.Cut(name, ".")
		return orDefault(keyPart(name), partCA)
	}
	return partCA
}

// databasePart is the role that a file of DIR/db is of.
func databasePart(file string) string {
	name, _, _ := strings.Cut(strings.TrimSuffix(file, "-journal"), ".")
	switch {
	case shardNumber(name) > 0:
		return partLog
	case name == partTSA:
		return partTSA
	}
	return partCA
}

// databasesOf are the open databases of roles, the entries before what they stand on.
func (in *instance) databasesOf(p parts) (all []backup.Database) {
	configs := in.logConfigs()
	add := func(path string, db store.DB, logs ...backup.Log) {
		all = append(all, backup.Database{Name: filepath.Base(path), DB: db, Stamp: bolt.Stamp, Logs: logs})
	}
	if p.runs(partLog) {
		for _, l := range in.artifacts {
			add(in.dir.logDB(l.Name), l.db, backup.Log{Name: l.Name, Config: configs[l.Name]})
		}
	}
	if p.runs(partCA) {
		var logs []backup.Log
		for _, l := range in.logs() {
			if configs[l.role].DB == in.authorityDB {
				logs = append(logs, backup.Log{Name: l.role, Config: configs[l.role]})
			}
		}
		add(in.dir.authorityDB(), in.authorityDB, logs...)
	}
	if p.runs(partTSA) && in.floorDB != in.authorityDB {
		add(in.dir.logDB(partTSA), in.floorDB)
	}
	return all
}

// shares are those of the roles that other processes run.
func (in *instance) shares() (all []backup.Share) {
	if in.parts == nil {
		return nil
	}
	for _, part := range shareParts {
		if in.parts.runs(part) || !slices.Contains(runningParts(in.cfg), part) {
			continue
		}
		s := backup.Share{Name: part, Owns: func(path string) bool { return pathPart(path) == part }, Ask: func(ctx context.Context, ask []byte) (io.ReadCloser, error) {
			return askShare(ctx, in.cfg, part, ask)
		}}
		switch part {
		case partLog:
			for _, a := range in.cfg.Log.Artifact {
				s.Databases = append(s.Databases, backup.Database{Name: filepath.Base(in.dir.logDB(a.Name)), Logs: []backup.Log{{Name: a.Name, Config: log.Config{Origin: in.cfg.origin(a.Name)}}}})
			}
		case partTSA:
			s.Databases = []backup.Database{{Name: filepath.Base(in.dir.logDB(partTSA))}}
		}
		all = append(all, s)
	}
	return all
}

// sharePatience is how long a scheduled run waits for roles that are on their way up.
const sharePatience = time.Minute

// awaitShares waits until the roles that have shares answer, or for sharePatience: the run itself says who does not.
func (in *instance) awaitShares(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, sharePatience)
	defer cancel()
	for _, s := range in.shares() {
		for {
			conn, err := dialAt(ctx, in.dir.run(s.Name))
			if err == nil {
				conn.Close()
				break
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(hearAgainAfter / 4):
			}
		}
	}
}

// owns says which paths below the directory this process copies itself.
func (in *instance) owns(shares []backup.Share) func(path string) bool {
	return func(path string) bool {
		return !slices.ContainsFunc(shares, func(s backup.Share) bool { return s.Owns(path) })
	}
}

// keyFiles are the files of the keys that roles sign with, as want chooses; "" is who has the root's.
func (l layout) keyFiles(want func(part string) bool) (paths []string) {
	entries, _ := os.ReadDir(l.keys()) // none without software keys
	for _, e := range entries {
		if name, _, _ := strings.Cut(e.Name(), "."); !e.IsDir() && want(keyPart(name)) {
			paths = append(paths, filepath.Join(l.keys(), e.Name()))
		}
	}
	return paths
}

// ownShare is what this process hands over. Files of keys go to the custodians that root named in the configuration and to nobody else,
// whoever asks: each role has the passphrase, and a file that is not sealed would be the key.
func (in *instance) ownShare(a *backup.Ask) (backup.Config, error) {
	part := a.Name
	if !in.parts[part] || part == partCA {
		return backup.Config{}, fmt.Errorf("%w: the share of %.20q", errOtherProcess, part)
	}
	c := backup.Config{Dir: in.dir.root, Skip: in.notCopied(), Owns: func(path string) bool { return pathPart(path) == part },
		Databases: in.databasesOf(parts{part: true}), Marks: in.marksOf(part)}
	b := in.cfg.Backup
	if a.Plain || b == nil || slices.ContainsFunc(a.Recipients, func(r string) bool { return !slices.Contains(b.Recipients, r) }) {
		c.Skip = append(c.Skip, in.dir.keyFiles(func(of string) bool { return of == part })...)
	}
	return c, nil
}

// serveShare hands over this process's share.
func (s *server) serveShare(w http.ResponseWriter, r *http.Request) {
	leave, err := s.gate.enter(r.Context())
	if err != nil {
		return // nobody waits
	}
	defer leave()
	var ask *backup.Ask
	var c backup.Config
	text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, backup.MaxAsk))
	if err == nil {
		ask, err = backup.ParseAsk(text)
	}
	if err == nil {
		c, err = s.instance().ownShare(ask)
	}
	if err != nil {
		writeFailure(w, err)
		return
	}
	if err := backup.WriteShare(r.Context(), c, ask, w); err != nil {
		s.logger.Error("handing over a share of a backup", "error", err)
	}
}

// askShare asks the process of a role for its share. One that says nothing for too long is given up.
func askShare(ctx context.Context, cfg *Config, part string, ask []byte) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	silence := time.AfterFunc(shareSilence, func() { cancel(fmt.Errorf("%s said nothing for %s", part, shareSilence)) })
	body, err := openOn(ctx, dialFolder(layout{cfg.Dir}.run(part)), shareOperation, ask)
	if err != nil {
		silence.Stop()
		cancel(nil)
		if errors.Is(err, errNoServer) {
			err = roleDown(part)
		}
		return nil, err
	}
	return &sharing{body, ctx, cancel, silence}, nil
}

// sharing is a share under way.
type sharing struct {
	io.ReadCloser
	ctx     context.Context
	cancel  context.CancelCauseFunc
	silence *time.Timer
}

func (s *sharing) Read(b []byte) (int, error) {
	s.silence.Reset(shareSilence)
	n, err := s.ReadCloser.Read(b)
	if cause := context.Cause(s.ctx); err != nil && cause != nil {
		err = cause
	}
	return n, err
}

func (s *sharing) Close() error {
	s.silence.Stop()
	s.cancel(nil)
	return s.ReadCloser.Close()
}

var errKeysMoved = errors.New("a rotation changed the record of keys meanwhile")

// still has the record of keys looked at again before a run counts: what was copied before and after a rotation is not of one moment.
func (in *instance) still() func() error {
	before, berr := os.ReadFile(in.dir.instances())
	return func() error {
		after, err := os.ReadFile(in.dir.instances())
		if err == nil && berr == nil && bytes.Equal(before, after) || errors.Is(err, os.ErrNotExist) && errors.Is(berr, os.ErrNotExist) {
			return nil
		}
		return cmdline.Hinted(errors.Join(errKeysMoved, ignoreMissing(err)), "make it again")
	}
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// giveBackup gives a backup that root made to the user of the role that makes the next one.
func (in *instance) giveBackup(to string) error {
	if in.parts != nil || in.cfg.Roles == nil || os.Geteuid() != 0 {
		return nil
	}
	gid, err := in.cfg.Roles.gid()
	if err != nil {
		return nil // nobody runs apart here
	}
	uid, err := in.cfg.Roles.uid(partCA)
	if err != nil {
		return err
	}
	o := ownership{users: map[string]owner{partCA: {uid, gid}}}
	err = os.Chown(to, uid, gid)
	for _, name := range backup.Names {
		err = errors.Join(err, o.tree(filepath.Join(to, name), partCA, 0o700, 0o400))
	}
	return err
}
