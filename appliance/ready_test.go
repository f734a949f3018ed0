package main

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestReadyFile: the keys scripts rely on, the whole timestamp URL, and nothing half written.
func TestReadyFile(t *testing.T) {
	s := serveState(t, nil)
	path := filepath.Join(t.TempDir(), "ready.json")
	if err := writeReadyFile(path, (&server{in: s.in, cfg: s.cfg}).readiness()); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var ready map[string]any
	if err := json.Unmarshal(data, &ready); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"fulcio", "rekor", "tsa", "ct", "tuf", "oidc", "console", "metrics", "pid", "version"} {
		if ready[name] == nil {
			t.Errorf("%s is missing in %s", name, data)
		}
	}
	if tsa, _ := ready["tsa"].(string); !strings.HasSuffix(tsa, "/api/v1/timestamp") {
		t.Errorf("tsa is %s", tsa)
	}
	for service, want := range map[string]string{"console /": "rekor.corp.internal", "metrics /metrics": "redoubt_rekor_log_size 0", "metrics /readyz": `"ready":true`, "metrics /debug/pprof/": "goroutine"} {
		name, path, _ := strings.Cut(service, " ")
		base, _ := ready[name].(string)
		response, err := http.Get(base + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s %v, without %q", service, response.Status, err, want)
		}
	}
}

// TestNotifySystemd: READY=1 arrives at the manager's socket, by path and in the abstract namespace.
func TestNotifySystemd(t *testing.T) {
	for _, address := range []string{filepath.Join(t.TempDir(), "notify"), "@redoubt-test-" + filepath.Base(t.TempDir())} {
		listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: strings.Replace(address, "@", "\x00", 1), Net: "unixgram"})
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		t.Setenv("NOTIFY_SOCKET", address)
		if err := notifySystemd("READY=1"); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 64)
		n, err := listener.Read(buffer)
		if err != nil || string(buffer[:n]) != "READY=1" {
			t.Errorf("%q %v", buffer[:n], err)
		}
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := notifySystemd("READY=1"); err != nil {
		t.Errorf("without a manager: %v", err)
	}
}
