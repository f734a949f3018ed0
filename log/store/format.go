package store

import "errors"

// Format numbers the layout of what the rooms of this program keep in a store, all of them together: a change that an earlier
// program would misread raises it, with a way up and, where there is one, a way down (the appliance's table of migrations). An
// engine keeps the number beside the data, gives it to a new store, and opens none with a higher one.
const Format = 2

// FirstFormat is that of stores without a number: the programs that made them wrote none.
const FirstFormat = 1

// ErrNewer says that a store is of a format this program does not know: a later one wrote it.
var ErrNewer = errors.New("a newer program wrote this database")
