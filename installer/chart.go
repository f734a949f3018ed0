package installer

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

//go:embed all:chart
var chartFiles embed.FS

// addChart adds the Helm chart as `helm package` would write it, under the bundle's version.
func (c Config) addChart(members map[string]member) error {
	var out bytes.Buffer
	compressor := gzip.NewWriter(&out)
	archive := tar.NewWriter(compressor)
	version := chartVersion(c.Version)
	err := fs.WalkDir(chartFiles, "chart", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := chartFiles.ReadFile(name)
		if err != nil {
			return err
		}
		if path.Base(name) == "Chart.yaml" {
			text := strings.Replace(string(data), "\nversion: 0.0.0\n", "\nversion: "+version+"\n", 1)
			data = []byte(strings.Replace(text, "\nappVersion: 0.0.0\n", fmt.Sprintf("\nappVersion: %q\n", c.Version), 1))
		}
		return c.add(archive, strings.TrimPrefix(name, "chart/"), member{mode: 0o644, data: data})
	})
	if err != nil {
		return err
	}
	for _, end := range []func() error{archive.Close, compressor.Close} {
		if err := end(); err != nil {
			return fmt.Errorf("packing the chart: %w", err)
		}
	}
	members["chart/redoubt-"+version+".tgz"] = member{mode: 0o644, data: out.Bytes()}
	return nil
}

// chartVersion is a version as Helm wants it: three numbers, what follows behind a hyphen.
func chartVersion(v string) string {
	v = strings.NewReplacer("_", ".", "~", "-").Replace(strings.TrimPrefix(v, "v"))
	core, rest, _ := strings.Cut(v, "-")
	if core == "" || strings.Trim(core, "0123456789.") != "" {
		return "0.0.0-" + v
	}
	for strings.Count(core, ".") < 2 {
		core += ".0"
	}
	if rest != "" {
		return core + "-" + rest
	}
	return core
}
