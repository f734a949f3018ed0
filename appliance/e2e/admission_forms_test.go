//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// takeEach has the API server take every object of a rendered text: by a dry run first, then really. It returns how many there were.
func (c *cluster) takeEach(t *testing.T, text string) (n int) {
	t.Helper()
	for _, document := range strings.Split("\n"+text, "\n---\n") {
		var lines []string
		for _, line := range strings.Split(document, "\n") {
			if line != "---" && !strings.HasPrefix(line, "#") {
				lines = append(lines, line)
			}
		}
		document = strings.TrimSpace(strings.Join(lines, "\n"))
		if document == "" {
			continue
		}
		kind, name, namespace := headOf(t, document)
		if namespace == "" {
			namespace = "redoubt"
		}
		path := place(t, kind, namespace) + "/" + name + "?fieldManager=e2e&force=true&fieldValidation=Strict"
		for _, dry := range []string{"&dryRun=All", ""} {
			if code, answer, _ := c.ask(http.MethodPatch, path+dry, "application/apply-patch+yaml", []byte(document)); code/100 != 2 {
				t.Errorf("%s %s %s: %d %s", kind, name, dry, code, message(string(answer)))
			}
		}
		n++
	}
	return n
}

// TestServersAdmissionForms: what `redoubt admission manifests` and the Helm chart print is taken by a real API server, object by object, and the webhooks so
// made are asked: by the name of their service, at its address inside the cluster.
func TestServersAdmissionForms(t *testing.T) {
	helm := client(t, "helm-v3.22.0")
	for _, program := range []string{"etcd", "docker-registry"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; .ci/packages servers installs it", err)
		}
	}
	g := &gated{cluster: startCluster(t), lab: newLab(t, nil), registry: fmt.Sprintf("localhost:%d", freePort(t)), own: "sha256:" + strings.Repeat("5e", 32)}
	g.private = fmt.Sprintf("%s:%d", hosts[0], freePort(t))
	g.startRegistry(t)
	siteTLS(t, g.dir)
	if err := os.MkdirAll(filepath.Join(g.dir, "gate", "approvals"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.evil, g.people = newEvilRegistry(t, g.registry), newCrew(t, "alice", "bob")
	g.file(t, "gate/trusted_root.json", must(os.ReadFile(g.lab.in("trusted_root.json"))))
	g.file(t, "gate/registry-ca.pem", must(os.ReadFile(filepath.Join(g.dir, "site-ca.pem"))))
	g.file(t, "gate/token", []byte(gateToken))
	g.file(t, "gate/policy.yaml", fmt.Appendf(nil, gatePolicy, identity, g.lab.urls.OIDC, g.registry, g.private, g.evil.host))
	a := g.replica(t, "")
	// As it runs in the cluster: the names that a service has, a volume for the state.
	text := bytes.Replace(must(os.ReadFile(a.config)), []byte("names: [127.0.0.1]\n"), nil, 1)
	g.config = g.file(t, "gate/admission.yaml", text)
	text = bytes.Replace(text, []byte("state: state"), []byte("state: /var/lib/redoubt-admission"), 1)
	inside := g.file(t, "gate/inside.yaml", bytes.Replace(text, []byte("approvals: approvals"), []byte("approvals: /etc/redoubt/approvals"), 1))
	s := g.lab.session(t)
	manifests := s.output(t, g.lab.binary, "admission", "manifests", "--admission-config", inside, "--image", g.registry+"/redoubt@"+g.own)
	gateFile := s.write(t, "gate.yaml", manifests)
	chart, err := filepath.Abs("../../installer/chart/redoubt")
	if err != nil {
		t.Fatal(err)
	}
	kube := g.file(t, "kubeconfig", fmt.Appendf(nil, kubeconfig, g.url, g.ca, adminToken))
	values := []string{"redoubt", chart, "--kubeconfig", kube, "--namespace", "redoubt", "--set-file", "admission.manifests=" + gateFile, "--set", "image.digest=" + g.own}
	t.Run("helm, dry run by the server", func(t *testing.T) {
		g.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: redoubt}")
		s.run(t, helm, append([]string{"install", "--dry-run=server"}, values...)...)
		if code, _, _ := g.ask(http.MethodGet, place(t, "MutatingWebhookConfiguration", "")+"/redoubt-admission", "", nil); code != http.StatusNotFound {
			t.Errorf("a dry run left something: %d", code)
		}
	})
	t.Run("helm install", func(t *testing.T) {
		s.run(t, helm, append([]string{"install"}, values...)...)
		if listed := s.output(t, helm, "list", "--kubeconfig", kube, "--namespace", "redoubt", "-o", "json"); !strings.Contains(listed, `"status":"deployed"`) {
			t.Error(listed)
		}
	})
	t.Run("no gate, no pod", func(t *testing.T) {
		g.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: apps}")
		g.refused(t, "early", g.registry+"/app/web:1", "failed calling webhook")
	})
	g.serviceAddress(t, a.listen)
	g.startReplica(t, replica{name: "gate", config: g.config, ready: a.ready})
	web := g.registry + "/app/web"
	signed := g.signed(t, "app/web", "1")
	g.push(t, "app/web", "unsigned")
	t.Run("the webhooks of the chart", func(t *testing.T) {
		g.settled(t, web+":1", "")
		g.allowed(t, "by-chart", web+":1", signed)
		g.refused(t, "not-by-chart", web+":unsigned", "the policy does not allow it")
	})
	t.Run("every object of the chart", func(t *testing.T) {
		rendered := s.output(t, helm, append([]string{"template", "--kube-version", strings.TrimPrefix(kubeAPIServer, "kube-apiserver-v")}, values...)...)
		if n := g.takeEach(t, rendered); n < 15 {
			t.Errorf("%d objects", n)
		} else {
			t.Logf("%d objects of the chart are taken", n)
		}
	})
	t.Run("every object of the manifests", func(t *testing.T) {
		if n := g.takeEach(t, manifests); n != 12 {
			t.Errorf("%d objects", n)
		}
		g.settled(t, web+":unsigned", "the policy does not allow it")
		g.settled(t, web+":1", "")
	})
	t.Run("an object that is none", func(t *testing.T) { // the control: what the server does not know is an error
		broken := strings.Replace(manifests, "failurePolicy: Fail", "failurePolicies: Fail", 1)
		at := strings.Index(broken, "apiVersion: admissionregistration.k8s.io/v1")
		kind, name, _ := headOf(t, strings.Split(broken[at:], "\n---\n")[0])
		if code, answer, _ := g.ask(http.MethodPatch, place(t, kind, "")+"/"+name+"?fieldManager=e2e&force=true&fieldValidation=Strict&dryRun=All", "application/apply-patch+yaml", []byte(strings.Split(broken[at:], "\n---\n")[0])); code/100 == 2 {
			t.Errorf("%d %s", code, answer)
		}
	})
}

// serviceAddress gives this machine the address that the cluster gave to the gate's service, as kube-proxy does on a node, and sends what comes there to a gate.
func (g *gated) serviceAddress(t *testing.T, gate string) {
	t.Helper()
	var service struct {
		Spec struct {
			ClusterIP string `json:"clusterIP"`
		} `json:"spec"`
	}
	_, answer, _ := g.ask(http.MethodGet, place(t, "Service", "redoubt-admission")+"/redoubt-admission", "", nil)
	if err := json.Unmarshal(answer, &service); err != nil || net.ParseIP(service.Spec.ClusterIP) == nil {
		t.Fatalf("%v: %s", err, answer)
	}
	if out, err := exec.Command("ip", "address", "add", service.Spec.ClusterIP+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() { exec.Command("ip", "address", "del", service.Spec.ClusterIP+"/32", "dev", "lo").Run() })
	newFront(t, service.Spec.ClusterIP+":443", gate)
}
