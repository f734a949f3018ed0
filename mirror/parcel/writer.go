package parcel

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"runtime"
	"slices"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Writer packs one parcel into a directory. Files are written under hidden names until Packed.Publish.
type Writer struct {
	root   *os.Root
	name   string
	m      Manifest
	volume int64 // largest size of a volume, 0 for one volume of any size
	enc    *zstd.Encoder

	last   *Name
	pool   sync.Pool // of buffers whose frame was written
	raw    []byte    // tar bytes not yet handed to the encoder
	files  int64     // files in raw
	queue  []*frame
	f      *os.File // payload of the volume being written
	sum    hash.Hash
	filled Volume
}

// frame is one zstd frame on its way through the encoder.
type frame struct {
	raw   []byte
	files int64
	done  chan []byte
}

// NewWriter starts a parcel in directory dir: volumes NAME.001.rdp and so on, none larger than volumeSize bytes (0: one
// volume). m says everything but Volumes, MinImporter and Exporter, which the Writer fills in.
func NewWriter(dir, name string, m Manifest, volumeSize int64) (*Writer, error) {
	if !IsStream(name) {
		return nil, fmt.Errorf("%w: parcel name %.80q", ErrManifest, name)
	}
	if volumeSize != 0 && volumeSize < MinVolumeSize {
		return nil, fmt.Errorf("%w: %d bytes, the least is %d", ErrVolumeSize, volumeSize, MinVolumeSize)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20),
		zstd.WithEncoderCRC(false), zstd.WithEncoderConcurrency(runtime.GOMAXPROCS(0)))
	if err != nil {
		root.Close()
		return nil, err
	}
	m.MinImporter, m.Volumes, m.Logs = Format, nil, append([]Log{}, m.Logs...)
	for i := range m.Logs {
		if m.Logs[i].Observed.IsZero() {
			m.Logs[i].Observed = m.Created
		}
	}
	m.TUF = slices.Clone(m.TUF)
	for i := range m.TUF {
		m.TUF[i].Files = append([]Digest{}, m.TUF[i].Files...)
		if m.TUF[i].Observed.IsZero() {
			m.TUF[i].Observed = m.Created
		}
	}
	return &Writer{root: root, name: name, m: m, volume: volumeSize, enc: enc}, nil
}

// reserve is the room kept for the manifest in a volume of limited size.
func (w *Writer) reserve() int64 { return min(maxNote, w.volume/8) }

// Add appends a file. Names ascend as Compare orders them.
func (w *Writer) Add(n Name, data []byte) error {
	if w.last != nil && Compare(*w.last, n) >= 0 {
		return fmt.Errorf("%w: %s does not come after %s", ErrManifest, n, *w.last)
	}
	called := n.Log >= 0 && n.Log < len(w.m.Logs)
	switch {
	case n.TUF.Kind != 0:
		called = n.TUF.in(&w.m)
	case n.Blob.Set:
		called = n.Blob.in(&w.m)
	}
	if !called || int64(len(data)) > n.Limit() {
		return fmt.Errorf("%w: %s of %d bytes", ErrManifest, n, len(data))
	}
	w.last = &n
	if w.raw == nil {
		w.raw = w.buffer(0)
	}
	h := tarHeader(n.String(), int64(len(data)))
	w.raw = append(append(append(w.raw, h[:]...), data...), make([]byte, padding(int64(len(data))))...)
	w.files++
	target := int64(frameTarget)
	if w.volume > 0 {
		target = min(target, w.volume/8)
	}
	if int64(len(w.raw)) < target {
		return nil
	}
	return w.flush()
}

// flush hands raw to the encoder and writes what is finished, keeping one frame per processor in flight. Frames are cut by
// size alone, so the bytes do not depend on how many there are.
func (w *Writer) flush() error {
	if len(w.raw) > 0 {
		f := &frame{raw: w.raw, files: w.files, done: make(chan []byte, 1)}
		go func() { f.done <- w.compress(f.raw) }()
		w.queue = append(w.queue, f)
		w.raw, w.files = nil, 0
	}
	for len(w.queue) > runtime.GOMAXPROCS(0) {
		if err := w.writeFrame(); err != nil {
			return err
		}
	}
	return nil
}

// compress returns raw as one zstd frame, or as stored frames where compression would pass the ratio a reader allows.
func (w *Writer) compress(raw []byte) []byte {
	out := w.enc.EncodeAll(raw, w.buffer(len(raw)+len(raw)/64+1024)) // what cannot be compressed grows a little
	if len(raw) <= len(out)*maxRatio {
		return out
	}
	out = nil
	for len(raw) > 0 {
		n := min(len(raw), maxWindow/2)
		out = append(out, stored(raw[:n])...)
		raw = raw[n:]
	}
	return out
}

var trailer = stored(make([]byte, 2*tarBlock))

func (w *Writer) writeFrame() error {
	f := w.queue[0]
	w.queue = w.queue[1:]
	out := <-f.done
	need := int64(len(out) + len(trailer))
	if w.volume > 0 && w.f != nil && w.filled.Bytes+need+w.reserve() > w.volume {
		if err := w.closeVolume(); err != nil {
			return err
		}
	}
	if w.f == nil {
		if w.volume > 0 && need+w.reserve() > w.volume {
			return fmt.Errorf("%w: a piece of %d bytes does not fit into %d", ErrVolumeSize, need, w.volume)
		}
		if err := w.openVolume(); err != nil {
			return err
		}
	}
	w.filled.Files += f.files
	w.filled.Unpacked += int64(len(f.raw))
	w.pool.Put(&f.raw)
	err := w.write(out)
	w.pool.Put(&out)
	return err
}

// buffer returns an empty buffer with room for n bytes at least.
func (w *Writer) buffer(n int) []byte {
	if b, ok := w.pool.Get().(*[]byte); ok && cap(*b) >= n {
		return (*b)[:0]
	}
	return make([]byte, 0, n)
}

func (w *Writer) write(b []byte) error {
	w.sum.Write(b)
	w.filled.Bytes += int64(len(b))
	if _, err := w.f.Write(b); err != nil {
		return fmt.Errorf("writing volume %d: %w", w.filled.N, err)
	}
	return nil
}

func (w *Writer) openVolume() error {
	n := len(w.m.Volumes) + 1
	if n > MaxVolumes {
		return fmt.Errorf("%w: more than %d volumes", ErrVolumeSize, MaxVolumes)
	}
	f, err := w.root.OpenFile(w.hidden(n, "payload"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing volume %d: %w", n, err)
	}
	w.f, w.sum, w.filled = f, sha256.New(), Volume{N: n}
	return nil
}

func (w *Writer) closeVolume() error {
	if err := w.write(trailer); err != nil {
		return err
	}
	w.filled.Unpacked += 2 * tarBlock
	w.filled.SHA256 = w.sum.Sum(nil)
	w.m.Volumes = append(w.m.Volumes, w.filled)
	err := w.f.Close()
	w.f = nil
	return err
}

func (w *Writer) hidden(n int, what string) string {
	return fmt.Sprintf(".%s.%s", fileName(w.name, n), what)
}

func fileName(name string, n int) string { return fmt.Sprintf("%s.%03d.rdp", name, n) }

// Packed is a finished parcel under hidden names.
type Packed struct {
	Manifest Manifest
	Note     []byte // the signed manifest
	Digest   Digest
	Files    []string // names of the volumes in the directory

	root *os.Root
}

// Finish signs the manifest under the key name and writes the volumes, durably but still under hidden names.
func (w *Writer) Finish(keyName string, s crypto.Signer) (*Packed, error) {
	if err := w.end(); err != nil {
		return nil, err
	}
	v, err := verifierOf(keyName, s.Public())
	if err != nil {
		return nil, err
	}
	w.m.Exporter = v.ID()
	text, err := w.m.Text()
	if err != nil {
		return nil, err
	}
	signed, err := SignNote(text, keyName, s)
	if err != nil {
		return nil, err
	}
	if len(signed) > maxNote {
		return nil, fmt.Errorf("%w: a manifest of %d bytes", ErrVolumeSize, len(signed))
	}
	return w.seal(text, signed)
}

// FinishAs is Finish for a parcel that was made before: signed is its manifest, by the key with the given id (see
// Verifier.ID). Anything that came out another way than it says is ErrManifest.
func (w *Writer) FinishAs(exporter string, signed []byte) (*Packed, error) {
	if err := w.end(); err != nil {
		return nil, err
	}
	w.m.Exporter = exporter
	text, err := w.m.Text()
	if err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(signed, append(text[:len(text):len(text)], '\n')) {
		return nil, fmt.Errorf("%w: the volumes are not those that were signed", ErrManifest)
	}
	return w.seal(text, signed)
}

// end writes what is left of the payload.
func (w *Writer) end() error {
	if err := w.flush(); err != nil {
		return err
	}
	for len(w.queue) > 0 {
		if err := w.writeFrame(); err != nil {
			return err
		}
	}
	if w.f == nil {
		if err := w.openVolume(); err != nil {
			return err
		}
	}
	return w.closeVolume()
}

// seal puts the signed manifest before every payload and flushes files and folder.
func (w *Writer) seal(text, signed []byte) (*Packed, error) {
	p := &Packed{Manifest: w.m, Note: signed, Digest: Sum(text), root: w.root}
	head := HeadFrame(signed)
	for _, vol := range w.m.Volumes {
		if w.volume > 0 && int64(len(head))+vol.Bytes > w.volume {
			return nil, fmt.Errorf("%w: the manifest takes %d bytes", ErrVolumeSize, len(head))
		}
		if err := w.assemble(vol.N, head); err != nil {
			return nil, fmt.Errorf("writing volume %d: %w", vol.N, err)
		}
		p.Files = append(p.Files, fileName(w.name, vol.N))
	}
	if err := syncDir(w.root); err != nil { // the caller's state names these files next
		return nil, fmt.Errorf("flushing the folder: %w", err)
	}
	return p, w.enc.Close()
}

// syncDir makes the names in a folder durable.
func syncDir(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// assemble puts the head before a payload.
func (w *Writer) assemble(n int, head []byte) error {
	in, err := w.root.Open(w.hidden(n, "payload"))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := w.root.OpenFile(w.hidden(n, "partial"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.Write(head); err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil { // copy_file_range where the file system can
		return err
	}
	if err := out.Sync(); err != nil {
		return err
	}
	return errors.Join(out.Close(), w.root.Remove(w.hidden(n, "payload")))
}

// Publish gives the volumes their names. It may be repeated, also in another process after Reopen.
func (p *Packed) Publish() error {
	for _, f := range p.Files {
		err := p.root.Rename("."+f+".partial", f)
		if p.Note == nil && errors.Is(err, os.ErrNotExist) { // reopened: named before, and perhaps carried away since
			continue
		}
		if err != nil {
			return fmt.Errorf("naming %s: %w", f, err)
		}
	}
	return syncDir(p.root)
}

// Missing lists the volumes that are there neither by name nor hidden.
func (p *Packed) Missing() (out []string) {
	for _, f := range p.Files {
		_, named := p.root.Lstat(f)
		if _, hidden := p.root.Lstat("." + f + ".partial"); named != nil && hidden != nil {
			out = append(out, f)
		}
	}
	return out
}

// Reopen names what a crashed process packed, so that Publish can be repeated.
func Reopen(dir string, files []string) (*Packed, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &Packed{Files: files, root: root}, nil
}

// Close ends access to the directory. Hidden files stay unless Publish named them.
func (p *Packed) Close() error { return p.root.Close() }

// Abandon removes what an unfinished Writer has written.
func (w *Writer) Abandon() {
	for _, f := range w.queue {
		<-f.done
	}
	if w.f != nil {
		w.f.Close()
	}
	for n := 1; n <= len(w.m.Volumes)+1; n++ {
		w.root.Remove(w.hidden(n, "payload"))
		w.root.Remove(w.hidden(n, "partial"))
	}
	w.enc.Close()
	w.root.Close()
}
