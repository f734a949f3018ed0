package admission

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Where there is a cluster, replicas share their receipts in ConfigMaps of the gate's namespace, one for each first digit of a receipt's name:
//
//	NAME-receipts-0 ... NAME-receipts-f
//	  <SHA-256 of the reference with its digest>  the receipt, as in receipts/
//	  fresh                                       when trust was last seen to be fresh; in the first
//
// Each is written by a merge patch (RFC 7386) of its own keys, so that replicas never undo what another wrote. What is shared is believed no further
// than a receipt on the disk: the policy has to allow the image now, but for the age of trust.

const (
	mergePatch = "application/merge-patch+json"
	// shareWait is how long a review waits for its receipt to be shared; after that it is shared later.
	shareWait = time.Second
	// sharePause is between tries to share what could not be.
	sharePause = 10 * time.Second
	// maxWaiting receipts wait to be shared; the rest are shared when they are written anew.
	maxWaiting = 10_000
	// A ConfigMap holds 1 MiB. The older half of one that is fuller than fullMap goes.
	fullMap = 700 << 10
)

// shared are the receipts that replicas have in common.
type shared struct {
	kube            *kube
	namespace, name string
	logger          *slog.Logger
	metrics         *metrics

	mu      sync.Mutex
	waiting map[string]string // by key, what could not be shared yet
}

// configMap is what of a ConfigMap is used here.
type configMap struct {
	APIVersion string            `json:"apiVersion"`
	Kind       string            `json:"kind"`
	Metadata   objectMeta        `json:"metadata"`
	Data       map[string]string `json:"data,omitempty"`
}

// mapOf is the ConfigMap of a key.
func (s *shared) mapOf(key string) string {
	if key == freshName {
		return s.name + "-receipts-0"
	}
	return s.name + "-receipts-" + key[:1]
}

func (s *shared) path(name string) string {
	return "/api/v1/namespaces/" + url.PathEscape(s.namespace) + "/configmaps/" + url.PathEscape(name)
}

// put shares one entry. What cannot be shared now is shared later: the admission rests on the policy and on the receipt that is on the disk.
func (s *shared) put(ctx context.Context, key, value string) {
	ctx, cancel := context.WithTimeout(ctx, shareWait)
	defer cancel()
	err := s.write(ctx, s.mapOf(key), map[string]*string{key: &value})
	s.metrics.shared(err == nil)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		delete(s.waiting, key)
		return
	}
	s.logger.Warn("a receipt could not be shared with other replicas; it is tried again", "error", err)
	if len(s.waiting) < maxWaiting {
		s.waiting[key] = value
	}
}

// write sets keys of a ConfigMap, and removes those that are nil.
func (s *shared) write(ctx context.Context, name string, keys map[string]*string) error {
	var now configMap
	err := s.kube.do(ctx, http.MethodPatch, s.path(name), mergePatch, map[string]any{"data": keys}, &now)
	if errors.Is(err, fs.ErrNotExist) {
		none := configMap{"v1", "ConfigMap", objectMeta{Name: name, Namespace: s.namespace}, nil}
		err = s.kube.do(ctx, http.MethodPost, "/api/v1/namespaces/"+url.PathEscape(s.namespace)+"/configmaps", "application/json", none, nil)
		if err == nil || errors.Is(err, fs.ErrExist) { // another replica may have been faster
			err = s.kube.do(ctx, http.MethodPatch, s.path(name), mergePatch, map[string]any{"data": keys}, &now)
		}
	}
	if err != nil {
		return err
	}
	if old := surplus(now.Data); len(old) > 0 {
		return s.kube.do(ctx, http.MethodPatch, s.path(name), mergePatch, map[string]any{"data": old}, nil)
	}
	return nil
}

// surplus are the older half of the receipts of a ConfigMap that is nearly full.
func surplus(data map[string]string) map[string]*string {
	size := 0
	admitted := map[string]time.Time{}
	for key, value := range data {
		size += len(key) + len(value)
		if key == freshName {
			continue
		}
		var r receipt
		_ = json.Unmarshal([]byte(value), &r) // what is none is the oldest
		admitted[key] = r.Admitted
	}
	if size < fullMap {
		return nil
	}
	keys := slices.SortedFunc(maps.Keys(admitted), func(a, b string) int { return admitted[a].Compare(admitted[b]) })
	old := map[string]*string{}
	for _, key := range keys[:(len(keys)+1)/2] {
		old[key] = nil
	}
	return old
}

// get reads one entry; fs.ErrNotExist where there is none.
func (s *shared) get(ctx context.Context, key string) (string, error) {
	var held configMap
	if err := s.kube.do(ctx, http.MethodGet, s.path(s.mapOf(key)), "", nil, &held); err != nil {
		return "", err
	}
	value, ok := held.Data[key]
	if !ok {
		return "", fmt.Errorf("%s of %s: %w", key, s.mapOf(key), fs.ErrNotExist)
	}
	return value, nil
}

// run shares what could not be shared at once, until ctx ends.
func (s *shared) run(ctx context.Context) {
	every(ctx, sharePause, func() { s.again(ctx) })
}

// again tries once more to share what waits, a ConfigMap at a time.
func (s *shared) again(ctx context.Context) {
	s.mu.Lock()
	waiting := maps.Clone(s.waiting)
	s.mu.Unlock()
	byMap := map[string]map[string]*string{}
	for key, value := range waiting {
		name := s.mapOf(key)
		if byMap[name] == nil {
			byMap[name] = map[string]*string{}
		}
		byMap[name][key] = &value
	}
	for name, keys := range byMap {
		if err := s.write(ctx, name, keys); err != nil {
			s.logger.Warn("receipts could not be shared with other replicas", "receipts", len(keys), "error", err)
			continue
		}
		s.mu.Lock()
		for key, value := range keys {
			if s.waiting[key] == *value {
				delete(s.waiting, key)
			}
		}
		s.mu.Unlock()
	}
}
