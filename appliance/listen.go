package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"redoubt.internal/appliance/cmdline"
	"slices"
)

// boundListener is one listener and what answers on it.
type boundListener struct {
	name     string
	control  bool
	listener net.Listener
	serve    func() error
	shutdown func(context.Context) error
}

func bind(name string, l net.Listener, server *http.Server) boundListener {
	return boundListener{name, false, l, func() error { return server.Serve(l) }, server.Shutdown}
}

// listen binds the control sockets and every listen address of this process's services, or none of them. Of an address that other roles
// have services on too, this process has a socket instead, and the front role's the address.
func (s *server) listen() (bound []boundListener, err error) {
	defer func() {
		if err != nil {
			for _, b := range bound {
				b.listener.Close()
			}
		}
	}()
	rooms := s.instance().handlers(s)
	s.rooms.Store(&rooms)
	s.routes = newRoutes()
	addresses := map[string]map[string]http.Handler{} // listen address -> host name -> handler
	encrypted := map[string]bool{}                    // listen address -> speaks TLS
	p := s.instance().parts
	for name, svc := range p.services(s.cfg) {
		if p != nil && slices.Contains(s.cfg.divided(), svc.Listen) {
			svc = &Service{Listen: filepath.Join(s.in.dir.run(serviceParts[name]), serveSocket), URL: svc.URL}
		}
		if rooms[name] == nil {
			return bound, fmt.Errorf("services.%s: this build does not serve it", name)
		}
		u, err := url.Parse(svc.URL)
		if err != nil {
			return bound, err
		}
		if addresses[svc.Listen] == nil {
			addresses[svc.Listen] = map[string]http.Handler{}
		}
		encrypted[svc.Listen] = encrypted[svc.Listen] || u.Scheme == "https" && s.cfg.encrypts()
		if _, taken := addresses[svc.Listen][u.Hostname()]; taken {
			return bound, fmt.Errorf("services.%s: another service has the same listen address and host name", name)
		}
		addresses[svc.Listen][u.Hostname()] = s.guard(name, s.room(name))
	}
	for address, hosts := range addresses {
		listener, err := s.listenOn(address)
		if err != nil {
			return bound, cmdline.Unavailable(fmt.Errorf("listening on %s: %w", address, err))
		}
		if encrypted[address] {
			listener = tls.NewListener(listener, s.handshakes())
		}
		bound = append(bound, bind(address, listener, s.httpServer(byHost(hosts, s.alias))))
	}
	if people, err := s.peopleSocket(); err != nil {
		return bound, err
	} else if people != nil {
		bound = append(bound, bind("people's socket", people, controlServer(s, s.reach)))
	}
	if p != nil && p.runs(partFront) {
		for _, address := range s.cfg.divided() {
			listener, err := s.listenOn(address)
			if err != nil {
				return bound, cmdline.Unavailable(fmt.Errorf("listening on %s: %w", address, err))
			}
			passer := newPasser(s.cfg, address, s.logger)
			bound = append(bound, boundListener{address, false, listener, func() error { return passer.serve(listener) },
				func(ctx context.Context) error { return passer.shutdown(ctx, listener) }})
		}
	}
	for _, at := range s.controls() {
		control, err := listenIn(at.folder, socketName, at.mode)
		if err != nil {
			return bound, err
		}
		b := bind("control socket", control, controlServer(s, s.operate))
		b.control = true
		bound = append(bound, b)
	}
	return bound, nil
}

// listenOn binds a host and port, or the socket at a path, which the front role alone reaches.
func (s *server) listenOn(address string) (net.Listener, error) {
	if !filepath.IsAbs(address) {
		return net.Listen("tcp", address)
	}
	l, err := listenIn(filepath.Dir(address), filepath.Base(address), 0o660)
	if err != nil {
		return nil, err
	}
	return fromFront{l, s.cfg.Roles}, nil
}

// controlSocket is where a control socket stands, and who reaches it: whoever runs the one process, or the group of the roles.
type controlSocket struct {
	folder string
	mode   os.FileMode
}

func (s *server) controls() (at []controlSocket) {
	in := s.instance()
	if in.parts == nil {
		return []controlSocket{{in.dir.run(""), 0o600}}
	}
	for _, part := range partNames {
		if in.parts[part] {
			at = append(at, controlSocket{in.dir.run(part), 0o660})
		}
	}
	return at
}

func isLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	return err == nil && (host == "localhost" || net.ParseIP(host).IsLoopback())
}

func (s *server) httpServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols) // gRPC clients of the CA speak HTTP/2, on loopback without TLS
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true)
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           h,
		Protocols:         protocols,
		ReadHeaderTimeout: s.cfg.Limits.HeaderTimeout.or(defaultHeaderTimeout),
		ReadTimeout:       requestTimeout,
		WriteTimeout:      requestTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeaderBytes,
		ErrorLog:          slog.NewLogLogger(s.logger.Handler(), slog.LevelDebug),
	}
}

// drain stops accepting on every listener, waits for requests under way, and lets the control socket go last.
func (s *server) drain(servers []boundListener) error {
	ctx, cancel := context.WithTimeout(context.Background(), s.cfg.Limits.Drain.or(defaultDrain))
	defer cancel()
	var errs []error
	for _, control := range []bool{false, true} {
		for _, l := range slices.Backward(servers) {
			if l.control == control {
				errs = append(errs, l.shutdown(ctx))
			}
		}
	}
	for _, at := range s.controls() {
		os.Remove(filepath.Join(at.folder, socketName))
	}
	return errors.Join(errs...)
}
