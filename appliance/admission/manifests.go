package admission

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"text/template"

	"redoubt.internal/mirror/images"
)

// Manifests are what a cluster needs for the gate.
type Manifests struct {
	Name, Namespace string
	Image           string            // the gate's own, with its digest
	Replicas        int               // how many run
	Claim           string            // PersistentVolumeClaim of the state, "" for none
	PullSecret      string            // by which nodes pull Image
	PullSecrets     bool              // the gate reads pull secrets
	Digests         []string          // of its own image
	Port            string            // where it listens
	State           string            // folder of the state in the pod
	Approvals       string            // folder of acts and approvals in the pod, "" for none of its own
	Reports         bool              // the gate writes policy reports
	Timeout         int               // seconds that the API server waits
	URL             string            // https URL of a webhook outside the cluster, "" for the service
	CABundle        []byte            // PEM; the gate fills it in by itself where it runs in the cluster
	ConfigName      string            // the configuration's name among the files
	Files           map[string][]byte // configuration, and every file that it names
}

// Resources are what the webhook is asked about: every kind that runs containers, and the one subresource by which more are added to a pod.
// The status of a pod cannot change its images, and a gate that is away must not keep nodes from reporting.
const resources = `      - apiGroups: [""]
        apiVersions: ["*"]
        operations: [CREATE, UPDATE]
        resources: [pods, pods/ephemeralcontainers, podtemplates, replicationcontrollers]
      - apiGroups: [apps]
        apiVersions: ["*"]
        operations: [CREATE, UPDATE]
        resources: [deployments, daemonsets, replicasets, statefulsets]
      - apiGroups: [batch]
        apiVersions: ["*"]
        operations: [CREATE, UPDATE]
        resources: [jobs, cronjobs]
`

// exempt is the condition (CEL) under which the webhook is asked: not for what the gate itself runs from, by digest, or a cluster that starts
// cold could never start it. Anything else in its namespace is asked about.
func (m Manifests) exempt() string {
	if len(m.Digests) == 0 {
		return "true"
	}
	var suffixes []string
	for _, d := range m.Digests {
		suffixes = append(suffixes, fmt.Sprintf("c.image.endsWith('@%s')", d))
	}
	own := strings.Join(suffixes, " || ")
	lists := []string{}
	for _, spec := range []string{"object.spec", "object.spec.template.spec"} {
		lists = append(lists, fmt.Sprintf("(has(%[1]s.containers) && %[1]s.containers.all(c, %[2]s) && (!has(%[1]s.initContainers) || %[1]s.initContainers.all(c, %[2]s)) && "+
			"!has(%[1]s.ephemeralContainers) && (!has(%[1]s.volumes) || %[1]s.volumes.all(v, !has(v.image))))", spec, own))
	}
	return fmt.Sprintf("!(request.namespace == '%s' && ((request.kind.kind == 'Pod' && %s) || (request.kind.kind in ['Deployment', 'ReplicaSet'] && %s)))", m.Namespace, lists[0], lists[1])
}

// YAML writes them, in the order in which they are applied: the webhook last, so that everything before it needs none.
func (m Manifests) YAML() ([]byte, error) {
	for _, d := range m.Digests {
		if _, err := images.Hex(d); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrConfig, err)
		}
	}
	if m.URL == "" {
		if ref, err := images.ParseReference(m.Image); err != nil || ref.Digest() == "" {
			return nil, fmt.Errorf("%w: the gate's own image %.200q; HOST/NAME@sha256:HEX is expected", ErrConfig, m.Image)
		}
	} else if !strings.HasPrefix(m.URL, "https://") {
		return nil, fmt.Errorf("%w: the webhook's URL %.200q; https://HOST:PORT is expected", ErrConfig, m.URL)
	}
	funcs := template.FuncMap{
		"resources": func() string { return resources },
		"exempt":    m.exempt,
		"b64":       func(b []byte) string { return base64.StdEncoding.EncodeToString(b) },
		"quote":     func(s string) string { return fmt.Sprintf("%q", s) },
		"names":     m.fileNames,
		"indented":  func(b []byte) string { return strings.ReplaceAll(strings.TrimRight(string(b), "\n"), "\n", "\n    ") },
		"client":    m.client,
		"receipts":  m.receiptMaps,
	}
	text := webhookYAML
	if m.URL == "" {
		text = clusterYAML + webhookYAML
	}
	t, err := template.New("manifests").Funcs(funcs).Parse(text)
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	err = t.Execute(&out, m)
	return out.Bytes(), err
}

func (m Manifests) fileNames() (names []string) {
	for name := range m.Files {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// receiptMaps are the names of the ConfigMaps in which replicas share their receipts.
func (m Manifests) receiptMaps() string {
	s := shared{name: m.Name}
	var names []string
	for _, digit := range "0123456789abcdef" {
		names = append(names, s.mapOf(string(digit)))
	}
	return strings.Join(names, ", ")
}

// client is how the API server reaches a path of the webhook.
func (m Manifests) client(path string) string {
	out := fmt.Sprintf("      service: {namespace: %s, name: %s, path: %s, port: 443}", m.Namespace, m.Name, path)
	if m.URL != "" {
		out = fmt.Sprintf("      url: %q", strings.TrimSuffix(m.URL, "/")+path)
	}
	if len(m.CABundle) > 0 {
		out += "\n      caBundle: " + base64.StdEncoding.EncodeToString(m.CABundle)
	}
	return out
}
