package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/diode"
	"redoubt.internal/mirror/parcel"
)

// Inbox says how a folder is looked at that volumes, or shards of volumes, arrive in at any time and in any order.
type Inbox struct {
	// Dir is the folder. Nothing in it is ever removed, but shards of imported volumes where Sweep says so.
	Dir string
	// Settle is how long a file must have been left alone before it is read; one that looks as it did at the look before has been.
	Settle time.Duration
	// Done is a folder on the same file system that volumes are moved to when they were imported; "" leaves them where they are.
	Done string
	// Receiver puts shards of the folder together; nil when volumes arrive whole.
	Receiver *diode.Receiver
	// Sweep removes the shards of volumes that were imported, and those that lie there longer than SweepAge, unless that is 0.
	Sweep    bool
	SweepAge time.Duration
	// Who is put into the register of media.
	Who string
}

// States of a file in the inbox.
const (
	FileSettling = "settling" // it may still be written to
	FileVolume   = "volume"   // a whole volume that waits for others, or for earlier parcels
	FileImported = "imported"
	FileRefused  = "refused" // it is looked at again when its bytes change, or what it was judged by does
	FileRetried  = "retried" // it could not be read or taken in now; the next look tries again
)

// InboxFile is what is known of one file of the inbox. Its JSON form is stable.
type InboxFile struct {
	Path     string        `json:"path"`
	State    string        `json:"state"`
	Parcel   parcel.Digest `json:"parcel,omitempty"`
	Sequence uint64        `json:"sequence,omitempty"`
	Volume   int           `json:"volume,omitempty"`
	Volumes  int           `json:"volumes,omitempty"` // of the parcel
	Code     int           `json:"code,omitempty"`    // exit code the file was refused with
	Detail   string        `json:"detail,omitempty"`
	Since    time.Time     `json:"since"` // when it came into this state

	Size   int64         `json:"size"`
	Mtime  time.Time     `json:"mtime"`
	Inode  uint64        `json:"inode"`
	SHA256 parcel.Digest `json:"sha256,omitempty"` // of a refused file
	Judged string        `json:"judged,omitempty"` // digest of what it was refused by: stream, exporter keys, logs
}

// InboxParcel is what the inbox holds of one parcel. Its JSON form is stable.
type InboxParcel struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Volumes  int           `json:"volumes"`
	Missing  []int         `json:"missing_volumes,omitempty"`
	State    string        `json:"state"` // "waiting for volumes 2, 5", "waiting for parcels 3 to 4", "imported", "refused", "ready"
	Code     int           `json:"code,omitempty"`
	Detail   string        `json:"detail,omitempty"`
}

// InboxReport says what a look at the inbox found and did. Its JSON form is stable.
type InboxReport struct {
	Dir       string        `json:"dir"`
	Parcels   []InboxParcel `json:"parcels"`
	Files     []InboxFile   `json:"files"`     // all that are not simply volumes of a parcel above
	Transfers []Transfer    `json:"transfers"` // taken in by this look
	Diode     *diode.Report `json:"diode,omitempty"`
	Swept     *diode.Swept  `json:"swept,omitempty"`
	Moved     int           `json:"moved,omitempty"` // volumes moved out of the inbox
}

const (
	keyInbox    = "mirror/inbox/"
	keyReceived = "mirror/received/" // by SHA-256: volumes from shards that were imported
)

func inboxKey(path string) string { return keyInbox + parcel.Sum([]byte(path)).String() }

// Look looks at the inbox once: it reads what is new, imports every parcel whose volumes are all there in the order of their
// numbers, and remembers the outcome of every file. A file that was refused is not tried again until its bytes change, or until
// what it was judged by (stream, exporter keys, logs) does. The error is that of the gravest import; ErrNothing when nothing was taken in.
func (m *Mirror) Look(ctx context.Context, c Inbox) (InboxReport, error) {
	l := &inboxLook{m: m, c: c, report: InboxReport{Dir: c.Dir, Parcels: []InboxParcel{}, Files: []InboxFile{}, Transfers: []Transfer{}}}
	if err := l.remember(); err != nil {
		return l.report, err
	}
	if err := l.list(ctx); err != nil {
		return l.report, err
	}
	err := l.take(ctx)
	if serr := l.save(); serr != nil {
		return l.report, errors.Join(err, serr)
	}
	if serr := l.tidy(ctx); serr != nil {
		return l.report, errors.Join(err, serr)
	}
	l.report.Parcels, l.report.Files = summary(l.files, l.last)
	if err == nil && len(l.report.Transfers) == 0 {
		err = fmt.Errorf("%w: nothing in the inbox is ready", ErrNothing)
	}
	return l.report, errors.Join(l.failed, err)
}

// inboxLook is one look at the inbox.
type inboxLook struct {
	m      *Mirror
	c      Inbox
	keys   []*parcel.Verifier
	judged string
	before map[string]InboxFile // by path
	files  []InboxFile
	last   uint64 // sequence of the last parcel imported
	failed error  // of shards: the disk is full
	report InboxReport
}

// remember reads what earlier looks found and what files are judged by now.
func (l *inboxLook) remember() (err error) {
	m := l.m
	if l.keys, err = m.exporterKeys(); err != nil {
		return err
	}
	standing, err := m.Exporters(context.Background())
	if err != nil {
		return err
	}
	by, err := json.Marshal([]any{m.c.Stream, standing, m.c.Logs})
	if err != nil {
		return err
	}
	l.judged, l.before = parcel.Sum(by).String(), make(map[string]InboxFile)
	return m.c.DB.View(func(tx store.Tx) error {
		var s streamState
		if _, err := get(tx, keyStream, &s); err != nil {
			return err
		}
		l.last = s.Sequence
		return scan(tx, keyInbox, func(_ string, f InboxFile) error { l.before[f.Path] = f; return nil })
	})
}

// list finds out what every file of the inbox is.
func (l *inboxLook) list(ctx context.Context) error {
	paths, err := parcel.Find(l.c.Dir)
	if err != nil {
		return err
	}
	if l.c.Receiver != nil {
		report, err := l.c.Receiver.Collect(ctx, l.c.Dir, l.received)
		if ctx.Err() != nil || err != nil && !errors.Is(err, diode.ErrFull) {
			return err
		}
		if err != nil {
			l.failed = fmt.Errorf("%w: %w", ErrFull, err)
		}
		l.report.Diode = &report
		for _, v := range report.Volumes {
			if v.State == diode.Assembled {
				paths = append(paths, v.File)
			}
		}
	}
	for _, p := range paths {
		f, err := l.look(ctx, p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		l.files = append(l.files, f)
	}
	return nil
}

// received tells whether a volume that came in shards was imported.
func (l *inboxLook) received(v diode.Digest) bool {
	var at time.Time
	err := l.m.c.DB.View(func(tx store.Tx) error { _, err := get(tx, keyReceived+v.String(), &at); return err })
	return err == nil && !at.IsZero()
}

// look says what one file is, reading it only when that is not known.
func (l *inboxLook) look(ctx context.Context, path string) (InboxFile, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return InboxFile{}, err
	}
	now := l.m.c.Now().UTC()
	f := InboxFile{Path: path, Size: st.Size(), Mtime: st.ModTime().UTC(), Since: now}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		f.Inode = sys.Ino
	}
	old, known := l.before[path]
	same := known && old.Size == f.Size && old.Mtime.Equal(f.Mtime) && old.Inode == f.Inode
	switch {
	case same && (old.State == FileVolume || old.State == FileImported), same && old.State == FileRefused && old.Judged == l.judged:
		return old, nil
	case !same && time.Since(f.Mtime) < l.c.Settle: // by the clock that wrote the time, not by the mirror's
		f.State = FileSettling
		return f, nil
	case known && old.State == FileRefused && old.Judged == l.judged:
		if f.SHA256, err = hashFile(ctx, path); err == nil && f.SHA256.Equal(old.SHA256) {
			old.Size, old.Mtime, old.Inode = f.Size, f.Mtime, f.Inode
			return old, nil
		}
	}
	piece, err := parcel.Identify(ctx, path, l.keys)
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	if err == nil {
		f.Parcel, f.Sequence, f.Volumes = piece.Digest, piece.Manifest.Sequence, len(piece.Manifest.Volumes)
		if piece.N > 0 {
			f.State, f.Volume = FileVolume, piece.N
			return f, nil
		}
		err = piece.Err
	}
	f, rerr := l.refuse(ctx, f, err)
	if rerr == nil && f.State == FileRefused {
		// Only what could not be recorded is an error of the look.
		if rerr = l.m.refuse(ctx, nil, err); errors.Is(err, rerr) {
			rerr = nil
		}
	}
	return f, rerr
}

// refuse notes why a file is not taken.
func (l *inboxLook) refuse(ctx context.Context, f InboxFile, err error) (InboxFile, error) {
	f.Code, f.Detail, f.State = ExitCode(err), oneLine(err), FileRefused
	switch f.Code {
	case 1, 3, 41, 42, 51, 75: // ours or the moment's to change
		f.State = FileRetried
		return f, nil
	}
	f.Judged = l.judged
	sum, herr := hashFile(ctx, f.Path)
	if ctx.Err() != nil {
		return f, ctx.Err()
	}
	if herr != nil {
		f.State, f.Code, f.Detail = FileRetried, 41, oneLine(herr)
	}
	f.SHA256 = sum
	return f, nil
}

func hashFile(ctx context.Context, path string) (parcel.Digest, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	h := sha256.New()
	for err == nil && ctx.Err() == nil {
		_, err = io.CopyN(h, f, 64<<20)
	}
	if err != io.EOF {
		return nil, errors.Join(ctx.Err(), err)
	}
	return h.Sum(nil), nil
}
