package worker

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"redoubt.internal/hsm"
)

// Serve is the child's side: it opens one token as the first request says and
// answers requests until r ends, then closes the token. open is handed the
// parent's configuration. Requests run beside each other, each with its own
// deadline; a request that outlives it is left behind, which is why the parent
// ends the process. Serve returns nil at the end of r, an error when the parent
// does not speak the protocol or the pipe breaks.
func Serve(ctx context.Context, r io.Reader, w io.Writer, open func(ctx context.Context, config []byte) (hsm.Token, error)) error {
	s := &server{w: w, slots: make(chan struct{}, maxPending)}
	in := bufio.NewReaderSize(r, 64<<10)
	first, err := readRequest(in)
	if err != nil {
		return err
	}
	if first.op != opOpen {
		return fmt.Errorf("%w: first request is not to open", errProtocol)
	}
	openCtx, cancel := context.WithTimeout(ctx, first.time)
	defer cancel()
	if s.token, err = open(openCtx, first.config); err != nil {
		return s.answer(first.id, nil, err) // the parent ends the process
	}
	defer func() { _ = s.token.Close() }()
	if err := s.answer(first.id, nil, nil); err != nil {
		return err
	}
	for {
		req, err := readRequest(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case s.slots <- struct{}{}:
		default:
			return fmt.Errorf("%w: more than %d requests under way", errProtocol, maxPending)
		}
		go func() {
			defer func() { <-s.slots }()
			body, err := s.process(ctx, req.request)
			_ = s.answer(req.id, body, err) // a broken pipe ends the reader as well
		}()
	}
}

// numbered is a request with the id of its frame.
type numbered struct {
	id uint32
	request
}

func readRequest(r io.Reader) (numbered, error) {
	f, err := readFrame(r)
	if err != nil {
		return numbered{}, err
	}
	req, err := parseRequest(f)
	return numbered{f.id, req}, err
}

// server is the state of one Serve.
type server struct {
	token hsm.Token
	slots chan struct{} // one for each request under way

	write sync.Mutex // held while a frame is written
	w     io.Writer

	mu    sync.Mutex
	keys  []*hsm.Key // by keyAnswer.Key
	names map[string]uint32
}

// maxKeys bounds the keys one worker holds; a service has about ten.
const maxKeys = 4096

// process does one request and returns the body of its answer.
func (s *server) process(ctx context.Context, r request) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, r.time)
	defer cancel()
	switch r.op {
	case opSigner:
		key, err := s.token.Signer(ctx, r.uri)
		if err != nil {
			return nil, err
		}
		return s.describe(key)
	case opGenerate:
		key, err := s.token.Generate(ctx, r.uri, r.alg)
		if err != nil {
			return nil, err
		}
		return s.describe(key)
	case opSign:
		s.mu.Lock()
		known := int64(r.key) < int64(len(s.keys))
		var key *hsm.Key
		if known {
			key = s.keys[r.key]
		}
		s.mu.Unlock()
		if !known {
			return nil, fmt.Errorf("key %d: %w", r.key, hsm.ErrNotFound)
		}
		return key.SignContext(ctx, r.digest, r.opts)
	}
	return nil, fmt.Errorf("operation %d: %w", r.op, hsm.ErrUnsupported)
}

// describe remembers a key and returns its keyAnswer. The parent verifies each
// signature, so the key here does not do it a second time.
func (s *server) describe(key *hsm.Key) ([]byte, error) {
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	info := key.Info()
	name := info.URI + "\n" + info.Fingerprint
	s.mu.Lock()
	defer s.mu.Unlock()
	number, known := s.names[name]
	if !known {
		if len(s.keys) == maxKeys {
			return nil, fmt.Errorf("more than %d keys: %w", maxKeys, hsm.ErrUnsupported)
		}
		if s.names == nil {
			s.names = map[string]uint32{}
		}
		number = uint32(len(s.keys))
		s.keys, s.names[name] = append(s.keys, key.Unverified().WithTimeout(maxTime)), number
	}
	return json.Marshal(keyAnswer{Key: number, SPKI: spki, Info: info})
}

// answer writes the answer to a request.
func (s *server) answer(id uint32, body []byte, err error) error {
	f := frame{id: id, op: opDone, body: body}
	if err != nil {
		f.op, f.body = opFailed, encodeError(err)
	}
	s.write.Lock()
	defer s.write.Unlock()
	return writeFrame(s.w, f)
}
