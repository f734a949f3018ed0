//go:build e2e

package e2e

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// pullSecrets: what needs a login is read with the pull secret of who asks, and not without.
func pullSecrets(t *testing.T, g *gated, signed string) {
	g.privateImage(t, "app/web", signed)
	image := g.private + "/app/web@" + signed
	g.refused(t, "no-secret", image, "did not answer")
	secret := base64.StdEncoding.EncodeToString([]byte(g.dockerConfig()))
	g.apply(t, "apiVersion: v1\nkind: Secret\ntype: kubernetes.io/dockerconfigjson\nmetadata: {name: pull, namespace: apps}\ndata: {.dockerconfigjson: "+secret+"}")
	object := strings.Replace(fmt.Sprintf(podJSON, "with-secret", image), `"spec":{`, `"spec":{"imagePullSecrets":[{"name":"pull"}],`, 1)
	if code, answer, _ := g.create(t, "Pod", "apps", object); code != http.StatusCreated {
		t.Errorf("with the secret: %d %s", code, message(answer))
	}
}

// everyKind makes each kind that runs containers of an image that is signed and of one that is not, in each list of containers.
func everyKind(t *testing.T, g *gated, web, signed string) {
	template := func(init, image string) string {
		return fmt.Sprintf(`{"metadata":{"labels":{"a":"b"}},"spec":{"restartPolicy":"RESTART","initContainers":[{"name":"i","image":%q}],"containers":[{"name":"c","image":%q}]}}`, init, image)
	}
	for kind, form := range map[string]string{
		"Deployment":            `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"StatefulSet":           `{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"NAME"},"spec":{"serviceName":"x","selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"DaemonSet":             `{"apiVersion":"apps/v1","kind":"DaemonSet","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"ReplicaSet":            `{"apiVersion":"apps/v1","kind":"ReplicaSet","metadata":{"name":"NAME"},"spec":{"selector":{"matchLabels":{"a":"b"}},"template":TEMPLATE}}`,
		"ReplicationController": `{"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"NAME"},"spec":{"selector":{"a":"b"},"template":TEMPLATE}}`,
		"PodTemplate":           `{"apiVersion":"v1","kind":"PodTemplate","metadata":{"name":"NAME"},"template":TEMPLATE}`,
		"Job":                   `{"apiVersion":"batch/v1","kind":"Job","metadata":{"name":"NAME"},"spec":{"template":TEMPLATE}}`,
		"CronJob":               `{"apiVersion":"batch/v1","kind":"CronJob","metadata":{"name":"NAME"},"spec":{"schedule":"* * * * *","jobTemplate":{"spec":{"template":TEMPLATE}}}}`,
	} {
		t.Run(kind, func(t *testing.T) {
			restart := "Always"
			if strings.HasSuffix(kind, "Job") {
				restart = "Never"
			}
			make := func(name, template string) (int, string) {
				code, answer, _ := g.create(t, kind, "apps", strings.NewReplacer("NAME", name, "TEMPLATE", strings.Replace(template, "RESTART", restart, 1)).Replace(form))
				return code, answer
			}
			if code, answer := make("signed", template(web+":1", web+":1")); code != http.StatusCreated || strings.Count(answer, `"image":"`+web+":1@"+signed+`"`) != 2 {
				t.Errorf("signed: %d %s", code, answer)
			}
			if code, answer := make("unsigned", template(web+":1", web+":unsigned")); code/100 == 2 || !strings.Contains(message(answer), `containers "c"`) {
				t.Errorf("unsigned: %d %s", code, message(answer))
			}
			if code, answer := make("init", template(web+":unsigned", web+":1")); code/100 == 2 || !strings.Contains(message(answer), `initContainers "i"`) {
				t.Errorf("unsigned init container: %d %s", code, message(answer))
			}
		})
	}
}
