package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"redoubt.internal/appliance/cmdline"
)

// verb is one thing that can be done to a state directory. Run is the same function on both sides: the serving process
// calls it for a request on the control socket, and a process that finds no server calls it under the directory's lock.
// actor names who asked, for the audit log: the socket peer's user, or the user of this process.
type verb[A, R any] struct {
	name string
	run  func(ctx context.Context, in *instance, actor string, args A) (R, error)
}

// operation is a verb with its types taken off, as the control socket sees it.
type operation struct {
	name string
	run  func(ctx context.Context, in *instance, actor string, args json.RawMessage) (any, error)
}

func (v verb[A, R]) operation() operation {
	return operation{v.name, func(ctx context.Context, in *instance, actor string, raw json.RawMessage) (any, error) {
		args, err := decodeCall[A](raw)
		if err != nil {
			return nil, cmdline.Usage("arguments of %s: %v", v.name, err)
		}
		return v.run(ctx, in, actor, args)
	}}
}

// decodeCall reads the arguments of an operation, all of which it has to know.
func decodeCall[A any](raw []byte) (args A, err error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	err = decoder.Decode(&args)
	return args, err
}

// failure is how an error travels over the control socket: its sentence, its hint and its exit code.
type failure struct {
	Error string `json:"error"`
	Hint  string `json:"hint,omitempty"`
	Code  int    `json:"code"`
}

// call runs the verb where the state is: in the server that holds c's state directory, else here under the lock.
func (v verb[A, R]) call(c *cli.Context, args A) (R, error) {
	return v.callAs(c, args, func(*instance) {})
}

// callAs is call that tells opened of the instance if it had to be opened here.
func (v verb[A, R]) callAs(c *cli.Context, args A, opened func(*instance)) (R, error) {
	var result R
	if socket := givenSocket(c); socket != "" {
		return v.ask(c.Context, dialFile(socket), args)
	}
	cfg, _, err := configured(c)
	if err != nil {
		return result, err
	}
	raw, err := json.Marshal(args)
	if err != nil {
		return result, fmt.Errorf("encoding the arguments: %w", err)
	}
	logger, err := cmdline.LoggerAt(c, slog.LevelError) // the result speaks; a verb is no server
	if err != nil {
		return result, err
	}
	for again := true; ; again = false {
		answer, err := callServer(c.Context, cfg, v.name, raw)
		if err == nil {
			if err := json.Unmarshal(answer, &result); err != nil {
				return result, fmt.Errorf("reading the server's answer: %w", err)
			}
			return result, nil
		}
		if !errors.Is(err, errNoServer) {
			return result, err
		}
		in, err := openInstance(c.Context, cfg.patiently(), logger)
		if errors.Is(err, errLocked) && again {
			continue // a server came up between the two
		}
		if err != nil {
			return result, err
		}
		defer in.close()
		opened(in)
		return v.here(c.Context, in, args)
	}
}

// ask runs the verb in the server at the other end of dial.
func (v verb[A, R]) ask(ctx context.Context, dial dialer, args A) (result R, err error) {
	raw, err := json.Marshal(args)
	if err != nil {
		return result, fmt.Errorf("encoding the arguments: %w", err)
	}
	answer, err := callOn(ctx, dial, v.name, raw)
	if errors.Is(err, errNoServer) {
		err = cmdline.Unavailable(err)
	}
	if err != nil {
		return result, err
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return result, fmt.Errorf("reading the server's answer: %w", err)
	}
	return result, nil
}

// here runs the verb in this process, for its user.
func (v verb[A, R]) here(ctx context.Context, in *instance, args A) (result R, err error) {
	who := in.law().user(os.Getuid())
	if err := in.permit(ctx, who, v.name); err != nil {
		return result, err
	}
	return v.run(ctx, in, who.actor(), args)
}

// attach is call for a caller that asks many times: the state is found once, and let go by done. A server that ends in between
// is an error, never a second process on the directory.
func (v verb[A, R]) attach(c *cli.Context) (ask func(A) (R, error), done func(), err error) {
	if socket := givenSocket(c); socket != "" {
		return func(args A) (R, error) { return v.ask(c.Context, dialFile(socket), args) }, func() {}, nil
	}
	cfg, _, err := configured(c)
	if err != nil {
		return nil, nil, err
	}
	logger, err := cmdline.LoggerAt(c, slog.LevelError)
	if err != nil {
		return nil, nil, err
	}
	remote := func(args A) (result R, err error) {
		raw, err := json.Marshal(args)
		if err != nil {
			return result, fmt.Errorf("encoding the arguments: %w", err)
		}
		answer, err := callServer(c.Context, cfg, v.name, raw)
		if errors.Is(err, errNoServer) {
			err = cmdline.Unavailable(errors.New("the server ended"))
		}
		if err != nil {
			return result, err
		}
		if err := json.Unmarshal(answer, &result); err != nil {
			return result, fmt.Errorf("reading the server's answer: %w", err)
		}
		return result, nil
	}
	for again := true; ; again = false {
		if answered(c.Context, cfg) {
			return remote, func() {}, nil // what else is wrong with the socket, the first question says
		}
		in, err := openInstance(c.Context, cfg.patiently(), logger)
		if errors.Is(err, errLocked) && again {
			continue // a server came up between the two
		}
		if err != nil {
			return nil, nil, err
		}
		return func(args A) (R, error) { return v.here(c.Context, in, args) }, in.close, nil
	}
}

var errNoServer = errors.New("no server answers on the control socket")

// callSocket posts one operation to the process whose control socket is in folder. errNoServer means that nobody listens.
func callSocket(ctx context.Context, folder, name string, args []byte) ([]byte, error) {
	return callOn(ctx, dialFolder(folder), name, args)
}

// dialer connects to a server's socket.
type dialer func(ctx context.Context) (net.Conn, error)

func dialFolder(folder string) dialer {
	return func(ctx context.Context) (net.Conn, error) { return dialAt(ctx, folder) }
}

func dialFile(path string) dialer {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) }
}

// givenSocket is the socket that the command line, or else the environment, names; "" for that of the state directory. A flag counts before
// an environment variable, at whatever level of the command line it stands.
func givenSocket(c *cli.Context) string {
	given := func(flag, variable string) string {
		for _, level := range c.Lineage() {
			if v := level.String(flag); v != os.Getenv(variable) {
				return v
			}
		}
		return ""
	}
	if socket := given("socket", "REDOUBT_SOCKET"); socket != "" {
		return socket
	}
	if given("dir", "REDOUBT_DIR") != "" || given("config", "REDOUBT_CONFIG") != "" {
		return ""
	}
	return os.Getenv("REDOUBT_SOCKET")
}

// callOn posts one operation to the server at the other end of dial.
func callOn(ctx context.Context, dial dialer, name string, args []byte) ([]byte, error) {
	answer, err := openOn(ctx, dial, name, args)
	if err != nil {
		return nil, err
	}
	defer answer.Close()
	body, err := io.ReadAll(answer)
	if err != nil {
		return nil, cmdline.Unavailable(fmt.Errorf("reading the server's answer: %w", err))
	}
	return body, nil
}

// openOn is callOn for an answer that is read as it comes.
func openOn(ctx context.Context, dial dialer, name string, args []byte) (io.ReadCloser, error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dial(ctx)
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://redoubt/"+name, bytes.NewReader(args))
	if err != nil {
		return nil, err
	}
	response, err := client.Do(request)
	switch {
	case noServer(err):
		return nil, errNoServer
	case errors.Is(err, fs.ErrPermission):
		return nil, cmdline.Hinted(fmt.Errorf("calling the server: %w", err), "the socket answers root and the user the server runs as; others ask at people.socket, with --socket")
	case err != nil:
		return nil, cmdline.Unavailable(fmt.Errorf("calling the server: %w", err))
	}
	if response.StatusCode == http.StatusOK {
		return response.Body, nil
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxCallBytes))
	if err != nil {
		return nil, cmdline.Unavailable(fmt.Errorf("reading the server's answer: %w", err))
	}
	var f failure
	if err := json.Unmarshal(body, &f); err != nil || f.Error == "" {
		return nil, cmdline.Unavailable(fmt.Errorf("the server answered %s", response.Status))
	}
	return nil, &cmdline.Error{Code: f.Code, Hint: f.Hint, Err: errors.New(f.Error)}
}

// noServer tells from the error of a dial that nobody listens.
func noServer(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// dialSocket connects to the control socket. A socket address holds 107 bytes, state directories may be longer: the
// directory is opened and the socket named through /proc/self/fd.
func dialSocket(ctx context.Context, dir layout) (net.Conn, error) { return dialAt(ctx, dir.run("")) }

// dialAt connects to the control socket in a folder.
func dialAt(ctx context.Context, folder string) (net.Conn, error) {
	return dialIn(ctx, folder, socketName)
}

// dialIn connects to the socket called name in a folder.
func dialIn(ctx context.Context, folder, name string) (net.Conn, error) {
	run, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	var d net.Dialer
	return d.DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", run.Fd(), name))
}

const socketName = "redoubt.sock"

// listenSocket binds the control socket with mode 0600. The caller holds the directory's lock, so a socket that stands
// there is a leftover of a process that was killed.
func listenSocket(dir layout) (net.Listener, error) { return listenIn(dir.run(""), socketName, 0o600) }

// listenIn binds the socket called name in a folder, with a mode.
func listenIn(folder, name string, mode os.FileMode) (net.Listener, error) {
	path := filepath.Join(folder, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	run, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer run.Close()
	listener, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/%s", run.Fd(), name))
	if err != nil {
		return nil, fmt.Errorf("binding the control socket: %w", err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := os.Chmod(path, mode); err != nil {
		listener.Close()
		return nil, err
	}
	return listener, nil
}

const maxCallBytes = 1 << 20

type peerKey struct{}

// controlServer answers verbs on the control socket. The run directory is closed to others, so nobody reaches the socket between bind
// and chmod; the kernel names the peer: who that is in people, and what they may do, the law in force says. The process of another
// role may ask for what peerMay says.
func controlServer(s *server, do doer) *http.Server {
	handler := func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			writeFailure(w, cmdline.Usage("the control socket takes POST /OPERATION, got %.20q", r.Method))
			return
		}
		name := r.URL.Path[1:]
		uid, known := r.Context().Value(peerKey{}).(int)
		if part := s.instance().partOfPeer(uid, known); part != "" {
			s.servePeer(w, r, name, part)
			return
		}
		s.serveOperation(w, r, name, s.peer(r.Context()), do)
	}
	return &http.Server{
		Handler:           http.HandlerFunc(handler),
		ReadHeaderTimeout: defaultHeaderTimeout,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, peerKey{}, peerUser(conn))
		},
	}
}

func writeFailure(w http.ResponseWriter, err error) {
	f := failure{Error: err.Error(), Code: cmdline.ExitCode(err)}
	var c *cmdline.Error
	for e := err; f.Hint == "" && errors.As(e, &c); e = c.Err {
		f.Hint = c.Hint
	}
	writeJSON(w, http.StatusUnprocessableEntity, f)
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		status, body = http.StatusInternalServerError, []byte(`{"error":"the answer cannot be encoded","code":1}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(append(body, '\n'))
}

// peerUser asks the kernel who is at the other end; nil where it does not say.
func peerUser(conn net.Conn) (uid any) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return nil
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return nil
	}
	raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			uid = int(peer.Uid)
		}
	})
	return uid
}

func localActor() string { return userActor(os.Getuid()) }

func userActor(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return fmt.Sprintf("uid:%d(%s)", uid, u.Username)
	}
	return fmt.Sprintf("uid:%d", uid)
}
