package verify

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestSays: a refusal tells causes apart that share an exit code, where what helps against them differs.
func TestSays(t *testing.T) {
	d, foreign := verifytest.New(t, "corp.internal"), verifytest.New(t, "elsewhere.example")
	stamped := func(by *verifytest.Deployment) func(p *verifytest.Parts) {
		return func(p *verifytest.Parts) {
			p.Stamps = []any{map[string]any{"signedTimestamp": b64(by.Token(p.Signature, d.Now.Add(time.Minute), false))}}
		}
	}
	for name, c := range map[string]struct {
		edit func(*verifytest.Parts)
		want string
		code int
	}{
		"no time":                         {func(p *verifytest.Parts) { p.Stamps = nil }, "bears no signed time", 24},
		"the time of a strange authority": {stamped(foreign), "timestamp is of an authority the root does not know", 24},
		"the time of the root's own":      {stamped(d), "", 0},
	} {
		p := d.SignMessage(2, "artifact")
		c.edit(&p)
		if _, err := sampleOf(d, p).verify(t); ExitCode(err) != c.code || c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}
