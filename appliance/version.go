package main

import (
	"crypto/fips140"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"

	"github.com/urfave/cli/v2"

	"redoubt.internal/appliance/cmdline"
	"redoubt.internal/log/store"
)

// version is set by the build of a release (-ldflags -X main.version=...); a build from a checkout says "dev".
var version = "dev"

// versionInfo is the JSON of `redoubt version -o json`.
type versionInfo struct {
	Version  string `json:"version"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
	CGO      bool   `json:"cgo"` // false: PKCS#11 tokens cannot be used with this binary
	Revision string `json:"revision,omitempty"`
	Modified bool   `json:"modified,omitempty"` // built from a checkout with uncommitted changes
	FIPS     string `json:"fips"`               // version of the Go Cryptographic Module this was built with (GOFIPS140)
	Format   uint64 `json:"stateFormat"`        // of state directories that it works on
}

func readVersion() versionInfo {
	v := versionInfo{Version: version, Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH, CGO: cgoEnabled, FIPS: fips140.Version(), Format: store.Format}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				v.Revision = s.Value
			case "vcs.modified":
				v.Modified = s.Value == "true"
			}
		}
	}
	return v
}

func versionString() string { return readVersion().Version }

func versionCommand() *cli.Command {
	return &cli.Command{
		Name: "version", Usage: "print what was built, by which Go, from which commit",
		Flags: []cli.Flag{cmdline.OutputFlag()},
		Action: func(c *cli.Context) error {
			v := readVersion()
			return cmdline.PrintResult(c, v, func(w io.Writer) {
				fmt.Fprintf(w, "redoubt %s %s %s cgo=%t fips140=%s\n", v.Version, v.Go, v.Platform, v.CGO, v.FIPS)
			})
		},
	}
}
