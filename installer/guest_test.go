//go:build e2e

package installer_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	jose "github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

//go:embed testdata/guest.sh
var guestScript string

// TestInstallInGuest installs a bundle from a medium in a virtual machine that systemd runs and that has no network, serves a production
// site with each role under a unit of its own and keys in a token for each, kills one, upgrades, goes back and removes it.
func TestInstallInGuest(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes the disks of a virtual machine: run it as root")
	}
	kernels, err := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if err != nil || len(kernels) == 0 {
		t.Fatalf("no kernel in /boot (.ci/packages e2e installs it): %v", err)
	}
	kernel := kernels[len(kernels)-1]
	work := t.TempDir()
	initrd := guestInitrd(t, work, strings.TrimPrefix(kernel, "/boot/vmlinuz-"))
	results, console := filepath.Join(work, "results"), filepath.Join(work, "console")
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "2048", "-nic", "none", "-display", "none", "-no-reboot",
		"-kernel", kernel, "-initrd", initrd, "-append", "console=ttyS0 quiet panic=-1 no_timer_check", "-serial", "file:"+console, "-serial", "file:"+results,
		"-drive", "if=virtio,format=raw,cache=unsafe,file="+guestDisk(t, work), "-drive", "if=virtio,format=raw,readonly=on,file="+medium(t, work))
	machine.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	began := time.Now()
	said, err := machine.CombinedOutput()
	out, _ := os.ReadFile(results)
	if err != nil || !regexp.MustCompile(`(?m)^guest ends with 0\s*$`).Match(out) {
		boot, _ := os.ReadFile(console)
		t.Fatalf("%v\n%s\n%s\n%s", err, said, boot[max(0, len(boot)-4096):], out)
	}
	t.Logf("%s in the virtual machine, of its own:\n%s", time.Since(began).Round(time.Second), strings.Join(regexp.MustCompile(`(?m)^== .*$`).FindAllString(string(out), -1), "\n"))
	t.Logf("%s", out)
}

// guestDisk is the disk of a Debian 12 with systemd and SoftHSM, which runs the script once when it is up.
func guestDisk(t *testing.T, work string) string {
	t.Helper()
	root := freshDebian(t, "systemd-sysv", "dbus", "softhsm2")
	for name, text := range map[string]string{
		"root/guest.sh":                    guestScript,
		"etc/systemd/system/guest.service": "[Service]\nType=oneshot\nExecStart=/bin/sh /root/guest.sh\nStandardOutput=file:/dev/ttyS1\nStandardError=inherit\n[Install]\nWantedBy=multi-user.target\n",
	} {
		if err := os.WriteFile(filepath.Join(root, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	run(t, "chroot", root, "systemctl", "enable", "guest.service")
	return disk(t, root, filepath.Join(work, "root.img"), "3G")
}

// medium is the disk that is carried in: two releases, unpacked, their fingerprints, and what the site adds of its own, an issuer
// that nobody can reach and a token of it.
func medium(t *testing.T, work string) string {
	t.Helper()
	folder := filepath.Join(work, "medium")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := releases(t, folder)
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := json.Marshal(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: &key.PublicKey, KeyID: "site", Algorithm: "RS256", Use: "sig"}}})
	if err != nil {
		t.Fatal(err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT").WithHeader("kid", "site"))
	if err != nil {
		t.Fatal(err)
	}
	const issuer = "https://login.corp.internal"
	now := time.Now()
	token, err := jwt.Signed(signer).Claims(jwt.Claims{Issuer: issuer, Subject: "4711", Audience: jwt.Audience{"sigstore"}, ID: rand.Text(),
		IssuedAt: jwt.NewNumericDate(now), Expiry: jwt.NewNumericDate(now.Add(time.Hour))}).
		Claims(map[string]any{"email": "dev@corp.internal", "email_verified": true}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"fingerprints": fmt.Sprintf("FIRST=%s\nSECOND=%s\n", first, second),
		"token":        token,
		"issuer.yaml":  fmt.Sprintf("oidc-issuers:\n  %[1]s:\n    issuer-url: %[1]s\n    client-id: sigstore\n    type: email\n    jwks: '%[2]s'\n", issuer, keys),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return disk(t, folder, filepath.Join(work, "medium.img"), "1G")
}

// disk writes an ext4 file system that holds what is in a folder.
func disk(t *testing.T, folder, image, size string) string {
	t.Helper()
	run(t, "mkfs.ext4", "-q", "-d", folder, image, size)
	return image
}

// guestInitrd finds the disks for Debian's cloud kernel, which has their driver as modules, and hands over to systemd.
func guestInitrd(t *testing.T, work, version string) string {
	t.Helper()
	tree := filepath.Join(work, "initrd")
	run(t, "mkdir", "-p", tree+"/bin", tree+"/dev", tree+"/new")
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatalf("%v (.ci/packages e2e installs it)", err)
	}
	run(t, "cp", busybox, tree+"/bin/busybox")
	load := ""
	for _, module := range []string{"virtio/virtio", "virtio/virtio_ring", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci", "block/virtio_blk"} {
		run(t, "cp", filepath.Join("/lib/modules", version, "kernel/drivers", module+".ko"), tree)
		load += "$b insmod /" + filepath.Base(module) + ".ko\n"
	}
	script := "#!/bin/busybox sh\nb=/bin/busybox\n$b mount -t devtmpfs dev /dev\n" + load + "$b mount -t ext4 /dev/vda /new\n$b mount -o move /dev /new/dev\nexec $b switch_root /new /sbin/init\n"
	if err := os.WriteFile(tree+"/init", []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "sh", "-c", `cd "$0" && find . | cpio --quiet -o -H newc >"$1"`, tree, tree+".cpio")
	return tree + ".cpio"
}
