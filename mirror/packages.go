package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// After so many packages progress is told and, if as many bytes were staged, files are flushed and PENDING advances: a flush waits for
// everything that anybody wrote to the disk, so there must not be many.
const (
	syncEvery = 64
	syncBytes = 32 << 20
)

// importing is one parcel, or the part of one that lay in quarantine, on its way in.
type importing struct {
	m        *Mirror
	s        *snapshot
	pending  *pendingState
	digest   parcel.Digest // of the parcel
	sequence uint64
	exporter string                                        // id of the key that signed the parcel
	created  time.Time                                     // when the exporter says it was packed
	files    func(buf []byte) (parcel.Name, []byte, error) // the next file; io.EOF after the last
	close    func()
	read     *parcel.Name // the last file that was read

	announced, retired []string // exporter keys the parcel announces and retires

	signed signedTimes // what logs and witnesses signed, of what was proven

	rehearsal bool // nothing is recorded and nothing is committed

	heads    []Head
	steps    []TransferStep
	tuf      []TUFHead
	trust    []TrustChange // of each of tuf
	tufSteps []TUFStep
	blobs    []parcel.Blob // what vouches for images, and which of it is the list of them
	images   parcel.Digest
	vouched  []TransferImage
	blocked  []error // logs that are not moved: they showed two histories, or they or their key are not known
	pool     sync.Pool
}

// next returns the next file, which must be the one named.
func (in *importing) next(want parcel.Name, buf []byte) ([]byte, error) {
	got, b, err := in.files(buf)
	if err == io.EOF {
		return nil, fmt.Errorf("%w: the parcel ends before %s", parcel.ErrManifest, want)
	}
	if err != nil {
		return nil, err
	}
	if got != want {
		return nil, fmt.Errorf("%w: the parcel has %s where %s belongs", parcel.ErrManifest, got, want)
	}
	in.read = &got
	return b, nil
}

// readAll takes the TUF repositories of the parcel, whose word decides which logs are known, then the logs, then what vouches for images.
func (in *importing) readAll(ctx context.Context, n *parcel.Manifest) error {
	if err := in.readTUFs(ctx, n); err != nil {
		return err
	}
	if err := in.readLogs(ctx, n.Logs); err != nil {
		return err
	}
	if err := in.readBlobs(ctx, n); err != nil {
		return err
	}
	if err := in.end(); err != nil {
		return err
	}
	return in.judgeSigned(n)
}

// readLogs takes the logs of the parcel one after the other.
func (in *importing) readLogs(ctx context.Context, logs []parcel.Log) error {
	for i, l := range logs {
		if err := in.readLog(ctx, i, l); err != nil {
			return err
		}
	}
	return nil
}

// end requires that nothing follows.
func (in *importing) end() error {
	if got, _, err := in.files(nil); err == nil {
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
	if f, ok := in.s.frozen[l.Origin]; ok {
		if f.Retired == nil {
			in.blocked = append(in.blocked, &ForkError{Origin: l.Origin, Evidence: m.path(f.Evidence), Frozen: true})
		}
		done.Frozen = true
		in.steps = append(in.steps, done)
		return in.skip(i, l)
	}
	if why := in.unexplained(l, note); why != nil {
		done.Quarantined = true
		in.steps = append(in.steps, done)
		return in.quarantine(i, l, note, why)
	}
	// 5. The checkpoint is the log's own, our head is a prefix of its tree, and what is carried hashes up to its root.
	// 6. PENDING: what proves the step is staged, and the record of how far we are is durable.
	// 7. Packages.
	head := Head{
		Origin: l.Origin, Scope: l.Scope, Note: note, VKey: m.log(l.Origin).key.VKey(), Observed: l.Observed.Time,
		Imported: m.c.Now().UTC(), Sequence: in.sequence,
	}
	stage, err := openShelf(m.root, in.stagedLog(l.Origin))
	if err != nil {
		return err
	}
	defer stage.close()
	take := in.takeTiles
	if carriesRecords(l.Scope) {
		take = in.takeRecords
	}
	err = take(ctx, i, l, own, &head, stage)
	var fork *forkFound
	if errors.As(err, &fork) { // found before the packages were read
		if err := in.freeze(ctx, l.Origin, fork); err != nil {
			return err
		}
		done.Frozen = true
		in.steps = append(in.steps, done)
		return in.skip(i, l)
	}
	if err != nil {
		return err
	}
	done.To, done.Root = head.Size, head.Root.String()
	switch l.Scope {
	case parcel.ScopeFull:
		done.Entries = head.Size - own.Size
	case parcel.ScopeSparse:
		done.Entries = uint64(len(l.Records))
	}
	in.steps, in.heads = append(in.steps, done), append(in.heads, head)
	return nil
}

// reaches completes the head that a proven step leads to: it is the one the manifest names, and its witnesses' times are possible.
func (in *importing) reaches(l parcel.Log, to Checkpoint, seen Cosigned, head *Head) error {
	if to.Size != l.To.Size || !l.To.Root.Equal(to.Root[:]) {
		return fmt.Errorf("log %q: %w: the manifest ends at %d leaves, the checkpoint has %d", l.Origin, ErrProof, l.To.Size, to.Size)
	}
	if err := seen.inTime(in.m.c.Now()); err != nil {
		return fmt.Errorf("log %q: %w", l.Origin, err)
	}
	head.Size, head.Root, head.Proven = to.Size, to.Root, seen.Time
	in.signed.saw(seen.Time, fmt.Sprintf("what a quorum of witnesses saw of log %q", l.Origin))
	in.signed.saw(in.m.log(l.Origin).key.TreeHeadTime(head.Note), fmt.Sprintf("the tree head of log %q", l.Origin))
	return nil
}

// takeTiles takes a log at the scopes that carry tiles.
func (in *importing) takeTiles(ctx context.Context, i int, l parcel.Log, own Head, head *Head, stage *shelf) error {
	m, log := in.m, in.m.log(l.Origin).watched(&in.signed)
	// Tiles that come before what proves them go to the staging folder unproven, and are read from there to be proven.
	carried, plan := make(map[tiles.Tile][]byte), planStep(l.Scope, l.From.Size, l.To.Size, l.Extras)
	for _, t := range plan.spine {
		b, err := in.next(parcel.Name{Log: i, Tile: t}, in.buffer())
		if err != nil {
			return err
		}
		if !plan.streams(t) {
			carried[t] = b
			continue
		}
		if err := stage.write(t, b); err != nil {
			return err
		}
		carried[t] = nil
		in.pool.Put(&b)
	}
	s, err := prove(ctx, log, own, head.Note, l.Scope, func(_ context.Context, t tiles.Tile) ([]byte, error) {
		b, ok := carried[t]
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: %s is not carried", ErrProof, t.Path())
		case b == nil:
			return stage.need(t, nil)
		}
		return b, nil
	}, func(t tiles.Tile, b []byte) error {
		if plan.streams(t) {
			return nil
		}
		return stage.write(t, b)
	})
	if err != nil {
		return err
	}
	if err := in.reaches(l, s.to, s.cosigned, head); err != nil {
		return err
	}
	if err := in.advance(stage, i, in.pending.Done[i]); err != nil {
		return err
	}
	m.progress(Progress{Stage: "pending", Origin: l.Origin, Done: in.pending.Done[i], Total: s.plan.packages()})
	if err := in.takePackages(ctx, i, s, stage); err != nil {
		return err
	}
	return m.checkAhead(ctx, s, func(ctx context.Context, t tiles.Tile) ([]byte, error) {
		b, err := stage.read(t, nil)
		if !errors.Is(err, ErrNotFound) {
			return b, err
		}
		kept, err := m.shelf(l.Origin)
		if err != nil {
			return nil, err
		}
		return kept.need(t, nil)
	})
}

// takeRecords takes a log at scope sparse: records go to the staging folder as they are read, then the whole step is proven by the
// subtree hashes that stand before them.
func (in *importing) takeRecords(ctx context.Context, i int, l parcel.Log, own Head, head *Head, stage *shelf) error {
	m := in.m
	hashes, err := in.next(parcel.Name{Log: i, Nodes: true}, nil)
	if err != nil {
		return err
	}
	s, err := openSparse(m.log(l.Origin).watched(&in.signed), own, head.Note, l.Records)
	if err != nil {
		return err
	}
	var leaves, carried []tiles.Hash
	for at := 0; at+tiles.HashSize <= len(hashes); at += tiles.HashSize {
		carried = append(carried, tiles.Hash(hashes[at:]))
	}
	if len(hashes)%tiles.HashSize != 0 {
		return fmt.Errorf("log %q: %w: %d bytes of subtree hashes", l.Origin, ErrProof, len(hashes))
	}
	for _, index := range l.Records {
		b, err := in.next(parcel.Name{Log: i, Record: true, Index: index}, in.buffer())
		if err != nil {
			return err
		}
		r, err := decodeRecord(index, b)
		if err != nil {
			return fmt.Errorf("log %q: %w: %w", l.Origin, ErrProof, err)
		}
		h, err := s.checkRecord(r)
		if err == nil {
			err = stage.writeFile(recordName(index), b)
		}
		if err != nil {
			return err
		}
		leaves = append(leaves, h)
		in.pool.Put(&b)
	}
	nodes, err := s.prove(ctx, leaves, carried)
	if err != nil {
		return err
	}
	if err := in.reaches(l, s.to, s.cosigned, head); err != nil {
		return err
	}
	if err := m.checkProven(ctx, s, nodes, s.tree(nodes).Subtree); err != nil {
		return err
	}
	if err := stage.writeFile(nodesName(in.sequence), encodeNodes(nodes)); err != nil {
		return err
	}
	m.progress(Progress{Stage: "pending", Origin: l.Origin, Done: uint64(len(l.Records)), Total: uint64(len(l.Records))})
	return in.advance(stage, i, 0)
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
	staged := 0
	for k := range total {
		t := s.plan.pack(k)
		data, err := in.next(parcel.Name{Log: i, Tile: t}, in.buffer())
		if err != nil {
			return err
		}
		if k < done && stage.has(t, len(data)) {
			in.pool.Put(&data) // staged and flushed by an earlier run
			continue
		}
		staged += len(data)
		slots <- struct{}{}
		workers.Go(func() {
			defer func() { in.pool.Put(&data); <-slots }()
			var hashes [tiles.Width * tiles.HashSize]byte
			if err := s.take(ctx, t, data, hashes[:], stage.need, stage.write); err != nil {
				select {
				case failed <- err:
				default:
				}
			}
		})
		if (k+1)%syncEvery != 0 && k+1 != total && k+1 != s.plan.bundles() { // extras are verified against the entries before them
			continue
		}
		workers.Wait()
		select {
		case err := <-failed:
			return err
		default:
		}
		in.m.progress(Progress{Stage: "package", Origin: s.log.Origin, Done: k + 1, Total: total})
		if staged < syncBytes && k+1 != total {
			continue
		}
		staged = 0
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
	in.pending.Signed = in.pending.Signed.later(in.signed.get())
	return in.savePending()
}

// freeze stops a log at its last good head: evidence first, then the record.
func (in *importing) freeze(ctx context.Context, origin string, fork *forkFound) error {
	if in.rehearsal {
		in.blocked = append(in.blocked, &ForkError{Origin: origin, Evidence: "none: it was a rehearsal"})
		return nil
	}
	fork.evidence.Parcel = in.digest.String()
	f, err := freezeLog(ctx, in.m.root, in.m.log(origin), fork.evidence, in.m.c.Now().UTC(), func(e Event, with func(store.Tx) error) error {
		return in.m.record(ctx, e, with)
	}, keyFrozen)
	if err != nil {
		return err
	}
	in.s.frozen[origin] = f
	in.blocked = append(in.blocked, &ForkError{Origin: origin, Evidence: in.m.path(f.Evidence)})
	in.m.c.Logger.ErrorContext(ctx, "log frozen: it showed two histories", "origin", origin, "evidence", f.Evidence)
	return nil
}
