package diode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

var errOtherVolume = errors.New("the shards are whole, but the volume they give has another SHA-256 than they name")

// assemble puts a volume together from as many shards as there are data shards, hashes it, flushes it and gives it its name.
func (r *Receiver) assemble(ctx context.Context, s *set) error {
	if err := r.room(s.h.Size); err != nil {
		return err
	}
	files := make([]*os.File, len(s.paths))
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	left := s.h.Data
	for i, p := range s.paths {
		if p == "" || left == 0 {
			continue
		}
		f, err := os.OpenFile(p, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
		if err != nil {
			return fmt.Errorf("%w: %v", ErrShard, err)
		}
		files[i], left = f, left-1
	}
	name := fileName(s.h.Volume)
	hidden := "." + name + ".partial"
	out, err := r.root.OpenFile(hidden, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return full(err)
	}
	defer r.root.Remove(hidden)
	defer out.Close()
	if err := s.h.decode(ctx, files, out); err != nil {
		return full(err)
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return full(err)
	}
	if err := r.rehash(ctx, hidden, s.h.Volume); err != nil {
		return err
	}
	if err := r.root.Rename(hidden, name); err != nil {
		return full(err)
	}
	return syncDir(r.root)
}

// room refuses a volume that would not fit.
func (r *Receiver) room(size int64) error {
	var used int64
	list, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return err
	}
	for _, e := range list {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() {
			used += info.Size()
		}
	}
	if r.quota > 0 && used+size > r.quota {
		return fmt.Errorf("%w: a volume of %d bytes, %d of %d are used", ErrFull, size, used, r.quota)
	}
	d, err := r.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var st unix.Statfs_t
	if unix.Fstatfs(int(d.Fd()), &st) == nil && uint64(size) > st.Bavail*uint64(st.Bsize) { // not every file system tells; writing will
		return fmt.Errorf("%w: a volume of %d bytes, %d are free", ErrFull, size, st.Bavail*uint64(st.Bsize))
	}
	return nil
}

// decode writes the volume from the shards that are open: as many as there are data shards, each checked once more as it is read.
func (h Header) decode(ctx context.Context, files []*os.File, out io.WriterAt) error {
	code, err := newCode(h.Data, h.Parity)
	if err != nil {
		return fmt.Errorf("%w: %v", ErrShard, err)
	}
	buf, sums := buffers(len(files)), hashes(len(files))
	part, start := make([][]byte, len(files)), headerLen(len(files))
	for at := int64(0); at < h.payload(); at += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(chunk, h.payload()-at))
		for i, f := range files {
			part[i] = buf[i][:0] // to be made
			if f == nil {
				continue
			}
			part[i] = buf[i][:n]
			if _, err := f.ReadAt(part[i], start+at); err != nil {
				return fmt.Errorf("%w: reading number %d: %v", ErrShard, i, err)
			}
			sums[i].Write(part[i])
		}
		if code != nil {
			if err := code.ReconstructData(part); err != nil {
				return fmt.Errorf("%w: %v", ErrShard, err)
			}
		}
		for i := range h.Data {
			to := int64(i)*h.payload() + at
			if to >= h.Size {
				break
			}
			if _, err := out.WriteAt(part[i][:min(int64(n), h.Size-to)], to); err != nil {
				return err
			}
		}
	}
	for i, f := range files {
		if f != nil && Digest(sums[i].Sum(nil)) != h.Sums[i] {
			return fmt.Errorf("%w: number %d changed while it was read", ErrShard, i)
		}
	}
	return nil
}

// rehash compares what was written with the digest every shard names.
func (r *Receiver) rehash(ctx context.Context, name string, want Digest) error {
	f, err := r.root.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	sum := sha256.New()
	if _, err := io.Copy(sum, &reader{ctx, f}); err != nil {
		return err
	}
	if Digest(sum.Sum(nil)) != want {
		return errOtherVolume
	}
	return nil
}

// Swept says what Sweep removed. Its JSON form is stable.
type Swept struct {
	Shards  int   `json:"shards"`
	Volumes int   `json:"volumes"`
	Bytes   int64 `json:"bytes"`
}

// Sweep removes the shards, and the volumes put together, that done calls done; and shards that lie in the inbox since before
// the time named, unless that is zero. What is no shard stays. Shards go first: where it is cut short, the next Sweep goes on.
func (r *Receiver) Sweep(ctx context.Context, inbox string, done func(volume Digest) bool, before time.Time) (s Swept, err error) {
	err = walk(inbox, func(path string, info fs.FileInfo) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		v, err := r.look(ctx, path, info, func(Digest) bool { return true }) // headers suffice
		if err != nil || errors.Is(v.err, ErrNoShard) {
			return err
		}
		old := !before.IsZero() && info.ModTime().Before(before)
		if !old && (v.set == Digest{} || !done(v.h.Volume)) {
			return nil
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("removing a shard: %w", err)
		}
		delete(r.seen, path)
		s.Shards++
		s.Bytes += info.Size()
		return nil
	})
	if err != nil {
		return s, err
	}
	list, err := fs.ReadDir(r.root.FS(), ".")
	if err != nil {
		return s, err
	}
	for _, e := range list {
		var d Digest
		hex, ok := strings.CutSuffix(e.Name(), ".rdp")
		if !ok || d.UnmarshalText([]byte(hex)) != nil || !done(d) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return s, err
		}
		if err := r.root.Remove(e.Name()); err != nil {
			return s, fmt.Errorf("removing a volume: %w", err)
		}
		s.Volumes++
		s.Bytes += info.Size()
	}
	return s, nil
}

// VolumeOf is the digest of a volume that a Receiver put together, by its file's name.
func VolumeOf(path string) (d Digest, ok bool) {
	hex, ok := strings.CutSuffix(path[strings.LastIndexByte(path, '/')+1:], ".rdp")
	return d, ok && d.UnmarshalText([]byte(hex)) == nil
}
