package mirror

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	xmodule "golang.org/x/mod/module"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// Source is a place where a tiled log can be read. Nothing it returns is trusted. A tile or bundle that is not there is
// fs.ErrNotExist; whatever else goes wrong outside is ErrRemote. Safe for concurrent use.
type Source interface {
	// Checkpoint returns the newest signed checkpoint, at most parcel.MaxCheckpoint bytes.
	Checkpoint(ctx context.Context) ([]byte, error)
	// Tile returns the bytes of a hash tile or an entry bundle. It may use buf, from its start, for them.
	Tile(ctx context.Context, t tiles.Tile, buf []byte) ([]byte, error)
}

// OpenSource opens the source of a log: an http or https URL or a directory, in the layout "tiles" (C2SP tlog-tiles),
// "sumdb" (the Go checksum database, which has no entry bundles) or "static-ct" (C2SP static-ct-api).
//
// A source on the network is reached through network; nil means one with the defaults of Access.
func OpenSource(location, layout string, network *Network) (Source, error) {
	return openSource(location, layout, network, nil)
}

func openSource(location, layout string, network *Network, kept *kept) (Source, error) {
	p, err := openPlace(location, network, kept)
	if err != nil {
		return nil, err
	}
	switch layout {
	case "", "tiles":
		return tiled{p}, nil
	case "sumdb":
		return sumDB{p}, nil
	case layoutStaticCT:
		return staticCT{p}, nil
	}
	return nil, fmt.Errorf("%w: layout %q; %q, %q, %q or %q is needed", ErrConfig, layout, "tiles", "sumdb", layoutStaticCT, layoutRekor1)
}

// reader returns the file of that name below a location, of at most limit bytes. It may use buf for them.
type reader func(ctx context.Context, name string, limit int64, buf []byte) ([]byte, error)

// place is where a source lies. fresh is read for a file that changes.
type place struct{ read, fresh reader }

// tiled is a log in the layout of C2SP tlog-tiles.
type tiled struct{ place }

// Checkpoint reads checkpoint.
func (s tiled) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.fresh(ctx, "checkpoint", parcel.MaxCheckpoint, nil)
}

// Tile reads tile/<level>/<index> and tile/entries/<index>. A partial one that is gone is cut from the full one.
func (s tiled) Tile(ctx context.Context, t tiles.Tile, buf []byte) ([]byte, error) {
	return readTile(ctx, s.read, t, buf, tiles.Tile.Path)
}

// sumDB is the Go checksum database: the same tiles under other names (golang.org/x/mod/sumdb/tlog, Tile.Path).
type sumDB struct{ place }

// Checkpoint reads latest.
func (s sumDB) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.fresh(ctx, "latest", parcel.MaxCheckpoint, nil)
}

// Tile reads tile/8/<level>/<index>.
func (s sumDB) Tile(ctx context.Context, t tiles.Tile, buf []byte) ([]byte, error) {
	if t.Level < 0 {
		return nil, fmt.Errorf("a checksum database has no entry bundles: %w", fs.ErrNotExist)
	}
	return readTile(ctx, s.read, t, buf, func(t tiles.Tile) string { return "tile/8/" + strings.TrimPrefix(t.Path(), "tile/") })
}

// lookup reads lookup/<module>@<version>: the number of a record, its text, an empty line, a signed tree head, which is not used
// (golang.org/x/mod/sumdb, Client.Lookup). Upper case letters of the path are escaped as the module proxy does.
func (s sumDB) lookup(ctx context.Context, module string) (Record, error) {
	path, version, ok := strings.Cut(module, "@")
	if !ok {
		return Record{}, fmt.Errorf("%w: look-up %.100q is not module@version", ErrConfig, module)
	}
	path, perr := xmodule.EscapePath(path)
	version, verr := xmodule.EscapeVersion(version)
	if err := errors.Join(perr, verr); err != nil {
		return Record{}, fmt.Errorf("%w: look-up %.100q: %w", ErrConfig, module, err)
	}
	b, err := s.read(ctx, "lookup/"+path+"@"+version, parcel.MaxCheckpoint, nil)
	if err != nil {
		return Record{}, err
	}
	id, rest, _ := strings.Cut(string(b), "\n")
	text, _, ok := strings.Cut(rest, "\n\n")
	index, err := strconv.ParseUint(id, 10, 63)
	if err != nil || !ok {
		return Record{}, fmt.Errorf("%w: the answer to the look-up of %.100q", ErrRemote, module)
	}
	return Record{Index: index, Leaf: []byte(text + "\n")}, nil
}

func readTile(ctx context.Context, read reader, t tiles.Tile, buf []byte, name func(tiles.Tile) string) ([]byte, error) {
	limit := parcel.Name{Tile: t}.Limit()
	b, err := read(ctx, name(t), limit, buf)
	if !errors.Is(err, fs.ErrNotExist) || t.Full() {
		return b, err
	}
	whole := tiles.Tile{Level: t.Level, Index: t.Index, Width: tiles.Width}
	if b, err = read(ctx, name(whole), parcel.Name{Tile: whole}.Limit(), buf); err != nil {
		return nil, err
	}
	if t.Level >= 0 && len(b) != tiles.Width*tiles.HashSize {
		return nil, fmt.Errorf("%w: %s has %d bytes", ErrRemote, name(whole), len(b))
	}
	return cut(whole, b, t.Width)
}

func openPlace(location string, network *Network, kept *kept) (place, error) {
	u, err := sourceURL(location)
	if err != nil {
		return place{}, err
	}
	if u == nil {
		root, err := os.OpenRoot(strings.TrimPrefix(location, "file://"))
		if err != nil {
			return place{}, fmt.Errorf("opening source: %w", err)
		}
		d := directory{root}
		return place{d.read, d.read}, nil
	}
	if network == nil {
		if network, err = NewNetwork(Access{}); err != nil {
			return place{}, err
		}
	}
	r := &remote{base: u, network: network, kept: kept}
	return place{r.read, r.fresh}, nil
}

type directory struct{ root *os.Root }

func (d directory) read(ctx context.Context, name string, limit int64, buf []byte) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	f, err := d.root.Open(filepath.FromSlash(name))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %v", ErrRemote, name, err)
	}
	if !st.Mode().IsRegular() || st.Size() > limit {
		return nil, fmt.Errorf("%w: %s is no file of at most %d bytes", ErrRemote, name, limit)
	}
	b := slices.Grow(buf[:0], int(st.Size()))[:st.Size()]
	if n, err := f.ReadAt(b, 0); n < len(b) {
		return nil, fmt.Errorf("%w: reading %s: %v", ErrRemote, name, err)
	}
	return b, nil
}
