package mirror

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"redoubt.internal/mirror/parcel"
)

// room refuses a parcel that would not fit, before anything is unpacked.
func (m *Mirror) room(p *parcel.Parcel, pending *pendingState) error {
	unpacked, need, err := m.need(p, pending)
	if err != nil {
		return err
	}
	if m.c.Quota > 0 && unpacked > m.c.Quota {
		return fmt.Errorf("%w: the parcel unpacks to %d bytes, the quota is %d", ErrFull, unpacked, m.c.Quota)
	}
	d, err := m.root.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	var fsStat unix.Statfs_t
	if err := unix.Fstatfs(int(d.Fd()), &fsStat); err != nil {
		return nil // not every file system tells; writing will
	}
	if free := fsStat.Bavail * uint64(fsStat.Bsize); uint64(need) > free {
		return fmt.Errorf("%w: the parcel needs %d bytes more, %d are free", ErrFull, need, free)
	}
	return nil
}

// need is what a parcel unpacks to, and the room an import still takes: without what an earlier run staged.
func (m *Mirror) need(p *parcel.Parcel, pending *pendingState) (unpacked, need int64, err error) {
	for _, v := range p.Manifest.Volumes {
		unpacked += v.Unpacked
	}
	if pending == nil || !pending.Digest.Equal(p.Digest) {
		return unpacked, unpacked, nil
	}
	staged, err := bytesBelow(m.root.FS(), stagingDir(p.Digest))
	if err != nil {
		return 0, 0, fmt.Errorf("measuring what is staged: %w", err)
	}
	return unpacked, max(0, unpacked-staged), nil
}

// bytesBelow is the size of all files below dir, 0 if there is no such folder.
func bytesBelow(fsys fs.FS, dir string) (total int64, err error) {
	err = fs.WalkDir(fsys, dir, func(_ string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil || d.IsDir() {
			return err
		}
		i, err := d.Info()
		if err == nil {
			total += i.Size()
		}
		return err
	})
	return total, err
}
