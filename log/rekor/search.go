package rekor

import (
	"bytes"
	"context"
	"crypto/fips140"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/mail"
	"slices"
	"strings"

	"github.com/sigstore/rekor/pkg/pki"

	"redoubt.internal/log/strictjson"
)

// maxQueries is Rekor's limit on one retrieve request, over its three lists together.
const maxQueries = 10

// MaxMatches is the most entry ids one index search returns, and the most matches of each term it weighs. A search that exceeds it is
// refused rather than answered in part.
const MaxMatches = 2000

var errTooMany = badRequest("more than %d entries match: use a more telling term", MaxMatches)

// serveRetrieve answers POST /api/v1/log/entries/retrieve: entries by id, by proposed content, by index; absent ones are left out.
func (l *Log) serveRetrieve(w http.ResponseWriter, r *http.Request) error {
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	found, err := l.processRetrieve(r.Context(), body)
	if err != nil {
		return err
	}
	answer := make([]map[string]logEntry, 0, len(found))
	for _, at := range found {
		id, e, err := at.log.read(r.Context(), at.index)
		if err == errAbsent {
			continue
		}
		if err != nil {
			return err
		}
		answer = append(answer, map[string]logEntry{id: e})
	}
	writeJSON(w, http.StatusOK, answer)
	return nil
}

func (l *Log) processRetrieve(ctx context.Context, body []byte) ([]place, error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return nil, badRequest("%w", err)
	}
	if err := strictjson.Only(o, "entryUUIDs", "logIndexes", "entries"); err != nil {
		return nil, badRequest("%w", err)
	}
	lists := make(map[string][]any)
	total := 0
	for name, v := range o {
		list, ok := v.([]any)
		if !ok && v != nil { // clients send null for the lists they leave out
			return nil, badRequest("%s in body must be a list", name)
		}
		lists[name] = list
		total += len(list)
	}
	if total > maxQueries {
		return nil, &errStatus{http.StatusUnprocessableEntity, fmt.Errorf("more than max allowed %d entries in request", maxQueries)}
	}
	if total == 0 {
		return nil, badRequest("one of entryUUIDs, logIndexes and entries is required")
	}
	var found []place
	for i, v := range lists["entryUUIDs"] {
		id, ok := v.(string)
		if !ok {
			return nil, badRequest("entryUUIDs.%d in body must be a string", i)
		}
		at, err := l.lookup(ctx, id)
		if err == errAbsent {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, at)
	}
	for i, v := range lists["entries"] {
		proposed, ok := v.(map[string]any)
		if !ok {
			return nil, badRequest("entries.%d in body must be an object", i)
		}
		e, err := proposedV1(ctx, proposed)
		if err != nil {
			return nil, badRequest("entries.%d: %w", i, err)
		}
		hash := hashLeaf(e.Body)
		at, err := l.lookup(ctx, hex.EncodeToString(hash[:]))
		if err == errAbsent {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, at)
	}
	for i, v := range lists["logIndexes"] {
		n, ok := v.(json.Number)
		index, err := n.Int64()
		if !ok || err != nil || index < 0 {
			return nil, badRequest("logIndexes.%d in body must be a number, 0 or more", i)
		}
		if at, err := l.locate(uint64(index)); err == nil {
			found = append(found, at)
		}
	}
	return found, nil
}

// query is SearchIndex of openapi.yaml as search keys, one per term given.
type query struct {
	keys []searchKey
	and  bool
}

// parseQuery decodes {email, subject, hash, publicKey{format, content}, operator}. Clients leave terms out or send them empty.
func parseQuery(body []byte) (query, error) {
	o, err := strictjson.Object(body)
	if err != nil {
		return query{}, badRequest("%w", err)
	}
	if err := strictjson.Only(o, "email", "subject", "hash", "publicKey", "operator"); err != nil {
		return query{}, badRequest("%w", err)
	}
	text := func(o map[string]any, name string) (string, error) {
		switch v := o[name].(type) {
		case nil:
			return "", nil
		case string:
			return v, nil
		}
		return "", badRequest("%s in body must be a string", name)
	}
	var q query
	for _, name := range []string{"hash", "publicKey", "email", "subject", "operator"} {
		if name == "publicKey" {
			key, err := parseQueryKey(o[name])
			if err != nil {
				return query{}, err
			}
			if key != "" {
				q.keys = append(q.keys, newSearchKey(key))
			}
			continue
		}
		v, err := text(o, name)
		if err != nil {
			return query{}, err
		}
		if v == "" {
			continue
		}
		switch name {
		case "hash":
			v, err = hashTerm(v)
		case "email":
			if a, perr := mail.ParseAddress(v); perr != nil || a.Address != v {
				err = badRequest("email in body must be of type email: %.100q", v)
			}
		case "subject":
			if len(v) > 512 {
				err = badRequest("subject in body should be at most 512 chars long")
			}
		case "operator":
			switch v {
			case "and":
				q.and = true
			case "or":
			default:
				err = badRequest("operator in body should be one of [and or]")
			}
		}
		if err != nil {
			return query{}, err
		}
		if name != "operator" {
			q.keys = append(q.keys, newSearchKey(v))
		}
	}
	return q, nil
}

// hashTerm completes a hash given without its algorithm, by its length.
func hashTerm(v string) (string, error) {
	algorithm, value, prefixed := strings.Cut(v, ":")
	if !prefixed {
		algorithm, value = "", v
	}
	for _, a := range []struct {
		name   string
		digits int
	}{{"sha1", 40}, {"sha256", 64}, {"sha384", 96}, {"sha512", 128}} {
		if _, err := hex.DecodeString(value); err == nil && len(value) == a.digits && (!prefixed || algorithm == a.name) {
			return a.name + ":" + value, nil
		}
	}
	return "", badRequest("hash in body must be hexadecimal, with or without \"sha256:\" (or sha1, sha384, sha512) in front: %.150q", v)
}

// parseQueryKey returns the index term of a public key: SHA-256 of its canonical form. The format is one of Rekor's; content that names a place
// to fetch the key from does not exist here.
func parseQueryKey(v any) (string, error) {
	if v == nil {
		return "", nil
	}
	o, ok := v.(map[string]any)
	if !ok {
		return "", badRequest("publicKey in body must be an object")
	}
	if err := strictjson.Only(o, "format", "content"); err != nil {
		return "", badRequest("publicKey in body: %w", err)
	}
	format, _ := o["format"].(string)
	if !slices.Contains([]string{"pgp", "x509", "minisign", "ssh", "tuf"}, format) {
		return "", badRequest("publicKey.format in body should be one of [pgp x509 minisign ssh tuf]")
	}
	text, _ := o["content"].(string)
	if format == "pgp" && fips140.Enforced() {
		return "", badRequest("publicKey in body: %w", errPGP)
	}
	content, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(content) == 0 {
		return "", badRequest("publicKey.content in body must be base64 and not empty")
	}
	canonical, err := canonicalKey(format, content)
	if err != nil {
		return "", badRequest("public key provided could not be parsed")
	}
	return digestOf(canonical), nil
}

// canonicalKey returns the one spelling of a key whose hash Rekor indexes.
func canonicalKey(format string, content []byte) (canonical []byte, err error) {
	err = readKey(format, content, func(key pki.PublicKey) (err error) { canonical, err = key.CanonicalValue(); return err })
	return canonical, err
}

// Subjects are the names in a key or certificate of one of Rekor's formats (pgp, x509, minisign, ssh), as Rekor indexes them.
func Subjects(format string, content []byte) (names []string, err error) {
	err = readKey(format, content, func(key pki.PublicKey) error { names = key.Subjects(); return nil })
	return names, err
}

// readKey reads a key with Rekor's own parsers. They are other people's code on hostile input: a panic means the input is bad.
func readKey(format string, content []byte, use func(pki.PublicKey) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: the %s key parser gave up", ErrEntry, format)
		}
	}()
	factory, err := pki.NewArtifactFactory(pki.Format(format))
	if err != nil {
		return err
	}
	key, err := factory.NewPublicKey(bytes.NewReader(content))
	if err != nil {
		return err
	}
	return use(key)
}

// serveSearchIndex answers POST /api/v1/index/retrieve: the ids of entries that match any term ("or", the default) or all of them ("and"), in
// log order, one log after the other.
func (l *Log) serveSearchIndex(w http.ResponseWriter, r *http.Request) error {
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	q, err := parseQuery(body)
	if err != nil {
		return err
	}
	ids := []string{}
	for _, in := range l.readable() {
		found, err := in.processSearch(r.Context(), q)
		if err != nil {
			return err
		}
		ids = append(ids, found...)
	}
	if len(ids) > MaxMatches {
		return errTooMany
	}
	writeJSON(w, http.StatusOK, ids)
	return nil
}

func (l *Log) processSearch(ctx context.Context, q query) ([]string, error) {
	size := l.c.Log.Head().Size
	hits := make(map[uint64]int) // entry to number of distinct terms that match
	terms := make(map[searchKey]bool)
	for _, key := range q.keys {
		if terms[key] {
			continue
		}
		terms[key] = true
		indexes, err := l.c.Log.Find(ctx, key[:], MaxMatches+1)
		if err != nil {
			return nil, fmt.Errorf("searching: %w", err)
		}
		if len(indexes) > MaxMatches {
			return nil, badRequest("more than %d entries match one of the terms: use a more telling one", MaxMatches)
		}
		for _, i := range indexes {
			hits[i]++
		}
	}
	var matches []uint64
	for i, n := range hits {
		if i < size && (!q.and || n == len(terms)) {
			matches = append(matches, i)
		}
	}
	if len(matches) > MaxMatches {
		return nil, errTooMany
	}
	slices.Sort(matches)
	ids := make([]string, 0, len(matches))
	for _, i := range matches {
		e, err := l.c.Log.Entry(ctx, i)
		if err != nil {
			return nil, fmt.Errorf("reading entry %d: %w", i, err)
		}
		ids = append(ids, l.entryID(hashLeaf(e.Leaf)))
	}
	return ids, nil
}
