package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
)

// Medium is one medium that was put in, or one look at the inbox that took something in: part of the record of who carried what.
// It is on record before anything of it is read. Its JSON form is stable.
type Medium struct {
	Number  uint64         `json:"number"`
	Label   string         `json:"label,omitempty"` // what is written on it, as the operator gave it
	Digest  string         `json:"digest"`          // of what lay on it: size and first 64 KiB of every volume
	Paths   []string       `json:"paths"`           // what was named
	Files   int            `json:"files"`           // volumes found there
	Bytes   int64          `json:"bytes"`
	Who     string         `json:"who"`
	Began   time.Time      `json:"began"`
	Ended   time.Time      `json:"ended,omitzero"` // not there when the process ended in between
	Outcome string         `json:"outcome"`        // "begun", "imported", "already imported", "nothing there", "refused"
	Code    int            `json:"code"`           // exit code of the import
	Error   string         `json:"error,omitempty"`
	Parcels []MediumParcel `json:"parcels,omitempty"` // taken in, or held already
}

// MediumParcel is a parcel a medium brought.
type MediumParcel struct {
	Sequence uint64        `json:"sequence"`
	Digest   parcel.Digest `json:"digest"`
	Outcome  string        `json:"outcome"`
}

const (
	keyMedium = "mirror/medium/"
	// MaxMediumLabel is the longest label of a medium in bytes.
	MaxMediumLabel = 100
	// maxMedia bounds the register; the oldest goes first.
	maxMedia = 10_000
	// mediumHead is what is read of a volume for the digest: its signed manifest, which names all digests.
	mediumHead = 64 << 10
)

// ErrLabel says that a medium's label is not one that can be recorded.
var ErrLabel = errors.New("a medium's label is at most 100 printable characters")

// ImportMedium is Import of what lies on a medium, with an entry in the register of media.
func (m *Mirror) ImportMedium(ctx context.Context, who, label string, paths []string) (Report, error) {
	if len(label) > MaxMediumLabel || strings.ContainsFunc(label, func(r rune) bool { return r < ' ' || r == 0x7f || r == '\uFFFD' }) {
		return Report{Stream: m.c.Stream, Transfers: []Transfer{}}, ErrLabel
	}
	e := Medium{Label: label, Paths: paths, Who: who, Began: m.c.Now().UTC(), Outcome: "begun"}
	e.Files, e.Bytes, e.Digest = survey(paths)
	if err := m.openMedium(ctx, &e); err != nil {
		return Report{Stream: m.c.Stream, Transfers: []Transfer{}}, full(err)
	}
	report, err := m.Import(ctx, paths)
	e.close(m.c.Now().UTC(), report, err)
	return report, errors.Join(err, m.c.DB.Update(func(tx store.Tx) error { return put(tx, mediumKey(e.Number), e) }))
}

func (e *Medium) close(now time.Time, report Report, err error) {
	e.Ended, e.Code, e.Outcome = now, ExitCode(err), "already imported"
	for _, t := range report.Transfers {
		e.Parcels = append(e.Parcels, MediumParcel{t.Sequence, t.Digest, t.Outcome})
		if t.Outcome == "committed" {
			e.Outcome = "imported"
		}
	}
	if err != nil {
		e.Error = oneLine(err)
	}
	switch {
	case errors.Is(err, ErrNothing):
		e.Outcome = "nothing there"
	case err != nil && e.Outcome != "imported":
		e.Outcome = "refused"
	}
}

func mediumKey(n uint64) string { return fmt.Sprintf("%s%020d", keyMedium, n) }

// openMedium gives the medium its number and puts it on record.
func (m *Mirror) openMedium(ctx context.Context, e *Medium) error {
	event := Event{Action: "mirror.medium", Object: e.Digest, Outcome: "success", Detail: map[string]string{
		"who": e.Who, "label": e.Label, "files": fmt.Sprint(e.Files), "bytes": fmt.Sprint(e.Bytes),
	}}
	return m.record(ctx, event, func(tx store.Tx) error {
		var oldest, newest uint64
		n := 0
		if err := scan(tx, keyMedium, func(_ string, o Medium) error {
			if n++; oldest == 0 {
				oldest = o.Number
			}
			newest = o.Number
			return nil
		}); err != nil {
			return err
		}
		if n >= maxMedia {
			if err := tx.Delete([]byte(mediumKey(oldest))); err != nil {
				return err
			}
		}
		e.Number = newest + 1
		return put(tx, mediumKey(e.Number), *e)
	})
}

// Media lists the register, the oldest first.
func (m *Mirror) Media() ([]Medium, error) {
	out := []Medium{}
	err := m.c.DB.View(func(tx store.Tx) error {
		out = out[:0]
		return scan(tx, keyMedium, func(_ string, e Medium) error { out = append(out, e); return nil })
	})
	return out, err
}

// survey counts the volumes named and digests how they begin, in an order that their names have no part in. What cannot be read
// counts as empty: the import will say so.
func survey(paths []string) (files int, bytes int64, digest string) {
	var list []string
	for _, p := range paths {
		if st, err := os.Stat(p); err == nil && st.IsDir() {
			found, err := parcel.Find(p)
			if err == nil {
				list = append(list, found...)
				continue
			}
		}
		list = append(list, p)
	}
	var lines []string
	for _, p := range list {
		size, sum := head(p)
		bytes += size
		lines = append(lines, fmt.Sprintf("%d %s\n", size, sum))
	}
	slices.Sort(lines)
	return len(list), bytes, parcel.Sum([]byte(strings.Join(lines, ""))).String()
}

func head(path string) (size int64, sum string) {
	h := sha256.New()
	f, err := os.OpenFile(filepath.Clean(path), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err == nil {
		defer f.Close()
		if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
			size = st.Size()
			_, _ = io.CopyN(h, f, mediumHead) // the import reads it again, and says what is wrong
		}
	}
	return size, parcel.Digest(h.Sum(nil)).String()
}
