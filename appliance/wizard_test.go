package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// terminal is the end of a pseudo-terminal that a person would sit at.
type terminal struct {
	*os.File
	mu   sync.Mutex
	seen bytes.Buffer
	at   int // how far what was seen has been answered

	closed chan struct{} // when the program has left
}

func openTerminal(t *testing.T) (person *terminal, program *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	must(t, err)
	t.Cleanup(func() { master.Close() })
	must(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	must(t, err)
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	must(t, err)
	person = &terminal{File: master, closed: make(chan struct{})}
	go func() {
		defer close(person.closed)
		b := make([]byte, 4096)
		for {
			n, err := master.Read(b)
			person.mu.Lock()
			person.seen.Write(b[:n])
			person.mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	return person, program
}

// answers waits for a question and types the answer.
func (p *terminal) answers(t *testing.T, question, answer string) {
	t.Helper()
	p.waits(t, question)
	_, err := p.WriteString(answer + "\n")
	must(t, err)
}

func (p *terminal) waits(t *testing.T, question string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		p.mu.Lock()
		i := strings.Index(p.seen.String()[p.at:], question)
		if i >= 0 {
			p.at += i + len(question)
		}
		text := p.seen.String()
		p.mu.Unlock()
		if i >= 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%q is not asked:\n%s", question, text)
		}
	}
}

// picks waits for a question and types the number of a choice offered before it.
func (p *terminal) picks(t *testing.T, question, choice string) {
	t.Helper()
	from := p.at
	p.waits(t, question)
	p.mu.Lock()
	offered := regexp.MustCompile(`(?m)^  (\d+)  .*` + regexp.QuoteMeta(choice)).FindStringSubmatch(p.seen.String()[from:p.at])
	p.mu.Unlock()
	if offered == nil {
		t.Fatalf("%q is not offered", choice)
	}
	_, err := p.WriteString(offered[1] + "\n")
	must(t, err)
}

// TestWizard makes a production site at a terminal, with the token that was found.
func TestWizard(t *testing.T) {
	t.Parallel()
	if !cgoEnabled {
		t.Skip("PKCS#11 tokens need the cgo build")
	}
	dir := t.TempDir()
	conf, pin := filepath.Join(dir, "softhsm2.conf"), filepath.Join(dir, "pin")
	must(t, os.Mkdir(filepath.Join(dir, "tokens"), 0o700))
	must(t, os.WriteFile(conf, []byte("directories.tokendir = "+dir+"/tokens\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600))
	must(t, os.WriteFile(pin, []byte("246810\n"), 0o600))
	env := append(os.Environ(), "SOFTHSM2_CONF="+conf)
	token := exec.Command("softhsm2-util", "--init-token", "--free", "--label", "site one", "--so-pin", "12345678", "--pin", "246810")
	token.Env = env
	if out, err := token.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	person, program := openTerminal(t)
	command := exec.Command("redoubt", "init", "--profile", "production", "--one-process")
	command.Env, command.Stdin, command.Stderr = env, program, program
	var out bytes.Buffer
	command.Stdout = &out
	must(t, command.Start())
	program.Close()
	person.answers(t, "State directory", filepath.Join(dir, "state"))
	person.answers(t, "Domain of this deployment", "Not A Domain")
	person.answers(t, "not a DNS name in lower case", "corp.internal")
	person.answers(t, "Is that right?", "yes")
	person.answers(t, `token "site one"`, "") // the proposal
	person.answers(t, "File that holds its PIN", pin+".nosuch")
	person.answers(t, "no such file", pin)
	person.answers(t, "How clients reach the services", "2")
	person.answers(t, "IP address", "0.0.0.0")
	person.answers(t, "want the IP address that clients", "127.0.0.1")
	person.answers(t, "First port", "")
	person.answers(t, "Certificates of the listeners", "")
	person.answers(t, "Hold the ceremony and make it?", "yes")
	if err := command.Wait(); err != nil {
		person.mu.Lock()
		defer person.mu.Unlock()
		t.Fatalf("%v\n%s\n%s", err, person.seen.String(), out.String())
	}
	for _, want := range []string{"root certificate  SHA-256 ", "TLS root          SHA-256 ", "fulcio    https://127.0.0.1:8441", "issuing   ecdsa-p256", "next: redoubt serve --dir " + dir + "/state", "client setup"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
}
