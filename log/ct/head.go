package ct

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"fmt"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"
	formats "github.com/transparency-dev/formats/log"

	"redoubt.internal/log"
)

// treeHead is a head in the form of RFC 6962 4.3. Its signature is the TLS DigitallySigned.
type treeHead struct {
	size      uint64
	timestamp uint64 // milliseconds
	root      [32]byte
	signature []byte
}

// head renders the current head of the Merkle log and signs it, once per head. It is lazy: a head nobody asks for costs no signature.
func (l *Log) head() (*treeHead, error) {
	h := l.c.Log.Head()
	if err := checkNote(h); err != nil {
		return nil, err
	}
	key := headKey(h)
	l.mu.Lock()
	known, ok := l.heads.get(key)
	l.mu.Unlock()
	if ok {
		return known, nil
	}
	th := &treeHead{size: h.Size, timestamp: uint64(h.Time.UnixMilli()), root: h.Root}
	input, err := cttypes.SerializeSTHSignatureInput(cttypes.SignedTreeHead{
		Version: cttypes.V1, TreeSize: th.size, Timestamp: th.timestamp, SHA256RootHash: cttypes.SHA256Hash(th.root),
	})
	if err != nil {
		return nil, fmt.Errorf("encoding the tree head: %w", err)
	}
	signed, err := l.digitallySign(input)
	if err != nil {
		return nil, fmt.Errorf("signing the tree head: %w", err)
	}
	if th.signature, err = cttls.Marshal(signed); err != nil {
		return nil, fmt.Errorf("encoding the tree head: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.heads.get(key); ok { // another reader was first: one head, one signature
		return known, nil
	}
	l.heads.put(key, th)
	return th, nil
}

// checkNote refuses to render a head that its own signed note does not state.
func checkNote(h log.Head) error {
	var note formats.Checkpoint
	if _, err := note.Unmarshal(h.Note); err != nil {
		return fmt.Errorf("%w: %v", ErrHead, err)
	}
	if note.Size != h.Size || !bytes.Equal(note.Hash, h.Root[:]) {
		return fmt.Errorf("%w: head of size %d, note of size %d", ErrHead, h.Size, note.Size)
	}
	return nil
}

func headKey(h log.Head) [32]byte {
	var b [48]byte
	binary.BigEndian.PutUint64(b[:], h.Size)
	binary.BigEndian.PutUint64(b[8:], uint64(h.Time.UnixMilli()))
	copy(b[16:], h.Root[:])
	return sha256.Sum256(b[:])
}
