//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// The tests of the group "servers" are called TestServers...: they need servers that take long to build, and run by themselves.

const vault = "vault-v1.21.1"

// TestServersVault: every key in a real Vault, set up with Vault's own command line; sealed while serving, and unsealed.
func TestServersVault(t *testing.T) {
	v := startVault(t)
	l := newLab(t, nil, "--keys", "hashivault://redoubt-?"+v.parameters)
	t.Run("no key is a file", func(t *testing.T) {
		s := l.session(t)
		list := s.output(t, l.binary, "--config", l.config, "keys", "list")
		if n := strings.Count(list, "hashivault://redoubt-"); n != strings.Count(list, "?version=1") || n < 10 || strings.Contains(list, "soft:") {
			t.Errorf("keys list:\n%s", list)
		}
		s.run(t, l.binary, "--config", l.config, "keys", "check")
	})
	cosign := client(t, cosign3)
	for _, generation := range generations {
		signing := []string{"--signing-config", l.in(generation.signingConfig), "--trusted-root", l.in("trusted_root.json")}
		t.Run("blob on "+generation.name, func(t *testing.T) { cosign3Blob(t, l, cosign, signing, guarded[generation.name]) })
	}
	t.Run("legacy blob", func(t *testing.T) { cosign2Blob(t, l, client(t, cosign2)) })
	t.Run("sealed and unsealed", func(t *testing.T) {
		s := l.session(t)
		blob := s.write(t, "blob", "signed by a server that was sealed\n")
		sign := []string{"sign-blob", "-y", "--signing-config", l.in("signing_config.v0.2.json"), "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json", "--identity-token"}
		token := l.token(t)
		v.run(t, "operator", "seal")
		s.refuse(t, nil, cosign, append(sign, token, blob)...)
		s.refuse(t, []string{"Vault is sealed"}, l.binary, "--config", l.config, "keys", "check")
		v.run(t, "operator", "unseal", v.unsealKey)
		deadline := time.Now().Add(commandTimeout)
		for {
			_, both, err := s.exec(l.binary, "--config", l.config, "keys", "check")
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("no signature after unsealing:\n%s", both)
			}
			time.Sleep(100 * time.Millisecond)
		}
		s.run(t, cosign, append(sign, l.token(t), blob)...)
		s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
	})
	t.Run("a rotated key goes on as it was", func(t *testing.T) {
		v.run(t, "write", "-f", "transit/keys/redoubt-issuing/rotate")
		v.run(t, "write", "-f", "transit/keys/redoubt-rekor/rotate")
		s := l.session(t)
		blob := s.write(t, "blob", "signed by the pinned version\n")
		s.run(t, cosign, "sign-blob", "-y", "--signing-config", l.in("signing_config.v0.2.json"), "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json", "--identity-token", l.token(t), blob)
		s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", "bundle.json"}, l.who(), []string{blob})...)
	})
	t.Run("afterwards", func(t *testing.T) { afterwards(t, l) })
}

// A vaultServer is a running Vault with an AppRole for the product.
type vaultServer struct {
	binary, unsealKey string
	env               []string
	parameters        string // of a token URI
}

// run is Vault's own command line, as an administrator.
func (v *vaultServer) run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(v.binary, args...)
	cmd.Env = v.env
	out, err := cmd.Output()
	if err != nil {
		var said []byte
		if exit, ok := err.(*exec.ExitError); ok {
			said = exit.Stderr
		}
		t.Fatalf("vault %s: %v\n%s%s", strings.Join(args, " "), err, out, said)
	}
	return strings.TrimSpace(string(out))
}

func startVault(t *testing.T) *vaultServer {
	t.Helper()
	v := &vaultServer{binary: client(t, vault)}
	dir := t.TempDir()
	ca, certificate, key := siteTLS(t, dir)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	listener.Close()
	address := fmt.Sprintf("https://vault.%s:%d", domain, port)
	config := filepath.Join(dir, "vault.hcl")
	text := fmt.Sprintf("storage \"inmem\" {}\nlistener \"tcp\" {\n  address = \"127.0.0.1:%d\"\n  tls_cert_file = %q\n  tls_key_file = %q\n}\ndisable_mlock = true\napi_addr = %q\nlog_level = \"warn\"\n",
		port, certificate, key, address)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	server := exec.Command(v.binary, "server", "-config", config)
	server.Env = cleanEnv(dir)
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })

	v.env = append(cleanEnv(dir), "VAULT_ADDR="+address, "VAULT_CACERT="+ca)
	var made struct {
		Keys []string `json:"unseal_keys_b64"`
		Root string   `json:"root_token"`
	}
	for deadline := time.Now().Add(commandTimeout); ; time.Sleep(100 * time.Millisecond) {
		cmd := exec.Command(v.binary, "operator", "init", "-key-shares=1", "-key-threshold=1", "-format=json")
		cmd.Env = v.env
		out, err := cmd.CombinedOutput()
		if err == nil {
			if err := json.Unmarshal(out, &made); err != nil || len(made.Keys) != 1 {
				t.Fatalf("vault operator init: %v\n%s", err, out)
			}
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("vault operator init: %v\n%s", err, out)
		}
	}
	v.unsealKey = made.Keys[0]
	v.run(t, "operator", "unseal", v.unsealKey)
	v.env = append(v.env, "VAULT_TOKEN="+made.Root)
	policy := filepath.Join(dir, "redoubt.hcl")
	if err := os.WriteFile(policy, []byte(vaultPolicy), 0o600); err != nil {
		t.Fatal(err)
	}
	v.run(t, "secrets", "enable", "transit")
	v.run(t, "auth", "enable", "approle")
	v.run(t, "policy", "write", "redoubt", policy)
	v.run(t, "write", "auth/approle/role/redoubt", "token_policies=redoubt", "token_ttl=10s", "token_max_ttl=30s")
	secret := filepath.Join(dir, "secret-id")
	if err := os.WriteFile(secret, []byte(v.run(t, "write", "-f", "-field=secret_id", "auth/approle/role/redoubt/secret-id")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v.parameters = fmt.Sprintf("address=%s&ca-file=%s&auth=approle&role-id=%s&secret-id-file=%s", address, ca, v.run(t, "read", "-field=role_id", "auth/approle/role/redoubt/role-id"), secret)
	return v
}

// vaultPolicy is the one of the operator's manual.
const vaultPolicy = `path "transit/keys/redoubt-*" { capabilities = ["create", "read", "update"] }
path "transit/sign/redoubt-*" { capabilities = ["update"] }
`
