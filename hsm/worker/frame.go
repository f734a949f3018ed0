package worker

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"redoubt.internal/hsm"
)

// A frame is what crosses the pipe, in both directions:
//
//	0       4       8     9
//	+-------+-------+-----+----------------
//	| n     | id    | op  | body: n-5 octets
//	+-------+-------+-----+----------------
//
// Integers are unsigned and big-endian. A request's id is unique among the
// requests under way; its answer has the same id. Requests begin with the time
// they may take, in milliseconds (4 octets):
//
//	opOpen      time | configuration, opaque to this package
//	opSigner    time | URI
//	opGenerate  time | length of the algorithm's name (1) | name | URI
//	opSign      time | key (4) | hash (1, a crypto.Hash) | scheme (1) | digest
//
// An answer is opDone with a body (opOpen: none; opSigner and opGenerate: a
// keyAnswer as JSON; opSign: the signature) or opFailed with a set of sentinels
// (2 octets, bits of the list below) and the text of the error.
const (
	opOpen     = 1
	opSigner   = 2
	opGenerate = 3
	opSign     = 4
	opDone     = 16
	opFailed   = 17
)

// Signature schemes: whatever the key's type does by itself, and PSS.
const (
	schemePlain = 0
	schemePSS   = 1
)

// maxFrame bounds n. The largest frames are messages signed with Ed25519.
const maxFrame = 1 << 20

// maxPending bounds the requests under way in one worker.
const maxPending = 1024

// errProtocol: the other end does not speak as the frames say.
var errProtocol = errors.New("malformed frame")

// frame is one frame; body is owned by the frame.
type frame struct {
	id   uint32
	op   uint8
	body []byte
}

// writeFrame writes f in one call of w.
func writeFrame(w io.Writer, f frame) error {
	if len(f.body) > maxFrame-5 {
		return fmt.Errorf("frame of %d octets, limit %d: %w", len(f.body)+5, maxFrame, hsm.ErrUnsupported)
	}
	b := make([]byte, 9, 9+len(f.body))
	binary.BigEndian.PutUint32(b, uint32(5+len(f.body)))
	binary.BigEndian.PutUint32(b[4:], f.id)
	b[8] = f.op
	_, err := w.Write(append(b, f.body...))
	return err
}

// readFrame reads one frame; io.EOF only at the end of a frame.
func readFrame(r io.Reader) (frame, error) {
	var head [9]byte
	if _, err := io.ReadFull(r, head[:4]); err != nil {
		return frame{}, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n < 5 || n > maxFrame {
		return frame{}, fmt.Errorf("%w: %d octets announced", errProtocol, n)
	}
	if _, err := io.ReadFull(r, head[4:]); err != nil {
		return frame{}, noEOF(err)
	}
	f := frame{id: binary.BigEndian.Uint32(head[4:]), op: head[8], body: make([]byte, n-5)}
	if _, err := io.ReadFull(r, f.body); err != nil {
		return frame{}, noEOF(err)
	}
	return f, nil
}

func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// request is a parsed request; the fields of other ops are zero.
type request struct {
	op     uint8
	time   time.Duration
	config []byte
	uri    string
	alg    hsm.Algorithm
	key    uint32
	digest []byte
	opts   crypto.SignerOpts
}

// maxTime bounds the time a request may ask for.
const maxTime = time.Hour

// encode is the body of r.
func (r request) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(max(1, min(r.time, maxTime)/time.Millisecond)))
	switch r.op {
	case opOpen:
		b = append(b, r.config...)
	case opSigner:
		b = append(b, r.uri...)
	case opGenerate:
		b = append(append(append(b, byte(len(r.alg))), r.alg...), r.uri...)
	case opSign:
		scheme := byte(schemePlain)
		if _, ok := r.opts.(*rsa.PSSOptions); ok {
			scheme = schemePSS
		}
		b = binary.BigEndian.AppendUint32(b, r.key)
		b = append(append(b, byte(r.opts.HashFunc()), scheme), r.digest...)
	}
	return b
}

// parseRequest reads the body of a request.
func parseRequest(f frame) (request, error) {
	bad := func(what string) (request, error) {
		return request{}, fmt.Errorf("%w: request with %s", errProtocol, what)
	}
	b := f.body
	if len(b) < 4 {
		return bad("no time")
	}
	r := request{op: f.op, time: time.Duration(binary.BigEndian.Uint32(b)) * time.Millisecond}
	if b = b[4:]; r.time <= 0 || r.time > maxTime {
		return bad("a time out of bounds")
	}
	switch f.op {
	case opOpen:
		r.config = b
	case opSigner:
		r.uri = string(b)
	case opGenerate:
		if len(b) < 1 || len(b) < 1+int(b[0]) {
			return bad("a cut algorithm")
		}
		r.alg, r.uri = hsm.Algorithm(b[1:1+int(b[0])]), string(b[1+int(b[0]):])
	case opSign:
		if len(b) < 6 {
			return bad("no key")
		}
		r.key, r.digest = binary.BigEndian.Uint32(b), b[6:]
		hash := crypto.Hash(b[4])
		if !slices.Contains([]crypto.Hash{0, crypto.SHA256, crypto.SHA384, crypto.SHA512}, hash) {
			return bad("an unknown hash")
		}
		switch r.opts = hash; {
		case b[5] == schemePSS && hash != 0:
			r.opts = &rsa.PSSOptions{Hash: hash, SaltLength: rsa.PSSSaltLengthEqualsHash}
		case b[5] == schemePlain && hash == 0:
			r.opts = &ed25519.Options{}
		case b[5] != schemePlain:
			return bad("an unknown scheme")
		}
	default:
		return bad("an unknown operation")
	}
	return r, nil
}

// sentinels cross the pipe as bits, in this order. context.DeadlineExceeded
// tells the caller that its deadline was the reason.
var sentinels = []error{
	hsm.ErrNotFound, hsm.ErrAmbiguous, hsm.ErrExists, hsm.ErrBadPIN, hsm.ErrUnavailable, hsm.ErrUnsupported, hsm.ErrInsecureKey, hsm.ErrBadSignature, hsm.ErrHung,
	context.DeadlineExceeded,
}

// remoteError is an error of the worker: its text, and the sentinels it was.
type remoteError struct {
	text string
	is   []error
}

func (e *remoteError) Error() string   { return e.text }
func (e *remoteError) Unwrap() []error { return e.is }

// maxText bounds the text of an error.
const maxText = 4 << 10

// encodeError is the body of an opFailed.
func encodeError(err error) []byte {
	var mask uint16
	for i, s := range sentinels {
		if errors.Is(err, s) {
			mask |= 1 << i
		}
	}
	text := err.Error()
	return append(binary.BigEndian.AppendUint16(nil, mask), text[:min(len(text), maxText)]...)
}

// parseError reads the body of an opFailed.
func parseError(b []byte) error {
	if len(b) < 3 || len(b) > 2+maxText {
		return fmt.Errorf("%w: failure of %d octets", errProtocol, len(b))
	}
	e := &remoteError{text: string(b[2:])}
	mask := binary.BigEndian.Uint16(b)
	if mask>>len(sentinels) != 0 {
		return fmt.Errorf("%w: failure of an unknown kind", errProtocol)
	}
	for i, s := range sentinels {
		if mask&(1<<i) != 0 {
			e.is = append(e.is, s)
		}
	}
	return e
}

// keyAnswer describes a key to the parent.
type keyAnswer struct {
	Key  uint32   `json:"key"`  // names the key in this worker
	SPKI []byte   `json:"spki"` // DER SubjectPublicKeyInfo
	Info hsm.Info `json:"info"`
}

// parseKey reads a keyAnswer strictly.
func parseKey(b []byte) (keyAnswer, crypto.PublicKey, error) {
	var a keyAnswer
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&a); err != nil {
		return a, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return a, nil, fmt.Errorf("%w: data after a key", errProtocol)
	}
	pub, err := x509.ParsePKIXPublicKey(a.SPKI)
	if err != nil {
		return a, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	if _, err := hsm.AlgorithmOf(pub); err != nil {
		return a, nil, fmt.Errorf("%w: %w", errProtocol, err)
	}
	return a, pub, nil
}
