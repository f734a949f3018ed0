package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"redoubt.internal/log/store/bolt"
)

// Who owns what where roles run apart. DIR, its configuration and its certificates are root's and the group reads them; no role writes
// into a folder that another reads its keys or databases from. Each role has its databases, its keys, and a folder below run/ in which the
// group reaches its sockets.

// owner is a user and a group.
type owner struct{ uid, gid int }

// own gives every file of a state directory to the user of the role that works on it. It may be run again.
func own(cfg *Config, dir layout) error {
	gid, err := cfg.Roles.gid()
	if err != nil {
		return err
	}
	users := map[string]owner{"": {0, gid}}
	for _, part := range partNames {
		uid, err := cfg.Roles.uid(part)
		if err != nil {
			return err
		}
		users[part] = owner{uid, gid}
	}
	o := ownership{cfg: cfg, dir: dir, users: users}
	for _, step := range []func() error{o.shared, o.keys, o.databases, o.folders, o.sockets, o.marks, o.second} {
		if err := step(); err != nil {
			return fmt.Errorf("giving files to the users of the roles: %w", err)
		}
	}
	return nil
}

type ownership struct {
	cfg   *Config
	dir   layout
	users map[string]owner // by role; "" is root
}

// give makes a role own a file or folder, with a mode. The mode comes first where it closes, the owner first where it opens: root keeps
// what it is about to give away closed.
func (o ownership) give(path, part string, mode os.FileMode) error {
	who := o.users[part]
	if err := os.Lchown(path, who.uid, who.gid); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// tree gives a folder and all in it, with the modes of folders and files.
func (o ownership) tree(root, part string, folders, files os.FileMode) error {
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case e.IsDir():
			return o.give(path, part, folders)
		case e.Type().IsRegular():
			return o.give(path, part, files)
		}
		return os.Lchown(path, o.users[part].uid, o.users[part].gid)
	})
}

func (o ownership) shared() error {
	err := errors.Join(o.give(o.dir.root, "", 0o750), o.give(o.dir.config(), "", 0o640), o.tree(o.dir.path("pki"), "", 0o750, 0o640))
	if fileExists(o.dir.stateFile()) {
		err = errors.Join(err, o.give(o.dir.stateFile(), "", 0o640))
	}
	return err
}

// keys gives each software key, or file of a key in a TPM, to the role that signs with it. The root's stays root's, and so does the
// passphrase, of which each role that has keys gets a copy: without a key's file it opens nothing.
func (o ownership) keys() error {
	entries, err := os.ReadDir(o.dir.keys())
	if err != nil {
		return err
	}
	if err := o.give(o.dir.keys(), "", 0o750); err != nil {
		return err
	}
	byName := map[string]bool{}
	for name := range o.cfg.Keys.Roles {
		byName[name] = true
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e.Name(), ".")
		path := filepath.Join(o.dir.keys(), e.Name())
		switch {
		case e.IsDir():
			continue // where a role remembers refused PINs
		case byName[name]:
			err = o.give(path, keyPart(name), 0o600)
		default:
			err = o.give(path, "", 0o600)
		}
		if err != nil {
			return err
		}
	}
	secret := secretPath(o.dir, o.cfg.Keys.PassphraseFile)
	for _, part := range keyParts {
		folder := o.dir.latches(parts{part: true})
		if err := os.MkdirAll(folder, 0o700); err != nil {
			return err
		}
		if err := o.give(folder, part, 0o700); err != nil {
			return err
		}
		if secret == "" || strings.HasPrefix(secret, sealedPrefix) || !strings.HasPrefix(secret, o.dir.root+string(filepath.Separator)) {
			continue // the operator's own: LoadCredential=passphrase:FILE hands it to each unit
		}
		text, err := os.ReadFile(secret)
		if errors.Is(err, fs.ErrNotExist) {
			continue // of a directory that was restored: it is in no backup
		}
		if err != nil {
			return err
		}
		if err := replaceFile(secret+"."+part, text, 0o600); err != nil {
			return err
		}
		if err := o.give(secret+"."+part, part, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// keyParts are the roles that sign.
var keyParts = []string{partCA, partLog, partTSA, partTrust, partOIDC}

func (o ownership) databases() error {
	if err := o.journals(); err != nil {
		return err
	}
	entries, err := os.ReadDir(o.dir.path("db"))
	if err != nil {
		return err
	}
	if err := o.give(o.dir.path("db"), "", 0o750); err != nil {
		return err
	}
	for _, e := range entries {
		if err := o.give(o.dir.path("db", e.Name()), databasePart(e.Name()), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// journals makes the journal of each database that has none, as one that was just made or restored: no role may make files in db/.
func (o ownership) journals() error {
	files, err := filepath.Glob(globEscape(o.dir.path("db")) + "/*.db")
	for _, file := range files {
		if err != nil || fileExists(file+"-journal") {
			continue
		}
		var db *bolt.DB
		if db, err = bolt.Open(file); err == nil {
			err = db.Close()
		}
	}
	return err
}

func (o ownership) folders() error {
	if err := o.tree(o.dir.tuf(), partTrust, 0o750, 0o640); err != nil {
		return err
	}
	for _, name := range []string{"mirror", "inbox", "backup", "approvals"} {
		if err := os.MkdirAll(o.dir.path(name), 0o700); err != nil {
			return err
		}
		if err := o.tree(o.dir.path(name), partCA, 0o700, 0o600); err != nil {
			return err
		}
	}
	err := o.give(o.dir.path("backup"), partCA, 0o750) // the console says how old the last one is
	if fileExists(o.dir.lastBackup()) {
		err = errors.Join(err, o.give(o.dir.lastBackup(), partCA, 0o640))
	}
	if err != nil {
		return err
	}
	samples, err := os.OpenFile(o.dir.diskSamples(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(samples.Close(), o.give(o.dir.diskSamples(), partCA, 0o640))
}

func (o ownership) sockets() error {
	if err := os.MkdirAll(o.dir.path("run"), 0o750); err != nil {
		return err
	}
	lock, err := os.OpenFile(o.dir.lock(), os.O_CREATE|os.O_RDWR, 0o640)
	if err != nil {
		return err
	}
	if err := errors.Join(lock.Close(), o.give(o.dir.path("run"), "", 0o750), o.give(o.dir.lock(), "", 0o640)); err != nil {
		return err
	}
	for _, part := range partNames {
		if err := os.MkdirAll(o.dir.run(part), 0o750); err != nil {
			return err
		}
		if err := o.tree(o.dir.run(part), part, 0o750, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (o ownership) marks() error {
	for _, m := range o.cfg.at(o.dir).markFiles(nil) {
		if err := o.give(m.path, m.part, 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) { // none survived
			return err
		}
	}
	return nil
}

// second gives each role its folder of the second disk, where that is mounted; the files in it keep their modes.
func (o ownership) second() error {
	for _, p := range o.cfg.secondPlaces(nil) {
		err := os.Mkdir(p.dir, 0o700)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil && !errors.Is(err, fs.ErrExist):
			return err
		}
		who := o.users[p.part]
		err = filepath.WalkDir(p.dir, func(path string, _ fs.DirEntry, err error) error {
			return errors.Join(err, os.Lchown(path, who.uid, who.gid))
		})
		if err := errors.Join(err, o.give(filepath.Dir(p.dir), "", 0o750)); err != nil {
			return err
		}
	}
	return nil
}
