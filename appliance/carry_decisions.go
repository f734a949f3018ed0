package main

import (
	"context"
	"fmt"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/store"
	"redoubt.internal/mirror"
)

// What several people decide about the mirror: how a log that showed two histories goes on, and what leaves quarantine.

// unfreezeArgs are what `mirror unfreeze` asks for.
type unfreezeArgs struct {
	Origin  string `json:"origin"`
	Outside bool   `json:"outside,omitempty"` // the exporter's log, not the mirror's
	mirror.Resolution
	approvalArgs
}

// unfreezable is the end of the gap a log is unfrozen at.
type unfreezable struct {
	text   func(string, mirror.Resolution) ([]string, error)
	settle func(context.Context, string, mirror.Resolution, []string, []string, func(store.Tx) error) (mirror.Settled, error)
	close  func()
}

func (in *instance) unfreezable(ctx context.Context, outside bool) (unfreezable, error) {
	if outside {
		e, err := in.exporter(ctx)
		if err != nil {
			return unfreezable{}, err
		}
		return unfreezable{e.UnfreezeText, e.Unfreeze, func() { e.Close() }}, nil
	}
	m, err := in.inside()
	if err != nil {
		return unfreezable{}, err
	}
	return unfreezable{m.UnfreezeText, m.Unfreeze, func() {}}, nil
}

var mirrorUnfreeze = verb[unfreezeArgs, mirror.Settled]{"mirror.unfreeze", func(ctx context.Context, in *instance, actor string, a unfreezeArgs) (mirror.Settled, error) {
	var none mirror.Settled
	end, err := in.unfreezable(ctx, a.Outside)
	if err != nil {
		return none, err
	}
	defer end.close()
	lines, err := end.text(a.Origin, a.Resolution)
	if err != nil {
		return none, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	kind := "mirror.unfreeze"
	if a.Outside {
		kind = "mirror.unfreeze-outside"
	}
	agreed, err := in.consent(ctx, actor, kind, lines, a.approvalArgs)
	if err != nil {
		return none, err
	}
	settled, err := end.settle(ctx, a.Origin, a.Resolution, lines, agreed.by, agreed.spend)
	if err != nil {
		return none, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	return settled, agreed.done()
}}

// releaseArgs are what `mirror quarantine release` asks for.
type releaseArgs struct {
	Origin string `json:"origin"`
	Key    string `json:"key,omitempty"` // of the log, as people know it: PEM, or a C2SP note verifier line
	approvalArgs
}

// releaseResult is the JSON of `redoubt mirror quarantine release -o json`.
type releaseResult struct {
	Origin string                `json:"origin"`
	By     []string              `json:"approved_by"`
	Steps  []mirror.TransferStep `json:"steps"` // what was taken in, parcel after parcel
}

var mirrorRelease = verb[releaseArgs, releaseResult]{"mirror.release", func(ctx context.Context, in *instance, actor string, a releaseArgs) (releaseResult, error) {
	out := releaseResult{Origin: a.Origin, By: []string{}, Steps: []mirror.TransferStep{}}
	m, err := in.inside()
	if err != nil {
		return out, err
	}
	vkey := ""
	if a.Key != "" {
		if vkey, err = verifierLine(a.Origin, a.Key); err != nil {
			return out, cmdline.Usage("--key: %v", err)
		}
	}
	lines, err := m.ReleaseText(ctx, a.Origin, vkey)
	if err != nil {
		return out, cmdline.Hinted(cmdline.WithCode(mirror.ExitCode(err), err), "a log becomes known through an imported trusted root, through mirror.logs, or by --key and the word of the approvers")
	}
	agreed, err := in.consent(ctx, actor, "mirror.release", lines, a.approvalArgs)
	if err != nil {
		return out, err
	}
	out.By = agreed.by
	steps, err := m.ReleaseAgreed(ctx, a.Origin, vkey, lines, agreed.by, agreed.spend)
	out.Steps = append(out.Steps, steps...)
	if err != nil {
		return out, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	return out, agreed.done()
}}

var mirrorQuarantine = verb[struct{}, []mirror.Quarantined]{"mirror.quarantine", func(_ context.Context, in *instance, _ string, _ struct{}) ([]mirror.Quarantined, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Quarantine()
}}

var mirrorQuarantineOf = verb[string, []mirror.QuarantineFiles]{"mirror.quarantine.show", func(ctx context.Context, in *instance, _ string, origin string) ([]mirror.QuarantineFiles, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	files, err := m.QuarantineOf(ctx, origin)
	return files, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// evidenceResult is the JSON of `redoubt mirror evidence list -o json`.
type evidenceResult struct {
	Files   []mirror.EvidenceFile `json:"files"`
	Settled []mirror.Settled      `json:"settled"` // conflicts that people decided about
}

var mirrorEvidence = verb[bool, evidenceResult]{"mirror.evidence", func(ctx context.Context, in *instance, _ string, outside bool) (evidenceResult, error) {
	r := evidenceResult{Settled: []mirror.Settled{}}
	if outside {
		e, err := in.exporter(ctx)
		if err != nil {
			return r, err
		}
		defer e.Close()
		r.Files, err = e.Evidence()
		return r, err
	}
	m, err := in.inside()
	if err != nil {
		return r, err
	}
	if r.Settled, err = m.Conflicts(); err != nil {
		return r, err
	}
	r.Files, err = m.Evidence()
	return r, err
}}

// evidenceText is one file of evidence with what it holds.
type evidenceText struct {
	mirror.EvidenceFile
	Text string `json:"text"` // the file, as others can verify it with `redoubt mirror evidence FILE --key KEY`
}

var mirrorEvidenceShow = verb[string, evidenceText]{"mirror.evidence.show", func(ctx context.Context, in *instance, _ string, name string) (evidenceText, error) {
	m, err := in.inside()
	if err != nil {
		return evidenceText{}, err
	}
	all, err := m.Evidence()
	if err != nil {
		return evidenceText{}, err
	}
	for _, f := range all {
		if f.Name == name || "evidence/"+name == f.Name || f.SHA256 == name {
			return evidenceText{f, string(f.Data)}, nil
		}
	}
	return evidenceText{}, cmdline.Hinted(fmt.Errorf("%w: evidence %q", mirror.ErrNotFound, name), "`redoubt mirror evidence list` names the files")
}}
