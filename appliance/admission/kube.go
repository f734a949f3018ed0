package admission

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// Cluster is how the API server is reached. In a pod: InCluster.
type Cluster struct {
	URL       string // https://HOST:PORT
	CAFile    string // PEM
	TokenFile string // read for each request: Kubernetes renews it
	// What a kubeconfig may hold in place of files.
	CA     []byte           // PEM
	Token  string           // bearer token
	Client *tls.Certificate // who asks
}

// ErrCluster says that the API server did not do what it was asked.
var ErrCluster = errors.New("the API server did not do it")

// maxKube is the longest answer that is read.
const maxKube = 4 << 20

const kubeTimeout = 10 * time.Second

const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount/"

// InCluster is how a pod reaches its API server; ok is false outside one.
func InCluster() (c Cluster, ok bool) {
	host, port := os.Getenv("KUBERNETES_SERVICE_HOST"), os.Getenv("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return c, false
	}
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return Cluster{URL: "https://" + host + ":" + port, CAFile: serviceAccount + "ca.crt", TokenFile: serviceAccount + "token"}, true
}

// kube asks the API server the few things a gate needs of it.
type kube struct {
	c      Cluster
	client *http.Client
}

func openKube(c Cluster) (*kube, error) {
	u, err := url.Parse(c.URL)
	if err != nil || u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return nil, fmt.Errorf("%w: the API server is at %.200q; https://HOST:PORT is expected", ErrConfig, c.URL)
	}
	pem := c.CA
	if pem == nil {
		if pem, err = os.ReadFile(c.CAFile); err != nil {
			return nil, fmt.Errorf("%w: the API server's authority: %w", ErrConfig, err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%w: %s holds no certificate", ErrConfig, c.CAFile)
	}
	config := &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
	if c.Client != nil {
		config.Certificates = []tls.Certificate{*c.Client}
	}
	c.URL = "https://" + u.Host
	return &kube{c, &http.Client{
		Timeout:       kubeTimeout,
		Transport:     &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true, IdleConnTimeout: time.Minute},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// do sends one request and decodes the answer into out, if that is not nil. What is not there is fs.ErrNotExist, what is there already
// fs.ErrExist.
func (k *kube) do(ctx context.Context, method, path, contentType string, body, out any) error {
	var content io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return err
		}
		content = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, k.c.URL+path, content)
	if err != nil {
		return err
	}
	token := k.c.Token
	if k.c.TokenFile != "" {
		text, err := os.ReadFile(k.c.TokenFile)
		if err != nil {
			return fmt.Errorf("%w: its token: %w", ErrCluster, err)
		}
		token = strings.TrimSpace(string(text))
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	q.Header.Set("Accept", "application/json")
	if contentType != "" {
		q.Header.Set("Content-Type", contentType)
	}
	res, err := k.client.Do(q)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrCluster, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, maxKube))
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s %s: %w", ErrCluster, method, path, err)
	case res.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%w: %s: %w", ErrCluster, path, fs.ErrNotExist)
	case res.StatusCode == http.StatusConflict:
		return fmt.Errorf("%w: %s: %w", ErrCluster, path, fs.ErrExist)
	case res.StatusCode/100 != 2:
		return fmt.Errorf("%w: %s %s: %s", ErrCluster, method, path, res.Status)
	case out == nil:
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return fmt.Errorf("%w: %s %s: %w", ErrCluster, method, path, err)
	}
	return nil
}

// secret is what of a Secret is used here.
type secret struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   objectMeta        `json:"metadata"`
	Type       string            `json:"type,omitempty"`
	Data       map[string][]byte `json:"data,omitempty"`
}

type objectMeta struct {
	Name            string            `json:"name,omitempty"`
	GenerateName    string            `json:"generateName,omitempty"`
	Namespace       string            `json:"namespace,omitempty"`
	ResourceVersion string            `json:"resourceVersion,omitempty"`
	Labels          map[string]string `json:"labels,omitempty"`
}

func secretPath(namespace, name string) string {
	return "/api/v1/namespaces/" + url.PathEscape(namespace) + "/secrets/" + url.PathEscape(name)
}

func (k *kube) getSecret(ctx context.Context, namespace, name string) (s secret, err error) {
	err = k.do(ctx, http.MethodGet, secretPath(namespace, name), "", nil, &s)
	return s, err
}

// putSecret creates a secret, or replaces the one of that resource version; fs.ErrExist says that somebody else was faster.
func (k *kube) putSecret(ctx context.Context, s secret) error {
	method, path := http.MethodPut, secretPath(s.Metadata.Namespace, s.Metadata.Name)
	if s.Metadata.ResourceVersion == "" {
		method, path = http.MethodPost, "/api/v1/namespaces/"+url.PathEscape(s.Metadata.Namespace)+"/secrets"
	}
	return k.do(ctx, method, path, "application/json", s, nil)
}
