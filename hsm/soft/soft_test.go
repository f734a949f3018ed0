package soft

import (
	"bytes"
	"crypto/fips140"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

const passphrase = "correct horse battery"

// config writes a passphrase file and returns the Config of a token in dir.
func config(t testing.TB, dir string) Config {
	t.Helper()
	file := filepath.Join(t.TempDir(), "passphrase")
	if err := os.WriteFile(file, []byte(passphrase+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Config{PassphraseFile: file, Dir: dir, WorkFactor: minWorkFactor}
}

func open(t testing.TB, c Config) *Token {
	t.Helper()
	tok, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tok.Close() })
	return tok
}

func TestConformance(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "keys")
	c := config(t, dir)
	hsmtest.Run(t, hsmtest.Kind{
		Open:   func(t testing.TB) hsm.Token { return open(t, c) },
		URI:    func(name string) string { return Scheme + name + ".key" },
		Secret: passphrase,
	})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 || !strings.HasSuffix(e.Name(), ".key") {
			t.Errorf("%s left with mode %04o", e.Name(), info.Mode().Perm())
		}
		data, _ := os.ReadFile(filepath.Join(dir, e.Name()))
		if bytes.Contains(data, []byte(passphrase)) || bytes.Contains(data, []byte("PRIVATE KEY")) {
			t.Errorf("%s holds a secret in the clear", e.Name())
		}
	}
	if st, _ := os.Stat(dir); st.Mode().Perm() != 0o700 {
		t.Errorf("directory made with mode %04o", st.Mode().Perm())
	}
}

func TestBanner(t *testing.T) {
	var log bytes.Buffer
	c := config(t, t.TempDir())
	c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	open(t, c)
	if s := log.String(); !strings.Contains(s, "level=WARN") || !strings.Contains(s, "SOFTWARE KEYS") || strings.Contains(s, passphrase) {
		t.Errorf("banner: %s", s)
	}
}

func TestWrongPassphrase(t *testing.T) {
	c := config(t, t.TempDir())
	if _, err := open(t, c).Generate(t.Context(), "soft:k", hsm.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(c.PassphraseFile, []byte("another passphrase"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := open(t, c).Signer(t.Context(), "soft:k")
	if !errors.Is(err, hsm.ErrBadPIN) || strings.Contains(err.Error(), "another") {
		t.Errorf("got %v", err)
	}
}

func TestPassphraseFileRefused(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p, mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	for name, c := range map[string]struct {
		path string
		want error
	}{
		"world readable": {write("world", passphrase, 0o604), hsm.ErrInsecureKey},
		"group readable": {write("group", passphrase, 0o640), hsm.ErrInsecureKey},
		"absent":         {filepath.Join(dir, "absent"), fs.ErrNotExist},
		"short":          {write("short", "1234567\n", 0o600), nil},
		"empty":          {write("empty", "", 0o600), nil},
		"huge":           {write("huge", strings.Repeat("x", maxPassphrase+1), 0o600), nil},
		"directory":      {dir, nil},
	} {
		_, err := Open(Config{PassphraseFile: c.path})
		if err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	t.Setenv("CREDENTIALS_DIRECTORY", "")
	if _, err := Open(Config{}); err == nil || !strings.Contains(err.Error(), "LoadCredential") {
		t.Errorf("no passphrase: %v", err)
	}
}

func TestCredential(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	if err := os.WriteFile(filepath.Join(dir, DefaultCredential), []byte(passphrase), 0o440); err != nil {
		t.Fatal(err)
	}
	keys := t.TempDir()
	if _, err := open(t, Config{Dir: keys, WorkFactor: minWorkFactor}).Generate(t.Context(), "soft:k", hsm.Ed25519); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, config(t, keys)).Signer(t.Context(), "soft:k"); err != nil {
		t.Errorf("same passphrase by file: %v", err)
	}
	if _, err := Open(Config{Credential: "../x"}); err == nil {
		t.Error("took a credential name with a slash")
	}
}

func TestKeyFileRefused(t *testing.T) {
	c := config(t, t.TempDir())
	tok := open(t, c)
	if _, err := tok.Generate(t.Context(), "soft:k", hsm.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(c.Dir, "k")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Signer(t.Context(), "soft:k"); !errors.Is(err, hsm.ErrInsecureKey) {
		t.Errorf("world readable: %v", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		t.Fatal(err)
	}
	other, err := generate(hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	f, _ := parseFile(good)
	swapped, err := f.suite.seal(other, hsm.ECDSAP256, f.header.KDF, make([]byte, 32))
	if err != nil {
		t.Fatal(err)
	}
	change := func(fn func(j *fileJSON)) []byte {
		var j fileJSON
		if err := json.Unmarshal(good, &j); err != nil {
			t.Fatal(err)
		}
		fn(&j)
		b, _ := json.Marshal(j)
		return b
	}
	for name, data := range map[string][]byte{
		"empty":           {},
		"truncated":       good[:len(good)/2],
		"trailing":        append(bytes.Clone(good), '{'),
		"unknown field":   bytes.Replace(good, []byte(`"nonce"`), []byte(`"extra":1,"nonce"`), 1),
		"other public":    change(func(j *fileJSON) { j.Header.Public = swapped.header.Public }),
		"other algorithm": change(func(j *fileJSON) { j.Header.Algorithm = hsm.ECDSAP384 }),
		"other salt":      change(func(j *fileJSON) { j.Header.FileSalt[0] ^= 1 }),
		"flipped seal":    change(func(j *fileJSON) { j.Sealed[3] ^= 1 }),
		"flipped nonce": change(func(j *fileJSON) {
			if len(j.Nonce) > 0 {
				j.Nonce[3] ^= 1
			} else {
				j.Sealed[0] ^= 1
			}
		}),
		"foreign nonce": change(func(j *fileJSON) { j.Nonce = append(j.Nonce, 0) }),
		"cheap kdf":     change(func(j *fileJSON) { j.Header.KDF.LogN = 1 }),
		"memory bomb":   change(func(j *fileJSON) { j.Header.KDF.LogN = 40 }),
		"other cipher":  change(func(j *fileJSON) { j.Header.Cipher = "none" }),
		"other format":  change(func(j *fileJSON) { j.Header.Format = "redoubt-soft-key/v9" }),
		"huge":          append(bytes.Clone(good), bytes.Repeat([]byte(" "), maxFile)...),
	} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := tok.Signer(t.Context(), "soft:k"); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Signer(t.Context(), "soft:k"); err != nil {
		t.Errorf("restored file: %v", err)
	}
}

func TestPathsRefused(t *testing.T) {
	tok := open(t, config(t, t.TempDir()))
	for _, uri := range []string{"soft:", "soft:../up", "soft:a/../../up", "soft:dir/", "soft:a\nb"} {
		if _, err := tok.Generate(t.Context(), uri, hsm.Ed25519); !errors.Is(err, hsm.ErrUnsupported) {
			t.Errorf("%q: %v", uri, err)
		}
	}
	open2 := config(t, t.TempDir())
	if err := os.Chmod(open2.Dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, open2).Generate(t.Context(), "soft:k", hsm.Ed25519); !errors.Is(err, hsm.ErrInsecureKey) {
		t.Errorf("directory writable by all: %v", err)
	}
}

func TestOneDerivationForManyKeys(t *testing.T) {
	c := config(t, t.TempDir())
	tok := open(t, c)
	for _, n := range []string{"a", "b", "c"} {
		if _, err := tok.Generate(t.Context(), Scheme+n, hsm.Ed25519); err != nil {
			t.Fatal(err)
		}
	}
	again := open(t, c)
	for _, n := range []string{"a", "b", "c"} {
		if _, err := again.Signer(t.Context(), Scheme+n); err != nil {
			t.Fatal(err)
		}
	}
	if len(again.masters) != 1 {
		t.Errorf("scrypt ran for %d parameter sets", len(again.masters))
	}
	if _, err := again.Generate(t.Context(), "soft:d", hsm.Ed25519); err != nil || len(again.masters) != 1 {
		t.Errorf("a later key uses new parameters (%d), %v", len(again.masters), err)
	}
}

// TestFIPS runs this file's tests once more under strict enforcement, where other files are written, and carries keys both ways.
func TestFIPS(t *testing.T) {
	if dir := os.Getenv("REDOUBT_SOFT_FIPS"); dir != "" {
		c := config(t, dir)
		if _, err := open(t, c).Generate(t.Context(), "soft:strict", hsm.ECDSAP256); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, c).Signer(t.Context(), "soft:usual"); !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "FIPS") {
			t.Errorf("a key file of the usual format in FIPS 140-3 mode: %v", err)
		}
		short := c
		short.PassphraseFile = filepath.Join(t.TempDir(), "short")
		if err := os.WriteFile(short.PassphraseFile, []byte("13 characters"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, short).Generate(t.Context(), "soft:short", hsm.ECDSAP256); !errors.Is(err, hsm.ErrUnsupported) || !strings.Contains(err.Error(), "at least 14") {
			t.Errorf("a passphrase of less than 112 bits: %v", err)
		}
		return
	}
	if fips140.Enforced() {
		return // the tests of this file run under enforcement already
	}
	c := config(t, t.TempDir())
	if _, err := open(t, c).Generate(t.Context(), "soft:usual", hsm.ECDSAP256); err != nil {
		t.Fatal(err)
	}
	child := func(run string) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+run)
		cmd.Env = append(os.Environ(), "GODEBUG=fips140=only", "REDOUBT_SOFT_FIPS="+c.Dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("under fips140=only, %s: %v\n%s", run, err, out)
		}
	}
	child("^TestFIPS$")
	key, err := open(t, c).Signer(t.Context(), "soft:strict")
	if err != nil {
		t.Fatalf("a key made in FIPS 140-3 mode, opened out of it: %v", err)
	}
	if err := key.Check(t.Context()); err != nil || !strings.Contains(key.Info().Attributes["kdf"], "PBKDF2") {
		t.Errorf("%v, %v", err, key.Info().Attributes)
	}
	child("^Test[^F]")
}

func FuzzKeyFile(f *testing.F) {
	signer, err := generate(hsm.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	for _, suite := range suites {
		if fips140.Enforced() && !suite.approved {
			continue
		}
		k, err := suite.seal(signer, hsm.Ed25519, kdf{LogN: suite.minLogN}, make([]byte, 32))
		if err != nil {
			f.Fatal(err)
		}
		data, err := k.encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		k, err := parseFile(data)
		if err != nil {
			return
		}
		enc, err := k.encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := parseFile(enc)
		if err != nil {
			t.Fatalf("own encoding refused: %v", err)
		}
		if twice, _ := again.encode(); !bytes.Equal(enc, twice) {
			t.Fatal("encoding is not stable")
		}
		_, _ = k.open(make([]byte, 32))
	})
}

func BenchmarkOpenKey(b *testing.B) {
	c := config(b, b.TempDir())
	tok := open(b, c)
	if _, err := tok.Generate(b.Context(), "soft:k", hsm.ECDSAP256); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := tok.Signer(b.Context(), "soft:k"); err != nil {
			b.Fatal(err)
		}
	}
}
