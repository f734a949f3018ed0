package rekor_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"redoubt.internal/log"
	"redoubt.internal/log/rekor"
)

// TestBeside: v1 search and v1 reads by id find the entries of a v2 log beside this one, under that log's tree id and with what that log
// signs: its v2 checkpoint, no time, no entry timestamp.
func TestBeside(t *testing.T) {
	const otherTree = treeID + 1
	v2 := newRigWith(t, generate(t), func(c *rekor.Config) { c.Serves, c.TreeID = []rekor.Generation{rekor.V2}, otherTree })
	v1 := newRigWith(t, generate(t), func(c *rekor.Config) {
		c.Serves, c.Beside = []rekor.Generation{rekor.V1}, []*rekor.Log{v2.log}
	})
	key := generate(t)
	own, _ := v1.one(v1.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "x"))))
	v2.tle(v2.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "x"))))

	digest := sha256.Sum256([]byte("x"))
	a := v1.post("/api/v1/index/retrieve", encode(object{"hash": "sha256:" + hex.EncodeToString(digest[:])}))
	var ids []string
	if err := json.Unmarshal(a.body, &ids); err != nil || len(ids) != 2 || ids[0] != own || !strings.HasPrefix(ids[1], fmt.Sprintf("%016x", otherTree)) {
		t.Fatalf("search: %d %s", a.code, a.body)
	}
	retrieved := v1.post("/api/v1/log/entries/retrieve", encode(object{"entryUUIDs": ids}))
	var list []map[string]json.RawMessage
	if err := json.Unmarshal(retrieved.body, &list); err != nil || len(list) != 2 || list[1][ids[1]] == nil {
		t.Fatalf("retrieve: %d %s", retrieved.code, retrieved.body)
	}
	for name, body := range map[string][]byte{
		"by id": v1.get("/api/v1/log/entries/" + ids[1]).body, "by leaf hash": v1.get("/api/v1/log/entries/" + ids[1][16:]).body, "retrieved": encode(list[1]),
	} {
		var answer map[string]struct {
			IntegratedTime *int64
			LogID          string
			Verification   struct {
				SignedEntryTimestamp []byte
				InclusionProof       struct{ Checkpoint, RootHash string }
			}
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			t.Fatalf("%s: %v: %s", name, err, body)
		}
		e := answer[ids[1]]
		other := v2.log.ID()
		if e.IntegratedTime == nil || *e.IntegratedTime != 0 || e.LogID != hex.EncodeToString(other[:]) || e.Verification.SignedEntryTimestamp != nil {
			t.Errorf("%s: %s", name, body)
		}
		if note := e.Verification.InclusionProof.Checkpoint; note != string(v2.merkle.Head().Note) {
			t.Errorf("%s: the checkpoint is\n%s", name, note)
		} else if _, _, err := log.VerifyNote(host, v2.key.Public(), []byte(note)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// By index there is one log: this one.
	if a := v1.get("/api/v1/log/entries?logIndex=1"); a.code != 404 {
		t.Errorf("index 1: %d %s", a.code, a.body)
	}
	if a := v1.get("/api/v1/log/entries/" + fmt.Sprintf("%016x", treeID+7) + ids[1][16:]); a.code != 404 {
		t.Errorf("an unknown tree: %d %s", a.code, a.body)
	}
}
