package main

import (
	"net/http"
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
}

// openArtifacts gives each artifact log its HTTP face. The one that serves v1 is opened last: its reads look into the others.
func (in *instance) openArtifacts() (err error) {
	var beside []*rekor.Log
	for _, v1 := range []bool{false, true} {
		for _, a := range in.artifacts {
			if slices.Contains(a.Serves, rekor.V1) != v1 {
				continue
			}
			a.api, err = rekor.New(rekor.Config{Log: a.log, Signer: in.roleKeys[a.Name], Hostname: in.cfg.origin(a.Name), TreeID: a.TreeID, Serves: a.Serves, Beside: beside,
				Now: in.now, Logger: in.logger})
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
		if slices.Contains(a.Serves, g) {
			return a
		}
	}
	return nil // refused by Config.check
}

// artifactHandler puts the artifact logs on one address: /api/v2/ is the log that serves v2, everything else, the tiles at the root
// among it, the one that serves v1.
func (in *instance) artifactHandler() http.Handler {
	v1, v2 := in.serving(rekor.V1).api.Handler(), in.serving(rekor.V2).api.Handler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/api/v2/") {
			v2.ServeHTTP(w, r)
			return
		}
		v1.ServeHTTP(w, r)
	})
}
