package installer

import (
	"bytes"
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

//go:embed packages
var packageFiles embed.FS

// packageDescription is what the packager of .ci/packager reads: one deb and one rpm.
type packageDescription struct {
	Out         string              `json:"out"`
	Name        string              `json:"name"`
	Version     string              `json:"version"`
	Arch        string              `json:"arch"`
	Description string              `json:"description"`
	Maintainer  string              `json:"maintainer"`
	License     string              `json:"license"`
	Time        time.Time           `json:"time"`
	Depends     map[string][]string `json:"depends"`
	Contents    []packageContent    `json:"contents"`
	Scripts     struct {
		PreInstall  string `json:"preInstall"`
		PostInstall string `json:"postInstall"`
		PreRemove   string `json:"preRemove"`
		PostRemove  string `json:"postRemove"`
	} `json:"scripts"`
}

type packageContent struct {
	Source string      `json:"source,omitempty"`
	Target string      `json:"target"`
	Type   string      `json:"type,omitempty"` // config, dir, or a plain file
	Owner  string      `json:"owner"`
	Mode   fs.FileMode `json:"mode"`
}

// buildPackager compiles the packager, which has a module of its own, for this machine.
func (c Config) buildPackager(ctx context.Context, work string) (string, error) {
	out := filepath.Join(work, "packager")
	command := exec.CommandContext(ctx, "go", "build", "-mod=readonly", "-buildvcs=false", "-o", out, ".")
	command.Dir = filepath.Join(c.Source, ".ci", "packager")
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=", "CGO_ENABLED=0", "GOOS=", "GOARCH=")
	if text, err := command.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compiling the packager: %w\n%s", err, bytes.TrimSpace(text))
	}
	return out, nil
}

// addPackages adds a deb and an rpm for every platform, with the PKCS#11 build.
func (c Config) addPackages(ctx context.Context, work, packager string, binaries []binary, members map[string]member) error {
	stage := filepath.Join(work, "stage")
	out := filepath.Join(work, "packages")
	for _, dir := range []string{stage, out} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	contents, err := stagePackage(stage, members)
	if err != nil {
		return fmt.Errorf("staging the packages: %w", err)
	}
	verifiers := map[string]string{}
	for _, b := range binaries {
		if b.name == "redoubt" {
			verifiers[b.platform] = b.file
		}
	}
	for _, b := range binaries {
		if b.name != "redoubt-appliance" {
			continue
		}
		fmt.Fprintf(c.Progress, "packing deb and rpm for %s\n", b.platform)
		d := c.describePackage(stage, out, b, verifiers[b.platform])
		d.Contents = append(d.Contents, contents...)
		text, err := json.Marshal(d)
		if err != nil {
			return err
		}
		command := exec.CommandContext(ctx, packager)
		command.Stdin = bytes.NewReader(text)
		// Both formats want digests that FIPS 140-3 has no more; nothing rests on them, the manifest digests the packages.
		command.Env = append(os.Environ(), "GODEBUG=", fmt.Sprintf("SOURCE_DATE_EPOCH=%d", c.Time.Unix()))
		if text, err := command.CombinedOutput(); err != nil {
			return fmt.Errorf("packing deb and rpm for %s: %w\n%s", b.platform, err, bytes.TrimSpace(text))
		}
	}
	return addFolder(out, "packages", members)
}

// describePackage says everything but what is the same for every platform.
func (c Config) describePackage(stage, out string, b binary, verifier string) packageDescription {
	d := packageDescription{
		Out: out, Name: "redoubt", Version: packageVersion(c.Version), Arch: b.platform, Time: c.Time, License: "Apache-2.0", Maintainer: "Redoubt <redoubt@localhost>",
		Description: "certificates, transparency log and timestamps for networks with no way out",
		Depends:     map[string][]string{"deb": {"libc6 (>= 2.34)", "passwd"}, "rpm": {"glibc >= 2.34", "shadow-utils"}},
	}
	script := func(name string) string { return filepath.Join(stage, "packages", name) }
	d.Scripts.PreInstall, d.Scripts.PostInstall = script("preinstall.sh"), script("postinstall.sh")
	d.Scripts.PreRemove, d.Scripts.PostRemove = script("preremove.sh"), script("postremove.sh")
	d.Contents = []packageContent{
		{Source: verifier, Target: "/usr/bin/redoubt", Owner: "root", Mode: 0o755},
		{Source: b.file, Target: "/usr/bin/redoubt-appliance", Owner: "root", Mode: 0o755},
		{Source: script("environment"), Target: "/etc/redoubt/environment", Type: "config", Owner: "root", Mode: 0o644},
		{Target: "/etc/redoubt", Type: "dir", Owner: "root", Mode: 0o755},
		{Target: "/var/lib/redoubt", Type: "dir", Owner: "redoubt", Mode: 0o700},
		{Target: "/var/log/redoubt", Type: "dir", Owner: "redoubt", Mode: 0o750},
	}
	return d
}

// stagePackage writes scripts and the files of every platform's package into stage.
func stagePackage(stage string, members map[string]member) (contents []packageContent, err error) {
	if err := os.CopyFS(filepath.Join(stage, "packages"), subFS(packageFiles, "packages")); err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(members)) {
		folder, rest, _ := strings.Cut(name, "/")
		target := path.Join("/usr/share/redoubt", name)
		switch folder {
		case "systemd":
			target = path.Join("/usr/lib/systemd/system", rest)
		case "sysusers":
			target = path.Join("/usr/lib/sysusers.d", rest)
		case "docs", "licences", "monitoring", "trust":
		default:
			continue
		}
		file := filepath.Join(stage, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(file, members[name].data, 0o644); err != nil {
			return nil, err
		}
		contents = append(contents, packageContent{Source: file, Target: target, Owner: "root", Mode: 0o644})
	}
	return contents, nil
}

// packageVersion is a version as both formats order it: it begins with a digit, and what stands behind a hyphen comes before the release.
func packageVersion(v string) string {
	v = strings.ReplaceAll(strings.TrimPrefix(v, "v"), "-", "~")
	if v[0] < '0' || v[0] > '9' {
		return "0~" + v
	}
	return strings.ReplaceAll(v, "_", ".")
}

// addFolder adds the files of a folder on disk under name.
func addFolder(dir, name string, members map[string]member) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		members[path.Join(name, e.Name())] = member{mode: 0o644, file: filepath.Join(dir, e.Name())}
	}
	return nil
}

// subFS is the folder of an embedded tree; it is there, because it was compiled in.
func subFS(tree embed.FS, dir string) fs.FS {
	sub, err := fs.Sub(tree, dir)
	if err != nil {
		panic(err)
	}
	return sub
}
