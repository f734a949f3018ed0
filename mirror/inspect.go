package mirror

import (
	"context"
	"fmt"

	"redoubt.internal/mirror/parcel"
)

// Inspection says what a parcel is without importing it. Its JSON form is stable.
type Inspection struct {
	Stream   string           `json:"stream"`
	Sequence uint64           `json:"sequence"`
	Digest   parcel.Digest    `json:"digest"`
	Whole    bool             `json:"whole"` // every volume is there and has the digest that was signed
	Manifest *parcel.Manifest `json:"manifest"`
}

// Inspect verifies the manifests of the parcels whose volumes or folders are named, by the exporters' verifier keys, and reads
// every volume once. It writes nothing. What is wrong with a volume is the error, beside what could be read.
func Inspect(ctx context.Context, paths, exporters []string) ([]Inspection, error) {
	var keys []*parcel.Verifier
	for _, e := range exporters {
		v, err := parcel.NewVerifier(e)
		if err != nil {
			return nil, fmt.Errorf("%w: exporter key: %w", ErrConfig, err)
		}
		keys = append(keys, v)
	}
	list, err := parcel.Scan(paths, keys)
	if err != nil {
		return nil, err
	}
	out := []Inspection{}
	for _, p := range list {
		defer p.Close()
		cerr := p.Check(ctx)
		out = append(out, Inspection{Stream: p.Manifest.Stream, Sequence: p.Manifest.Sequence, Digest: p.Digest, Whole: cerr == nil, Manifest: p.Manifest})
		if cerr != nil && err == nil {
			err = fmt.Errorf("parcel %d: %w", p.Manifest.Sequence, cerr)
		}
	}
	return out, err
}
