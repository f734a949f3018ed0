package rekor

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"github.com/cyberphone/json-canonicalization/go/src/webpki.org/jsoncanonicalizer"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	pb "github.com/sigstore/rekor-tiles/v2/pkg/generated/protobuf"
	"github.com/sigstore/rekor-tiles/v2/pkg/types/hashedrekord"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/protobuf/encoding/protojson"

	"redoubt.internal/log"
)

// routesV2 is rekor_service.proto of rekor-tiles as its HTTP gateway serves it, and C2SP tlog-tiles at the root.
func (l *Log) routesV2(route func(string, http.HandlerFunc), mux *http.ServeMux) {
	handle := func(m string, serve func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			err := method(w, r, m)
			if err == nil {
				err = serve(w, r)
			}
			if err != nil {
				l.fail(w, r, writeErrorV2, err)
			}
		}
	}
	route("/api/v2/log/entries", handle(http.MethodPost, l.serveCreateV2))
	route("/healthz", handle(http.MethodGet, l.serveHealth))
	for _, prefix := range []string{"", "/api/v2"} {
		mux.HandleFunc(prefix+"/checkpoint", handle(http.MethodGet, l.serveCheckpoint))
		mux.Handle(prefix+"/tile/", http.StripPrefix(prefix+"/tile/", handle(http.MethodGet, l.serveTile)))
	}
}

// codes of google.rpc.Code by HTTP status, as the gRPC gateway pairs them.
var rpcCodes = map[int]int{
	http.StatusBadRequest: 3, http.StatusNotFound: 5, http.StatusConflict: 6, http.StatusRequestEntityTooLarge: 8,
	http.StatusMethodNotAllowed: 12, http.StatusNotImplemented: 12, http.StatusUnsupportedMediaType: 3, http.StatusInternalServerError: 13, http.StatusServiceUnavailable: 14,
}

func writeErrorV2(w http.ResponseWriter, code int, message string) {
	rpc, ok := rpcCodes[code]
	if !ok {
		rpc = 2 // unknown
	}
	WriteJSON(w, code, struct {
		Code    int        `json:"code"`
		Message string     `json:"message"`
		Details []struct{} `json:"details"`
	}{rpc, message, []struct{}{}})
}

// tle is dev.sigstore.rekor.v1.TransparencyLogEntry in protobuf JSON with every field written, as the gateway answers it: 64-bit numbers are
// strings, bytes base64.
type tle struct {
	LogIndex uint64 `json:"logIndex,string"`
	LogID    struct {
		KeyID []byte `json:"keyId"`
	} `json:"logId"`
	KindVersion struct {
		Kind    string `json:"kind"`
		Version string `json:"version"`
	} `json:"kindVersion"`
	IntegratedTime   int64     `json:"integratedTime,string"` // always 0: v2 vouches for no time
	InclusionPromise *struct{} `json:"inclusionPromise"`
	InclusionProof   struct {
		LogIndex   uint64   `json:"logIndex,string"`
		RootHash   []byte   `json:"rootHash"`
		TreeSize   uint64   `json:"treeSize,string"`
		Hashes     [][]byte `json:"hashes"`
		Checkpoint struct {
			Envelope string `json:"envelope"`
		} `json:"checkpoint"`
	} `json:"inclusionProof"`
	CanonicalizedBody []byte `json:"canonicalizedBody"`
}

func (l *Log) serveCreateV2(w http.ResponseWriter, r *http.Request) error {
	if l.disabled["createLogEntry"] {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.WriteHeader(http.StatusMethodNotAllowed)
		w.Write([]byte("This log has been frozen, please switch to the latest log.\n"))
		return nil
	}
	if !l.serves(V2) {
		return &errStatus{http.StatusNotImplemented, errors.New("this log takes entries through Rekor v1 only")}
	}
	body, err := l.readBody(w, r)
	if err != nil {
		return err
	}
	if err := l.c.Log.Err(); err != nil {
		return err
	}
	e, err := parseV2(body)
	if err != nil {
		return err
	}
	receipt, _, err := l.Add(r.Context(), e)
	var dup *log.DuplicateError
	if errors.As(err, &dup) {
		w.Header().Set("x-log-index", strconv.FormatUint(dup.Index, 10))
		return &errStatus{http.StatusConflict, fmt.Errorf("an equivalent entry already exists in the transparency log with index %d", dup.Index)}
	}
	if err != nil {
		return err
	}
	var t tle
	t.LogIndex = receipt.Index
	t.LogID.KeyID = l.logID[:]
	t.KindVersion.Kind, t.KindVersion.Version = e.Kind, e.Version
	t.InclusionProof.LogIndex = receipt.Index
	t.InclusionProof.RootHash = receipt.Checkpoint.Root[:]
	t.InclusionProof.TreeSize = receipt.Checkpoint.Size
	t.InclusionProof.Hashes = receipt.Proof
	if t.InclusionProof.Hashes == nil {
		t.InclusionProof.Hashes = [][]byte{}
	}
	t.InclusionProof.Checkpoint.Envelope = string(receipt.Checkpoint.Note)
	t.CanonicalizedBody = e.Body
	WriteJSON(w, http.StatusCreated, t)
	return nil
}

// allowed maps a keyDetails to the registry that admits it alone: the key must be what keyDetails says, size and curve included. It is
// rekor-tiles' default list without plain Ed25519, which signs a message and so has no digest to log.
var allowed = onlyThemselves(
	common.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
	common.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256,
	common.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
	common.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256,
	common.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
	common.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512,
	common.PublicKeyDetails_PKIX_ED25519_PH,
)

func onlyThemselves(details ...common.PublicKeyDetails) map[common.PublicKeyDetails]*signature.AlgorithmRegistryConfig {
	m := make(map[common.PublicKeyDetails]*signature.AlgorithmRegistryConfig)
	for _, d := range details {
		if c, err := signature.NewAlgorithmRegistryConfig([]common.PublicKeyDetails{d}); err == nil {
			m[d] = c
		}
	}
	return m
}

// parseV2 makes an entry of a v2 CreateEntryRequest. Every error is ErrEntry.
func parseV2(body []byte) (e *Entry, err error) {
	var req pb.CreateEntryRequest
	if err := protojson.Unmarshal(body, &req); err != nil {
		// The library varies the spaces of its messages so that nobody relies on them.
		return nil, fmt.Errorf("%w: %s", ErrEntry, strings.TrimPrefix(strings.ReplaceAll(err.Error(), "\u00a0", " "), "proto: "))
	}
	if req.GetDsseRequestV002() != nil {
		return nil, fmt.Errorf("%w: dsseRequestV002 is no longer taken by Rekor v2: log the envelope as hashedRekordRequestV002 over "+
			"the digest of its pre-authentication encoding, or use Rekor v1", ErrEntry)
	}
	hr := req.GetHashedRekordRequestV002()
	if hr == nil {
		return nil, fmt.Errorf("%w: invalid type, must be hashedrekord", ErrEntry)
	}
	verifier := hr.GetSignature().GetVerifier()
	registry, ok := allowed[verifier.GetKeyDetails()]
	if !ok {
		return nil, fmt.Errorf("%w: invalid hashedrekord request: keyDetails %s is not taken", ErrEntry, verifier.GetKeyDetails())
	}
	keys, err := verifierKeys(verifier)
	if err != nil {
		return nil, fmt.Errorf("%w: invalid hashedrekord request: %w", ErrEntry, err)
	}
	defer func() { // as in proposedV1
		if r := recover(); r != nil {
			e, err = nil, fmt.Errorf("%w: the hashedrekord parser gave up: %v", ErrEntry, r)
		}
	}()
	entry, err := hashedrekord.ToLogEntry(hr, registry)
	if err != nil {
		return nil, fmt.Errorf("%w: invalid hashedrekord request: %w", ErrEntry, err)
	}
	serialized, err := protojson.Marshal(entry)
	if err != nil {
		return nil, fmt.Errorf("%w: encoding the entry: %w", ErrEntry, err)
	}
	canonical, err := jsoncanonicalizer.Transform(serialized)
	if err != nil {
		return nil, fmt.Errorf("%w: canonicalising the entry: %w", ErrEntry, err)
	}
	keys = append(keys, digestName(len(hr.Digest))+":"+hex.EncodeToString(hr.Digest))
	return &Entry{Kind: entry.Kind, Version: entry.ApiVersion, Body: canonical, Keys: keys}, nil
}

// verifierKeys returns the search keys a verifier has in v1: the hash of its PEM form and the names in a certificate. It refuses weak keys.
func verifierKeys(v *pb.Verifier) ([]string, error) {
	switch {
	case v.GetX509Certificate() != nil:
		der := v.GetX509Certificate().GetRawBytes()
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, fmt.Errorf("certificate: %w", err)
		}
		return append([]string{pemDigest("CERTIFICATE", der)}, cryptoutils.GetSubjectAlternateNames(cert)...), checkKey(cert)
	case v.GetPublicKey() != nil:
		key, err := x509.ParsePKIXPublicKey(v.GetPublicKey().GetRawBytes())
		if err != nil {
			return nil, fmt.Errorf("public key: %w", err)
		}
		der := v.GetPublicKey().GetRawBytes()
		if len(der) != p256SPKI || !bytes.HasPrefix(der, p256Prefix) { // else encoding the key gives these bytes again
			if der, err = x509.MarshalPKIXPublicKey(key); err != nil { // as v1 canonicalises it
				return nil, fmt.Errorf("public key: %w", err)
			}
		}
		return []string{pemDigest("PUBLIC KEY", der)}, checkKey(key)
	}
	return nil, errors.New("missing signature public key or X.509 certificate")
}

// p256Prefix begins every SubjectPublicKeyInfo of an uncompressed P-256 point; the two coordinates follow (RFC 5480, 2.1.1).
var p256Prefix = []byte("\x30\x59\x30\x13\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07\x03\x42\x00\x04")

const p256SPKI = 27 + 2*32

func pemDigest(kind string, der []byte) string {
	sum := sha256.Sum256(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
	return hex.EncodeToString(sum[:])
}

func digestName(size int) string {
	switch size {
	case 48:
		return "sha384"
	case 64:
		return "sha512"
	}
	return "sha256"
}

func (l *Log) serveHealth(w http.ResponseWriter, r *http.Request) error {
	code, state := http.StatusOK, "SERVING"
	if l.c.Log.Err() != nil {
		code, state = http.StatusServiceUnavailable, "NOT_SERVING"
	}
	WriteJSON(w, code, struct {
		Status string `json:"status"`
	}{state})
	return nil
}
