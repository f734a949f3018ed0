package parcel

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Reader hands out the files of a parcel, volume after volume.
type Reader struct {
	p    *Parcel
	ctx  context.Context
	n    int // volume being read, from 0
	src  *source
	sum  hash.Hash
	dec  *zstd.Decoder
	tar  io.Reader // unpacked bytes, one more than declared at most
	read int64     // unpacked bytes read
	file int64     // files read
	last *Name
}

// Files returns a Reader of a parcel that Check found whole.
func (p *Parcel) Files(ctx context.Context) (*Reader, error) {
	if len(p.volumes) == 0 {
		return nil, errors.New("reading a parcel that was not checked")
	}
	dec, err := zstd.NewReader(nil, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderMaxMemory(maxWindow), zstd.WithDecoderConcurrency(2))
	if err != nil {
		return nil, err
	}
	return &Reader{p: p, ctx: ctx, n: -1, dec: dec}, nil
}

// Close frees the decoder.
func (r *Reader) Close() { r.dec.Close() }

// Next returns the next file, its bytes appended to buf[:0]. At the end of the last volume, when its digest was found right
// once more, the error is io.EOF. Any other error names the volume.
func (r *Reader) Next(buf []byte) (Name, []byte, error) {
	n, b, err := r.next(buf)
	if err == nil || err == io.EOF {
		return n, b, err
	}
	if r.ctx.Err() != nil {
		return Name{}, nil, r.ctx.Err()
	}
	if r.src != nil && r.src.err != nil {
		err = r.src.err
	}
	if err == io.ErrUnexpectedEOF {
		err = errors.New("it ends in the middle of a file")
	}
	return Name{}, nil, &VolumeError{r.n + 1, r.p.volumes[r.n].path, err}
}

func (r *Reader) next(buf []byte) (Name, []byte, error) {
	for {
		if r.tar == nil {
			if r.n+1 == len(r.p.volumes) {
				return Name{}, nil, io.EOF
			}
			if err := r.openVolume(); err != nil {
				return Name{}, nil, err
			}
		}
		want := r.p.Manifest.Volumes[r.n]
		if r.file == want.Files {
			if err := r.closeVolume(); err != nil {
				return Name{}, nil, err
			}
			continue
		}
		return r.readFile(buf)
	}
}

func (r *Reader) openVolume() error {
	r.n++
	v := r.p.volumes[r.n]
	r.sum, r.read, r.file = sha256.New(), 0, 0
	r.src = &source{ctx: r.ctx, r: io.TeeReader(io.NewSectionReader(v.f, v.start, v.length), r.sum)}
	if err := r.dec.Reset(r.src); err != nil {
		return err
	}
	r.tar = io.LimitReader(r.dec, r.p.Manifest.Volumes[r.n].Unpacked+1)
	return nil
}

func (r *Reader) readFile(buf []byte) (Name, []byte, error) {
	var h [tarBlock]byte
	if err := r.fill(h[:]); err != nil {
		return Name{}, nil, err
	}
	s, size, err := parseHeader(&h)
	if err != nil {
		return Name{}, nil, err
	}
	n, err := ParseName(s)
	if err != nil {
		return Name{}, nil, err
	}
	if !n.within(r.p.Manifest) || size > n.Limit() {
		return Name{}, nil, fmt.Errorf("%w: %s of %d bytes", ErrManifest, n, size)
	}
	if r.last != nil && Compare(*r.last, n) >= 0 {
		return Name{}, nil, fmt.Errorf("%w: %s comes after %s", ErrManifest, n, *r.last)
	}
	r.last, r.file = &n, r.file+1
	if int64(cap(buf)) < size {
		buf = make([]byte, size)
	}
	buf = buf[:size]
	if err := r.fill(buf); err != nil {
		return Name{}, nil, err
	}
	return n, buf, r.zeros(padding(size))
}

func (r *Reader) fill(b []byte) error {
	n, err := io.ReadFull(r.tar, b)
	r.read += int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if r.read > r.p.Manifest.Volumes[r.n].Unpacked {
		return fmt.Errorf("%w: it unpacks to more than the manifest says", ErrManifest)
	}
	return err
}

func (r *Reader) zeros(n int64) error {
	var b [2 * tarBlock]byte
	if err := r.fill(b[:n]); err != nil {
		return err
	}
	if b != [2 * tarBlock]byte{} {
		return errors.New("bytes that are not zero where the tar has padding")
	}
	return nil
}

// closeVolume checks that the volume ends as it should and that what was read had the digest that Check saw.
func (r *Reader) closeVolume() error {
	want := r.p.Manifest.Volumes[r.n]
	if err := r.zeros(2 * tarBlock); err != nil {
		return err
	}
	var one [1]byte
	switch _, err := io.ReadFull(r.tar, one[:]); err {
	case io.EOF:
	case nil:
		return errors.New("something follows the end of the tar")
	default:
		return err
	}
	if r.read != want.Unpacked {
		return fmt.Errorf("%w: it unpacks to %d bytes, the manifest says %d", ErrManifest, r.read, want.Unpacked)
	}
	if _, err := io.Copy(io.Discard, r.src); err != nil {
		return err
	}
	if !want.SHA256.Equal(r.sum.Sum(nil)) {
		return errors.New("it changed while it was read")
	}
	r.tar = nil
	return nil
}
