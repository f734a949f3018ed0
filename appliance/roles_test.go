package main

import (
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestRolesShareNothing: every key, service and operation has one role, and a process of another opens no key of it.
func TestRolesShareNothing(t *testing.T) {
	for _, name := range append(slices.Clone(allRoles), roleTLS, "rekor-3", "ct-2", "issuing-2", "tsa-2", "audit-2", "mirror-outside") {
		var opens []string
		for _, part := range partNames {
			if (parts{part: true}).opens(name) {
				opens = append(opens, part)
			}
		}
		if want := 1; name == roleRoot && len(opens) != 0 || name != roleRoot && len(opens) != want {
			t.Errorf("key %s is opened by %v", name, opens)
		}
	}
	for _, service := range serviceNames {
		if !slices.Contains(partNames, serviceParts[service]) {
			t.Errorf("service %s has no role", service)
		}
	}
	cfg := &Config{Issuer: BuiltinIssuer{Enabled: true}}
	for _, o := range operations() {
		where, err := placeOf(cfg, o.name, []byte("{}"))
		if err == nil && len(where.parts) == 0 || err != nil && !errors.Is(err, errApart) || len(where.parts) > 1 && where.join == nil {
			t.Errorf("operation %s: %v, %v", o.name, where.parts, err)
		}
	}
}

// TestKeyringOpensItsRoles: the keyring of one role refuses the keys of others before a token is asked, and as a control opens its own.
func TestKeyringOpensItsRoles(t *testing.T) {
	cfg, _ := unserved(t)
	ring := newKeyring(cfg.Keys, layout{cfg.Dir}, slog.New(slog.DiscardHandler))
	defer ring.close()
	ring.parts = parts{partTSA: true}
	for _, name := range allRoles {
		_, err := ring.role(t.Context(), name)
		if own := name == roleTSA; errors.Is(err, errOtherRole) == own || own && err != nil {
			t.Errorf("key %s: %v", name, err)
		}
	}
}

// TestHelloIsPassedOnWhole: front reads the host name and loses no byte of what it read.
func TestHelloIsPassedOnWhole(t *testing.T) {
	client, front := net.Pipe()
	go tls.Client(client, &tls.Config{ServerName: "tsa.corp.internal"}).Handshake()
	host, first, err := readHello(front)
	if err != nil || host != "tsa.corp.internal" {
		t.Fatalf("%q, %v", host, err)
	}
	again, server := net.Pipe()
	go func() { again.Write(first); again.Close() }()
	if host, _, err = readHello(server); err != nil || host != "tsa.corp.internal" {
		t.Errorf("what was read is no hello any more: %q, %v", host, err)
	}
	garbage, front := net.Pipe()
	go func() { io.WriteString(garbage, "GET / HTTP/1.1\r\n\r\n"); garbage.Close() }()
	if host, _, err := readHello(front); err == nil {
		t.Errorf("host %q out of no hello", host)
	}
}

// TestWriteRoles replaces the section and nothing else.
func TestWriteRoles(t *testing.T) {
	file := filepath.Join(t.TempDir(), "redoubt.yaml")
	text := "# by hand\ndomain: d\nroles:\n  group: old\n  users:\n    ca: x\nlimits:\n  body: 7\n"
	if err := os.WriteFile(file, []byte(text), 0o640); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writeRoles(file, defaultRoles()); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(file)
	if err != nil || strings.Count(string(got), "roles:") != 1 || !strings.HasPrefix(string(got), "# by hand\ndomain: d\nlimits:\n  body: 7\n") || strings.Contains(string(got), "old") {
		t.Errorf("%v\n%s", err, got)
	}
}

func TestRolesCheck(t *testing.T) {
	same, root, missing, unknown := defaultRoles(), defaultRoles(), defaultRoles(), defaultRoles()
	same.Users[partTSA] = same.Users[partCA]
	root.Users[partLog] = "root"
	delete(missing.Users, partTrust)
	unknown.Users["witness"] = "w"
	for name, r := range map[string]*Roles{"shared": same, "root": root, "missing": missing, "unknown": unknown} {
		if len(r.check()) == 0 {
			t.Errorf("%s: accepted", name)
		}
	}
	if problems := defaultRoles().check(); len(problems) != 0 {
		t.Error(problems)
	}
	if _, err := parseParts("ca,ca"); err == nil {
		t.Error("a role stands twice")
	}
}
