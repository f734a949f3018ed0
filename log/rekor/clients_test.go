package rekor_test

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/go-openapi/strfmt"
	"github.com/go-openapi/swag/conv"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	rekorclient "github.com/sigstore/rekor/pkg/client"
	generated "github.com/sigstore/rekor/pkg/generated/client"
	"github.com/sigstore/rekor/pkg/generated/client/entries"
	"github.com/sigstore/rekor/pkg/generated/client/index"
	"github.com/sigstore/rekor/pkg/generated/client/pubkey"
	"github.com/sigstore/rekor/pkg/generated/client/tlog"
	"github.com/sigstore/rekor/pkg/generated/models"
	"github.com/sigstore/rekor/pkg/types"
	hashedrekordtype "github.com/sigstore/rekor/pkg/types/hashedrekord"
	rekordtype "github.com/sigstore/rekor/pkg/types/rekord"
	"github.com/sigstore/rekor/pkg/util"
	"github.com/sigstore/rekor/pkg/verify"
	"github.com/sigstore/sigstore-go/pkg/root"
	"github.com/sigstore/sigstore-go/pkg/sign"
	gotlog "github.com/sigstore/sigstore-go/pkg/tlog"
)

// rekorClient is the client of rekor-cli and cosign.
func (r *rig) rekorClient() *generated.Rekor {
	r.t.Helper()
	return must(rekorclient.GetRekorClient(r.url, rekorclient.WithRetryCount(0), rekorclient.WithUserAgent("test")))
}

// TestRekorClient walks the paths of rekor-cli through Rekor's generated client: upload, again, get, search, loginfo, logproof, publicKey.
func TestRekorClient(t *testing.T) {
	r := newRig(t)
	c := r.rekorClient()
	ctx := context.Background()
	key := generate(t)
	upload := func(artifact string) (*entries.CreateLogEntryCreated, models.ProposedEntry, error) {
		digest := sha256.Sum256([]byte(artifact))
		p := types.ArtifactProperties{
			PKIFormat: "x509", PublicKeyBytes: [][]byte{pemKey(key.Public())}, SignatureBytes: signDigest(key, digest[:], crypto.SHA256),
			ArtifactHash: "sha256:" + hex.EncodeToString(digest[:]),
		}
		proposed := must(hashedrekordtype.New().CreateProposedEntry(ctx, "", p))
		created, err := c.Entries.CreateLogEntry(entries.NewCreateLogEntryParams().WithProposedEntry(proposed))
		return created, proposed, err
	}
	created, proposed, err := upload("one")
	if err != nil {
		t.Fatal(err)
	}
	entry, ok := created.Payload[created.ETag]
	if !ok {
		t.Fatalf("no entry under ETag %s", created.ETag)
	}
	if err := verify.VerifyLogEntry(ctx, &entry, r.verifier()); err != nil {
		t.Fatal(err)
	}
	_, err = c.Entries.CreateLogEntry(entries.NewCreateLogEntryParams().WithProposedEntry(proposed))
	var conflict *entries.CreateLogEntryConflict
	if !errors.As(err, &conflict) || !strings.HasSuffix(conflict.Location.String(), created.ETag) {
		t.Fatalf("again: %v", err)
	}
	got, err := c.Entries.GetLogEntryByUUID(entries.NewGetLogEntryByUUIDParams().WithEntryUUID(created.ETag))
	if err != nil || got.Payload[created.ETag].Body != entry.Body {
		t.Fatal(err)
	}
	if _, err := c.Entries.GetLogEntryByUUID(entries.NewGetLogEntryByUUIDParams().WithEntryUUID(strings.Repeat("a", 64))); err == nil {
		t.Error("an absent entry was found")
	} else if notFound := new(entries.GetLogEntryByUUIDNotFound); !errors.As(err, &notFound) {
		t.Errorf("absent: %v", err)
	}
	if _, err := c.Entries.GetLogEntryByIndex(entries.NewGetLogEntryByIndexParams().WithLogIndex(0)); err != nil {
		t.Error(err)
	}
	query := new(models.SearchLogQuery)
	query.SetEntries([]models.ProposedEntry{proposed})
	found, err := c.Entries.SearchLogQuery(entries.NewSearchLogQueryParams().WithEntry(query))
	if err != nil || len(found.Payload) != 1 {
		t.Fatalf("retrieve by content: %v", err)
	}
	digest := sha256.Sum256([]byte("one"))
	ids, err := c.Index.SearchIndex(index.NewSearchIndexParams().WithQuery(&models.SearchIndex{
		Hash: hex.EncodeToString(digest[:]), Email: strfmt.Email(""),
		PublicKey: &models.SearchIndexPublicKey{Format: conv.Pointer("x509"), Content: strfmt.Base64(pemKey(key.Public()))},
	}))
	if err != nil || len(ids.Payload) != 1 || ids.Payload[0] != created.ETag {
		t.Fatalf("search: %v, %v", ids, err)
	}
	info, err := c.Tlog.GetLogInfo(tlog.NewGetLogInfoParams())
	if err != nil {
		t.Fatal(err)
	}
	var old util.SignedCheckpoint
	if err := old.UnmarshalText([]byte(*info.Payload.SignedTreeHead)); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if _, _, err := upload(fmt.Sprint("more ", i)); err != nil {
			t.Fatal(err)
		}
	}
	sth, err := verify.VerifyCurrentCheckpoint(ctx, c, r.verifier(), &old) // what rekor-cli loginfo does with its stored state
	if err != nil || sth.Size != 6 {
		t.Fatalf("consistency: %v", err)
	}
	pem, err := c.Pubkey.GetPublicKey(pubkey.NewGetPublicKeyParams())
	if err != nil || pem.Payload != string(pemKey(r.key.Public())) {
		t.Fatalf("public key: %v", err)
	}
	// rekord, as rekor-cli makes it of a file.
	sum := sha256.Sum256([]byte("file"))
	file, err := rekordtype.New().CreateProposedEntry(ctx, "", types.ArtifactProperties{
		PKIFormat: "x509", PublicKeyBytes: [][]byte{pemKey(key.Public())}, SignatureBytes: signDigest(key, sum[:], crypto.SHA256), ArtifactBytes: []byte("file"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Entries.CreateLogEntry(entries.NewCreateLogEntryParams().WithProposedEntry(file)); err != nil {
		t.Fatal(err)
	}
}

// TestSigstoreGo signs through sigstore-go's transparency client at both versions and verifies with its verifier: promise, inclusion, checkpoint.
func TestSigstoreGo(t *testing.T) {
	r := newRig(t)
	key := generate(t)
	cert := certify(t, key.Public(), "dev@corp.example")
	digest := sha256.Sum256([]byte("artifact"))
	id := r.log.ID()
	logs := map[string]*root.TransparencyLog{hex.EncodeToString(id[:]): {
		BaseURL: "https://" + host, ID: id[:], HashFunc: crypto.SHA256, PublicKey: r.key.Public(), SignatureHashFunc: crypto.SHA256,
		ValidityPeriodStart: time.Now().Add(-time.Hour),
	}}
	st := statement(strings.Repeat("1", 64))
	attested := sha256.Sum256(pae(inTotoType, st))
	for _, version := range []uint32{1, 2} {
		for name, content := range map[string]func(*protobundle.Bundle){
			"message": func(b *protobundle.Bundle) {
				b.Content = &protobundle.Bundle_MessageSignature{MessageSignature: &common.MessageSignature{
					MessageDigest: &common.HashOutput{Algorithm: common.HashAlgorithm_SHA2_256, Digest: digest[:]},
					Signature:     signDigest(key, digest[:], crypto.SHA256),
				}}
			},
			"dsse": func(b *protobundle.Bundle) {
				b.Content = &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
					Payload: st, PayloadType: inTotoType, Signatures: []*protodsse.Signature{{Sig: signDigest(key, attested[:], crypto.SHA256)}},
				}}
			},
		} {
			b := &protobundle.Bundle{VerificationMaterial: &protobundle.VerificationMaterial{
				Content: &protobundle.VerificationMaterial_Certificate{Certificate: &common.X509Certificate{RawBytes: cert}},
			}}
			content(b)
			c := sign.NewRekor(&sign.RekorOptions{BaseURL: r.url, Version: version})
			if err := c.GetTransparencyLogEntry(t.Context(), pemCert(cert), b); err != nil {
				t.Fatalf("v%d %s: %v", version, name, err)
			}
			e, err := gotlog.ParseTransparencyLogEntry(b.VerificationMaterial.TlogEntries[0])
			if err != nil {
				t.Fatalf("v%d %s: %v", version, name, err)
			}
			if version == 1 {
				if !e.HasInclusionPromise() || e.IntegratedTime().IsZero() {
					t.Errorf("v1 %s: no promise", name)
				}
				if err := gotlog.VerifySET(e, logs); err != nil {
					t.Errorf("v1 %s: %v", name, err)
				}
				if err := gotlog.VerifyInclusion(e, r.verifier()); err != nil {
					t.Errorf("v1 %s: %v", name, err)
				}
			} else {
				if !e.IsRekorV2() {
					t.Errorf("v2 %s is not seen as Rekor v2", name)
				}
				if err := gotlog.VerifyCheckpointAndInclusion(e, r.verifier(), host); err != nil {
					t.Errorf("v2 %s: %v", name, err)
				}
			}
			if err := gotlog.ValidateEntry(e); err != nil {
				t.Errorf("v%d %s: %v", version, name, err)
			}
			// The same bundle again: v1 finds the first entry, v2 says conflict.
			again := sign.NewRekor(&sign.RekorOptions{BaseURL: r.url, Version: version}).GetTransparencyLogEntry(t.Context(), pemCert(cert), b)
			if (again != nil) != (version == 2) {
				t.Errorf("v%d %s again: %v", version, name, again)
			}
		}
	}
}
