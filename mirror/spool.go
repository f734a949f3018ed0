package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"redoubt.internal/mirror/spool"
	"slices"
	"strings"
	"time"
)

const maxSpool = 1024 // files of a spool looked at in one go

// SpoolReport says what became of the files of a spool. Its JSON form is stable.
type SpoolReport struct {
	Taken   int `json:"taken"`   // proofs compared with everything accepted before
	Known   int `json:"known"`   // subtree hashes in them that were known, and agree
	New     int `json:"new"`     // subtree hashes that are kept from now on
	Foreign int `json:"foreign"` // proofs of logs this mirror does not know
	Refused int `json:"refused"` // files that are no proofs, or whose proof does not hold
	Left    int `json:"left"`    // files for the next time
}

// ObserveSpool compares every proof in dir with what is mirrored and empties dir of it. A proof that contradicts a log freezes that log and
// is in its evidence: the errors are those forks, and ErrBusy when an import runs and the rest waits.
func (m *Mirror) ObserveSpool(ctx context.Context, dir string) (out SpoolReport, err error) {
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return out, err
	}
	defer root.Close()
	d, err := root.Open(".")
	if err != nil {
		return out, err
	}
	names, err := d.Readdirnames(maxSpool)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return out, err
	}
	slices.Sort(names)
	var forks []error
	for i, name := range names {
		if strings.HasPrefix(name, ".") { // being written, unless whoever wrote it is gone
			if st, err := root.Lstat(name); err == nil && m.c.Now().Sub(st.ModTime()) > time.Hour {
				root.Remove(name)
			}
			continue
		}
		c, err := m.observeFile(ctx, root, name)
		var fork *ForkError
		switch {
		case err == nil:
			out.Taken++
			out.Known, out.New = out.Known+c.Known, out.New+c.New
		case errors.Is(err, ErrBusy) || ctx.Err() != nil:
			out.Left = len(names) - i
			return out, errors.Join(append(forks, err)...)
		case errors.As(err, &fork):
			out.Taken++
			if !fork.Frozen { // else it was known before
				forks = append(forks, err)
			}
		case errors.Is(err, ErrUnknownOrigin):
			out.Foreign++
		default:
			out.Refused++
			m.c.Logger.WarnContext(ctx, "file in the spool refused", "name", name, "error", oneLine(err))
		}
		if err := root.Remove(name); err != nil {
			return out, errors.Join(append(forks, fmt.Errorf("emptying %s: %w", dir, err))...)
		}
	}
	return out, errors.Join(forks...)
}

// observeFile compares one file of a spool.
func (m *Mirror) observeFile(ctx context.Context, root *os.Root, name string) (Confirmed, error) {
	st, err := root.Lstat(name)
	if err != nil {
		return Confirmed{}, err
	}
	if !st.Mode().IsRegular() || st.Size() > spool.MaxBytes {
		return Confirmed{}, fmt.Errorf("%w: a %s of %d bytes", spool.ErrMalformed, st.Mode().Type(), st.Size())
	}
	f, err := root.Open(name)
	if err != nil {
		return Confirmed{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, spool.MaxBytes+1))
	if err != nil {
		return Confirmed{}, err
	}
	if name != spool.NameOf(b) {
		return Confirmed{}, fmt.Errorf("%w: it is not called by its digest", spool.ErrMalformed)
	}
	o, err := spool.Parse(b)
	if err != nil {
		return Confirmed{}, err
	}
	return m.Observe(ctx, o)
}
