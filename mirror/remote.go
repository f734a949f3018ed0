package mirror

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"redoubt.internal/log/store"
)

// remote reads a log over HTTP.
type remote struct {
	base    *url.URL
	network *Network
	kept    *kept // nil keeps nothing
}

// read returns the file of that name below the base.
func (r *remote) read(ctx context.Context, name string, limit int64, _ []byte) ([]byte, error) {
	got, err := r.network.do(ctx, ask{method: http.MethodGet, url: r.base.JoinPath(name).String(), limit: limit})
	return got.body, err
}

// fresh is read for a file that changes: what the server says is unchanged is not carried again.
func (r *remote) fresh(ctx context.Context, name string, limit int64, _ []byte) ([]byte, error) {
	a := ask{method: http.MethodGet, url: r.base.JoinPath(name).String(), limit: limit}
	held, err := r.kept.get(a.url)
	if err != nil {
		return nil, err
	}
	a.etag = held.ETag
	got, err := r.network.do(ctx, a)
	if err != nil {
		return nil, err
	}
	if got.unchanged {
		return held.Body, nil
	}
	if got.etag != "" || held.ETag != "" {
		err = r.kept.put(a.url, keptAnswer{ETag: got.etag, Body: got.body})
	}
	return got.body, err
}

// kept are the newest answers that came with an ETag, so that they need not be carried twice. They are verified like any other.
//
//	exporter/etag/<url>  keptAnswer
type kept struct{ db store.DB }

const keyETag = "exporter/etag/"

type keptAnswer struct {
	ETag string `json:"etag"`
	Body []byte `json:"body"`
}

// get returns the answer held for url; none is no error, and one that cannot be read is none.
func (k *kept) get(url string) (a keptAnswer, err error) {
	if k == nil {
		return a, nil
	}
	err = k.db.View(func(tx store.Tx) error {
		b, err := tx.Get([]byte(keyETag + url))
		if err != nil || b == nil || json.Unmarshal(b, &a) == nil {
			return err
		}
		a = keptAnswer{}
		return nil
	})
	return a, err
}

// forget drops the answers of a source: one that was damaged on its way would be unchanged for ever.
func (k *kept) forget(location string) error {
	var urls [][]byte
	return k.db.Update(func(tx store.Tx) error {
		prefix := keyETag + location
		urls = urls[:0]
		if err := tx.Scan([]byte(prefix), after(prefix), func(key, _ []byte) bool { urls = append(urls, bytes.Clone(key)); return true }); err != nil {
			return err
		}
		for _, u := range urls {
			if err := tx.Delete(u); err != nil {
				return err
			}
		}
		return nil
	})
}

func (k *kept) put(url string, a keptAnswer) error {
	if k == nil {
		return nil
	}
	return k.db.Update(func(tx store.Tx) error { return put(tx, keyETag+url, a) })
}
