package plugin

import (
	"context"
	"crypto"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sigstore/sigstore/pkg/signature/kms/cliplugin/common"

	"redoubt.internal/hsm"
)

const (
	maxMessage   = 1 << 20
	maxSignature = 4 << 10
	maxPublic    = 16 << 10
)

// absences are the sentences by which key services say that there is no such key;
// the protocol has no code for it. Compared in lower case.
var absences = []string{"not found", "notfound", "no such", "does not exist", "doesn't exist", "unknown key"}

// usualNames are what plugins call the key types, beside our own names: those of
// the AWS key service, and of sigstore's registry of algorithms.
var usualNames = map[hsm.Algorithm][]string{
	hsm.ECDSAP256: {"ECC_NIST_P256", "ecdsa-p256-sha256", "ecdsa-sha2-256-nistp256"},
	hsm.ECDSAP384: {"ECC_NIST_P384", "ecdsa-p384-sha384", "ecdsa-sha2-384-nistp384"},
	hsm.RSA3072:   {"RSA_3072", "rsa-sign-pkcs1-3072-sha256"},
	hsm.RSA4096:   {"RSA_4096", "rsa-sign-pkcs1-4096-sha256"},
	hsm.Ed25519:   {"ECC_NIST_EDWARDS25519"},
}

// asToken turns an answer of the plugin into one of hsm's errors.
func asToken(err error) error {
	var r *refusal
	if !errors.As(err, &r) {
		return err
	}
	said := strings.ToLower(r.said)
	if slices.ContainsFunc(absences, func(a string) bool { return strings.Contains(said, a) }) {
		return fmt.Errorf("%w: %w", hsm.ErrNotFound, err)
	}
	return fmt.Errorf("%w: %w", hsm.ErrUnavailable, err)
}

// Signer returns the key the URI names, as the plugin knows it now.
func (t *Token) Signer(ctx context.Context, uri string) (*hsm.Key, error) {
	ref, err := t.reference(uri)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, t.cfg.Timeout)
	defer cancel()
	pub, err := t.public(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", uri, err)
	}
	return t.wrap(uri, ref, pub)
}

// public asks for the public key at ref.
func (t *Token) public(ctx context.Context, ref string) (crypto.PublicKey, error) {
	answer, err := t.call(ctx, ref, crypto.SHA256, nil, &common.MethodArgs{MethodName: common.PublicKeyMethodName, PublicKey: &common.PublicKeyArgs{PublicKeyOptions: &common.PublicKeyOptions{}}})
	if err != nil {
		return nil, asToken(err)
	}
	if answer.PublicKey == nil {
		return nil, fmt.Errorf("%w: the plugin answered without a public key", hsm.ErrUnavailable)
	}
	return parsePublic(answer.PublicKey.PublicKeyPEM)
}

func parsePublic(text []byte) (crypto.PublicKey, error) {
	if len(text) > maxPublic {
		return nil, fmt.Errorf("public key of %d octets: %w", len(text), hsm.ErrUnsupported)
	}
	block, rest := pem.Decode(text)
	if block == nil || block.Type != "PUBLIC KEY" || strings.TrimSpace(string(rest)) != "" {
		return nil, fmt.Errorf("the plugin's public key is not one PEM block: %w", hsm.ErrUnsupported)
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("the plugin's public key: %w: %w", err, hsm.ErrUnsupported)
	}
	return pub, nil
}

// Generate makes a key, where the plugin can. The plugin must say first, in a
// sentence that counts, that there is none: some answer a creation with the key
// that is there.
func (t *Token) Generate(ctx context.Context, uri string, alg hsm.Algorithm) (*hsm.Key, error) {
	ref, err := t.reference(uri)
	if err != nil {
		return nil, err
	}
	name, err := t.algorithm(alg)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	ctx, cancel := context.WithTimeout(ctx, generateTimeout)
	defer cancel()
	select {
	case t.making <- struct{}{}:
		defer func() { <-t.making }()
	case <-ctx.Done():
		return nil, fmt.Errorf("generating key %s: %w: %w", uri, hsm.ErrUnavailable, ctx.Err())
	}
	switch _, err := t.public(ctx, ref); {
	case err == nil:
		return nil, fmt.Errorf("generating key %s: %w", uri, hsm.ErrExists)
	case !errors.Is(err, hsm.ErrNotFound):
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	deadline, _ := ctx.Deadline()
	answer, err := t.call(ctx, ref, crypto.SHA256, nil, &common.MethodArgs{MethodName: common.CreateKeyMethodName, CreateKey: &common.CreateKeyArgs{CtxDeadline: &deadline, Algorithm: name}})
	if err != nil {
		var r *refusal
		if errors.As(err, &r) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnsupported, err)
		}
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	if answer.CreateKey == nil {
		return nil, fmt.Errorf("generating key %s: %w: the plugin answered without a public key", uri, hsm.ErrUnavailable)
	}
	made, err := parsePublic(answer.CreateKey.PublicKeyPEM)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: %w", uri, err)
	}
	if got, err := hsm.AlgorithmOf(made); err != nil || got != alg {
		return nil, fmt.Errorf("generating key %s: the plugin made a key of type %q, asked was %s: %w", uri, got, alg, hsm.ErrUnsupported)
	}
	found, err := t.public(ctx, ref)
	if err != nil {
		return nil, fmt.Errorf("generating key %s: reading the new key back: %w", uri, err)
	}
	if same, ok := made.(interface{ Equal(crypto.PublicKey) bool }); !ok || !same.Equal(found) {
		return nil, fmt.Errorf("generating key %s: the plugin made one key and shows another: %w", uri, hsm.ErrExists)
	}
	return t.wrap(uri, ref, found)
}

// algorithm is the plugin's name of alg.
func (t *Token) algorithm(alg hsm.Algorithm) (string, error) {
	if !slices.Contains(hsm.Algorithms(), alg) {
		return "", fmt.Errorf("algorithm %q: %w", clip(string(alg)), hsm.ErrUnsupported)
	}
	if name := t.cfg.Algorithms[string(alg)]; name != "" {
		return name, nil
	}
	for _, name := range append([]string{string(alg)}, usualNames[alg]...) {
		if slices.Contains(t.supported, name) {
			return name, nil
		}
	}
	return "", fmt.Errorf("algorithm %s: the plugin has %s; `algorithms` of its configuration translates names: %w", alg, clip(strings.Join(t.supported, ", ")), hsm.ErrUnsupported)
}

// wrap makes the hsm.Key of a public key.
func (t *Token) wrap(uri, ref string, pub crypto.PublicKey) (*hsm.Key, error) {
	alg, err := hsm.AlgorithmOf(pub)
	if err != nil {
		return nil, fmt.Errorf("opening key %s: %w", uri, err)
	}
	info := hsm.Info{
		URI: uri, Kind: "plugin", Token: t.cfg.Scheme, Label: ref, Algorithm: alg,
		Module:     t.cfg.Path + " SHA-256 " + t.program.digest,
		TokenState: map[string]string{"algorithms": clip(strings.Join(t.supported, ", "))},
		Attributes: map[string]string{"protocol": "sigstore KMS plugin " + common.ProtocolVersion},
		Evidence:   []string{"A key service behind the plugin holds the private key; the plugin protocol says nothing about how it is protected or where it was made."},
	}
	key, err := hsm.NewKey(info, pub, func(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return t.sign(ctx, ref, alg, digest, opts)
	})
	if err != nil {
		return nil, err
	}
	return key.WithTimeout(t.cfg.Timeout), nil
}

// sign makes one signature: over the digest, or for Ed25519 over the message on the
// plugin's standard input.
func (t *Token) sign(ctx context.Context, ref string, alg hsm.Algorithm, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if _, pss := opts.(*rsa.PSSOptions); pss {
		return nil, fmt.Errorf("the plugin protocol cannot ask for RSA-PSS: %w", hsm.ErrUnsupported)
	}
	if len(digest) > maxMessage {
		return nil, fmt.Errorf("message of %d octets, limit %d: %w", len(digest), maxMessage, hsm.ErrUnsupported)
	}
	hash, message := opts.HashFunc(), []byte(nil)
	args := &common.SignMessageArgs{SignOptions: &common.SignOptions{MessageOptions: common.MessageOptions{HashFunc: &hash, Digest: &digest}}}
	if alg == hsm.Ed25519 {
		message, args.SignOptions.MessageOptions.Digest = digest, nil
	}
	if deadline, ok := ctx.Deadline(); ok {
		args.SignOptions.RPCOptions.CtxDeadline = &deadline
	}
	answer, err := t.call(ctx, ref, hash, message, &common.MethodArgs{MethodName: common.SignMessageMethodName, SignMessage: args})
	if err != nil {
		if err = asToken(err); !errors.Is(err, hsm.ErrUnavailable) {
			err = fmt.Errorf("%w: %w", hsm.ErrUnavailable, err) // the key was there: whatever is missing now may come back
		}
		return nil, err
	}
	if answer.SignMessage == nil || len(answer.SignMessage.Signature) == 0 || len(answer.SignMessage.Signature) > maxSignature {
		return nil, fmt.Errorf("%w: the plugin answered without a signature", hsm.ErrUnavailable)
	}
	return answer.SignMessage.Signature, nil
}
