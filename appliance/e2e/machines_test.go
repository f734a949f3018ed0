//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/generate"
)

// roleVariable makes this program a helper on a machine of TestTwoMachines; its value is JSON.
const roleVariable = "REDOUBT_E2E_ROLE"

// role is what a helper does: it serves logs, proves one over HTTP, or reaches for an address.
type role struct {
	Listen, Folder, Upstream string          // serve: /log/ from Folder, /vast/ from Vast, everything else from Upstream
	Vast                     generate.Config // and the entries that are its own
	Picks                    []uint64
	Prove                    *mirror.LogConfig // prove the log at its Source
	Dial                     string            // one connection to there
}

// play does what the role says and ends the process.
func play(text string) {
	var r role
	err := json.Unmarshal([]byte(text), &r)
	switch {
	case err != nil:
	case r.Dial != "":
		var conn net.Conn
		if conn, err = net.DialTimeout("tcp", r.Dial, time.Second); err == nil {
			conn.Close()
		}
	case r.Prove != nil:
		var v mirror.Verified
		if v, err = mirror.VerifyLog(context.Background(), *r.Prove, nil, 1); err == nil {
			fmt.Printf("%d leaves of %d proven\n", v.Leaves, v.Checkpoint.Size)
		}
	default:
		err = r.serve()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func (r *role) serve() error {
	vast := generate.NewVast(r.Vast, r.Picks)
	mux := http.NewServeMux()
	mux.Handle("/log/", http.StripPrefix("/log/", http.FileServer(http.Dir(r.Folder))))
	mux.HandleFunc("/vast/", func(w http.ResponseWriter, q *http.Request) {
		b, err := vast.File(strings.TrimPrefix(q.URL.Path, "/vast/"), vast.Size())
		if errors.Is(err, fs.ErrNotExist) {
			http.NotFound(w, q)
			return
		}
		w.Write(b)
	})
	upstream, err := url.Parse(r.Upstream)
	if err != nil {
		return err
	}
	mux.Handle("/", &httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(upstream) }})
	return http.ListenAndServe(r.Listen, mux)
}

// machine is a network namespace whose processes see of the others' disks nothing but what is shared.
type machine struct {
	name, disk string
	others     []string // disks that are not here
	trace      string   // where strace writes; empty: not traced
}

// command runs a program on the machine.
func (m *machine) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	script := ""
	for _, o := range m.others {
		script += "mount -t tmpfs -o mode=700 none '" + o + "' && "
	}
	argv := []string{"netns", "exec", m.name, "unshare", "-m", "sh", "-c", script + `exec "$@"`, "sh"}
	if m.trace != "" {
		argv = append(argv, "strace", "-f", "-qq", "--seccomp-bpf", "-A", "-o", m.trace, "-e", "trace=connect,sendto,sendmsg")
	}
	cmd := exec.CommandContext(ctx, "ip", append(append(argv, program), args...)...)
	cmd.Dir, cmd.Env = m.disk, cleanEnv(m.disk)
	return cmd
}

// run wants success and returns what was printed.
func (m *machine) run(t *testing.T, program string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	out, err := m.command(ctx, program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %s: %v\n%s", m.name, describe(program, args), err, out)
	}
	return string(out)
}

// redoubt runs the product on the machine's own state.
func (m *machine) redoubt(t *testing.T, args ...string) string {
	t.Helper()
	return m.run(t, os.Getenv(binaryVariable), append(args, "--dir", m.state())...)
}

func (m *machine) state() string { return filepath.Join(m.disk, "state") }

// play runs this program as a helper on the machine.
func (m *machine) play(t *testing.T, r role) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandTimeout)
	defer cancel()
	cmd := m.command(ctx, self(t))
	cmd.Env = append(cmd.Env, roleVariable+"="+encode(t, r))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// start runs a program on the machine until the test ends.
func (m *machine) start(t *testing.T, env []string, program string, args ...string) {
	t.Helper()
	cmd := m.command(context.Background(), program, args...)
	cmd.Env = append(cmd.Env, env...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("%s, %s:\n%s", m.name, describe(program, args), tail(said.String()))
		}
	})
}

// serve starts the product's server and returns its addresses.
func (m *machine) serve(t *testing.T) (urls map[string]any) {
	t.Helper()
	ready := filepath.Join(m.disk, "ready.json")
	m.start(t, nil, os.Getenv(binaryVariable), "serve", "--dir", m.state(), "--ready-file", ready)
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(50 * time.Millisecond) {
		if b, err := os.ReadFile(ready); err == nil && json.Unmarshal(b, &urls) == nil {
			return urls
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: redoubt serve was not ready", m.name)
		}
	}
}

func tail(s string) string { return s[max(0, len(s)-3000):] }

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func encode(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// newMachines makes source, outside and inside: a cable between the first two, nothing but loopback in the third.
func newMachines(t *testing.T, shared string) (source, outside, inside *machine) {
	t.Helper()
	base := t.TempDir()
	id := fmt.Sprint(os.Getpid())
	all := []*machine{{name: "source" + id}, {name: "outside" + id}, {name: "inside" + id}}
	for i, m := range all {
		m.disk = filepath.Join(base, []string{"source", "outside", "inside"}[i])
		if err := os.Mkdir(m.disk, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for i, m := range all {
		m.others = []string{all[(i+1)%3].disk, all[(i+2)%3].disk}
		ip(t, "netns", "add", m.name)
		t.Cleanup(func() { exec.Command("ip", "netns", "delete", m.name).Run() })
		ip(t, "-n", m.name, "link", "set", "lo", "up")
	}
	source, outside, inside = all[0], all[1], all[2]
	ip(t, "-n", source.name, "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", outside.name)
	for n, m := range []*machine{source, outside} {
		dev := fmt.Sprintf("cable%d", n)
		ip(t, "-n", m.name, "addr", "add", fmt.Sprintf("10.77.0.%d/24", n+1), "dev", dev)
		ip(t, "-n", m.name, "link", "set", dev, "up")
		ip(t, "-n", m.name, "route", "add", "default", "via", fmt.Sprintf("10.77.0.%d", 2-n))
	}
	inside.trace = filepath.Join(shared, "inside.trace")
	return source, outside, inside
}

// ip configures the kernel; where it may not, the test is left out and says so.
func ip(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Skipf("TWO MACHINES WERE NOT TESTED: this kernel does not let us: ip %s: %v: %s", strings.Join(args, " "), err, out)
	}
}

// address is a socket address as strace prints it.
var address = regexp.MustCompile(`sa_family=(AF_INET6?), .*?(?:inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)")`)

// callsOut reads a trace: how many calls it has, how many of them named an address of the internet family, and those of them that
// left the machine.
func callsOut(t *testing.T, trace string) (traced, calls int, out []string) {
	t.Helper()
	b, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		traced++
		for _, m := range address.FindAllStringSubmatch(line, -1) {
			calls++
			if a := net.ParseIP(m[2] + m[3]); a == nil || !a.IsLoopback() {
				out = append(out, strings.TrimSpace(line))
			}
		}
	}
	return traced, calls, out
}

// settings writes the mirror section of a machine's redoubt.yaml.
func (m *machine) settings(t *testing.T, section map[string]any) {
	t.Helper()
	file := filepath.Join(m.state(), "redoubt.yaml")
	config := readYAML(t, file)
	config["mirror"] = section
	writeYAML(t, file, config)
	m.redoubt(t, "config", "validate")
}

// digFor returns a string deep in a decoded document.
func digFor(t *testing.T, doc any, path ...string) string {
	t.Helper()
	for _, p := range path {
		m, ok := doc.(map[string]any)
		if !ok {
			t.Fatalf("no %v in %v", path, doc)
		}
		doc = m[p]
	}
	s, ok := doc.(string)
	if !ok {
		t.Fatalf("no text at %v", path)
	}
	return s
}
