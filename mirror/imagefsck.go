package mirror

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"redoubt.internal/log/store"
)

// ImageReport is what FsckImages found. Its JSON form is stable.
type ImageReport struct {
	Files    int      `json:"files"`
	Bytes    int64    `json:"bytes"`
	Problems []string `json:"problems"`
}

// FsckImages hashes every file anew that vouches for an image. What it finds is in the report; an error means that it could not be made.
func (m *Mirror) FsckImages(ctx context.Context) (ImageReport, error) {
	out := ImageReport{Problems: []string{}}
	var digests []string
	err := m.c.DB.View(func(tx store.Tx) error {
		digests = digests[:0]
		return scan(tx, keyBlob, func(key string, _ blobState) error {
			digests = append(digests, "sha256:"+strings.TrimPrefix(key, keyBlob))
			return nil
		})
	})
	if err != nil {
		return out, err
	}
	for _, d := range digests {
		if err := ctx.Err(); err != nil {
			return out, err
		}
		b, err := m.Blob(d)
		if errors.Is(err, ErrDamaged) {
			out.Problems = append(out.Problems, oneLine(err))
			continue
		}
		if err != nil {
			return out, err
		}
		out.Files, out.Bytes = out.Files+1, out.Bytes+int64(len(b))
	}
	return out, nil
}

// Err is the first finding, nil if all is well.
func (r ImageReport) Err() error {
	if len(r.Problems) == 0 {
		return nil
	}
	return fmt.Errorf("what vouches for images: %w: %s", ErrDamaged, r.Problems[0])
}
