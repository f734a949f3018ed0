package admission

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.internal/ca/frontend"
)

// The webhook's certificates are made here, below roots that vouch for its names alone and that the API server trusts for it alone. Where
// there is a cluster the roots lie in a Secret, so that replicas share them, and the webhook configurations are kept to trust them; else in
// DIR/tls/authority.pem, and the operator carries DIR/tls/ca-bundle.pem.
//
// A root is followed by another long before it ends: at two thirds of its life the next one is made and trusted, and it signs only when the
// one before it is near its end. Leaves are made by each replica at its start and at two thirds of their life; their keys are in memory.

const (
	leafLife      = 30 * 24 * time.Hour
	rootReserve   = 365 * 24 * time.Hour // a root that ends sooner signs nothing
	authorityKey  = "authority.pem"
	secretType    = "Opaque"
	maxAuthority  = 64 << 10
	tlsPause      = time.Minute
	configuration = "/apis/admissionregistration.k8s.io/v1/"
)

// TLS is how the webhook shows itself.
type TLS struct {
	Names frontend.Names // what the API server calls it
	// Dir keeps the roots and the bundle of their certificates.
	Dir string
	// Namespace and Secret name the Secret in which replicas share the roots, Configuration the two webhook configurations. They count only
	// where there is a cluster.
	Namespace, Secret, Configuration string
}

// rootPair is a root with its key.
type rootPair struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// Certificates keeps the certificate that handshakes show.
type Certificates struct {
	t      TLS
	kube   *kube // nil: there is no cluster
	now    func() time.Time
	logger *slog.Logger

	mu    sync.Mutex // one renewal at a time
	shown atomic.Pointer[tls.Certificate]
	under atomic.Pointer[x509.Certificate] // the root of shown
}

// TLSConfig is that of the listener.
func (c *Certificates) TLSConfig() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		shown := c.shown.Load()
		if shown == nil || !c.now().Before(shown.Leaf.NotAfter) {
			return nil, errors.New("there is no certificate that is valid now")
		}
		return shown, nil
	}}
}

// Run renews what is due until ctx ends.
func (c *Certificates) Run(ctx context.Context) {
	every(ctx, tlsPause, func() {
		if err := c.Renew(ctx); err != nil {
			c.logger.Error("renewing the webhook's certificate", "error", err)
		}
	})
}

// every calls f at each pause until ctx ends.
func every(ctx context.Context, pause time.Duration, f func()) {
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			f()
		}
	}
}

// Renew makes what is missing or due: a root, its place in the webhook configurations, a certificate.
func (c *Certificates) Renew(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	roots, err := c.roots(ctx)
	if err != nil {
		return err
	}
	bundle := bundleOf(roots)
	if err := c.publish(ctx, bundle); err != nil {
		c.logger.Error("telling the API server whom to trust for the webhook", "error", err)
	}
	active := c.active(roots)
	shown, under := c.shown.Load(), c.under.Load()
	if shown != nil && under.Equal(active.cert) && c.now().Before(frontend.RenewAt(shown.Leaf)) {
		return nil
	}
	leaf, err := frontend.Issue(active.cert, active.key, c.t.Names, leafLife, c.now())
	if err != nil {
		return err
	}
	c.under.Store(active.cert)
	c.shown.Store(leaf)
	c.logger.Info("a new certificate of the webhook", "names", c.t.Names.String(), "until", leaf.Leaf.NotAfter)
	return nil
}

// active is the root that signs: the oldest that can.
func (c *Certificates) active(roots []rootPair) rootPair {
	for _, r := range roots {
		if c.fits(r) {
			return r
		}
	}
	return roots[len(roots)-1]
}

// fits tells whether a root may still sign, for the names of now.
func (c *Certificates) fits(r rootPair) bool {
	if r.cert.NotAfter.Sub(c.now()) < rootReserve {
		return false
	}
	_, err := frontend.Issue(r.cert, r.key, c.t.Names, frontend.MinLife, c.now())
	return err == nil
}

// roots are those that are held, and one that was missing or due.
func (c *Certificates) roots(ctx context.Context) ([]rootPair, error) {
	for range 5 {
		text, version, err := c.read(ctx)
		if err != nil {
			return nil, err
		}
		held, err := parseRoots(text, c.now())
		if err != nil {
			return nil, err
		}
		if n := len(held); n > 0 && c.now().Before(frontend.RenewAt(held[n-1].cert)) && c.fits(held[n-1]) {
			return held, nil
		}
		made, err := c.makeRoot()
		if err != nil {
			return nil, err
		}
		held = append(held, made)
		if text, err = encodeRoots(held); err != nil {
			return nil, err
		}
		err = c.write(ctx, text, version)
		if errors.Is(err, fs.ErrExist) {
			continue // another replica made one
		}
		return held, err
	}
	return nil, fmt.Errorf("%w: the secret with the webhook's roots changes all the time", ErrCluster)
}

func (c *Certificates) makeRoot() (rootPair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return rootPair{}, err
	}
	cert, err := frontend.Root(key, "redoubt admission", c.t.Names, c.now())
	return rootPair{cert, key}, err
}

func (c *Certificates) file(name string) string { return filepath.Join(c.t.Dir, name) }

// read is the text of the roots and the version of the secret it stands in; none of both where nothing is held.
func (c *Certificates) read(ctx context.Context) (text []byte, version string, err error) {
	if c.kube == nil {
		text, err = os.ReadFile(c.file(authorityKey))
	} else {
		var s secret
		s, err = c.kube.getSecret(ctx, c.t.Namespace, c.t.Secret)
		text, version = s.Data[authorityKey], s.Metadata.ResourceVersion
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil
	}
	return text, version, err
}

func (c *Certificates) write(ctx context.Context, text []byte, version string) error {
	if c.kube == nil {
		return writeDurably(c.file(authorityKey), text)
	}
	return c.kube.putSecret(ctx, secret{"v1", "Secret", objectMeta{Name: c.t.Secret, Namespace: c.t.Namespace, ResourceVersion: version}, secretType, map[string][]byte{authorityKey: text}})
}

// publish makes the bundle known: as a file, and in the webhook configurations.
func (c *Certificates) publish(ctx context.Context, bundle []byte) error {
	file := c.file("ca-bundle.pem")
	if held, err := os.ReadFile(file); err != nil || !bytes.Equal(held, bundle) {
		if err := writeDurably(file, bundle); err != nil {
			return err
		}
	}
	if c.kube == nil {
		return nil
	}
	var all error
	for _, kind := range []string{"mutatingwebhookconfigurations", "validatingwebhookconfigurations"} {
		all = errors.Join(all, c.trustIn(ctx, configuration+kind+"/"+c.t.Configuration, bundle))
	}
	return all
}

// trustIn puts the bundle into a webhook configuration. One that is not there needs none.
func (c *Certificates) trustIn(ctx context.Context, path string, bundle []byte) error {
	var held struct {
		Webhooks []struct {
			Name         string `json:"name"`
			ClientConfig struct {
				CABundle []byte `json:"caBundle"`
			} `json:"clientConfig"`
		} `json:"webhooks"`
	}
	err := c.kube.do(ctx, http.MethodGet, path, "", nil, &held)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var ops []map[string]any
	for i, w := range held.Webhooks {
		if !bytes.Equal(w.ClientConfig.CABundle, bundle) {
			ops = append(ops, map[string]any{"op": "test", "path": fmt.Sprintf("/webhooks/%d/name", i), "value": w.Name},
				map[string]any{"op": "add", "path": fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), "value": bundle})
		}
	}
	if ops == nil {
		return nil
	}
	return c.kube.do(ctx, http.MethodPatch, path, "application/json-patch+json", ops, nil)
}

// encodeRoots writes roots and keys by turns, the oldest first.
func encodeRoots(roots []rootPair) ([]byte, error) {
	var out bytes.Buffer
	for _, r := range roots {
		der, err := x509.MarshalPKCS8PrivateKey(r.key)
		if err != nil {
			return nil, err
		}
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})
		pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	}
	return out.Bytes(), nil
}

func bundleOf(roots []rootPair) []byte {
	var out bytes.Buffer
	for _, r := range roots {
		pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: r.cert.Raw})
	}
	return out.Bytes()
}

// parseRoots reads what encodeRoots wrote, without those that ended.
func parseRoots(text []byte, now time.Time) (roots []rootPair, err error) {
	bad := func(err error) ([]rootPair, error) {
		return nil, fmt.Errorf("reading the webhook's roots: %w; remove %s for new ones", err, authorityKey)
	}
	if len(text) > maxAuthority {
		return bad(fmt.Errorf("%d bytes, at most %d", len(text), maxAuthority))
	}
	for len(bytes.TrimSpace(text)) > 0 {
		var blocks [2]*pem.Block
		for i, want := range []string{"CERTIFICATE", "PRIVATE KEY"} {
			if blocks[i], text = pem.Decode(text); blocks[i] == nil || blocks[i].Type != want {
				return bad(fmt.Errorf("a %s is expected", want))
			}
		}
		cert, err := x509.ParseCertificate(blocks[0].Bytes)
		if err != nil {
			return bad(err)
		}
		key, err := x509.ParsePKCS8PrivateKey(blocks[1].Bytes)
		if err != nil {
			return bad(err)
		}
		own, ok := key.(*ecdsa.PrivateKey)
		if !ok || !own.PublicKey.Equal(cert.PublicKey) {
			return bad(errors.New("a key is not that of its certificate"))
		}
		if now.Before(cert.NotAfter) {
			roots = append(roots, rootPair{cert, own})
		}
	}
	return roots, nil
}
