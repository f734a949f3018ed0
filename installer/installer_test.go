package installer

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"redoubt.internal/mirror/parcel"
)

// sound is a small bundle with everything that is required; its binaries are scripts that say how they were called.
func sound() map[string]member {
	members := map[string]member{"docs/LICENSE": {mode: 0o644, data: []byte("licence\n")}}
	for _, platform := range []string{"amd64", "arm64"} {
		for _, name := range []string{"redoubt", "redoubt-appliance", "redoubt-static"} {
			members["bin/"+platform+"/"+name] = member{mode: 0o755, data: []byte("#!/bin/sh\n[ \"$1\" = version ] || echo called: \"$*\"\n")}
		}
	}
	if err := addPacked("", members); err != nil {
		panic(err)
	}
	return members
}

// testKey is the maker's key of these tests; another() is somebody else's.
var testKey, anotherKey = newKey(), newKey()

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

func config(t *testing.T) Config {
	return Config{Out: filepath.Join(t.TempDir(), "bundle.tar.zst"), Time: time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC), Signer: testKey}
}

func write(t *testing.T, members map[string]member) string {
	t.Helper()
	c := config(t)
	if err := c.pack(t.TempDir(), "redoubt-1", members); err != nil {
		t.Fatal(err)
	}
	return c.Out
}

func TestSameInputSameBytes(t *testing.T) {
	a, err := Verify(write(t, sound()), Trust{})
	if err != nil {
		t.Fatal(err)
	}
	b, err := Verify(write(t, sound()), Trust{})
	if err != nil {
		t.Fatal(err)
	}
	if a.Fingerprint != b.Fingerprint || a.Folder != "redoubt-1" || len(a.Files) != len(sound())+1 {
		t.Errorf("%+v and %+v", a, b)
	}
	changed := sound()
	changed["docs/LICENSE"] = member{mode: 0o644, data: []byte("another\n")}
	if c, err := Verify(write(t, changed), Trust{}); err != nil || c.Fingerprint == a.Fingerprint {
		t.Errorf("another file, the same fingerprint: %+v, %v", c, err)
	}
}

func TestUnpackGivesWhatWasPacked(t *testing.T) {
	dir := t.TempDir()
	file := write(t, sound())
	folder, err := Unpack(t.Context(), file, dir, Trust{})
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
	if _, err := Unpack(t.Context(), file, dir, Trust{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("unpacking over a folder: %v", err)
	}
}

// archive seals headers as they stand behind the members of a sound bundle, under a list of digests that may be changed.
func archive(t *testing.T, list func([]byte) []byte, change func(*tar.Writer)) string {
	t.Helper()
	c := config(t)
	digests, err := digestList(sound())
	if err != nil {
		t.Fatal(err)
	}
	digests = list(digests)
	f, err := os.Create(filepath.Join(t.TempDir(), "payload"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	packed := newCounter(f)
	compressor, err := zstd.NewWriter(packed)
	if err != nil {
		t.Fatal(err)
	}
	unpacked := newCounter(compressor)
	w := tar.NewWriter(unpacked)
	if err := c.add(w, "redoubt-1/"+sums, member{mode: 0o644, data: digests}); err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(sound())) {
		if err := c.add(w, "redoubt-1/"+name, sound()[name]); err != nil {
			t.Fatal(err)
		}
	}
	change(w)
	if err := errors.Join(w.Close(), compressor.Close()); err != nil {
		t.Fatal(err)
	}
	if err := c.seal("redoubt-1", digests, f, parcel.Volume{N: 1, Bytes: packed.bytes, Files: 1, SHA256: packed.sum.Sum(nil), Unpacked: unpacked.bytes}); err != nil {
		t.Fatal(err)
	}
	return c.Out
}

// TestUnsoundBundles signs what Build would never pack: a signature makes nothing sound.
func TestUnsoundBundles(t *testing.T) {
	same := func(b []byte) []byte { return b }
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
		t.Run(name, func(t *testing.T) { refused(t, archive(t, same, change), "not listed") })
	}
	none := func(*tar.Writer) {}
	if _, err := Verify(archive(t, same, none), Trust{}); err != nil {
		t.Errorf("the same archive without a fault: %v", err)
	}
	zero := strings.Repeat("0", 64)
	for name, test := range map[string]struct {
		list func([]byte) []byte
		want string
	}{
		"another digest": {func(b []byte) []byte { return append([]byte(zero), b[64:]...) }, "bin/amd64/redoubt has another digest"},
		"one too many":   {func(b []byte) []byte { return append(b, []byte(zero+"  zzz\n")...) }, "zzz, after sysusers/"},
		"traversal":      {func(b []byte) []byte { return append(b, []byte(zero+"  ../zzz\n")...) }, "not a digest and a name"},
		"no order":       {func(b []byte) []byte { return append(b, []byte(zero+"  aaa\n")...) }, "out of order"},
		"cut short":      {func(b []byte) []byte { return b[:60] }, "not a digest and a name"},
		"empty":          {func([]byte) []byte { return nil }, "not listed"},
	} {
		t.Run("list/"+name, func(t *testing.T) { refused(t, archive(t, test.list, none), test.want) })
	}
	for name, test := range map[string]struct {
		change func(map[string]member)
		want   string
	}{
		"missing script": {func(m map[string]member) { delete(m, "install.sh") }, "install.sh is missing"},
		"setuid":         {func(m map[string]member) { m["bin/amd64/redoubt"] = member{mode: 0o4755, data: []byte("x")} }, "has mode 4755"},
	} {
		t.Run(name, func(t *testing.T) {
			members := sound()
			test.change(members)
			refused(t, write(t, members), test.want)
		})
	}
}

// refused wants file refused by verify and unpack, with words, and nothing unpacked.
func refused(t *testing.T, file, want string) {
	t.Helper()
	dir := t.TempDir()
	if _, err := Verify(file, Trust{}); !errors.Is(err, ErrBundle) || !strings.Contains(err.Error(), want) {
		t.Errorf("verify: %v, want %q", err, want)
	}
	if _, err := Unpack(t.Context(), file, dir, Trust{}); !errors.Is(err, ErrBundle) {
		t.Errorf("unpack: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("unpack left %v, %v", left, err)
	}
}

// TestTruncatedAndFlipped flips a bit of every 97th byte: each is refused by the bundle alone, without knowing whose it is, and the words say where.
func TestTruncatedAndFlipped(t *testing.T) {
	file := write(t, sound())
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	_, _, _, head, err := readManifest(bytes.NewReader(data), Trust{})
	if err != nil {
		t.Fatal(err)
	}
	changed := filepath.Join(t.TempDir(), "changed.tar.zst")
	verify := func(data []byte) string {
		if err := os.WriteFile(changed, data, 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(changed, Trust{}); errors.Is(err, ErrBundle) {
			return err.Error()
		} else if err != nil {
			t.Errorf("%v is not ErrBundle", err)
		}
		return ""
	}
	flips := 0
	for n := 0; n < len(data); n += 97 {
		text := verify(data[:n])
		if int64(n) < head && !strings.Contains(text, "manifest.note") || int64(n) >= head && !strings.Contains(text, fmt.Sprintf("it ends after %d of %d bytes", n, len(data))) {
			t.Errorf("%d of %d bytes: %s", n, len(data), text)
		}
		flipped := bytes.Clone(data)
		flipped[n] ^= 1 << (n % 8)
		flips++
		text = verify(flipped)
		named := slices.ContainsFunc(append(slices.Collect(maps.Keys(sound())), sums, "stands between them"), func(name string) bool { return strings.Contains(text, name) })
		if int64(n) < head && !strings.Contains(text, "manifest.note") || int64(n) >= head && (!named || !strings.Contains(text, "damaged")) {
			t.Errorf("a flipped bit at %d of %d: %s", n, len(data), text)
		}
	}
	if text := verify(append(bytes.Clone(data), 0)); !strings.Contains(text, "1 bytes follow its end") {
		t.Errorf("a longer file: %s", text)
	}
	if text := verify(data); text != "" {
		t.Errorf("the bundle itself: %s", text)
	}
	t.Logf("%d flips of %d bytes refused and named", flips, len(data))
}

// TestWhoseBundle: fingerprint and key accept the maker's bundle and no other, however sound it is.
func TestWhoseBundle(t *testing.T) {
	file := write(t, sound())
	report, err := Verify(file, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	key := func(k *ecdsa.PrivateKey) []*parcel.Verifier {
		v, err := Config{Signer: k}.verifier()
		if err != nil {
			t.Fatal(err)
		}
		return []*parcel.Verifier{v}
	}
	c := config(t)
	c.Signer = anotherKey
	if err := c.pack(t.TempDir(), "redoubt-1", sound()); err != nil {
		t.Fatal(err)
	}
	whole := report.digest.String()
	for name, test := range map[string]struct {
		file  string
		trust Trust
		want  error
	}{
		"fingerprint":                 {file, Trust{Fingerprint: report.Fingerprint}, nil},
		"fingerprint as spoken":       {file, Trust{Fingerprint: strings.ToUpper(strings.ReplaceAll(report.Fingerprint, "-", " "))}, nil},
		"whole digest":                {file, Trust{Fingerprint: whole}, nil},
		"key":                         {file, Trust{Keys: key(testKey)}, nil},
		"both":                        {file, Trust{Fingerprint: whole, Keys: key(testKey)}, nil},
		"short fingerprint":           {file, Trust{Fingerprint: whole[:31]}, ErrFingerprint},
		"long fingerprint":            {file, Trust{Fingerprint: whole + "0"}, ErrFingerprint},
		"wrong fingerprint":           {file, Trust{Fingerprint: strings.Repeat("0", 32)}, ErrFingerprint},
		"another's, fingerprint":      {c.Out, Trust{Fingerprint: report.Fingerprint}, ErrFingerprint},
		"another's, key":              {c.Out, Trust{Keys: key(testKey)}, parcel.ErrForeignKey},
		"right print, another's key":  {file, Trust{Fingerprint: report.Fingerprint, Keys: key(anotherKey)}, parcel.ErrForeignKey},
		"another's under another key": {c.Out, Trust{Keys: key(anotherKey)}, nil},
	} {
		if _, err := Verify(test.file, test.trust); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// TestNumbersFollow: a bundle made after another carries the next number and the digest of the one before.
func TestNumbersFollow(t *testing.T) {
	c := config(t)
	c.Previous = write(t, sound())
	if err := c.pack(t.TempDir(), "redoubt-2", sound()); err != nil {
		t.Fatal(err)
	}
	if r, err := Verify(c.Out, Trust{}); err != nil || r.Sequence != 2 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestVersionsThatAreNoFileName(t *testing.T) {
	for _, v := range []string{"", "../x", "a b", ".hidden", strings.Repeat("1", 65)} {
		if _, err := Build(context.Background(), Config{Version: v}); !errors.Is(err, ErrVersion) {
			t.Errorf("%q: %v", v, err)
		}
	}
	if _, err := Build(context.Background(), Config{Version: "1"}); !errors.Is(err, ErrSigner) {
		t.Errorf("without a key: %v", err)
	}
}

// TestInstallScript installs below a folder, twice with one result, and refuses whatever is not the bundle that was asked for with nothing installed.
func TestInstallScript(t *testing.T) {
	dir := t.TempDir()
	file := write(t, sound())
	report, err := Verify(file, Trust{})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := Unpack(t.Context(), file, dir, Trust{Fingerprint: report.Fingerprint})
	if err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	install := func(args ...string) (string, error) {
		out, err := exec.Command(filepath.Join(folder, "install.sh"), append([]string{"--root", root, "--no-user"}, args...)...).CombinedOutput()
		return string(out), err
	}
	for _, fingerprint := range []string{report.Fingerprint, strings.ToUpper(report.digest.String())} {
		if out, err := install("--fingerprint", fingerprint, "--dry-run"); err != nil || !strings.Contains(out, "called: upgrade --from "+folder+" --root "+root+" --no-user --dry-run\n") {
			t.Fatalf("%v: %s", err, out)
		}
	}
	refuses := func(name, want string, args ...string) {
		t.Helper()
		if out, err := install(args...); err == nil || !strings.Contains(out, want) || strings.Contains(out, "called: ") {
			t.Errorf("%s: %v %s", name, err, out)
		}
	}
	refuses("no fingerprint", "usage: install.sh")
	refuses("short fingerprint", "32 to 64", "--fingerprint", report.digest.String()[:31])
	refuses("wrong fingerprint", "the fingerprint of this bundle is "+report.Fingerprint, "--fingerprint", strings.Repeat("0", 32))
	for _, name := range []string{"bin/amd64/redoubt", "SHA256SUMS", "manifest.note"} {
		path := filepath.Join(folder, name)
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		flipped := bytes.Clone(data)
		flipped[len(data)/2] ^= 1
		if err := os.WriteFile(path, flipped, 0o755); err != nil {
			t.Fatal(err)
		}
		refuses("changed "+name, "nothing was installed", "--fingerprint", report.Fingerprint)
		if err := os.WriteFile(path, data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// TestUnitsAreHardened asks systemd itself: exposure at most 1.5 of 10.
func TestUnitsAreHardened(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Fatal("systemd-analyze is not installed: apt-get install systemd")
	}
	units, err := filepath.Glob("files/systemd/*.service")
	if err != nil || len(units) < 3 {
		t.Fatalf("%v, %v", units, err)
	}
	for _, unit := range units {
		out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", unit).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", unit, err, out[max(0, len(out)-400):])
		}
	}
}

// FuzzWalk feeds what stands behind a manifest that its maker signed, whatever it is.
func FuzzWalk(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x28\xb5\x2f\xfd"))
	var small bytes.Buffer
	compressor, err := zstd.NewWriter(&small)
	if err != nil {
		f.Fatal(err)
	}
	w := tar.NewWriter(compressor)
	if err := errors.Join(Config{}.add(w, "redoubt-1/"+sums, member{mode: 0o644}), w.Close(), compressor.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(small.Bytes())
	m := &parcel.Manifest{Software: &parcel.Software{Folder: "redoubt-1", Sums: parcel.Sum(nil)}, Volumes: []parcel.Volume{{N: 1, Unpacked: 1 << 20}}}
	f.Fuzz(func(t *testing.T, data []byte) {
		seen := 0
		if err := walk(bytes.NewReader(data), m, func(*tar.Header, io.Reader) error { seen++; return nil }); err == nil && seen != 1 {
			t.Errorf("%d files under an empty list", seen)
		}
	})
}

// FuzzManifest reads heads that nobody signed.
func FuzzManifest(f *testing.F) {
	f.Add([]byte{})
	f.Add(parcel.HeadFrame([]byte("redoubt.parcel/v1 redoubt\n1\n{}\n\n\u2014 redoubt.bundle AAAA\n")))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, _, _, _, err := readManifest(bytes.NewReader(data), Trust{}); err == nil && m.Software == nil {
			t.Error("accepted without software")
		}
	})
}
