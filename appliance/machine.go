package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What the machine owes an instance: room, a file system that keeps its word, files nobody else can read or change, limits that fit.
// The serving process looks at its own limits, which are those that count.

const (
	minFreeBytes  = 1 << 30
	minFreeInodes = 10_000
	minMemory     = 256 << 20
	minOpenFiles  = 4096
)

// machineChecks look at the machine from the process that calls. What they find is not for everybody.
func machineChecks(cfg *Config, dir layout) []check {
	checks := listMachineChecks(cfg, dir)
	for i := range checks {
		checks[i].private = true
	}
	return checks
}

func listMachineChecks(cfg *Config, dir layout) []check {
	checks := []check{
		result("state directory", checkModes(cfg, dir), "chown it to the service user; chmod 0700 keys and run; where roles run apart, `redoubt roles apart`"),
		urgent("owners", checkOwners(cfg, dir), "chown -R to the service user; chmod go-w what others may write"),
		urgent("free space", checkFreeSpace(dir.root), "free or add space: a log that cannot write latches read-only; one that stays so needs `redoubt log resume`"),
		urgent("free inodes", checkInodes(dir.root), "remove small files, or make the file system with more inodes (mkfs.ext4 -N): mirrors keep one file for 256 entries"),
		forecastCheck(dir),
		warning("file system", checkFileSystem(dir.root), "keep the state directory on a local ext4 or xfs with barriers, mounted without data=writeback"),
		warning("fast commits", checkFastCommit("/proc/fs/ext4", "/proc/sys/kernel/osrelease", dir.root), "tune2fs -O ^fast_commit on the unmounted device, or a newer kernel"),
		result("configuration file", closed(0o022, dir.config()), "chmod go-w, and chown it to root or to the service user"),
		result("secret files", checkSecrets(cfg, dir), "chmod 0600, and chown them to the service user"),
		warning("program file", checkProgram(), "chown root and chmod 0755: whoever can change it can sign with every key"),
		warning("open files", checkOpenFiles(), "LimitNOFILE=65536 in the unit, or ulimit -n"),
		warning("memory", checkMemory(), "stop what else runs here, or add memory"),
		warning("leftovers", checkLeftovers(dir), "remove them: they are of an init or a restore that was cut off"),
	}
	if strings.HasPrefix(cfg.Keys.Token, "soft:") {
		checks = append(checks, warning("swap", checkSwap(), "swapoff -a, or swap on an encrypted device: software keys are in this process's memory"))
	}
	if cfg.Profile != profileProduction {
		return checks
	}
	return append(checks,
		warning("core dumps", checkCores(), "LimitCORE=0 in the unit, or ulimit -c 0"),
		warning("high-water place", checkMarkPlace(cfg, dir), "name a file on another disk, or a TPM counter, under log.highwater (`redoubt docs config`)"),
	)
}

// urgent is a check that readiness forgives and doctor does not: the service still works, and somebody has to come.
func urgent(name string, err error, fix string) check {
	c := warning(name, err, fix)
	c.Urgent = err != nil
	return c
}

// checkModes refuses private folders that others can read.
func checkModes(cfg *Config, dir layout) error {
	if cfg.Roles == nil {
		return closed(0o077, dir.keys(), dir.path("run"))
	}
	return closed(0o027, dir.root, dir.keys(), dir.path("db"), dir.path("run"))
}

// closed refuses files and folders that have any of the permissions in mask.
func closed(mask os.FileMode, paths ...string) error {
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Mode().Perm()&mask != 0 {
			return fmt.Errorf("%s has mode %04o", path, info.Mode().Perm())
		}
	}
	return nil
}

func checkFreeSpace(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if free := st.Bavail * uint64(st.Bsize); free < minFreeBytes {
		return fmt.Errorf("%d MiB left", free>>20)
	}
	return nil
}

func checkInodes(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if st.Files > 0 && st.Ffree < minFreeInodes { // some file systems have no fixed number of them
		return fmt.Errorf("%d of %d left", st.Ffree, st.Files)
	}
	return nil
}

// weak are file systems on which a flushed file may be lost, or locks may not hold, by their magic number (statfs(2)).
var weak = map[int64]string{0x6969: "nfs", 0xff534d42: "cifs", 0xfe534d42: "smb2", 0x01021994: "tmpfs", 0x858458f6: "ramfs", 0x794c7630: "overlay", 0x65735546: "fuse", 0x01021997: "9p"}

// checkFileSystem names a file system, or options of one, that do not keep what was flushed.
func checkFileSystem(path string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err
	}
	if name, bad := weak[int64(uint32(st.Type))]; bad {
		return fmt.Errorf("%s is on %s", path, name)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil // a sandbox that hides its mounts
	}
	_, options := mountOf(mounts, path)
	for _, option := range strings.Split(options, ",") {
		switch option {
		case "nobarrier", "barrier=0", "data=writeback", "journal_async_commit":
			return fmt.Errorf("%s is mounted with %s: what was flushed may be lost with the power", path, option)
		}
	}
	return nil
}

// mountOf returns the device and the super block options of the mount that holds path, from the lines of /proc/self/mountinfo
// (proc_pid_mountinfo(5)).
func mountOf(mountinfo []byte, path string) (device, options string) {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	longest := -1
	for lines := bufio.NewScanner(bytes.NewReader(mountinfo)); lines.Scan(); {
		before, after, ok := strings.Cut(lines.Text(), " - ")
		fields, super := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 6 || len(super) < 3 {
			continue
		}
		at := fields[4]
		if at != path && at != "/" && !strings.HasPrefix(path, at+"/") || len(at) < longest {
			continue
		}
		longest, device, options = len(at), super[1], super[2]
	}
	return device, options
}

// checkFastCommit names an ext4 that commits fast on a kernel in which that lost bbolt's pages (go.etcd.io/bbolt issue 562: mended in
// 5.10.94, 5.15.17 and 5.17).
func checkFastCommit(proc, release, path string) error {
	version, err := os.ReadFile(release)
	if err != nil || !losesFastCommits(string(version)) {
		return nil
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil
	}
	device, _ := mountOf(mounts, path)
	stats, err := os.ReadFile(filepath.Join(proc, filepath.Base(device), "fc_info"))
	if err != nil {
		return nil // not ext4
	}
	if commits, _, ok := strings.Cut(strings.TrimPrefix(string(stats), "fc stats:\n"), " commits"); ok && strings.TrimSpace(commits) != "0" {
		return fmt.Errorf("%s made %s fast commits on kernel %s", device, strings.TrimSpace(commits), strings.TrimSpace(string(version)))
	}
	return nil
}

// losesFastCommits tells whether a kernel has the defect.
func losesFastCommits(release string) bool {
	var major, minor, patch int
	fmt.Sscanf(release, "%d.%d.%d", &major, &minor, &patch)
	switch {
	case major != 5 || minor < 10 || minor >= 17:
		return false
	case minor == 10:
		return patch < 94
	case minor == 15:
		return patch < 17
	}
	return true
}

// checkSecrets refuses files of passphrases and PINs that others may read.
func checkSecrets(cfg *Config, dir layout) error {
	for _, name := range []string{cfg.Keys.PassphraseFile, cfg.Keys.PINFile, uriAttribute(cfg.Keys.Token, "pin-source")} {
		if name == "" || strings.HasPrefix(name, "tpm-sealed:") {
			continue
		}
		if name = dir.resolve(strings.TrimPrefix(name, "file:")); strings.Contains(name, rolePlace) {
			continue
		}
		if err := closed(0o077, name); err != nil && !errors.Is(err, fs.ErrPermission) { // another's, and closed to this one
			return err
		}
	}
	return nil
}

// checkProgram refuses a program that the user who runs it, or others, may change.
func checkProgram() error {
	path, err := os.Executable()
	if err != nil {
		return nil
	}
	if err := closed(0o022, path); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && st.Uid != 0 && int(st.Uid) == os.Getuid() && strings.HasPrefix(path, "/usr/") {
		return fmt.Errorf("%s belongs to the user who runs it", path)
	}
	return nil
}

func checkOpenFiles() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return err
	}
	if l.Cur < minOpenFiles {
		return fmt.Errorf("%d may be open at once, %d are wanted", l.Cur, minOpenFiles)
	}
	return nil
}

func checkMemory() error {
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return nil
	}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemAvailable:"); ok {
			if kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64); err == nil && kib<<10 < minMemory {
				return fmt.Errorf("%d MiB available", kib>>10)
			}
		}
	}
	return nil
}

// checkLeftovers names folders that an init or a restore left beside the state directory.
func checkLeftovers(dir layout) error {
	var found []string
	for _, kind := range []string{".init-*", ".restore-*"} {
		matches, _ := filepath.Glob(globEscape(filepath.Clean(dir.root)) + kind)
		found = append(found, matches...)
	}
	if len(found) > 0 {
		return fmt.Errorf("%s", strings.Join(found, ", "))
	}
	return nil
}

// checkSwap names active swap that is neither compressed memory nor behind dm-crypt.
func checkSwap() error {
	text, err := os.ReadFile("/proc/swaps")
	if err != nil {
		return nil
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	for _, line := range lines[min(1, len(lines)):] {
		fields := strings.Fields(line)
		if len(fields) == 0 || strings.HasPrefix(fields[0], "/dev/zram") || strings.HasPrefix(fields[0], "/dev/dm-") || strings.HasPrefix(fields[0], "/dev/mapper/") {
			continue
		}
		return fmt.Errorf("%s is in use", fields[0])
	}
	return nil
}

func checkCores() error {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_CORE, &l); err != nil {
		return err
	}
	if l.Cur != 0 {
		return errors.New("a crash may write the memory of this process to a file")
	}
	return nil
}

// checkMarkPlace names a high-water file on the disk that it watches over.
func checkMarkPlace(cfg *Config, dir layout) error {
	paths, counters := dir.marksIn(cfg.Log)
	if len(counters) > 0 {
		return nil
	}
	var state, mark unix.Stat_t
	if err := unix.Stat(dir.root, &state); err != nil {
		return err
	}
	for _, path := range paths {
		if err := unix.Stat(path, &mark); err != nil || mark.Dev != state.Dev {
			return err
		}
	}
	return errors.New("every high-water mark is on the disk of the state directory: a restored image of that disk takes both back")
}

// checkUnits looks at the units that systemd should run; nothing where there is no systemd or no unit of ours.
func checkUnits(cfg *Config) (checks []check) {
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return nil
	}
	if _, err := os.Stat("/usr/lib/systemd/system/redoubt.service"); err != nil {
		return nil
	}
	units, of := []string{"redoubt.service"}, "redoubt"
	if cfg.Roles != nil {
		units, of = []string{"redoubt.target"}, "redoubt-ca"
	}
	if cfg.Mirror.Stream != "" {
		units = append(units, of+"-reconcile.timer")
	}
	if cfg.Mirror.Inbox != nil && cfg.Mirror.Inbox.Every == 0 {
		units = append(units, of+"-inbox.timer")
	}
	for _, unit := range units {
		out, err := exec.Command("systemctl", "is-enabled", unit).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s", strings.TrimSpace(string(out)))
		}
		checks = append(checks, warning("unit "+unit, err, "systemctl enable --now "+unit))
	}
	return checks
}

// trustChecks tell of each role of the trust repository how long it is valid.
func (in *instance) trustChecks() (checks []check) {
	for _, r := range in.tuf.Status() {
		var err error
		if r.Expired {
			err = fmt.Errorf("version %d expired on %s", r.Version, r.Expires.UTC().Format(time.DateTime))
		}
		c := result("trust "+r.Role, err, "`redoubt trust renew`")
		c.Warning = err != nil // the check of the whole repository is what fails
		checks = append(checks, c)
	}
	return checks
}

// checkIssuers names a site at which nobody can sign.
func checkIssuers(cfg *Config) error {
	if !cfg.Issuer.Enabled && len(cfg.OIDCIssuers) == 0 && len(cfg.MetaIssuers) == 0 {
		return errors.New("none is configured: nobody can get a certificate")
	}
	return nil
}
