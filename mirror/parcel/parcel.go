// Package parcel is the one file format that crosses the gap.
//
// A parcel is one transfer of one stream, cut into volumes NAME.001.rdp, NAME.002.rdp and so on. Each volume is a
// zstd-compressed tar that standard tools unpack:
//
//	zstd frame, stored blocks   tar entry manifest.note, the same bytes in every volume
//	zstd frames                 tar entries logs/<i>/checkpoint and logs/<i>/tile/..., in ascending order (the payload)
//	zstd frame, stored blocks   two zero blocks, the end of the tar
//
// The manifest is a C2SP signed note: the line "redoubt.parcel/v1 <stream>", the sequence number, one line of JCS JSON
// (RFC 8785). It names the bytes and the SHA-256 of every payload, counted from behind the first frame to the end of the
// file. The digest of a parcel is the SHA-256 of the note's text without its signature lines.
//
// What it guarantees:
//   - Nothing of a volume is decompressed or unpacked before its manifest's signature is verified: the first frame is stored
//     bytes, compared with the one form a Writer produces.
//   - A Reader hands out regular files of a closed list of names, in strictly ascending order, and nothing else: every tar
//     header is compared with the one form a Writer produces, so links, devices, long names, sparse files, duplicates and
//     case twins have no spelling. Sizes, counts, window and compression ratio are bounded.
//   - Digests are checked by Check before the first file is handed out, and again while streaming.
//   - Same inputs, same bytes: but for the signature lines a parcel is a function of the manifest's fields, the files and the
//     volume size. Created is an input; it is a claim, not a proof of time.
//
// What it does not: the exporter's signature says who packed the parcel. It proves nothing about what is inside; package
// mirror proves all of it again.
//
// Start at Writer and Scan.
package parcel

import (
	"errors"
	"fmt"
)

var (
	// ErrForeignKey says that none of the known keys signed a note.
	ErrForeignKey = errors.New("no known key signed it")
	// ErrVolume says that a volume is damaged, missing or not a volume; the error is a *VolumeError that names it.
	ErrVolume = errors.New("a volume is damaged or missing")
	// ErrMedium says that the medium could not be read.
	ErrMedium = errors.New("the medium cannot be read")
	// ErrManifest says that a manifest breaks the rules of the format.
	ErrManifest = errors.New("the manifest breaks the rules of the format")
	// ErrTooNew says that the parcel asks for a newer importer.
	ErrTooNew = errors.New("the parcel asks for a newer version of Redoubt")
	// ErrVolumeSize says that a parcel does not fit into volumes of the size asked for.
	ErrVolumeSize = errors.New("the volume size is too small")
	// ErrKey says that a verifier key or a signing key is not one the format knows.
	ErrKey = errors.New("this key is not one the format knows")
)

const (
	// Format is the number in the manifest's first line and the newest an importer of this version reads.
	Format = 1
	// MaxVolumes is the largest number of volumes of a parcel: the number has three digits.
	MaxVolumes = 999
	// MaxLogs is the largest number of logs in a parcel.
	MaxLogs = 64
	// MaxRecords is the largest number of single records a log's state names.
	MaxRecords = 4096
	// MinVolumeSize is the smallest volume size in bytes.
	MinVolumeSize = 64 << 10

	maxNote     = 256 << 10 // bytes of a signed manifest
	maxFiles    = 1 << 32   // files of a volume
	maxUnpacked = 1 << 50   // bytes of a volume's tar
	maxRatio    = 100       // unpacked bytes per payload byte, of each frame and of a volume
	ratioFloor  = 64 << 10  // bytes that may be unpacked whatever the ratio
	maxWindow   = 8 << 20   // bytes of zstd window a reader allows
	frameTarget = 2 << 20   // unpacked bytes after which a writer closes a frame
)

// VolumeError names the volume that is damaged or missing. It matches ErrVolume, or ErrMedium if that is the cause.
type VolumeError struct {
	N    int    // number of the volume, 0 if unknown
	Path string // file, or the name the file should have
	Err  error
}

func (e *VolumeError) Error() string {
	if e.N == 0 {
		return fmt.Sprintf("volume %s: %v", e.Path, e.Err)
	}
	return fmt.Sprintf("volume %d (%s): %v", e.N, e.Path, e.Err)
}

func (e *VolumeError) Unwrap() error { return e.Err }

// Is makes a VolumeError match ErrVolume unless the medium is to blame.
func (e *VolumeError) Is(target error) bool {
	return target == ErrVolume && !errors.Is(e.Err, ErrMedium)
}
