package worker

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

func requests() []request {
	return []request{
		{op: opOpen, time: time.Second, config: []byte(`{"a":1}`)},
		{op: opSigner, time: time.Minute, uri: "pkcs11:object=k"},
		{op: opGenerate, time: time.Hour, uri: "pkcs11:object=k", alg: hsm.RSA4096},
		{op: opSign, time: time.Millisecond, key: 7, digest: digest[:], opts: crypto.SHA256},
		{op: opSign, time: 1500 * time.Millisecond, key: 0xffffffff, digest: digest[:], opts: &rsa.PSSOptions{Hash: crypto.SHA512, SaltLength: rsa.PSSSaltLengthEqualsHash}},
		{op: opSign, time: time.Second, key: 1, digest: []byte("a message"), opts: &ed25519.Options{}},
	}
}

func TestRequestsReadBack(t *testing.T) {
	for _, r := range requests() {
		got, err := parseRequest(frame{op: r.op, body: r.encode()})
		if err != nil || !reflect.DeepEqual(got, r) {
			t.Errorf("%+v reads back as %+v, %v", r, got, err)
		}
	}
}

func TestErrorsKeepWhatTheyAre(t *testing.T) {
	for _, s := range sentinels {
		err := parseError(encodeError(fmt.Errorf("doing this: %w: %w", s, errors.New("because"))))
		for _, other := range sentinels {
			if errors.Is(err, other) != (other == s) {
				t.Errorf("%v: is %v: %v", err, other, errors.Is(err, other))
			}
		}
	}
	if err := parseError(append([]byte{0, 0}, bytes.Repeat([]byte{'x'}, maxText+1)...)); !errors.Is(err, errProtocol) {
		t.Errorf("took a text without end: %v", err)
	}
	if err := parseError([]byte{0xff, 0xff, 'x'}); !errors.Is(err, errProtocol) {
		t.Errorf("took unknown sentinels: %v", err)
	}
}

// What is no protocol ends the server, with the token closed and nothing signed.
func TestServeRefuses(t *testing.T) {
	open := request{op: opOpen, time: time.Second}
	header := func(n uint32) []byte { return binary.BigEndian.AppendUint32(nil, n) }
	encode := func(frames ...frame) []byte {
		var b bytes.Buffer
		for _, f := range frames {
			must(t, writeFrame(&b, f))
		}
		return b.Bytes()
	}
	opened := frame{1, opOpen, open.encode()}
	for name, in := range map[string][]byte{
		"no request":         nil,
		"too long":           header(maxFrame + 1),
		"too short":          header(4),
		"cut":                encode(opened)[:7],
		"not open first":     encode(frame{1, opSigner, request{op: opSigner, time: time.Second, uri: "fake:k"}.encode()}),
		"an answer":          encode(opened, frame{2, opDone, []byte("....")}),
		"no time":            encode(opened, frame{2, opSigner, []byte{0, 0, 0, 0, 'x'}}),
		"a year":             encode(opened, frame{2, opSigner, []byte{0xff, 0xff, 0xff, 0xff, 'x'}}),
		"SHA-1":              encode(opened, frame{2, opSign, []byte{0, 0, 1, 0, 0, 0, 0, 0, byte(crypto.SHA1), 0, 1}}),
		"a scheme":           encode(opened, frame{2, opSign, []byte{0, 0, 1, 0, 0, 0, 0, 0, byte(crypto.SHA256), 2, 1}}),
		"PSS over nothing":   encode(opened, frame{2, opSign, []byte{0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1}}),
		"a cut algorithm":    encode(opened, frame{2, opGenerate, []byte{0, 0, 1, 0, 9, 'x'}}),
		"an empty operation": encode(opened, frame{2, 0, []byte{0, 0, 1, 0}}),
	} {
		tok := &fake{dir: t.TempDir()}
		var out bytes.Buffer
		err := Serve(t.Context(), bytes.NewReader(in), &out, func(context.Context, []byte) (hsm.Token, error) { return tok, nil })
		if err == nil {
			t.Errorf("%s: served", name)
		}
		if len(in) > 13 && in[8] == opOpen && !tok.closed {
			t.Errorf("%s: the token is still open", name)
		}
	}
}

// A child that answers what nobody asked, or in no frame, is ended.
func TestParentRefuses(t *testing.T) {
	for name, answer := range map[string][]byte{
		"noise":           []byte("Segmentation fault (core dumped)\n"),
		"another request": {0, 0, 0, 5, 0, 0, 0, 99, opDone},
		"no answer":       {0, 0, 0, 5, 0, 0, 0, 1, opSign},
		"no error":        {0, 0, 0, 5, 0, 0, 0, 1, opFailed},
		"no key":          {0, 0, 0, 7, 0, 0, 0, 1, opDone, '{', '}'},
		"the end":         {},
	} {
		b := newFake(t)
		tok := b.open(t)
		p, err := tok.process(t.Context())
		must(t, err)
		ours, theirs := net.Pipe()
		real := p.conn
		p = &process{cmd: p.cmd, conn: ours, logger: p.logger, pending: map[uint32]chan frame{}, dead: make(chan struct{}), reaped: p.reaped, read: make(chan struct{}), keys: map[string]uint32{}}
		tok.mu.Lock()
		tok.current = p
		tok.mu.Unlock()
		go p.receive()
		go func() {
			_, _ = readFrame(theirs)
			_, _ = theirs.Write(answer)
			_ = theirs.Close()
		}()
		if _, err = tok.Signer(t.Context(), "fake:absent"); !errors.Is(err, hsm.ErrUnavailable) && !errors.Is(err, errProtocol) {
			t.Errorf("%s: %v", name, err)
		}
		if !p.isDead() {
			t.Errorf("%s: the child lives on", name)
		}
		_ = real.Close()
	}
}

func FuzzRequest(f *testing.F) {
	for _, r := range requests() {
		f.Add(r.op, r.encode())
	}
	f.Fuzz(func(t *testing.T, op uint8, body []byte) {
		r, err := parseRequest(frame{op: op, body: body})
		if err != nil {
			if !errors.Is(err, errProtocol) {
				t.Fatalf("%v", err)
			}
			return
		}
		if again := r.encode(); !bytes.Equal(again, body) {
			t.Fatalf("%x became %x", body, again)
		}
	})
}

func FuzzAnswer(f *testing.F) {
	f.Add(encodeError(hsm.ErrHung))
	f.Add([]byte(`{"key":1,"spki":"MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE","info":{"uri":"x","kind":"y"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := parseError(body); err == nil {
			t.Fatal("a failure that is none")
		}
		if _, pub, err := parseKey(body); err == nil {
			if _, err := hsm.AlgorithmOf(pub); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzFrame(f *testing.F) {
	for i, r := range requests() {
		var b bytes.Buffer
		_ = writeFrame(&b, frame{uint32(i), r.op, r.encode()})
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		fr, err := readFrame(r)
		if err != nil {
			if len(data) == 0 && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			return
		}
		var b bytes.Buffer
		if err := writeFrame(&b, fr); err != nil || !bytes.Equal(b.Bytes(), data[:len(data)-r.Len()]) {
			t.Fatalf("%x became %x, %v", data, b.Bytes(), err)
		}
	})
}
