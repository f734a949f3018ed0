package main

import (
	"os/exec"
	"sync"

	"github.com/rogpeppe/go-internal/testscript"

	"redoubt.internal/hsm/vault/fake"
)

// vaultServer: `vault start` serves a fake Vault, mounts a Transit engine for an AppRole, and puts the parameters of a token URI
// into $VAULT and the secret id into $WORK/secret-id; `vault seal` and `vault unseal` do what they say.
func vaultServer(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "vault start|seal|unseal")
	switch args[0] {
	case "start":
		s, err := fake.New(ts.MkAbs("."))
		ts.Check(err)
		ts.Defer(s.Close)
		parameters, err := s.Site(ts.MkAbs("."))
		ts.Check(err)
		ts.Setenv("VAULT", parameters)
		ts.Setenv("VAULT_URL", s.URL)
		vaultServers.Store(ts, s)
	case "seal", "unseal":
		s, ok := vaultServers.Load(ts)
		if !ok {
			ts.Fatalf("no server was started")
		}
		_, err := s.(*fake.Server).Write("sys/"+args[0], map[string]any{"key": s.(*fake.Server).UnsealKey})
		ts.Check(err)
	default:
		ts.Fatalf("vault %s?", args[0])
	}
}

// vaultServers are the servers by script, *testscript.TestScript to *fake.Server.
var vaultServers sync.Map

// buildPlugin FILE builds the test plugin of hsm/plugin: keys in files, behind sigstore's own server code.
func buildPlugin(ts *testscript.TestScript, neg bool, args []string) {
	arguments(ts, neg, args, 1, "buildplugin FILE")
	if out, err := exec.Command("go", "build", "-o", ts.MkAbs(args[0]), "redoubt.internal/hsm/plugin/testdata/sigstore-kms-local").CombinedOutput(); err != nil {
		ts.Fatalf("building the plugin: %v\n%s", err, out)
	}
}
