package main

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/ca/frontend"
	"redoubt.internal/hsm"
)

// The certificate of the listeners is the site's own (tls.cert), or made here below the site's TLS root (keys.roles.tls): anew at each
// start, at two thirds of its life, and when somebody asks for it. Its key is in memory alone.

const (
	roleTLS     = "tls" // the root of the listeners' certificates, where the site has none of its own
	tlsRootFile = "pki/tls-root.pem"
	tlsLook     = time.Minute // between looks at the clock: a machine that slept renews soon after
	tlsPatience = time.Hour   // between tries that fail
)

var (
	errNoFrontEnd = errors.New("no server runs on this state directory; one that starts makes a new certificate")
	errSiteCert   = errors.New("the certificate of the listeners is the site's own")
	errNoTLS      = errors.New("there is no certificate of the listeners yet")
)

// tlsAlarms are the days before its end at which a certificate is spoken of.
var tlsAlarms = []int{7, 14, 30}

// frontEnd holds the certificate that the listeners show. It outlives the instances of a server.
type frontEnd struct {
	renewing sync.Mutex
	shown    atomic.Pointer[tls.Certificate]
	failed   atomic.Pointer[error] // why the last renewal failed
}

// certificate is what a handshake asks for.
func (f *frontEnd) certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := f.shown.Load(); c != nil {
		return c, nil
	}
	return nil, errNoTLS
}

// issued tells whether this site's listeners show certificates that are made here.
func (c *Config) issued() bool { return c.TLS.Cert == "" && c.Keys.Roles[roleTLS] != "" }

// encrypts tells whether listeners can speak TLS.
func (c *Config) encrypts() bool { return c.TLS.Cert != "" || c.issued() }

// frontNames are the names that clients call the https services of the roles p by, and of those that further logs and mirrored logs get.
// One role's certificate is for no name that is another's: where roles run apart, it names each log instead of all that may come.
func (c *Config) frontNames(p parts) (names frontend.Names) {
	add := func(name string) {
		if !slices.Contains(names.DNS, name) {
			names.DNS = append(names.DNS, name)
		}
	}
	for _, service := range append([]string{"people"}, serviceNames...) {
		s := p.services(c)[service]
		if s == nil {
			continue
		}
		u, err := url.Parse(s.URL)
		if err != nil || u.Scheme != "https" {
			continue
		}
		host := u.Hostname()
		if ip := net.ParseIP(host); ip != nil {
			if !slices.ContainsFunc(names.IP, ip.Equal) {
				names.IP = append(names.IP, ip)
			}
			continue
		}
		add(host)
		if strings.HasSuffix(host, "."+c.Domain) {
			for _, further := range c.furtherNames(service, p) {
				add(further + "." + c.Domain)
			}
		}
		if service == "mirror" {
			add("*." + host)
		}
	}
	return names
}

// furtherNames are the first labels of names besides its own that a service answers to.
func (c *Config) furtherNames(service string, p parts) (labels []string) {
	switch {
	case p == nil:
		return []string{"*"}
	case service == "rekor":
		for _, a := range c.Log.Artifact {
			labels = append(labels, a.Name)
		}
	case service == "ct":
		labels = c.certificateLogs()
	}
	return labels
}

// makeTLSRoot makes the key and the certificate of the TLS root of a new state directory, and returns the SHA-256 of the certificate.
func makeTLSRoot(ctx context.Context, cfg *Config, dir layout, keys *keyring) (fingerprint string, err error) {
	uri := cfg.Keys.Roles[roleTLS]
	token, err := keys.token(uri)
	if err != nil {
		return "", err
	}
	key, err := token.Generate(ctx, uri, hsm.ECDSAP256)
	if err != nil {
		return "", fmt.Errorf("making the %s key: %w", roleTLS, err)
	}
	permitted := frontend.Names{DNS: []string{cfg.Domain}, IP: cfg.frontNames(nil).IP}
	for _, name := range cfg.frontNames(nil).DNS {
		if name != cfg.Domain && !strings.HasSuffix(name, "."+cfg.Domain) {
			permitted.DNS = append(permitted.DNS, strings.TrimPrefix(name, "*."))
		}
	}
	root, err := frontend.Root(key, cfg.Domain, permitted, clock())
	if err != nil {
		return "", err
	}
	return certificateSum(root), os.WriteFile(dir.path(tlsRootFile), pemChain([]*x509.Certificate{root}), 0o644)
}

// tlsRoot reads the TLS root.
func (in *instance) tlsRoot() (*x509.Certificate, error) {
	chain, err := readChain(in.dir.path(tlsRootFile))
	if err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("reading the TLS root: %w", err), "put %s back from a backup of the state directory", tlsRootFile)
	}
	return chain[0], nil
}

// renew makes a new certificate and shows it from the next handshake on. It is recorded before it is signed.
func (f *frontEnd) renew(ctx context.Context, in *instance, actor string) error {
	f.renewing.Lock()
	defer f.renewing.Unlock()
	err := f.issue(ctx, in, actor)
	f.failed.Store(&err)
	return err
}

func (f *frontEnd) issue(ctx context.Context, in *instance, actor string) error {
	names := in.cfg.frontNames(in.parts)
	key, err := frontend.NewKey()
	if err != nil {
		return err
	}
	leaf, err := in.certifyListener(ctx, actor, key.Public(), names)
	if err != nil {
		return err
	}
	f.shown.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf})
	in.logger.InfoContext(ctx, "certificate of the listeners renewed", "names", names.String(), "until", leaf.NotAfter.UTC())
	return nil
}

// certifyListener has the key of the TLS root sign a certificate over public, here or in the process that has it.
func (in *instance) certifyListener(ctx context.Context, actor string, public crypto.PublicKey, names frontend.Names) (*x509.Certificate, error) {
	if !in.parts.opens(roleTLS) {
		return in.certifyElsewhere(ctx, public, names)
	}
	root, err := in.tlsRoot()
	if err != nil {
		return nil, err
	}
	life := in.cfg.TLS.Life.or(frontend.Life)
	if err := in.record(ctx, actor, "tls.issue", names.String(), map[string]string{"life": life.String()}); err != nil {
		return nil, err
	}
	key, err := in.keys.role(ctx, roleTLS)
	if err != nil {
		return nil, err
	}
	return frontend.Certify(root, key, public, names, life, in.now())
}

// certificateArgs ask for a certificate of the listeners of one process.
type certificateArgs struct {
	Roles  string `json:"roles"`  // that the process runs
	Public []byte `json:"public"` // PKIX
}

// peerCertificate certifies the key of another process's listeners, for the names of its roles alone.
var peerCertificate = verb[certificateArgs, []byte]{certificateOperation, func(ctx context.Context, in *instance, actor string, a certificateArgs) ([]byte, error) {
	p, err := parseParts(a.Roles)
	if err != nil {
		return nil, err
	}
	if role := roleOfActor(actor); role != "" && p.only() != role {
		return nil, fmt.Errorf("%w: a certificate for %s, %s", errStranger, p, actor)
	}
	public, err := x509.ParsePKIXPublicKey(a.Public)
	if err != nil {
		return nil, fmt.Errorf("reading the key to certify: %w", err)
	}
	leaf, err := in.certifyListener(ctx, actor, public, in.cfg.frontNames(p))
	if err != nil {
		return nil, err
	}
	return leaf.Raw, nil
}}

// certifyElsewhere asks the process with the key of the TLS root, and takes from it only what clients would accept.
func (in *instance) certifyElsewhere(ctx context.Context, public crypto.PublicKey, names frontend.Names) (*x509.Certificate, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return nil, err
	}
	answer, err := ask[[]byte](ctx, in.cfg, keyPart(roleTLS), certificateOperation, certificateArgs{in.parts.String(), der})
	if err != nil {
		return nil, fmt.Errorf("asking for a certificate of the listeners: %w", err)
	}
	leaf, err := x509.ParseCertificate(answer)
	if err != nil {
		return nil, fmt.Errorf("reading the certificate of the listeners: %w", err)
	}
	root, err := in.tlsRoot()
	if err != nil {
		return nil, err
	}
	if !hsm.SamePublic(leaf.PublicKey, public) {
		return nil, fmt.Errorf("%w: the certificate is over another key", frontend.ErrKey)
	}
	return leaf, frontend.Accepted(leaf, root, names, in.now())
}

// siteCertificate reads the site's own certificate from its files; its key may be in a token.
func (in *instance) siteCertificate(ctx context.Context, t TLS) (*tls.Certificate, error) {
	if !isKeyURI(t.Key) {
		pair, err := tls.LoadX509KeyPair(in.dir.resolve(t.Cert), in.dir.resolve(t.Key))
		if err != nil {
			return nil, fmt.Errorf("loading the TLS certificate: %w", err)
		}
		return &pair, nil
	}
	chain, err := readChain(in.dir.resolve(t.Cert))
	if err != nil {
		return nil, fmt.Errorf("loading the TLS certificate: %w", err)
	}
	key, err := in.keys.signer(ctx, t.Key)
	if err != nil {
		return nil, fmt.Errorf("opening tls.key: %w", err)
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(chain[0].PublicKey) {
		return nil, fmt.Errorf("tls.key is not the key of %s", t.Cert)
	}
	pair := &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, c := range chain {
		pair.Certificate = append(pair.Certificate, c.Raw)
	}
	return pair, nil
}

// isKeyURI tells a key's URI from a file's name.
func isKeyURI(s string) bool {
	scheme, _, ok := strings.Cut(s, ":")
	return ok && scheme != "" && !strings.ContainsAny(scheme, "/.")
}

// keep renews until ctx ends: at two thirds of a certificate's life, and after a try that failed within the hour,
// within the minute where there is no certificate at all.
func (f *frontEnd) keep(ctx context.Context, in *instance) {
	if !in.cfg.issued() || len(in.cfg.frontNames(in.parts).Strings()) == 0 {
		return
	}
	for wait := tlsLook; ; {
		err := f.look(ctx, in)
		if err != nil && ctx.Err() == nil {
			in.logger.Error("renewing the certificate of the listeners", "error", err)
		}
		if wait = min(2*wait, tlsPatience); err == nil || f.shown.Load() == nil { // each try is in the audit log
			wait = tlsLook
		}
		if errors.Is(err, errRoleDown) && f.shown.Load() == nil { // nothing was tried
			wait = hearAgainAfter
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// tlsLeaf is the certificate that is shown, or without a server the site's own; nil where the next start makes one.
func (in *instance) tlsLeaf() (*x509.Certificate, error) {
	switch {
	case in.front != nil:
		if c := in.front.shown.Load(); c != nil {
			return c.Leaf, nil
		}
		if err := in.front.failed.Load(); err != nil && *err != nil {
			return nil, *err
		}
		return nil, errNoTLS
	case in.cfg.TLS.Cert != "":
		chain, err := readChain(in.dir.resolve(in.cfg.TLS.Cert))
		if err != nil {
			return nil, err
		}
		return chain[0], nil
	}
	return nil, nil
}

// tlsChecks tell how long the certificate of the listeners is valid. One that is made here is spoken of when it was not renewed in time.
func (in *instance) tlsChecks() []check {
	if !in.cfg.encrypts() || len(in.cfg.frontNames(in.parts).Strings()) == 0 {
		return nil
	}
	leaf, err := in.tlsLeaf()
	if leaf == nil && err == nil {
		return nil
	}
	fix := "put a new certificate into the file tls.cert names, then SIGHUP"
	if in.cfg.issued() {
		fix = "`redoubt tls renew`; if it fails, it says which key or token does not answer"
	}
	now := in.now()
	switch {
	case err != nil:
	case !now.Before(leaf.NotAfter):
		err = fmt.Errorf("it ended on %s", leaf.NotAfter.UTC().Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		err = fmt.Errorf("it begins on %s", leaf.NotBefore.UTC().Format(time.DateTime))
	}
	c := result("TLS certificate", err, fix)
	if err != nil || in.cfg.issued() && now.Before(frontend.RenewAt(leaf).Add(2*tlsLook)) {
		return []check{c}
	}
	if days := alarm(tlsAlarms, leaf.NotAfter, now); days > 0 {
		c.Warning, c.Urgent, c.OK, c.Fix = true, days == tlsAlarms[0], false, fix
		c.Reason = fmt.Sprintf("it ends on %s, in %d days; alarms are at 30, 14 and 7", leaf.NotAfter.UTC().Format(time.DateOnly), int(leaf.NotAfter.Sub(now).Hours()/24))
	}
	return []check{c}
}

// look renews the certificate if that is due.
func (f *frontEnd) look(ctx context.Context, in *instance) error {
	if c := f.shown.Load(); c != nil && in.now().Before(frontend.RenewAt(c.Leaf)) {
		return nil // names come and go with rotations, which roles that run apart are stopped for
	}
	return f.renew(ctx, in, "redoubt")
}
