//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"redoubt.internal/appliance/verify/verifytest"
)

const (
	domain   = "corp.internal"
	identity = "dev@corp.internal"
	// commandTimeout is far beyond what any client needs; it keeps a hung one from eating the run.
	commandTimeout = 2 * time.Minute
)

// A lab is one running appliance, its client files, and an image registry.
type lab struct {
	scratch   string
	binary    string
	config    string   // redoubt.yaml
	setup     string   // what `client setup` wrote
	registry  string   // host:port, plain HTTP, serves the OCI 1.1 referrers API
	env       []string // what every command of it needs beside the clean environment
	urls      serviceURLs
	mint      func(*testing.T) string // nil: the built-in issuer
	server    *exec.Cmd
	exited    chan error // what server.Wait returned, once
	serverLog string
}

// serviceURLs is the ready file of `redoubt serve`.
type serviceURLs struct {
	Fulcio, Rekor, TSA, CT, TUF, OIDC, Console, Metrics string
	PID                                                 int
	Version                                             string
}

// newLab does what an operator does: init, serve, client setup. Every command of it gets env; init gets the further flags.
func newLab(t *testing.T, env []string, initFlags ...string) *lab {
	t.Helper()
	l := &lab{scratch: t.TempDir(), binary: os.Getenv(binaryVariable), env: env}
	state := filepath.Join(l.scratch, "state")
	l.config = filepath.Join(state, "redoubt.yaml")
	t.Cleanup(func() { l.kill(t) })
	l.setup = filepath.Join(l.scratch, "setup")
	here := l.session(t)
	here.run(t, l.binary, join([]string{"init", "--dir", state, "--domain", domain, "--profile", "dev", "--non-interactive"}, initFlags)...)
	l.serve(t)
	here.run(t, l.binary, "--config", l.config, "client", "setup", "--out", l.setup)
	l.registry = serveRegistry(t)
	return l
}

// serve starts the server and waits for its ready file.
func (l *lab) serve(t *testing.T) {
	t.Helper()
	ready := filepath.Join(l.scratch, "ready.json")
	os.Remove(ready) // of a server that was killed
	l.serverLog = filepath.Join(l.scratch, "server.log")
	log, err := os.Create(l.serverLog)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	l.server = exec.Command(l.binary, "--config", l.config, "serve", "--ready-file", ready)
	l.server.Env = append(cleanEnv(l.scratch), l.env...)
	l.server.Stdout, l.server.Stderr = log, log
	if err := l.server.Start(); err != nil {
		t.Fatal(err)
	}
	l.exited = make(chan error, 1)
	go func() { l.exited <- l.server.Wait() }()
	deadline := time.After(commandTimeout)
	for {
		content, err := os.ReadFile(ready)
		if err == nil {
			if err := json.Unmarshal(content, &l.urls); err != nil {
				t.Fatalf("reading the ready file: %v\n%s", err, content)
			}
			return
		}
		select {
		case err := <-l.exited:
			l.server = nil
			t.Fatalf("redoubt serve ended before it was ready: %v\n%s", err, l.logTail())
		case <-deadline:
			t.Fatalf("redoubt serve was not ready within %s\n%s", commandTimeout, l.logTail())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// kill ends the server, if it runs, as a power cut does as far as a process can tell.
func (l *lab) kill(t *testing.T) {
	t.Helper()
	if l.server == nil {
		return
	}
	if err := l.server.Process.Kill(); err != nil {
		t.Errorf("killing the server: %v\n%s", err, l.logTail())
	}
	<-l.exited
	l.server = nil
}

// stop ends the server as a service manager does and wants exit 0.
func (l *lab) stop(t *testing.T) {
	t.Helper()
	if err := l.server.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatalf("stopping the server: %v\n%s", err, l.logTail())
	}
	select {
	case err := <-l.exited:
		l.server = nil
		if err != nil {
			t.Errorf("redoubt serve after SIGTERM: %v\n%s", err, l.logTail())
		}
	case <-time.After(30 * time.Second):
		t.Fatalf("redoubt serve did not end within 30 s of SIGTERM\n%s", l.logTail())
	}
}

func (l *lab) logTail() string {
	content, err := os.ReadFile(l.serverLog)
	if err != nil {
		return err.Error()
	}
	if len(content) > 3000 {
		content = content[len(content)-3000:]
	}
	return "-- end of the server's log --\n" + string(content)
}

// token mints an identity token: of the built-in issuer, unless the lab has another.
func (l *lab) token(t *testing.T, args ...string) string {
	t.Helper()
	if l.mint != nil {
		return l.mint(t)
	}
	if len(args) == 0 {
		args = []string{"--email", identity}
	}
	s := l.session(t)
	return strings.TrimSpace(s.output(t, l.binary, append([]string{"--config", l.config, "identity", "token"}, args...)...))
}

// in returns the path of a file `client setup` wrote.
func (l *lab) in(name string) string { return filepath.Join(l.setup, name) }

// who are the flags that name the signer to a verifying client.
func (l *lab) who() []string {
	return []string{"--certificate-identity", identity, "--certificate-oidc-issuer", l.urls.OIDC}
}

// A session is one user at a terminal: a home directory of its own, an empty folder to work in, and a small environment.
type session struct {
	lab *lab
	dir string
	env []string
}

func (l *lab) session(t *testing.T, env ...string) *session {
	t.Helper()
	dir := t.TempDir()
	return &session{lab: l, dir: dir, env: join(cleanEnv(dir), l.env, env)}
}

// cleanEnv carries over nothing a client might find its way out by.
func cleanEnv(home string) []string {
	return []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "LANG=C.UTF-8", "NO_COLOR=1", "COSIGN_PASSWORD=", "GIT_CONFIG_NOSYSTEM=1"}
}

// run wants success and returns stdout and stderr together.
func (s *session) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	_, both, err := s.exec(program, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", describe(program, args), err, both, s.lab.logTail())
	}
	return both
}

// output wants success and returns stdout alone.
func (s *session) output(t *testing.T, program string, args ...string) string {
	t.Helper()
	stdout, both, err := s.exec(program, args...)
	if err != nil {
		t.Fatalf("%s: %v\n%s\n%s", describe(program, args), err, both, s.lab.logTail())
	}
	return stdout
}

// refuse wants the program to end by itself with a failure, and to say one of the reasons where any are given.
func (s *session) refuse(t *testing.T, reasons []string, program string, args ...string) {
	t.Helper()
	_, both, err := s.exec(program, args...)
	var exit *exec.ExitError
	switch {
	case err == nil:
		t.Fatalf("%s: succeeded, want a refusal\n%s", describe(program, args), both)
	case !errors.As(err, &exit) || exit.ExitCode() < 0:
		t.Fatalf("%s: %v, want a refusal\n%s", describe(program, args), err, both)
	}
	if reasons == nil || slices.ContainsFunc(reasons, func(reason string) bool { return strings.Contains(both, reason) }) {
		return
	}
	t.Fatalf("%s: refused, but for none of the reasons %q\n%s", describe(program, args), reasons, both)
}

func (s *session) exec(program string, args ...string) (stdout, both string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = s.dir, s.env
	cmd.WaitDelay = 5 * time.Second // for what it left running with its output open
	var all transcript
	cmd.Stdout, cmd.Stderr = &stream{whole: &all}, &stream{whole: &all}
	err = cmd.Run()
	if ctx.Err() != nil {
		err = fmt.Errorf("no answer within %s", commandTimeout)
	}
	return cmd.Stdout.(*stream).own.String(), all.text.String(), err
}

// A transcript holds what a program printed on both streams, in about the order it did.
type transcript struct {
	lock sync.Mutex
	text strings.Builder
}

// A stream is one of the two.
type stream struct {
	whole *transcript
	own   strings.Builder
}

func (s *stream) Write(p []byte) (int, error) {
	s.whole.lock.Lock()
	defer s.whole.lock.Unlock()
	s.whole.text.Write(p)
	return s.own.Write(p)
}

// describe prints a command line without the tokens in it.
func describe(program string, args []string) string {
	shown := []string{filepath.Base(program)}
	for _, arg := range args {
		if strings.Count(arg, ".") == 2 && strings.HasPrefix(arg, "ey") {
			arg = "TOKEN"
		}
		shown = append(shown, arg)
	}
	return strings.Join(shown, " ")
}

// write puts a file into the session's folder and returns its path.
func (s *session) write(t *testing.T, name, content string) string {
	t.Helper()
	file := filepath.Join(s.dir, name)
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func (s *session) path(name string) string { return filepath.Join(s.dir, name) }

// client returns the path of a pinned client, or ends the test.
func client(t *testing.T, name string) string {
	t.Helper()
	return verifytest.Client(t, name)
}

// serveRegistry serves an image registry on loopback for the life of the test.
func serveRegistry(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	quiet := registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))
	server := &http.Server{Handler: registry.New(registry.WithReferrersSupport(true), quiet), ReadHeaderTimeout: 10 * time.Second}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	return fmt.Sprintf("localhost:%d", listener.Addr().(*net.TCPAddr).Port)
}
