package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/installer/backup"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
)

// backupArgs are those of `redoubt backup create`.
type backupArgs struct {
	To         string   `json:"to"`         // absolute
	Recipients []string `json:"recipients"` // age
	Plain      bool     `json:"plain"`
	Config     string   `json:"config"` // the configuration file, which may lie outside the state directory
}

// createBackup copies the state directory from inside the process that has it open. It is recorded before it begins and when it ended;
// the second record is in the next backup.
var createBackup = verb[backupArgs, backup.Report]{"backup.create", func(ctx context.Context, in *instance, actor string, a backupArgs) (backup.Report, error) {
	c, err := in.backupConfig(a)
	if err != nil {
		return backup.Report{}, err
	}
	if err := in.unlock(ctx, in.history.active(roleAudit), roleAudit); err != nil {
		return backup.Report{}, err
	}
	if err := in.record(ctx, actor, "backup.create", a.To, map[string]string{"encryption": encryptionOf(a), "recipients": strconv.Itoa(len(a.Recipients))}); err != nil {
		return backup.Report{}, err
	}
	// The record is of before the copy; marks are read after it, so that they are not behind the logs.
	c.Marks = in.marksOf("")
	report, err := backup.Create(ctx, c)
	err = errors.Join(err, in.giveBackup(a.To))
	e := audit.Event{Actor: actor, Action: "backup.create", Object: a.To, Outcome: audit.Success, Detail: map[string]string{
		"run": strconv.FormatUint(report.Run, 10), "manifest": report.Manifest, "objects": strconv.Itoa(report.Objects), "bytes": strconv.FormatInt(report.Bytes, 10)}}
	if err != nil {
		e.Outcome, e.Detail = audit.Failed, map[string]string{"reason": err.Error()}
	}
	if _, recorded := in.audit.Add(ctx, e, nil); err == nil {
		err = recorded
	}
	if ctx.Err() == nil {
		if noted := in.noteBackup(report, a.To, err); err == nil {
			err = noted
		}
	}
	return report, backupHint(err, a.To)
}}

func encryptionOf(a backupArgs) string {
	if a.Plain {
		return backup.EncryptionNone
	}
	return backup.EncryptionAge
}

// backupHint adds what to do about an error of a backup at dir.
func backupHint(err error, dir string) error {
	switch {
	case errors.Is(err, backup.ErrRecipients):
		return cmdline.Hinted(err, "--recipient age1... for each custodian (`redoubt backup key` makes one), or --no-encryption where the medium itself is encrypted")
	case errors.Is(err, backup.ErrFIPS):
		return cmdline.Hinted(err, "--no-encryption onto a medium that is encrypted by a validated module")
	case errors.Is(err, backup.ErrFull):
		return cmdline.Hinted(err, "nothing of this run counts; the runs before it are whole. Free space or name another folder")
	case errors.Is(err, backup.ErrForeign):
		return cmdline.Hinted(err, "each appliance has folders of its own; the fingerprint of this one stands in the output of `redoubt backup create`")
	case errors.Is(err, backup.ErrNone):
		return cmdline.Hinted(err, "is the medium mounted, and is the folder the one that holds redoubt-backup.json?")
	case errors.Is(err, backup.ErrKey):
		return cmdline.Hinted(err, "--identity FILE names the age key of a custodian")
	case errors.Is(err, fs.ErrPermission):
		return cmdline.Hinted(err, "the folder belongs to the user the server runs as, or where roles run apart to that of the role ca: `chown -R redoubt-ca: %s`", dir)
	case errors.Is(err, backup.ErrDamaged):
		return cmdline.Hinted(err, "copy %s again from where it was copied from, or take another copy; a copy that was begun and not ended ends here too", dir)
	}
	return err
}

// backupConfig says what of this instance is copied.
func (in *instance) backupConfig(a backupArgs) (backup.Config, error) {
	if !filepath.IsAbs(a.To) {
		return backup.Config{}, cmdline.Usage("--to %s: want an absolute path", a.To)
	}
	if rel, err := filepath.Rel(in.dir.root, a.To); err == nil && !strings.HasPrefix(rel, "..") {
		return backup.Config{}, cmdline.Usage("--to %s: it lies in the state directory it is to be a copy of", a.To)
	}
	c := backup.Config{To: a.To, Dir: in.dir.root, Skip: in.notCopied(), Domain: in.cfg.Domain, Signer: in.signer(roleAudit), Recipients: a.Recipients, Plain: a.Plain,
		State: in.dir.path("backup"), Now: in.now, ConfigFile: a.Config, Databases: in.databasesOf(in.parts), Shares: in.shares(), Still: in.still()}
	c.Owns = in.owns(c.Shares)
	if in.parts == nil && in.cfg.Roles != nil && a.Plain { // the role that gets this folder must not find another's key there
		c.Skip = append(c.Skip, in.dir.keyFiles(func(part string) bool { return part != partCA })...)
	}
	var err error
	c.Keys, err = in.publicKeyList()
	return c, err
}

// notCopied are the files and folders a backup leaves out: databases, which are copied by their transactions; what lives as long as a
// process; parcels on their way in; and every file that unlocks a key.
func (in *instance) notCopied() []string {
	skip := in.processFolders()
	secret := func(value string) {
		if value == "" {
			return
		}
		path := strings.TrimPrefix(secretPath(in.dir, value), sealedPrefix)
		skip = append(skip, path)
		for _, part := range partNames { // the copies of roles, where there are any
			if fileExists(path + "." + part) {
				skip = append(skip, path+"."+part)
			}
		}
	}
	k := in.cfg.Keys
	for _, images := range in.cfg.Mirror.Images {
		if images.DockerConfig != "" {
			skip = append(skip, in.dir.resolve(images.DockerConfig))
		}
	}
	for _, value := range []string{k.PassphraseFile, k.PINFile, in.cfg.TLS.Key} {
		secret(value)
	}
	for _, uri := range append(slices.Collect(maps.Values(k.Roles)), k.Token) {
		secret(strings.TrimPrefix(uriAttribute(uri, "pin-source"), "file:"))
	}
	if k.TPM != nil {
		secret(k.TPM.AuthFile)
		secret(k.TPM.OwnerAuthFile)
	}
	if k.Vault != nil {
		for _, value := range []string{k.Vault.TokenFile, k.Vault.SecretIDFile, k.Vault.KeyFile, k.Vault.JWTFile} {
			secret(value)
		}
	}
	return skip
}

// processFolders are those whose contents are no files to a backup.
func (in *instance) processFolders() []string {
	return []string{in.dir.path("db"), in.dir.path("run"), in.dir.path("inbox"), in.dir.path("backup")}
}

// marksOf are the high-water marks of a role as they stand in the files; of "", those of this process.
func (in *instance) marksOf(part string) (marks []backup.Mark) {
	for _, f := range in.highWater {
		if part != "" && f.part != part {
			continue
		}
		for _, m := range f.Marks() {
			marks = append(marks, backup.Mark{Origin: m.Origin, Size: m.Size, Root: m.Root[:]})
		}
	}
	return marks
}

// publicKeyList are the public halves of the keys on record, those of the logs under the logs' names.
func (in *instance) publicKeyList() (keys []backup.Key, err error) {
	names := append([]string{}, in.cfg.Keys.roles()...)
	for _, l := range in.logs() {
		if !slices.Contains(names, l.role) {
			names = append(names, l.role)
		}
	}
	for _, name := range names {
		signer := in.signer(name)
		if signer == nil {
			continue // the root's: it is in the chains
		}
		der, err := x509.MarshalPKIXPublicKey(signer.Public())
		if err != nil {
			return nil, fmt.Errorf("the public key of %s: %w", name, err)
		}
		keys = append(keys, backup.Key{Name: name, Where: redactURI(in.cfg.Keys.Roles[name]), PublicKey: der})
	}
	return keys, nil
}

// restoredLog is one log of a restored directory beside the mark that was there before.
type restoredLog struct {
	Log     string `json:"log"`
	Size    uint64 `json:"size"`
	State   string `json:"state"`   // whole, behind, unmarked or forked
	Missing uint64 `json:"missing"` // entries that were signed and are not in the backup
	Mark    string `json:"mark,omitempty"`
}

// States of a restored log.
const (
	logWhole    = "whole"    // the mark stands where the log ends
	logBehind   = "behind"   // more was signed than was restored
	logUnmarked = "unmarked" // no mark survived: nobody knows what was signed
	logForked   = "forked"   // the mark has another root: the backup is not of the log that was signed last
	logStale    = "stale"    // the mark is older than the backup, so it is a copy of a mark and says nothing
)

// compareMarks compares what was restored with the marks that survived, in the files the restored configuration lists.
func compareMarks(cfg *Config, dir layout, logs []backup.LogHead) (out []restoredLog) {
	found := map[string]log.Mark{}
	for _, f := range cfg.at(dir).markFiles(nil) {
		marks, err := log.ReadHighWaterFile(f.path)
		if err != nil {
			continue // not there, or none: the log is unmarked
		}
		for _, m := range marks {
			if old, ok := found[m.Origin]; !ok || m.Size > old.Size {
				found[m.Origin] = m
			}
		}
	}
	for _, l := range logs {
		r := restoredLog{Log: l.Name, Size: l.Size, State: logUnmarked}
		if m, ok := found[l.Origin]; ok {
			r.Mark = fmt.Sprintf("%d %x", m.Size, m.Root)
			switch {
			case m.Size > l.Size:
				r.State, r.Missing = logBehind, m.Size-l.Size
			case m.Size == l.Size && !l.Root.Equal(m.Root[:]):
				r.State = logForked
			case m.Size < l.Size: // a mark is raised before its head is shown
				r.State = logStale
			default:
				r.State = logWhole
			}
		}
		out = append(out, r)
	}
	return out
}

// configAt reads the configuration of a restored directory.
func configAt(dir string) (*Config, layout, error) {
	cfg, err := loadConfig(layout{dir}.config())
	if err != nil {
		return nil, layout{}, err
	}
	if real, err := filepath.EvalSymlinks(dir); err == nil && cfg.Dir != dir && cfg.Dir != real {
		fmt.Fprintf(os.Stderr, "the configuration says that the state directory is %s\n", cfg.Dir)
	}
	cfg, _, err = cfg.inForce()
	return cfg, layout{dir}, err
}
