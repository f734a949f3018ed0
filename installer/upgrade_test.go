//go:build e2e

package installer_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.internal/installer"
)

// nextRelease is a copy of the source whose state directories are of one format more: what the next change of layout will be like.
func nextRelease(t *testing.T, source string) string {
	t.Helper()
	next := filepath.Join(t.TempDir(), "source")
	run(t, "sh", "-c", `mkdir "$2" && cd "$1" && git ls-files -z | tar -c --null -T - | tar -x -C "$2"`, "sh", source, next)
	for name, change := range map[string][2]string{
		"log/store/format.go": {"const Format = 2", "const Format = 3"},
		"appliance/format.go": {"\t{to: 2}, // the numbers themselves\n", `	{to: 2}, // the numbers themselves
	{to: 3,
		up:   func(_ string, tx store.Tx) error { return tx.Put([]byte("next"), []byte("3")) },
		down: func(_ string, tx store.Tx) error { return tx.Delete([]byte("next")) }},
`},
	} {
		text, err := os.ReadFile(filepath.Join(next, name))
		if err != nil || strings.Count(string(text), change[0]) != 1 {
			t.Fatalf("%s: %v", name, err)
		}
		if err := os.WriteFile(filepath.Join(next, name), []byte(strings.Replace(string(text), change[0], change[1], 1)), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return next
}

// pair are the fingerprints of the bundles of two releases that follow each other, built once.
var pair struct {
	once          sync.Once
	first, second string
}

// releases unpacks releases 1.0.0 and 1.1.0 into folder.
func releases(t *testing.T, folder string) (first, second string) {
	t.Helper()
	pair.once.Do(func() {
		source, err := filepath.Abs("..")
		if err != nil {
			t.Fatal(err)
		}
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		build := func(source, version string) string {
			c := installer.Config{Source: source, Out: filepath.Join(scratch, version+".tar.zst"), Version: version, Platforms: []string{runtime.GOARCH}, Signer: key}
			report, err := installer.Build(t.Context(), c)
			if err != nil {
				t.Fatal(err)
			}
			return report.Fingerprint
		}
		pair.first = build(source, "1.0.0")
		pair.second = build(nextRelease(t, source), "1.1.0")
	})
	for version, fingerprint := range map[string]string{"1.0.0": pair.first, "1.1.0": pair.second} {
		if _, err := installer.Unpack(t.Context(), filepath.Join(scratch, version+".tar.zst"), folder, installer.Trust{Fingerprint: fingerprint}); err != nil {
			t.Fatal(err)
		}
	}
	return pair.first, pair.second
}

// TestUpgradeOnFreshDebian installs a bundle on a fresh Debian 12 with no network, signs with it, upgrades to a release with another format
// of the state directory, killed at random moments and on a full disk, goes back, and removes it. What was signed verifies all the while.
func TestUpgradeOnFreshDebian(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("this test makes a Debian root and enters it: run it as root")
	}
	root := freshDebian(t)
	first, second := releases(t, filepath.Join(root, "root"))
	began := time.Now()
	out := inside(t, root, "FIRST="+first+" SECOND="+second+upgradeScript)
	t.Logf("%s in the Debian root", time.Since(began).Round(time.Second))
	if m := regexp.MustCompile(`fresh Debian to first verified signature: [0-9.]+ s of machine time, [0-9.]+ s by the clock`).FindString(out); m != "" {
		t.Log(m)
	} else {
		t.Error("the figure is missing")
	}
	t.Log(out)
}

const upgradeScript = `
set -eux
state=/var/lib/redoubt
as() { su redoubt -s /bin/sh -c "$*"; }
serve() { rm -f /tmp/ready.json; as "exec /usr/bin/redoubt serve --dir $state --ready-file /tmp/ready.json" & for i in $(seq 600); do [ -s /tmp/ready.json ] && return; sleep 0.1; done; exit 1; }
halt() { kill -TERM $(sed 's/.*"pid":\([0-9]*\).*/\1/' /tmp/ready.json); wait; }
sign() { redoubt identity token > /tmp/token; redoubt sign $1 --setup /tmp/setup --identity-token /tmp/token --bundle $1.json; }
verify() { redoubt verify $1 --setup /tmp/setup --bundle $1.json --certificate-identity dev@corp.internal --certificate-oidc-issuer-regexp .; }
fails() { if "$@"; then echo "this went through: $*"; exit 1; fi; }
version() { redoubt version | cut -d' ' -f2; }
chmod 0777 /tmp
t0=$(cut -d' ' -f1 /proc/uptime)
/root/redoubt-1.0.0/install.sh --fingerprint $FIRST
redoubt init --dir $state --owner redoubt --domain corp.internal --non-interactive
serve
redoubt client setup --out /tmp/setup
echo first > /tmp/a
sign /tmp/a
verify /tmp/a
t1=$(cut -d' ' -f1 /proc/uptime)
times > /tmp/times
set +x
awk -v a=$t0 -v b=$t1 'NR==2{split($0,w," "); n=0; for(i in w){split(w[i],x,"[ms]"); n+=x[1]*60+x[2]}; printf "fresh Debian to first verified signature: %.1f s of machine time, %.1f s by the clock\n", n, b-a}' /tmp/times
set -x
redoubt doctor -o json > /tmp/doctor.json || true
grep -q '"name": "owners"' /tmp/doctor.json
redoubt state show
fails /root/redoubt-1.1.0/install.sh --fingerprint $FIRST
fails /root/redoubt-1.1.0/install.sh --fingerprint $SECOND --no-backup       # a server runs
halt
/root/redoubt-1.1.0/install.sh --fingerprint $SECOND --dry-run --no-backup
fails /root/redoubt-1.1.0/install.sh --fingerprint $SECOND                   # no place for a backup
test $(version) = 1.0.0

# A full disk: what is in force stays in force.
rm -rf /usr/lib/redoubt/releases/1.1.0-*
mkdir /small && mount -t tmpfs -o size=200m tmpfs /small && cp -a /usr/lib/redoubt/. /small && mount --move /small /usr/lib/redoubt
dd if=/dev/zero of=/usr/lib/redoubt/fill bs=1M || true
set +e; /root/redoubt-1.1.0/install.sh --fingerprint $SECOND --no-backup; code=$?; set -e
test $code = 42
test $(version) = 1.0.0
umount /usr/lib/redoubt

# Killed at random moments: one of the two releases serves, and the data is whole.
killed=0
for after in 0.05 0.2 0.4 0.6 0.8 1 1.3 1.6 2 2.5; do
	set +e; timeout -s KILL $after /root/redoubt-1.1.0/install.sh --fingerprint $SECOND --no-backup; code=$?; set -e
	test $code != 137 || killed=$((killed + 1))
	v=$(version); test $v = 1.0.0 -o $v = 1.1.0
	serve; verify /tmp/a; halt
done
echo "$killed of 10 installations were killed"
test $killed -gt 0
mkdir -p /srv/backup && chown redoubt /srv/backup
/root/redoubt-1.1.0/install.sh --fingerprint $SECOND --backup-to /srv/backup --no-encryption
test $(version) = 1.1.0
redoubt state show | grep -q 'format 3'
serve
echo second > /tmp/b
sign /tmp/b
verify /tmp/a; verify /tmp/b
halt

# An older program refuses the data, and going back keeps what was signed.
fails /root/redoubt-1.0.0/install.sh --fingerprint $FIRST --no-backup
fails /root/redoubt-1.0.0/install.sh --fingerprint $FIRST --no-backup --allow-older
fails /root/redoubt-1.0.0/bin/*/redoubt-static log info --dir $state
redoubt upgrade --rollback
test $(version) = 1.0.0
serve; verify /tmp/a; verify /tmp/b; echo third > /tmp/c; sign /tmp/c; verify /tmp/c; halt
as redoubt log fsck
as redoubt audit list | grep -c state.migrate
redoubt uninstall
fails test -e /usr/bin/redoubt # the shell remembers where it was
test -s $state/db/rekor.db && test -s $state.highwater && id redoubt
/root/redoubt-1.0.0/install.sh --fingerprint $FIRST
as redoubt log fsck
serve; verify /tmp/b; halt
`
