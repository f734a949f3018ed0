package log

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.internal/log/store"
)

// FsckReport says what Fsck read and what it found wrong.
type FsckReport struct {
	Entries  uint64 // durable entries read and hashed
	Extras   uint64 // extras checked against their digest
	Tiles    uint64 // stored tiles compared with the computed ones
	Heads    uint64 // heads checked: root at their size, signature, time
	Size     uint64 // of the last head
	Root     [32]byte
	Unsigned uint64 // durable entries no head covers yet; Open covers them
	// Unpublished says that the last head has a bad signature and was never published: Open puts another in its place.
	Unpublished bool
	Halted      string // why the log was halted, empty when it was not
	Problems    []string
	Suppressed  int // problems beyond the first maxProblems
}

const (
	maxProblems = 64
	fsckStep    = 64 // bundles read in one transaction, so that a running writer is not held up
)

// Fsck recomputes everything from the stored entries: leaf hashes, tiles, the root at every head ever signed, every
// signature, every extra's digest, and that nothing stored is unaccounted for. It only reads; the log may be open and
// growing, what is appended meanwhile is not looked at. progress, which may be nil, is called with entries done and in
// total. The error is ErrCorrupt when there are problems; the report is filled either way. Config.Signer is used for
// its public key.
func Fsck(ctx context.Context, c Config, progress func(done, total uint64)) (FsckReport, error) {
	c, err := setup(c)
	if err == nil && c.Signer == nil {
		err = fmt.Errorf("%w: without the log's key no head can be checked", ErrConfig)
	}
	if err != nil {
		return FsckReport{}, fmt.Errorf("checking a log: %w", err)
	}
	if progress == nil {
		progress = func(_, _ uint64) {}
	}
	key, err := newNoteKey(c.Origin, c.Signer.Public())
	if err != nil {
		return FsckReport{}, fmt.Errorf("checking a log: %w", err)
	}
	f := &fsck{c: c, key: key, keys: newLayout(c.Prefix), progress: progress, marks: map[uint64][]Mark{}}
	err = f.run(ctx)
	if errors.Is(err, ErrCorrupt) || errors.Is(err, store.ErrCorrupt) {
		f.problem("%v", err)
		err = nil
	}
	if err == nil && len(f.rep.Problems) > 0 {
		err = fmt.Errorf("%w: %d problems, the first: %s", ErrCorrupt, len(f.rep.Problems)+f.rep.Suppressed, f.rep.Problems[0])
	}
	if err != nil {
		return f.rep, fmt.Errorf("checking the log %s: %w", c.Origin, err)
	}
	return f.rep, nil
}

type fsck struct {
	c        Config
	key      *noteKey
	keys     layout
	progress func(done, total uint64)
	marks    map[uint64][]Mark // by size

	mu  sync.Mutex
	rep FsckReport

	tree    tree
	tip     uint64 // where the entries end
	last    Head
	heads   []storedHead // read ahead, ascending
	nextKey []byte       // where reading heads goes on; nil at the end
	prev    time.Time    // of the head read last
}

type storedHead struct {
	h   Head
	sig []byte
}

func (f *fsck) problem(format string, args ...any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.rep.Problems) >= maxProblems {
		f.rep.Suppressed++
		return
	}
	f.rep.Problems = append(f.rep.Problems, fmt.Sprintf(format, args...))
}

func (f *fsck) run(ctx context.Context) error {
	if err := f.begin(ctx); err != nil {
		return err
	}
	// Signatures cost far more than hashes where commits were small: they go to all processors.
	check := make(chan storedHead, 256)
	var heads atomic.Uint64
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			for s := range check {
				heads.Add(1)
				err := f.key.verify(s.h.Size, s.h.Root, s.sig)
				if err != nil && f.unpublished(s.h.Size) {
					f.mu.Lock()
					f.rep.Unpublished = true
					f.mu.Unlock()
				} else if err != nil {
					f.problem("the head of size %d: %v", s.h.Size, err)
				}
			}
		})
	}
	err := f.entries(ctx, check)
	close(check)
	workers.Wait()
	f.rep.Heads = heads.Load()
	if err != nil {
		return err
	}
	return f.strays(ctx)
}

// unpublished says that the head of size is the last and above every mark: it was never shown to anybody.
func (f *fsck) unpublished(size uint64) bool {
	for marked := range f.marks {
		if marked >= size {
			return false
		}
	}
	return size == f.last.Size && len(f.marks) > 0
}

// begin reads where the log stands, and the marks.
func (f *fsck) begin(ctx context.Context) error {
	err := f.c.DB.View(func(tx store.Tx) error {
		l := &Log{c: f.c, keys: f.keys} // without a key: signatures are checked with all the others
		meta, err := tx.Get(f.keys.meta())
		if err != nil {
			return err
		}
		if meta == nil {
			return ErrAbsent
		}
		if err := checkFormat(meta); err != nil {
			return err
		}
		want, err := metaRecord(f.c.Origin, f.key.pub)
		if err != nil {
			return err
		}
		if !bytes.Equal(meta, want) {
			f.problem("the log's own record names another origin or key")
		}
		if f.last, err = l.loadLast(tx); err != nil {
			return err
		}
		f.rep.Size, f.rep.Root = f.last.Size, f.last.Root
		last, found, err := f.keys.last(tx, 'e')
		if err != nil {
			return err
		}
		if found {
			f.tip = last + 1
		}
		if f.tip < f.last.Size {
			return fmt.Errorf("%w: it ends at %d and has a head of size %d", ErrCorrupt, f.tip, f.last.Size)
		}
		f.rep.Unsigned = f.tip - f.last.Size
		b, err := tx.Get(f.keys.latch())
		f.rep.Halted = string(b)
		return err
	})
	if err != nil {
		return err
	}
	f.nextKey = f.keys.head(0)
	for i, m := range f.c.HighWater {
		mark, err := m.Read(ctx)
		switch {
		case errors.Is(err, ErrNoMark):
			f.problem("high-water mark %d is missing", i+1)
			continue
		case err != nil:
			return fmt.Errorf("reading high-water mark %d: %w", i+1, err)
		}
		if mark.Size > f.tip {
			f.problem("high-water mark %d stands at size %d, the log at %d: this is an older copy", i+1, mark.Size, f.tip)
		}
		if mark.Halted != "" {
			f.rep.Halted = mark.Halted
		}
		f.marks[mark.Size] = append(f.marks[mark.Size], mark)
	}
	return nil
}
