package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/mirror"
)

// selected gives each log what the configuration, or else the picklist that was carried out of the enclave, selects of it.
func (m Mirror) selected(dir layout, logs []mirror.LogConfig) ([]mirror.LogConfig, error) {
	for i, l := range m.Logs {
		if l.Select == nil {
			continue
		}
		var err error
		if logs[i].Select, err = l.Select.read(dir, l.Origin); err != nil {
			return nil, fmt.Errorf("mirror.logs: %s: select: %w", l.Origin, err)
		}
	}
	p, err := m.picklist(dir)
	if err != nil || p == nil {
		return logs, err
	}
	if logs, err = p.Apply(logs); err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("mirror.picklist: %w", err), "add the log to mirror.logs")
	}
	return logs, nil
}

// picklist reads the picklist, nil when none is configured.
func (m Mirror) picklist(dir layout) (*mirror.Picklist, error) {
	if m.Picklist == "" {
		return nil, nil
	}
	text, err := os.ReadFile(dir.resolve(m.Picklist))
	if err != nil {
		return nil, fmt.Errorf("mirror.picklist: %w", err)
	}
	p, err := mirror.ParsePicklist(text)
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("mirror.picklist: %w", err), "it is the file that `redoubt mirror picklist --out` wrote inside, octet by octet")
	}
	return p, nil
}

// listed are the lines of a text but for empty ones and those that begin with #.
func listed(text []byte) (out []string) {
	for line := range strings.Lines(string(text)) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			out = append(out, line)
		}
	}
	return out
}

// read makes one selector of all that is named.
func (s MirrorSelect) read(dir layout, origin string) (out mirror.Select, err error) {
	out = mirror.Select{Digests: s.Digests, Identities: s.Identities, Issuers: s.Issuers, Pad: s.Pad}
	if s.DigestsFile != "" {
		text, err := os.ReadFile(dir.resolve(s.DigestsFile))
		if err != nil {
			return out, err
		}
		out.Digests = append(out.Digests, listed(text)...)
	}
	for _, p := range s.Purls {
		if err := out.AddPurl(p); err != nil {
			return out, err
		}
	}
	var paths []string
	for _, b := range s.Bundles {
		paths = append(paths, dir.resolve(b))
	}
	named, unnamed, err := mirror.ReadBundles(paths...)
	if err != nil {
		return out, err
	}
	if out.Indexes = named[origin]; len(paths) > 0 && len(out.Indexes) == 0 {
		return out, fmt.Errorf("the bundles name no entry of this log (%d entries name no log)", unnamed)
	}
	return out, nil
}

var mirrorPlan = verb[struct{}, mirror.PlanReport]{"mirror.plan", func(ctx context.Context, in *instance, _ string, _ struct{}) (mirror.PlanReport, error) {
	e, err := in.exporter(ctx)
	if err != nil {
		return mirror.PlanReport{}, err
	}
	defer e.Close()
	report, err := e.Plan(ctx)
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// picklistResult is the JSON of `redoubt mirror picklist -o json`.
type picklistResult struct {
	Text     string   `json:"text"`               // what leaves, octet by octet
	SHA256   string   `json:"sha256"`             // of the text
	Logs     int      `json:"logs"`               // it selects something of so many logs
	Images   int      `json:"images"`             // and names so many images
	Approved []string `json:"approved,omitempty"` // who let it out
}

var mirrorPicklist = verb[outboundArgs, picklistResult]{"mirror.picklist", func(ctx context.Context, in *instance, actor string, a outboundArgs) (picklistResult, error) {
	logs, err := in.cfg.Mirror.logs()
	if err != nil {
		return picklistResult{}, err
	}
	if logs, err = in.cfg.Mirror.selected(in.dir, logs); err != nil {
		return picklistResult{}, err
	}
	refs, err := in.cfg.Mirror.references(in.dir)
	if err != nil {
		return picklistResult{}, err
	}
	p, err := mirror.NewPicklist(in.cfg.Domain, logs, refs)
	if err != nil {
		return picklistResult{}, cmdline.Hinted(cmdline.WithCode(mirror.ExitCode(err), err), "mirror.logs[].select says what is wanted of a log, mirror.images of what images; `redoubt docs config` explains them")
	}
	r := picklistResult{Text: string(p.Text()), SHA256: p.Digest(), Logs: len(p.Logs), Images: len(p.Images)}
	if a.Preview {
		return r, nil
	}
	var c consent
	if in.cfg.Mirror.OutboundApprovals > 0 {
		var lines []string
		for l := range strings.Lines(r.Text) {
			lines = append(lines, approval.Value(strings.TrimSuffix(l, "\n")))
		}
		if c, err = in.consent(ctx, actor, "mirror.outbound", lines, a.approvalArgs); err != nil {
			return picklistResult{}, err
		}
		r.Approved = c.by
	}
	if err := in.record(ctx, actor, "mirror.picklist", r.SHA256, map[string]string{"logs": fmt.Sprint(r.Logs), "images": fmt.Sprint(r.Images), "approved": strings.Join(c.by, " ")}); err != nil {
		return picklistResult{}, err
	}
	return r, c.released()
}}
