package admission

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"

	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/images"
)

// lab is a gate with its policy, a signing deployment, and a real registry in this process that can be made to misbehave.
type lab struct {
	t     testing.TB
	dir   string
	own   *verifytest.Deployment
	host  string
	gate  *Gate
	at    atomic.Int64 // seconds since the epoch, the gate's clock
	asked atomic.Int64 // requests that the registry got
	// sick, when set, answers in place of the registry; false leaves it to that.
	sick atomic.Pointer[func(http.ResponseWriter, *http.Request) bool]
}

// rules are the policy of a lab: what is signed by its deployment, under app/, and whatever is under open/ by nobody.
const rules = `version: redoubt.policy/v1
roots:
  own: {file: own.json, max-age: 24h}
signers:
  us:
    - {root: own, identity: dev@corp.internal, issuer: https://oidc.corp.internal}
rules:
  - {name: ours, images: ["%s/app/**"], signatures: {by: [us]}}
`

func newLab(t testing.TB, edit func(*Config, **People)) *lab {
	t.Helper()
	l := &lab{t: t, dir: t.TempDir(), own: verifytest.New(t, "corp.internal")}
	l.at.Store(verifytest.Epoch.Add(time.Hour).Unix())
	inner := registry.New(registry.WithReferrersSupport(true), registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			l.asked.Add(1)
		}
		if sick := l.sick.Load(); sick != nil && (*sick)(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	l.host = strings.TrimPrefix(server.URL, "http://")
	l.file("own.json", l.own.Root())
	l.file("policy.yaml", fmt.Appendf(nil, rules, l.host))
	c := Config{
		Registries: []images.Access{{Host: l.host}}, Dir: filepath.Join(l.dir, "state"), Logger: slog.New(slog.NewTextHandler(testWriter{t}, nil)), Now: l.now,
		Timeout: 20 * time.Second, Spool: filepath.Join(l.dir, "spool"),
	}
	var p *People
	if edit != nil {
		edit(&c, &p)
	}
	var err error
	if l.gate, err = New(c, l.rules(), p); err != nil {
		t.Fatal(err)
	}
	return l
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Logf("%s", bytes.TrimSpace(p))
	return len(p), nil
}

func (l *lab) now() time.Time { return time.Unix(l.at.Load(), 0) }

// pass lets time pass.
func (l *lab) pass(d time.Duration) { l.at.Add(int64(d / time.Second)) }

// rules reads policy and trust as they are, trust as of now.
func (l *lab) rules() *Rules {
	l.t.Helper()
	if err := os.Chtimes(filepath.Join(l.dir, "own.json"), l.now(), l.now()); err != nil {
		l.t.Fatal(err)
	}
	r, err := loadRules(filepath.Join(l.dir, "policy.yaml"), nil, l.now)
	if err != nil {
		l.t.Fatal(err)
	}
	return r
}

func (l *lab) file(name string, data []byte) {
	l.t.Helper()
	if err := os.WriteFile(filepath.Join(l.dir, name), data, 0o600); err != nil {
		l.t.Fatal(err)
	}
}

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return "sha256:" + hex.EncodeToString(sum[:])
}

func (l *lab) put(path, contentType string, body []byte) {
	l.t.Helper()
	method := http.MethodPut
	if strings.Contains(path, "/uploads/") {
		method = http.MethodPost
	}
	q, _ := http.NewRequest(method, "http://"+l.host+"/v2/"+path, bytes.NewReader(body))
	q.Header.Set("Content-Type", contentType)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		l.t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		l.t.Fatalf("PUT %s: %s", path, res.Status)
	}
}

func (l *lab) blob(repository string, b []byte) map[string]any {
	l.put(repository+"/blobs/uploads/?digest="+digest(b), "application/octet-stream", b)
	return map[string]any{"mediaType": "application/octet-stream", "digest": digest(b), "size": len(b)}
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

// push pushes an image that nobody has seen before under a tag, and returns its manifest.
func (l *lab) push(repository, tag string) []byte {
	l.t.Helper()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"Labels":{"n":"%x"}},"rootfs":{"type":"layers","diff_ids":[]}}`, verifytest.Random(8))
	d := l.blob(repository, config)
	d["mediaType"] = "application/vnd.oci.image.config.v1+json"
	manifest := verifytest.Encode(l.t, map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": d, "layers": []any{}})
	l.put(repository+"/manifests/"+tag, manifestType, manifest)
	return manifest
}

const bundleMedia = "application/vnd.dev.sigstore.bundle.v0.3+json"

// attach pushes a bundle that names the image as its subject.
func (l *lab) attach(repository string, manifest, bundle []byte) {
	l.t.Helper()
	empty := l.blob(repository, []byte("{}"))
	empty["mediaType"] = "application/vnd.oci.empty.v1+json"
	layer := l.blob(repository, bundle)
	layer["mediaType"] = bundleMedia
	m := verifytest.Encode(l.t, map[string]any{
		"schemaVersion": 2, "mediaType": manifestType, "artifactType": bundleMedia, "config": empty, "layers": []any{layer},
		"subject": map[string]any{"mediaType": manifestType, "digest": digest(manifest), "size": len(manifest)},
	})
	l.put(repository+"/manifests/"+digest(m), manifestType, m)
}

// signed pushes an image under a tag, signed by the deployment, and returns its digest.
func (l *lab) signed(repository, tag string) string {
	l.t.Helper()
	manifest := l.push(repository, tag)
	l.attach(repository, manifest, l.own.SignMessage(2, string(manifest)).Bundle(l.t))
	return digest(manifest)
}

var pods = groupVersionKind{"", "v1", "Pod"}

// pod is a pod with one container for each image.
func pod(images ...string) json.RawMessage {
	var containers []string
	for i, image := range images {
		containers = append(containers, fmt.Sprintf(`{"name":"c%d","image":%q}`, i, image))
	}
	return object(pods, `{"metadata":{"name":"app"},"spec":{"containers":[`+strings.Join(containers, ",")+`]}}`)
}

// answer is what came back for a review.
type answer struct {
	Status   int
	Response struct {
		UID              string            `json:"uid"`
		Allowed          bool              `json:"allowed"`
		Status           status            `json:"status"`
		Patch            []byte            `json:"patch"`
		PatchType        string            `json:"patchType"`
		AuditAnnotations map[string]string `json:"auditAnnotations"`
		Warnings         []string          `json:"warnings"`
	} `json:"response"`
}

// ask sends a review as the API server does.
func (l *lab) ask(path string, body []byte) (a answer) {
	l.t.Helper()
	q := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
	q.Header.Set("Content-Type", "application/json")
	w := httptest.NewRecorder()
	l.gate.Handler().ServeHTTP(w, q)
	a.Status = w.Code
	if w.Code != http.StatusOK {
		a.Response.Status.Message = w.Body.String()
		return a
	}
	b, _ := io.ReadAll(w.Body)
	if err := json.Unmarshal(b, &a); err != nil {
		l.t.Fatalf("%v: %s", err, b)
	}
	return a
}

// create asks whether a pod in a namespace may be made of images.
func (l *lab) create(path, namespace string, images ...string) answer {
	l.t.Helper()
	return l.ask(path, review("CREATE", pods, namespace, pod(images...), nil))
}

// refused wants a refusal that says one of the words.
func (l *lab) refused(a answer, word string) {
	l.t.Helper()
	if a.Response.Allowed || !strings.Contains(a.Response.Status.Message, word) || a.Response.Patch != nil {
		l.t.Fatalf("allowed %v, patch %s: %s; wanted a refusal that says %q", a.Response.Allowed, a.Response.Patch, a.Response.Status.Message, word)
	}
}

// allowed wants an image to pass.
func (l *lab) allowed(a answer) {
	l.t.Helper()
	if !a.Response.Allowed {
		l.t.Fatalf("refused: %s", a.Response.Status.Message)
	}
}

// loadRules reads the policy in a file.
func loadRules(file string, upstream *freshness.State, now func() time.Time) (*Rules, error) {
	text, err := policy.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return ParseRules(text, file, nil, upstream, now)
}
