package vault

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redoubt.internal/hsm"
)

// policy is a Transit key as the server describes it (GET MOUNT/keys/NAME).
type policy struct {
	Type                 string                     `json:"type"`
	Derived              bool                       `json:"derived"`
	Exportable           bool                       `json:"exportable"`
	AllowPlaintextBackup bool                       `json:"allow_plaintext_backup"`
	DeletionAllowed      bool                       `json:"deletion_allowed"`
	Imported             bool                       `json:"imported_key"`
	BackupInfo           json.RawMessage            `json:"backup_info"`
	RestoreInfo          json.RawMessage            `json:"restore_info"`
	LatestVersion        int                        `json:"latest_version"`
	MinDecryptionVersion int                        `json:"min_decryption_version"`
	MinEncryptionVersion int                        `json:"min_encryption_version"`
	AutoRotatePeriod     int64                      `json:"auto_rotate_period"`
	Keys                 map[string]json.RawMessage `json:"keys"`
}

// readPolicy asks the server about a key; hsm.ErrNotFound when there is none.
func (t *Token) readPolicy(ctx context.Context, s *session, name string) (*policy, error) {
	var out struct {
		Data policy `json:"data"`
	}
	err := t.wire.call(ctx, s.grant.token, "GET", t.cfg.Mount+"/keys/"+name, nil, &out)
	if errors.Is(err, errAbsent) {
		return nil, fmt.Errorf("%w: %w", hsm.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	return &out.Data, nil
}

// version returns algorithm, public key and time of creation of one version.
func (p *policy) version(n int) (hsm.Algorithm, crypto.PublicKey, string, error) {
	alg := hsm.Algorithm(p.Type)
	if !slices.Contains(hsm.Algorithms(), alg) || p.Derived {
		return "", nil, "", fmt.Errorf("the key is of type %q (derived: %t), which signs nothing here: %w", clip(p.Type), p.Derived, hsm.ErrUnsupported)
	}
	if n > p.LatestVersion {
		return "", nil, "", fmt.Errorf("the key has no version %d, its latest is %d: %w", n, p.LatestVersion, hsm.ErrNotFound)
	}
	raw, ok := p.Keys[strconv.Itoa(n)]
	if !ok {
		return "", nil, "", fmt.Errorf("%w: version %d is archived, min_decryption_version is %d", hsm.ErrUnavailable, n, p.MinDecryptionVersion)
	}
	var one struct {
		PublicKey string `json:"public_key"`
		Created   string `json:"creation_time"`
	}
	if err := json.Unmarshal(raw, &one); err != nil {
		return "", nil, "", fmt.Errorf("%w: version %d of the key is not what Vault sends: %w", errLost, n, err)
	}
	pub, err := parsePublic(alg, one.PublicKey)
	return alg, pub, clip(one.Created), err
}

// signs refuses a version the server would refuse with a bare 500.
func (p *policy) signs(n int) error {
	if p.MinEncryptionVersion > n {
		return fmt.Errorf("%w: version %d may not sign, min_encryption_version is %d; the certificates are over version %d, so set it back", hsm.ErrUnavailable, n, p.MinEncryptionVersion, n)
	}
	return nil
}

// acceptable is the floor: a key that can leave the server, or came from outside,
// or can be deleted by one request, is refused.
func (p *policy) acceptable() error {
	for _, c := range []struct {
		set  bool
		what string
	}{
		{p.Exportable, "exportable is true: its private half can be read"},
		{p.AllowPlaintextBackup, "allow_plaintext_backup is true: its private half can be read"},
		{p.Imported, "imported_key is true: its private half was outside"},
		{isSet(p.BackupInfo), "backup_info is set: its private half was written to a backup"},
		{isSet(p.RestoreInfo), "restore_info is set: it came from a plaintext backup"},
		{p.DeletionAllowed, "deletion_allowed is true: one request destroys it"},
	} {
		if c.set {
			return fmt.Errorf("%w: %s", hsm.ErrInsecureKey, c.what)
		}
	}
	return nil
}

func isSet(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// attributes are what was read back, for inventories.
func (p *policy) attributes(created string) map[string]string {
	return map[string]string{
		"type": p.Type, "exportable": strconv.FormatBool(p.Exportable), "allow_plaintext_backup": strconv.FormatBool(p.AllowPlaintextBackup),
		"deletion_allowed": strconv.FormatBool(p.DeletionAllowed), "imported_key": strconv.FormatBool(p.Imported), "derived": strconv.FormatBool(p.Derived),
		"latest_version": strconv.Itoa(p.LatestVersion), "min_encryption_version": strconv.Itoa(p.MinEncryptionVersion),
		"auto_rotate_period": strconv.FormatInt(p.AutoRotatePeriod, 10), "creation_time": created,
	}
}

// parsePublic reads a public key: PEM, for Ed25519 the 32 octets in base64.
func parsePublic(alg hsm.Algorithm, text string) (crypto.PublicKey, error) {
	bad := func(why string) (crypto.PublicKey, error) {
		return nil, fmt.Errorf("public key of type %s: %s: %w", alg, why, hsm.ErrUnsupported)
	}
	if len(text) > 8<<10 {
		return bad("too long")
	}
	var pub crypto.PublicKey
	if alg == hsm.Ed25519 {
		raw, err := base64.StdEncoding.DecodeString(text)
		if err != nil || len(raw) != ed25519.PublicKeySize {
			return bad("not 32 octets in base64")
		}
		pub = ed25519.PublicKey(raw)
	} else {
		block, rest := pem.Decode([]byte(text))
		if block == nil || strings.TrimSpace(string(rest)) != "" {
			return bad("not one PEM block")
		}
		var err error
		switch block.Type {
		case "PUBLIC KEY":
			pub, err = x509.ParsePKIXPublicKey(block.Bytes)
		case "RSA PUBLIC KEY":
			pub, err = x509.ParsePKCS1PublicKey(block.Bytes)
		default:
			return bad("PEM of another type")
		}
		if err != nil {
			return bad("not parsed")
		}
	}
	if got, err := hsm.AlgorithmOf(pub); err != nil || got != alg {
		return bad("it is of another type: " + string(got))
	}
	return pub, nil
}
