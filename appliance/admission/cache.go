package admission

import (
	"container/list"
	"sync"
	"time"
)

// maxCached is how many decisions are kept.
const maxCached = 8192

// cache keeps decisions to allow. What refuses is never kept: a signature that comes late counts at once. The key has all that decided:
// reference, digest, trust and policy.
type cache struct {
	mu    sync.Mutex
	order *list.List // of *cached, the one used last in front
	byKey map[string]*list.Element
}

type cached struct {
	key     string
	verdict verdict
	until   time.Time
}

func newCache() *cache { return &cache{order: list.New(), byKey: make(map[string]*list.Element)} }

func (c *cache) get(key string, now time.Time) (verdict, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.byKey[key]
	if e == nil {
		return verdict{}, false
	}
	held := e.Value.(*cached)
	if !now.Before(held.until) {
		c.order.Remove(e)
		delete(c.byKey, key)
		return verdict{}, false
	}
	c.order.MoveToFront(e)
	return held.verdict, true
}

func (c *cache) put(key string, v verdict, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e := c.byKey[key]; e != nil {
		c.order.Remove(e)
	}
	c.byKey[key] = c.order.PushFront(&cached{key, v, until})
	for c.order.Len() > maxCached {
		oldest := c.order.Back()
		c.order.Remove(oldest)
		delete(c.byKey, oldest.Value.(*cached).key)
	}
}

// clear forgets everything: trust or policy is another.
func (c *cache) clear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.order.Init()
	clear(c.byKey)
}
