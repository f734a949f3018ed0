package parcel

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Limits of a TUF repository in a parcel.
const (
	// MaxTUF is the largest number of TUF repositories in a parcel.
	MaxTUF = 16
	// MaxTUFRoots is the largest number of successive roots a step carries.
	MaxTUFRoots = 256
	// MaxTUFRoles is the largest number of delegated roles of a repository.
	MaxTUFRoles = 32
	// MaxTUFFiles is the largest number of target files of a repository.
	MaxTUFFiles = 256
	// MaxTUFTarget is the longest target file in bytes.
	MaxTUFTarget = 4 << 20
)

// TUF is the step of one TUF repository. What is carried follows from it: the roots after From.Root up to To.Root, and the
// timestamp, snapshot, targets, delegated roles and target files of To, all of them each time.
type TUF struct {
	Files    []Digest `json:"files"`           // target files, ascending
	From     Versions `json:"from"`            // where the importer stands; a repository not carried before stands at the exporter's pinned root
	Name     string   `json:"name"`            // what both sides call the repository
	Observed Time     `json:"observed"`        // when the exporter last saw the repository stand at To; unproven, not after Created
	Roles    []string `json:"roles,omitempty"` // delegated roles, ascending
	To       Versions `json:"to"`              // where the parcel takes it
}

// Versions are the versions of the four roles of a TUF repository.
type Versions struct {
	Root      int64 `json:"root"`
	Snapshot  int64 `json:"snapshot"`
	Targets   int64 `json:"targets"`
	Timestamp int64 `json:"timestamp"`
}

// Below names the first role that is of a lower version than in o, "" when none is.
func (v Versions) Below(o Versions) (role string) {
	switch {
	case v.Root < o.Root:
		return "root"
	case v.Timestamp < o.Timestamp:
		return "timestamp"
	case v.Snapshot < o.Snapshot:
		return "snapshot"
	case v.Targets < o.Targets:
		return "targets"
	}
	return ""
}

func (v Versions) String() string {
	return fmt.Sprintf("root %d, timestamp %d, snapshot %d, targets %d", v.Root, v.Timestamp, v.Snapshot, v.Targets)
}

const maxVersion = 1<<53 - 1 // of a role: a number every reader of JSON has

func (t TUF) check(created Time) error {
	bad := func(format string, a ...any) error {
		return fmt.Errorf("%w: TUF repository %.80q: "+format, append([]any{ErrManifest, t.Name}, a...)...)
	}
	least := min(t.From.Root, t.From.Timestamp+1, t.From.Snapshot+1, t.From.Targets+1, t.To.Timestamp, t.To.Snapshot, t.To.Targets)
	most := max(t.To.Root, t.To.Timestamp, t.To.Snapshot, t.To.Targets)
	switch {
	case !IsStream(t.Name):
		return bad("its name")
	case least < 1 || most > maxVersion || t.To.Below(t.From) != "":
		return bad("it goes from %v to %v", t.From, t.To)
	case t.To.Root-t.From.Root > MaxTUFRoots:
		return bad("%d roots", t.To.Root-t.From.Root)
	case t.Observed.Year() < 2000 || t.Observed.After(created.Time):
		return bad("observed at %v", t.Observed)
	case t.Files == nil || len(t.Files) > MaxTUFFiles || len(t.Roles) > MaxTUFRoles:
		return bad("%d files and %d roles", len(t.Files), len(t.Roles))
	}
	for i, f := range t.Files {
		if len(f) != sha256.Size || i > 0 && slices.Compare(t.Files[i-1], f) >= 0 {
			return bad("file %s", f)
		}
	}
	for i, r := range t.Roles {
		if r == "" || len(r) > 100 || !printable(r) || strings.ContainsAny(r, `/\`) || i > 0 && t.Roles[i-1] >= r {
			return bad("role %.80q", r)
		}
	}
	return nil
}

// TUFKind says which file of a TUF repository a name names; zero is none.
type TUFKind uint8

// Kinds of files, in the order they stand in a parcel.
const (
	TUFRoot TUFKind = iota + 1
	TUFTimestamp
	TUFSnapshot
	TUFTargets
	TUFRole
	TUFTarget
)

// TUFName is the name of a file of the TUF repository at index Repo of the manifest.
type TUFName struct {
	Repo   int
	Kind   TUFKind
	N      int64             // version of a root, index of a delegated role
	Digest [sha256.Size]byte // of a target file
}

var tufFixed = map[TUFKind]string{TUFTimestamp: "timestamp.json", TUFSnapshot: "snapshot.json", TUFTargets: "targets.json"}

// String returns the name in the tar: "tuf/0/6.root.json", "tuf/0/timestamp.json", "tuf/0/role/0.json", "tuf/0/targets/<sha256>".
func (n TUFName) String() string {
	switch n.Kind {
	case TUFRoot:
		return fmt.Sprintf("tuf/%d/%d.root.json", n.Repo, n.N)
	case TUFRole:
		return fmt.Sprintf("tuf/%d/role/%d.json", n.Repo, n.N)
	case TUFTarget:
		return fmt.Sprintf("tuf/%d/targets/%x", n.Repo, n.Digest)
	}
	return fmt.Sprintf("tuf/%d/%s", n.Repo, tufFixed[n.Kind])
}

func parseTUFName(s string) (n TUFName, ok bool) {
	rest, ok := strings.CutPrefix(s, "tuf/")
	number, rest, _ := strings.Cut(rest, "/")
	repo, err := strconv.ParseUint(number, 10, 16)
	if !ok || err != nil || repo >= MaxTUF {
		return n, false
	}
	n.Repo = int(repo)
	for kind, name := range tufFixed {
		if rest == name {
			n.Kind = kind
		}
	}
	if v, ok := strings.CutSuffix(rest, ".root.json"); ok {
		n.Kind = TUFRoot
		n.N, err = strconv.ParseInt(v, 10, 64)
		if n.N < 1 || n.N > maxVersion {
			return n, false
		}
	} else if v, ok := strings.CutPrefix(rest, "role/"); ok {
		n.Kind = TUFRole
		n.N, err = strconv.ParseInt(strings.TrimSuffix(v, ".json"), 10, 64)
		if n.N < 0 || n.N >= MaxTUFRoles {
			return n, false
		}
	} else if v, ok := strings.CutPrefix(rest, "targets/"); ok {
		n.Kind = TUFTarget
		var b []byte
		if b, err = hex.DecodeString(v); err == nil && len(b) == sha256.Size {
			n.Digest = [sha256.Size]byte(b)
		}
	}
	return n, err == nil && n.Kind != 0 && n.String() == s
}

func (n TUFName) limit() int64 {
	switch n.Kind {
	case TUFRoot:
		return 512 << 10
	case TUFTimestamp:
		return 64 << 10
	case TUFSnapshot:
		return 2 << 20
	}
	return MaxTUFTarget
}

// in tells whether the manifest calls for the file.
func (n TUFName) in(m *Manifest) bool {
	if n.Repo < 0 || n.Repo >= len(m.TUF) {
		return false
	}
	switch t := m.TUF[n.Repo]; n.Kind {
	case TUFRoot:
		return n.N > t.From.Root && n.N <= t.To.Root
	case TUFRole:
		return n.N < int64(len(t.Roles))
	case TUFTarget:
		return slices.ContainsFunc(t.Files, func(d Digest) bool { return d.Equal(n.Digest[:]) })
	}
	return true
}

func compareTUF(a, b TUFName) int {
	return cmp.Or(cmp.Compare(a.Repo, b.Repo), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.N, b.N), slices.Compare(a.Digest[:], b.Digest[:]))
}

// Names lists the files of the repository at index repo of a manifest, in their order.
func (t TUF) Names(repo int) (names []Name) {
	add := func(n TUFName) { n.Repo = repo; names = append(names, Name{TUF: n}) }
	for v := t.From.Root + 1; v <= t.To.Root; v++ {
		add(TUFName{Kind: TUFRoot, N: v})
	}
	for _, k := range []TUFKind{TUFTimestamp, TUFSnapshot, TUFTargets} {
		add(TUFName{Kind: k})
	}
	for i := range t.Roles {
		add(TUFName{Kind: TUFRole, N: int64(i)})
	}
	for _, d := range t.Files {
		add(TUFName{Kind: TUFTarget, Digest: [sha256.Size]byte(d)})
	}
	return names
}
