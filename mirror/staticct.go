package mirror

import (
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"strings"

	"golang.org/x/crypto/cryptobyte"

	"redoubt.internal/mirror/parcel"
	"redoubt.internal/mirror/tiles"
)

// layoutStaticCT is a Certificate Transparency log as C2SP static-ct-api has it: tiles under their usual names, and data tiles of
// TileLeaf structures instead of entry bundles.
const layoutStaticCT = "static-ct"

// maxDataTile is the longest data tile taken, unpacked: chains are named by fingerprint, so that it holds a certificate an entry, or
// two.
const maxDataTile = 64 << 20

// staticCT reads such a log. Its entries become the MerkleTreeLeaf structures (RFC 6962, section 3.4) that the log hashes. What a
// TileLeaf has beside that, a pre-certificate and the fingerprints of the chain, is proven by nothing and is left out.
type staticCT struct{ place }

// Checkpoint reads checkpoint.
func (s staticCT) Checkpoint(ctx context.Context) ([]byte, error) {
	return s.fresh(ctx, "checkpoint", parcel.MaxCheckpoint, nil)
}

// Tile reads tile/<level>/<index>, and for entries tile/data/<index>.
func (s staticCT) Tile(ctx context.Context, t tiles.Tile, buf []byte) ([]byte, error) {
	if t.Level != tiles.Entries {
		return readTile(ctx, s.read, t, buf, tiles.Tile.Path)
	}
	bundles := func(ctx context.Context, name string, _ int64, _ []byte) ([]byte, error) {
		data, err := s.read(ctx, name, maxDataTile, nil)
		if err != nil {
			return nil, err
		}
		bundle, err := leavesOf(data)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: %w", ErrRemote, name, err)
		}
		return bundle, nil
	}
	return readTile(ctx, bundles, t, nil, func(t tiles.Tile) string { return strings.Replace(t.Path(), "tile/entries/", "tile/data/", 1) })
}

// leavesOf turns a data tile, which may be stored compressed, into an entry bundle.
//
//	TileLeaf:  TimestampedEntry; precert_entry: ASN.1Cert pre_certificate<1..2^24-1>;  Fingerprint certificate_chain<0..2^16-1>
//	TimestampedEntry:  uint64 timestamp;  uint16 entry_type: x509_entry(0) | precert_entry(1)
//	                   x509_entry: ASN.1Cert<1..2^24-1>;  precert_entry: opaque issuer_key_hash[32], TBSCertificate<1..2^24-1>
//	                   CtExtensions<0..2^16-1>
func leavesOf(data []byte) (bundle []byte, err error) {
	if bytes.HasPrefix(data, []byte{0x1f, 0x8b}) { // no timestamp begins so
		z, err := gzip.NewReader(bytes.NewReader(data))
		if err != nil {
			return nil, err
		}
		if data, err = io.ReadAll(io.LimitReader(z, maxDataTile+1)); err != nil {
			return nil, err
		}
		if len(data) > maxDataTile {
			return nil, fmt.Errorf("longer than %d bytes", maxDataTile)
		}
	}
	s := cryptobyte.String(data)
	for n := 0; !s.Empty(); n++ {
		begin := s
		var kind uint16
		var part cryptobyte.String
		ok := n < tiles.Width && s.Skip(8) && s.ReadUint16(&kind) && kind <= 1
		if ok && kind == 1 {
			ok = s.Skip(32)
		}
		ok = ok && s.ReadUint24LengthPrefixed(&part) && !part.Empty() && s.ReadUint16LengthPrefixed(&part)
		entry := begin[:len(begin)-len(s)]
		if ok && kind == 1 {
			ok = s.ReadUint24LengthPrefixed(&part) && !part.Empty()
		}
		if ok = ok && s.ReadUint16LengthPrefixed(&part) && len(part)%32 == 0; !ok {
			return nil, fmt.Errorf("entry %d is no TileLeaf", n)
		}
		if 2+len(entry) > tiles.MaxEntry {
			return nil, fmt.Errorf("entry %d has %d bytes, a bundle holds %d", n, 2+len(entry), tiles.MaxEntry)
		}
		bundle = tiles.AppendEntry(bundle, append([]byte{0, 0}, entry...)) // version v1, timestamped_entry
	}
	return bundle, nil
}
