package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/mirror"
)

// How far a transfer is. The verb that moves it runs in the server, if there is one; whoever called it asks now and then.

// transferProgress is the last step a transfer of this instance reported.
type transferProgress struct {
	mu   sync.Mutex
	last *mirror.Progress
}

func (t *transferProgress) set(p mirror.Progress) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = &p
}

func (t *transferProgress) get() *mirror.Progress {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last
}

func (t *transferProgress) clear() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last = nil
}

// mirrorProgress answers null while no transfer runs.
var mirrorProgress = verb[struct{}, *mirror.Progress]{"mirror.progress", func(_ context.Context, in *instance, _ string, _ struct{}) (*mirror.Progress, error) {
	return in.transfer.get(), nil
}}

// How often a person is told: on a terminal the line is written anew, else lines follow each other.
const (
	tellTerminal = time.Second
	tellLines    = 5 * time.Second
)

// watched calls a verb that transfers, and tells on stderr how far it is.
func watched[A, R any](c *cli.Context, v verb[A, R], args A) (R, error) {
	var here atomic.Pointer[instance]
	done := make(chan struct{})
	var telling sync.WaitGroup
	if w := cmdline.Progress(c); w != io.Discard {
		telling.Go(func() { tell(c, w, &here, done) })
	}
	result, err := v.callAs(c, args, func(in *instance) { here.Store(in) })
	close(done)
	telling.Wait()
	return result, err
}

func tell(c *cli.Context, w io.Writer, here *atomic.Pointer[instance], done chan struct{}) {
	every, begin, end := tellLines, "", "\n"
	if cmdline.IsTerminal(w) {
		every, begin, end = tellTerminal, "\r\x1b[K", ""
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	var pace pace
	said := false
	for {
		select {
		case <-done:
			if said && end == "" {
				fmt.Fprint(w, begin)
			}
			return
		case now := <-tick.C:
			if p := askProgress(c, here.Load()); p != nil {
				fmt.Fprint(w, begin, pace.line(*p, now), end)
				said = true
			}
		}
	}
}

// askProgress asks the instance opened here, or the server. Nobody is told why there is no answer: the verb itself will say.
func askProgress(c *cli.Context, here *instance) *mirror.Progress {
	if here != nil {
		return here.transfer.get()
	}
	cfg, _, err := configured(c)
	if err != nil {
		return nil
	}
	answer, err := callServer(c.Context, cfg, mirrorProgress.name, []byte("{}"))
	var p *mirror.Progress
	if err != nil || json.Unmarshal(answer, &p) != nil {
		return nil
	}
	return p
}

// pace is where a stage of a transfer was first seen, from which its rate is reckoned.
type pace struct {
	stage, origin string
	done          uint64
	at            time.Time
}

// line says how far p is, how fast it goes, and when it will be there if it goes on so.
func (a *pace) line(p mirror.Progress, now time.Time) string {
	if a.stage != p.Stage || a.origin != p.Origin || p.Done < a.done {
		*a = pace{p.Stage, p.Origin, p.Done, now}
	}
	text := p.Stage
	if p.Origin != "" {
		text += " " + p.Origin
	}
	if p.Total == 0 {
		return text
	}
	text += fmt.Sprintf(": %d of %d", p.Done, p.Total)
	if seconds := now.Sub(a.at).Seconds(); seconds > 0 && p.Done > a.done {
		rate := float64(p.Done-a.done) / seconds
		left := time.Duration(float64(p.Total-min(p.Done, p.Total)) / rate * float64(time.Second))
		text += fmt.Sprintf(", %.1f/s, %s left", rate, left.Round(time.Second))
	}
	return text
}
