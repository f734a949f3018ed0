package mirror

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/diode"
)

// take imports the parcels that are whole, in the order of their numbers. It ends at the first that has to wait.
func (l *inboxLook) take(ctx context.Context) error {
	groups := make(map[string][]int) // by digest: places in files
	for i, f := range l.files {
		if f.State == FileVolume || f.State == FileImported {
			groups[f.Parcel.String()] = append(groups[f.Parcel.String()], i)
		}
	}
	var order []string
	for d := range groups {
		order = append(order, d)
	}
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(l.files[groups[a][0]].Sequence, l.files[groups[b][0]].Sequence), cmp.Compare(a, b))
	})
	var errs []error
	for _, d := range order {
		members := groups[d]
		held, err := l.held(l.files[members[0]])
		switch {
		case err != nil:
			return err
		case held:
			l.mark(members, FileImported, nil)
			continue
		case len(missing(l.files, members)) > 0:
			continue
		}
		err = l.importParcel(ctx, members)
		if err != nil {
			errs = append(errs, err)
		}
		if code := ExitCode(err); code == 1 || code == 3 || code == 42 || code == 51 || code == 75 || ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

// held tells whether the parcel of a file was imported.
func (l *inboxLook) held(f InboxFile) (bool, error) {
	var t Transfer
	err := l.m.c.DB.View(func(tx store.Tx) error { _, err := get(tx, transferKey(f.Sequence), &t); return err })
	return t.Digest != nil && t.Digest.Equal(f.Parcel), err
}

// missing lists the volumes of a parcel that are not among its files.
func missing(files []InboxFile, members []int) (out []int) {
	have := make(map[int]bool)
	for _, i := range members {
		have[files[i].Volume] = true
	}
	for n := 1; n <= files[members[0]].Volumes; n++ {
		if !have[n] {
			out = append(out, n)
		}
	}
	return out
}

// importParcel imports one parcel that is whole. A gap is no error: its parcels may arrive. What went wrong is noted at its files.
func (l *inboxLook) importParcel(ctx context.Context, members []int) error {
	one := make(map[int]string) // one file for each volume
	for _, i := range members {
		one[l.files[i].Volume] = l.files[i].Path
	}
	var paths []string
	for n := 1; n <= l.files[members[0]].Volumes; n++ {
		paths = append(paths, one[n])
	}
	if f := l.files[members[0]]; f.Sequence > l.last+1 && f.Code == 20 {
		return nil // known since an earlier look
	}
	var report Report
	var err error
	if l.files[members[0]].Sequence > l.last+1 {
		report, err = l.m.Import(ctx, paths) // remembers the gap and nothing else
	} else {
		report, err = l.m.ImportMedium(ctx, cmp.Or(l.c.Who, "inbox"), "", paths)
	}
	if len(report.Transfers) > 0 {
		l.report.Transfers = append(l.report.Transfers, report.Transfers...)
		l.last = max(l.last, report.Transfers[len(report.Transfers)-1].Sequence)
		l.mark(members, FileImported, err)
		return err
	}
	if errors.Is(err, ErrGap) {
		l.mark(members, FileVolume, err)
		return nil
	}
	for _, i := range members {
		f, rerr := l.refuse(ctx, l.files[i], err)
		if rerr != nil {
			return rerr
		}
		if f.State == FileRetried {
			f.State = FileVolume // it is a whole volume all the same
		}
		f.Since = l.m.c.Now().UTC()
		l.files[i] = f
	}
	return err
}

func (l *inboxLook) mark(members []int, state string, err error) {
	for _, i := range members {
		f := &l.files[i]
		if f.State != state {
			f.Since = l.m.c.Now().UTC()
		}
		f.State, f.Code, f.Detail = state, ExitCode(err), ""
		if err != nil {
			f.Detail = oneLine(err)
		}
	}
}

// save writes down what changed, and forgets files that are gone.
func (l *inboxLook) save() error {
	return l.m.c.DB.Update(func(tx store.Tx) error {
		there := make(map[string]bool)
		for _, f := range l.files {
			there[f.Path] = true
			if old, ok := l.before[f.Path]; !ok || !old.same(f) {
				if err := put(tx, inboxKey(f.Path), f); err != nil {
					return err
				}
			}
			if v, ok := diode.VolumeOf(f.Path); ok && f.State == FileImported && l.c.Receiver != nil {
				if err := put(tx, keyReceived+v.String(), f.Since); err != nil {
					return err
				}
			}
		}
		for path := range l.before {
			if !there[path] {
				if err := tx.Delete([]byte(inboxKey(path))); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (f InboxFile) same(o InboxFile) bool {
	a, aerr := json.Marshal(f)
	b, berr := json.Marshal(o)
	return aerr == nil && berr == nil && string(a) == string(b)
}

// tidy moves imported volumes and sweeps shards, where that is asked for.
func (l *inboxLook) tidy(ctx context.Context) error {
	if l.c.Done != "" {
		for _, f := range l.files {
			if _, shards := diode.VolumeOf(f.Path); f.State != FileImported || shards && l.c.Receiver != nil {
				continue
			}
			to := filepath.Join(l.c.Done, fmt.Sprintf("%06d-%s", f.Sequence, filepath.Base(f.Path)))
			if err := os.Rename(f.Path, to); err != nil {
				return fmt.Errorf("moving an imported volume: %w", err)
			}
			l.report.Moved++
		}
	}
	if l.c.Receiver == nil || !l.c.Sweep {
		return nil
	}
	var old time.Time
	if l.c.SweepAge > 0 {
		old = time.Now().Add(-l.c.SweepAge) // files have the time of the system, whatever the mirror's clock says
	}
	swept, err := l.c.Receiver.Sweep(ctx, l.c.Dir, l.received, old)
	if swept != (diode.Swept{}) {
		l.report.Swept = &swept
	}
	return err
}
