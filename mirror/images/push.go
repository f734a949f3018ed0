package images

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"

	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Pushed says what a push did.
type Pushed struct {
	Repository string   `json:"repository"` // HOST/NAME
	Artifacts  []string `json:"artifacts"`  // digests of what vouches for the image and is there now
	Absent     []string `json:"absent"`     // digests of the image's own manifests that are not there; what vouches for these was passed over
}

// Push puts what vouches for an image into a registry, where the image itself has been pushed another way: its layers are not here. to
// names the repository; its tag and digest say nothing. read returns a file by digest. fs.ErrNotExist says that the image is not there.
func Push(ctx context.Context, a Access, to Reference, i Image, read func(digest string) ([]byte, error)) (Pushed, error) {
	out := Pushed{Repository: to.Host() + "/" + to.Repository(), Artifacts: []string{}, Absent: []string{}}
	r, err := openRegistry(a)
	if err != nil {
		return out, err
	}
	p := pushing{r: r, to: to, read: read}
	if p.client, err = r.client(ctx, r.host.Repo(to.Repository()).Scope(transport.PushScope)); err != nil {
		return out, err
	}
	absent := make(map[string]bool)
	for _, artifact := range i.Artifacts {
		if artifact.Kind == KindImage {
			there, err := p.has(ctx, "manifests", artifact.Digest)
			if err != nil {
				return out, err
			}
			if !there && artifact.Digest == i.Digest {
				return out, fmt.Errorf("%s@%s: %w", out.Repository, i.Digest, fs.ErrNotExist)
			}
			if !there {
				absent[artifact.Digest] = true
				out.Absent = append(out.Absent, artifact.Digest)
			}
			continue
		}
		if absent[artifact.Subject] {
			absent[artifact.Digest] = true
			continue
		}
		if err := p.artifact(ctx, artifact); err != nil {
			return out, fmt.Errorf("pushing %s: %w", artifact.Digest, err)
		}
		out.Artifacts = append(out.Artifacts, artifact.Digest)
	}
	return out, nil
}

type pushing struct {
	r      *registry
	to     Reference
	read   func(digest string) ([]byte, error)
	client *http.Client
}

// do sends a request to a path of the registry, or to where it sent us, and wants one of the statuses.
func (p *pushing) do(ctx context.Context, method, target, mediaType string, body []byte, want ...int) (*http.Response, []byte, error) {
	if strings.HasPrefix(target, "/") {
		target = p.r.host.Scheme() + "://" + p.r.host.RegistryStr() + target
	}
	q, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %v", ErrAnswer, err)
	}
	if mediaType != "" {
		q.Header.Set("Content-Type", mediaType)
	}
	q.Header.Set("Accept", acceptManifests)
	res, err := p.client.Do(q)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrAnswer, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, MaxManifest+1))
	if err != nil || len(b) > MaxManifest {
		return nil, nil, fmt.Errorf("%w: %s %s: %v", ErrAnswer, method, q.URL.Path, err)
	}
	for _, w := range want {
		if res.StatusCode == w {
			return res, b, nil
		}
	}
	return nil, nil, fmt.Errorf("%w: %s %s: %s: %.200q", ErrAnswer, method, q.URL.Path, res.Status, b)
}

func (p *pushing) has(ctx context.Context, kind, digest string) (bool, error) {
	res, _, err := p.do(ctx, http.MethodHead, p.r.url(p.to, kind, digest), "", nil, http.StatusOK, http.StatusNotFound)
	return err == nil && res.StatusCode == http.StatusOK, err
}

// artifact pushes blobs, then the manifest by its digest and, if it was found under one, its tag.
func (p *pushing) artifact(ctx context.Context, a Artifact) error {
	for _, b := range a.Blobs {
		if err := p.blob(ctx, b.Digest); err != nil {
			return fmt.Errorf("blob %s: %w", b.Digest, err)
		}
	}
	m, err := p.read(a.Digest)
	if err != nil {
		return err
	}
	d, err := readDocument(m)
	if err != nil {
		return err
	}
	res, _, err := p.do(ctx, http.MethodPut, p.r.url(p.to, "manifests", a.Digest), a.MediaType, m, http.StatusCreated, http.StatusOK)
	if err != nil {
		return err
	}
	if a.Tag != "" {
		if _, _, err := p.do(ctx, http.MethodPut, p.r.url(p.to, "manifests", a.Tag), a.MediaType, m, http.StatusCreated, http.StatusOK); err != nil {
			return err
		}
	}
	if d.subject == nil || res.Header.Get("OCI-Subject") != "" {
		return nil
	}
	if _, err := p.r.listed(ctx, p.to, d.subject.Digest.String()); !errors.Is(err, fs.ErrNotExist) { // it lists referrers and does not say so
		return err
	}
	return p.list(ctx, a, d)
}

func (p *pushing) blob(ctx context.Context, digest string) error {
	if there, err := p.has(ctx, "blobs", digest); err != nil || there {
		return err
	}
	b, err := p.read(digest)
	if err != nil {
		return err
	}
	res, _, err := p.do(ctx, http.MethodPost, p.r.url(p.to, "blobs", "uploads/"), "", nil, http.StatusAccepted)
	if err != nil {
		return err
	}
	at, err := res.Location()
	if err != nil {
		return fmt.Errorf("%w: no place for an upload: %v", ErrAnswer, err)
	}
	query := at.Query()
	query.Set("digest", digest)
	at.RawQuery = query.Encode()
	_, _, err = p.do(ctx, http.MethodPut, at.String(), "application/octet-stream", b, http.StatusCreated)
	return err
}

// listing is an index as the referrers tag schema has it (OCI distribution specification 1.1).
type listing struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType"`
	Manifests     []json.RawMessage `json:"manifests"`
}

// list adds a referrer to the tag that stands in for the API a registry does not have.
func (p *pushing) list(ctx context.Context, a Artifact, d document) error {
	at := p.r.url(p.to, "manifests", strings.Replace(d.subject.Digest.String(), ":", "-", 1))
	res, b, err := p.do(ctx, http.MethodGet, at, "", nil, http.StatusOK, http.StatusNotFound)
	if err != nil {
		return err
	}
	l := listing{SchemaVersion: 2, MediaType: indexType}
	if res.StatusCode == http.StatusOK {
		held, err := readList(b)
		if err == nil {
			err = json.Unmarshal(b, &l)
		}
		if err != nil {
			return fmt.Errorf("%w: its list of referrers: %w", ErrAnswer, err)
		}
		for _, h := range held {
			if h.Digest.String() == a.Digest {
				return nil
			}
		}
	}
	kind := d.artifactType
	if kind == "" && d.config != nil {
		kind = string(d.config.MediaType)
	}
	one, err := json.Marshal(map[string]any{"mediaType": a.MediaType, "digest": a.Digest, "size": a.Size, "artifactType": kind})
	if err != nil {
		return err
	}
	l.Manifests = append(l.Manifests, one)
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, _, err = p.do(ctx, http.MethodPut, at, indexType, text, http.StatusCreated, http.StatusOK)
	return err
}
