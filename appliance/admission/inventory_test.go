package admission

import (
	"context"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// objectsOf is an API server that holds a pod that runs, one that does not run yet, a deployment on the second page, and an object of a later release.
func objectsOf(t *testing.T) (kubeconfig string, server *httptest.Server) {
	t.Helper()
	digest := "sha256:" + strings.Repeat("1", 64)
	pages := map[string]string{
		"/api/v1/pods": `{"items":[
			{"metadata":{"namespace":"apps","name":"runs"},"spec":{"containers":[{"name":"c","image":"reg/app:1"}],"initContainers":[{"name":"i","image":"reg/init:1"}]},
			 "status":{"containerStatuses":[{"name":"c","imageID":"docker-pullable://reg/app@` + digest + `"}]}},
			{"metadata":{"namespace":"apps","name":"waits"},"spec":{"containers":[{"name":"c","image":"reg/app:1"}]}},
			{"metadata":{"namespace":"apps","name":"later"},"spec":{"sideContainers":[],"containers":[{"name":"c","image":"reg/app:1"}]}}]}`,
		"/apis/apps/v1/deployments":  `{"metadata":{"continue":"a b"},"items":[]}`,
		"/apis/apps/v1/deployments2": `{"items":[{"metadata":{"namespace":"apps","name":"web"},"spec":{"template":{"spec":{"containers":[{"name":"c","image":"reg/web:2"}]}}}}]}`,
	}
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.Header.Get("Authorization") != "Bearer secret-token" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		path := q.URL.Path
		if q.URL.Query().Get("continue") == "a b" {
			path += "2"
		}
		fmt.Fprint(w, orEmpty(pages[path]))
	}))
	t.Cleanup(server.Close)
	ca := base64.StdEncoding.EncodeToString(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	kubeconfig = filepath.Join(t.TempDir(), "config")
	text := fmt.Sprintf("apiVersion: v1\nkind: Config\npreferences: {}\ncurrent-context: here\ncontexts:\n- {name: other, context: {cluster: no, user: no}}\n- {name: here, context: {cluster: c, user: u}}\nclusters:\n- {name: c, cluster: {server: %q, certificate-authority-data: %s}}\nusers:\n- {name: u, user: {token: secret-token}}\n", server.URL, ca)
	if err := os.WriteFile(kubeconfig, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return kubeconfig, server
}

func orEmpty(page string) string {
	if page == "" {
		return `{"items":[]}`
	}
	return page
}

func TestImages(t *testing.T) {
	file, _ := objectsOf(t)
	c, err := Kubeconfig(file)
	if err != nil {
		t.Fatal(err)
	}
	used, err := Images(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, u := range used {
		got = append(got, u.Image+" "+strings.Join(u.Where, ", ")+u.Problem)
	}
	want := []string{
		`reg/app:1 apps/Pod waits: containers "c"`,
		`reg/app:1@sha256:` + strings.Repeat("1", 64) + ` apps/Pod runs: containers "c"`,
		`reg/init:1 apps/Pod runs: initContainers "i"`,
		`reg/web:2 apps/Deployment web: containers "c"`,
		` apps/Pod later: `,
	}
	if len(got) != len(want) {
		t.Fatalf("%q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("%q, want %q", got[i], want[i])
		}
	}
	c.Token = "another"
	if _, err := Images(context.Background(), c); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("with another token: %v", err)
	}
}

func TestKubeconfigRefuses(t *testing.T) {
	file, _ := objectsOf(t)
	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string][2]string{
		"no such context":  {"current-context: here", "current-context: there"},
		"a program":        {"{token: secret-token}", "{exec: {command: sh}}"},
		"a provider":       {"{token: secret-token}", "{auth-provider: {name: oidc}}"},
		"no certificate":   {"cluster: {server", "cluster: {insecure-skip-tls-verify: true, server"},
		"an authority":     {"certificate-authority-data: ", "certificate-authority-data: '%'#"},
		"half a key pair":  {"{token: secret-token}", "{client-certificate-data: AAAA}"},
		"not YAML":         {"contexts:", "contexts: ["},
		"a key pair, none": {"{token: secret-token}", "{client-certificate-data: AAAA, client-key-data: AAAA}"},
	} {
		bad := filepath.Join(t.TempDir(), "config")
		if err := os.WriteFile(bad, []byte(strings.Replace(string(good), change[0], change[1], 1)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Kubeconfig(bad); err == nil || strings.Contains(err.Error(), "secret-token") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Kubeconfig(file + "x"); err == nil {
		t.Error("a file that is not there is read")
	}
}

func FuzzKubeconfig(f *testing.F) {
	f.Add([]byte("current-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\nclusters: [{name: c, cluster: {server: 'https://x'}}]\nusers: [{name: u, user: {token: t}}]\n"))
	f.Add([]byte("users: [{name: u, user: {exec: {command: sh}}}]\n"))
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file := filepath.Join(dir, "config")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if c, err := Kubeconfig(file); err != nil && c.URL+c.Token != "" {
			t.Errorf("%v with %v", c, err)
		}
	})
}
