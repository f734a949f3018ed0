package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
)

// sound is a small bundle with everything that is required; its binary is a script that answers `version`.
func sound() map[string]member {
	members := map[string]member{
		"bin/redoubt":        {0o755, []byte("#!/bin/sh\necho redoubt test\n")},
		"bin/redoubt-static": {0o755, []byte("#!/bin/sh\necho redoubt test\n")},
		"docs/LICENSE":       {0o644, []byte("licence\n")},
	}
	if err := addPacked("", members); err != nil {
		panic(err)
	}
	members[sums] = member{0o644, digestList(members)}
	return members
}

func write(t *testing.T, members map[string]member) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bundle.tar.zst")
	if err := pack(Config{Out: out, Time: time.Date(1980, 1, 1, 0, 0, 0, 0, time.UTC)}, "redoubt-1", members); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestSameInputSameBytes(t *testing.T) {
	a, err := Verify(write(t, sound()))
	if err != nil {
		t.Fatal(err)
	}
	b, err := Verify(write(t, sound()))
	if err != nil {
		t.Fatal(err)
	}
	if a.SHA256 != b.SHA256 || a.Folder != "redoubt-1" || len(a.Files) != len(sound()) {
		t.Errorf("%+v and %+v", a, b)
	}
}

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	dir := t.TempDir()
	file := write(t, sound())
	folder, err := Unpack(file, dir)
	if err != nil {
		t.Fatal(err)
	}
	for name, m := range sound() {
		data, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil || !bytes.Equal(data, m.data) {
			t.Errorf("%s: %v", name, err)
		}
		if info, err := os.Stat(filepath.Join(folder, name)); err != nil || info.Mode().Perm() != m.mode {
			t.Errorf("%s: mode %v, %v", name, info.Mode(), err)
		}
	}
	if _, err := Unpack(file, dir); !errors.Is(err, fs.ErrExist) {
		t.Errorf("unpacking over a folder: %v", err)
	}
}

// archive writes headers as they stand into a zstd tar, with everything required beside them.
func archive(t *testing.T, change func(*tar.Writer)) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "bundle.tar.zst")
	f, err := os.Create(out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compressor, err := zstd.NewWriter(f)
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	for name, m := range sound() {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-1/" + name, Mode: int64(m.mode), Size: int64(len(m.data))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(m.data); err != nil {
			t.Fatal(err)
		}
	}
	change(w)
	if err := errors.Join(w.Close(), compressor.Close()); err != nil {
		t.Fatal(err)
	}
	return out
}

func TestUnsoundBundles(t *testing.T) {
	header := func(h tar.Header) func(*tar.Writer) {
		return func(w *tar.Writer) {
			h.Mode = 0o644
			if err := w.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, change := range map[string]func(*tar.Writer){
		"unlisted":      header(tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-1/extra"}),
		"twice":         header(tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-1/install.sh"}),
		"traversal":     header(tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-1/../../etc/passwd"}),
		"absolute":      header(tar.Header{Typeflag: tar.TypeReg, Name: "/etc/passwd"}),
		"other folder":  header(tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-2/install.sh"}),
		"symbolic link": header(tar.Header{Typeflag: tar.TypeSymlink, Name: "redoubt-1/docs/link", Linkname: "/etc/passwd"}),
		"hard link":     header(tar.Header{Typeflag: tar.TypeLink, Name: "redoubt-1/docs/link", Linkname: "redoubt-1/install.sh"}),
		"device":        header(tar.Header{Typeflag: tar.TypeChar, Name: "redoubt-1/null"}),
		"folder":        header(tar.Header{Typeflag: tar.TypeDir, Name: "redoubt-1/docs/"}),
	} {
		t.Run(name, func(t *testing.T) {
			file, dir := archive(t, change), t.TempDir()
			if _, err := Verify(file); !errors.Is(err, ErrBundle) {
				t.Errorf("verify: %v", err)
			}
			if _, err := Unpack(file, dir); !errors.Is(err, ErrBundle) {
				t.Errorf("unpack: %v", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("unpack left %v, %v", left, err)
			}
		})
	}
	if _, err := Verify(archive(t, func(*tar.Writer) {})); err != nil {
		t.Errorf("the same archive without a fault: %v", err)
	}
	for name, change := range map[string]func(map[string]member){
		"missing script": func(m map[string]member) { delete(m, "install.sh") },
		"changed file":   func(m map[string]member) { m["install.sh"] = member{0o755, []byte("#!/bin/sh\n")} },
		"no list":        func(m map[string]member) { delete(m, sums) },
		"short list":     func(m map[string]member) { m[sums] = member{0o644, m[sums].data[:80]} },
		"setuid":         func(m map[string]member) { m["bin/redoubt"] = member{0o4755, m["bin/redoubt"].data} },
	} {
		t.Run(name, func(t *testing.T) {
			members := sound()
			change(members)
			if _, err := Verify(write(t, members)); !errors.Is(err, ErrBundle) {
				t.Errorf("%v", err)
			}
		})
	}
}

func TestTruncatedAndFlipped(t *testing.T) {
	file := write(t, sound())
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(data); n += max(1, len(data)/64) {
		if err := os.WriteFile(file, data[:n], 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(file); err == nil {
			t.Errorf("%d of %d bytes are accepted", n, len(data))
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 1
		if err := os.WriteFile(file, flipped, 0o644); err != nil {
			t.Fatal(err)
		}
		if r, err := Verify(file); err == nil && n > 16 { // the frame header has bits without meaning
			t.Errorf("a flipped bit at %d of %d is accepted: %+v", n, len(data), r)
		}
	}
}

func TestVersionsThatAreNoFileName(t *testing.T) {
	for _, v := range []string{"", "../x", "a b", ".hidden", strings.Repeat("1", 65)} {
		if _, err := Build(context.Background(), Config{Version: v}); !errors.Is(err, ErrVersion) {
			t.Errorf("%q: %v", v, err)
		}
	}
}

// TestInstallScript installs below a folder, twice with one result, and refuses a changed file with nothing installed.
func TestInstallScript(t *testing.T) {
	dir := t.TempDir()
	folder, err := Unpack(write(t, sound()), dir)
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	install := func() (string, error) {
		out, err := exec.Command(filepath.Join(folder, "install.sh"), "--root", root, "--no-user").CombinedOutput()
		return string(out), err
	}
	list := func() string {
		out, err := exec.Command("sh", "-c", "cd "+root+" && find . -printf '%p %m %l\\n' | sort && find . -type f -exec sha256sum {} + | sort").Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if out, err := install(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	first := list()
	for _, want := range []string{"./usr/bin/redoubt 755", "./usr/bin/redoubt-static 755", "./usr/lib/systemd/system/redoubt.service 644", "./var/lib/redoubt 700", "./etc/redoubt/redoubt.yaml 777 /var/lib/redoubt/redoubt.yaml", "./usr/share/redoubt/docs/LICENSE 644"} {
		if !strings.Contains(first, want) {
			t.Errorf("missing %s in\n%s", want, first)
		}
	}
	if out, err := install(); err != nil || list() != first {
		t.Errorf("the second run changed something: %v %s", err, out)
	}
	if err := os.WriteFile(filepath.Join(folder, "bin/redoubt"), []byte("#!/bin/sh\necho other\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	root = filepath.Join(dir, "other")
	if out, err := install(); err == nil || !strings.Contains(out, "nothing was installed") {
		t.Errorf("a changed file: %v %s", err, out)
	}
	if _, err := os.Stat(root); err == nil {
		t.Error("something was installed")
	}
}

// TestUnitsAreHardened asks systemd itself: exposure at most 1.5 of 10.
func TestUnitsAreHardened(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is not installed: apt-get install systemd")
	}
	for _, unit := range []string{"redoubt.service", "redoubt-reconcile.service", "redoubt-inbox.service"} {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", filepath.Join("files/systemd", unit)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out[max(0, len(out)-400):])
		}
	}
}

func FuzzVerify(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	var small bytes.Buffer
	compressor, err := zstd.NewWriter(&small)
	if err != nil {
		f.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	if err := errors.Join(w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "redoubt-1/install.sh", Mode: 0o755}), w.Close(), compressor.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(small.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		if report, err := verify(bytes.NewReader(data)); err == nil && len(report.Files) < len(required) {
			t.Errorf("accepted with %v", report.Files)
		}
	})
}
