// Command sigstore-kms-local is a plugin for the tests of hsm/plugin: sigstore's own
// server code (cliplugin/handler) in front of keys in files. The key's reference is
// the path of its file. What the last element of the path begins with makes it
// misbehave: hang, flood, die, lie, noise.
package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/handler"
)

func main() {
	args, err := handler.GetPluginArgs(os.Args)
	if err != nil {
		_ = handler.WriteErrorResponse(os.Stdout, err)
		os.Exit(1)
	}
	ref := args.InitOptions.KeyResourceID
	switch name := filepath.Base(ref); {
	case strings.HasPrefix(name, "hang"): // with a child that holds the output open
		child := exec.Command("/bin/sleep", "600")
		child.Stdout = os.Stdout
		_ = child.Start()
		_ = os.WriteFile(ref+".pid", []byte(fmt.Sprint(child.Process.Pid)), 0o600)
		time.Sleep(10 * time.Minute)
	case strings.HasPrefix(name, "flood"):
		for {
			if _, err := os.Stdout.Write(bytes.Repeat([]byte("x"), 1<<16)); err != nil {
				return
			}
		}
	case strings.HasPrefix(name, "die"):
		fmt.Fprintln(os.Stderr, "no licence")
		os.Exit(3)
	case strings.HasPrefix(name, "noise"):
		fmt.Print("hello ")
	case strings.HasPrefix(name, "environment"):
		text, _ := json.Marshal(map[string]any{"env": os.Environ(), "args": os.Args[:2], "fds": descriptors()})
		_ = os.WriteFile(ref, text, 0o600)
		_ = handler.WriteErrorResponse(os.Stdout, errors.New("key not found: it is "+name))
		return
	}
	if _, err := handler.Dispatch(os.Stdout, os.Stdin, args, &keyFile{path: ref, hash: args.InitOptions.HashFunc}); err != nil {
		os.Exit(1)
	}
}

func descriptors() (open []string) {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil {
			open = append(open, e.Name()+" "+target)
		}
	}
	return open
}

// keyFile is a private key in a file, PKCS#8 DER.
type keyFile struct {
	path string
	hash crypto.Hash
}

func (k *keyFile) load() (crypto.Signer, error) {
	der, err := os.ReadFile(k.path)
	if err != nil {
		return nil, fmt.Errorf("key not found: %w", err)
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	return key.(crypto.Signer), nil
}

func (k *keyFile) CreateKey(_ context.Context, algorithm string) (crypto.PublicKey, error) {
	if s, err := k.load(); err == nil {
		return s.Public(), nil // the habit of some services
	}
	var key crypto.Signer
	var err error
	switch algorithm {
	case "ecdsa-p256":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECC_NIST_P384":
		key, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "RSA_3072":
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	case "ed25519":
		_, private, e := ed25519.GenerateKey(rand.Reader)
		key, err = private, e
	default:
		err = errors.New("no such algorithm")
	}
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key.Public(), os.WriteFile(k.path, der, 0o600)
}

func (k *keyFile) PublicKey(...signature.PublicKeyOption) (crypto.PublicKey, error) {
	s, err := k.load()
	if err != nil {
		return nil, err
	}
	return s.Public(), nil
}

func (k *keyFile) SignMessage(message io.Reader, opts ...signature.SignOption) ([]byte, error) {
	s, err := k.load()
	if err != nil {
		return nil, err
	}
	var digest []byte
	signerOpts := crypto.SignerOpts(k.hash)
	for _, o := range opts {
		o.ApplyDigest(&digest)
		o.ApplyCryptoSignerOpts(&signerOpts)
	}
	if strings.HasPrefix(filepath.Base(k.path), "lie") {
		digest = append([]byte(nil), digest...)
		digest[0] ^= 1
	}
	if _, ok := s.(ed25519.PrivateKey); ok {
		if digest, err = io.ReadAll(message); err != nil {
			return nil, err
		}
	}
	return s.Sign(rand.Reader, digest, signerOpts)
}

func (k *keyFile) VerifySignature(io.Reader, io.Reader, ...signature.VerifyOption) error {
	return errors.New("not here")
}

func (k *keyFile) CryptoSigner(context.Context, func(error)) (crypto.Signer, crypto.SignerOpts, error) {
	s, err := k.load()
	return s, k.hash, err
}

func (k *keyFile) SupportedAlgorithms() []string {
	return []string{"ecdsa-p256", "ECC_NIST_P384", "RSA_3072", "ed25519"}
}

func (k *keyFile) DefaultAlgorithm() string { return "ecdsa-p256" }
