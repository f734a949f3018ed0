package images

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	dockerconfig "github.com/docker/cli/cli/config"
	"github.com/docker/cli/cli/config/configfile"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"

	"redoubt.internal/log/strictjson"
)

// Access says which registry is read, and how.
type Access struct {
	// Host is the registry: host or host:port.
	Host string
	// Also are other hosts it may send us to: its token server, the store of its blobs.
	Also []string
	// PlainHTTP allows http. To a loopback address it is always allowed.
	PlainHTTP bool
	// DockerConfig is a folder with docker's config.json, whose credentials for the host, or the helper that has them, are used; empty
	// reads without credentials.
	DockerConfig string
	// DockerConfigJSON is the text of such a config.json, as a pull secret holds it, in place of DockerConfig. No helper is asked for it.
	DockerConfigJSON []byte
	// Transport carries the requests; nil is http.DefaultTransport.
	Transport http.RoundTripper
}

// registry reads one registry over HTTP (OCI distribution specification 1.1).
type registry struct {
	host   name.Registry
	auth   authn.Authenticator
	fence  *fence
	mu     sync.Mutex
	logins map[string]http.RoundTripper // by scope
}

// Longest lists of referrers that are read.
const maxPages = 16

// acceptManifests are the media types that are read.
const acceptManifests = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, " +
	"application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json"

const indexType = "application/vnd.oci.image.index.v1+json"

// OpenRegistry returns the registry that a describes. It asks nothing.
func OpenRegistry(a Access) (*Source, error) {
	r, err := openRegistry(a)
	if err != nil {
		return nil, err
	}
	return &Source{
		manifest: func(ctx context.Context, ref Reference, at string) ([]byte, error) {
			return r.get(ctx, ref, r.url(ref, "manifests", at), acceptManifests, MaxManifest, nil)
		},
		blob: func(ctx context.Context, ref Reference, digest string, size int64) ([]byte, error) {
			return r.get(ctx, ref, r.url(ref, "blobs", digest), "", size, nil)
		},
		referrers: r.referrers,
		names:     r.names,
		hosts:     append([]string{a.Host}, a.Also...),
	}, nil
}

func openRegistry(a Access) (*registry, error) {
	var opts []name.Option
	if a.PlainHTTP {
		opts = append(opts, name.Insecure)
	}
	host, err := name.NewRegistry(a.Host, opts...)
	if err != nil || a.Host == "" {
		return nil, fmt.Errorf("%w: registry %.100q; HOST or HOST:PORT is needed", ErrReference, a.Host)
	}
	r := &registry{host: host, auth: authn.Anonymous, logins: make(map[string]http.RoundTripper)}
	r.fence = &fence{inner: a.Transport, hosts: map[string]bool{host.RegistryStr(): true}, plain: a.PlainHTTP}
	if a.Transport == nil {
		r.fence.inner = http.DefaultTransport
	}
	for _, h := range a.Also {
		r.fence.hosts[h] = true
	}
	switch {
	case a.DockerConfigJSON != nil:
		r.auth, err = givenCredentials(a.DockerConfigJSON, host.RegistryStr())
	case a.DockerConfig != "":
		r.auth, err = credentials(a.DockerConfig, host.RegistryStr())
	}
	if err != nil {
		return nil, fmt.Errorf("reading the credentials for %s: %w", host.RegistryStr(), err)
	}
	return r, nil
}

// givenCredentials are those that the text of a config.json has for a host. It may name no helper: whoever wrote it does not say what runs here.
func givenCredentials(text []byte, host string) (authn.Authenticator, error) {
	if err := strictjson.Check(text, strictjson.Limits{Bytes: 1 << 20, Depth: 8}); err != nil {
		return nil, err
	}
	file, err := dockerconfig.LoadFromReader(bytes.NewReader(text))
	if err != nil {
		return nil, err
	}
	file.CredentialsStore, file.CredentialHelpers = "", nil
	return credentialsIn(file, host)
}

// credentials are those that docker's config.json in dir has for a host. Without any the registry is read as anybody may.
func credentials(dir, host string) (authn.Authenticator, error) {
	if _, err := os.Stat(filepath.Join(dir, dockerconfig.ConfigFileName)); err != nil {
		return nil, err
	}
	file, err := dockerconfig.Load(dir)
	if err != nil {
		return nil, err
	}
	return credentialsIn(file, host)
}

func credentialsIn(file *configfile.ConfigFile, host string) (authn.Authenticator, error) {
	if host == name.DefaultRegistry {
		host = authn.DefaultAuthKey
	}
	c, err := file.GetAuthConfig(host)
	if err != nil {
		return nil, err
	}
	if c.Username+c.Password+c.Auth+c.IdentityToken+c.RegistryToken == "" {
		return authn.Anonymous, nil
	}
	return authn.FromConfig(authn.AuthConfig{Username: c.Username, Password: c.Password, Auth: c.Auth, IdentityToken: c.IdentityToken, RegistryToken: c.RegistryToken}), nil
}

// fence lets nothing pass but requests to the hosts that were named, by https.
type fence struct {
	inner http.RoundTripper
	hosts map[string]bool
	plain bool
}

// RoundTrip refuses with ErrHost.
func (f *fence) RoundTrip(q *http.Request) (*http.Response, error) {
	if !f.hosts[q.URL.Host] && !f.hosts[strings.TrimSuffix(q.URL.Host, ":443")] {
		return nil, fmt.Errorf("%w: host %.100q", ErrHost, q.URL.Host)
	}
	if q.URL.Scheme != "https" && !f.plain && !loopback(q.URL.Hostname()) {
		return nil, fmt.Errorf("%w: %.20q at %.100q", ErrHost, q.URL.Scheme, q.URL.Host)
	}
	return f.inner.RoundTrip(q)
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// client answers for the credentials and follows redirects within the fence.
func (r *registry) client(ctx context.Context, scope string) (*http.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.logins[scope]
	if t == nil {
		var err error
		t, err = transport.NewWithContext(ctx, r.host, r.auth, r.fence, []string{scope})
		if err != nil {
			return nil, fmt.Errorf("%w: logging in to %s: %w", ErrAnswer, r.host.RegistryStr(), err)
		}
		r.logins[scope] = t
	}
	return &http.Client{Transport: t, CheckRedirect: func(_ *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return fmt.Errorf("%w: more than three redirects", ErrAnswer)
		}
		return nil
	}}, nil
}

func (r *registry) url(ref Reference, kind, at string) string {
	return "/v2/" + ref.Repository() + "/" + kind + "/" + at
}

// get reads an answer of at most limit bytes; head, if it is not nil, takes its header.
func (r *registry) get(ctx context.Context, ref Reference, path, accept string, limit int64, head *http.Header) ([]byte, error) {
	if ref.Host() != r.host.RegistryStr() {
		return nil, fmt.Errorf("%w: %s is not at %s", ErrReference, ref, r.host.RegistryStr())
	}
	return r.answer(ctx, r.host.Repo(ref.Repository()).Scope(transport.PullScope), path, accept, limit, head)
}

// answer is get for what a scope gives access to.
func (r *registry) answer(ctx context.Context, scope, path, accept string, limit int64, head *http.Header) ([]byte, error) {
	client, err := r.client(ctx, scope)
	if err != nil {
		return nil, err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, r.host.Scheme()+"://"+r.host.RegistryStr()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrAnswer, err)
	}
	if accept != "" {
		q.Header.Set("Accept", accept)
	}
	res, err := client.Do(q)
	if err != nil {
		if ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrAnswer, err)
		}
		return nil, err
	}
	defer res.Body.Close()
	switch res.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	default:
		return nil, fmt.Errorf("%w: %s: %s", ErrAnswer, path, res.Status)
	}
	if head != nil {
		*head = res.Header
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %w", ErrAnswer, path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrLimit, path, limit)
	}
	return b, nil
}

// referrers asks the API of OCI 1.1 and reads the tag that stands in for it where a registry has none, or had none when the artifact was
// pushed. A registry whose API is somewhere else is one without.
func (r *registry) referrers(ctx context.Context, ref Reference, digest string) (list []v1.Descriptor, note string, err error) {
	list, err = r.listed(ctx, ref, digest)
	switch {
	case errors.Is(err, ErrHost):
		note, err = "its list of referrers lies at a place that is not named; the tag was read instead", nil
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return nil, "", err
	}
	b, err := r.get(ctx, ref, r.url(ref, "manifests", strings.Replace(digest, ":", "-", 1)), indexType, MaxManifest, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return list, note, nil
	}
	if err != nil {
		return nil, "", err
	}
	more, err := readList(b)
	return append(list, more...), note, err
}

// listed asks the API, page after page. fs.ErrNotExist says that there is none.
func (r *registry) listed(ctx context.Context, ref Reference, digest string) (list []v1.Descriptor, err error) {
	path := r.url(ref, "referrers", digest)
	for range maxPages {
		var head http.Header
		b, err := r.get(ctx, ref, path, indexType, MaxManifest, &head)
		if err != nil {
			return nil, err
		}
		if t, _, _ := mime.ParseMediaType(head.Get("Content-Type")); t != indexType {
			return nil, fs.ErrNotExist
		}
		page, err := readList(b)
		if err != nil {
			return nil, err
		}
		if list = append(list, page...); len(list) > MaxArtifacts {
			return nil, fmt.Errorf("%w: %d referrers of %s, at most %d", ErrLimit, len(list), digest, MaxArtifacts)
		}
		next := nextPage(head.Values("Link"))
		if next == "" {
			return list, nil
		}
		if path, err = r.within(ref, path, next); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the referrers of %s on more than %d pages", ErrLimit, digest, maxPages)
}

// within is a page of the repository that the page at path names.
func (r *registry) within(ref Reference, path, next string) (string, error) {
	base, err := url.Parse(r.host.Scheme() + "://" + r.host.RegistryStr() + path)
	if err != nil {
		return "", fmt.Errorf("%w: %v", ErrAnswer, err)
	}
	u, err := base.Parse(next)
	if err != nil || u.Host != base.Host || !strings.HasPrefix(u.Path, "/v2/"+ref.Repository()+"/referrers/") {
		return "", fmt.Errorf("%w: the next page of referrers is %.200q", ErrAnswer, next)
	}
	return u.RequestURI(), nil
}

// nextPage is the target of the link with rel="next" (RFC 8288), empty when there is none.
func nextPage(links []string) string {
	for _, l := range links {
		target, params, ok := strings.Cut(l, ">")
		if strings.HasPrefix(target, "<") && ok && slices.Contains([]string{`rel="next"`, "rel=next"}, strings.TrimSpace(strings.TrimPrefix(strings.TrimSpace(params), ";"))) {
			return target[1:]
		}
	}
	return ""
}

func readList(b []byte) ([]v1.Descriptor, error) {
	d, err := readDocument(b)
	if err == nil && !d.index {
		err = fmt.Errorf("%w: a list of referrers that is no index", ErrAnswer)
	}
	if err == nil && len(d.manifests) > MaxArtifacts {
		err = fmt.Errorf("%w: %d referrers, at most %d", ErrLimit, len(d.manifests), MaxArtifacts)
	}
	return d.manifests, err
}
