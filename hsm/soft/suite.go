package soft

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/fips140"
	"crypto/pbkdf2"
	"crypto/sha512"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
	"golang.org/x/crypto/scrypt"

	"redoubt.internal/hsm"
)

// A suite is how one format of key file turns a passphrase into a key and
// seals with it. The format's name stands in the file and fixes everything
// else, so that a reader never chooses.
type suite struct {
	format string
	cipher string
	nonce  int // octets of the nonce field; 0 where the sealed octets begin with it
	// minLogN and maxLogN bound the work a file may ask for: less is a weak
	// file, more an attack on memory or time.
	minLogN, maxLogN int
	approved         bool // made of what FIPS 140-3 allows
	derivation       string
	derive           func(passphrase []byte, params kdf) ([]byte, error)
	aead             func(key []byte) (cipher.AEAD, error)
}

const (
	scryptR = 8
	scryptP = 1
	// minApprovedPassphrase is the least HMAC key FIPS 140-3 allows: 112 bits.
	minApprovedPassphrase = 14
	// pbkdf2Extra is how much larger log2 of PBKDF2's iterations is than
	// scrypt's work factor, to cost about the same time.
	pbkdf2Extra = 2
)

// suites are the formats this package reads: the usual one, and the one FIPS 140-3 approves of.
var suites = [2]*suite{
	{
		format: "redoubt-soft-key/v1", cipher: "xchacha20-poly1305", nonce: chacha20poly1305.NonceSizeX, minLogN: minWorkFactor, maxLogN: maxWorkFactor,
		derivation: fmt.Sprintf("scrypt N=2^%%d r=%d p=%d, HKDF-SHA256", scryptR, scryptP),
		derive: func(passphrase []byte, params kdf) ([]byte, error) {
			return scrypt.Key(passphrase, params.Salt[:], 1<<params.LogN, scryptR, scryptP, 32)
		},
		aead: chacha20poly1305.NewX,
	},
	{
		format: "redoubt-soft-key/v2", cipher: "aes-256-gcm", minLogN: minWorkFactor + pbkdf2Extra, maxLogN: maxWorkFactor + pbkdf2Extra, approved: true,
		derivation: "PBKDF2-HMAC-SHA512 2^%d iterations, HKDF-SHA256",
		derive: func(passphrase []byte, params kdf) ([]byte, error) {
			if len(passphrase) < minApprovedPassphrase && fips140.Enforced() {
				return nil, fmt.Errorf("passphrase of %d octets, FIPS 140-3 mode needs at least %d: %w", len(passphrase), minApprovedPassphrase, hsm.ErrUnsupported)
			}
			return pbkdf2.Key(sha512.New, string(passphrase), params.Salt[:], 1<<params.LogN, 32)
		},
		aead: func(key []byte) (cipher.AEAD, error) {
			block, err := aes.NewCipher(key)
			if err != nil {
				return nil, err
			}
			return cipher.NewGCMWithRandomNonce(block)
		},
	},
}

// A derivation is one run of a suite's derive.
type derivation struct {
	suite  *suite
	params kdf
}

// logN is the suite's work factor for what Config.WorkFactor asks of scrypt.
func (s *suite) logN(workFactor int) int { return workFactor - minWorkFactor + s.minLogN }

// newSuite is the suite of keys made now: scrypt resists guessing better than
// PBKDF2, which is what FIPS 140-3 mode allows.
func newSuite() *suite {
	if fips140.Enforced() {
		return suites[1]
	}
	return suites[0]
}

// suiteOf returns the suite of a format, ErrUnsupported when there is none or
// it may not be used in this mode.
func suiteOf(format string) (*suite, error) {
	for _, s := range suites {
		if s.format != format {
			continue
		}
		if fips140.Enforced() && !s.approved {
			return nil, fmt.Errorf("key file of format %q (%s), which FIPS 140-3 mode forbids; keys made in that mode have format %q: %w", format, s.cipher, newSuite().format, hsm.ErrUnsupported)
		}
		return s, nil
	}
	return nil, fmt.Errorf("key file of format %q, expected %q or %q: %w", format, suites[0].format, suites[1].format, hsm.ErrUnsupported)
}

// check refuses a header that does not fit the suite.
func (s *suite) check(h header, nonce []byte) error {
	switch {
	case h.Cipher != s.cipher:
		return fmt.Errorf("key file sealed with %q, expected %q: %w", h.Cipher, s.cipher, hsm.ErrUnsupported)
	case h.KDF.LogN < s.minLogN || h.KDF.LogN > s.maxLogN:
		return fmt.Errorf("key file with work factor %d, allowed are %d to %d", h.KDF.LogN, s.minLogN, s.maxLogN)
	case len(h.FileSalt) != 32:
		return fmt.Errorf("key file with a salt of %d octets, expected 32", len(h.FileSalt))
	case len(nonce) != s.nonce:
		return fmt.Errorf("key file with a nonce of %d octets, expected %d", len(nonce), s.nonce)
	}
	return nil
}
