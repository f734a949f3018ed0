package diode

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxFiles = 1 << 18 // files looked at in one inbox
	maxSets  = 1 << 12 // sets of shards kept track of
	maxDepth = 8       // folders below an inbox
)

// Receiver puts volumes together in a folder of its own. One process uses the folder at a time.
type Receiver struct {
	root   *os.Root
	dir    string
	quota  int64
	unlock func()
	seen   map[string]verdict // by path: what an earlier look found, so that nothing is hashed twice
}

// verdict is what a file was found to be while it looked like this.
type verdict struct {
	size  int64
	mtime time.Time
	inode uint64
	h     Header
	set   Digest
	err   error // ErrNoShard, ErrShard
}

// Open opens the folder volumes are put together in, making it if need be, and clears what a killed process left half made. quota
// bounds the bytes of finished volumes in it; 0 leaves it to the disk.
func Open(dir string, quota int64) (*Receiver, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	r := &Receiver{root: root, dir: dir, quota: quota, seen: make(map[string]verdict)}
	if r.unlock, err = lock(root); err != nil {
		root.Close()
		return nil, err
	}
	list, err := fs.ReadDir(root.FS(), ".")
	for _, e := range list {
		if strings.HasPrefix(e.Name(), ".") && strings.HasSuffix(e.Name(), ".partial") {
			err = errors.Join(err, root.Remove(e.Name()))
		}
	}
	if err != nil {
		r.Close()
		return nil, fmt.Errorf("clearing %s: %w", dir, err)
	}
	return r, nil
}

// Close lets go of the folder.
func (r *Receiver) Close() error {
	r.unlock()
	return r.root.Close()
}

// States of a volume.
const (
	Waiting   = "waiting"   // more shards are needed
	Assembled = "assembled" // the volume lies in the receiver's folder
	Done      = "done"      // the caller needs no more of it
	Broken    = "broken"    // the shards are whole and do not give the volume they name
)

// Volume says how far one volume is. Its JSON form is stable.
type Volume struct {
	Volume  Digest `json:"volume"`
	Bytes   int64  `json:"bytes"`
	State   string `json:"state"`
	File    string `json:"file,omitempty"`    // where the volume lies, once it is put together
	Data    int    `json:"data_shards"`       // how many shards are needed
	Parity  int    `json:"parity_shards"`     // how many there may be beyond that
	Have    int    `json:"have"`              // different whole shards that arrived
	Missing []int  `json:"missing,omitempty"` // numbers of shards that did not arrive whole, while more are needed
	Copies  int    `json:"copies,omitempty"`  // shards that arrived more than once
	Detail  string `json:"detail,omitempty"`
}

// Damaged is a file that begins as a shard and is not a whole one.
type Damaged struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

// Report says what an inbox holds. Its JSON form is stable.
type Report struct {
	Volumes []Volume  `json:"volumes"`
	Damaged []Damaged `json:"damaged"`
	Others  int       `json:"others"` // files that are no shards
}

// set is the shards that were cut together.
type set struct {
	h      Header
	paths  []string // by index; "" where none arrived
	copies int
}

// Collect looks at every file of the inbox and puts together each volume that enough shards arrived of, unless done says that it
// is not needed any more. It removes nothing. The error, if any, is of the receiver's own folder (ErrFull) or of the context; all
// that is wrong with the inbox stands in the report.
func (r *Receiver) Collect(ctx context.Context, inbox string, done func(volume Digest) bool) (Report, error) {
	report := Report{Volumes: []Volume{}, Damaged: []Damaged{}}
	sets := make(map[Digest]*set)
	seen := make(map[string]verdict)
	err := walk(inbox, func(path string, info fs.FileInfo) error {
		v, err := r.look(ctx, path, info, done)
		if err != nil {
			return err
		}
		seen[path] = v
		switch {
		case errors.Is(v.err, ErrNoShard):
			report.Others++
			return nil
		case v.err != nil:
			report.Damaged = append(report.Damaged, Damaged{path, v.err.Error()})
			return nil
		}
		s := sets[v.set]
		if s == nil {
			if len(sets) == maxSets {
				report.Damaged = append(report.Damaged, Damaged{path, fmt.Sprintf("shards of more than %d volumes at once", maxSets)})
				return nil
			}
			s = &set{h: v.h, paths: make([]string, len(v.h.Sums))}
			sets[v.set] = s
		}
		if s.paths[v.h.Index] != "" {
			s.copies++
			return nil
		}
		s.paths[v.h.Index] = path
		return nil
	})
	if err != nil {
		return report, err
	}
	r.seen = seen
	var failed error
	for _, s := range ordered(sets) {
		v, err := r.volume(ctx, s, done)
		if ctx.Err() != nil {
			return report, ctx.Err()
		}
		failed = errors.Join(failed, err)
		report.Volumes = append(report.Volumes, v)
	}
	return report, failed
}

func ordered(sets map[Digest]*set) (out []*set) {
	for _, s := range sets {
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b *set) int {
		return cmp.Or(slices.Compare(a.h.Volume[:], b.h.Volume[:]), cmp.Compare(a.h.Data, b.h.Data), cmp.Compare(a.h.Parity, b.h.Parity))
	})
	return out
}

// volume brings one volume as far as its shards allow.
func (r *Receiver) volume(ctx context.Context, s *set, done func(Digest) bool) (Volume, error) {
	v := Volume{Volume: s.h.Volume, Bytes: s.h.Size, Data: s.h.Data, Parity: s.h.Parity, Copies: s.copies, State: Waiting}
	for i, p := range s.paths {
		if p != "" {
			v.Have++
		} else {
			v.Missing = append(v.Missing, i)
		}
	}
	name := fileName(s.h.Volume)
	switch st, err := r.root.Lstat(name); {
	case done(s.h.Volume):
		v.State, v.Missing = Done, nil
		return v, nil
	case err == nil && st.Size() == s.h.Size:
		v.State, v.Missing, v.File = Assembled, nil, filepath.Join(r.dir, name)
		return v, nil
	case v.Have < v.Data:
		v.Detail = fmt.Sprintf("%d of %d shards arrived; %d more of the missing are needed", v.Have, v.Data, v.Data-v.Have)
		return v, nil
	}
	err := r.assemble(ctx, s)
	switch {
	case errors.Is(err, errOtherVolume):
		v.State, v.Detail, err = Broken, err.Error(), nil
	case errors.Is(err, ErrShard): // it changed since it was looked at: the next look reads it again
		v.Detail, err = err.Error(), nil
		r.seen = make(map[string]verdict)
	case err != nil:
		v.Detail = err.Error()
	default:
		v.State, v.Missing, v.File = Assembled, nil, filepath.Join(r.dir, name)
	}
	return v, err
}

func fileName(volume Digest) string { return volume.String() + ".rdp" }

// look says what a file is, reading only what it has not read before. The payload of a shard that is not needed is not read.
func (r *Receiver) look(ctx context.Context, path string, info fs.FileInfo, done func(Digest) bool) (verdict, error) {
	v := verdict{size: info.Size(), mtime: info.ModTime()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		v.inode = st.Ino
	}
	if old, ok := r.seen[path]; ok && old.size == v.size && old.mtime.Equal(v.mtime) && old.inode == v.inode {
		return old, nil
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		v.err = fmt.Errorf("%w: %v", ErrShard, err)
		return v, nil
	}
	defer f.Close()
	if v.h, v.err = ReadHeader(f); v.err != nil {
		if !errors.Is(v.err, ErrNoShard) && !errors.Is(v.err, ErrShard) {
			v.err = fmt.Errorf("%w: reading it: %v", ErrShard, v.err)
		}
		return v, nil
	}
	v.set = v.h.set()
	if v.size != v.h.length() {
		v.err = fmt.Errorf("%w: number %d of volume %s has %d bytes instead of %d", ErrShard, v.h.Index, short(v.h.Volume), v.size, v.h.length())
		return v, nil
	}
	if _, err := r.root.Lstat(fileName(v.h.Volume)); err == nil || done(v.h.Volume) {
		return v, nil
	}
	sum := sha256.New()
	_, err = io.Copy(sum, &reader{ctx, f})
	switch {
	case ctx.Err() != nil:
		return v, ctx.Err()
	case err != nil:
		v.err = fmt.Errorf("%w: reading number %d of volume %s: %v", ErrShard, v.h.Index, short(v.h.Volume), err)
	case Digest(sum.Sum(nil)) != v.h.Sums[v.h.Index]:
		v.err = fmt.Errorf("%w: number %d of volume %s has another SHA-256 than its header says", ErrShard, v.h.Index, short(v.h.Volume))
	}
	return v, nil
}

func short(d Digest) string { return d.String()[:16] }

// walk calls fn with each regular file below dir that is not hidden. It follows no links, and what cannot be read is passed over.
func walk(dir string, fn func(path string, info fs.FileInfo) error) error {
	n := 0
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			if path == dir {
				return err
			}
			return nil
		}
		hidden := path != dir && strings.HasPrefix(d.Name(), ".")
		if d.IsDir() {
			if hidden || strings.Count(strings.TrimPrefix(path, dir), string(filepath.Separator)) > maxDepth {
				return fs.SkipDir
			}
			return nil
		}
		if hidden || !d.Type().IsRegular() {
			return nil
		}
		if n++; n > maxFiles {
			return fs.SkipAll
		}
		info, err := d.Info()
		if err != nil {
			return nil // it is gone
		}
		return fn(path, info)
	})
}
