package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"redoubt.internal/appliance/cmdline"
	"sync"
	"time"
)

// A rotation changes keys, chains and logs under a serving process. It takes them up by opening the state directory anew while
// requests wait: those under way end first, so nothing is signed by two keys of a role at once. Listeners, tokens and their sessions stay.

// gate lets requests through, or makes them wait outside.
type gate struct {
	mu     sync.Mutex // guards the fields
	inside int
	shut   chan struct{} // closed when the gate opens again; nil while it is open
}

// enter waits until the gate is open. leave must be called.
func (g *gate) enter(ctx context.Context) (leave func(), err error) {
	for {
		g.mu.Lock()
		shut := g.shut
		if shut == nil {
			g.inside++
			g.mu.Unlock()
			return func() {
				g.mu.Lock()
				g.inside--
				g.mu.Unlock()
			}, nil
		}
		g.mu.Unlock()
		select {
		case <-shut:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

var errBusy = errors.New("requests under way did not end in time")

// close lets nobody in and waits until nobody is inside. Where that takes longer than patience it opens again and says errBusy.
func (g *gate) close(patience time.Duration) error {
	g.mu.Lock()
	if g.shut != nil {
		g.mu.Unlock()
		return errBusy
	}
	g.shut = make(chan struct{})
	g.mu.Unlock()
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		g.mu.Lock()
		empty := g.inside == 0
		g.mu.Unlock()
		if empty {
			return nil
		}
		if time.Now().After(deadline) {
			g.open()
			return errBusy
		}
	}
}

func (g *gate) open() {
	g.mu.Lock()
	defer g.mu.Unlock()
	close(g.shut)
	g.shut = nil
}

const reopenPatience = 10 * time.Second

// instance is the one served from now.
func (s *server) instance() *instance {
	s.swap.RLock()
	defer s.swap.RUnlock()
	return s.in
}

// reopen takes up what a rotation changed. An error before anything was closed leaves the server as it was; what keeps the new
// state from being opened ends it, because the old one is no longer in force.
func (s *server) reopen(ctx context.Context) error {
	if err := s.gate.close(s.patience.or(reopenPatience)); err != nil {
		return cmdline.Hinted(err, "SIGHUP tries again; a restart takes the new keys up too")
	}
	defer s.gate.open()
	s.pause()
	old := s.instance()
	cfg, err := s.next(old.cfg)
	if err == nil {
		old.letGo()
		old.keys.reconfigure(cfg.Keys)
		var in *instance
		if in, err = openLocked(context.WithoutCancel(ctx), cfg, s.logger, old.keys); err == nil {
			in.held, old.held = old.held, nil
			s.take(in)
			s.logger.Info("took up the new keys")
			return nil
		}
	}
	err = fmt.Errorf("opening the state directory after a rotation: %w", err)
	s.lost <- err
	return err
}

// next is the configuration to reopen with: what runs, with the issuers loaded since and the keys in force now.
func (s *server) next(running *Config) (*Config, error) {
	cfg := *running
	s.swap.RLock()
	if from := s.issuers; from != nil {
		cfg.OIDCIssuers, cfg.MetaIssuers, cfg.CIIssuerMetadata, cfg.Define = from.OIDCIssuers, from.MetaIssuers, from.CIIssuerMetadata, from.Define
		cfg.People, cfg.Approvers, cfg.Log.Read = from.People, from.Approvers, from.Log.Read
	}
	s.swap.RUnlock()
	next, _, err := cfg.inForce()
	return next, err
}

// operate runs one verb on the instance that is served, for who may, and takes up what it changed before it is answered.
func (s *server) operate(ctx context.Context, o operation, who person, args json.RawMessage) (result any, err error) {
	leave, err := s.gate.enter(ctx)
	if err != nil {
		return nil, err
	}
	in := s.instance()
	if err = in.parts.does(in.cfg, o.name, args); err != nil {
		leave()
		return nil, err
	}
	if err = in.permit(ctx, who, o.name); err == nil {
		result, err = o.run(ctx, in, who.actor(), args)
		if _, copied := in.copyFiles(ctx); copied != nil {
			in.logger.Error("copying files to the second disk", "error", copied)
		}
	}
	leave()
	if !in.superseded.Load() {
		return result, err
	}
	if taken := s.reopen(ctx); taken != nil {
		return nil, fmt.Errorf("the rotation is done, and this server still signs with the old key: %w", taken)
	}
	if err == nil {
		err = s.instance().finish(ctx)
	}
	return result, err
}

// take makes in the instance that is served: its rooms answer from now on.
func (s *server) take(in *instance) {
	s.swap.Lock()
	s.in, in.front, in.reload, in.reloaded = in, &s.front, s.reload, &s.reloaded
	s.swap.Unlock()
	rooms := in.handlers(s)
	s.rooms.Store(&rooms)
	s.registerGauges()
	s.registerEndings()
	s.registerBackup()
	s.registerSecond()
	s.resume()
	select {
	case s.swapped <- struct{}{}:
	default:
	}
}

// resume starts what an instance does by itself; pause ends it.
func (s *server) resume() {
	ctx, stop := context.WithCancel(s.background)
	var work sync.WaitGroup
	in := s.instance()
	work.Go(func() { in.hearPeers(ctx) })
	if in.tuf != nil && in.authorityDB == nil {
		work.Go(func() { in.followDenied(ctx) })
	}
	if in.parts.runs(partTrust) || in.parts.runs(partCA) {
		work.Go(func() { s.maintain(ctx, in) })
	}
	if in.parts.runs(partCA) {
		work.Go(func() { in.reconcileEvery(ctx) })
		work.Go(func() { in.observeEvery(ctx) })
		work.Go(func() { in.lookEvery(ctx) })
		work.Go(func() { in.backupEvery(ctx) })
	}
	work.Go(func() { in.followFiles(ctx) })
	work.Go(func() { s.front.keep(ctx, in) })
	s.pause = func() { stop(); work.Wait() }
}

// room is the handler of a service, looked up at each request.
func (s *server) room(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h := (*s.rooms.Load())[name]; h != nil {
			h.ServeHTTP(w, r)
			return
		}
		http.NotFound(w, r)
	})
}

// reconfigure makes the keys of cfg those that are opened from here on; tokens that are open stay.
func (k *keyring) reconfigure(cfg Keys) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.cfg = cfg.of(k.parts, k.dir)
}
