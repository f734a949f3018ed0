package log

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"redoubt.internal/log/store"
)

// Log is an open log. All methods are safe for concurrent use.
type Log struct {
	c    Config
	keys layout
	key  *noteKey // of the signer; nil without one

	queue   *queue
	running atomic.Bool
	w       writer // of the goroutine in Run

	view   atomic.Pointer[view]  // the published state
	reason atomic.Pointer[error] // why the log is read-only, nil when it is not
	cache  tileCache
	leaves table // leaf hash -> index
	search table // digest of an index key -> indices

	// at is called at the named points of the commit path. Tests set it; it does nothing otherwise.
	at func(point string)
	// promise, set by the negative control of the kill test alone, acknowledges a batch before its commit.
	promise func(*Log, *batch)
}

// setup checks the configuration and fills its defaults.
func setup(c Config) (Config, error) {
	if c.DB == nil {
		return c, fmt.Errorf("%w: it names no database", ErrConfig)
	}
	if len(c.Prefix) > 64 {
		return c, fmt.Errorf("%w: a prefix of %d bytes", ErrConfig, len(c.Prefix))
	}
	if err := checkOrigin(c.Origin); err != nil {
		return c, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if c.Signer != nil {
		if _, err := noteKeyHash(c.Origin, c.Signer.Public()); err != nil {
			return c, err
		}
	}
	return c, nil
}

func metaRecord(origin string, pub crypto.PublicKey) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	sum := sha256.Sum256(spki)
	return append(append([]byte{1}, sum[:]...), origin...), nil
}

// Create writes the empty log and signs its size-0 head. It refuses a log that exists (ErrExists), and an origin whose
// high-water mark says that it signed entries before (ErrRolledBack). It makes the marks; nothing else ever does.
func Create(ctx context.Context, c Config) error {
	c, err := setup(c)
	if err != nil {
		return fmt.Errorf("creating a log: %w", err)
	}
	if err := create(ctx, c); err != nil {
		return fmt.Errorf("creating the log %s: %w", c.Origin, err)
	}
	c.Logger.Info("log created", "origin", c.Origin)
	return nil
}

func create(ctx context.Context, c Config) error {
	if c.Signer == nil {
		return fmt.Errorf("%w: a new log needs its key", ErrConfig)
	}
	keys := newLayout(c.Prefix)
	absent := func(tx store.Tx) error {
		var any bool
		err := tx.Scan(keys.prefix, keys.end(), func(_, _ []byte) bool { any = true; return false })
		if err == nil && any {
			err = ErrExists
		}
		return err
	}
	if err := c.DB.View(absent); err != nil {
		return err
	}
	// The marks come first: a crash in between leaves a mark of size 0, which a second Create accepts. The other order
	// would leave a log that cannot be told from one whose mark was removed.
	for _, m := range c.HighWater {
		switch mark, err := m.Read(ctx); {
		case err == nil && (mark.Size != 0 || mark.Root != emptyRoot):
			return fmt.Errorf("%w: a high-water mark says that %s was signed at size %d", ErrRolledBack, c.Origin, mark.Size)
		case err != nil && !errors.Is(err, ErrNoMark):
			return err
		}
	}
	for _, m := range c.HighWater {
		if err := m.Raise(ctx, Mark{Origin: c.Origin, Root: emptyRoot}); err != nil {
			return err
		}
	}
	meta, err := metaRecord(c.Origin, c.Signer.Public())
	if err != nil {
		return err
	}
	k, err := newNoteKey(c.Origin, c.Signer.Public())
	if err != nil {
		return err
	}
	sig, err := k.sign(c.Signer, 0, emptyRoot)
	if err == nil {
		err = k.verify(0, emptyRoot, sig)
	}
	if err != nil {
		return err
	}
	h := Head{Root: emptyRoot, Time: c.Now().UTC()}
	return c.DB.Update(func(tx store.Tx) error {
		if err := absent(tx); err != nil {
			return err
		}
		for _, kv := range [][2][]byte{
			{keys.meta(), meta},
			{keys.head(0), encodeHead(h, sig)},
		} {
			if err := tx.Put(kv[0], kv[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// Open opens a log that Create made. Damage to what a head covers is an error. A log that must not be signed on opens
// all the same, read-only, and Err says why: behind a mark, latched, or without a key. Entries that were durable when
// a crash came, and not yet covered by a head, are covered now.
func Open(ctx context.Context, c Config) (*Log, error) {
	c, err := setup(c)
	if err != nil {
		return nil, fmt.Errorf("opening a log: %w", err)
	}
	l := &Log{c: c, keys: newLayout(c.Prefix), queue: newQueue(), at: func(string) {}}
	l.w.flight = map[[32]byte]uint64{}
	if c.Signer != nil {
		if l.key, err = newNoteKey(c.Origin, c.Signer.Public()); err != nil {
			return nil, fmt.Errorf("opening a log: %w", err)
		}
	}
	if err := l.open(ctx); err != nil {
		return nil, fmt.Errorf("opening the log %s: %w", c.Origin, err)
	}
	return l, nil
}

func (l *Log) open(ctx context.Context) error {
	var tail []*request
	if err := l.c.DB.View(func(tx store.Tx) (err error) {
		tail, err = l.load(tx)
		return err
	}); err != nil {
		return err
	}
	if err := l.openIndex(ctx); err != nil {
		return err
	}
	l.keepFlight(&stage{added: tail})
	if err := l.checkMarks(ctx); err != nil {
		l.c.Logger.Error("log opens read-only", "origin", l.c.Origin, "err", l.latch(err))
		return nil
	}
	if l.c.Signer == nil {
		l.latch(errors.New("it was opened without its key"))
		return nil
	}
	if l.Err() == nil && l.w.uncovered() {
		l.c.Logger.Info("covering entries stored before the last stop", "origin", l.c.Origin, "from", l.w.last.Size, "to", l.w.tree.size)
		// Without a signature now the log still opens: the first batch tries again.
		if err := l.signHead(nil); err == nil {
			l.cycle(ctx, nil)
		}
	}
	h := l.Head()
	l.c.Logger.Info("log open", "origin", l.c.Origin, "size", h.Size, "root", fmt.Sprintf("%x", h.Root))
	return nil
}

// load reads the last head, rebuilds the right edge under it and appends what is durable beyond it.
func (l *Log) load(tx store.Tx) (tail []*request, err error) {
	meta, err := tx.Get(l.keys.meta())
	if err != nil {
		return nil, err
	}
	if meta == nil {
		return nil, ErrAbsent
	}
	if len(meta) < 33 || meta[0] != 1 {
		return nil, fmt.Errorf("%w: unknown format", ErrCorrupt)
	}
	if string(meta[33:]) != l.c.Origin {
		return nil, fmt.Errorf("%w: the log there is %q", ErrConfig, meta[33:])
	}
	if l.key != nil {
		if want, err := metaRecord(l.c.Origin, l.key.pub); err != nil {
			return nil, err
		} else if !bytes.Equal(want, meta) {
			return nil, ErrWrongKey
		}
	}
	if reason, err := tx.Get(l.keys.latch()); err != nil {
		return nil, err
	} else if reason != nil {
		l.latch(fmt.Errorf("halted: %s", reason))
	}
	h, err := l.loadLast(tx)
	if errors.Is(err, errBadSignature) {
		// Signatures are verified while their transaction runs, so this one was perhaps never published. Its size and root
		// are checked below; signing the same again forks nothing.
		l.c.Logger.Warn("the last head's signature does not verify; signing it again", "origin", l.c.Origin, "size", h.Size)
		l.w.resign, err = true, nil
	}
	if err != nil {
		return nil, err
	}
	t, err := l.loadTree(tx, h.Size)
	if err != nil {
		return nil, err
	}
	if t.root() != h.Root {
		return nil, fmt.Errorf("%w: the entries do not lead to the root of the head of size %d", ErrCorrupt, h.Size)
	}
	l.w.last = h
	l.view.Store(&view{tree: t, head: h})
	return l.loadTail(tx, t.fork())
}

var errBadSignature = fmt.Errorf("%w: the last head", ErrCorrupt)

// loadLast returns the last durable head, checked. With errBadSignature everything but its signature is good.
func (l *Log) loadLast(tx store.Tx) (Head, error) {
	size, found, err := l.keys.last(tx, 'h')
	if err != nil {
		return Head{}, err
	}
	if !found {
		return Head{}, fmt.Errorf("%w: it has no head", ErrCorrupt)
	}
	b, err := tx.Get(l.keys.head(size))
	if err != nil {
		return Head{}, err
	}
	h, sig, err := parseHead(size, b)
	if err != nil {
		return h, err
	}
	root := h.Root
	l.w.lastRec = bytes.Clone(b)
	if l.key != nil {
		if err := l.key.verify(size, root, sig); err != nil {
			return h, fmt.Errorf("%w: %w", errBadSignature, err)
		}
	}
	h.Note = renderNote(l.c.Origin, size, root, sig)
	return h, nil
}

// loadTree rebuilds the right edge of the tree of size: at most 255 leaves are hashed, and for each level above at most
// 255 tiles of the level below.
func (l *Log) loadTree(tx store.Tx, size uint64) (tree, error) {
	t := tree{size: size}
	if size == 0 {
		return t, nil
	}
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		e := new(tile)
		n := size >> (tileHeight * level)
		for i := n &^ (tileWidth - 1); level > 0 && i < n; i++ {
			sub, err := readTile(tx, l.keys, level-1, i)
			if err != nil {
				return t, err
			}
			e.set(int(i%tileWidth), sub.root())
		}
		t.edge = append(t.edge, e)
	}
	err := scanEntries(tx, l.keys, size&^(tileWidth-1), size, func(c chunk) error {
		for i, leaf := range c.leaves {
			if n := c.first + uint64(i); n < size {
				t.edge[0].set(int(n%tileWidth), leafHash(leaf))
			}
		}
		return nil
	})
	return t, err
}

// loadTail appends the entries durable beyond the last head to t.
func (l *Log) loadTail(tx store.Tx, t tree) ([]*request, error) {
	last, found, err := l.keys.last(tx, 'e')
	if err != nil {
		return nil, err
	}
	size := uint64(0)
	if found {
		size = last + 1
	}
	if size < t.size {
		return nil, fmt.Errorf("%w: it ends at %d and has a head of size %d", ErrCorrupt, size, t.size)
	}
	var root []byte // of the last chunk
	var tail []*request
	var full []fullTile
	err = scanEntries(tx, l.keys, t.size, size, func(c chunk) error {
		root = c.root
		for i, leaf := range c.leaves {
			n := c.first + uint64(i)
			if n < t.size {
				continue
			}
			r := &request{leaf: bytes.Clone(leaf), hash: leafHash(leaf), index: n}
			extra, err := c.extra(i, r.hash)
			if err != nil {
				return err
			}
			r.extra = bytes.Clone(extra)
			if l.c.IndexKeys != nil {
				r.keys = l.indexKeys(r.leaf, r.extra)
			}
			full = t.append(r.hash, full)
			tail = append(tail, r)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	l.w.tree, l.w.root = t, t.root()
	if len(tail) > 0 && !bytes.Equal(l.w.root[:], root) {
		return nil, fmt.Errorf("%w: the entries stored beyond the last head do not lead to their root", ErrCorrupt)
	}
	for _, f := range full {
		if stored, err := readTile(tx, l.keys, f.level, f.index); err != nil {
			return nil, err
		} else if stored.root() != f.tile.root() {
			return nil, fmt.Errorf("%w: tile %d/%d", ErrCorrupt, f.level, f.index)
		}
		l.cache.put(f.level, f.index, f.tile)
	}
	return tail, nil
}

// checkMarks compares every configured mark with the last durable head, and raises those behind it.
func (l *Log) checkMarks(ctx context.Context) error {
	v := l.view.Load()
	for i, m := range l.c.HighWater {
		mark, err := m.Read(ctx)
		if errors.Is(err, ErrNoMark) {
			return fmt.Errorf("%w: high-water mark %d of %d is missing; the log stands at size %d", ErrRolledBack, i+1, len(l.c.HighWater), v.size)
		}
		if err != nil {
			return fmt.Errorf("reading high-water mark %d: %w", i+1, err)
		}
		switch {
		case mark.Origin != l.c.Origin:
			return fmt.Errorf("%w: high-water mark %d is of %q", ErrConfig, i+1, mark.Origin)
		case mark.Size > v.size:
			return fmt.Errorf("%w: a high-water mark stands at size %d, the log at size %d", ErrRolledBack, mark.Size, v.size)
		}
		root, err := l.nodes(v).rangeHash(0, mark.Size)
		if err != nil {
			return err
		}
		if root != mark.Root {
			return fmt.Errorf("%w: at size %d a high-water mark has root %x, the log %x (size %d)", ErrRolledBack, mark.Size, mark.Root, root, v.size)
		}
		if mark.Halted != "" {
			return fmt.Errorf("halted: %s", mark.Halted)
		}
	}
	if l.c.Signer == nil || l.Err() != nil {
		return nil
	}
	for _, m := range l.c.HighWater {
		if err := m.Raise(ctx, Mark{Origin: l.c.Origin, Size: v.size, Root: v.head.Root}); err != nil {
			return fmt.Errorf("raising the high-water mark: %w", err)
		}
	}
	return nil
}

func (l *Log) now() time.Time { return l.c.Now().UTC() }

// Head is the last published head.
func (l *Log) Head() Head { return l.view.Load().head }

// Err says why the log is read-only: latched by a failed write, behind a high-water mark, opened without its key. Nil
// when it is writable.
func (l *Log) Err() error {
	if e := l.reason.Load(); e != nil {
		return *e
	}
	return nil
}

// latch makes the log read-only for this process and returns the reason; the first one stays.
func (l *Log) latch(err error) error {
	if !errors.Is(err, ErrReadOnly) {
		err = fmt.Errorf("%w: %w", ErrReadOnly, err)
	}
	l.reason.CompareAndSwap(nil, &err)
	return l.Err()
}

// halt latches over restarts too, wherever that can still be written: in the marks and in the database.
func (l *Log) halt(err error) error {
	err = l.latch(err)
	l.c.Logger.Error("log halted", "origin", l.c.Origin, "err", err)
	reason := l.now().Format(time.RFC3339) + " " + err.Error()
	for _, m := range l.c.HighWater {
		mark, e := m.Read(context.Background())
		if e == nil {
			mark.Halted = reason
			e = m.Raise(context.Background(), mark)
		}
		if e != nil {
			l.c.Logger.Error("halting at a high-water mark", "origin", l.c.Origin, "err", e)
		}
	}
	if e := l.c.DB.Update(func(tx store.Tx) error { return tx.Put(l.keys.latch(), []byte(reason)) }); e != nil {
		l.c.Logger.Error("halting in the database", "origin", l.c.Origin, "err", e)
	}
	return err
}
