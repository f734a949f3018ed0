package ceremony

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"redoubt.internal/hsm"
)

// One flipped octet, at every place of a transcript, is refused: of a small
// ceremony every octet; of a whole one with approvals and
// operators' signatures every octet under REDOUBT_TORTURE, else every 23rd.
func TestEveryFlippedOctetIsRefused(t *testing.T) {
	_, open := softToken(t)
	small, err := Run(t.Context(), Rotation("corp.internal", nil, map[string]KeyPlan{"ct-2": {"soft:ct-2.key", hsm.ECDSAP256}}), open, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	members, keys := people(t, 2)
	p := quick()
	p.Operators = &Operators{Threshold: 2, Members: members}
	_, open = softToken(t)
	whole, err := Session{Open: open, Approvals: []Approval{approve(t, p, p.Operators, keys[0]), approve(t, p, p.Operators, keys[1])}}.Run(t.Context(), p)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(whole.Sign(keys[0]), whole.Sign(keys[1])); err != nil {
		t.Fatal(err)
	}
	stride := 23
	if os.Getenv("REDOUBT_TORTURE") != "" {
		stride = 1
	}
	flips := 0
	for _, c := range []struct {
		tr     *Transcript
		stride int
		masks  []byte
	}{{small, 1, []byte{0x01}}, {whole, stride, []byte{0x01}}} {
		data, err := c.tr.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(data); err != nil {
			t.Fatal(err)
		}
		for i := 0; i < len(data); i += c.stride {
			for _, mask := range c.masks {
				flipped := bytes.Clone(data)
				flipped[i] ^= mask
				if _, err := Verify(flipped); !errors.Is(err, ErrTranscript) {
					t.Fatalf("octet %d of %d ^ %#x: %v: %q", i, len(data), mask, err, data[max(0, i-40):min(len(data), i+40)])
				}
				flips++
			}
		}
	}
	t.Logf("%d flips refused", flips)
}
