package main

import (
	"context"
	"crypto"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	"github.com/sigstore/sigstore-go/pkg/tlog"
	"github.com/sigstore/sigstore/pkg/signature"
	"github.com/urfave/cli/v2"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/appliance/verify"
	"redoubt.internal/appliance/verifying"
	"redoubt.internal/mirror"
	"redoubt.internal/mirror/parcel"
)

func logResubmitCommand() *cli.Command {
	return &cli.Command{
		Name: "resubmit", Usage: "enter signatures whose entries a retired log lost into the log after it; each bundle is verified first, as the proof that the entry was there", ArgsUsage: "BUNDLE...",
		Description: "The bundles stay what clients verify: they prove the entry in the retired log. The new entry lets monitors and searches find the signature again.",
		Flags: []cli.Flag{cmdline.OutputFlag(),
			&cli.StringFlag{Name: "setup", Required: true, Usage: "folder of `redoubt client setup`, written after the log was retired", EnvVars: []string{"REDOUBT_SETUP"}}},
		Action: logResubmitAction,
	}
}

// resubmitted is one element of the JSON of `redoubt log resubmit -o json`.
type resubmitted struct {
	Bundle string `json:"bundle"`
	From   string `json:"from"` // host of the log the bundle proves the entry in
	Index  uint64 `json:"index"`
	Size   uint64 `json:"size"`         // of that log today
	To     string `json:"to,omitempty"` // host of the log it was entered into; none where the entry was never lost
	At     int64  `json:"at"`           // its log index there
	Reason string `json:"reason,omitempty"`
}

func logResubmitAction(c *cli.Context) error {
	if c.NArg() == 0 {
		return cmdline.Usage("log resubmit takes at least one BUNDLE")
	}
	s, err := openResubmission(c.String("setup"))
	if err != nil {
		return err
	}
	results, failed := []resubmitted{}, 0
	for _, path := range c.Args().Slice() {
		r, err := s.bundle(c.Context, path)
		if err != nil {
			if c.Context.Err() != nil {
				return err
			}
			failed++
			r.Reason = err.Error()
		}
		results = append(results, r)
	}
	if err := cmdline.PrintResult(c, results, func(w io.Writer) {
		for _, r := range results {
			r.print(w)
		}
	}); err != nil {
		return err
	}
	if failed > 0 {
		return fmt.Errorf("%d of %d bundles were not entered", failed, len(results))
	}
	return nil
}

func (r resubmitted) print(w io.Writer) {
	switch {
	case r.Reason != "":
		fmt.Fprintf(w, "FAILED  %s: %s\n", r.Bundle, r.Reason)
	case r.To == "":
		fmt.Fprintf(w, "there   %s: entry %d of %s, which has %d\n", r.Bundle, r.Index, r.From, r.Size)
	default:
		fmt.Fprintf(w, "entered %s: lost as entry %d of %s, now log index %d of %s\n", r.Bundle, r.Index, r.From, r.At, r.To)
	}
}

// resubmission is the services and the trust of one folder of client setup.
type resubmission struct {
	setup   string
	trusted *root.TrustedRoot
	rekor   map[uint32]string            // URL by API version
	heads   map[string]mirror.Checkpoint // by address
}

func openResubmission(setup string) (*resubmission, error) {
	s := &resubmission{setup: setup, rekor: map[uint32]string{}, heads: map[string]mirror.Checkpoint{}}
	var err error
	if s.trusted, err = root.NewTrustedRootFromPath(filepath.Join(setup, "trusted_root.json")); err != nil {
		return nil, fmt.Errorf("reading the trusted root: %w", err)
	}
	for version, name := range map[uint32]string{1: "signing_config.v0.2.json", 2: "signing_config_rekor_v2.v0.2.json"} {
		services, err := root.NewSigningConfigFromPath(filepath.Join(setup, name))
		if err != nil {
			return nil, fmt.Errorf("reading the signing config: %w", err)
		}
		service, err := root.SelectService(services.RekorLogURLs(), []uint32{version}, clock())
		if err != nil {
			return nil, fmt.Errorf("choosing the log: %w", err)
		}
		s.rekor[version] = service.URL
	}
	return s, nil
}

// bundle verifies one bundle and enters its signature where the log it was entered into lacks it.
func (s *resubmission) bundle(ctx context.Context, path string) (resubmitted, error) {
	r := resubmitted{Bundle: path}
	data, err := verifying.ReadBounded("bundle", path)
	if err != nil {
		return r, err
	}
	b := &protobundle.Bundle{}
	if err := protojson.Unmarshal(data, b); err != nil {
		return r, errors.New("it is no Sigstore bundle") // whatever it is, it is not shown
	}
	digest, err := signedDigest(b)
	if err != nil {
		return r, err
	}
	anybody := verify.Identity{SANRegexp: ".", IssuerRegexp: "."}
	result, err := verifying.Verify(ctx, verifying.Request{Artifact: digest, Bundle: path, Setup: s.setup, Identity: anybody})
	if err != nil {
		return r, fmt.Errorf("it proves nothing: %w", err)
	}
	proofs := result.Log()
	if len(proofs) != 1 || proofs[0].Index == nil || proofs[0].Origin == "" {
		return r, errors.New("it holds no inclusion proof")
	}
	host, _, _ := strings.Cut(proofs[0].Origin, " ")
	name, _, _ := strings.Cut(host, ".")
	r.From, r.Index = host, uint64(*proofs[0].Index)
	head, err := s.head(ctx, s.rekor[1]+"/logs/"+url.PathEscape(name)+"/checkpoint")
	if err != nil {
		return r, err
	}
	if head.Origin != host {
		return r, fmt.Errorf("the checkpoint of %s is of %s", host, head.Origin)
	}
	if r.Size = head.Size; r.Index < r.Size {
		return r, nil
	}
	return r, s.enter(ctx, b, wireVersion(proofs[0].Kind, proofs[0].Version), &r)
}

// wireVersion is the version of the Rekor API that takes entries of a kind. Version 0.0.2 of the kinds of v2 is v2's; of intoto it is v1's.
func wireVersion(kind, version string) uint32 {
	if version == "0.0.2" && (kind == "hashedrekord" || kind == "dsse") {
		return 2
	}
	return 1
}

// signedDigest is the digest a bundle speaks of, as `redoubt verify` takes it.
func signedDigest(b *protobundle.Bundle) (string, error) {
	if m := b.GetMessageSignature(); m != nil {
		name := strings.ReplaceAll(strings.ToLower(m.GetMessageDigest().GetAlgorithm().String()), "sha2_", "sha")
		return name + ":" + hex.EncodeToString(m.GetMessageDigest().GetDigest()), nil
	}
	var statement struct {
		Subject []struct {
			Digest map[string]string `json:"digest"`
		} `json:"subject"`
	}
	if err := json.Unmarshal(b.GetDsseEnvelope().GetPayload(), &statement); err != nil {
		return "", fmt.Errorf("reading the statement: %w", err)
	}
	for _, subject := range statement.Subject {
		for _, name := range []string{"sha256", "sha384", "sha512"} {
			if d := subject.Digest[name]; d != "" {
				return name + ":" + d, nil
			}
		}
	}
	return "", errors.New("its statement names no digest that is understood")
}

// head is the checkpoint at an address, asked for once.
func (s *resubmission) head(ctx context.Context, at string) (mirror.Checkpoint, error) {
	if h, ok := s.heads[at]; ok {
		return h, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return mirror.Checkpoint{}, err
	}
	client := http.Client{Timeout: clientTimeout}
	response, err := client.Do(request)
	if err != nil {
		return mirror.Checkpoint{}, cmdline.Unavailable(fmt.Errorf("asking for a checkpoint: %w", err))
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxReason))
	if err != nil || response.StatusCode != http.StatusOK {
		return mirror.Checkpoint{}, cmdline.Unavailable(fmt.Errorf("asking for a checkpoint: %s answered %s", at, response.Status))
	}
	h, err := s.checkpoint(body)
	if err != nil {
		return h, fmt.Errorf("the checkpoint at %s: %w", at, err)
	}
	s.heads[at] = h
	return h, nil
}

// checkpoint believes a checkpoint that is signed by the key the trusted root has for its origin.
func (s *resubmission) checkpoint(signed []byte) (mirror.Checkpoint, error) {
	var known []*parcel.Verifier
	for _, l := range s.trusted.RekorLogs() {
		base, err := url.Parse(l.BaseURL)
		if err != nil {
			return mirror.Checkpoint{}, err
		}
		line, err := parcel.VerifierKey(base.Hostname(), l.PublicKey)
		if err != nil {
			continue // of a kind that signs no checkpoints
		}
		key, err := parcel.NewVerifier(line)
		if err != nil {
			return mirror.Checkpoint{}, err
		}
		known = append(known, key)
	}
	text, by, err := parcel.OpenNote(signed, known)
	if err != nil {
		return mirror.Checkpoint{}, err
	}
	h, err := mirror.ParseCheckpoint(text)
	if err == nil && h.Origin != by.Name() {
		err = fmt.Errorf("it is of %.100q and signed by the key of %s", h.Origin, by.Name())
	}
	return h, err
}

// alreadyThere is what the v2 log says of an entry it has.
var alreadyThere = regexp.MustCompile(`equivalent entry already exists in the transparency log with index ([0-9]{1,18})\b`)

// there notes that an earlier run entered it.
func (s *resubmission) there(ctx context.Context, index string, r *resubmitted) error {
	head, err := s.head(ctx, s.rekor[2]+"/api/v2/checkpoint")
	if err == nil {
		r.At, err = strconv.ParseInt(index, 10, 64)
	}
	r.To = head.Origin
	return err
}

// enter submits the signature of b and proves what the log answers.
func (s *resubmission) enter(ctx context.Context, b *protobundle.Bundle, version uint32, r *resubmitted) error {
	certificate := b.GetVerificationMaterial().GetCertificate().GetRawBytes()
	if chain := b.GetVerificationMaterial().GetX509CertificateChain().GetCertificates(); len(chain) > 0 {
		certificate = chain[0].GetRawBytes()
	}
	if certificate == nil {
		return errors.New("it is signed by a key without a certificate; submit it with rekor-cli")
	}
	again := proto.Clone(b).(*protobundle.Bundle)
	again.VerificationMaterial.TlogEntries = nil
	log := sign.NewRekor(&sign.RekorOptions{BaseURL: s.rekor[version], Timeout: clientTimeout, Version: version})
	if err := log.GetTransparencyLogEntry(ctx, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), again); err != nil {
		if there := alreadyThere.FindStringSubmatch(err.Error()); version == 2 && there != nil {
			return s.there(ctx, there[1], r)
		}
		return cmdline.Unavailable(fmt.Errorf("entering it: %w", err))
	}
	answer := again.VerificationMaterial.TlogEntries[0]
	entry, err := tlog.ParseTransparencyLogEntry(answer)
	if err != nil {
		return fmt.Errorf("reading the log's answer: %w", err)
	}
	known, ok := s.trusted.RekorLogs()[hex.EncodeToString(answer.GetLogId().GetKeyId())]
	if !ok {
		return errors.New("the log that answered is not in the trusted root: was --setup written after the log was retired?")
	}
	base, err := url.Parse(known.BaseURL)
	if err != nil {
		return err
	}
	verifier, err := signature.LoadVerifier(known.PublicKey, crypto.SHA256)
	if err != nil {
		return err
	}
	if version == 1 {
		err = tlog.VerifyInclusion(entry, verifier)
	} else {
		err = tlog.VerifyCheckpointAndInclusion(entry, verifier, base.Hostname())
	}
	if err != nil {
		return fmt.Errorf("proving the log's answer: %w", err)
	}
	r.To, r.At = base.Hostname(), answer.GetLogIndex()
	return nil
}
