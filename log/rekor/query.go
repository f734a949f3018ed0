package rekor

import (
	"bytes"
	"crypto/fips140"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/mail"
	"slices"
	"strings"

	"github.com/sigstore/rekor/pkg/pki"

	"redoubt.internal/log/strictjson"
)

// Query is SearchIndex of openapi.yaml: texts to find entries by, one per term given.
type Query struct {
	Terms []string
	And   bool // all of them; else any
}

// ParseQuery decodes {email, subject, hash, publicKey{format, content}, operator}. Clients leave terms out or send them empty.
func ParseQuery(body []byte) (Query, error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return Query{}, badRequest("%w", err)
	}
	if err := strictjson.Only(o, "email", "subject", "hash", "publicKey", "operator"); err != nil {
		return Query{}, badRequest("%w", err)
	}
	text := func(o map[string]any, name string) (string, error) {
		switch v := o[name].(type) {
		case nil:
			return "", nil
		case string:
			return v, nil
		}
		return "", badRequest("%s in body must be a string", name)
	}
	var q Query
	for _, name := range []string{"hash", "publicKey", "email", "subject", "operator"} {
		if name == "publicKey" {
			key, err := parseQueryKey(o[name])
			if err != nil {
				return Query{}, err
			}
			if key != "" {
				q.Terms = append(q.Terms, key)
			}
			continue
		}
		v, err := text(o, name)
		if err != nil {
			return Query{}, err
		}
		if v == "" {
			continue
		}
		switch name {
		case "hash":
			v, err = hashTerm(v)
		case "email":
			if a, perr := mail.ParseAddress(v); perr != nil || a.Address != v {
				err = badRequest("email in body must be of type email: %.100q", v)
			}
		case "subject":
			if len(v) > 512 {
				err = badRequest("subject in body should be at most 512 chars long")
			}
		case "operator":
			switch v {
			case "and":
				q.And = true
			case "or":
			default:
				err = badRequest("operator in body should be one of [and or]")
			}
		}
		if err != nil {
			return Query{}, err
		}
		if name != "operator" {
			q.Terms = append(q.Terms, v)
		}
	}
	return q, nil
}

// hashTerm completes a hash given without its algorithm, by its length.
func hashTerm(v string) (string, error) {
	algorithm, value, prefixed := strings.Cut(v, ":")
	if !prefixed {
		algorithm, value = "", v
	}
	for _, a := range []struct {
		name   string
		digits int
	}{{"sha1", 40}, {"sha256", 64}, {"sha384", 96}, {"sha512", 128}} {
		if _, err := hex.DecodeString(value); err == nil && len(value) == a.digits && (!prefixed || algorithm == a.name) {
			return a.name + ":" + value, nil
		}
	}
	return "", badRequest("hash in body must be hexadecimal, with or without \"sha256:\" (or sha1, sha384, sha512) in front: %.150q", v)
}

// parseQueryKey returns the index term of a public key: SHA-256 of its canonical form. The format is one of Rekor's; content that names a place
// to fetch the key from does not exist here.
func parseQueryKey(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		return "", badRequest("publicKey in body must be an object")
	}
	if err := strictjson.Only(o, "format", "content"); err != nil {
		return "", badRequest("publicKey in body: %w", err)
	}
	format, _ := o["format"].(string)
	if !slices.Contains([]string{"pgp", "x509", "minisign", "ssh", "tuf"}, format) {
		return "", badRequest("publicKey.format in body should be one of [pgp x509 minisign ssh tuf]")
	}
	text, _ := o["content"].(string)
	if format == "pgp" && fips140.Enforced() {
		return "", badRequest("publicKey in body: %w", errPGP)
	}
	content, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(content) == 0 {
		return "", badRequest("publicKey.content in body must be base64 and not empty")
	}
	canonical, err := canonicalKey(format, content)
	if err != nil {
		return "", badRequest("public key provided could not be parsed")
	}
	return digestOf(canonical), nil
}

// canonicalKey returns the one spelling of a key whose hash Rekor indexes.
func canonicalKey(format string, content []byte) (canonical []byte, err error) {
	err = readKey(format, content, func(key pki.PublicKey) (err error) { canonical, err = key.CanonicalValue(); return err })
	return canonical, err
}

// Subjects are the names in a key or certificate of one of Rekor's formats (pgp, x509, minisign, ssh), as Rekor indexes them.
func Subjects(format string, content []byte) (names []string, err error) {
	err = readKey(format, content, func(key pki.PublicKey) error { names = key.Subjects(); return nil })
	return names, err
}

// readKey reads a key with Rekor's own parsers. They are other people's code on hostile input: a panic means the input is bad.
func readKey(format string, content []byte, use func(pki.PublicKey) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the %s key parser gave up", ErrEntry, format)
		}
	}()
	factory, err := pki.NewArtifactFactory(pki.Format(format))
	if err != nil {
		return err
	}
	key, err := factory.NewPublicKey(bytes.NewReader(content))
	if err != nil {
		return err
	}
	return use(key)
}
