package log

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
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

const slowFormat = "redoubt marks bound to a counter v1"

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

// slowFile is one of the two slots of the marks file: JSON, with SHA-256 over the same JSON without the sum, padded with zeros. A
// store of count n writes slot n%2, so that a torn write costs the slot that was no longer needed. The file is made in full with the
// counter and written in place from then on: the directory it stands in need not be writable.
type slowFile struct {
	Format  string     `json:"format"`
	Counter uint64     `json:"counter"`
	Time    time.Time  `json:"time"`
	Marks   []slowLine `json:"marks"`
	Sum     string     `json:"sum"`
}

// slowSlot is the size of a slot.
const slowSlot = 64 << 10

type slowLine struct {
	Origin string `json:"origin"`
	Size   uint64 `json:"size"`
	Root   string `json:"root"` // 64 hex digits
	Halted string `json:"halted,omitempty"`
	root   [32]byte
}

func (l slowLine) mark() Mark {
	return Mark{Origin: l.Origin, Size: l.Size, Root: l.root, Halted: l.Halted}
}

func (f slowFile) sum() string {
	f.Sum = ""
	b, err := json.Marshal(f)
	if err != nil { // no field of it can fail
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// readSlowFile reads the newest slot that is whole. A file of zeros alone, as a crash leaves it before the first store, is
// fs.ErrNotExist.
func readSlowFile(path string) (newest *slowFile, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 2*slowSlot+1))
	if err != nil {
		return nil, err
	}
	if len(data) != 2*slowSlot {
		return nil, fmt.Errorf("the file of marks has %d bytes, not %d", len(data), 2*slowSlot)
	}
	if len(bytes.Trim(data, "\x00")) == 0 {
		return nil, fmt.Errorf("%s is empty: %w", path, fs.ErrNotExist)
	}
	for i := range 2 {
		slot, e := parseSlowFile(bytes.TrimRight(data[i*slowSlot:(i+1)*slowSlot], "\x00"))
		if e == nil && slot.Counter%2 != uint64(i) {
			e = errors.New("a slot in the place of the other")
		}
		if err = errors.Join(err, e); e == nil && (newest == nil || slot.Counter > newest.Counter) {
			newest = slot
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("the file of marks is damaged: %w", err)
	}
	return newest, nil
}

// parseSlowFile reads a slot; anything not written by writeSlowFile is refused.
func parseSlowFile(data []byte) (*slowFile, error) {
	var f slowFile
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("not a slot of marks: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("data after the marks")
	}
	if f.Format != slowFormat || f.Sum == "" || f.Sum != f.sum() {
		return nil, errors.New("the file of marks is damaged")
	}
	seen := map[string]bool{}
	for i := range f.Marks {
		l := &f.Marks[i]
		if n, err := hex.Decode(l.root[:], []byte(l.Root[:min(len(l.Root), 64)])); err != nil || n != 32 || len(l.Root) != 64 || l.Origin == "" || seen[l.Origin] {
			return nil, errors.New("the file of marks is damaged")
		}
		seen[l.Origin] = true
	}
	return &f, nil
}

// createSlowFile makes a file of two empty slots; one that is there stays.
func createSlowFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("making the file of marks: %w", err)
	}
	st, err := f.Stat()
	if err == nil && st.Size() == 0 {
		_, err = f.Write(make([]byte, 2*slowSlot))
	}
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("making the file of marks: %w", err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(d.Sync(), d.Close())
	}
	if err != nil {
		return fmt.Errorf("syncing the file of marks: %w", err)
	}
	return nil
}

// writeSlowFile writes the slot of count durably, in place.
func writeSlowFile(path string, counter uint64, at time.Time, marks map[string]Mark) (err error) {
	s := slowFile{Format: slowFormat, Counter: counter, Time: at, Marks: []slowLine{}}
	for _, origin := range slices.Sorted(maps.Keys(marks)) {
		m := marks[origin]
		s.Marks = append(s.Marks, slowLine{Origin: m.Origin, Size: m.Size, Root: hex.EncodeToString(m.Root[:]), Halted: m.Halted[:min(len(m.Halted), maxHalt)]})
	}
	s.Sum = s.sum()
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("encoding marks: %w", err)
	}
	if len(data) > slowSlot {
		return fmt.Errorf("encoding marks: %w: %d bytes of marks, place for %d", ErrHighWater, len(data), slowSlot)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("writing marks: %w", err)
	}
	_, err = f.WriteAt(append(data, make([]byte, slowSlot-len(data))...), int64(counter%2)*slowSlot)
	if err == nil {
		err = syscall.Fdatasync(int(f.Fd()))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing marks: %w", err)
	}
	return nil
}
