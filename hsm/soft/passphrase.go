package soft

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"redoubt.internal/hsm"
)

const (
	minPassphrase = 8
	maxPassphrase = 4 << 10
)

// readPassphrase returns the passphrase and where it came from, as
// "file:PATH" or "credential:NAME".
func readPassphrase(c Config) (pass []byte, source string, err error) {
	path, source, credential := c.PassphraseFile, "file:"+c.PassphraseFile, false
	if path == "" {
		name := c.Credential
		if name == "" {
			name = DefaultCredential
		}
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return nil, "", errors.New("no passphrase for software keys: set a passphrase file, or run under systemd with LoadCredential=" + name)
		}
		if strings.ContainsRune(name, '/') || name == "." || name == ".." {
			return nil, "", fmt.Errorf("credential name %q is not a file name", name)
		}
		path, source, credential = filepath.Join(dir, name), "credential:"+name, true
	}
	data, err := readPrivate(path, maxPassphrase, credential)
	if err != nil {
		return nil, "", fmt.Errorf("reading passphrase from %s: %w", source, err)
	}
	pass = bytes.TrimSuffix(bytes.TrimSuffix(data, []byte("\n")), []byte("\r"))
	if len(pass) < minPassphrase {
		return nil, "", fmt.Errorf("passphrase in %s has %d octets, at least %d are needed", source, len(pass), minPassphrase)
	}
	return pass, source, nil
}

// readPrivate reads a regular file that only its owner, who is this user or
// root, may read or write. systemd shows the access list of a credential as
// group bits, so for a credential only the bits of others count.
func readPrivate(path string, limit int64, credential bool) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	forbidden := os.FileMode(0o077)
	if credential {
		forbidden = 0o007
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case st.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("%s is open to others (mode %04o), expected 0600: %w", path, st.Mode().Perm(), hsm.ErrInsecureKey)
	case ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid():
		return nil, fmt.Errorf("%s belongs to user %d, expected %d or root: %w", path, sys.Uid, os.Geteuid(), hsm.ErrInsecureKey)
	case st.Size() > limit:
		return nil, fmt.Errorf("%s has %d octets, limit %d", path, st.Size(), limit)
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d octets", path, limit)
	}
	return data, nil
}
