package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca"
	"redoubt.internal/ca/denied"
	"redoubt.internal/ca/identity"
	"redoubt.internal/ca/trust"
	"redoubt.internal/ca/tsa"
	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/ct"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/serve"
)

// instance is one opened state directory: every room, wired to its keys, its database and its neighbours. The process that
// has it holds the directory's lock. The writers of the logs run from open to close.
type instance struct {
	cfg    *Config
	dir    layout
	parts  parts // the roles this process runs
	logger *slog.Logger
	now    func() time.Time

	keys      *keyring
	roleKeys  map[string]*hsm.Key         // every role the running process signs with; not root
	public    map[string]crypto.PublicKey // of the keys on record that other roles sign with
	highWater []openMark
	slowMarks []*log.SlowMarks // bound to counters of a TPM
	noMarks   []noMark         // high-water files that are damaged
	second    *secondDisk      // nil without one
	markless  error            // set once the logs are open: a log whose mark is missing or damaged

	history  *history                // which keys each role had when this instance was opened
	latest   atomic.Pointer[history] // and as a rotation left the record since; nil before one
	rotating sync.Mutex              // held by the verb that rotates a key

	artifacts         []*artifactLog // as configured
	certificateLogs   []*certificateLog
	auditLogs         []namedLog // the first one first
	ctLog, auditLog   *log.Log   // the certificate log in use
	audit             *audit.Log
	ct                *ct.Log
	tsa               *tsa.Authority
	tuf               *trust.Repository
	mirror            *mirror.Mirror              // nil when no stream is configured
	mirrored          mirroredTrust               // TUF repositories that were carried here, served again
	mirrorIndex       *serve.Index                // of what is mirrored, for whoever searches
	inboxes           inboxes                     // what looks at the inbox share
	transfer          transferProgress            // how far a pull, export or import is
	caChain, tsaChain []*x509.Certificate         // in use
	authorities       map[string][]authorityChain // by role: every issuing or timestamp certificate that was or will be in use
	issuer            *identity.Issuer            // the built-in one; nil in production
	workloads         *identity.Issuer            // its second name; nil in production
	issuance          atomic.Pointer[issuance]
	inForce           atomic.Pointer[law]
	approved          atomic.Pointer[rules]       // last, or the file's where nobody had to; nil where this process has no database of them
	unapproved        []string                    // sections of the file that differ from those, and are not in force
	fileRules         *rules                      // the file's, where they are not in force
	denied            atomic.Pointer[denied.List] // identities; nil where this process neither issues nor publishes
	strangers         strangers
	reload            func(context.Context, *instance, string, approvalArgs) (reloadResult, error) // of the configuration; nil without a server
	reloaded          *atomic.Pointer[reloadState]
	front             *frontEnd // the certificate that a server's listeners show; nil without a server
	authorityDB       store.DB
	floorDB           store.DB // of the timestamp authority: a database of its own where roles may run apart

	failed  chan error // a writer that stopped by itself
	closing []func()   // undone in reverse order
	held    []func()   // undone after those: the tokens and the directory's lock, which the next instance of a server takes over

	heard      atomic.Pointer[error] // what the processes that have the logs say of the directory's age; nil until they said it
	superseded atomic.Bool           // a rotation changed what is in force: this instance must be opened anew
}

// clock is the time that instances and verifications go by. Tests move it; the program does not.
var clock = time.Now

// issuance is what a reload of the issuers replaces in one step.
type issuance struct {
	authority *ca.Authority
	verifier  *identity.Verifier
	handler   http.Handler
}

// onlineKeys are the names of the keys a running process signs with. Those of logs that are frozen come last: what was signed
// before can be read without them.
func (in *instance) onlineKeys() (inUse, frozen []string) {
	inUse = []string{in.history.active(roleIssuing), in.history.active(roleCT), in.history.active(roleAudit), in.history.active(roleTSA), in.history.active(roleTUF)}
	if in.cfg.Issuer.Enabled {
		inUse = append(inUse, in.history.active(roleOIDC))
	}
	for _, a := range in.cfg.Log.Artifact {
		if a.Frozen {
			frozen = append(frozen, a.Name)
		} else {
			inUse = append(inUse, a.Name)
		}
	}
	for _, name := range in.cfg.certificateLogs() {
		if name != in.history.active(roleCT) {
			frozen = append(frozen, name)
		}
	}
	for _, name := range in.cfg.auditLogs() {
		if name != in.history.active(roleAudit) {
			frozen = append(frozen, name)
		}
	}
	return in.parts.ours(inUse), in.parts.ours(frozen)
}

// active is the key that signs for role now.
func (in *instance) active(role string) *hsm.Key { return in.roleKeys[in.history.active(role)] }

// openInstance opens cfg's state directory under its lock. A log whose database is behind its high-water mark opens
// read-only: its reads are served, nothing is signed, and checks say why.
func openInstance(ctx context.Context, cfg *Config, logger *slog.Logger) (*instance, error) {
	return openParts(ctx, cfg, nil, logger)
}

// openParts is openInstance with some of the roles: their keys, their databases, their rooms.
func openParts(ctx context.Context, cfg *Config, p parts, logger *slog.Logger) (*instance, error) {
	cfg, _, err := cfg.inForce()
	if err != nil {
		return nil, err
	}
	keys := newKeyring(cfg.Keys.of(p, layout{cfg.Dir}), layout{cfg.Dir}, logger)
	keys.parts = p
	in, err := openWith(ctx, cfg, logger, keys)
	if err != nil {
		keys.close()
		return nil, err
	}
	in.held = append([]func(){func() { keys.close() }}, in.held...)
	return in, nil
}

// openWith is openInstance with a keyring the caller closes.
func openWith(ctx context.Context, cfg *Config, logger *slog.Logger, keys *keyring) (*instance, error) {
	if _, err := os.Stat(layout{cfg.Dir}.config()); err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("opening the state directory: %w", err), "`redoubt init --dir %s --domain D` makes one", cfg.Dir)
	}
	release, err := layout{cfg.Dir}.acquireSoon(ctx, keys.parts)
	if err != nil {
		return nil, err
	}
	in, err := openLocked(ctx, cfg, logger, keys)
	if err != nil {
		release()
		return nil, err
	}
	in.held = []func(){release}
	if keys.parts == nil {
		in.held = append(in.held, func() { ownAgain(in.cfg, in.dir, logger) })
	}
	return in, nil
}

// openLocked is openWith for a caller that has the directory's lock, and keeps it.
func openLocked(ctx context.Context, cfg *Config, logger *slog.Logger, keys *keyring) (in *instance, err error) {
	in = &instance{cfg: cfg, dir: layout{cfg.Dir}, logger: logger, now: clock, keys: keys, parts: keys.parts, roleKeys: map[string]*hsm.Key{}, failed: make(chan error, 4)}
	if err := errors.Join(in.dir.unheld(), in.dir.checkFormat()); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			in.close()
			in = nil
		}
	}()
	if in.cfg, in.history, err = cfg.inForce(); err != nil {
		return in, err
	}
	for _, step := range []func(context.Context) error{in.openKeys, in.openChains, in.openLogs, in.openAuthorities, in.openMirror} {
		if err := step(ctx); err != nil {
			return in, err
		}
	}
	return in, nil
}

func (in *instance) onClose(f func()) { in.closing = append(in.closing, f) }

// close stops the writers and lets everything go, last opened first. It may be called more than once.
func (in *instance) close() {
	in.letGo()
	for _, f := range slices.Backward(in.held) {
		f()
	}
	in.held = nil
}

// letGo is close but for what is held.
func (in *instance) letGo() {
	for _, f := range slices.Backward(in.closing) {
		f()
	}
	in.closing = nil
}

// openLogs opens the databases and the logs in them, and starts their writers.
func (in *instance) openLogs(ctx context.Context) (err error) {
	if err := in.openDBs(bolt.Open); err != nil {
		return err
	}
	if err := in.openHighWater(); err != nil {
		return err
	}
	if err := in.openSecond(ctx); err != nil {
		return err
	}
	to := map[string]**log.Log{}
	audits := in.parts.ours(in.cfg.auditLogs())
	in.auditLogs = make([]namedLog, len(audits))
	for i, name := range audits {
		in.auditLogs[i].role = name
		to[name] = &in.auditLogs[i].log
	}
	for _, name := range in.parts.ours(in.cfg.certificateLogs()) {
		c := &certificateLog{name: name}
		in.certificateLogs = append(in.certificateLogs, c)
		to[name] = &c.log
	}
	for _, a := range in.artifacts {
		to[a.Name] = &a.log
	}
	for role, c := range in.logConfigs() {
		if *to[role], err = log.Open(ctx, c); err != nil {
			return fmt.Errorf("opening the %s log: %w", role, err)
		}
	}
	in.storeMarks(ctx)
	for _, c := range in.certificateLogs {
		if c.name == in.history.active(roleCT) {
			in.ctLog = c.log
		}
	}
	for _, a := range in.auditLogs {
		if a.role == in.history.active(roleAudit) {
			in.auditLog = a.log
		}
	}
	in.noteMarks()
	// Writers outlive the verb's context: what was begun is finished, close ends them.
	writing, stop := context.WithCancel(context.WithoutCancel(ctx))
	var writers sync.WaitGroup
	in.onClose(func() { stop(); writers.Wait() })
	for _, l := range in.logs() {
		atOpen := l.log.Err() // halted or rolled back before: it is served for reading, and /readyz says why
		writers.Go(func() {
			if err := l.log.Run(writing); err != nil && writing.Err() == nil {
				in.logger.Error("a log takes no more entries", "log", l.role, "error", err)
				if atOpen == nil {
					in.failed <- fmt.Errorf("writing the %s log: %w", l.role, err)
				}
			}
		})
	}
	return nil
}

// openDBs opens, or creates, the database of each artifact log and the one the others share.
func (in *instance) openDBs(open func(path string) (*bolt.DB, error)) error {
	one := func(path string, to *store.DB) error {
		db, err := open(path)
		if err != nil {
			return fmt.Errorf("opening %s: %w", path, err)
		}
		in.onClose(func() { db.Close() })
		*to = db
		return checkMigrated(db)
	}
	for _, c := range in.cfg.Log.Artifact {
		if !in.parts.runs(partLog) {
			break
		}
		a := &artifactLog{ArtifactLog: c}
		if err := one(in.dir.logDB(a.Name), &a.db); err != nil {
			return err
		}
		in.artifacts = append(in.artifacts, a)
	}
	if in.parts.runs(partCA) {
		if err := one(in.dir.authorityDB(), &in.authorityDB); err != nil {
			return err
		}
	}
	if in.cfg.Roles == nil || !in.parts.runs(partTSA) {
		in.floorDB = in.authorityDB
		return nil
	}
	return one(in.dir.logDB(partTSA), &in.floorDB)
}

func (in *instance) openHighWater() error {
	for _, m := range in.cfg.markFiles(in.parts) {
		f, err := log.OpenHighWaterFile(m.path)
		if errors.Is(err, log.ErrHighWater) && !errors.Is(err, syscall.EWOULDBLOCK) { // damaged, not held by another process
			in.noMarks = append(in.noMarks, noMark{err})
			continue
		}
		if err != nil {
			return fmt.Errorf("opening the high-water file: %w", err)
		}
		in.highWater = append(in.highWater, openMark{f, m})
		in.onClose(func() { f.Close() })
	}
	return in.openCounters()
}

// logConfigs describes the logs by role: which database and prefix, which origin, which key, how they are searched.
func (in *instance) logConfigs() map[string]log.Config {
	configs := map[string]log.Config{}
	for _, name := range in.parts.ours(in.cfg.auditLogs()) {
		configs[name] = log.Config{DB: in.authorityDB, Prefix: name + "/"}
	}
	for _, name := range in.parts.ours(in.cfg.certificateLogs()) {
		configs[name] = certificateLogConfig(in.authorityDB, name)
	}
	for _, a := range in.artifacts {
		configs[a.Name] = log.Config{DB: a.db, IndexKeys: rekor.IndexKeys, Unique: true}
	}
	for role, c := range configs {
		c.Origin, c.Now, c.Logger = in.cfg.origin(role), in.now, in.logger
		c.Signer = in.signer(role)
		if in.lost(role) == nil {
			c.HighWater = in.marks(c.Origin)
		} else if c.Signer != nil { // its marks are ahead of it for good: it is read and signs no head
			c.Signer = publicOnly{c.Signer.Public()}
		}
		configs[role] = c
	}
	return configs
}

// origin is the name of a log for good: rekor.<domain>, rekor-2.<domain>, ct.<domain>, audit.<domain>.
func (c *Config) origin(role string) string { return role + "." + c.Domain }
