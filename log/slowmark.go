package log

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"
	"time"
)

// SlowMarks keeps the marks of all logs of one data directory in a file that is bound to a monotonic counter in hardware: the
// file holds the counter's value, and each write raises both. A copy of an older file no longer fits the counter, so that
// putting back directory, file and all is noticed, which a file alone cannot do.
//
// Counters are slow and wear out, so they are not raised per commit: the marks are stored at start, at stop, at a halt and
// every Config.Every in between. What was signed since is not covered, and Status says how old the stored marks are.
//
// The file is written first and the counter raised after it. A crash in between leaves a file one ahead of its counter, which
// the next open completes; any other difference is ErrRolledBack for every log.
type SlowMarks struct {
	c SlowConfig

	storing sync.Mutex // held by the one store at a time, never by who holds mu

	mu     sync.Mutex
	broken error // why the file and the counter do not fit; every mark fails with it
	// undefined: neither file nor counter exist yet; the first Raise makes both.
	undefined bool
	counter   uint64
	stored    map[string]Mark // as in the file
	latest    map[string]Mark // as raised
	dirtyAt   time.Time       // when latest first differed from stored; zero when it does not
	storedAt  time.Time
	failed    error // the last store, when it failed

	stop, stopped chan struct{}
}

// SlowConfig says where the file is and how the counter is reached. The functions are a hardware token's; ErrNoCounter from
// Read says that the counter was never defined.
type SlowConfig struct {
	Path string // of the marks file
	Name string // of the counter, for people
	// Define makes the counter and gives it its first value.
	Define func(ctx context.Context) error
	Read   func(ctx context.Context) (uint64, error)
	// Raise adds one and returns the value then read back.
	Raise func(ctx context.Context) (uint64, error)
	// Every is how often changed marks are stored; 0 means a minute.
	Every time.Duration
	// Rewindable says that the counter's storage is a file itself (a software TPM).
	Rewindable bool
	Logger     *slog.Logger
}

// ErrNoCounter says that the counter is not defined.
var ErrNoCounter = errors.New("the counter is not defined")

// slowGrace is how many intervals a store may fail, as when a TPM is away, before logs stop: a counter that is kept from being
// raised would make old states look new.
const slowGrace = 10

// slowTimeout bounds one store.
const slowTimeout = 30 * time.Second

// OpenSlowMarks reads the counter and the file and completes a store a crash cut short. A file and a counter that do not fit,
// or that cannot be read, are no error here: every mark fails with the reason, and the logs open read-only and say it.
func OpenSlowMarks(ctx context.Context, c SlowConfig) *SlowMarks {
	if c.Every <= 0 {
		c.Every = time.Minute
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &SlowMarks{c: c, stored: map[string]Mark{}, latest: map[string]Mark{}, stop: make(chan struct{}), stopped: make(chan struct{})}
	if err := s.load(ctx); err != nil {
		s.broken = fmt.Errorf("marks %s bound to %s: %w", c.Path, c.Name, err)
	}
	go s.run()
	return s
}

func (s *SlowMarks) load(ctx context.Context) error {
	counter, err := s.c.Read(ctx)
	absent := errors.Is(err, ErrNoCounter)
	if err != nil && !absent {
		return fmt.Errorf("%w: %w", ErrHighWater, err)
	}
	data, err := readSlowFile(s.c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && absent:
		s.undefined = true
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w: the counter stands at %d and its file is gone", ErrRolledBack, ErrHighWater, counter)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrHighWater, err)
	case absent:
		return fmt.Errorf("%w: the file stands at count %d and its counter is gone: the TPM was cleared or is another one", ErrRolledBack, data.Counter)
	case data.Counter == counter+1: // a crash came between the file and its counter
		if counter, err = s.c.Raise(ctx); err != nil {
			return fmt.Errorf("%w: completing a store: %w", ErrHighWater, err)
		}
	}
	if data.Counter != counter {
		return fmt.Errorf("%w: the file stands at count %d, the counter at %d: the file is an older copy", ErrRolledBack, data.Counter, counter)
	}
	s.counter, s.storedAt = counter, data.Time
	for _, m := range data.Marks {
		s.stored[m.Origin] = m.mark()
	}
	s.latest = maps.Clone(s.stored)
	return nil
}

// For returns the mark of one origin.
func (s *SlowMarks) For(origin string) HighWater { return &slowMark{s, origin} }

// SlowStatus is what an operator is shown of marks bound to a counter.
type SlowStatus struct {
	Name       string        `json:"name"`
	Path       string        `json:"path"`
	Rewindable bool          `json:"rewindable"` // who can put the TPM's own storage back can rewind it
	Every      time.Duration `json:"every"`
	Counter    uint64        `json:"counter"`
	StoredAt   time.Time     `json:"storedAt"`
	Pending    bool          `json:"pending"` // heads were signed since
	Err        string        `json:"error,omitempty"`
}

// Status describes the marks.
func (s *SlowMarks) Status() SlowStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := SlowStatus{Name: s.c.Name, Path: s.c.Path, Rewindable: s.c.Rewindable, Every: s.c.Every, Counter: s.counter, StoredAt: s.storedAt, Pending: !s.dirtyAt.IsZero()}
	if err := errors.Join(s.broken, s.failed); err != nil {
		st.Err = err.Error()
	}
	return st
}

// Err is why the marks cannot be relied on; nil when they can.
func (s *SlowMarks) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.broken, s.failed)
}

// Flush stores changed marks now. Commits go on raising marks meanwhile.
func (s *SlowMarks) Flush(ctx context.Context) error {
	s.storing.Lock()
	defer s.storing.Unlock()
	s.mu.Lock()
	if s.broken != nil || s.dirtyAt.IsZero() {
		defer s.mu.Unlock()
		if s.dirtyAt.IsZero() {
			return nil
		}
		return s.broken
	}
	marks, since := maps.Clone(s.latest), s.dirtyAt
	s.dirtyAt = time.Time{} // what is raised from here on waits for the next store
	s.mu.Unlock()
	err := s.store(ctx, marks)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed = err; err != nil {
		s.dirtyAt = since
	}
	return err
}

// Close stores changed marks and ends the background work.
func (s *SlowMarks) Close() error {
	select {
	case <-s.stop:
		return nil
	default:
	}
	close(s.stop)
	<-s.stopped
	ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
	defer cancel()
	return s.Flush(ctx)
}

// run stores changed marks every c.Every.
func (s *SlowMarks) run() {
	defer close(s.stopped)
	tick := time.NewTicker(s.c.Every)
	defer tick.Stop()
	for {
		select {
		case <-s.stop:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
		if err := s.Flush(ctx); err != nil {
			s.c.Logger.Error("storing high-water marks", "counter", s.c.Name, "error", err)
		}
		cancel()
	}
}

// store writes the file one ahead of the counter, then raises the counter to it. The caller holds storing.
func (s *SlowMarks) store(ctx context.Context, marks map[string]Mark) error {
	s.mu.Lock()
	undefined, expected := s.undefined, s.counter
	s.mu.Unlock()
	if undefined {
		if err := createSlowFile(s.c.Path); err != nil {
			return err
		}
		if err := s.c.Define(ctx); err != nil {
			return fmt.Errorf("defining %s: %w", s.c.Name, err)
		}
	}
	counter, err := s.c.Read(ctx) // a store that failed half way may have raised it
	if err != nil {
		return fmt.Errorf("reading %s: %w", s.c.Name, err)
	}
	if !undefined && counter != expected && counter != expected+1 {
		return s.breakOff(fmt.Errorf("%w: %s stands at %d, expected %d: something else raises it", ErrHighWater, s.c.Name, counter, expected))
	}
	at := time.Now().UTC().Round(0)
	if err := writeSlowFile(s.c.Path, counter+1, at, marks); err != nil {
		return err
	}
	s.mu.Lock()
	s.undefined, s.counter = false, counter // the file fits counter, after a raise at open, and counter+1
	s.mu.Unlock()
	raised, err := s.c.Raise(ctx)
	if err != nil {
		return fmt.Errorf("raising %s: %w", s.c.Name, err)
	}
	if raised != counter+1 {
		return s.breakOff(fmt.Errorf("%w: %s was raised from %d to %d: something else raises it", ErrHighWater, s.c.Name, counter, raised))
	}
	s.mu.Lock()
	s.counter, s.stored, s.storedAt = raised, marks, at
	s.mu.Unlock()
	return nil
}

// breakOff makes every mark fail from here on.
func (s *SlowMarks) breakOff(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = err
	return err
}

// slowMark is the HighWater of one origin.
type slowMark struct {
	s      *SlowMarks
	origin string
}

// Read returns the stored mark.
func (m *slowMark) Read(context.Context) (Mark, error) {
	m.s.mu.Lock()
	defer m.s.mu.Unlock()
	if m.s.broken != nil {
		return Mark{}, m.s.broken
	}
	mark, ok := m.s.stored[m.origin]
	if !ok {
		return Mark{}, fmt.Errorf("reading %s of %s: %w", m.s.c.Path, m.origin, ErrNoMark)
	}
	return mark, nil
}

// Raise notes the mark; it is stored at once when it is a log's first or a halt, and with the next interval otherwise.
func (m *slowMark) Raise(ctx context.Context, to Mark) error {
	now, err := m.note(to)
	if err != nil || !now {
		return err
	}
	return m.s.Flush(ctx)
}

// note takes the mark into latest and says whether it is to be stored at once.
func (m *slowMark) note(to Mark) (now bool, err error) {
	s := m.s
	s.mu.Lock()
	defer s.mu.Unlock()
	was, known := s.latest[m.origin]
	switch {
	case s.broken != nil:
		return false, s.broken
	case to.Origin != m.origin || to.Origin == "":
		return false, fmt.Errorf("raising %s of %s: %w: the mark is of %q", s.c.Path, m.origin, ErrHighWater, to.Origin)
	case known && (to.Size < was.Size || to.Size == was.Size && to.Root != was.Root):
		return false, fmt.Errorf("raising %s of %s to size %d: %w: it stands at size %d, root %x", s.c.Path, m.origin, to.Size, ErrRolledBack, was.Size, was.Root)
	case known && was.Halted != "" && to.Halted == "":
		return false, fmt.Errorf("raising %s of %s: %w: halted: %s", s.c.Path, m.origin, ErrReadOnly, was.Halted)
	case known && to == was:
		return false, nil
	}
	if s.failed != nil && !s.dirtyAt.IsZero() && time.Since(s.dirtyAt) > slowGrace*s.c.Every {
		return false, fmt.Errorf("raising %s of %s: %w: nothing could be stored for %s: %w", s.c.Path, m.origin, ErrHighWater, time.Since(s.dirtyAt).Round(time.Second), s.failed)
	}
	s.latest[m.origin] = to
	if s.dirtyAt.IsZero() {
		s.dirtyAt = time.Now()
	}
	_, stored := s.stored[m.origin]
	return !stored || to.Halted != "", nil
}

// resume takes the halt off an origin; see Resume.
func (m *slowMark) resume() error {
	s := m.s
	s.mu.Lock()
	mark, ok := s.latest[m.origin]
	if !ok || mark.Halted == "" || s.broken != nil {
		defer s.mu.Unlock()
		return s.broken
	}
	mark.Halted = ""
	s.latest[m.origin], s.dirtyAt = mark, time.Now()
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), slowTimeout)
	defer cancel()
	return s.Flush(ctx)
}
