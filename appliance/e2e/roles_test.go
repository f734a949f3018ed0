//go:build e2e

package e2e

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleNames are the roles of the server, in the order an operator starts them; firstUser is the user of the first, all in one group.
var roleNames = []string{"ca", "log", "tsa", "trust", "oidc", "console", "admission", "front"}

const (
	rolesGroup = 61000
	firstUser  = 61001
)

// A company is a production site whose roles run as processes and users of their own.
type company struct {
	*lab
	state string
	env   []string
	users map[string]uint32
	runs  map[string]*exec.Cmd
}

// TestRolesApart: stock cosign against a production site in which every role is a process of its own user, under host names on one port
// with a token for each role, and on own ports with software keys. Then each role is in the hands of an attacker, and each is killed.
func TestRolesApart(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("it takes root to run processes as several users")
	}
	t.Run("host names", func(t *testing.T) {
		tokens, uri := roleTokens(t)
		c := newCompany(t, tokens, "--keys", uri)
		signs(t, c)
		t.Run("rekor-cli", func(t *testing.T) { testRekorCLI(t, c.lab) })
		t.Run("each role is its own", func(t *testing.T) { compromised(t, c) })
		t.Run("one role falls", func(t *testing.T) { fallen(t, c) })
		t.Run("afterwards", func(t *testing.T) { ended(t, c) })
	})
	t.Run("own ports", func(t *testing.T) {
		c := newCompany(t, nil, "--address", "127.0.0.1", "--first-port", "9541", "--allow-software-keys")
		signs(t, c)
		t.Run("each role is its own", func(t *testing.T) { compromised(t, c) })
		t.Run("a denied identity", func(t *testing.T) { denies(t, c) })
		t.Run("afterwards", func(t *testing.T) { ended(t, c) })
	})
}

// denies has two people deny an identity at ca, and finds it in what trust publishes.
func denies(t *testing.T, c *company) {
	s := c.session(t)
	deny := []string{"--config", c.config, "identity", "deny", "--issuer", siteIssuer, "--identity", "eve@corp.internal", "--reason", "left"}
	s.refuse(t, []string{"0 of 2 approvals"}, c.binary, deny...)
	acts, err := filepath.Glob(filepath.Join(c.state, "approvals", "identity.deny-*.act"))
	if err != nil || len(acts) != 1 {
		t.Fatalf("acts: %v, %v", acts, err)
	}
	for _, name := range approverNames {
		out := filepath.Join(c.scratch, name+".json")
		s.run(t, c.binary, "approve", "sign", acts[0], "--key", filepath.Join(c.scratch, name+".pem"), "--as", name, "--out", out)
		deny = append(deny, "--approval", out)
	}
	s.run(t, c.binary, deny...)
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(200 * time.Millisecond) {
		s.run(t, c.binary, "--config", c.config, "client", "setup", "--out", c.setup)
		list, err := os.ReadFile(c.in("denied.json"))
		mustDo(t, err)
		if strings.Contains(string(list), `"version": 2,`) && strings.Contains(string(list), "eve@corp.internal") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("trust publishes\n%s\n%s", list, c.logTail())
		}
	}
}

var approverNames = []string{"ann", "ben"}

// approvers makes keys of approvers, and returns what init is told of them.
func (c *company) approvers(t *testing.T) (arguments []string) {
	s := c.session(t)
	for _, name := range approverNames {
		key := filepath.Join(c.scratch, name+".pem")
		s.run(t, "openssl", "genpkey", "-algorithm", "ed25519", "-out", key)
		mustDo(t, os.Chmod(key, 0o600))
		mustDo(t, os.WriteFile(key+".yaml", []byte(s.run(t, c.binary, "ceremony", "operator", "show", name, "--key", key)), 0o600))
		arguments = append(arguments, "--approver", key+".yaml")
	}
	return append(arguments, "--approvals", "2")
}

func signs(t *testing.T, c *company) {
	cosign := client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", c.in(generation.signingConfig), "--trusted-root", c.in("trusted_root.json")}
		t.Run("blob on "+generation.name, func(t *testing.T) { cosign3Blob(t, c.lab, cosign, signing, guarded[generation.name]) })
	}
	t.Run("from the TUF repository alone", func(t *testing.T) { cosignTUF(t, c.lab, cosign) })
}

// compromised lets the user of each role try for what every other role has. The same tries succeed for the user they belong to, and for
// root, so it is the separation that refuses them.
func compromised(t *testing.T, c *company) {
	private := map[string][]string{ // by role, what only it opens
		"ca":    {"db/authority.db", "db/authority.db-journal", "../state.highwater"},
		"log":   {"db/rekor.db", "db/rekor-2.db", "../state.highwater.log"},
		"tsa":   {"db/tsa.db"},
		"trust": {},
	}
	for role, names := range map[string][]string{"ca": {"issuing", "ct", "audit", "exporter", "tls"}, "log": {"rekor", "rekor-2"}, "tsa": {"tsa"}, "trust": {"tuf"}} {
		for _, name := range names {
			if _, err := os.Stat(filepath.Join(c.state, "keys", name)); err == nil {
				private[role] = append(private[role], "keys/"+name)
			}
		}
		if c.env != nil {
			private[role] = append(private[role], "../hsm/pin-"+role, "../hsm/tokens/"+role+"/token.object")
		}
	}
	for attacker := range c.users {
		for victim, files := range private {
			for _, file := range files {
				err := c.as(attacker, "sh", "-c", `exec 3<"$0"; exec 4<>"$0"`, filepath.Join(c.state, file)).Run()
				if own := attacker == victim; (err == nil) != own {
					t.Errorf("%s opens %s of %s: %v", attacker, file, victim, err)
				}
			}
		}
		if err := c.as(attacker, "sh", "-c", `: >"$0/evil"`, filepath.Join(c.state, "pki")).Run(); err == nil {
			t.Errorf("%s writes certificates", attacker)
		}
	}
	// The attacker's own configuration, in which every role is its own user, gets it no further than its own.
	for _, victim := range []string{"ca", "log", "tsa", "trust"} {
		for _, attacker := range []string{"tsa", "front", "ca"} {
			if attacker == victim {
				continue
			}
			out, err := c.as(attacker, c.binary, "--config", c.twisted(t, attacker), "serve", "--roles", victim).CombinedOutput()
			if err == nil || !strings.Contains(string(out), "permission denied") {
				t.Errorf("%s runs as %s: %v\n%s", attacker, victim, err, out)
			}
		}
	}
	// Nor does asking: a role is answered what its work takes and nothing else, and the refusal is on record.
	for _, verb := range [][]string{{"keys", "check"}, {"keys", "list"}, {"keys", "attest", "issuing", "--nonce", "00"}, {"audit", "list"}, {"trust", "renew"}, {"tls", "renew"}, {"approve", "list"}, {"status"}} {
		out, err := c.as("tsa", c.binary, append([]string{"--config", c.config}, verb...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "may not ask") {
			t.Errorf("tsa asks for %s: %v\n%s", verb, err, out)
		}
	}
	s := c.session(t)
	if list := s.run(t, c.binary, "--config", c.config, "audit", "list", "--limit", "1000"); !strings.Contains(list, "peer.refuse") || !strings.Contains(list, "by role:tsa") {
		t.Errorf("no refusal is on record:\n%s", list)
	}
	if c.env == nil {
		return
	}
	for role := range private { // each user sees the token of its role alone; root sees all
		out, err := c.as(role, "softhsm2-util", "--show-slots").CombinedOutput()
		for other := range private {
			if err != nil || strings.Contains(string(out), "redoubt-"+other+" ") != (role == other) {
				t.Errorf("%s and the token of %s: %v\n%s", role, other, err, out)
			}
		}
	}
}

// fallen kills one role after the other: what needs it says so, the rest goes on, and a start heals.
func fallen(t *testing.T, c *company) {
	services := map[string]string{"ca": c.urls.Fulcio, "log": c.urls.Rekor, "tsa": c.urls.TSA, "trust": c.urls.TUF}
	for role := range services {
		c.crash(t, role)
		for other, url := range services {
			if err := c.alive(t, url); (err == nil) != (role != other) {
				t.Errorf("with %s killed, %s: %v", role, other, err)
			}
		}
		s := c.session(t)
		s.refuse(t, []string{"role " + role + ": the role that would answer does not run"}, c.binary, "--config", c.config, "status")
		if role == "ca" {
			testRekorCLI(t, c.lab) // the log takes entries without it
			s.refuse(t, []string{"does not run: ca"}, c.binary, "--config", c.config, "trust", "renew")
		}
		c.start(t, role)
		s.run(t, c.binary, "--config", c.config, "trust", "renew")
	}
	signs(t, c)
	s := c.session(t)
	list := s.run(t, c.binary, "--config", c.config, "audit", "list", "--limit", "1000")
	if !strings.Contains(list, "trust.renew") || !strings.Contains(list, "by role:trust for ") {
		t.Errorf("what trust did is not on record as told by trust:\n%s", list)
	}
	c.crash(t, "front")
	if err := c.alive(t, c.urls.Rekor); err == nil {
		t.Error("nobody has the port, and rekor answers")
	}
	c.start(t, "front")
	signs(t, c)
}

// ended stops every role and proves what they left.
func ended(t *testing.T, c *company) {
	for role, cmd := range c.runs {
		if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("%s after SIGTERM: %v\n%s", role, err, c.logTail())
		}
		delete(c.runs, role)
	}
	s := c.session(t, c.env...)
	s.run(t, c.binary, "--config", c.config, "log", "fsck")
	s.run(t, c.binary, "--config", c.config, "audit", "verify")
	// A verb that works on the stopped directory as root leaves everything with its owners.
	s.run(t, c.binary, "--config", c.config, "keys", "check")
	for _, role := range []string{"ca", "log", "tsa", "trust"} {
		c.start(t, role)
	}
}

// roleTokens makes a SoftHSM token for each role, whose files only the role's user can read. The root's is root's.
func roleTokens(t *testing.T) (make func(*company), uri string) {
	t.Helper()
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	if _, err := os.Stat(module); err != nil {
		t.Fatalf("%v; .ci/packages e2e installs it", err)
	}
	return func(c *company) {
		dir := filepath.Join(c.scratch, "hsm")
		tokens := filepath.Join(dir, "tokens")
		mustDo(t, os.MkdirAll(tokens, 0o755))
		config := filepath.Join(dir, "softhsm2.conf")
		mustDo(t, os.WriteFile(config, []byte("directories.tokendir = "+tokens+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o644))
		c.env = []string{"SOFTHSM2_CONF=" + config}
		c.lab.env = append(c.lab.env, c.env...)
		for i, role := range []string{"ca", "log", "tsa", "trust", "oidc", "root"} {
			pin := fmt.Sprintf("%d7391", i+1)
			mustDo(t, os.WriteFile(filepath.Join(dir, "pin-"+role), []byte(pin+"\n"), 0o600))
			c.session(t).run(t, "softhsm2-util", "--init-token", "--free", "--label", "redoubt-"+role, "--so-pin", "12345678", "--pin", pin)
			made, err := filepath.Glob(tokens + "/*-*-*-*-*")
			if err != nil || len(made) != 1 {
				t.Fatalf("tokens: %v, %v", made, err)
			}
			mustDo(t, os.Rename(made[0], filepath.Join(tokens, role)))
		}
	}, "pkcs11:token=redoubt-{role}?module-path=" + module + "&pin-source="
}

// owned gives the files of the tokens to the users of the roles.
func (c *company) owned(t *testing.T) {
	for role, user := range c.users {
		for _, path := range []string{filepath.Join(c.scratch, "hsm", "pin-"+role), filepath.Join(c.scratch, "hsm", "tokens", role)} {
			if _, err := os.Stat(path); err != nil {
				continue
			}
			mustDo(t, filepath.Walk(path, func(p string, _ os.FileInfo, err error) error {
				if err != nil {
					return err
				}
				return os.Chown(p, int(user), rolesGroup)
			}))
			if strings.Contains(path, "tokens") {
				mustDo(t, os.Chmod(path, 0o700))
			}
		}
	}
}

func newCompany(t *testing.T, tokens func(*company), arguments ...string) *company {
	t.Helper()
	l := &lab{scratch: t.TempDir(), serverLog: os.DevNull}
	for _, path := range []string{l.scratch, filepath.Dir(l.scratch)} { // the users pass through
		mustDo(t, os.Chmod(path, 0o755))
	}
	c := &company{lab: l, state: filepath.Join(l.scratch, "state"), users: map[string]uint32{}, runs: map[string]*exec.Cmd{}}
	l.config, l.setup, l.binary = filepath.Join(c.state, "redoubt.yaml"), filepath.Join(l.scratch, "setup"), filepath.Join(l.scratch, "redoubt")
	for _, suffix := range []string{"", "-appliance"} {
		program, err := os.ReadFile(os.Getenv(binaryVariable) + suffix)
		mustDo(t, err)
		mustDo(t, os.WriteFile(l.binary+suffix, program, 0o755))
	}
	if tokens != nil {
		tokens(c)
		arguments[1] += filepath.Join(l.scratch, "hsm", "pin-{role}")
	}
	ca := filepath.Join(c.state, "pki", "tls-root.pem")
	l.env = append(l.env, "SSL_CERT_FILE="+ca, "NODE_EXTRA_CA_CERTS="+ca)
	issuerKey, err := rsa.GenerateKey(rand.Reader, 2048)
	mustDo(t, err)
	l.mint = func(t *testing.T) string { return siteToken(t, issuerKey) }
	arguments = append([]string{"init", "--dir", c.state, "--domain", domain, "--profile", "production", "--non-interactive", "--role-group", fmt.Sprint(rolesGroup)}, arguments...)
	for i, role := range roleNames {
		c.users[role] = uint32(firstUser + i)
		arguments = append(arguments, "--role-user", fmt.Sprintf("%s=%d", role, firstUser+i))
	}
	here := l.session(t)
	here.run(t, l.binary, append(arguments, c.approvers(t)...)...)
	configureSite(t, l.config, "", issuerKey)
	c.known(t)
	c.owned(t)
	here.run(t, l.binary, "roles", "apart", "--config", l.config) // the operator's edit left the file root's alone
	t.Cleanup(func() {
		for role := range c.runs {
			c.crash(t, role)
		}
	})
	l.serverLog = filepath.Join(l.scratch, "server.log")
	for _, role := range roleNames {
		c.start(t, role)
	}
	l.urls.OIDC = siteIssuer
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(200 * time.Millisecond) {
		if _, _, err := here.exec(l.binary, "--config", l.config, "status"); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatalf("not ready:\n%s\n%s", here.run(t, l.binary, "--config", l.config, "status"), l.logTail())
		}
	}
	here.run(t, l.binary, "--config", l.config, "client", "setup", "--out", l.setup)
	return c
}

// known gives the site people, and the socket that every user of the machine may ask at.
func (c *company) known(t *testing.T) {
	mustDo(t, os.MkdirAll(filepath.Dir(c.socket()), 0o755))
	mustDo(t, os.Chown(filepath.Dir(c.socket()), int(c.users["ca"]), rolesGroup))
	edit(t, c.config, func(config map[string]any) {
		people := config["people"].(map[string]any)
		people["socket"] = c.socket()
		people["members"] = append(people["members"].([]any), map[string]any{"name": "alice", "roles": []string{"operator"}, "unix": []string{fmt.Sprint(alice)}},
			map[string]any{"name": "eve", "roles": []string{"viewer"}, "unix": []string{fmt.Sprint(eve)}})
	})
}

// as is a command of a role's user, with what its unit gives it.
func (c *company) as(role, program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Env, cmd.Dir = join(cleanEnv(c.scratch), c.env), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: c.users[role], Gid: rolesGroup, Groups: []uint32{}}}
	return cmd
}

// start runs a role and waits until it says it is ready.
func (c *company) start(t *testing.T, role string) {
	t.Helper()
	folder := filepath.Join(c.scratch, "ready-"+role)
	mustDo(t, os.MkdirAll(folder, 0o755))
	mustDo(t, os.Chown(folder, int(c.users[role]), rolesGroup))
	ready := filepath.Join(folder, "ready.json")
	os.Remove(ready)
	log, err := os.OpenFile(c.serverLog, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	mustDo(t, err)
	defer log.Close()
	cmd := c.as(role, c.binary, "--config", c.config, "serve", "--roles", role, "--ready-file", ready)
	cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_BIND_SERVICE}
	cmd.Stdout, cmd.Stderr = log, log
	mustDo(t, cmd.Start())
	c.runs[role] = cmd
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(20 * time.Millisecond) {
		if content, err := os.ReadFile(ready); err == nil {
			mustDo(t, json.Unmarshal(content, &c.urls))
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s was not ready within %s\n%s", role, commandTimeout, c.logTail())
		}
	}
}

func (c *company) crash(t *testing.T, role string) {
	t.Helper()
	c.runs[role].Process.Kill()
	c.runs[role].Wait()
	delete(c.runs, role)
}

// alive asks a service whether it lives, as a client would.
func (c *company) alive(t *testing.T, url string) error {
	t.Helper()
	pem, err := os.ReadFile(filepath.Join(c.state, "pki", "tls-root.pem"))
	mustDo(t, err)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	answer, err := client.Get(strings.TrimSuffix(url, "/api/v1/timestamp") + "/healthz")
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if body, _ := io.ReadAll(answer.Body); answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, body)
	}
	return nil
}

// twisted is the configuration in which an attacker is every role.
func (c *company) twisted(t *testing.T, attacker string) string {
	t.Helper()
	text, err := os.ReadFile(c.config)
	mustDo(t, err)
	file := filepath.Join(c.scratch, "twisted-"+attacker+".yaml")
	twisted := "dir: " + c.state + "\n" + string(text)
	for i, role := range roleNames {
		user := 62000 + i
		if role != attacker {
			user = firstUser + i
		}
		twisted = strings.ReplaceAll(twisted, fmt.Sprintf("%s: %q\n", role, fmt.Sprint(firstUser+i)), fmt.Sprintf("%s: %q\n", role, fmt.Sprint(user)))
	}
	mustDo(t, os.WriteFile(file, []byte(twisted), 0o644))
	return file
}

func mustDo(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
