package main

import (
	"crypto/fips140"
	"fmt"
)

// fipsInfo is how the cryptography of this process stands to FIPS 140-3 (https://go.dev/doc/security/fips140).
type fipsInfo struct {
	// Mode is off, on (approved algorithms come from the Go Cryptographic Module; others still run) or only (others are refused).
	Mode string `json:"mode"`
	// Module is the version of the Go Cryptographic Module; "latest" is the one of the Go release, which nobody has certified.
	Module string `json:"module"`
	// Off lists what this mode turns off.
	Off []fipsFeature `json:"off,omitempty"`
}

// fipsFeature is something the product does that the strict mode refuses, and what to do instead.
type fipsFeature struct {
	Name    string `json:"name"`
	Why     string `json:"why"`
	Instead string `json:"instead"`
}

// offInFIPS is what is refused when only approved algorithms may run. Each refuses with its reason where it is asked for. What
// stands here by name and not below goes on: OpenPGP and TPM are libraries' limits, the rest is the letter of the standard.
var offInFIPS = []fipsFeature{
	{"TPM sessions with encrypted parameters", "TPM 2.0 encrypts them with AES-CFB, which is no approved mode here", "keys.tpm.plain-sessions: true goes on with HMACs alone, for a TPM on this board's own bus"},
	{"OpenPGP keys in rekord entries and searches", "version 4 keys are named by SHA-1", "sign with x509, ssh or minisign keys"},
	{"software keys sealed outside this mode", "scrypt and XChaCha20-Poly1305 are not approved", "make the keys in this mode: they are sealed by PBKDF2 and AES-256-GCM"},
	{"passphrases under 14 octets", "they are HMAC keys of less than 112 bits (SP 800-131A)", "use a longer passphrase"},
	{"backups sealed for custodians", "age is X25519 and ChaCha20-Poly1305, which are not approved", "redoubt backup create --no-encryption onto a medium that a validated module encrypts"},
	{"SHA-1 and MD5 in certificates, timestamps and digests", "they are not approved", "SHA-256, SHA-384 or SHA-512; the product makes nothing else in any mode"},
	{"TLS by X25519, ChaCha20-Poly1305 or TLS 1.2 without extended master secret", "they are not approved", "clients of the last years agree on P-256 and AES-GCM by themselves"},
}

func readFIPS() fipsInfo {
	info := fipsInfo{Mode: "off", Module: fips140.Version()}
	switch {
	case fips140.Enforced():
		info.Mode, info.Off = "only", offInFIPS
	case fips140.Enabled():
		info.Mode = "on"
	}
	return info
}

// String is the mode in a line of status and version.
func (f fipsInfo) String() string {
	switch f.Mode {
	case "off":
		return "FIPS 140-3 mode off"
	case "on":
		return fmt.Sprintf("FIPS 140-3 mode on, Go Cryptographic Module %s; other algorithms still run (GODEBUG=fips140=only refuses them)", f.Module)
	}
	return fmt.Sprintf("FIPS 140-3 mode only, Go Cryptographic Module %s; %d features are off, `redoubt doctor` lists them", f.Module, len(f.Off))
}

// fipsChecks are doctor's lines about the mode: one that holds, and one for each feature that is off because of it.
func fipsChecks() []check {
	info := readFIPS()
	if info.Mode == "off" {
		return nil
	}
	checks := []check{{Name: "FIPS 140-3 mode " + info.Mode + ", module " + info.Module, OK: true}}
	for _, f := range info.Off {
		checks = append(checks, check{Name: "off in FIPS 140-3 mode: " + f.Name, Warning: true, Reason: f.Why, Fix: f.Instead})
	}
	return checks
}
