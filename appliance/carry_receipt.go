package main

import (
	"context"
	"fmt"
	"strings"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
)

// outboundArgs are what a verb asks with that lets something out of an enclave.
type outboundArgs struct {
	Preview bool `json:"preview,omitempty"` // show the text; nothing is signed and nobody is asked
	approvalArgs
}

// receiptResult is the JSON of `redoubt mirror receipt -o json` and `redoubt mirror heads -o json`.
type receiptResult struct {
	Statement  *mirror.Statement `json:"statement"`
	Text       string            `json:"text"`                 // what is signed, octet by octet
	SHA256     string            `json:"sha256"`               // of the text
	Note       string            `json:"note,omitempty"`       // the text signed; left out in a preview
	Whole      string            `json:"whole,omitempty"`      // where the receipt does not hold all heads: the signed list that does
	File       string            `json:"file,omitempty"`       // of `mirror heads`: what other enclaves compare
	Uncosigned string            `json:"uncosigned,omitempty"` // why no copy is cosigned
	Approved   []string          `json:"approved,omitempty"`   // who let it out
}

var mirrorReceipt = verb[outboundArgs, receiptResult]{"mirror.receipt", func(ctx context.Context, in *instance, actor string, a outboundArgs) (receiptResult, error) {
	m, err := in.inside()
	if err != nil {
		return receiptResult{}, err
	}
	o, err := m.Receipt()
	if err != nil {
		return receiptResult{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	r, c, err := in.letOut(ctx, actor, "mirror.receipt", o, a)
	if err != nil || a.Preview {
		return r, err
	}
	signed, whole, err := m.Sign(o)
	if err != nil {
		return r, fmt.Errorf("signing the receipt: %w", err)
	}
	r.Note, r.Whole = string(signed), string(whole)
	return r, c.released()
}}

var mirrorHeads = verb[outboundArgs, receiptResult]{"mirror.heads", func(ctx context.Context, in *instance, actor string, a outboundArgs) (receiptResult, error) {
	m, err := in.inside()
	if err != nil {
		return receiptResult{}, err
	}
	o, err := m.Heads()
	if err != nil {
		return receiptResult{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	r, c, err := in.letOut(ctx, actor, "mirror.heads", o, a)
	if err != nil || a.Preview {
		return r, err
	}
	file, err := m.HeadsFile(o)
	if err != nil {
		return r, fmt.Errorf("signing the heads: %w", err)
	}
	r.File = string(file)
	return r, c.released()
}}

// letOut shows what is about to leave the enclave and, where the configuration asks for it, demands that people approved just that.
// It is recorded before it is signed.
func (in *instance) letOut(ctx context.Context, actor, action string, o *mirror.Outbound, a outboundArgs) (receiptResult, consent, error) {
	text := o.Statement.Text()
	r := receiptResult{Statement: o.Statement, Text: string(text), SHA256: parcel.Sum(text).String(), Uncosigned: o.Uncosigned}
	if a.Preview {
		return r, consent{}, nil
	}
	var c consent
	if in.cfg.Mirror.OutboundApprovals > 0 {
		var err error
		if c, err = in.consent(ctx, actor, "mirror.outbound", outboundLines(o), a.approvalArgs); err != nil {
			return r, c, err
		}
		r.Approved = c.by
	}
	return r, c, in.record(ctx, actor, action, r.SHA256, map[string]string{"sequence": fmt.Sprint(o.Statement.Sequence), "approved": strings.Join(c.by, " ")})
}

// outboundLines are what people look at: every line that leaves.
func outboundLines(o *mirror.Outbound) (lines []string) {
	texts := []*mirror.Statement{o.Statement}
	if o.Whole != nil {
		texts = append(texts, o.Whole)
	}
	for _, s := range texts {
		for l := range strings.Lines(string(s.Text())) {
			lines = append(lines, approval.Value(strings.TrimSuffix(l, "\n")))
		}
	}
	return lines
}

// released takes the proposal of what left off the list of those that wait. The same text may leave again with the same approvals.
func (c consent) released() error {
	if c.in == nil {
		return nil
	}
	return c.done()
}

// receiptArgs are what `mirror receipt read` and `mirror compare` hand over.
type receiptArgs struct {
	Data   []byte `json:"data"`
	Whole  []byte `json:"whole,omitempty"`
	Source string `json:"source"` // the file's name, for the record
}

var mirrorReceiptRead = verb[receiptArgs, mirror.ReceiptReport]{"mirror.receipt.read", func(ctx context.Context, in *instance, actor string, a receiptArgs) (mirror.ReceiptReport, error) {
	e, err := in.exporter(ctx)
	if err != nil {
		return mirror.ReceiptReport{}, err
	}
	defer e.Close()
	if err := in.record(ctx, actor, "mirror.receipt.read", parcel.Sum(a.Data).String(), map[string]string{"source": a.Source}); err != nil {
		return mirror.ReceiptReport{}, err
	}
	report, err := e.ReadReceipt(ctx, a.Data, a.Whole)
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

var mirrorCompare = verb[receiptArgs, mirror.Comparison]{"mirror.compare", func(ctx context.Context, in *instance, actor string, a receiptArgs) (mirror.Comparison, error) {
	m, err := in.inside()
	if err != nil {
		return mirror.Comparison{}, err
	}
	if err := in.record(ctx, actor, "mirror.compare", parcel.Sum(a.Data).String(), map[string]string{"source": a.Source}); err != nil {
		return mirror.Comparison{}, err
	}
	report, err := m.Compare(ctx, a.Data, a.Source)
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

var mirrorObserved = verb[struct{}, []mirror.Sighting]{"mirror.observed", func(_ context.Context, in *instance, _ string, _ struct{}) ([]mirror.Sighting, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Sightings()
}}

// collects tells whether this instance is an outside: it has a log to pull.
func (m Mirror) collects() bool {
	for _, l := range m.Logs {
		if l.Source != "" {
			return true
		}
	}
	return false
}

// outside is the status of the outside end, nil where there is none.
func (in *instance) outside(ctx context.Context) (*mirror.ExporterStatus, error) {
	if !in.cfg.Mirror.collects() {
		return nil, nil
	}
	e, err := in.exporter(ctx)
	if err != nil {
		return nil, err
	}
	defer e.Close()
	s, err := e.Status()
	return &s, err
}
