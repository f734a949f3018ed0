package soft

import (
	"fmt"

	"redoubt.internal/hsm"
)

const (
	minPassphrase = 8
	maxPassphrase = 4 << 10
)

// readPassphrase returns the passphrase and where it came from, as
// "file:PATH" or "credential:NAME".
func readPassphrase(c Config) (pass []byte, source string, err error) {
	path, source := c.PassphraseFile, "file:"+c.PassphraseFile
	if path == "" {
		name := c.Credential
		if name == "" {
			name = DefaultCredential
		}
		if path, err = hsm.CredentialPath(name); err != nil {
			return nil, "", fmt.Errorf("no passphrase file for software keys is set, and: %w", err)
		}
		source = "credential:" + name
	}
	read := c.ReadPassphrase
	if read == nil || c.PassphraseFile == "" {
		read = func(path string) ([]byte, error) { return hsm.ReadSecret(path, maxPassphrase) }
	}
	if pass, err = read(path); err != nil {
		return nil, "", fmt.Errorf("reading passphrase from %s: %w", source, err)
	}
	if len(pass) < minPassphrase {
		return nil, "", fmt.Errorf("passphrase in %s has %d octets, at least %d are needed", source, len(pass), minPassphrase)
	}
	return pass, source, nil
}
