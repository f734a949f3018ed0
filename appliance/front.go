package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"sync"
	"time"
)

// Where services of several roles share a port, told apart by host name, each role's process has a socket in place of it, DIR/run/<role>/
// serve.sock, and the front role has the port: it reads from a client's first message which host it wants (SNI) and passes the
// connection on, as it is. It has no key and reads nothing else; TLS ends in the process of the role.

const (
	serveSocket = "serve.sock"
	maxPassed   = 8192 // connections at a time
)

var errHost = errors.New("no role answers to this host name")

// divided are the listen addresses that services of several roles share.
func (c *Config) divided() (addresses []string) {
	by := map[string]string{}
	for name, s := range c.Services.all() {
		if part, ok := by[s.Listen]; ok && part != serviceParts[name] && !slices.Contains(addresses, s.Listen) {
			addresses = append(addresses, s.Listen)
		}
		by[s.Listen] = serviceParts[name]
	}
	slices.Sort(addresses)
	return addresses
}

// partByHost is the role that answers to a host name at a listen address; "" where none does.
func (c *Config) partByHost(address, host string) string {
	for _, name := range []string{host, c.alias(host)} {
		for service, s := range c.Services.all() {
			if u, err := url.Parse(s.URL); err == nil && name != "" && s.Listen == address && u.Hostname() == name {
				return serviceParts[service]
			}
		}
	}
	return ""
}

// passer hands connections on to the roles.
type passer struct {
	cfg     *Config
	address string
	logger  *slog.Logger

	mu   sync.Mutex // guards open and shut
	open map[net.Conn]struct{}
	shut bool
	busy sync.WaitGroup
}

func newPasser(cfg *Config, address string, logger *slog.Logger) *passer {
	return &passer{cfg: cfg, address: address, logger: logger, open: map[net.Conn]struct{}{}}
}

// serve passes connections on until l is closed.
func (p *passer) serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			p.mu.Lock()
			defer p.mu.Unlock()
			if p.shut {
				return nil
			}
			return err
		}
		if !p.enter(conn) {
			conn.Close()
			continue
		}
		go func() {
			defer p.leave(conn)
			if err := p.pass(conn); err != nil {
				p.logger.Debug("passing a connection on", "error", err)
			}
		}()
	}
}

func (p *passer) enter(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shut || len(p.open) >= maxPassed {
		return false
	}
	p.open[conn] = struct{}{}
	p.busy.Add(1)
	return true
}

func (p *passer) leave(conn net.Conn) {
	conn.Close()
	p.mu.Lock()
	delete(p.open, conn)
	p.mu.Unlock()
	p.busy.Done()
}

// pass reads a client's first message, and copies both ways until either side ends.
func (p *passer) pass(conn net.Conn) error {
	conn.SetDeadline(time.Now().Add(p.cfg.Limits.HeaderTimeout.or(defaultHeaderTimeout)))
	host, first, err := readHello(conn)
	if err != nil {
		return err
	}
	part := p.cfg.partByHost(p.address, host)
	if part == "" {
		return fmt.Errorf("%w: %q", errHost, host)
	}
	role, err := dialIn(context.Background(), layout{p.cfg.Dir}.run(part), serveSocket)
	if err != nil {
		return fmt.Errorf("%w: %w", roleDown(part), err)
	}
	defer role.Close()
	conn.SetDeadline(time.Time{})
	if _, err := role.Write(first); err != nil {
		return err
	}
	done := make(chan struct{}, 2)
	splice := func(to, from net.Conn) {
		io.Copy(to, from)
		if half, ok := to.(interface{ CloseWrite() error }); ok {
			half.CloseWrite()
		}
		done <- struct{}{}
	}
	go splice(role, conn)
	go splice(conn, role)
	<-done
	conn.SetDeadline(time.Now().Add(idleTimeout)) // the other half ends too
	<-done
	return nil
}

// shutdown lets what is under way end until ctx does, then cuts it.
func (p *passer) shutdown(ctx context.Context, l net.Listener) error {
	p.mu.Lock()
	p.shut = true
	p.mu.Unlock()
	err := l.Close()
	ended := make(chan struct{})
	go func() { p.busy.Wait(); close(ended) }()
	select {
	case <-ended:
		return err
	case <-ctx.Done():
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.open {
		conn.Close()
	}
	return err
}

// readHello is the host name in a TLS client's first message, and the message.
func readHello(conn net.Conn) (host string, first []byte, err error) {
	var read bytes.Buffer
	seen := errors.New("seen")
	config := &tls.Config{GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		host = hello.ServerName
		return nil, seen
	}}
	if err = tls.Server(silent{conn, io.TeeReader(conn, &read)}, config).Handshake(); errors.Is(err, seen) {
		err = nil
	}
	return host, read.Bytes(), err
}

// silent is a connection that is only read.
type silent struct {
	net.Conn
	from io.Reader
}

func (s silent) Read(b []byte) (int, error)  { return s.from.Read(b) }
func (s silent) Write(b []byte) (int, error) { return len(b), nil }

// fromFront accepts connections of the front role, of root and of this process's own user.
type fromFront struct {
	net.Listener
	roles *Roles
}

func (l fromFront) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if uid, known := peerUser(conn).(int); known && (uid == 0 || uid == os.Geteuid() || l.roles != nil && l.roles.partOf(uid) == partFront) {
			return conn, nil
		}
		conn.Close()
	}
}
