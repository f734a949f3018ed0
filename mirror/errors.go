package mirror

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/freshness"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

var (
	// ErrNothing says that there was nothing to do: nothing new to pull or to export.
	ErrNothing = errors.New("there is nothing to do")
	// ErrGap says that parcels before this one are missing; the error is a *GapError.
	ErrGap = errors.New("earlier parcels of the stream are missing")
	// ErrReplay says that a parcel older than the last one was offered.
	ErrReplay = errors.New("this parcel is older than what was imported")
	// ErrForkedStream says that the exporter made two different parcels of one number, or that a parcel does not follow the last.
	ErrForkedStream = errors.New("this parcel does not continue the stream that was imported")
	// ErrWrongStream says that the parcel belongs to another stream.
	ErrWrongStream = errors.New("this parcel belongs to another stream")
	// ErrFork says that a log showed two histories, with proof; the error is a *ForkError.
	ErrFork = errors.New("the log showed two histories")
	// ErrFrozen says that a log stays where it is because it showed two histories before; the error is a *ForkError.
	ErrFrozen = errors.New("the log is frozen since it showed two histories")
	// ErrThawed says that a shard that was pinned as frozen moved on, or has another root than it was pinned with. The head stays.
	ErrThawed = errors.New("a frozen shard moved")
	// ErrProof says that what a log served or a parcel carried does not prove what it claims.
	ErrProof = errors.New("the proof does not hold")
	// ErrRollback says that trust metadata would go back to a version that was left, or start below its floor.
	ErrRollback = errors.New("the trust metadata would go back")
	// ErrFloor says that the first state carried of a log is smaller than the log is known to have been. The head does not begin there.
	ErrFloor = errors.New("the log is known to be larger than this")
	// ErrFull says that the disk or the quota is used up. Nothing was committed; make room and run again.
	ErrFull = errors.New("the disk is full or the quota is used up")
	// ErrClock says that the local clock cannot be right.
	ErrClock = errors.New("the local clock is in doubt")
	// ErrUnknownOrigin says that a log or its key is not configured here.
	ErrUnknownOrigin = errors.New("this log or its key is not known here")
	// ErrAnnouncement says that an announcement of an exporter key is malformed, or of another place in the stream.
	ErrAnnouncement = errors.New("this announcement of an exporter key does not fit")
	// ErrBusy says that another import, pull or export holds the directory.
	ErrBusy = errors.New("another transfer is running on this directory")
	// ErrRemote says that a source could not be reached or did not answer as a log does.
	ErrRemote = errors.New("the log's server did not answer as it should")
	// ErrNotFound says that the mirror has no such log, checkpoint or tile.
	ErrNotFound = errors.New("the mirror does not have that")
	// ErrDamaged says that stored tiles or heads contradict each other.
	ErrDamaged = errors.New("stored mirror data is damaged")
	// ErrWatched says that mirrored logs have entries that are watched for, and nobody acknowledged them.
	ErrWatched = errors.New("a watched entry appeared and nobody acknowledged it")
	// ErrChanged says that what people agreed on is not how things stand any more; they have to be asked again.
	ErrChanged = errors.New("this changed since it was agreed on")
	// ErrConfig says that the configuration cannot work.
	ErrConfig = errors.New("the mirror's configuration is wrong")
)

// GapError names the parcels that are missing before one that was offered.
type GapError struct {
	Stream      string
	First, Last uint64 // numbers of the missing parcels
	Offered     uint64 // number of the parcel that was offered
}

func (e *GapError) Error() string {
	missing := fmt.Sprintf("%d", e.First)
	if e.Last > e.First {
		missing = fmt.Sprintf("%d to %d", e.First, e.Last)
	}
	return fmt.Sprintf("%v: parcel %d of %q was offered, %s missing", ErrGap, e.Offered, e.Stream, missing)
}

// Unwrap makes the error match ErrGap.
func (e *GapError) Unwrap() error { return ErrGap }

// ForkError names the log that showed two histories and the file that proves it.
type ForkError struct {
	Origin   string
	Evidence string // file that proves the fork on its own
	Frozen   bool   // the log was frozen before and this import only left it where it was
}

func (e *ForkError) Error() string {
	if e.Frozen {
		return fmt.Sprintf("%v: %q (evidence: %s)", ErrFrozen, e.Origin, e.Evidence)
	}
	return fmt.Sprintf("%v: %q is frozen at its last good head (evidence: %s)", ErrFork, e.Origin, e.Evidence)
}

// Is makes the error match ErrFork, and ErrFrozen if that is what it is.
func (e *ForkError) Is(target error) bool {
	return target == ErrFork || e.Frozen && target == ErrFrozen
}

// ExitCode is the exit code of a mirror verb that ended with err: 0 for nil, 1 for an error without a code of its own.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, c := range []struct {
		err  error
		code int
	}{
		{ErrBusy, 75}, {ErrFork, 30}, {ErrThawed, 32}, {ErrGap, 20}, {ErrReplay, 21}, {ErrRollback, 21}, {ErrFloor, 21}, {ErrForkedStream, 22}, {ErrWrongStream, 23},
		{parcel.ErrForeignKey, 61}, {ErrAnnouncement, 61}, {ErrUnknownOrigin, 60}, {ErrFull, 42}, {store.ErrFull, 42}, {syscall.ENOSPC, 42}, {syscall.EDQUOT, 42},
		{ErrProof, 31}, {ErrQuorum, 31}, {tiles.ErrProof, 31}, {tiles.ErrBundle, 31}, {ErrDamaged, 31},
		{parcel.ErrMedium, 41}, {parcel.ErrVolume, 40}, {parcel.ErrManifest, 40}, {ErrStatement, 40}, {parcel.ErrTooNew, 40},
		{ErrWatched, 33}, {freshness.ErrStale, 50}, {ErrClock, 51}, {ErrNothing, 10}, {ErrRemote, 3},
	} {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return 1
}

// kindOf names the reason for a refusal in records and reports.
func kindOf(err error) string {
	switch ExitCode(err) {
	case 20:
		return "gap"
	case 21:
		return "replay"
	case 22:
		return "forked stream"
	case 23:
		return "wrong stream"
	case 30:
		return "log fork"
	case 31:
		return "bad proof"
	case 32:
		return "frozen shard moved"
	case 40:
		return "bad volume"
	case 51:
		return "clock in doubt"
	case 60:
		return "unknown log or key"
	case 61:
		return "foreign exporter"
	}
	return ""
}

// oneLine bounds an error's text for records.
func oneLine(err error) string {
	s := strings.ReplaceAll(err.Error(), "\n", "; ")
	return strings.ToValidUTF8(s[:min(len(s), 1000)], "?")
}
