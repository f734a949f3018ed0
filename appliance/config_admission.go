package main

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.internal/appliance/admission"
	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/policy"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/ca/frontend"
	"redoubt.internal/log/strictyaml"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/images"
)

// Admission is the configuration of `redoubt admission`: a file of its own, because a cluster's gate runs where no appliance does. Its paths are
// relative to the folder of the file.
type Admission struct {
	// Domain is the deployment for which people approve exceptions.
	Domain string `yaml:"domain"`
	// Policy is the policy file.
	Policy string `yaml:"policy"`
	// Roots say of the policy's trusted roots when they were obtained; one that is left out is as old as its file.
	Roots []AdmissionRoot `yaml:"roots,omitempty"`
	// MirrorState is a mirror's state.note, or the folder that holds it: how fresh the logs are. A log beyond its thresholds refuses.
	MirrorState string `yaml:"mirror-state,omitempty"`
	// MirrorKey is the line, or the file with the line, that checks it; left out, state.key beside it.
	MirrorKey string `yaml:"mirror-key,omitempty"`
	// Observe is the state directory of a mirror that is left the log proofs of the bundles seen here, as `redoubt verify --observe` does.
	Observe string `yaml:"observe,omitempty"`
	// Registries are all that are asked. An image of another one is refused without a connection.
	Registries []AdmissionRegistry `yaml:"registries"`
	// PullSecrets reads registries with the pull secrets of the pod or its service account where they have any. It needs the right to read secrets.
	PullSecrets bool `yaml:"pull-secrets,omitempty"`
	// Mode is enforce (default), warn (it passes, who asked is told) or audit (it passes, and stands in the API server's audit log).
	Mode string `yaml:"mode,omitempty"`
	// Namespaces have modes of their own.
	Namespaces map[string]string `yaml:"namespaces,omitempty"`
	// Own is what the gate itself runs from.
	Own AdmissionOwn `yaml:"own,omitempty"`
	// State keeps receipts, the record of what passed against the policy, and the webhook's TLS root where there is no cluster.
	State string `yaml:"state"`
	// Listen is where the webhook listens; default :8443.
	Listen string `yaml:"listen,omitempty"`
	// Metrics is where metrics and results are served in plain HTTP; default 127.0.0.1:9443.
	Metrics string `yaml:"metrics,omitempty"`
	// Names are what the API server calls the webhook, names or addresses; default NAME.NAMESPACE.svc of own.
	Names []string `yaml:"names,omitempty"`
	// Timeout bounds one review; default 8s. A shorter one of the API server counts.
	Timeout Duration `yaml:"timeout,omitempty"`
	// CacheFor is how long a decision to allow is kept while trust and policy stay; default 10m.
	CacheFor Duration `yaml:"cache-for,omitempty"`
	// Grace is how long what was admitted before is still admitted once trust is too old; default 720h, negative for none.
	Grace Duration `yaml:"grace,omitempty"`
	// Approvers are the people who let in what the policy refuses and put another policy in force, at least two of them together.
	Approvers *Approvers `yaml:"approvers,omitempty"`
	// Approvals is the folder of approved acts (*.act) and approvals (*.json). In a cluster that is a volume which every replica reads: a ConfigMap
	// NAME-approvals, of name of own, is mounted there.
	Approvals string `yaml:"approvals,omitempty"`
	// PolicyReports is auto (default: what was refused stands in policy reports of its namespace, where the cluster has their kind) or off.
	PolicyReports string `yaml:"policy-reports,omitempty"`
	// Cluster is the API server; left out, that of the pod this runs in, if any.
	Cluster *AdmissionCluster `yaml:"cluster,omitempty"`

	dir string
}

// AdmissionRoot is one trusted root of the policy.
type AdmissionRoot struct {
	// Name is its name in the policy.
	Name string `yaml:"name"`
	// File is its trusted_root.json.
	File string `yaml:"file"`
	// AsOf is when it was obtained or confirmed.
	AsOf time.Time `yaml:"as-of"`
}

// AdmissionRegistry is one registry.
type AdmissionRegistry struct {
	// Registry is HOST or HOST:PORT, as images name it.
	Registry string `yaml:"registry"`
	// Also are other hosts the registry may send us to: its token server, the store of its blobs.
	Also []string `yaml:"also,omitempty"`
	// PlainHTTP allows http; to loopback it is always allowed.
	PlainHTTP bool `yaml:"plain-http,omitempty"`
	// CAFile holds the roots, in PEM, that the registry is believed by; left out, the machine's.
	CAFile string `yaml:"ca-file,omitempty"`
	// DockerConfig is a folder with docker's config.json, whose credentials for the registry are used.
	DockerConfig string `yaml:"docker-config,omitempty"`
}

// AdmissionOwn is what the gate itself runs from.
type AdmissionOwn struct {
	// Namespace is where it runs; default redoubt-admission.
	Namespace string `yaml:"namespace,omitempty"`
	// Name is that of its service, its deployment, its secret and the webhook configurations; default redoubt-admission.
	Name string `yaml:"name,omitempty"`
	// Digests are those of its own image. They pass in its namespace, or it could not start where it is asked first.
	Digests []string `yaml:"digests,omitempty"`
}

// AdmissionCluster is how an API server is reached.
type AdmissionCluster struct {
	// URL is https://HOST:PORT.
	URL string `yaml:"url"`
	// CAFile holds the roots, in PEM, that it is believed by.
	CAFile string `yaml:"ca-file"`
	// TokenFile holds the bearer token; it is read for each request.
	TokenFile string `yaml:"token-file"`
}

const defaultOwn = "redoubt-admission"

// loadAdmission reads the file and fills in what is left out.
func loadAdmission(path string) (*Admission, error) {
	if path == "" {
		return nil, cmdline.Usage("--admission-config FILE is missing; `redoubt docs gate-config` explains the file")
	}
	data, err := readRecord(path)
	if err != nil {
		return nil, err
	}
	a, err := strictyaml.Decode[Admission](data)
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("%w: %s: %w", errConfig, path, err), "`redoubt docs gate-config` explains every key")
	}
	a.dir = filepath.Dir(path)
	for _, d := range []struct {
		field *string
		value string
	}{{&a.Listen, ":8443"}, {&a.Metrics, "127.0.0.1:9443"}, {&a.Own.Namespace, defaultOwn}, {&a.Own.Name, defaultOwn}} {
		if *d.field == "" {
			*d.field = d.value
		}
	}
	if len(a.Names) == 0 {
		a.Names = []string{a.Own.Name + "." + a.Own.Namespace + ".svc"}
	}
	for field, value := range map[string]string{"domain": a.Domain, "policy": a.Policy, "state": a.State} {
		if value == "" {
			err = errors.Join(err, fmt.Errorf("%s is missing", field))
		}
	}
	if !slices.Contains([]string{"", "auto", "off"}, a.PolicyReports) {
		err = errors.Join(err, fmt.Errorf("policy-reports: %q; known are auto and off", a.PolicyReports))
	}
	if (a.Approvers == nil) != (a.Approvals == "") {
		err = errors.Join(err, errors.New("approvers and approvals belong together"))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", errConfig, path, err)
	}
	return a, nil
}

func (a *Admission) path(name string) string {
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(a.dir, name)
}

// gate is the configuration as the gate takes it.
func (a *Admission) gate(logger *slog.Logger) (admission.Config, error) {
	c := admission.Config{
		Mode: admission.Mode(a.Mode), Modes: map[string]admission.Mode{}, OwnName: a.Own.Name, OwnNamespace: a.Own.Namespace, OwnDigests: a.Own.Digests,
		Timeout: time.Duration(a.Timeout), CacheFor: time.Duration(a.CacheFor), Grace: time.Duration(a.Grace), Dir: a.path(a.State), Reports: a.PolicyReports != "off", Logger: logger, Now: clock,
	}
	for namespace, mode := range a.Namespaces {
		c.Modes[namespace] = admission.Mode(mode)
	}
	if a.Observe != "" {
		c.Spool = layout{a.path(a.Observe)}.spool()
	}
	for _, r := range a.Registries {
		access := images.Access{Host: r.Registry, Also: r.Also, PlainHTTP: r.PlainHTTP, DockerConfig: a.path(r.DockerConfig)}
		transport, err := registryTransport(a.path(r.CAFile))
		if err != nil {
			return c, fmt.Errorf("%w: registries: ca-file: %w", errConfig, err)
		}
		access.Transport = transport
		c.Registries = append(c.Registries, access)
	}
	return c, nil
}

// people are who approves; nil where nobody is named.
func (a *Admission) people() *admission.People {
	if a.Approvers == nil {
		return nil
	}
	return &admission.People{Approvers: a.Approvers.group(), Domain: a.Domain, Dir: a.path(a.Approvals)}
}

// rules reads policy and trust as they are now.
func (a *Admission) rules(logger *slog.Logger) (*admission.Rules, error) {
	var roots []verify.Root
	for _, r := range a.Roots {
		data, err := verifying.ReadBounded("trusted root", a.path(r.File))
		if err != nil {
			return nil, err
		}
		if r.AsOf.IsZero() {
			info, err := os.Stat(a.path(r.File))
			if err != nil {
				return nil, err
			}
			r.AsOf = info.ModTime()
		}
		roots = append(roots, verify.Root{Name: r.Name, JSON: data, AsOf: r.AsOf})
	}
	var known *freshness.State
	if a.MirrorState != "" {
		var err error
		if known, _, err = verifying.OpenUpstream(a.path(a.MirrorState), a.MirrorKey); err != nil {
			return nil, err
		}
	}
	text, err := policy.ReadFile(a.path(a.Policy))
	if err != nil {
		return nil, err
	}
	held := false
	if a.Approvers != nil {
		if text, held, err = admission.HoldPolicy(*a.people(), a.path(a.State), text, clock(), logger); err != nil {
			return nil, err
		}
	}
	rules, err := admission.ParseRules(text, a.path(a.Policy), roots, known, clock)
	if err != nil {
		return nil, err
	}
	if rules.Unapproved = held; held {
		logger.Error("the policy file holds a policy that nobody approved; the former is in force", "file", a.path(a.Policy),
			"next", "`redoubt admission propose --kind policy` writes the act that people approve")
	}
	return rules, a.holdDenied(rules.Policy.DeniedVersions())
}

func (a *Admission) names() (n frontend.Names) {
	for _, name := range a.Names {
		if ip := net.ParseIP(name); ip != nil {
			n.IP = append(n.IP, ip)
			continue
		}
		n.DNS = append(n.DNS, strings.TrimSuffix(name, "."))
	}
	if len(n.DNS) == 0 { // its root has to be bound to some name
		n.DNS = []string{a.Own.Name + "." + a.Own.Namespace + ".svc"}
	}
	return n
}

// cluster is the API server, nil where there is none.
func (a *Admission) cluster() *admission.Cluster {
	if a.Cluster != nil {
		return &admission.Cluster{URL: a.Cluster.URL, CAFile: a.path(a.Cluster.CAFile), TokenFile: a.path(a.Cluster.TokenFile)}
	}
	if c, ok := admission.InCluster(); ok {
		return &c
	}
	return nil
}
