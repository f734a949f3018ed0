package verifying

import "testing"

// TestSARIFURI: whatever an operand is called, it becomes a URI reference that reads as what it is.
func TestSARIFURI(t *testing.T) {
	for operand, want := range map[string]string{
		"dist/app 1.tgz": "dist/app%201.tgz", "a:b": "./a:b", "sha256:00ff": "sha256:00ff", "oci://reg.corp.internal:5000/app:v1": "oci://reg.corp.internal:5000/app:v1",
		"oci-layout:dir name@sha256:0": "oci-layout:dir%20name@sha256:0", "docker-archive:/x/y.tar": "docker-archive:/x/y.tar", "100%": "100%25",
	} {
		if got := URIOf(operand); got != want {
			t.Errorf("%s: %s, want %s", operand, got, want)
		}
	}
}
