package main

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/rekor"
)

// Names of the services, in the order ports are drawn and lists are printed.
var serviceNames = []string{"fulcio", "rekor", "tsa", "ct", "tuf", "oidc", "console", "mirror", "metrics"}

// devConfig is the configuration init writes for the dev profile: loopback, plain HTTP, one free port for each service drawn
// now and kept for good, the built-in issuer on.
func devConfig(domain, token string, oneTree bool) (*Config, error) {
	cfg, err := baseConfig(domain, token, oneTree)
	if err != nil {
		return nil, err
	}
	cfg.Profile = profileDev
	cfg.Issuer = BuiltinIssuer{Enabled: true, Audience: "sigstore"}
	addresses, err := freeLoopback(len(serviceNames))
	if err != nil {
		return nil, err
	}
	for i, name := range serviceNames {
		cfg.Services.set(name, &Service{Listen: addresses[i], URL: "http://" + addresses[i]})
	}
	return cfg, nil
}

var errSoftwareKeys = errors.New("the production profile keeps its keys in hardware, and --keys names software keys")

// productionConfig is the configuration init writes for the production profile: one TLS listener, each service under its
// own host name, metrics on loopback, no built-in issuer.
func productionConfig(request initRequest) (*Config, error) {
	domain := request.Domain
	if strings.HasPrefix(request.Keys, "soft:") && !request.AllowSoftware {
		return nil, errSoftwareKeys
	}
	if (request.TLSCert == "") != (request.TLSKey == "") {
		return nil, cmdline.Usage("--tls-cert and --tls-key come together: a certificate of your site for fulcio., rekor., tsa., ct., tuf. and mirror.%s", domain)
	}
	cfg, err := baseConfig(domain, request.Keys, request.OneTree)
	if err != nil {
		return nil, err
	}
	cfg.Profile, cfg.Keys.AllowSoftware, cfg.Roles = profileProduction, request.AllowSoftware, request.Roles
	if len(request.HighWater) > 0 { // a counter binds the marks of one process
		cfg.Roles = nil
	}
	if request.TLSCert == "" {
		cfg.Keys.Roles[roleTLS] = keyURI(cfg.Keys.Token, roleTLS)
		cfg.TLS = TLS{CA: tlsRootFile}
	} else if cfg.TLS, err = siteTLS(request); err != nil {
		return nil, err
	}
	if err := request.checkPorts(); err != nil {
		return nil, err
	}
	port := request.FirstPort
	for _, name := range serviceNames {
		switch {
		case name == "oidc" || name == "console": // the built-in issuer is for dev; the console has no login
		case name == "metrics":
			cfg.Services.set(name, &Service{Listen: "127.0.0.1:9464", URL: "http://127.0.0.1:9464"})
		case request.Address != "":
			at := net.JoinHostPort(request.Address, strconv.Itoa(port))
			cfg.Services.set(name, &Service{Listen: at, URL: "https://" + at})
			port++
		default:
			cfg.Services.set(name, &Service{Listen: "0.0.0.0:443", URL: "https://" + name + "." + domain})
		}
	}
	return cfg, nil
}

// siteTLS is a certificate of the site's own.
func siteTLS(request initRequest) (t TLS, err error) {
	t = TLS{Cert: request.TLSCert, Key: request.TLSKey, CA: request.TLSCA}
	for _, path := range []*string{&t.Cert, &t.Key, &t.CA} {
		if *path == "" || isKeyURI(*path) {
			continue
		}
		if *path, err = filepath.Abs(*path); err != nil {
			return t, err
		}
	}
	if isKeyURI(t.Key) {
		_, err = readChain(t.Cert)
	} else {
		_, err = tls.LoadX509KeyPair(t.Cert, t.Key)
	}
	if err != nil {
		return t, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	return t, nil
}

// checkPorts refuses an address that no client could call by, and ports that are not there.
func (request *initRequest) checkPorts() error {
	if request.Address == "" {
		return nil
	}
	if ip := net.ParseIP(request.Address); ip == nil || ip.IsUnspecified() || ip.IsMulticast() {
		return cmdline.Usage("--address %q: want the IP address that clients reach this machine at", request.Address)
	}
	if request.FirstPort < 1 || request.FirstPort+len(serviceNames) > 65535 {
		return cmdline.Usage("--first-port %d: want 1 to %d", request.FirstPort, 65535-len(serviceNames))
	}
	return nil
}

// baseConfig is what both profiles have in common: one key for each role in one token, and an artifact log for each wire format,
// or one for both, with random tree ids.
func baseConfig(domain, token string, oneTree bool) (*Config, error) {
	if err := checkDomain(domain); err != nil {
		return nil, cmdline.Usage("--domain: %v", err)
	}
	cfg := &Config{Domain: domain, Keys: Keys{Token: token, Roles: map[string]string{}}}
	cfg.Log.Artifact = []ArtifactLog{{Name: roleRekor, Serves: []rekor.Generation{rekor.V1}}, {Name: roleRekor2, Serves: []rekor.Generation{rekor.V2}}}
	if oneTree {
		cfg.Log.Artifact = []ArtifactLog{{Name: roleRekor, Serves: []rekor.Generation{rekor.V1, rekor.V2}}}
	}
	for i := range cfg.Log.Artifact {
		var id [8]byte
		if _, err := rand.Read(id[:]); err != nil {
			return nil, err
		}
		cfg.Log.Artifact[i].TreeID = int64(binary.BigEndian.Uint64(id[:])>>1) | 1
	}
	for _, role := range allRoles {
		if role != roleRekor2 || !oneTree {
			cfg.Keys.Roles[role] = keyURI(token, role)
		}
	}
	return cfg, nil
}

// set stores the service called name.
func (s *Services) set(name string, svc *Service) {
	switch name {
	case "fulcio":
		s.Fulcio = svc
	case "rekor":
		s.Rekor = svc
	case "tsa":
		s.TSA = svc
	case "ct":
		s.CT = svc
	case "tuf":
		s.TUF = svc
	case "oidc":
		s.OIDC = svc
	case "console":
		s.Console = svc
	case "mirror":
		s.Mirror = svc
	case "people":
		s.People = svc
	case "metrics":
		s.Metrics = svc
	}
}

// Ports are drawn below the range from which Linux takes those of outgoing connections (ip_local_port_range, 32768 up by
// default), so that between init and serve no client's connection can sit on one.
const (
	firstPort = 10000
	lastPort  = 32767
)

// freeLoopback draws n free ports in a row; nothing reserves them afterwards. Rows start at multiples of n, so two sites made
// before either serves meet only when they draw the same row.
func freeLoopback(n int) ([]string, error) {
	var err error
	for range 100 {
		base := firstPort + n*mathrand.IntN((lastPort-firstPort+1)/n)
		addresses := make([]string, 0, n)
		for port := base; port < base+n; port++ {
			var listener net.Listener
			if listener, err = net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
				break
			}
			listener.Close()
			addresses = append(addresses, listener.Addr().String())
		}
		if len(addresses) == n {
			return addresses, nil
		}
	}
	return nil, fmt.Errorf("finding %d free ports in a row from %d to %d: %w", n, firstPort, lastPort, err)
}

const configHeader = `# Configuration of this Redoubt. ` + "`redoubt docs config`" + ` prints every key with its meaning;
# ` + "`redoubt config validate`" + ` checks a change; SIGHUP loads new issuers and certificates, other changes need a restart.
`

// yamlText is cfg as it stands in a file.
func yamlText(cfg *Config) ([]byte, error) {
	text, err := yaml.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("encoding the configuration: %w", err)
	}
	return text, nil
}

// writeConfig writes cfg as redoubt.yaml of dir.
func writeConfig(dir layout, cfg *Config) error {
	text, err := yamlText(cfg)
	if err != nil {
		return err
	}
	return os.WriteFile(dir.config(), append([]byte(configHeader), text...), 0o640)
}

// writePassphrase makes a random passphrase (256 bits, base64url) for software keys and stores it 0600.
func writePassphrase(path string) error {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(base64.RawURLEncoding.EncodeToString(secret)+"\n"), 0o600)
}
