//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"
)

const (
	tessera       = "tessera-v1.0.4"
	tesseraOrigin = "tessera.example/log"
)

// tesseraLog is a log that tessera's own program writes into a folder, and a plain file server of it.
type tesseraLog struct {
	dir, key, vkey, url string
}

func newTesseraLog(t *testing.T, s *session) *tesseraLog {
	t.Helper()
	private, public, err := note.GenerateKey(nil, tesseraOrigin)
	if err != nil {
		t.Fatal(err)
	}
	l := &tesseraLog{dir: s.path("log"), key: s.write(t, "log.key", private), vkey: public}
	server := httptest.NewServer(http.FileServer(http.Dir(l.dir)))
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

// grow adds n entries in one batch and returns what the log's checkpoint says.
func (l *tesseraLog) grow(t *testing.T, s *session, n int) (size, root string) {
	t.Helper()
	batch, err := os.MkdirTemp(s.dir, "entries-")
	if err != nil {
		t.Fatal(err)
	}
	for i := range n {
		text := strings.Repeat(fmt.Sprintf("%s %d ", filepath.Base(batch), i), 1+i%17)
		if err := os.WriteFile(filepath.Join(batch, fmt.Sprintf("%06d", i)), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s.run(t, client(t, tessera), "--storage_dir", l.dir, "--entries", batch+"/*", "--private_key", l.key)
	lines := strings.Split(string(read(t, l.dir, "checkpoint")), "\n")
	hash, err := base64.StdEncoding.DecodeString(lines[2])
	if lines[0] != tesseraOrigin || err != nil {
		t.Fatalf("checkpoint: %q, %v", lines, err)
	}
	return lines[1], hex.EncodeToString(hash)
}

// spoiled runs fn while one byte in the middle of a file of the log is another.
func (l *tesseraLog) spoiled(t *testing.T, name string, fn func()) {
	t.Helper()
	good := read(t, l.dir, name)
	bad := slices.Clone(good)
	bad[len(bad)/2] ^= 1
	write := func(b []byte) {
		if err := os.WriteFile(filepath.Join(l.dir, filepath.FromSlash(name)), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write(bad)
	fn()
	write(good)
}

// TestTesseraLog carries a log that tessera wrote and a plain file server serves, in full and as a spine, through two steps: 2,000 entries, and
// 1,300 more. After each, root and size inside are those that tessera signed. One byte of a tile that is another is refused outside.
func TestTesseraLog(t *testing.T) {
	home := t.TempDir()
	s := &session{lab: &lab{}, dir: home, env: cleanEnv(home)}
	log := newTesseraLog(t, s)
	pairs := map[string]*pair{}
	for _, scope := range []string{"full", "spine"} {
		pairs[scope] = newPair(t, s, log, scope)
	}
	spoil := map[string]string{"full": "tile/entries/000", "spine": "tile/1/000.p/7"}
	for step, n := range []int{2000, 1300} {
		size, root := log.grow(t, s, n)
		if want := []string{"2000", "3300"}[step]; size != want {
			t.Fatalf("tessera's log has %s entries, want %s", size, want)
		}
		for scope, p := range pairs {
			log.spoiled(t, spoil[scope], func() { p.refusesPull(t, s) })
			p.carry(t, s)
			p.stands(t, s, size, root)
		}
		spoil = map[string]string{"full": "tile/entries/012.p/228", "spine": "tile/1/000.p/12"}
		t.Logf("%s entries, root %s: full and spine", size, root)
	}
}

// pair is an outside that reads the log and an inside that keeps it, at one scope. Neither serves: each verb works on its state directory.
type pair struct{ outside, inside, medium, scope string }

func newPair(t *testing.T, s *session, log *tesseraLog, scope string) *pair {
	t.Helper()
	p := &pair{outside: s.path(scope + "-outside"), inside: s.path(scope + "-inside"), medium: s.path(scope + "-medium"), scope: scope}
	if err := os.Mkdir(p.medium, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{p.outside, p.inside} {
		s.run(t, os.Getenv(binaryVariable), "init", "--dir", dir, "--domain", filepath.Base(dir)+".example", "--non-interactive")
	}
	configure := func(dir string, m map[string]any) {
		config := readYAML(t, filepath.Join(dir, "redoubt.yaml"))
		config["mirror"] = m
		writeYAML(t, filepath.Join(dir, "redoubt.yaml"), config)
	}
	configure(p.outside, map[string]any{"logs": []map[string]any{{"origin": tesseraOrigin, "key": log.vkey, "scope": scope, "source": log.url}}})
	var exporter struct{ Key, Stream string }
	decode(t, s.output(t, os.Getenv(binaryVariable), "mirror", "key", "-o", "json", "--dir", p.outside), &exporter)
	configure(p.inside, map[string]any{"stream": exporter.Stream, "exporters": []string{exporter.Key}, "logs": []map[string]any{{"origin": tesseraOrigin, "key": log.vkey, "scope": scope}}})
	return p
}

func (p *pair) refusesPull(t *testing.T, s *session) {
	t.Helper()
	s.refuse(t, []string{"the proof does not hold"}, os.Getenv(binaryVariable), "mirror", "pull", "--dir", p.outside)
}

func (p *pair) carry(t *testing.T, s *session) {
	t.Helper()
	redoubt := os.Getenv(binaryVariable)
	s.run(t, redoubt, "mirror", "pull", "--dir", p.outside)
	s.run(t, redoubt, "mirror", "export", "--out", p.medium, "--dir", p.outside)
	s.run(t, redoubt, "mirror", "import", p.medium, "--dir", p.inside)
}

// stands wants the inside at this size and root, and a reconcile that finds every byte right.
func (p *pair) stands(t *testing.T, s *session, size, root string) {
	t.Helper()
	var result struct {
		Report struct {
			Logs []struct {
				Size     json.Number
				Root     string
				Leaves   json.Number `json:"leaves_rehashed"`
				Problems []string
			}
		}
	}
	decode(t, s.output(t, os.Getenv(binaryVariable), "mirror", "reconcile", "--full", "-o", "json", "--dir", p.inside), &result)
	report := result.Report
	if len(report.Logs) != 1 || report.Logs[0].Size.String() != size || report.Logs[0].Root != root || len(report.Logs[0].Problems) > 0 {
		t.Fatalf("%s: %+v, tessera signed %s entries and root %s", p.scope, report.Logs, size, root)
	}
	if p.scope == "full" && report.Logs[0].Leaves.String() != size {
		t.Errorf("%s of %s entries were hashed again", report.Logs[0].Leaves, size)
	}
}
