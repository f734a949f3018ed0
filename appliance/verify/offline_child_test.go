package verify

import (
	"net"
	"os"
	"testing"

	"redoubt.internal/appliance/verify/verifytest"
)

// TestOfflineChild is the body of TestNoSocket, run by it in a child.
func TestOfflineChild(t *testing.T) {
	switch os.Getenv("REDOUBT_VERIFY_CHILD") {
	case "":
		return // only as a child
	case "control":
		if c, err := net.ListenPacket("udp", "127.0.0.1:0"); err == nil {
			c.Close()
		}
		return
	}
	d := verifytest.New(t, "corp.internal")
	for _, s := range []sample{sampleOf(d, d.SignMessage(1, "artifact")), sampleOf(d, d.SignMessage(2, "artifact")), sampleOf(d, d.Attest("artifact", verifytest.CustomPredicate)), keySample(d, d.SignMessage(1, "artifact"))} {
		if _, err := s.verify(t); err != nil {
			t.Fatal(err)
		}
		s.artifact = []byte("artefact")
		if _, err := s.verify(t); err == nil {
			t.Fatal("accepted another artifact")
		}
	}
}
