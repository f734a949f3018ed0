package vault

import (
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"time"

	"redoubt.internal/hsm"
)

// Methods of authentication.
const (
	AuthToken      = "token"
	AuthAppRole    = "approle"
	AuthKubernetes = "kubernetes"
	AuthCert       = "cert"
)

// Config says where the server is and how to log in. Secrets are in files, never
// in the configuration.
type Config struct {
	// Address is https://HOST:PORT, or http://HOST:PORT on loopback.
	Address string
	// CAFile holds the certificates (PEM) the server's chain must end in. Required
	// for https unless SystemRoots is set.
	CAFile string
	// SystemRoots trusts the machine's roots when CAFile is empty.
	SystemRoots bool
	// Namespace is sent with each request; the server must honour it.
	Namespace string
	// Mount is the path of the Transit engine; empty means "transit".
	Mount string
	// Auth is the method: AuthToken, AuthAppRole, AuthKubernetes or AuthCert.
	Auth string
	// AuthMount is the path of the auth method; empty means its name.
	AuthMount string
	// TokenFile holds the token of AuthToken, one line, hsm.ReadSecret applies.
	TokenFile string
	// RoleID and SecretIDFile are those of AuthAppRole; hsm.ReadSecret applies.
	RoleID, SecretIDFile string
	// Role is the role of AuthKubernetes, and of AuthCert when not empty.
	Role string
	// JWTFile holds the service account's token of AuthKubernetes.
	JWTFile string
	// CertFile and KeyFile are the client certificate and key (PEM) of AuthCert.
	CertFile, KeyFile string
	// Timeout bounds one signature and the opening of one key; 0 means DefaultTimeout.
	Timeout time.Duration
	// Logger receives losses, recoveries and re-logins; nil discards them.
	Logger *slog.Logger
}

// check refuses what cannot work and fills the defaults.
func (c *Config) check() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%s: %w", fmt.Sprintf(format, args...), hsm.ErrUnsupported)
	}
	u, err := url.Parse(c.Address)
	switch {
	case c.Address == "":
		return bad("Vault configuration without an address")
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "" || len(c.Address) > 512:
		return bad("Vault address is not https://HOST:PORT")
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return bad("Vault address %s is plain http and not on loopback: tokens would travel readable", c.Address)
	case u.Scheme != "https" && u.Scheme != "http":
		return bad("Vault address %s is neither https nor http", c.Address)
	case u.Scheme == "https" && c.CAFile == "" && !c.SystemRoots:
		return bad("Vault address %s without a ca-file: name the certificates its chain must end in", c.Address)
	case c.CAFile != "" && c.SystemRoots:
		return bad("Vault configuration with a ca-file and system-roots; one of them decides")
	case c.Timeout < 0 || c.Timeout > time.Minute:
		return bad("Vault timeout of %s, allowed are up to one minute", c.Timeout)
	}
	c.Address = u.Scheme + "://" + u.Host
	if c.Mount == "" {
		c.Mount = "transit"
	}
	if c.AuthMount == "" {
		c.AuthMount = c.Auth
	}
	if c.Timeout == 0 {
		c.Timeout = DefaultTimeout
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Namespace = strings.Trim(c.Namespace, "/")
	for name, path := range map[string]*string{"mount": &c.Mount, "auth-mount": &c.AuthMount, "namespace": &c.Namespace} {
		if *path = strings.Trim(*path, "/"); *path != "" && !isPath(*path) {
			return bad("Vault %s %q is not a path of letters, digits, '-', '_', '.' and '/'", name, *path)
		}
	}
	want := map[string][]struct{ name, value string }{
		AuthToken:      {{"token-file", c.TokenFile}},
		AuthAppRole:    {{"role-id", c.RoleID}, {"secret-id-file", c.SecretIDFile}},
		AuthKubernetes: {{"role", c.Role}, {"jwt-file", c.JWTFile}},
		AuthCert:       {{"cert-file", c.CertFile}, {"key-file", c.KeyFile}},
	}
	needed, ok := want[c.Auth]
	if !ok {
		return bad("Vault auth %q; there are %s, %s, %s and %s", c.Auth, AuthToken, AuthAppRole, AuthKubernetes, AuthCert)
	}
	for _, n := range needed {
		if n.value == "" {
			return bad("Vault auth %s needs %s", c.Auth, n.name)
		}
	}
	if c.Auth == AuthCert && u.Scheme != "https" {
		return bad("Vault auth cert needs https")
	}
	return nil
}

// where names the engine for people: address, mount, namespace. No secret is in it.
func (c *Config) where() string {
	s := "Vault " + c.Address + " (mount " + c.Mount
	if c.Namespace != "" {
		s += ", namespace " + c.Namespace
	}
	return s + ")"
}

func isLoopback(host string) bool { return host == "localhost" || net.ParseIP(host).IsLoopback() }
