package verify

import (
	"net"
	"os"
	"testing"
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
	d := newDeployment(t, "corp.internal")
	for _, s := range []sample{d.sample(d.signMessage(1, "artifact")), d.sample(d.signMessage(2, "artifact")), d.sample(d.attest("artifact", customPredicate)), keySample(d, d.signMessage(1, "artifact"))} {
		if _, err := s.verify(t); err != nil {
			t.Fatal(err)
		}
		s.artifact = []byte("artefact")
		if _, err := s.verify(t); err == nil {
			t.Fatal("accepted another artifact")
		}
	}
}
