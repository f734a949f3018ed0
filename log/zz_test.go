package log

import (
	"context"
	"fmt"
	"testing"
	"time"

	"redoubt.internal/log/store"
)

type timedDB struct {
	store.DB
	n    int
	up   [2]time.Duration
	view time.Duration
}

func (d *timedDB) Update(fn func(store.Tx) error) error {
	t := time.Now()
	err := d.DB.Update(fn)
	d.up[d.n%2] += time.Since(t)
	d.n++
	return err
}
func (d *timedDB) View(fn func(store.Tx) error) error {
	t := time.Now()
	err := d.DB.View(fn)
	d.view += time.Since(t)
	return err
}

type timedHW struct {
	HighWater
	t time.Duration
}

func (h *timedHW) Raise(ctx context.Context, m Mark) error {
	t := time.Now()
	err := h.HighWater.Raise(ctx, m)
	h.t += time.Since(t)
	return err
}

func TestZZ(t *testing.T) {
	r := newRig(t, nil)
	r.stop()
	r2 := newRig(t, nil)
	td := &timedDB{DB: r2.c.DB}
	th := &timedHW{HighWater: r2.c.HighWater[0]}
	r2.cancel()
	<-r2.done
	r2.c.DB = td
	r2.c.HighWater = []HighWater{th}
	r2.open()
	leaf := make([]byte, 1024)
	td.n, td.up, td.view, th.t = 0, [2]time.Duration{}, 0, 0
	var stored, signed, raised time.Duration
	var last time.Time
	r2.l.at = func(p string) {
		n := time.Now()
		switch p {
		case "stored":
			stored += n.Sub(last)
		case "signed":
			signed += n.Sub(last)
		case "raised":
			raised += n.Sub(last)
		}
		last = n
	}
	start := time.Now()
	const N = 3000
	for i := range N {
		leaf[0], leaf[1] = byte(i), byte(i>>8)
		if _, err := r2.l.Add(t.Context(), leaf, nil, nil); err != nil {
			t.Fatal(err)
		}
	}
	us := func(d time.Duration) float64 { return float64(d.Microseconds()) / N }
	fmt.Printf("total %.0f A %.0f B %.0f view %.0f raise %.0f sign+verify %.0f raised->stored %.0f\n", us(time.Since(start)), us(td.up[0]), us(td.up[1]), us(td.view), us(th.t), us(signed), us(stored))
}
