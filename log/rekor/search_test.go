package rekor_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"redoubt.internal/log/rekor"
)

func (r *rig) search(q object) []string {
	r.t.Helper()
	a := r.post("/api/v1/index/retrieve", encode(q))
	var ids []string
	if err := json.Unmarshal(a.body, &ids); err != nil || a.code != 200 {
		r.t.Fatalf("%v: %d %s", q, a.code, a.body)
	}
	return ids
}

func TestSearch(t *testing.T) {
	r := newRig(t)
	alice, bob := generate(t), generate(t)
	aliceCert := pemCert(certify(t, alice.Public(), "Alice@Corp.example"))
	bobDER := certify(t, bob.Public(), "https://ci.corp.example/Build@refs")
	add := func(e object) string {
		t.Helper()
		a := r.post("/api/v1/log/entries", encode(e))
		if a.code != 201 {
			t.Fatalf("%d %s", a.code, a.body)
		}
		id, _ := r.one(a)
		return id
	}
	h := func(s string) string { d := sha256.Sum256([]byte(s)); return hex.EncodeToString(d[:]) }
	one := strings.Repeat("1", 64)
	blobA := add(hashedrekord(alice, aliceCert, "one"))
	blobB := add(hashedrekord(bob, pemCert(bobDER), "one"))
	keyed := add(hashedrekord(alice, pemKey(alice.Public()), "two"))
	att := add(dsse(alice, aliceCert, statement(one)))
	old := add(intoto(alice, aliceCert, statement(one)))
	older := add(intoto1(alice, aliceCert, statement(one)))
	file := add(rekord(bob, pemKey(bob.Public()), "three"))
	// A v2 entry is found by the v1 search.
	if a := r.post("/api/v2/log/entries", encode(requestV2(bob, certV2(bobDER), "four"))); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	v2, _ := r.one(r.get("/api/v1/log/entries?logIndex=7"))
	if a := r.post("/api/v2/log/entries", encode(requestV2(bob, keyV2(bob.Public()), "five"))); a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	v2key, _ := r.one(r.get("/api/v1/log/entries?logIndex=8"))

	x509Key := func(pem []byte) object { return object{"format": "x509", "content": b64(pem)} }
	for name, c := range map[string]struct {
		q    object
		want []string
	}{
		"hash":                 {object{"hash": "sha256:" + h("one")}, []string{blobA, blobB}},
		"hash unprefixed":      {object{"hash": strings.ToUpper(h("one"))}, []string{blobA, blobB}},
		"hash of a v2 entry":   {object{"hash": "sha256:" + h("four")}, []string{v2}},
		"hash of a rekord":     {object{"hash": h("three")}, []string{file}},
		"subject digest":       {object{"hash": "sha256:" + one}, []string{att, old, older}},
		"material digest":      {object{"hash": "sha1:3333333333333333333333333333333333333333"}, []string{att, old, older}},
		"payload hash":         {object{"hash": h(string(statement(one)))}, []string{att, old, older}},
		"absent hash":          {object{"hash": strings.Repeat("0", 64)}, nil},
		"email":                {object{"email": "alice@corp.example"}, []string{blobA, att, old, older}},
		"email in other case":  {object{"email": "ALICE@CORP.EXAMPLE"}, []string{blobA, att, old, older}},
		"subject":              {object{"subject": "https://ci.corp.example/build@refs"}, []string{blobB, v2}},
		"certificate":          {object{"publicKey": x509Key(aliceCert)}, []string{blobA, att, old, older}},
		"certificate of v2":    {object{"publicKey": x509Key(pemCert(bobDER))}, []string{blobB, v2}},
		"key":                  {object{"publicKey": x509Key(pemKey(alice.Public()))}, []string{keyed}},
		"key of v2":            {object{"publicKey": x509Key(pemKey(bob.Public()))}, []string{file, v2key}},
		"or is the default":    {object{"email": "alice@corp.example", "hash": h("two")}, []string{blobA, keyed, att, old, older}},
		"or":                   {object{"email": "alice@corp.example", "hash": h("two"), "operator": "or"}, []string{blobA, keyed, att, old, older}},
		"and":                  {object{"email": "alice@corp.example", "hash": h("one"), "operator": "and"}, []string{blobA}},
		"and without a match":  {object{"email": "alice@corp.example", "hash": h("two"), "operator": "and"}, nil},
		"and of equal terms":   {object{"email": "alice@corp.example", "subject": "alice@corp.example", "operator": "and"}, []string{blobA, att, old, older}},
		"nothing asked":        {object{}, nil},
		"empty terms":          {object{"email": "", "hash": "", "subject": "", "operator": ""}, nil},
		"null terms":           {object{"email": nil, "hash": nil, "publicKey": nil}, nil},
		"hash as rekor stores": {object{"hash": "sha256:" + h(string(aliceCert))}, []string{att, old, older}},
	} {
		got := r.search(c.q)
		slices.Sort(c.want)
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
		if slash := r.post("/api/v1/index/retrieve/", encode(c.q)); slash.code != 200 {
			t.Errorf("%s with a slash: %d", name, slash.code)
		}
	}
	if a := r.post("/api/v1/index/retrieve", []byte(`{}`)); string(a.body) != "[]" {
		t.Errorf("no match is %s, want []", a.body)
	}
	for _, bad := range []string{
		``, `[]`, `null`, `{"email":1}`, `{"email":"not an address"}`, `{"email":"A <a@b.example>"}`, `{"hash":"xyz"}`, `{"hash":"md5:` + one[:32] + `"}`,
		`{"hash":"sha512:` + one + `"}`, `{"hash":"sha256:` + one + `:"}`, `{"operator":"xor"}`, `{"publicKey":"x"}`, `{"publicKey":{}}`,
		`{"publicKey":{"format":"x509"}}`, `{"publicKey":{"format":"x509","content":""}}`, `{"publicKey":{"format":"x509","content":"AAAA"}}`,
		`{"publicKey":{"format":"jks","content":"AAAA"}}`, `{"publicKey":{"format":"x509","url":"http://127.0.0.1:1/key"}}`,
		`{"publicKey":{"format":"x509","content":"AAAA","url":"http://127.0.0.1:1/key"}}`, `{"publicKey":{"format":"pgp","content":"AAAA"}}`,
		`{"publicKey":{"format":"minisign","content":"AAAA"}}`, `{"publicKey":{"format":"ssh","content":"AAAA"}}`, `{"publicKey":{"format":"tuf","content":"e30="}}`,
		`{"hash":"` + one + `","hash":"` + one + `"}`, `{"x":1}`, `{"subject":"` + strings.Repeat("x", 513) + `"}`, `{"subject":["x"]}`, `{"email":"a@b.example"} x`,
	} {
		if a := r.post("/api/v1/index/retrieve", []byte(bad)); a.code != 400 || !strings.HasPrefix(string(a.body), `{"code":400,"message":"`) {
			t.Errorf("%s: %d %s", bad, a.code, a.body)
		}
	}
}

func TestRetrieve(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	var ids []string
	var entries []object
	for i := range 4 {
		e := hashedrekord(key, pemKey(key.Public()), fmt.Sprint(i))
		entries = append(entries, e)
		id, _ := r.one(r.post("/api/v1/log/entries", encode(e)))
		ids = append(ids, id)
	}
	d := dsse(key, pemKey(key.Public()), statement(strings.Repeat("4", 64)))
	in := intoto(key, pemKey(key.Public()), statement(strings.Repeat("4", 64)))
	dsseID, _ := r.one(r.post("/api/v1/log/entries", encode(d)))
	in1 := intoto1(key, pemKey(key.Public()), statement(strings.Repeat("5", 64)))
	intotoID, _ := r.one(r.post("/api/v1/log/entries", encode(in1)))
	d5 := dsse(key, pemKey(key.Public()), statement(strings.Repeat("5", 64)))
	absent := strings.Repeat("a", 64)
	missing := hashedrekord(key, pemKey(key.Public()), "never logged")
	for name, c := range map[string]struct {
		q    object
		want []string
	}{
		"by id":                  {object{"entryUUIDs": []string{ids[2], ids[0][16:]}}, []string{ids[2], ids[0]}},
		"by index":               {object{"logIndexes": []int{3, 1, 99}}, []string{ids[3], ids[1]}},
		"by content":             {object{"entries": []object{entries[1], missing}}, []string{ids[1]}},
		"dsse and intoto":        {object{"entries": []object{d, in}}, []string{dsseID}}, // what cosign v2 asks to verify an attestation online
		"dsse and intoto 0.0.1":  {object{"entries": []object{d5, in1}}, []string{intotoID}},
		"absent":                 {object{"entryUUIDs": []string{absent}}, nil},
		"of another tree":        {object{"entryUUIDs": []string{"0000000000000001" + ids[0][16:]}}, nil},
		"mixed":                  {object{"entryUUIDs": []string{ids[0]}, "logIndexes": []int{1}, "entries": []object{entries[2]}}, []string{ids[0], ids[2], ids[1]}},
		"null lists as Go sends": {object{"entryUUIDs": nil, "logIndexes": nil, "entries": []object{entries[3]}}, []string{ids[3]}},
		"ten":                    {object{"logIndexes": []int{0, 0, 0, 0, 0, 0, 0, 0, 0, 0}}, slices.Repeat([]string{ids[0]}, 10)},
	} {
		for _, path := range []string{"/api/v1/log/entries/retrieve", "/api/v1/log/entries/retrieve/"} {
			a := r.post(path, encode(c.q))
			var list []json.RawMessage
			if err := json.Unmarshal(a.body, &list); err != nil || a.code != 200 || len(list) != len(c.want) {
				t.Fatalf("%s: %d %s", name, a.code, a.body)
			}
			for i, raw := range list {
				if id, _ := r.one(answer{200, nil, raw}); id != c.want[i] {
					t.Errorf("%s: %d is %s, want %s", name, i, id, c.want[i])
				}
			}
		}
	}
	over := `{"code":422,"message":"more than max allowed 10 entries in request"}`
	for _, q := range []object{
		{"logIndexes": make([]int, 11)},
		{"logIndexes": make([]int, 6), "entryUUIDs": slices.Repeat([]string{absent}, 5)},
		{"entries": slices.Repeat([]object{entries[0]}, 11)},
	} {
		if a := r.post("/api/v1/log/entries/retrieve", encode(q)); a.code != 422 || string(a.body) != over {
			t.Errorf("%d %s", a.code, a.body)
		}
	}
	for _, bad := range []string{
		``, `{}`, `[]`, `null`, `{"entryUUIDs":[]}`, `{"entryUUIDs":null}`, `{"entryUUIDs":"` + absent + `"}`, `{"entryUUIDs":[1]}`, `{"entryUUIDs":[null]}`,
		`{"entryUUIDs":["xyz"]}`, `{"entryUUIDs":["` + strings.Repeat("f", 80) + `"]}`, `{"logIndexes":["1"]}`, `{"logIndexes":[-1]}`, `{"logIndexes":[1.5]}`,
		`{"logIndexes":[null]}`, `{"logIndexes":[99999999999999999999]}`, `{"entries":[null]}`, `{"entries":[1]}`, `{"entries":[{}]}`, `{"entries":{}}`,
		`{"entries":[{"kind":"hashedrekord","apiVersion":"0.0.1","spec":{}}]}`, `{"x":[1]}`, `{"logIndexes":[1],"logIndexes":[1]}`,
	} {
		if a := r.post("/api/v1/log/entries/retrieve", []byte(bad)); a.code != 400 || !strings.HasPrefix(string(a.body), `{"code":400,"message":"`) {
			t.Errorf("%s: %d %s", bad, a.code, a.body)
		}
	}
}

// TestManySubjects: each of a thousand subjects of one attestation is found by its digest, also after a restart; one too many to index is refused.
func TestManySubjects(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	digests := func(n int) (out []string) {
		for i := range n {
			d := sha256.Sum256(fmt.Append(nil, "subject ", i))
			out = append(out, hex.EncodeToString(d[:]))
		}
		return out
	}
	a := r.post("/api/v1/log/entries", encode(dsse(key, pemKey(key.Public()), statement(digests(1024)...))))
	if a.code != 201 {
		t.Fatalf("%d %s", a.code, a.body)
	}
	id, _ := r.one(a)
	for range 2 {
		for _, i := range []int{0, 63, 64, 500, 1023} {
			if ids := r.search(object{"hash": digests(1024)[i]}); len(ids) != 1 || ids[0] != id {
				t.Errorf("subject %d: %v", i, ids)
			}
		}
		r.reopen()
	}
	if a := r.post("/api/v1/log/entries", encode(dsse(key, pemKey(key.Public()), statement(digests(2100)...)))); a.code != 400 || !strings.Contains(string(a.body), "search keys") {
		t.Errorf("2100 subjects: %d %.200s", a.code, a.body)
	}
}

// TestTooManyMatches: a search is answered whole or refused, never in part.
func TestTooManyMatches(t *testing.T) {
	r := newRig(t)
	var wg sync.WaitGroup
	for w := range 32 {
		wg.Go(func() {
			for i := w; i <= rekor.MaxMatches; i += 32 {
				if _, _, err := r.log.Add(t.Context(), &rekor.Entry{Body: fmt.Appendf(nil, `{"n":%d}`, i), Keys: []string{"busy", fmt.Sprint(i)}}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if a := r.post("/api/v1/index/retrieve", []byte(`{"subject":"busy"}`)); a.code != 400 || !strings.Contains(string(a.body), "more than 2000") {
		t.Errorf("%d %.200s", a.code, a.body)
	}
	if ids := r.search(object{"subject": "7"}); len(ids) != 1 {
		t.Errorf("one of them: %v", ids)
	}
}
