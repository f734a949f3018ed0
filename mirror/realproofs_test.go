package mirror

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"redoubt.internal/log/store"
	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/spool"
	"redoubt.internal/mirror/tiles"
)

// TestRealProofs shows a mirror every inclusion proof of the real public bundles and entries, as verifying them would. They come from
// many files and years; where their paths meet they agree, and a flipped hash of any of them is refused.
func TestRealProofs(t *testing.T) {
	data := publicData(t, ".")
	keys := realKeys(t, filepath.Join(data, "roots"))
	var all []spool.Observation
	logs := make(map[string]LogConfig)
	for _, folder := range []string{"bundles", "entries"} {
		err := filepath.WalkDir(filepath.Join(data, folder), func(name string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(name) != ".json" {
				return err
			}
			b, err := os.ReadFile(name)
			for _, o := range realProofs(b) {
				o.Source = folder + "/" + d.Name()
				origin, _, _ := strings.Cut(string(o.Note), "\n")
				if _, known := logs[origin]; !known {
					vkey := signer(o.Note, keys)
					if vkey == "" {
						continue // of a test instance whose key is in no root
					}
					logs[origin] = LogConfig{Origin: origin, VKey: vkey, Scope: parcel.ScopeSparse}
				}
				o.Origin = origin
				all = append(all, o)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var configs []LogConfig
	for _, c := range logs {
		configs = append(configs, c)
	}
	l := newLab(t, configs...)
	total, shown := Confirmed{}, 0
	for _, o := range all {
		got, err := l.in.Observe(t.Context(), o)
		if errors.Is(err, ErrUnknownOrigin) || errors.Is(err, ErrProof) {
			continue // signed by a key of another root than the first of its origin
		}
		if err != nil {
			t.Fatalf("%s: %v", o.Source, err)
		}
		shown++
		total.Nodes, total.Known, total.New = total.Nodes+got.Nodes, total.Known+got.Known, total.New+got.New
		for i := range o.Proof {
			bad := o
			bad.Proof = append([]tiles.Hash(nil), o.Proof...)
			bad.Proof[i][0] ^= 1
			if _, err := l.in.Observe(t.Context(), bad); !errors.Is(err, ErrProof) {
				t.Fatalf("%s: hash %d flipped: %v", o.Source, i, err)
			}
		}
	}
	kept := 0
	if err := l.inDB.View(func(tx store.Tx) error {
		kept = 0
		return tx.Scan([]byte(keyNode), after(keyNode), func(_, _ []byte) bool { kept++; return true })
	}); err != nil {
		t.Fatal(err)
	}
	if kept != total.New || shown < 60 || total.Known == 0 {
		t.Fatalf("%d proofs shown, %+v, %d hashes kept", shown, total, kept)
	}
	t.Logf("%d of %d proofs of %d logs: %d distinct subtree hashes, %d confirmations, 0 conflicts", shown, len(all), len(logs), kept, total.Known)
}

// realKeys are the log keys of the trusted roots, as DER.
func realKeys(t *testing.T, dir string) (keys [][]byte) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatal("no roots", err)
	}
	for _, f := range files {
		var root struct {
			Tlogs []struct {
				PublicKey struct {
					RawBytes []byte `json:"rawBytes"`
				} `json:"publicKey"`
			} `json:"tlogs"`
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if json.Unmarshal(b, &root) == nil {
			for _, l := range root.Tlogs {
				keys = append(keys, l.PublicKey.RawBytes)
			}
		}
	}
	return keys
}

// signer returns the verifier line of the key that signed a checkpoint, "" if none of the keys did.
func signer(note []byte, keys [][]byte) string {
	_, lines, _ := strings.Cut(string(note), "\n\n")
	for line := range strings.Lines(lines) {
		f := strings.Fields(line)
		if len(f) != 3 {
			continue
		}
		for _, der := range keys {
			pub, err := x509.ParsePKIXPublicKey(der)
			if err != nil {
				continue
			}
			vkey, err := parcel.VerifierKey(f[1], pub)
			if err != nil {
				continue
			}
			v, err := parcel.NewVerifier(vkey)
			if err != nil {
				continue
			}
			if _, _, err := parcel.OpenNote(note, []*parcel.Verifier{v}); err == nil {
				return vkey
			}
		}
	}
	return ""
}

// realProofs reads the inclusion proofs of a Sigstore bundle or of Rekor v1 entries.
func realProofs(b []byte) (out []spool.Observation) {
	var bundle struct {
		VerificationMaterial struct {
			TlogEntries []struct {
				CanonicalizedBody []byte `json:"canonicalizedBody"`
				InclusionProof    struct {
					LogIndex   string   `json:"logIndex"`
					Hashes     [][]byte `json:"hashes"`
					Checkpoint struct {
						Envelope string `json:"envelope"`
					} `json:"checkpoint"`
				} `json:"inclusionProof"`
			} `json:"tlogEntries"`
		} `json:"verificationMaterial"`
	}
	if json.Unmarshal(b, &bundle) == nil {
		for _, e := range bundle.VerificationMaterial.TlogEntries {
			index, err := strconv.ParseUint(e.InclusionProof.LogIndex, 10, 64)
			if err == nil && e.InclusionProof.Checkpoint.Envelope != "" {
				out = append(out, spool.Observation{
					Note: []byte(e.InclusionProof.Checkpoint.Envelope), Index: index, Leaf: tiles.LeafHash(e.CanonicalizedBody), Proof: hashes(e.InclusionProof.Hashes),
				})
			}
		}
	}
	var entries map[string]struct {
		Body         string `json:"body"`
		Verification struct {
			InclusionProof struct {
				Checkpoint string   `json:"checkpoint"`
				Hashes     []string `json:"hashes"`
				LogIndex   uint64   `json:"logIndex"`
			} `json:"inclusionProof"`
		} `json:"verification"`
	}
	if json.Unmarshal(b, &entries) == nil {
		for _, e := range entries {
			body, err := base64.StdEncoding.DecodeString(e.Body)
			if p := e.Verification.InclusionProof; err == nil && p.Checkpoint != "" {
				var raw [][]byte
				for _, h := range p.Hashes {
					b, _ := hex.DecodeString(h)
					raw = append(raw, b)
				}
				out = append(out, spool.Observation{Note: []byte(p.Checkpoint), Index: p.LogIndex, Leaf: tiles.LeafHash(body), Proof: hashes(raw)})
			}
		}
	}
	return out
}

func hashes(raw [][]byte) (out []tiles.Hash) {
	for _, b := range raw {
		if len(b) == tiles.HashSize {
			out = append(out, tiles.Hash(b))
		}
	}
	return out
}
