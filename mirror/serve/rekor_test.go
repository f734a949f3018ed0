package serve

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sigstore/rekor/pkg/client"
	rclient "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	search "github.com/sigstore/rekor/pkg/generated/client/index"
	"github.com/sigstore/rekor/pkg/generated/client/pubkey"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
	"redoubt.internal/log/store/bolt"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
)

const siteName = "rekor.example"

// realBodies are the canonical bodies of the public logs that are at hand, each once, in a fixed order.
func realBodies(t testing.TB) (out [][]byte) {
	t.Helper()
	root := os.Getenv("REDOUBT_PUBLIC_LOG_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "public-log-data")
	}
	if _, err := os.Stat(filepath.Join(root, "entries")); err != nil {
		t.Skip("public log data absent: set REDOUBT_PUBLIC_LOG_DATA")
	}
	seen := make(map[string]bool)
	var find func(v any)
	find = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, k := range []string{"canonicalizedBody", "body"} {
				s, _ := v[k].(string)
				if b, err := base64.StdEncoding.DecodeString(s); err == nil && bytes.Contains(b, []byte(`"apiVersion"`)) && !seen[s] {
					seen[s] = true
					out = append(out, b)
				}
			}
			for _, inner := range v {
				find(inner)
			}
		case []any:
			for _, inner := range v {
				find(inner)
			}
		}
	}
	for _, dir := range []string{"bundles", "entries"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".json") {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			var tree any
			if err := json.Unmarshal(raw, &tree); err != nil {
				return err
			}
			find(tree)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	slices.SortFunc(out, bytes.Compare)
	return out
}

// site is a Rekor v1 server of our own with a frozen tree and an active one that holds real entries of the public logs.
type site struct {
	url   string
	vkey  string
	key   crypto.PublicKey
	trees []int64
	sizes []int
}

func newSite(t testing.TB, trees map[int64][][]byte, order ...int64) *site {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{key: key.Public(), trees: order}
	if s.vkey, err = parcel.VerifierKey(siteName, key.Public()); err != nil {
		t.Fatal(err)
	}
	var beside []*rekor.Log
	var active *rekor.Log
	first := uint64(0)
	for n, tree := range order {
		db, err := bolt.Create(filepath.Join(t.TempDir(), "rekor.db"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		c := log.Config{DB: db, Origin: siteName, Signer: key, Unique: true, IndexKeys: rekor.IndexKeys}
		if err := log.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		engine, err := log.Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		var run sync.WaitGroup
		run.Go(func() { engine.Run(ctx) })
		t.Cleanup(func() { cancel(); run.Wait() })
		rc := rekor.Config{Log: engine, Signer: key, Hostname: siteName, TreeID: tree, Serves: []rekor.Generation{rekor.V1}, FirstIndex: first}
		if n == len(order)-1 {
			rc.Beside = beside
		}
		l, err := rekor.New(rc)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range trees[tree] {
			f, err := entry.Read(b)
			if err != nil {
				t.Fatal(err)
			}
			if _, _, err := l.Add(ctx, &rekor.Entry{Kind: f.Kind, Version: f.APIVersion, Body: b, Keys: f.Terms()}); err != nil {
				t.Fatal(err)
			}
		}
		first += engine.Head().Size
		s.sizes = append(s.sizes, int(engine.Head().Size))
		rc.Frozen = true
		frozen, err := rekor.New(rc)
		if err != nil {
			t.Fatal(err)
		}
		beside = append(beside, frozen)
		active = l
	}
	srv := httptest.NewServer(active.Handler())
	t.Cleanup(srv.Close)
	s.url = srv.URL
	return s
}

// carried is a mirror that imported the trees of a site.
func (s *site) carried(t testing.TB, scope string, records map[int64][]uint64) *mirror.Mirror {
	t.Helper()
	ctx := context.Background()
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	exporter, err := parcel.VerifierKey("exporter", key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var logs []mirror.LogConfig
	for _, tree := range s.trees {
		logs = append(logs, mirror.LogConfig{Origin: fmt.Sprintf("%s - %d", siteName, tree), VKey: s.vkey, Scope: scope, Records: records[tree], Source: s.url, Layout: "rekor1"})
	}
	db := func() *bolt.DB { return database(t.(*testing.T)).(*bolt.DB) }
	out, err := mirror.OpenExporter(mirror.ExporterConfig{DB: db(), Dir: t.TempDir(), Stream: "s", Name: "exporter", Signer: key, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	if r, err := out.Pull(ctx); err != nil {
		t.Fatal(err, r)
	}
	medium := t.TempDir()
	if _, err := out.Export(ctx, mirror.ExportOptions{Out: medium}); err != nil {
		t.Fatal(err)
	}
	in, err := mirror.Open(mirror.Config{DB: db(), Dir: t.TempDir(), Stream: "s", Exporters: []string{exporter}, Logs: logs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close() })
	if r, err := in.Import(ctx, []string{medium}); err != nil {
		t.Fatal(err, r)
	}
	return in
}

// TestRekorFace reads mirrored trees with Rekor's own client, verifies every entry as that client does, and compares with what the log
// itself answers.
func TestRekorFace(t *testing.T) {
	bodies := realBodies(t)
	s := newSite(t, map[int64][][]byte{7: bodies[:33], 4503599627370497: bodies[33:]}, 7, 4503599627370497)
	for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse} {
		t.Run(scope, func(t *testing.T) {
			var some map[int64][]uint64
			if scope == parcel.ScopeSparse {
				some = map[int64][]uint64{7: {0, 5, 32}, 4503599627370497: {1, 2, 17, uint64(len(bodies) - 34)}}
			}
			in := s.carried(t, scope, some)
			srv := httptest.NewServer(New(Config{Mirror: in, Domain: "mirror.inside.example"}))
			defer srv.Close()
			s.compare(t, srv.URL+"/"+siteName, len(bodies), some)
		})
	}
}

// compare reads every entry from the mirror by index and by name and compares it with the log's own answer.
func (s *site) compare(t *testing.T, base string, n int, some map[int64][]uint64) {
	ctx := context.Background()
	mirrored, upstream := rekorClient(t, base), rekorClient(t, s.url)
	pk, err := mirrored.Pubkey.GetPublicKey(pubkey.NewGetPublicKeyParams())
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(pk.Payload))
	key, err := signature.LoadVerifier(s.key, crypto.SHA256)
	if err != nil || block == nil {
		t.Fatal(err)
	}
	seen := 0
	for i := range int64(n) {
		got, err := mirrored.Entries.GetLogEntryByIndex(entries.NewGetLogEntryByIndexParams().WithLogIndex(i))
		tree, index := s.trees[0], uint64(i)
		if i >= int64(s.sizes[0]) {
			tree, index = s.trees[1], uint64(i)-uint64(s.sizes[0])
		}
		if some != nil && !slices.Contains(some[tree], index) {
			if _, ok := err.(*entries.GetLogEntryByIndexNotFound); !ok {
				t.Fatalf("entry %d is not carried, and answered: %v", i, err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("entry %d: %v", i, err)
		}
		want, err := upstream.Entries.GetLogEntryByIndex(entries.NewGetLogEntryByIndexParams().WithLogIndex(i))
		if err != nil {
			t.Fatal(err)
		}
		for id, e := range got.Payload {
			seen++
			if err := verify.VerifyLogEntry(ctx, &e, key); err != nil {
				t.Fatalf("entry %d: %v", i, err)
			}
			theirs, ok := want.Payload[id]
			if !ok {
				t.Fatalf("entry %d is called %s", i, id)
			}
			e.Verification.SignedEntryTimestamp, theirs.Verification.SignedEntryTimestamp = nil, nil // each verifies; ECDSA signs anew
			if e.Verification.InclusionProof.Checkpoint != nil && *e.Verification.InclusionProof.TreeSize == *theirs.Verification.InclusionProof.TreeSize {
				e.Verification.InclusionProof.Checkpoint = theirs.Verification.InclusionProof.Checkpoint
			}
			if !reflect.DeepEqual(e, theirs) {
				t.Fatalf("entry %d: the mirror says\n%s\nthe log\n%s", i, show(e), show(theirs))
			}
			for _, name := range []string{id, id[16:]} {
				again, err := mirrored.Entries.GetLogEntryByUUID(entries.NewGetLogEntryByUUIDParams().WithEntryUUID(name))
				if err != nil || again.Payload[id].LogIndex == nil || *again.Payload[id].LogIndex != i {
					t.Fatalf("entry %d by name %s: %v", i, name, err)
				}
			}
			if some != nil || i%4 == 0 {
				s.find(t, mirrored, id, e)
			}
		}
	}
	t.Logf("%d of %d entries read, verified and compared", seen, n)
	s.heads(t, mirrored, key)
}

// find searches for an entry by everything Rekor finds it by, and retrieves it by its content.
func (s *site) find(t *testing.T, c *rclient.Rekor, id string, e models.LogEntryAnon) {
	t.Helper()
	body, err := base64.StdEncoding.DecodeString(e.Body.(string))
	if err != nil {
		t.Fatal(err)
	}
	f, err := entry.Read(body)
	if err != nil {
		t.Fatal(err)
	}
	var queries []models.SearchIndex
	for _, d := range f.Digests {
		queries = append(queries, models.SearchIndex{Hash: d})
	}
	for _, n := range f.Identities {
		queries = append(queries, models.SearchIndex{Subject: n})
		if strings.Contains(n, "@") && !strings.Contains(n, "/") {
			queries = append(queries, models.SearchIndex{Email: "", Subject: strings.ToUpper(n)})
			queries = append(queries, models.SearchIndex{Hash: f.Digests[0], Subject: n, Operator: "and"})
		}
	}
	for _, q := range queries {
		found, err := c.Index.SearchIndex(search.NewSearchIndexParams().WithQuery(&q))
		if err != nil || !slices.Contains(found.Payload, id) {
			t.Fatalf("%s is not found by %+v: %v", id, q, err)
		}
	}
	query := &models.SearchLogQuery{EntryUUIDs: []string{id}}
	got, err := c.Entries.SearchLogQuery(entries.NewSearchLogQueryParams().WithEntry(query))
	if err != nil || len(got.Payload) != 1 {
		t.Fatalf("retrieving %s: %v", id, err)
	}
}

// heads proves consistency as a client with an older head would.
func (s *site) heads(t *testing.T, c *rclient.Rekor, key signature.Verifier) {
	ctx := context.Background()
	info, err := c.Tlog.GetLogInfo(tlog.NewGetLogInfoParams())
	if err != nil {
		t.Fatal(err)
	}
	if *info.Payload.TreeID != fmt.Sprint(s.trees[1]) || len(info.Payload.InactiveShards) != 1 || *info.Payload.InactiveShards[0].TreeID != fmt.Sprint(s.trees[0]) {
		t.Fatalf("%s", show(info.Payload))
	}
	if _, err := verify.VerifyCurrentCheckpoint(ctx, c, key, signedHead(t, *info.Payload.SignedTreeHead)); err != nil {
		t.Fatal(err)
	}
}

func signedHead(t *testing.T, note string) *util.SignedCheckpoint {
	t.Helper()
	sth := new(util.SignedCheckpoint)
	if err := sth.UnmarshalText([]byte(note)); err != nil {
		t.Fatal(err)
	}
	return sth
}

func rekorClient(t *testing.T, url string) *rclient.Rekor {
	t.Helper()
	c, err := client.GetRekorClient(url, client.WithRetryCount(0))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func show(v any) string {
	b, _ := json.MarshalIndent(v, "", " ")
	return string(b)
}

// TestRekorFaceRefuses: whatever would write, every other method, and questions of another form.
func TestRekorFaceRefuses(t *testing.T) {
	bodies := realBodies(t)
	s := newSite(t, map[int64][][]byte{7: bodies[:3]}, 7)
	srv := httptest.NewServer(New(Config{Mirror: s.carried(t, parcel.ScopeFull, nil), Domain: "mirror.inside.example", Hosts: map[string]string{"rekor.inside.example": siteName}}))
	defer srv.Close()
	for _, test := range []struct {
		method, host, path, body string
		want                     int
	}{
		{"GET", "", "/rekor.example/api/v1/log", "", 200},
		{"GET", "", "/rekor.example/api/v1/log/", "", 200},
		{"GET", "rekor.example.mirror.inside.example", "/api/v1/log", "", 200},
		{"GET", "REKOR.example.mirror.inside.example:443", "/api/v1/log/publicKey", "", 200},
		{"GET", "rekor.inside.example", "/api/v1/log/entries?logIndex=2", "", 200},
		{"GET", "7.rekor.example.mirror.inside.example", "/checkpoint", "", 200},
		{"GET", "7.rekor.example.mirror.inside.example", "/api/v2/tile/entries/000.p/3", "", 200},
		{"GET", "other.example.mirror.inside.example", "/api/v1/log", "", 404},
		{"GET", "mirror.inside.example", "/", "", 200},
		{"GET", "", "/other.example/api/v1/log", "", 404},
		{"POST", "", "/rekor.example/api/v1/log/entries", string(bodies[0]), 405},
		{"POST", "", "/rekor.example%20-%207/api/v2/log/entries", "{}", 405},
		{"DELETE", "", "/rekor.example/api/v1/log", "", 405},
		{"POST", "", "/rekor.example/api/v1/log", "{}", 405},
		{"GET", "", "/rekor.example/api/v1/index/retrieve", "", 405},
		{"GET", "", "/rekor.example/api/v1/log/entries?logIndex=3", "", 404},
		{"GET", "", "/rekor.example/api/v1/log/entries?logIndex=-1", "", 400},
		{"GET", "", "/rekor.example/api/v1/log/entries", "", 400},
		{"GET", "", "/rekor.example/api/v1/log/entries/xyz", "", 400},
		{"GET", "", "/rekor.example/api/v1/log/entries/" + strings.Repeat("0", 64), "", 404},
		{"GET", "", "/rekor.example/api/v1/log/proof?lastSize=4", "", 400},
		{"GET", "", "/rekor.example/api/v1/log/proof?firstSize=2&lastSize=1", "", 400},
		{"GET", "", "/rekor.example/api/v1/log/proof?firstSize=1&lastSize=2", "", 200},
		{"GET", "", "/rekor.example/api/v1/log/proof?lastSize=3&treeID=8", "", 400},
		{"GET", "", "/rekor.example/api/v1/nothing", "", 404},
		{"POST", "", "/rekor.example/api/v1/log/entries/retrieve", `{"logIndexes":[0,2,9]}`, 200},
		{"POST", "", "/rekor.example/api/v1/log/entries/retrieve", `{"logIndexes":[0,1,2,3,4,5,6,7,8,9,10]}`, 422},
		{"POST", "", "/rekor.example/api/v1/log/entries/retrieve", `{"logIndexes":[0],"logIndexes":[1]}`, 400},
		{"POST", "", "/rekor.example/api/v1/index/retrieve", `{"hash":"zz"}`, 400},
		{"POST", "", "/rekor.example/api/v1/index/retrieve", strings.Repeat(" ", maxBody+1), 413},
		{"GET", "", "/rekor.example/api/v1/" + strings.Repeat("a", 1100), "", 400},
	} {
		req, err := http.NewRequest(test.method, srv.URL+test.path, strings.NewReader(test.body))
		if err != nil {
			t.Fatal(err)
		}
		if test.host != "" {
			req.Host = test.host
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != test.want {
			t.Errorf("%s %s %s: %d instead of %d: %.200s", test.method, test.host, test.path, res.StatusCode, test.want, b)
		}
		if test.want == 405 && (res.Header.Get("Allow") == "" || !strings.Contains(string(b), "mirror")) {
			t.Errorf("%s %s does not say that this is a mirror: %s", test.method, test.path, b)
		}
	}
}

// TestSomeSaysWhetherAll: a search under a limit finds the first entries and says that there are more, and with room for all that there
// are none.
func TestSomeSaysWhetherAll(t *testing.T) {
	bodies := realBodies(t)
	s := newSite(t, map[int64][][]byte{7: bodies}, 7)
	in := s.carried(t, parcel.ScopeFull, nil)
	x, origin := NewIndex(in), siteName+" - 7"
	often := map[string]int{}
	for _, b := range bodies {
		for _, term := range termsOf(mirror.Record{Leaf: b}) {
			often[term]++
		}
	}
	tried := 0
	for term, n := range often {
		if n < 2 {
			continue
		}
		want, err := x.Find(t.Context(), origin, term)
		if err != nil || len(want) < 2 {
			t.Fatalf("%q: %v, %v", term, want, err)
		}
		for limit, whole := range map[int]bool{1: false, len(want) - 1: false, len(want): true, len(want) + 1: true} {
			found, all, err := x.Some(t.Context(), origin, term, limit)
			if err != nil || all != whole || len(found) != min(limit, len(want)) || found[0].Index != want[0] {
				t.Errorf("%q under %d: %d of %d, all: %v, %v", term, limit, len(found), len(want), all, err)
			}
		}
		tried++
	}
	if tried == 0 {
		t.Fatal("no term is in two entries")
	}
}

// TestIndexMergesRuns: what is added in many small runs is found as in one.
func TestIndexMergesRuns(t *testing.T) {
	var l logIndex
	for i := range uint64(1000) {
		l.keep([]posting{{hashTerm(fmt.Sprint("term ", i%100)), i}, {hashTerm("all"), i}})
	}
	for i := 1; i < len(l.runs); i++ {
		if len(l.runs[i-1]) <= 2*len(l.runs[i]) {
			t.Errorf("runs of %d and %d were not merged", len(l.runs[i-1]), len(l.runs[i]))
		}
	}
	for i := range uint64(100) {
		found := l.candidates(fmt.Sprint("Term ", i), 100)
		slices.Sort(found)
		if len(found) != 10 || found[0] != i || found[9] != 900+i {
			t.Fatalf("term %d: %v", i, found)
		}
	}
	if n := len(l.candidates("all", 500)); n != 501 {
		t.Errorf("%d candidates under a limit of 500", n)
	}
}
