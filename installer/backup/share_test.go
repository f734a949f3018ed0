package backup

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror/parcel"
)

// shared is a site whose rekor log another process has, with its key; this one has authority.db and the other files.
type shared struct {
	*site
	authority *bolt.DB
	during    func()                                // while the other process copies
	twist     func(frames []byte, a *answer) []byte // what it hands over instead
	there     Config                                // of the other process
}

func othersPath(path string) bool { return path == "keys/rekor" }

func newShared(t *testing.T) *shared {
	s := &shared{site: newSite(t)}
	check(t, os.WriteFile(filepath.Join(s.dir, "keys/rekor"), []byte("sealed key of rekor\n"), 0o600))
	var err error
	s.authority, err = bolt.Create(filepath.Join(s.dir, "db", "authority.db"))
	check(t, err)
	t.Cleanup(func() { s.authority.Close() })
	s.there = Config{Dir: s.dir, Skip: s.c.Skip, Owns: othersPath, Databases: s.c.Databases, Marks: []Mark{{s.conf.Origin, 0, parcel.Sum(nil)}, {"other.corp.internal", 7, parcel.Sum(nil)}}}
	s.c.Shares = []Share{{Name: "log", Databases: s.c.Databases, Owns: othersPath, Ask: s.ask}}
	s.c.Databases = []Database{{Name: "authority.db", DB: s.authority, Stamp: bolt.Stamp}}
	s.c.Owns = func(path string) bool { return !othersPath(path) }
	return s
}

func (s *shared) ask(ctx context.Context, text []byte) (io.ReadCloser, error) {
	a, err := ParseAsk(text)
	if err != nil {
		return nil, err
	}
	var frames bytes.Buffer
	if err := WriteShare(ctx, s.there, a, &frames); err != nil {
		return io.NopCloser(&frames), nil // the error is among them
	}
	if s.during != nil {
		s.during()
	}
	if s.twist != nil {
		last := bytes.LastIndex(frames.Bytes(), []byte(`{"contents"`))
		given := &answer{}
		if err := json.Unmarshal(frames.Bytes()[last:], given); err != nil {
			return nil, err
		}
		return io.NopCloser(bytes.NewReader(s.twist(frames.Bytes()[:last-5], given))), nil
	}
	return io.NopCloser(&frames), nil
}

// TestShares: a run put together of two processes' shares is one like any other, later runs write what is new, and what was recorded while
// a share was copied is in the run. In both ways to write one.
func TestShares(t *testing.T) {
	for name, sealed := range modes() {
		t.Run(name, func(t *testing.T) {
			s := newShared(t)
			reading := s.reading()
			if sealed {
				identity, recipient := custodian(t)
				s.c.Plain, s.c.Recipients, reading.Identities = false, []string{recipient}, []string{identity}
			}
			s.during = func() { // a certificate that an entry of the next moment stands on
				check(t, s.authority.Update(func(tx store.Tx) error { return tx.Put([]byte("certificate"), []byte("logged")) }))
			}
			for size := uint64(40); size <= 80; size += 40 {
				s.add(40)
				s.create()
				dir := filepath.Join(t.TempDir(), "restored")
				_, err := Restore(t.Context(), reading, dir)
				check(t, err)
				s.whole(dir, size)
				if text, err := os.ReadFile(filepath.Join(dir, "keys/rekor")); err != nil || string(text) != "sealed key of rekor\n" {
					t.Errorf("the key: %q, %v", text, err)
				}
				db, err := bolt.Open(filepath.Join(dir, "db/authority.db"))
				check(t, err)
				check(t, db.View(func(tx store.Tx) error {
					v, err := tx.Get([]byte("certificate"))
					if string(v) != "logged" {
						t.Errorf("what was recorded before the run reached it: %q", v)
					}
					return err
				}))
				check(t, db.Close())
			}
			if r := s.create(); r.Objects > 3 {
				t.Errorf("a run of nothing new wrote %d objects", r.Objects)
			}
			m, err := Newest(reading)
			check(t, err)
			if len(m.Marks) != 1 || m.Marks[0].Origin != s.conf.Origin || m.Base == 0 {
				t.Errorf("marks %v, base %d", m.Marks, m.Base)
			}
			check(t, os.Remove(filepath.Join(s.dir, "keys/rekor"))) // as a file of one process does, it goes
			s.create()
			dir := filepath.Join(t.TempDir(), "restored")
			_, err = Restore(t.Context(), reading, dir)
			check(t, err)
			if _, err := os.Stat(filepath.Join(dir, "keys/rekor")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a file that went: %v", err)
			}
			_, err = Verify(t.Context(), reading)
			check(t, err)
		})
	}
}

// TestSharesTwisted: a process that is gone, ends halfway or hands over what is not its own leaves no run, and its name is in the error.
func TestSharesTwisted(t *testing.T) {
	s := newShared(t)
	s.add(8)
	answered := func(frames []byte, a *answer) []byte {
		var b bytes.Buffer
		b.Write(frames)
		text, err := json.Marshal(a)
		check(t, err)
		check(t, writeFrame(&b, frameAnswer, text))
		return b.Bytes()
	}
	for name, twist := range map[string]func(frames []byte, a *answer) []byte{
		"ends halfway":      func(frames []byte, a *answer) []byte { return frames[:len(frames)/2] },
		"no answer":         func(frames []byte, a *answer) []byte { return frames },
		"a frame too large": func([]byte, *answer) []byte { return []byte("o\xff\xff\xff\xff") },
		"no frame":          func([]byte, *answer) []byte { return []byte("x\x00\x00\x00\x01x") },
		"an error":          func([]byte, *answer) []byte { return []byte("e\x00\x00\x00\x04full") },
		"another's file": func(frames []byte, a *answer) []byte {
			a.Contents.Files[0].Path = "redoubt.yaml"
			return answered(frames, a)
		},
		"a file outside": func(frames []byte, a *answer) []byte {
			a.Contents.Files[0].Path = "../keys/rekor"
			return answered(frames, a)
		},
		"another's file goes": func(frames []byte, a *answer) []byte {
			a.Contents.Removed = []string{"pki/ca-chain.pem"}
			return answered(frames, a)
		},
		"another's database": func(frames []byte, a *answer) []byte {
			a.Contents.Databases = append(a.Contents.Databases, &database{Name: "authority.db"})
			return answered(frames, a)
		},
		"its database twice": func(frames []byte, a *answer) []byte {
			a.Contents.Databases = append(a.Contents.Databases, a.Contents.Databases[0])
			return answered(frames, a)
		},
		"no database": func(frames []byte, a *answer) []byte {
			a.Contents.Databases = nil
			return answered(frames, a)
		},
		"no head": func(frames []byte, a *answer) []byte {
			a.Logs = nil
			return answered(frames, a)
		},
		"another head": func(frames []byte, a *answer) []byte {
			a.Logs[0].Root = parcel.Sum([]byte("other"))
			return answered(frames, a)
		},
		"an object of nobody": func(frames []byte, a *answer) []byte {
			a.Contents.Files[0].Parts[0].Object = parcel.Sum([]byte("other"))
			return answered(frames, a)
		},
		"holes": func(frames []byte, a *answer) []byte {
			a.Contents.Files = append(a.Contents.Files, nil)
			return answered(frames, a)
		},
	} {
		s.twist = twist
		if _, err := Create(t.Context(), s.c); err == nil || name != "another head" && !strings.Contains(err.Error(), "the share of log") {
			t.Errorf("%s: %v", name, err)
		}
		if r, err := openRepository(s.c.To); err != nil || r.runs != 0 {
			t.Errorf("%s: there is a run (%v)", name, err)
		} else {
			r.close()
		}
	}
	s.twist = func(frames []byte, a *answer) []byte { return answered(frames, a) } // the control
	s.create()
	s.restored(s.reading(), 8)
}

// FuzzFrames: no frames crash the reader or have it take more than it was told.
func FuzzFrames(f *testing.F) {
	var good bytes.Buffer
	check(f, writeFrame(&good, frameObject, []byte("x")))
	check(f, writeFrame(&good, frameAnswer, []byte(`{"contents":{"databases":null,"files":null,"removed":null},"logs":null,"marks":null,"leftOut":null}`)))
	if _, err := readFrames(bytes.NewReader(good.Bytes()), func([]byte) error { return nil }); err != nil {
		f.Fatal(err)
	}
	f.Add(good.Bytes())
	f.Add([]byte("o\x00\x00\x00\x01xa\x00\x00\x00\x02{}"))
	f.Add([]byte("e\x00\x00\x00\x01x"))
	f.Fuzz(func(t *testing.T, b []byte) {
		total := 0
		a, err := readFrames(bytes.NewReader(b), func(object []byte) error { total += len(object); return nil })
		if err == nil && (a.Contents == nil || a.Contents.holed()) || total > len(b) {
			t.Fatalf("accepted %q", b)
		}
	})
}

// FuzzAsk: what is accepted has no holes.
func FuzzAsk(f *testing.F) {
	f.Add([]byte(`{"name":"log","recipients":[],"plain":true,"have":{"databases":[],"files":[],"removed":[]}}`))
	f.Add([]byte(`{"name":"log","recipients":[],"plain":true,"have":{"databases":[null],"files":[],"removed":[]}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := ParseAsk(b); err == nil && (a.Have == nil || a.Have.holed()) {
			t.Fatalf("accepted %q", b)
		}
	})
}
