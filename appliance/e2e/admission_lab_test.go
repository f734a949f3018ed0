//go:build e2e

package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/crypto/bcrypt"
)

// headOf reads what a YAML document is.
func headOf(t *testing.T, document string) (kind, name, namespace string) {
	t.Helper()
	var head struct {
		Kind     string `yaml:"kind"`
		Metadata struct {
			Name      string `yaml:"name"`
			Namespace string `yaml:"namespace"`
		} `yaml:"metadata"`
	}
	if err := yaml.Unmarshal([]byte(document), &head); err != nil {
		t.Fatalf("%v\n%s", err, document)
	}
	return head.Kind, head.Metadata.Name, head.Metadata.Namespace
}

// A gated cluster has Debian's registry and the product's gate.
type gated struct {
	*cluster
	lab      *lab
	registry string // HOST:PORT
	private  string // another, by TLS under the site's own authority and for users alone
	evil     *evilRegistry
	config   string // of the gate
	front    *front // what the API server asks: the gates behind it in turn
	people   *crew
	metrics  string
	own      string // the image that the gate claims to run from
}

const (
	gatePolicy = `version: redoubt.policy/v1
roots:
  own: {file: trusted_root.json, max-age: 24h}
signers:
  us:
  - {root: own, identity: %[1]q, issuer: %[2]q}
rules:
- {name: apps, images: ["%[3]s/app/*", "%[4]s/app/*", "%[5]s/app/*"], signatures: {by: [us]}}
- {name: attested, images: ["%[3]s/attested/*"], attestations: [{type: "https://cosign.sigstore.dev/attestation/v1", by: [us]}]}
`
	gateConfig = `domain: corp.internal
policy: policy.yaml
registries:
- registry: %s
- {registry: '%s', ca-file: registry-ca.pem}
- registry: %s
pull-secrets: true
namespaces: {soft: warn, quiet: audit}
own: {digests: ["%s"]}
approvers: {threshold: 2, members: [%s]}
approvals: approvals
state: STATE
listen: LISTEN
metrics: METRICS
names: [127.0.0.1]
timeout: 5s
cluster: {url: %q, ca-file: %s, token-file: token}
`
)

// startRegistry starts Debian's docker-registry, which has no referrers API.
func (g *gated) startRegistry(t *testing.T) {
	t.Helper()
	_, port, _ := strings.Cut(g.registry, ":")
	config := g.file(t, "registry.yml", fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}, delete: {enabled: true}}\nhttp: {addr: '127.0.0.1:%s'}\n", filepath.Join(g.dir, "images"), port))
	g.run(t, "registry", "docker-registry", "serve", config)
	wait(t, "the registry", func() bool {
		res, err := http.Get("http://" + g.registry + "/v2/")
		if err != nil {
			return false
		}
		res.Body.Close()
		return res.StatusCode == http.StatusOK
	})
}

// The user of the private registry.
const privateUser, privatePassword = "puller", "e2e-registry-password"

// startPrivate starts a second registry of Debian's, by TLS and with a user.
func (g *gated) startPrivate(t *testing.T) {
	t.Helper()
	_, certificate, key := siteTLS(t, g.dir)
	hash, err := bcrypt.GenerateFromPassword([]byte(privatePassword), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	users := g.file(t, "htpasswd", fmt.Appendf(nil, "%s:%s\n", privateUser, hash))
	_, port, _ := strings.Cut(g.private, ":")
	config := g.file(t, "private.yml", fmt.Appendf(nil, "version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: %s}}\nauth: {htpasswd: {realm: site, path: %s}}\nhttp: {addr: '127.0.0.1:%s', tls: {certificate: %s, key: %s}}\n",
		filepath.Join(g.dir, "private"), users, port, certificate, key))
	g.run(t, "private", "docker-registry", "serve", config)
	wait(t, "the private registry", func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	})
}

// privateImage copies an image of the open registry to the private one and signs it there, both by cosign.
func (g *gated) privateImage(t *testing.T, repository, digest string) {
	t.Helper()
	s := g.lab.session(t, "SSL_CERT_FILE="+filepath.Join(g.dir, "site-ca.pem"))
	if err := os.MkdirAll(filepath.Join(s.dir, ".docker"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.write(t, ".docker/config.json", g.dockerConfig())
	s.run(t, client(t, cosign3), "copy", g.registry+"/"+repository+"@"+digest, g.private+"/"+repository)
	s.run(t, client(t, cosign3), "sign", "-y", "--signing-config", g.lab.in("signing_config_rekor_v2.v0.2.json"), "--trusted-root", g.lab.in("trusted_root.json"), "--identity-token", g.lab.token(t), g.private+"/"+repository+"@"+digest)
}

func (g *gated) dockerConfig() string {
	return fmt.Sprintf(`{"auths":{%q:{"username":%q,"password":%q,"auth":%q}}}`, g.private, privateUser, privatePassword, base64.StdEncoding.EncodeToString([]byte(privateUser+":"+privatePassword)))
}

func wait(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(commandTimeout); !done(); time.Sleep(100 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s", what, commandTimeout)
		}
	}
}

func newGated(t *testing.T) *gated {
	t.Helper()
	for _, program := range []string{"etcd", "docker-registry"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v; .ci/packages servers installs it", err)
		}
	}
	g := &gated{cluster: startCluster(t), lab: newLab(t, nil), registry: fmt.Sprintf("localhost:%d", freePort(t)), own: "sha256:" + strings.Repeat("5e", 32), people: newCrew(t, "alice", "bob", "carol")}
	g.private = fmt.Sprintf("%s:%d", hosts[0], freePort(t))
	g.startRegistry(t)
	g.startPrivate(t)
	g.evil = newEvilRegistry(t, g.registry)
	g.front = newFront(t, "127.0.0.1:0")
	if err := os.MkdirAll(filepath.Join(g.dir, "gate", "approvals"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.file(t, "gate/trusted_root.json", must(os.ReadFile(g.lab.in("trusted_root.json"))))
	g.file(t, "gate/registry-ca.pem", must(os.ReadFile(filepath.Join(g.dir, "site-ca.pem"))))
	g.file(t, "gate/token", []byte(gateToken))
	g.file(t, "gate/policy.yaml", fmt.Appendf(nil, gatePolicy, identity, g.lab.urls.OIDC, g.registry, g.private, g.evil.host))
	a := g.replica(t, "")
	g.config, g.metrics = a.config, a.metrics
	// What the manifests for a cluster say is what this one has to take, the rights of the gate with it; only where the webhook is differs.
	inside := bytes.Replace(must(os.ReadFile(g.config)), []byte("state: state"), []byte("state: /var/lib/redoubt-admission"), 1)
	inside = bytes.Replace(inside, []byte("approvals: approvals"), []byte("approvals: /etc/redoubt/approvals"), 1)
	s := g.lab.session(t)
	manifests := s.output(t, g.lab.binary, "admission", "manifests", "--admission-config", g.file(t, "gate/inside.yaml", inside), "--image", g.registry+"/redoubt@"+g.own)
	workloads, _, _ := strings.Cut(manifests, "---\napiVersion: admissionregistration.k8s.io/v1")
	g.apply(t, strings.TrimSuffix(workloads, "\n"))
	for _, namespace := range []string{"apps", "soft", "quiet"} {
		g.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}")
	}
	g.startGate(t)
	g.front.to(a.listen)
	g.apply(t, s.output(t, g.lab.binary, "admission", "manifests", "--admission-config", g.config, "--url", "https://"+g.front.address))
	return g
}

// A replica is one gate among others, with a state folder and ports of its own.
type replica struct{ name, config, listen, metrics, ready string }

// replica configures one more gate; the first has no suffix.
func (g *gated) replica(t *testing.T, suffix string) replica {
	t.Helper()
	r := replica{name: "gate" + suffix, listen: fmt.Sprintf("127.0.0.1:%d", freePort(t)), ready: filepath.Join(g.dir, "ready"+suffix+".json")}
	metrics := fmt.Sprintf("127.0.0.1:%d", freePort(t))
	text := fmt.Sprintf(gateConfig, g.registry, g.private, g.evil.host, g.own, g.people.yaml(), g.url, g.ca)
	text = strings.NewReplacer("STATE", "state"+suffix, "LISTEN", r.listen, "METRICS", metrics).Replace(text)
	r.metrics, r.config = "http://"+metrics, g.file(t, "gate/admission"+suffix+".yaml", []byte(text))
	return r
}

func (g *gated) startReplica(t *testing.T, r replica) {
	t.Helper()
	os.Remove(r.ready)
	g.run(t, r.name, g.lab.binary, "admission", "serve", "--admission-config", r.config, "--ready-file", r.ready)
	wait(t, r.name, func() bool { _, err := os.Stat(r.ready); return err == nil })
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// startGate starts the first gate.
func (g *gated) startGate(t *testing.T) {
	t.Helper()
	g.startReplica(t, replica{name: "gate", config: g.config, ready: filepath.Join(g.dir, "ready.json")})
}

// behind puts these gates alone behind the front, and waits until the API server has noticed that its connection is cut.
func (g *gated) behind(t *testing.T, gates ...string) {
	t.Helper()
	g.front.to(gates...)
	wait(t, "a connection", func() bool {
		_, answer, _ := g.pod(t, "apps", "connected", "elsewhere.internal/none:1")
		return strings.Contains(message(answer), "its registry is none of those")
	})
}

// page is what a gate serves at a URL of its metrics.
func (g *gated) page(t *testing.T, url string) string {
	t.Helper()
	res, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// push pushes an image that nobody has seen before to Debian's registry, under a tag.
func (g *gated) push(t *testing.T, repository, tag string) string {
	t.Helper()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"n":"%d"}},"rootfs":{"type":"layers","diff_ids":[]}}`, time.Now().UnixNano())
	base := "http://" + g.registry + "/v2/" + repository
	res, err := http.Post(base+"/blobs/uploads/", "", nil)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	at, err := res.Location()
	if err != nil {
		t.Fatal(err)
	}
	at.RawQuery += "&digest=" + url.QueryEscape(digest(config))
	send(t, http.MethodPut, at.String(), "application/octet-stream", config)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},"layers":[]}`, digest(config), len(config))
	send(t, http.MethodPut, base+"/manifests/"+tag, "application/vnd.oci.image.manifest.v1+json", manifest)
	return digest(manifest)
}

// signed pushes an image and signs it with stock cosign.
func (g *gated) signed(t *testing.T, repository, tag string) (digest string) {
	t.Helper()
	digest = g.push(t, repository, tag)
	g.cosign(t, "sign", g.registry+"/"+repository+"@"+digest)
	return digest
}

func (g *gated) cosign(t *testing.T, verb string, args ...string) {
	t.Helper()
	s := g.lab.session(t)
	s.run(t, client(t, cosign3), join([]string{verb, "-y", "--signing-config", g.lab.in("signing_config_rekor_v2.v0.2.json"), "--trusted-root", g.lab.in("trusted_root.json"), "--identity-token", g.lab.token(t)}, args)...)
}

const podJSON = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":%q},"spec":{"containers":[{"name":"c","image":%q}]}}`

// pod makes a pod of one image.
func (g *gated) pod(t *testing.T, namespace, name, image string) (code int, answer string, warnings []string) {
	t.Helper()
	return g.create(t, "Pod", namespace, fmt.Sprintf(podJSON, name, image))
}

// refused wants a pod to be refused with a reason.
func (g *gated) refused(t *testing.T, name, image, reason string) {
	t.Helper()
	if code, answer, _ := g.pod(t, "apps", name, image); code/100 == 2 || !strings.Contains(message(answer), reason) {
		t.Errorf("%s: %d %s; wanted a refusal that says %q", image, code, message(answer), reason)
	}
}

// allowed wants a pod to be made, and to name the digest.
func (g *gated) allowed(t *testing.T, name, image, digest string) {
	t.Helper()
	if code, answer, _ := g.pod(t, "apps", name, image); code != http.StatusCreated || !strings.HasSuffix(imageOf(answer), "@"+digest) {
		t.Errorf("%s: %d %s, image %s", image, code, message(answer), imageOf(answer))
	}
}
