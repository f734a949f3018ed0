package log

import (
	"bytes"
	"fmt"
	"slices"

	"redoubt.internal/log/store"
)

// overlay is the Tx a `with` function gets. It buffers the writes, so that a function that errs, or panics, leaves
// nothing behind, and keeps them out of the log's own keys.
type overlay struct {
	base    store.Tx
	own     []byte            // the prefix of the log's own keys
	changes map[string][]byte // nil: deleted
}

// runWith runs fn over tx and applies its writes when it returns nil.
func runWith(tx store.Tx, own []byte, fn func(store.Tx) error) (err error) {
	o := &overlay{base: tx, own: own, changes: map[string][]byte{}}
	if err := o.run(fn); err != nil {
		return err
	}
	keys := make([]string, 0, len(o.changes))
	for k := range o.changes {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	for _, k := range keys {
		v := o.changes[k]
		if v == nil {
			err = tx.Delete([]byte(k))
		} else {
			err = tx.Put([]byte(k), v)
		}
		if err != nil {
			// Half of the changes may be in: only dropping the whole transaction is right.
			return &fatalError{err}
		}
	}
	return nil
}

// fatalError is an error that the whole transaction fails with.
type fatalError struct{ err error }

func (e *fatalError) Error() string { return e.err.Error() }
func (e *fatalError) Unwrap() error { return e.err }

func (o *overlay) run(fn func(store.Tx) error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("the entry's own writes panicked: %v", r)
		}
	}()
	return fn(o)
}

func (o *overlay) Get(key []byte) ([]byte, error) {
	if v, ok := o.changes[string(key)]; ok {
		return v, nil
	}
	return o.base.Get(key)
}

func (o *overlay) check(key []byte) error {
	if bytes.HasPrefix(key, o.own) {
		return fmt.Errorf("%w: keys under %q belong to the log", store.ErrInvalid, o.own)
	}
	if len(key) == 0 || len(key) > store.MaxKey {
		return fmt.Errorf("%w: a key of %d bytes", store.ErrInvalid, len(key))
	}
	return nil
}

func (o *overlay) Put(key, value []byte) error {
	if err := o.check(key); err != nil {
		return err
	}
	if len(value) > store.MaxValue {
		return fmt.Errorf("%w: a value of %d bytes", store.ErrInvalid, len(value))
	}
	o.changes[string(key)] = append([]byte{}, value...)
	return nil
}

func (o *overlay) Delete(key []byte) error {
	if err := o.check(key); err != nil {
		return err
	}
	o.changes[string(key)] = nil
	return nil
}

// Scan merges the buffered changes into the base's order.
func (o *overlay) Scan(from, to []byte, fn func(k, v []byte) bool) error {
	var mine []string
	for k := range o.changes {
		if k >= string(from) && (to == nil || k < string(to)) {
			mine = append(mine, k)
		}
	}
	slices.Sort(mine)
	stopped := false
	emit := func(upTo []byte, all bool) bool { // the buffered keys below upTo
		for len(mine) > 0 && (all || mine[0] < string(upTo)) {
			k := mine[0]
			mine = mine[1:]
			if v := o.changes[k]; v != nil && !fn([]byte(k), v) {
				stopped = true
				return false
			}
		}
		return true
	}
	err := o.base.Scan(from, to, func(k, v []byte) bool {
		if !emit(k, false) {
			return false
		}
		if _, ok := o.changes[string(k)]; ok {
			return true // emitted with the buffered keys, right after this
		}
		if !fn(k, v) {
			stopped = true
			return false
		}
		return true
	})
	if err != nil || stopped {
		return err
	}
	emit(nil, true)
	return nil
}
