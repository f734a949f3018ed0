package diode

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/klauspost/reedsolomon"
	"golang.org/x/sys/unix"
)

// Settings say how volumes are cut and how often they are sent.
type Settings struct {
	// Out is the folder the line takes files from. It exists.
	Out string
	// Parity is the number of parity shards for a hundred data shards: so many of a hundred and that many may be lost.
	Parity int
	// ShardSize is how large a data shard should be; large volumes have larger ones, because there are at most MaxShards.
	ShardSize int64
	// Repeat is how often every shard is sent, at least once.
	Repeat int
	// Every is the time between two rounds; then the folder holds one round at a time. 0 puts all copies there at once.
	Every time.Duration
}

// Sent says how one volume was cut. Its JSON form is stable.
type Sent struct {
	File       string `json:"file"`
	Volume     Digest `json:"volume"` // SHA-256 of the file
	Bytes      int64  `json:"bytes"`
	Data       int    `json:"data_shards"`
	Parity     int    `json:"parity_shards"`
	ShardBytes int64  `json:"shard_bytes"` // size of each shard's file
	Rounds     int    `json:"rounds"`      // how often each was put into the folder
}

// MaxParity is the largest Parity.
const MaxParity = 400

func (s Settings) check() error {
	switch {
	case s.Parity < 0 || s.Parity > MaxParity:
		return fmt.Errorf("%w: %d parity shards for 100, allowed are 0 to %d", ErrSettings, s.Parity, MaxParity)
	case s.ShardSize < MinShard:
		return fmt.Errorf("%w: shards of %d bytes, the least is %d", ErrSettings, s.ShardSize, MinShard)
	case s.Repeat < 1 || s.Repeat > 999:
		return fmt.Errorf("%w: sent %d times, allowed are 1 to 999", ErrSettings, s.Repeat)
	case s.Every < 0:
		return fmt.Errorf("%w: a round every %v", ErrSettings, s.Every)
	}
	return nil
}

// split is the number of data and parity shards of a volume.
func (s Settings) split(size int64) (data, parity int) {
	most := int64(MaxShards * 100 / (100 + s.Parity))
	data = int(max(1, min(most, (size+s.ShardSize-1)/s.ShardSize)))
	return data, (data*s.Parity + 99) / 100
}

// cutShards are the shards of one volume under hidden names.
type cutShards struct {
	name   string // first part of the shards' names
	header Header
}

func (c cutShards) hidden(i int) string { return fmt.Sprintf(".%s.%03d.partial", c.name, i) }

func (c cutShards) shown(i, round int) string {
	return fmt.Sprintf("%s.%03d.p%d.rds", c.name, i, round)
}

var leftover = regexp.MustCompile(`^\.[0-9a-f]{16}\.[0-9]{3}(\.copy)?\.partial$`)

// Send cuts the volumes named and puts their shards into the folder, each under its name once it is whole and flushed, one
// shard of every volume after the other so that what is lost in one go is not lost of one volume. The volumes are only read.
// With Every it returns after the last round.
func Send(ctx context.Context, s Settings, volumes []string) (sent []Sent, err error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(s.Out)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	unlock, err := lock(root)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := clearHidden(root); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, clearHidden(root)) }()
	var all []cutShards
	for _, v := range volumes {
		c, err := s.cut(ctx, root, v)
		if err != nil {
			return nil, fmt.Errorf("cutting %s: %w", v, full(err))
		}
		all = append(all, c)
		h := c.header
		sent = append(sent, Sent{File: v, Volume: h.Volume, Bytes: h.Size, Data: h.Data, Parity: h.Parity, ShardBytes: h.length()})
	}
	if err := syncfs(root); err != nil { // a name shows a whole shard, also after a power cut
		return nil, full(err)
	}
	for round := 1; round <= s.Repeat; round++ {
		if err := s.show(ctx, root, all, round); err != nil {
			return sent, full(err)
		}
		for i := range sent {
			sent[i].Rounds = round
		}
	}
	return sent, nil
}

// cut writes the shards of one volume under hidden names.
func (s Settings) cut(ctx context.Context, root *os.Root, path string) (c cutShards, err error) {
	in, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return c, err
	}
	defer in.Close()
	st, err := in.Stat()
	if err != nil {
		return c, err
	}
	if !st.Mode().IsRegular() || st.Size() == 0 || st.Size() > maxVolume {
		return c, fmt.Errorf("%w: it is no file of 1 to %d bytes", ErrSettings, int64(maxVolume))
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, &reader{ctx, io.NewSectionReader(in, 0, st.Size())}); err != nil {
		return c, err
	}
	h := Header{Volume: Digest(sum.Sum(nil)), Size: st.Size()}
	h.Data, h.Parity = s.split(h.Size)
	h.Sums = make([]Digest, h.Data+h.Parity)
	c = cutShards{name: h.Volume.String()[:16], header: h}
	files := make([]*os.File, len(h.Sums))
	defer func() {
		for _, f := range files {
			if f != nil {
				f.Close()
			}
		}
	}()
	for i := range files {
		if files[i], err = root.OpenFile(c.hidden(i), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
			return c, err
		}
	}
	if err := h.encode(ctx, in, files); err != nil {
		return c, err
	}
	for i, f := range files {
		h.Index = i
		if _, err := f.WriteAt(h.bytes(), 0); err != nil {
			return c, err
		}
	}
	return c, nil
}

// encode writes the payloads of all shards a chunk at a time and fills in their digests.
func (h Header) encode(ctx context.Context, in io.ReaderAt, files []*os.File) error {
	code, err := newCode(h.Data, h.Parity)
	if err != nil {
		return err
	}
	buf, sums := buffers(len(files)), hashes(len(files))
	start := headerLen(len(files))
	for at := int64(0); at < h.payload(); at += chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := int(min(chunk, h.payload()-at))
		for i := range buf {
			buf[i] = buf[i][:n]
		}
		for i := range h.Data {
			if err := readPart(in, buf[i], int64(i)*h.payload()+at, h.Size); err != nil {
				return err
			}
		}
		if code != nil {
			if err := code.Encode(buf); err != nil {
				return fmt.Errorf("making parity shards: %w", err)
			}
		}
		for i, f := range files {
			sums[i].Write(buf[i])
			if _, err := f.WriteAt(buf[i], start+at); err != nil {
				return err
			}
		}
	}
	for i := range sums {
		h.Sums[i] = Digest(sums[i].Sum(nil))
	}
	return nil
}

// readPart fills b with the volume's bytes from at on; beyond its end they are zero.
func readPart(in io.ReaderAt, b []byte, at, size int64) error {
	clear(b)
	if at >= size {
		return nil
	}
	n := min(int64(len(b)), size-at)
	if _, err := io.ReadFull(io.NewSectionReader(in, at, n), b[:n]); err != nil {
		return fmt.Errorf("reading the volume: %w", err)
	}
	return nil
}

// newCode is the Reed-Solomon code of the format: systematic, from a Vandermonde matrix over GF(2^8) with the polynomial 0x11D. Nil
// where there is no parity.
func newCode(data, parity int) (reedsolomon.Encoder, error) {
	if parity == 0 {
		return nil, nil
	}
	return reedsolomon.New(data, parity, reedsolomon.WithMaxGoroutines(2))
}

// show gives the shards of one round their names.
func (s Settings) show(ctx context.Context, root *os.Root, all []cutShards, round int) error {
	if round > 1 && s.Every > 0 {
		wait := time.NewTimer(s.Every)
		defer wait.Stop()
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-wait.C:
		}
		for _, c := range all { // what the line has not taken away by now it will find again
			for i := range c.header.Sums {
				if err := root.Remove(c.shown(i, round-1)); err != nil && !errors.Is(err, os.ErrNotExist) {
					return err
				}
			}
		}
	}
	for i := range MaxShards {
		for _, c := range all {
			if i >= len(c.header.Sums) {
				continue
			}
			if err := showOne(ctx, root, c.hidden(i), c.shown(i, round), round == s.Repeat); err != nil {
				return fmt.Errorf("naming %s: %w", c.shown(i, round), err)
			}
		}
	}
	return syncDir(root)
}

// showOne gives a hidden file its name, or one more of them.
func showOne(ctx context.Context, root *os.Root, hidden, name string, last bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if last {
		return root.Rename(hidden, name)
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if root.Link(hidden, name) == nil {
		return nil
	}
	in, err := root.Open(hidden) // a file system without hard links
	if err != nil {
		return err
	}
	defer in.Close()
	copied := hidden[:len(hidden)-len(".partial")] + ".copy.partial"
	out, err := root.OpenFile(copied, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := errors.Join(out.Sync(), out.Close()); err != nil {
		return err
	}
	return root.Rename(copied, name)
}

// clearHidden removes what a process that was cut short left half written.
func clearHidden(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, n := range names {
		if leftover.MatchString(n) {
			if err := root.Remove(n); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
		}
	}
	return nil
}
