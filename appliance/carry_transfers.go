package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/approval"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/diode"
)

// What arrives by itself: the inbox the running server looks at, and shards from a diode; and the keys whose parcels are taken.

var (
	errNoInbox    = errors.New("no inbox is configured")
	errNotAnInbox = errors.New("the inbox is no folder that can be read")
	errMovedOn    = errors.New("the mirror stands elsewhere now")
)

// inboxes is what looks at folders share. A receiver stays open from its first use to the end of the process: it remembers what it has
// read.
type inboxes struct {
	mu       sync.Mutex // one look at a time
	receiver *diode.Receiver
}

var mirrorMedia = verb[struct{}, []mirror.Medium]{"mirror.media", func(_ context.Context, in *instance, _ string, _ struct{}) ([]mirror.Medium, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Media()
}}

// lookArgs are those of `redoubt mirror import --inbox` and `redoubt mirror receive`.
type lookArgs struct {
	Dir   string        `json:"dir,omitempty"` // "" is the configured inbox
	Diode bool          `json:"diode,omitempty"`
	Sweep bool          `json:"sweep,omitempty"`
	Older time.Duration `json:"older,omitempty"`
}

var mirrorLook = verb[lookArgs, mirror.InboxReport]{"mirror.look", func(ctx context.Context, in *instance, actor string, a lookArgs) (mirror.InboxReport, error) {
	if _, err := in.inside(); err != nil {
		return mirror.InboxReport{}, err
	}
	box := in.cfg.Mirror.Inbox
	if a.Dir != "" {
		box = &MirrorInbox{Dir: a.Dir, Diode: a.Diode, Sweep: a.Sweep, SweepAge: Duration(a.Older)}
		if own := in.cfg.Mirror.Inbox; own != nil {
			box.Quota = own.Quota
		}
	}
	if box == nil {
		return mirror.InboxReport{}, cmdline.Hinted(errNoInbox, "set mirror.inbox.dir; `redoubt docs config` explains it")
	}
	defer in.transfer.clear()
	report, err := in.lookAt(ctx, *box, actor)
	return report, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// lookAt looks at an inbox once.
func (in *instance) lookAt(ctx context.Context, box MirrorInbox, who string) (mirror.InboxReport, error) {
	in.inboxes.mu.Lock()
	defer in.inboxes.mu.Unlock()
	dir := in.dir.resolve(box.Dir)
	if st, err := os.Stat(dir); err != nil || !st.IsDir() {
		return mirror.InboxReport{}, fmt.Errorf("%w: %s", errNotAnInbox, dir)
	}
	c := mirror.Inbox{
		Dir: dir, Settle: time.Duration(box.Settle), Done: in.dir.resolve(box.Done), Sweep: box.Sweep, SweepAge: time.Duration(box.SweepAge), Who: who,
	}
	if box.Diode {
		if in.inboxes.receiver == nil {
			r, err := diode.Open(in.dir.path("mirror", "received"), box.Quota)
			if err != nil {
				return mirror.InboxReport{}, err
			}
			in.inboxes.receiver = r
			in.onClose(func() { r.Close() })
		}
		c.Receiver = in.inboxes.receiver
	}
	return in.mirror.Look(ctx, c)
}

// lookEvery looks at the inbox at the configured interval until ctx ends.
func (in *instance) lookEvery(ctx context.Context) {
	box := in.cfg.Mirror.Inbox
	if in.mirror == nil || box == nil || box.Every == 0 {
		return
	}
	tick := time.NewTicker(time.Duration(box.Every))
	defer tick.Stop()
	said := ""
	for {
		report, err := in.lookAt(ctx, *box, "inbox")
		in.transfer.clear()
		for _, t := range report.Transfers {
			in.logger.InfoContext(ctx, "taken from the inbox", "sequence", t.Sequence, "outcome", t.Outcome)
		}
		switch {
		case ctx.Err() != nil:
			return
		case err == nil, errors.Is(err, mirror.ErrNothing):
			said = ""
		case err.Error() != said: // the same trouble is told once
			said = err.Error()
			in.logger.ErrorContext(ctx, "looking at the inbox", "error", err, "code", mirror.ExitCode(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

var mirrorExporters = verb[struct{}, []mirror.ExporterStanding]{"mirror.exporters", func(ctx context.Context, in *instance, _ string, _ struct{}) ([]mirror.ExporterStanding, error) {
	m, err := in.inside()
	if err != nil {
		return nil, err
	}
	return m.Exporters(ctx)
}}

// announceArgs are those of `redoubt mirror exporter announce`.
type announceArgs struct {
	Key  string `json:"key"`
	Keep bool   `json:"keep,omitempty"` // the keys there are go on counting
}

// announced is the JSON of `redoubt mirror exporter announce -o json`.
type announced struct {
	Announcement mirror.Announcement `json:"announcement"`
	Text         string              `json:"text"` // the file
}

var mirrorAnnounce = verb[announceArgs, announced]{"mirror.announce", func(ctx context.Context, in *instance, _ string, a announceArgs) (announced, error) {
	m, err := in.inside()
	if err != nil {
		return announced{}, err
	}
	made, err := m.Announce(ctx, a.Key, !a.Keep)
	if err != nil {
		return announced{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	text, err := made.Text()
	return announced{made, string(text)}, err
}}

// acceptArgs are those of `redoubt mirror exporter accept`.
type acceptArgs struct {
	Text      []byte       `json:"text"` // the announcement
	Approvals approvalArgs `json:"approvals"`
}

var mirrorAcceptExporter = verb[acceptArgs, mirror.ExporterKey]{"mirror.accept-exporter", func(ctx context.Context, in *instance, actor string, a acceptArgs) (mirror.ExporterKey, error) {
	m, err := in.inside()
	if err != nil {
		return mirror.ExporterKey{}, err
	}
	made, err := mirror.ParseAnnouncement(a.Text)
	if err != nil {
		return mirror.ExporterKey{}, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	if now, err := m.Announce(ctx, made.Key, false); err != nil || now.Last.Sequence != made.Last.Sequence || !now.Last.Digest.Equal(made.Last.Digest) {
		err = errors.Join(err, fmt.Errorf("%w: %w; it is of parcel %d", mirror.ErrAnnouncement, errMovedOn, made.Last.Sequence))
		return mirror.ExporterKey{}, cmdline.WithCode(mirror.ExitCode(err), cmdline.Hinted(err, "`redoubt mirror exporter announce` draws up one of where the mirror stands now"))
	}
	lines := []string{
		"stream " + made.Stream, "key " + approval.Value(made.Key), fmt.Sprintf("after parcel %d", made.Last.Sequence), "whose digest is " + orDefault(made.Last.Digest.String(), "-"),
	}
	for _, id := range made.Retire {
		lines = append(lines, "retires "+approval.Value(id))
	}
	agreed, err := in.consent(ctx, actor, "mirror.exporter", lines, a.Approvals)
	if err != nil {
		return mirror.ExporterKey{}, err
	}
	k, err := m.AcceptExporter(ctx, made, agreed.by, agreed.act.Digest(), agreed.spend)
	if err != nil {
		return k, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	return k, agreed.done()
}}

var mirrorContinue = verb[[]byte, mirror.Announcement]{"mirror.continue", func(ctx context.Context, in *instance, actor string, text []byte) (mirror.Announcement, error) {
	made, err := mirror.ParseAnnouncement(text)
	if err != nil {
		return made, cmdline.WithCode(mirror.ExitCode(err), err)
	}
	e, err := in.exporter(ctx)
	if err != nil {
		return made, err
	}
	defer e.Close()
	if err := in.record(ctx, actor, "mirror.continue", in.cfg.exportStream(), map[string]string{"after": fmt.Sprint(made.Last.Sequence), "digest": made.Last.Digest.String()}); err != nil {
		return made, err
	}
	err = e.Continue(ctx, made)
	return made, cmdline.WithCode(mirror.ExitCode(err), err)
}}

// sendVolumes cuts volumes into shards; it needs no state.
func sendVolumes(ctx context.Context, s diode.Settings, operands []string) ([]diode.Sent, error) {
	var volumes []string
	for _, p := range operands {
		st, err := os.Stat(p)
		if err != nil {
			return nil, err
		}
		if !st.IsDir() {
			volumes = append(volumes, p)
			continue
		}
		found, err := filepath.Glob(filepath.Join(globEscape(p), "*.rdp"))
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, found...)
	}
	if len(volumes) == 0 {
		return nil, cmdline.WithCode(mirror.ExitCode(mirror.ErrNothing), mirror.ErrNothing)
	}
	sent, err := diode.Send(ctx, s, volumes)
	if errors.Is(err, diode.ErrFull) {
		err = cmdline.WithCode(mirror.ExitCode(mirror.ErrFull), err)
	}
	return sent, err
}
