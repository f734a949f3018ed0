package backup

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"

	"redoubt.internal/log"
	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// formatLine is the first line of a manifest.
const formatLine = "redoubt.backup/v1"

// Values of Manifest.Encryption.
const (
	EncryptionAge  = "age"
	EncryptionNone = "none"
)

const maxManifest = 512 << 10

// Manifest is what a run signs. Nothing in it is secret.
type Manifest struct {
	Repository string        `json:"repository"`         // of redoubt-backup.json
	Run        uint64        `json:"run"`                // 1, 2, 3, ...
	Previous   parcel.Digest `json:"previous,omitempty"` // SHA-256 of the note of the run before
	Base       uint64        `json:"base"`               // the run whose contents this one continues; 0: it is complete by itself
	Time       parcel.Time   `json:"time"`
	Domain     string        `json:"domain"`
	Key        []byte        `json:"key"` // PKIX DER of the key that signs this; its SHA-256 is the appliance's fingerprint
	Encryption string        `json:"encryption"`
	Recipients []string      `json:"recipients"` // whom it is sealed for
	Logs       []LogHead     `json:"logs"`
	Marks      []Mark        `json:"marks"`
	Keys       []Key         `json:"keys"`
	LeftOut    []string      `json:"leftOut"` // files that are in no backup
	Objects    Part          `json:"objects"` // the list of objects this run added: SHA-256 and length, a line each; not sealed
	Contents   Part          `json:"contents"`
}

// LogHead is a log at the moment of the run.
type LogHead struct {
	Name    string        `json:"name"`
	Origin  string        `json:"origin"`
	Size    uint64        `json:"size"`
	Root    parcel.Digest `json:"root"`
	Entries uint64        `json:"entries"` // durable ones; those beyond size had no head yet
	Note    string        `json:"note"`    // the checkpoint
}

// Mark is a high-water mark as it stood.
type Mark struct {
	Origin string        `json:"origin"`
	Size   uint64        `json:"size"`
	Root   parcel.Digest `json:"root"`
}

// Key is the public half of a key of the appliance.
type Key struct {
	Name      string `json:"name"`
	Where     string `json:"where"` // its URI, without what says how to unlock it
	PublicKey []byte `json:"publicKey"`
}

// Part is one object: the SHA-256 and length of the file, and the SHA-256 of what is in it.
type Part struct {
	Object parcel.Digest `json:"object"`
	Bytes  int64         `json:"bytes"`
	Plain  parcel.Digest `json:"plain,omitempty"` // not in manifests
}

func (p Part) whole() bool {
	return len(p.Object) == sha256.Size && len(p.Plain) == 0 && p.Bytes > 0 && p.Bytes <= maxPlain
}

// Fingerprint names an appliance: the SHA-256, in hex, of the key its backups are signed with.
func Fingerprint(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", sha256.Sum256(der)), nil
}

// Appliance is the fingerprint of the key that signed the manifest.
func (m *Manifest) Appliance() string { return fmt.Sprintf("%x", sha256.Sum256(m.Key)) }

func (m *Manifest) signerName() string { return "backup." + m.Domain }

// sign writes the manifest as a note signed by s.
func (m *Manifest) sign(s crypto.Signer) ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("writing the manifest: %w", err)
	}
	text := fmt.Appendf(nil, "%s\n%s\n", formatLine, line)
	if len(text) > maxManifest {
		return nil, fmt.Errorf("writing the manifest: %d bytes, at most %d fit", len(text), maxManifest)
	}
	note, err := parcel.SignNote(text, m.signerName(), s)
	if err != nil {
		return nil, fmt.Errorf("signing the manifest: %w", err)
	}
	return note, nil
}

// openManifest reads a signed manifest. It is signed by the key it names; whether that is the appliance's, the caller asks.
func openManifest(note []byte) (*Manifest, error) {
	bad := func(format string, args ...any) (*Manifest, error) {
		return nil, fmt.Errorf("%w: %s", ErrDamaged, fmt.Sprintf(format, args...))
	}
	first, rest, _ := bytes.Cut(note, []byte("\n"))
	line, _, found := bytes.Cut(rest, []byte("\n"))
	if string(first) != formatLine {
		if strings.HasPrefix(string(first), "redoubt.backup/") {
			return nil, fmt.Errorf("%w: %.40q, this program reads %s", ErrFormat, first, formatLine)
		}
		return bad("a manifest begins with %.40q", first)
	}
	if !found || len(note) > maxManifest {
		return bad("a manifest is cut short or too long")
	}
	m := &Manifest{}
	if err := strictjson.Decode(line, strictjson.Limits{Bytes: maxManifest}, m); err != nil {
		return bad("reading a manifest: %v", err)
	}
	if again, err := json.Marshal(m); err != nil || !bytes.Equal(again, line) {
		return bad("a manifest is not spelled as it is written")
	}
	public, err := x509.ParsePKIXPublicKey(m.Key)
	if err != nil {
		return bad("the key of a manifest: %v", err)
	}
	vkey, err := parcel.VerifierKey(m.signerName(), public)
	if err != nil {
		return bad("the key of a manifest: %v", err)
	}
	key, err := parcel.NewVerifier(vkey)
	if err != nil {
		return bad("the key of a manifest: %v", err)
	}
	text, _, err := parcel.OpenNote(note, []*parcel.Verifier{key})
	if err != nil {
		return bad("the signature of a manifest: %v", err)
	}
	if !bytes.Equal(text, fmt.Appendf(nil, "%s\n%s\n", formatLine, line)) {
		return bad("a manifest has more than it should")
	}
	return m, m.check()
}

// check looks at what needs no other file: the checkpoints verify with the public keys in the same manifest.
func (m *Manifest) check() error {
	if m.Run == 0 || m.Base != 0 && m.Base != m.Run-1 || (m.Run == 1) != (len(m.Previous) == 0) || !m.Objects.whole() || !m.Contents.whole() {
		return fmt.Errorf("%w: the manifest of run %d contradicts itself", ErrDamaged, m.Run)
	}
	if m.Encryption != EncryptionAge && m.Encryption != EncryptionNone {
		return fmt.Errorf("%w: encryption %.20q", ErrFormat, m.Encryption)
	}
	names := map[string]bool{}
	for _, l := range m.Logs {
		public, err := m.public(l.Name)
		if err != nil {
			return err
		}
		size, root, err := log.VerifyNote(l.Origin, public, []byte(l.Note))
		if err != nil || size != l.Size || !l.Root.Equal(root[:]) || l.Entries < l.Size || names[l.Name] {
			return fmt.Errorf("%w: run %d: the checkpoint of the %s log does not verify: %v", ErrDamaged, m.Run, l.Name, err)
		}
		names[l.Name] = true
	}
	return nil
}

// public is the public key of the log called name.
func (m *Manifest) public(name string) (crypto.PublicKey, error) {
	for _, k := range m.Keys {
		if k.Name == name {
			public, err := x509.ParsePKIXPublicKey(k.PublicKey)
			if err != nil {
				return nil, fmt.Errorf("%w: the key of the %s log: %v", ErrDamaged, name, err)
			}
			return public, nil
		}
	}
	return nil, fmt.Errorf("%w: run %d names no key of the %s log", ErrDamaged, m.Run, name)
}

// signedBy says whether the manifest is by the appliance whose fingerprint is given.
func (m *Manifest) signedBy(fingerprint string) bool { return m.Appliance() == fingerprint }
