package log

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"redoubt.internal/log/store/bolt"
)

// An older high-water file put beside its log is said once, with both sizes; one that is a single head behind is what a crash leaves.
func TestMarkSeveralHeadsBehind(t *testing.T) {
	for _, heads := range []int{1, 3} {
		var out bytes.Buffer
		r := newRig(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&out, nil)) })
		reopen := func(change func()) string {
			t.Helper()
			r.stop()
			change()
			out.Reset()
			r.db, _ = bolt.Open(r.path())
			r.c.DB = r.db
			r.openHW()
			r.open()
			if err := r.l.Err(); err != nil {
				t.Fatal(err)
			}
			return out.String()
		}
		hw := r.path() + ".highwater"
		r.add("covered", "")
		reopen(func() { copyFile(t, hw, hw+".old") })
		for i := range heads {
			r.add(strings.Repeat("more", i+1), "")
		}
		said := reopen(func() { copyFile(t, hw+".old", hw) })
		warned := strings.Count(said, "level=WARN")
		switch {
		case heads == 1 && warned != 0:
			t.Errorf("one head behind: %s", said)
		case heads > 1 && (warned != 1 || !strings.Contains(said, `"mark size"=1 "log size"=4`)):
			t.Errorf("%d heads behind: %s", heads, said)
		}
		if said := reopen(func() {}); strings.Contains(said, "level=WARN") {
			t.Errorf("the raised mark: %s", said)
		}
		r.stop()
	}
}
