package tpm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/google/go-tpm/tpm2"
	"golang.org/x/sys/unix"

	"redoubt.internal/hsm"
)

const (
	// answerTime is how long a TPM may take for one command before it counts as
	// hung. The slowest chips sign RSA-3072 in about a second.
	answerTime = 1800 * time.Millisecond
	// makeTime is the same for commands that make RSA keys, and keys to stay: RSA in a chip takes minutes.
	makeTime = 5 * time.Minute
	// retryAfter is how long a failed contact answers for the next callers, so that
	// each of many waiting signers does not wait for a dead TPM in turn.
	retryAfter = 200 * time.Millisecond
	// maxMessage bounds commands and responses (TPM2_PT_MAX_RESPONSE_SIZE is 4096).
	maxMessage = 4096
)

// errLost says that the TPM could not be reached or did not answer.
var errLost = errors.New("the TPM does not answer")

// link is the one way to the TPM. Its gate is held by one operation (several
// commands) at a time: HMAC sessions have an order, and objects few places.
//
// A socket is dialled for each command, as swtpm serves one client at a time and
// tools must get a turn; a device is kept open, because the kernel's resource
// manager ties handles to it, and closed after any loss, which flushes them.
type link struct {
	device string
	logger *slog.Logger
	gate   chan struct{} // capacity 1
	closed atomic.Bool

	// The gate's holder owns what follows.
	fd      int                // of the character device; -1 when not open
	stuck   <-chan rawResponse // a command that did not come back from the kernel
	epoch   uint64             // raised when everything the TPM held for us is void
	lastErr error              // of the last contact, when it failed
	lastAt  time.Time
}

type rawResponse struct {
	data []byte
	err  error
}

func newLink(device string, logger *slog.Logger) *link {
	return &link{device: device, logger: logger, gate: make(chan struct{}, 1), fd: -1, epoch: 1}
}

// do runs fn while holding the link. It returns when fn is done or ctx ends; in
// the latter case fn runs on to its own end, flushing what it made, and its
// results must not be looked at.
func (l *link) do(ctx context.Context, fn func(w *wire) error) error { return l.run(ctx, false, fn) }

func (l *link) run(ctx context.Context, last bool, fn func(w *wire) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	}
	select {
	case l.gate <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("%w: waiting for the TPM: %w", hsm.ErrUnavailable, ctx.Err())
	}
	err := l.ready()
	if l.closed.Load() && !last {
		err = fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	if err != nil {
		<-l.gate
		return err
	}
	done := make(chan error, 1)
	go func() {
		w := &wire{l: l}
		err := guarded(w, fn)
		w.end()
		<-l.gate
		done <- err
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", hsm.ErrUnavailable, ctx.Err())
	}
}

// guarded runs fn and takes a panic over an answer that is no TPM's for the loss
// of the TPM: what the device says must not end the process.
func guarded(w *wire, fn func(w *wire) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.lost = fmt.Errorf("%w: it answers what cannot be read: %v", errLost, p)
			err = w.lost
		}
	}()
	return fn(w)
}

// ready refuses a link that failed a moment ago and one whose last
// command is still in the kernel.
func (l *link) ready() error {
	if l.lastErr != nil && time.Since(l.lastAt) < retryAfter {
		return l.lastErr
	}
	if l.stuck != nil {
		select {
		case <-l.stuck:
			l.stuck = nil
			l.closeDevice()
		default:
			return l.lastErr
		}
	}
	return nil
}

// close ends the link after running last on it, when the TPM can be had in time.
func (l *link) close(ctx context.Context, last func(w *wire)) {
	if l.closed.Swap(true) {
		return
	}
	_ = l.run(ctx, true, func(w *wire) error {
		last(w)
		if l.stuck == nil {
			l.closeDevice()
		}
		return nil
	})
}

func (l *link) closeDevice() {
	if l.fd >= 0 {
		_ = unix.Close(l.fd)
		l.fd = -1
	}
}

// lose notes that the TPM did not answer; everything it held for us is doubtful.
func (l *link) lose(err error) error {
	err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
	if l.lastErr == nil {
		l.logger.Warn("TPM lost", "device", l.device, "reason", err)
	}
	l.lastErr, l.lastAt = err, time.Now()
	l.epoch++
	if l.stuck == nil {
		l.closeDevice()
	}
	return err
}

// wire is the link as one operation sees it. It implements transport.TPM of
// go-tpm. After a loss every further command fails at once.
type wire struct {
	l    *link
	lost error
	slow bool
}

// slowly lets commands take as long as making a key does, until the function it
// returns is called.
func (w *wire) slowly() func() {
	w.slow = true
	return func() { w.slow = false }
}

// Send hands one command to the TPM and returns its response.
func (w *wire) Send(command []byte) ([]byte, error) {
	if w.lost != nil {
		return nil, w.lost
	}
	limit := answerTime
	if w.slow {
		limit = makeTime
	}
	deadline := time.Now().Add(limit)
	for pause := 2 * time.Millisecond; ; pause *= 2 {
		response, err := w.l.exchange(command, deadline)
		if err == nil && (len(response) < 10 || int(binary.BigEndian.Uint32(response[2:])) != len(response)) {
			err = fmt.Errorf("the TPM answered %d octets that are no response", len(response))
		}
		if err != nil {
			w.lost = fmt.Errorf("%w: %w", errLost, err)
			return nil, w.lost
		}
		switch tpm2.TPMRC(binary.BigEndian.Uint32(response[6:])) {
		case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting:
			if time.Now().Add(pause).Before(deadline) {
				time.Sleep(pause)
				continue
			}
		}
		return response, nil
	}
}

// end notes how the operation's contact went.
func (w *wire) end() {
	if w.lost != nil {
		w.l.lose(w.lost)
		return
	}
	if w.l.lastErr != nil {
		w.l.logger.Info("TPM is back", "device", w.l.device)
	}
	w.l.lastErr = nil
}

// exchange makes one exchange over whatever the device is.
func (l *link) exchange(command []byte, deadline time.Time) ([]byte, error) {
	if l.fd < 0 {
		st, err := os.Stat(l.device)
		if err != nil {
			return nil, err
		}
		switch {
		case st.Mode()&os.ModeSocket != 0:
			return exchangeSocket(l.device, command, deadline)
		case st.Mode()&os.ModeCharDevice == 0:
			return nil, fmt.Errorf("%s is neither a TPM device nor a socket", l.device)
		}
		if l.fd, err = unix.Open(l.device, unix.O_RDWR|unix.O_CLOEXEC, 0); err != nil {
			l.fd = -1
			return nil, fmt.Errorf("opening %s: %w", l.device, err)
		}
	}
	return l.exchangeDevice(command, deadline)
}

// exchangeSocket speaks to swtpm: one connection for each command.
func exchangeSocket(path string, command []byte, deadline time.Time) ([]byte, error) {
	d := net.Dialer{Deadline: deadline}
	conn, err := d.Dial("unix", path)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, err
	}
	if _, err := conn.Write(command); err != nil {
		return nil, err
	}
	response := make([]byte, maxMessage)
	if _, err := io.ReadFull(conn, response[:10]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(response[2:])
	if size < 10 || size > maxMessage {
		return nil, fmt.Errorf("response of %d octets", size)
	}
	_, err = io.ReadFull(conn, response[10:size])
	return response[:size], err
}

// exchangeDevice speaks to the kernel. A command in the kernel cannot be taken
// back: past the deadline its goroutine is left alone, the link answers
// hsm.ErrUnavailable without asking, and goes on when the kernel let go of it.
func (l *link) exchangeDevice(command []byte, deadline time.Time) ([]byte, error) {
	result, fd := make(chan rawResponse, 1), l.fd
	go func() {
		response := make([]byte, maxMessage)
		n, err := unix.Write(fd, command)
		if err == nil {
			n, err = unix.Read(fd, response)
		}
		result <- rawResponse{response[:max(n, 0)], err}
	}()
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case r := <-result:
		return r.data, r.err
	case <-timer.C:
		l.stuck = result
		return nil, os.ErrDeadlineExceeded
	}
}
