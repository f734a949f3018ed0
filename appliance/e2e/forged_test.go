//go:build e2e

package e2e

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"testing"
)

type object = map[string]any

// TestUnloggedSignature signs a file without logging it and dresses the signature with somebody else's Rekor v2 entry, as well as what
// the appliance gives out allows. With a tree for each generation every client refuses. With one tree for both, cosign 3.1.3 does not:
// the record of why two trees are the default.
func TestUnloggedSignature(t *testing.T) {
	t.Run("two trees", func(t *testing.T) {
		f := newForgery(t)
		for i := range generations {
			f.session.run(t, client(t, cosign3), slices.Concat([]string{"verify-blob", "--trusted-root", f.lab.in("trusted_root.json"), "--bundle", fmt.Sprint("other", i, ".json")}, f.lab.who(), []string{fmt.Sprint("other", i)})...)
		}
		for name, entry := range f.entries(t) {
			t.Run(name, func(t *testing.T) {
				bundle := f.bundle(t, entry)
				f.session.refuse(t, nil, client(t, cosign3), f.verifyBlob(bundle)...)
				f.session.refuse(t, nil, client(t, cosign2), f.verifyBlob(bundle, "--new-bundle-format", "--use-signed-timestamps")...)
				f.refused(t, bundle)
			})
		}
	})
	t.Run("one tree", func(t *testing.T) {
		f := newForgery(t, "--one-tree")
		bundle := f.bundle(t, f.entries(t)["as v1 answers it"])
		f.session.run(t, client(t, cosign3), f.verifyBlob(bundle)...)
		f.session.refuse(t, nil, client(t, cosign2), f.verifyBlob(bundle, "--new-bundle-format", "--use-signed-timestamps")...)
		f.refused(t, bundle)
	})
}

// A forgery is a signature that was never logged, and another one's v2 entry to dress it with.
type forgery struct {
	lab      *lab
	session  *session
	blob     string
	unlogged object  // its bundle, timestamp included
	other    v1Entry // by cosign, through v2
	old      v1Entry // through v1
}

// v1Entry is LogEntryAnon of Rekor's openapi.yaml.
type v1Entry struct {
	Body           []byte
	LogID          string
	LogIndex       uint64
	IntegratedTime int64
	Verification   struct {
		SignedEntryTimestamp []byte
		InclusionProof       struct {
			Checkpoint, RootHash string
			Hashes               []string
			LogIndex, TreeSize   uint64
		}
	}
}

func newForgery(t *testing.T, initFlags ...string) *forgery {
	t.Helper()
	l := newLab(t, nil, initFlags...)
	s := l.session(t)
	f := &forgery{lab: l, session: s, blob: s.write(t, "blob", "nobody may know that this was signed\n")}
	cosign := client(t, cosign3)
	sign := func(config, blob, bundle string) {
		s.run(t, cosign, "sign-blob", "-y", "--signing-config", config, "--trusted-root", l.in("trusted_root.json"), "--identity-token", l.token(t), "--bundle", bundle, blob)
	}
	// Somebody signs in the open, in both generations.
	for i, g := range generations {
		sign(l.in(g.signingConfig), s.write(t, fmt.Sprint("other", i), "signed in the open\n"+g.name), fmt.Sprint("other", i, ".json"))
	}
	// The signer who hides leaves the log out of the signing config.
	content, err := os.ReadFile(l.in("signing_config_rekor_v2.v0.2.json"))
	if err != nil {
		t.Fatal(err)
	}
	var config object
	if err := json.Unmarshal(content, &config); err != nil {
		t.Fatal(err)
	}
	delete(config, "rekorTlogUrls")
	delete(config, "rekorTlogConfig")
	if content, err = json.Marshal(config); err != nil {
		t.Fatal(err)
	}
	sign(s.write(t, "nolog.json", string(content)), f.blob, "unlogged.json")
	if content, err = os.ReadFile(s.path("unlogged.json")); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &f.unlogged); err != nil {
		t.Fatal(err)
	}
	if f.unlogged["verificationMaterial"].(object)["tlogEntries"] != nil {
		t.Fatal("the signature was logged after all")
	}
	f.old, f.other = f.find(t, "0.0.1"), f.find(t, "0.0.2")
	return f
}

// ask sends a request to the artifact log and decodes the answer into to.
func (f *forgery) ask(t *testing.T, method, path, body string, to any) {
	t.Helper()
	request, err := http.NewRequest(method, f.lab.urls.Rekor+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(answer, to); err != nil {
		t.Fatalf("%s %s: %s: %v: %s", method, path, response.Status, err, answer)
	}
}

// find looks up an entry of an open signature through the v1 API.
func (f *forgery) find(t *testing.T, version string) v1Entry {
	t.Helper()
	var ids []string
	f.ask(t, http.MethodPost, "/api/v1/index/retrieve", fmt.Sprintf(`{"email":%q}`, identity), &ids)
	for _, id := range ids {
		answer := map[string]v1Entry{}
		f.ask(t, http.MethodGet, "/api/v1/log/entries/"+id, "", &answer)
		if e := answer[id]; bytes.Contains(e.Body, []byte(`"apiVersion":"`+version+`"`)) {
			return e
		}
	}
	t.Fatalf("no entry %s among %q", version, ids)
	return v1Entry{}
}

// entries are the ways to present the other entry, by what they are made of.
func (f *forgery) entries(t *testing.T) map[string]object {
	t.Helper()
	var log struct{ SignedTreeHead, TreeID string }
	f.ask(t, http.MethodGet, "/api/v1/log", "", &log)
	var key struct {
		Tlogs []struct{ LogID struct{ KeyID []byte } }
	}
	content, err := os.ReadFile(f.lab.in("trusted_root.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(content, &key); err != nil {
		t.Fatal(err)
	}
	origin, rest, _ := strings.Cut(f.other.Verification.InclusionProof.Checkpoint, "\n")
	entries := map[string]object{}
	for checkpoint, note := range map[string]string{
		"as v1 answers it":                     f.other.Verification.InclusionProof.Checkpoint,
		"under the v1 tree's checkpoint":       log.SignedTreeHead,
		"under its checkpoint with a v1 name":  origin + " - " + log.TreeID + "\n" + rest,
		"under a v1 name, the signature's too": strings.ReplaceAll(origin+" - "+log.TreeID+"\n"+rest, "— "+origin+" ", "— rekor."+domain+" "),
	} {
		entries[checkpoint] = f.other.present(t, "0.0.2", note, nil)
		for i, l := range key.Tlogs {
			entries[fmt.Sprintf("%s, as an entry of log %d", checkpoint, i)] = f.other.present(t, "0.0.2", note, l.LogID.KeyID)
		}
	}
	// The other way round: the v1 tree signs a checkpoint for tile readers too.
	response, err := http.Get(f.lab.urls.Rekor + "/checkpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	tiles, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	entries["a v1 entry"] = f.old.present(t, "0.0.1", f.old.Verification.InclusionProof.Checkpoint, nil)
	entries["a v1 entry under the checkpoint for tile readers"] = f.old.present(t, "0.0.1", string(tiles), nil)
	return entries
}

// present makes a TransparencyLogEntry of e with its proof under note, which also gives size and root. A nil log id is its own.
func (e v1Entry) present(t *testing.T, version, note string, logID []byte) object {
	t.Helper()
	unhex := func(text string) []byte {
		raw, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	if logID == nil {
		logID = unhex(e.LogID)
	}
	lines := strings.Split(note, "\n")
	proof := e.Verification.InclusionProof
	hashes := [][]byte{}
	for _, h := range proof.Hashes {
		hashes = append(hashes, unhex(h))
	}
	index := strconv.FormatUint(proof.LogIndex, 10)
	return object{
		"logIndex": index, "logId": object{"keyId": logID}, "kindVersion": object{"kind": "hashedrekord", "version": version}, "canonicalizedBody": e.Body,
		"inclusionProof": object{"logIndex": index, "rootHash": lines[2], "treeSize": lines[1], "hashes": hashes, "checkpoint": object{"envelope": note}},
	}
}

// bundle writes the unlogged signature with entry beside it.
func (f *forgery) bundle(t *testing.T, entry object) string {
	t.Helper()
	material := maps.Clone(f.unlogged["verificationMaterial"].(object))
	material["tlogEntries"] = []any{entry}
	forged := maps.Clone(f.unlogged)
	forged["verificationMaterial"] = material
	content, err := json.Marshal(forged)
	if err != nil {
		t.Fatal(err)
	}
	return f.session.write(t, "forged.json", string(content))
}

// verifyBlob are cosign's arguments.
func (f *forgery) verifyBlob(bundle string, more ...string) []string {
	return slices.Concat([]string{"verify-blob", "--trusted-root", f.lab.in("trusted_root.json"), "--bundle", bundle}, more, f.lab.who(), []string{f.blob})
}

// refused wants redoubt verify to end with the code of a bad log proof.
func (f *forgery) refused(t *testing.T, bundle string) {
	t.Helper()
	_, both, err := f.session.exec(f.lab.binary, slices.Concat([]string{"verify", f.blob, "--trusted-root", f.lab.in("trusted_root.json"), "--bundle", bundle}, f.lab.who())...)
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 22 {
		t.Errorf("redoubt verify: %v, want exit 22\n%s", err, both)
	}
}
