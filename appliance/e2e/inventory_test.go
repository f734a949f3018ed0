//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// kubeconfig is a configuration of kubectl's for whoever has the token.
const kubeconfig = `apiVersion: v1
kind: Config
current-context: here
contexts: [{name: here, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: %q, certificate-authority: %q}}]
users: [{name: u, user: {token: %q}}]
`

// takeInventory: what runs in the cluster is listed by a real API server, and judged by the gate's policy from the registry.
func takeInventory(t *testing.T, g *gated, web, signed string) {
	s := g.lab.session(t)
	take := func(token string, more ...string) (images []struct {
		Reference, Digest, Status, Rule string
		Places                          []string
		Signers                         []struct{ Identity string }
	}, both string, err error) {
		file := g.file(t, "kubeconfig", fmt.Appendf(nil, kubeconfig, g.url, g.ca, token))
		out, both, err := s.exec(g.lab.binary, append([]string{"inventory", "cluster:", "--kubeconfig", file, "--policy", filepath.Join(g.dir, "gate/policy.yaml"), "--ca-file", filepath.Join(g.dir, "site-ca.pem"), "-o", "json"}, more...)...)
		var report struct{ Images any }
		report.Images = &images
		if jsonErr := json.Unmarshal([]byte(out), &report); jsonErr != nil && len(more) > 0 {
			t.Fatalf("%v: %v\n%s", jsonErr, err, both)
		}
		return images, both, err
	}
	images, both, err := take(adminToken, "--registry", g.registry)
	if err == nil || !strings.Contains(both, "could not be read") { // the gate's own image is in no registry
		t.Errorf("%v\n%s", err, both)
	}
	found := map[string]bool{}
	for _, i := range images {
		in := func(place string) bool {
			return slices.ContainsFunc(i.Places, func(p string) bool { return strings.Contains(p, place) })
		}
		switch {
		case strings.HasPrefix(i.Reference, web) && i.Digest == signed && i.Status == "allowed" && i.Rule == "apps" && len(i.Signers) == 1 && i.Signers[0].Identity == identity && in("apps"):
			found["signed"] = true
		case i.Reference == web+":unsigned" && i.Status == "unsigned" && in("soft") && in("quiet"):
			found["unsigned"] = true
		case strings.Contains(i.Reference, g.own) && i.Status == "unreadable":
			found["own"] = true
		}
	}
	if len(found) != 3 {
		t.Errorf("found %v in\n%s", found, both)
	}
	if images, both, err := take("nobody's"); err == nil || len(images) > 0 || !strings.Contains(both, "401") {
		t.Errorf("without a right: %v\n%s", err, both)
	}
}
