package soft

import (
	"bytes"
	"crypto"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"redoubt.internal/hsm"
)

// The key file, one JSON object:
//
//	{"header": {"format", "algorithm", "public", "kdf": {"salt", "logN"}, "fileSalt", "cipher"},
//	 "nonce": octets, "sealed": AEAD(PKCS#8)}
//
// octet strings in standard base64. The format names the suite:
//
//	v1  master = scrypt(passphrase, kdf.salt, N = 2^kdf.logN, r = 8, p = 1), 32 octets
//	    sealed = XChaCha20-Poly1305(fileKey, nonce of 24 octets, PKCS#8 DER, header)
//	v2  master = PBKDF2-HMAC-SHA512(passphrase, kdf.salt, 2^kdf.logN iterations), 32 octets (FIPS 140-3 mode)
//	    sealed = random nonce of 12 octets || AES-256-GCM(fileKey, that nonce, PKCS#8 DER, header); "nonce" is empty
//
// and in both
//
//	fileKey = HKDF-SHA256(master, salt = fileSalt, info = format), 32 octets
//
// The additional data is the header re-encoded by encoding/json in field order,
// so every field is authenticated. kdf.salt is shared by keys made through one
// open token, so that the derivation runs once for all of them; fileSalt never is.
const (
	minWorkFactor = 10
	maxWorkFactor = 20 // scrypt: 1 GiB; more is an attack on memory
	maxFile       = 64 << 10
)

// kdf holds the derivation parameters of a key file.
type kdf struct {
	Salt [16]byte
	LogN int
}

// header is the authenticated part of a key file that is in the clear.
type header struct {
	Format    string        `json:"format"`
	Algorithm hsm.Algorithm `json:"algorithm"`
	Public    []byte        `json:"public"` // DER SubjectPublicKeyInfo
	KDF       kdf           `json:"kdf"`
	FileSalt  []byte        `json:"fileSalt"` // 32 octets
	Cipher    string        `json:"cipher"`
}

// keyFile is one parsed key file.
type keyFile struct {
	suite  *suite
	header header
	nonce  []byte
	sealed []byte
}

// kdfJSON and fileJSON are the encoded forms.
type kdfJSON struct {
	Salt []byte `json:"salt"`
	LogN int    `json:"logN"`
}

type fileJSON struct {
	Header header `json:"header"`
	Nonce  []byte `json:"nonce"`
	Sealed []byte `json:"sealed"`
}

// MarshalJSON encodes the salt in base64.
func (k kdf) MarshalJSON() ([]byte, error) {
	return json.Marshal(kdfJSON{k.Salt[:], k.LogN})
}

// UnmarshalJSON refuses unknown fields and salts of another length.
func (k *kdf) UnmarshalJSON(data []byte) error {
	var j kdfJSON
	if err := strictJSON(data, &j); err != nil {
		return err
	}
	if len(j.Salt) != len(k.Salt) {
		return fmt.Errorf("salt of %d octets, expected %d", len(j.Salt), len(k.Salt))
	}
	k.LogN = j.LogN
	copy(k.Salt[:], j.Salt)
	return nil
}

// strictJSON decodes exactly one value without unknown fields.
func strictJSON(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the end")
	}
	return nil
}

// parseFile reads a key file strictly; it needs no secret.
func parseFile(data []byte) (*keyFile, error) {
	var j fileJSON
	if err := strictJSON(data, &j); err != nil {
		return nil, fmt.Errorf("parsing key file: %w", err)
	}
	h := j.Header
	suite, err := suiteOf(h.Format)
	if err != nil {
		return nil, err
	}
	if err := suite.check(h, j.Nonce); err != nil {
		return nil, err
	}
	pub, err := x509.ParsePKIXPublicKey(h.Public)
	if err != nil {
		return nil, fmt.Errorf("parsing public key of key file: %w", err)
	}
	if alg, err := hsm.AlgorithmOf(pub); err != nil {
		return nil, err
	} else if alg != h.Algorithm {
		return nil, fmt.Errorf("key file says %q but holds a key of type %s", h.Algorithm, alg)
	}
	return &keyFile{suite: suite, header: h, nonce: j.Nonce, sealed: j.Sealed}, nil
}

// encode is the inverse of parseFile.
func (f *keyFile) encode() ([]byte, error) {
	b, err := json.MarshalIndent(fileJSON{f.header, f.nonce, f.sealed}, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encoding key file: %w", err)
	}
	return append(b, '\n'), nil
}

// aead returns the cipher of this file and its additional data.
func (f *keyFile) aead(master []byte) (c cipher.AEAD, ad []byte, err error) {
	key, err := hkdf.Key(sha256.New, master, f.header.FileSalt, f.suite.format, 32)
	if err != nil {
		return nil, nil, fmt.Errorf("deriving file key: %w", err)
	}
	defer clear(key)
	if ad, err = json.Marshal(f.header); err != nil {
		return nil, nil, fmt.Errorf("encoding key header: %w", err)
	}
	c, err = f.suite.aead(key)
	return c, ad, err
}

// seal encrypts a private key.
func (s *suite) seal(signer crypto.Signer, alg hsm.Algorithm, params kdf, master []byte) (*keyFile, error) {
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(signer)
	if err != nil {
		return nil, fmt.Errorf("encoding private key: %w", err)
	}
	defer clear(der)
	f := &keyFile{
		suite:  s,
		header: header{Format: s.format, Algorithm: alg, Public: spki, KDF: params, FileSalt: make([]byte, 32), Cipher: s.cipher},
		nonce:  make([]byte, s.nonce),
	}
	_, _ = rand.Read(f.header.FileSalt) // crypto/rand.Read never fails
	_, _ = rand.Read(f.nonce)
	c, ad, err := f.aead(master)
	if err != nil {
		return nil, err
	}
	f.sealed = c.Seal(nil, f.nonce, der, ad)
	return f, nil
}

// open decrypts the private key and checks it against the public one.
func (f *keyFile) open(master []byte) (crypto.Signer, error) {
	c, ad, err := f.aead(master)
	if err != nil {
		return nil, err
	}
	der, err := c.Open(nil, f.nonce, f.sealed, ad)
	if err != nil {
		return nil, fmt.Errorf("wrong passphrase or altered key file: %w", hsm.ErrBadPIN)
	}
	defer clear(der)
	signer, err := parseSigner(der)
	if err != nil {
		return nil, err
	}
	spki, err := x509.MarshalPKIXPublicKey(signer.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding public key: %w", err)
	}
	if !bytes.Equal(spki, f.header.Public) {
		return nil, errors.New("key file holds another key than it says")
	}
	return signer, nil
}

// master derives once per suite, parameters and token.
func (t *Token) master(s *suite, params kdf) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return nil, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	at := derivation{s, params}
	if m, ok := t.masters[at]; ok {
		return bytes.Clone(m), nil
	}
	m, err := s.derive(t.passphrase, params)
	if err != nil {
		return nil, fmt.Errorf("deriving key from passphrase: %w", err)
	}
	// What scrypt leaves behind, 128 MiB by default, is collected soon: the collector would let the heap grow to a multiple of it.
	go runtime.GC()
	t.masters[at] = m
	if t.latest == nil && s == newSuite() && params.LogN >= s.logN(t.workFactor) {
		t.latest = &params
	}
	return bytes.Clone(m), nil
}

// newKDF returns the suite and parameters for a new key.
func (t *Token) newKDF() (*suite, kdf, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed.Load() {
		return nil, kdf{}, fmt.Errorf("%w: token is closed", hsm.ErrUnavailable)
	}
	s := newSuite()
	if t.latest == nil {
		t.latest = &kdf{LogN: s.logN(t.workFactor)}
		_, _ = rand.Read(t.latest.Salt[:])
	}
	return s, *t.latest, nil
}

// readFile reads a key file that nobody else may read.
func readFile(path string) (*keyFile, error) {
	data, err := hsm.ReadPrivate(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", path, hsm.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	return parseFile(data)
}

// writeFile puts a key file in place: complete or not at all, never over
// another, durable when it returns.
func writeFile(path string, f *keyFile) error {
	data, err := f.encode()
	if err != nil {
		return err
	}
	dir := filepath.Dir(path)
	made := false
	if err := os.Mkdir(dir, 0o700); err == nil {
		made = true
	} else if !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("making key directory: %w", err)
	}
	if st, err := os.Stat(dir); err != nil {
		return fmt.Errorf("checking key directory: %w", err)
	} else if st.Mode().Perm()&0o022 != 0 && st.Mode()&fs.ModeSticky == 0 {
		return fmt.Errorf("key directory %s is writable by others (mode %04o), expected 0700: %w", dir, st.Mode().Perm(), hsm.ErrInsecureKey)
	}
	tmp, err := os.CreateTemp(dir, ".key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }()
	_, err = tmp.Write(data)
	if err == nil {
		err = tmp.Sync()
	}
	if err := errors.Join(err, tmp.Close()); err != nil {
		return fmt.Errorf("writing key file: %w", err)
	}
	// A hard link fails when the name is taken; a rename would replace it.
	if err := os.Link(tmp.Name(), path); errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s: %w", path, hsm.ErrExists)
	} else if err != nil {
		return fmt.Errorf("naming key file: %w", err)
	}
	if err := os.Remove(tmp.Name()); err != nil {
		return fmt.Errorf("removing temporary key file: %w", err)
	}
	if err := syncDir(dir); err != nil {
		return err
	}
	if made {
		return syncDir(filepath.Dir(dir))
	}
	return nil
}

// syncDir makes the names in dir durable.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	return nil
}
