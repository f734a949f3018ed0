package parcel

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"strings"
)

// Software is what a parcel that installs the product says of itself. It carries no data and has one volume; what that holds is named and digested
// by a list of its own, and package installer alone writes and reads it.
type Software struct {
	Folder string `json:"folder"` // that everything stands below
	Key    string `json:"key"`    // verifier key of the exporter, so that the fingerprint of the manifest is one of the key as well
	Sums   Digest `json:"sums"`   // of the list of digests, in the format of sha256sum(1)
}

// checkSoftware: nothing of a parcel of data, and one volume.
func (m *Manifest) checkSoftware() error {
	if m.Software == nil {
		return nil
	}
	if len(m.Logs)+len(m.TUF)+len(m.Blobs)+len(m.Announce)+len(m.Retire) > 0 || len(m.Volumes) != 1 || len(m.Software.Sums) != sha256.Size ||
		m.Software.Folder == "" || len(m.Software.Folder) > 80 || !printable(m.Software.Folder) || strings.ContainsAny(m.Software.Folder, "/\\") || m.Software.Folder[0] == '.' || !strings.HasPrefix(m.Software.Key, m.Exporter+"+") {
		return fmt.Errorf("%w: software in %.80q beside %d logs in %d volumes", ErrManifest, m.Software.Folder, len(m.Logs), len(m.Volumes))
	}
	return nil
}

// Head reads the first frame of a volume and returns the signed manifest in it and the frame's length. No signature was looked at.
func Head(r io.Reader) (signed []byte, length int64, err error) { return readHead(r) }

// Unsigned returns the text of a signed note, and no more than that: whoever takes it for true has compared its digest.
func Unsigned(signed []byte) ([]byte, error) {
	at := bytes.Index(signed, []byte("\n\n"))
	if at < 0 {
		return nil, fmt.Errorf("%w: it is no note", ErrManifest)
	}
	return signed[:at+1], nil
}
