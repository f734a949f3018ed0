package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/tuf"
	"github.com/theupdateframework/go-tuf/v2/metadata/config"
	"github.com/theupdateframework/go-tuf/v2/metadata/updater"

	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
)

// carriedPublicGood packs the real public-good repository of April 2023 under the names given, as an exporter then did, and returns the
// volume, the exporter's verifier line and the file of the pinned root.
func carriedPublicGood(t *testing.T, names ...string) (volume, key, pinned string) {
	t.Helper()
	data := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "shared", "public-log-data")
	}
	data = filepath.Join(data, "tuf-public-good")
	if _, err := os.Stat(data); err != nil {
		t.Skipf("public log data absent: %v (set REDOUBT_PUBLIC_LOG_DATA)", err)
	}
	work := t.TempDir()
	upstream := filepath.Join(work, "upstream")
	for to, from := range map[string]string{
		"5.root.json": "metadata/root/5.root.json", "6.root.json": "metadata/root/6.root.json", "timestamp.json": "metadata/timestamp/78.timestamp.json",
		"78.snapshot.json": "metadata/snapshot/78.snapshot.json", "6.targets.json": "metadata/targets/6.targets.json",
	} {
		b, err := os.ReadFile(filepath.Join(data, from))
		if err == nil {
			err = os.MkdirAll(upstream, 0o755)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(upstream, to), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.CopyFS(filepath.Join(upstream, "targets"), os.DirFS(filepath.Join(data, "targets"))); err != nil {
		t.Fatal(err)
	}
	pinned = filepath.Join(upstream, "5.root.json")
	rootBytes, err := os.ReadFile(pinned)
	if err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Create(filepath.Join(work, "out.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	signer := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	c := mirror.ExporterConfig{
		DB: db, Dir: filepath.Join(work, "out"), Stream: "outside", Name: "exporter.outside", Signer: signer,
		Now: func() time.Time { return time.Date(2023, 4, 10, 12, 0, 0, 0, time.UTC) },
	}
	for _, n := range names {
		c.TUF = append(c.TUF, mirror.TUFConfig{Name: n, Root: rootBytes, Source: upstream, Floors: &parcel.Versions{}})
	}
	e, err := mirror.OpenExporter(c)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	if _, err := e.Pull(t.Context()); err != nil {
		t.Fatal(err)
	}
	packed, err := e.Export(t.Context(), mirror.ExportOptions{Out: work})
	if err != nil {
		t.Fatal(err)
	}
	if key, err = parcel.VerifierKey("exporter.outside", signer.Public()); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(work, packed.Files[0]), key, pinned
}

// importTrust opens a state directory that takes the repositories and imports the volume.
func importTrust(t *testing.T, dir layout, stale MirrorStale, names ...string) *instance {
	t.Helper()
	volume, key, pinned := carriedPublicGood(t, names...)
	cfg, err := loadConfig(dir.config())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Mirror.Stream, cfg.Mirror.Exporters = "outside", []string{key}
	for _, n := range names {
		cfg.Mirror.TUF = append(cfg.Mirror.TUF, MirrorTUF{Name: n, Root: pinned, Floors: &MirrorFloors{Root: 5}, Stale: stale})
	}
	in, err := openInstance(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(in.close)
	report, err := mirrorImport.run(t.Context(), in, "test", importArgs{Paths: []string{volume}})
	if err != nil || len(report.Transfers) != 1 || len(report.Transfers[0].TUF) != len(names) || report.Transfers[0].TUF[0].StaleBy == "" {
		t.Fatalf("%+v, %v", report, err)
	}
	return in
}

// TestMirroredTrustForClients serves a root of trust of 2023 to clients of today: they take it under our own root and fresh timestamp,
// and upstream.json says how old it is.
func TestMirroredTrustForClients(t *testing.T) {
	in := importTrust(t, newStateDir(t), MirrorStale{}, "public-good", "other")
	server := httptest.NewServer(in.withMirroredTrust(http.NotFoundHandler()))
	defer server.Close()
	url := server.URL + "/tuf/public-good"
	rootBytes := in.mirrored.get("public-good").Root()

	tc, err := tuf.New(tuf.DefaultOptions().WithRoot(rootBytes).WithRepositoryBaseURL(url).WithDisableLocalCache())
	if err != nil {
		t.Fatal(err)
	}
	trusted, err := root.GetTrustedRoot(tc)
	if err != nil || len(trusted.RekorLogs()) != 1 || len(trusted.FulcioCertificateAuthorities()) != 2 {
		t.Fatal(trusted, err)
	}
	text, err := tc.GetTarget(upstreamTarget)
	if err != nil {
		t.Fatal(err)
	}
	var note upstreamNote
	if err := json.Unmarshal(text, &note); err != nil || note.StaleByDays < 1000 || note.Versions.Root != 6 || note.ObservedAt.Year() != 2023 {
		t.Fatalf("%s, %v", text, err)
	}
	t.Logf("served under our own root: %s", bytes.Join(bytes.Fields(text), nil))

	u, err := goTUFClient(t, url, rootBytes)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"trusted_root.json", "rekor.pub", "ctfe_2022.pub", "upstream.json"} {
		info, err := u.GetTargetInfo(name)
		if err != nil {
			t.Fatal(name, err)
		}
		if _, _, err := u.DownloadTarget(info, "", ""); err != nil {
			t.Fatal(name, err)
		}
	}
	before := in.mirrored.get("public-good").Status()[0].Version
	if err := in.publishMirroredTrust(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := in.mirrored.get("public-good").Status()
	if after[0].Version <= before || after[2].Version != 1 {
		t.Fatalf("timestamp %d after %d, targets %d", after[0].Version, before, after[2].Version)
	}

	// No metadata of one repository passes for another's: not of the other mirrored one, not of our own.
	for _, foreign := range []http.Handler{in.tuf.Handler(), in.mirrored.get("other").Handler()} {
		swapped := httptest.NewServer(foreign)
		if _, err := goTUFClient(t, swapped.URL, rootBytes); err == nil {
			t.Error("a client took another repository's metadata")
		}
		swapped.Close()
	}
	for path, status := range map[string]int{"/tuf/public-good/timestamp.json": 200, "/tuf/nosuch/timestamp.json": 404, "/tuf/public-good": 404, "/tuf/public-good/../../x": 404, "/tuf/": 404} {
		r := httptest.NewRecorder()
		in.withMirroredTrust(http.NotFoundHandler()).ServeHTTP(r, httptest.NewRequest("GET", path, nil))
		if r.Code != status {
			t.Errorf("%s: %d", path, r.Code)
		}
	}

	keys, err := listKeys.run(t.Context(), in, "test", struct{}{})
	if err != nil || !slices.ContainsFunc(keys, func(k keyEntry) bool {
		return k.Name == "mirror-public-good" && k.Error == "" && k.UsedBy == "mirror: trust repository of public-good"
	}) {
		t.Fatalf("the key is not listed: %v, %+v", err, keys)
	}

	// What is served outlives the process, and is opened without any key.
	dir := in.dir
	cfg := in.cfg
	in.close()
	again, err := openInstance(t.Context(), cfg, quiet())
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	if r := again.mirrored.get("public-good"); r == nil || !bytes.Equal(r.Root(), rootBytes) {
		t.Fatal("the repository was not opened again")
	}
	if found, _ := filepath.Glob(dir.path("keys", "mirror-*")); len(found) != 2 {
		t.Fatalf("keys %v", found)
	}
}

func goTUFClient(t *testing.T, url string, rootBytes []byte) (*updater.Updater, error) {
	t.Helper()
	c, err := config.New(url, rootBytes)
	if err != nil {
		t.Fatal(err)
	}
	c.RemoteTargetsURL, c.DisableLocalCache = url+"/targets", true
	u, err := updater.New(c)
	if err != nil {
		t.Fatal(err)
	}
	return u, u.Refresh()
}

// TestMirroredTrustTooOld: past deny-all nothing is served but the file that says why.
func TestMirroredTrustTooOld(t *testing.T) {
	in := importTrust(t, newStateDir(t), MirrorStale{Warn: Duration(24 * time.Hour), DenyAll: Duration(30 * 24 * time.Hour)}, "public-good")
	r := in.mirrored.get("public-good")
	if _, err := r.Target("trusted_root.json"); err == nil {
		t.Fatal("a root of trust is served that is too old for everything")
	}
	text, err := r.Target(upstreamTarget)
	if err != nil || !strings.Contains(string(text), `"level": "deny-all"`) {
		t.Fatalf("%s, %v", text, err)
	}
	report, err := in.mirror.Reconcile(context.Background())
	if err != nil || mirror.ExitCode(report.Err()) != 50 {
		t.Fatal(err, report.Err())
	}
}

// TestMirrorKeyIsItsOwn: a mirrored repository is signed by no key that signs something else.
func TestMirrorKeyIsItsOwn(t *testing.T) {
	in := importTrust(t, newStateDir(t), MirrorStale{}, "public-good")
	in.mirrored.keys = nil
	for _, uri := range []string{in.cfg.Keys.Roles[roleTUF], in.cfg.Keys.Roles[roleExporter]} {
		in.cfg.Keys.Roles["mirror-public-good"] = uri
		if _, err := in.mirrorKey(t.Context(), "public-good"); err == nil {
			t.Errorf("%s was taken", uri)
		}
	}
	for role, ok := range map[string]bool{"mirror-public-good": true, "mirror-": false, "mirror-A": false, "mirrors": false} {
		if isMirrorRole(role) != ok {
			t.Error(role)
		}
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
