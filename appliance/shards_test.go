package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"redoubt.internal/hsm"
	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store/bolt"
)

// addShard makes a further artifact log in the stopped directory of cfg: its key, its empty tree, its marks.
func addShard(t *testing.T, cfg *Config, a ArtifactLog) {
	t.Helper()
	dir := layout{cfg.Dir}
	cfg.Keys.Roles[a.Name] = keyURI(cfg.Keys.Token, a.Name)
	keys := newKeyring(cfg.Keys, dir, slog.New(slog.DiscardHandler))
	defer keys.close()
	token, err := keys.token(cfg.Keys.Token)
	if err != nil {
		t.Fatal(err)
	}
	key, err := token.Generate(t.Context(), cfg.Keys.Roles[a.Name], hsm.ECDSAP256)
	if err != nil {
		t.Fatal(err)
	}
	in := &instance{cfg: cfg, dir: dir, roleKeys: map[string]*hsm.Key{a.Name: key}}
	defer in.close()
	if err := in.openHighWater(); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Create(dir.logDB(a.Name))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	in.artifacts = []*artifactLog{{ArtifactLog: a, db: db}}
	if err := log.Create(t.Context(), in.logConfigs()[a.Name]); err != nil {
		t.Fatal(err)
	}
	cfg.Log.Artifact = append(cfg.Log.Artifact, a)
}

// unserved is a fresh instance of the dev profile with its configuration, and what opens it again after the configuration changed.
func unserved(t *testing.T) (*Config, func() (*instance, error)) {
	t.Helper()
	from, err := stateTemplate()
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "state")
	if err := copyState(filepath.Join(from, "state"), dir); err != nil {
		t.Fatal(err)
	}
	cfg, err := loadConfig(layout{dir}.config())
	if err != nil {
		t.Fatal(err)
	}
	return cfg, func() (*instance, error) {
		if err := cfg.check(); err != nil {
			t.Fatal(err)
		}
		return openInstance(t.Context(), cfg, slog.New(slog.DiscardHandler))
	}
}

// askArtifacts sends one request to the artifact logs of in.
func askArtifacts(in *instance, method, path string, body []byte) (int, string) {
	request := httptest.NewRequest(method, "http://rekor.corp.internal"+path, bytes.NewReader(body))
	request.Header.Set("Content-Type", "application/json")
	answer := httptest.NewRecorder()
	in.artifactHandler().ServeHTTP(answer, request)
	return answer.Code, answer.Body.String()
}

// TestShardsOfASite: a frozen log hands its generation to a later one, whose v1 log indexes go on; its entries and tiles stay readable,
// and what either log served is held to.
func TestShardsOfASite(t *testing.T) {
	cfg, open := unserved(t)
	in, err := open()
	if err != nil {
		t.Fatal(err)
	}
	var bodies [][]byte
	for i := range 2 {
		v1, v2 := proposals(t, fmt.Sprint("artifact ", i))
		bodies = append(bodies, v1)
		for path, body := range map[string][]byte{"/api/v2/log/entries": v2, "/api/v1/log/entries": v1} {
			if status, answer := askArtifacts(in, http.MethodPost, path, body); status != http.StatusCreated {
				t.Fatalf("%s: %d %s", path, status, answer)
			}
		}
	}
	in.close()

	was := cfg.Log.Artifact[0]
	for name, change := range map[string]func(a *ArtifactLog, b *ArtifactLog){
		"swapped":  func(a, b *ArtifactLog) { a.Serves, b.Serves = b.Serves, a.Serves },
		"one tree": func(a, b *ArtifactLog) { a.Serves, b.Frozen = []rekor.Generation{rekor.V1, rekor.V2}, true },
	} {
		kept := slices.Clone(cfg.Log.Artifact)
		change(&cfg.Log.Artifact[0], &cfg.Log.Artifact[1])
		in, err := open()
		if err == nil {
			in.close()
		}
		if !errors.Is(err, errShard) || !strings.Contains(fmt.Sprint(err), "2 entries and serves [v") {
			t.Errorf("%s: %v", name, err)
		}
		cfg.Log.Artifact = kept
	}

	cfg.Log.Artifact[0].Frozen = true
	addShard(t, cfg, ArtifactLog{Name: "rekor-3", TreeID: was.TreeID ^ 2, Serves: was.Serves})
	if in, err = open(); err != nil {
		t.Fatal(err)
	}
	v1, _ := proposals(t, "after")
	status, answer := askArtifacts(in, http.MethodPost, "/api/v1/log/entries", v1)
	if status != http.StatusCreated || !strings.Contains(answer, `"logIndex":2,`) {
		t.Errorf("the first entry of rekor-3: %d %s", status, answer)
	}
	for path, want := range map[string]string{
		"/api/v1/log":                        fmt.Sprintf(`"treeID":"%d"`, was.TreeID),
		"/api/v1/log/entries?logIndex=1":     fmt.Sprintf("%016x", was.TreeID),
		"/api/v1/log/entries?logIndex=2":     fmt.Sprintf("%016x", was.TreeID^2),
		"/checkpoint":                        "rekor-3.corp.internal\n1\n",
		"/api/v2/checkpoint":                 "rekor-2.corp.internal\n2\n",
		"/logs/rekor/checkpoint":             "rekor.corp.internal\n2\n",
		"/logs/rekor-2/checkpoint":           "rekor-2.corp.internal\n2\n",
		"/logs/rekor-3/checkpoint":           "rekor-3.corp.internal\n1\n",
		"/logs/rekor/tile/entries/000.p/2":   `"apiVersion":"0.0.1"`,
		"/logs/rekor-2/tile/entries/000.p/2": `"apiVersion":"0.0.2"`,
	} {
		if status, answer := askArtifacts(in, http.MethodGet, path, nil); status != http.StatusOK || !strings.Contains(answer, want) {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	for _, path := range []string{"/logs/rekor/api/v1/log", "/logs/rekor-4/checkpoint", "/logs/", "/logs/rekor/../rekor-2/checkpoint", "/logs//rekor/checkpoint"} {
		if status, answer := askArtifacts(in, http.MethodGet, path, nil); status != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, status, answer)
		}
	}
	// What is in the frozen log already is not found missing there.
	query, err := json.Marshal(map[string]any{"entries": []json.RawMessage{bodies[0]}})
	if err != nil {
		t.Fatal(err)
	}
	if status, answer := askArtifacts(in, http.MethodPost, "/api/v1/log/entries/retrieve", query); status != http.StatusOK || !strings.Contains(answer, fmt.Sprintf("%016x", was.TreeID)) {
		t.Errorf("retrieving a frozen entry: %d %s", status, answer)
	}
	in.close()

	// Frozen stays frozen, and the place in the row stays what it was, even without the log before.
	kept := slices.Clone(cfg.Log.Artifact)
	cfg.Log.Artifact = []ArtifactLog{was, kept[1], kept[2]}
	cfg.Log.Artifact[2].Frozen = true
	if _, err := open(); !errors.Is(err, errShard) || !strings.Contains(fmt.Sprint(err), "it was frozen at 2 entries") {
		t.Errorf("thawed: %v", err)
	}
	cfg.Log.Artifact = kept[1:]
	again, err := open()
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if first := again.serving(rekor.V1).firstIndex; first != 2 {
		t.Errorf("without the frozen log, rekor-3 counts from %d", first)
	}
}
