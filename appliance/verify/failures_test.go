package verify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A failure is something that software of this family let through, or something bad that is offered, and the test that offers it here: a folder of
// this repository, the name of a test function, and where it has several cases the beginning of the case's name.
type failure struct {
	what  string
	tests []string
}

// failures are the published failures of verification and the kinds of bad input, each with what replays it.
var failures = []failure{
	{"CVE-2026-22703 any entry of the log accepted", []string{"appliance/verify TestAttacks CVE-2026-22703"}},
	{"CVE-2022-36056 entry unbound, identity unchecked, bad bundle ignored, bad entry a success", []string{"appliance/verify TestAttacks CVE-2022-36056 entry unbound", "appliance/verify TestAttacks CVE-2022-36056 entry that is no entry", "appliance/verify TestAttacks CVE-2022-36056 entry without promise"}},
	{"CVE-2022-23649 promise over another payload", []string{"appliance/verify TestAttacks CVE-2022-23649"}},
	{"CVE-2022-35929 predicate type ignored", []string{"appliance/verify TestAttacks CVE-2022-35929"}},
	{"CVE-2026-39395 malformed attestation, type never checked", []string{"appliance/verify TestAttacks CVE-2026-39395 unparsable", "appliance/verify TestAttacks CVE-2026-39395 plain", "appliance/policy TestAttestations the wrong type, rightly signed"}},
	{"CVE-2026-24122 expired intermediate", []string{"appliance/verify TestAttacks CVE-2026-24122"}},
	{"GHSA-fx35-mq7g-6g98 key of the bundle in place of the certificate's", []string{"appliance/verify TestAttacks GHSA-fx35-mq7g-6g98 certificate", "appliance/verify TestAttacks GHSA-fx35-mq7g-6g98 key", "appliance/verifying TestKeyInABundle another's key"}},
	{"CVE-2026-49834 entries of one log counted as logs", []string{"appliance/verify TestAttacks CVE-2026-49834", "appliance/policy TestThresholds two entries of one log"}},
	{"CVE-2026-54787 time outside a managed key's validity", []string{"appliance/verify TestAttacks CVE-2026-54787", "appliance/verify TestManagedKey key ended a second earlier"}},
	{"sigstore-go 609 no digest at all", []string{"appliance/verify TestAttacks sigstore-go#609", "appliance/policy TestBadEvidence no digest at all"}},
	{"CVE-2024-45395 endless data", []string{"appliance/verify TestAttacks CVE-2024-45395 33 log", "appliance/verify TestAttacks CVE-2024-45395 33 timestamps", "appliance/verify TestAttacks CVE-2024-45395 1025", "appliance/verify TestAttacks CVE-2024-45395 33 digests"}},
	{"CVE-2024-53267 entry of another attestation", []string{"appliance/verify TestAttacks CVE-2024-53267"}},
	{"CVE-2024-54140 checkpoint's signature ignored", []string{"appliance/verify TestAttacks CVE-2024-54140"}},
	{"CVE-2024-55655 time without the log's promise", []string{"appliance/verify TestAttacks CVE-2024-55655"}},
	{"CVE-2026-48816 time beside a proof", []string{"appliance/verify TestAttacks CVE-2026-48816"}},
	{"CVE-2026-31830 subject of another artifact", []string{"appliance/verify TestAttacks CVE-2026-31830"}},
	{"CVE-2024-51746 wrong one of several entries", []string{"appliance/verify TestTag CVE-2024-51746"}},
	{"CVE-2023-47122 key taken from the log", []string{"appliance/verify TestTag CVE-2023-47122"}},
	{"CVE-2026-44310 signature without certificates", []string{"appliance/verify TestTag CVE-2026-44310"}},
	{"CVE-2026-44309 normalised, not raw, bytes", []string{"appliance/verify TestTag CVE-2026-44309", "appliance/verify TestAttacks GHSA-7rmh-48mx-2vwc"}},
	{"CVE-2026-39984 first certificate of a timestamp taken for the signer", []string{"appliance/verify TestAttacks CVE-2026-39984", "appliance/verify TestAttacks foreign certificate embedded"}},
	{"timestamp-authority 1384 chain judged now", []string{"appliance/verify TestTimes TSA's end", "appliance/verify TestTimes a second after the TSA", "appliance/verify TestTimes token after its certificate ended"}},
	{"CVE-2022-35930 a signature in place of an attestation", []string{"appliance/policy TestAttestations attestation absent"}},
	{"CVE-2022-47633 registry swaps the image", []string{"appliance/admission TestErrorsRefuse swaps the image", "mirror/images TestHostileRegistry manifest with another digest"}},
	{"CVE-2023-42816 signature that is endless", []string{"appliance/verify TestAttacks CVE-2023-42816", "mirror/images TestHostileRegistry blob that is longer", "mirror/images TestHostileRegistry manifest of 5 GB"}},
	{"CVE-2026-56865 forged tile", []string{"mirror/tiles TestEveryFlipIsRefused"}},
	{"CVE-2026-56864 hashes and lines that nobody vouches for", []string{"appliance/verify TestAttacks CVE-2026-56864 hashes", "appliance/verify TestAttacks CVE-2026-56864 lines", "mirror/tiles TestLeafHashesOfABundle"}},
	{"CVE-2024-29902 endless attachments", []string{"appliance/policy TestGatherHostile 300 referrers", "appliance/policy TestGatherHostile 10,000 signatures", "appliance/admission TestErrorsRefuse endless", "mirror/images TestHostileRegistry 10,000 referrers"}},

	{"bad input: wrong predicate type, right signature", []string{"appliance/policy TestAttestations the wrong type, rightly signed"}},
	{"bad input: attestation absent", []string{"appliance/policy TestAttestations attestation absent"}},
	{"bad input: subject mismatch", []string{"appliance/policy TestBadEvidence another subject"}},
	{"bad input: digest algorithm confusion", []string{"appliance/policy TestBadEvidence the digest under another algorithm", "appliance/verify TestAttacks sha256 digest under the name of sha512"}},
	{"bad input: two bundles, one bad", []string{"appliance/policy TestDecide one bad beside it", "appliance/policy TestCases allowed by the second of two files"}},
	{"bad input: empty digest list", []string{"appliance/policy TestBadEvidence a subject without a digest", "appliance/verify TestAttacks subject without a digest"}},
	{"bad input: expired intermediate", []string{"appliance/verify TestAttacks CVE-2026-24122"}},
	{"bad input: time outside a managed key's window", []string{"appliance/verify TestAttacks CVE-2026-54787", "appliance/policy TestKeyWindow"}},
	{"bad input: promise without an entry", []string{"appliance/verify TestAttacks promise without an entry"}},
	{"bad input: checkpoint without its signature", []string{"appliance/verify TestAttacks checkpoint without its signature"}},
	{"bad input: entries of one log for a threshold", []string{"appliance/policy TestThresholds two entries of one log", "appliance/policy TestThresholds one entry twice"}},
	{"bad input: root with no certificate log", []string{"appliance/verify TestAttacks root without a key of a certificate log"}},
	{"bad input: unknown keys in a policy", []string{"appliance/policy TestBadPolicies unknown key"}},
	{"bad input: unreachable rules", []string{"appliance/policy TestBadPolicies unreachable"}},
}

// TestFailuresAreReplayed: the test of each failure is there.
func TestFailuresAreReplayed(t *testing.T) {
	texts := map[string]string{}
	for _, f := range failures {
		for _, test := range f.tests {
			parts := strings.SplitN(test, " ", 3)
			text, ok := texts[parts[0]]
			if !ok {
				text = testsOf(t, parts[0])
				texts[parts[0]] = text
			}
			if !strings.Contains(text, "\nfunc "+parts[1]+"(") {
				t.Errorf("%s: there is no %s in %s", f.what, parts[1], parts[0])
			}
			if len(parts) > 2 && !strings.Contains(text, `"`+parts[2]) {
				t.Errorf("%s: there is no case %q in %s", f.what, parts[2], parts[0])
			}
		}
	}
}

// testsOf are the tests of a folder, without this file.
func testsOf(t *testing.T, dir string) string {
	files, err := filepath.Glob(filepath.Join("..", "..", filepath.FromSlash(dir), "*_test.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%s: no tests: %v", dir, err)
	}
	var all strings.Builder
	for _, f := range files {
		if filepath.Base(f) == "failures_test.go" {
			continue
		}
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	return all.String()
}
