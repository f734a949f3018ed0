package inventory

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func digest(n int) string { return fmt.Sprintf("sha256:%064x", n) }

func pod(name, phase, id string) string {
	return fmt.Sprintf(`{"apiVersion":"v1","kind":"Pod","metadata":{"namespace":"shop","name":%q,"managedFields":[{"f:a":{"f:b":{}}}]},"spec":{"containers":[{"name":"web","image":"registry.corp.internal/web:1"}]},
	"status":{"phase":%q,"containerStatuses":[{"name":"web","image":"registry.corp.internal/web:1","imageID":%q,"state":{"running":{}}}]}}`, name, phase, id)
}

func list(pods ...string) string {
	return "\n{\"apiVersion\":\"v1\",\"items\":[" + strings.Join(pods, ",") + `],"kind":"List","metadata":{"resourceVersion":""}}` + "\n"
}

func TestPods(t *testing.T) {
	text := list(
		pod("a", "Running", "registry.corp.internal/web@"+digest(1)), pod("b", "Running", "docker-pullable://registry.corp.internal/web@"+digest(1)),
		pod("c", "Running", digest(2)), pod("d", "Pending", ""), pod("e", "Succeeded", "registry.corp.internal/web@"+digest(3)),
		`{"kind":"Pod","metadata":{"namespace":"shop","name":"f"},"spec":{"containers":[{"name":"web","image":"x"}]},"status":{"phase":"Pending"}}`,
		strings.ReplaceAll(pod("g", "Running", "r@"+digest(4)), "containerStatuses", "initContainerStatuses"),
	)
	got, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Images) != 2 || got.Images[0].Digest != digest(1) || got.Images[0].Places != 2 || got.Images[0].Names[1] != "shop/b/web registry.corp.internal/web:1" || got.Images[1].Digest != digest(4) {
		t.Errorf("%+v", got.Images)
	}
	if got.Without != 4 || got.Ended != 1 || got.Unresolved[0].Name != "shop/c/web" || !strings.Contains(got.Unresolved[0].Why, "loaded into the node") || !strings.Contains(got.Unresolved[1].Why, "not pulled") || !strings.Contains(got.Unresolved[2].Why, "reported nothing") {
		t.Errorf("%d %d %+v", got.Without, got.Ended, got.Unresolved)
	}
	if got, err := Read(strings.NewReader(list())); err != nil || len(got.Images) != 0 {
		t.Errorf("a cluster without pods: %v %+v", err, got)
	}
}

func TestLines(t *testing.T) {
	text := "# what runs\n\n" + digest(2) + " shop/web shop/db\r\n" + "registry.corp.internal/a@" + digest(1) + "\n" + digest(2) + "\tother/place"
	got, err := Read(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Images) != 2 || got.Images[0].Names[0] != "registry.corp.internal/a@"+digest(1) || got.Images[1].Places != 2 || strings.Join(got.Images[1].Names, "|") != "shop/web shop/db|other/place" {
		t.Errorf("%+v", got.Images)
	}
	merged := Merge(got.Images, []Image{{Digest: digest(2), Names: []string{"other/place", "a third"}, Places: 3}, {Digest: digest(3), Places: 1}})
	if len(merged) != 3 || merged[1].Places != 5 || len(merged[1].Names) != 3 || len(got.Images[1].Names) != 2 {
		t.Errorf("%+v", merged)
	}
}

// TestRefused: nothing is taken from half an inventory, or from one that can be read in two ways.
func TestRefused(t *testing.T) {
	good := pod("a", "Running", "r@"+digest(1))
	for name, text := range map[string]string{
		"empty":             " \n",
		"a tag":             "registry.corp.internal/web:1\n",
		"upper case":        strings.ToUpper(digest(11)) + "\n",
		"too short":         "sha256:abcd\n",
		"a second bad line": digest(1) + "\nx\n",
		"a control":         digest(1) + " a\x1b[2Jb\n",
		"a long line":       digest(1) + " " + strings.Repeat("x", maxLine) + "\n",
		"no items":          `{"kind":"List"}`,
		"one pod":           good,
		"items no list":     `{"items":{},"kind":"List"}`,
		"another list":      `{"items":[],"kind":"ConfigMapList"}`,
		"another kind":      list(strings.Replace(good, `"Pod"`, `"Secret"`, 1)),
		"no name":           list(strings.Replace(good, `"name":"a",`, ``, 1)),
		"cut short":         list(good)[:len(list(good))/2],
		"something follows": list(good) + "{}",
		"items twice":       strings.Replace(list(good), `"kind":"List"`, `"kind":"List","items":[]`, 1),
		"a name twice":      list(strings.Replace(good, `"phase"`, `"containerStatuses":[],"phase"`, 1)),
		"an id of a number": list(strings.Replace(good, fmt.Sprintf("%q", "r@"+digest(1)), "7", 1)),
		"status of a text":  list(`{"kind":"Pod","metadata":{"name":"a"},"status":"Running"}`),
		"a pod of a number": list("1"),
		"a huge pod":        list(strings.Replace(good, `"spec"`, `"x":"`+strings.Repeat("y", maxPod+8192)+`","spec"`, 1)),
	} {
		if got, err := Read(strings.NewReader(text)); !errors.Is(err, ErrInventory) || len(got.Images) != 0 {
			t.Errorf("%s: %v %+v", name, err, got)
		}
	}
	broken := errors.New("the pipe broke")
	if _, err := Read(io.MultiReader(strings.NewReader(digest(1)+"\n"), failing{broken})); !errors.Is(err, broken) {
		t.Error(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// TestManyPods: memory follows the pod, not the list, and the bound of one pod is none of all of them.
func TestManyPods(t *testing.T) {
	const n = 3000
	padded := strings.Replace(pod("a", "Running", "r@"+digest(7)), `"spec"`, `"x":"`+strings.Repeat("y", 8000)+`","spec"`, 1)
	r, w := io.Pipe()
	go func() {
		fmt.Fprint(w, `{"items":[`)
		for i := range n {
			if i > 0 {
				fmt.Fprint(w, ",")
			}
			fmt.Fprint(w, padded)
		}
		fmt.Fprint(w, `],"kind":"List"}`)
		w.Close()
	}()
	got, err := Read(r)
	if err != nil || len(got.Images) != 1 || got.Images[0].Places != n {
		t.Fatalf("%v %+v", err, got.Images)
	}
}

func TestStatements(t *testing.T) {
	dir := t.TempDir()
	put := func(name string, data []byte) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
		return sum(data)
	}
	simple := put("simple", fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":""},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest(1)))
	statement := fmt.Appendf(nil, `{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"x","digest":{"sha256":"%064x"}}],"predicate":{"materials":[{"digest":{"sha256":"%064x"}}]}}`, 2, 3)
	about := sum(statement)
	put("envelope", fmt.Appendf(nil, `{"payload":%q,"payloadType":"application/vnd.in-toto+json","signatures":[]}`, base64.StdEncoding.EncodeToString(statement)))
	put("bundle", fmt.Appendf(nil, `{"mediaType":"x","dsseEnvelope":{"payload":%q}}`, base64.StdEncoding.EncodeToString(statement)))
	put("readme", []byte("no statement"))
	put("bad", []byte(`{"subject":[{"digest":{"sha256":"zz"}}]}`))
	put("twice", []byte(`{"subject":[],"subject":[{"digest":{"sha256":"`+digest(9)[7:]+`"}}]}`))
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	of, others, err := Statements(dir)
	if err != nil || others != 3 || len(of) != 2 || of[digest(1)][0] != simple || !slices.Contains(of[digest(2)], about) || !slices.Contains(of[digest(2)], sum(pae("application/vnd.in-toto+json", statement))) || len(of[digest(2)]) != 3 {
		t.Fatalf("%v %d %v", err, others, of)
	}
	if !Names(statement, digest(2)) || Names(statement, digest(3)) {
		t.Error("a material counts as a subject, or a subject does not")
	}
	if _, _, err := Statements(filepath.Join(dir, "absent")); err == nil {
		t.Error("an absent file is none")
	}
	put("long", bytes.Repeat([]byte(" "), maxStatement+1))
	if _, _, err := Statements(dir); !errors.Is(err, ErrInventory) {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(list(pod("a", "Running", "r@"+digest(1)))))
	f.Add([]byte(digest(1) + " a\n# b\nr@" + digest(2)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := Read(bytes.NewReader(data))
		if err != nil {
			if !errors.Is(err, ErrInventory) {
				t.Fatalf("an error of another kind: %v", err)
			}
			return
		}
		for _, i := range got.Images {
			if !digestPattern.MatchString(i.Digest) || i.Places < 1 || len(i.Names) > maxNames {
				t.Fatalf("%+v", i)
			}
		}
	})
}

func FuzzStatement(f *testing.F) {
	f.Add([]byte(`{"critical":{"image":{"docker-manifest-digest":"` + digest(1) + `"}}}`))
	f.Add([]byte(`{"dsseEnvelope":{"payload":"e30="}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		_, images := Statement(data)
		for _, i := range images {
			if !digestPattern.MatchString(i) {
				t.Fatalf("%q", i)
			}
		}
	})
}
