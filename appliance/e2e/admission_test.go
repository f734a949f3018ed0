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
	config   string // of the gate
	webhook  string // URL
	metrics  string
	own      string // the image that the gate claims to run from
}

const (
	gatePolicy = `version: redoubt.policy/v1
roots:
  own: {file: trusted_root.json}
signers:
  us:
  - {root: own, identity: %[1]q, issuer: %[2]q}
rules:
- {name: apps, images: ["%[3]s/app/*", "%[4]s/app/*"], signatures: {by: [us]}}
- {name: attested, images: ["%[3]s/attested/*"], attestations: [{type: "https://cosign.sigstore.dev/attestation/v1", by: [us]}]}
`
	gateConfig = `domain: corp.internal
policy: policy.yaml
registries:
- registry: %s
- {registry: '%s', ca-file: registry-ca.pem}
pull-secrets: true
namespaces: {soft: warn, quiet: audit}
own: {digests: ["%s"]}
state: state
listen: 127.0.0.1:%d
metrics: 127.0.0.1:%d
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

// pullSecrets: what needs a login is read with the pull secret of who asks, and not without.
func pullSecrets(t *testing.T, g *gated, signed string) {
	g.privateImage(t, "app/web", signed)
	image := g.private + "/app/web@" + signed
	g.refused(t, "no-secret", image, "did not answer")
	secret := base64.StdEncoding.EncodeToString([]byte(g.dockerConfig()))
	g.apply(t, "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {name: pull, namespace: apps}\ndata: {.dockerconfigjson: "+secret+"}")
	object := strings.Replace(fmt.Sprintf(podJSON, "with-secret", image), `"spec":{`, `"spec":{"imagePullSecrets":[{"name":"pull"}],`, 1)
	if code, answer, _ := g.create(t, "Pod", "apps", object); code != http.StatusCreated {
		t.Errorf("with the secret: %d %s", code, message(answer))
	}
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
	g := &gated{cluster: startCluster(t), lab: newLab(t, nil), registry: fmt.Sprintf("localhost:%d", freePort(t)), own: "sha256:" + strings.Repeat("5e", 32)}
	g.private = fmt.Sprintf("%s:%d", hosts[0], freePort(t))
	g.startRegistry(t)
	g.startPrivate(t)
	root, err := os.ReadFile(g.lab.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	port, metrics := freePort(t), freePort(t)
	g.webhook, g.metrics = fmt.Sprintf("https://127.0.0.1:%d", port), fmt.Sprintf("http://127.0.0.1:%d", metrics)
	if err := os.Mkdir(filepath.Join(g.dir, "gate"), 0o755); err != nil {
		t.Fatal(err)
	}
	g.file(t, "gate/trusted_root.json", root)
	g.file(t, "gate/registry-ca.pem", must(os.ReadFile(filepath.Join(g.dir, "site-ca.pem"))))
	g.file(t, "gate/token", []byte(gateToken))
	g.file(t, "gate/policy.yaml", fmt.Appendf(nil, gatePolicy, identity, g.lab.urls.OIDC, g.registry, g.private))
	g.config = g.file(t, "gate/admission.yaml", fmt.Appendf(nil, gateConfig, g.registry, g.private, g.own, port, metrics, g.url, g.ca))
	// What the manifests for a cluster say is what this one has to take, the rights of the gate with it; only where the webhook is differs.
	inside := g.file(t, "gate/inside.yaml", bytes.Replace(must(os.ReadFile(g.config)), []byte("state: state"), []byte("state: /var/lib/redoubt-admission"), 1))
	s := g.lab.session(t)
	manifests := s.output(t, g.lab.binary, "admission", "manifests", "--admission-config", inside, "--image", g.registry+"/redoubt@"+g.own)
	workloads, _, _ := strings.Cut(manifests, "---\napiVersion: admissionregistration.k8s.io/v1")
	g.apply(t, strings.TrimSuffix(workloads, "\n"))
	for _, namespace := range []string{"apps", "soft", "quiet"} {
		g.apply(t, "apiVersion: v1\nkind: Namespace\nmetadata: {name: "+namespace+"}")
	}
	g.startGate(t)
	g.apply(t, s.output(t, g.lab.binary, "admission", "manifests", "--admission-config", g.config, "--url", g.webhook))
	return g
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

func (g *gated) startGate(t *testing.T) {
	t.Helper()
	ready := filepath.Join(g.dir, "gate-ready.json")
	os.Remove(ready)
	g.run(t, "gate", g.lab.binary, "admission", "serve", "--admission-config", g.config, "--ready-file", ready)
	wait(t, "the gate", func() bool { _, err := os.Stat(ready); return err == nil })
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

// TestServersAdmission: a real API server on a real etcd asks the gate about images in Debian's registry that stock cosign signed.
func TestServersAdmission(t *testing.T) {
	g := newGated(t)
	web := g.registry + "/app/web"
	signed := g.signed(t, "app/web", "1")
	g.push(t, "app/web", "unsigned")
	t.Run("signed", func(t *testing.T) {
		g.allowed(t, "signed", web+":1", signed)
		g.allowed(t, "pinned", web+"@"+signed, signed)
	})
	t.Run("refused", func(t *testing.T) {
		g.refused(t, "unsigned", web+":unsigned", "redoubt: containers \"c\": image \""+web+":unsigned\": the policy does not allow it")
		g.refused(t, "elsewhere", "docker.io/library/nginx:1", "its registry is none of those this cluster may use")
		g.refused(t, "no-rule", g.registry+"/other/web:1", "registry")
		g.refused(t, "no-image", web+":none", "registry")
	})
	t.Run("every kind", func(t *testing.T) { everyKind(t, g, web, signed) })
	t.Run("ephemeral containers", func(t *testing.T) {
		add := func(image string) (int, string) {
			code, answer, _ := g.ask(http.MethodPatch, "/api/v1/namespaces/apps/pods/pinned/ephemeralcontainers", "application/strategic-merge-patch+json",
				fmt.Appendf(nil, `{"spec":{"ephemeralContainers":[{"name":"debug","image":%q}]}}`, image))
			return code, string(answer)
		}
		if code, answer := add(web + ":unsigned"); code/100 == 2 || !strings.Contains(message(answer), `ephemeralContainers "debug"`) {
			t.Errorf("unsigned: %d %s", code, message(answer))
		}
		if code, answer := add(web + ":1"); code != http.StatusOK || !strings.Contains(answer, `"image":"`+web+":1@"+signed+`"`) {
			t.Errorf("signed: %d %s", code, message(answer))
		}
	})
	t.Run("attested", func(t *testing.T) {
		predicate := g.lab.session(t).write(t, "predicate.json", `{"tests":"green"}`)
		image := g.registry + "/attested/web@" + g.push(t, "attested/web", "1")
		g.refused(t, "not-attested", image, "0 of 1 needed")
		g.cosign(t, "attest", "--predicate", predicate, "--type", "custom", image)
		_, digest, _ := strings.Cut(image, "@")
		g.allowed(t, "attested", image, digest)
	})
	t.Run("pull secrets", func(t *testing.T) { pullSecrets(t, g, signed) })
	t.Run("modes", func(t *testing.T) {
		if code, answer, warnings := g.pod(t, "soft", "unsigned", web+":unsigned"); code != http.StatusCreated || !strings.Contains(strings.Join(warnings, "\n"), "redoubt would refuse this") {
			t.Errorf("warn: %d %s, warnings %q", code, message(answer), warnings)
		}
		if code, answer, warnings := g.pod(t, "quiet", "unsigned", web+":unsigned"); code != http.StatusCreated || strings.Contains(strings.Join(warnings, "\n"), "redoubt") {
			t.Errorf("audit: %d %s, warnings %q", code, message(answer), warnings)
		}
	})
	t.Run("told", func(t *testing.T) {
		wait(t, "the event of a refusal", func() bool {
			_, answer, _ := g.ask(http.MethodGet, "/api/v1/namespaces/apps/events", "", nil)
			return bytes.Contains(answer, []byte(`"reason":"ImageRefused"`)) && bytes.Contains(answer, []byte("the policy does not allow it"))
		})
		for path, word := range map[string]string{"/metrics": `redoubt_admission_reviews_total{decision="refused"}`, "/results": `"result":"fail"`} {
			res, err := http.Get(g.metrics + path)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(res.Body)
			res.Body.Close()
			if !bytes.Contains(text, []byte(word)) {
				t.Errorf("%s does not say %s", path, word)
			}
		}
	})
	t.Run("inventory", func(t *testing.T) { takeInventory(t, g, web, signed) })
	t.Run("too large", func(t *testing.T) {
		object := fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"name":"large"},"spec":{"containers":[{"name":"c","image":%q,"env":[{"name":"X","value":%q}]}]}}`, web+"@"+signed, strings.Repeat("x", 3<<20-4096))
		if code, answer, _ := g.create(t, "Pod", "apps", object); code/100 == 2 || !strings.Contains(message(answer), "larger than") {
			t.Errorf("%d %.300s", code, message(answer))
		}
	})
	t.Run("the authority is put back", func(t *testing.T) {
		path := place(t, "MutatingWebhookConfiguration", "") + "/redoubt-admission"
		g.ask(http.MethodPatch, path, "application/json-patch+json", []byte(`[{"op":"remove","path":"/webhooks/0/clientConfig/caBundle"}]`))
		g.kill(t, "gate")
		g.startGate(t)
		_, answer, _ := g.ask(http.MethodGet, path, "", nil)
		if !bytes.Contains(answer, []byte(`"caBundle"`)) {
			t.Errorf("%s", answer)
		}
		wait(t, "a pod once more", func() bool {
			code, _, _ := g.pod(t, "apps", "healed", web+":1")
			return code == http.StatusCreated
		})
	})
	// From here on the appliance is gone: the gate decides by what it has.
	uncached := g.signed(t, "app/web", "late")
	g.lab.stop(t)
	t.Run("the registry is down", func(t *testing.T) {
		g.kill(t, "registry")
		g.allowed(t, "cached", web+"@"+signed, signed)
		g.refused(t, "uncached", web+"@"+uncached, "did not answer")
		g.refused(t, "tag", web+":1", "did not answer")
		g.startRegistry(t)
	})
	t.Run("the gate is down", func(t *testing.T) {
		g.kill(t, "gate")
		g.refused(t, "gate-down", web+"@"+signed, "failed calling webhook")
		coldStart(t, g, web, signed)
	})
}

// coldStart: everything is off; what comes first is refused, the gate's own pods alone come up, and with them everything else.
func coldStart(t *testing.T, g *gated, web, signed string) {
	g.kill(t, "kube-apiserver", "etcd", "registry")
	g.start(t)
	wait(t, "a refusal for want of the gate", func() bool {
		code, answer, _ := g.pod(t, "apps", "cold", web+"@"+signed)
		return code/100 != 2 && strings.Contains(message(answer), "failed calling webhook")
	})
	if code, answer, _ := g.pod(t, "redoubt-admission", "gate-0", g.registry+"/redoubt@"+g.own); code != http.StatusCreated {
		t.Errorf("the gate's own pod: %d %s", code, message(answer))
	}
	for name, image := range map[string]string{"by-tag": g.registry + "/redoubt:1", "another": web + "@" + signed} {
		if code, _, _ := g.pod(t, "redoubt-admission", name, image); code/100 == 2 {
			t.Errorf("%s passed in the gate's namespace while the gate was away", image)
		}
	}
	g.startRegistry(t)
	g.startGate(t)
	wait(t, "the first pod", func() bool {
		code, _, _ := g.pod(t, "apps", "warm", web+"@"+signed)
		return code == http.StatusCreated
	})
	g.refused(t, "warm-unsigned", web+":unsigned", "the policy does not allow it")
}

// everyKind makes each kind that runs containers of an image that is signed and of one that is not, in each list of containers.
func everyKind(t *testing.T, g *gated, web, signed string) {
	template := func(init, image string) string {
		return fmt.Sprintf(`{"metadata":{"labels":{"a":"b"}},"spec":{"restartPolicy":"RESTART","initContainers":[{"name":"i","image":%q}],"containers":[{"name":"c","image":%q}]}}`, init, image)
	}
	for kind, form := range map[string]string{
		"Deployment":            `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"StatefulSet":           `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"NAME"},"spec":{"serviceName":"x","selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"DaemonSet":             `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"ReplicaSet":            `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"ReplicationController": `{"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"NAME"},"spec":{"selector":{"a":"b"},"template":TEMPLATE}}`,
		"PodTemplate":           `{"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":"NAME"},"template":TEMPLATE}`,
		"Job":                   `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"NAME"},"spec":{"template":TEMPLATE}}`,
		"CronJob":               `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"NAME"},"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":TEMPLATE}}}}`,
	} {
		t.Run(kind, func(t *testing.T) {
			restart := "Always"
			if strings.HasSuffix(kind, "Job") {
				restart = "Never"
			}
			make := func(name, template string) (int, string) {
				code, answer, _ := g.create(t, kind, "apps", strings.NewReplacer("NAME", name, "TEMPLATE", strings.Replace(template, "RESTART", restart, 1)).Replace(form))
				return code, answer
			}
			if code, answer := make("signed", template(web+":1", web+":1")); code != http.StatusCreated || strings.Count(answer, `"image":"`+web+":1@"+signed+`"`) != 2 {
				t.Errorf("signed: %d %s", code, answer)
			}
			if code, answer := make("unsigned", template(web+":1", web+":unsigned")); code/100 == 2 || !strings.Contains(message(answer), `containers "c"`) {
				t.Errorf("unsigned: %d %s", code, message(answer))
			}
			if code, answer := make("init", template(web+":unsigned", web+":1")); code/100 == 2 || !strings.Contains(message(answer), `initContainers "i"`) {
				t.Errorf("unsigned init container: %d %s", code, message(answer))
			}
		})
	}
}
