package rekor_test

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"

	"redoubt.internal/log/rekor"
)

// fuzzPost posts arbitrary bodies to path: an answer is one of the good statuses or a 4xx in JSON, never a 5xx, and what was refused was not
// logged.
func fuzzPost(f *testing.F, path string, good int, seeds ...[]byte) {
	r := newRig(f)
	h := r.log.Handler()
	for _, s := range seeds {
		f.Add(s)
	}
	for _, s := range []string{``, `{}`, `null`, `[]`, `{"kind":"dsse"}`, `{"hashedRekordRequestV002":{}}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := r.merkle.Head().Size
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodPost, path, bytes.NewReader(body))
		h.ServeHTTP(w, req)
		if w.Code != good && (w.Code < 400 || w.Code > 499) || !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%d %s for %q", w.Code, w.Body, body)
		}
		if w.Code != good && r.merkle.Head().Size != before {
			t.Fatalf("refused, yet logged: %q", body)
		}
	})
}

// fuzzParse feeds arbitrary proposals to one parser, alone, so that the fuzzer sees its coverage and nothing else. Whatever it says no to is
// ErrEntry; whatever it accepts is canonical JSON of a kind this log takes, fits a leaf or is refused as too long, and has its search keys.
func fuzzParse(f *testing.F, parse func([]byte) (*rekor.Entry, error), seeds ...[]byte) {
	for _, s := range seeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		e, err := parse(body)
		if err != nil {
			if !errors.Is(err, rekor.ErrEntry) {
				t.Fatalf("%v for %q", err, body)
			}
			return
		}
		canonical, err := jsoncanonicalizer.Transform(e.Body)
		if err != nil || !bytes.Equal(canonical, e.Body) || e.Kind == "" || len(e.Keys) == 0 {
			t.Fatalf("accepted as %+v (%v): %q", e, err, body)
		}
		if _, err := rekor.EncodeExtraKeys(e.Keys); err != nil && !errors.Is(err, rekor.ErrEntry) {
			t.Fatal(err)
		}
	})
}

func parseV1(body []byte) (*rekor.Entry, error) { return rekor.ParseV1(context.Background(), body) }

func FuzzHashedrekord(f *testing.F) {
	key := generate(f)
	fuzzParse(f, parseV1,
		encode(hashedrekord(key, pemKey(key.Public()), "a")),
		encode(hashedrekord(key, pemCert(certify(f, key.Public(), "a@b.example", "https://x.example")), "b")))
}

func FuzzDSSE(f *testing.F) {
	key := generate(f)
	fuzzParse(f, parseV1, encode(dsse(key, pemKey(key.Public()), statement(strings.Repeat("1", 64)))), encode(dsse(key, pemKey(key.Public()), []byte(`{}`))))
}

func FuzzIntoto(f *testing.F) {
	key := generate(f)
	for _, make := range []func(crypto.Signer, []byte, []byte) object{intoto, intoto1} {
		f.Add(encode(make(key, pemCert(certify(f, key.Public(), "a@b.example")), statement(strings.Repeat("1", 64)))))
	}
	fuzzParse(f, parseV1, encode(intoto1(key, pemKey(key.Public()), []byte(`{"subject":null,"predicate":{"materials":[{}]}}`))))
}

func FuzzRekord(f *testing.F) {
	key := generate(f)
	sig, pub := minisign("x")
	fuzzParse(f, parseV1, encode(rekord(key, pemKey(key.Public()), "a")), encode(rekordAs("minisign", []byte("x"), sig, pub)),
		encode(rekordAs("pgp", []byte("x"), []byte{0x88, 0}, []byte{0x98, 0})),
		encode(rekordAs("ssh", []byte("x"), []byte("-----BEGIN SSH SIGNATURE-----\nU1NIU0lH\n-----END SSH SIGNATURE-----\n"),
			[]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== x"))))
}

func FuzzCreateV2(f *testing.F) {
	key := generate(f)
	fuzzParse(f, rekor.ParseV2,
		encode(requestV2(key, keyV2(key.Public()), "a")), encode(requestV2(key, certV2(certify(f, key.Public(), "a@b.example")), "b")),
		[]byte(`{"dsseRequestV002":{"envelope":{"payload":"e30=","payloadType":"x","signatures":[{"sig":"AAAA"}]}}}`),
		[]byte(`{"hashedRekordRequestV002":{}}`), []byte(`{}`), []byte(`null`))
}

func FuzzSearchIndex(f *testing.F) {
	key := generate(f)
	for _, s := range [][]byte{
		[]byte(`{"email":"a@b.example","hash":"sha256:` + strings.Repeat("a", 64) + `","operator":"and"}`), []byte(`{"subject":"x"}`), []byte(`{}`),
		encode(object{"publicKey": object{"format": "x509", "content": b64(pemKey(key.Public()))}}),
		encode(object{"publicKey": object{"format": "pgp", "content": b64([]byte("-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nmDM=\n-----END PGP PUBLIC KEY BLOCK-----\n"))}}),
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if err := rekor.CheckQuery(body); err != nil && len(err.Error()) > 1000 {
			t.Fatalf("an error of %d bytes", len(err.Error()))
		}
	})
}

func FuzzRetrieve(f *testing.F) {
	key := generate(f)
	fuzzPost(f, "/api/v1/log/entries/retrieve", 200,
		[]byte(`{"entryUUIDs":["`+strings.Repeat("a", 64)+`"]}`), []byte(`{"logIndexes":[0,1]}`),
		encode(object{"entries": []object{hashedrekord(key, pemKey(key.Public()), "a")}}))
}

// FuzzGet asks for arbitrary paths and queries, tiles among them: never a 5xx, and a tile that is served has a canonical name.
func FuzzGet(f *testing.F) {
	r := newRig(f)
	key := generate(f)
	if a := r.post("/api/v2/log/entries", encode(requestV2(key, keyV2(key.Public()), "a"))); a.code != 201 {
		f.Fatalf("%d %s", a.code, a.body)
	}
	h := r.log.Handler()
	for _, s := range []string{
		"/tile/0/000.p/1", "/tile/entries/000.p/1", "/api/v2/tile/0/x001/000", "/tile/0/000.p/01", "/api/v1/log/proof?firstSize=1&lastSize=1",
		"/api/v1/log/entries?logIndex=0", "/api/v1/log/entries/" + strings.Repeat("a", 80), "/checkpoint", "/tile//", "/%2e%2e/x",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, target string) {
		req, err := http.NewRequest(http.MethodGet, "http://x", nil)
		if err != nil {
			t.Fatal(err)
		}
		path, query, _ := strings.Cut(target, "?")
		if !strings.HasPrefix(path, "/") {
			path = "/" + path
		}
		req.URL.Path, req.URL.RawQuery = path, query
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		if w.Code >= 500 {
			t.Fatalf("%d %s for %q", w.Code, w.Body, target)
		}
		if strings.Contains(path, "/tile/") && w.Code == 200 {
			name := path[strings.Index(path, "/tile/"):]
			if name != "/tile/0/000.p/1" && name != "/tile/entries/000.p/1" {
				t.Fatalf("%q was served in a log of one entry", target)
			}
		}
	})
}
