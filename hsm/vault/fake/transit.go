package fake

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// key is a Transit key with its versions from 1.
type key struct {
	kind                          string
	exportable, backup, deletable bool
	minEncryption, minDecryption  int
	versions                      []crypto.Signer
	created                       []time.Time
}

func (k *key) rotate() bool {
	var s crypto.Signer
	var err error
	switch k.kind {
	case "ecdsa-p256":
		s, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ecdsa-p384":
		s, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa-3072":
		s, err = rsa.GenerateKey(rand.Reader, 3072)
	case "rsa-4096":
		s, err = rsa.GenerateKey(rand.Reader, 4096)
	case "ed25519":
		_, private, e := ed25519.GenerateKey(rand.Reader)
		s, err = private, e
	default:
		return false
	}
	if err != nil {
		return false
	}
	k.versions, k.created = append(k.versions, s), append(k.created, time.Now())
	return true
}

// transit serves MOUNT/keys/... and MOUNT/sign/...
func (s *Server) transit(r *request, mount, path string) answer {
	verb, rest, _ := strings.Cut(path, "/")
	name, action, _ := strings.Cut(rest, "/")
	k := s.keys[mount+"/"+name]
	switch {
	case verb == "keys" && action == "" && r.Method == http.MethodGet:
		if k == nil {
			return fail(http.StatusNotFound)
		}
		return data(k.describe(name))
	case verb == "keys" && action == "" && r.Method == http.MethodDelete:
		if k == nil || !k.deletable {
			return fail(http.StatusBadRequest, "error deleting policy "+name+": deletion is not allowed for this key")
		}
		delete(s.keys, mount+"/"+name)
		return nothing
	case verb == "keys" && action == "":
		if k != nil { // whatever type was asked for, and without a warning
			return data(k.describe(name))
		}
		k = &key{kind: r.text("type"), exportable: r.yes("exportable"), backup: r.yes("allow_plaintext_backup"), minDecryption: 1}
		if !k.rotate() {
			return fail(http.StatusBadRequest, "unknown key type "+k.kind)
		}
		s.keys[mount+"/"+name] = k
		return data(k.describe(name))
	case k == nil:
		return fail(http.StatusBadRequest, "signing key not found")
	case verb == "keys" && action == "rotate":
		k.rotate()
		return data(k.describe(name))
	case verb == "keys" && action == "config":
		return k.configure(r, name)
	case verb == "sign":
		return k.sign(r)
	}
	return fail(http.StatusNotFound, "unsupported path")
}

func (k *key) configure(r *request, name string) answer {
	k.exportable = k.exportable || r.yes("exportable") // neither can be taken back
	k.backup = k.backup || r.yes("allow_plaintext_backup")
	if _, ok := r.body["deletion_allowed"]; ok {
		k.deletable = r.yes("deletion_allowed")
	}
	if n, ok := r.body["min_encryption_version"].(float64); ok {
		k.minEncryption = int(n)
	}
	if n, ok := r.body["min_decryption_version"].(float64); ok {
		k.minDecryption = int(n)
	}
	return data(k.describe(name))
}

func (k *key) describe(name string) map[string]any {
	keys := map[string]any{}
	for i, s := range k.versions {
		if i+1 < k.minDecryption {
			continue // archived
		}
		text := ""
		switch pub := s.Public().(type) {
		case ed25519.PublicKey:
			text = base64.StdEncoding.EncodeToString(pub) // raw, not PEM
		default:
			der, _ := x509.MarshalPKIXPublicKey(pub)
			text = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
		}
		keys[strconv.Itoa(i+1)] = map[string]any{"public_key": text, "creation_time": k.created[i].UTC().Format(time.RFC3339Nano), "name": k.kind}
	}
	return map[string]any{"name": name, "type": k.kind, "derived": false, "exportable": k.exportable, "allow_plaintext_backup": k.backup, "deletion_allowed": k.deletable,
		"imported_key": false, "latest_version": len(k.versions), "min_available_version": 0, "min_decryption_version": k.minDecryption, "min_encryption_version": k.minEncryption,
		"auto_rotate_period": 0, "supports_signing": true, "keys": keys}
}

func (k *key) sign(r *request) answer {
	version := len(k.versions) // the latest, unless one is named
	if n, ok := r.body["key_version"].(float64); ok && n > 0 {
		version = int(n)
	}
	input, err := base64.StdEncoding.DecodeString(r.text("input"))
	switch {
	case err != nil:
		return fail(http.StatusBadRequest, "unable to decode input: "+err.Error())
	case version > len(k.versions):
		return fail(http.StatusInternalServerError, "1 error occurred:\n\t* internal error\n\n")
	case version < k.minEncryption:
		return fail(http.StatusInternalServerError, "1 error occurred:\n\t* requested version for signing is less than the minimum encryption key version\n\n")
	}
	hash := map[string]crypto.Hash{"": crypto.SHA256, "sha2-256": crypto.SHA256, "sha2-384": crypto.SHA384, "sha2-512": crypto.SHA512}[r.text("hash_algorithm")]
	if !r.yes("prehashed") && k.kind != "ed25519" {
		h := hash.New()
		h.Write(input)
		input = h.Sum(nil)
	}
	var sig []byte
	switch s := k.versions[version-1].(type) {
	case *ecdsa.PrivateKey:
		sig, err = ecdsa.SignASN1(rand.Reader, s, input) // of any length
	case ed25519.PrivateKey:
		sig = ed25519.Sign(s, input)
	case *rsa.PrivateKey:
		if r.text("signature_algorithm") == "pkcs1v15" {
			sig, err = rsa.SignPKCS1v15(rand.Reader, s, hash, input)
		} else {
			salt := rsa.PSSSaltLengthAuto
			if r.text("salt_length") == "hash" {
				salt = rsa.PSSSaltLengthEqualsHash
			}
			sig, err = rsa.SignPSS(rand.Reader, s, hash, input, &rsa.PSSOptions{SaltLength: salt})
		}
	}
	if err != nil {
		return fail(http.StatusInternalServerError, "1 error occurred:\n\t* "+err.Error()+"\n\n")
	}
	return data(map[string]any{"signature": fmt.Sprintf("vault:v%d:%s", version, base64.StdEncoding.EncodeToString(sig)), "key_version": version})
}
