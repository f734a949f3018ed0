//go:build e2e

package e2e

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// A signedFile is a file, its detached signature and the public key, as rekor-cli takes them.
type signedFile struct{ file, signature, key, hash string }

// signFile signs content with a fresh P-256 key.
func signFile(t *testing.T, s *session, name, content string) signedFile {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(content))
	signature, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signedFile{
		file:      s.write(t, name, content),
		signature: s.write(t, name+".sig", string(signature)),
		key:       s.write(t, name+".pub", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))),
		hash:      hex.EncodeToString(sum[:]),
	}
}

var entryURL = regexp.MustCompile(`/api/v1/log/entries/([0-9a-f]{80})`)

// testRekorCLI: rekor-cli pins the log's key by value and keeps the last tree state it saw, so each call is also a consistency check.
func testRekorCLI(t *testing.T, l *lab) {
	rekor := client(t, "rekor-cli-v1.5.4")
	publicKey, err := os.ReadFile(l.in("rekor.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s := l.session(t, "REKOR_REKOR_SERVER_PUBLIC_KEY="+string(publicKey))
	cli := func(t *testing.T, verb string, args ...string) string {
		t.Helper()
		return s.run(t, rekor, join([]string{verb, "--rekor_server", l.urls.Rekor}, args)...)
	}
	signed := signFile(t, s, "blob", "logged by hand\n")
	flags := []string{"--artifact", signed.file, "--signature", signed.signature, "--public-key", signed.key, "--pki-format", "x509"}

	first := loginfo(t, cli)
	uploaded := cli(t, "upload", flags...)
	match := entryURL.FindStringSubmatch(uploaded)
	if match == nil {
		t.Fatalf("upload named no entry:\n%s", uploaded)
	}
	uuid := match[1]

	t.Run("loginfo twice proves consistency", func(t *testing.T) {
		second := loginfo(t, cli)
		if second.TreeSize <= first.TreeSize {
			t.Errorf("the tree went from %d to %d over an upload", first.TreeSize, second.TreeSize)
		}
	})
	t.Run("a second upload is told of the first", func(t *testing.T) {
		if again := cli(t, "upload", flags...); !strings.Contains(again, uuid) || !strings.Contains(again, "already exists") {
			t.Errorf("upload again: want the entry %s that already exists\n%s", uuid, again)
		}
	})
	t.Run("rekord", func(t *testing.T) {
		other := signFile(t, s, "rekord", "logged with its content\n")
		out := cli(t, "upload", "--type", "rekord:0.0.1", "--artifact", other.file, "--signature", other.signature, "--public-key", other.key, "--pki-format", "x509")
		if !entryURL.MatchString(out) {
			t.Errorf("upload named no entry:\n%s", out)
		}
		cli(t, "verify", "--type", "rekord:0.0.1", "--artifact", other.file, "--signature", other.signature, "--public-key", other.key, "--pki-format", "x509")
	})
	t.Run("hashedrekord by digest", func(t *testing.T) {
		other := signFile(t, s, "hashed", "only its digest is known\n")
		cli(t, "upload", "--type", "hashedrekord:0.0.1", "--artifact-hash", other.hash, "--signature", other.signature, "--public-key", other.key, "--pki-format", "x509")
	})
	t.Run("verify", func(t *testing.T) {
		out := cli(t, "verify", flags...)
		if leaf := uuid[16:]; !strings.Contains(out, leaf) {
			t.Errorf("verify does not name leaf %s:\n%s", leaf, out)
		}
		cli(t, "verify", "--uuid", uuid)
	})
	t.Run("search", func(t *testing.T) {
		for _, by := range [][]string{{"--sha", signed.hash}, {"--artifact", signed.file}, {"--public-key", signed.key, "--pki-format", "x509"}} {
			if out := cli(t, "search", by...); !strings.Contains(out, uuid) {
				t.Errorf("search %s does not find %s:\n%s", by, uuid, out)
			}
		}
		if out := cli(t, "search", "--email", identity); len(strings.Fields(out)) == 0 {
			t.Error("search by e-mail finds nothing of what cosign signed")
		}
	})
	t.Run("get", func(t *testing.T) {
		byUUID := cli(t, "get", "--uuid", uuid)
		index := regexp.MustCompile(`(?m)^Index: (\d+)$`).FindStringSubmatch(byUUID)
		if index == nil {
			t.Fatalf("get names no index:\n%s", byUUID)
		}
		if byIndex := cli(t, "get", "--log-index", index[1]); !strings.Contains(byIndex, signed.hash) {
			t.Errorf("get by index does not hold the digest:\n%s", byIndex)
		}
	})
	t.Run("our verify takes what get keeps", func(t *testing.T) {
		entry := s.write(t, "entry.json", s.output(t, rekor, "get", "--rekor_server", l.urls.Rekor, "--uuid", uuid, "--format", "tle"))
		answer := s.write(t, "answer.json", s.output(t, "curl", "-fsS", l.urls.Rekor+"/api/v1/log/entries/"+uuid))
		bare := s.write(t, "bare.json", s.output(t, rekor, "get", "--rekor_server", l.urls.Rekor, "--uuid", uuid, "--format", "json"))
		other := signFile(t, s, "another", "logged by somebody else\n")
		ours := func(f signedFile, entry string) []string {
			return []string{"verify", f.file, "--signature", f.signature, "--key", f.key, "--log-entry", entry, "--trusted-root", l.in("trusted_root.json"), "--prove-offline"}
		}
		s.run(t, l.binary, ours(signed, entry)...)
		s.run(t, l.binary, ours(signed, answer)...)
		s.refuse(t, []string{"bad log proof"}, l.binary, ours(other, entry)...)
		s.refuse(t, []string{"bad log proof"}, l.binary, ours(other, answer)...)
		s.refuse(t, []string{"rekor-cli get --format tle"}, l.binary, ours(signed, bare)...)
	})
	t.Run("logproof", func(t *testing.T) {
		size := strconv.FormatUint(loginfo(t, cli).TreeSize, 10)
		cli(t, "logproof", "--first-size", "1", "--last-size", size)
	})
	t.Run("wrong signature", func(t *testing.T) {
		other := signFile(t, s, "other", "another file\n")
		s.refuse(t, []string{"400", "ignature", "verif"}, rekor, "upload", "--rekor_server", l.urls.Rekor, "--artifact", signed.file, "--signature", other.signature, "--public-key", signed.key, "--pki-format", "x509")
	})
	t.Run("wrong pinned key", func(t *testing.T) {
		content, err := os.ReadFile(signFile(t, s, "third", "a third\n").key)
		if err != nil {
			t.Fatal(err)
		}
		pinned := l.session(t, "REKOR_REKOR_SERVER_PUBLIC_KEY="+string(content))
		pinned.refuse(t, nil, rekor, "loginfo", "--rekor_server", l.urls.Rekor)
	})
}

type treeInfo struct {
	TreeSize uint64
	RootHash string
}

func loginfo(t *testing.T, cli func(*testing.T, string, ...string) string) treeInfo {
	t.Helper()
	out := cli(t, "loginfo", "--format", "json")
	begin := strings.Index(out, "{")
	if begin < 0 {
		t.Fatalf("loginfo printed no JSON:\n%s", out)
	}
	var info struct {
		ActiveTreeSize uint64
		TreeSize       uint64
		RootHash       string
	}
	if err := json.NewDecoder(strings.NewReader(out[begin:])).Decode(&info); err != nil {
		t.Fatalf("reading loginfo: %v\n%s", err, out)
	}
	return treeInfo{max(info.ActiveTreeSize, info.TreeSize), info.RootHash}
}

// testAfterKill kills the server while clients sign, starts it again, and wants the client that remembers the tree to agree with it.
func testAfterKill(t *testing.T, l *lab) {
	rekor, cosign := client(t, "rekor-cli-v1.5.4"), client(t, cosign3)
	publicKey, err := os.ReadFile(l.in("rekor.pub"))
	if err != nil {
		t.Fatal(err)
	}
	s := l.session(t, "REKOR_REKOR_SERVER_PUBLIC_KEY="+string(publicKey))
	cli := func(t *testing.T, verb string, args ...string) string {
		t.Helper()
		return s.run(t, rekor, join([]string{verb, "--rekor_server", l.urls.Rekor}, args)...)
	}
	before := loginfo(t, cli)
	type outcome struct {
		blob     string
		rekorV1  bool
		answered bool
	}
	results := make(chan outcome, 8)
	for n := range cap(results) {
		blob := s.write(t, fmt.Sprintf("blob%d", n), fmt.Sprintf("signed while the power fails: %d\n", n))
		args := []string{"sign-blob", "-y", "--signing-config", l.in(generations[n%2].signingConfig), "--trusted-root", l.in("trusted_root.json"),
			"--identity-token", l.token(t), "--bundle", blob + ".json", blob}
		go func() {
			_, _, err := s.exec(cosign, args...)
			results <- outcome{blob, n%2 == 0, err == nil}
		}()
	}
	outcomes := []outcome{<-results}
	l.kill(t)
	for len(outcomes) < cap(results) {
		outcomes = append(outcomes, <-results)
	}
	l.serve(t)
	answered, inV1 := 0, uint64(0)
	for _, o := range outcomes {
		if !o.answered {
			continue
		}
		answered++
		if o.rekorV1 {
			inV1++
		}
		s.run(t, cosign, join([]string{"verify-blob", "--trusted-root", l.in("trusted_root.json"), "--bundle", o.blob + ".json"}, l.who(), []string{o.blob})...)
	}
	if after := loginfo(t, cli); after.TreeSize < before.TreeSize+inV1 {
		t.Errorf("the tree went from %d to %d with %d answered in between", before.TreeSize, after.TreeSize, inV1)
	}
	t.Logf("%d of %d clients had their answer before the kill", answered, cap(results))
	s.run(t, cosign, "sign-blob", "-y", "--signing-config", l.in(generations[0].signingConfig), "--trusted-root", l.in("trusted_root.json"),
		"--identity-token", l.token(t), "--bundle", "after.json", s.write(t, "after", "signed afterwards\n"))
	loginfo(t, cli)
}
