//go:build e2e

package e2e

import (
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"redoubt.internal/mirror"
	"redoubt.internal/mirror/generate"
	"redoubt.internal/mirror/parcel"
)

const sourceAddress = "10.77.0.1:8080"

// TestTwoMachines carries logs from one machine to another that shares nothing with it but a folder: three network namespaces with
// disks of their own. The source has a Redoubt, a generated log and one of millions of entries; the outside reaches it over a cable;
// the inside has loopback alone, and every call of its processes that could leave it is counted.
func TestTwoMachines(t *testing.T) {
	shared := t.TempDir()
	source, outside, inside := newMachines(t, shared)
	medium := filepath.Join(shared, "medium")
	if err := os.Mkdir(medium, 0o755); err != nil {
		t.Fatal(err)
	}

	// The source: a Redoubt that signs files, a generated log, a vast one.
	source.redoubt(t, "init", "--domain", domain, "--non-interactive")
	urls := source.serve(t)
	source.redoubt(t, "client", "setup", "--out", filepath.Join(shared, "setup"))
	g, err := generate.Write(t.Context(), filepath.Join(source.disk, "log"), generate.Config{Seed: 6, Origin: "log.example", Sizes: []uint64{2000, 3000}})
	if err != nil {
		t.Fatal(err)
	}
	vast := generate.Config{Seed: 7, Origin: "vast.example", Sizes: []uint64{40_000_000}}
	picked := []uint64{3, 1_234_567, 39_999_999}
	vastKey, err := parcel.VerifierKey(vast.Origin, vast.Key().Public())
	if err != nil {
		t.Fatal(err)
	}
	source.start(t, []string{roleVariable + "=" + encode(t, role{Listen: sourceAddress, Folder: g.Dir, Vast: vast, Picks: picked, Upstream: digFor(t, urls, "rekor")})}, self(t))

	logs := []map[string]any{
		{"origin": g.Origin, "key": g.VKey, "source": "http://" + sourceAddress + "/log"},
		{"origin": vast.Origin, "key": vastKey, "source": "http://" + sourceAddress + "/vast", "scope": "sparse", "records": picked},
		{"origin": "rekor." + domain, "key": readText(t, shared, "setup/rekor.pub"), "source": "http://" + sourceAddress},
		{"origin": "rekor-2." + domain, "key": readText(t, shared, "setup/rekor-2.pub"), "source": "http://" + sourceAddress + "/api/v2"},
	}

	// Outside and inside, each pinning what the other's operator read aloud: the exporter's line.
	outside.redoubt(t, "init", "--domain", "outside.internal", "--non-interactive")
	inside.redoubt(t, "init", "--domain", "inside.internal", "--non-interactive")
	var key, reports struct{ Stream, Key string }
	decode(t, inside.redoubt(t, "mirror", "key", "--reports", "-o", "json"), &reports)
	outside.settings(t, map[string]any{"logs": logs, "receivers": []string{reports.Key}})
	decode(t, outside.redoubt(t, "mirror", "key", "-o", "json"), &key)
	var known []map[string]any
	for _, l := range logs {
		l = maps.Clone(l)
		delete(l, "source")
		delete(l, "records")
		known = append(known, l)
	}
	inside.settings(t, map[string]any{"stream": key.Stream, "exporters": []string{key.Key}, "logs": known})

	for n, size := range []uint64{2000, 3000} {
		signed := source.sign(t, n, shared, urls)
		if err := generate.Rewind(g.Dir, size); err != nil {
			t.Fatal(err)
		}
		outside.redoubt(t, "mirror", "pull")
		outside.redoubt(t, "mirror", "export", "--out", medium, "--volume-size", "2MB")
		volumes, _ := filepath.Glob(filepath.Join(medium, "*.rdp"))
		t.Logf("transfer %d: %d volumes on the medium", n+1, len(volumes))
		if len(volumes) < 2 {
			t.Fatal("the parcel was not split")
		}
		inside.redoubt(t, "mirror", "inspect", medium)
		inside.redoubt(t, "mirror", "import", medium)
		inside.run(t, os.Getenv(binaryVariable), "verify", signed, "--bundle", signed+".bundle", "--setup", filepath.Join(shared, "setup"),
			"--certificate-identity", identity, "--certificate-oidc-issuer", digFor(t, urls, "oidc"))
	}

	// Inside, served and proven once more by whoever reads it.
	insideURLs := inside.serve(t)
	served := digFor(t, insideURLs, "mirror")
	for _, l := range []mirror.LogConfig{
		{Origin: g.Origin, VKey: g.VKey, Source: served + "/" + g.Origin},
		{Origin: "rekor-2." + domain, VKey: lineOf(t, "rekor-2."+domain, known[3]["key"].(string)), Source: served + "/rekor-2." + domain},
	} {
		said, err := inside.play(t, role{Prove: &l})
		if err != nil {
			t.Fatal(err, said)
		}
		t.Logf("served inside: %s: %s", l.Origin, strings.TrimSpace(said))
	}
	status := inside.redoubt(t, "mirror", "status")
	for _, want := range []string{"last parcel 2", "log.example: 3000 entries", "vast.example: 40000000 entries", "rekor-2." + domain + ": 2 entries", "rekor." + domain + ": 2 entries"} {
		if !strings.Contains(status, want) {
			t.Errorf("status does not say %q:\n%s", want, status)
		}
	}
	t.Log(strings.TrimSpace(inside.redoubt(t, "mirror", "reconcile")))
	// The way back: a receipt on the shared folder, read outside.
	var receipt struct{ Note, Text string }
	answer := inside.redoubt(t, "mirror", "receipt", "-o", "json")
	decode(t, answer, &receipt)
	file := filepath.Join(shared, "receipt.note")
	write(t, file, receipt.Note)
	read := outside.redoubt(t, "mirror", "receipt", "read", file)
	t.Logf("receipt of %d bytes, read outside:\n%s", len(receipt.Note), strings.TrimSpace(read))
	if len(receipt.Note) == 0 || len(receipt.Note) > 1000 || !strings.Contains(read, "acknowledged up to 2, 0 wait for a receipt") || strings.Count(read, ": same") != len(logs) {
		t.Errorf("the receipt does not acknowledge what was carried: %s", answer)
	}
	nothingLeft(t, inside, source)
}

// nothingLeft counts the calls of the inside that could have left it, and shows that one that tries is seen.
func nothingLeft(t *testing.T, inside, source *machine) {
	t.Helper()
	traced, calls, out := callsOut(t, inside.trace)
	t.Logf("inside: %d calls traced, %d to an internet address, %d of them not loopback", traced, calls, len(out))
	if len(out) > 0 {
		t.Errorf("left the inside:\n%s", strings.Join(out[:min(10, len(out))], "\n"))
	}
	if calls == 0 {
		t.Error("not even a call to loopback was traced: the trace is blind")
	}
	if said, err := inside.play(t, role{Dial: sourceAddress}); err == nil || !strings.Contains(said, "unreachable") {
		t.Errorf("the inside reached the source: %v %s", err, said)
	}
	_, _, seen := callsOut(t, inside.trace)
	t.Logf("control: %d call to %s seen", len(seen)-len(out), sourceAddress)
	if len(seen) != len(out)+1 {
		t.Errorf("a call out was made and %d were seen: %s", len(seen)-len(out), strings.Join(seen, "\n"))
	}
	if devices := inside.run(t, "ip", "-brief", "link"); strings.Count(devices, "\n") != 1 || !strings.HasPrefix(devices, "lo") {
		t.Errorf("the inside has more than loopback:\n%s", devices)
	}
	if found := inside.run(t, "find", source.disk, "-mindepth", "1"); found != "" {
		t.Errorf("the inside sees the source's disk: %s", found)
	}
}

// sign signs a file on the source in both generations of the format, puts it on the medium, and returns its path.
func (m *machine) sign(t *testing.T, n int, shared string, urls map[string]any) string {
	t.Helper()
	setup, file := filepath.Join(shared, "setup"), filepath.Join(shared, "file"+string(rune('0'+n)))
	token := strings.TrimSpace(m.redoubt(t, "identity", "token", "--email", identity))
	write(t, file, "carried across "+string(rune('0'+n)))
	write(t, filepath.Join(m.disk, "jwt"), token)
	for _, more := range [][]string{{"--rekor-v2", "--bundle", file + ".2.bundle"}, {"--bundle", file + ".bundle"}} {
		m.run(t, os.Getenv(binaryVariable), append([]string{"sign", file, "--setup", setup, "--identity-token", filepath.Join(m.disk, "jwt")}, more...)...)
	}
	return file
}

// lineOf turns a key in PEM into the line a note names it by.
func lineOf(t *testing.T, origin, text string) string {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		t.Fatalf("no PEM: %s", text)
	}
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	line, err := parcel.VerifierKey(origin, public)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func write(t *testing.T, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

func readText(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func readYAML(t *testing.T, file string) (doc map[string]any) {
	t.Helper()
	if err := yaml.Unmarshal([]byte(readText(t, filepath.Dir(file), filepath.Base(file))), &doc); err != nil {
		t.Fatal(err)
	}
	return doc
}

func writeYAML(t *testing.T, file string, doc map[string]any) {
	t.Helper()
	b, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
}

// decode reads the JSON object a verb printed, past what it told the operator before it.
func decode(t *testing.T, said string, v any) {
	t.Helper()
	if i := strings.Index(said, "{"); i < 0 || json.Unmarshal([]byte(said[i:]), v) != nil {
		t.Fatalf("no JSON: %s", said)
	}
}
