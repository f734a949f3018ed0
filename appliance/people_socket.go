package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"redoubt.internal/appliance/cmdline"
)

// peopleSocket binds the socket that every user may connect to, where the configuration names one. What stands there is replaced only
// if it is a socket that nobody answers on.
func (s *server) peopleSocket() (l net.Listener, err error) {
	if s.cfg.People == nil || s.cfg.People.Socket == "" || !s.instance().parts.runs(partCA) {
		return nil, nil
	}
	path := s.cfg.People.Socket
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, fmt.Errorf("people.socket: %w", err)
	case info.Mode().Type() != fs.ModeSocket:
		return nil, fmt.Errorf("people.socket: %s is no socket", path)
	default:
		if conn, err := net.Dial("unix", path); err == nil {
			conn.Close()
			return nil, fmt.Errorf("people.socket: another process answers on %s", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, fmt.Errorf("people.socket: %w", err)
		}
	}
	if l, err = net.Listen("unix", path); err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("people.socket: %w", err), "its folder must exist and the server's user must be able to write to it: RuntimeDirectory= in the unit makes one below /run")
	}
	if err := os.Chmod(path, 0o666); err != nil { // who may do what is asked of each request
		l.Close()
		return nil, fmt.Errorf("people.socket: %w", err)
	}
	return l, nil
}

// handshakes is the TLS configuration of the listeners. Client certificates are asked for while members are known by one; whose they
// are is found out at each request, so that one that nobody knows keeps nobody from what is open.
func (s *server) handshakes() *tls.Config {
	plain := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: s.front.certificate}
	asking := plain.Clone()
	asking.ClientAuth = tls.RequestClientCert
	outer := plain.Clone()
	outer.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		if s.instance().law().asksForCertificates() {
			return asking, nil
		}
		return plain, nil
	}
	return outer
}
