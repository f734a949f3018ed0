package images

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	real "github.com/google/go-containerregistry/pkg/registry"
)

// store is a registry in a map, that lies where a test wants it to: answers by path.
type store struct {
	t       *testing.T
	answers map[string]func(w http.ResponseWriter, q *http.Request)
	asked   []string
	host    string
}

func newStore(t *testing.T) *store {
	s := &store{t: t, answers: make(map[string]func(http.ResponseWriter, *http.Request))}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		s.asked = append(s.asked, q.URL.Path)
		if q.URL.Path == "/v2/" {
			return
		}
		if a := s.answers[q.URL.Path]; a != nil {
			a(w, q)
			return
		}
		http.NotFound(w, q)
	}))
	t.Cleanup(server.Close)
	s.host = strings.TrimPrefix(server.URL, "http://")
	return s
}

func (s *store) answer(kind, at, mediaType string, b []byte) {
	s.answers["/v2/a/"+kind+"/"+at] = func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", mediaType)
		w.Write(b)
	}
}

const manifestType = "application/vnd.oci.image.manifest.v1+json"

type part struct {
	MediaType    string            `json:"mediaType"`
	Digest       string            `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
}

// put keeps a manifest under its digest, and tag if there is one.
func (s *store) put(tag string, m map[string]any) part {
	s.t.Helper()
	m["schemaVersion"] = 2
	mediaType, _ := m["mediaType"].(string)
	if mediaType == "" {
		mediaType = manifestType
		m["mediaType"] = mediaType
	}
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	s.answer("manifests", DigestOf(b), mediaType, b)
	if tag != "" {
		s.answer("manifests", tag, mediaType, b)
	}
	return part{MediaType: mediaType, Digest: DigestOf(b), Size: int64(len(b))}
}

func (s *store) blob(mediaType string, b []byte) part {
	s.answer("blobs", DigestOf(b), "application/octet-stream", b)
	return part{MediaType: mediaType, Digest: DigestOf(b), Size: int64(len(b))}
}

func (s *store) image(tag, content string) part {
	return s.put(tag, map[string]any{"config": part{MediaType: "application/vnd.oci.image.config.v1+json", Digest: DigestOf([]byte(content)), Size: int64(len(content))}, "layers": []part{}})
}

// list answers the referrers API.
func (s *store) list(subject string, all ...part) {
	b, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": append([]part{}, all...)})
	if err != nil {
		s.t.Fatal(err)
	}
	s.answer("referrers", subject, indexType, b)
}

func (s *store) referrer(subject part, content string) part {
	l := s.blob("text/plain", []byte(content))
	return s.put("", map[string]any{"artifactType": "text/plain", "config": s.blob("application/vnd.oci.empty.v1+json", []byte("{}")), "layers": []part{l}, "subject": subject})
}

func (s *store) gather(reference string) (Image, map[string][]byte, error) {
	return gatherAt(s.t, Access{Host: s.host}, s.host+"/a:"+reference)
}

func gatherAt(t *testing.T, a Access, reference string) (Image, map[string][]byte, error) {
	t.Helper()
	src, err := OpenRegistry(a)
	if err != nil {
		return Image{}, nil, err
	}
	ref, err := ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	kept, shelf := newShelf()
	i, err := src.Gather(t.Context(), ref, shelf)
	return i, kept, err
}

func newShelf() (map[string][]byte, Shelf) {
	kept := make(map[string][]byte)
	return kept, Shelf{Held: func(d string) []byte { return kept[d] }, Keep: func(d string, b []byte) error { kept[d] = bytes.Clone(b); return nil }}
}

// TestHostileRegistry: whatever a registry answers, what is kept has the digest it was asked by, nothing is asked of another host, and
// nothing grows without bound.
func TestHostileRegistry(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) { t.Errorf("another host was asked for %s", q.URL) }))
	defer elsewhere.Close()
	redirect := func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, elsewhere.URL+q.URL.Path, http.StatusFound)
	}
	for name, c := range map[string]struct {
		want error
		lie  func(s *store, image part)
	}{
		"manifest with another digest": {ErrAnswer, func(s *store, image part) {
			r := s.referrer(image, "x")
			s.list(image.Digest, r)
			s.answer("manifests", r.Digest, manifestType, []byte(`{"schemaVersion":2}`))
		}},
		"blob with another digest": {ErrAnswer, func(s *store, image part) {
			s.list(image.Digest, s.referrer(image, "x"))
			s.answer("blobs", DigestOf([]byte("x")), "", []byte("y"))
		}},
		"blob that is longer": {ErrLimit, func(s *store, image part) {
			s.list(image.Digest, s.referrer(image, "x"))
			s.answer("blobs", DigestOf([]byte("x")), "", []byte("xx"))
		}},
		"blob that is not there": {ErrAnswer, func(s *store, image part) {
			s.list(image.Digest, s.referrer(image, "x"))
			delete(s.answers, "/v2/a/blobs/"+DigestOf([]byte("x")))
		}},
		"referrer that is not there": {ErrAnswer, func(s *store, image part) {
			s.list(image.Digest, part{MediaType: manifestType, Digest: DigestOf([]byte("?")), Size: 1})
		}},
		"10,000 referrers": {ErrLimit, func(s *store, image part) {
			var all []part
			for n := range 10_000 {
				all = append(all, part{MediaType: manifestType, Digest: DigestOf(fmt.Append(nil, n)), Size: 1})
			}
			s.list(image.Digest, all...)
		}},
		"10,000 referrers under the tag": {ErrLimit, func(s *store, image part) {
			var all []part
			for n := range 10_000 {
				all = append(all, part{MediaType: manifestType, Digest: DigestOf(fmt.Append(nil, n)), Size: 1})
			}
			s.put(strings.Replace(image.Digest, ":", "-", 1), map[string]any{"mediaType": indexType, "manifests": all})
		}},
		"pages without end": {ErrLimit, func(s *store, image part) {
			s.answers["/v2/a/referrers/"+image.Digest] = func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Type", indexType)
				w.Header().Set("Link", `<`+q.URL.Path+`?n=1>; rel="next"`)
				w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
			}
		}},
		"manifest that is too long": {ErrLimit, func(s *store, image part) {
			s.answer("manifests", "t", manifestType, append([]byte(`{"schemaVersion":2}`), bytes.Repeat([]byte(" "), MaxManifest)...))
		}},
		"manifest of 5 GB, it says": {ErrLimit, func(s *store, image part) {
			s.list(image.Digest, part{MediaType: manifestType, Digest: DigestOf([]byte("?")), Size: 5 << 30})
		}},
		"indexes in indexes": {ErrLimit, func(s *store, _ part) {
			at := s.image("", "deep")
			for range 6 {
				at = s.put("t", map[string]any{"mediaType": indexType, "manifests": []part{at}})
			}
		}},
		"1,000 platforms": {ErrLimit, func(s *store, _ part) {
			var all []part
			for n := range 1000 {
				all = append(all, s.image("", fmt.Sprint("platform ", n)))
			}
			s.put("t", map[string]any{"mediaType": indexType, "manifests": all})
		}},
		"manifest and index in one": {ErrAnswer, func(s *store, image part) {
			s.put("t", map[string]any{"config": image, "layers": []part{}, "manifests": []part{image}})
		}},
		"a name twice": {ErrAnswer, func(s *store, _ part) {
			s.answer("manifests", "t", manifestType, []byte(`{"schemaVersion":2,"schemaVersion":2,"config":{},"layers":[]}`))
		}},
		"schema 1":               {ErrAnswer, func(s *store, _ part) { s.answer("manifests", "t", manifestType, []byte(`{"schemaVersion":1}`)) }},
		"no JSON":                {ErrAnswer, func(s *store, _ part) { s.answer("manifests", "t", manifestType, []byte(`<html>`)) }},
		"redirect of a manifest": {ErrHost, func(s *store, _ part) { s.answers["/v2/a/manifests/t"] = redirect }},
		"redirect of a blob": {ErrHost, func(s *store, image part) {
			s.list(image.Digest, s.referrer(image, "x"))
			s.answers["/v2/a/blobs/"+DigestOf([]byte("x"))] = redirect
		}},
		"page at another host": {ErrAnswer, func(s *store, image part) {
			s.answers["/v2/a/referrers/"+image.Digest] = func(w http.ResponseWriter, q *http.Request) {
				w.Header().Set("Content-Type", indexType)
				w.Header().Set("Link", `<`+elsewhere.URL+`/v2/a/referrers/x>; rel="next"`)
				w.Write([]byte(`{"schemaVersion":2,"manifests":[]}`))
			}
		}},
		"redirects without end": {ErrAnswer, func(s *store, _ part) {
			s.answers["/v2/a/manifests/t"] = func(w http.ResponseWriter, q *http.Request) { http.Redirect(w, q, q.URL.Path, http.StatusFound) }
		}},
		"token server at another host": {ErrHost, func(s *store, _ part) {}},
		"not allowed": {ErrAnswer, func(s *store, _ part) {
			s.answers["/v2/a/manifests/t"] = func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusForbidden) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStore(t)
			c.lie(s, s.image("t", "an image"))
			a := Access{Host: s.host}
			if name == "token server at another host" {
				a.Transport = challenge{"https://tokens.elsewhere.example/"}
			}
			_, kept, err := gatherAt(t, a, s.host+"/a:t")
			if !errors.Is(err, c.want) && !(name == "redirects without end" && errors.Is(err, ErrHost)) {
				t.Errorf("%v instead of %v", err, c.want)
			}
			if len(s.asked) > 10*MaxArtifacts {
				t.Errorf("%d requests", len(s.asked))
			}
			for d, b := range kept {
				if DigestOf(b) != d {
					t.Errorf("%s was kept as %s", DigestOf(b), d)
				}
			}
		})
	}
}

// challenge is a registry that wants a token of another host's. It plays the wire: the real one would need two hosts.
type challenge struct{ realm string }

func (c challenge) RoundTrip(q *http.Request) (*http.Response, error) {
	w := httptest.NewRecorder()
	w.Header().Set("WWW-Authenticate", `Bearer realm="`+c.realm+`",service="x"`)
	w.WriteHeader(http.StatusUnauthorized)
	return w.Result(), nil
}

// TestCycles: a registry that lists artifacts in circles, or one artifact under everything, gives each of them once.
func TestCycles(t *testing.T) {
	s := newStore(t)
	image := s.image("t", "an image")
	a := s.referrer(image, "a")
	b := s.referrer(a, "b")
	s.list(image.Digest, a, b, a)
	s.list(a.Digest, b, a)
	s.list(b.Digest, a, b, image)
	i, _, err := s.gather("t")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, x := range i.Artifacts {
		got = append(got, x.Digest)
	}
	if !slices.Equal(got, []string{image.Digest, a.Digest, b.Digest}) || len(i.Left) > 0 || i.Artifacts[2].Subject != a.Digest {
		t.Fatalf("%v, %+v", got, i.Left)
	}
	if _, err := EncodeList([]Image{i}); err != nil {
		t.Fatal(err)
	}
}

// TestListElsewhere: a registry whose list of referrers lies at another host is not followed there; the tag is read, and it is said. An
// artifact that does not name what it is listed for is left.
func TestListElsewhere(t *testing.T) {
	s := newStore(t)
	image := s.image("t", "an image")
	a, b := s.referrer(image, "a"), s.referrer(s.image("", "another"), "b")
	s.answers["/v2/a/referrers/"+image.Digest] = func(w http.ResponseWriter, q *http.Request) {
		http.Redirect(w, q, "https://elsewhere.example/", http.StatusSeeOther)
	}
	s.put(strings.Replace(image.Digest, ":", "-", 1), map[string]any{"mediaType": indexType, "manifests": []part{a, b}})
	i, _, err := s.gather("t")
	if err != nil || len(i.Artifacts) != 2 || i.Artifacts[1].Digest != a.Digest || len(i.Left) != 2 || i.Left[0].Digest != image.Digest || i.Left[1].Digest != b.Digest {
		t.Fatalf("%v, %+v", err, i)
	}
}

// TestCredentials: docker's config.json is used for its host, and for that alone.
func TestCredentials(t *testing.T) {
	s := newStore(t)
	image := s.image("t", "an image")
	seen := ""
	held := s.answers["/v2/a/manifests/t"]
	s.answers["/v2/a/manifests/t"] = func(w http.ResponseWriter, q *http.Request) {
		if user, password, _ := q.BasicAuth(); user != "robot" || password != "secret" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		seen = q.Host
		held(w, q)
	}
	for host, works := range map[string]bool{s.host: true, "other.example": false} {
		dir := t.TempDir()
		config := fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, host, base64.StdEncoding.EncodeToString([]byte("robot:secret")))
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		i, _, err := gatherAt(t, Access{Host: s.host, DockerConfig: dir}, s.host+"/a:t")
		if works != (err == nil) || works && (i.Digest != image.Digest || seen != s.host) || !works && !errors.Is(err, ErrAnswer) {
			t.Fatalf("%s: %v, %+v", host, err, i)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Fatal(err)
		}
	}
	if _, err := OpenRegistry(Access{Host: s.host, DockerConfig: t.TempDir()}); !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestPlainHTTP: http is for loopback, and for hosts that were named for it.
func TestPlainHTTP(t *testing.T) {
	to := func(q *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: http.StatusNotFound, Body: http.NoBody, Header: http.Header{}, Request: q}, nil
	}
	for _, plain := range []bool{false, true} {
		f := fence{inner: tripper(to), hosts: map[string]bool{"10.0.0.1:5000": true}, plain: plain}
		q := httptest.NewRequest(http.MethodGet, "http://10.0.0.1:5000/v2/", nil)
		if _, err := f.RoundTrip(q); plain != (err == nil) || !plain && !errors.Is(err, ErrHost) {
			t.Fatal(plain, err)
		}
	}
}

type tripper func(*http.Request) (*http.Response, error)

func (t tripper) RoundTrip(q *http.Request) (*http.Response, error) { return t(q) }

// TestGather finds what vouches for an index and for each of its platforms, by every way there is, and leaves what is too large.
func TestGather(t *testing.T) {
	s := newStore(t)
	amd, arm := s.image("", "amd64"), s.image("", "arm64")
	built := s.put("", map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{}")), "layers": []part{s.blob("application/vnd.in-toto+json", []byte(`{"_type":"x"}`))}})
	built.Annotations = map[string]string{"vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": amd.Digest}
	gone := part{MediaType: manifestType, Digest: DigestOf([]byte("gone")), Size: 4}
	index := s.put("t", map[string]any{"mediaType": indexType, "manifests": []part{amd, arm, built, gone}})
	tag := func(p part, suffix string) string { return strings.Replace(p.Digest, ":", "-", 1) + suffix }

	number := uint64(7_000_000)
	id := strings.Repeat("ab", 32)
	signed := s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(`{"critical":{}}`))
	signed.Annotations = map[string]string{rekorBundle: fmt.Sprintf(`{"SignedEntryTimestamp":"AAAA","Payload":{"body":"e30=","integratedTime":1,"logIndex":%d,"logID":%q}}`, number, id)}
	sig := s.put(tag(index, ".sig"), map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{ }")), "layers": []part{signed}})
	payload := []byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`)
	att := s.put(tag(arm, ".att"), map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{  }")), "layers": []part{
		s.blob("application/vnd.dsse.envelope.v1+json", fmt.Appendf(nil, `{"payloadType":"application/vnd.in-toto+json","payload":%q,"signatures":[]}`, base64.StdEncoding.EncodeToString(payload)))}})
	bundle := s.blob("application/vnd.dev.sigstore.bundle.v0.3+json", []byte(`{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"tlogEntries":[{"logIndex":"12","inclusionProof":{"logIndex":"5","treeSize":"9","checkpoint":{"envelope":"log.example\n9\nAAAA\n"}}}]}}`))
	ref := s.put("", map[string]any{"artifactType": bundle.MediaType, "config": s.blob("application/vnd.oci.empty.v1+json", []byte("{}")), "layers": []part{bundle}, "subject": amd})
	s.put(tag(amd, ""), map[string]any{"mediaType": indexType, "manifests": []part{ref}}) // no API: the tag stands in
	sbom := s.put(tag(index, ".sbom"), map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{   }")), "layers": []part{s.blob("text/spdx+json", []byte(`{"spdxVersion":"2.3"}`))}})
	signedSBOM := s.put(tag(sbom, ".sig"), map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{    }")), "layers": []part{s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(`{"critical":{ }}`))}})
	model := s.put("", map[string]any{"artifactType": "application/x-model", "config": s.blob("application/vnd.oci.empty.v1+json", []byte("{}")), "subject": index,
		"layers": []part{{MediaType: "application/octet-stream", Digest: DigestOf([]byte("2 GB")), Size: 2 << 30}}})
	s.list(index.Digest, model)

	i, kept, err := s.gather("t")
	if err != nil {
		t.Fatal(err)
	}
	kinds := make(map[string]string)
	for _, a := range i.Artifacts {
		kinds[a.Digest] = a.Kind
	}
	want := map[string]string{index.Digest: KindImage, amd.Digest: KindImage, arm.Digest: KindImage, built.Digest: KindAttestation, sig.Digest: KindSignature,
		att.Digest: KindAttestation, ref.Digest: KindBundle, sbom.Digest: KindSBOM, signedSBOM.Digest: KindSignature}
	if !reflect.DeepEqual(kinds, want) {
		t.Fatalf("%v\ninstead of\n%v", kinds, want)
	}
	five := uint64(5)
	wantEntries := []Entry{
		{LogID: id, Number: &number, Digest: signed.Digest}, {Digest: DigestOf([]byte(`{"critical":{ }}`))},
		{Origin: "log.example", Index: &five}, {Digest: DigestOf(payload)},
	}
	if !reflect.DeepEqual(i.Entries, wantEntries) {
		a, _ := json.Marshal(i.Entries)
		t.Fatalf("%s", a)
	}
	left := []string{i.Left[0].Digest, i.Left[1].Digest}
	if len(i.Left) != 2 || !slices.Contains(left, model.Digest) || !slices.Contains(left, gone.Digest) {
		t.Fatalf("%+v", i.Left)
	}
	text, err := EncodeList([]Image{i})
	if err != nil {
		t.Fatal(err)
	}
	if again, err := ParseList(text); err != nil || !reflect.DeepEqual(again, []Image{i}) {
		t.Fatal(err)
	}
	for _, b := range i.Digests() {
		if int64(len(kept[b.Digest])) != b.Size {
			t.Errorf("%s was not kept", b.Digest)
		}
	}
	written(t, i, kept)
}

// TestPush puts what vouches for an index and one of its platforms beside them in a registry, with the referrers API and without.
func TestPush(t *testing.T) {
	s := newStore(t)
	amd, arm := s.image("", "amd64"), s.image("", "arm64")
	index := s.put("t", map[string]any{"mediaType": indexType, "manifests": []part{amd, arm}})
	s.list(index.Digest, s.referrer(index, "one"), s.referrer(index, "two"))
	s.list(arm.Digest, s.referrer(arm, "three"))
	s.put(strings.Replace(amd.Digest, ":", "-", 1)+".sig", map[string]any{"config": s.blob("application/vnd.oci.image.config.v1+json", []byte("{ }")),
		"layers": []part{s.blob("application/vnd.dev.cosign.simplesigning.v1+json", []byte(`{"critical":{}}`))}})
	i, kept, err := s.gather("t")
	if err != nil || len(i.Artifacts) != 7 {
		t.Fatalf("%v, %+v", err, i)
	}
	pushed(t, i, kept)
}

// written writes a layout and gathers the same from it.
func written(t *testing.T, i Image, kept map[string][]byte) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "layout")
	if err := WriteLayout(dir, i, reader(kept)); err != nil {
		t.Fatal(err)
	}
	if err := WriteLayout(dir, i, reader(kept)); err == nil {
		t.Error("a folder that is not empty was written to")
	}
	src, all, err := OpenLayout(dir)
	if err != nil || len(all) != 1 {
		t.Fatal(err, all)
	}
	defer src.Close()
	_, shelf := newShelf()
	again, err := src.Gather(t.Context(), all[0], shelf)
	if err != nil || again.Digest != i.Digest || again.Reference != i.Reference || len(again.Entries) != len(i.Entries) || len(again.Artifacts) != len(i.Artifacts) {
		t.Fatalf("%v, %+v", err, again)
	}
	name := filepath.Join(dir, "blobs", "sha256", strings.TrimPrefix(i.Artifacts[1].Digest, "sha256:"))
	if err := os.WriteFile(name, []byte(`{"schemaVersion":2}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if src, all, err := OpenLayout(dir); err == nil {
		_, shelf := newShelf()
		if _, err := src.Gather(t.Context(), all[0], shelf); !errors.Is(err, ErrAnswer) {
			t.Fatalf("a manifest that changed: %v", err)
		}
	} else if !errors.Is(err, ErrAnswer) {
		t.Fatal(err)
	}
}

func reader(kept map[string][]byte) func(string) ([]byte, error) {
	return func(digest string) ([]byte, error) {
		if b := kept[digest]; b != nil {
			return b, nil
		}
		return nil, fs.ErrNotExist
	}
}

// pushed puts the artifacts beside the image in a registry, with the referrers API and without, over TLS, and gathers them there.
func pushed(t *testing.T, i Image, kept map[string][]byte) {
	t.Helper()
	for _, referrers := range []bool{true, false} {
		server := httptest.NewTLSServer(real.New(real.WithReferrersSupport(referrers), real.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
		defer server.Close()
		roots := x509.NewCertPool()
		roots.AddCert(server.Certificate())
		a := Access{Host: strings.TrimPrefix(server.URL, "https://"), Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
		to, err := ParseReference(a.Host + "/b@" + i.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Push(t.Context(), a, to, i, reader(kept)); !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("without the image: %v", err)
		}
		for _, x := range slices.Backward(i.Artifacts) { // the image goes its own way, an index after its manifests
			if x.Kind == KindImage {
				q, _ := http.NewRequestWithContext(t.Context(), http.MethodPut, server.URL+"/v2/b/manifests/"+x.Digest, bytes.NewReader(kept[x.Digest]))
				q.Header.Set("Content-Type", x.MediaType)
				res, err := server.Client().Do(q)
				if err != nil || res.StatusCode != http.StatusCreated {
					t.Fatal(err, res.Status)
				}
				res.Body.Close()
			}
		}
		for range 2 { // again is no harm
			p, err := Push(t.Context(), a, to, i, reader(kept))
			if err != nil || len(p.Artifacts) != 4 || len(p.Absent) > 0 {
				t.Fatalf("%v, %+v", err, p)
			}
		}
		got, _, err := gatherAt(t, a, to.String())
		if err != nil || len(got.Entries) != len(i.Entries) || len(got.Artifacts) != 7 {
			t.Fatalf("referrers API %t: %v, %+v", referrers, err, got)
		}
	}
}
