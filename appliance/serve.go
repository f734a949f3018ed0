package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"
	"golang.org/x/sys/unix"
	"redoubt.internal/appliance/cmdline"
)

const (
	defaultHeaderTimeout = 5 * time.Second
	defaultDrain         = 10 * time.Second
	defaultBodyBytes     = 4 << 20
	maxHeaderBytes       = 64 << 10
	idleTimeout          = 2 * time.Minute
	requestTimeout       = 60 * time.Second // reading a whole request and writing its answer; parcels do not come this way
)

func serveCommand() *cli.Command {
	return &cli.Command{
		Name: "serve", Usage: "serve everything the configuration enables until SIGTERM; SIGHUP reloads",
		Flags: append(cmdline.StateFlags(),
			&cli.StringFlag{Name: "listen", Usage: "listen on this host instead of the configured ones; ports stay", EnvVars: []string{"REDOUBT_LISTEN"}},
			&cli.StringFlag{Name: "roles", Usage: "run these roles alone: a comma list of " + strings.Join(partNames, ", ") + " (default: all in this process)", EnvVars: []string{"REDOUBT_ROLES"}},
			&cli.StringFlag{Name: "ready-file", Usage: "write the service URLs to this file once everything answers", EnvVars: []string{"REDOUBT_READY_FILE"}},
		),
		Action: func(c *cli.Context) error {
			cfg, err := loadConfig(cmdline.ConfigPath(c))
			if err != nil {
				return err
			}
			if host := c.String("listen"); host != "" {
				if err := relisten(cfg, host); err != nil {
					return err
				}
			}
			logger, err := cmdline.NewLogger(c)
			if err != nil {
				return err
			}
			p, err := parseParts(c.String("roles"))
			if err != nil {
				return err
			}
			if err := p.runnable(cfg); err != nil {
				return err
			}
			if p != nil {
				unix.Umask(0o077) // as its unit says: what a role writes is its own
			}
			if p == nil { // a role may not change what others work on: `redoubt state migrate` does
				if err := migrateToServe(c.Context, layout{cfg.Dir}, logger); err != nil {
					return err
				}
			}
			in, err := openParts(c.Context, cfg, p, logger)
			if err != nil {
				return err
			}
			if err := in.recordMoves(c.Context); err != nil {
				logger.Error("recording a migration in the audit log; the next start tries again", "error", err)
			}
			if err := in.recordRestore(c.Context); err != nil {
				logger.Error("recording a restore in the audit log; the next start tries again", "error", err)
			}
			s := &server{in: in, cfg: in.cfg, logger: logger, configPath: cmdline.ConfigPath(c)}
			if err := in.recordRules(c.Context); err != nil {
				logger.Error("the rules of the configuration; `redoubt config reload` asks for approval of them", "error", err)
				s.reloaded.Store(&reloadState{in.now(), err})
			}
			defer func() { s.instance().close() }()
			return s.run(c.Context, c.String("ready-file"))
		},
	}
}

// relisten moves every listener but the metrics to host.
func relisten(cfg *Config, host string) error {
	for name, s := range cfg.Services.all() {
		_, port, err := net.SplitHostPort(s.Listen)
		if err != nil || name == "metrics" {
			continue
		}
		s.Listen = net.JoinHostPort(host, port)
	}
	return cfg.check()
}

// server is one serving process: the opened instance and its listeners.
type server struct {
	swap sync.RWMutex // guards in and issuers
	in   *instance    // replaced while the gate is closed
	// issuers is the configuration whose issuers and people were loaded last; nil before the first reload.
	issuers *Config

	reloading sync.Mutex                  // one reload at a time; guards readied
	readied   *readied                    // for the ca role, by a role that runs apart
	reloaded  atomic.Pointer[reloadState] // what became of the last one

	gate       gate
	patience   Duration                                // how long it waits for requests under way; 0 is reopenPatience
	rooms      atomic.Pointer[map[string]http.Handler] // by service name
	routes     routeIndex                              // that are answered at all
	background context.Context                         // of what the server does by itself
	pause      func()                                  // ends that, until resume
	lost       chan error                              // a state that could not be opened again
	swapped    chan struct{}                           // the instance is another one

	cfg        *Config
	logger     *slog.Logger
	configPath string
	metrics    *metrics
	health     *health // of this process
	every      *health // of every role, where this process shows for all
	front      frontEnd
}

// run serves until ctx ends, then drains: no new connections, requests under way finish within limits.drain, the control
// socket goes last. It returns nil after a clean drain.
func (s *server) run(ctx context.Context, readyFile string) error {
	s.metrics, s.health = newMetrics(), &health{checks: func(ctx context.Context) []check { return s.instance().checks(ctx) }}
	s.every = &health{checks: s.everyCheck}
	s.metrics.registry.MustRegister(mirrorGauges{s}, checkGauges{s})
	s.lost, s.swapped = make(chan error, 1), make(chan struct{}, 1)
	var stop context.CancelFunc
	s.background, stop = context.WithCancel(ctx)
	defer stop()
	if err := s.instance().finish(ctx); err != nil {
		s.logger.Error("publishing what a rotation changed; the next start tries again", "error", err)
	}
	s.in.front = &s.front
	if err := s.loadTLS(ctx, s.cfg.TLS); err != nil {
		return err
	}
	servers, err := s.listen()
	if err != nil {
		return err
	}
	failed := make(chan error, len(servers))
	for _, l := range servers {
		go func() {
			if err := l.serve(); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("serving %s: %w", l.name, err)
			}
		}()
	}
	s.take(s.instance())
	ready := s.readiness()
	if readyFile != "" {
		if err := writeReadyFile(readyFile, ready); err != nil {
			return fmt.Errorf("writing the ready file: %w", err)
		}
		defer os.Remove(readyFile)
	}
	if err := notifySystemd("READY=1"); err != nil {
		s.logger.Warn("telling the service manager", "error", err)
	}
	s.logger.Info("serving", "urls", ready)

	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	for err == nil {
		select {
		case <-hangups:
			s.hangup()
		case err = <-failed:
		case err = <-s.instance().failed:
		case err = <-s.lost:
		case <-s.swapped: // another instance's failures from here on
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	notifySystemd("STOPPING=1")
	drained := s.drain(servers)
	if ctx.Err() == nil {
		return err
	}
	s.logger.Info("stopped")
	return drained
}

const (
	renewInterval   = 12 * time.Hour
	renewAgainAfter = time.Minute // its key may be back
)

// maintain does what a server owes its clients without being asked: a trust repository that does not run out.
func (s *server) maintain(ctx context.Context, in *instance) {
	for {
		next := renewInterval
		if in.parts.runs(partCA) {
			if err := sampleDisk(in.dir, in.now()); err != nil {
				s.logger.Warn("noting how much of the disk is free", "error", err)
			}
		}
		if err := in.olderCopy(); errors.Is(err, errUnheard) {
			next = hearAgainAfter
		} else if err != nil {
			s.logger.Error("trust metadata and timestamps are held back", "error", err)
		} else if err := in.renewTrust(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("renewing the trust repository", "error", err)
			next = renewAgainAfter
		} else if err := in.publishDenied(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("publishing the list of denied identities", "error", err)
			next = renewAgainAfter
		} else if err := in.publishMirroredTrust(ctx); err != nil && ctx.Err() == nil {
			s.logger.Error("renewing the mirrored roots of trust", "error", err)
			next = renewAgainAfter
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// renewTrust renews the trust repository where this process has it.
func (in *instance) renewTrust(ctx context.Context) error {
	if in.tuf == nil {
		return nil
	}
	return in.tuf.Renew(ctx)
}

// alias is the host name of the service that has the log called host: rekor-3.<domain> is served where the artifact logs are, and a mirrored
// log where the mirror is. "" where
// there is none. It is asked at each request, because a rotation adds logs.
func (s *server) alias(host string) string { return s.instance().cfg.alias(host) }

func (c *Config) alias(host string) string {
	if at := c.mirrorHost(); at != "" && (strings.HasSuffix(host, "."+at) || c.Mirror.Hosts[host] != "") {
		return at
	}
	name, ours := strings.CutSuffix(host, "."+c.Domain)
	if !ours {
		return ""
	}
	at := c.Services.Rekor
	if slices.Contains(c.certificateLogs(), name) {
		at = c.Services.CT
	} else if !slices.ContainsFunc(c.Log.Artifact, func(a ArtifactLog) bool { return a.Name == name }) {
		return ""
	}
	if at == nil {
		return ""
	}
	u, err := url.Parse(at.URL)
	if err != nil {
		return "" // refused by Config.check
	}
	return u.Hostname()
}

// readiness is the content of the ready file.
func (s *server) readiness() map[string]any {
	ready := map[string]any{"pid": os.Getpid(), "version": versionString()}
	if err := errors.Join(s.instance().olderHere(), s.instance().tryKeys(context.Background())); err != nil {
		ready["notReady"] = err.Error() // reads are served all the same
	}
	for name, svc := range s.instance().parts.services(s.cfg) {
		ready[name] = svc.URL
		if name == "tsa" {
			ready[name] = svc.URL + timestampPath
		}
	}
	return ready
}

const timestampPath = "/api/v1/timestamp"

// loadTLS takes the certificate of the listeners, or makes it. A listener speaks TLS when its service's URL is https and there is, or
// will be, a certificate; without one, an https URL on a loopback address means that a proxy of the site stands in front. A token that is
// away when one is to be made does not stop the server: it is tried again.
func (s *server) loadTLS(ctx context.Context, t TLS) error {
	switch in := s.instance(); {
	case !in.shows():
	case t.Cert != "":
		c, err := in.siteCertificate(ctx, t)
		if err != nil {
			return err
		}
		s.front.shown.Store(c)
	case in.cfg.issued() && s.front.shown.Load() == nil:
		if err := s.front.renew(ctx, in, "redoubt"); err != nil {
			s.logger.Error("making the certificate of the listeners; it is tried again", "error", err)
		}
	}
	return nil
}

// shows reports whether this process may have listeners that show a certificate.
func (in *instance) shows() bool {
	return in.parts == nil || len(in.cfg.frontNames(in.parts).Strings()) > 0
}
