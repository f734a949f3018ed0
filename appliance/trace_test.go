package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// traced are the system calls by which a process can put bytes or names on a disk.
const traced = "open,openat,openat2,creat,write,pwrite64,writev,pwritev,pwritev2,mmap,rename,renameat,renameat2,link,linkat,symlink,symlinkat,mkdir,mkdirat," +
	"mknod,mknodat,truncate,ftruncate,fallocate,sendfile,copy_file_range,splice,unlink,unlinkat"

// underStrace starts a command with its file system calls written to trace, one file for all its threads.
func underStrace(t *testing.T, trace, name string, args ...string) *exec.Cmd {
	t.Helper()
	if out, err := exec.Command("strace", "-qq", "-e", "trace=none", "true").CombinedOutput(); err != nil {
		t.Skipf("NOT TESTED: this machine lets no test trace a process with strace: %v %s", err, out)
	}
	command := exec.Command("strace", append([]string{"-f", "-qq", "-y", "-xx", "-s", "16777216", "-e", "signal=none", "-e", "trace=" + traced, "-o", trace, name}, args...)...)
	command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return command
}

// written is what a trace says was done to the file system.
type written struct {
	paths  map[string]bool   // opened for writing, made, renamed to, removed
	chunks map[string][]byte // by descriptor (its path, socket:[n] or pipe:[n]): the bytes of each write, 0xFF between them
	calls  int
}

var (
	tracedCall = regexp.MustCompile(`^\d+ +([a-z0-9_]+)\((.*)$`)
	tracedFD   = regexp.MustCompile(`^\d+<((?:\\x[0-9a-f]{2}|[^>\\])*)>`)
	tracedText = regexp.MustCompile(`"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?`)
	writing    = regexp.MustCompile(`O_WRONLY|O_RDWR|O_CREAT|O_TRUNC|O_APPEND|O_TMPFILE`)
)

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, `\x`, ""))
	if err != nil {
		return []byte(s)
	}
	return b
}

// readTrace reads strace's output. It refuses what it does not understand: a call it cannot place could be the one that matters.
func readTrace(t *testing.T, file string) (w written) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w = written{paths: map[string]bool{}, chunks: map[string][]byte{}}
	unfinished := map[string]string{} // by thread
	in := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF {
			return w
		}
		if err != nil {
			t.Fatal(err)
		}
		line = strings.TrimSuffix(line, "\n")
		thread, rest, _ := strings.Cut(line, " ")
		rest = strings.TrimLeft(rest, " ")
		if call, cut := strings.CutSuffix(rest, " <unfinished ...>"); cut {
			unfinished[thread] = call
			continue
		}
		if strings.HasPrefix(rest, "<... ") {
			_, end, _ := strings.Cut(rest, " resumed>")
			rest = unfinished[thread] + end
			delete(unfinished, thread)
		}
		if strings.HasPrefix(rest, "+++") {
			continue
		}
		match := tracedCall.FindStringSubmatch(thread + " " + rest)
		if match == nil {
			t.Fatalf("a line of the trace that is no call: %.200s", line)
		}
		w.calls++
		w.add(t, match[1], match[2])
	}
}

func (w *written) add(t *testing.T, call, args string) {
	t.Helper()
	var texts [][]byte
	for _, m := range tracedText.FindAllStringSubmatch(args, -1) {
		if m[2] != "" {
			t.Fatalf("%s: strace cut a string short", call)
		}
		texts = append(texts, unhex(m[1]))
	}
	fd := ""
	if m := tracedFD.FindStringSubmatch(args); m != nil {
		fd = string(unhex(m[1]))
	}
	switch call {
	case "open", "openat", "openat2", "creat":
		if !writing.MatchString(args) && call != "creat" {
			return
		}
		if _, result, _ := strings.Cut(args, ") = "); strings.HasPrefix(result, "-1 ") {
			return
		}
		path := string(texts[len(texts)-1])
		if m := regexp.MustCompile(`\) = \d+<((?:\\x[0-9a-f]{2}|[^>\\])*)>`).FindStringSubmatch(args); m != nil {
			path = string(unhex(m[1])) // as the kernel knows it
		}
		w.paths[path] = true
	case "write", "pwrite64", "writev", "pwritev", "pwritev2":
		for _, text := range texts {
			w.chunks[fd] = append(append(w.chunks[fd], text...), 0xFF)
		}
	case "mmap":
		if strings.Contains(args, "MAP_SHARED") && strings.Contains(args, "PROT_WRITE") && tracedMapped.MatchString(args) {
			t.Errorf("a file is mapped for writing, which no trace shows: %.300s", args)
		}
	case "sendfile", "copy_file_range", "splice":
		if strings.Contains(args, "-1 E") {
			return
		}
		if !strings.Contains(args, "socket:") && !strings.Contains(args, "TCP") {
			t.Errorf("%s moves bytes no trace shows: %.300s", call, args)
		}
	case "ftruncate", "fallocate":
		w.paths[fd] = true
	default: // names
		if _, result, _ := strings.Cut(args, ") = "); strings.HasPrefix(result, "-1 ") {
			return
		}
		for _, path := range texts {
			w.paths[string(path)] = true
		}
	}
}

var tracedMapped = regexp.MustCompile(`, \d+<`)

// spellings are the forms in which bytes can stand in a file: as they are, hexadecimal, and base64 at each of its three alignments.
func spellings(secret []byte) (forms [][]byte) {
	forms = [][]byte{secret, []byte(hex.EncodeToString(secret)), []byte(strings.ToUpper(hex.EncodeToString(secret)))}
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		for shift := range 3 {
			padded := append(make([]byte, shift), secret...)
			padded = padded[:len(padded)/3*3]
			text := encoding.EncodeToString(padded)
			if shift > 0 {
				text = text[4:] // mixed with what stands in front
			}
			forms = append(forms, []byte(text))
		}
	}
	return forms
}

// found reports in which form a secret stands in data, line ends aside; "" when in none.
func found(data, secret []byte) string {
	flat := bytes.ReplaceAll(bytes.ReplaceAll(data, []byte("\n"), nil), []byte(`\n`), nil)
	for i, form := range spellings(secret) {
		if bytes.Contains(data, form) || bytes.Contains(flat, form) {
			return []string{"raw", "hex", "hex", "base64", "base64", "base64", "base64url", "base64url", "base64url"}[i]
		}
	}
	return ""
}

// TestTraceShowsALeak is the control: the same reading of a trace sees a secret in every spelling, and a file elsewhere.
func TestTraceShowsALeak(t *testing.T) {
	scratch := t.TempDir()
	secret := []byte("canary-" + rand.Text())
	for name, text := range map[string]string{
		"raw": string(secret), "hex": hex.EncodeToString(secret), "base64": base64.StdEncoding.EncodeToString(append([]byte("x"), secret...)),
		"PEM": string(pem.EncodeToMemory(&pem.Block{Type: "LEAK", Bytes: slices.Concat(make([]byte, 40), secret)})),
	} {
		trace, leak := filepath.Join(scratch, "trace"), filepath.Join(scratch, "leak."+name)
		command := underStrace(t, trace, "/bin/sh", "-c", `printf %s "$1" >"$2.new"; mv "$2.new" "$2"; rm "$2"`, "sh", text, leak)
		if out, err := command.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		w := readTrace(t, trace)
		if found(w.chunks[leak+".new"], secret) == "" || !w.paths[leak+".new"] || !w.paths[leak] {
			t.Errorf("%s: the leak is not seen: %q in %v", name, w.chunks, w.paths)
		}
	}
	certificate := &x509.Certificate{RawTBSCertificate: slices.Concat(bytes.Repeat([]byte("c"), 100), secret, []byte("after"))}
	if outside, inside := outsideCertificate(slices.Concat([]byte("key "), secret, certificate.RawTBSCertificate), secret, certificate); outside != 1 || inside != 1 {
		t.Errorf("%d outside, %d inside", outside, inside)
	}
}

// serveTraced starts a server and returns its ready file once it answers.
func serveTraced(t *testing.T, server *exec.Cmd, ready, journal string) (urls map[string]any) {
	t.Helper()
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Kill(-server.Process.Pid, syscall.SIGKILL); server.Wait() })
	for range 4000 {
		if data, err := os.ReadFile(ready); err == nil {
			if err := json.Unmarshal(data, &urls); err != nil {
				t.Fatal(err)
			}
			return urls
		}
		time.Sleep(25 * time.Millisecond)
	}
	text, _ := os.ReadFile(journal)
	t.Fatalf("the server did not become ready\n%s", text)
	return nil
}

// stopTraced ends the server its ready file names, and it alone: strace, told to end as well, would leave the server before it has
// written its last, and a trace that ends early shows nothing.
func stopTraced(t *testing.T, server *exec.Cmd, ready map[string]any) {
	t.Helper()
	pid, ok := ready["pid"].(float64)
	if !ok || int(pid) <= 1 || int(pid) == server.Process.Pid {
		t.Fatalf("the ready file names the process %v", ready["pid"])
	}
	if err := syscall.Kill(int(pid), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := server.Wait(); err != nil {
		t.Fatalf("the traced server: %v", err)
	}
}
