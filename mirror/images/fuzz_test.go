package images

import (
	"bytes"
	"errors"
	"reflect"
	"strings"
	"testing"
)

// FuzzList: what is accepted as a list has one spelling, and names nothing that is not a digest.
func FuzzList(f *testing.F) {
	digest := DigestOf([]byte("a"))
	index := uint64(7)
	one := Image{Reference: "registry.example/team/app:1.0", Digest: digest, Artifacts: []Artifact{{Kind: KindImage, Digest: digest, Size: 1, MediaType: manifestType},
		{Kind: KindSignature, Digest: DigestOf([]byte("b")), MediaType: manifestType, Subject: digest, Tag: strings.Replace(digest, ":", "-", 1) + ".sig", Blobs: []Blob{{digest, 1}}}},
		Entries: []Entry{{Origin: "log.example", Index: &index, Digest: digest}}, Left: []Left{{digest, "too large"}}}
	text, err := EncodeList([]Image{one, {Reference: digest, Digest: digest, Artifacts: one.Artifacts[:1]}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"kind":"redoubt.images/v1","images":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		all, err := ParseList(b)
		if err != nil {
			if !errors.Is(err, ErrList) {
				t.Fatal(err)
			}
			return
		}
		again, err := EncodeList(all)
		if err != nil || !bytes.Equal(again, b) {
			t.Fatalf("%v: %q comes back as %q", err, b, again)
		}
		for _, i := range all {
			for _, d := range i.Digests() {
				if _, err := Hex(d.Digest); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// FuzzDocument: manifests, bundles and annotations of a registry's choosing end in an error of this package or in bounded values.
func FuzzDocument(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":{"mediaType":"x","size":1,"digest":"`+DigestOf(nil)+`"},"layers":[]}`), "")
	f.Add([]byte(`{"schemaVersion":2,"manifests":[]}`), `{"Payload":{"logIndex":1,"logID":"00"}}`)
	f.Add([]byte(`{"verificationMaterial":{"tlogEntries":[{"logIndex":"1","inclusionProof":{"logIndex":"1","checkpoint":{"envelope":"a\n"}}}]}}`), "{}")
	f.Add([]byte(`{"payload":"AAAA"}`), "")
	f.Fuzz(func(t *testing.T, b []byte, annotation string) {
		if d, err := readDocument(b); err == nil {
			for _, m := range append(d.manifests, d.blobs()...) {
				wanted(m)
			}
			if len(d.manifests) > 0 && !d.index {
				t.Fatal("two readings")
			}
		} else if !errors.Is(err, ErrAnswer) {
			t.Fatal(err)
		}
		found, _ := BundleEntries(b)
		found = append(found, annotated(annotation, payloadDigest(b)))
		for _, e := range found {
			i := Image{Reference: DigestOf(nil), Digest: DigestOf(nil), Artifacts: []Artifact{{Kind: KindImage, Digest: DigestOf(nil), MediaType: "x"}}, Entries: []Entry{e}}
			if err := i.check(); err != nil {
				t.Fatalf("%+v: %v", e, err)
			}
		}
	})
}

// FuzzReference: a reference comes back as it was written, and names a host or a digest.
func FuzzReference(f *testing.F) {
	for _, s := range []string{"registry.example/a:1", "localhost:5000/a/b@" + DigestOf(nil), "registry.example/a:1@" + DigestOf(nil), DigestOf(nil), "a:1", "docker.io/library/a:latest"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseReference(s)
		if err != nil {
			if !errors.Is(err, ErrReference) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseReference(r.String())
		if err != nil || !reflect.DeepEqual(r, again) || r.String() != s || r.Host() == "" && r.Digest() == "" || r.tag == "" && r.digest == "" || strings.ContainsAny(r.Repository(), "?#%\\ ") {
			t.Fatalf("%q: %+v, %v", s, r, err)
		}
	})
}

// FuzzDockerList: Docker's list of an archive ends in an error of this package, or names a config for every image.
func FuzzDockerList(f *testing.F) {
	f.Add([]byte(`[{"Config":"blobs/sha256/00","RepoTags":["a:1"],"Layers":["blobs/sha256/01"],"LayerSources":{"sha256:01":{"size":1}}}]`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		list, err := readDockerList(b)
		if err != nil && !errors.Is(err, ErrAnswer) {
			t.Fatal(err)
		}
		for _, i := range list {
			if len(i) == 0 {
				t.Fatal("an image of nothing")
			}
		}
	})
}
