package rekor_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/asn1"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// fieldFaults returns good with each member and list item, at every depth, in turn missing, null, empty, of every other JSON type, and with its
// string cut short or made nonsense. keep names paths whose fault changes nothing a server must notice.
func fieldFaults(t *testing.T, good object, keep func(path, fault string) bool) map[string][]byte {
	t.Helper()
	var tree any
	if err := json.Unmarshal(encode(good), &tree); err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]byte)
	add := func(path, fault string) {
		if keep == nil || !keep(path, fault) {
			out[path+" "+fault] = encode(tree)
		}
	}
	replacements := map[string]any{
		"null": nil, "true": true, "number": 7, "negative": -1, "huge": json.Number("1e400"), "empty string": "", "nonsense": "\u0000%zz", "list": []any{},
		"list of null": []any{nil}, "object": object{},
	}
	var walk func(v any, path string)
	walk = func(v any, path string) {
		switch v := v.(type) {
		case object:
			for _, k := range keysOf(v) {
				at, old := path+"."+k, v[k]
				delete(v, k)
				add(at, "missing")
				for name, r := range replacements {
					v[k] = r
					if !bytes.Equal(encode(r), encode(old)) {
						add(at, name)
					}
				}
				if s, ok := old.(string); ok {
					v[k] = s[:len(s)/2]
					add(at, "cut short")
					v[k] = s + "!"
					add(at, "longer")
				}
				v[k] = old
				walk(old, at)
			}
		case []any:
			for i := range v {
				at, old := fmt.Sprintf("%s[%d]", path, i), v[i]
				for name, r := range replacements {
					v[i] = r
					if !bytes.Equal(encode(r), encode(old)) {
						add(at, name)
					}
				}
				v[i] = old
				walk(old, at)
			}
		}
	}
	walk(tree, "")
	return out
}

func keysOf(o object) []string {
	keys := make([]string, 0, len(o))
	for k := range o {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// TestEveryFieldOfEveryKind is the guard against null-field crashes: each field of each entry kind missing, null, empty or of another type is a
// 400 with a reason, and nothing is logged.
func TestEveryFieldOfEveryKind(t *testing.T) {
	r := newRig(t)
	total := 0
	for name, good := range samples(t) {
		faults := fieldFaults(t, good, nil)
		total += len(faults)
		for fault, body := range faults {
			a := r.post("/api/v1/log/entries", body)
			var e struct {
				Code    int
				Message string
			}
			if err := json.Unmarshal(a.body, &e); err != nil || a.code != 400 || e.Code != 400 || len(e.Message) < 10 {
				t.Errorf("%s: %s: %d %s", name, fault, a.code, a.body)
			}
		}
	}
	if total < 400 {
		t.Errorf("only %d faults were tried", total)
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries of faulty requests", n)
	}
}

// TestEnvelopeFaults walks the fields inside the envelope string of a dsse entry and of one of intoto 0.0.1, which has one signature and nothing beside it.
func TestEnvelopeFaults(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	env := envelope(key, statement(strings.Repeat("1", 64)))
	harmless := func(path, fault string) bool {
		return strings.HasSuffix(path, ".keyid") && (fault == "missing" || fault == "null" || fault == "nonsense" || fault == "longer" || fault == "empty string" || fault == "cut short")
	}
	for fault, text := range fieldFaults(t, env, harmless) {
		e := object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
			"envelope": string(text), "verifiers": []string{b64(pemKey(key.Public()))},
		}}}
		old := object{"kind": "intoto", "apiVersion": "0.0.1", "spec": object{"content": object{"envelope": string(text)}, "publicKey": b64(pemKey(key.Public()))}}
		for _, e := range []object{e, old} {
			if a := r.post("/api/v1/log/entries", encode(e)); a.code != 400 {
				t.Errorf("%s: %d %s", fault, a.code, a.body)
			}
		}
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries of faulty envelopes", n)
	}
}

// offCurve is the SPKI of a P-256 key whose point is not on the curve.
func offCurve(t testing.TB) []byte {
	t.Helper()
	point := make([]byte, 65)
	point[0] = 4
	for i := range 64 {
		point[i+1] = byte(i)
	}
	der, err := asn1.Marshal(struct {
		Algorithm struct {
			ID    asn1.ObjectIdentifier
			Curve asn1.ObjectIdentifier
		}
		Key asn1.BitString
	}{
		struct {
			ID    asn1.ObjectIdentifier
			Curve asn1.ObjectIdentifier
		}{asn1.ObjectIdentifier{1, 2, 840, 10045, 2, 1}, asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}},
		asn1.BitString{Bytes: point, BitLength: 520},
	})
	if err != nil {
		t.Fatal(err)
	}
	return der
}

// weakRSA lets a test make the RSA keys that Go no longer makes by itself.
const weakRSA = "rsa1024min=0"

func TestWeakKeysV1(t *testing.T) {
	r := newRig(t)
	t.Setenv("GODEBUG", weakRSA)
	good := generate(t)
	exponent := must(rsa.GenerateKey(rand.Reader, 2048))
	lowE := &rsa.PublicKey{N: exponent.N, E: 3}
	off := pemOf("PUBLIC KEY", offCurve(t))
	st := statement(strings.Repeat("1", 64))
	entries := unbound(func() map[string]object {
		weak, p224 := must(rsa.GenerateKey(rand.Reader, 1024)), must(ecdsa.GenerateKey(elliptic.P224(), rand.Reader))
		return map[string]object{
			"hashedrekord RSA 1024":         hashedrekord(weak, pemKey(weak.Public()), "x"),
			"hashedrekord RSA 1024 in cert": hashedrekord(weak, pemCert(certify(t, weak.Public(), "a@b.example")), "x"),
			"hashedrekord P-224":            hashedrekord(p224, pemKey(p224.Public()), "x"),
			"hashedrekord RSA e=3":          hashedrekord(exponent, pemKey(lowE), "x"),
			"hashedrekord off curve":        hashedrekord(good, off, "x"),
			"dsse RSA 1024":                 dsse(weak, pemKey(weak.Public()), st),
			"dsse P-224":                    dsse(p224, pemKey(p224.Public()), st),
			"dsse off curve":                dsse(good, off, st),
			"intoto RSA 1024":               intoto(weak, pemKey(weak.Public()), st),
			"intoto P-224":                  intoto(p224, pemKey(p224.Public()), st),
			"intoto off curve":              intoto(good, off, st),
			"intoto 0.0.1 RSA 1024":         intoto1(weak, pemKey(weak.Public()), st),
			"intoto 0.0.1 P-224":            intoto1(p224, pemKey(p224.Public()), st),
			"intoto 0.0.1 off curve":        intoto1(good, off, st),
			"rekord RSA 1024":               rekord(weak, pemKey(weak.Public()), "x"),
			"rekord P-224":                  rekord(p224, pemKey(p224.Public()), "x"),
			"rekord off curve":              rekord(good, off, "x"),
		}
	})
	for name, entry := range entries {
		if a := r.post("/api/v1/log/entries", encode(entry)); a.code != 400 || !bytes.HasPrefix(a.body, []byte(`{"code":400,"message":"error processing entry: `)) {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries by weak keys", n)
	}
}

// TestNothingIsFetched: a URL anywhere in an entry is refused, and the server it names sees no connection.
func TestNothingIsFetched(t *testing.T) {
	r := newRig(t)
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer trap.Close()
	hits := make(chan string, 16)
	go http.Serve(trap, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { hits <- r.URL.Path }))
	at := "http://" + trap.Addr().String() + "/x"
	key := generate(t)
	k := pemKey(key.Public())
	st := statement(strings.Repeat("1", 64))
	for name, change := range map[string]func() object{
		"hashedrekord key": func() object {
			e := hashedrekord(key, k, "x")
			e["spec"].(object)["signature"].(object)["publicKey"] = object{"url": at}
			return e
		},
		"hashedrekord key beside content": func() object {
			e := hashedrekord(key, k, "x")
			e["spec"].(object)["signature"].(object)["publicKey"].(object)["url"] = at
			return e
		},
		"hashedrekord signature": func() object {
			e := hashedrekord(key, k, "x")
			e["spec"].(object)["signature"].(object)["URL"] = at
			return e
		},
		"rekord data": func() object {
			e := rekord(key, k, "x")
			e["spec"].(object)["data"] = object{"url": at}
			return e
		},
		"rekord key": func() object {
			e := rekord(key, k, "x")
			e["spec"].(object)["signature"].(object)["publicKey"] = object{"url": at}
			return e
		},
		"rekord signature": func() object {
			e := rekord(key, k, "x")
			e["spec"].(object)["signature"].(object)["url"] = at
			return e
		},
		"intoto 0.0.1": func() object { e := intoto1(key, k, st); e["spec"].(object)["url"] = at; return e },
		"dsse":         func() object { e := dsse(key, k, st); e["spec"].(object)["url"] = at; return e },
		"intoto":       func() object { e := intoto(key, k, st); e["spec"].(object)["content"].(object)["url"] = at; return e },
	} {
		if a := r.post("/api/v1/log/entries", encode(change())); a.code != 400 || !bytes.Contains(a.body, []byte("nothing is fetched")) {
			t.Errorf("%s: %d %s", name, a.code, a.body)
		}
	}
	select {
	case path := <-hits:
		t.Fatalf("the server was asked for %s", path)
	default:
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries", n)
	}
}

func TestBadInputV1(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	other := generate(t)
	k := pemKey(key.Public())
	st := statement(strings.Repeat("1", 64))
	text := string(encode(hashedrekord(key, k, "x")))
	manySigs := envelope(key, st)
	manySigs["signatures"] = slices.Repeat(manySigs["signatures"].([]object), 17)
	for name, body := range map[string]string{
		"empty": "", "null": "null", "list": "[]", "string": `"x"`, "not JSON": "{", "trailing": text + "x", "two": text + text, "not UTF-8": "\"\xff\"",
		"unknown field":   strings.Replace(text, `{"apiVersion"`, `{"x":1,"apiVersion"`, 1),
		"kind twice":      strings.Replace(text, `{"apiVersion"`, `{"kind":"rekord","apiVersion"`, 1),
		"spec twice":      strings.Replace(text, `{"apiVersion"`, `{"spec":{},"apiVersion"`, 1),
		"other case":      strings.Replace(text, `"kind"`, `"Kind"`, 1),
		"unknown kind":    strings.Replace(text, `"hashedrekord"`, `"jar"`, 1),
		"bare kind":       strings.Replace(text, `"hashedrekord"`, `"ProposedEntry"`, 1),
		"unknown version": strings.Replace(text, `"0.0.1"`, `"0.0.9"`, 1),
		"v2 in v1":        strings.Replace(text, `"0.0.1"`, `"0.0.2"`, 1),
		"0.0.2 as 0.0.1":  strings.Replace(string(encode(intoto(key, k, st))), `"0.0.2"`, `"0.0.1"`, 1),
		"deep":            `{"kind":"hashedrekord","apiVersion":"0.0.1","spec":` + strings.Repeat(`{"a":`, 10000),
		"another key":     string(encode(hashedrekord(key, pemKey(other.Public()), "x"))),
		"dsse another":    string(encode(dsse(key, pemKey(other.Public()), st))),
		"intoto another":  string(encode(intoto(key, pemKey(other.Public()), st))),
		"0.0.1 another":   string(encode(intoto1(key, pemKey(other.Public()), st))),
		"0.0.1 of hashes": `{"kind":"intoto","apiVersion":"0.0.1","spec":{"content":{"hash":{"algorithm":"sha256","value":"` + strings.Repeat("a", 64) + `"},"payloadHash":{"algorithm":"sha256","value":"` + strings.Repeat("a", 64) + `"}},"publicKey":"` + b64(k) + `"}}`,
		"rekord another":  string(encode(rekord(key, pemKey(other.Public()), "x"))),
		"17 signatures": string(encode(object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
			"envelope": string(encode(manySigs)), "verifiers": []string{b64(k)}}}})),
		"17 verifiers": string(encode(object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
			"envelope": string(encode(envelope(key, st))), "verifiers": slices.Repeat([]string{b64(k)}, 17)}}})),
		"unverified second signature": string(encode(object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
			"envelope": string(encode(object{"payloadType": inTotoType, "payload": b64(st), "signatures": append(
				envelope(key, st)["signatures"].([]object), envelope(other, st)["signatures"].([]object)...)})),
			"verifiers": []string{b64(k)}}}})),
		"duplicate in envelope": string(encode(object{"kind": "dsse", "apiVersion": "0.0.1", "spec": object{"proposedContent": object{
			"envelope": strings.Replace(string(encode(envelope(key, st))), `{"payload"`, `{"payload":"e30=","payload"`, 1), "verifiers": []string{b64(k)}}}})),
		"canonical dsse": `{"kind":"dsse","apiVersion":"0.0.1","spec":{"envelopeHash":{"algorithm":"sha256","value":"` + strings.Repeat("a", 64) +
			`"},"payloadHash":{"algorithm":"sha256","value":"` + strings.Repeat("a", 64) + `"},"signatures":[{"signature":"AAAA","verifier":"` + b64(k) + `"}]}}`,
		"private key": string(encode(hashedrekord(key, pemOf("PRIVATE KEY", []byte{1, 2, 3}), "x"))),
		"not PEM":     string(encode(hashedrekord(key, []byte("hello"), "x"))),
		"PEM of junk": string(encode(hashedrekord(key, pemOf("PUBLIC KEY", []byte{1, 2, 3}), "x"))),
		"key twice":   string(encode(hashedrekord(key, append(bytes.Clone(k), k...), "x"))),
		"eleven certificates": string(encode(hashedrekord(key,
			bytes.Repeat(pemCert(certify(t, key.Public(), "a@b.example")), 11), "x"))),
		"too long for a leaf": string(encode(hashedrekord(key, bytes.Repeat(pemCert(certify(t, key.Public(), strings.Repeat("a", 6000)+"@b.example")), 10), "x"))),
		"gzip in a rekord":    string(encode(object{"kind": "rekord", "apiVersion": "0.0.1", "spec": object{"data": object{"content": b64([]byte("\x1f\x8b\x08\x00"))}, "signature": object{"format": "pgp", "content": b64([]byte("x")), "publicKey": object{"content": b64([]byte("x"))}}}})),
	} {
		a := r.post("/api/v1/log/entries", []byte(body))
		if a.code != 400 || !bytes.HasPrefix(a.body, []byte(`{"code":400,"message":"`)) {
			t.Errorf("%s: %d %.300s", name, a.code, a.body)
		}
	}
	for _, path := range []string{"/api/v1/log/entries", "/api/v1/log/entries/retrieve", "/api/v1/index/retrieve"} {
		if a := r.post(path, bytes.Repeat([]byte("A"), 5<<20)); a.code != 413 || !bytes.HasPrefix(a.body, []byte(`{"code":413,"message":"the body is `)) {
			t.Errorf("5 MiB to %s: %d %s", path, a.code, a.body)
		}
	}
	if n := r.merkle.Head().Size; n != 0 {
		t.Fatalf("%d entries of refused requests", n)
	}
}

// TestBodyIsNotReadToTheEnd: of an oversized body without a length, the server takes the limit and hangs up.
func TestBodyIsNotReadToTheEnd(t *testing.T) {
	r := newRig(t)
	for _, path := range []string{"/api/v1/log/entries", "/api/v2/log/entries"} {
		sent := &counter{}
		req, err := http.NewRequest(http.MethodPost, r.url+path, io.TeeReader(io.LimitReader(spaces{}, 256<<20), sent))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", "application/json")
		req.ContentLength = -1
		resp, err := http.DefaultTransport.(*http.Transport).Clone().RoundTrip(req)
		if err == nil {
			if resp.StatusCode != 413 {
				t.Errorf("%s: %d", path, resp.StatusCode)
			}
			resp.Body.Close()
		}
		if n := sent.Load(); n > 32<<20 { // the limit is 1 MiB; the rest is buffers of both ends
			t.Errorf("%s: %d MiB were taken", path, n>>20)
		}
	}
}

type spaces struct{}

func (spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	return len(b), nil
}

type counter struct{ atomic.Int64 }

func (c *counter) Write(b []byte) (int, error) { c.Add(int64(len(b))); return len(b), nil }

func pemOf(kind string, der []byte) []byte {
	return []byte("-----BEGIN " + kind + "-----\n" + b64(der) + "\n-----END " + kind + "-----\n")
}
