package installer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"redoubt.internal/mirror/images"
)

// imageUser is who the image runs as; it owns the state directory.
const imageUser = 65532

// addImage adds the image as an OCI layout: the free-standing binary, the certificate authorities of the web for the outside end, a passwd and
// the folders of the state. Nothing runs to make it.
func (c Config) addImage(ctx context.Context, work, packager string, binaries []binary, members map[string]member) error {
	fmt.Fprintln(c.Progress, "packing the image")
	command := exec.CommandContext(ctx, packager, "roots")
	command.Env = append(os.Environ(), "GODEBUG=")
	roots, err := command.Output()
	if err != nil {
		return fmt.Errorf("reading the certificate authorities of the web: %w", err)
	}
	built := images.Built{
		Reference: "redoubt:" + c.Version, Time: c.Time, User: fmt.Sprintf("%d:%d", imageUser, imageUser), Entrypoint: []string{"/usr/bin/redoubt"},
		Labels:       map[string]string{"org.opencontainers.image.title": "redoubt", "org.opencontainers.image.version": c.Version, "org.opencontainers.image.licenses": "Apache-2.0"},
		Architecture: map[string][]images.File{},
	}
	for _, b := range binaries {
		if b.name == "redoubt-static" {
			built.Architecture[b.platform] = imageFiles(b, roots, members["docs/LICENSE"].data)
		}
	}
	layout := filepath.Join(work, "layout")
	if err := os.Mkdir(layout, 0o755); err != nil {
		return err
	}
	file := filepath.Join(work, "image.tar")
	f, err := os.Create(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := images.Pack(f, layout, built, c.Platforms); err != nil {
		return err
	}
	members["images/redoubt-"+c.Version+".oci.tar"] = member{mode: 0o644, file: file}
	return f.Close()
}

func imageFiles(b binary, roots, licence []byte) []images.File {
	folder := func(name string, mode int64, user int) images.File {
		return images.File{Name: name, Mode: mode, User: user}
	}
	return []images.File{
		folder("etc/", 0o755, 0),
		{Name: "etc/group", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:\nredoubt:x:%d:\n", imageUser)},
		{Name: "etc/passwd", Mode: 0o644, Data: fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nredoubt:x:%d:%d:redoubt:/var/lib/redoubt:/sbin/nologin\n", imageUser, imageUser)},
		folder("etc/redoubt/", 0o755, 0),
		folder("etc/ssl/", 0o755, 0),
		folder("etc/ssl/certs/", 0o755, 0),
		{Name: "etc/ssl/certs/ca-certificates.crt", Mode: 0o644, Data: roots},
		folder("run/", 0o755, 0),
		folder("tmp/", 0o1777, 0),
		folder("usr/", 0o755, 0),
		folder("usr/bin/", 0o755, 0),
		{Name: "usr/bin/redoubt", Mode: 0o755, Path: b.file},
		folder("usr/share/", 0o755, 0),
		folder("usr/share/redoubt/", 0o755, 0),
		{Name: "usr/share/redoubt/LICENSE", Mode: 0o644, Data: licence},
		folder("var/", 0o755, 0),
		folder("var/lib/", 0o755, 0),
		folder("var/lib/redoubt/", 0o700, imageUser),
		folder("var/log/", 0o755, 0),
		folder("var/log/redoubt/", 0o750, imageUser),
	}
}
