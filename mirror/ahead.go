package mirror

import (
	"context"
	"sync"

	"redoubt.internal/mirror/tiles"
)

// ahead reads hash tiles several at once, in the order in which they will be asked for. Of what it has read it holds no more than
// atOnce tiles, and those few that were asked for out of order.
type ahead struct {
	fetch   tiles.Fetch
	list    []tiles.Tile
	at      map[tiles.Tile]int
	next    int // the first of list that was not begun
	begun   map[tiles.Tile]*reading
	workers sync.WaitGroup
}

// reading is a tile that is being read; done is closed when it was.
type reading struct {
	done chan struct{}
	data []byte
	err  error
}

// readAhead returns fetch for the spine of the step that note leads to, reading ahead until stop is called.
func readAhead(ctx context.Context, log *knownLog, from Head, note []byte, fetch tiles.Fetch) (get tiles.Fetch, stop func()) {
	to, err := log.open(note)
	if err != nil || to.Size < from.Size || checkStep(log.Scope, from.Size, to.Size) != nil {
		return fetch, func() {} // prove says what is wrong
	}
	a := &ahead{fetch: fetch, list: planStep(log.Scope, from.Size, to.Size, false).spine, at: make(map[tiles.Tile]int), begun: make(map[tiles.Tile]*reading)}
	for i, t := range a.list {
		a.at[t] = i
	}
	ctx, cancel := context.WithCancel(ctx)
	return func(_ context.Context, t tiles.Tile) ([]byte, error) { return a.get(ctx, t) }, func() { cancel(); a.workers.Wait() }
}

// get is called by one goroutine at a time: a Tree asks under its lock.
func (a *ahead) get(ctx context.Context, t tiles.Tile) ([]byte, error) {
	i, listed := a.at[t]
	if !listed {
		return a.fetch(ctx, t)
	}
	r := a.begin(ctx, t)
	delete(a.at, t)         // whoever asks again reads again
	if i <= a.next+atOnce { // not one from the right edge, out of turn
		for ; a.next < len(a.list) && a.next <= i+atOnce; a.next++ {
			if _, waits := a.at[a.list[a.next]]; waits {
				a.begin(ctx, a.list[a.next])
			}
		}
	}
	<-r.done
	delete(a.begun, t)
	return r.data, r.err
}

// begin starts to read a tile unless that was begun.
func (a *ahead) begin(ctx context.Context, t tiles.Tile) *reading {
	if r := a.begun[t]; r != nil {
		return r
	}
	r := &reading{done: make(chan struct{})}
	a.begun[t] = r
	a.workers.Go(func() {
		defer close(r.done)
		r.data, r.err = a.fetch(ctx, t)
	})
	return r
}
