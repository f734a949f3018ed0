package plugin

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// built is the test plugin, built once: a real executable on sigstore's own server
// code.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "redoubt-plugin-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "sigstore-kms-local")
	if out, err := exec.Command("go", "build", "-o", path, "./testdata/sigstore-kms-local").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the plugin: %w\n%s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, err := built(); err == nil {
		_ = os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func config(t testing.TB) Config {
	t.Helper()
	path, err := built()
	check(t, err)
	return Config{Scheme: "local", Path: path, SHA256: sumOf(t, path), Timeout: 20 * time.Second}
}

func sumOf(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

func open(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := Open(c)
	check(t, err)
	t.Cleanup(func() { check(t, tok.Close()) })
	return tok
}

func failsWith(t testing.TB, err, want error, parts ...string) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("got %v, want %v", err, want)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%v\ndoes not say %q", err, part)
		}
	}
}

func TestConformance(t *testing.T) {
	dir, c := t.TempDir(), config(t)
	hsmtest.Run(t, hsmtest.Kind{
		Open: func(t testing.TB) hsm.Token {
			tok, err := Open(c)
			check(t, err)
			return tok
		},
		URI: func(name string) string { return "local://" + filepath.Join(dir, name) },
		// RSA apart: the conformance test wants PSS of it, which the protocol cannot say.
		Algorithms: []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384, hsm.Ed25519},
	})
}

func TestRSA(t *testing.T) {
	tok := open(t, config(t))
	key, err := tok.Generate(t.Context(), "local://"+filepath.Join(t.TempDir(), "rsa"), hsm.RSA3072)
	check(t, err)
	sum := sha256.Sum256([]byte("m"))
	_, err = key.Sign(rand.Reader, sum[:], crypto.SHA256)
	check(t, err)
	_, err = key.Sign(rand.Reader, sum[:], &rsa.PSSOptions{Hash: crypto.SHA256, SaltLength: rsa.PSSSaltLengthEqualsHash})
	failsWith(t, err, hsm.ErrUnsupported, "cannot ask for RSA-PSS")
	_, err = tok.Generate(t.Context(), "local://"+filepath.Join(t.TempDir(), "rsa"), hsm.RSA4096)
	failsWith(t, err, hsm.ErrUnsupported, "the plugin has ecdsa-p256, ECC_NIST_P384")
}

func TestConfigIsChecked(t *testing.T) {
	good := config(t)
	script := filepath.Join(t.TempDir(), "script")
	check(t, os.WriteFile(script, []byte("#!/bin/sh\necho '{}'\n"), 0o755))
	for says, change := range map[string]func(*Config){
		"is taken":                 func(c *Config) { c.Scheme = "pkcs11" },
		"lower-case":               func(c *Config) { c.Scheme = "A B" },
		"nothing is looked up":     func(c *Config) { c.Path = "sigstore-kms-local" },
		"is not absolute":          func(c *Config) { c.Path = "/usr/../bin/true" },
		"no such file":             func(c *Config) { c.Path += ".absent" },
		"no regular file":          func(c *Config) { c.Path = "/dev" },
		"64 hex digits":            func(c *Config) { c.SHA256 = "" },
		"it was replaced":          func(c *Config) { c.SHA256 = strings.Repeat("00", 32) },
		"no ELF executable":        func(c *Config) { c.Path, c.SHA256 = script, sumOf(t, script) },
		`"LD_PRELOAD" is not`:      func(c *Config) { c.Environment = []string{"LD_PRELOAD"} },
		"up to one minute":         func(c *Config) { c.Timeout = time.Hour },
		"is not of its protocol":   func(c *Config) { c.Path, c.SHA256 = "/bin/true", sumOf(t, "/bin/true") },
		"opening plugin local (/b": func(c *Config) { c.Path, c.SHA256 = "/bin/true", sumOf(t, "/bin/true") },
	} {
		c := good
		change(&c)
		tok, err := Open(c)
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q, got %v", says, err)
		}
		if err == nil {
			tok.Close()
		}
	}
}

// What was hashed is what runs, whatever happens to the file.
func TestReplacedExecutable(t *testing.T) {
	c := config(t)
	data, err := os.ReadFile(c.Path)
	check(t, err)
	c.Path = filepath.Join(t.TempDir(), "sigstore-kms-local")
	check(t, os.WriteFile(c.Path, data, 0o755))
	tok := open(t, c)
	key, err := tok.Generate(t.Context(), "local://"+filepath.Join(t.TempDir(), "k"), hsm.ECDSAP256)
	check(t, err)
	other, err := os.ReadFile("/bin/true")
	check(t, err)
	check(t, os.WriteFile(c.Path, other, 0o755)) // in place: the same inode
	check(t, key.Check(t.Context()))
	check(t, os.Remove(c.Path))
	check(t, key.Check(t.Context()))
}

// The plugin sees the variables that are listed, and no file this process opened.
func TestEnvironment(t *testing.T) {
	ours, err := os.Create(filepath.Join(t.TempDir(), "of-the-test"))
	check(t, err)
	defer ours.Close()
	t.Setenv("PLUGIN_REGION", "here")
	t.Setenv("PLUGIN_SECRET", "not for it")
	c := config(t)
	c.Environment = []string{"PLUGIN_REGION", "PLUGIN_ABSENT"}
	file := filepath.Join(t.TempDir(), "environment")
	_, err = open(t, c).Signer(t.Context(), "local://"+file)
	failsWith(t, err, hsm.ErrNotFound)
	text, err := os.ReadFile(file)
	check(t, err)
	var seen struct {
		Env, Args, FDs []string
	}
	check(t, json.Unmarshal(text, &seen))
	if len(seen.Env) != 1 || seen.Env[0] != "PLUGIN_REGION=here" {
		t.Errorf("environment %q", seen.Env)
	}
	if seen.Args[0] != "sigstore-kms-local" || seen.Args[1] != "v1" {
		t.Errorf("arguments %q", seen.Args)
	}
	for _, fd := range seen.FDs {
		if strings.Contains(fd, "of-the-test") || strings.Contains(fd, "memfd:") {
			t.Errorf("descriptor %s was handed on", fd)
		}
	}
}

// Every way to misbehave is an error of the call, bounded.
func TestMisbehaviour(t *testing.T) {
	c := config(t)
	tok := open(t, c)
	c.Timeout = 500 * time.Millisecond
	impatient := open(t, c)
	dir := t.TempDir()
	for name, says := range map[string]string{"flood": "more than 1048576 octets", "die": "no licence", "noise": "not of its protocol"} {
		_, err := tok.Signer(t.Context(), "local://"+filepath.Join(dir, name))
		failsWith(t, err, hsm.ErrUnavailable, says)
	}
	_, err := impatient.Signer(t.Context(), "local://"+filepath.Join(dir, "hang"))
	failsWith(t, err, hsm.ErrUnavailable, "ended at its deadline")
	if text, err := os.ReadFile(filepath.Join(dir, "hang.pid")); err == nil { // it got as far as starting a child
		pid, err := strconv.Atoi(string(text))
		check(t, err)
		for deadline := time.Now().Add(10 * time.Second); running(pid); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("process %d, which the plugin started, is left", pid)
			}
		}
	}
	key, err := tok.Generate(t.Context(), "local://"+filepath.Join(dir, "lie"), hsm.ECDSAP256)
	check(t, err)
	failsWith(t, key.Check(t.Context()), hsm.ErrBadSignature)

	for _, uri := range []string{"local://", "local:x", "local:// ", "local://a b", "local://\x1b", "other://x", "local://" + strings.Repeat("a", maxURI)} {
		_, err := tok.Signer(t.Context(), uri)
		failsWith(t, err, hsm.ErrUnsupported)
	}
}

func running(pid int) bool {
	state, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.Contains(state, []byte(") Z ")) && syscall.Kill(pid, 0) == nil
}

// A key that is replaced under the name is found out by its signature.
func TestReplacedKey(t *testing.T) {
	tok, file := open(t, config(t)), filepath.Join(t.TempDir(), "k")
	key, err := tok.Generate(t.Context(), "local://"+file, hsm.ECDSAP256)
	check(t, err)
	check(t, os.Remove(file))
	failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable, "not found")
	_, err = tok.Generate(t.Context(), "local://"+file, hsm.ECDSAP256)
	check(t, err)
	failsWith(t, key.Check(t.Context()), hsm.ErrBadSignature)
}

// Outages leave no goroutine, descriptor or process behind.
func TestTortureOutages(t *testing.T) {
	outages := 20
	if os.Getenv("REDOUBT_TORTURE") != "" {
		outages = 500
	}
	c := config(t)
	c.Timeout = 5 * time.Second
	tok, dir := open(t, c), t.TempDir()
	key, err := tok.Generate(t.Context(), "local://"+filepath.Join(dir, "k"), hsm.ECDSAP256)
	check(t, err)
	check(t, key.Check(t.Context()))
	count := func() (int, int) {
		entries, err := os.ReadDir("/proc/self/fd")
		check(t, err)
		return runtime.NumGoroutine(), len(entries)
	}
	goroutines, descriptors := count()
	for range outages {
		check(t, os.Rename(filepath.Join(dir, "k"), filepath.Join(dir, "away")))
		failsWith(t, key.Check(t.Context()), hsm.ErrUnavailable)
		check(t, os.Rename(filepath.Join(dir, "away"), filepath.Join(dir, "k")))
		check(t, key.Check(t.Context()))
	}
	for range 100 {
		if g, d := count(); g <= goroutines && d <= descriptors {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	g, d := count()
	t.Errorf("after %d outages: goroutines %d then %d, descriptors %d then %d", outages, goroutines, g, descriptors, d)
}

func FuzzPublic(f *testing.F) {
	f.Add([]byte("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if pub, err := parsePublic(text); err == nil && pub == nil {
			t.Error("no key and no error")
		}
	})
}

// Sigstore's own reader takes what we write.
func TestArgumentsAreSigstores(t *testing.T) {
	digest, hash := []byte("0123456789abcdef0123456789abcdef"), crypto.SHA256
	text, err := json.Marshal(&common.PluginArgs{
		InitOptions: &common.InitOptions{ProtocolVersion: common.ProtocolVersion, KeyResourceID: "k", HashFunc: hash, RPCOptions: &common.RPCOptions{}},
		MethodArgs: &common.MethodArgs{MethodName: common.SignMessageMethodName, SignMessage: &common.SignMessageArgs{
			SignOptions: &common.SignOptions{MessageOptions: common.MessageOptions{Digest: &digest, HashFunc: &hash}}}},
	})
	check(t, err)
	args, err := handler.GetPluginArgs([]string{"sigstore-kms-local", common.ProtocolVersion, string(text)})
	check(t, err)
	if got := args.SignMessage.SignOptions.MessageOptions; args.MethodName != "signMessage" || args.InitOptions.KeyResourceID != "k" || !bytes.Equal(*got.Digest, digest) || *got.HashFunc != hash {
		t.Errorf("read back as %+v", args)
	}
}
