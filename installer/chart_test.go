package installer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"testing"
	"text/template"
	"time"

	"go.yaml.in/yaml/v3"
)

// renderChart executes the templates of a packed chart as Helm does, with the few functions they use. What is set goes over the values.
func renderChart(t *testing.T, packed []byte, set string) map[string]string {
	t.Helper()
	files := map[string][]byte{}
	decompressor, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	for archive := tar.NewReader(decompressor); ; {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if files[strings.TrimPrefix(header.Name, "redoubt/")], err = io.ReadAll(archive); err != nil {
			t.Fatal(err)
		}
	}
	values, meta := map[string]any{}, map[string]string{}
	for _, text := range [][]byte{files["values.yaml"], []byte(set)} {
		over := map[string]any{}
		if err := yaml.Unmarshal(text, &over); err != nil {
			t.Fatal(err)
		}
		merge(values, over)
	}
	if err := yaml.Unmarshal(files["Chart.yaml"], &meta); err != nil {
		t.Fatal(err)
	}
	root := template.New("chart").Option("missingkey=error")
	indent := func(n int, s string) string {
		return strings.ReplaceAll(strings.Repeat(" ", n)+s, "\n", "\n"+strings.Repeat(" ", n))
	}
	root.Funcs(template.FuncMap{
		"include": func(name string, data any) (string, error) {
			var out strings.Builder
			err := root.ExecuteTemplate(&out, name, data)
			return out.String(), err
		},
		"nindent":    func(n int, s string) string { return "\n" + indent(n, s) },
		"quote":      func(v any) string { return fmt.Sprintf("%q", fmt.Sprint(v)) },
		"trunc":      func(n int, s string) string { return s[:min(n, len(s))] },
		"trimSuffix": func(suffix, s string) string { return strings.TrimSuffix(s, suffix) },
		"default": func(other, v any) any {
			if v == nil || v == "" {
				return other
			}
			return v
		},
		"required": func(message string, v any) (any, error) {
			if v == nil || v == "" {
				return nil, errors.New(message)
			}
			return v, nil
		},
		"toYaml": func(v any) (string, error) {
			out, err := yaml.Marshal(v)
			return strings.TrimSuffix(string(out), "\n"), err
		},
	})
	for name, text := range files {
		if path.Dir(name) == "templates" {
			if _, err := root.New(name).Parse(string(text)); err != nil {
				t.Fatal(err)
			}
		}
	}
	data := map[string]any{"Values": values, "Release": map[string]string{"Name": "site", "Service": "Helm"}, "Chart": map[string]string{"AppVersion": meta["appVersion"]}}
	rendered := map[string]string{}
	for name := range files {
		if path.Dir(name) != "templates" || strings.HasSuffix(name, ".tpl") {
			continue
		}
		var out strings.Builder
		if err := root.ExecuteTemplate(&out, name, data); err != nil {
			t.Fatal(err)
		}
		if text := strings.TrimSpace(out.String()); text != "" {
			rendered[name] = text
		}
	}
	return rendered
}

func merge(into, over map[string]any) {
	for k, v := range over {
		below, ok := into[k].(map[string]any)
		above, too := v.(map[string]any)
		if ok && too {
			merge(below, above)
			continue
		}
		into[k] = v
	}
}

// packedChart is the chart of a version as a bundle holds it.
func packedChart(t *testing.T, version string) []byte {
	t.Helper()
	members := map[string]member{}
	if err := (Config{Version: version, Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)}).addChart(members); err != nil {
		t.Fatal(err)
	}
	return members["chart/redoubt-"+chartVersion(version)+".tgz"].data
}

// TestChart renders the chart with and without what can be set, and reads what came out: sound YAML, the kinds that are expected, one writer, no root,
// nothing writable but the volumes.
func TestChart(t *testing.T) {
	packed := packedChart(t, "1.2.3")
	if again := packedChart(t, "1.2.3"); !bytes.Equal(packed, again) {
		t.Error("two charts of one version differ")
	}
	for name, test := range map[string]struct {
		set  string
		want []string
	}{
		"as it is": {"", []string{"PersistentVolumeClaim", "NetworkPolicy", "Service", "ServiceAccount", "StatefulSet"}},
		"all": {"init: {enabled: true, domain: corp.internal, args: [--allow-software-keys]}\nimage: {digest: 'sha256:aa'}\nimagePullSecrets: [{name: pull}]\nstorage: {class: fast}\n" +
			"nodeSelector: {a: b}\ntolerations: [{key: k, operator: Exists}]\nenv: [{name: A, value: b}]\nextraVolumes: [{name: hsm, emptyDir: {}}]\nextraVolumeMounts: [{name: hsm, mountPath: /hsm}]\n" +
			"networkPolicy: {from: [{podSelector: {}}], egress: [{ports: [{port: 443}]}]}\nadmission: {manifests: \"kind: Gate\\n\"}\n",
			[]string{"Gate", "Job", "PersistentVolumeClaim", "NetworkPolicy", "Service", "ServiceAccount", "StatefulSet"}},
		"a claim of its own": {"storage: {existingClaim: mine}\nnetworkPolicy: {enabled: false}", []string{"Service", "ServiceAccount", "StatefulSet"}},
	} {
		t.Run(name, func(t *testing.T) {
			kinds := map[string]map[string]any{}
			for file, text := range renderChart(t, packed, test.set) {
				if strings.HasSuffix(file, "NOTES.txt") {
					continue
				}
				object := map[string]any{}
				if err := yaml.Unmarshal([]byte(text), &object); err != nil {
					t.Fatalf("%s: %v\n%s", file, err, text)
				}
				kinds[object["kind"].(string)] = object
				for _, pod := range podSpecs(object) {
					checkPod(t, pod)
				}
			}
			for _, want := range test.want {
				if kinds[want] == nil {
					t.Errorf("no %s", want)
				}
			}
			if len(kinds) != len(test.want) {
				t.Errorf("%d kinds, want %v", len(kinds), test.want)
			}
			if replicas := kinds["StatefulSet"]["spec"].(map[string]any)["replicas"]; replicas != 1 {
				t.Errorf("%v writers", replicas)
			}
		})
	}
}

func podSpecs(object map[string]any) (out []map[string]any) {
	spec, _ := object["spec"].(map[string]any)
	if template, ok := spec["template"].(map[string]any); ok {
		out = append(out, template["spec"].(map[string]any))
	}
	return out
}

func checkPod(t *testing.T, pod map[string]any) {
	t.Helper()
	if security := pod["securityContext"].(map[string]any); security["runAsNonRoot"] != true || security["runAsUser"] != imageUser || pod["automountServiceAccountToken"] != false {
		t.Errorf("a pod with %v", security)
	}
	for _, c := range pod["containers"].([]any) {
		container := c.(map[string]any)
		security := container["securityContext"].(map[string]any)
		if security["readOnlyRootFilesystem"] != true || security["allowPrivilegeEscalation"] != false || fmt.Sprint(security["capabilities"]) != "map[drop:[ALL]]" {
			t.Errorf("a container with %v", security)
		}
		if image := container["image"].(string); !strings.HasSuffix(image, ":1.2.3") && !strings.HasSuffix(image, "@sha256:aa") {
			t.Errorf("image %s", image)
		}
	}
}

func TestVersionsOfPackages(t *testing.T) {
	for v, want := range map[string][2]string{
		"1.2.3": {"1.2.3", "1.2.3"}, "v1.2": {"1.2", "1.2.0"}, "1.2.3-rc.1": {"1.2.3~rc.1", "1.2.3-rc.1"}, "dev": {"0~dev", "0.0.0-dev"}, "0.0.0-test": {"0.0.0~test", "0.0.0-test"},
	} {
		if deb, chart := packageVersion(v), chartVersion(v); deb != want[0] || chart != want[1] {
			t.Errorf("%s: %s and %s, want %v", v, deb, chart, want)
		}
	}
}
