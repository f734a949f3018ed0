package log

import (
	"errors"
	"fmt"
	"sort"
	"strings"
)

// fencePrefix begins the halt of marks that were fenced.
const fencePrefix = "fenced: "

// ErrFenced says that another machine has taken the logs over: this one signs them no more.
var ErrFenced = errors.New("another machine took these logs over")

// Fence halts every mark of the file for good: who signs under them stops at the next head, and no operator resumes it. A file that is
// fenced for the same reason already is left as it is.
func (h *File) Fence(reason string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	halt := fencePrefix + reason
	if len(halt) > maxHalt {
		return fmt.Errorf("fencing %s: %w: a reason of %d bytes", h.path, ErrHighWater, len(reason))
	}
	var marks []Mark
	for _, s := range h.slots {
		if strings.HasPrefix(s.mark.Halted, fencePrefix) && s.mark.Halted != halt {
			return fmt.Errorf("fencing %s: %w: %s", h.path, ErrFenced, s.mark.Halted)
		}
		marks = append(marks, s.mark)
	}
	sort.Slice(marks, func(i, j int) bool { return marks[i].Origin < marks[j].Origin })
	for _, m := range marks {
		if m.Halted == halt {
			continue
		}
		m.Halted = halt
		if err := h.write(m); err != nil {
			return err
		}
	}
	return nil
}

// Fenced says why a mark was fenced; "" when it was not.
func (m Mark) Fenced() string {
	reason, _ := strings.CutPrefix(m.Halted, fencePrefix)
	if reason == m.Halted {
		return ""
	}
	return reason
}
