package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/admission"
	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/ca/approval"
)

func admissionCommand() *cli.Command {
	config := &cli.StringFlag{Name: "admission-config", Usage: "the gate's configuration: `redoubt docs gate-config`", EnvVars: []string{"REDOUBT_ADMISSION_CONFIG"}}
	return &cli.Command{Name: "admission", Usage: "a Kubernetes cluster's gate: nothing runs that the policy does not allow", Subcommands: []*cli.Command{
		{Name: "serve", Usage: "answer the API server until SIGTERM; SIGHUP, and a change of their files, reload policy and trust", Action: admissionServe, Flags: []cli.Flag{config,
			&cli.StringFlag{Name: "ready-file", Usage: "write the addresses to this file once the webhook answers", EnvVars: []string{"REDOUBT_READY_FILE"}}}},
		{Name: "manifests", Usage: "print what a cluster needs for the gate: webhook configurations, deployment, rights, and the configuration with all files it names", Action: admissionManifests, Flags: append([]cli.Flag{config,
			&cli.StringFlag{Name: "image", Usage: "the gate's own image at the cluster's registry, with its digest", EnvVars: []string{"REDOUBT_IMAGE"}},
			&cli.StringFlag{Name: "url", Usage: "the webhook runs outside the cluster at this https URL: print the webhook configurations alone", EnvVars: []string{"REDOUBT_URL"}},
			&cli.IntFlag{Name: "replicas", Value: 2, Usage: "how many run", EnvVars: []string{"REDOUBT_REPLICAS"}},
			&cli.StringFlag{Name: "state-claim", Usage: "PersistentVolumeClaim that all of them keep receipts and the record of what passed in; without it receipts are in ConfigMaps alone", EnvVars: []string{"REDOUBT_STATE_CLAIM"}},
			&cli.StringFlag{Name: "pull-secret", Usage: "secret by which nodes pull the gate's own image", EnvVars: []string{"REDOUBT_PULL_SECRET"}}}, gateFlags()...)},
		{Name: "propose", Usage: "write an act by which people let in what the gate refuses; they approve it with `redoubt approve sign`", Action: admissionPropose, Flags: []cli.Flag{config,
			&cli.StringFlag{Name: "kind", Value: "break-glass", Usage: "break-glass (digests, in a namespace), grace (what was admitted before, while trust is too old) or policy (the policy file as it is now)", EnvVars: []string{"REDOUBT_KIND"}},
			&cli.StringFlag{Name: "namespace", Usage: "where the digests may run", EnvVars: []string{"REDOUBT_NAMESPACE"}},
			&cli.StringSliceFlag{Name: "digest", Usage: "sha256:HEX of an image; may be repeated", EnvVars: []string{"REDOUBT_DIGEST"}},
			&cli.DurationFlag{Name: "for", Value: 4 * time.Hour, Usage: "how long from now", EnvVars: []string{"REDOUBT_FOR"}},
			&cli.StringFlag{Name: "as", Usage: "the approver who proposes this act; that one's approval does not count", EnvVars: []string{"REDOUBT_AS"}},
			&cli.StringFlag{Name: "reason", Required: true, Usage: "why", EnvVars: []string{"REDOUBT_REASON"}},
			&cli.StringFlag{Name: "out", Required: true, Usage: "file to write, NAME.act; must not exist", EnvVars: []string{"REDOUBT_OUT"}}}},
	}}
}

// admissionManual is `redoubt docs gate-config`.
func admissionManual(w io.Writer) error {
	docs, err := configDocs()
	if err == nil {
		manualOf(w, reflect.TypeFor[Admission](), docs, "")
	}
	return err
}

// registryTransport reaches registries: by no proxy, and under the roots of a file or the machine's.
func registryTransport(caFile string) (http.RoundTripper, error) {
	var roots *x509.CertPool
	if caFile != "" {
		var err error
		if roots, err = verifying.ReadRoots(caFile); err != nil {
			return nil, err
		}
	}
	return &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true, DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
		MaxIdleConnsPerHost: 32, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 3 * time.Second, ResponseHeaderTimeout: 10 * time.Second,
	}, nil
}

// gateServer is a gate and what keeps it up to date.
type gateServer struct {
	config *Admission
	gate   *admission.Gate
	certs  *admission.Certificates
	seen   string // what the files of policy and trust were when they were read last
}

func openGate(c *cli.Context) (*gateServer, error) {
	a, err := loadAdmission(c.String("admission-config"))
	if err != nil {
		return nil, err
	}
	logger, err := cmdline.NewLogger(c)
	if err != nil {
		return nil, err
	}
	config, err := a.gate(logger)
	if err != nil {
		return nil, err
	}
	rules, err := a.rules(logger)
	if err != nil {
		return nil, err
	}
	s := &gateServer{config: a, seen: a.fingerprint()}
	if s.gate, err = admission.New(config, rules, a.people()); err != nil {
		return nil, err
	}
	cluster := a.cluster()
	if cluster != nil {
		if err := s.gate.InCluster(*cluster, a.PullSecrets); err != nil {
			return nil, err
		}
	} else if a.PullSecrets {
		return nil, fmt.Errorf("%w: pull-secrets: there is no cluster to read them in", errConfig)
	}
	s.certs, err = s.gate.Certificates(c.Context, admission.TLS{Names: a.names(), Namespace: a.Own.Namespace, Secret: a.Own.Name + "-tls", Configuration: a.Own.Name}, cluster)
	return s, err
}

func admissionServe(c *cli.Context) error {
	s, err := openGate(c)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", s.config.Listen)
	if err != nil {
		return cmdline.Unavailable(fmt.Errorf("listening on %s: %w", s.config.Listen, err))
	}
	watched, err := net.Listen("tcp", s.config.Metrics)
	if err != nil {
		listener.Close()
		return cmdline.Unavailable(fmt.Errorf("listening on %s: %w", s.config.Metrics, err))
	}
	m := newMetrics()
	m.registry.MustRegister(s.gate.Collectors()...)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", m.handler())
	mux.HandleFunc("GET /results", s.gate.ServeResults)
	webhook, plain := admissionHTTP(s.gate.Handler()), admissionHTTP(mux)
	failed := make(chan error, 2)
	go func() { failed <- webhook.Serve(tls.NewListener(listener, s.certs.TLSConfig())) }()
	go func() { failed <- plain.Serve(watched) }()
	if file := c.String("ready-file"); file != "" {
		ready := fmt.Sprintf(`{"webhook":"https://%s","metrics":"http://%s","pid":%d}`+"\n", listener.Addr(), watched.Addr(), os.Getpid())
		if err := writeFileAtomic(file, []byte(ready), 0o644); err != nil {
			return fmt.Errorf("writing the ready file: %w", err)
		}
		defer os.Remove(file)
	}
	return s.run(c.Context, failed, webhook, plain)
}

// admissionHTTP bounds what a client may take.
func admissionHTTP(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: defaultHeaderTimeout, ReadTimeout: requestTimeout, WriteTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes}
}

// filesPause is between looks at the files of policy and trust.
const filesPause = 10 * time.Second

// run keeps the gate up to date until ctx ends or a listener fails, then drains.
func (s *gateServer) run(ctx context.Context, failed chan error, servers ...*http.Server) (err error) {
	background, stop := context.WithCancel(ctx)
	var work sync.WaitGroup
	work.Go(func() { s.gate.Run(background) })
	work.Go(func() { s.certs.Run(background) })
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP)
	defer signal.Stop(hangups)
	look := time.NewTicker(filesPause)
	defer look.Stop()
	for err == nil {
		select {
		case <-hangups:
			s.reload()
		case <-look.C:
			if s.config.fingerprint() != s.seen {
				s.reload()
			}
		case err = <-failed:
		case <-ctx.Done():
			err = ctx.Err()
		}
	}
	stop()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), defaultDrain)
	defer cancel()
	var drained error
	for _, server := range servers {
		drained = errors.Join(drained, server.Shutdown(drain))
	}
	work.Wait()
	if ctx.Err() != nil {
		return drained
	}
	return err
}

// reload puts policy and trust into force as they are now. What cannot be read leaves the former in force, whose age goes on to count.
func (s *gateServer) reload() {
	seen := s.config.fingerprint()
	rules, err := s.config.rules(s.gate.Logger())
	if err != nil {
		s.gate.Logger().Error("reading policy and trust anew; the former stay in force", "error", err)
		return
	}
	s.seen = seen
	s.gate.Use(rules)
	s.gate.Logger().Info("policy and trust in force", "version", rules.Version, "as-of", rules.AsOf)
}

// fingerprint tells whether a file of policy or trust changed.
func (a *Admission) fingerprint() string {
	files := []string{a.path(a.Policy), a.path(a.MirrorState), filepath.Join(a.path(a.MirrorState), "state.note")}
	for _, r := range a.Roots {
		files = append(files, a.path(r.File))
	}
	for _, dir := range []string{filepath.Dir(a.path(a.Policy)), a.path(a.Approvals)} { // roots and keys that the policy names, who approved another
		if all, err := filepath.Glob(filepath.Join(globEscape(dir), "*")); err == nil && dir != "" {
			files = append(files, all...)
		}
	}
	var seen strings.Builder
	for _, file := range files {
		if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() {
			fmt.Fprintf(&seen, "%s %d %d\n", file, info.Size(), info.ModTime().UnixNano())
		}
	}
	return seen.String()
}

func admissionPropose(c *cli.Context) error {
	a, err := loadAdmission(c.String("admission-config"))
	if err != nil {
		return err
	}
	now := clock().UTC().Truncate(time.Second)
	e := admission.Exemption{Kind: "admission." + c.String("kind"), Reason: c.String("reason"), From: now, Until: now.Add(c.Duration("for")), Namespace: c.String("namespace"), Digests: c.StringSlice("digest")}
	act, err := e.Act(a.Domain)
	if e.Kind == admission.ReplacePolicy {
		text, rerr := policy.ReadFile(a.path(a.Policy))
		if rerr != nil {
			return verifying.PolicyFault(rerr)
		}
		act, err = admission.PolicyAct(a.Domain, e.Reason, text, now)
	}
	if act.Proposer = c.String("as"); err == nil {
		act, err = approval.ParseAct([]byte(act.Text()))
	}
	if err != nil {
		return cmdline.Usage("%v", err)
	}
	if err := writeOnce(c.String("out"), []byte(act.Text())); err != nil {
		return err
	}
	fmt.Fprint(c.App.Writer, indent(act.Text()))
	fmt.Fprintf(c.App.ErrWriter, "%s: the approvers run `redoubt approve sign %[1]s --key KEY --as NAME --out %s.NAME.json`; it holds once act and approvals lie in the folder %s of the gate\n",
		c.String("out"), strings.TrimSuffix(c.String("out"), ".act"), orDefault(a.Approvals, "approvals (to be configured)"))
	return nil
}
