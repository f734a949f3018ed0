package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
)

// notifySystemd sends one state line (READY=1, STOPPING=1, RELOADING=1) to the service manager, when there is one:
// sd_notify(3), a datagram to $NOTIFY_SOCKET, where a leading @ stands for the abstract namespace.
func notifySystemd(state string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	if address[0] == '@' {
		address = "\x00" + address[1:]
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}

// writeFileAtomic writes data to path so that a reader sees all of it or nothing.
func writeFileAtomic(path string, data []byte, mode os.FileMode) error {
	f, err := beginFile(path, mode)
	if err != nil {
		return err
	}
	defer f.discard()
	return f.finish(data)
}

// newFile is a file that has room at its place and is not there yet.
type newFile struct {
	*os.File
	path string
}

// beginFile shows that path can be written before anything is done whose result must not be lost. The caller discards.
func beginFile(path string, mode os.FileMode) (*newFile, error) {
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return nil, fmt.Errorf("%s is a folder", path)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // a name that backups leave out
	if err != nil {
		return nil, err
	}
	n := &newFile{f, path}
	if err := f.Chmod(mode); err != nil {
		n.discard()
		return nil, err
	}
	return n, nil
}

// finish writes data and puts the file in its place.
func (n *newFile) finish(data []byte) error {
	if _, err := n.Write(data); err != nil {
		return err
	}
	if err := n.Sync(); err != nil {
		return err
	}
	return os.Rename(n.Name(), n.path)
}

// discard lets go of the file, and removes it when it was not finished.
func (n *newFile) discard() {
	n.Close()
	os.Remove(n.Name())
}

// writeReadyFile tells whoever started the server where everything is.
func writeReadyFile(path string, ready any) error {
	data, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	return writeFileAtomic(path, append(data, '\n'), 0o644)
}
