package serve

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"testing"

	"crypto/ed25519"

	"redoubt.internal/log/store"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

func database(t *testing.T) store.DB {
	t.Helper()
	db, err := bolt.Create(filepath.Join(t.TempDir(), "x.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	return db
}

// mirrored is a mirror that imported a generated log of 1,000 entries, and the log.
func mirrored(t *testing.T, origin string) (*mirror.Mirror, *generate.Log) {
	t.Helper()
	ctx := context.Background()
	g, err := generate.Write(ctx, filepath.Join(t.TempDir(), "log"), generate.Config{Seed: 1, Origin: "log.example", Sizes: []uint64{1000}})
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	vkey, err := parcel.VerifierKey("exporter", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	logs := []mirror.LogConfig{{Origin: g.Origin, VKey: g.VKey, Source: g.Dir}}
	out, err := mirror.OpenExporter(mirror.ExporterConfig{DB: database(t), Dir: t.TempDir(), Stream: "s", Name: "exporter", Signer: key, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := out.Pull(ctx); err != nil {
		t.Fatal(err)
	}
	medium := t.TempDir()
	if _, err := out.Export(ctx, mirror.ExportOptions{Out: medium}); err != nil {
		t.Fatal(err)
	}
	in, err := mirror.Open(mirror.Config{DB: database(t), Dir: t.TempDir(), Stream: "s", Exporters: []string{vkey}, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := in.Import(ctx, []string{medium}); err != nil {
		t.Fatal(err)
	}
	return in, g
}

// TestServedLogCanBePulled pulls from the served mirror over HTTP as from the log itself, below a prefix and on its own host.
func TestServedLogCanBePulled(t *testing.T) {
	in, g := mirrored(t, "log.example")
	mux := http.NewServeMux()
	mux.Handle("/mirror/", http.StripPrefix("/mirror", Handler(in, nil)))
	prefix := httptest.NewServer(mux)
	defer prefix.Close()
	host := httptest.NewServer(New(Config{Mirror: in, Hosts: map[string]string{"127.0.0.1": g.Origin}}))
	defer host.Close()
	for _, source := range []string{prefix.URL + "/mirror/" + url.PathEscape(g.Origin), host.URL, host.URL + "/api/v2"} {
		e, err := mirror.OpenExporter(mirror.ExporterConfig{
			DB: database(t), Dir: t.TempDir(), Stream: "next", Logs: []mirror.LogConfig{{Origin: g.Origin, VKey: g.VKey, Source: source}},
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := e.Pull(context.Background())
		if err != nil || r.Logs[0].To != 1000 {
			t.Fatalf("%s: %v, %+v", source, err, r)
		}
	}
}

func TestWhatIsNotServed(t *testing.T) {
	in, _ := mirrored(t, "log.example")
	srv := httptest.NewServer(Handler(in, nil))
	defer srv.Close()
	for path, want := range map[string]int{
		"/":                                 200,
		"/log.example/checkpoint":           200,
		"/log.example/tile/0/000":           200,
		"/log.example/tile/0/000.p/17":      200,
		"/log.example/tile/0/003.p/232":     200,
		"/log.example/tile/entries/003.p/5": 200,
		"/log.example/tile/1/000.p/3":       200,
		"/log.example/tile/0/003":           404,
		"/log.example/tile/0/003.p/233":     404,
		"/log.example/tile/0/004.p/1":       404,
		"/log.example/tile/2/000":           404,
		"/log.example/tile/0/x000/000":      404,
		"/log.example/../in.db":             404,
		"/log.example/tile/0/..%2f..%2f..":  404,
		"/log.example/":                     404,
		"/log.example":                      404,
		"/other.example/checkpoint":         404,
		"/%2e%2e/checkpoint":                404,
		"/log.example/checkpoint?x=1":       400,
	} {
		res, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: %d instead of %d: %.100s", path, res.StatusCode, want, b)
		}
	}
	res, err := http.Post(srv.URL+"/log.example/checkpoint", "text/plain", nil)
	if err != nil || res.StatusCode != 405 {
		t.Fatal(res.StatusCode, err)
	}
	res.Body.Close()
	res, err = http.Get(srv.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var list struct {
		Logs []struct{ Origin, Path string }
	}
	if err := json.NewDecoder(res.Body).Decode(&list); err != nil || len(list.Logs) != 1 || list.Logs[0].Path != "/log.example/" {
		t.Fatal(list, err)
	}
}

// TestReadersDuringImports proves the whole served log again and again while imports go on: whatever checkpoint a reader got,
// every tile of its tree is there and right.
func TestReadersDuringImports(t *testing.T) {
	ctx := context.Background()
	sizes := []uint64{1, 200, 300, 900, 1500, 2600}
	g, err := generate.Write(ctx, filepath.Join(t.TempDir(), "log"), generate.Config{Seed: 1, Origin: "log.example", Sizes: sizes})
	if err != nil {
		t.Fatal(err)
	}
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	vkey, err := parcel.VerifierKey("exporter", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	c := mirror.LogConfig{Origin: g.Origin, VKey: g.VKey, Source: g.Dir}
	out, err := mirror.OpenExporter(mirror.ExporterConfig{DB: database(t), Dir: t.TempDir(), Stream: "s", Name: "exporter", Signer: key, Logs: []mirror.LogConfig{c}})
	if err != nil {
		t.Fatal(err)
	}
	in, err := mirror.Open(mirror.Config{DB: database(t), Dir: t.TempDir(), Stream: "s", Exporters: []string{vkey}, Logs: []mirror.LogConfig{c}})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(New(Config{Mirror: in, Hosts: map[string]string{"127.0.0.1": g.Origin}}))
	defer srv.Close()
	c.Source = srv.URL
	stop, stopped := make(chan struct{}), make(chan int)
	go func() {
		proofs, last := 0, uint64(0)
		defer func() { stopped <- proofs }()
		for {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := in.Head(g.Origin); err != nil {
				continue // nothing imported yet
			}
			v, err := mirror.VerifyLog(ctx, c, nil, 2)
			if err != nil || v.Leaves != v.Checkpoint.Size || v.Leaves < last {
				t.Errorf("%v, %+v after %d", err, v, last)
				return
			}
			proofs, last = proofs+1, v.Leaves
		}
	}()
	for _, size := range sizes {
		if err := generate.Rewind(g.Dir, size); err != nil {
			t.Fatal(err)
		}
		if _, err := out.Pull(ctx); err != nil {
			t.Fatal(err)
		}
		medium := t.TempDir()
		if _, err := out.Export(ctx, mirror.ExportOptions{Out: medium}); err != nil {
			t.Fatal(err)
		}
		if _, err := in.Import(ctx, []string{medium}); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	t.Logf("%d proofs of the whole log while %d imports ran", <-stopped, len(sizes))
}
