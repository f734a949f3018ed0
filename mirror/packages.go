package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"runtime"
	"sync"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// syncEvery is the number of packages after which staged files are flushed and PENDING advances.
const syncEvery = 64

// importing is one parcel on its way in.
type importing struct {
	m       *Mirror
	p       *parcel.Parcel
	s       *snapshot
	pending *pendingState

	r     *parcel.Reader
	heads []Head
	steps []TransferStep
	forks []error // logs that showed two histories, now or before
	pool  sync.Pool
}

func (in *importing) close() {
	if in.r != nil {
		in.r.Close()
	}
}

// next returns the next file of the parcel, which must be the one named.
func (in *importing) next(want parcel.Name, buf []byte) ([]byte, error) {
	got, b, err := in.r.Next(buf)
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the parcel ends before %s", parcel.ErrManifest, want)
	}
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, fmt.Errorf("%w: the parcel has %s where %s belongs", parcel.ErrManifest, got, want)
	}
	return b, nil
}

// readLogs takes the logs of the parcel one after the other.
func (in *importing) readLogs(ctx context.Context) error {
	var err error
	if in.r, err = in.p.Files(ctx); err != nil {
		return err
	}
	for i, l := range in.p.Manifest.Logs {
		if err := in.readLog(ctx, i, l); err != nil {
			return err
		}
	}
	if got, _, err := in.r.Next(nil); err == nil {
		return fmt.Errorf("%w: %s is more than the manifest calls for", parcel.ErrManifest, got)
	} else if err != io.EOF {
		return err
	}
	return nil
}

func (in *importing) readLog(ctx context.Context, i int, l parcel.Log) error {
	m, own := in.m, in.s.head(l.Origin)
	done := TransferStep{Origin: l.Origin, Scope: l.Scope, From: own.Size, To: own.Size, Root: own.Root.String()}
	note, err := in.next(parcel.Name{Log: i, Checkpoint: true}, nil)
	if err != nil {
		return err
	}
	want := planStep(l.Scope, l.From.Size, l.To.Size, l.Records)
	carried := make(map[tiles.Tile][]byte, len(want.spine))
	for _, t := range want.spine {
		if carried[t], err = in.next(parcel.Name{Log: i, Tile: t}, nil); err != nil {
			return err
		}
	}
	if f, ok := in.s.frozen[l.Origin]; ok {
		in.forks = append(in.forks, &ForkError{Origin: l.Origin, Evidence: m.path(f.Evidence), Frozen: true})
		done.Frozen = true
		in.steps = append(in.steps, done)
		return in.skip(i, want)
	}
	// 5. The checkpoint is the log's own, our head is a prefix of its tree, and the spine hashes up to its root.
	s, err := prove(ctx, m.logs[l.Origin], own, note, l.Scope, l.Records, func(_ context.Context, t tiles.Tile) ([]byte, error) {
		if b, ok := carried[t]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%w: %s is not carried", ErrProof, t.Path())
	})
	var fork *forkFound
	if errors.As(err, &fork) {
		if err := in.freeze(ctx, l.Origin, fork); err != nil {
			return err
		}
		done.Frozen = true
		in.steps = append(in.steps, done)
		return in.skip(i, want)
	}
	if err != nil {
		return err
	}
	if err := s.cosigned.inTime(m.c.Now()); err != nil {
		return fmt.Errorf("log %q: %w", l.Origin, err)
	}
	if s.to.Size != l.To.Size || !l.To.Root.Equal(s.to.Root[:]) {
		return fmt.Errorf("log %q: %w: the manifest ends at %d leaves, the checkpoint has %d", l.Origin, ErrProof, l.To.Size, s.to.Size)
	}
	// 6. PENDING: the spine is staged and the record of how far we are is durable.
	stage, err := openShelf(m.root, path.Join(stagingDir(in.p.Digest), escape(l.Origin)))
	if err != nil {
		return err
	}
	defer stage.close()
	for _, t := range s.plan.spine {
		if err := stage.write(t, s.spine[t]); err != nil {
			return err
		}
	}
	if err := in.advance(stage, i, in.pending.Done[i]); err != nil {
		return err
	}
	m.progress(Progress{Stage: "pending", Origin: l.Origin, Done: in.pending.Done[i], Total: s.plan.packages()})
	// 7. Packages.
	if err := in.takePackages(ctx, i, s, stage); err != nil {
		return err
	}
	done.To, done.Root = s.to.Size, s.to.Root.String()
	if l.Scope == parcel.ScopeFull {
		done.Entries = s.to.Size - own.Size
	}
	in.steps = append(in.steps, done)
	in.heads = append(in.heads, Head{
		Origin: l.Origin, Scope: l.Scope, Size: s.to.Size, Root: s.to.Root, Note: note, VKey: s.log.key.VKey(), Observed: l.Observed.Time, Proven: s.cosigned.Time,
		Imported: m.c.Now().UTC(), Sequence: in.p.Manifest.Sequence, Records: l.Records,
	})
	return nil
}

// takePackages reads the entry bundles of a log, verifies and stages them on all processors, and flushes every 64.
func (in *importing) takePackages(ctx context.Context, i int, s *step, stage *shelf) error {
	total, done := s.plan.packages(), in.pending.Done[i]
	var (
		workers sync.WaitGroup
		slots   = make(chan struct{}, 2*runtime.GOMAXPROCS(0))
		failed  = make(chan error, 1) // the first failure of a worker
		flush   sync.WaitGroup        // of the batch before the one being read
		flushed error
	)
	defer flush.Wait()
	defer workers.Wait()
	for k := range total {
		t := s.plan.bundle(s.plan.first + k)
		data, err := in.next(parcel.Name{Log: i, Tile: t}, in.buffer())
		if err != nil {
			return err
		}
		hashed := tiles.Tile{Level: 0, Index: t.Index, Width: tiles.Width}
		if k < done && stage.has(t, len(data)) && (!t.Full() || stage.has(hashed, tiles.Width*tiles.HashSize)) {
			in.pool.Put(&data) // staged and flushed by an earlier run
			continue
		}
		slots <- struct{}{}
		workers.Go(func() {
			defer func() { in.pool.Put(&data); <-slots }()
			var hashes [tiles.Width * tiles.HashSize]byte
			if err := s.take(ctx, t, data, hashes[:], stage.write); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		if (k+1)%syncEvery != 0 && k+1 != total {
			continue
		}
		workers.Wait()
		select {
		case err := <-failed:
			return err
		default:
		}
		in.m.progress(Progress{Stage: "package", Origin: s.log.Origin, Done: k + 1, Total: total})
		if flush.Wait(); flushed != nil {
			return flushed
		}
		flush.Go(func() { flushed = in.advance(stage, i, k+1) })
	}
	flush.Wait()
	return flushed
}

func (in *importing) buffer() []byte {
	if b, ok := in.pool.Get().(*[]byte); ok {
		return *b
	}
	return nil
}

// advance makes staged files durable, then the record that says so.
func (in *importing) advance(stage *shelf, i int, done uint64) error {
	if err := stage.sync(); err != nil {
		return err
	}
	in.pending.Done[i] = done
	return in.savePending()
}

// skip reads past the packages of a log that is not taken.
func (in *importing) skip(i int, want plan) error {
	for k := want.first; k < want.after; k++ {
		b, err := in.next(parcel.Name{Log: i, Tile: want.bundle(k)}, in.buffer())
		if err != nil {
			return err
		}
		in.pool.Put(&b)
	}
	return nil
}

// freeze stops a log at its last good head: evidence first, then the record.
func (in *importing) freeze(ctx context.Context, origin string, fork *forkFound) error {
	fork.evidence.Parcel = in.p.Digest.String()
	f, err := freezeLog(ctx, in.m.root, in.m.logs[origin], fork.evidence, in.m.c.Now().UTC(), func(e Event, with func(store.Tx) error) error {
		return in.m.record(ctx, e, with)
	}, keyFrozen)
	if err != nil {
		return err
	}
	in.s.frozen[origin] = f
	in.forks = append(in.forks, &ForkError{Origin: origin, Evidence: in.m.path(f.Evidence)})
	in.m.c.Logger.ErrorContext(ctx, "log frozen: it showed two histories", "origin", origin, "evidence", f.Evidence)
	return nil
}
