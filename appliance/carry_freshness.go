package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/ca/trust"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/serve"
	"redoubt.internal/mirror/spool"
)

// What the mirror knows reaches a verification as a file, because a verification opens no socket; what a verification saw reaches the mirror
// the same way.
//
//	mirror/state.note  how fresh each mirrored log and repository is, signed
//	mirror/state.key   the line that checks it, as `redoubt mirror key --reports` prints it
//	mirror/roots/      the trusted root of each repository, <name>.json, as state.note names it
//	mirror/spool/      log proofs that verifications saw

func (l layout) freshness() string      { return freshness.Path(l.root) }
func (l layout) freshnessKey() string   { return l.path("mirror", "state.key") }
func (l layout) freshnessRoots() string { return l.path("mirror", "roots") }
func (l layout) spool() string          { return spool.Path(l.root) }

// keepFreshness writes what the mirror knows now. It is called after whatever may have changed that; a failure leaves an older file, which
// only makes verifications stricter.
func (in *instance) keepFreshness(ctx context.Context) {
	if in.mirror == nil {
		return
	}
	if err := in.writeFreshness(ctx); err != nil {
		in.logger.ErrorContext(ctx, "writing what the mirror knows", "file", in.dir.freshness(), "error", err)
	}
}

func (in *instance) writeFreshness(ctx context.Context) error {
	known, err := in.mirror.Freshness(ctx)
	if err != nil {
		return err
	}
	line, err := parcel.VerifierKey(in.cfg.mirrorName(), in.roleKeys[roleExporter].Public())
	if err != nil {
		return err
	}
	if held, err := os.ReadFile(in.dir.freshnessKey()); err != nil || string(held) != line+"\n" {
		if err := writeFileAtomic(in.dir.freshnessKey(), []byte(line+"\n"), 0o644); err != nil {
			return err
		}
	}
	if err := in.writeRoots(known); err != nil {
		return err
	}
	return writeFileAtomic(in.dir.freshness(), known.Note, 0o644)
}

// writeRoots writes the trusted roots that a claim names.
func (in *instance) writeRoots(known *freshness.State) error {
	for _, t := range known.TUF {
		file := filepath.Join(in.dir.freshnessRoots(), t.Name+".json")
		if held, err := os.ReadFile(file); t.Root == "" || err == nil && digestHex(held) == t.Root {
			continue
		}
		head, err := in.mirror.TUF(t.Name)
		if err != nil {
			return err
		}
		data, err := in.mirror.TUFTarget(head, trust.TrustedRootName)
		if err != nil {
			return err
		}
		if err := os.MkdirAll(in.dir.freshnessRoots(), 0o755); err != nil {
			return err
		}
		if err := writeFileAtomic(file, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func digestHex(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// observeSpool hands the mirror what verifications saw.
func (in *instance) observeSpool(ctx context.Context) mirror.SpoolReport {
	report, err := in.mirror.ObserveSpool(ctx, in.dir.spool())
	if err != nil && ctx.Err() == nil && !errors.Is(err, mirror.ErrBusy) {
		in.logger.ErrorContext(ctx, "comparing what verifications saw", "error", err)
	}
	return report
}

// spoolPause is how long what a verification saw waits for a running server.
const spoolPause = time.Minute

// observeEvery makes the index of mirrored entries, and compares what verifications saw, until ctx ends.
func (in *instance) observeEvery(ctx context.Context) {
	if in.mirror == nil {
		return
	}
	in.keepFreshness(ctx)
	tick := time.NewTicker(spoolPause)
	defer tick.Stop()
	for {
		if err := in.mirrorIndex.Update(ctx); err != nil && ctx.Err() == nil {
			in.logger.ErrorContext(ctx, "indexing mirrored entries", "error", err)
		}
		in.observeSpool(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// mirrorHandler serves what was carried here; without a stream there is nothing to serve.
func (in *instance) mirrorHandler() http.Handler {
	if in.mirror == nil {
		return http.NotFoundHandler()
	}
	return in.withMirroredTrust(serve.New(serve.Config{
		Mirror: in.mirror, Index: in.mirrorIndex, Domain: in.cfg.mirrorHost(), Hosts: in.cfg.Mirror.Hosts, Logger: in.logger,
	}))
}

// mirrorHost is the host name of the mirror service; mirrored logs have hosts below it. "" where it is not served.
func (c *Config) mirrorHost() string {
	if c.Services.Mirror == nil {
		return ""
	}
	u, err := url.Parse(c.Services.Mirror.URL)
	if err != nil {
		return "" // refused by Config.check
	}
	return strings.ToLower(u.Hostname())
}
