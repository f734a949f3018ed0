package main

import (
	"net/http"
	"net/url"
	"strings"
)

// face says what a route shows, and so who may ask it.
type face string

const (
	openFace    face = "open"    // anyone: the room itself asks for what it needs, as a token at the CA
	readFace    face = "read"    // what is in a log: anyone, or with log.read: authenticated everybody who is known
	actFace     face = "act"     // an operation: as its row in verbTable says
	machineFace face = "machine" // the listener is on loopback alone (Config.check)
)

// routeRow is one route of one service. The pattern is that of http.ServeMux; a trailing slash is ignored but of subtrees.
type routeRow struct {
	service string
	pattern string
	face
}

// routeTable is every route that is answered. Each service answers GET /healthz and GET /readyz besides. Below /logs/{log} the rekor
// service has checkpoint and tiles of each log, and ct every route; below /{log} the mirror has what is read of a log.
var routeTable = []routeRow{
	{"fulcio", "POST /api/v2/signingCert", openFace},
	{"fulcio", "OPTIONS /api/v2/signingCert", openFace},
	{"fulcio", "GET /api/v2/trustBundle", openFace},
	{"fulcio", "OPTIONS /api/v2/trustBundle", openFace},
	{"fulcio", "GET /api/v2/configuration", openFace},
	{"fulcio", "OPTIONS /api/v2/configuration", openFace},
	{"fulcio", "POST /api/v1/signingCert", openFace},
	{"fulcio", "OPTIONS /api/v1/signingCert", openFace},
	{"fulcio", "GET /api/v1/rootCert", openFace},
	{"fulcio", "OPTIONS /api/v1/rootCert", openFace},
	{"fulcio", "POST /dev.sigstore.fulcio.v2.CA/CreateSigningCertificate", openFace},
	{"fulcio", "POST /dev.sigstore.fulcio.v2.CA/GetConfiguration", openFace},
	{"fulcio", "POST /dev.sigstore.fulcio.v2.CA/GetTrustBundle", openFace},
	{"fulcio", "POST /grpc.health.v1.Health/Check", openFace},
	{"fulcio", "POST /grpc.health.v1.Health/List", openFace},
	{"fulcio", "POST /grpc.health.v1.Health/Watch", openFace},

	{"rekor", "POST /api/v1/log/entries", openFace},
	{"rekor", "POST /api/v2/log/entries", openFace},
	{"rekor", "GET /ping", openFace},
	{"rekor", "GET /api/v1/log/publicKey", openFace},
	{"rekor", "GET /api/v1/log", readFace},
	{"rekor", "GET /api/v1/log/proof", readFace},
	{"rekor", "GET /api/v1/log/entries", readFace},
	{"rekor", "GET /api/v1/log/entries/{id}", readFace},
	{"rekor", "POST /api/v1/log/entries/retrieve", readFace},
	{"rekor", "POST /api/v1/index/retrieve", readFace},
	{"rekor", "GET /checkpoint", readFace},
	{"rekor", "GET /tile/", readFace},
	{"rekor", "GET /api/v2/checkpoint", readFace},
	{"rekor", "GET /api/v2/tile/", readFace},

	{"tsa", "POST /api/v1/timestamp", openFace},
	{"tsa", "POST /tsr", openFace},
	{"tsa", "GET /api/v1/timestamp/certchain", openFace},
	{"tsa", "GET /ping", openFace},

	{"ct", "POST /ct/v1/add-pre-chain", openFace},
	{"ct", "POST /ct/v1/add-chain", openFace},
	{"ct", "GET /ct/v1/get-roots", openFace},
	{"ct", "GET /ct/v1/get-sth", readFace},
	{"ct", "GET /ct/v1/get-sth-consistency", readFace},
	{"ct", "GET /ct/v1/get-proof-by-hash", readFace},
	{"ct", "GET /ct/v1/get-entries", readFace},
	{"ct", "GET /ct/v1/get-entry-and-proof", readFace},

	{"tuf", "GET /{name}", openFace},
	{"tuf", "GET /targets/", openFace},
	{"oidc", "GET /.well-known/openid-configuration", openFace},
	{"oidc", "GET /keys", openFace},
	{"oidc", "GET /workload/.well-known/openid-configuration", openFace},
	{"oidc", "GET /workload/keys", openFace},
	{"console", "GET /{$}", openFace},
	{"people", "POST /api/v1/act/{operation}", actFace},

	{"mirror", "GET /{$}", readFace},
	{"mirror", "GET /tuf/{name}/", openFace},
	{"mirror", "GET /ping", openFace},
	{"mirror", "GET /checkpoint", readFace},
	{"mirror", "GET /tile/", readFace},
	{"mirror", "GET /api/v2/checkpoint", readFace},
	{"mirror", "GET /api/v2/tile/", readFace},
	{"mirror", "GET /api/v1/log", readFace},
	{"mirror", "GET /api/v1/log/proof", readFace},
	{"mirror", "GET /api/v1/log/publicKey", readFace},
	{"mirror", "GET /api/v1/log/entries", readFace},
	{"mirror", "GET /api/v1/log/entries/{id}", readFace},
	{"mirror", "POST /api/v1/log/entries/retrieve", readFace},
	{"mirror", "POST /api/v1/index/retrieve", readFace},
	{"mirror", "POST /api/v1/log/entries", readFace}, // both refused by the room, which says that it is a mirror
	{"mirror", "POST /api/v2/log/entries", readFace},

	{"metrics", "GET /metrics", machineFace},
	{"metrics", "GET /debug/pprof/", machineFace},
	{"metrics", "GET /debug/pprof/profile", machineFace},
	{"metrics", "GET /debug/pprof/trace", machineFace},
}

// inner is the path of a request to one log among several as a request to that log alone: below /logs/<name>/ the rekor service has
// checkpoint and tiles of each log, and ct all of it; below /<log>/ the mirror has what is read of each. "" is none of those.
func inner(service, path string) string {
	rest := ""
	switch service {
	case "rekor", "ct":
		rest, _ = strings.CutPrefix(path, "/logs/")
	case "mirror":
		rest, _ = strings.CutPrefix(path, "/")
	}
	_, below, ok := strings.Cut(rest, "/")
	if !ok || service == "rekor" && below != "checkpoint" && !strings.HasPrefix(below, "tile/") {
		return ""
	}
	return "/" + below
}

// routeIndex is the rows of each service as a mux that answers nothing.
type routeIndex map[string]*http.ServeMux

// ServeHTTP makes faces the handlers of that mux.
func (face) ServeHTTP(http.ResponseWriter, *http.Request) {}

func newRoutes() routeIndex {
	all := routeIndex{}
	for _, row := range routeTable {
		if all[row.service] == nil {
			all[row.service] = http.NewServeMux()
		}
		all[row.service].Handle(row.pattern, row.face)
	}
	return all
}

// find returns the face of the row that r falls under, and else the methods that rows have for its path.
func (all routeIndex) find(service string, r *http.Request) (found face, allowed []string) {
	mux := all[service]
	if mux == nil {
		return "", nil
	}
	path := r.URL.EscapedPath()
	paths := []string{path, strings.TrimSuffix(path, "/")}
	if below := inner(service, path); below != "" {
		paths = append(paths, below, strings.TrimSuffix(below, "/"))
	}
	look := func(method string) face {
		for i, path := range paths {
			u, err := url.Parse(path)
			if err != nil || u.Host != "" || i > 0 && u.Path == "" {
				continue
			}
			h, _ := mux.Handler(&http.Request{Method: method, URL: u})
			if f, ok := h.(face); ok && (i < 2 || f == readFace || service == "ct") {
				return f
			}
		}
		return ""
	}
	if found = look(r.Method); found != "" {
		return found, nil
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodOptions} {
		if look(method) != "" {
			allowed = append(allowed, method)
		}
	}
	return "", allowed
}
