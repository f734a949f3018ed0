// Package pkcs11 keeps private keys in a PKCS#11 token: a hardware security
// module, a smart card, SoftHSM.
//
// It guarantees:
//   - exactly one token matches the configured label or serial, or Open fails
//     with what it saw; slot numbers are never used, they change;
//   - keys are generated inside the token, sensitive and not extractable, and
//     their attributes are read back: a key that is less is refused and removed;
//   - a key stays the key it was: after any loss of session, object or login the
//     key is searched again by CKA_ID and its public key compared with the one
//     pinned when it was opened, before one retry of the signature;
//   - a refused PIN is tried once; it is not tried again, in this process or
//     after a restart, until the PIN source holds another PIN (pin.go);
//   - a hung module is an error of the call (hsm.ErrUnavailable), and the token
//     heals by itself when the module answers again.
//
// What the token says of a key (local, never extractable) is recorded as
// evidence; it is a claim of the provider, not an attestation. Signing opens a
// session, and only a signature proves a token alive: OpenSession succeeds on
// SoftHSM when its storage is gone.
//
// The package needs cgo, because modules are shared objects. A build without
// cgo has the same API and Open fails with the reason (stub.go).
package pkcs11

import (
	"log/slog"
	"time"
)

// DefaultSessions is the size of the session pool when Config.Sessions is 0.
const DefaultSessions = 8

// ConnectTimeout bounds Open when Config.ConnectTimeout is 0, and each look-up of
// a key.
const ConnectTimeout = 30 * time.Second

// Config says which token to open and how.
type Config struct {
	// URI is an RFC 7512 URI with module-path (absolute) and at least one of
	// token and serial, for example
	// "pkcs11:token=redoubt?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/redoubt/pin".
	// Attributes that name a key (object, id) are allowed and ignored.
	URI string
	// PINFile is the file that holds the PIN; it wins over pin-source. It is
	// subject to hsm.ReadPrivate.
	PINFile string
	// ReadPIN reads the PIN from PINFile or pin-source, for files that hold it in
	// another form (sealed to a TPM); nil means hsm.ReadSecret.
	ReadPIN func(path string) ([]byte, error)
	// AllowPINValue accepts pin-value in URI. Only for development: a URI is
	// written to configuration files and logs.
	AllowPINValue bool
	// LatchDir is where a refused PIN is remembered when the directory of the
	// PIN file is not writable, as /etc and systemd's credentials are not; it is
	// made (0700) when needed. Otherwise the mark stands beside the PIN file, with
	// ".refused" appended to its name.
	LatchDir string
	// AllowedModules lists the module paths that may be loaded; an entry ending
	// in "/" allows the files of that directory. nil means DefaultModules.
	AllowedModules []string
	// LibraryParameters is handed to C_Initialize for modules that take it
	// (NSS softoken: "configdir='sql:DIR' ...").
	LibraryParameters string
	// AllowImported accepts existing keys that were not generated in the token
	// or once were extractable. They must still be sensitive and not extractable.
	AllowImported bool
	// Sessions is the size of the session pool; 0 means DefaultSessions.
	Sessions int
	// ConnectTimeout bounds Open; 0 means ConnectTimeout.
	ConnectTimeout time.Duration
	// Logger receives loss, recovery and PIN refusals; nil discards them.
	Logger *slog.Logger
}

// DefaultModules returns the directories in which distributions install PKCS#11
// modules; only root can write there.
func DefaultModules() []string {
	return []string{
		"/usr/lib/softhsm/", "/usr/lib64/softhsm/", "/usr/local/lib/softhsm/",
		"/usr/lib/pkcs11/", "/usr/lib64/pkcs11/", "/usr/local/lib/pkcs11/",
		"/usr/lib/x86_64-linux-gnu/pkcs11/", "/usr/lib/aarch64-linux-gnu/pkcs11/",
		"/usr/lib/x86_64-linux-gnu/softhsm/", "/usr/lib/aarch64-linux-gnu/softhsm/",
	}
}

// Environment returns the variables by which modules known here are configured,
// for a process that is to have no others; a name that ends in "*" stands for all
// that begin so.
func Environment() []string {
	return []string{
		"SOFTHSM2_CONF", "OPENCRYPTOKI_*", "PKCSLIB", "NSS_*", "KRYOPTIC_CONF", "P11_KIT_*", "OPENSC_*",
		"TPM2_PKCS11_*", "TSS2_*", "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS",
		"YUBIHSM_PKCS11_*", "CS_PKCS11_*", "ChrystokiConfigurationPath", "CKNFAST_*", "NFAST_*", "ET_PTKC_*", "CLOUDHSM_*", "AWSNITRO*",
	}
}
