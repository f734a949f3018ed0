//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const (
	manifestMedia = "application/vnd.oci.image.manifest.v1+json"
	indexMedia    = "application/vnd.oci.image.index.v1+json"
)

// hostile: a registry that lies lets nothing in that is not signed, and costs no more than a refusal.
func hostile(t *testing.T, g *gated) {
	fetch := func(repository, reference string) []byte {
		q, _ := http.NewRequest(http.MethodGet, "http://"+g.registry+"/v2/"+repository+"/manifests/"+reference, nil)
		q.Header.Set("Accept", manifestMedia)
		res, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		return body
	}
	answer := func(w http.ResponseWriter, q *http.Request, media string, body []byte) {
		w.Header().Set("Content-Type", media)
		w.Header().Set("Docker-Content-Digest", digest(body))
		w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		if q.Method != http.MethodHead {
			w.Write(body)
		}
	}
	good := g.signed(t, "app/evil", "moves")
	goodBody := fetch("app/evil", good)
	bad := g.push(t, "app/evil", "bad")
	badBody := fetch("app/evil", bad)
	if digest(goodBody) != good || digest(badBody) != bad {
		t.Fatal("the registry does not give back what was pushed")
	}
	image := g.evil.host + "/app/evil"
	t.Run("honest", func(t *testing.T) { // the control: through it everything is as it is
		g.allowed(t, "evil-honest", image+":moves", good)
		g.refused(t, "evil-unsigned", image+":bad", "the policy does not allow it")
	})
	t.Run("swaps the tag between two answers", func(t *testing.T) {
		var asked atomic.Int64
		g.evil.does(t, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasSuffix(q.URL.Path, "/manifests/moves") {
				return false
			}
			if asked.Add(1) == 1 {
				answer(w, q, manifestMedia, goodBody)
			} else {
				answer(w, q, manifestMedia, badBody)
			}
			return true
		})
		g.allowed(t, "evil-tag", image+":moves", good) // the first answer is what runs, by its digest
		g.refused(t, "evil-tag-2", image+":moves", "the policy does not allow it")
	})
	t.Run("swaps the image under its digest", func(t *testing.T) {
		fresh := g.push(t, "app/evil", "fresh")
		g.evil.does(t, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasSuffix(q.URL.Path, "/manifests/"+fresh) {
				return false
			}
			answer(w, q, manifestMedia, goodBody)
			return true
		})
		g.refused(t, "evil-digest", image+"@"+fresh, fresh+" was asked for, "+good+" came")
	})
	t.Run("offers another image's signature", func(t *testing.T) {
		fresh := g.push(t, "app/evil", "borrows")
		from, to := strings.Replace(fresh, ":", "-", 1), strings.Replace(good, ":", "-", 1)
		g.evil.does(t, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.Contains(q.URL.Path, from) {
				return false
			}
			res, err := http.Get("http://" + g.registry + strings.Replace(q.URL.Path, from, to, 1))
			if err != nil {
				return false
			}
			defer res.Body.Close()
			body, _ := io.ReadAll(res.Body)
			w.Header().Set("Content-Type", res.Header.Get("Content-Type"))
			w.WriteHeader(res.StatusCode)
			w.Write(body)
			return true
		})
		g.refused(t, "evil-borrows", image+"@"+fresh, "the policy does not allow it")
	})
	t.Run("sends 10,000 signatures", func(t *testing.T) {
		fresh := g.push(t, "app/evil", "many")
		var all []map[string]any
		for i := range 10_000 {
			all = append(all, map[string]any{"mediaType": manifestMedia, "digest": fmt.Sprintf("sha256:%064x", i), "size": 500, "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json"})
		}
		index, err := json.Marshal(map[string]any{"schemaVersion": 2, "mediaType": indexMedia, "manifests": all})
		if err != nil {
			t.Fatal(err)
		}
		g.evil.does(t, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.Contains(q.URL.Path, "/referrers/") && !strings.HasSuffix(q.URL.Path, strings.Replace(fresh, ":", "-", 1)) {
				return false
			}
			answer(w, q, indexMedia, index)
			return true
		})
		g.refused(t, "evil-many", image+"@"+fresh, "that is more than is looked at")
	})
	t.Run("never ends", func(t *testing.T) {
		fresh := g.push(t, "app/evil", "endless")
		g.evil.does(t, func(w http.ResponseWriter, q *http.Request) bool {
			if !strings.HasSuffix(q.URL.Path, "/manifests/"+fresh) {
				return false
			}
			w.Header().Set("Content-Type", manifestMedia)
			for block := bytes.Repeat([]byte(" "), 64<<10); ; {
				if _, err := w.Write(block); err != nil {
					return true
				}
			}
		})
		g.refused(t, "evil-endless", image+"@"+fresh, "redoubt: ")
	})
	t.Run("does not answer", func(t *testing.T) {
		fresh := g.push(t, "app/evil", "hangs")
		g.evil.does(t, func(_ http.ResponseWriter, q *http.Request) bool {
			select {
			case <-q.Context().Done():
			case <-time.After(commandTimeout):
			}
			return true
		})
		g.refused(t, "evil-hangs", image+"@"+fresh, "redoubt: ")
	})
}

// tooMany: more images in one object than are looked at.
func tooMany(t *testing.T, g *gated, web, signed string) {
	pod := func(n int, reference func(int) string) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf(`{"name":"c%d","image":%q}`, i, reference(i)))
		}
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"generateName":"many-"},"spec":{"containers":[` + strings.Join(all, ",") + `]}}`
	}
	code, answer, _ := g.create(t, "Pod", "apps", pod(33, func(i int) string { return fmt.Sprintf("%s:%d", web, i) }))
	if code/100 == 2 || !strings.Contains(message(answer), "33 different images in one object, at most 32") {
		t.Errorf("33 images: %d %s", code, message(answer))
	}
	if code, answer, _ := g.create(t, "Pod", "apps", pod(33, func(int) string { return web + "@" + signed })); code != http.StatusCreated {
		t.Errorf("33 containers of one image: %d %s", code, message(answer))
	}
}

// subresources: by none of a kind's subresources, and by no update, does an object come to name an image that the policy does not allow.
func subresources(t *testing.T, g *gated, web, signed string) {
	pinned, bad := web+"@"+signed, web+":unsigned"
	object := strings.Replace(fmt.Sprintf(podJSON, "sub", pinned), `"image"`, `"resources":{"requests":{"cpu":"10m"}},"image"`, 1)
	if code, answer, _ := g.create(t, "Pod", "apps", object); code != http.StatusCreated {
		t.Fatalf("%d %s", code, message(answer))
	}
	template := fmt.Sprintf(`{"metadata":{"labels":{"a":"sub"}},"spec":{"containers":[{"name":"c","image":%q}]}}`, pinned)
	for kind, spec := range map[string]string{
		"Deployment": `{"apiVersion":"apps/v1","kind":"Deployment"`, "ReplicaSet": `{"apiVersion":"apps/v1","kind":"ReplicaSet"`, "StatefulSet": `{"apiVersion":"apps/v1","kind":"StatefulSet"`,
	} {
		object := spec + `,"metadata":{"name":"sub"},"spec":{"replicas":1,"serviceName":"x","selector":{"matchLabels":{"a":"sub"}},"template":` + template + `}}`
		if kind != "StatefulSet" {
			object = strings.Replace(object, `"serviceName":"x",`, "", 1)
		}
		if code, answer, _ := g.create(t, kind, "apps", object); code != http.StatusCreated {
			t.Fatalf("%s: %d %s", kind, code, message(answer))
		}
	}
	change := fmt.Sprintf(`{"spec":{"containers":[{"name":"c","image":%q}]}}`, bad)
	templateChange := `{"spec":{"template":` + change + `}}`
	for path, patch := range map[string]string{
		"pods/sub": change, "pods/sub/status": change, "pods/sub/resize": change, "pods/sub/ephemeralcontainers": strings.Replace(change, "containers", "ephemeralContainers", 1),
		"apps/deployments/sub": templateChange, "apps/deployments/sub/status": templateChange, "apps/deployments/sub/scale": templateChange,
		"apps/replicasets/sub": templateChange, "apps/replicasets/sub/status": templateChange, "apps/replicasets/sub/scale": templateChange,
		"apps/statefulsets/sub": templateChange, "apps/statefulsets/sub/status": templateChange, "apps/statefulsets/sub/scale": templateChange,
	} {
		t.Run(strings.ReplaceAll(path, "/", " "), func(t *testing.T) {
			at, rest := "/api/v1/namespaces/apps/", path
			if after, ok := strings.CutPrefix(path, "apps/"); ok {
				at, rest = "/apis/apps/v1/namespaces/apps/", after
			}
			code, answer, _ := g.ask(http.MethodPatch, at+rest, "application/strategic-merge-patch+json", []byte(patch))
			_, held, _ := g.ask(http.MethodGet, at+strings.Join(strings.Split(rest, "/")[:2], "/"), "", nil)
			if !bytes.Contains(held, []byte(pinned)) || bytes.Contains(held, []byte(`"`+bad+`"`)) {
				t.Errorf("%d %s: now it is %s", code, message(string(answer)), imageOf(string(held)))
			}
			if strings.Count(rest, "/") == 1 && code/100 == 2 {
				t.Errorf("the update was taken: %d", code)
			}
		})
	}
	t.Run("pods sub resize, as it is for", func(t *testing.T) {
		code, answer, _ := g.ask(http.MethodPatch, "/api/v1/namespaces/apps/pods/sub/resize", "application/strategic-merge-patch+json", []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"20m"}}}]}}`))
		if code/100 != 2 {
			t.Errorf("%d %s", code, message(string(answer)))
		}
	})
	t.Run("pods sub binding", func(t *testing.T) { // names no image, and passes
		code, answer, _ := g.ask(http.MethodPost, "/api/v1/namespaces/apps/pods/sub/binding", "application/json", []byte(`{"apiVersion":"v1","kind":"Binding","metadata":{"name":"sub"},"target":{"kind":"Node","name":"n"}}`))
		if code/100 != 2 {
			t.Errorf("%d %s", code, message(string(answer)))
		}
	})
}
