package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"runtime"
	"sync"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// PullReport says what a pull collected. Its JSON form is stable.
type PullReport struct {
	Logs []PullStep `json:"logs"`
	TUF  []TUFStep  `json:"tuf,omitempty"`
	// Images are what vouches for the configured images.
	Images []ImageStep `json:"images,omitempty"`
}

// PullStep is what a pull did for one log.
type PullStep struct {
	TransferStep
	Fetched uint64 `json:"fetched"`           // entry bundles fetched
	Kept    uint64 `json:"kept"`              // entry bundles that an earlier, unfinished pull had fetched
	Skipped string `json:"skipped,omitempty"` // why a log that is followed was not pulled
	Error   string `json:"error,omitempty"`
}

// Pull brings every log of the configuration up to date from its source, verifying all of it. One log that fails does not
// stop the others; the errors are joined. ErrNothing when no log has anything new. A pull that was cut short goes on where it
// stopped: what lies in the collection is verified again and not fetched again.
func (e *Exporter) Pull(ctx context.Context) (PullReport, error) {
	report := PullReport{Logs: []PullStep{}}
	unlock, err := lockDir(e.root)
	if err != nil {
		return report, err
	}
	defer unlock()
	var errs []error
	moved := false
	if report.TUF, moved, err = e.pullTUFs(ctx); err != nil {
		errs = append(errs, err)
	}
	if err := e.refreshLogs(); err != nil {
		return report, errors.Join(append(errs, err)...)
	}
	var gathered bool
	if report.Images, gathered, err = e.pullImages(ctx); err != nil {
		errs = append(errs, err)
	}
	moved = moved || gathered
	s, err := e.state()
	if err != nil {
		return report, errors.Join(append(errs, err)...)
	}
	for _, c := range e.waiting {
		err := fmt.Errorf("%w: log %q: the trusted root of TUF repository %q names no key for it", ErrUnknownOrigin, c.Origin, c.Trust)
		report.Logs = append(report.Logs, PullStep{TransferStep: TransferStep{Origin: c.Origin, Scope: c.Scope}, Error: oneLine(err)})
		errs = append(errs, err)
	}
	for _, origin := range sortedKeys(e.logs) {
		from := s.head(s.collected, origin)
		step := PullStep{TransferStep: TransferStep{Origin: origin, Scope: e.logs[origin].Scope, From: from.Size, To: from.Size, Root: from.Root.String()}}
		if from.Note == nil {
			if step.Skipped = e.notThere(ctx, e.logs[origin]); step.Skipped != "" {
				report.Logs = append(report.Logs, step)
				continue
			}
		}
		if f, ok := s.frozen[origin]; ok {
			if step.Frozen, err = true, nil; f.Retired == nil {
				err = &ForkError{Origin: origin, Evidence: e.path(f.Evidence), Frozen: true}
			}
		} else {
			if err = e.pullLog(ctx, e.logs[origin], from, &step); err != nil {
				err = errors.Join(err, (&kept{e.c.DB}).forget(e.logs[origin].Source))
			}
		}
		if err != nil {
			step.Error = oneLine(err)
			errs = append(errs, full(err))
		}
		moved = moved || step.To != step.From || step.Entries > 0 || from.Note == nil && err == nil
		report.Logs = append(report.Logs, step)
	}
	if len(errs) == 0 && !moved {
		return report, fmt.Errorf("%w: no log has anything new", ErrNothing)
	}
	return report, errors.Join(errs...)
}

func (e *Exporter) pullLog(ctx context.Context, log *knownLog, from Head, out *PullStep) error {
	if from.Note != nil && from.Scope != log.Scope {
		return fmt.Errorf("%w: log %q was collected at scope %q; a new stream is needed for %q", ErrConfig, log.Origin, from.Scope, log.Scope)
	}
	sh, err := e.shelf(log.Origin)
	if err != nil {
		return err
	}
	defer sh.close()
	if log.Layout == layoutRekor1 {
		return e.stopOnFork(ctx, log, out, e.pullRekor1(ctx, log, from, sh, out))
	}
	src, err := openSource(log.Source, log.Layout, e.c.Network, &kept{e.c.DB})
	if err != nil {
		return err
	}
	note, err := src.Checkpoint(ctx)
	if err != nil {
		return remoteErr("reading the checkpoint", err)
	}
	if carriesRecords(log.Scope) {
		return e.stopOnFork(ctx, log, out, e.pullSparse(ctx, log, from, note, src, sh, out))
	}
	return e.stopOnFork(ctx, log, out, e.pullTiles(ctx, log, from, note, src, sh, out))
}

// fetchFrom is a source as a tiles.Fetch.
func fetchFrom(src Source) tiles.Fetch {
	return func(ctx context.Context, t tiles.Tile) ([]byte, error) {
		b, err := src.Tile(ctx, t, nil)
		return b, remoteErr("", err)
	}
}

// pullTiles brings a log up to date at the scopes that carry tiles.
func (e *Exporter) pullTiles(ctx context.Context, log *knownLog, from Head, note []byte, src Source, sh *shelf, out *PullStep) error {
	fetch, done := readAhead(ctx, log, from, note, fetchFrom(src))
	defer done()
	step, err := prove(ctx, log, from, note, log.Scope, fetch, sh.write)
	if err == nil {
		err = floors(e.c.Floors).admit(log.Origin, from, step.to.Size)
	}
	if errors.Is(err, ErrReplay) {
		err = e.olderHead(ctx, log, from, note, sh, err)
	}
	if err != nil {
		return err
	}
	if err := step.cosigned.inTime(e.c.Now()); err != nil {
		return fmt.Errorf("log %q: %w", log.Origin, err)
	}
	if err := e.pullPackages(ctx, src, step, sh, out); err != nil {
		return err
	}
	if err := sh.sync(); err != nil {
		return err
	}
	head := e.newHead(log, step.to, note, step.cosigned)
	if err := e.c.DB.Update(func(tx store.Tx) error { return put(tx, keyCollected+log.Origin, head) }); err != nil {
		return err
	}
	out.To, out.Root = step.to.Size, step.to.Root.String()
	if log.Scope == parcel.ScopeFull {
		out.Entries = step.to.Size - from.Size
	}
	return nil
}

func (e *Exporter) newHead(log *knownLog, to Checkpoint, note []byte, seen Cosigned) Head {
	now := e.c.Now().UTC()
	return Head{Origin: log.Origin, Scope: log.Scope, Size: to.Size, Root: to.Root, Note: note, VKey: log.key.VKey(), Observed: now, Proven: seen.Time, Imported: now}
}

// stopOnFork freezes a log whose pull found a fork; any other error it returns as it is.
func (e *Exporter) stopOnFork(ctx context.Context, log *knownLog, out *PullStep, err error) error {
	var fork *forkFound
	if !errors.As(err, &fork) {
		return err
	}
	record := func(_ Event, with func(store.Tx) error) error { return e.c.DB.Update(with) }
	f, err := freezeLog(ctx, e.root, log, fork.evidence, e.c.Now().UTC(), record, keyStopped)
	if err != nil {
		return err
	}
	out.Frozen = true
	return &ForkError{Origin: log.Origin, Evidence: e.path(f.Evidence)}
}

// olderHead tells a log that shows an old checkpoint from one that shows another history: a full collection has the root of
// every size.
func (e *Exporter) olderHead(ctx context.Context, log *knownLog, from Head, note []byte, sh *shelf, older error) error {
	to, err := log.open(note)
	if err != nil || log.Scope != parcel.ScopeFull {
		return older
	}
	tree := tiles.NewTree(from.Size, from.Root, sh.fetch)
	root, err := tree.RootAt(ctx, to.Size)
	if err != nil || root == to.Root {
		return older
	}
	proof, err := tree.Consistency(ctx, to.Size)
	if err != nil {
		return older
	}
	return &forkFound{Evidence{
		Origin: log.Origin, Former: log.FormerOrigins,
		Smaller: string(note), SmallerKey: log.key.VKey(), Larger: string(from.Note), LargerKey: from.vkey(log),
		Proof: tiles.Seeded(to.Size, root, proof),
	}}
}

// pullPackages fetches, verifies and keeps the entry bundles, several at once.
func (e *Exporter) pullPackages(ctx context.Context, src Source, s *step, sh *shelf, out *PullStep) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan tiles.Tile)
	var workers sync.WaitGroup
	var mu sync.Mutex
	for range max(atOnce, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			p := puller{src: src, s: s, sh: sh, hashes: make([]byte, 0, tiles.Width*tiles.HashSize)}
			for t := range work {
				fetched, err := p.bundle(ctx, t)
				if err != nil {
					cancel(err)
					continue
				}
				mu.Lock()
				if fetched {
					out.Fetched++
				} else {
					out.Kept++
				}
				if n := out.Fetched + out.Kept; n%syncEvery == 0 || n == s.plan.packages() {
					e.progress(Progress{Stage: "pull", Origin: s.log.Origin, Done: n, Total: s.plan.packages()})
				}
				mu.Unlock()
			}
		})
	}
	for k := uint64(0); k < s.plan.packages() && ctx.Err() == nil; k++ {
		select {
		case work <- s.plan.pack(k):
		case <-ctx.Done():
		}
	}
	close(work)
	workers.Wait()
	return context.Cause(ctx)
}

// puller is one worker of a pull, with room for a bundle and its hashes.
type puller struct {
	src         Source
	s           *step
	sh          *shelf
	hashes, buf []byte
}

// bundle makes sure that a verified bundle is in the collection.
func (p *puller) bundle(ctx context.Context, t tiles.Tile) (fetched bool, err error) {
	kept := func(tiles.Tile, []byte) error { return nil }
	if b, err := p.sh.readFile(t, p.buf); err == nil {
		if p.buf = b; p.s.take(ctx, t, b, p.hashes, p.sh.need, kept) == nil {
			return false, nil
		}
	}
	b, err := p.src.Tile(ctx, t, p.buf)
	if err != nil {
		return false, remoteErr("reading "+t.Path(), err)
	}
	p.buf = b
	return true, p.s.take(ctx, t, b, p.hashes, p.sh.need, p.sh.write)
}

// remoteErr says that it was the source that failed.
func remoteErr(doing string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, fs.ErrNotExist) && !errors.Is(err, ErrRemote):
		err = fmt.Errorf("%w: %w", ErrRemote, err)
	}
	if doing == "" {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}
