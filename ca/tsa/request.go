package tsa

import (
	"crypto"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"github.com/digitorus/timestamp"

	"redoubt.internal/log/strictjson"
)

// Limits of a request, in bytes. A request of stock clients has 60 to 130.
const (
	maxQuery    = 4096 // DER TimeStampReq
	maxJSON     = 1024 // JSON form
	maxNonce    = 64   // content octets of the nonce
	maxPolicy   = 64   // content octets, or characters, of the policy OID
	maxOIDParts = 32
)

// Request is a timestamp request that passed the checks of this package.
type Request struct {
	Hash    crypto.Hash // SHA-256, SHA-384 or SHA-512
	Imprint []byte      // digest of Hash's size
	Policy  asn1.ObjectIdentifier
	Nonce   *big.Int
	CertReq bool
}

// hashes maps the DER content octets of the hash OIDs we take (RFC 5754) and of
// those we name when refusing (RFC 3279).
var hashes = map[string]crypto.Hash{
	"\x60\x86\x48\x01\x65\x03\x04\x02\x01": crypto.SHA256,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x02": crypto.SHA384,
	"\x60\x86\x48\x01\x65\x03\x04\x02\x03": crypto.SHA512,
	"\x2b\x0e\x03\x02\x1a":                 crypto.SHA1,
	"\x2a\x86\x48\x86\xf7\x0d\x02\x05":     crypto.MD5,
}

func checkHash(h crypto.Hash, imprint int) error {
	switch h {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	case crypto.SHA1, crypto.MD5:
		return ErrWeakHash
	default:
		return fmt.Errorf("%w: unknown hash algorithm", ErrRequest)
	}
	if imprint != h.Size() {
		return fmt.Errorf("%w: imprint of %d bytes, %s has %d", ErrRequest, imprint, h, h.Size())
	}
	return nil
}

// ParseDER reads a TimeStampReq (RFC 3161 2.4.1). Every element is checked for
// place, size and encoding before the library's parser sees the bytes.
// Extensions are refused: we know none, and an unknown one may change what is asked.
func ParseDER(der []byte) (*Request, error) {
	if err := checkDER(der); err != nil {
		return nil, err
	}
	r, err := timestamp.ParseRequest(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	if err := checkHash(r.HashAlgorithm, len(r.HashedMessage)); err != nil {
		return nil, err
	}
	return &Request{Hash: r.HashAlgorithm, Imprint: r.HashedMessage, Policy: r.TSAPolicyOID, Nonce: r.Nonce, CertReq: r.Certificates}, nil
}

func checkDER(der []byte) error {
	bad := func(what string) error { return fmt.Errorf("%w: %s", ErrRequest, what) }
	if len(der) > maxQuery {
		return bad("request too large")
	}
	s := cryptobyte.String(der)
	var req, imprint, alg, oid, digest, elem cryptobyte.String
	var version int64
	if !s.ReadASN1(&req, cbasn1.SEQUENCE) || !s.Empty() {
		return bad("not one DER TimeStampReq")
	}
	if !req.ReadASN1Integer(&version) || version != 1 {
		return bad("version is not 1")
	}
	if !req.ReadASN1(&imprint, cbasn1.SEQUENCE) || !imprint.ReadASN1(&alg, cbasn1.SEQUENCE) ||
		!imprint.ReadASN1(&digest, cbasn1.OCTET_STRING) || !imprint.Empty() {
		return bad("bad message imprint")
	}
	if !alg.ReadASN1(&oid, cbasn1.OBJECT_IDENTIFIER) {
		return bad("bad hash algorithm")
	}
	if !alg.Empty() && (!alg.ReadASN1(&elem, cbasn1.NULL) || !elem.Empty() || !alg.Empty()) {
		return bad("hash algorithm with parameters")
	}
	if err := checkHash(hashes[string(oid)], len(digest)); err != nil {
		return err
	}
	if req.PeekASN1Tag(cbasn1.OBJECT_IDENTIFIER) && (!req.ReadASN1(&elem, cbasn1.OBJECT_IDENTIFIER) || len(elem) == 0 || len(elem) > maxPolicy) {
		return bad("bad policy")
	}
	if req.PeekASN1Tag(cbasn1.INTEGER) {
		if n := new(big.Int); !req.ReadASN1Integer(n) || n.BitLen() > 8*maxNonce {
			return bad("bad nonce")
		}
	}
	// An explicit FALSE is not DER for a DEFAULT, but harmless and seen in the field.
	if req.PeekASN1Tag(cbasn1.BOOLEAN) && !req.ReadASN1Boolean(new(bool)) {
		return bad("bad certReq")
	}
	if !req.Empty() {
		return bad("extensions or unknown elements")
	}
	return nil
}

// jsonRequest is the JSON form of the public timestamp server (its
// pkg/api/timestamp.go, JSONRequest).
type jsonRequest struct {
	ArtifactHash  string   `json:"artifactHash"` // base64
	Certificates  bool     `json:"certificates"`
	HashAlgorithm string   `json:"hashAlgorithm"` // sha256, sha384, sha512
	Nonce         *big.Int `json:"nonce"`
	TSAPolicyOID  string   `json:"tsaPolicyOID"` // dotted decimal
}

// ParseJSON reads the JSON form of a request, at most 1 KiB.
func ParseJSON(data []byte) (*Request, error) {
	var j jsonRequest
	if err := strictjson.Decode(data, strictjson.Limits{Bytes: maxJSON, Depth: 4}, &j); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrRequest, err)
	}
	h := map[string]crypto.Hash{"sha256": crypto.SHA256, "sha384": crypto.SHA384, "sha512": crypto.SHA512, "sha1": crypto.SHA1, "md5": crypto.MD5}[strings.ToLower(j.HashAlgorithm)]
	digest, err := base64.StdEncoding.Strict().DecodeString(j.ArtifactHash)
	if err != nil {
		return nil, fmt.Errorf("%w: artifactHash: %w", ErrRequest, err)
	}
	if err := checkHash(h, len(digest)); err != nil {
		return nil, err
	}
	if j.Nonce != nil && j.Nonce.BitLen() > 8*maxNonce {
		return nil, fmt.Errorf("%w: nonce too large", ErrRequest)
	}
	r := &Request{Hash: h, Imprint: digest, Nonce: j.Nonce, CertReq: j.Certificates}
	if j.TSAPolicyOID != "" {
		if r.Policy, err = parseOID(j.TSAPolicyOID); err != nil {
			return nil, err
		}
	}
	return r, nil
}

func parseOID(s string) (asn1.ObjectIdentifier, error) {
	if len(s) > maxPolicy || strings.Count(s, ".") >= maxOIDParts {
		return nil, fmt.Errorf("%w: policy OID too long", ErrRequest)
	}
	var oid asn1.ObjectIdentifier
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 31)
		if err != nil || part != strconv.FormatUint(n, 10) {
			return nil, fmt.Errorf("%w: policy OID is not dotted decimal", ErrRequest)
		}
		oid = append(oid, int(n))
	}
	if _, err := asn1.Marshal(oid); err != nil {
		return nil, fmt.Errorf("%w: policy OID: %w", ErrRequest, err)
	}
	return oid, nil
}
