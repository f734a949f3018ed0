package mirror

import (
	"context"
	"errors"
	"fmt"
	"math/bits"
	"net/url"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// PlanReport says what the next pull would ask of whom, and what other scopes would. Its JSON form is stable.
type PlanReport struct {
	Logs   []PlanStep  `json:"logs"`
	Images []PlanImage `json:"images,omitempty"`
}

// PlanImage is an image of which the next pull would gather what vouches for it.
type PlanImage struct {
	Reference string `json:"reference"`
	Digest    string `json:"digest,omitempty"` // what it stands for now
	Host      string `json:"host"`             // who is asked, and learns the name; empty for a layout
	Known     bool   `json:"known"`            // something of it was gathered before
	Entries   int    `json:"entries"`          // log entries that what was gathered before names
	Error     string `json:"error,omitempty"`
}

// PlanStep is what the next pull would do for one log.
type PlanStep struct {
	Origin    string     `json:"origin"`
	Host      string     `json:"host"` // who is asked; empty for a folder
	Scope     string     `json:"scope"`
	From      uint64     `json:"from"`
	To        uint64     `json:"to"`
	Asks      []string   `json:"asks"`              // what is asked
	Reveals   []string   `json:"reveals,omitempty"` // what the answers' operator learns of the enclave's interests
	Estimates []Estimate `json:"estimates"`
	Error     string     `json:"error,omitempty"`
}

// Estimate is about how much a scope would take, from the state collected to the log's head.
type Estimate struct {
	Scope    string `json:"scope"`
	Entries  uint64 `json:"entries"`  // carried
	Requests uint64 `json:"requests"` // to the log's server
	Fetched  uint64 `json:"fetched"`  // bytes from it
	Carried  uint64 `json:"carried"`  // bytes across the gap, before compression
	Possible bool   `json:"possible"` // with the log's layout
}

// Means of the public Rekor log, in bytes: of a body, and of what stands beside it.
const (
	meanEntry = 2100
	meanExtra = 300
)

// Plan asks every log for its head, and the registries what digests tags stand for, and nothing else, and says what a pull would take.
// Who does not answer is named in its step; nothing is kept.
func (e *Exporter) Plan(ctx context.Context) (PlanReport, error) {
	report := PlanReport{Logs: []PlanStep{}}
	s, err := e.state()
	if err != nil {
		return report, err
	}
	var errs []error
	for _, origin := range sortedKeys(e.logs) {
		log := e.logs[origin]
		step := PlanStep{Origin: origin, Scope: log.Scope, From: s.head(s.collected, origin).Size, Asks: []string{}, Estimates: []Estimate{}}
		if u, err := url.Parse(log.Source); err == nil && u.Scheme != "file" {
			step.Host = u.Host
		}
		to, err := e.newest(ctx, log)
		if err != nil {
			step.Error = oneLine(err)
			errs = append(errs, err)
			report.Logs = append(report.Logs, step)
			continue
		}
		step.To = to.Size
		if err := e.describe(log, &step); err != nil {
			return report, err
		}
		report.Logs = append(report.Logs, step)
	}
	report.Images, err = e.planImages(ctx)
	return report, errors.Join(append(errs, err)...)
}

// planImages resolves the images.
func (e *Exporter) planImages(ctx context.Context) (out []PlanImage, err error) {
	var errs []error
	for _, c := range e.c.Images {
		src, refs, err := c.open(e.c.Network)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, ref := range refs {
			p := PlanImage{Reference: ref.String()}
			if c.Layout == "" {
				p.Host = c.Registry.Host
			}
			if p.Digest, err = src.Resolve(ctx, ref); err == nil {
				var held imageState
				err = e.c.DB.View(func(tx store.Tx) error {
					p.Known, err = get(tx, imageKey(keyImageOut, images.Image{Reference: p.Reference, Digest: p.Digest}), &held)
					return err
				})
				p.Entries = len(held.Image.Entries)
			}
			if err = imageErr(err); err != nil {
				p.Error = oneLine(err)
				errs = append(errs, err)
			}
			out = append(out, p)
		}
		src.Close()
	}
	return out, errors.Join(errs...)
}

// newest reads and verifies the log's newest checkpoint.
func (e *Exporter) newest(ctx context.Context, log *knownLog) (Checkpoint, error) {
	var note []byte
	if log.Layout == layoutRekor1 {
		s, err := openRekor1(log, e.c.Network)
		if err != nil {
			return Checkpoint{}, err
		}
		if note, err = s.head(ctx); err != nil {
			return Checkpoint{}, remoteErr("reading the checkpoint", err)
		}
	} else {
		src, err := openSource(log.Source, log.Layout, e.c.Network, nil)
		if err != nil {
			return Checkpoint{}, err
		}
		if note, err = src.Checkpoint(ctx); err != nil {
			return Checkpoint{}, remoteErr("reading the checkpoint", err)
		}
	}
	return log.open(note)
}

// describe fills in what is asked, what that reveals, and what each scope takes.
func (e *Exporter) describe(log *knownLog, p *PlanStep) error {
	sel, api := log.selected, log.Layout == layoutRekor1
	ask := func(format string, a ...any) { p.Asks = append(p.Asks, fmt.Sprintf(format, a...)) }
	reveal := func(format string, a ...any) { p.Reveals = append(p.Reveals, fmt.Sprintf(format, a...)) }
	numbers := len(log.Records) + len(sel.Indexes)
	lookups := len(log.Lookups) + len(sel.Modules)
	switch {
	case log.Scope == parcel.ScopeFull:
		ask("every entry from %d to %d", p.From, p.To)
	case log.Scope == parcel.ScopeSpine:
		ask("hash tiles from %d to %d, no entry", p.From, p.To)
	default:
		ask("the proof of the step from %d to %d", p.From, p.To)
		if n := len(sel.Digests) + len(sel.Identities); api && n > 0 {
			ask("%d searches", n)
			reveal("%d digests or names, each as it is", n)
		} else if sel.byContent() {
			ask("every entry not looked through yet; they are looked through here and not carried")
		}
		if numbers > 0 {
			ask("%d entries by number, and %d others with each", numbers, sel.Pad)
			if p.Host != "" && sel.Pad == 0 && (api || !sel.byContent()) {
				reveal("%d entries by number", numbers)
			}
		}
		if lookups > 0 {
			ask("%d modules", lookups)
			if p.Host != "" {
				reveal("%d modules by name", lookups)
			}
		}
	}
	before := scanned{}
	if err := e.readScanned(log.Origin, &before); err != nil {
		return err
	}
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine} {
		p.Estimates = append(p.Estimates, log.estimate(scope, p.From, p.To, before.Size))
	}
	return nil
}

// estimate reckons what a scope takes from one size to another.
func (l *knownLog) estimate(scope string, from, to, scanned uint64) Estimate {
	entries, entry := to-min(from, to), uint64(meanEntry)
	if l.extras() {
		entry += meanExtra
	}
	height := uint64(bits.Len64(to))
	spineTiles, spineBytes := entries>>16+2*(tiles.MaxLevel+1), entries>>8*tiles.HashSize+height*tiles.HashSize
	bundles := func(n uint64) uint64 { return n/tiles.Width + 1 }
	e := Estimate{Scope: scope, Possible: true}
	api, sumdb := l.Layout == layoutRekor1, l.Layout == "sumdb"
	switch scope {
	case parcel.ScopeFull:
		e.Entries, e.Carried, e.Possible = entries, entries*entry+spineBytes, !sumdb
		e.Requests, e.Fetched = 1+bundles(entries)+spineTiles, e.Carried
		if api {
			e.Requests, e.Fetched = 2+entries/perCall+1, entries*(entry*4/3+height*70+600)
		}
	case parcel.ScopeSpine:
		e.Possible = !api
		e.Requests, e.Fetched, e.Carried = 1+spineTiles, spineTiles*tiles.Width*tiles.HashSize, spineBytes
	default:
		n := uint64(len(l.Records)+len(l.selected.Indexes)+len(l.selected.Digests)+len(l.Lookups)+len(l.selected.Modules)) * uint64(1+l.selected.Pad)
		e.Entries, e.Carried = n, n*(entry+height*tiles.HashSize)+height*tiles.HashSize
		e.Requests = 1 + n*(1+height/8) + height/8
		e.Fetched = n*(tiles.Width*entry+height/8*tiles.Width*tiles.HashSize) + height/8*tiles.Width*tiles.HashSize
		if l.selected.byContent() && !api {
			all := to - min(scanned, to)
			e.Requests, e.Fetched = 1+bundles(all)+all>>16+height/8, all*entry+height/8*tiles.Width*tiles.HashSize
		}
		if api {
			e.Requests, e.Fetched = 4+uint64(len(l.selected.Digests)+len(l.selected.Identities))+2*n/perCall, (n+1)*(entry*4/3+height*70+600)
		}
	}
	return e
}
