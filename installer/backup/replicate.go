package backup

import (
	"context"
	"fmt"
	"os"

	"redoubt.internal/log/strictjson"
)

// Replicate brings the folder at to, which is begun where it is empty, up to date with the repository of c: every run that is new, object
// by object, each compared with its digest and each manifest with its signature and the run before. It returns the newest run of the
// copy. Sealed objects stay sealed; no key is needed. A run gets its name when all of it is there.
func Replicate(ctx context.Context, c ReadConfig, to string) (*Manifest, error) {
	if c.Appliance == "" {
		return nil, fmt.Errorf("%w: its fingerprint must be named", ErrForeign)
	}
	m, err := replicate(ctx, c, to)
	if err != nil {
		return nil, failure(fmt.Errorf("following the backup: %w", err))
	}
	return m, nil
}

func replicate(ctx context.Context, c ReadConfig, to string) (newest *Manifest, err error) {
	from, err := openChain(&c)
	if err != nil {
		return nil, err
	}
	defer from.repo.close()
	copy, err := copyOf(from.repo, to)
	if err != nil {
		return nil, err
	}
	defer copy.close()
	if copy.runs > from.repo.runs {
		return nil, fmt.Errorf("%w: run %d was copied before, and now there are %d", ErrDamaged, copy.runs, from.repo.runs)
	}
	for n := copy.runs; n <= from.repo.runs; n++ {
		if n == 0 {
			continue
		}
		m, digest, err := from.repo.manifest(n)
		if err != nil {
			return nil, err
		}
		if newest = m; n == copy.runs {
			if _, had, err := copy.manifest(n); err != nil || !had.Equal(digest) {
				return nil, fmt.Errorf("%w: run %d is another one than the one copied before (%v)", ErrDamaged, n, err)
			}
			continue
		}
		if err := copyRun(ctx, from.repo, copy, m); err != nil {
			return nil, fmt.Errorf("run %d: %w", n, err)
		}
	}
	return newest, nil
}

// copyOf opens the copy of a repository, which has its identity.
func copyOf(from *repository, to string) (*repository, error) {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return nil, err
	}
	data, err := from.read(identityFile, 4096)
	if err != nil {
		return nil, err
	}
	var mine identity
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: 4096}, &mine); err != nil {
		return nil, fmt.Errorf("%w: %s: %v", ErrDamaged, identityFile, err)
	}
	r, err := writeRepositoryAs(to, mine)
	if err != nil {
		return nil, err
	}
	if r.Repository != from.Repository {
		r.close()
		return nil, fmt.Errorf("%s: %w: it is a copy of another repository", to, ErrForeign)
	}
	return r, nil
}

func copyRun(ctx context.Context, from, to *repository, m *Manifest) error {
	parts, err := from.objects(m)
	if err != nil {
		return err
	}
	for _, p := range append(parts, m.Contents, m.Objects) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if to.has(p) {
			continue
		}
		data, err := from.get(p)
		if err != nil {
			return err
		}
		if _, _, err := to.put(data); err != nil {
			return err
		}
	}
	note, err := from.read(runFile(m.Run), maxManifest)
	if err != nil {
		return err
	}
	return to.add(runFile(m.Run), note)
}

// Newest is the newest manifest of a repository, its chain and signatures checked.
func Newest(c ReadConfig) (*Manifest, error) {
	r, err := openChain(&c)
	if err != nil {
		return nil, failure(err)
	}
	defer r.repo.close()
	return r.m, nil
}
