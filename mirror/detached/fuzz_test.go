package detached

import (
	"encoding/json"
	"errors"
	"testing"

	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

// FuzzBundle: parts of a stranger's choosing end in ErrForm or in JSON that reads as a bundle and bears the signature.
func FuzzBundle(f *testing.F) {
	f.Add([]byte(`{"base64Signature":"AAAA","cert":"","rekorBundle":null}`), []byte("MAA="), []byte(`{"SignedRFC3161Timestamp":"MAA="}`), []byte("c2ln"))
	f.Add([]byte(`{"base64Signature":"AAAA","rekorBundle":{"SignedEntryTimestamp":"AAAA","Payload":{"body":"e30=","integratedTime":1,"logIndex":2,"logID":"00"}}}`), []byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), []byte{0x30, 0}, []byte(`{"payloadType":"a","payload":"AAAA","signatures":[{"sig":"AAAA"}]}`))
	f.Add([]byte(`{}`), []byte("-----BEGIN PUBLIC KEY-----\nMAA=\n-----END PUBLIC KEY-----\n"), []byte(" "), []byte{0xff})
	f.Add([]byte(`{"base64Signature":"AAAA","rekorBundle":{"00":{"body":"e30=","integratedTime":1,"logIndex":2,"logID":"00","verification":{"inclusionProof":{"checkpoint":"a","hashes":["00"],"rootHash":"00","treeSize":1},"signedEntryTimestamp":"AAAA"}}}}`), []byte{}, []byte{}, []byte("c2ln"))
	f.Add([]byte(`{"base64Signature":"AAAA","rekorBundle":{"logId":{"keyId":"AAAA"},"canonicalizedBody":"e30=","inclusionPromise":{"signedEntryTimestamp":"AAAA"}}}`), []byte{}, []byte{}, []byte("c2ln"))
	f.Fuzz(func(t *testing.T, bundle, certificate, timestamp, signature []byte) {
		apart := Signature{Certificate: certificate, Timestamp: timestamp}
		apart.Set(signature)
		whole, ok, err := FromBundle(bundle)
		if err != nil && !errors.Is(err, ErrForm) {
			t.Fatal(err)
		}
		for _, s := range []Signature{apart, whole} {
			text, err := s.Bundle(make([]byte, 32))
			if err != nil {
				if !errors.Is(err, ErrForm) {
					t.Fatal(err)
				}
				continue
			}
			var b protobundle.Bundle
			if err := protojson.Unmarshal(text, &b); err != nil {
				if !json.Valid(text) {
					t.Fatalf("%s: %v", text, err)
				}
				continue // a member that no bundle has in this form, for the verifier to refuse
			}
			if len(b.GetMessageSignature().GetSignature()) == 0 && b.GetDsseEnvelope() == nil {
				t.Fatalf("a bundle without a signature (%t): %s", ok, text)
			}
		}
	})
}
