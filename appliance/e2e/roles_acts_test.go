//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
)

// People of the company, by their number on the machine.
const (
	alice = 61501 // operator
	eve   = 61502 // viewer
	frank = 61503 // nobody yet
)

// TestRolesTogether: where roles run apart, people ask at one door and the role that does it does it; a reload is taken by all or by none;
// one page has the numbers of all.
func TestRolesTogether(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to run processes as several users")
	}
	dir := t.TempDir()
	arguments := []string{"--address", "127.0.0.1", "--first-port", "9641", "--allow-software-keys", "--approvals", "2"}
	here := (&lab{serverLog: os.DevNull}).session(t)
	for _, name := range []string{"bob", "carol"} {
		here.run(t, "openssl", "genpkey", "-algorithm", "ed25519", "-out", filepath.Join(dir, name+".pem"))
		mustDo(t, os.Chmod(filepath.Join(dir, name+".pem"), 0o600))
		described := here.output(t, os.Getenv(binaryVariable), "ceremony", "operator", "show", name, "--key", filepath.Join(dir, name+".pem"))
		mustDo(t, os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(described), 0o600))
		arguments = append(arguments, "--approver", filepath.Join(dir, name+".yaml"))
	}
	c := newCompany(t, nil, arguments...)
	t.Run("acts", func(t *testing.T) { actsReach(t, c) })
	t.Run("numbers", func(t *testing.T) { numbersOfAll(t, c) })
	t.Run("timers", func(t *testing.T) { timersRun(t, c) })
	t.Run("reload", func(t *testing.T) { reloadsAll(t, c, dir) })
}

// person is a command of a person who asks where everybody on the machine may.
func (c *company) person(uid uint32, args ...string) (string, error) {
	cmd := exec.Command(c.binary, args...)
	cmd.Env, cmd.Dir = append(cleanEnv(c.scratch), "REDOUBT_SOCKET="+c.socket()), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid, Groups: []uint32{}}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func (c *company) socket() string { return filepath.Join(c.scratch, "people", "people.sock") }

// does and mayNot demand that a person's command succeeds, or fails, and says something.
func (c *company) does(t *testing.T, uid uint32, says []string, args ...string) {
	t.Helper()
	out, err := c.person(uid, args...)
	for _, want := range says {
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("does not say %q", want)
		}
	}
	if err != nil {
		t.Errorf("%d asks for %s: %v\n%s\n%s", uid, args, err, out, c.logTail())
	}
}

func (c *company) mayNot(t *testing.T, uid uint32, reason string, args ...string) {
	t.Helper()
	if out, err := c.person(uid, args...); err == nil || !strings.Contains(out, reason) {
		t.Errorf("%d asks for %s: %v, want %q\n%s", uid, args, err, reason, out)
	}
}

// asks posts an operation to a role's socket as the process of another role, and returns the answer.
func (c *company) asks(role, of, operation, args string) string {
	out, err := c.as(role, "curl", "-sS", "--unix-socket", filepath.Join(c.state, "run", of, "redoubt.sock"), "-d", args, "http://redoubt/"+operation).CombinedOutput()
	if err != nil {
		return err.Error()
	}
	return string(out)
}

// audit is what the audit log says, as text.
func (c *company) audit(t *testing.T) string {
	t.Helper()
	return c.session(t).run(t, c.binary, "--config", c.config, "audit", "list", "--limit", "1000")
}

func actsReach(t *testing.T, c *company) {
	c.does(t, eve, []string{"rekor." + domain, "rekor-2." + domain, "ct." + domain, "audit." + domain}, "log", "info")
	c.does(t, alice, []string{"issuing", "rekor", "tsa", "tuf"}, "keys", "list")
	c.does(t, alice, []string{"role tsa", "role console", "key tuf", "people: "}, "status")
	c.does(t, alice, nil, "trust", "renew")
	c.mayNot(t, eve, "not yours to do", "trust", "renew")
	c.mayNot(t, frank, "not yours to do", "trust", "status")
	c.mayNot(t, c.users["tsa"], "may not ask", "trust", "renew")

	// In a person's name a role gets what its own configuration lets that person do alone; other roles get nothing in anybody's.
	act := func(name, operation string) string {
		return fmt.Sprintf(`{"name":%q,"how":"uid:0(root)","operation":%q,"args":{}}`, name, operation)
	}
	if got := c.asks("ca", "trust", "peer.act", act("alice", "trust.renew")); strings.Contains(got, "error") {
		t.Errorf("ca asks for alice: %s", got)
	}
	for _, bad := range []struct{ role, name, operation, reason string }{
		{"ca", "eve", "trust.renew", "not yours to do"}, {"ca", "mallory", "trust.renew", "not yours to do"}, {"ca", "alice", "config.reload", "may not ask"},
		{"ca", "alice", "keys.rotate", "may not ask"}, {"ca", "alice", "peer.certificate", "may not ask"}, {"ca", "alice", "tsa.status", "another role"},
		{"tsa", "alice", "trust.renew", "may not ask"}, {"console", "alice", "trust.renew", "may not ask"},
	} {
		if got := c.asks(bad.role, "trust", "peer.act", act(bad.name, bad.operation)); !strings.Contains(got, bad.reason) {
			t.Errorf("%s asks trust for %s by %s: %s", bad.role, bad.operation, bad.name, got)
		}
	}
	list := c.audit(t)
	for _, want := range []string{
		fmt.Sprintf(`intent   trust.renew          %s by role:trust for alice "uid:%d" at role:ca`, domain, alice),
		fmt.Sprintf("refused  trust.renew          %s by eve uid:%d\n", domain, eve), fmt.Sprintf("refused  trust.status         %s by uid:%d\n", domain, frank),
		fmt.Sprintf(`refused  trust.renew          %s by role:trust for eve "uid:0(root)" at role:ca`, domain),
		`peer.refuse          "trust.renew" by role:tsa`, `peer.refuse          "keys.rotate" by role:trust for role:ca`,
	} {
		if !strings.Contains(list, want) {
			t.Errorf("not on record: %s\n%s", want, list)
		}
	}
}

// reloadsAll: what one role cannot take nobody takes; what several people approved all take, and one that is down takes at its start.
func reloadsAll(t *testing.T, c *company, dir string) {
	good, err := os.ReadFile(c.config)
	mustDo(t, err)
	s := c.session(t)
	reload := func(more ...string) []string {
		return append([]string{"--config", c.config, "config", "reload"}, more...)
	}
	_, certificate, key := siteTLS(t, dir)
	mustDo(t, os.Chmod(filepath.Dir(dir), 0o755))
	mustDo(t, os.Chmod(dir, 0o755))
	mustDo(t, os.Chmod(certificate, 0o644))
	mustDo(t, os.Chmod(key, 0o600))
	mustDo(t, os.Chown(key, int(c.users["ca"]), rolesGroup)) // which no other role can read
	edit(t, c.config, func(config map[string]any) {
		config["tls"].(map[string]any)["cert"], config["tls"].(map[string]any)["key"] = certificate, key
	})
	s.refuse(t, []string{"nobody takes the file up, because the role log cannot"}, c.binary, reload()...)
	s.refuse(t, []string{"configuration reload: refused on"}, c.binary, "--config", c.config, "doctor")
	mustDo(t, os.WriteFile(c.config, good, 0o640))

	edit(t, c.config, func(config map[string]any) {
		people := config["people"].(map[string]any)
		people["members"] = append(people["members"].([]any), map[string]any{"name": "frank", "roles": []string{"operator"}, "unix": []string{fmt.Sprint(frank)}})
	})
	s.refuse(t, []string{"0 of 2 approvals"}, c.binary, reload()...)
	c.mayNot(t, frank, "not yours to do", "trust", "renew")
	var waiting []struct{ SHA256 string }
	mustDo(t, json.Unmarshal([]byte(s.output(t, c.binary, "--config", c.config, "approve", "list", "-o", "json")), &waiting))
	if len(waiting) != 1 {
		t.Fatalf("acts that wait: %v", waiting)
	}
	shown, err := c.person(eve, "approve", "show", waiting[0].SHA256)
	if err != nil || !strings.Contains(shown, "frank") {
		t.Fatalf("eve sees what waits: %v\n%s", err, shown)
	}
	act := filepath.Join(dir, "reload.act")
	s.run(t, c.binary, "--config", c.config, "approve", "show", waiting[0].SHA256, "--out", act)
	var approvals []string
	for _, name := range []string{"bob", "carol"} {
		s.run(t, c.binary, "approve", "sign", act, "--key", filepath.Join(dir, name+".pem"), "--as", name, "--out", filepath.Join(dir, name+".json"))
		approvals = append(approvals, "--approval", filepath.Join(dir, name+".json"))
	}
	c.crash(t, "console")
	told := s.run(t, c.binary, reload(approvals...)...)
	for _, want := range []string{"rules that changed: [people]", "taken up by: [ca log tsa trust oidc admission front]", "does not run, takes it at its start: [console]"} {
		if !strings.Contains(told, want) {
			t.Errorf("the reload does not say %q:\n%s", want, told)
		}
	}
	c.start(t, "console")
	c.does(t, frank, nil, "trust", "renew")
	if got := c.asks("tsa", "log", "peer.reload.force", `{"sha256":"00"}`); !strings.Contains(got, "may not ask") {
		t.Errorf("tsa has log take a file up: %s", got)
	}
	if got := c.asks("ca", "log", "peer.reload.force", `{"sha256":"00"}`); !strings.Contains(got, "not made ready") {
		t.Errorf("log takes up what it never read: %s", got)
	}
}

// numbersOfAll: one page has the numbers of every role and one answer their readiness; a role that falls takes its own away alone.
func numbersOfAll(t *testing.T, c *company) {
	page := func(path string) (int, string) {
		answer, err := http.Get("http://127.0.0.1:9464" + path)
		mustDo(t, err)
		defer answer.Body.Close()
		text, err := io.ReadAll(answer.Body)
		mustDo(t, err)
		return answer.StatusCode, string(text)
	}
	has := func(path string, status int, wanted ...string) {
		t.Helper()
		for deadline := time.Now().Add(commandTimeout); ; time.Sleep(100 * time.Millisecond) { // readiness is asked for once a second
			got, text := page(path)
			missing := slices.DeleteFunc(slices.Clone(wanted), func(want string) bool { return strings.Contains(text, want) })
			if got == status && len(missing) == 0 {
				return
			}
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d, lacks %q\n%s", path, got, missing, text)
			}
		}
	}
	log := `redoubt_rekor_2_log_writable{process="log"} 1`
	has("/metrics", 200, log, `redoubt_check_level{check="key tsa",process="tsa"} 0`, `redoubt_trust_alarm_days{process="trust",role="tuf"} 0`, `redoubt_role_up{process="tsa"} 1`, `process="console"`)
	has("/readyz", 200, `"role tsa"`, `"key issuing"`, `"log rekor-2"`, `"trust repository"`)
	s, doctor := c.session(t), []string{"--config", c.config, "doctor"}
	s.run(t, c.binary, doctor...)
	c.crash(t, "tsa")
	s.refuse(t, []string{"role tsa: the role that would answer does not run"}, c.binary, doctor...)
	has("/metrics", 200, log, `redoubt_role_up{process="tsa"} 0`, `redoubt_role_up{process="trust"} 1`)
	has("/readyz", 503, `{"name":"role tsa","ok":false,"reason":"the role that would answer does not run"`)
	if _, text := page("/metrics"); strings.Contains(text, `check="key tsa"`) {
		t.Error("numbers of a role that does not run")
	}
	c.start(t, "tsa")
	has("/metrics", 200, `redoubt_role_up{process="tsa"} 1`)
	if got := c.asks("tsa", "log", "peer.metrics", "{}"); !strings.Contains(got, "may not ask") {
		t.Errorf("tsa asks log for its numbers: %s", got)
	}
	if got := c.asks("console", "tsa", "peer.metrics", "{}"); strings.Contains(got, "error") {
		t.Errorf("console asks tsa for its numbers: %s", got)
	}
}

// timersRun: what the units of the ca role's timers run works as its user, and as no other role's.
func timersRun(t *testing.T, c *company) {
	var exporter struct{ Key string }
	mustDo(t, json.Unmarshal([]byte(c.session(t).output(t, c.binary, "--config", c.config, "mirror", "key", "-o", "json")), &exporter))
	edit(t, c.config, func(config map[string]any) {
		config["mirror"] = map[string]any{"stream": domain, "exporters": []string{exporter.Key}, "inbox": map[string]any{"dir": "inbox"}}
	})
	c.crash(t, "ca")
	c.start(t, "ca")
	for verb, code := range map[string]int{"reconcile": 0, "import --inbox": 10} { // 10: nothing new, which the unit takes for success
		run := append([]string{"--config", c.config, "mirror"}, strings.Fields(verb)...)
		cmd := c.as("ca", c.binary, run...)
		if out, _ := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != code {
			t.Errorf("mirror %s as the ca role's user: %s, want %d\n%s", verb, cmd.ProcessState, code, out)
		}
		if out, err := c.as("log", c.binary, run...).CombinedOutput(); err == nil || !strings.Contains(string(out), "may not ask") {
			t.Errorf("mirror %s as the log role's user: %v\n%s", verb, err, out)
		}
	}
	if out, err := c.as("ca", c.binary, "--config", c.config, "keys", "check").CombinedOutput(); err == nil || !strings.Contains(string(out), "may not ask") {
		t.Errorf("keys check as the ca role's user: %v\n%s", err, out)
	}
	if got := c.asks("ca", "trust", "mirror.reconcile", "false"); !strings.Contains(got, "may not ask") {
		t.Errorf("ca asks trust to reconcile: %s", got)
	}
	if got := c.asks("log", "tsa", "peer.record", `{"action":"x","actor":"y","object":"z","outcome":"intent"}`); !strings.Contains(got, "records are kept by ca") {
		t.Errorf("log has tsa record: %s", got)
	}
}

// edit changes the configuration of a site.
func edit(t *testing.T, file string, change func(map[string]any)) {
	t.Helper()
	content, err := os.ReadFile(file)
	mustDo(t, err)
	var config map[string]any
	mustDo(t, yaml.Unmarshal(content, &config))
	change(config)
	content, err = yaml.Marshal(config)
	mustDo(t, err)
	mustDo(t, os.WriteFile(file, content, 0o640))
}
