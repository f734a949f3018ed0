package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

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

// OpenSource opens the source of a log: an http or https URL or a directory, in the layout "tiles" (C2SP tlog-tiles) or
// "sumdb" (the Go checksum database, which has no entry bundles).
func OpenSource(location, layout string, client *http.Client) (Source, error) {
	read, err := openLocation(location, client)
	if err != nil {
		return nil, err
	}
	switch layout {
	case "", "tiles":
		return tiled{read}, nil
	case "sumdb":
		return sumDB{read}, nil
	}
	return nil, fmt.Errorf("%w: layout %q; %q or %q is needed", ErrConfig, layout, "tiles", "sumdb")
}

// reader returns the file of that name below a location, of at most limit bytes. It may use buf for them.
type reader func(ctx context.Context, name string, limit int64, buf []byte) ([]byte, error)

// tiled is a log in the layout of C2SP tlog-tiles.
type tiled struct{ read reader }

// Checkpoint reads checkpoint.
func (s tiled) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.read(ctx, "checkpoint", parcel.MaxCheckpoint, nil)
}

// Tile reads tile/<level>/<index> and tile/entries/<index>. A partial one that is gone is cut from the full one.
func (s tiled) Tile(ctx context.Context, t tiles.Tile, buf []byte) ([]byte, error) {
	return readTile(ctx, s.read, t, buf, tiles.Tile.Path)
}

// sumDB is the Go checksum database: the same tiles under other names (golang.org/x/mod/sumdb/tlog, Tile.Path).
type sumDB struct{ read reader }

// Checkpoint reads latest.
func (s sumDB) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.read(ctx, "latest", parcel.MaxCheckpoint, nil)
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

func openLocation(location string, client *http.Client) (reader, error) {
	if scheme, _, ok := strings.Cut(location, "://"); !ok || scheme == "file" {
		root, err := os.OpenRoot(strings.TrimPrefix(location, "file://"))
		if err != nil {
			return nil, fmt.Errorf("opening source: %w", err)
		}
		return directory{root}.read, nil
	}
	u, err := url.Parse(location)
	if err != nil || u.User != nil { // neither is repeated: there may be a password in it
		return nil, fmt.Errorf("%w: a source is a URL without user and password", ErrConfig)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%w: source %.200q is neither a directory nor an http or https URL", ErrConfig, location)
	}
	return newRemote(u, client).read, nil
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

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("%w: reading %s: %v", ErrRemote, name, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%w: %s is longer than %d bytes", ErrRemote, name, limit)
	}
	return b, nil
}

const (
	attempts    = 5
	firstPause  = 500 * time.Millisecond
	longestWait = 30 * time.Second
	atOnce      = 8 // requests in flight per log
	userAgent   = "redoubt-mirror/1"
)

// remote reads a log over HTTP: few requests at once, retries that double their pause and obey Retry-After, redirects only
// within the host, nothing longer than it can be.
type remote struct {
	base   *url.URL
	client *http.Client
	slots  chan struct{}
	pause  time.Duration
}

func newRemote(base *url.URL, client *http.Client) *remote {
	c := http.Client{Timeout: 60 * time.Second}
	if client != nil {
		c = *client
	}
	c.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 || req.URL.Host != base.Host || req.URL.Scheme != base.Scheme {
			return errors.New("redirected away from the log's host")
		}
		return nil
	}
	return &remote{base: base, client: &c, slots: make(chan struct{}, atOnce), pause: firstPause}
}

func (r *remote) read(ctx context.Context, name string, limit int64, _ []byte) ([]byte, error) {
	r.slots <- struct{}{}
	defer func() { <-r.slots }()
	pause := r.pause
	for try := 1; ; try++ {
		b, wait, err := r.get(ctx, name, limit)
		if err == nil || wait < 0 || try == attempts || ctx.Err() != nil {
			return b, err
		}
		timer := time.NewTimer(min(max(pause, wait), longestWait))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
		pause *= 2
	}
}

// get does one request. wait is how long the server asked to wait, negative when another try is no use.
func (r *remote) get(ctx context.Context, name string, limit int64) (b []byte, wait time.Duration, err error) {
	u := r.base.JoinPath(name)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, -1, fmt.Errorf("%w: %v", ErrRemote, err)
	}
	req.Header.Set("User-Agent", userAgent)
	res, err := r.client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%w: %w", ErrRemote, err)
	}
	defer res.Body.Close()
	switch {
	case res.StatusCode == http.StatusOK:
		b, err := readLimited(res.Body, u.String(), limit)
		return b, 0, err
	case res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone:
		return nil, -1, fmt.Errorf("%s: %w", u, fs.ErrNotExist)
	case res.StatusCode == http.StatusTooManyRequests || res.StatusCode >= 500:
		s, _ := strconv.Atoi(res.Header.Get("Retry-After"))
		return nil, time.Duration(max(0, min(s, 3600))) * time.Second, fmt.Errorf("%w: %s: %s", ErrRemote, u, res.Status)
	}
	return nil, -1, fmt.Errorf("%w: %s: %s", ErrRemote, u, res.Status)
}
