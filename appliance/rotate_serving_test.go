package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.internal/hsm"
)

// TestRotationUnderLoad: while every role that signs for clients is rotated no request fails, and what was answered stays provable.
func TestRotationUnderLoad(t *testing.T) {
	dir := newStateDir(t)
	s := serveDir(t, dir, nil)
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	var answered, stamped atomic.Int64
	for i := range 3 {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				v1, v2 := proposals(t, fmt.Sprintf("under load %d %d", i, n))
				for path, body := range map[string][]byte{"/api/v1/log/entries": v1, "/api/v2/log/entries": v2} {
					response, err := http.Post(s.cfg.Services.Rekor.URL+path, "application/json", bytes.NewReader(body))
					if err != nil {
						t.Error(err)
						return
					}
					text, _ := io.ReadAll(response.Body)
					if response.Body.Close(); response.StatusCode != http.StatusCreated {
						t.Errorf("%s: %s %s", path, response.Status, text)
					}
					answered.Add(1)
				}
				response, err := http.Post(s.cfg.Services.TSA.URL+timestampPath, "application/json",
					strings.NewReader(`{"artifactHash":"n4bQgYhMfWWaL+qgxVrQFaO/TxsrC4Is0V1sFbDwCgg=","hashAlgorithm":"sha256","certificates":true}`))
				if err != nil {
					t.Error(err)
					return
				}
				if response.Body.Close(); response.StatusCode/100 != 2 {
					t.Errorf("timestamp: %s", response.Status)
				}
				stamped.Add(1)
			}
		})
	}
	for _, role := range []string{"rekor", "tsa", "rekor-2", "issuing", "ct", "tuf", "rekor"} {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
			t.Errorf("rotating %s: exit code %d", role, code)
		}
	}
	stop()
	clients.Wait()
	t.Logf("%d entries and %d timestamps were answered across 7 rotations", answered.Load(), stamped.Load())
	code, out := redoubt(t, dir, "", "log", "info", "-o", "json")
	var infos []logInfo
	if err := json.Unmarshal(out, &infos); code != 0 || err != nil {
		t.Fatalf("exit code %d, %v", code, err)
	}
	var entries uint64
	for _, l := range infos {
		if shardNumber(l.Log) > 0 {
			entries += l.Size
		}
	}
	if entries != uint64(answered.Load()) {
		t.Errorf("the logs hold %d entries, %d were answered", entries, answered.Load())
	}
}

// TestBusyServer: a server that cannot part with a request keeps the old key, says so, and takes the new one up at SIGHUP.
func TestBusyServer(t *testing.T) {
	dir := newStateDir(t)
	s := serveDir(t, dir, nil)
	s.server.patience = Duration(50 * time.Millisecond)
	leave, err := s.server.gate.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if code, _ := redoubt(t, dir, "", "tsa", "rotate"); code == 0 {
		t.Error("the verb says that all is well")
	}
	if name := s.server.instance().history.active(roleTSA); name != roleTSA {
		t.Errorf("it signs with %s", name)
	}
	if code, _ := redoubt(t, dir, "", "tsa", "rotate"); code == 0 {
		t.Error("a second rotation begins before the first is in force")
	}
	leave()
	s.server.hangup()
	if name := s.server.instance().history.active(roleTSA); name != "tsa-2" {
		t.Errorf("after SIGHUP it signs with %s", name)
	}
	if h, err := readHistory(dir); err != nil || h.Unpublished != "" {
		t.Errorf("unpublished %q, %v", h.Unpublished, err)
	}
	if n := len(published(t, dir).TimestampingAuthorities()); n != 2 {
		t.Errorf("%d timestamp authorities are published", n)
	}
}

// TestGate: who is inside ends before the gate closes, who comes then waits until it opens, and who gives up is let go.
func TestGate(t *testing.T) {
	var g gate
	leave, err := g.enter(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := g.close(time.Millisecond); !errors.Is(err, errBusy) {
		t.Errorf("closed on somebody: %v", err)
	}
	leave()
	if err := g.close(time.Second); err != nil {
		t.Fatal(err)
	}
	if err := g.close(time.Second); !errors.Is(err, errBusy) {
		t.Errorf("closed twice: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := g.enter(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("entered a closed gate: %v", err)
	}
	entered := make(chan error)
	go func() {
		leave, err := g.enter(t.Context())
		if err == nil {
			leave()
		}
		entered <- err
	}()
	g.open()
	if err := <-entered; err != nil {
		t.Error(err)
	}
}

// TestDestroyedKeysOfFrozenLogs: without the key of a frozen log everything that log had signed is read on, what it would sign anew is
// 503, and the instance is ready.
func TestDestroyedKeysOfFrozenLogs(t *testing.T) {
	dir := newStateDir(t)
	t.Run("before", func(t *testing.T) {
		s := serveDir(t, dir, nil)
		v1, v2 := proposals(t, "before")
		for path, body := range map[string][]byte{"/api/v1/log/entries": v1, "/api/v2/log/entries": v2} {
			response, err := http.Post(s.cfg.Services.Rekor.URL+path, "application/json", bytes.NewReader(body))
			if err != nil || response.StatusCode != http.StatusCreated {
				t.Fatalf("%v %v", response, err)
			}
			response.Body.Close()
		}
		for _, role := range []string{"rekor", "rekor-2", "ct"} {
			if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
				t.Fatalf("exit code %d", code)
			}
		}
	})
	for _, role := range []string{"rekor", "rekor-2", "ct"} {
		if err := os.Remove(dir.path("keys", role)); err != nil {
			t.Fatal(err)
		}
	}
	s := serveDir(t, dir, nil)
	for path, want := range map[string]int{
		"/logs/rekor/checkpoint": 200, "/logs/rekor/tile/entries/000.p/1": 200, "/logs/rekor-2/checkpoint": 200,
		"/api/v1/log/entries?logIndex=0": 503, "/api/v1/log": 503, "/checkpoint": 200, "/api/v2/checkpoint": 200,
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.cfg.Services.Rekor.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if code, body := answer(t, request); code != want {
			t.Errorf("%s: %d %s, want %d", path, code, body, want)
		}
	}
	if checks := s.server.instance().checks(t.Context()); !ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
	if code, _ := redoubt(t, dir, "", "keys", "list"); code != 0 {
		t.Errorf("keys list: exit code %d", code)
	}
}

// TestIssuingAlgorithms: the issuing key goes through the types it does not begin with, and certificates below each verify, old ones too.
func TestIssuingAlgorithms(t *testing.T) {
	t.Parallel()
	dir := newStateDir(t)
	serveDir(t, dir, nil)
	work := t.TempDir()
	artifact, token := filepath.Join(work, "file"), filepath.Join(work, "token")
	if err := os.WriteFile(artifact, []byte("a release"), 0o644); err != nil {
		t.Fatal(err)
	}
	setup, algorithms := filepath.Join(work, "setup"), []hsm.Algorithm{hsm.ECDSAP384, hsm.RSA3072, hsm.Ed25519}
	for _, alg := range algorithms {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", "issuing", "--algorithm", string(alg)); code != 0 {
			t.Fatalf("%s: exit code %d", alg, code)
		}
		if code, _ := redoubt(t, dir, "", "client", "setup", "--out", setup); code != 0 {
			t.Fatalf("exit code %d", code)
		}
		code, jwt := redoubt(t, dir, "", "identity", "token", "--email", "dev@corp.internal")
		if code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if err := os.WriteFile(token, jwt, 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command("redoubt", "sign", artifact, "--setup", setup, "--identity-token", token, "--bundle", filepath.Join(work, string(alg))).CombinedOutput(); err != nil {
			t.Errorf("signing below %s: %v\n%s", alg, err, out)
		}
	}
	for _, alg := range algorithms {
		out, err := exec.Command("redoubt", "verify", artifact, "--bundle", filepath.Join(work, string(alg)), "--setup", setup, "--certificate-identity", "dev@corp.internal",
			"--certificate-oidc-issuer-regexp", ".").CombinedOutput()
		if err != nil {
			t.Errorf("verifying below %s: %v\n%s", alg, err, out)
		}
	}
}

// TestAlarms: 90, 30 and 7 days before a key ends readiness warns and stays, doctor fails in the last week, metrics count down.
func TestAlarms(t *testing.T) {
	in, err := openState(t, newStateDir(t))
	if err != nil {
		t.Fatal(err)
	}
	end := in.tsaChain[0].NotAfter
	for _, test := range []struct {
		before time.Duration
		alarm  int
	}{{100 * 24 * time.Hour, 0}, {89 * 24 * time.Hour, 90}, {29 * 24 * time.Hour, 30}, {6 * 24 * time.Hour, 7}} {
		in.now = func() time.Time { return end.Add(-test.before) }
		checks := in.endingChecks()
		i := slices.IndexFunc(checks, func(c check) bool { return c.Name == "end of tsa" })
		if c := checks[i]; c.OK != (test.alarm == 0) || c.Warning != (test.alarm > 0) || c.Urgent != (test.alarm == 7) || !ready(checks) {
			t.Errorf("%s before the end: %+v", test.before, c)
		}
		entries, err := listKeys.run(t.Context(), in, "test", struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		i = slices.IndexFunc(entries, func(e keyEntry) bool { return e.Name == roleTSA })
		if e := entries[i]; e.AlarmDays != test.alarm || !e.Until.Equal(end) || e.UntilWhat != "certificate" || e.Since.IsZero() || e.UsedBy == "" || e.Certificate == "" {
			t.Errorf("%s before the end: %+v", test.before, e)
		}
		s := &server{in: in, cfg: in.cfg, metrics: newMetrics()}
		s.registerEndings()
		families, err := s.metrics.registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]float64{}
		for _, f := range families {
			for _, m := range f.Metric {
				if len(m.Label) == 1 && m.Label[0].GetValue() == roleTSA || f.GetName() == "timestamp_authority_certificate_valid_days_remaining" {
					got[f.GetName()] = m.GetGauge().GetValue()
				}
			}
		}
		if got["redoubt_trust_alarm_days"] != float64(test.alarm) || got["redoubt_trust_expiry_seconds"] != test.before.Seconds() ||
			got["timestamp_authority_certificate_valid_days_remaining"] != test.before.Hours()/24 || got["redoubt_trust_age_seconds"] <= 0 {
			t.Errorf("%s before the end: metrics %v", test.before, got)
		}
	}
}

// TestFrozenLogsAreServed: after rotations the logs that took no more entries answer under their own names, and refuse new entries.
func TestFrozenLogsAreServed(t *testing.T) {
	dir := newStateDir(t)
	for _, role := range []string{roleCT, roleRekor, roleRekor2} {
		if code, _ := redoubt(t, dir, "", "keys", "rotate", role); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	s := serveDir(t, dir, nil)
	get := func(url, host string) (int, string) {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Host = host
		return answer(t, request)
	}
	urls := s.in.cfg.Services
	for _, name := range []string{"rekor", "rekor-2", "rekor-3", "rekor-4"} {
		if code, body := get(urls.Rekor.URL+"/logs/"+name+"/checkpoint", ""); code != 200 || !strings.HasPrefix(body, name+".corp.internal\n") {
			t.Errorf("/logs/%s/checkpoint: %d %s", name, code, body)
		}
	}
	for name, path := range map[string]string{"rekor-3": "/checkpoint", "rekor-2": "/api/v2/checkpoint", "rekor-4": "/api/v2/checkpoint"} {
		if code, body := get(urls.Rekor.URL+path, name+".corp.internal"); code != 200 || !strings.HasPrefix(body, name+".corp.internal\n") {
			t.Errorf("http://%s%s: %d %s", name, path, code, body)
		}
	}
	if code, body := get(urls.Rekor.URL+"/api/v1/log", ""); code != 200 || strings.Count(body, `"treeID"`) != 2 {
		t.Errorf("loginfo: %d %s", code, body)
	}
	sth := map[string]string{}
	for _, name := range []string{"ct", "ct-2"} {
		code, body := get(urls.CT.URL+"/logs/"+name+"/ct/v1/get-sth", "")
		if sth[name] = body; code != 200 {
			t.Errorf("get-sth of %s: %d %s", name, code, body)
		}
		if code, byHost := get(urls.CT.URL+"/ct/v1/get-sth", name+".corp.internal"); code != 200 || byHost != body {
			t.Errorf("get-sth at the host %s: %d %s, want %s", name, code, byHost, body)
		}
	}
	if code, body := get(urls.CT.URL+"/ct/v1/get-sth", ""); code != 200 || body != sth["ct-2"] {
		t.Errorf("get-sth of the service: %d %s", code, body)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, urls.CT.URL+"/logs/ct/ct/v1/add-pre-chain", strings.NewReader(`{"chain":["AAAA"]}`))
	if err != nil {
		t.Fatal(err)
	}
	if code, body := answer(t, request); code != http.StatusForbidden || !strings.Contains(body, "frozen") {
		t.Errorf("add-pre-chain to a frozen log: %d %s", code, body)
	}
	if checks := s.in.checks(t.Context()); !ready(checks) {
		t.Errorf("not ready: %+v", checks)
	}
}

// TestOldKeyOutsideItsWindow: what a key signs after its end in the trusted root is refused, for every kind of key and both log formats;
// within the window it verifies.
func TestOldKeyOutsideItsWindow(t *testing.T) {
	dir := newStateDir(t)
	serveDir(t, dir, nil)
	work := t.TempDir()
	artifact, setup, token := filepath.Join(work, "file"), filepath.Join(work, "setup"), filepath.Join(work, "token")
	if err := os.WriteFile(artifact, []byte("a release"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _ := redoubt(t, dir, "", "client", "setup", "--out", setup); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	run := func(args ...string) int {
		command := exec.Command("redoubt", args...)
		out, err := command.CombinedOutput()
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Logf("%s", out)
			return exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		return 0
	}
	for _, format := range []string{"v1", "v2"} {
		code, jwt := redoubt(t, dir, "", "identity", "token", "--email", "dev@corp.internal")
		if code != 0 {
			t.Fatalf("exit code %d", code)
		}
		if err := os.WriteFile(token, jwt, 0o600); err != nil {
			t.Fatal(err)
		}
		bundle := filepath.Join(work, format+".json")
		args := []string{"sign", artifact, "--setup", setup, "--identity-token", token, "--bundle", bundle}
		if format == "v2" {
			args = append(args, "--rekor-v2")
		}
		signed := time.Now()
		if code := run(args...); code != 0 {
			t.Fatalf("signing: exit code %d", code)
		}
		for _, kind := range []string{"certificateAuthorities", "timestampAuthorities", "ctlogs", "tlogs"} {
			for end, want := range map[time.Time]bool{signed.Add(-time.Minute): false, signed.Add(time.Hour): true} {
				trusted := filepath.Join(work, "trusted_root.json")
				endWindows(t, filepath.Join(setup, "trusted_root.json"), trusted, kind, end)
				code := run("verify", artifact, "--bundle", bundle, "--trusted-root", trusted, "--certificate-identity", "dev@corp.internal", "--certificate-oidc-issuer-regexp", ".")
				if want && code != 0 || !want && code != 20 && code != 24 {
					t.Errorf("%s: %s end %s after the signature: exit code %d", format, kind, end.Sub(signed), code)
				}
			}
		}
	}
}

// endWindows copies a trusted root and ends every instance of a kind.
func endWindows(t *testing.T, from, to, kind string, end time.Time) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := json.Unmarshal(data, &document); err != nil {
		t.Fatal(err)
	}
	for _, instance := range document[kind].([]any) {
		at := instance.(map[string]any)
		if key, ok := at["publicKey"].(map[string]any); ok {
			at = key
		}
		window := at["validFor"].(map[string]any)
		window["end"] = end.UTC().Format(time.RFC3339)
		window["start"] = end.Add(-24 * time.Hour).UTC().Format(time.RFC3339)
	}
	if data, err = json.Marshal(document); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o644); err != nil {
		t.Fatal(err)
	}
}

// answer sends a request and returns status and body.
func answer(t *testing.T, request *http.Request) (int, string) {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}
