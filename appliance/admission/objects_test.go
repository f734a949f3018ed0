package admission

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
)

// podSpec names one image in every list that there is.
const podSpec = `{"initContainers":[{"name":"i","image":"r.internal/init:1"}],"containers":[{"name":"a","image":"r.internal/app:1"},{"name":"b","image":"r.internal/app:1"}],
"ephemeralContainers":[{"name":"d","image":"r.internal/debug:1"}],"volumes":[{"name":"c","configMap":{"name":"x"}},{"name":"r","rbd":{"image":"a block device"}},{"name":"m","image":{"reference":"r.internal/model:1"}}]}`

func TestImagesOfEveryKind(t *testing.T) {
	tail := []string{"/initContainers/0/image", "/containers/0/image", "/containers/1/image", "/ephemeralContainers/0/image", "/volumes/2/image/reference"}
	for _, c := range []struct{ group, version, kind, path, object string }{
		{"", "v1", "Pod", "/spec", `{"spec":%s}`},
		{"", "v1", "PodTemplate", "/template/spec", `{"template":{"spec":%s}}`},
		{"", "v1", "ReplicationController", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"apps", "v1", "Deployment", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"apps", "v1", "StatefulSet", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"apps", "v1", "DaemonSet", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"apps", "v1", "ReplicaSet", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"batch", "v1", "Job", "/spec/template/spec", `{"spec":{"template":{"spec":%s}}}`},
		{"batch", "v1", "CronJob", "/spec/jobTemplate/spec/template/spec", `{"spec":{"jobTemplate":{"spec":{"template":{"spec":%s}}}}}`},
	} {
		t.Run(c.kind, func(t *testing.T) {
			kind := groupVersionKind{c.group, c.version, c.kind}
			uses, err := imagesOf(kind, object(kind, fmt.Sprintf(c.object, podSpec)))
			if err != nil || len(uses) != len(tail) {
				t.Fatalf("%v, %v", uses, err)
			}
			for i, u := range uses {
				if u.path != c.path+tail[i] || !strings.HasPrefix(u.image, "r.internal/") {
					t.Errorf("%d: %+v, want %s", i, u, c.path+tail[i])
				}
			}
		})
	}
}

// object adds what every object says of itself.
func object(kind groupVersionKind, text string) json.RawMessage {
	version := kind.Version
	if kind.Group != "" {
		version = kind.Group + "/" + version
	}
	return json.RawMessage(fmt.Sprintf(`{"apiVersion":%q,"kind":%q,%s`, version, kind.Kind, text[1:]))
}

// TestObjectsThatCannotBeRead: whatever might run something that was not looked at is refused.
func TestObjectsThatCannotBeRead(t *testing.T) {
	pod := groupVersionKind{"", "v1", "Pod"}
	for name, c := range map[string]struct {
		kind   groupVersionKind
		object string
	}{
		"unknown kind":            {groupVersionKind{"argoproj.io", "v1alpha1", "Rollout"}, `{"spec":{"template":{"spec":{"containers":[]}}}}`},
		"no spec":                 {pod, `{"metadata":{}}`},
		"spec is a list":          {pod, `{"spec":[]}`},
		"containers is an object": {pod, `{"spec":{"containers":{"a":{"image":"x"}}}}`},
		"container is a text":     {pod, `{"spec":{"containers":["x"]}}`},
		"no image":                {pod, `{"spec":{"containers":[{"name":"a"}]}}`},
		"empty image":             {pod, `{"spec":{"containers":[{"name":"a","image":""}]}}`},
		"image is a number":       {pod, `{"spec":{"containers":[{"name":"a","image":1}]}}`},
		"a new list":              {pod, `{"spec":{"containers":[],"sidecarContainers":[{"name":"a","image":"x"}]}}`},
		"volume without image":    {pod, `{"spec":{"containers":[],"volumes":[{"name":"a","image":{}}]}}`},
		"volume image is a text":  {pod, `{"spec":{"containers":[],"volumes":[{"name":"a","image":"x"}]}}`},
		"no template":             {groupVersionKind{"apps", "v1", "Deployment"}, `{"spec":{}}`},
	} {
		if uses, err := imagesOf(c.kind, object(c.kind, c.object)); !errors.Is(err, ErrObject) {
			t.Errorf("%s: %v, %v", name, uses, err)
		}
	}
	if _, err := imagesOf(pod, object(groupVersionKind{"", "v1", "Service"}, `{"spec":{"containers":[]}}`)); !errors.Is(err, ErrObject) {
		t.Errorf("an object of another kind than the request: %v", err)
	}
	if uses, err := imagesOf(groupVersionKind{"autoscaling", "v1", "Scale"}, json.RawMessage(`{}`)); err != nil || uses != nil {
		t.Errorf("a scale: %v, %v", uses, err)
	}
}

// TestChanged: only what did not stand at the same place before is asked about.
func TestChanged(t *testing.T) {
	before := []use{{"/spec/containers/0/image", `containers "a"`, "x"}, {"/spec/containers/1/image", `containers "b"`, "y"}}
	now := []use{{"/spec/containers/0/image", `containers "b"`, "y"}, {"/spec/containers/1/image", `containers "a"`, "z"}, {"/spec/initContainers/0/image", `initContainers "a"`, "x"}}
	if got := changed(now, before); len(got) != 2 || got[0].image != "z" || got[1].where != `initContainers "a"` {
		t.Errorf("%+v", got)
	}
}

func TestPatch(t *testing.T) {
	uses := []use{{"/spec/containers/0/image", "", "a:1"}, {"/spec/containers/1/image", "", "b@sha256:1"}, {"/spec/containers/2/image", "", "a:1"}}
	got, err := patch(uses, map[string]string{"a:1": "a:1@sha256:0", "b@sha256:1": "b@sha256:1"})
	want := `[{"op":"test","path":"/spec/containers/0/image","value":"a:1"},{"op":"replace","path":"/spec/containers/0/image","value":"a:1@sha256:0"},` +
		`{"op":"test","path":"/spec/containers/2/image","value":"a:1"},{"op":"replace","path":"/spec/containers/2/image","value":"a:1@sha256:0"}]`
	if err != nil || string(got) != want {
		t.Errorf("%s, %v", got, err)
	}
	if got, err := patch(uses[1:2], map[string]string{"b@sha256:1": "b@sha256:1"}); got != nil || err != nil {
		t.Errorf("nothing to change: %s, %v", got, err)
	}
}

// review is an AdmissionReview as an API server sends it.
func review(operation string, kind groupVersionKind, namespace string, object, old json.RawMessage) []byte {
	if object == nil {
		object = json.RawMessage("null")
	}
	if old == nil {
		old = json.RawMessage("null")
	}
	return fmt.Appendf(nil, `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"705ab4f5-6393-11e8-b7cc-42010a800002","kind":{"group":%q,"version":%q,"kind":%q},`+
		`"resource":{"group":"","version":"v1","resource":"pods"},"requestKind":{"group":"","version":"v1","kind":"Pod"},"requestResource":{"group":"","version":"v1","resource":"pods"},`+
		`"name":"app","namespace":%q,"operation":%q,"userInfo":{"username":"dev","groups":["system:authenticated"],"extra":{"some-key":["v"]}},"object":%s,"oldObject":%s,"dryRun":false,`+
		`"options":{"kind":"CreateOptions","apiVersion":"meta.k8s.io/v1"}}}`, kind.Group, kind.Version, kind.Kind, namespace, operation, object, old)
}

func TestDecodeReview(t *testing.T) {
	pod := groupVersionKind{"", "v1", "Pod"}
	good := string(review("CREATE", pod, "apps", object(pod, `{"spec":`+podSpec+`}`), nil))
	r, err := decodeReview([]byte(good))
	if err != nil || r.Kind != pod || r.Namespace != "apps" || r.UserInfo.Username != "dev" || *r.DryRun || isNull(r.Object) || !isNull(r.OldObject) {
		t.Fatalf("%+v, %v", r, err)
	}
	swap := func(old, new string) string {
		t.Helper()
		if !strings.Contains(good, old) {
			t.Fatalf("%s is not in it", old)
		}
		return strings.Replace(good, old, new, 1)
	}
	for name, text := range map[string]string{
		"empty":             "",
		"cut":               good[:len(good)/2],
		"more after it":     good + "{}",
		"another version":   swap("admission.k8s.io/v1", "admission.k8s.io/v1beta1"),
		"another kind":      swap("AdmissionReview", "TokenReview"),
		"no request":        `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1"}`,
		"null request":      `{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":null}`,
		"no uid":            swap("705ab4f5-6393-11e8-b7cc-42010a800002", ""),
		"unknown field":     swap(`"dryRun"`, `"dryrun2":1,"dryRun"`),
		"folded field":      swap(`"dryRun"`, `"Object":{},"dryRun"`),
		"image twice":       swap(`{"name":"i","image":"r.internal/init:1"}`, `{"name":"i","image":"evil","image":"r.internal/init:1"}`),
		"request twice":     swap(`"request":`, `"request":{},"request":`),
		"object is missing": swap(`"object":{`, `"options":{},"oldobject":{`),
		"no UTF-8":          swap("r.internal", "r\xff"),
		"too deep":          swap(`"spec":{`, `"metadata":`+strings.Repeat("[", 80)+strings.Repeat("]", 80)+`,"spec":{`),
		"too large":         swap(`"spec":{`, `"metadata":"`+strings.Repeat("x", MaxBody)+`","spec":{`),
	} {
		if r, err := decodeReview([]byte(text)); !errors.Is(err, ErrReview) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if _, err := decodeReview(review("DELETE", pod, "apps", nil, object(pod, `{"spec":{}}`))); err != nil {
		t.Errorf("DELETE has no object: %v", err)
	}
	if _, err := decodeReview(review("CREATE", pod, "apps", nil, nil)); !errors.Is(err, ErrReview) {
		t.Errorf("CREATE without an object: %v", err)
	}
}

// FuzzReview: nothing panics, and of what is read every place that names an image is where the patch would look for it.
func FuzzReview(f *testing.F) {
	pod, cron := groupVersionKind{"", "v1", "Pod"}, groupVersionKind{"batch", "v1", "CronJob"}
	f.Add(review("CREATE", pod, "apps", object(pod, `{"spec":`+podSpec+`}`), nil))
	f.Add(review("UPDATE", cron, "apps", object(cron, `{"spec":{"jobTemplate":{"spec":{"template":{"spec":`+podSpec+`}}}}}`), object(cron, `{"spec":{}}`)))
	f.Add([]byte(`{"kind":"AdmissionReview","apiVersion":"admission.k8s.io/v1","request":{"uid":"1","operation":"CREATE","object":{}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		r, err := decodeReview(body)
		if err != nil {
			if !errors.Is(err, ErrReview) {
				t.Fatalf("%v", err)
			}
			return
		}
		uses, err := imagesOf(r.Kind, r.Object)
		if err != nil && !errors.Is(err, ErrObject) {
			t.Fatalf("%v", err)
		}
		pullSecretsOf(r.Kind, r.Object)
		for _, u := range uses {
			if got := at(t, r.Object, u.path); got != u.image {
				t.Fatalf("%s holds %v, not %q", u.path, got, u.image)
			}
		}
	})
}

// at follows a JSON Pointer.
func at(t *testing.T, object json.RawMessage, path string) any {
	t.Helper()
	var node any
	if err := json.Unmarshal(object, &node); err != nil {
		t.Fatal(err)
	}
	for _, step := range strings.Split(path, "/")[1:] {
		switch n := node.(type) {
		case map[string]any:
			node = n[step]
		case []any:
			var i int
			fmt.Sscan(step, &i)
			node = n[i]
		}
	}
	return node
}
