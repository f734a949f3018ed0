package admission

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/singleflight"

	"redoubt.internal/mirror/images"
)

// Gate reviews admission. It is safe for concurrent use.
type Gate struct {
	c        Config
	now      func() time.Time
	rules    atomic.Pointer[Rules]
	aged     atomic.Bool               // the last image that was looked up was refused for the age of trust, or had a receipt
	sources  map[string]*images.Source // by host
	secrets  *secretSources            // nil: pods' own pull secrets are not read
	cache    *cache
	flights  singleflight.Group
	lookups  chan struct{}
	receipts *receipts
	people   *people // nil: nothing passes against the policy
	metrics  *metrics
	events   *events  // nil: none are sent
	reports  *reports // nil: none are written
	recent   *recent
}

// process reviews one request. mutate tells whether the object may be changed. It always answers, and its refusals say why.
func (g *Gate) process(ctx context.Context, r *request, mutate bool) response {
	started := g.now()
	out := response{UID: r.UID, AuditAnnotations: map[string]string{}}
	// 1. What is asked about: the images that are new in the object.
	if r.Operation == "DELETE" || r.Operation == "CONNECT" {
		out.Allowed = true
		return out
	}
	uses, pullers, err := g.asked(r)
	if err != nil {
		return g.conclude(r, out, []refusal{{err: err}}, started)
	}
	// 2. Each image once.
	found := g.judgeAll(ctx, r, uses, pullers)
	// 3. What is refused, and what the object becomes.
	var refused []refusal
	var let []string // through, against the policy
	pinned := map[string]string{}
	for _, u := range uses {
		f := found[u.image]
		if f.err == nil && !mutate && f.pinned != u.image {
			f.err = fmt.Errorf("%w: the webhook that changes tags into digests was not asked, or its answer was undone", ErrUnpinned)
		}
		if f.err != nil {
			refused = append(refused, refusal{u, f.err})
			continue
		}
		pinned[u.image] = f.pinned
		if note := f.verdict.note(); note != "" {
			out.Warnings = append(out.Warnings, oneLine(u.where+": "+note))
			if f.verdict.brokeGlass() {
				let = append(let, oneLine(fmt.Sprintf("%s: image %.300q: %s", u.where, u.image, note)))
			}
		}
	}
	out.AuditAnnotations["images"] = annotated(found)
	if mutate {
		if out.Patch, err = patch(uses, pinned); err != nil {
			refused = append(refused, refusal{err: err})
		} else if out.Patch != nil {
			out.PatchType = "JSONPatch"
		}
	}
	if !mutate && len(let) > 0 && len(refused) == 0 {
		g.report(r, "let-through", strings.Join(let, "; "))
	}
	return g.conclude(r, out, refused, started)
}

// asked lists the images of a request that did not stand there before.
func (g *Gate) asked(r *request) (uses []use, p pullers, err error) {
	if uses, err = imagesOf(r.Kind, r.Object); err != nil {
		return nil, p, err
	}
	if r.Operation == "UPDATE" && !isNull(r.OldObject) {
		if before, err := imagesOf(r.Kind, r.OldObject); err == nil {
			uses = changed(uses, before)
		}
	}
	different := map[string]bool{}
	for _, u := range uses {
		different[u.image] = true
	}
	if len(different) > MaxImages {
		return nil, p, fmt.Errorf("%w: %d different images in one object, at most %d", ErrTooMany, len(different), MaxImages)
	}
	p.namespace = r.Namespace
	p.secrets, p.account = pullSecretsOf(r.Kind, r.Object)
	return uses, p, nil
}

// finding is what became of one image.
type finding struct {
	verdict verdict
	pinned  string // the reference with its digest
	err     error
}

// judgeAll judges each image of uses once, side by side.
func (g *Gate) judgeAll(ctx context.Context, r *request, uses []use, p pullers) map[string]finding {
	found := map[string]finding{}
	var mu sync.Mutex
	var work sync.WaitGroup
	for _, u := range uses {
		if _, there := found[u.image]; there {
			continue
		}
		found[u.image] = finding{err: ErrUnanswered}
		work.Go(func() {
			f := g.judge(ctx, r, u.image, p)
			g.metrics.judged(f)
			mu.Lock()
			defer mu.Unlock()
			found[u.image] = f
		})
	}
	work.Wait()
	return found
}

// judge says whether one image may run.
func (g *Gate) judge(ctx context.Context, r *request, image string, p pullers) finding {
	ref, err := reference(image)
	if err != nil {
		return finding{err: err}
	}
	// 1. What the gate itself runs from, and what people let through, asks nobody.
	if digest := ref.Digest(); digest != "" && r.Namespace == g.c.OwnNamespace && slices.Contains(g.c.OwnDigests, digest) {
		return finding{verdict: verdict{Digest: digest, By: "its own bootstrap"}, pinned: image}
	}
	// 2. Only at a registry that was named.
	if !g.asks(ref.Host()) {
		return finding{err: fmt.Errorf("%w: %.200q; they are %s", ErrRegistry, ref.Host(), strings.Join(slices.Sorted(maps.Keys(g.sources)), ", "))}
	}
	rules := g.rules.Load()
	// 3. The digest it will run by. A tag is asked for once, by whoever comes first.
	pinned := ref
	if ref.Digest() == "" {
		if pinned, err = g.resolve(ctx, ref, p); err != nil {
			return finding{err: err}
		}
	}
	// 4. What vouches for it, and what the policy makes of that. Under which tag it is known decides nothing.
	bare, err := images.ParseReference(pinned.Host() + "/" + pinned.Repository() + "@" + pinned.Digest())
	if err != nil {
		return finding{err: fmt.Errorf("%w: %w", ErrImage, err)}
	}
	v, err := g.decide(ctx, rules, bare, p)
	// 5. What people let through against all that.
	if err != nil && g.people != nil {
		if broken, ok := g.people.breakGlass(g, r, pinned, err); ok {
			return finding{verdict: broken, pinned: pinned.String()}
		}
	}
	return finding{v, pinned.String(), err}
}

// asks tells whether a registry is one of those that were named.
func (g *Gate) asks(host string) bool { return g.sources[host] != nil }

// reference reads the name of an image as a container runtime does where that leaves no doubt: a missing tag is "latest". A name without a
// registry means another one on each node, and is refused.
func reference(image string) (images.Reference, error) {
	text := image
	if last := image[strings.LastIndexByte(image, '/')+1:]; !strings.ContainsAny(last, ":@") && strings.Contains(image, "/") {
		text += ":latest"
	}
	ref, err := images.ParseReference(text)
	if err == nil && ref.Host() == "" {
		err = errors.New("it names no registry")
	}
	if err != nil {
		return ref, fmt.Errorf("%w: %w", ErrImage, err)
	}
	return ref, nil
}

// resolve pins a tag to the digest it stands for now.
func (g *Gate) resolve(ctx context.Context, ref images.Reference, p pullers) (images.Reference, error) {
	source, key, err := g.source(ctx, ref, p)
	if err != nil {
		return ref, err
	}
	digest, err := flight(ctx, g, "resolve\x00"+key+"\x00"+ref.String(), func(ctx context.Context) (string, error) {
		return source.Resolve(ctx, ref)
	})
	if err != nil {
		return ref, unanswered(err)
	}
	return images.ParseReference(ref.String() + "@" + digest)
}

// decide judges a digest by the policy, or remembers having done so.
func (g *Gate) decide(ctx context.Context, rules *Rules, ref images.Reference, p pullers) (verdict, error) {
	key := rules.Version + "\x00" + ref.String()
	if v, ok := g.cache.get(key, g.now()); ok {
		g.metrics.cached(true)
		return v, nil
	}
	g.metrics.cached(false)
	source, who, err := g.source(ctx, ref, p)
	if err != nil {
		return verdict{}, err
	}
	return flight(ctx, g, "decide\x00"+who+"\x00"+key, func(ctx context.Context) (verdict, error) {
		v, err := g.lookUp(ctx, rules, source, ref)
		if err == nil && v.Stale.IsZero() {
			g.cache.put(key, v, g.now().Add(g.c.CacheFor))
		}
		g.aged.Store(err == nil && !v.Stale.IsZero() || errors.Is(err, ErrStale))
		return v, err
	})
}

// flight does what many ask for at once a single time, on the time of none of them: at most maxLookups at once, each within the gate's
// timeout. Who waits for it waits no longer than their own time.
func flight[T any](ctx context.Context, g *Gate, key string, do func(context.Context) (T, error)) (none T, err error) {
	done := g.flights.DoChan(key, func() (out any, err error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), g.c.Timeout)
		defer cancel()
		defer func() {
			if p := recover(); p != nil {
				g.c.Logger.Error("judging an image panicked", "panic", p)
				out, err = nil, fmt.Errorf("%w: internal error", ErrUnanswered)
			}
		}()
		select {
		case g.lookups <- struct{}{}:
			defer func() { <-g.lookups }()
		case <-ctx.Done():
			return none, fmt.Errorf("%w: too many images are looked up at once", ErrUnanswered)
		}
		return do(ctx)
	})
	select {
	case r := <-done:
		if r.Err != nil {
			return none, r.Err
		}
		return r.Val.(T), nil
	case <-ctx.Done():
		return none, fmt.Errorf("%w: the time for this review is up", ErrUnanswered)
	}
}
