package backup

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	"redoubt.internal/log"
	"redoubt.internal/mirror/parcel"
)

// FuzzManifest: no bytes crash the reader, and what it accepts is signed, spelled as it is written, and by the key it names.
func FuzzManifest(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(f, err)
	der := publicDER(f, key)
	note, err := log.SignNote("rekor.corp.internal", key, 0, [32]byte(parcel.Sum(nil)))
	check(f, err)
	part := Part{Object: parcel.Sum([]byte("x")), Bytes: 1}
	m := &Manifest{Repository: "00", Run: 1, Time: parcel.Time{Time: time.Unix(0, 0)}, Domain: "corp.internal", Key: der, Encryption: EncryptionNone, Recipients: []string{},
		Logs:  []LogHead{{Name: "rekor", Origin: "rekor.corp.internal", Root: parcel.Sum(nil), Note: string(note)}},
		Marks: []Mark{}, Keys: []Key{{Name: "rekor", PublicKey: der}}, LeftOut: []string{}, Objects: part, Contents: part}
	good, err := m.sign(key)
	check(f, err)
	if _, err := openManifest(good); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(formatLine + "\n{}\n\n— backup.corp.internal AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := openManifest(b)
		if err == nil && (m.Run == 0 || !bytes.HasPrefix(b, []byte(formatLine+"\n"))) {
			t.Fatalf("accepted %q", b)
		}
	})
}

// FuzzContents: what is accepted is spelled as it is written.
func FuzzContents(f *testing.F) {
	part := Part{Object: parcel.Sum([]byte("x")), Bytes: 1, Plain: parcel.Sum([]byte("y"))}
	c := &contents{Databases: []*database{{Name: "rekor.db", Rest: []Part{part}, Logs: []*logPart{{Name: "rekor", Segments: []Part{part}, Tail: []Part{}}}}},
		Files: []*file{{Path: "pki/a", SHA256: part.Plain, Parts: []Part{part}}}, Removed: []string{"b"}}
	good, err := c.encode()
	check(f, err)
	f.Add(good)
	f.Add([]byte(`{"databases":[null],"files":[null],"removed":null}`))
	f.Add([]byte(`{"databases":null,"files":null,"removed":null}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := parseContents(b)
		if err != nil {
			return
		}
		whole := &contents{}
		whole.apply(c)
		whole.apply(c)
		if again, err := c.encode(); err != nil || !bytes.Equal(again, b) {
			t.Fatalf("accepted %q", b)
		}
	})
}
