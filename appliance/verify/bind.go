package verify

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"time"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protorekor "github.com/sigstore/protobuf-specs/gen/pb-go/rekor/v1"
	"github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sgverify "github.com/sigstore/sigstore-go/pkg/verify"
	merkle "github.com/transparency-dev/merkle/proof"
	"github.com/transparency-dev/merkle/rfc6962"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/log/strictjson"
)

// treeHead is a checkpoint origin of Rekor v1: host, " - ", tree id.
var treeHead = regexp.MustCompile(`.* - [0-9]+$`)

// knowsLog refuses a bundle whose entries are all of logs the root does not know.
func (r *trustedRoot) knowsLog(b *decoded) error {
	entries := b.GetVerificationMaterial().GetTlogEntries()
	if len(entries) == 0 {
		return fmt.Errorf("%w: the bundle holds no log entry", ErrLogProof)
	}
	for _, e := range entries {
		if _, ok := r.RekorLogs()[hex.EncodeToString(e.GetLogId().GetKeyId())]; ok {
			return nil
		}
	}
	return fmt.Errorf("%w: the root does not know the log %x", ErrUntrusted, entries[0].GetLogId().GetKeyId())
}

// bindEntries checks, for each entry of a log the root knows, the fields that
// sigstore-go reads without comparing, and returns what was proven. Entries of
// unknown logs bear no weight; they are counted, not believed.
func bindEntries(r *trustedRoot, b *decoded, times []sgverify.TimestampVerificationResult, material root.TrustedMaterial, p *policy) (logProofs, error) {
	var out logProofs
	if p.WithoutLog {
		return out, nil
	}
	entries := b.GetVerificationMaterial().GetTlogEntries()
	for i, e := range entries {
		l, ok := r.RekorLogs()[hex.EncodeToString(e.GetLogId().GetKeyId())]
		if !ok {
			out.Ignored++
			continue
		}
		if len(entries) > 1 { // sigstore-go skips an entry whose promise fails; alone it cannot
			if err := verifyAlone(b, e, material); err != nil {
				return out, fmt.Errorf("%w: entry %d: %w", ErrLogProof, i, err)
			}
		}
		proven, err := bindEntry(e, l)
		if err != nil {
			return out, fmt.Errorf("entry %d: %w", i, err)
		}
		if !l.ValidityPeriodEnd.IsZero() {
			for _, t := range times {
				if t.Timestamp.After(l.ValidityPeriodEnd) {
					return out, fmt.Errorf("entry %d: %w: signed %s, the log's key ended %s", i, ErrTime, t.Timestamp.UTC().Format(time.RFC3339), l.ValidityPeriodEnd.UTC().Format(time.RFC3339))
				}
			}
		}
		out.Proven = append(out.Proven, proven)
	}
	if len(out.Proven) == 0 {
		return out, fmt.Errorf("%w: no entry of a known log", ErrLogProof)
	}
	return out, nil
}

// verifyAlone runs sigstore-go's log verification over one entry of several.
func verifyAlone(b *decoded, e *protorekor.TransparencyLogEntry, material root.TrustedMaterial) error {
	single := proto.Clone(b.Bundle.Bundle).(*protobundle.Bundle)
	single.VerificationMaterial.TlogEntries = []*protorekor.TransparencyLogEntry{e}
	entity, err := bundle.NewBundle(single)
	if err != nil {
		return err
	}
	_, err = sgverify.VerifyTlogEntry(&decoded{Bundle: entity, content: b.content}, material, 1, true)
	return err
}

// bindEntry holds the fields around an entry to the body and the checkpoint,
// which the log signed.
func bindEntry(e *protorekor.TransparencyLogEntry, l *root.TransparencyLog) (LogProof, error) {
	bad := func(format string, args ...any) (LogProof, error) {
		return LogProof{}, fmt.Errorf("%w: %w", ErrLogProof, fmt.Errorf(format, args...))
	}
	body := e.GetCanonicalizedBody()
	if err := strictjson.Check(body, strictjson.Limits{Bytes: maxBody, Depth: 32, Values: 10_000}); err != nil {
		return bad("entry body: %w", err)
	}
	var head struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := json.Unmarshal(body, &head); err != nil {
		return bad("entry body: %w", err)
	}
	if kv := e.GetKindVersion(); kv.GetKind() != head.Kind || kv.GetVersion() != head.APIVersion {
		return bad("entry calls itself %s %s, its body is %s %s", kv.GetKind(), kv.GetVersion(), head.Kind, head.APIVersion)
	}
	v2 := head.Kind == "hashedrekord" && head.APIVersion == "0.0.2"
	promise := len(e.GetInclusionPromise().GetSignedEntryTimestamp()) > 0
	if !promise && e.GetIntegratedTime() != 0 {
		return LogProof{}, fmt.Errorf("%w: integrated time without the log's promise over it", ErrTime)
	}
	if v2 && promise {
		return bad("promise on a Rekor v2 entry")
	}
	p := LogProof{LogID: hex.EncodeToString(l.ID), BaseURL: l.BaseURL, Kind: head.Kind, Version: head.APIVersion, Promise: promise}
	if promise {
		at := time.Unix(e.GetIntegratedTime(), 0).UTC()
		p.IntegratedTime, p.EntryIndex = &at, &e.LogIndex
	}
	proof := e.GetInclusionProof()
	if proof == nil {
		if !promise { // as with every entry of Rekor v2
			return bad("neither proof nor promise")
		}
		return p, nil
	}
	return bindProof(p, e, l, v2)
}

// bindProof holds the proof's own fields to the signed checkpoint, and the kind
// of body to the kind of checkpoint. sigstore-go compares a Rekor v2 body with
// the bundle only under a v2 checkpoint: under a v1 checkpoint of a tree that
// holds both kinds, anybody's v2 entry would do.
func bindProof(p LogProof, e *protorekor.TransparencyLogEntry, l *root.TransparencyLog, v2 bool) (LogProof, error) {
	bad := func(format string, args ...any) (LogProof, error) {
		return LogProof{}, fmt.Errorf("%w: %w", ErrLogProof, fmt.Errorf(format, args...))
	}
	proof := e.GetInclusionProof()
	origin, size, hash, err := parseCheckpoint(proof.GetCheckpoint().GetEnvelope())
	if err != nil {
		return bad("checkpoint: %w", err)
	}
	if err := checkNoteName(proof.GetCheckpoint().GetEnvelope(), origin, l.ID); err != nil {
		return bad("checkpoint: %w", err)
	}
	if uint64(proof.GetTreeSize()) != size || !bytes.Equal(proof.GetRootHash(), hash) {
		return bad("the proof's tree size or root is not that of the checkpoint")
	}
	if v2 == treeHead.MatchString(origin) {
		return bad("entry of one Rekor generation under a checkpoint of the other")
	}
	if v2 {
		u, err := url.Parse(l.BaseURL)
		if err != nil || u.Hostname() != origin {
			return bad("checkpoint of %.100q, the log is %s", origin, l.BaseURL)
		}
		if proof.GetLogIndex() != e.GetLogIndex() {
			return bad("two different indices for one entry")
		}
	}
	// sigstore-go proves a v2 entry by a hash it builds from the bundle and leaves
	// the body alone; here the body itself is proven, at an index within the tree.
	if err := merkle.VerifyInclusion(rfc6962.DefaultHasher, uint64(proof.GetLogIndex()), size, rfc6962.DefaultHasher.HashLeaf(e.GetCanonicalizedBody()), proof.GetHashes(), hash); err != nil {
		return bad("entry body: %w", err)
	}
	index := proof.GetLogIndex()
	p.Index, p.TreeSize, p.RootHash, p.Origin = &index, size, hex.EncodeToString(hash), origin
	return p, nil
}

// parseCheckpoint reads the signed text of a checkpoint (C2SP tlog-checkpoint):
// origin, size, root. Its signature was verified before.
func parseCheckpoint(envelope string) (origin string, size uint64, hash []byte, err error) {
	lines := strings.SplitN(envelope, "\n", 4)
	if len(lines) < 4 || lines[0] == "" {
		return "", 0, nil, errors.New("fewer than three lines")
	}
	size, err = strconv.ParseUint(lines[1], 10, 63)
	if err != nil || lines[1] != strconv.FormatUint(size, 10) {
		return "", 0, nil, errors.New("tree size is not a plain number")
	}
	hash, err = base64.StdEncoding.Strict().DecodeString(lines[2])
	if err != nil || len(hash) != 32 {
		return "", 0, nil, errors.New("root is not 32 bytes in base64")
	}
	return lines[0], size, hash, nil
}

// checkNoteName holds the name in the log's own signature line to the origin:
// the host before " - " of a v1 origin, else the origin. The verifier of v1
// checkpoints goes by the key alone. Lines of other keys are cosignatures, which
// bear no weight here.
func checkNoteName(envelope, origin string, logID []byte) error {
	name, _, _ := strings.Cut(origin, " - ")
	_, lines, _ := strings.Cut(envelope, "\n\n")
	if len(logID) < 4 {
		return errors.New("no id of a log")
	}
	found := false
	for line := range strings.Lines(lines) {
		line, ended := strings.CutSuffix(line, "\n")
		rest, dash := strings.CutPrefix(line, "\u2014 ")
		i := strings.LastIndexByte(rest, ' ')
		if !ended || !dash || i < 1 {
			return errors.New("malformed signature line")
		}
		sig, err := base64.StdEncoding.Strict().DecodeString(rest[i+1:])
		if err != nil || len(sig) < 5 || strings.ContainsRune(line, '\r') { // the decoder would skip it
			return errors.New("malformed signature line")
		}
		if !bytes.Equal(sig[:4], logID[:4]) {
			continue
		}
		if rest[:i] != name {
			return fmt.Errorf("signed as %.100q, its origin is %.100q", rest[:i], origin)
		}
		found = true
	}
	if !found {
		return errors.New("no signature of the log's key")
	}
	return nil
}

// bindChain refuses certificates beside the leaf that the root does not hold:
// nothing would have verified them.
func bindChain(r *trustedRoot, b *decoded) error {
	certs := b.GetVerificationMaterial().GetX509CertificateChain().GetCertificates()
	for i := 1; i < len(certs); i++ {
		if !containsRaw(r.caCerts, certs[i].GetRawBytes()) {
			return fmt.Errorf("%w: certificate %d of the bundle's chain is not in the trusted root", ErrUntrusted, i)
		}
	}
	return nil
}
