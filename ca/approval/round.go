package approval

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"redoubt.internal/log/store"
)

const roundLine = "round "

// roundKey is where the number of times is kept that just this was done, whoever proposed it.
func roundKey(a Act, lines []string) []byte {
	return []byte("approval/round/" + hexSum([]byte(a.Kind+"\n"+a.Domain+"\n"+strings.Join(lines, "\n"))))
}

func roundsOf(tx store.Tx, key []byte) (int, error) {
	was, err := tx.Get(key)
	if err != nil || was == nil {
		return 0, err
	}
	return strconv.Atoi(string(was))
}

// Round gives an act that may be done again a last line that says the how manieth time it is, so that approvals of one time are none
// of another. Spend counts.
func Round(db store.DB, a Act) (Act, error) {
	err := db.View(func(tx store.Tx) error {
		n, err := roundsOf(tx, roundKey(a, a.Lines))
		a.Lines = append(slices.Clone(a.Lines), roundLine+strconv.Itoa(n+1))
		return err
	})
	return a, err
}

// count notes that an act with a round was done. Another proposal of the same round is then ErrSpent, too.
func count(tx store.Tx, a Act) error {
	last := len(a.Lines) - 1
	text, ok := strings.CutPrefix(a.Lines[last], roundLine)
	if !ok {
		return nil
	}
	key := roundKey(a, a.Lines[:last])
	n, err := roundsOf(tx, key)
	if err != nil {
		return err
	}
	if text != strconv.Itoa(n+1) {
		return fmt.Errorf("%w: %d times, this is of %s", ErrSpent, n, a.Lines[last])
	}
	return tx.Put(key, []byte(text))
}

// ahead is how far an approver's clock may be ahead of the one the act is done by.
const ahead = time.Hour

// Fresh parts approvals into those that count at now and the names of those whose consent is older than life, or from a time that
// has not come.
func Fresh(approvals []Approval, now time.Time, life time.Duration) (fresh []Approval, stale []string) {
	for _, a := range approvals {
		if t := a.Statement.Time; now.Sub(t) <= life && t.Sub(now) <= ahead {
			fresh = append(fresh, a)
		} else if !slices.Contains(stale, a.Statement.Operator) {
			stale = append(stale, a.Statement.Operator)
		}
	}
	return fresh, stale
}
