package main

import (
	"encoding/json"
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
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	if err := f.Chmod(mode); err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// writeReadyFile tells whoever started the server where everything is.
func writeReadyFile(path string, ready any) error {
	data, err := json.Marshal(ready)
	if err != nil {
		return err
	}
	return writeFileAtomic(path, append(data, '\n'), 0o644)
}
