package backup

import (
	"bytes"
	"crypto"
	"crypto/x509"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func publicDER(t testing.TB, s crypto.Signer) []byte {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(s.Public())
	check(t, err)
	return der
}

// Runs follow each other, sealed and in clear; each can be restored, and nothing that was written is touched by a later one.
func TestRuns(t *testing.T) {
	identity, recipient := custodian(t)
	for name, sealed := range modes() {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if sealed {
				s.c.Plain, s.c.Recipients = false, []string{recipient}
			}
			sizes := []uint64{0}
			s.add(0)
			s.create()
			for _, n := range []int{3, 1, 300, 0} {
				before := snapshotOf(t, s.c.To)
				s.add(n)
				sizes = append(sizes, s.log.Head().Size)
				r := s.create()
				for path, data := range before {
					now, err := os.ReadFile(path)
					if err != nil || !bytes.Equal(now, data) {
						t.Fatalf("run %d touched %s: %v", r.Run, path, err)
					}
				}
			}
			c := s.reading()
			if sealed {
				r, err := Verify(t.Context(), c)
				if err != nil || r.Contents {
					t.Fatalf("without the key: contents %v, %v", r.Contents, err)
				}
				if _, err := Restore(t.Context(), c, filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrKey) {
					t.Fatalf("restored without the key: %v", err)
				}
				c.Identities = []string{identity}
			}
			for i, size := range sizes {
				c.Run = uint64(i + 1)
				r, err := Verify(t.Context(), c)
				if err != nil || !r.Contents {
					t.Fatalf("run %d: %v", c.Run, err)
				}
				s.restored(c, size)
			}
		})
	}
}

// A run that nobody remembers the last one of is complete by itself where it is sealed, and goes on where it is in clear.
func TestForgotten(t *testing.T) {
	identity, recipient := custodian(t)
	for name, sealed := range modes() {
		t.Run(name, func(t *testing.T) {
			s := newSite(t)
			if sealed {
				s.c.Plain, s.c.Recipients = false, []string{recipient}
			}
			s.add(5)
			s.create()
			check(t, os.RemoveAll(s.c.State))
			s.add(2)
			s.create()
			c := s.reading()
			if sealed {
				c.Identities = []string{identity}
			}
			s.restored(c, 7)
		})
	}
}

func snapshotOf(t testing.TB, dir string) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	check(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = data
		return err
	}))
	return files
}
