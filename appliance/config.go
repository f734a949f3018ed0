package main

import (
	"time"

	fulcio "github.com/sigstore/fulcio/pkg/config"

	"redoubt.internal/ca/identity"
	"redoubt.internal/log/rekor"
)

// Config is redoubt.yaml and the operator's manual of it: one file, strictly decoded. A key that does not stand here, or
// stands twice, is an error with its line; every relative path counts from the state directory. Comments here are what
// `redoubt docs config` prints and what `redoubt config schema` carries as descriptions.
type Config struct {
	// Domain is the DNS domain of this deployment, such as sigstore.corp.internal. Log origins are made from it
	// (rekor.<domain>, rekor-<n>.<domain>, ct.<domain>, audit.<domain>) and never change afterwards.
	Domain string `yaml:"domain"`
	// Profile is dev (loopback, plain HTTP, built-in issuer) or production (TLS, keys in hardware).
	Profile string `yaml:"profile"`
	// Dir is the state directory. Left out, it is the directory this file stands in.
	Dir string `yaml:"dir,omitempty"`
	// Services says where each service listens and under which URL clients reach it. A service left out is not served.
	// Services that share one listen address are told apart by the host name of their URL.
	Services Services `yaml:"services"`
	// TLS is the certificate of the listeners; required unless every listener is on loopback.
	TLS TLS `yaml:"tls,omitempty"`
	// Keys says where the private keys live.
	Keys Keys `yaml:"keys"`
	// Log holds what concerns all logs (artifacts, certificates, audit).
	Log Log `yaml:"log,omitempty"`
	// CA is the certificate authority.
	CA CA `yaml:"ca,omitempty"`
	// TSA is the timestamp authority.
	TSA TSA `yaml:"tsa,omitempty"`
	// Issuer is the built-in OIDC issuer of the dev profile; anybody who can reach the control socket can mint any identity.
	Issuer BuiltinIssuer `yaml:"issuer,omitempty"`
	// Define is where a Fulcio configuration keeps its YAML anchors; its values mean nothing by themselves.
	Define []any `yaml:"define,omitempty"`
	// OIDCIssuers are the issuers whose tokens are accepted, by URL: the block of a Fulcio configuration, plus jwks, the
	// issuer's pinned keys inline or as a file, with which no discovery and no network are needed.
	OIDCIssuers map[string]identity.IssuerRules `yaml:"oidc-issuers,omitempty"`
	// MetaIssuers are issuers by URL pattern, where * stands for one name; as in Fulcio.
	MetaIssuers map[string]identity.IssuerRules `yaml:"meta-issuers,omitempty"`
	// CIIssuerMetadata are claim templates of CI providers, by provider name; as in Fulcio.
	CIIssuerMetadata map[string]fulcio.IssuerMetadata `yaml:"ci-issuer-metadata,omitempty"`
	// TUF is the trust repository clients initialise from.
	TUF TUF `yaml:"tuf,omitempty"`
	// People are who may do what.
	People *People `yaml:"people,omitempty"`
	// Approvers are the people who approve acts that nobody may do alone. Left out, such acts are refused.
	Approvers *Approvers `yaml:"approvers,omitempty"`
	// Mirror is what is carried across the gap.
	Mirror Mirror `yaml:"mirror,omitempty"`
	// Backup is how the server copies its state directory by itself. Left out, `redoubt backup create` is somebody else's to call.
	Backup *Backup `yaml:"backup,omitempty"`
	// Roles are the users that the roles of the server run under, each in a process of its own. Left out, one process runs all of them.
	Roles *Roles `yaml:"roles,omitempty"`
	// Limits bound what one client can ask for.
	Limits Limits `yaml:"limits,omitempty"`
}

// Services are the listeners.
type Services struct {
	// Fulcio issues certificates: /api/v2/signingCert, /api/v1/signingCert, /api/v2/trustBundle.
	Fulcio *Service `yaml:"fulcio,omitempty"`
	// Rekor is every artifact log on one address: /api/v2 is the log that serves v2, everything else the one that serves v1.
	Rekor *Service `yaml:"rekor,omitempty"`
	// TSA answers RFC 3161 requests: at /api/v1/timestamp with status 201, as clients of Sigstore want it, at /tsr with 200.
	TSA *Service `yaml:"tsa,omitempty"`
	// CT is the certificate log: /ct/v1.
	CT *Service `yaml:"ct,omitempty"`
	// TUF serves the trust repository.
	TUF *Service `yaml:"tuf,omitempty"`
	// OIDC is the built-in issuer's discovery document and keys; dev profile only.
	OIDC *Service `yaml:"oidc,omitempty"`
	// Console is the read-only status page.
	Console *Service `yaml:"console,omitempty"`
	// People takes operations of the members of people over TLS, known by client certificate or token: POST /api/v1/act/OPERATION.
	People *Service `yaml:"people,omitempty"`
	// Mirror serves the logs that were carried here, each under its origin.
	Mirror *Service `yaml:"mirror,omitempty"`
	// Metrics serves /metrics, /healthz and /readyz; loopback only.
	Metrics *Service `yaml:"metrics,omitempty"`
}

// Service is one listener.
type Service struct {
	// Listen is host:port.
	Listen string `yaml:"listen"`
	// URL is how clients reach the service, without a trailing slash.
	URL string `yaml:"url"`
}

// TLS names the certificate of the listeners.
type TLS struct {
	// Cert is a PEM file: the certificate, then its intermediates.
	Cert string `yaml:"cert,omitempty"`
	// Key is its PEM private key, or the URI of a key in a token.
	Key string `yaml:"key,omitempty"`
	// CA is the PEM file clients need to trust the certificate; handed out by `client setup` as ca-bundle.pem.
	CA string `yaml:"ca,omitempty"`
	// Life of the certificates that are made here, below the site's own TLS root, where cert is left out and keys.roles.tls is set:
	// 1h to 397 days (default 90 days). They are renewed at two thirds of it.
	Life Duration `yaml:"life,omitempty"`
}

// Keys locates the private keys. URIs name keys; what a key is for is said in roles.
type Keys struct {
	// Token is the URI of the token itself: soft:, pkcs11:token=NAME?module-path=PATH&pin-source=FILE, tpm: (the device stands under
	// tpm), or hashivault://PREFIX (the server stands under vault; openbao: is the same).
	Token string `yaml:"token"`
	// PassphraseFile holds the passphrase of software keys, one line; tpm-sealed:FILE is a file `redoubt keys seal` wrote.
	PassphraseFile string `yaml:"passphrase-file,omitempty"`
	// PINFile holds the PIN of a PKCS#11 token, one line; the same as pin-source in the URI. tpm-sealed:FILE is a file
	// `redoubt keys seal` wrote.
	PINFile string `yaml:"pin-file,omitempty"`
	// AllowedModules are the PKCS#11 modules that may be loaded. Left out: the one named in Token.
	AllowedModules []string `yaml:"allowed-modules,omitempty"`
	// Sessions is how many PKCS#11 sessions sign in parallel (default 8).
	Sessions int `yaml:"sessions,omitempty"`
	// Timeout bounds one signature in a PKCS#11 token (default 2s). A call its module still holds then is an error, and the
	// process that holds the module is replaced.
	Timeout Duration `yaml:"timeout,omitempty"`
	// ModuleEnv lists the environment variables the PKCS#11 module is given; a name that ends in * stands for all that begin so.
	// Left out: the variables of known modules, such as SOFTHSM2_CONF.
	ModuleEnv []string `yaml:"module-env,omitempty"`
	// LibraryParameters is handed to C_Initialize of modules that take it (NSS softoken: configdir='sql:DIR' ...).
	LibraryParameters string `yaml:"library-parameters,omitempty"`
	// AllowImported accepts PKCS#11 keys their token does not claim to have made itself, or that once could be extracted; NSS
	// softoken claims it of no key.
	AllowImported bool `yaml:"allow-imported,omitempty"`
	// InProcess loads the PKCS#11 module into this process instead of a child of its own: for measurements. A module that hangs
	// or crashes then takes the logs along.
	InProcess bool `yaml:"in-process,omitempty"`
	// TPM is the TPM 2.0 that holds the keys whose URIs are tpm:file=NAME.pem or tpm:handle=0x81......, opens tpm-sealed: files and
	// counts for high-water marks.
	TPM *TPM `yaml:"tpm,omitempty"`
	// Vault is the Vault or OpenBao server that holds the keys whose URIs are hashivault://NAME?version=N or openbao://NAME?version=N.
	Vault *Vault `yaml:"vault,omitempty"`
	// Plugins are sigstore KMS plugins by the scheme of the key URIs they answer for, SCHEME://REST: cloud key services and whatever
	// else speaks that protocol.
	Plugins map[string]KeyPlugin `yaml:"plugins,omitempty"`
	// AllowSoftware permits software keys in the production profile.
	AllowSoftware bool `yaml:"allow-software,omitempty"`
	// Roles maps each role (root, issuing, rekor, rekor-<n>, ct, audit, tsa, tuf, oidc, exporter) to a key URI.
	Roles map[string]string `yaml:"roles"`
}

// TPM is one TPM 2.0.
type TPM struct {
	// Device is its character device or the unix socket of swtpm (default /dev/tpmrm0, the kernel's resource manager).
	Device string `yaml:"device,omitempty"`
	// AuthFile holds the authorisation value of the keys, one line of at most 32 octets, mode 0600; tpm-sealed:FILE is a file
	// `redoubt keys seal` wrote. Keys made with 16 octets or more, or with none, stay usable while the TPM is locked by others.
	AuthFile string `yaml:"auth-file,omitempty"`
	// OwnerAuthFile holds the owner hierarchy's authorisation, where the owner has set one.
	OwnerAuthFile string `yaml:"owner-auth-file,omitempty"`
	// PlainSessions gives up the encryption of parameters on the way to the TPM, which FIPS-only mode has not; without it a TPM is
	// refused in that mode.
	PlainSessions bool `yaml:"plain-sessions,omitempty"`
}

// Vault is one server with a Transit engine, and how to log in. Secrets stand in files; no variable of the environment (VAULT_,
// BAO_, proxies) is followed.
type Vault struct {
	// Address is https://HOST:PORT; plain http only on loopback, as for an agent of this machine. Nothing else is ever contacted.
	Address string `yaml:"address"`
	// CAFile holds the certificates (PEM) the server's chain must end in; the machine's roots do not count.
	CAFile string `yaml:"ca-file,omitempty"`
	// SystemRoots trusts the machine's roots instead of a ca-file.
	SystemRoots bool `yaml:"system-roots,omitempty"`
	// Namespace of the engine and the login. At each login the server has to prove that it honours namespaces.
	Namespace string `yaml:"namespace,omitempty"`
	// Mount is the path of the Transit engine (default transit).
	Mount string `yaml:"mount,omitempty"`
	// Auth is the login: token (token-file), approle (role-id, secret-id-file), kubernetes (role, jwt-file) or cert (cert-file,
	// key-file, and role where the server has several).
	Auth string `yaml:"auth"`
	// AuthMount is the path of the login method (default its name).
	AuthMount string `yaml:"auth-mount,omitempty"`
	// TokenFile holds a token, one line, mode 0600. It is read again when the token ends.
	TokenFile string `yaml:"token-file,omitempty"`
	// RoleID is the AppRole's role id.
	RoleID string `yaml:"role-id,omitempty"`
	// SecretIDFile holds the AppRole's secret id, one line, mode 0600. It is read again at each login.
	SecretIDFile string `yaml:"secret-id-file,omitempty"`
	// Role is the role to log in as (kubernetes, cert).
	Role string `yaml:"role,omitempty"`
	// JWTFile is the service account's token, as the kubelet projects it (kubernetes).
	JWTFile string `yaml:"jwt-file,omitempty"`
	// CertFile is the client certificate with its intermediates, PEM (cert).
	CertFile string `yaml:"cert-file,omitempty"`
	// KeyFile is its private key, PEM, mode 0600 (cert).
	KeyFile string `yaml:"key-file,omitempty"`
	// Timeout bounds one signature, reconnection included (default 2s).
	Timeout Duration `yaml:"timeout,omitempty"`
}

// KeyPlugin is the executable of one plugin. It runs with the rights of the server; trust it like a driver.
type KeyPlugin struct {
	// Path of the executable, absolute. It is never looked up, and a script is refused.
	Path string `yaml:"path"`
	// SHA256 of the executable, 64 hex digits. What runs is a sealed copy of what was hashed at the start.
	SHA256 string `yaml:"sha256"`
	// Environment lists the variables of the server's environment the plugin gets, such as those of its cloud's login; no other
	// is passed on.
	Environment []string `yaml:"environment,omitempty"`
	// Algorithms translates ecdsa-p256, ecdsa-p384, rsa-3072, rsa-4096 and ed25519 into the plugin's names, where keys are made
	// and the plugin uses unusual ones.
	Algorithms map[string]string `yaml:"algorithms,omitempty"`
	// Timeout bounds one call (default 2s).
	Timeout Duration `yaml:"timeout,omitempty"`
}

// Log concerns the logs.
type Log struct {
	// Artifact are the artifact logs, each a tree of its own with its own key. Every wire format is served by exactly one that
	// is not frozen.
	Artifact []ArtifactLog `yaml:"artifact"`
	// HighWater lists what remembers the highest head ever signed, outside the state directory: files, and counters of a TPM as
	// tpm:nv=0x01......;device=PATH, each of which binds a file <dir>.highwater.nv-<index> of its own. Where no file is listed,
	// <dir>.highwater is one.
	HighWater []string `yaml:"highwater,omitempty"`
	// Second is another disk, which has everything before it is acknowledged. Left out, a disk that is lost takes along what was signed
	// since the last backup.
	Second *SecondDisk `yaml:"second,omitempty"`
	// HighWaterEvery is how often marks bound to a counter are stored, besides at start, stop and halt (default 1m).
	HighWaterEvery Duration `yaml:"highwater-every,omitempty"`
	// Read says who reads what is in the artifact, certificate and mirrored logs over the network: open (the default) is everybody who
	// reaches the listener, authenticated the members of people, by client certificate or token. Stock clients sign and verify bundles
	// either way; what they look up in a log (search, entries, tiles) needs open.
	Read string `yaml:"read,omitempty"`
}

// ArtifactLog is one tree of signed artifacts.
type ArtifactLog struct {
	// Name is rekor, or rekor-<n> with n from 2 up: the role of its key, its origin <name>.<domain> and its file db/<name>.db.
	Name string `yaml:"name"`
	// TreeID is the number in front of its entry ids; drawn once by init.
	TreeID int64 `yaml:"tree-id"`
	// Serves lists the wire formats that add to it: v1, v2. One tree that serves both lets cosign 3 and other clients of
	// sigstore-go up to 1.3.0 accept signatures that were never logged; see docs/adr/0009-two-trees.md. A log
	// that has entries keeps what it serves: its database remembers, and the server does not start on another answer.
	Serves []rekor.Generation `yaml:"serves"`
	// Frozen ends the log for good: it is read and proven for ever and takes no more entries. The log that serves the same wire
	// format after it goes on counting v1 log indexes where it stopped.
	Frozen bool `yaml:"frozen,omitempty"`
}

// CA is the certificate authority.
type CA struct {
	// Chain is the PEM file of the chain, issuing certificate first, root last (default pki/ca-chain.pem).
	Chain string `yaml:"chain,omitempty"`
	// Notation is the certificate profile notation: signers with a subject, for the Notary Project's tools. Left out, none is issued.
	Notation *NotationProfile `yaml:"notation,omitempty"`
}

// NotationProfile says what every subject of the profile has, and how long its certificates last. `redoubt ca issue` adds the name.
type NotationProfile struct {
	// Country is the two capital letters of the organization's country (C).
	Country string `yaml:"country"`
	// State is its state or province (ST).
	State string `yaml:"state"`
	// Organization is its name (O).
	Organization string `yaml:"organization"`
	// Lifetime of a certificate: 10m to 9528h, which is 397 days (default 2160h, 90 days). `redoubt ca issue --lifetime` asks for less.
	Lifetime Duration `yaml:"lifetime,omitempty"`
}

// TSA is the timestamp authority.
type TSA struct {
	// Chain is the PEM file of its chain, leaf first (default pki/tsa-chain.pem).
	Chain string `yaml:"chain,omitempty"`
	// Policy is the policy OID in every token (default 1.3.6.1.4.1.57264.2).
	Policy string `yaml:"policy,omitempty"`
}

// BuiltinIssuer is the dev profile's own OIDC issuer.
type BuiltinIssuer struct {
	// Enabled turns it on; refused in the production profile.
	Enabled bool `yaml:"enabled,omitempty"`
	// Audience of the tokens it mints (default sigstore).
	Audience string `yaml:"audience,omitempty"`
	// Pseudonyms is the domain of its people's pseudonyms, as for any issuer; empty names them.
	Pseudonyms string `yaml:"pseudonyms,omitempty"`
}

// TUF is the trust repository.
type TUF struct {
	// Expiry is how long the timestamp role is valid after it was signed (default one year); clients refuse afterwards. The
	// server renews it while it runs.
	Expiry Duration `yaml:"expiry,omitempty"`
}

// Limits bound one request.
type Limits struct {
	// Body is the largest request body in bytes (default 4194304).
	Body int64 `yaml:"body,omitempty"`
	// HeaderTimeout bounds how long a client may take to send its headers (default 5s).
	HeaderTimeout Duration `yaml:"header-timeout,omitempty"`
	// Drain bounds how long SIGTERM waits for requests under way (default 10s).
	Drain Duration `yaml:"drain,omitempty"`
}

// Duration is a time span in Go's notation: 5s, 10m, 24h.
type Duration time.Duration

// UnmarshalText reads Go's notation.
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// MarshalText writes Go's notation.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// or returns d, or def when d was left out.
func (d Duration) or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}
