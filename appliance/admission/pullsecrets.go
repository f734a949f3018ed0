package admission

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"sync"
	"time"

	"redoubt.internal/mirror/images"
)

// pullers say with which secrets the images of an object are pulled.
type pullers struct {
	namespace string
	secrets   []string // names
	account   string   // the service account, whose secrets count where the object names none
}

const (
	pullSecretType = "kubernetes.io/dockerconfigjson"
	pullSecretKey  = ".dockerconfigjson"
	rereadSecrets  = 30 * time.Second
	maxSources     = 256
)

// secretSources read a registry with the pull secrets of who asks: what a node may pull, the gate may look at.
type secretSources struct {
	kube   *kube
	access map[string]images.Access // by host
	now    func() time.Time

	mu   sync.Mutex
	held map[string]heldSource // by host, namespace and names
}

type heldSource struct {
	source *images.Source
	key    string
	until  time.Time
}

// source is how the image of ref is read for p, and a key of whose credentials that is with. Without secrets of the object's own it is read
// with the gate's.
func (g *Gate) source(ctx context.Context, ref images.Reference, p pullers) (*images.Source, string, error) {
	own := g.sources[ref.Host()]
	if g.secrets == nil || p.namespace == "" {
		return own, "", nil
	}
	s, key, err := g.secrets.find(ctx, ref.Host(), p)
	if err != nil {
		return nil, "", fmt.Errorf("%w: reading the pull secrets of namespace %s: %w", ErrUnanswered, p.namespace, err)
	}
	if s == nil {
		return own, "", nil
	}
	return s, key, nil
}

// find is nil where no secret has credentials for the host.
func (s *secretSources) find(ctx context.Context, host string, p pullers) (*images.Source, string, error) {
	where := fmt.Sprintf("%s\x00%s\x00%s\x00%q", host, p.namespace, p.account, p.secrets)
	s.mu.Lock()
	held, ok := s.held[where]
	s.mu.Unlock()
	if ok && s.now().Before(held.until) {
		return held.source, held.key, nil
	}
	names := p.secrets
	if len(names) == 0 {
		var err error
		if names, err = s.ofAccount(ctx, p); err != nil {
			return nil, "", err
		}
	}
	held = heldSource{until: s.now().Add(rereadSecrets)}
	for _, name := range names {
		text, err := s.read(ctx, p.namespace, name)
		if err != nil {
			return nil, "", err
		}
		if text == nil || !isFor(text, host) {
			continue
		}
		access := s.access[host]
		access.DockerConfig, access.DockerConfigJSON = "", text
		if held.source, err = images.OpenRegistry(access); err != nil {
			return nil, "", fmt.Errorf("secret %s: %w", name, err)
		}
		sum := sha256.Sum256(text)
		held.key = hex.EncodeToString(sum[:])
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.held) >= maxSources {
		clear(s.held)
	}
	s.held[where] = held
	return held.source, held.key, nil
}

// read is the text of a pull secret; nil where there is none of that name or it is another kind of secret, which a node passes over too.
func (s *secretSources) read(ctx context.Context, namespace, name string) ([]byte, error) {
	held, err := s.kube.getSecret(ctx, namespace, name)
	if errors.Is(err, fs.ErrNotExist) || err == nil && held.Type != pullSecretType {
		return nil, nil
	}
	return held.Data[pullSecretKey], err
}

// ofAccount are the pull secrets of the service account.
func (s *secretSources) ofAccount(ctx context.Context, p pullers) (names []string, err error) {
	account := p.account
	if account == "" {
		account = "default"
	}
	var held struct {
		ImagePullSecrets []struct {
			Name string `json:"name"`
		} `json:"imagePullSecrets"`
	}
	err = s.kube.do(ctx, http.MethodGet, "/api/v1/namespaces/"+url.PathEscape(p.namespace)+"/serviceaccounts/"+url.PathEscape(account), "", nil, &held)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	for _, n := range held.ImagePullSecrets {
		if n.Name != "" && len(names) < 8 {
			names = append(names, n.Name)
		}
	}
	return names, err
}

// isFor tells whether a pull secret is for the host, under its bare name or as a URL.
func isFor(text []byte, host string) bool {
	var file struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(text, &file) != nil {
		return false
	}
	for at := range file.Auths {
		if at == host {
			return true
		}
		if u, err := url.Parse(at); err == nil && u.Host == host {
			return true
		}
	}
	return false
}
