package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// The releases of these tests have a program that is a script: it keeps a state directory whose whole data is the number of its format and a
// few lines, and refuses what is of a higher one. Everything else is real.

const script = `#!/bin/sh
set -eu
case "$1 ${2-}" in
"version -o") echo '{"version": "VERSION", "stateFormat": FORMAT}' ; exit ;;
esac
dir=$4 to=FORMAT
[ "${5-}" = --to ] && to=$6
have=$(cat "$dir/format")
[ "$have" -le FORMAT ] || { echo "a newer program wrote this" >&2; exit 1; }
case "$1 $2" in
"state show") ;;
"state migrate") [ ! -e "$dir/full" ] || [ "$to" -lt FORMAT ] || { echo "no space left" >&2; exit 1; }
	echo "$to" >"$dir/format.new"; mv "$dir/format.new" "$dir/format" ;;
"backup create") echo VERSION >>"$dir.backups" ;;
"serve --dir") cat "$dir/data" ;;
*) exit 2 ;;
esac
`

// handing is the program that is called: what it does not do itself it hands over.
const handing = `#!/bin/sh
exec "$(dirname "$(readlink -f "$0")")/redoubt-appliance" "$@"
`

// bundle makes the folder of an unpacked bundle.
func bundle(t *testing.T, version string, format int) string {
	t.Helper()
	folder := filepath.Join(t.TempDir(), "redoubt-"+version)
	program := strings.NewReplacer("VERSION", version, "FORMAT", strconv.Itoa(format)).Replace(script)
	files := map[string]string{"bin/" + runtime.GOARCH + "/redoubt": handing, "bin/" + runtime.GOARCH + "/redoubt-appliance": program, "bin/" + runtime.GOARCH + "/redoubt-static": program,
		"docs/README.md": version, "licences/a/LICENSE": version, "monitoring/rules.yml": version,
		"systemd/redoubt.service": "# " + version, "systemd/redoubt-" + version + ".service": "# " + version}
	var list strings.Builder
	for name, text := range files {
		if err := writeFile(filepath.Join(folder, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256([]byte(text)), name)
	}
	if err := os.WriteFile(filepath.Join(folder, sumsFile), []byte(list.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return folder
}

// newRoot is a machine with a state directory of format 1.
func newRoot(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range map[string]string{"format": "1\n", "data": "signed\n", "redoubt.yaml": "backup: {}\n", "run/lock": ""} {
		if err := writeFile(filepath.Join(root, stateDir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const stateDir = "/var/lib/redoubt"

func config(root, from string) Config {
	return Config{Root: root, From: from, Dir: stateDir, NoUser: true}
}

// serves says which release answers and whether its program works on the state, through the name in /usr/bin.
func serves(root string) (version string, err error) {
	out, err := exec.Command(filepath.Join(root, "usr/bin/redoubt"), "version", "-o", "json").Output()
	if err != nil {
		return "", err
	}
	// As serve does at its start: what is older is brought up, what is newer refused.
	if out, err := exec.Command(filepath.Join(root, "usr/bin/redoubt"), "state", "migrate", "--dir", root+stateDir).CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	data, err := exec.Command(filepath.Join(root, "usr/bin/redoubt"), "serve", "--dir", root+stateDir, root+stateDir).Output()
	if err != nil || string(data) != "signed\n" {
		return "", fmt.Errorf("the data: %q %w", data, err)
	}
	return strings.Split(string(out), `"`)[3], nil
}

func format(t *testing.T, root string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, stateDir, "format"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(text))
}

func want(t *testing.T, root, version, of string) {
	t.Helper()
	if have := format(t, root); have != of {
		t.Errorf("the state is of format %s, want %s", have, of)
	}
	if v, err := serves(root); err != nil || v != version {
		t.Errorf("%q serves, want %q: %v", v, version, err)
	}
	if left, _ := filepath.Glob(root + libFolder + "/pending.json"); len(left) > 0 {
		t.Error("something is noted as begun")
	}
	for _, name := range []string{unitFolder + "/redoubt-" + version + ".service", unitFolder + "/redoubt.service", shareFolder + "/docs/README.md"} {
		if text, err := os.ReadFile(root + name); err != nil || !strings.HasSuffix(string(text), version) {
			t.Errorf("%s: %q %v", name, text, err)
		}
	}
	if units, _ := filepath.Glob(root + unitFolder + "/redoubt*"); len(units) != 2 {
		t.Errorf("units: %v", units)
	}
}

func TestUpgradeAndBack(t *testing.T) {
	root, ctx := newRoot(t), t.Context()
	first, second := bundle(t, "1.0.0", 1), bundle(t, "1.1.0", 2)
	c := config(root, first)
	for i := range 2 {
		r, err := Upgrade(ctx, c)
		if err != nil || r.Changed != (i == 0) {
			t.Fatalf("%+v %v", r, err)
		}
		want(t, root, "1.0.0", "1")
	}
	if _, err := Rollback(ctx, c); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("back from the first release: %v", err)
	}
	before := tree(t, root)
	c.From, c.DryRun = second, true
	if r, err := Upgrade(ctx, c); err != nil || r.Changed || len(r.Steps) < 6 || tree(t, root) != before {
		t.Errorf("a dry run: %+v %v", r, err)
	}
	c.DryRun = false
	if r, err := Upgrade(ctx, c); err != nil || !r.Changed || !strings.HasPrefix(r.From, "1.0.0-") {
		t.Fatalf("%+v %v", r, err)
	}
	want(t, root, "1.1.0", "2")
	if text, _ := os.ReadFile(root + stateDir + ".backups"); string(text) != "1.0.0\n" {
		t.Errorf("backups by %q", text)
	}
	c.From = first
	if _, err := Upgrade(ctx, c); !errors.Is(err, ErrOlder) {
		t.Errorf("an older release: %v", err)
	}
	c.AllowOlder = true
	if _, err := Upgrade(ctx, c); err == nil || !strings.Contains(err.Error(), "a newer program wrote this") {
		t.Errorf("an older program on newer data: %v", err)
	}
	want(t, root, "1.1.0", "2")
	if r, err := Rollback(ctx, c); err != nil || !r.Changed {
		t.Fatalf("%+v %v", r, err)
	}
	want(t, root, "1.0.0", "1")
	if _, err := Rollback(ctx, c); !errors.Is(err, ErrNoPrevious) {
		t.Errorf("back once more: %v", err)
	}
	want(t, root, "1.0.0", "1")
	marks := []string{root + stateDir + ".highwater", root + stateDir + ".highwater.log"}
	for _, mark := range marks {
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	r, err := Remove(ctx, c)
	if err != nil || len(r.Kept) < 3 {
		t.Fatalf("%+v %v", r, err)
	}
	for _, mark := range marks {
		if _, err := os.Stat(mark); err != nil || !slices.Contains(r.Kept, mark) {
			t.Errorf("%s: %v, kept %v", mark, err, r.Kept)
		}
	}
	for _, gone := range []string{"/usr/bin/redoubt", "/usr/bin/redoubt-static", libFolder, shareFolder, unitFolder + "/redoubt.service"} {
		if _, err := os.Lstat(root + gone); err == nil {
			t.Errorf("%s is still there", gone)
		}
	}
	if data, err := os.ReadFile(root + stateDir + "/data"); err != nil || string(data) != "signed\n" {
		t.Errorf("the data is gone: %v", err)
	}
}

// tree is every file below root with its digest.
func tree(t *testing.T, root string) string {
	t.Helper()
	out, err := exec.Command("sh", "-c", "cd "+root+" && find . -printf '%p %m %l\\n' | sort && find . -type f -exec sha256sum {} + | sort").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestAdopt: an installation of single files is kept as a release to go back to, of one program or of two.
func TestAdopt(t *testing.T) {
	bin := "bin/" + runtime.GOARCH
	for name, programs := range map[string]map[string]string{
		"one program":  {bin + "/redoubt-static": "/usr/bin/redoubt"},
		"two programs": {bin + "/redoubt": "/usr/bin/redoubt", bin + "/redoubt-appliance": "/usr/bin/redoubt-appliance"},
	} {
		t.Run(name, func(t *testing.T) {
			root, old := newRoot(t), bundle(t, "0.9.0", 1)
			files := map[string]string{"systemd/redoubt.service": unitFolder + "/redoubt.service", "systemd/redoubt-0.9.0.service": unitFolder + "/redoubt-0.9.0.service",
				"docs/README.md": shareFolder + "/docs/README.md"}
			maps.Copy(files, programs)
			for from, to := range files {
				if err := copyFile(filepath.Join(old, from), root+to, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			c := config(root, bundle(t, "1.0.0", 2))
			if _, err := Upgrade(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			want(t, root, "1.0.0", "2")
			if _, err := Rollback(t.Context(), c); err != nil {
				t.Fatal(err)
			}
			if v, err := serves(root); err != nil || v != "0.9.0" {
				t.Errorf("%s %v", v, err)
			}
		})
	}
}

// TestKilled kills an upgrade and a rollback at every one of their points. Either release answers then, with all of the data, and the next
// run ends in the one that was wanted.
func TestKilled(t *testing.T) {
	first, second := bundle(t, "1.0.0", 1), bundle(t, "1.1.0", 2)
	for _, back := range []bool{false, true} {
		points := 0
		for ; ; points++ {
			root := newRoot(t)
			if _, err := Upgrade(t.Context(), config(root, first)); err != nil {
				t.Fatal(err)
			}
			from, to, of := "1.0.0", "1.1.0", "2"
			if back {
				if _, err := Upgrade(t.Context(), config(root, second)); err != nil {
					t.Fatal(err)
				}
				from, to, of = to, from, "1"
			}
			died := runAndDie(t, root, second, back, points)
			if v, err := serves(root); err != nil || v != from && v != to {
				t.Fatalf("killed at point %d: %q answers: %v", points, v, err)
			}
			if died {
				if runAndDie(t, root, second, back, -1) {
					t.Fatal("the second run died")
				}
			}
			want(t, root, to, of)
			if !died {
				break
			}
		}
		if points < 10 {
			t.Errorf("only %d points", points)
		}
		t.Logf("back %v: killed at %d points", back, points)
	}
}

// TestKilledControl is what TestKilled has to notice: data that moved before the program did.
func TestKilledControl(t *testing.T) {
	root := newRoot(t)
	if _, err := Upgrade(t.Context(), config(root, bundle(t, "1.0.0", 1))); err != nil {
		t.Fatal(err)
	}
	c := config(root, "")
	if err := c.asOwner(t.Context(), filepath.Join(bundle(t, "1.1.0", 2), programs()[0]), "state", "migrate", "--dir", root+stateDir); err != nil {
		t.Fatal(err)
	}
	if v, err := serves(root); err == nil {
		t.Errorf("%s is said to work on what it does not know", v)
	}
}

// TestUndone: a release that cannot take over the data is taken back by itself.
func TestUndone(t *testing.T) {
	root := newRoot(t)
	c := config(root, bundle(t, "1.0.0", 1))
	if _, err := Upgrade(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(root+stateDir+"/full", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	c.From = bundle(t, "1.1.0", 2)
	if _, err := Upgrade(t.Context(), c); err == nil || !strings.Contains(err.Error(), "no space left") || strings.Contains(err.Error(), "undoing it failed") {
		t.Fatal(err)
	}
	if err := os.Remove(root + stateDir + "/full"); err != nil {
		t.Fatal(err)
	}
	want(t, root, "1.0.0", "1")
	if _, err := Upgrade(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	want(t, root, "1.1.0", "2")
}

func TestRefusals(t *testing.T) {
	root := newRoot(t)
	c := config(root, bundle(t, "1.0.0", 1))
	if _, err := Upgrade(t.Context(), config(root, t.TempDir())); !errors.Is(err, ErrRelease) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := Upgrade(t.Context(), c); err != nil {
		t.Fatal(err)
	}
	next := config(root, bundle(t, "1.1.0", 2))
	held, err := os.Open(root + stateDir + "/run/lock")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Flock(int(held.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if _, err := Upgrade(t.Context(), next); !errors.Is(err, ErrServing) {
		t.Errorf("while a server runs: %v", err)
	}
	held.Close()
	want(t, root, "1.0.0", "1")
	if err := os.WriteFile(root+stateDir+"/redoubt.yaml", []byte("domain: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Upgrade(t.Context(), next); !errors.Is(err, ErrBackup) {
		t.Errorf("no place for a backup: %v", err)
	}
	next.From = bundle(t, "1.2.0", 2)
	if err := os.WriteFile(filepath.Join(next.From, "docs/README.md"), []byte("changed"), 0o644); err != nil {
		t.Fatal(err)
	}
	next.NoBackup = true
	if _, err := Upgrade(t.Context(), next); !errors.Is(err, ErrRelease) {
		t.Errorf("a changed file: %v", err)
	}
	want(t, root, "1.0.0", "1")
	if err := writeFile(root+"/var/lib/dpkg/info/redoubt.list", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Upgrade(t.Context(), next); !errors.Is(err, ErrPackage) {
		t.Errorf("over a package: %v", err)
	}
}

// TestFullDisk: a disk that fills while the release is copied leaves the one before as it was.
func TestFullDisk(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting a small file system takes root")
	}
	root := newRoot(t)
	if err := os.MkdirAll(root+"/usr/lib/redoubt", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", root+"/usr/lib/redoubt", "tmpfs", 0, "size=256k"); err != nil {
		t.Skipf("no mounts here: %v", err)
	}
	defer syscall.Unmount(root+"/usr/lib/redoubt", 0)
	if _, err := Upgrade(t.Context(), config(root, bundle(t, "1.0.0", 1))); err != nil {
		t.Fatal(err)
	}
	fill := root + "/usr/lib/redoubt/fill"
	err := os.WriteFile(fill, make([]byte, 1<<20), 0o644)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
	next := config(root, bundle(t, "1.1.0", 2))
	if _, err := Upgrade(t.Context(), next); !errors.Is(err, ErrFull) {
		t.Fatalf("on a full disk: %v", err)
	}
	want(t, root, "1.0.0", "1")
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if _, err := Upgrade(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	want(t, root, "1.1.0", "2")
}

const dieVariable = "REDOUBT_HOST_DIE" // root, bundle, back, point

func TestMain(m *testing.M) {
	if words := strings.Split(os.Getenv(dieVariable), "\n"); len(words) == 4 {
		left, _ := strconv.Atoi(words[3])
		c := config(words[0], words[1])
		c.at = func(string) {
			if left == 0 {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
			left--
		}
		run := Upgrade
		if words[2] == "true" {
			run = Rollback
		}
		if _, err := run(context.Background(), c); err != nil && !errors.Is(err, ErrNoPrevious) {
			fmt.Println(err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runAndDie runs in a process of its own, killed at a point; below 0 it lives.
func runAndDie(t *testing.T, root, from string, back bool, point int) (died bool) {
	t.Helper()
	command := exec.Command(os.Args[0])
	command.Env = append(os.Environ(), dieVariable+"="+fmt.Sprintf("%s\n%s\n%v\n%d", root, from, back, point))
	out, err := command.CombinedOutput()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.Sys().(syscall.WaitStatus).Signal() == syscall.SIGKILL {
		return true
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return false
}

// The users of the roles are those of the file that a release brings.
func TestUsersOf(t *testing.T) {
	list, err := os.ReadFile("../files/sysusers/redoubt.conf")
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"redoubt-ca", "redoubt-log", "redoubt-tsa", "redoubt-trust", "redoubt-oidc", "redoubt-console", "redoubt-admission", "redoubt-front"}
	if got := usersOf(string(list)); !slices.Equal(got, want) {
		t.Errorf("users %q, want %q", got, want)
	}
	if got := usersOf("u root -\nu redoubt-x\n# u redoubt-y\ng redoubt -\n"); !slices.Equal(got, []string{"redoubt-x"}) {
		t.Errorf("of others' users: %q", got)
	}
}
