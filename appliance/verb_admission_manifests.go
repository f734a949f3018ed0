package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/admission"
	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verifying"
)

// maxConfigMap is what a ConfigMap may hold, less what surrounds it.
const maxConfigMap = 900 << 10

var errAdmissionFiles = errors.New("the folder of the gate's configuration cannot be carried into a cluster")

// admissionManifests prints the manifests. The configuration's folder goes along whole: what the policy names stands in it.
func admissionManifests(c *cli.Context) error {
	if c.IsSet("for") {
		return gateManifests(c)
	}
	path := c.String("admission-config")
	a, err := loadAdmission(path)
	if err != nil {
		return err
	}
	m := admission.Manifests{
		Name: a.Own.Name, Namespace: a.Own.Namespace, Image: c.String("image"), Replicas: c.Int("replicas"), Claim: c.String("state-claim"), PullSecret: c.String("pull-secret"),
		PullSecrets: a.PullSecrets, Reports: a.PolicyReports != "off", Digests: a.Own.Digests, State: a.path(a.State), URL: c.String("url"), ConfigName: filepath.Base(path),
		Timeout: int((a.Timeout.or(admission.DefaultTimeout) + 2*time.Second) / time.Second),
	}
	if _, m.Port, err = net.SplitHostPort(a.Listen); err != nil {
		return fmt.Errorf("%w: listen: %w", errConfig, err)
	}
	if m.URL != "" {
		bundle := filepath.Join(a.path(a.State), "tls", "ca-bundle.pem")
		if m.CABundle, err = os.ReadFile(bundle); err != nil {
			return cmdline.Hinted(fmt.Errorf("reading whom the API server trusts for the webhook: %w", err), "`redoubt admission serve` makes it at its first start")
		}
	} else {
		if !filepath.IsAbs(a.State) {
			return cmdline.Hinted(fmt.Errorf("%w: state: %q is relative; in a cluster it is a volume's folder", errConfig, a.State), "set state: /var/lib/redoubt-admission")
		}
		switch { // "." is the ConfigMap of the configuration itself
		case filepath.IsAbs(a.Approvals):
			m.Approvals = a.Approvals
		case a.Approvals != "" && a.Approvals != ".":
			return cmdline.Hinted(fmt.Errorf("%w: approvals: %q is relative; in a cluster it is a volume's folder", errConfig, a.Approvals), "set approvals: /etc/redoubt/approvals")
		}
		if _, digest, ok := strings.Cut(m.Image, "@"); ok && len(m.Digests) == 0 {
			m.Digests = []string{digest}
		} else if ok && !slices.Contains(m.Digests, digest) {
			return cmdline.Hinted(fmt.Errorf("%w: own.digests: the digest of --image is none of them, so the gate would ask itself whether it may start", errConfig), "add %s", digest)
		}
		if m.Files, err = admissionFiles(a.dir); err != nil {
			return err
		}
	}
	text, err := m.YAML()
	if err != nil {
		return cmdline.Usage("%v", err)
	}
	_, err = c.App.Writer.Write(text)
	return err
}

// admissionFiles reads the files of the folder. A key does not belong into a ConfigMap.
func admissionFiles(dir string) (map[string][]byte, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	out, size := map[string][]byte{}, 0
	for _, e := range entries {
		if !e.Type().IsRegular() && e.Type() != fs.ModeSymlink || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		file := filepath.Join(dir, e.Name())
		if info, err := os.Stat(file); err != nil || !info.Mode().IsRegular() {
			continue
		}
		data, err := verifying.ReadBounded("file of the gate's configuration", file)
		if err != nil {
			return nil, err
		}
		if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
			return nil, fmt.Errorf("%w: %s holds a private key", errAdmissionFiles, file)
		}
		if size += len(data) * 4 / 3; size > maxConfigMap {
			return nil, cmdline.Hinted(fmt.Errorf("%w: its files are larger than %d bytes", errAdmissionFiles, maxConfigMap), "keep what the gate needs in a folder of its own")
		}
		out[e.Name()] = data
	}
	return out, nil
}
