package rekor

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
)

// tileWidth is the number of hashes or entries in a full tile or bundle (C2SP tlog-tiles).
const tileWidth = 256

var errNoTile = &errStatus{http.StatusNotFound, errors.New("no such tile")}

// tilePath names a tile: level -1 is an entry bundle, width 1 to 256.
type tilePath struct {
	level int
	index uint64
	width int
}

// parseTilePath reads "<L>/<N>[.p/<W>]" or "entries/<N>[.p/<W>]" of C2SP tlog-tiles: L is 0 to 63, N three digits per element, all but the
// last with an x in front, W 1 to 255, and none has a second spelling.
func parseTilePath(path string) (tilePath, bool) {
	t := tilePath{level: -1, width: tileWidth}
	if len(path) > 64 {
		return t, false
	}
	first, rest, ok := strings.Cut(path, "/")
	if !ok {
		return t, false
	}
	if first != "entries" {
		n, ok := decimal(first, 63)
		if !ok {
			return t, false
		}
		t.level = int(n)
	}
	rest, width, partial := strings.Cut(rest, ".p/")
	if partial {
		n, ok := decimal(width, tileWidth-1)
		if !ok || n == 0 {
			return t, false
		}
		t.width = int(n)
	}
	elements := strings.Split(rest, "/")
	for i, e := range elements {
		if i < len(elements)-1 {
			if e, ok = strings.CutPrefix(e, "x"); !ok {
				return t, false
			}
		}
		if len(e) != 3 || strings.Trim(e, "0123456789") != "" || (i == 0 && e == "000" && len(elements) > 1) {
			return t, false
		}
		n, _ := strconv.ParseUint(e, 10, 64)
		if t.index > (1<<53)/1000 {
			return t, false
		}
		t.index = t.index*1000 + n
	}
	return t, true
}

// decimal reads digits without a leading zero, at most limit.
func decimal(s string, limit uint64) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > limit || strconv.FormatUint(n, 10) != s {
		return 0, false
	}
	return n, true
}

// serveTile answers a hash tile or an entry bundle. What it serves never changes: a tile of a given width is the same for ever.
func (l *Log) serveTile(w http.ResponseWriter, r *http.Request) error {
	t, ok := parseTilePath(r.URL.Path)
	if !ok {
		return errNoTile
	}
	// A tile the head does not cover is absent, however much of it is stored.
	if size := l.c.Log.Head().Size; !covers(size, t) {
		return errNoTile
	}
	var (
		data []byte
		err  error
	)
	if t.level < 0 {
		data, err = l.c.Log.EntryBundle(r.Context(), t.index, t.width)
	} else {
		data, err = l.c.Log.Tile(r.Context(), t.level, t.index, t.width)
	}
	if err != nil {
		return fmt.Errorf("reading tile: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Content-Length", strconv.Itoa(len(data)))
	w.Write(data)
	return nil
}

// covers reports whether a tree of size has all of t.
func covers(size uint64, t tilePath) bool {
	level := max(t.level, 0)
	if level > 7 { // 256^8 entries do not fit an uint64
		return false
	}
	nodes := size >> (8 * level)
	return t.index < nodes/tileWidth+1 && t.index*tileWidth+uint64(t.width) <= nodes
}

// serveCheckpoint answers the signed note of the current head.
func (l *Log) serveCheckpoint(w http.ResponseWriter, r *http.Request) error {
	note := l.c.Log.Head().Note
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("Content-Length", strconv.Itoa(len(note)))
	w.Write(note)
	return nil
}
