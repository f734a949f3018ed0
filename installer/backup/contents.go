package backup

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"slices"

	"redoubt.internal/log/strictjson"
	"redoubt.internal/mirror/parcel"
)

// maxContents bounds the contents of one run, in bytes.
const maxContents = 256 << 20

// contents says where everything of the state directory is. What a run stores is the difference to the run it continues: databases
// that changed, with the new segments of their logs; files that changed or went.
type contents struct {
	Databases []*database `json:"databases"`
	Files     []*file     `json:"files"`
	Removed   []string    `json:"removed"`
}

// database is one database: what lies beside its logs, as one transaction saw it, and the logs.
type database struct {
	Name  string     `json:"name"` // of its file
	Stamp uint64     `json:"stamp"`
	Rest  []Part     `json:"rest"`
	Logs  []*logPart `json:"logs"`
}

// logPart is one log. A segment holds the chunks of entries, whole, and the heads of the sizes they reach, the size they begin at
// left out; the first holds the head of size 0. Nothing in a segment ever changes.
type logPart struct {
	Name     string `json:"name"`
	Prefix   string `json:"prefix"`
	Origin   string `json:"origin"`
	Size     uint64 `json:"size"`     // where the segments end
	Segments []Part `json:"segments"` // those this run added
	Tail     []Part `json:"tail"`     // chunks of the entries beyond, of this run alone
}

// file is one file beside the databases.
type file struct {
	Path   string        `json:"path"` // below the state directory, with slashes
	Mode   fs.FileMode   `json:"mode"`
	Size   int64         `json:"size"`
	SHA256 parcel.Digest `json:"sha256"`
	Parts  []Part        `json:"parts"` // objects that hold it, piece by piece; several files share one
	Seen   string        `json:"seen"`  // what the file system said, to tell whether it changed
}

func (c *contents) encode() ([]byte, error) { return json.Marshal(c) }

func parseContents(data []byte) (*contents, error) {
	c := &contents{}
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: maxContents, Values: 32 << 20}, c); err != nil {
		return nil, fmt.Errorf("%w: reading contents: %v", ErrDamaged, err)
	}
	if again, err := c.encode(); err != nil || !bytes.Equal(again, data) {
		return nil, fmt.Errorf("%w: contents are not spelled as they are written", ErrDamaged)
	}
	if c.holed() {
		return nil, fmt.Errorf("%w: contents with nothing where something belongs", ErrDamaged)
	}
	return c, nil
}

// holed says whether a null stands in a list.
func (c *contents) holed() bool {
	for _, d := range c.Databases {
		if d == nil || slices.Contains(d.Logs, nil) {
			return true
		}
	}
	return slices.Contains(c.Files, nil)
}

func (c *contents) database(name string) *database {
	for _, d := range c.Databases {
		if d.Name == name {
			return d
		}
	}
	return nil
}

// of is what of the contents is in some databases and files.
func (c *contents) of(databases []Database, owns func(path string) bool) *contents {
	mine := &contents{Databases: []*database{}, Files: []*file{}, Removed: []string{}}
	for _, d := range databases {
		if has := c.database(d.Name); has != nil {
			mine.Databases = append(mine.Databases, has)
		}
	}
	for _, f := range c.Files {
		if owns(f.Path) {
			mine.Files = append(mine.Files, f)
		}
	}
	return mine
}

func (d *database) log(name string) *logPart {
	for _, l := range d.Logs {
		if l.Name == name {
			return l
		}
	}
	return nil
}

// apply makes c, the contents of a run, those of the next one, which stored the difference.
func (c *contents) apply(diff *contents) {
	for _, d := range diff.Databases {
		old := c.database(d.Name)
		if old == nil {
			old = &database{Name: d.Name}
			c.Databases = append(c.Databases, old)
		}
		old.Stamp, old.Rest = d.Stamp, d.Rest
		for _, l := range d.Logs {
			was := old.log(l.Name)
			if was == nil {
				was = &logPart{Name: l.Name, Prefix: l.Prefix, Origin: l.Origin}
				old.Logs = append(old.Logs, was)
			}
			was.Size, was.Segments, was.Tail = l.Size, append(was.Segments, l.Segments...), l.Tail
		}
	}
	if len(diff.Files)+len(diff.Removed) == 0 {
		return
	}
	files := map[string]*file{}
	for _, f := range c.Files {
		files[f.Path] = f
	}
	for _, path := range diff.Removed {
		delete(files, path)
	}
	for _, f := range diff.Files {
		files[f.Path] = f
	}
	c.Files = slices.Collect(maps.Values(files))
	slices.SortFunc(c.Files, func(a, b *file) int { return bytes.Compare([]byte(a.Path), []byte(b.Path)) })
}

// parts calls fn for every object the contents need.
func (c *contents) parts(fn func(Part)) {
	for _, d := range c.Databases {
		for _, p := range d.Rest {
			fn(p)
		}
		for _, l := range d.Logs {
			for _, p := range slices.Concat(l.Segments, l.Tail) {
				fn(p)
			}
		}
	}
	for _, f := range c.Files {
		for _, p := range f.Parts {
			fn(p)
		}
	}
}
