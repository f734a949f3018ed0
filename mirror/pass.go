package mirror

import (
	"iter"

	"redoubt.internal/mirror/parcel"
)

// filesOf names the files of a log that follow its checkpoint, in their order.
func filesOf(i int, l parcel.Log) iter.Seq[parcel.Name] {
	return func(yield func(parcel.Name) bool) {
		if carriesRecords(l.Scope) {
			if !yield(parcel.Name{Log: i, Nodes: true}) {
				return
			}
			for _, r := range l.Records {
				if !yield(parcel.Name{Log: i, Record: true, Index: r}) {
					return
				}
			}
			return
		}
		p := planStep(l.Scope, l.From.Size, l.To.Size, l.Extras)
		for _, t := range p.spine {
			if !yield(parcel.Name{Log: i, Tile: t}) {
				return
			}
		}
		for k := range p.packages() {
			if !yield(parcel.Name{Log: i, Tile: p.pack(k)}) {
				return
			}
		}
	}
}

// skip reads past the files of a log that is not taken, all but its checkpoint.
func (in *importing) skip(i int, l parcel.Log) error {
	return in.pass(i, l, func(parcel.Name, []byte) error { return nil })
}

// pass hands the files of a log that is not taken to do, all but its checkpoint.
func (in *importing) pass(i int, l parcel.Log, do func(parcel.Name, []byte) error) error {
	for want := range filesOf(i, l) {
		if in.read != nil && parcel.Compare(want, *in.read) <= 0 {
			continue
		}
		b, err := in.next(want, in.buffer())
		if err != nil {
			return err
		}
		if err := do(want, b); err != nil {
			return err
		}
		in.pool.Put(&b)
	}
	return nil
}
