package rekor_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strings"
	"testing"

	rekorclient "github.com/sigstore/rekor/pkg/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/client/pubkey"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"redoubt.internal/log/rekor"
)

// TestShards: a frozen v1 log takes nothing more; the log after it counts its entries on, reads the frozen one's by id, by index and by
// content, and states its head, key and proofs as those of an inactive shard. Rekor's own client verifies entries of both.
func TestShards(t *testing.T) {
	first := newRigWith(t, generate(t), func(c *rekor.Config) { c.Serves = []rekor.Generation{rekor.V1} })
	key := generate(t)
	var ids []string
	var proposed []object
	for i := range 3 {
		e := hashedrekord(key, pemKey(key.Public()), fmt.Sprint("before ", i))
		id, _ := first.one(first.post("/api/v1/log/entries", encode(e)))
		ids, proposed = append(ids, id), append(proposed, e)
	}
	thaw := first.log
	first.stop()
	first.open(func(c *rekor.Config) { c.Serves, c.Frozen = []rekor.Generation{rekor.V1}, true })
	if first.log == thaw {
		t.Fatal("the log was not opened again")
	}
	if a := first.post("/api/v1/log/entries", encode(hashedrekord(key, pemKey(key.Public()), "late"))); a.code != 501 {
		t.Errorf("an entry for a frozen log: %d %s", a.code, a.body)
	}
	v2 := newRigWith(t, generate(t), func(c *rekor.Config) { c.Serves, c.TreeID = []rekor.Generation{rekor.V2}, treeID+1 })
	v2.tle(v2.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "before 0"))))
	second := newRigWith(t, generate(t), func(c *rekor.Config) {
		c.Serves, c.TreeID, c.FirstIndex, c.Beside = []rekor.Generation{rekor.V1}, treeID+2, 3, []*rekor.Log{first.log, v2.log}
	})
	for i := range 2 {
		e := hashedrekord(key, pemKey(key.Public()), fmt.Sprint("after ", i))
		a := second.post("/api/v1/log/entries", encode(e))
		if want := fmt.Sprintf(`"logIndex":%d,`, 3+i); a.code != 201 || !strings.Contains(string(a.body), want) {
			t.Errorf("%d, want %s: %s", a.code, want, a.body)
		}
		ids, proposed = append(ids, a.header.Get("ETag")), append(proposed, e)
	}

	client, err := rekorclient.GetRekorClient(second.url)
	if err != nil {
		t.Fatal(err)
	}
	for i, id := range ids {
		in, before := first, int64(0)
		if i >= 3 {
			in, before = second, 3
		}
		verifier, err := signature.LoadVerifier(in.key.Public(), crypto.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		index := int64(i)
		byIndex, err := client.Entries.GetLogEntryByIndex(entries.NewGetLogEntryByIndexParams().WithLogIndex(index))
		if err != nil {
			t.Fatalf("log index %d: %v", i, err)
		}
		e, ok := byIndex.Payload[id]
		if !ok || *e.LogIndex != index || *e.Verification.InclusionProof.LogIndex != index-before {
			t.Fatalf("log index %d is not %s: %+v", i, id, byIndex.Payload)
		}
		if err := verify.VerifyLogEntry(t.Context(), &e, verifier); err != nil {
			t.Errorf("log index %d: %v", i, err)
		}
		byID, err := client.Entries.GetLogEntryByUUID(entries.NewGetLogEntryByUUIDParams().WithEntryUUID(id))
		if err != nil || *byID.Payload[id].LogIndex != index {
			t.Errorf("%s: %v", id, err)
		}
		for name, query := range map[string]object{"by index": {"logIndexes": []int{i}}, "by content": {"entries": []object{proposed[i]}}, "by id": {"entryUUIDs": []string{id}}} {
			if a := second.post("/api/v1/log/entries/retrieve", encode(query)); a.code != 200 || !strings.Contains(string(a.body), id) {
				t.Errorf("retrieve %s: %d %s", name, a.code, a.body)
			}
		}
	}
	if a := second.get("/api/v1/log/entries?logIndex=5"); a.code != 404 {
		t.Errorf("past the end: %d %s", a.code, a.body)
	}
	var found []string
	if a := second.post("/api/v1/index/retrieve", encode(object{"publicKey": object{"format": "x509", "content": b64(pemKey(key.Public()))}})); json.Unmarshal(a.body, &found) != nil || len(found) != 6 {
		t.Errorf("search: %d %s", a.code, a.body)
	}

	info, err := client.Tlog.GetLogInfo(tlog.NewGetLogInfoParams())
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Payload.InactiveShards) != 1 {
		t.Fatalf("%d inactive shards; the v2 log is none", len(info.Payload.InactiveShards))
	}
	shard := info.Payload.InactiveShards[0]
	root := first.merkle.Head().Root
	if *shard.TreeID != itoa(treeID) || *shard.TreeSize != 3 || *shard.RootHash != hex.EncodeToString(root[:]) || *info.Payload.TreeSize != 2 {
		t.Errorf("inactive shard %+v, active size %d", shard, *info.Payload.TreeSize)
	}
	published, err := client.Pubkey.GetPublicKey(pubkey.NewGetPublicKeyParams().WithTreeID(shard.TreeID))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(published.Payload))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil || !first.key.Public().(*ecdsa.PublicKey).Equal(public) {
		t.Fatalf("the shard's key: %v\n%s", err, published.Payload)
	}
	verifier, err := signature.LoadVerifier(public, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	var head, earlier util.SignedCheckpoint
	if err := head.UnmarshalText([]byte(*shard.SignedTreeHead)); err != nil || !head.Verify(verifier) {
		t.Errorf("the shard's head: %v\n%s", err, *shard.SignedTreeHead)
	}
	root, err = first.merkle.Root(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	earlier.Checkpoint = util.Checkpoint{Size: 1, Hash: root[:]}
	if err := verify.ProveConsistency(t.Context(), client, &earlier, &head, *shard.TreeID); err != nil {
		t.Errorf("consistency of the shard: %v", err)
	}
	for _, path := range []string{"/api/v1/log/publicKey?treeID=", "/api/v1/log/proof?lastSize=1&treeID="} {
		if a := second.get(path + itoa(treeID+1)); a.code != 400 {
			t.Errorf("%s of the v2 log: %d %s", path, a.code, a.body)
		}
	}
}
