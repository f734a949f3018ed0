package rekor

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strconv"
	"sync"

	formats "github.com/transparency-dev/formats/log"

	"redoubt.internal/log"
)

// checkpointKey names a head. The log beneath never publishes two roots for one size; were it to, they would be two keys here.
type checkpointKey struct {
	size uint64
	root [32]byte
}

// checkpoint is the v1 rendering of one head, signed once.
type checkpoint struct {
	once sync.Once
	note string
	err  error
}

// checkpointV1 returns h as a Rekor v1 checkpoint: origin "<host> - <treeID>", same size, same root, signed by the same key. The head's own
// note, which the log verified before it published it, is read first: nothing is signed that it does not state.
func (l *Log) checkpointV1(h log.Head) (string, error) {
	key := checkpointKey{h.Size, h.Root}
	l.mu.Lock()
	c, ok := l.checkpoints.values[key]
	if !ok {
		c = new(checkpoint)
		l.checkpoints.put(key, c)
	}
	l.mu.Unlock()
	c.once.Do(func() { c.note, c.err = l.renderV1(h) })
	if c.err != nil { // not remembered: the key may be back in a moment
		l.mu.Lock()
		if l.checkpoints.values[key] == c {
			l.checkpoints.values[key] = new(checkpoint)
		}
		l.mu.Unlock()
	}
	return c.note, c.err
}

func (l *Log) renderV1(h log.Head) (string, error) {
	if !l.serves(V1) {
		return "", fmt.Errorf("%w: a log of Rekor v2 entries has no v1 checkpoint", ErrHead)
	}
	var stated formats.Checkpoint
	if _, err := stated.Unmarshal(h.Note); err != nil {
		return "", fmt.Errorf("%w: %w", ErrHead, err)
	}
	if stated.Origin != l.c.Hostname || stated.Size != h.Size || !bytes.Equal(stated.Hash, h.Root[:]) {
		return "", fmt.Errorf("%w: head of %s size %d, note of %s size %d", ErrHead, l.c.Hostname, h.Size, stated.Origin, stated.Size)
	}
	origin := l.c.Hostname + " - " + strconv.FormatInt(l.c.TreeID, 10)
	note, err := log.SignNote(origin, l.c.Signer, h.Size, h.Root)
	if err != nil {
		return "", fmt.Errorf("signing the v1 checkpoint: %w", err)
	}
	return string(note), nil
}

// signTimestamp makes a signed entry timestamp: the key's signature over the JCS form (RFC 8785) of body, integratedTime, logID and logIndex.
// All four members are ASCII without characters JSON escapes, and the numbers are below 2^53, so the form can be written directly.
func (l *Log) signTimestamp(body []byte, integrated int64, index uint64) ([]byte, error) {
	l.mu.Lock()
	sig, ok := l.timestamps.values[index]
	l.mu.Unlock()
	if ok {
		return sig, nil
	}
	if !l.serves(V1) {
		return nil, fmt.Errorf("%w: a log of Rekor v2 entries vouches for no time", ErrHead)
	}
	digest := sha256.Sum256(TimestampPayload(body, integrated, l.logID, index))
	sig, err := l.c.Signer.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		return nil, fmt.Errorf("signing the entry timestamp: %w: %w", log.ErrSigning, err)
	}
	l.mu.Lock()
	l.timestamps.put(index, sig)
	l.mu.Unlock()
	return sig, nil
}

// TimestampPayload is what a signed entry timestamp signs.
func TimestampPayload(body []byte, integrated int64, logID [32]byte, index uint64) []byte {
	b := make([]byte, 0, base64.StdEncoding.EncodedLen(len(body))+160)
	b = append(b, `{"body":"`...)
	b = base64.StdEncoding.AppendEncode(b, body)
	b = append(b, `","integratedTime":`...)
	b = strconv.AppendInt(b, integrated, 10)
	b = append(b, `,"logID":"`...)
	b = hex.AppendEncode(b, logID[:])
	b = append(b, `","logIndex":`...)
	b = strconv.AppendUint(b, index, 10)
	return append(b, '}')
}
