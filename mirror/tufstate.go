package mirror

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/theupdateframework/go-tuf/v2/metadata"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
)

// Keys in the database, each with a JSON value.
//
//	mirror/tuf/<name>                TUFHead      the last good state of a TUF repository: what readers follow
//	mirror/trust/<name>\x00<parcel>  TrustChange  what each parcel changed of whom the repository has us trust
//	exporter/tuf/<name>              TUFHead      the last state collected and verified
//	exporter/tufsent/<name>          TUFHead      the state the last parcel ends at
//
// Files lie below tuf/<name>/ and are written once: <version>.<role>.json, and targets/<sha256>. A head names them all with their
// digests; a file no head names was never accepted.
const (
	keyTUF          = "mirror/tuf/"
	keyTrust        = "mirror/trust/"
	keyTUFCollected = "exporter/tuf/"
	keyTUFSent      = "exporter/tufsent/"
)

// TUFConfig names a TUF repository to carry and the root it is believed from.
type TUFConfig struct {
	// Name is what both sides call the repository: 1 to 64 of a-z, 0-9, dot and hyphen.
	Name string
	// Root is the root.json that is pinned. It came here by a way that is trusted; any version the library reads will do. A later
	// one pinned later is compared when the chain passes it.
	Root []byte
	// Floors are the lowest versions ever taken, so that a fresh installation cannot be frozen in the past. Nil means those that
	// are shipped for the name.
	Floors *parcel.Versions
	// Stale says how old the last observed state may be.
	Stale freshness.Thresholds
	// Source is where the exporter reads the repository: an http or https URL, or a directory. Exporter only.
	Source string
}

// ShippedFloors are the lowest versions taken of repositories that are known by name.
var ShippedFloors = map[string]parcel.Versions{
	"public-good": {Root: 15, Timestamp: 762},
}

// tufRepo is a TUFConfig that was checked.
type tufRepo struct {
	TUFConfig
	floors parcel.Versions
	pin    int64 // version of Root
}

// floorsFrom says where the floors are set.
func (r *tufRepo) floorsFrom() string {
	if r.Floors == nil {
		return "shipped, and the pinned root; mirror.tuf[].floors in redoubt.yaml sets others"
	}
	return "mirror.tuf[].floors in redoubt.yaml, and the pinned root"
}

func knownTUF(configs []TUFConfig) (map[string]*tufRepo, error) {
	out := make(map[string]*tufRepo)
	for _, c := range configs {
		if !parcel.IsStream(c.Name) || out[c.Name] != nil {
			return nil, fmt.Errorf("%w: TUF repository %.80q; each needs a name of its own of a-z, 0-9, dot and hyphen", ErrConfig, c.Name)
		}
		if err := c.Stale.Check(); err != nil {
			return nil, fmt.Errorf("%w: TUF repository %q: %w", ErrConfig, c.Name, err)
		}
		if err := checkTUFJSON(c.Root, tufAsk{role: metadata.ROOT}.limit()); err != nil {
			return nil, fmt.Errorf("%w: TUF repository %q: its pinned root: %v", ErrConfig, c.Name, err)
		}
		root, err := metadata.Root().FromBytes(c.Root)
		if err == nil {
			err = root.VerifyDelegate(metadata.ROOT, root)
		}
		if err != nil {
			return nil, fmt.Errorf("%w: TUF repository %q: its pinned root: %v (pin a later root; the public-good ones can be read from 5 on)", ErrConfig, c.Name, err)
		}
		r := &tufRepo{TUFConfig: c, floors: ShippedFloors[c.Name], pin: root.Signed.Version}
		if c.Floors != nil {
			r.floors = *c.Floors
		}
		r.floors.Root = max(r.floors.Root, r.pin)
		out[c.Name] = r
	}
	return out, nil
}

// TUFHead is a verified state of a TUF repository. Its JSON form is stable.
type TUFHead struct {
	Name     string          `json:"name"`
	Versions parcel.Versions `json:"versions"`
	Expires  time.Time       `json:"expires"`     // the earliest end of any role
	Expiring string          `json:"expiring"`    // and that role
	Observed time.Time       `json:"observed"`    // when the exporter says it last saw the repository there; unproven
	AsOf     time.Time       `json:"verified_at"` // the time it was valid at: when the parcel was made, on the exporter's side when it was pulled
	Imported time.Time       `json:"imported"`    // local time
	Sequence uint64          `json:"sequence"`    // parcel that brought it; 0 on the exporter's side
	First    int64           `json:"first_root"`  // version of the pinned root the chain of Files begins at
	Files    []TUFFile       `json:"files"`       // every root from First on, and the metadata in force
	Roles    []string        `json:"roles,omitempty"`
	Targets  []TUFTarget     `json:"targets"`
}

// TUFFile is a metadata file of a head.
type TUFFile struct {
	Name   string        `json:"name"` // below the repository's folder: "6.root.json"
	SHA256 parcel.Digest `json:"sha256"`
}

// TUFTarget is a target of a head.
type TUFTarget struct {
	Name   string           `json:"name"`
	SHA256 parcel.Digest    `json:"sha256"`
	Bytes  int64            `json:"bytes"`
	Custom *json.RawMessage `json:"custom,omitempty"`

	files *metadata.TargetFiles // while it is verified
}

// StaleBy is how long ago a role of the state expired; 0 while none has.
func (h TUFHead) StaleBy(now time.Time) time.Duration { return max(0, now.Sub(h.Expires)) }

func (h TUFHead) digests() []parcel.Digest {
	all := make(map[string]parcel.Digest)
	for _, t := range h.Targets {
		all[string(t.SHA256)] = t.SHA256
	}
	return slices.SortedFunc(maps.Values(all), func(a, b parcel.Digest) int { return slices.Compare(a, b) })
}

// target is the digest of a target, nil when there is none of that name.
func (h TUFHead) target(name string) parcel.Digest {
	for _, t := range h.Targets {
		if t.Name == name {
			return t.SHA256
		}
	}
	return nil
}

func tufDir(name string) string { return "tuf/" + name }

// readTUF returns a file of a head's folder, compared with the digest the head has.
func readTUF(base *os.Root, dir, name string, want parcel.Digest) ([]byte, error) {
	b, err := base.ReadFile(path.Join(dir, name))
	if err != nil {
		return nil, fmt.Errorf("%w: %v", ErrDamaged, err)
	}
	if !want.Equal(parcel.Sum(b)) {
		return nil, fmt.Errorf("%w: %s is not what was accepted", ErrDamaged, path.Join(dir, name))
	}
	return b, nil
}

func (h TUFHead) readMeta(base *os.Root, name string) ([]byte, error) {
	for _, f := range h.Files {
		if f.Name == name {
			return readTUF(base, tufDir(h.Name), name, f.SHA256)
		}
	}
	return nil, fmt.Errorf("%w: %s of TUF repository %q", ErrNotFound, name, h.Name)
}

func (h TUFHead) readTarget(base *os.Root, name string) ([]byte, error) {
	for _, t := range h.Targets {
		if t.Name == name {
			return readTUF(base, tufDir(h.Name), "targets/"+t.SHA256.String(), t.SHA256)
		}
	}
	return nil, fmt.Errorf("%w: target %q of TUF repository %q", ErrNotFound, name, h.Name)
}

// held is what a repository is verified against: a head and its files, or the pinned root where there is none.
func (r *tufRepo) held(base *os.Root, h *TUFHead) (tufHeld, error) {
	if h == nil {
		return tufHeld{root: r.Root, versions: parcel.Versions{Root: r.pin}}, nil
	}
	out := tufHeld{versions: h.Versions, digests: make(map[string]parcel.Digest)}
	for _, f := range h.Files {
		out.digests[f.Name] = f.SHA256
	}
	var errs [3]error
	out.root, errs[0] = h.readMeta(base, tufAsk{metadata.ROOT, h.Versions.Root}.name())
	out.timestamp, errs[1] = h.readMeta(base, tufAsk{metadata.TIMESTAMP, h.Versions.Timestamp}.name())
	out.snapshot, errs[2] = h.readMeta(base, tufAsk{metadata.SNAPSHOT, h.Versions.Snapshot}.name())
	return out, errors.Join(errs[:]...)
}

// head is a verified state as it is remembered, following h, nil for the first.
func (r *tufRepo) head(h *TUFHead, s *tufState) TUFHead {
	out := TUFHead{Name: r.Name, Versions: s.versions, Expires: s.expires, Expiring: s.expiring, First: r.pin, Roles: s.roles, Targets: s.targets}
	if h == nil {
		out.Files = []TUFFile{{tufAsk{metadata.ROOT, r.pin}.name(), parcel.Sum(r.Root)}}
	} else {
		out.First = h.First
		for v := h.First; v <= h.Versions.Root; v++ {
			name := tufAsk{metadata.ROOT, v}.name()
			i := slices.IndexFunc(h.Files, func(f TUFFile) bool { return f.Name == name })
			if i >= 0 {
				out.Files = append(out.Files, h.Files[i])
			}
		}
	}
	for _, f := range s.files {
		out.Files = append(out.Files, TUFFile{f.ask.name(), parcel.Sum(f.data)})
	}
	return out
}

// keepTUF writes the metadata of a verified state below dir; it is durable after a flush. The pinned root stands with the first one,
// so that the chain can be verified again from the folder alone.
func (r *tufRepo) keepTUF(base *os.Root, dir string, first bool, s *tufState) error {
	if err := base.MkdirAll(path.Join(dir, "targets"), 0o755); err != nil {
		return err
	}
	files := s.files
	if first {
		files = append([]tufMeta{{tufAsk{metadata.ROOT, r.pin}, r.Root}}, files...)
	}
	for _, f := range files {
		if err := writeWhole(base, path.Join(dir, f.ask.name()), f.data); err != nil {
			return err
		}
	}
	return nil
}

// keepTarget verifies a target file as every target that is this file, and writes it below dir.
func (r *tufRepo) keepTarget(base *os.Root, dir string, s *tufState, digest parcel.Digest, data []byte) error {
	for _, t := range s.targets {
		if !t.SHA256.Equal(digest) {
			continue
		}
		if err := t.files.VerifyLengthHashes(data); err != nil {
			return r.blame("target "+t.Name, err)
		}
	}
	if !digest.Equal(parcel.Sum(data)) {
		return fmt.Errorf("TUF repository %q: %w: target file %s", r.Name, ErrProof, digest)
	}
	return writeWhole(base, path.Join(dir, "targets", digest.String()), data)
}

// writeWhole replaces a file whole: whoever reads sees the old bytes or the new.
func writeWhole(base *os.Root, name string, data []byte) error {
	temporary := name + ".new"
	if err := base.WriteFile(temporary, data, 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	if err := base.Rename(temporary, name); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	return nil
}

// tufHeads reads all heads below a prefix.
func tufHeads(db store.DB, prefix string) (map[string]TUFHead, error) {
	out := make(map[string]TUFHead)
	err := db.View(func(tx store.Tx) error {
		return scan(tx, prefix, func(_ string, h TUFHead) error { out[h.Name] = h; return nil })
	})
	return out, err
}

// roleOf is the role in a metadata file's name, escaped as it is there.
func roleOf(file string) (role string, ok bool) {
	_, rest, ok := strings.Cut(file, ".")
	role, json := strings.CutSuffix(rest, ".json")
	return role, ok && json
}
