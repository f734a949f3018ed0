package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"redoubt.internal/log"
)

// handlers are the rooms' HTTP faces by service name. The CA's is looked up at each request, because a reload replaces it.
func (in *instance) handlers(s *server) map[string]http.Handler {
	h := map[string]http.Handler{}
	if in.parts.runs(partCA) {
		h["fulcio"] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			in.issuance.Load().handler.ServeHTTP(w, r)
		})
		h["ct"], h["mirror"], h["people"] = in.certificateLogHandler(), in.mirrorHandler(), s.peopleHandler()
	}
	if in.parts.runs(partLog) {
		h["rekor"] = in.artifactHandler()
	}
	if in.parts.runs(partTSA) {
		h["tsa"] = in.timestampHandler()
	}
	if in.parts.runs(partTrust) {
		h["tuf"] = in.tuf.Handler()
	}
	if in.parts.runs(partOIDC) && in.issuer != nil {
		h["oidc"] = in.issuerHandler()
	}
	if in.parts.runs(partConsole) {
		h["console"], h["metrics"] = s.consoleHandler(), s.metricsHandler()
	}
	return h
}

// peopleHandler takes operations of people over the network.
func (s *server) peopleHandler() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /api/v1/act/{operation}", s.serveAct)
	return mux
}

// metricsHandler is for loopback only: numbers, and the profiles of net/http/pprof.
func (s *server) metricsHandler() *http.ServeMux {
	mux := http.NewServeMux()
	numbers := s.metrics.handler()
	if s.showsAll() { // what is wrong with those of one role keeps nobody from the rest
		numbers = promhttp.HandlerFor(s, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError, ErrorLog: slog.NewLogLogger(s.logger.Handler(), slog.LevelWarn)})
	}
	mux.Handle("GET /metrics", numbers)
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// checks are the conditions of readiness: every key signs, every log takes entries, the trust repository is fresh, the
// clock is sane.
func (in *instance) checks(ctx context.Context) (checks []check) {
	var live []keyInstance
	for _, k := range in.instances() {
		if in.roleKeys[k.Name] != nil {
			live = append(live, k)
		}
	}
	checks = eachKey(live, func(k keyInstance) check {
		c := result("key "+k.Name, in.roleKeys[k.Name].Check(ctx), "is the token there and unlocked? `redoubt keys check`")
		c.Warning = !c.OK && k.State == stateRetired
		return c
	})
	for _, l := range in.logs() {
		fix := "see to the cause the reason names (disk, space, another writer), stop the server, `redoubt log resume`, start it"
		if err := l.log.Err(); errors.Is(err, log.ErrRolledBack) || errors.Is(err, log.ErrHighWater) || errors.Is(err, log.ErrFenced) {
			fix = highWaterFix(l.log.Err())
		}
		checks = append(checks, result("log "+l.role, l.log.Err(), fix))
	}
	checks = append(checks, in.counterChecks()...)
	checks = append(checks, in.keys.tpmChecks(ctx)...)
	if in.parts.runs(partTrust) {
		checks = append(checks, result("trust repository", in.tufFresh(), "`redoubt trust renew`"))
		checks = append(checks, in.trustChecks()...)
		checks = append(checks, in.deniedChecks()...)
	}
	checks = append(checks, machineChecks(in.cfg, in.dir)...)
	if in.parts.runs(partCA) {
		checks = append(checks, warning("identity providers", checkIssuers(in.cfg), "add oidc-issuers, with jwks where the issuer cannot be reached, then SIGHUP"))
	}
	checks = append(checks, result("clock", in.clockSane(), "set the clock: a certificate or a head lies in the future"))
	checks = append(checks, in.mirrorChecks(ctx)...)
	checks = append(checks, in.tlsChecks()...)
	checks = append(checks, in.backupChecks()...)
	checks = append(checks, in.secondChecks()...)
	checks = append(checks, in.reloadChecks()...)
	return append(checks, in.endingChecks()...)
}

// eachKey checks keys beside each other: a token that is slow to say no is waited for once.
func eachKey[K any](keys []K, fn func(K) check) []check {
	checks := make([]check, len(keys))
	var wg sync.WaitGroup
	for i, k := range keys {
		wg.Go(func() { checks[i] = fn(k) })
	}
	wg.Wait()
	return checks
}

type namedLog struct {
	role string
	log  *log.Log
}

// logs are all logs in the order they are listed in.
func (in *instance) logs() (all []namedLog) {
	for _, a := range in.artifacts {
		all = append(all, namedLog{a.Name, a.log})
	}
	for _, c := range in.certificateLogs {
		all = append(all, namedLog{c.name, c.log})
	}
	return append(all, in.auditLogs...)
}

// clockSane holds when now is not before anything this instance has signed.
func (in *instance) clockSane() error {
	const tolerance = 2 * time.Second
	now := in.now()
	for _, l := range in.logs() {
		if head := l.log.Head().Time; head.After(now.Add(tolerance)) {
			return fmt.Errorf("the last head of the %s log was signed at %s, the clock says %s", l.role, head.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
		}
	}
	if first := in.caChain[0].NotBefore; now.Before(first) {
		return fmt.Errorf("the issuing certificate is valid from %s", first.Format(time.RFC3339))
	}
	if last := in.caChain[0].NotAfter; now.After(last) {
		return fmt.Errorf("the issuing certificate ended at %s", last.Format(time.RFC3339))
	}
	return nil
}

// registerGauges adds what is read from the instance when the metrics page is fetched. It may be called again when there are more logs.
func (s *server) registerGauges() {
	if s.cfg.encrypts() {
		s.metrics.gauge("redoubt_tls_not_after_timestamp_seconds", "When the certificate of the listeners ends; 0 while there is none.", func() float64 {
			if c := s.front.shown.Load(); c != nil {
				return float64(c.Leaf.NotAfter.Unix())
			}
			return 0
		})
	}
	for _, l := range s.instance().logs() {
		name := "redoubt_" + strings.ReplaceAll(l.role, "-", "_")
		s.metrics.gauge(name+"_log_size", "Entries under the last signed head.", func() float64 {
			if now, err := s.instance().pick(l.role); err == nil {
				return float64(now.Head().Size)
			}
			return 0
		})
		s.metrics.gauge(name+"_log_writable", "1 when the log takes entries.", func() float64 {
			if now, err := s.instance().pick(l.role); err != nil || now.Err() != nil || s.instance().frozen(l.role) {
				return 0
			}
			return 1
		})
	}
}

// frozen reports whether the log called name takes no more entries.
func (in *instance) frozen(name string) bool {
	k := in.history.find(name)
	return k != nil && k.State == stateRetired || slices.ContainsFunc(in.cfg.Log.Artifact, func(a ArtifactLog) bool { return a.Name == name && a.Frozen })
}

// ready reports whether every check holds, warnings aside.
func ready(checks []check) bool {
	return !slices.ContainsFunc(checks, func(c check) bool { return !c.OK && !c.Warning })
}
