// Command bench measures the product beside its peers on this machine, in turns, so that both meet the same machine, and
// prints one table: ours, peer, ratio, CPU per operation, latency, and how much of the machine others used meanwhile.
//
// The Merkle engine, the keys and the proof of a log run in this process; the servers, ours (redoubt serve with software keys in the
// dev profile) and the peers' (unmodified), are processes of their own on loopback, and the CPU shown is theirs alone. The
// clients are in this process and share the processors. Everything is durable on both sides where the peer can be.
//
// It asserts nothing. Figures of different runs do not compare. A peer that could not be built or started leaves the
// reason in its line.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"k8s.io/klog/v2"
)

var (
	rounds = flag.Int("rounds", 3, "turns each side takes")
	step   = flag.Duration("step", 2*time.Second, "length of a turn")
	dir    = flag.String("dir", "", "where to put the logs (default: a temporary directory)")
	bin    = flag.String("bin", "", "where the built programs are")
	only   = flag.String("only", "", "measure these alone, separated by commas: append, single, keys, rekor, issue, timestamp, verify, bundle, import, export, again, vouched")
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == migrateArg {
		os.Exit(migrate(os.Args[2], os.Args[3]))
	}
	flag.Parse()
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "\nbench:", err)
		os.Exit(1)
	}
}

func run() error {
	d, err := os.MkdirTemp(*dir, "bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(d)
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-interrupted
		os.RemoveAll(d)
		os.Exit(130) // the servers end with this process
	}()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start := time.Now()
	load, _ := os.ReadFile("/proc/loadavg")
	var rows []*row
	for _, bench := range []func(context.Context, string) ([]*row, error){benchAppend, benchKeys, benchServers, benchVerify, benchBundle, benchCross} {
		more, err := bench(ctx, d)
		rows = append(rows, more...)
		if err != nil {
			rows = append(rows, &row{name: "stopped", peer: err.Error(), ours: []result{{}}})
			break
		}
	}
	after, _ := os.ReadFile("/proc/loadavg")
	fmt.Printf("\n\n%d processors, %d turns of %v a side, in %v; load average before %.14s and after %.14s\n\n", runtime.NumCPU(), *rounds, *step, time.Since(start).Round(time.Second), load, after)
	printTable(rows)
	fmt.Print("\nothers: share of all processors that went to neither this program nor the server measured. Figures of different runs do not compare.\n")
	return nil
}

// wanted says whether one of the rows named is to be measured.
func wanted(names ...string) bool {
	return *only == "" || slices.ContainsFunc(names, func(n string) bool { return slices.Contains(strings.Split(*only, ","), n) })
}

// process is a server that was started.
type process struct {
	cmd  *exec.Cmd
	log  *bytes.Buffer
	done chan error
}

// start runs a program of the cache until stop, with env added to this process's own environment.
func start(env []string, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), log: &bytes.Buffer{}, done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.done <- p.cmd.Wait() }()
	return p, nil
}

func (p *process) stop() {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.cmd.Process.Kill()
		<-p.done
	}
}

// await tries an operation until it works once.
func (p *process) await(ctx context.Context, try func() error) error {
	for deadline := time.Now().Add(20 * time.Second); ; {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			p.done <- nil
			lines := strings.Split(strings.TrimSpace(p.log.String()), "\n")
			return fmt.Errorf("it ended: %s", lines[len(lines)-1])
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("no answer in 20 s: %w", err)
		}
	}
}

// serving is a side whose operations go to a process.
func (p *process) serving(o *operations, url string) *side {
	pid := p.cmd.Process.Pid
	return &side{do: func() error { return o.post(url) }, mid: o.fill, cpu: func() time.Duration { return processCPU(pid) }, own: selfCPU}
}

// operations are requests made ahead, so that making them takes nothing from the turn.
type operations struct {
	kind  string // content type
	want  int
	holds string // part of every good answer; may be empty
	make  func() ([]byte, error)
	ready chan []byte
}

// fill makes requests for a turn of length d.
func (o *operations) fill(d time.Duration) error {
	if o.ready == nil {
		o.ready = make(chan []byte, int(9000*d.Seconds()))
	}
	for len(o.ready) < cap(o.ready) {
		b, err := o.make()
		if err != nil {
			return err
		}
		o.ready <- b
	}
	return nil
}

var client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{MaxIdleConns: 0, MaxIdleConnsPerHost: 64}}

func (o *operations) post(url string) error {
	var body []byte
	select {
	case body = <-o.ready:
	default:
		var err error
		if body, err = o.make(); err != nil {
			return err
		}
	}
	resp, err := client.Post(url, o.kind, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode != o.want || !bytes.Contains(answer, []byte(o.holds)) {
		return fmt.Errorf("HTTP %d: %.200s", resp.StatusCode, answer)
	}
	return nil
}

// program finds one in the cache; where its build failed, the error is the last thing the build said.
func program(name string) (string, error) {
	path := filepath.Join(*bin, name)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	said, err := os.ReadFile(path + ".log")
	if err != nil {
		return "", fmt.Errorf("%s was not built", name)
	}
	lines := strings.Split(strings.TrimSpace(string(said)), "\n")
	return "", errors.New(name + " was not built: " + lines[len(lines)-1])
}

// freePort is a port of loopback nobody listens on now.
func freePort() string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "0"
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}
