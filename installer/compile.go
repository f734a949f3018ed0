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

// programs are those of a bundle for each processor.
var programs = []program{
	{"redoubt", "./appliance/redoubt", false, "urfave_cli_no_docs"}, // verifies, and hands over to
	{"redoubt-appliance", "./appliance", true, ""},                  // everything else
	{"redoubt-static", "./appliance", false, ""},                    // the same where there is no C library
}

// program is one of them, and how it is built.
type program struct {
	name, source string
	cgo          bool
	tags         string // the first leaves out a generator of manuals
}

// binary is one of the programs in a bundle.
type binary struct {
	platform string // the processor
	name     string // of programs
	file     string
}

// member is its name in the bundle.
func (b binary) member() string { return "bin/" + b.platform + "/" + b.name }

// compileAll builds every program for every platform.
func (c Config) compileAll(ctx context.Context, work string, members map[string]member) (out []binary, err error) {
	for _, platform := range c.Platforms {
		compiler, debian := compilerFor(platform)
		if compiler == "" {
			return nil, fmt.Errorf("%w: %q; there are amd64 and arm64", ErrCompiler, platform)
		}
		if _, err := exec.LookPath(compiler); err != nil {
			return nil, fmt.Errorf("%w: %s is not in PATH; apt-get install %s", ErrCompiler, compiler, debian)
		}
		for _, p := range programs {
			b := binary{platform: platform, name: p.name, file: filepath.Join(work, p.name+"-"+platform)}
			fmt.Fprintf(c.Progress, "building %s\n", b.member())
			if err := c.compile(ctx, b, p, compiler); err != nil {
				return nil, fmt.Errorf("%s: %w", b.member(), err)
			}
			members[b.member()] = member{mode: 0o755, file: b.file}
			out = append(out, b)
		}
	}
	return out, nil
}

// compile builds a program so that the result depends on the source, the toolchain and the version alone.
func (c Config) compile(ctx context.Context, b binary, p program, compiler string) error {
	flags := "-s -w -buildid= -X main.version=" + c.Version
	if p.cgo {
		flags += " -extldflags=-Wl,--build-id=none"
	}
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-tags", p.tags, "-ldflags", flags, "-o", b.file, p.source)
	command.Dir = c.Source
	// The C flags are Go's own: what an environment adds would show in the result.
	command.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+b.platform, "CGO_ENABLED="+p.cgoEnabled(), "CC="+compiler, "GOWORK=off", "GOFLAGS=",
		"CGO_CFLAGS=-O2 -g", "CGO_CPPFLAGS=", "CGO_LDFLAGS=-O2 -g", "GOAMD64=v1", "GOARM64=v8.0", "GOFIPS140=off", "GOEXPERIMENT=")
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("compiling: %w\n%s", err, bytes.TrimSpace(text))
	}
	return nil
}

// cgoEnabled is CGO_ENABLED of its build.
func (p program) cgoEnabled() string {
	if p.cgo {
		return "1"
	}
	return "0"
}
