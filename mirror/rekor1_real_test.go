package mirror

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"redoubt.internal/mirror/entry"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// mockRekor answers as the public Rekor v1 does, with its real entries: their bodies, proofs, checkpoints and entry timestamps are
// those the public log signed. It is a mock because the public log cannot be asked here, and because of its hundred million
// entries some dozens are at hand: it has no consistency proofs and no other entry.
type mockRekor struct {
	trees   map[string]shardInfo
	entries map[uint64]map[string]any // by number over all shards
}

const publicRekor = "rekor.sigstore.dev"

// publicShards are the trees of the public log, and how many entries stand before each.
var publicShards = []struct {
	tree  string
	first uint64
}{{"3904496407287907110", 0}, {"2605736670972794746", 4163431}, {"1193050959916656506", 121904262}}

func (m *mockRekor) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/api/v1/log":
		active := m.trees[publicShards[2].tree]
		json.NewEncoder(w).Encode(map[string]any{
			"rootHash": active.RootHash, "signedTreeHead": active.SignedTreeHead, "treeID": active.TreeID, "treeSize": active.TreeSize,
			"inactiveShards": []shardInfo{m.trees[publicShards[0].tree], m.trees[publicShards[1].tree]},
		})
	case "/api/v1/log/entries/retrieve":
		var q struct {
			LogIndexes []uint64 `json:"logIndexes"`
		}
		json.NewDecoder(r.Body).Decode(&q)
		list := []map[string]any{}
		for _, i := range q.LogIndexes {
			if e := m.entries[i]; e != nil {
				list = append(list, e)
			}
		}
		json.NewEncoder(w).Encode(list)
	default:
		http.NotFound(w, r)
	}
}

// newMockRekor reads every entry of the public log that is at hand with an inclusion proof and a signed entry timestamp.
func newMockRekor(t testing.TB) *mockRekor {
	t.Helper()
	m := &mockRekor{trees: make(map[string]shardInfo), entries: make(map[uint64]map[string]any)}
	for i, s := range publicShards {
		m.trees[s.tree] = shardInfo{TreeID: s.tree}
		if i > 0 {
			before := m.trees[publicShards[i-1].tree]
			before.TreeSize = s.first - publicShards[i-1].first
			m.trees[before.TreeID] = before
		}
	}
	for _, folder := range []string{"entries", "bundles"} {
		err := filepath.WalkDir(publicData(t, folder), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			b, err := os.ReadFile(path)
			var v any
			if err == nil && json.Unmarshal(b, &v) == nil {
				m.collect(v)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return m
}

// collect finds entries in any JSON: as the v1 API answers, and as bundles hold them.
func (m *mockRekor) collect(v any) {
	switch v := v.(type) {
	case []any:
		for _, x := range v {
			m.collect(x)
		}
	case map[string]any:
		for id, x := range v {
			if o, ok := x.(map[string]any); ok && len(id) >= 64 && o["body"] != nil {
				m.add(id, o)
			}
			m.collect(x)
		}
		if v["canonicalizedBody"] != nil && v["inclusionProof"] != nil && v["inclusionPromise"] != nil {
			m.addBundled(v)
		}
	}
}

// addBundled turns an entry of a bundle into what the API answers.
func (m *mockRekor) addBundled(v map[string]any) {
	get := func(path ...string) any {
		var x any = v
		for _, p := range path {
			o, _ := x.(map[string]any)
			x = o[p]
		}
		return x
	}
	raw := func(path ...string) []byte {
		s, _ := get(path...).(string)
		b, _ := base64.StdEncoding.DecodeString(s)
		return b
	}
	number := func(path ...string) uint64 {
		s, _ := get(path...).(string)
		n, _ := strconv.ParseUint(s, 10, 64)
		return n
	}
	hashes := []string{}
	list, _ := get("inclusionProof", "hashes").([]any)
	for _, h := range list {
		b, _ := base64.StdEncoding.DecodeString(h.(string))
		hashes = append(hashes, hex.EncodeToString(b))
	}
	leaf := tiles.LeafHash(raw("canonicalizedBody"))
	m.add(hex.EncodeToString(leaf[:]), map[string]any{
		"body": get("canonicalizedBody"), "integratedTime": number("integratedTime"), "logID": hex.EncodeToString(raw("logId", "keyId")), "logIndex": number("logIndex"),
		"verification": map[string]any{
			"signedEntryTimestamp": get("inclusionPromise", "signedEntryTimestamp"),
			"inclusionProof": map[string]any{
				"checkpoint": get("inclusionProof", "checkpoint", "envelope"), "hashes": hashes, "logIndex": number("inclusionProof", "logIndex"),
				"rootHash": hex.EncodeToString(raw("inclusionProof", "rootHash")), "treeSize": number("inclusionProof", "treeSize"),
			},
		},
	})
}

func (m *mockRekor) add(id string, e map[string]any) {
	b, _ := json.Marshal(e)
	var r rekorEntry
	if json.Unmarshal(b, &r) != nil || r.Verification.InclusionProof == nil || len(r.Verification.SignedEntryTimestamp) == 0 {
		return
	}
	for _, s := range publicShards {
		if !strings.HasPrefix(r.Verification.InclusionProof.Checkpoint, publicRekor+" - "+s.tree+"\n") {
			continue
		}
		m.entries[r.LogIndex] = map[string]any{id: e}
		if info := m.trees[s.tree]; info.SignedTreeHead == "" {
			info.SignedTreeHead = r.Verification.InclusionProof.Checkpoint
			m.trees[s.tree] = info
		}
	}
}

// TestRealRekorEntries asks for every real entry of the public log that is at hand: each is proven under the checkpoint it came with,
// its entry timestamp by the log's key, its number over all shards by that of the shard. The subtree hashes that all the proofs fix
// never contradict each other, and one that is changed does.
func TestRealRekorEntries(t *testing.T) {
	m := newMockRekor(t)
	srv := httptest.NewServer(m)
	defer srv.Close()
	root, err := os.ReadFile(filepath.Join(publicData(t, "roots"), "trusted_root.public-good.json"))
	if err != nil {
		t.Fatal(err)
	}
	logs, _, err := LogsOf(root)
	if err != nil {
		t.Fatal(err)
	}
	vkey := logs[slices.IndexFunc(logs, func(l LogConfig) bool { return l.Origin == publicRekor })].VKey
	total, fixed, again := 0, 0, 0
	for i, shard := range publicShards {
		c := LogConfig{Origin: publicRekor + " - " + shard.tree, VKey: vkey, Scope: parcel.ScopeSparse, Source: srv.URL, Layout: layoutRekor1}
		logs, err := knownLogs([]LogConfig{c})
		if err != nil {
			t.Fatal(err)
		}
		s, err := openRekor1(logs[c.Origin], nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.head(t.Context()); err != nil || s.first != shard.first {
			t.Fatal(shard.tree, s.first, err)
		}
		var want []uint64
		for _, n := range slices.Sorted(maps.Keys(m.entries)) {
			if n >= shard.first && (i == 2 || n < publicShards[i+1].first) {
				want = append(want, n-shard.first)
			}
		}
		got, err := s.byIndex(t.Context(), want)
		if err != nil {
			t.Fatal(err)
		}
		nodes := make(known)
		for _, p := range got {
			for _, n := range p.nodes {
				if _, ok := nodes[n.Node]; ok {
					again++
				}
				fixed++
			}
			if err := nodes.add(p.nodes); err != nil {
				t.Fatal(err)
			}
			x, err := entry.ParseExtra(p.Extra)
			if err != nil || logs[c.Origin].checkExtra(p.Record) != nil || x.LogIndex != p.Index+shard.first {
				t.Fatal(p.Index, err)
			}
			p.Leaf = append([]byte(" "), p.Leaf...)
			if logs[c.Origin].checkExtra(p.Record) == nil {
				t.Fatal(p.Index, "of another entry, and verified")
			}
			bad := slices.Clone(p.nodes)
			bad[len(bad)-1].Hash[0] ^= 1
			if nodes.add(bad) == nil {
				t.Fatal(p.Index, "another hash of a subtree was taken")
			}
		}
		total += len(got)
	}
	if total < 30 {
		t.Errorf("only %d real entries", total)
	}
	t.Logf("%d real entries, %d subtree hashes, %d of them fixed by an earlier proof as well, 0 contradictions", total, fixed, again)
}
