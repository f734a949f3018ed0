package main

import (
	"net/http"
	"path"
	"slices"
	"strings"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store"
)

// artifactLog is one tree of signed artifacts: a database to itself, the Merkle log in it and its HTTP face.
type artifactLog struct {
	ArtifactLog
	db  store.DB
	log *log.Log
	api *rekor.Log

	firstIndex uint64 // v1 logIndex of its first entry
}

// takes reports whether the log takes entries of generation g.
func (a ArtifactLog) takes(g rekor.Generation) bool { return !a.Frozen && slices.Contains(a.Serves, g) }

// openArtifacts gives each artifact log its HTTP face. The one that takes v1 entries is opened last: its reads look into the others.
func (in *instance) openArtifacts() (err error) {
	if err := in.settleShards(); err != nil {
		return err
	}
	var beside []*rekor.Log
	for _, last := range []bool{false, true} {
		for _, a := range in.artifacts {
			if a.takes(rekor.V1) != last {
				continue
			}
			a.api, err = rekor.New(rekor.Config{Log: a.log, Signer: in.signer(a.Name), Hostname: in.cfg.origin(a.Name), TreeID: a.TreeID, Serves: a.Serves, Beside: beside,
				Frozen: a.Frozen, FirstIndex: a.firstIndex, Now: in.now, Logger: in.logger})
			if err != nil {
				return err
			}
			beside = append(beside, a.api)
		}
	}
	return nil
}

// serving is the artifact log that takes entries of generation g.
func (in *instance) serving(g rekor.Generation) *artifactLog {
	for _, a := range in.artifacts {
		if a.takes(g) {
			return a
		}
	}
	return nil // refused by Config.check
}

// artifactHandler puts the artifact logs on one address: /api/v2/ is the log that takes v2 entries, /logs/<name>/ the checkpoint and
// tiles of each log, frozen ones among them, everything else, the tiles at the root too, the log that takes v1 entries.
func (in *instance) artifactHandler() http.Handler {
	v1, v2 := in.serving(rekor.V1).api.Handler(), in.serving(rekor.V2).api.Handler()
	mux := in.eachArtifactLog()
	mux.Handle("/", v1)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if own := in.readByHost(r); own != nil {
			own.ServeHTTP(w, r)
			return
		}
		switch {
		case strings.HasPrefix(r.URL.Path, "/api/v2/"):
			v2.ServeHTTP(w, r)
		case strings.HasPrefix(r.URL.Path, "/logs/") && path.Clean(r.URL.Path) == r.URL.Path: // the mux would redirect others
			mux.ServeHTTP(w, r)
		default:
			v1.ServeHTTP(w, r)
		}
	})
}

// eachArtifactLog has the checkpoint and tiles of each log below /logs/<name>/.
func (in *instance) eachArtifactLog() *http.ServeMux {
	mux := http.NewServeMux()
	for _, a := range in.artifacts {
		prefix, tiles := "/logs/"+a.Name, a.api.Handler()
		mux.Handle(prefix+"/checkpoint", http.StripPrefix(prefix, tiles))
		mux.Handle(prefix+"/tile/", http.StripPrefix(prefix, tiles))
	}
	return mux
}

// readByHost is the face of the log whose name the request is addressed to, when it asks for the checkpoint or tiles of a generation that
// log serves; nil otherwise. A frozen log so stays where its name says. rekor.<domain> is the address clients dial besides: there it is the
// log in use that answers, and the first log stands below /logs/rekor/.
func (in *instance) readByHost(r *http.Request) http.Handler {
	rest, v2 := strings.CutPrefix(r.URL.Path, "/api/v2")
	if rest != "/checkpoint" && !strings.HasPrefix(rest, "/tile/") {
		return nil
	}
	g := rekor.V1
	if v2 {
		g = rekor.V2
	}
	name, ours := strings.CutSuffix(hostOf(r), "."+in.cfg.Domain)
	for _, a := range in.artifacts {
		if ours && a.Name == name && name != roleRekor && slices.Contains(a.Serves, g) {
			return a.api.Handler()
		}
	}
	return nil
}
