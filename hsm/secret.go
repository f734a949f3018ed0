package hsm

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// ReadPrivate reads a regular file that only its owner, who is this user or
// root, may read or write: a passphrase, a PIN, a sealed key. It fails with
// ErrInsecureKey when others may, and with fs.ErrNotExist when it is absent.
// Root reads every user's.
// limit bounds its size in octets. Inside $CREDENTIALS_DIRECTORY, where systemd
// shows an access list as group bits, only the bits of others count.
func ReadPrivate(path string, limit int64) ([]byte, error) {
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
	if isCredential(path) {
		forbidden = 0o007
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	switch {
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is not a regular file", path)
	case st.Mode().Perm()&forbidden != 0:
		return nil, fmt.Errorf("%s is open to others (mode %04o), expected 0600: %w", path, st.Mode().Perm(), ErrInsecureKey)
	case ok && sys.Uid != 0 && int(sys.Uid) != os.Geteuid() && os.Geteuid() != 0: // root works for every role, whose files are theirs
		return nil, fmt.Errorf("%s belongs to user %d, expected %d or root: %w", path, sys.Uid, os.Geteuid(), ErrInsecureKey)
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

// ReadSecret is ReadPrivate for a secret of one line: one trailing newline (LF
// or CRLF) is not part of it.
func ReadSecret(path string, limit int64) ([]byte, error) {
	data, err := ReadPrivate(path, limit)
	if err != nil {
		return nil, err
	}
	if line, ok := bytes.CutSuffix(data, []byte("\n")); ok {
		data = bytes.TrimSuffix(line, []byte("\r"))
	}
	return data, nil
}

// CredentialPath returns the path of a systemd credential (LoadCredential=name).
func CredentialPath(name string) (string, error) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", fmt.Errorf("no systemd credentials here ($CREDENTIALS_DIRECTORY is empty), expected LoadCredential=%s", name)
	}
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/') {
		return "", fmt.Errorf("credential name %q is not a file name", name)
	}
	return filepath.Join(dir, name), nil
}

// isCredential reports whether path lies directly in the credentials directory.
func isCredential(path string) bool {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	return dir != "" && filepath.Dir(filepath.Clean(path)) == filepath.Clean(dir)
}
