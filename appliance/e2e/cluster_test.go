//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

const kubeAPIServer = "kube-apiserver-v1.36.3"

// A cluster is a real API server on a real etcd, as much of Kubernetes as it takes to be asked and to store: no kubelet, no controllers.
type cluster struct {
	whole     *testing.T // servers end with it
	dir       string
	url       string // of the API server
	ca        string // PEM file
	etcdPort  int
	port      int
	processes map[string]*exec.Cmd
	client    *http.Client
}

// The tokens of the cluster's two users: one who may do everything, and the gate's service account.
const (
	adminToken = "e2e-admin-token"
	gateToken  = "e2e-gate-token"
)

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{whole: t, dir: t.TempDir(), etcdPort: freePort(t), port: freePort(t), processes: map[string]*exec.Cmd{}}
	c.url = fmt.Sprintf("https://127.0.0.1:%d", c.port)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	c.file(t, "sa.key", pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)}))
	c.file(t, "tokens.csv", fmt.Appendf(nil, "%s,admin,1,system:masters\n%s,system:serviceaccount:redoubt-admission:redoubt-admission,2,system:serviceaccounts\n", adminToken, gateToken))
	c.file(t, "audit.yaml", []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Metadata, resources: [{resources: [pods]}]}]\n"))
	c.ca = filepath.Join(c.dir, "certs", "apiserver.crt") // it makes its own
	c.start(t)
	return c
}

func (c *cluster) file(t *testing.T, name string, content []byte) string {
	t.Helper()
	file := filepath.Join(c.dir, name)
	if err := os.WriteFile(file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

// start starts etcd and the API server on what they stored before.
func (c *cluster) start(t *testing.T) {
	t.Helper()
	etcd, peer := fmt.Sprintf("http://127.0.0.1:%d", c.etcdPort), fmt.Sprintf("http://127.0.0.1:%d", freePort(t))
	c.run(t, "etcd", "etcd", "--data-dir", filepath.Join(c.dir, "etcd"), "--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
		"--initial-advertise-peer-urls", peer, "--initial-cluster", "default="+peer)
	c.run(t, "kube-apiserver", client(t, kubeAPIServer), "--etcd-servers", etcd, "--secure-port", fmt.Sprint(c.port), "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1", "--cert-dir", filepath.Join(c.dir, "certs"),
		"--service-account-key-file", filepath.Join(c.dir, "sa.key"), "--service-account-signing-key-file", filepath.Join(c.dir, "sa.key"), "--service-account-issuer", "https://cluster.internal",
		"--token-auth-file", filepath.Join(c.dir, "tokens.csv"), "--authorization-mode", "RBAC", "--disable-admission-plugins", "ServiceAccount,Priority", "--service-cluster-ip-range", "10.0.0.0/24",
		"--audit-policy-file", filepath.Join(c.dir, "audit.yaml"), "--audit-log-path", filepath.Join(c.dir, "audit.log"))
	deadline := time.Now().Add(commandTimeout)
	for {
		if text, err := os.ReadFile(c.ca); err == nil {
			roots := x509.NewCertPool()
			roots.AppendCertsFromPEM(text)
			c.client = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
			if code, _, _ := c.ask(http.MethodGet, "/readyz", "", nil); code == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			log, _ := os.ReadFile(filepath.Join(c.dir, "kube-apiserver.log"))
			t.Fatalf("the API server is not ready\n%s", log[max(0, len(log)-3000):])
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// run starts a server that ends with the test.
func (c *cluster) run(t *testing.T, name, program string, args ...string) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(c.dir, name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	server := exec.Command(program, args...)
	server.Env, server.Stdout, server.Stderr = cleanEnv(c.dir), log, log
	server.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	c.processes[name] = server
	c.whole.Cleanup(func() { server.Process.Kill(); server.Wait() })
}

// kill ends servers as a power cut does.
func (c *cluster) kill(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		c.processes[name].Process.Kill()
		c.processes[name].Wait()
		delete(c.processes, name)
	}
}

// ask sends one request as the administrator.
func (c *cluster) ask(method, path, contentType string, body []byte) (code int, answer []byte, warnings []string) {
	q, err := http.NewRequestWithContext(context.Background(), method, c.url+path, bytes.NewReader(body))
	if err != nil {
		return 0, []byte(err.Error()), nil
	}
	q.Header.Set("Authorization", "Bearer "+adminToken)
	q.Header.Set("Content-Type", contentType)
	res, err := c.client.Do(q)
	if err != nil {
		return 0, []byte(err.Error()), nil
	}
	defer res.Body.Close()
	answer, _ = io.ReadAll(res.Body)
	return res.StatusCode, answer, res.Header.Values("Warning")
}

// places are where the kinds that these tests apply are served; %s is the namespace.
var places = map[string]string{
	"Namespace": "/api/v1/namespaces", "ServiceAccount": "/api/v1/namespaces/%s/serviceaccounts", "ConfigMap": "/api/v1/namespaces/%s/configmaps", "Service": "/api/v1/namespaces/%s/services",
	"Secret": "/api/v1/namespaces/%s/secrets", "Pod": "/api/v1/namespaces/%s/pods", "PodTemplate": "/api/v1/namespaces/%s/podtemplates", "ReplicationController": "/api/v1/namespaces/%s/replicationcontrollers",
	"Deployment": "/apis/apps/v1/namespaces/%s/deployments", "StatefulSet": "/apis/apps/v1/namespaces/%s/statefulsets", "DaemonSet": "/apis/apps/v1/namespaces/%s/daemonsets",
	"ReplicaSet": "/apis/apps/v1/namespaces/%s/replicasets", "Job": "/apis/batch/v1/namespaces/%s/jobs", "CronJob": "/apis/batch/v1/namespaces/%s/cronjobs",
	"Role": "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/roles", "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/namespaces/%s/rolebindings",
	"ClusterRole": "/apis/rbac.authorization.k8s.io/v1/clusterroles", "ClusterRoleBinding": "/apis/rbac.authorization.k8s.io/v1/clusterrolebindings",
	"PodDisruptionBudget":      "/apis/policy/v1/namespaces/%s/poddisruptionbudgets",
	"CustomResourceDefinition": "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
	"PersistentVolumeClaim":    "/api/v1/namespaces/%s/persistentvolumeclaims", "NetworkPolicy": "/apis/networking.k8s.io/v1/namespaces/%s/networkpolicies",
	"MutatingWebhookConfiguration":   "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations",
	"ValidatingWebhookConfiguration": "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations",
}

func place(t *testing.T, kind, namespace string) string {
	t.Helper()
	path, ok := places[kind]
	if !ok {
		t.Fatalf("no place for a %s", kind)
	}
	if strings.Contains(path, "%s") {
		return fmt.Sprintf(path, namespace)
	}
	return path
}

// apply applies YAML documents as `kubectl apply --server-side` does; a field that the API server does not know is an error.
func (c *cluster) apply(t *testing.T, text string) {
	t.Helper()
	for _, document := range strings.Split(text, "\n---\n") {
		kind, name, namespace := headOf(t, document)
		path := place(t, kind, namespace) + "/" + name + "?fieldManager=e2e&force=true&fieldValidation=Strict"
		if code, answer, _ := c.ask(http.MethodPatch, path, "application/apply-patch+yaml", []byte(document)); code/100 != 2 {
			t.Fatalf("applying %s %s: %d %s", kind, name, code, answer)
		}
	}
}

// create makes an object from JSON.
func (c *cluster) create(t *testing.T, kind, namespace, object string) (code int, answer string, warnings []string) {
	t.Helper()
	code, raw, warnings := c.ask(http.MethodPost, place(t, kind, namespace)+"?fieldValidation=Strict", "application/json", []byte(object))
	return code, string(raw), warnings
}

// imageOf reads the first image that an answer holds.
func imageOf(answer string) string {
	_, rest, _ := strings.Cut(answer, `"image":"`)
	image, _, _ := strings.Cut(rest, `"`)
	return image
}

// message is that of a refusal.
func message(answer string) string {
	var s struct {
		Message string `json:"message"`
	}
	if json.Unmarshal([]byte(answer), &s) != nil {
		return answer
	}
	return s.Message
}
