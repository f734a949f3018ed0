package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/images"
	"redoubt.internal/mirror/parcel"
)

// shop is a real registry in this process, with images and what vouches for them.
type shop struct {
	t    testing.TB
	host string
}

func newShop(t testing.TB, referrers bool) *shop {
	t.Helper()
	server := httptest.NewServer(registry.New(registry.WithReferrersSupport(referrers), registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo))))
	t.Cleanup(server.Close)
	return &shop{t, strings.TrimPrefix(server.URL, "http://")}
}

type layer struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

func (s *shop) send(method, path, mediaType string, body []byte) {
	s.t.Helper()
	q, err := http.NewRequest(method, "http://"+s.host+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	q.Header.Set("Content-Type", mediaType)
	res, err := http.DefaultClient.Do(q)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusCreated {
		b, _ := io.ReadAll(res.Body)
		s.t.Fatalf("%s %s: %s %s", method, path, res.Status, b)
	}
}

func (s *shop) blob(name, mediaType string, b []byte) layer {
	s.t.Helper()
	s.send("POST", "/v2/"+name+"/blobs/uploads/?digest="+images.DigestOf(b), "application/octet-stream", b)
	return layer{MediaType: mediaType, Digest: images.DigestOf(b), Size: len(b)}
}

// put pushes a manifest by digest, and under a tag if one is named.
func (s *shop) put(name, tag string, m map[string]any) layer {
	s.t.Helper()
	m["schemaVersion"] = 2
	if m["mediaType"] == nil {
		m["mediaType"] = "application/vnd.oci.image.manifest.v1+json"
	}
	b, err := json.Marshal(m)
	if err != nil {
		s.t.Fatal(err)
	}
	for _, at := range []string{images.DigestOf(b), tag} {
		if at != "" {
			s.send("PUT", "/v2/"+name+"/manifests/"+at, m["mediaType"].(string), b)
		}
	}
	return layer{MediaType: m["mediaType"].(string), Digest: images.DigestOf(b), Size: len(b)}
}

// image pushes an image of one layer.
func (s *shop) image(name, tag, content string) layer {
	s.t.Helper()
	l := s.blob(name, "application/vnd.oci.image.layer.v1.tar", []byte("layer of "+content))
	c := s.blob(name, "application/vnd.oci.image.config.v1+json", []byte(`{"architecture":"amd64","os":"linux","config":{"Labels":{"x":"`+content+`"}},"rootfs":{"type":"layers","diff_ids":["`+l.Digest+`"]}}`))
	return s.put(name, tag, map[string]any{"config": c, "layers": []layer{l}})
}

// vouch pushes a Sigstore bundle that names an entry, as cosign 3 does: as a referrer.
func (s *shop) vouch(name string, subject layer, origin string, index uint64) layer {
	s.t.Helper()
	bundle := s.blob(name, "application/vnd.dev.sigstore.bundle.v0.3+json", bundleNaming(origin, index))
	empty := s.blob(name, "application/vnd.oci.empty.v1+json", []byte("{}"))
	return s.put(name, "", map[string]any{"artifactType": bundle.MediaType, "config": empty, "layers": []layer{bundle}, "subject": subject})
}

func bundleNaming(origin string, index uint64) []byte {
	return fmt.Appendf(nil, `{"mediaType":"application/vnd.dev.sigstore.bundle.v0.3+json","verificationMaterial":{"tlogEntries":[{"logIndex":"%d","inclusionProof":{"logIndex":"%d","treeSize":"1500","checkpoint":{"envelope":%q}}}]},"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":"%s"},"signature":"AAAA"}}`,
		index+1000, index, origin+"\n1500\nAAAA\n", strings.Repeat("A", 43)+"=")
}

func (s *shop) config(refs ...string) ImageConfig {
	return ImageConfig{Registry: images.Access{Host: s.host}, References: refs}
}

// imageLab is a lab with a sparse log, and a shop with an image that is wanted and one that is not.
func imageLab(t *testing.T, referrers bool) (l *lab, s *shop, wanted, other layer) {
	t.Helper()
	_, c := makeLog(t, generate.Config{Seed: 4, Origin: growing.Origin, Sizes: []uint64{1500}})
	c.Scope = parcel.ScopeSparse
	l, s = newLab(t, c), newShop(t, referrers)
	wanted, other = s.image("team/app", "1.0", "wanted"), s.image("team/other", "1.0", "other")
	if referrers {
		s.vouch("team/app", wanted, c.Origin, 300)
		s.vouch("team/other", other, c.Origin, 301)
	} else { // the tag that stands in for the API
		list := s.vouch("team/app", wanted, c.Origin, 300)
		s.put("team/app", strings.Replace(wanted.Digest, ":", "-", 1), map[string]any{"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []layer{list}})
	}
	l.ec.Images = []ImageConfig{s.config(s.host + "/team/app:1.0")}
	l.reopen()
	return l, s, wanted, other
}

// TestImages: an image is named; what vouches for it is gathered, the entries that names are picked, both are carried, and nothing of an
// image that was not named is.
func TestImages(t *testing.T) {
	for _, referrers := range []bool{true, false} {
		t.Run(fmt.Sprintf("referrers API %t", referrers), func(t *testing.T) {
			l, s, wanted, other := imageLab(t, referrers)
			origin := l.ec.Logs[0].Origin
			r, err := l.out.Pull(t.Context())
			if err != nil || len(r.Images) != 1 || r.Images[0].Digest != wanted.Digest || r.Images[0].Entries != 1 || len(r.Images[0].Unknown)+len(r.Images[0].Left) > 0 || r.Logs[0].Entries != 1 {
				t.Fatalf("%v, %+v", err, r)
			}
			files := l.export(0)
			seen, err := Inspect(t.Context(), files, []string{l.vkey})
			if err != nil || len(seen[0].Manifest.Blobs) != 5 { // image, artifact, its config and layer, the list
				t.Fatalf("%v, %+v", err, seen[0].Manifest)
			}
			l.mc.Quota = 4096 // what comes of images counts like everything else
			l.reopen()
			l.refused(42, files...)
			l.mc.Quota = 0
			l.reopen()
			if _, err := l.in.Rehearse(t.Context(), files); err != nil {
				t.Fatal(err)
			}
			got := l.load(files)
			if tr := got.Transfers[0]; len(tr.Images) != 1 || tr.Blobs != 5 || tr.Images[0].Digest != wanted.Digest {
				t.Fatalf("%+v", tr)
			}
			l.load(files) // again: no change
			if got, err := l.in.Records(origin); err != nil || !slices.Equal(got, []uint64{300}) {
				t.Fatalf("%v: %v", err, got)
			}
			all, err := l.in.Images()
			if err != nil || len(all) != 1 || all[0].Digest != wanted.Digest || len(all[0].Artifacts) != 2 || all[0].Artifacts[1].Kind != images.KindBundle || *all[0].Entries[0].Index != 300 {
				t.Fatalf("%v, %+v", err, all)
			}
			if b, err := l.in.Blob(all[0].Artifacts[1].Blobs[1].Digest); err != nil || !bytes.Equal(b, bundleNaming(origin, 300)) {
				t.Fatal(err)
			}
			if _, err := l.in.Blob(other.Digest); !errors.Is(err, ErrNotFound) {
				t.Fatal(err)
			}
			// Nothing new, then one more signature: only that is carried.
			if _, err := l.out.Pull(t.Context()); ExitCode(err) != 10 {
				t.Fatal(err)
			}
			if _, err := l.out.Export(t.Context(), ExportOptions{Out: l.medium}); ExitCode(err) != 10 {
				t.Fatal(err)
			}
			payload := s.blob("team/app", "application/vnd.dev.cosign.simplesigning.v1+json", []byte(`{"critical":{}}`))
			payload.Annotations = map[string]string{"dev.cosignproject.cosign/signature": "AAAA"}
			empty := s.blob("team/app", "application/vnd.oci.image.config.v1+json", []byte("{ }"))
			tag := strings.Replace(wanted.Digest, ":", "-", 1) + ".sig"
			s.put("team/app", tag, map[string]any{"config": empty, "layers": []layer{payload}})
			if r, err = l.out.Pull(t.Context()); err != nil || !r.Images[0].Changed || len(r.Images[0].Unknown) != 1 {
				t.Fatalf("%v, %+v", err, r)
			}
			files = l.export(0)
			tr := l.load(files).Transfers[0]
			if all, _ = l.in.Images(); tr.Blobs != 4 || len(all[0].Artifacts) != 3 || all[0].Artifacts[2].Tag != tag || all[0].Artifacts[2].Sequence != 2 || all[0].Artifacts[1].Sequence != 1 {
				t.Fatalf("%+v, %+v", tr, all)
			}
			sameAgain(t, l, 1, 2)
			checkBlobs(t, l, 9-1) // the list of the first parcel is one of them
			if rep, err := l.in.FsckImages(t.Context()); err != nil || rep.Files != 9 || len(rep.Problems) > 0 {
				t.Fatalf("%v, %+v", err, rep)
			}
			name := filepath.Join(l.mc.Dir, "blobs", "sha256", hexOf(payload.Digest))
			if err := os.WriteFile(name, []byte(`{"critical":{ }`), 0o644); err != nil {
				t.Fatal(err)
			}
			if rep, err := l.in.FsckImages(t.Context()); err != nil || len(rep.Problems) != 1 || ExitCode(rep.Err()) != 31 {
				t.Fatalf("%v, %+v", err, rep)
			}
			if _, err := l.in.Blob(payload.Digest); !errors.Is(err, ErrDamaged) {
				t.Fatal(err)
			}
		})
	}
}

// sameAgain makes parcels once more and wants the same bytes.
func sameAgain(t *testing.T, l *lab, sequences ...uint64) {
	t.Helper()
	for _, n := range sequences {
		out := l.sub(fmt.Sprintf("again%d", n))
		p, err := l.out.ExportAgain(t.Context(), n, out)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Files {
			a, err1 := os.ReadFile(filepath.Join(l.medium, f))
			b, err2 := os.ReadFile(filepath.Join(out, f))
			if err1 != nil || err2 != nil || !bytes.Equal(a, b) {
				t.Fatalf("%s is another file the second time: %v %v", f, err1, err2)
			}
		}
	}
}

// checkBlobs wants every blob of the inside to be in place and be what it is called by.
func checkBlobs(t *testing.T, l *lab, least int) {
	t.Helper()
	n := 0
	err := l.inDB.View(func(tx store.Tx) error {
		return scan(tx, keyBlob, func(key string, s blobState) error {
			n++
			_, err := l.in.Blob("sha256:" + strings.TrimPrefix(key, keyBlob))
			return err
		})
	})
	if err != nil || n < least {
		t.Fatalf("%d blobs: %v", n, err)
	}
}

// TestImageThatFails: what a registry does not give is an error of that image; the others and the logs go on.
func TestImageThatFails(t *testing.T) {
	l, s, wanted, _ := imageLab(t, true)
	l.ec.Images = []ImageConfig{s.config(s.host+"/team/none:1.0", s.host+"/team/app@"+wanted.Digest)}
	l.reopen()
	r, err := l.out.Pull(t.Context())
	if ExitCode(err) != 3 || len(r.Images) != 2 || r.Images[0].Error == "" || r.Images[1].Error != "" || r.Logs[0].Entries != 1 {
		t.Fatalf("%v, %+v", err, r)
	}
	for _, refs := range [][]string{{"other.example/team/app:1"}, {"app:1"}, {s.host + "/team/app"}, {s.host + "/team/app@sha256:00"}, {s.host + "/Team/app:1"}} {
		l.ec.Images = []ImageConfig{s.config(refs...)}
		l.reopen()
		if _, err := l.out.Pull(t.Context()); !errors.Is(err, ErrConfig) {
			t.Fatalf("%q: %v", refs, err)
		}
	}
}

// TestHostileBlobs: an exporter that is taken over carries blobs that are not what they are called by, twice, too few, too many, or a
// list that says something else. Nothing of it is taken.
func TestHostileBlobs(t *testing.T) {
	l, _, _, _ := imageLab(t, true)
	l.ec.Logs = nil // images alone
	l.reopen()
	l.pull()
	list, blobs := listed(t, l)
	manifest := func(images parcel.Digest, blobs []parcel.Blob) parcel.Manifest {
		return parcel.Manifest{Stream: labStream, Sequence: 1, Created: parcel.Time{Time: l.now}, Blobs: blobs, Images: images}
	}
	sorted := func(all map[string][]byte) (out []parcel.Blob) {
		for _, b := range all {
			out = append(out, parcel.Blob{Bytes: int64(len(b)), SHA256: parcel.Sum(b)})
		}
		slices.SortFunc(out, func(a, b parcel.Blob) int { return slices.Compare(a.SHA256, b.SHA256) })
		return out
	}
	sum := parcel.Sum(list)
	whole := map[string][]byte{sum.String(): list}
	for k, v := range blobs {
		whole[k] = v
	}
	carry := func(name string, m parcel.Manifest, content func(b parcel.Blob) []byte) (files []string, err error) {
		w, err := parcel.NewWriter(l.medium, name, m, 0)
		if err != nil {
			return nil, err
		}
		for _, b := range m.Blobs {
			if c := content(b); c != nil {
				if err := w.Add(b.Name(), c); err != nil {
					w.Abandon()
					return nil, err
				}
			}
		}
		p, err := w.Finish("exporter.outside", l.key)
		if err != nil {
			return nil, err
		}
		defer p.Close()
		return []string{filepath.Join(l.medium, p.Files[0])}, p.Publish()
	}
	honest := func(b parcel.Blob) []byte { return whole[b.SHA256.String()] }
	anyBlob := sorted(blobs)[0]
	for name, c := range map[string]struct {
		code    int
		all     func() []parcel.Blob
		content func(b parcel.Blob) []byte
	}{
		"digest": {31, func() []parcel.Blob { return sorted(whole) }, func(b parcel.Blob) []byte {
			if c := slices.Clone(honest(b)); b.SHA256.Equal(anyBlob.SHA256) {
				c[0] ^= 1
				return c
			}
			return honest(b)
		}},
		"length": {31, func() []parcel.Blob { return sorted(whole) }, func(b parcel.Blob) []byte {
			if b.SHA256.Equal(anyBlob.SHA256) {
				return honest(b)[1:]
			}
			return honest(b)
		}},
		"missing-file": {40, func() []parcel.Blob { return sorted(whole) }, func(b parcel.Blob) []byte {
			if b.SHA256.Equal(anyBlob.SHA256) {
				return nil
			}
			return honest(b)
		}},
		"missing-blob": {31, func() []parcel.Blob {
			return slices.DeleteFunc(sorted(whole), func(b parcel.Blob) bool { return b.SHA256.Equal(anyBlob.SHA256) })
		}, honest},
		"extra-blob": {31, func() []parcel.Blob {
			whole[parcel.Sum([]byte("more")).String()] = []byte("more")
			defer delete(whole, parcel.Sum([]byte("more")).String())
			return sorted(whole)
		}, func(b parcel.Blob) []byte {
			if c := honest(b); c != nil {
				return c
			}
			return []byte("more")
		}},
	} {
		files, err := carry(name, manifest(sum, c.all()), c.content)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		l.refused(c.code, files...)
	}
	// What the format itself refuses to say.
	twice := sorted(whole)
	twice = append(twice[:1:1], twice...)
	for name, m := range map[string]parcel.Manifest{
		"twice": manifest(sum, twice), "no list": manifest(nil, sorted(whole)), "other list": manifest(parcel.Sum([]byte("?")), sorted(whole)),
		"order": manifest(sum, func() []parcel.Blob { b := sorted(whole); slices.Reverse(b); return b }()), "no blobs": manifest(sum, nil),
		"large": manifest(sum, append(sorted(whole), parcel.Blob{Bytes: parcel.MaxBlob + 1, SHA256: bytes.Repeat([]byte{255}, 32)})),
	} {
		m.Exporter, m.MinImporter, m.Logs = "x+00000000", 1, []parcel.Log{}
		m.Volumes = []parcel.Volume{{N: 1, Bytes: 1, SHA256: sum, Unpacked: 1024}}
		if _, err := m.Text(); !errors.Is(err, parcel.ErrManifest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A list that is not as it has to be.
	for name, bad := range map[string][]byte{
		"spelling": append([]byte(" "), list...), "member": bytes.Replace(list, []byte(`"kind":"bundle"`), []byte(`"kind":"bundle","x":1`), 1),
		"subject": bytes.Replace(list, []byte(`"subject":"sha256:`), []byte(`"subject":"md5:`), 1), "empty": []byte(`{"kind":"redoubt.images/v1","images":[]}` + "\n"),
	} {
		all := map[string][]byte{parcel.Sum(bad).String(): bad}
		for k, v := range blobs {
			all[k] = v
		}
		files, err := carry("list-"+name, manifest(parcel.Sum(bad), sorted(all)), func(b parcel.Blob) []byte { return all[b.SHA256.String()] })
		if err != nil {
			t.Fatal(err)
		}
		l.refused(31, files...)
	}
	files, err := carry("whole", manifest(sum, sorted(whole)), honest) // the control
	if err != nil {
		t.Fatal(err)
	}
	l.load(files)
	checkBlobs(t, l, len(whole))
}

// listed are the list of images that the next parcel carries, and the files it names.
func listed(t *testing.T, l *lab) (list []byte, blobs map[string][]byte) {
	t.Helper()
	var m parcel.Manifest
	if _, err := l.out.blobSteps(&m); err != nil {
		t.Fatal(err)
	}
	sh, err := openShelf(l.out.root, blobsDir)
	if err != nil {
		t.Fatal(err)
	}
	defer sh.close()
	blobs = make(map[string][]byte)
	for _, b := range m.Blobs {
		c, err := readBlob(sh, b)
		if err != nil {
			t.Fatal(err)
		}
		if blobs[b.SHA256.String()] = c; b.SHA256.Equal(m.Images) {
			list = c
			delete(blobs, b.SHA256.String())
		}
	}
	return list, blobs
}
