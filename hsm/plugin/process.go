package plugin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"golang.org/x/sys/unix"

	"redoubt.internal/hsm"
)

const (
	maxProgram = 512 << 20
	maxOutput  = 1 << 20
	maxStderr  = 4 << 10
)

// refusal is an answer of the plugin that says no.
type refusal struct{ said string }

func (r *refusal) Error() string { return "the plugin says: " + r.said }

// program is a plugin ready to run: a sealed copy of its executable in memory.
type program struct {
	cfg    Config
	digest string
	file   *os.File      // read-only, sealed
	slots  chan struct{} // one for each process that may run
}

// load copies the executable into a sealed file in memory and compares its digest.
// What runs later is this copy; the file may be replaced, which changes nothing
// until the next start.
func load(c Config, want []byte) (*program, error) {
	source, err := os.OpenFile(c.Path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", err, hsm.ErrUnsupported)
	}
	defer source.Close()
	st, err := source.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Size() > maxProgram {
		return nil, fmt.Errorf("%s is no regular file of at most %d octets: %w", c.Path, maxProgram, hsm.ErrUnsupported)
	}
	name := "sigstore-kms-" + c.Scheme
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING|unix.MFD_EXEC)
	if errors.Is(err, unix.EINVAL) { // kernels before 6.3 know no MFD_EXEC
		fd, err = unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	}
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	memory := os.NewFile(uintptr(fd), name)
	defer memory.Close()
	hash, head := sha256.New(), &bounded{limit: 4}
	if _, err := io.Copy(io.MultiWriter(memory, hash, head), io.LimitReader(source, maxProgram)); err != nil {
		return nil, fmt.Errorf("reading %s: %w", c.Path, err)
	}
	if got := hash.Sum(nil); !bytes.Equal(got, want) {
		return nil, fmt.Errorf("%s has SHA-256 %x, the configuration %x; it was replaced, or the configuration is of another version: %w", c.Path, got, want, hsm.ErrUnsupported)
	}
	if !bytes.Equal(head.data.Bytes(), []byte("\x7fELF")) {
		return nil, fmt.Errorf("%s is no ELF executable; a script's interpreter would not be covered by the digest: %w", c.Path, hsm.ErrUnsupported)
	}
	if _, err := unix.FcntlInt(memory.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_SEAL); err != nil {
		return nil, fmt.Errorf("sealing the copy: %w", err)
	}
	// A file that is open for writing is not executed, so it is opened once more.
	readonly, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", memory.Fd()))
	if err != nil {
		return nil, fmt.Errorf("opening the copy: %w", err)
	}
	return &program{cfg: c, digest: hex.EncodeToString(want), file: readonly, slots: make(chan struct{}, processes)}, nil
}

func (p *program) close() error { return p.file.Close() }

// run starts the plugin once and reads its answer. As the protocol has it, the exit
// status counts only where the process was killed.
func (p *program) run(ctx context.Context, message []byte, args *common.PluginArgs) (*common.PluginResp, error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return nil, fmt.Errorf("%w: waiting for a process of the plugin: %w", hsm.ErrUnavailable, ctx.Err())
	}
	text, err := json.Marshal(args)
	if err != nil {
		return nil, fmt.Errorf("encoding the arguments: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	out, diagnostics := &bounded{limit: maxOutput, over: cancel}, &bounded{limit: maxStderr}
	cmd := exec.CommandContext(ctx, fmt.Sprintf("/proc/self/fd/%d", p.file.Fd()), common.ProtocolVersion, string(text))
	cmd.Args[0] = filepath.Base(p.cfg.Path)
	cmd.Dir, cmd.Env = "/", p.environment()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(message), out, diagnostics
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that what it starts is ended with it
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second // for who escaped the group and holds the output open
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case out.exceeded:
		return nil, fmt.Errorf("%w: the plugin wrote more than %d octets", hsm.ErrUnavailable, maxOutput)
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: the plugin was ended at its deadline: %w%s", hsm.ErrUnavailable, ctx.Err(), diagnostics.note())
	case errors.Is(err, exec.ErrWaitDelay): // it ended; whether its answer is whole shows below
	case err != nil && (!errors.As(err, &exit) || exit.ExitCode() < 1):
		return nil, fmt.Errorf("%w: running the plugin: %w%s", hsm.ErrUnavailable, err, diagnostics.note())
	}
	var answer common.PluginResp
	if err := json.Unmarshal(out.data.Bytes(), &answer); err != nil {
		return nil, fmt.Errorf("%w: the plugin's answer is not of its protocol: %w%s", hsm.ErrUnavailable, err, diagnostics.note())
	}
	if answer.ErrorMessage != "" {
		return nil, &refusal{clip(answer.ErrorMessage)}
	}
	return &answer, nil
}

// environment is what the configuration lists, and nothing else.
func (p *program) environment() []string {
	env := []string{}
	for _, name := range p.cfg.Environment {
		if value, ok := os.LookupEnv(name); ok {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// bounded keeps the first octets written to it and drops the rest, telling over.
type bounded struct {
	data     bytes.Buffer
	limit    int
	exceeded bool
	over     func()
}

func (b *bounded) Write(p []byte) (int, error) {
	keep := min(len(p), b.limit-b.data.Len())
	b.data.Write(p[:keep])
	if keep < len(p) {
		if b.exceeded = true; b.over != nil {
			b.over()
		}
	}
	return len(p), nil
}

// note is what the plugin wrote on standard error, for an error message.
func (b *bounded) note() string {
	if said := clip(b.data.String()); said != "" {
		return "; it wrote: " + said
	}
	return ""
}
