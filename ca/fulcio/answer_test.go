package fulcio

import (
	"crypto/rand"
	"testing"

	fulciogrpc "github.com/sigstore/fulcio/pkg/generated/protobuf"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// TestAnswerAsProtoJSON holds the JSON of an answer to protobuf's own reading of
// it, for chains and certificates of every length of a last line.
func TestAnswerAsProtoJSON(t *testing.T) {
	for n := range 200 {
		der := make([]byte, 700+n)
		_, _ = rand.Read(der)
		s := &api{}
		for range n % 4 {
			s.above = append(s.above, pemOf(der[n:]))
		}
		leaf := pemOf(der)
		var got fulciogrpc.SigningCertificate
		if err := protojson.Unmarshal(s.signingCertificateJSON(leaf), &got); err != nil {
			t.Fatal(err)
		}
		if want := s.signingCertificate(leaf); !proto.Equal(&got, want) {
			t.Fatalf("%d octets, %d above: got %v, want %v", len(der), n%4, &got, want)
		}
	}
}
