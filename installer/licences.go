package installer

import (
	"bytes"
	"context"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
)

// licencePattern matches the names under which projects keep the texts that must travel with their code.
var licencePattern = regexp.MustCompile(`(?i)^(licen[cs]e|copying|notice|patents|copyright|authors|contributors)([-._].*)?$`)

// maxLicence bounds one text in bytes; the longest in use is under 100 KiB.
const maxLicence = 1 << 20

// collectLicences returns the licence texts of every module the binaries are linked from, of Go and of Redoubt, and how many
// modules that are. A module without a text is an error: it could not be given to anybody.
func collectLicences(ctx context.Context, source string, binaries []binary) (map[string]member, int, error) {
	members := map[string]member{}
	goroot, err := goroot(ctx)
	if err != nil {
		return nil, 0, err
	}
	if err := addTexts(members, goroot, "go-"+runtime.Version()); err != nil {
		return nil, 0, err
	}
	if err := addTexts(members, source, "redoubt"); err != nil {
		return nil, 0, err
	}
	dirs := map[string]string{}
	for _, p := range programs {
		if err := addModuleDirs(ctx, source, p, dirs); err != nil {
			return nil, 0, err
		}
	}
	seen := map[string]bool{}
	for _, b := range binaries {
		info, err := buildinfo.ReadFile(b.file)
		if err != nil {
			return nil, 0, fmt.Errorf("reading what the binary is linked from: %w", err)
		}
		for _, d := range info.Deps {
			if d.Replace != nil {
				d = d.Replace
			}
			if seen[d.Path] {
				continue
			}
			seen[d.Path] = true
			dir, ok := dirs[d.Path+"@"+d.Version]
			if !ok {
				return nil, 0, fmt.Errorf("licence of %s %s: the module is not in the module cache", d.Path, d.Version)
			}
			if err := addTexts(members, dir, d.Path+"@"+d.Version); err != nil {
				return nil, 0, err
			}
		}
	}
	return members, len(seen) + 2, nil
}

// addModuleDirs maps path@version of every module the binary is compiled from to its folder. It goes by packages: a list of modules
// takes in those that nothing is compiled from, and writes their sums into the checkout's go.sum.
func addModuleDirs(ctx context.Context, source string, p program, dirs map[string]string) error {
	command := exec.CommandContext(ctx, "go", "list", "-deps", "-json=Module", p.source)
	command.Dir = source
	command.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly", "CGO_ENABLED="+p.cgoEnabled())
	out, err := command.Output()
	if err != nil {
		return fmt.Errorf("listing modules: %w", err)
	}
	for decoder := json.NewDecoder(bytes.NewReader(out)); ; {
		var linked struct {
			Module *struct{ Path, Version, Dir string } // nil in the standard library
		}
		if err := decoder.Decode(&linked); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("listing modules: %w", err)
		}
		if m := linked.Module; m != nil {
			dirs[m.Path+"@"+m.Version] = m.Dir
		}
	}
}

func goroot(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOROOT").Output()
	return strings.TrimSpace(string(out)), err
}

// addTexts adds the licence texts in dir under licences/name.
func addTexts(members map[string]member, dir, name string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("licence of %s: %w", name, err)
	}
	found := false
	for _, e := range entries {
		if !e.Type().IsRegular() || !licencePattern.MatchString(e.Name()) || strings.HasSuffix(e.Name(), ".go") {
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			return fmt.Errorf("licence of %s: %w", name, err)
		}
		if len(data) > maxLicence {
			return fmt.Errorf("licence of %s: %s has %d bytes", name, e.Name(), len(data))
		}
		members[path.Join("licences", name, e.Name())] = member{mode: 0o644, data: data}
		found = true
	}
	if !found {
		return fmt.Errorf("licence of %s: no text in its folder", name)
	}
	return nil
}
