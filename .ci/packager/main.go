// Packager writes a deb and an rpm from a description on standard input. It has a module of its own: the library brings seventy others, git among them,
// and none of them belongs into the product. What goes into the packages is said by package installer of the product.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/goreleaser/nfpm/v2"
	"github.com/goreleaser/nfpm/v2/deb"
	"github.com/goreleaser/nfpm/v2/files"
	"github.com/goreleaser/nfpm/v2/rpm"
)

// description is one package in both formats; its JSON is what installer.packageDescription writes.
type description struct {
	Out         string              `json:"out"` // folder to write to
	Name        string              `json:"name"`
	Version     string              `json:"version"`
	Arch        string              `json:"arch"`
	Description string              `json:"description"`
	Maintainer  string              `json:"maintainer"`
	License     string              `json:"license"`
	Time        time.Time           `json:"time"`
	Depends     map[string][]string `json:"depends"` // by format
	Contents    []content           `json:"contents"`
	Scripts     struct {
		PreInstall  string `json:"preInstall"`
		PostInstall string `json:"postInstall"`
		PreRemove   string `json:"preRemove"`
		PostRemove  string `json:"postRemove"`
	} `json:"scripts"`
}

// content is one file or folder.
type content struct {
	Source string `json:"source,omitempty"`
	Target string `json:"target"`
	Type   string `json:"type,omitempty"` // config, dir, or a plain file
	Owner  string `json:"owner"`
	Mode   uint32 `json:"mode"`
}

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "packager:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	if len(os.Args) == 2 && os.Args[1] == "roots" {
		return roots(out)
	}
	var d description
	decoder := json.NewDecoder(in)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&d); err != nil {
		return fmt.Errorf("reading the description: %w", err)
	}
	return errors.Join(write(d, "deb", &deb.Deb{}), write(d, "rpm", &rpm.RPM{}))
}

// write makes one package.
func write(d description, format string, packager nfpm.Packager) error {
	info := nfpm.WithDefaults(&nfpm.Info{
		Name: d.Name, Arch: d.Arch, Platform: "linux", Version: d.Version, VersionSchema: "none", Section: "admin", Priority: "optional",
		Maintainer: d.Maintainer, Description: d.Description, License: d.License, MTime: d.Time,
		Overridables: nfpm.Overridables{
			Depends: d.Depends[format],
			Scripts: nfpm.Scripts{PreInstall: d.Scripts.PreInstall, PostInstall: d.Scripts.PostInstall, PreRemove: d.Scripts.PreRemove, PostRemove: d.Scripts.PostRemove},
			RPM:     nfpm.RPM{BuildHost: "localhost", Compression: "gzip"},
			Deb:     nfpm.Deb{Compression: "gzip"},
		},
	})
	for _, c := range d.Contents {
		info.Contents = append(info.Contents, &files.Content{
			Source: c.Source, Destination: c.Target, Type: c.Type,
			FileInfo: &files.ContentFileInfo{Owner: c.Owner, Group: c.Owner, Mode: os.FileMode(c.Mode), MTime: d.Time},
		})
	}
	if err := nfpm.PrepareForPackager(info, format); err != nil {
		return fmt.Errorf("%s: %w", format, err)
	}
	f, err := os.Create(filepath.Join(d.Out, packager.ConventionalFileName(info)))
	if err != nil {
		return err
	}
	if err := packager.Package(info, f); err != nil {
		f.Close()
		return fmt.Errorf("%s: %w", format, err)
	}
	return f.Close()
}
