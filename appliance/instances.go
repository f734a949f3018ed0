package main

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/hsm"
	"redoubt.internal/log/rekor"
)

// history is pki/instances.json: which keys a role had, has, and is about to have. The configuration names the first key of
// each role; whatever follows stands here. A state directory in which nothing was rotated has no such file.
//
// It is replaced as a whole (written beside, synced, renamed), so each step of a rotation is taken or not. Nothing in it is secret.
// The nil history is one without instances.
type history struct {
	Format string `json:"format"` // historyFormat
	// Unpublished is the name of the key whose last step the trust repository does not show yet.
	Unpublished string        `json:"unpublished,omitempty"`
	Instances   []keyInstance `json:"instances"` // of one role in the order they follow each other
	// TrustFloor is the least version of trust metadata that is signed from here on: lower ones may have been signed by the directory
	// that was lost.
	TrustFloor int64 `json:"trustFloor,omitempty"`
}

// lostEntries says what is known of a log that was restored from before its last head.
type lostEntries struct {
	Size uint64 `json:"size"` // of the head it ends at
	Mark uint64 `json:"mark"` // how many entries were signed; where no mark survived, Size
	Sure bool   `json:"sure"` // a mark says so
}

const (
	historyFormat   = "redoubt.instances/v1"
	maxHistoryBytes = 1 << 20
)

// keyInstance is one key in the life of a role.
type keyInstance struct {
	// Name is the role for its first key, then role-2 and on; for a log it is the log's name.
	Name string `json:"name"`
	Role string `json:"role"`
	// State is planned (chosen, perhaps made), announced (in the trusted root, not signing), active or retired.
	State     string        `json:"state"`
	URI       string        `json:"uri"`
	Algorithm hsm.Algorithm `json:"algorithm,omitempty"`
	PublicKey []byte        `json:"publicKey,omitempty"` // PKIX DER; from announced on
	// Chain is the PEM file of an authority's certificates, its own first; relative to the state directory.
	Chain string `json:"chain,omitempty"`
	// TreeID and Serves are those of an artifact log.
	TreeID int64              `json:"treeID,omitempty"`
	Serves []rekor.Generation `json:"serves,omitempty"`
	// Lost is set of a log that was retired because its directory was restored from before its last head.
	Lost *lostEntries `json:"lost,omitempty"`
	// Made is when the key was planned; for the first key of a role, when trust in it starts.
	Made time.Time `json:"made,omitzero"`
	// Start and End bound the signatures that count. An authority starts with its certificate.
	Start time.Time `json:"start,omitzero"`
	End   time.Time `json:"end,omitzero"`
}

const (
	statePlanned   = "planned"
	stateAnnounced = "announced"
	stateActive    = "active"
	stateRetired   = "retired"
)

var errHistory = errors.New("the record of keys is not valid")

func (l layout) instances() string { return l.pki("instances.json") }

// readHistory reads the record of keys; one without instances where there is no file.
func readHistory(dir layout) (*history, error) {
	h := &history{Format: historyFormat}
	data, err := os.ReadFile(dir.instances())
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the record of keys: %w", err)
	}
	if err := h.parse(data); err != nil {
		return nil, cmdline.Hinted(fmt.Errorf("%s: %w", dir.instances(), err), "put the file back from the newest backup of the state directory")
	}
	return h, nil
}

// parse decodes data strictly and refuses a record that no rotation leaves.
func (h *history) parse(data []byte) error {
	if len(data) > maxHistoryBytes {
		return fmt.Errorf("%w: larger than %d bytes", errHistory, maxHistoryBytes)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(h); err != nil {
		return fmt.Errorf("%w: %w", errHistory, err)
	}
	if decoder.More() {
		return fmt.Errorf("%w: something follows it", errHistory)
	}
	if h.Format != historyFormat {
		return fmt.Errorf("%w: format %q, want %q", errHistory, h.Format, historyFormat)
	}
	names, uris, active, pending := map[string]bool{}, map[string]bool{}, map[string]bool{}, map[string]bool{}
	for i, k := range h.Instances {
		bad := func(format string, args ...any) error {
			return fmt.Errorf("%w: instances[%d] (%s): %s", errHistory, i, k.Name, fmt.Sprintf(format, args...))
		}
		if names[k.Name] || uris[k.URI] || k.URI == "" {
			return bad("a name or a URI stands twice or is missing")
		}
		if !rotates(k.Role) || k.Name != k.Role && instanceNumber(k.Name) == 0 {
			return bad("role %q does not have such keys", k.Role)
		}
		names[k.Name], uris[k.URI] = true, true
		switch k.State {
		case stateActive:
			if active[k.Role] {
				return bad("a second active key of %s", k.Role)
			}
			active[k.Role] = true
		case statePlanned, stateAnnounced:
			if pending[k.Role] {
				return bad("a second key of %s on its way", k.Role)
			}
			pending[k.Role] = true
		case stateRetired:
		default:
			return bad("state %q", k.State)
		}
		if k.State == statePlanned {
			continue
		}
		if _, err := x509.ParsePKIXPublicKey(k.PublicKey); err != nil {
			return bad("public key: %v", err)
		}
		if (k.Role == roleIssuing || k.Role == roleTSA) != (k.Chain != "") {
			return bad("chain %q", k.Chain)
		}
	}
	for role := range maps.Keys(pending) {
		if !active[role] {
			return fmt.Errorf("%w: no key of %s is active", errHistory, role)
		}
	}
	return nil
}

// write replaces the record in dir. From its return on the new one counts, whatever crashes.
func (h *history) write(dir layout) error {
	data, err := json.MarshalIndent(h, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the record of keys: %w", err)
	}
	if err := new(history).parse(data); err != nil {
		return err
	}
	if err := replaceFile(dir.instances(), append(data, '\n'), 0o640); err != nil {
		return fmt.Errorf("writing the record of keys: %w", err)
	}
	return nil
}

// replaceFile makes path hold data, durably, or leaves it as it was.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	if err := writeFileAtomic(path, data, mode); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func (h *history) clone() *history {
	c := *h
	c.Instances = slices.Clone(h.Instances)
	return &c
}

// of lists the keys of a role, the first one first; none where the role was never rotated.
func (h *history) of(role string) (keys []keyInstance) {
	if h == nil {
		return nil
	}
	for _, k := range h.Instances {
		if k.Role == role {
			keys = append(keys, k)
		}
	}
	return keys
}

// active is the name of the key that signs for role now.
func (h *history) active(role string) string {
	for _, k := range h.of(role) {
		if k.State == stateActive {
			return k.Name
		}
	}
	return role
}

// find returns the instance called name for change in place; nil when there is none.
func (h *history) find(name string) *keyInstance {
	if h == nil {
		return nil
	}
	for i := range h.Instances {
		if h.Instances[i].Name == name {
			return &h.Instances[i]
		}
	}
	return nil
}

// pending returns the key of role on its way, for change in place; nil when there is none.
func (h *history) pending(role string) *keyInstance {
	for i := range h.Instances {
		if k := &h.Instances[i]; k.Role == role && (k.State == statePlanned || k.State == stateAnnounced) {
			return k
		}
	}
	return nil
}

// drop takes the instance called name out.
func (h *history) drop(name string) {
	h.Instances = slices.DeleteFunc(h.Instances, func(k keyInstance) bool { return k.Name == name })
}

// public is the key of an announced, active or retired instance.
func (k *keyInstance) public() (crypto.PublicKey, error) {
	key, err := x509.ParsePKIXPublicKey(k.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("the public key of %s: %w", k.Name, err)
	}
	return key, nil
}

// instanceNumber is n of role-n; 0 of what has none.
func instanceNumber(name string) int {
	i := strings.LastIndexByte(name, '-')
	n, err := strconv.Atoi(name[i+1:])
	if i < 0 || err != nil || n < 2 || n > maxShard || strconv.Itoa(n) != name[i+1:] {
		return 0
	}
	return n
}

// rotates reports whether a role is one whose keys follow each other in the record. Each artifact log of the configuration is such
// a role; what follows it is named by the next free number.
func rotates(role string) bool {
	switch role {
	case roleIssuing, roleTSA, roleCT, roleTUF, roleOIDC, roleAudit:
		return true
	}
	return shardNumber(role) > 0
}

// with is the configuration as it is in force: under keys.roles the keys that sign now and those of logs that are still read,
// under log.artifact the shards made since.
func (c *Config) with(h *history) (*Config, error) {
	if len(h.Instances) == 0 {
		return c, nil
	}
	next := *c
	next.Keys.Roles, next.Log.Artifact = maps.Clone(c.Keys.Roles), slices.Clone(c.Log.Artifact)
	for _, k := range h.Instances {
		if k.State == statePlanned || k.State == stateAnnounced {
			continue
		}
		configured, known := c.Keys.Roles[k.Role]
		if k.Name == k.Role && known && !slices.ContainsFunc(h.of(k.Role), func(o keyInstance) bool { return o.URI == configured }) {
			return nil, cmdline.Hinted(fmt.Errorf("keys.roles.%s is %s, and pki/instances.json records it as %s since its rotation", k.Role, redactURI(configured), redactURI(k.URI)),
				"put the recorded URI back into redoubt.yaml; a new key comes by `redoubt keys rotate %s`", k.Role)
		}
		next.Keys.Roles[k.Name] = k.URI
		if shardNumber(k.Name) == 0 {
			continue
		}
		frozen := k.State == stateRetired
		if i := slices.IndexFunc(next.Log.Artifact, func(a ArtifactLog) bool { return a.Name == k.Name }); i >= 0 {
			next.Log.Artifact[i].Frozen = frozen || next.Log.Artifact[i].Frozen
		} else {
			next.Log.Artifact = append(next.Log.Artifact, ArtifactLog{Name: k.Name, TreeID: k.TreeID, Serves: k.Serves, Frozen: frozen})
		}
	}
	for _, problem := range next.Log.check() {
		return nil, fmt.Errorf("redoubt.yaml and pki/instances.json together: log.artifact: %w", problem)
	}
	return &next, nil
}

// inForce is the configuration with what rotations changed since.
func (c *Config) inForce() (*Config, *history, error) {
	h, err := readHistory(layout{c.Dir})
	if err != nil {
		return nil, nil, err
	}
	next, err := c.with(h)
	return next, h, err
}

// redactURI cuts the query off the URI of a PKCS#11 key: module paths and where PINs are read from are nobody's business in a message.
func redactURI(uri string) string {
	if !strings.HasPrefix(uri, "pkcs11:") {
		return uri
	}
	path, _, _ := strings.Cut(uri, "?")
	return path
}
