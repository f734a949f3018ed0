package installer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
)

// ErrCompiler says that the C compiler for a processor is missing.
var ErrCompiler = errors.New("there is no C compiler for this processor")

// compilerFor is the C compiler of Debian for a processor, and the package that brings it.
func compilerFor(platform string) (program, debian string) {
	triple, known := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[platform]
	if !known {
		return "", ""
	}
	if platform == runtime.GOARCH {
		return "gcc", "gcc"
	}
	return triple + "-linux-gnu-gcc", "gcc-" + strings.ReplaceAll(triple, "_", "-") + "-linux-gnu"
}

// binary is one of the programs in a bundle.
type binary struct {
	platform string // the processor
	name     string // redoubt, or redoubt-static without cgo
	file     string
}

// member is its name in the bundle.
func (b binary) member() string { return "bin/" + b.platform + "/" + b.name }

// compileAll builds with and without cgo for every platform.
func (c Config) compileAll(ctx context.Context, work string, members map[string]member) (out []binary, err error) {
	for _, platform := range c.Platforms {
		compiler, debian := compilerFor(platform)
		if compiler == "" {
			return nil, fmt.Errorf("%w: %q; there are amd64 and arm64", ErrCompiler, platform)
		}
		if _, err := exec.LookPath(compiler); err != nil {
			return nil, fmt.Errorf("%w: %s is not in PATH; apt-get install %s", ErrCompiler, compiler, debian)
		}
		for _, name := range []string{"redoubt", "redoubt-static"} {
			b := binary{platform: platform, name: name, file: filepath.Join(work, name+"-"+platform)}
			fmt.Fprintf(c.Progress, "building %s\n", b.member())
			if err := c.compile(ctx, b, compiler); err != nil {
				return nil, fmt.Errorf("%s: %w", b.member(), err)
			}
			members[b.member()] = member{mode: 0o755, file: b.file}
			out = append(out, b)
		}
	}
	return out, nil
}

// compile builds the appliance so that the result depends on the source, the toolchain and the version alone.
func (c Config) compile(ctx context.Context, b binary, compiler string) error {
	flags, cgo := "-s -w -buildid= -X main.version="+c.Version, cgoOf(b.name)
	if cgo == "1" {
		flags += " -extldflags=-Wl,--build-id=none"
	}
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags", flags, "-o", b.file, "./appliance")
	command.Dir = c.Source
	// The C flags are Go's own: what an environment adds would show in the result.
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+b.platform, "CGO_ENABLED="+cgo, "CC="+compiler, "GOWORK=off", "GOFLAGS=",
		"CGO_CFLAGS=-O2 -g", "CGO_CPPFLAGS=", "CGO_LDFLAGS=-O2 -g", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "GOEXPERIMENT=")
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling: %w\n%s", err, bytes.TrimSpace(text))
	}
	return nil
}

// cgoOf is CGO_ENABLED of the two builds.
func cgoOf(name string) string {
	if name == "redoubt-static" {
		return "0"
	}
	return "1"
}
