//go:build e2e

package e2e

import (
	"archive/tar"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestSavedImages: images in files as others write them. Those with the manifest of the registry verify, by a bundle or by what was copied along; of the others
// the program says why they cannot, and what to do.
func TestSavedImages(t *testing.T) {
	l := newLab(t, nil)
	s := &saved{l.session(t, l.legacyEnv()...), pushImage(t, l.registry, "saved/app")}
	s.run(t, client(t, cosign3), "sign", "-y", "--allow-http-registry", "--signing-config", l.in("signing_config.v0.2.json"), "--trusted-root", l.in("trusted_root.json"),
		"--identity-token", l.token(t), "--bundle", "app.sigstore.json", s.image)
	t.Run("skopeo", s.skopeo)
	t.Run("skopeo, converted", s.converted)
	t.Run("containerd", s.containerd)
}

type saved struct {
	*session
	image string
}

// verify is the command line over an operand, with the bundle beside it.
func (s *saved) verify(operand string, more ...string) []string {
	return join([]string{"verify", operand, "--trusted-root", s.lab.in("trusted_root.json")}, s.lab.who(), more)
}

var beside = []string{"--bundle", "app.sigstore.json", "--prove-offline"}

// copied has skopeo copy the image, or a tag of its repository.
func (s *saved) copied(t *testing.T, from, to string, flags ...string) {
	t.Helper()
	s.run(t, "skopeo", join([]string{"--insecure-policy", "copy", "--src-tls-verify=false"}, flags, []string{from, to})...)
}

func (s *saved) skopeo(t *testing.T) {
	s.copied(t, "docker://"+s.image, "oci-archive:whole.tar", "--preserve-digests")
	s.run(t, s.lab.binary, s.verify("docker-archive:whole.tar", beside...)...)
	s.refuse(t, []string{"--bundle adds"}, s.lab.binary, s.verify("docker-archive:whole.tar")...)
	s.changed(t, "whole.tar", 4)

	repository, digest, _ := strings.Cut(s.image, "@")
	tag := strings.Replace(digest, ":", "-", 1) + ".sig"
	s.copied(t, "docker://"+s.image, "oci:layout:app", "--preserve-digests")
	s.refuse(t, []string{"nothing vouches"}, s.lab.binary, s.verify("oci-layout:layout")...)
	s.run(t, client(t, cosign2), join([]string{"sign", "-y", "--allow-http-registry"}, s.lab.legacyServices(), []string{"--identity-token", s.lab.token(t), s.image})...)
	s.copied(t, "docker://"+repository+":"+tag, "oci:layout:"+tag, "--preserve-digests")
	s.run(t, s.lab.binary, s.verify("oci-layout:layout", "--prove-offline")...)
}

// converted: a docker archive has no manifest, and a copy that packs the layers anew has another.
func (s *saved) converted(t *testing.T) {
	s.copied(t, "docker://"+s.image, "docker-archive:old.tar:app:1")
	for _, reason := range []string{"signatures are over the manifest", "--preserve-digests docker://IMAGE oci-archive:FILE"} {
		s.refuse(t, []string{reason}, s.lab.binary, s.verify("docker-archive:old.tar", beside...)...)
	}
	s.copied(t, "docker-archive:old.tar", "oci-archive:anew.tar")
	s.copied(t, "docker://"+s.image, "oci-archive:packed.tar")
	for _, file := range []string{"anew.tar", "packed.tar"} {
		for _, reason := range []string{"signature or digest mismatch", "the copy was converted and has to be made anew"} {
			s.refuse(t, []string{reason}, s.lab.binary, s.verify("docker-archive:"+file, beside...)...)
		}
	}
}

// containerd exports an image as Docker 25 and later saves one of its containerd store: with Docker's own list beside the layout.
func (s *saved) containerd(t *testing.T) {
	dir := t.TempDir()
	socket := filepath.Join(dir, "sock")
	daemon := exec.Command("containerd", "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"), "--address", socket)
	config := s.write(t, "containerd.toml", "version = 2\ndisabled_plugins = ['io.containerd.grpc.v1.cri']\n")
	daemon.Args = append(daemon.Args, "--config", config)
	daemon.Env = s.env
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	daemon.Stdout, daemon.Stderr = log, log
	if err := daemon.Start(); err != nil {
		t.Fatalf("%v; .ci/packages e2e installs it", err)
	}
	t.Cleanup(func() { daemon.Process.Kill(); daemon.Wait() })
	for end := time.Now().Add(commandTimeout); ; time.Sleep(50 * time.Millisecond) {
		if _, _, err := s.exec("ctr", "--address", socket, "version"); err == nil {
			break
		} else if time.Now().After(end) {
			text, _ := os.ReadFile(log.Name())
			t.Fatalf("containerd does not answer: %v\n%s", err, text)
		}
	}
	s.run(t, "ctr", "--address", socket, "images", "pull", "--plain-http", "--snapshotter", "native", s.image)
	s.run(t, "ctr", "--address", socket, "images", "export", "containerd.tar", s.image)
	s.run(t, s.lab.binary, s.verify("docker-archive:containerd.tar", beside...)...)
	s.changed(t, "containerd.tar", 5)
}

// sum is a digest in an index.
var sum = regexp.MustCompile("[0-9a-f]{64}")

// changed flips a bit in one file of the archive after the other: no program may load the image, so it is none that was signed.
func (s *saved) changed(t *testing.T, archive string, atLeast int) {
	t.Helper()
	file, err := os.Open(s.path(archive))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	n := 0
	for r := tar.NewReader(file); ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag != tar.TypeReg || h.Name == "oci-layout" {
			n--
			continue
		}
		at, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			t.Fatal(err)
		}
		whole, err := os.ReadFile(s.path(archive))
		if err != nil {
			t.Fatal(err)
		}
		offset := at + h.Size/2
		if strings.HasSuffix(h.Name, ".json") { // the names in them are nobody's word
			offset = at + int64(sum.FindIndex(whole[at : at+h.Size])[0])
		}
		whole[offset] ^= 1
		s.write(t, "changed.tar", string(whole))
		s.refuse(t, nil, s.lab.binary, s.verify("docker-archive:changed.tar", beside...)...)
	}
	if n < atLeast {
		t.Errorf("%d files of %s were changed, it has at least %d", n, archive, atLeast)
	}
}
