package main

import (
	"context"
	"crypto/fips140"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.internal/installer/host"
)

// What a machine must be before anything is installed or made on it.

// sourceDate is when the sources of this release were written. A clock before it is wrong; it moves with each release.
var sourceDate = time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)

// clockAhead is how far behind the clock a release may be before somebody has to say that the clock is right.
const clockAhead = 2 * 365 * 24 * time.Hour

const installBytes = 512 << 20 // a release and the one before it

var (
	errClockBehind = errors.New("the clock is wrong")
	errClockAhead  = errors.New("the clock is far ahead")
)

// preflightArgs say what the machine is for.
type preflightArgs struct {
	Dir         string // state directory, which need not be there
	Keys        string // URI of the token, where it is chosen
	TPMDevice   string
	Address     string // own ports there; "" is port 443
	FirstPort   int
	AcceptClock bool
}

// preflight looks at the machine. It changes nothing and logs in nowhere.
func preflight(ctx context.Context, a preflightArgs, now time.Time) []check {
	at := nearestFolder(a.Dir)
	checks := []check{
		result("clock", clockNear(now, sourceDate, a.AcceptClock), "look at a watch, then `date --set` and `hwclock --systohc`; if the clock is right, --accept-clock"),
		warning("clock discipline", checkClock(), "run chrony or another time service; inside a gap, discipline the clock from a local source"),
		result("disk of programs", roomFor("/usr", installBytes), "free space below /usr: two releases lie side by side"),
		result("disk of the state directory", checkFreeSpace(at), "free space, or name a --dir on a larger disk"),
		result("inodes of the state directory", checkInodes(at), "make the file system with more inodes (mkfs.ext4 -N)"),
		warning("file system", checkFileSystem(at), "keep the state directory on a local ext4 or xfs with barriers, mounted without data=writeback"),
		warning("fast commits", checkFastCommit("/proc/fs/ext4", "/proc/sys/kernel/osrelease", at), "tune2fs -O ^fast_commit on the unmounted device, or a newer kernel"),
		warning("ext4 fast_commit", fastCommitFeature("/proc/fs/ext4", at), "it is safe from kernel 5.17 on; to be independent of the kernel, tune2fs -O ^fast_commit on the unmounted device"),
		warning("memory", checkMemory(), "stop what else runs here, or add memory"),
		warning("swap", checkSwap(), "swapoff -a, or swap on an encrypted device: software keys are in the server's memory"),
		warning("FIPS", checkFIPSKernel("/proc/sys/crypto/fips_enabled"), "the binary of `./task build:fips`, with Environment=GODEBUG=fips140=only in the unit"),
		warning("program", programBuild(), "the build in bin/ARCH/redoubt-appliance, which needs the C library of Debian 12 or later"),
		result("service user", checkServiceUser(), "userdel redoubt, and run install.sh again: it makes the user as it should be"),
	}
	checks = append(checks, result("upgrade", begun(host.Pending()), "`redoubt upgrade --from FOLDER` once more, or `redoubt upgrade --rollback`"))
	checks = append(checks, portChecks(ctx, a)...)
	checks = append(checks, tokenCheck(ctx, a))
	if _, err := os.Stat(layout{a.Dir}.config()); err == nil {
		cfg, _ := loadConfig(layout{a.Dir}.config()) // of a newer format it may be one that cannot be read
		checks = append(checks,
			result("state format", newerOnly(layout{a.Dir}.checkFormat()), "the release that wrote it, or a later one"),
			result("owners", checkOwners(cfg, layout{a.Dir}), "chown -R redoubt:redoubt the state directory and its .highwater files; chmod go-w what others may write"))
	}
	return checks
}

// clockNear refuses a clock that cannot be right, and one that is so far ahead of the release that somebody has to look.
func clockNear(now, made time.Time, accepted bool) error {
	switch {
	case now.Before(made):
		return fmt.Errorf("%w: it says %s, and this release was made after %s", errClockBehind, now.UTC().Format(time.DateTime), made.Format(time.DateOnly))
	case now.Sub(made) > clockAhead && !accepted:
		return fmt.Errorf("%w: it says %s, more than two years after this release was made (%s). Certificates and timestamps made now carry that time for good", errClockAhead, now.UTC().Format(time.DateTime), made.Format(time.DateOnly))
	}
	return nil
}

// nearestFolder is path, or the folder above it that is there.
func nearestFolder(path string) string {
	for path, _ = filepath.Abs(path); path != "/"; path = filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil {
			break
		}
	}
	return path
}

func roomFor(path string, want uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if free := st.Bavail * uint64(st.Bsize); free < want {
		return fmt.Errorf("%d MiB left, %d wanted", free>>20, want>>20)
	}
	return nil
}

// fastCommitFeature names an ext4 that was made with fast_commit, whatever the kernel.
func fastCommitFeature(proc, path string) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	device, _ := mountOf(mounts, path)
	options, err := os.ReadFile(filepath.Join(proc, filepath.Base(device), "options"))
	if err == nil && strings.Contains("\n"+string(options), "\nfast_commit\n") {
		return fmt.Errorf("%s is mounted with fast_commit", device)
	}
	return nil
}

// checkFIPSKernel names a machine that is in FIPS mode under a program that is not.
func checkFIPSKernel(path string) error {
	text, err := os.ReadFile(path)
	if err == nil && strings.TrimSpace(string(text)) == "1" && !fips140.Enforced() {
		return errors.New("this machine is in FIPS mode, and this program is not")
	}
	return nil
}

func programBuild() error {
	if !cgoEnabled {
		return errors.New("this is the free-standing build: PKCS#11 tokens cannot be used with it")
	}
	return nil
}

// checkServiceUser refuses a service user that can log in or is root by another name; none is as good, install.sh makes it.
func checkServiceUser() error {
	u, err := user.Lookup("redoubt")
	if err != nil {
		return nil
	}
	if u.Uid == "0" {
		return errors.New("the user redoubt is root")
	}
	text, err := os.ReadFile("/etc/passwd")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 7 && fields[0] == "redoubt" && !strings.HasSuffix(fields[6], "/nologin") && !strings.HasSuffix(fields[6], "/false") {
			return fmt.Errorf("the user redoubt has the shell %s", fields[6])
		}
	}
	return nil
}

func begun(what string) error {
	if what == "" {
		return nil
	}
	return fmt.Errorf("%s was begun and not ended", what)
}

// newerOnly forgives an earlier format: whoever serves brings it up.
func newerOnly(err error) error {
	if errors.Is(err, errOlderState) {
		return nil
	}
	return err
}

// portChecks try to listen where the services will; a server of ours that has them already is no finding.
func portChecks(ctx context.Context, a preflightArgs) []check {
	for _, part := range append([]string{""}, partNames...) {
		if conn, err := dialAt(ctx, layout{a.Dir}.run(part)); err == nil {
			conn.Close()
			return []check{{Name: "ports", OK: true, Detail: "this directory is being served"}}
		}
	}
	first, last, address := 443, 443, ""
	if a.Address != "" {
		first, last, address = a.FirstPort, a.FirstPort+len(serviceNames)-4, a.Address // oidc, console and metrics have none
	}
	var taken []string
	for port := first; port <= last; port++ {
		listener, err := net.Listen("tcp", net.JoinHostPort(address, strconv.Itoa(port)))
		if err == nil {
			listener.Close()
		} else if !errors.Is(err, syscall.EACCES) { // who may not listen cannot find out
			taken = append(taken, fmt.Sprintf("%d: %v", port, errors.Unwrap(err)))
		}
	}
	var err error
	if len(taken) > 0 {
		err = fmt.Errorf("%s", strings.Join(taken, "; "))
	}
	return []check{result("ports", err, "`ss -tlnp` names the process; stop it, or choose other ports: --address IP --first-port N")}
}

// tokenCheck looks for the token that was chosen, or says what there is.
func tokenCheck(ctx context.Context, a preflightArgs) check {
	const fix = "docs/operator.md names how each kind of token is set up; `redoubt init` lists what it finds"
	switch {
	case isTPM(a.Keys):
		_, err := os.Stat(orDefault(orDefault(uriAttribute(a.Keys, "device"), a.TPMDevice), defaultTPM))
		return result("token", err, fix)
	case strings.HasPrefix(a.Keys, "pkcs11:"):
		seen, err := surveyModule(ctx, uriAttribute(a.Keys, "module-path"))
		if err == nil {
			err = errors.New("the module shows no token called " + uriAttribute(a.Keys, "token"))
			for _, t := range seen.Tokens {
				switch {
				case t.Label != uriAttribute(a.Keys, "token") && t.Serial != uriAttribute(a.Keys, "serial"):
				case t.Locked:
					err = fmt.Errorf("the PIN of %s is locked", t.Label)
				case t.LastTry:
					err = fmt.Errorf("one try of the PIN of %s is left", t.Label)
				case !t.PIN:
					err = fmt.Errorf("%s has no PIN yet", t.Label)
				default:
					return check{Name: "token", OK: true, Detail: t.Label + ", " + t.Manufacturer}
				}
			}
		}
		return result("token", err, fix)
	case a.Keys != "":
		return check{Name: "token", OK: true, Detail: "not looked at: " + redactURI(a.Keys)}
	}
	found := findTokens(ctx, a.TPMDevice)
	if len(found) == 0 {
		return warning("token", errors.New("no HSM and no TPM was found"), fix)
	}
	var names []string
	for _, f := range found {
		names = append(names, f.Says)
	}
	return check{Name: "token", OK: true, Detail: strings.Join(names, "; ")}
}

// checkOwners refuses a state directory whose parts belong to different users, unless roles run apart, or that others may write to.
func checkOwners(cfg *Config, dir layout) error {
	apart, mask := cfg != nil && cfg.Roles != nil, fs.FileMode(0o022)
	if apart {
		mask = 0o002
	}
	owner := func(info fs.FileInfo) uint32 { return info.Sys().(*syscall.Stat_t).Uid }
	top, err := os.Stat(dir.root)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir.root, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // it is in use
		}
		if apart && errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir // another role's, who looks at it itself
		}
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir.root, path)
		if d.IsDir() && strings.Count(rel, string(filepath.Separator)) >= 2 {
			return fs.SkipDir // tiles, of which there may be millions
		}
		info, err := d.Info()
		if err != nil {
			return nil
		}
		if !apart && owner(info) != owner(top) {
			return fmt.Errorf("%s belongs to uid %d, the directory to uid %d", path, owner(info), owner(top))
		}
		if info.Mode()&fs.ModeSymlink == 0 && info.Mode()&fs.ModeSticky == 0 && info.Mode().Perm()&mask != 0 {
			return fmt.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
		return nil
	})
}
