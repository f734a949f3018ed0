package policy

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"redoubt.internal/appliance/verify/verifytest"
	"redoubt.internal/mirror/images"
)

const (
	ociManifest = "application/vnd.oci.image.manifest.v1+json"
	ociIndex    = "application/vnd.oci.image.index.v1+json"
	bundleMedia = "application/vnd.dev.sigstore.bundle.v0.3+json"
)

// store is what a registry or a layout holds: blobs, and manifests by the names they have.
type store struct {
	t         testing.TB
	blobs     map[string][]byte
	manifests []stored
}

type stored struct {
	tag, digest string
	body        []byte
}

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int64             `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func newStore(t testing.TB) *store { return &store{t: t, blobs: map[string][]byte{}} }

func (s *store) blob(mediaType string, b []byte, annotations map[string]string) descriptor {
	s.blobs[images.DigestOf(b)] = b
	return descriptor{mediaType, images.DigestOf(b), int64(len(b)), annotations}
}

// put keeps a manifest of one config and these layers, under a tag where there is one.
func (s *store) put(tag string, more map[string]any, layers ...descriptor) descriptor {
	s.t.Helper()
	m := map[string]any{"schemaVersion": 2, "mediaType": ociManifest, "config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{}"), nil), "layers": append([]descriptor{}, layers...)}
	for k, v := range more {
		m[k] = v
	}
	body, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.blobs[images.DigestOf(body)] = body
	s.manifests = append(s.manifests, stored{tag, images.DigestOf(body), body})
	return descriptor{ociManifest, images.DigestOf(body), int64(len(body)), nil}
}

func tagOf(d descriptor, suffix string) string {
	return strings.Replace(d.Digest, ":", "-", 1) + suffix
}

// attach stores a bundle as OCI 1.1 keeps it: a manifest whose subject is the image.
func (s *store) attach(image descriptor, bundle []byte) {
	s.put("", map[string]any{"subject": image, "artifactType": bundleMedia}, s.blob(bundleMedia, bundle, nil))
}

// layout writes everything as an OCI layout.
func (s *store) layout() string {
	s.t.Helper()
	dir := s.t.TempDir()
	for name, b := range s.files() {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			s.t.Fatal(err)
		}
		if err := os.WriteFile(file, b, 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	return dir
}

func (s *store) files() map[string][]byte {
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	for digest, b := range s.blobs {
		files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] = b
	}
	list := []descriptor{}
	for _, m := range s.manifests {
		d := descriptor{ociManifest, m.digest, int64(len(m.body)), nil}
		if m.tag != "" {
			d.Annotations = map[string]string{"org.opencontainers.image.ref.name": m.tag}
		}
		list = append(list, d)
	}
	index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": ociIndex, "manifests": list})
	if err != nil {
		s.t.Fatal(err)
	}
	files["index.json"] = index
	return files
}

// archive writes everything as the tar of a layout.
func (s *store) archive() string {
	s.t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for name, b := range s.files() {
		if err := errors.Join(w.WriteHeader(&tar.Header{Name: name, Size: int64(len(b)), Mode: 0o600, Typeflag: tar.TypeReg})); err != nil {
			s.t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			s.t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		s.t.Fatal(err)
	}
	file := filepath.Join(s.t.TempDir(), "image.tar")
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// push serves everything from a registry, as team/app, and returns its host.
func (s *store) push(options ...registry.Option) string {
	s.t.Helper()
	server := httptest.NewServer(registry.New(append(options, registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))...))
	s.t.Cleanup(server.Close)
	send := func(method, path, mediaType string, b []byte) {
		q, err := http.NewRequest(method, server.URL+path, bytes.NewReader(b))
		if err != nil {
			s.t.Fatal(err)
		}
		q.Header.Set("Content-Type", mediaType)
		res, err := server.Client().Do(q)
		if err != nil {
			s.t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode/100 != 2 {
			s.t.Fatalf("%s %s: %s", method, path, res.Status)
		}
	}
	for digest, b := range s.blobs {
		send(http.MethodPost, "/v2/team/app/blobs/uploads/?digest="+digest, "application/octet-stream", b)
	}
	for _, m := range s.manifests {
		at := m.tag
		if at == "" {
			at = m.digest
		}
		send(http.MethodPut, "/v2/team/app/manifests/"+at, ociManifest, m.body)
	}
	return strings.TrimPrefix(server.URL, "http://")
}

// annotate is what cosign writes beside a layer that it signed: p's signature, certificate and entry.
func annotate(t testing.TB, p verifytest.Parts, signature bool) map[string]string {
	t.Helper()
	var e struct {
		LogIndex       string
		LogID          struct{ KeyID []byte }
		IntegratedTime string
		Promise        struct{ SignedEntryTimestamp []byte } `json:"inclusionPromise"`
		Body           []byte                                `json:"canonicalizedBody"`
	}
	if err := json.Unmarshal(verifytest.Encode(t, p.Entries[0]), &e); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{
		"dev.sigstore.cosign/certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Signer.Cert.Raw})),
		"dev.sigstore.cosign/bundle": fmt.Sprintf(`{"SignedEntryTimestamp":%q,"Payload":{"body":%q,"integratedTime":%s,"logIndex":%s,"logID":"%x"}}`,
			base64.StdEncoding.EncodeToString(e.Promise.SignedEntryTimestamp), base64.StdEncoding.EncodeToString(e.Body), e.IntegratedTime, e.LogIndex, e.LogID.KeyID),
	}
	if signature {
		out["dev.cosignproject.cosign/signature"] = base64.StdEncoding.EncodeToString(p.Signature)
	}
	return out
}

func simpleSigning(digest string) string {
	return fmt.Sprintf(`{"critical":{"identity":{"docker-reference":%q},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, image, digest)
}

// statementOf attests a predicate of a manifest.
func statementOf(predicateType, predicate string, d descriptor) []byte {
	return fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","predicate":%s,"predicateType":%q,"subject":[{"digest":{"sha256":%q},"name":"app"}]}`, predicate, predicateType, strings.TrimPrefix(d.Digest, "sha256:"))
}

// TestGather finds what vouches for an image in every form and place it is kept, and judges it.
func TestGather(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules:\n- {name: any, images: ['**'], signatures: {by: [us]}}\n")
	forms := map[string]func(*store, descriptor){
		"referrer": func(s *store, i descriptor) {
			s.attach(i, b.own.AttestPayload("", statementOf(cosignSign, "{}", i)).Bundle(t))
		},
		"simple signing under a tag": func(s *store, i descriptor) {
			payload := simpleSigning(i.Digest)
			s.put(tagOf(i, ".sig"), nil, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(payload), annotate(t, b.own.SignMessage(1, payload), true)))
		},
	}
	for form, sign := range forms {
		s := newStore(t)
		i := s.put("v1", nil)
		sign(s, i)
		at, digest := s.push(registry.WithReferrersSupport(true)), i.Digest
		tagged := s.push() // a registry without the referrers API
		open := map[string]func() (*images.Source, []images.Reference, error){
			"layout":  func() (*images.Source, []images.Reference, error) { return images.OpenLayout(s.layout()) },
			"archive": func() (*images.Source, []images.Reference, error) { return images.OpenArchive(s.archive()) },
			"registry": func() (*images.Source, []images.Reference, error) {
				return openAt(at, "/team/app:v1")
			},
			"registry by digest": func() (*images.Source, []images.Reference, error) { return openAt(at, "/team/app@"+digest) },
		}
		if form != "referrer" {
			open["registry of OCI 1.0"] = func() (*images.Source, []images.Reference, error) { return openAt(tagged, "/team/app:v1") }
		}
		for place, open := range open {
			t.Run(form+" in a "+place, func(t *testing.T) {
				source, refs, err := open()
				if err != nil || len(refs) != 1 {
					t.Fatal(refs, err)
				}
				defer source.Close()
				g, err := Gather(context.Background(), source, refs[0], "")
				if err != nil {
					t.Fatal(err)
				}
				if d := p.Decide(context.Background(), g.Artifact, g.Evidence...); !d.Allow || d.Artifact != digest || len(d.Results) != 1 {
					t.Fatalf("%+v\n%+v", d, g)
				}
			})
		}
	}
}

func openAt(host, path string) (*images.Source, []images.Reference, error) {
	source, err := images.OpenRegistry(images.Access{Host: host})
	if err != nil {
		return nil, nil, err
	}
	ref, err := images.ParseReference(host + path)
	return source, []images.Reference{ref}, err
}

// TestGatherHostile: simple signing that is over another image, or signed by nobody, and a registry that lists more than anybody could want.
func TestGatherHostile(t *testing.T) {
	b := newBench(t)
	p := b.policy("rules:\n- {name: any, images: ['**'], signatures: {by: [us]}}\n")
	judge := func(s *store, i descriptor) Decision {
		t.Helper()
		source, refs, err := openAt(s.push(registry.WithReferrersSupport(true)), "/team/app@"+i.Digest)
		if err != nil {
			t.Fatal(err)
		}
		g, err := Gather(context.Background(), source, refs[0], "")
		if err != nil {
			return Decision{Reasons: []string{err.Error()}}
		}
		return p.Decide(context.Background(), g.Artifact, g.Evidence...)
	}
	other := digestOf("another image")
	tests := []struct {
		name  string
		build func(*store, descriptor)
		want  string
	}{
		{"over another image", func(s *store, i descriptor) {
			payload := simpleSigning(other)
			s.put(tagOf(i, ".sig"), nil, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(payload), annotate(t, b.own.SignMessage(1, payload), true)))
		}, "what is signed names the image"},
		{"payload and signature of two", func(s *store, i descriptor) {
			s.put(tagOf(i, ".sig"), nil, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(simpleSigning(i.Digest)), annotate(t, b.own.SignMessage(1, simpleSigning(other)), true)))
		}, "signature or digest mismatch"},
		{"two digests in one payload", func(s *store, i descriptor) {
			payload := strings.Replace(simpleSigning(other), `"type"`, fmt.Sprintf(`"Image":{"docker-manifest-digest":%q},"type"`, i.Digest), 1)
			s.put(tagOf(i, ".sig"), nil, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(payload), annotate(t, b.own.SignMessage(1, payload), true)))
		}, "duplicate name"},
		{"no annotations", func(s *store, i descriptor) {
			s.put(tagOf(i, ".sig"), nil, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(simpleSigning(i.Digest)), nil))
		}, "0 of 1 needed"},
		{"a bundle over another image", func(s *store, i descriptor) {
			s.attach(i, b.own.AttestPayload("", statementOf(cosignSign, "{}", descriptor{Digest: other})).Bundle(t))
		}, "signature or digest mismatch"},
		{"10,000 signatures in one manifest", func(s *store, i descriptor) {
			var layers []descriptor
			for range 10_000 {
				layers = append(layers, s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(simpleSigning(i.Digest)), nil))
			}
			s.put(tagOf(i, ".sig"), nil, layers...)
		}, "0 of 1 needed"},
		{"300 referrers", func(s *store, i descriptor) {
			for n := range 300 {
				s.attach(i, fmt.Appendf(nil, "{%d", n))
			}
		}, "more than is taken"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newStore(t)
			i := s.put("v1", nil)
			test.build(s, i)
			if d := judge(s, i); d.Allow || !strings.Contains(d.explain(), test.want) {
				t.Fatalf("%+v", d)
			}
		})
	}
}

// TestArchiveWithoutManifests: what Docker saved before 25 says nothing that a signature could be over.
func TestArchiveWithoutManifests(t *testing.T) {
	file := filepath.Join(t.TempDir(), "old.tar")
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	w.WriteHeader(&tar.Header{Name: "manifest.json", Size: 2, Typeflag: tar.TypeReg})
	w.Write([]byte("[]"))
	w.Close()
	if err := os.WriteFile(file, out.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := images.OpenArchive(file); err == nil || !strings.Contains(err.Error(), "skopeo copy") {
		t.Fatal(err)
	}
}
