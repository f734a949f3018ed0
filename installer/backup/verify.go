package backup

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"time"

	"redoubt.internal/mirror/parcel"
)

// ReadConfig says which backup is read, and with what.
type ReadConfig struct {
	// From is the folder of the repository.
	From string
	// Run is the run; 0 is the newest.
	Run uint64
	// Appliance is the fingerprint the backup must be of. Verify takes "" for what the backup itself says; Restore does not.
	Appliance string
	// Identities are files of age identities: the custodians' keys.
	Identities []string
	// Progress gets a line now and then; nil discards.
	Progress io.Writer
}

// Verify checks the whole repository: the chain of manifests, the checkpoints in them, every object of every run. What the chosen run
// holds is opened too, where that takes no key or the key is there, and every log computed anew.
func Verify(ctx context.Context, c ReadConfig) (Report, error) {
	started := time.Now()
	r, err := openChain(&c)
	if err != nil {
		return Report{}, failure(err)
	}
	defer r.repo.close()
	report := Report{}
	report.describe(r.repo, r.m)
	if r.m.Encryption == EncryptionNone || len(c.Identities) > 0 {
		r.to = target{
			record: func(string, []byte, []byte) error { return nil },
			piece:  func(*file, []byte, bool, bool) error { return nil },
			folder: func(*file) error { return nil },
		}
		if r.c, err = r.repo.contentsOf(r.m, r.keys); err != nil {
			return report, failure(err)
		}
		if err := r.run(ctx); err != nil {
			return report, failure(err)
		}
		report.Contents, report.Files = true, len(r.c.Files)
	}
	report.Objects, report.Bytes = r.objects, r.bytes
	if err = r.checkObjects(ctx, &report); err != nil {
		return report, failure(err)
	}
	_, digest, err := r.repo.manifest(r.m.Run)
	report.Manifest, report.Seconds = digest.String(), time.Since(started).Seconds()
	return report, failure(err)
}

// openChain opens a repository, follows the chain of its manifests from the first to the newest, and returns a reader of the chosen
// run.
func openChain(c *ReadConfig) (*reader, error) {
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	keys, err := newOpener(c.Identities)
	if err != nil {
		return nil, err
	}
	repo, err := openRepository(c.From)
	if err != nil {
		return nil, err
	}
	r := &reader{repo: repo, keys: keys, read: map[string]bool{}, said: saying(c.Progress)}
	if err := r.choose(c); err != nil {
		repo.close()
		return nil, err
	}
	return r, nil
}

func (r *reader) choose(c *ReadConfig) error {
	if r.repo.runs == 0 {
		return fmt.Errorf("%s: %w: no run was completed", c.From, ErrNone)
	}
	if c.Run == 0 {
		c.Run = r.repo.runs
	}
	if c.Run > r.repo.runs {
		return fmt.Errorf("%s: %w: it has %d runs", c.From, ErrNone, r.repo.runs)
	}
	if c.Appliance != "" && c.Appliance != r.repo.Appliance {
		return fmt.Errorf("%s: %w: %s %s, and %s was named", c.From, ErrForeign, r.repo.Domain, r.repo.Appliance, c.Appliance)
	}
	var before parcel.Digest
	for n := uint64(1); n <= r.repo.runs; n++ {
		m, digest, err := r.repo.manifest(n)
		if err != nil {
			return err
		}
		if n > 1 && !m.Previous.Equal(before) {
			return fmt.Errorf("%w: run %d follows a run with another manifest than the one here", ErrDamaged, n)
		}
		before = digest
		if n == c.Run {
			r.m = m
		}
	}
	return nil
}

// checkObjects reads every object of every run that was not read yet.
func (r *reader) checkObjects(ctx context.Context, report *Report) error {
	known := map[string]bool{}
	for n := uint64(1); n <= r.repo.runs; n++ {
		m, _, err := r.repo.manifest(n)
		if err != nil {
			return err
		}
		parts, err := r.repo.objects(m)
		if err != nil {
			return err
		}
		known[objectFile(m.Objects.Object)] = true
		for _, p := range parts {
			if err := ctx.Err(); err != nil {
				return err
			}
			known[objectFile(p.Object)] = true
			if r.read[objectFile(p.Object)] {
				continue
			}
			if _, err := r.repo.get(p); err != nil {
				return err
			}
			report.Objects++
			report.Bytes += p.Bytes
			r.said(report.Bytes)
		}
	}
	return fs.WalkDir(r.repo.root.FS(), "objects", func(name string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() && !known[name] {
			report.Strays++
		}
		return err
	})
}

// saying tells how much was read, every other second.
func saying(w io.Writer) func(bytes int64) {
	started := time.Now()
	last := started
	return func(bytes int64) {
		if time.Since(last) < 2*time.Second {
			return
		}
		last = time.Now()
		fmt.Fprintf(w, "%d MB read, %.0f MB/s\n", bytes/1e6, float64(bytes)/1e6/last.Sub(started).Seconds())
	}
}
