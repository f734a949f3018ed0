package main

import (
	"context"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/audit"
	"redoubt.internal/log/store"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/serve"
)

// The mirror's two ends as this instance configures them. Inside, mirror/in holds what was carried here; outside, mirror/out
// holds what was collected to be carried.

var errNoStream = errors.New("no stream of parcels is configured")

// openMirror opens the inside end, when a stream is configured.
func (in *instance) openMirror(ctx context.Context) error {
	if in.cfg.Mirror.Stream == "" || !in.parts.runs(partCA) {
		return nil
	}
	logs, err := in.cfg.Mirror.logs()
	if err != nil {
		return err
	}
	if err := in.cfg.Mirror.policies(in.dir, logs); err != nil {
		return err
	}
	tuf, err := in.cfg.Mirror.tuf(in.dir)
	if err != nil {
		return err
	}
	key, err := in.keys.role(ctx, roleExporter)
	if err != nil {
		return err
	}
	in.roleKeys[roleExporter] = key
	in.mirror, err = mirror.Open(mirror.Config{
		DB: in.authorityDB, Dir: in.dir.path("mirror", "in"), Stream: in.cfg.Mirror.Stream, Exporters: in.cfg.Mirror.Exporters, Logs: logs, Peers: in.cfg.Mirror.Peers,
		TUF: tuf, Follow: in.cfg.Mirror.follow(), Floors: in.cfg.Mirror.Floors, Watch: in.cfg.Mirror.watch(), Cover: in.covered(), Scrub: in.cfg.Mirror.Reconcile.scrub(), Cadence: max(0, time.Duration(in.cfg.Mirror.Reconcile.Cadence)), Ignore: in.cfg.Mirror.Reconcile.Ignore, Quota: in.cfg.Mirror.Quota, Signer: key, Name: in.cfg.mirrorName(), Record: in.recordMirror, Progress: in.transfer.set, Now: in.now, Logger: in.logger,
	})
	if err != nil {
		return fmt.Errorf("opening the mirror: %w", err)
	}
	in.mirrorIndex = serve.NewIndex(in.mirror)
	in.onClose(func() { in.mirror.Close() })
	return in.openMirroredTrust(ctx)
}

// recordMirror writes what the mirror did to the audit log, in one transaction with the mirror's own state, and tells verifications.
func (in *instance) recordMirror(ctx context.Context, e mirror.Event, with func(store.Tx) error) error {
	_, err := in.audit.Add(ctx, audit.Event{Actor: "mirror", Action: e.Action, Object: e.Object, Outcome: e.Outcome, Detail: e.Detail}, with)
	if err == nil {
		in.keepFreshness(ctx)
	}
	return err
}

// exporter opens the outside end for one verb; the caller closes it.
func (in *instance) exporter(ctx context.Context) (*mirror.Exporter, error) {
	logs, err := in.cfg.Mirror.logs()
	if err != nil {
		return nil, err
	}
	if err := in.cfg.Mirror.policies(in.dir, logs); err != nil {
		return nil, err
	}
	if logs, err = in.cfg.Mirror.selected(in.dir, logs); err != nil {
		return nil, err
	}
	key, err := in.keys.role(ctx, roleExporter)
	if err != nil {
		return nil, err
	}
	for i := range logs {
		if !strings.Contains(logs[i].Source, "://") {
			logs[i].Source = in.dir.resolve(logs[i].Source)
		}
	}
	tuf, err := in.cfg.Mirror.tuf(in.dir)
	if err != nil {
		return nil, err
	}
	for i := range tuf {
		if tuf[i].Source != "" && !strings.Contains(tuf[i].Source, "://") {
			tuf[i].Source = in.dir.resolve(tuf[i].Source)
		}
	}
	network, err := in.mirrorNetwork()
	if err != nil {
		return nil, err
	}
	images, err := in.mirrorImages()
	if err != nil {
		return nil, err
	}
	return mirror.OpenExporter(mirror.ExporterConfig{
		DB: in.authorityDB, Dir: in.dir.path("mirror", "out"), Stream: in.cfg.exportStream(), Name: in.cfg.exporterName(), Signer: key,
		Logs: logs, TUF: tuf, Images: images, Follow: in.cfg.Mirror.follow(), Floors: in.cfg.Mirror.Floors, Receivers: in.cfg.Mirror.Receivers, WarnUnacknowledged: in.cfg.Mirror.UnacknowledgedWarn, Network: network, Progress: in.transfer.set, Now: in.now, Logger: in.logger,
	})
}

func (c *Config) exportStream() string { return orDefault(c.Mirror.ExportStream, c.Domain) }
func (c *Config) exporterName() string { return "exporter." + c.Domain }
func (c *Config) mirrorName() string   { return "mirror." + c.Domain }

// logs are the configured logs in the mirror's own form.
func (m Mirror) logs() (logs []mirror.LogConfig, err error) {
	for _, l := range m.Logs {
		if l.Key == "" && l.Trust == "" {
			return nil, cmdline.Hinted(fmt.Errorf("mirror.logs: %s has no key", l.Origin), "set mirror.logs[].key, or mirror.logs[].trust to the name of a repository under mirror.tuf")
		}
		key, err := l.verifierLine(l.Key)
		if err != nil {
			return nil, fmt.Errorf("mirror.logs: %s: %w", l.Origin, err)
		}
		var former []string
		for _, f := range l.FormerKeys {
			line, err := l.verifierLine(f)
			if err != nil {
				return nil, fmt.Errorf("mirror.logs: %s: former key: %w", l.Origin, err)
			}
			former = append(former, line)
		}
		frozen, err := l.frozen()
		if err != nil {
			return nil, fmt.Errorf("mirror.logs: %s: %w", l.Origin, err)
		}
		logs = append(logs, mirror.LogConfig{FirstIndex: l.FirstIndex, Frozen: frozen, Origin: l.Origin, FormerOrigins: l.FormerOrigins, VKey: key, FormerKeys: former, Scope: l.Scope, Records: l.Records, Lookups: l.Lookups, Source: l.Source, Layout: l.Layout, MaxAge: time.Duration(l.MaxAge), Trust: l.Trust, Stale: l.Stale.thresholds()})
	}
	return logs, nil
}

// frozen is where the shard stopped, nil where none is pinned.
func (l MirrorLog) frozen() (*parcel.State, error) {
	if l.Frozen == nil {
		return nil, nil
	}
	root, err := hex.DecodeString(l.Frozen.Root)
	if err != nil {
		return nil, fmt.Errorf("frozen.root: %w", err)
	}
	return &parcel.State{Size: l.Frozen.Size, Root: root}, nil
}

// verifierLine is verifierLine for a key of the log.
func (l MirrorLog) verifierLine(key string) (string, error) {
	block, _ := pem.Decode([]byte(key))
	if block == nil || l.Layout != "static-ct" {
		return verifierLine(l.Origin, key)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", err
	}
	return parcel.CTVerifierKey(l.Origin, public)
}

// verifierLine turns PEM text into a C2SP note verifier line for a log; a line passes as it is. A Rekor v1 log signs under the name of
// its host, which its origin begins with.
func verifierLine(origin, key string) (string, error) {
	block, _ := pem.Decode([]byte(key))
	if block == nil {
		return strings.TrimSpace(key), nil
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return "", err
	}
	name, _, _ := strings.Cut(origin, " - ")
	return parcel.VerifierKey(name, public)
}

// exportArgs are what `mirror export` asks for.
type exportArgs struct {
	Out        string `json:"out"`
	VolumeSize int64  `json:"volumeSize"`
	Refresh    bool   `json:"refresh"`
	Again      uint64 `json:"again,omitempty"` // make this parcel once more instead
	// Unacknowledged makes every parcel once more that not every receiver acknowledged, before the new one.
	Unacknowledged bool     `json:"unacknowledged,omitempty"`
	Announce       []string `json:"announce,omitempty"` // verifier keys that may sign from the next parcel on
	Retire         []string `json:"retire,omitempty"`   // ids of those that may not
}

var mirrorPull = verb[struct{}, mirror.PullReport]{"mirror.pull", func(ctx context.Context, in *instance, _ string, _ struct{}) (mirror.PullReport, error) {
	for _, l := range in.cfg.Mirror.Logs {
		if l.Source == "" {
			return mirror.PullReport{}, cmdline.Hinted(fmt.Errorf("mirror.logs: %s has no source to be pulled from", l.Origin), "set mirror.logs[].source of %s to the URL or folder it is read at", l.Origin)
		}
	}
	e, err := in.exporter(ctx)
	if err != nil {
		return mirror.PullReport{}, err
	}
	defer e.Close()
	defer in.transfer.clear()
	report, err := e.Pull(ctx)
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

var mirrorExport = verb[exportArgs, mirror.Packed]{"mirror.export", func(ctx context.Context, in *instance, actor string, a exportArgs) (mirror.Packed, error) {
	e, err := in.exporter(ctx)
	if err != nil {
		return mirror.Packed{}, err
	}
	defer e.Close()
	defer in.transfer.clear()
	if err := in.record(ctx, actor, "mirror.export", in.cfg.exportStream(), map[string]string{"out": a.Out}); err != nil {
		return mirror.Packed{}, err
	}
	if a.Again > 0 {
		packed, err := e.ExportAgain(ctx, a.Again, a.Out)
		return packed, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	export := e.Export
	if a.Unacknowledged {
		export = e.ExportUnacknowledged
	}
	packed, err := export(ctx, mirror.ExportOptions{Out: a.Out, VolumeSize: a.VolumeSize, Refresh: a.Refresh, Announce: a.Announce, Retire: a.Retire})
	return packed, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// importArgs are what `mirror import` asks for.
type importArgs struct {
	Paths  []string `json:"paths"`
	Medium string   `json:"medium,omitempty"` // what is written on the medium
	DryRun bool     `json:"dryRun,omitempty"`
	Resume bool     `json:"resume,omitempty"`
}

var mirrorImport = verb[importArgs, mirror.Report]{"mirror.import", func(ctx context.Context, in *instance, actor string, a importArgs) (mirror.Report, error) {
	m, err := in.inside()
	if err != nil {
		return mirror.Report{}, err
	}
	act, take := "mirror.import", func() (mirror.Report, error) { return m.ImportMedium(ctx, actor, a.Medium, a.Paths) }
	switch {
	case a.DryRun:
		act, take = "mirror.rehearse", func() (mirror.Report, error) { return m.Rehearse(ctx, a.Paths) }
	case a.Resume && len(a.Paths) == 0:
		take = func() (mirror.Report, error) { return m.Resume(ctx) }
	}
	if err := in.record(ctx, actor, act, in.cfg.Mirror.Stream, map[string]string{"volumes": strings.Join(a.Paths, " ")}); err != nil {
		return mirror.Report{}, err
	}
	defer in.transfer.clear()
	report, err := take()
	if perr := in.publishMirroredTrust(ctx); perr != nil { // the import stands; a server tries again by itself
		in.logger.Error("serving carried roots of trust", "error", perr)
	}
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// clockResult is the JSON of `redoubt mirror accept-clock -o json`.
type clockResult struct {
	Was time.Time `json:"was"`
	Now time.Time `json:"now"`
}

var mirrorAcceptClock = verb[struct{}, clockResult]{"mirror.accept-clock", func(ctx context.Context, in *instance, actor string, _ struct{}) (clockResult, error) {
	m, err := in.inside()
	if err != nil {
		return clockResult{}, err
	}
	if err := in.record(ctx, actor, "mirror.accept-clock", in.cfg.Mirror.Stream, nil); err != nil {
		return clockResult{}, err
	}
	was, now, err := m.AcceptClock(ctx)
	return clockResult{was, now}, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// inside returns the inside end, or says that there is none.
func (in *instance) inside() (*mirror.Mirror, error) {
	if in.mirror == nil {
		return nil, cmdline.Hinted(errNoStream, "set mirror.stream, mirror.exporters and mirror.logs; `redoubt docs config` explains them")
	}
	return in.mirror, nil
}

// keyLine is the JSON of `redoubt mirror key -o json`.
type keyLine struct {
	Stream string `json:"stream"`
	Key    string `json:"key"` // C2SP note verifier line; goes into mirror.exporters inside
}

var mirrorKey = verb[bool, keyLine]{"mirror.key", func(ctx context.Context, in *instance, _ string, reports bool) (keyLine, error) {
	key, err := in.keys.role(ctx, roleExporter)
	if err != nil {
		return keyLine{}, err
	}
	name, stream := in.cfg.exporterName(), in.cfg.exportStream()
	if reports {
		name, stream = in.cfg.mirrorName(), in.cfg.Mirror.Stream
	}
	line, err := parcel.VerifierKey(name, key.Public())
	return keyLine{stream, line}, err
}}

// absolute makes operands absolute, because the server that will read them has another working directory.
func absolute(paths []string) (out []string, err error) {
	for _, p := range paths {
		if p, err = filepath.Abs(p); err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	return out, nil
}

var mirrorStatus = verb[struct{}, mirror.Status]{"mirror.status", func(ctx context.Context, in *instance, _ string, _ struct{}) (mirror.Status, error) {
	outside, err := in.outside(ctx)
	if err != nil {
		return mirror.Status{}, err
	}
	if in.mirror == nil && outside != nil {
		return mirror.Status{Missing: []mirror.Range{}, Logs: []mirror.LogStatus{}, Outside: outside}, nil
	}
	m, err := in.inside()
	if err != nil {
		return mirror.Status{}, err
	}
	s, err := m.Status(ctx)
	s.Outside = outside
	return s, err
}}

// reconcileResult is the JSON of `redoubt mirror reconcile -o json`.
type reconcileResult struct {
	Report  *mirror.ReconcileReport `json:"report"`
	Note    string                  `json:"note"`              // the report as a signed C2SP note
	File    string                  `json:"file"`              // where the server keeps it
	Key     string                  `json:"key"`               // the verifier line of the note
	Spool   mirror.SpoolReport      `json:"spool"`             // what verifications left since the last time
	Finding string                  `json:"finding,omitempty"` // the gravest findings, "" when all is well
	Code    int                     `json:"code"`              // exit code of the finding
}

var mirrorReconcile = verb[bool, reconcileResult]{"mirror.reconcile", func(ctx context.Context, in *instance, _ string, everything bool) (reconcileResult, error) {
	m, err := in.inside()
	if err != nil {
		return reconcileResult{}, err
	}
	seen := in.observeSpool(ctx)
	reconcile := m.Reconcile
	if everything {
		reconcile = m.ReconcileAll
	}
	report, err := reconcile(ctx)
	if err != nil {
		return reconcileResult{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	r, err := in.keepReport(report)
	r.Spool = seen
	return r, err
}}

// keepReport stores a signed report in mirror/reports under its time.
func (in *instance) keepReport(report *mirror.ReconcileReport) (reconcileResult, error) {
	r := reconcileResult{Report: report, Note: string(report.Note), File: in.dir.path("mirror", "reports", report.Time.UTC().Format("20060102T150405Z")+".note")}
	if err := os.MkdirAll(filepath.Dir(r.File), 0o700); err != nil {
		return r, err
	}
	if err := writeFileAtomic(r.File, report.Note, 0o644); err != nil {
		return r, fmt.Errorf("keeping the report: %w", err)
	}
	if err := report.Err(); err != nil {
		r.Finding, r.Code = err.Error(), mirror.ExitCode(err)
	}
	var err error
	r.Key, err = parcel.VerifierKey(in.cfg.mirrorName(), in.roleKeys[roleExporter].Public())
	return r, err
}

// reconcileEvery reconciles at the configured interval until ctx ends.
func (in *instance) reconcileEvery(ctx context.Context) {
	every := time.Duration(in.cfg.Mirror.Interval)
	if in.mirror == nil || every == 0 {
		return
	}
	err := in.mirror.Run(ctx, every, func(report *mirror.ReconcileReport) {
		if _, err := in.keepReport(report); err != nil {
			in.logger.Error("keeping a reconcile report", "error", err)
		}
	})
	if err != nil {
		in.logger.Error("reconciling", "error", err)
	}
}
