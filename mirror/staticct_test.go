package mirror

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	cttypes "github.com/google/certificate-transparency-go"
	cttls "github.com/google/certificate-transparency-go/tls"

	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

const ctOrigin = "ct.example/2026h2"

// ctLog is a small static-ct log: its leaves and tree heads are made by certificate-transparency-go, its tiles by the generator.
type ctLog struct {
	t    testing.TB
	dir  string
	key  *ecdsa.PrivateKey
	b    *generate.Builder
	data []byte // TileLeafs of the last data tile
	der  [][]byte
	made [][]byte // MerkleTreeLeafs
}

func newCTLog(t testing.TB) *ctLog {
	t.Helper()
	c := &ctLog{t: t, dir: t.TempDir(), der: realCertificates(t)}
	var err error
	if c.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	if c.b, err = generate.NewBuilder(c.dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.b.Close() })
	return c
}

// realCertificates are those of the public trust root, or some bytes where that is not at hand: to a log they are opaque.
func realCertificates(t testing.TB) (out [][]byte) {
	b, err := os.ReadFile(filepath.Join(os.Getenv("REDOUBT_PUBLIC_LOG_DATA"), "roots", "trusted_root.public-good.json"))
	if err != nil {
		return [][]byte{[]byte("one"), bytes.Repeat([]byte("two"), 1000)}
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case []any:
			for _, x := range v {
				walk(x)
			}
		case map[string]any:
			if s, ok := v["rawBytes"].(string); ok {
				der, _ := base64.StdEncoding.DecodeString(s)
				out = append(out, der)
			}
			for _, x := range v {
				walk(x)
			}
		}
	}
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	walk(v)
	slices.SortFunc(out, bytes.Compare)
	return out
}

// add appends entries, certificates and pre-certificates in turn, and publishes a head. stored changes a data tile before it is written.
func (c *ctLog) add(n int, stored func([]byte) []byte) {
	c.t.Helper()
	for range n {
		i := int(c.b.Size())
		der := c.der[i%len(c.der)]
		e := &cttypes.TimestampedEntry{Timestamp: uint64(1_790_000_000_000 + i), EntryType: cttypes.X509LogEntryType, X509Entry: &cttypes.ASN1Cert{Data: der}, Extensions: cttypes.CTExtensions{0, 0, 5, 0, 0, 0, byte(i >> 8), byte(i)}}
		if i%2 == 1 {
			e.EntryType, e.X509Entry = cttypes.PrecertLogEntryType, nil
			e.PrecertEntry = &cttypes.PreCert{IssuerKeyHash: sha256.Sum256(der), TBSCertificate: der}
		}
		leaf, err := cttls.Marshal(cttypes.MerkleTreeLeaf{Version: cttypes.V1, LeafType: cttypes.TimestampedEntryLeafType, TimestampedEntry: e})
		if err != nil {
			c.t.Fatal(err)
		}
		c.made = append(c.made, leaf)
		if err := c.b.Add(leaf); err != nil {
			c.t.Fatal(err)
		}
		c.data = append(c.data, leaf[2:]...)
		if i%2 == 1 {
			c.data = append(append(c.data, byte(len(der)>>16), byte(len(der)>>8), byte(len(der))), der...)
		}
		fingerprint := sha256.Sum256(der)
		c.data = append(binary.BigEndian.AppendUint16(c.data, 32), fingerprint[:]...)
		if c.b.Size()%tiles.Width == 0 {
			c.write(tiles.Tile{Level: tiles.Entries, Index: c.b.Size()/tiles.Width - 1, Width: tiles.Width}, stored(c.data))
			c.data = nil
		}
	}
	root, size := c.b.Root(), c.b.Size()
	if err := c.b.Publish(c.checkpoint(ctOrigin, size, root)); err != nil {
		c.t.Fatal(err)
	}
	if w := int(size % tiles.Width); w > 0 {
		c.write(tiles.Tile{Level: tiles.Entries, Index: size / tiles.Width, Width: w}, stored(c.data))
	}
}

func (c *ctLog) write(t tiles.Tile, b []byte) {
	name := filepath.Join(c.dir, strings.Replace(t.Path(), "entries", "data", 1))
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o644)); err != nil {
		c.t.Fatal(err)
	}
}

// checkpoint is a tree head signed as RFC 6962 has it, in the form of a note.
func (c *ctLog) checkpoint(origin string, size uint64, root tiles.Hash) []byte {
	const at = 1_790_000_000_123
	in, err := cttypes.SerializeSTHSignatureInput(cttypes.SignedTreeHead{Version: cttypes.V1, TreeSize: size, Timestamp: at, SHA256RootHash: cttypes.SHA256Hash(root)})
	if err != nil {
		c.t.Fatal(err)
	}
	signed, err := cttls.CreateSignature(*c.key, cttls.SHA256, in)
	if err != nil {
		c.t.Fatal(err)
	}
	sig, err := cttls.Marshal(signed)
	if err != nil {
		c.t.Fatal(err)
	}
	v, err := parcel.NewVerifier(c.vkey())
	if err != nil {
		c.t.Fatal(err)
	}
	line := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(nil, v.KeyHash()), at)
	return fmt.Appendf(generate.CheckpointText(origin, size, root), "\n— %s %s\n", ctOrigin, base64.StdEncoding.EncodeToString(append(line, sig...)))
}

func (c *ctLog) vkey() string {
	v, err := parcel.CTVerifierKey(ctOrigin, c.key.Public())
	if err != nil {
		c.t.Fatal(err)
	}
	return v
}

func plain(b []byte) []byte { return b }

func zipped(b []byte) []byte {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	z.Write(b)
	z.Close()
	return out.Bytes()
}

// TestStaticCT carries a Certificate Transparency log, its data tiles stored plain and compressed, read from a folder and from a
// server that says they are compressed, in full and sparsely: what is kept are the leaves the log hashed, byte for byte.
func TestStaticCT(t *testing.T) {
	for name, stored := range map[string]func([]byte) []byte{"plain": plain, "zipped": zipped} {
		for _, scope := range []string{parcel.ScopeFull, parcel.ScopeSparse, parcel.ScopeSpine} {
			t.Run(name+" "+scope, func(t *testing.T) {
				c := newCTLog(t)
				files := http.FileServer(http.Dir(c.dir))
				srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if name == "zipped" && strings.HasPrefix(r.URL.Path, "/tile/data/") {
						w.Header().Set("Content-Encoding", "gzip")
					}
					files.ServeHTTP(w, r)
				}))
				defer srv.Close()
				cfg := LogConfig{Origin: ctOrigin, VKey: c.vkey(), Scope: scope, Source: c.dir, Layout: layoutStaticCT}
				if scope == parcel.ScopeSparse {
					cfg.Records = []uint64{0, 3, 256, 300, 517}
				}
				l := newLab(t, cfg)
				for i, n := range []int{3, 298, 217, 1} {
					c.add(n, stored)
					if i == 2 {
						l.ec.Logs[0].Source = srv.URL
						l.reopen()
					}
					l.pull()
					l.load(l.export(0))
				}
				for _, i := range []uint64{0, 3, 256, 300, 517} {
					if scope == parcel.ScopeSpine {
						continue
					}
					r, err := l.in.Record(ctOrigin, i)
					if err != nil || !bytes.Equal(r.Leaf, c.made[i]) {
						t.Fatal(i, err)
					}
					var leaf cttypes.MerkleTreeLeaf
					if rest, err := cttls.Unmarshal(r.Leaf, &leaf); err != nil || len(rest) > 0 {
						t.Fatal(err)
					}
				}
				rep, err := l.in.Reconcile(t.Context())
				if err != nil || rep.Err() != nil || rep.Logs[0].Size != 519 {
					t.Fatal(err, rep.Err())
				}
			})
		}
	}
}

// TestStaticCTSignature changes one thing of a checkpoint at a time; a signature of a tree head covers neither origin nor extensions.
func TestStaticCTSignature(t *testing.T) {
	c := newCTLog(t)
	c.add(3, plain)
	good, err := os.ReadFile(filepath.Join(c.dir, "checkpoint"))
	if err != nil {
		t.Fatal(err)
	}
	logs, err := knownLogs([]LogConfig{{Origin: ctOrigin, VKey: c.vkey(), FormerOrigins: []string{"other.example"}}})
	if err != nil {
		t.Fatal(err)
	}
	log := logs[ctOrigin]
	if got, err := log.open(good); err != nil || got.Size != 3 {
		t.Fatal(err)
	}
	root, empty := c.b.Root(), tiles.EmptyRoot()
	for name, bad := range map[string][]byte{
		"another size":   bytes.Replace(good, []byte("\n3\n"), []byte("\n4\n"), 1),
		"another origin": c.checkpoint("other.example", 3, root),
		"an extension":   bytes.Replace(good, []byte("\n\n"), []byte("\nmore\n\n"), 1),
		"another root":   bytes.Replace(good, base64.StdEncoding.AppendEncode(nil, root[:]), base64.StdEncoding.AppendEncode(nil, empty[:]), 1),
		"cut short":      good[:len(good)-9],
	} {
		if got, err := log.open(bad); err == nil {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for i := bytes.LastIndexByte(good, ' ') + 1; i < len(good)-4; i++ {
		bad := bytes.Clone(good)
		bad[i] ^= 1
		if _, err := log.open(bad); err == nil {
			t.Errorf("byte %d of the signature line is another, and it verifies", i)
		}
	}
}

// FuzzDataTile: whatever a data tile holds, its entries are framed as a bundle or it is refused.
func FuzzDataTile(f *testing.F) {
	leaf := append(make([]byte, 10), 0, 0, 1, 'x', 0, 0, 0, 0)
	f.Add(leaf)
	f.Add(append(append(bytes.Clone(leaf), leaf...), 0))
	pre := append(append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 1}, make([]byte, 32)...), 0, 0, 1, 'x', 0, 0, 0, 0, 1, 'y', 0, 0)
	f.Add(pre)
	f.Add(zipped(pre))
	f.Fuzz(func(t *testing.T, b []byte) {
		bundle, err := leavesOf(b)
		if err != nil {
			return
		}
		n := 0
		for at := 0; at < len(bundle); n++ {
			at += 2 + int(binary.BigEndian.Uint16(bundle[at:]))
		}
		if err := tiles.SplitBundle(bundle, n, func(int, []byte) error { return nil }); err != nil || n > tiles.Width {
			t.Fatal(n, err)
		}
	})
}
