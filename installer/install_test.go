//go:build e2e

package installer_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.internal/installer"
)

// TestInstallOnFreshDebian builds a bundle, installs it into a fresh Debian 12 with no Go and no network, and runs the demo there
// as root and an initialised instance under the service user. The Debian root is made once and kept in the user's cache.
func TestInstallOnFreshDebian(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a Debian root and enters it: run it as root")
	}
	report, _ := built(t)
	root := freshDebian(t)
	t.Logf("%d bytes, %d files, %d modules, SHA-256 %s", report.Bytes, len(report.Files), report.Modules, report.SHA256)
	if _, err := installer.Unpack(t.Context(), report.Path, filepath.Join(root, "root"), installer.Trust{Fingerprint: report.Fingerprint}); err != nil {
		t.Fatal(err)
	}
	out := inside(t, root, "FINGERPRINT="+report.Fingerprint+`
set -eux
! command -v go
! command -v softhsm2-util
! ping -c1 -W1 192.0.2.1
! /root/redoubt-0.0.0-test/install.sh --fingerprint 0000-0000-0000-0000-0000-0000-0000-0000
! test -e /usr/bin/redoubt
/root/redoubt-0.0.0-test/install.sh --fingerprint $FINGERPRINT
/root/redoubt-0.0.0-test/install.sh --fingerprint $FINGERPRINT
id redoubt
redoubt version -o json
redoubt-static version -o json
cd /tmp
redoubt demo
redoubt-static demo
redoubt init --dir /var/lib/redoubt --owner redoubt --domain corp.internal --non-interactive > /tmp/init
test "$(stat -c %U /var/lib/redoubt/keys/root)" = redoubt
test "$(stat -c %U /var/lib/redoubt.highwater)" = redoubt
redoubt config validate
su redoubt -s /bin/sh -c '/usr/bin/redoubt status'
su redoubt -s /bin/sh -c '/usr/bin/redoubt serve --dir /var/lib/redoubt --ready-file /tmp/ready.json' &
for i in $(seq 200); do [ -s /tmp/ready.json ] && break; sleep 0.1; done
redoubt client setup --out /tmp/setup
redoubt identity token > /tmp/token
redoubt sign /tmp/init --setup /tmp/setup --identity-token /tmp/token --bundle /tmp/init.json
redoubt verify /tmp/init --setup /tmp/setup --bundle /tmp/init.json --certificate-identity dev@corp.internal --certificate-oidc-issuer-regexp .
redoubt audit list
kill -TERM $(sed 's/.*"pid":\([0-9]*\).*/\1/' /tmp/ready.json)
wait
`)
	if n := strings.Count(out, "steps held"); n != 2 {
		t.Errorf("the demo succeeded %d times of 2:\n%s", n, out)
	}
	t.Log(out)
}

// freshDebian unpacks the cached minimal Debian 12 with these packages besides, making it first where there is none.
func freshDebian(t *testing.T, packages ...string) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	tarball := filepath.Join(cache, "redoubt", strings.Join(append([]string{"debian-12-minbase"}, packages...), "-")+".tar")
	if _, err := os.Stat(tarball); errors.Is(err, fs.ErrNotExist) {
		work := filepath.Join(t.TempDir(), "debootstrap")
		if err := os.MkdirAll(filepath.Dir(tarball), 0o755); err != nil {
			t.Fatal(err)
		}
		arguments := []string{"--variant=minbase", "bookworm", work}
		if len(packages) > 0 {
			arguments = append([]string{"--include=" + strings.Join(packages, ",")}, arguments...)
		}
		run(t, "debootstrap", arguments...)
		run(t, "tar", "-C", work, "--exclude=./var/cache/apt/archives/*.deb", "--exclude=./var/lib/apt/lists/*", "-cf", tarball+".new", ".")
		run(t, "mv", tarball+".new", tarball)
	}
	root := filepath.Join(t.TempDir(), "debian")
	if err := os.Mkdir(root, 0o755); err != nil {
		t.Fatal(err)
	}
	run(t, "tar", "-C", root, "-xf", tarball)
	return root
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// inside runs a script in root with process, mount and network namespaces of its own; of the network only loopback is up.
func inside(t *testing.T, root, script string) string {
	t.Helper()
	if err := os.WriteFile(filepath.Join(root, "root", "script.sh"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	command := exec.CommandContext(ctx, "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c",
		`ip link set lo up && mount -t proc proc "$1/proc" && exec chroot "$1" /usr/bin/env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root /bin/sh /root/script.sh`, "sh", root)
	out, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}
