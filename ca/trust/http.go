package trust

import (
	"errors"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
)

// served is the closed list of paths the repository answers.
var served = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^(timestamp\.json|root\.json|[1-9][0-9]{0,9}\.(root|targets|snapshot)\.json|targets/([A-Za-z0-9][A-Za-z0-9._-]{0,99}/){0,3}[0-9a-f]{64}\.[A-Za-z0-9][A-Za-z0-9._-]{0,99})$`)
})

// Handler serves the repository's files with GET and HEAD. Paths outside the
// layout of Repository are 404 without touching the disk.
func (r *Repository) Handler() http.Handler { return http.HandlerFunc(r.serveFile) }

func (r *Repository) serveFile(w http.ResponseWriter, req *http.Request) {
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	name := strings.TrimPrefix(req.URL.Path, "/")
	if !served().MatchString(name) {
		http.NotFound(w, req)
		return
	}
	data, err := r.read(name)
	if errors.Is(err, os.ErrNotExist) {
		w.Header().Set("Cache-Control", "no-store") // the next root's absence is no lasting fact
		http.NotFound(w, req)
		return
	}
	if err != nil {
		r.log.ErrorContext(req.Context(), "serving TUF file failed", "file", name, "err", err)
		http.Error(w, "internal error", http.StatusInternalServerError)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	if strings.HasSuffix(name, ".json") {
		h.Set("Content-Type", "application/json")
	}
	h.Set("Cache-Control", "max-age=86400, immutable")
	if name == "timestamp.json" || name == "root.json" {
		h.Set("Cache-Control", "no-cache")
	}
	h.Set("Content-Length", strconv.Itoa(len(data)))
	h.Set("X-Content-Type-Options", "nosniff")
	if req.Method == http.MethodGet {
		w.Write(data)
	}
}
