package log

import (
	"fmt"

	"redoubt.internal/log/store"
)

// warnBehind says that mark number n, of size mark, is several heads behind the log of this size. A stop between a durable head
// and its mark leaves it one head behind; more means that the file of the marks is an older copy, or was not written for a while.
func (l *Log) warnBehind(n int, mark, size uint64) error {
	if mark >= size {
		return nil
	}
	return l.c.DB.View(func(tx store.Tx) error {
		next, found, err := l.keys.first(tx, 'h', mark+1)
		if err != nil {
			return fmt.Errorf("reading the heads after high-water mark %d: %w", n, err)
		}
		if found && next < size {
			l.c.Logger.Warn("a high-water mark is several heads behind its log; it is raised", "origin", l.c.Origin, "mark", n, "mark size", mark, "log size", size)
		}
		return nil
	})
}
