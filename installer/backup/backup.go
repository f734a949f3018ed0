// Package backup keeps copies of a state directory in a folder that is only ever added to, and makes a directory out of one again.
//
// What it guarantees:
//   - A run is of one moment of every database, taken while the server goes on: what lies beside the logs comes from one read
//     transaction, and of the logs what that transaction saw, which nothing rewrites.
//   - A file that was written is never opened for writing again: objects are named by their SHA-256, made under another name with
//     O_EXCL, flushed and renamed; the signed manifest of a run comes last. A medium that allows no overwriting suits it.
//   - A run writes what the run before has not: entries since, files that changed.
//   - Verify believes no byte of it: manifests are signed and chained, objects have their digests, and with the custodian's key every
//     root of every log is computed anew from its entries and every head's signature is checked.
//   - Restore writes into an empty directory, and what it puts there went through the same checks.
//   - No private key in clear and no secret file enters a backup; what is left out is listed.
//
// What it does not: know what was signed after the last run. The high-water marks outside the directory do, and they are not restored.
//
// A repository is a folder:
//
//	redoubt-backup.json  what it is, and of which appliance; the first file
//	objects/ab/abcdef... what was copied, sealed for the custodians or not, by SHA-256 of the file
//	runs/00000001.note   the signed manifest of a run
//
// Start at Create, Verify and Restore.
package backup

import (
	"errors"
	"time"
)

// Errors of this package, to be tested with errors.Is.
var (
	// ErrNone: there is no backup in the folder.
	ErrNone = errors.New("there is no backup here")
	// ErrForeign: the backup is of another appliance than the one that was named.
	ErrForeign = errors.New("this is the backup of another appliance")
	// ErrDamaged: a file of the backup is missing, cut short or not what was signed.
	ErrDamaged = errors.New("the backup is damaged")
	// ErrKey: the backup is sealed, and none of the keys given opens it.
	ErrKey = errors.New("none of the keys given opens this backup")
	// ErrRecipients: who may open the backup is not said, or cannot be sealed for.
	ErrRecipients = errors.New("a backup needs custodians")
	// ErrNotEmpty: restore met something.
	ErrNotEmpty = errors.New("the directory is not empty")
	// ErrFull: the medium is full.
	ErrFull = errors.New("the medium is full")
	// ErrBusy: another run writes to the folder.
	ErrBusy = errors.New("another run writes to this folder")
	// ErrFIPS: sealing needs algorithms that FIPS-only mode does not have.
	ErrFIPS = errors.New("sealing for custodians (age: X25519, ChaCha20-Poly1305) is not possible in FIPS-only mode")
	// ErrFormat: another version of the program wrote it.
	ErrFormat = errors.New("the backup is of another format")
)

// Exit codes of the backup verbs, where 1 is not enough.
const (
	exitForeign = 23
	exitDamaged = 22
	exitFull    = 42
	exitBusy    = 75
	exitKey     = 20
)

// Failure is an error with its exit code.
type Failure struct {
	code int
	err  error
}

func (f *Failure) Error() string { return f.err.Error() }

// Unwrap makes errors.Is see the cause.
func (f *Failure) Unwrap() error { return f.err }

// ExitCode is that of the verbs.
func (f *Failure) ExitCode() int { return f.code }

// failure gives err the exit code of its kind.
func failure(err error) error {
	for _, kind := range []struct {
		is   error
		code int
	}{{ErrForeign, exitForeign}, {ErrDamaged, exitDamaged}, {ErrFull, exitFull}, {ErrBusy, exitBusy}, {ErrKey, exitKey}} {
		if errors.Is(err, kind.is) {
			return &Failure{kind.code, err}
		}
	}
	return err
}

// Report says what a run wrote, or what of it was verified or restored.
type Report struct {
	Repository string    `json:"repository"` // its folder
	Run        uint64    `json:"run"`
	Time       time.Time `json:"time"`
	Domain     string    `json:"domain"`
	Appliance  string    `json:"appliance"` // fingerprint: SHA-256 of the audit log's first public key
	Encryption string    `json:"encryption"`
	Manifest   string    `json:"manifest"` // SHA-256 of the run's manifest
	Objects    int       `json:"objects"`  // written, or read
	Bytes      int64     `json:"bytes"`
	Files      int       `json:"files"` // in the state directory, databases aside
	Logs       []LogHead `json:"logs"`
	LeftOut    []string  `json:"leftOut"`  // files of the state directory that are in no backup
	Contents   bool      `json:"contents"` // false: the objects were not opened, their digests hold
	Strays     int       `json:"strays"`   // objects of no run: one was interrupted, or the newest manifest was not copied; counted by verify
	Seconds    float64   `json:"seconds"`
}
