package images

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// archived is an image of two layers as the files of an archive, as Docker writes one, and its digest.
func archived(t *testing.T) (files map[string]string, digest string) {
	t.Helper()
	files = map[string]string{"oci-layout": `{"imageLayoutVersion":"1.0.0"}`}
	keep := func(mediaType, text string) part {
		digest := DigestOf([]byte(text))
		files["blobs/sha256/"+strings.TrimPrefix(digest, "sha256:")] = text
		return part{MediaType: mediaType, Digest: digest, Size: int64(len(text))}
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	config, one, two := keep("application/vnd.oci.image.config.v1+json", "{}"), keep("application/vnd.oci.image.layer.v1.tar", "one"), keep("application/vnd.oci.image.layer.v1.tar", "two")
	image := keep(manifestType, encode(map[string]any{"schemaVersion": 2, "mediaType": manifestType, "config": config, "layers": []part{one, two}}))
	files["index.json"] = encode(map[string]any{"schemaVersion": 2, "mediaType": indexType, "manifests": []part{image}})
	files["manifest.json"] = fmt.Sprintf(`[{"Config":%q,"RepoTags":["app:1"],"Layers":[%q,%q]}]`, at(config.Digest), at(one.Digest), at(two.Digest))
	return files, image.Digest
}

func at(digest string) string { return "blobs/sha256/" + strings.TrimPrefix(digest, "sha256:") }

func writeArchive(t *testing.T, files map[string]string, more ...tar.Header) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.tar"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	w := tar.NewWriter(f)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := w.WriteHeader(&tar.Header{Name: name, Size: int64(len(files[name])), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(files[name])); err != nil {
			t.Fatal(err)
		}
	}
	for _, h := range more {
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

// TestIntact: whatever a program would load from an archive is what the digest says, whichever of its two lists that program goes by.
func TestIntact(t *testing.T) {
	layer, config := at(DigestOf([]byte("two"))), at(DigestOf([]byte("{}")))
	evil := at(DigestOf([]byte("evil")))
	for name, test := range map[string]intactCase{
		"as it was written":         {change: func(map[string]string) {}},
		"without Docker's list":     {change: func(f map[string]string) { delete(f, "manifest.json") }},
		"a layer that is not there": {change: func(f map[string]string) { delete(f, layer) }},
		"a layer changed":           {change: func(f map[string]string) { f[layer] = "twO" }, want: ErrAltered},
		"a layer longer":            {change: func(f map[string]string) { f[layer] += "\n" }, want: ErrAltered},
		"the config changed":        {change: func(f map[string]string) { f[config] = "{ }" }, want: ErrAltered},
		"another layer for Docker": {change: func(f map[string]string) {
			f[evil] = "evil"
			f["manifest.json"] = strings.Replace(f["manifest.json"], layer, evil, 1)
		}, want: ErrAltered},
		"another config for Docker": {change: func(f map[string]string) {
			f[evil] = "evil"
			f["manifest.json"] = strings.Replace(f["manifest.json"], config, evil, 1)
		}, want: ErrAltered},
		"a second image for Docker": {change: func(f map[string]string) {
			f["manifest.json"] = strings.TrimSuffix(f["manifest.json"], "]") + `,{"Config":"x","Layers":null}]`
		}, want: ErrAltered},
		"another image for Docker, as a signature": hidden(map[string]string{cosignKind: cosignSigs}, ErrAltered),
		"another image for Docker, by its tag":     hidden(map[string]string{refName: "sha256-" + strings.Repeat("0", 64)}, ErrAltered),
		"an absolute name":                         {change: func(f map[string]string) { f["/index.json"] = f["index.json"] }, want: ErrAnswer},
		"a name above":                             {change: func(f map[string]string) { f["../index.json"] = f["index.json"] }, want: ErrAnswer},
		"a compressed file that is a tar as well":  {change: func(f map[string]string) { f["\x1f\x8b\x08\x04"] = "" }, want: ErrAnswer},
		"layers the other way":                     {change: func(f map[string]string) { f["manifest.json"] = swap(f["manifest.json"]) }, want: ErrAltered},
		"Docker's list twice over": {change: func(f map[string]string) {
			f["manifest.json"] = strings.Replace(f["manifest.json"], `"Config"`, `"config":"x","Config"`, 1)
		}, want: ErrAnswer},
		"Docker's oldest form besides":  {change: func(f map[string]string) { delete(f, "manifest.json"); f["blobs/layer.tar"] = "evil" }, want: ErrAnswer},
		"a link in place of the list":   {change: func(map[string]string) {}, links: []tar.Header{{Name: "manifest.json", Linkname: "other.json", Typeflag: tar.TypeSymlink}}, want: ErrAnswer},
		"folders, which are everywhere": {change: func(map[string]string) {}, links: []tar.Header{{Name: "blobs/", Mode: 0o700, Typeflag: tar.TypeDir}}},
	} {
		t.Run(name, func(t *testing.T) {
			files, digest := archived(t)
			test.change(files)
			source, refs, err := OpenArchive(writeArchive(t, files, test.links...))
			if err == nil {
				defer source.Close()
				if len(refs) != 1 {
					t.Fatal(refs)
				}
				err = source.Intact(t.Context(), digest)
			}
			if !errors.Is(err, test.want) {
				t.Fatalf("%v, want %v", err, test.want)
			}
		})
	}
}

type intactCase struct {
	change func(files map[string]string)
	links  []tar.Header
	want   error
}

// hidden adds a second image under annotations by which it is none, which Docker would load.
func hidden(annotations map[string]string, want error) intactCase {
	return intactCase{want: want, change: func(f map[string]string) {
		evil := at(DigestOf([]byte("evil")))
		image := strings.Replace(f[manifestOf(f)], at(DigestOf([]byte("two"))), evil, 1)
		image = strings.Replace(image, DigestOf([]byte("two")), DigestOf([]byte("evil")), 1)
		f[evil], f[at(DigestOf([]byte(image)))] = "evil", image
		var index struct {
			SchemaVersion int              `json:"schemaVersion"`
			Manifests     []map[string]any `json:"manifests"`
		}
		if err := json.Unmarshal([]byte(f["index.json"]), &index); err != nil {
			panic(err)
		}
		index.Manifests = append(index.Manifests, map[string]any{"mediaType": manifestType, "digest": DigestOf([]byte(image)), "size": len(image), "annotations": annotations})
		b, err := json.Marshal(index)
		if err != nil {
			panic(err)
		}
		f["index.json"] = string(b)
		f["manifest.json"] = strings.Replace(f["manifest.json"], at(DigestOf([]byte("two"))), evil, 1)
	}}
}

// manifestOf is the name of the one manifest of an archive.
func manifestOf(f map[string]string) string {
	for name, text := range f {
		if strings.HasPrefix(name, "blobs/") && strings.Contains(text, "schemaVersion") {
			return name
		}
	}
	panic("no manifest")
}

// TestNamedImagesCount: what bears an image's name counts as an image, whatever else is said of it, so that it does not pass with another.
func TestNamedImagesCount(t *testing.T) {
	for _, annotations := range []map[string]string{{containerdName: "registry.corp.internal/app:1", cosignKind: cosignSigs}, {refName: "app:1", cosignKind: cosignAtts}, {containerdName: "app:1", refName: "sha256-" + strings.Repeat("0", 64)}} {
		files, _ := archived(t)
		hidden(annotations, nil).change(files)
		source, refs, err := OpenArchive(writeArchive(t, files))
		if err != nil {
			t.Fatal(err)
		}
		source.Close()
		if len(refs) != 2 {
			t.Errorf("%v: %v", annotations, refs)
		}
	}
}

// swap changes the order of the two layers.
func swap(list string) string {
	one, two := at(DigestOf([]byte("one"))), at(DigestOf([]byte("two")))
	return strings.NewReplacer(one, two, two, one).Replace(list)
}
