package backup

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/fips140"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
)

// site is a state directory with one log, as the appliance would hand it over.
type site struct {
	t    *testing.T
	dir  string
	db   *bolt.DB
	log  *log.Log
	conf log.Config
	stop func()
	c    Config
}

func newSite(t *testing.T) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir()}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	for name, text := range map[string]string{"redoubt.yaml": "domain: corp.internal\n", "pki/ca-chain.pem": "chain\n", "keys/passphrase": "word\n"} {
		check(t, os.MkdirAll(filepath.Dir(filepath.Join(s.dir, name)), 0o700))
		check(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	check(t, os.MkdirAll(filepath.Join(s.dir, "db"), 0o700))
	s.db, err = bolt.Create(filepath.Join(s.dir, "db", "rekor.db"))
	check(t, err)
	marks, err := log.OpenHighWaterFile(s.dir + ".highwater")
	check(t, err)
	s.conf = log.Config{DB: s.db, Origin: "rekor.corp.internal", Signer: key, HighWater: []log.HighWater{marks.For("rekor.corp.internal")}}
	check(t, log.Create(t.Context(), s.conf))
	s.log, err = log.Open(t.Context(), s.conf)
	check(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.log.Run(ctx) }()
	s.stop = func() {
		cancel()
		<-done
		s.db.Close()
		marks.Close()
		s.stop = func() {}
	}
	t.Cleanup(func() { s.stop() })
	s.c = Config{To: filepath.Join(t.TempDir(), "copies"), Dir: s.dir, Skip: []string{filepath.Join(s.dir, "db"), filepath.Join(s.dir, "keys/passphrase")},
		Databases: []Database{{Name: "rekor.db", DB: s.db, Stamp: bolt.Stamp, Logs: []Log{{Name: "rekor", Config: s.conf}}}},
		Keys:      []Key{{Name: "rekor", Where: "soft:rekor.pem", PublicKey: publicDER(t, key)}},
		Domain:    "corp.internal", Signer: key, Plain: true, State: filepath.Join(t.TempDir(), "state"), Now: time.Now}
	return s
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add signs n more entries, each with a record beside it, and puts a file there.
func (s *site) add(n int) {
	s.t.Helper()
	before := s.log.Head().Size
	errs := make(chan error, n)
	for i := range n {
		at := before + uint64(i)
		go func() {
			_, err := s.log.Add(s.t.Context(), fmt.Appendf(nil, "entry %d", at), []byte("extra"), func(tx store.Tx) error {
				return tx.Put(fmt.Appendf(nil, "record/%d", at), []byte("beside"))
			})
			errs <- err
		}()
	}
	for range n {
		check(s.t, <-errs)
	}
	check(s.t, os.WriteFile(filepath.Join(s.dir, fmt.Sprintf("pki/file-%d", before+uint64(n))), fmt.Appendf(nil, "file %d\n", before+uint64(n)), 0o644))
}

func (s *site) create() Report {
	s.t.Helper()
	r, err := Create(s.t.Context(), s.c)
	check(s.t, err)
	return r
}

func (s *site) reading() ReadConfig {
	name, err := Fingerprint(s.conf.Signer.Public())
	check(s.t, err)
	return ReadConfig{From: s.c.To, Appliance: name}
}

// restored restores a run and checks what came of it.
func (s *site) restored(c ReadConfig, size uint64) {
	s.t.Helper()
	dir := filepath.Join(s.t.TempDir(), "restored")
	_, err := Restore(s.t.Context(), c, dir)
	check(s.t, err)
	s.whole(dir, size)
}

// whole checks a restored directory: every head, every record, every file.
func (s *site) whole(dir string, size uint64) {
	s.t.Helper()
	db, err := bolt.Open(filepath.Join(dir, "db/rekor.db"))
	check(s.t, err)
	defer db.Close()
	conf := s.conf
	conf.DB, conf.HighWater = db, nil
	report, err := log.Fsck(s.t.Context(), conf, nil)
	check(s.t, err)
	if report.Entries != size || report.Size != size {
		s.t.Fatalf("restored %d entries, head %d; want %d", report.Entries, report.Size, size)
	}
	check(s.t, db.View(func(tx store.Tx) error {
		for i := range size {
			if v, err := tx.Get(fmt.Appendf(nil, "record/%d", i)); err != nil || string(v) != "beside" {
				return fmt.Errorf("record %d: %q %v", i, v, err)
			}
		}
		return nil
	}))
	for _, name := range []string{"redoubt.yaml", "pki/ca-chain.pem", fmt.Sprintf("pki/file-%d", size)} {
		want, err := os.ReadFile(filepath.Join(s.dir, name))
		check(s.t, err)
		got, err := os.ReadFile(filepath.Join(dir, name))
		check(s.t, err)
		if string(want) != string(got) {
			s.t.Fatalf("%s is %q, was %q", name, got, want)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "keys/passphrase")); !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatalf("the passphrase was restored: %v", err)
	}
}

// modes says for each way to write a backup whether it is sealed. In FIPS-only mode nothing is.
func modes() map[string]bool {
	if fips140.Enforced() {
		return map[string]bool{"clear": false}
	}
	return map[string]bool{"clear": false, "sealed": true}
}

// custodian makes a custodian's key, where there may be one, and returns the file it is in and its recipient.
func custodian(t testing.TB) (identity, recipient string) {
	t.Helper()
	if fips140.Enforced() {
		return "", ""
	}
	file, recipient, err := NewKey()
	check(t, err)
	identity = filepath.Join(t.TempDir(), "custodian")
	check(t, os.WriteFile(identity, file, 0o600))
	return identity, recipient
}
