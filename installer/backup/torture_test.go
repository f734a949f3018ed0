package backup

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/log/store/bolt"
)

// TestTortureLarge measures a log of a million entries of 1 KiB (REDOUBT_BACKUP_ENTRIES sets another number): the first run, a run of an
// unchanged store, one of a thousand entries more, verification and restore, in clear and sealed; and checks what was restored.
func TestTortureLarge(t *testing.T) {
	if os.Getenv("REDOUBT_TORTURE") == "" {
		t.Skip("NOT TESTED: a log of a million entries; REDOUBT_TORTURE=1 makes one")
	}
	n := 1_000_000
	if text := os.Getenv("REDOUBT_BACKUP_ENTRIES"); text != "" {
		var err error
		n, err = strconv.Atoi(text)
		check(t, err)
	}
	s := newSite(t)
	s.bulk(n)
	file, recipient, err := NewKey()
	check(t, err)
	identity := filepath.Join(t.TempDir(), "custodian")
	check(t, os.WriteFile(identity, file, 0o600))
	for name, sealed := range map[string]bool{"clear": false, "sealed": true} {
		c := s.reading()
		s.c.To, s.c.State = filepath.Join(t.TempDir(), "copies"), filepath.Join(t.TempDir(), "state")
		if s.c.Plain = !sealed; sealed {
			s.c.Recipients, c.Identities = []string{recipient}, []string{identity}
		}
		c.From = s.c.To
		first := s.create()
		say(t, name+", first run", first, n)
		unchanged := s.create()
		say(t, name+", unchanged", unchanged, n)
		s.bulk(1000)
		say(t, name+", a thousand entries more", s.create(), 1000)
		verified, err := Verify(t.Context(), c)
		check(t, err)
		say(t, name+", verify", verified, n)
		dir := filepath.Join(t.TempDir(), "restored")
		before := processorTime()
		restored, err := Restore(t.Context(), c, dir)
		check(t, err)
		say(t, name+", restore", restored, n)
		used := processorTime() - before
		t.Logf("%-32s %6.2f s of processor time, %.1f ms/MB", name+", restore", used.Seconds(), float64(used.Milliseconds())/(float64(restored.Bytes)/1e6))
		if !sealed {
			db, err := bolt.Open(filepath.Join(dir, "db/rekor.db"))
			check(t, err)
			conf := s.conf
			conf.DB, conf.HighWater = db, nil
			_, err = log.Fsck(t.Context(), conf, nil)
			check(t, err)
			check(t, db.Close())
		}
		check(t, os.RemoveAll(dir))
	}
}

// processorTime is what this process used, which other work on the machine does not change much.
func processorTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func say(t *testing.T, what string, r Report, entries int) {
	t.Logf("%-32s %6.2f s, %5d objects, %8.1f MB, %5.0f MB/s, %8.0f entries/s", what, r.Seconds, r.Objects, float64(r.Bytes)/1e6, float64(r.Bytes)/1e6/r.Seconds, float64(entries)/r.Seconds)
}

// bulk adds n entries of 1 KiB, as a thousand clients would.
func (s *site) bulk(n int) {
	s.t.Helper()
	before, started := s.log.Head().Size, time.Now()
	var next atomic.Int64
	var clients sync.WaitGroup
	errs := make(chan error, 1000)
	for range 1000 {
		clients.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				leaf := fmt.Appendf(nil, "entry %d of this log, and what makes it 1 KiB: ", before+uint64(i))
				leaf = append(leaf, bytes.Repeat([]byte{byte(i), byte(i >> 8)}, (1024-len(leaf))/2)...)
				if _, err := s.log.Add(s.t.Context(), leaf, nil, nil); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	clients.Wait()
	close(errs)
	check(s.t, <-errs)
	s.t.Logf("%d entries added in %.1f s", n, time.Since(started).Seconds())
}
