package tpm

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.internal/hsm"
	"redoubt.internal/hsm/hsmtest"
)

// The same product on a kernel's TPM device: a virtual machine without any network, in which this test binary, built without
// cgo, runs TestInGuest as the first process after busybox. It needs a kernel and an emulator of half a gigabyte, and so is of
// the group whose point is the real server.
func TestGuest(t *testing.T) {
	if os.Getenv("REDOUBT_E2E_GROUP") != "servers" {
		t.Skip("a virtual machine with a TPM device is started in the group servers alone (./task e2e:all): it needs qemu-system-x86, a kernel, busybox and cpio")
	}
	kernels, _ := filepath.Glob("/boot/vmlinuz-*-cloud-amd64")
	if len(kernels) == 0 {
		t.Fatal("no kernel in /boot (apt-get install linux-image-cloud-amd64)")
	}
	for _, program := range []string{"qemu-system-x86_64", "busybox", "cpio"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Fatalf("%v (apt-get install qemu-system-x86 busybox-static cpio)", err)
		}
	}
	e := newTPM(t)
	root := filepath.Join(e.dir, "root")
	for _, dir := range []string{"bin", "dev", "proc", "sys", "tmp"} {
		must(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	run(t, "", "cp", busybox, filepath.Join(root, "bin", "busybox"))
	build := exec.Command("go", "test", "-c", "-o", filepath.Join(root, "tpm.test"), ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building without cgo: %v\n%s", err, out)
	}
	must(t, os.WriteFile(filepath.Join(root, "init"), []byte(guestInit), 0o755))
	must(t, os.WriteFile(filepath.Join(e.dir, "pack"), []byte("cd root && find . | cpio --quiet -o -H newc | gzip -1 > ../initrd\n"), 0o600))
	run(t, e.dir, "sh", "pack")

	chip := exec.Command("swtpm", "socket", "--tpm2", "--tpmstate", "dir="+e.dir, "--ctrl", "type=unixio,path="+e.socket+".ctrl")
	chip.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	must(t, chip.Start())
	e.cmd = chip
	for range 500 {
		if _, err := os.Stat(e.socket + ".ctrl"); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	vm := exec.CommandContext(ctx, "qemu-system-x86_64", "-accel", "tcg", "-m", "512", "-nic", "none", "-nographic", "-no-reboot",
		"-chardev", "socket,id=c,path="+e.socket+".ctrl", "-tpmdev", "emulator,id=t,chardev=c", "-device", "tpm-crb,tpmdev=t",
		"-kernel", kernels[len(kernels)-1], "-initrd", filepath.Join(e.dir, "initrd"), "-append", "console=ttyS0 quiet panic=-1 no_timer_check")
	vm.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	start := time.Now()
	out, err := vm.CombinedOutput()
	_, report, _ := strings.Cut(string(out), "guest begins")
	t.Logf("%s in the virtual machine: %s", time.Since(start).Round(100*time.Millisecond), report)
	if err != nil || !strings.Contains(report, "guest ends with 0") || !strings.Contains(report, "--- PASS: TestInGuest") {
		t.Fatalf("virtual machine: %v\n%s", err, out)
	}
}

const guestInit = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
$b echo guest begins
$b ls -l /dev/tpm0 /dev/tpmrm0
REDOUBT_GUEST=1 /tpm.test -test.run '^TestInGuest$' -test.v -test.timeout 4m
$b echo guest ends with $?
$b poweroff -f
`

func run(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// TestInGuest is the other side of TestGuest: on the kernel's resource manager.
func TestInGuest(t *testing.T) {
	if os.Getenv("REDOUBT_GUEST") != "1" {
		t.Skip("this is the half of TestGuest that runs inside its virtual machine")
	}
	interfaces, err := net.Interfaces()
	must(t, err)
	if slices.ContainsFunc(interfaces, func(i net.Interface) bool { return i.Flags&net.FlagLoopback == 0 }) {
		t.Errorf("there is a network here: %v", interfaces)
	}
	dir := t.TempDir()
	auth := filepath.Join(dir, "auth")
	must(t, os.WriteFile(auth, []byte(testAuth+"\n"), 0o600))
	c := Config{Dir: filepath.Join(dir, "keys"), AuthFile: auth}
	hsmtest.Run(t, hsmtest.Kind{
		Open:   func(t testing.TB) hsm.Token { return open(t, c) },
		URI:    func(name string) string { return "tpm:file=" + name + ".pem" },
		Secret: testAuth, Algorithms: []hsm.Algorithm{hsm.ECDSAP256, hsm.ECDSAP384},
	})

	tok := open(t, c)
	key := generate(t, tok, "tpm:handle=0x81010042", hsm.ECDSAP256)
	must(t, key.Check(t.Context()))
	a, err := key.Attest(t.Context(), []byte("nonce"))
	must(t, err)
	r, err := VerifyAttestation(a, nil)
	must(t, err)
	fmt.Println("attested:", len(r.Proven), "proven,", len(r.Claimed), "claimed")

	counter, err := tok.Counter("tpm:nv=0x01500010")
	must(t, err)
	must(t, counter.Define(t.Context()))
	first, err := counter.Read(t.Context())
	must(t, err)
	for n := range uint64(5) {
		if v, err := counter.Increment(t.Context()); err != nil || v != first+n+1 {
			t.Fatalf("counter %d, %v", v, err)
		}
	}

	sealed := filepath.Join(dir, "sealed") // nothing measured this boot, and that is an error
	if err := tok.Seal(t.Context(), sealed, []byte("secret"), []uint{7, 11}, false); err == nil || !strings.Contains(err.Error(), "nothing was measured") {
		t.Errorf("sealed to PCRs nobody measured into: %v", err)
	}
	start := time.Now()
	const signatures = 100
	for range signatures {
		must(t, sign(key))
	}
	fmt.Printf("%.0f signatures/s on %s\n", signatures/time.Since(start).Seconds(), tok.c.Device)
	if matches, err := fs.Glob(os.DirFS(dir), "keys/*.pem"); err != nil || len(matches) == 0 {
		t.Errorf("no key files: %v, %v", matches, err)
	}
	if bytes.Contains([]byte(key.Info().URI), []byte(testAuth)) {
		t.Error("the URI shows the secret")
	}
}
