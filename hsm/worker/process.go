package worker

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/hsm"
)

// descriptor is where the child finds its end of the pipe.
const descriptor = 3

// process is one running child. It is made by launch and never restarted.
type process struct {
	cmd    *exec.Cmd
	conn   net.Conn
	logger *slog.Logger

	write sync.Mutex // held while a frame is written

	mu      sync.Mutex
	next    uint32
	pending map[uint32]chan frame // requests the child has not answered, of callers that left as well; capacity 1 each
	reason  error                 // why it ended, set before dead is closed

	dead   chan struct{} // closed when it is no longer used
	reaped chan struct{} // closed when the operating system forgot it
	read   chan struct{} // closed when its last answer was read
	tail   lastLines

	keysMu sync.Mutex
	keys   map[string]uint32 // keyAnswer.Key by keyRef.name
}

// launch starts the child. Its environment is env and nothing else, its
// descriptors are the pipe and a pipe for what it prints, and it dies with this
// process.
func launch(path string, args, env []string, logger *slog.Logger) (*process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making the worker's pipe: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "worker"), os.NewFile(uintptr(fds[1]), "worker")
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	_ = ours.Close()
	if err != nil {
		return nil, fmt.Errorf("making the worker's pipe: %w", err)
	}
	printed, output, err := os.Pipe()
	if err != nil {
		_ = conn.Close()
		return nil, fmt.Errorf("making the worker's pipe: %w", err)
	}
	defer output.Close()
	p := &process{conn: conn, logger: logger, pending: map[uint32]chan frame{}, dead: make(chan struct{}), reaped: make(chan struct{}), read: make(chan struct{}), keys: map[string]uint32{}}
	p.cmd = &exec.Cmd{
		Path: path, Args: args, Env: append([]string{}, env...), Dir: "/",
		Stdout: output, Stderr: output, ExtraFiles: []*os.File{theirs},
		// A group of its own: an interrupt at the terminal is for the service, which still wants to sign.
		SysProcAttr: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true},
	}
	started := make(chan error)
	go p.reap(started)
	if err := <-started; err != nil {
		_, _ = conn.Close(), printed.Close()
		return nil, fmt.Errorf("starting worker %s: %w", path, err)
	}
	go p.relay(printed)
	go p.receive()
	return p, nil
}

// reap starts the child and waits for its end. Both happen on one thread that
// lives as long as the child: the kernel sends the parent-death signal when the
// thread ends that started the child.
func (p *process) reap(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := p.cmd.Start()
	if started <- err; err != nil {
		return
	}
	err = p.cmd.Wait()
	close(p.reaped)
	select { // what it said last comes before how it ended
	case <-p.read:
	case <-p.dead:
	case <-time.After(time.Second):
	}
	p.end(fmt.Errorf("token worker ended by itself: %s", describeExit(err)))
}

func describeExit(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// end marks p as unusable, for the first reason given, and kills it.
func (p *process) end(reason error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reason != nil {
		return
	}
	if p.reason = reason; p.reason == nil {
		p.reason = errors.New("token worker was closed")
	}
	close(p.dead)
	_ = p.conn.Close()
	_ = p.cmd.Process.Kill()
}

// retire lets the child close its token, and kills it when that takes longer
// than patience.
func (p *process) retire(patience time.Duration) {
	if c, ok := p.conn.(*net.UnixConn); ok {
		_ = c.CloseWrite()
	}
	select {
	case <-p.reaped:
	case <-time.After(patience):
	}
	p.end(nil)
	<-p.reaped
}

// receive hands answers to those who wait for them.
func (p *process) receive() {
	r := bufio.NewReaderSize(p.conn, 64<<10)
	for {
		f, err := readFrame(r)
		if err != nil {
			close(p.read)
			if errors.Is(err, errProtocol) {
				p.end(fmt.Errorf("token worker: %w", err))
			}
			select { // the exit status says more than the end of the pipe
			case <-p.dead:
			case <-p.reaped:
			case <-time.After(time.Second):
				p.end(errors.New("token worker closed its pipe"))
			}
			return
		}
		p.mu.Lock()
		waiter := p.pending[f.id]
		delete(p.pending, f.id)
		p.mu.Unlock()
		if waiter == nil {
			close(p.read)
			p.end(fmt.Errorf("%w: answer to no request", errProtocol))
			return
		}
		waiter <- f
		if f.op == opFailed { // looked at here, since the caller may have left
			if err := parseError(f.body); errors.Is(err, hsm.ErrHung) {
				p.end(fmt.Errorf("token worker was killed: %w", err))
			}
		}
	}
}

// call sends a request and returns the body of its answer. It waits for ctx and
// for the end of the process; a child that does not answer within r.time and
// grace is ended, even if its caller left before.
func (p *process) call(ctx context.Context, r request, grace time.Duration) ([]byte, error) {
	body := r.encode()
	if len(body) > maxFrame-5 {
		return nil, fmt.Errorf("request of %d octets, limit %d: %w", len(body), maxFrame-5, hsm.ErrUnsupported)
	}
	answer := make(chan frame, 1)
	p.mu.Lock()
	if p.reason != nil {
		p.mu.Unlock()
		return nil, p.gone()
	}
	if len(p.pending) >= maxPending {
		p.mu.Unlock()
		return nil, fmt.Errorf("%d requests are waiting for the token: %w", maxPending, hsm.ErrUnavailable)
	}
	for p.next++; p.pending[p.next] != nil; p.next++ {
	}
	id := p.next
	p.pending[id] = answer
	p.mu.Unlock()

	late := time.AfterFunc(r.time+grace, func() { p.late(id, r.time+grace) })
	p.write.Lock()
	err := writeFrame(p.conn, frame{id: id, op: r.op, body: body}) // ends at the latest when late closes the pipe
	p.write.Unlock()
	if err != nil {
		select { // how it ended says more than that it did
		case <-p.dead:
		case <-time.After(time.Second):
			p.end(fmt.Errorf("writing to the token worker: %w", err))
		}
	}
	select {
	case f := <-answer:
		late.Stop()
		return p.open(f)
	case <-p.dead:
		late.Stop()
		select {
		case f := <-answer: // it came first
			return p.open(f)
		default:
			return nil, p.gone()
		}
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for the token worker: %w: %w", hsm.ErrUnavailable, ctx.Err())
	}
}

// late ends a child that has not answered a request.
func (p *process) late(id uint32, after time.Duration) {
	p.mu.Lock()
	waiting := p.pending[id] != nil
	p.mu.Unlock()
	if waiting {
		p.end(fmt.Errorf("token worker did not answer within %s and was killed", after))
	}
}

// open reads an answer.
func (p *process) open(f frame) ([]byte, error) {
	switch f.op {
	case opDone:
		return f.body, nil
	case opFailed:
		err := parseError(f.body)
		if errors.Is(err, errProtocol) {
			p.end(err)
		}
		return nil, err
	}
	p.end(fmt.Errorf("%w: answer of kind %d", errProtocol, f.op))
	return nil, p.gone()
}

func (p *process) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

// goneError: the child ended before it answered.
type goneError struct {
	reason error
	said   string
}

func (e *goneError) Error() string {
	if e.said == "" {
		return e.reason.Error()
	}
	return e.reason.Error() + "; it said: " + e.said
}

func (e *goneError) Unwrap() []error { return []error{hsm.ErrUnavailable, e.reason} }

func (p *process) gone() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &goneError{p.reason, p.tail.String()}
}

// relay hands what the child, or a module in it, prints to the logger, the
// first lines of it: a crash prints its whole stack.
func (p *process) relay(r *os.File) {
	defer r.Close()
	in := bufio.NewReaderSize(r, 4<<10)
	for n := 0; ; n++ {
		line, err := in.ReadSlice('\n')
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line is dropped
			_, err = in.ReadSlice('\n')
		}
		text := strings.TrimSpace(strings.ToValidUTF8(string(line[:min(len(line), 512)]), "?"))
		if text != "" && n < 12 {
			p.tail.add(text)
			level := slog.LevelWarn
			if strings.HasPrefix(text, "level=INFO") || strings.HasPrefix(text, "level=DEBUG") {
				level = slog.LevelInfo
			}
			p.logger.Log(context.Background(), level, "token worker says", "pid", p.cmd.Process.Pid, "line", text)
		}
		if err != nil {
			_, _ = io.Copy(io.Discard, in)
			return
		}
	}
}

// lastLines keeps the first lines a child printed, for the error of its end.
type lastLines struct {
	mu    sync.Mutex
	lines []string
}

func (l *lastLines) add(line string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.lines) < 2 {
		l.lines = append(l.lines, line)
	}
}

func (l *lastLines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Join(l.lines, " | ")
}
