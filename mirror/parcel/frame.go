package parcel

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	tarBlock  = 512
	noteName  = "manifest.note"
	blockMax  = 128 << 10 // RFC 8878, section 3.1.1.2.4: no block is larger
	headerLen = 9         // of a frame as stored writes it
)

// frameStart is how every volume begins: zstd's magic number and the descriptor of a frame as stored writes it.
var frameStart = []byte{0x28, 0xB5, 0x2F, 0xFD, 0xA0}

// stored returns data as one zstd frame of raw blocks: magic, descriptor 0xA0 (single segment, 4-byte content size), blocks
// of {3 bytes: last, type 0, size; bytes} (RFC 8878, section 3.1.1). It is the form of the first and the last frame of a volume.
func stored(data []byte) []byte {
	out := make([]byte, 0, headerLen+len(data)+3*(len(data)/blockMax+1))
	out = append(out, frameStart...)
	out = binary.LittleEndian.AppendUint32(out, uint32(len(data)))
	for {
		n := min(len(data), blockMax)
		h := uint32(n) << 3
		if n == len(data) {
			h |= 1
		}
		out = append(out, byte(h), byte(h>>8), byte(h>>16))
		out = append(out, data[:n]...)
		data = data[n:]
		if len(data) == 0 {
			return out
		}
	}
}

// readStored reads one frame written by stored, of at most limit bytes of content, and nothing beyond it.
func readStored(r io.Reader, limit int) (data []byte, length int64, err error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return nil, 0, err
	}
	size := binary.LittleEndian.Uint32(h[5:])
	if !bytes.Equal(h[:5], frameStart) || int64(size) > int64(limit) {
		return nil, 0, errors.New("it does not begin as a volume does")
	}
	data = make([]byte, size)
	length = headerLen
	for at := 0; ; {
		n := min(len(data)-at, blockMax)
		var b [3]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return nil, 0, err
		}
		last := uint32(0)
		if at+n == len(data) {
			last = 1
		}
		if uint32(b[0])|uint32(b[1])<<8|uint32(b[2])<<16 != uint32(n)<<3|last {
			return nil, 0, errors.New("it does not begin as a volume does")
		}
		if _, err := io.ReadFull(r, data[at:at+n]); err != nil {
			return nil, 0, err
		}
		at, length = at+n, length+3+int64(n)
		if last == 1 {
			return data, length, nil
		}
	}
}

// tarHeader returns the one header a volume has for a file: POSIX ustar, regular, mode 0644, owner 0, time 0.
func tarHeader(name string, size int64) [tarBlock]byte {
	var h [tarBlock]byte
	copy(h[0:100], name)
	copy(h[100:], "0000644\x00")
	copy(h[108:], "0000000\x00")
	copy(h[116:], "0000000\x00")
	copy(h[124:], fmt.Sprintf("%011o\x00", size))
	copy(h[136:], "00000000000\x00")
	copy(h[148:], "        ")
	h[156] = '0'
	copy(h[257:], "ustar\x0000")
	copy(h[329:], "0000000\x00")
	copy(h[337:], "0000000\x00")
	sum := 0
	for _, b := range h {
		sum += int(b)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	return h
}

// parseHeader returns name and size of a header that is byte for byte what tarHeader gives for them.
func parseHeader(h *[tarBlock]byte) (name string, size int64, err error) {
	end := bytes.IndexByte(h[:100], 0)
	if end <= 0 {
		return "", 0, errors.New("a tar header of another form")
	}
	for _, c := range h[124:135] {
		if c < '0' || c > '7' {
			return "", 0, errors.New("a tar header of another form")
		}
		size = size<<3 | int64(c-'0')
	}
	if tarHeader(string(h[:end]), size) != *h {
		return "", 0, errors.New("a tar header of another form")
	}
	return string(h[:end]), size, nil
}

// padding is the number of zero bytes behind a file of size bytes.
func padding(size int64) int64 { return -size & (tarBlock - 1) }

// HeadFrame returns the first frame of every volume of a parcel with this manifest.
func HeadFrame(signed []byte) []byte {
	h := tarHeader(noteName, int64(len(signed)))
	data := append(h[:], signed...)
	return stored(append(data, make([]byte, padding(int64(len(signed))))...))
}

// readHead reads the first frame of a volume and returns the signed manifest in it and the frame's length.
func readHead(r io.Reader) (signed []byte, length int64, err error) {
	data, length, err := readStored(r, tarBlock+maxNote+tarBlock)
	if err != nil {
		return nil, 0, err
	}
	if len(data) < tarBlock {
		return nil, 0, errors.New("it does not begin as a volume does")
	}
	name, size, err := parseHeader((*[tarBlock]byte)(data))
	if err != nil || name != noteName || size > maxNote || tarBlock+size+padding(size) != int64(len(data)) {
		return nil, 0, errors.New("it does not begin with a manifest")
	}
	for _, b := range data[tarBlock+size:] {
		if b != 0 {
			return nil, 0, errors.New("it does not begin with a manifest")
		}
	}
	return data[tarBlock : tarBlock+size], length, nil
}
